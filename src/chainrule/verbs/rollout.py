"""rollout: how errors add up when a model goes on from its own symbols.

Source: Arora et al. 2022, "Why exposure bias matters: an imitation learning perspective of
error accumulation in language generation".
Shapes: N sequences, T their length, E event shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.artifact import Artifact, load_artifact
from chainrule.codecs.series import SeriesCodec
from chainrule.core.config import bounded
from chainrule.core.distributions import Distribution, Finite, Normal
from chainrule.core.model import SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.state import State
from chainrule.decoding.verify import Verify, drain
from chainrule.training.data import read_documents
from chainrule.training.shards import Progress
from chainrule.verbs.curve import save_png

ROWS = 64  # sequences at a time; more only cost memory
GRAM = 8  # symbols in a row that count as a repetition when they come again
_BLOCK = 2**22  # at most so many law entries (sequences × positions × alphabet) at a time

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Stretch:
    """Positions ``first`` to ``last`` (1 is the first symbol), and what was found there.

    Args:
        error: mean over positions up to ``last`` of KL(oracle || model) behind the oracle's own
            prefixes, in nats a symbol. rolled: the same behind the model's own prefixes.
        excess: percent by which ``rolled`` passes ``error``, 0 where nothing adds up.
        own_nats, data_nats: the model's NLL a symbol on this stretch of its own samples and of
            the data; nll_ratio: the one over the other.
        own_repeats, data_repeats: share of the symbols of this stretch that complete 8 symbols
            which came before in the same sequence.
        excess_se, nll_ratio_se: standard errors over the sequences.
    """

    first: int
    last: int
    error: float
    rolled: float
    excess: float
    excess_se: float
    own_nats: float
    data_nats: float
    nll_ratio: float
    nll_ratio_se: float
    own_repeats: float
    data_repeats: float


@dataclass(frozen=True)
class Rollout:
    """A model's errors by how far it has gone on alone.

    Args:
        source: the data. oracle: what stands in for the law that the data came from.
        note: how far the figures can be trusted.
        length, samples: of the sequences drawn from the model, from the oracle and from the data.
        backend: what computed the model, and in which dtype.
    """

    source: str
    oracle: str
    note: str
    length: int
    samples: int
    seed: int
    stretches: list[Stretch]
    backend: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names."""
        return asdict(self)

    def header(self) -> tuple[str, ...]:
        """The names of the columns of ``rows``."""
        return "symbols", "error (nats)", "excess error", "own/data NLL", "repeats: own", "data"

    def rows(self) -> list[tuple[str, ...]]:
        """One a stretch. The error and its excess are of all symbols up to its end."""
        return [
            (
                f"{s.first}-{s.last}" if s.last > s.first else f"{s.first}",
                f"{s.error:.4f}",
                f"{s.excess:+.1f} % ± {s.excess_se:.1f}",
                f"{s.nll_ratio:.3f} ± {s.nll_ratio_se:.3f}",
                f"{100 * s.own_repeats:.1f} %",
                f"{100 * s.data_repeats:.1f} %",
            )
            for s in self.stretches
        ]

    def save(self, path: str | Path) -> Path:
        """Write the picture, a PNG.

        Raises:
            ValueError: another kind of file is named, or matplotlib is not installed.
        """
        return save_png(path, lambda: _draw(self))

    def _repr_html_(self) -> str:
        from html import escape

        head = "".join(f"<th>{name}</th>" for name in self.header())
        body = "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in self.rows())
        said = escape(f"oracle: {self.oracle}; {self.note}")
        return f"<table><tr>{head}</tr>{body}</table><p>{said}</p>"


def rollout(
    artifact: Artifact,
    source: str | Path,
    *,
    oracle: str | Path | None = None,
    length: int = 256,
    samples: int = 128,
    seed: int = 0,
    field: str | None = None,
    column: str | None = None,
    backend: str = "auto",
    dtype: str | None = None,
    progress: Progress | None = None,
) -> Rollout:
    """How errors add up over ``samples`` rollouts of ``length`` symbols.

    The law that DATA came from is not known. The n-gram of the same training part stands in for
    it, or the model of the folder ``oracle``, whose symbols must be the same.

    Raises:
        ValueError: settings out of bounds, data too short, no oracle with these symbols, a model
            that reads a condition, or a backend that can't be.
    """
    on = artifact.choose(backend, dtype, draws=False)
    bounded("length", length, 2, artifact.outline.space.max_len or 100_000)
    bounded("samples", samples, 2, 100_000)
    bounded("seed", seed, 0, 2**63 - 1)
    if oracle is not None:
        other = load_artifact(oracle)
        if other.any_codec.fingerprint() != artifact.any_codec.fingerprint():
            raise ValueError(f"{oracle} has other symbols: an oracle needs the run's own codec")
        judge, name = other.model, f"the model of {oracle}"
    elif artifact.baseline is not None:
        judge, name = artifact.baseline, "the run's own n-gram"
    else:
        raise ValueError("this run has no n-gram beside it: name another run with --oracle")
    if reads := artifact.outline.reads | judge.reads:
        raise ValueError(f"a model reads {', '.join(sorted(reads))}, and rollouts tell nothing")
    data = windows(artifact, source, length, samples, field, column)
    return Rollout(
        source=str(source),
        oracle=name,
        note="it stands in for the unknown law of the data, so excess errors compare models that "
        "face the same oracle and are not absolute",
        length=length,
        samples=samples,
        seed=seed,
        stretches=measure(judge, artifact.runner(on), data, seed, progress),
        backend=str(on),
    )


def windows(
    artifact: Artifact,
    source: str | Path,
    length: int,
    samples: int,
    field: str | None,
    column: str | None,
) -> Tensor:
    """Windows [N, T] spread evenly over all documents, joined as for training."""
    raw: dict[int, bytes] = {}
    for piece in read_documents(source, field=field, column=column):
        raw[piece.index] = raw.get(piece.index, b"") + piece.data
    if isinstance(artifact.any_codec, SeriesCodec):  # a column: a number a document
        stream = artifact.any_codec.encode(b"\n".join(raw.values())).symbols
    else:
        eos = artifact.codec.space.eos
        end = np.array([] if eos is None else [eos], np.int64)
        parts = [p for data in raw.values() for p in (artifact.codec.encode(data).symbols, end)]
        stream = np.concatenate([*parts, end[:0]]).astype(np.int64)
    if len(stream) < length:
        raise ValueError(
            f"{source} has {len(stream):,} symbols, too few for rollouts of {length:,}: "
            "give more data or a smaller --length"
        )
    starts = np.linspace(0, len(stream) - length, samples).astype(np.int64)
    found = torch.from_numpy(stream[starts[:, None] + np.arange(length)])
    return found.to(artifact.outline.space.dtype)


# ---- over models ----


@torch.no_grad()
def measure(
    oracle: SequenceModel,
    model: SequenceModel,
    data: Tensor,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Stretch]:
    """The report for models in evaluation mode; as many rollouts as there are rows of data.

    The divergence of two laws is summed over the alphabet; only prefixes are sampled. The model's
    rollouts and the oracle's share their noise, which makes their ratio surer.

    Args:
        data: sequences [N, T, *E] of the source that the model was trained on.

    Raises:
        ValueError: laws whose divergence has no closed form.
    """
    held: list[list[Any]] = []
    for first in range(0, len(data), ROWS):
        part = data[first : first + ROWS]
        ids = range(first, first + len(part))
        own, own_nats = drawn(model, ids, data.shape[1], seed)
        ideal, _ = drawn(oracle, ids, data.shape[1], seed)
        held.append(
            [
                _divergences(oracle, model, ideal),
                _divergences(oracle, model, own),
                own_nats,
                _nats(model, part),
                repeats(own),
                repeats(part),
            ]
        )
        if progress is not None:
            progress("rolling out", first + len(part), len(data))
    columns = [np.concatenate(column) for column in zip(*held, strict=True)]
    stretches, before = [], 0
    for last in _ends(data.shape[1]):
        stretches.append(_stretch(columns, before, last))
        before = last
    return stretches


def _ends(length: int) -> list[int]:
    """1, 2, 4, … and the length itself."""
    return [*(2**k for k in range((length - 1).bit_length())), length]


def _stretch(columns: list[Numbers], before: int, last: int) -> Stretch:
    error, rolled = (c[:, :last].mean(1) for c in columns[:2])
    own, data, own_again, data_again = (c[:, before:last].mean(1) for c in columns[2:])
    excess, excess_se = _ratio(rolled, error)
    nll_ratio, nll_ratio_se = _ratio(own, data)
    return Stretch(
        first=before + 1,
        last=last,
        error=float(error.mean()),
        rolled=float(rolled.mean()),
        excess=100 * (excess - 1),
        excess_se=100 * excess_se,
        own_nats=float(own.mean()),
        data_nats=float(data.mean()),
        nll_ratio=nll_ratio,
        nll_ratio_se=nll_ratio_se,
        own_repeats=float(own_again.mean()),
        data_repeats=float(data_again.mean()),
    )


def _ratio(a: Numbers, b: Numbers) -> tuple[float, float]:
    """mean a / mean b and its standard error over the pairs [N]; nothing over nothing is 1."""
    if not a.any() and not b.any():
        return 1.0, 0.0
    ratio = float(a.mean() / b.mean())
    return ratio, float((a - ratio * b).std(ddof=1) / math.sqrt(len(a)) / abs(b.mean()))


@torch.no_grad()
def drawn(
    model: SequenceModel, ids: range, length: int, seed: int
) -> tuple[Tensor, NDArray[np.float64]]:
    """Ancestral samples [N, T, *E] from the start, and their NLL [N, T]; no symbol ends them."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    nothing = torch.empty(0, *model.space.event_shape, dtype=model.space.dtype, device=device)
    decoder = Verify(model, stretch=16)
    begun = decoder.start([nothing] * len(ids), Noise.seeded(seed, ids).to(device))
    symbols: list[list[Tensor]] = [[] for _ in ids]
    log_prob: list[list[Tensor]] = [[] for _ in ids]
    for emitted in drain(decoder, begun, [length] * len(ids)):
        for i, (row, count) in enumerate(zip(emitted.rows, emitted.count, strict=True)):
            symbols[row].append(emitted.symbols[i, :count])
            log_prob[row].append(emitted.log_prob[i, :count])
    x, log_p = (torch.stack([torch.cat(row) for row in rows]) for rows in (symbols, log_prob))
    return x.cpu(), -log_p.double().cpu().numpy()


def _laws(models: list[SequenceModel], x: Tensor) -> Iterator[tuple[Tensor, list[Distribution]]]:
    """x [N, T, *E] in blocks of positions, with the laws of every model there."""
    block = max(1, _BLOCK // (len(x) * max(m.space.size or 1 for m in models)))
    states: list[State | None] = [None for _ in models]
    for first in range(0, x.shape[1], block):
        laws: list[Distribution] = []
        for i, model in enumerate(models):
            device = next((p.device for p in model.parameters()), x.device)
            law, states[i] = model.carry(x[:, first : first + block].to(device), state=states[i])
            laws.append(law)
        yield x[:, first : first + block], laws


def _divergences(oracle: SequenceModel, model: SequenceModel, x: Tensor) -> Numbers:
    """KL(oracle || model) of the laws at every position of x: [N, T], in nats."""
    parts = [divergence(o, p) for _, (o, p) in _laws([oracle, model], x)]
    return torch.cat(parts, 1).numpy()


def _nats(model: SequenceModel, x: Tensor) -> Numbers:
    """-log p(x_t | x_<t): [N, T]."""
    parts = []
    for piece, (law,) in _laws([model], x):
        device = next((p.device for p in model.parameters()), x.device)
        parts.append(-law.log_prob(piece.to(device)).double().cpu())
    return torch.cat(parts, 1).numpy()


def divergence(oracle: Distribution, model: Distribution) -> Tensor:
    """KL(oracle || model) in nats [N, T], float64: a sum over the alphabet, or of two normals.

    Raises:
        ValueError: laws that are neither.
    """
    if isinstance(oracle, Finite) and isinstance(model, Finite):
        o, p = (law.log_probs().double().cpu() for law in (oracle, model))
        return (o.exp() * (o - p).masked_fill(o == -math.inf, 0.0)).sum(-1)
    if isinstance(oracle, Normal) and isinstance(model, Normal):
        at, other = (law.map(lambda t: t.double().cpu()) for law in (oracle, model))
        square = (at.scale**2 + (at.loc - other.loc) ** 2) / other.scale**2
        return (other.scale / at.scale).log() + (square - 1) / 2
    raise ValueError(
        f"no closed form for the divergence of {type(oracle).__name__} and {type(model).__name__}"
    )


def repeats(x: Tensor) -> Numbers:
    """1 where a symbol completes GRAM symbols that came before in its row, else 0: [N, T]."""
    again = np.zeros(x.shape[:2])
    for row, symbols in enumerate(x.reshape(*x.shape[:2], -1).tolist()):
        seen: set[tuple[Any, ...]] = set()
        events = [tuple(symbol) for symbol in symbols]
        for t in range(GRAM - 1, len(events)):
            gram = tuple(events[t - GRAM + 1 : t + 1])
            again[row, t] = gram in seen
            seen.add(gram)
    return again


def _draw(found: Rollout) -> Any:
    """Three panels over the rollout length."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("the picture needs matplotlib: pip install 'chainrule[plot]'") from None
    figure = Figure(figsize=(11, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    every = found.stretches
    ends = [s.last for s in every]
    red, grey = "#c0392b", "#9aa5b1"
    axes[0].errorbar(
        ends, [s.excess for s in every], [s.excess_se for s in every], color=red, marker="o", ms=3
    )
    axes[0].axhline(0, color=grey, lw=1)
    axes[0].set_title("excess error up to here, %", fontsize=10)
    ratios, spread = [s.nll_ratio for s in every], [s.nll_ratio_se for s in every]
    axes[1].errorbar(ends, ratios, spread, color=red, marker="o", ms=3)
    axes[1].axhline(1, color=grey, lw=1)
    axes[1].set_title("NLL of own samples / of the data", fontsize=10)
    axes[2].plot(ends, [100 * s.own_repeats for s in every], color=red, marker="o", ms=3)
    axes[2].plot(ends, [100 * s.data_repeats for s in every], color=grey, marker="o", ms=3)
    axes[2].legend(["own samples", "data"], frameon=False, fontsize=9)
    axes[2].set_title(f"symbols that repeat {GRAM} in a row, %", fontsize=10)
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.set_xticks(ends, [str(n) for n in ends], fontsize=8)
        axis.set_xlabel("symbols since the start")
        axis.grid(alpha=0.25)
    return figure
