"""What ``fit`` and ``load`` return: an artifact whose methods are the verbs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chainrule.artifact import Artifact, load_artifact
from chainrule.verbs import attention as _attention
from chainrule.verbs import bench as _bench
from chainrule.verbs import evaluate as _evaluate
from chainrule.verbs import generate as _generate
from chainrule.verbs import infill as _infill
from chainrule.verbs import inspect as _inspect
from chainrule.verbs import next as _next
from chainrule.verbs import quantize as _quantize
from chainrule.verbs import rollout as _rollout
from chainrule.verbs import score as _score
from chainrule.verbs import search as _search
from chainrule.verbs.generate import Sample, Stream
from chainrule.verbs.infill import Infilled
from chainrule.verbs.score import Score


class Fitted:
    """A model fitted to somebody's data, ready for every verb."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact

    def generate(
        self, prompt: str | Sequence[str] = "", n: int = 1, length: int = 300, **settings: Any
    ) -> list[Sample]:
        """n continuations of every prompt; settings as in ``chainrule.generate``."""
        return _generate.generate(self.artifact, prompt, n=n, length=length, **settings)

    def stream(self, prompt: str = "", length: int = 300, **settings: Any) -> Stream:
        """The text of one continuation, piece by piece, as soon as it is certain."""
        return _generate.stream(self.artifact, prompt, length=length, **settings)

    def beam_search(
        self, prompt: str | Sequence[str] = "", n: int = 1, length: int = 300, **settings: Any
    ) -> list[Sample]:
        """The n likeliest continuations that a beam finds; settings as ``chainrule.beam_search``.

        Raises:
            ValueError: a setting out of bounds or without a meaning here.
        """
        return _search.beam_search(self.artifact, prompt, n, length, **settings)

    def best_of(
        self, prompt: str | Sequence[str] = "", n: int = 1, length: int = 300, **settings: Any
    ) -> list[Sample]:
        """The n likeliest of some that are drawn; settings as ``chainrule.best_of``.

        Raises:
            ValueError: a setting out of bounds.
        """
        return _search.best_of(self.artifact, prompt, n, length, **settings)

    def mbr(
        self, prompt: str | Sequence[str] = "", n: int = 1, length: int = 300, **settings: Any
    ) -> list[Sample]:
        """The n that are most like all that are drawn; settings as ``chainrule.mbr``.

        Raises:
            ValueError: a setting out of bounds, or an unknown utility.
        """
        return _search.mbr(self.artifact, prompt, n, length, **settings)

    def infill(self, text: str, **settings: Any) -> list[Infilled]:
        """Fill the blanks of a text; settings as ``chainrule.infill``.

        Raises:
            ValueError: no blank, a method that the model doesn't have, or settings out of bounds.
        """
        return _infill.infill(self.artifact, text, **settings)

    def next(self, prefix: str, k: int = 5, **settings: Any) -> list[tuple[str, float]]:
        """The k likeliest words to come (or to complete), likeliest first; backend and dtype."""
        return _next.next_words(self.artifact, prefix, k=k, **settings)

    def score(self, text: str | bytes, **settings: Any) -> Score:
        """The log-probability of a text, whole and per symbol; settings: backend and dtype."""
        return _score.score(self.artifact, text, **settings)

    def evaluate(self, source: str | Path, **where: Any) -> _evaluate.Evaluation:
        """Bits per byte on other data, with n-gram, gzip and xz beside it."""
        return _evaluate.evaluate(self.artifact, source, **where)

    def rollout(self, source: str | Path, **settings: Any) -> _rollout.Rollout:
        """How errors add up over the model's own symbols; settings as ``evaluate --rollout``.

        Raises:
            ValueError: settings out of bounds, data too short, or no oracle with these symbols.
        """
        return _rollout.rollout(self.artifact, source, **settings)

    def bench(self, source: str | Path | None = None, **settings: Any) -> _bench.Frontier:
        """What every decoding strategy gains and costs; settings as ``chainrule bench``.

        Raises:
            ValueError: settings out of bounds, data too short, or a draft with other symbols.
        """
        return _bench.bench(self.artifact, source, **settings)

    def quantize(
        self, to: str = "int8", out: str | Path | None = None, **settings: Any
    ) -> _quantize.Quantized:
        """Write the run again with narrow weights; settings as ``chainrule.quantize``.

        Raises:
            ValueError: an unknown dtype, a run that can't be quantised, a folder that exists.
        """
        return _quantize.quantize(self.artifact, to, out, **settings)

    def inspect(self) -> _inspect.Card:
        """What this is and how it was made."""
        return _inspect.inspect(self.artifact)

    def attention(self, prompt: str) -> _attention.Attention:
        """Where every head of every layer looks; ``save("attention.png")`` draws it.

        Raises:
            ValueError: a model without attention, or more than 200 symbols.
        """
        return _attention.attention(self.artifact, prompt)

    @property
    def path(self) -> Path | None:
        """The folder it lives in."""
        return self.artifact.path

    def __repr__(self) -> str:
        return f"Fitted({self.inspect().headline})"

    def _repr_html_(self) -> str:
        return self.inspect()._repr_html_()


def load(folder: str | Path) -> Fitted:
    """Open a fitted artifact.

    Raises:
        ValueError: not an artifact, damaged, or of a newer format.
    """
    return Fitted(load_artifact(folder))
