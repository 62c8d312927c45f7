"""Exponential smoothing of many series, as linear recursions.

Parameters and start minimise squared one-step errors; smoothing_search.py says how. Its prior,
the least alpha and phi's box forecast the held-out ends of training parts best
(bench/series_smoothing.py).

Shapes: N series, P lags, m season length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from chainrule.series.batch import Model, Ragged, Recursions
from chainrule.series.recursion import LinearFitted
from chainrule.series.smoothing_search import LEAST, Search, found
from chainrule.series.transform import Transform, sizes

_LEVEL = (0.05, 1.0)  # alpha
_FADE = (0.9, 0.999)  # phi


@dataclass(frozen=True)
class Smoothing(Model, ABC):
    """Exponential smoothing of what a transform leaves. A series that is too short for the search
    is forecast by its last value.

    Args:
        seasonal: first take out the season of the series where a test finds one.
        transform: before that "log", or "box-cox" with Guerrero's lambda.
    """

    seasonal: bool = True
    transform: Literal["log", "box-cox"] | None = None

    def __post_init__(self) -> None:
        if self.transform not in (None, "log", "box-cox"):
            raise ValueError(f"no transform {self.transform!r}: log, box-cox or none")

    @abstractmethod
    def search(self, season: int) -> Search:
        """What is looked for in series of this season length."""

    def fit(self, data: Ragged, season: int = 1) -> LinearFitted:
        """All series at once. ``info`` holds alpha, beta, phi and gamma."""
        transform, lens = None, data.lens
        seasons = data.values.new_zeros(len(data), dtype=torch.bool)
        if self.transform is not None or (self.seasonal and season > 1):
            power: float | Literal["guerrero"] | None = None
            if self.transform is not None:
                power = 0.0 if self.transform == "log" else "guerrero"
            seasonal: Literal["either"] | None = "either" if self.seasonal else None
            transform = Transform.fit(data, season, power, seasonal)
            data, seasons = transform.forward(data), transform.seasonal.any(1)
        data = data.packed()
        size = sizes(data)
        row = torch.repeat_interleave(torch.arange(len(data)), lens).to(size.device)
        data = Ragged(data.values / size[row], data.begin, data.end)
        search = self.search(season)
        figures, errors = found(data, search)
        seasons = seasons | (figures[:, 3] > 0)
        at = _recursions(data, search, figures, errors, seasons * (season - 1))
        info = dict(zip(("alpha", "beta", "phi", "gamma"), figures.cpu().unbind(1), strict=False))
        return LinearFitted(at, torch.zeros_like(size), size, lens, transform, info=info)


@dataclass(frozen=True)
class SES(Smoothing):
    """Simple exponential smoothing: a level that moves. ARIMA(0, 1, 1)."""

    def search(self, season: int) -> Search:
        """One parameter."""
        return Search((16, 1, 1, 1), (*_LEVEL, 0.0, 0.0), (0.0, 0.0), 1)


@dataclass(frozen=True)
class Holt(Smoothing):
    """Holt's linear trend: a level and a slope that move. ARIMA(0, 2, 2)."""

    def search(self, season: int) -> Search:
        """Two parameters."""
        return Search((8, 4, 1, 1), (*_LEVEL, 1.0, 1.0))


@dataclass(frozen=True)
class Damped(Smoothing):
    """The damped trend: a slope that fades. ARIMA(1, 1, 2) (Gardner & McKenzie 1985)."""

    def search(self, season: int) -> Search:
        """Three parameters."""
        return Search((6, 3, 3, 1), (*_LEVEL, *_FADE))


@dataclass(frozen=True)
class HoltWinters(Smoothing):
    """The damped trend, and an additive season that moves on from the one taken out first."""

    def search(self, season: int) -> Search:
        """Four parameters; three for a series no longer than its season."""
        gamma = 3 if season > 1 else 1
        return Search((6, 3, 2, gamma), (*_LEVEL, *_FADE), season=season)


@dataclass(frozen=True)
class Theta(Smoothing):
    """The theta method: simple exponential smoothing with a drift, 1 - 1 / theta of the straight
    line's slope (Hyndman & Billah 2003, "Unmasking the theta method").

    None: the part of the slope in [0, 1] is estimated, and while the past is smoothed the line
    runs through the points before (Fiorucci et al. 2016, the dynamic optimised theta model).
    """

    theta: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.theta is not None and not self.theta >= 1:
            raise ValueError(f"theta is {self.theta}: give 1 or more, or None")

    def search(self, season: int) -> Search:
        """One parameter, and the weight of the drift."""
        if self.theta is None:
            return Search((16, 1, 1, 1), (*_LEVEL, 0.0, 0.0), (0.0, 1.0), 2)
        weight = 1 - 1 / self.theta
        return Search((16, 1, 1, 1), (*_LEVEL, 0.0, 0.0), (weight, weight), 1)


def _recursions(
    data: Ragged, search: Search, figures: Tensor, errors: Tensor, more: Tensor
) -> Recursions:
    """Of packed series: figures [N, 6] and the newest errors [N, P] of the best candidates;
    ``more`` [N] unknowns than those of the search."""
    *gains, drift, squares = figures.unbind(1)
    n = data.lens.to(figures.device)
    spare = n - torch.where(n < LEAST, 1, search.unknowns + more)
    sigma2 = squares / spare.clamp_min(1)
    if bool((tight := spare < 1).any()):  # it fits anything: the errors of the last value instead
        values, there = data.select(tight.cpu()).padded()
        moves = torch.where(there[:, :-1], values.diff(dim=1), 0.0).square().sum(1)
        sigma2[tight] = moves / (n[tight] - 1).clamp_min(1)
    phi, theta = coefficients(gains, search)
    place = torch.maximum(data.end[:, None] + torch.arange(-search.lags, 0), data.begin[:, None])
    padded = torch.cat([data.values, drift.new_zeros(1)])  # for series of no points at the end
    past = torch.where((n > 0)[:, None], padded[place.to(n.device)], 0.0)
    return Recursions(drift, phi, theta, drift.new_zeros(len(n), 0), sigma2, past, errors)


def coefficients(gains: Sequence[Tensor], search: Search) -> tuple[Tensor, Tensor]:
    """The recursion's phi and theta [N, P], from alpha, beta, phi and gamma [N] each."""
    alpha, beta, phi, gamma = gains
    lags, memory = alpha.new_zeros(2, len(alpha), search.lags)
    if search.drift:
        lags[:, 0], memory[:, 0] = 1, alpha - 1
        return lags, memory
    lags[:, 0], lags[:, 1] = 1 + phi, -phi
    memory[:, 0], memory[:, 1] = alpha + phi * beta - 1 - phi, phi * (1 - alpha)
    if search.season == 1:
        return lags, memory
    moves = gamma[:, None] != 0
    long, wide = _seasonal(alpha, beta, phi, gamma, search.season)
    return torch.where(moves, long, lags), torch.where(moves, wide, memory)


def _seasonal(
    alpha: Tensor, beta: Tensor, phi: Tensor, gamma: Tensor, m: int
) -> tuple[Tensor, Tensor]:
    """Lags and errors [N, m + 1] of the damped trend with a season: (1 - phi B)(1 - B^m) y =
    [(alpha + phi (beta - alpha) B)(1 + B + … + B^(m-1)) + (1 - alpha)(1 - phi B)(1 - B^m)
    + gamma B^m (1 - phi B)] e (Hyndman et al. 2008, section 11.3, with a common root left out).
    """
    lags, memory = alpha.new_zeros(2, len(alpha), m + 2)  # column j: B^j
    lags[:, 1], lags[:, m], lags[:, m + 1] = phi, 1, -phi
    memory[:, :m] += alpha[:, None]
    memory[:, 1 : m + 1] += (phi * (beta - alpha))[:, None]
    memory -= (1 - alpha)[:, None] * lags
    memory[:, m] += gamma
    memory[:, m + 1] -= phi * gamma
    return lags[:, 1:], memory[:, 1:]
