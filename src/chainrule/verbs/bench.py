"""bench: what every decoding strategy gains with one artifact, and what it costs.

Shapes: B rows, T symbols written by a row.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chainrule import registry
from chainrule.artifact import Artifact, load_artifact
from chainrule.core.codec import Encoded
from chainrule.core.config import bounded
from chainrule.core.model import SequenceModel
from chainrule.core.noise import Noise
from chainrule.decoding.verify import drain
from chainrule.decoding.warps import Warps
from chainrule.training.scoring import document_log_probs
from chainrule.training.shards import Progress
from chainrule.verbs.counting import Counted, Watched
from chainrule.verbs.rollout import drawn, repeats, windows
from chainrule.verbs.strategies import Decoding, decoding

BATCHES = (1, 32)
PROMPT = 32  # symbols of a prompt


@dataclass(frozen=True)
class Point:
    """One strategy at one batch size.

    Args:
        exactness: "identical", "distribution" or "approximate".
        symbols_per_s: all rows together, the median of the rounds; slowest, fastest: of them.
        gain: the median over the rounds of the speed over that of ``ancestral`` in that round.
        calls_per_symbol: passes of the model for one symbol of one row, the prompt's included.
        acceptance: accepted guesses over guesses; None where nothing is guessed.
        same: share of the rows that ``ancestral`` wrote alike, symbol for symbol; None where it
            ran elsewhere.
        lost: of approximate strategies: bits per unit, under the model itself, of what they wrote
            beyond those of what ``ancestral`` wrote after the same prompts. Above zero it is text
            that the model finds unlikely; below zero it is duller than the model. lost_se: its
            standard error over the rows.
        repeats: share of the symbols that complete 8 which came before in the same row.
        backend: what computed it, and in which dtype.
    """

    strategy: str
    batch: int
    exactness: str
    symbols_per_s: float
    slowest: float
    fastest: float
    gain: float
    calls_per_symbol: float
    acceptance: float | None
    same: float | None
    lost: float | None
    lost_se: float | None
    repeats: float
    backend: str


@dataclass(frozen=True)
class Frontier:
    """Every strategy that an artifact can run, by speed and by what it costs.

    Args:
        name: of the run. prompts: where they are from.
        points: batch by batch, the fastest first.
        cannot: the other strategies, with the reason.
        auto: what it chose, by batch size.
        unit: of what is lost: byte, or dimension of a picture.
    """

    name: str
    prompts: str
    temperature: float
    length: int
    rounds: int
    seed: int
    threads: int
    points: list[Point]
    cannot: dict[str, str]
    auto: dict[str, str]
    unit: str = "byte"

    def batches(self) -> list[int]:
        """The batch sizes, smallest first."""
        return sorted({p.batch for p in self.points})

    def at(self, batch: int) -> list[Point]:
        """The points of one batch size."""
        return [p for p in self.points if p.batch == batch]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names."""
        return asdict(self)

    def header(self) -> tuple[str, ...]:
        """The names of the columns of ``rows``."""
        return "strategy", "symbols/s", "gain", "calls", "accepted", "class", "lost", "repeats"

    def rows(self, batch: int) -> list[tuple[str, ...]]:
        """One a strategy; the speed with half the range of the rounds."""
        return [
            (
                p.strategy,
                f"{p.symbols_per_s:,.0f} ±{50 * (p.fastest - p.slowest) / p.symbols_per_s:.0f}%",
                f"{p.gain:.2f}×",
                f"{p.calls_per_symbol:.2f}",
                "" if p.acceptance is None else f"{100 * p.acceptance:.0f} %",
                p.exactness,
                "" if p.lost is None else f"{p.lost:+.2f}±{p.lost_se:.2f}",
                f"{100 * p.repeats:.1f} %",
            )
            for p in self.at(batch)
        ]

    def notes(self) -> list[str]:
        """What was measured, what is not as it should be, and what can't run: a line each."""
        lines = [
            f"{self.rounds} rounds of {self.length} symbols a sequence after {PROMPT} of "
            f"{self.prompts}, temperature {self.temperature:g}, {self.threads} threads; gain: over "
            "ancestral; calls: of the model, a symbol; lost: bits per "
            f"{self.unit} beyond ancestral's"
        ]
        on = {
            p.backend: [q.strategy for q in self.points if q.backend == p.backend]
            for p in self.points
        }
        lines += [f"on {name}: {', '.join(dict.fromkeys(names))}" for name, names in on.items()]
        lines += [f"auto, batch {batch}, took {choice}" for batch, choice in self.auto.items()]
        for p in self.points:
            if p.exactness == "identical" and p.same is not None and p.same < 1:
                rows = self.rounds * p.batch
                lines.append(
                    f"{p.strategy}, batch {p.batch}: {round(rows * (1 - p.same))} of {rows} "
                    "sequences differ from ancestral's: a tie within rounding"
                )
        return lines + [f"{name} can't run: {why}" for name, why in self.cannot.items()]

    def save(self, path: str | Path) -> Path:
        """Write the picture, a PNG, and beside it the figures, a .json of the same name.

        Raises:
            ValueError: another kind of file is named, or matplotlib is not installed.
        """
        from chainrule.files import write_json
        from chainrule.verbs.frontier import draw

        path = Path(path)
        draw(self, path)
        write_json(path.with_suffix(".json"), self.to_dict())
        return path

    def _repr_html_(self) -> str:
        tables = []
        head = "".join(f"<th>{name}</th>" for name in self.header())
        for batch in self.batches():
            cells = (f"<td>{'</td><td>'.join(row)}</td>" for row in self.rows(batch))
            body = "".join(f"<tr>{row}</tr>" for row in cells)
            tables.append(f"<p>batch {batch}</p><table><tr>{head}</tr>{body}</table>")
        return "".join(tables)


@dataclass(frozen=True)
class _Asked:
    length: int
    temperature: float
    rounds: int
    seed: int
    backend: str = "auto"
    dtype: str | None = None


@dataclass(eq=False)
class _Job:
    """A strategy, ready to run; ``seconds`` and ``rows`` grow round by round."""

    name: str
    model: Counted
    how: Decoding
    decoder: Watched
    seconds: list[float] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)

    def run(self, prompts: Sequence[Tensor], ids: Sequence[int], asked: _Asked) -> None:
        """Write ``length`` symbols after every prompt; no symbol ends a row."""
        noise = Noise.seeded(asked.seed, ids).to(prompts[0].device)
        warp = Warps.of(len(ids), temperature=asked.temperature)
        written: list[list[Tensor]] = [[] for _ in ids]
        begun = time.perf_counter()
        first = self.decoder.start(prompts, noise, None, warp)
        for emitted in drain(self.decoder, first, [asked.length] * len(ids)):
            for i, row in enumerate(emitted.rows):
                written[row].append(emitted.symbols[i, : emitted.count[i]])
        rows = [torch.cat(parts).cpu() for parts in written]  # waits for the device
        self.seconds.append(time.perf_counter() - begun)
        self.rows += rows


def bench(
    artifact: Artifact,
    source: str | Path | None = None,
    *,
    length: int | None = None,
    temperature: float = 1.0,
    rounds: int = 5,
    seed: int = 0,
    draft: Any = None,
    backend: str = "auto",
    dtype: str | None = None,
    progress: Progress | None = None,
) -> Frontier:
    """Measure every strategy that the artifact can run, alone and in a batch of 32.

    In each round every strategy writes after the same prompts with the same noise, one after the
    other, so that what slows the machine slows all of them. Prompts are 32 symbols each: spread
    evenly over the data ``source``, or without it the beginnings of the model's own samples.

    Args:
        length: symbols that each row writes; 256, or what a masked model's context has room for.
        draft: a run (a folder, or what ``load`` returns) that guesses, for that strategy.
        backend, dtype: as ``generate`` takes them.

    Raises:
        ValueError: settings out of bounds, data too short, pictures with too few symbols or with
            data, a draft with other symbols, or a backend that can't be.
    """
    on, many = artifact.choose(backend, dtype), max(BATCHES)
    model = artifact.runner(on)
    if model.space.grid is not None:
        _check_pictures(model, source)
    length = _length(artifact.outline) if length is None else length
    end = model.space.max_len
    bounded("length", length, 2, 100_000 if end is None else end - PROMPT)
    bounded("rounds", rounds, 1, 1000)
    bounded("seed", seed, 0, 2**63 - 1)
    asked = _Asked(length, temperature, rounds, seed, backend, dtype)
    Warps.of(1, temperature=temperature)
    if draft is not None:
        draft = load_artifact(draft) if isinstance(draft, str | Path) else draft
        decoding(artifact, on, model, "draft", 1, length, draft=draft)  # complains of other symbols
    if source is None:
        prompts, said = drawn(model, range(many), PROMPT, seed)[0], "the model's own samples"
    else:
        prompts, said = windows(artifact, source, PROMPT, many, None, None), str(source)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    prompts = prompts.to(device)
    measured: dict[int, list[_Job]] = {}
    cannot: dict[str, str] = {}
    done = 0
    for batch in BATCHES:
        jobs, cannot = _jobs(artifact, draft, list(prompts[:batch]), asked)
        measured[batch] = jobs
        for r in range(rounds):
            ids = range(r * batch, (r + 1) * batch)
            for k in range(len(jobs)):  # each round begins with another strategy
                if progress is not None:
                    progress("measuring", done, len(BATCHES) * rounds * len(jobs))
                jobs[(r + k) % len(jobs)].run([prompts[i % many] for i in ids], ids, asked)
                done += 1
    autos = {batch: next(j for j in jobs if j.name == "auto") for batch, jobs in measured.items()}
    lost = _lost(artifact, measured, prompts.cpu())
    return Frontier(
        name=str(artifact.path or artifact.kind),
        prompts=said,
        temperature=temperature,
        length=length,
        rounds=rounds,
        seed=seed,
        threads=torch.get_num_threads(),
        points=[p for batch in BATCHES for p in _points(measured[batch], batch, length, lost)],
        cannot=cannot,
        auto={str(batch): str(job.how.choice) for batch, job in autos.items()},
        unit="byte" if model.space.grid is None else "dimension",
    )


def _check_pictures(model: SequenceModel, source: str | Path | None) -> None:
    if source is not None:
        raise ValueError(
            f"{source}: a run of pictures goes on from its own samples: leave the data out"
        )
    end = model.space.max_len
    if end is not None and end < PROMPT + 2:
        raise ValueError(
            f"pictures of {end} symbols are too small to measure: a prompt alone has {PROMPT}"
        )


def _length(model: SequenceModel) -> int:
    """256, or what a fixed medium or the context of a masked net leaves after a prompt."""
    room = 256 if model.space.max_len is None else min(256, model.space.max_len - PROMPT)
    if model.masked is not None and hasattr(model.config, "context"):
        room = min(room, model.config.context - PROMPT - 1)
    return max(2, room)


def _jobs(
    artifact: Artifact, draft: Any, prompts: list[Tensor], asked: _Asked
) -> tuple[list[_Job], dict[str, str]]:
    """What can run, after a short run to warm up, and why the rest can't."""
    jobs, cannot = [], {}
    brief = replace(asked, length=min(16, asked.length))
    for name in ("auto", *registry.STRATEGIES):
        greedy = asked.temperature == 0
        try:
            on = artifact.choose(asked.backend, asked.dtype, strategy=name)
            model = Counted(artifact.runner(on))
            how = decoding(
                artifact, on, model, name, len(prompts), asked.length, greedy=greedy, draft=draft
            )
            _Job(name, model, how, Watched(how.decoder)).run(prompts, range(len(prompts)), brief)
        except ValueError as error:
            cannot[name] = str(error)
            continue
        model.calls = 0
        jobs.append(_Job(name, model, how, Watched(how.decoder)))
    return jobs, cannot


def _points(
    jobs: list[_Job], batch: int, length: int, lost: dict[str, tuple[float, float]]
) -> list[Point]:
    plain = next(j for j in jobs if j.name == "ancestral")
    points = []
    for job in jobs:
        speeds = [batch * length / s for s in job.seconds]
        alike = [torch.equal(a, b) for a, b in zip(job.rows, plain.rows, strict=True)]
        same = sum(alike) / len(alike) if str(job.how.on) == str(plain.how.on) else None
        exactness, watched = job.how.exactness, job.decoder
        guessing = exactness != "approximate" and job.name not in ("auto", "ancestral")
        loss = lost.get(job.name)
        points.append(
            Point(
                strategy=job.name,
                batch=batch,
                exactness=exactness,
                symbols_per_s=statistics.median(speeds),
                slowest=min(speeds),
                fastest=max(speeds),
                gain=statistics.median(
                    p / s for p, s in zip(plain.seconds, job.seconds, strict=True)
                ),
                calls_per_symbol=job.model.calls / watched.emitted,
                acceptance=watched.accepted / max(1, watched.guesses) if guessing else None,
                same=same,
                lost=None if loss is None else loss[0],
                lost_se=None if loss is None else loss[1],
                repeats=float(repeats(torch.stack(job.rows)).mean()),
                backend=str(job.how.on),
            )
        )
    return sorted(points, key=lambda p: -p.symbols_per_s)


def _lost(
    artifact: Artifact, measured: dict[int, list[_Job]], prompts: Tensor
) -> dict[str, tuple[float, float]]:
    """Of the approximate strategies: bits per unit lost, and the standard error.

    The batch doesn't change what is written, so all rows of all batches count.
    """
    bits: dict[str, list[float]] = {}
    for jobs in measured.values():
        if all(job.how.exactness != "approximate" for job in jobs):
            continue
        for job in jobs:
            if job.name == "ancestral" or job.how.exactness == "approximate":
                bits.setdefault(job.name, []).extend(_bits(artifact, job.rows, prompts))
    plain = np.array(bits.pop("ancestral", []))
    found = {}
    for name, own in bits.items():
        beyond = np.array(own) - plain
        found[name] = float(beyond.mean()), float(beyond.std(ddof=1) / math.sqrt(len(beyond)))
    return found


def _bits(artifact: Artifact, rows: list[Tensor], prompts: Tensor) -> list[float]:
    """-log2 p per unit of every row [T] after its prompt, under the model itself."""
    whole = [torch.cat([prompts[i % len(prompts)], row]).numpy() for i, row in enumerate(rows)]
    found = []
    for row, log_p in zip(rows, document_log_probs(artifact.model, whole), strict=True):
        units = max(1, artifact.any_codec.units(Encoded(row.numpy())))
        found.append(-float(log_p[PROMPT:].sum()) / math.log(2) / units)
    return found
