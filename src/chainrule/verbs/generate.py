"""generate and stream: draw continuations; one seed, one text, whatever the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chainrule import registry
from chainrule.artifact import Artifact
from chainrule.core.codec import Encoded
from chainrule.core.config import bounded
from chainrule.core.model import SequenceModel
from chainrule.core.noise import Noise
from chainrule.decoding.verify import Emitted, Verify, drain
from chainrule.decoding.warps import Warps
from chainrule.models.wrappers import Bans, Forced, Penalties

STRETCH = 16  # symbols made between two looks at ends and stops
ROWS = 64  # continuations drawn at a time; more only cost memory


@dataclass(frozen=True)
class Sample:
    """One continuation.

    ``text`` begins with the prompt, ``continuation`` doesn't. ``log_prob``, in nats, is of the
    continuation under the model, before any warp. ``ended``: "eos", "stop" or "length".
    """

    text: str
    continuation: str
    symbols: list[int] = field(repr=False)
    log_prob: float
    strategy: str
    exactness: str
    ended: str
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names."""
        return dict(vars(self))

    def _repr_html_(self) -> str:
        from html import escape

        prompt = self.text[: len(self.text) - len(self.continuation)]
        return f"<pre><b>{escape(prompt)}</b>{escape(self.continuation)}</pre>"


@dataclass(frozen=True)
class Settings:
    """How symbols are picked; the same names as the command's options.

    Raises:
        ValueError: a setting out of its bounds, NaN included.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    ban: Sequence[str] = ()
    force: str = ""
    stop: Sequence[str] = ()
    seed: int = 0
    strategy: str = "auto"

    def __post_init__(self) -> None:
        bounded("seed", self.seed, 0, 2**63 - 1)
        if self.strategy not in ("auto", *registry.STRATEGIES):
            known = ", ".join(("auto", *registry.STRATEGIES))
            raise ValueError(f"strategy {self.strategy!r} is not one of {known}")
        if any(not s for s in (*self.ban, *self.stop)):
            raise ValueError("an empty string can't be banned or stopped at")
        self.warps(1)

    def warps(self, rows: int) -> Warps:
        """The settings of every row."""
        return Warps.of(
            rows,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            typical=self.typical,
        )


def generate(
    artifact: Artifact,
    prompt: str | Sequence[str] = "",
    n: int = 1,
    length: int = 300,
    **settings: Any,
) -> list[Sample]:
    """Draw n continuations of every prompt, ``length`` symbols at most.

    The i-th continuation of a prompt depends on the seed, i and the prompt alone. Returned
    prompt by prompt. Settings: the fields of ``Settings``.

    Raises:
        ValueError: a setting out of bounds, or a prompt that the codec can't take.
    """
    asked = _settings(settings)
    _sizes(n, length)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts:
        raise ValueError("no prompt given: an empty one is written ''")
    encoded = [torch.from_numpy(artifact.codec.encode(p).symbols.astype(np.int64)) for p in prompts]
    jobs = [(text, x, i) for text, x in zip(prompts, encoded, strict=True) for i in range(n)]
    samples = []
    for first in range(0, len(jobs), ROWS):
        samples += _batch(artifact, jobs[first : first + ROWS], length, asked)
    return samples


def stream(
    artifact: Artifact, prompt: str = "", length: int = 300, **settings: Any
) -> Iterator[str]:
    """One continuation in pieces; joined, they are what ``generate`` returns for n = 1.

    Raises:
        ValueError: as ``generate``; settings are checked before the first piece is asked for.
    """
    asked = _settings(settings)
    _sizes(1, length)
    x = torch.from_numpy(artifact.codec.encode(prompt).symbols.astype(np.int64))
    return _pieces(artifact, x, length, asked)


def _pieces(artifact: Artifact, x: Tensor, length: int, asked: Settings) -> Iterator[str]:
    texts = [_Text(artifact, asked.stop)]
    for emitted in _emitted(artifact, [x], [0], length, asked, texts):
        if not asked.stop:
            texts[0].push(emitted.symbols[0, : emitted.count[0]].tolist())
        yield from texts[0].certain()
    yield from texts[0].rest()


def _batch(
    artifact: Artifact, jobs: list[tuple[str, Tensor, int]], length: int, asked: Settings
) -> list[Sample]:
    texts = [_Text(artifact, asked.stop) for _ in jobs]
    symbols: list[list[int]] = [[] for _ in jobs]
    nats = [0.0] * len(jobs)
    ended = ["length"] * len(jobs)
    held: list[Emitted] = []
    prompts, ids = [x for _, x, _ in jobs], [i for _, _, i in jobs]
    with torch.no_grad():
        for emitted in _emitted(artifact, prompts, ids, length, asked, texts):
            held.append(emitted)
            for row, why in zip(emitted.rows, emitted.done, strict=True):
                ended[row] = why or ended[row]
    for row, new, log_prob in _by_row(held):
        symbols[row] += new
        nats[row] += log_prob
    samples = []
    for row, (prompt, _, _) in enumerate(jobs):
        text = artifact.codec.decode(Encoded(np.array(symbols[row], dtype=np.int64)))
        cut = _first(text, asked.stop)
        text = text if cut is None else text[:cut]
        strategy = "ancestral"
        samples.append(
            Sample(
                prompt + text,
                text,
                symbols[row],
                nats[row],
                strategy,
                registry.STRATEGIES[strategy],
                ended[row],
                asked.seed,
            )
        )
    return samples


def _by_row(held: list[Emitted]) -> Iterator[tuple[int, list[int], float]]:
    """(row, symbols, nats); stretches of one symbol a step are converted in one go."""
    for _, steps in groupby(held, lambda e: (id(e.rows), e.symbols.shape[1])):
        group = list(steps)
        single = group[0].symbols.shape[1] == 1
        joined = [group] if single else [[e] for e in group]
        for part in joined:
            x = torch.cat([e.symbols for e in part], 1).tolist()
            lp = torch.cat([e.log_prob for e in part], 1).double().tolist()
            for i, row in enumerate(part[0].rows):
                count = len(x[i]) if single else part[0].count[i]
                yield row, x[i][:count], sum(lp[i][:count])


def _emitted(
    artifact: Artifact,
    prompts: list[Tensor],
    ids: list[int],
    length: int,
    asked: Settings,
    texts: list[_Text],
) -> Iterator[Emitted]:
    """The steps of one batch; with stop strings, ``texts`` follow along."""
    model = wrapped(artifact, asked)
    forced = artifact.codec.encode(asked.force).symbols.tolist() if asked.force else []
    if forced:
        model = Forced(model, forced, at=[len(p) for p in prompts])
    device = next((p.device for p in artifact.model.parameters()), torch.device("cpu"))
    noise = Noise.seeded(asked.seed, ids).to(device)
    decoder = Verify(model, stretch=min(STRETCH, length))
    begun = decoder.start([p.to(device) for p in prompts], noise, None, asked.warps(len(prompts)))

    def stop(row: int, new: list[int]) -> int | None:
        for k, symbol in enumerate(new):
            if texts[row].push([symbol]):
                return k + 1
        return None

    space = artifact.model.space
    return drain(decoder, begun, [length] * len(prompts), space.eos, stop if asked.stop else None)


def wrapped(artifact: Artifact, asked: Settings) -> SequenceModel:
    """The model with the penalties and bans that were asked for."""
    model = artifact.model
    penalties = (asked.repetition_penalty, asked.presence_penalty, asked.frequency_penalty)
    if penalties != (1.0, 0.0, 0.0):
        model = Penalties(model, *penalties)
    if asked.ban:
        model = Bans(model, [artifact.codec.encode(b).symbols.tolist() for b in asked.ban])
    return model


def _settings(given: dict[str, Any]) -> Settings:
    known = Settings.__dataclass_fields__
    for name in given:
        if name not in known:
            raise ValueError(f"unknown setting {name!r}; known: {', '.join(known)}")
    return Settings(**given)


def _sizes(n: int, length: int) -> None:
    bounded("n", n, 1, 100_000)
    bounded("length", length, 1, 10_000_000)


def _first(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop string begins."""
    found = [at for at in (text.find(s) for s in stops) if at >= 0]
    return min(found, default=None)


class _Text:
    """The text of one row as it grows, held back where a stop string may be beginning."""

    def __init__(self, artifact: Artifact, stops: Sequence[str]) -> None:
        self.decoder, self.stops = artifact.codec.stream(), stops
        self.text, self.shown, self.cut = "", 0, False

    def push(self, symbols: list[int]) -> bool:
        """Add symbols; True once a stop string is complete."""
        longest = max(map(len, self.stops), default=0)
        fresh = self.decoder.push(np.array(symbols, dtype=np.int64))
        begin = max(0, len(self.text) - longest)
        self.text += fresh
        at = _first(self.text[begin:], self.stops)
        if at is not None:
            self.text, self.cut = self.text[: begin + at], True
        return self.cut

    def certain(self) -> Iterator[str]:
        """What no stop string can take back any more."""
        longest = max(map(len, self.stops), default=1)
        end = len(self.text) if self.cut else max(self.shown, len(self.text) - longest + 1)
        if end > self.shown:
            yield self.text[self.shown : end]
            self.shown = end

    def rest(self) -> Iterator[str]:
        """Everything that is left at the end."""
        if not self.cut:
            self.text += self.decoder.finish()
        if self.shown < len(self.text):
            yield self.text[self.shown :]
            self.shown = len(self.text)
