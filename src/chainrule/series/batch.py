"""Many series at once, and what every linear model of them is fitted to.

Shapes: N series, T points of the longest, P lags, Q errors, F regressors, H horizon, K levels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from chainrule.core.noise import Noise


@dataclass(frozen=True, eq=False)
class Ragged:
    """N series in one float64 vector: series i is ``values[begin[i]:end[i]]``, the oldest first.

    Prefixes and windows of the same series are other bounds over the same values.

    Args:
        values: finite float64 [points], on the device that computes.
        begin, end: int64 [N] on the host.
        known: regressors beside every value, float64 [points, F], or None.
        first: int64 [N], the period of every series' first point, where a calendar tells.
    """

    values: Tensor
    begin: Tensor
    end: Tensor
    known: Tensor | None = None
    first: Tensor | None = None

    @staticmethod
    def of(series: Sequence[Sequence[float] | Tensor]) -> Ragged:
        """From series of any lengths."""
        parts = [torch.as_tensor(s, dtype=torch.float64) for s in series]
        ends = torch.tensor([len(p) for p in parts], dtype=torch.int64).cumsum(0)
        begins = ends - torch.tensor([len(p) for p in parts], dtype=torch.int64)
        return Ragged(torch.cat(parts) if parts else torch.zeros(0).double(), begins, ends)

    def __len__(self) -> int:
        return len(self.begin)

    @property
    def lens(self) -> Tensor:
        """Points of every series, int64 [N]."""
        return self.end - self.begin

    def select(self, rows: Tensor) -> Ragged:
        """The named series (int64, or bool [N]), over the same values."""
        first = None if self.first is None else self.first[rows]
        return Ragged(self.values, self.begin[rows], self.end[rows], self.known, first)

    def packed(self) -> Ragged:
        """The same series one after the other, with nothing before, between or behind them."""
        ends = self.lens.cumsum(0)
        begins = ends - self.lens
        points = int(ends[-1]) if len(self) else 0
        if torch.equal(begins, self.begin) and points == len(self.values):
            return self
        row = torch.repeat_interleave(torch.arange(len(self)), self.lens)
        place = (torch.arange(points) + (self.begin - begins)[row]).to(self.values.device)
        known = None if self.known is None else self.known[place]
        return Ragged(self.values[place], begins, ends, known, self.first)

    def before(self, count: int) -> Ragged:
        """Without the last ``count`` points of every series; never less than nothing."""
        end = torch.maximum(self.begin, self.end - count)
        return replace(self, end=end)

    def last(self, count: int) -> Ragged:
        """The last ``count`` points of every series, or all it has."""
        return self.after((self.lens - count).clamp_min(0))

    def after(self, counts: Tensor) -> Ragged:
        """Without the first ``counts`` (int64 [N]) points, at most all."""
        begin = torch.minimum(self.begin + counts, self.end)
        first = None if self.first is None else self.first + begin - self.begin
        return replace(self, begin=begin, first=first)

    def padded(self) -> tuple[Tensor, Tensor]:
        """Right-aligned [N, T] with zeros on the left, and bool [N, T]: where there are points."""
        width = int(self.lens.max()) if len(self) else 0
        place = self.end[:, None] - width + torch.arange(width)
        there = place >= self.begin[:, None]
        place, there = place.to(self.values.device), there.to(self.values.device)
        return torch.where(there, self.values[place.clamp_min(0)], 0.0), there


@dataclass(frozen=True, eq=False)
class Rows:
    """A batch of fitted things: every tensor field begins with the axis of the N series."""

    def select(self, rows: Tensor) -> Self:
        """The named series."""
        return type(self)(**{k: v[rows] for k, v in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: v for k, v in values.items() if isinstance(v, Tensor)}


@dataclass(frozen=True, eq=False)
class Recursions(Rows):
    """N fitted linear recursions and what they remember.

    z_t = constant + Σ_i phi_i z_{t-i} + Σ_j theta_j e_{t-j} + x_t·beta + e_t, e ~ (0, sigma2).
    Differencing is multiplied into phi, so AR, ARIMA, exponential smoothing and the naive
    methods are all this (Hyndman et al. 2008, "Forecasting with exponential smoothing", ch. 11).

    Args:
        constant [N]; phi [N, P]; theta [N, Q]; beta [N, F]: lag 1 first; sigma2 [N].
        past [N, P] and errors [N, Q]: the newest z and e, the newest LAST.
    """

    constant: Tensor
    phi: Tensor
    theta: Tensor
    beta: Tensor
    sigma2: Tensor
    past: Tensor
    errors: Tensor

    def needed(self) -> Recursions:
        """With 0 for what is too old for any weight to reach: nothing that is computed changes."""

        def reached(weights: Tensor, old: Tensor) -> Tensor:
            return torch.where(((weights != 0).flip(1).cumsum(1) > 0), old, 0.0)

        past, errors = reached(self.phi, self.past), reached(self.theta, self.errors)
        return replace(self, past=past, errors=errors)


class Forecast(ABC):
    """The laws of H steps of N series."""

    @property
    @abstractmethod
    def point(self) -> Tensor:
        """The median [N, H]."""

    @abstractmethod
    def quantile(self, levels: Sequence[float]) -> Tensor:
        """[N, H, K] for levels in (0, 1)."""


class Fitted(ABC):
    """What a classical model is after it has seen N series. A value: methods return new ones."""

    @abstractmethod
    def forecast(self, horizon: int, future: Tensor | None = None) -> Forecast:
        """The next H steps; ``future`` [N, H, F]: the regressors there, if any were known."""

    @abstractmethod
    def update(self, data: Ragged) -> tuple[Fitted, Tensor, Tensor]:
        """Take in new points (of any number a series) without fitting again: O(P) a point.

        Also returns what one-step forecasts were for them: medians and standard deviations
        [points], laid out as the points of ``data``, one series after the other.
        """

    @abstractmethod
    def restart(self, data: Ragged, back: Tensor) -> Fitted:
        """The same parameters, with the memory of other points of the same series: those that
        end ``back`` (int64 [N], 0 or more) steps before where it stands now."""

    @abstractmethod
    def simulate(
        self, horizon: int, num: int, noise: Noise, future: Tensor | None = None
    ) -> Tensor:
        """Sample paths [N, S, H]; ``noise`` has one row a series."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All that is held, by name, each with the axis of the N series first: to be saved.
        ``from_tensors`` of the same class makes it again."""

    @abstractmethod
    def select(self, rows: Tensor) -> Fitted:
        """The named series."""


class Model(ABC):
    """A classical model before it has seen data: a frozen config. ``fit`` never raises for a
    series: one that it can't fit gets the simplest law that it can (see each model)."""

    @abstractmethod
    def fit(self, data: Ragged, season: int) -> Fitted:
        """All series at once; ``season`` is their season length (1: none)."""
