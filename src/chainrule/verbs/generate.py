"""generate and stream: draw continuations; one seed, one text, whatever the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.artifact import Artifact
from chainrule.codecs.symbols import read_json
from chainrule.core.codec import Encoded
from chainrule.core.config import bounded
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.noise import Noise
from chainrule.decoding.verify import Emitted, Stop, drain
from chainrule.decoding.warps import Warps
from chainrule.engine.backend import Choice
from chainrule.models.constraints import constrained
from chainrule.models.wrappers import Bans, Forced, Penalties
from chainrule.verbs.forecaster_parts import whole
from chainrule.verbs.strategies import Decoding, check, decoding

ROWS = 64  # continuations drawn at a time; more only cost memory
LENGTH = 300  # symbols, unless asked
# For what must be the same bytes wherever it is made: nothing that is measured, and no kernels.
PLAIN: dict[str, Any] = {"strategy": "ancestral", "backend": "torch"}
Prompt = str | Sequence[int] | NDArray[np.integer[Any]]  # text, or its symbols [T]


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
    choice: str | None = None  # what strategy auto found, in words
    backend: str = "torch f32"  # what computed it, and in which dtype

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
    regex: str | None = None
    choices: Sequence[str] | None = None
    schema: str | dict[str, Any] | None = None  # itself, or the path of its file
    seed: int = 0
    strategy: str = "auto"
    draft: Any = None
    guesses: int | None = None
    iterations: int | None = None
    threshold: float | None = None
    backend: str = "auto"
    dtype: str | None = None

    def __post_init__(self) -> None:
        bounded("seed", self.seed, 0, 2**63 - 1)
        check(self.strategy, vars(self))
        if any(not s for s in (*self.ban, *self.stop)):
            raise ValueError("an empty string can't be banned or stopped at")
        constraints = [n for n in ("regex", "choices", "schema") if getattr(self, n) is not None]
        others = [n for n in ("ban", "force", "stop") if getattr(self, n)]
        if constraints and len(constraints + others) > 1:
            raise ValueError(
                f"{' and '.join(constraints + others)} can't be combined: put all into one"
            )
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
    prompt: Prompt | Sequence[Prompt] = "",
    n: int = 1,
    length: int = LENGTH,
    **settings: Any,
) -> list[Sample]:
    """Draw n continuations of every prompt, ``length`` symbols at most.

    A prompt is text, or symbols [T], which are used as they are and decoded for ``Sample.text``.
    The i-th continuation of a prompt depends on the seed, i and the prompt alone. Returned
    prompt by prompt. Settings: the fields of ``Settings``.

    Raises:
        ValueError: a setting out of bounds, or a prompt that the codec can't take.
    """
    asked = settings_of(settings)
    check_sizes(n, length)
    prompts = [prompt] if _single(prompt) else list(prompt)
    if not prompts:
        raise ValueError("no prompt given: an empty one is written ''")
    jobs = [(*read, i) for read in (_read(artifact, p) for p in prompts) for i in range(n)]
    samples = []
    for first in range(0, len(jobs), ROWS):
        samples += _batch(artifact, jobs[first : first + ROWS], length, asked)
    return samples


def _single(prompt: Any) -> bool:
    """Whether this is one prompt and no list of them."""
    if isinstance(prompt, str) or getattr(prompt, "ndim", 0) == 1:
        return True
    return len(prompt) > 0 and all(isinstance(s, (int, np.integer)) for s in prompt)


def _read(artifact: Artifact, prompt: Any) -> tuple[str, Tensor]:
    """A prompt's text and its symbols int64 [T].

    Raises:
        ValueError: a text that the codec can't take, or numbers that are no symbols of it.
    """
    if isinstance(prompt, str):
        text, symbols = prompt, artifact.codec.encode(prompt).symbols
    else:
        symbols = np.asarray(prompt)
        text = artifact.codec.decode(Encoded(symbols))
    return text, torch.from_numpy(symbols.astype(np.int64))


class Stream:
    """The pieces of one continuation; when they are over, ``choice`` says what auto found."""

    def __init__(self, how: Decoding, pieces: Iterator[str]) -> None:
        self._how, self._pieces = how, pieces

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def choice(self) -> str | None:
        """What strategy auto found, in words; None where a strategy was named."""
        return None if self._how.choice is None else str(self._how.choice)


def stream(artifact: Artifact, prompt: Prompt = "", length: int = 300, **settings: Any) -> Stream:
    """One continuation in pieces; joined, they are what ``generate`` returns for n = 1.

    Raises:
        ValueError: as ``generate``; settings are checked before the first piece is asked for.
    """
    asked = settings_of(settings)
    check_sizes(1, length)
    _, x = _read(artifact, prompt)
    texts = [_Text(artifact, asked.stop)]
    how, steps = _begin(artifact, [x], [0], length, asked, texts)
    return Stream(how, _pieces(steps, asked, texts))


def _pieces(steps: Iterator[Emitted], asked: Settings, texts: list[_Text]) -> Iterator[str]:
    for emitted in steps:
        if not asked.stop:
            texts[0].push(emitted.symbols[0, : emitted.count[0]].tolist())
        yield from texts[0].certain()
    yield from texts[0].rest()


def _batch(
    artifact: Artifact, jobs: list[tuple[str, Tensor, int]], length: int, asked: Settings
) -> list[Sample]:
    texts, held = [_Text(artifact, asked.stop) for _ in jobs], list[Emitted]()
    symbols: list[list[int]] = [[] for _ in jobs]
    nats, ended = [0.0] * len(jobs), ["length"] * len(jobs)
    prompts, ids = [x for _, x, _ in jobs], [i for _, _, i in jobs]
    with torch.no_grad():
        how, steps = _begin(artifact, prompts, ids, length, asked, texts)
        for emitted in steps:
            held.append(emitted)
            for row, why in zip(emitted.rows, emitted.done, strict=True):
                ended[row] = why or ended[row]
    for row, new, log_prob in by_row(held):
        symbols[row] += new
        nats[row] += log_prob
    samples, choice = [], None if how.choice is None else str(how.choice)
    for row, (prompt, _, _) in enumerate(jobs):
        text = artifact.codec.decode(Encoded(np.array(symbols[row], dtype=np.int64)))
        text = text[: first_of(text, asked.stop)]
        made = how.strategy, how.exactness, ended[row], asked.seed, choice, str(how.on)
        samples.append(Sample(prompt + text, text, symbols[row], nats[row], *made))
    return samples


def by_row(held: list[Emitted]) -> Iterator[tuple[int, list[int], float]]:
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


def _begin(
    artifact: Artifact,
    prompts: list[Tensor],
    ids: list[int],
    length: int,
    asked: Settings,
    texts: list[_Text],
) -> tuple[Decoding, Iterator[Emitted]]:
    """The steps of one batch; with stop strings, ``texts`` follow along."""
    on = artifact.choose(asked.backend, asked.dtype, strategy=asked.strategy)
    model = wrapped(artifact, on, asked, [len(p) for p in prompts], length)

    def stop(row: int, new: list[int]) -> int | None:
        for k, symbol in enumerate(new):
            if texts[row].push([symbol]):
                return k + 1
        return None

    cut = stop if asked.stop else None
    return decoded(artifact, on, model, prompts, ids, length, asked, stop=cut)


def decoded(
    artifact: Artifact,
    on: Choice,
    model: SequenceModel,
    prompts: list[Tensor],
    ids: list[int],
    length: int,
    asked: Settings,
    cond: Condition | None = None,
    stop: Stop | None = None,
) -> tuple[Decoding, Iterator[Emitted]]:
    """The steps in which ``model`` goes on from prompts [T_b], under what it is told."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    noise = Noise.seeded(asked.seed, ids).to(device)
    how = decoding(
        artifact,
        on,
        model,
        asked.strategy,
        len(prompts),
        length,
        greedy=asked.temperature == 0,
        draft=asked.draft,
        guesses=asked.guesses,
        iterations=asked.iterations,
        threshold=asked.threshold,
    )
    cond = None if cond is None else cond.to(device)

    def steps() -> Iterator[Emitted]:
        warps, limits = asked.warps(len(prompts)), [length] * len(prompts)
        begun = how.decoder.start([p.to(device) for p in prompts], noise, cond, warps)
        yield from drain(how.decoder, begun, limits, model.space.eos, stop)

    return how, steps()


def wrapped(
    artifact: Artifact, on: Choice, asked: Settings, at: Sequence[int], length: int
) -> SequenceModel:
    """The model with all that was asked for; row b goes on from at[b] by ``length`` at most."""
    model, codec = artifact.runner(on), artifact.codec
    penalties = (asked.repetition_penalty, asked.presence_penalty, asked.frequency_penalty)
    if penalties != (1.0, 0.0, 0.0):
        model = Penalties(model, *penalties)
    if asked.ban:
        model = Bans(model, [codec.encode(b).symbols.tolist() for b in asked.ban])
    if asked.force:
        model = Forced(model, codec.encode(asked.force).symbols.tolist(), at)
    schema = read_json(Path(asked.schema)) if isinstance(asked.schema, str) else asked.schema
    if schema is None and asked.schema is not None:
        raise ValueError(f"{asked.schema}: null is no schema")
    if not (asked.regex is asked.choices is schema is None):
        model = constrained(
            model,
            codec.symbol_bytes(),
            regex=asked.regex,
            choices=asked.choices,
            schema=schema,
            at=at,
            limit=length,
        )
    return model


def settings_of(given: dict[str, Any]) -> Settings:
    """Settings by name; raises ValueError for an unknown one."""
    for name in given:
        if name not in (known := Settings.__dataclass_fields__):
            raise ValueError(f"unknown setting {name!r}; known: {', '.join(known)}")
    return Settings(**given)


def check_sizes(n: int, length: int) -> None:
    """Bound how much is asked for; raises ValueError."""
    whole("n", n, 100_000)
    whole("length", length, 10_000_000)


def first_of(text: str, stops: Sequence[str]) -> int | None:
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
        at = first_of(self.text[begin:], self.stops)
        if at is not None:
            self.text, self.cut = self.text[: begin + at], True
        return self.cut

    def certain(self) -> Iterator[str]:
        """What no stop string can take back any more."""
        begun = (k for s in self.stops for k in range(1, len(s)) if self.text.endswith(s[:k]))
        end = len(self.text) - (0 if self.cut else max(begun, default=0))
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
