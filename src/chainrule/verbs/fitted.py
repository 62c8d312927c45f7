"""What ``fit`` and ``load`` return: an artifact whose methods are the verbs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.artifact import Artifact, load_artifact
from chainrule.core.codec import Encoded
from chainrule.verbs import attention as _attention
from chainrule.verbs import bench as _bench
from chainrule.verbs import chat as _chat
from chainrule.verbs import draw as _draw
from chainrule.verbs import evaluate as _evaluate
from chainrule.verbs import export as _export
from chainrule.verbs import fill as _fill
from chainrule.verbs import generate as _generate
from chainrule.verbs import heat as _heat
from chainrule.verbs import infill as _infill
from chainrule.verbs import inspect as _inspect
from chainrule.verbs import merge as _merge
from chainrule.verbs import next as _next
from chainrule.verbs import passkey as _passkey
from chainrule.verbs import quantize as _quantize
from chainrule.verbs import rollout as _rollout
from chainrule.verbs import score as _score
from chainrule.verbs import search as _search
from chainrule.verbs import stretch as _stretch
from chainrule.verbs.generate import Prompt, Sample, Stream
from chainrule.verbs.pictures import of_pictures


class Fitted:
    """A model fitted to somebody's data, ready for every verb."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact

    def generate(
        self,
        prompt: Prompt | Sequence[Prompt] = "",
        n: int = 1,
        length: int | None = None,
        **settings: Any,
    ) -> list[Any]:
        """n continuations of every prompt, text or symbols: a list of ``Sample``.

        Of a run of pictures n of these, a list of ``Drawn``; it takes no prompt and no length.
        Settings as ``chainrule.generate``.
        """
        if of_pictures(self.artifact):
            if not isinstance(prompt, str) or prompt or length is not None:
                raise ValueError(
                    "a prompt and a length are about text, and this run models pictures: top gives "
                    "one its upper part"
                )
            return _draw.draw(self.artifact, n, **settings)
        length = _generate.LENGTH if length is None else length
        return _generate.generate(self.artifact, prompt, n=n, length=length, **settings)

    def stream(self, prompt: Prompt = "", length: int = 300, **settings: Any) -> Stream:
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

    def infill(self, given: Any, **settings: Any) -> list[Any]:
        """Fill the blanks of a text, or of a picture; settings as ``chainrule.infill``.

        Returns a list of ``Infilled``, or of ``FilledPicture``.

        Raises:
            ValueError: no blank, a method that the model doesn't have, or settings out of bounds.
        """
        if of_pictures(self.artifact):
            return _fill.fill(self.artifact, given, **settings)
        return _infill.infill(self.artifact, given, **settings)

    def next(self, prefix: str, k: int = 5, **settings: Any) -> list[tuple[str, float]]:
        """The k likeliest words to come (or to complete), likeliest first; backend and dtype."""
        return _next.next_words(self.artifact, prefix, k=k, **settings)

    def typing(self, k: int = 3, **settings: Any) -> _next.Typist:
        """Suggestions while a text is typed: ``type("h")``, ``erase()``; backend and dtype.

        Raises:
            ValueError: k out of bounds, or a backend that can't be.
        """
        return _next.Typist(self.artifact, k, **settings)

    def score(self, given: Any, **settings: Any) -> Any:
        """The log-probability of a text, a series or a picture; settings: backend and dtype.

        Returns a ``Score``; of a picture (a file or an array; ``label``: its class) a
        ``PictureScore``.
        """
        if of_pictures(self.artifact):
            return _heat.picture_score(self.artifact, given, **settings)
        return _score.score(self.artifact, given, **settings)

    def evaluate(self, source: str | Path, **where: Any) -> Any:
        """Bits per byte on other data, with n-gram, gzip and xz beside it: an ``Evaluation``.

        Of a run of pictures bits per dimension, with PNG and WebP: a ``PictureEvaluation``.
        """
        if of_pictures(self.artifact):
            return _evaluate.evaluate_pictures(self.artifact, source, **where)
        return _evaluate.evaluate(self.artifact, source, **where)

    def passkey(self, source: str | Path, **settings: Any) -> _passkey.Passkey:
        """Whether a key is found again far back in filler; settings as ``evaluate --passkey``.

        Raises:
            ValueError: settings out of bounds, or data too short.
        """
        return _passkey.passkey(self.artifact, source, **settings)

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

    def export(
        self, to: str = "hf", out: str | Path | None = None, **settings: Any
    ) -> _export.Exported:
        """Write a transformer for other software; settings as ``chainrule.export``.

        Raises:
            ValueError: a run that the form has no place for, or a place that is taken.
        """
        return _export.export(self.artifact, to, out, **settings)

    def stretched(self, rope: str) -> Fitted:
        """The same weights with ``rope`` KIND:FACTOR and so many times the context.

        Raises:
            ValueError: another form, or a model without rotary positions.
        """
        return Fitted(_stretch.stretched(self.artifact, rope))

    def encode(self, text: str | bytes) -> NDArray[np.int64]:
        """The symbols of a text: int64 [T]. ``generate`` takes them for a prompt too.

        Raises:
            ValueError: a text that the codec can't take.
        """
        return np.asarray(self.artifact.codec.encode(text).symbols, np.int64)

    def decode(self, symbols: Sequence[int] | NDArray[np.integer[Any]]) -> str:
        """The text of symbols [T].

        Raises:
            ValueError: numbers that are no symbols of this alphabet.
        """
        return self.artifact.codec.decode(Encoded(np.asarray(symbols, np.int64)))

    def adapter(self, folder: str | Path) -> Fitted:
        """The same run with an adapter that was trained for it; the weights are shared.

        Raises:
            ValueError: an adapter for another base, or no adapter.
        """
        return load(folder, self)

    def merge(self, out: str | Path | None = None) -> Fitted:
        """An adapter and its base as a whole run, written into ``out`` (RUN-merged).

        Raises:
            ValueError: no adapter, or a folder that exists.
        """
        return Fitted(_merge.merge(self.artifact, out))

    def chat(
        self, messages: str | Sequence[_chat.Message], length: int = 512, **settings: Any
    ) -> _chat.Reply:
        """The next message of a conversation; settings as in ``chainrule.chat``.

        Raises:
            ValueError: a run without a chat template, or messages that it can't take.
        """
        return _chat.chat(self.artifact, messages, length, **settings)

    def chat_stream(
        self, messages: str | Sequence[_chat.Message], length: int = 512, **settings: Any
    ) -> _chat.ChatStream:
        """The same, piece by piece, as soon as it is certain."""
        return _chat.chat_stream(self.artifact, messages, length, **settings)

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


def load(
    folder: str | Path,
    base: str | Path | Fitted | None = None,
    *,
    rope: str | None = None,
    cache: str = "auto",
) -> Fitted:
    """Open a fitted artifact.

    Args:
        base: the run that an adapter is for, where it isn't the one that it names.
        rope: KIND:FACTOR, to stretch its positions, as ``Fitted.stretched`` does.
        cache: "int8": keys and values in 8 bits, in the compiled engine.

    Raises:
        ValueError: not an artifact, damaged, of a newer format, or an adapter for another base; a
            rope or cache that can't be.
    """
    found = load_artifact(folder, base.artifact if isinstance(base, Fitted) else base)
    if rope is not None:
        found = _stretch.stretched(found, rope)
    if cache != found.cache:
        found = replace(found, cache=cache)
        found.choose()  # says what can't be
    return Fitted(found)
