"""LSTM, GRU and transformer as a Forecaster's models: one network for all series together.

Shapes: N series, H horizon, S sample paths, C context, F regressors, K levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from chainrule.artifact import Artifact
from chainrule.core.config import bounded
from chainrule.core.noise import Noise
from chainrule.series.batch import Fitted, Forecast, Model, Ragged
from chainrule.verbs.neural import Report, fit_panel, forecast_panel, setting

_SEED = 0  # of the paths that medians and intervals are taken from


@dataclass(frozen=True, eq=False)
class Sampled(Forecast):
    """Laws by their sample paths [N, S, H]."""

    paths: Tensor

    @property
    def point(self) -> Tensor:
        return self.quantile([0.5])[..., 0]

    def quantile(self, levels: Sequence[float]) -> Tensor:
        at = torch.tensor(list(levels), dtype=self.paths.dtype)
        return torch.quantile(self.paths, at, dim=1).permute(1, 2, 0)


@dataclass(frozen=True)
class Neural(Model):
    """One network for all series, trained on windows of them (Salinas et al. 2020, "DeepAR").

    Args:
        codec: "real", "bins" (finite symbols) or "counts".
        size: as in ``fit``. time or steps: of training; steps go before time.
        horizon: what it is trained for; None: two seasons, at least 8.
        samples: paths that medians and intervals are taken from.
        seed: of weights and windows.
    """

    codec: Literal["real", "bins", "counts"] = "real"
    size: Literal["tiny", "small", "base"] = "tiny"
    time: str = "1m"
    steps: int | None = None
    horizon: int | None = None
    samples: int = 200
    seed: int = 0

    network: ClassVar[str]

    def __post_init__(self) -> None:
        bounded("samples", self.samples, 2, 100_000)

    def fit(self, data: Ragged, season: int, report: Report | None = None) -> NeuralFitted:
        """Train on all series at once; ``report`` takes a record now and then.

        Raises:
            ValueError: series that are too short for a window.
        """
        horizon = self.horizon or max(8, 2 * season)
        artifact = fit_panel(
            data,
            horizon,
            season,
            model=self.network,
            codec=self.codec,
            size=self.size,
            steps=self.steps,
            time=self.time,
            seed=self.seed,
            report=report,
        )
        recent = data.last(setting(artifact, "context")).packed()
        return NeuralFitted(artifact, recent, data.lens, self.samples)


class LSTM(Neural):
    """A recurrent network with a memory cell and Student-t laws."""

    network = "lstm"


class GRU(Neural):
    """A gated recurrent network with Student-t laws."""

    network = "gru"


class Transformer(Neural):
    """A transformer with Student-t laws."""

    network = "transformer"


@dataclass(frozen=True, eq=False)
class NeuralFitted(Fitted):
    """The network, and the newest points that it looks at.

    Args:
        recent: at most a context of every series. seen: int64 [N], all its points.
    """

    artifact: Artifact
    recent: Ragged
    seen: Tensor
    samples: int

    def forecast(self, horizon: int, future: Tensor | None = None) -> Sampled:
        return Sampled(self._paths(self.recent, horizon, self.samples, None, future))

    def _paths(
        self,
        data: Ragged,
        horizon: int,
        num: int,
        ids: Sequence[int] | None,
        future: Tensor | None,
    ) -> Tensor:
        return forecast_panel(
            self.artifact, data, horizon, num_samples=num, seed=_SEED, future=future, ids=ids
        )

    def simulate(
        self, horizon: int, num: int, noise: Noise, future: Tensor | None = None
    ) -> Tensor:
        return self._paths(self.recent, horizon, num, noise.key.tolist(), future)

    def update(self, data: Ragged) -> tuple[NeuralFitted, Tensor, Tensor]:
        """Takes a pass over the context for every new point: no O(1) memory is kept."""
        data, at = data.packed(), self
        medians, spreads = data.values.clone(), data.values.clone()
        for step in range(int(data.lens.max()) if len(data) else 0):
            row = (data.lens > step).nonzero()[:, 0]
            place = data.begin[row] + step
            future = None if data.known is None else data.known[place][:, None]
            part = at.select(row)  # whose paths are those that they have among all
            law = Sampled(part._paths(part.recent, 1, at.samples, row.tolist(), future))
            low, middle, high = law.quantile([0.15865525, 0.5, 0.84134475])[:, 0].unbind(1)
            medians[place], spreads[place] = middle, (high - low) / 2
            at = at.grown(data, step)
        return at, medians, spreads

    def grown(self, data: Ragged, step: int) -> NeuralFitted:
        """With point ``step`` of the series that have one."""
        more = (data.lens > step).long()
        begin = data.begin + torch.minimum(data.lens, torch.tensor(step))
        new = Ragged(data.values, begin, begin + more, data.known)
        joined = _joined(self.recent, new).last(setting(self.artifact, "context"))
        return replace(self, recent=joined.packed(), seen=self.seen + more)

    def restart(self, data: Ragged, back: Tensor) -> NeuralFitted:
        recent = data.last(setting(self.artifact, "context")).packed()
        return replace(self, recent=recent, seen=self.seen - back)

    def select(self, rows: Tensor) -> NeuralFitted:
        return replace(self, recent=self.recent.select(rows).packed(), seen=self.seen[rows])

    def tensors(self) -> dict[str, Tensor]:
        """The memory; the network is an artifact of its own."""
        values, there = self.recent.padded()
        held = {"values": values, "lens": there.sum(1), "seen": self.seen}
        if self.recent.first is not None:
            held["first"] = self.recent.first
        if self.recent.known is not None:
            place = self.recent.end[:, None] - values.shape[1] + torch.arange(values.shape[1])
            known = self.recent.known[place.clamp_min(0)]
            held["known"] = torch.where(there[..., None], known, 0.0)
        return held


def restored(artifact: Artifact, held: Mapping[str, Tensor], samples: int) -> NeuralFitted:
    """What ``tensors`` gave, with the network. Raises ValueError where a part is missing."""
    try:
        values, lens, known = held["values"], held["lens"], held.get("known")
        seen = held["seen"]
    except KeyError as error:
        raise ValueError(f"not a fitted network: {error}; fit it anew") from None
    if bool((lens < 1).any()) or bool((lens > values.shape[1]).any()):
        raise ValueError("not a fitted network: lengths beyond the points")
    width = torch.arange(1, len(values) + 1) * values.shape[1]
    flat = None if known is None else known.flatten(0, 1)
    recent = Ragged(values.flatten(), width - lens, width, flat, held.get("first")).packed()
    return NeuralFitted(artifact, recent, seen, samples)


def _joined(old: Ragged, new: Ragged) -> Ragged:
    """Every series and what follows it."""
    old, new = old.packed(), new.packed()
    lens = old.lens + new.lens
    ends = lens.cumsum(0)
    begins = ends - lens
    values = old.values.new_empty(int(ends[-1]) if len(ends) else 0)
    known = None
    if old.known is not None and new.known is not None:
        known = values.new_empty(len(values), old.known.shape[1])
    for part, start in ((old, begins), (new, begins + old.lens)):
        row = torch.repeat_interleave(torch.arange(len(part)), part.lens)
        place = start[row] + torch.arange(len(row)) - part.begin[row]
        values[place] = part.values
        if known is not None and part.known is not None:
            known[place] = part.known
    return Ragged(values, begins, ends, known, old.first)


NEURAL: dict[str, type[Model]] = {"lstm": LSTM, "gru": GRU, "transformer": Transformer}
