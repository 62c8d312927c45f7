"""What every forecast is measured against: naive, seasonal naive, drift and mean.

Their intervals are those of Hyndman & Athanasopoulos, "Forecasting: principles and practice",
3rd edition, table 5.2. Shapes: N series, H horizon, m season length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from chainrule.core.noise import Noise, Positions
from chainrule.series.batch import Model, Ragged, Recursions
from chainrule.series.recursion import LinearFitted, NormalForecast, newest
from chainrule.series.transform import Transform, sizes

_MOST = torch.finfo(torch.float64).max


@dataclass(frozen=True)
class Naive(Model):
    """The last value.

    Args:
        seasonal: of the series without its season, where a test finds one: Naive2 of M4.
    """

    seasonal: bool = False

    def fit(self, data: Ragged, season: int = 1) -> LinearFitted:
        """All series at once."""
        transform = None
        if self.seasonal and season > 1:
            transform = Transform.fit(data, season, seasonal="level")
            data = transform.forward(data)
        return _repeated(data, torch.ones(len(data), dtype=torch.int64), transform)


@dataclass(frozen=True)
class SeasonalNaive(Model):
    """The value a season ago; the last one for a series no longer than a season."""

    def fit(self, data: Ragged, season: int = 1) -> LinearFitted:
        """All series at once."""
        return _repeated(data, torch.where(data.lens > season, season, 1))


@dataclass(frozen=True)
class Drift(Model):
    """The last value and the mean step from the first value to it."""

    def fit(self, data: Ragged, season: int = 1) -> LinearFitted:
        """All series at once."""
        x, size = _scaled(data)
        n = data.lens.to(size)
        one = torch.ones_like(data.lens)
        ends = _at(x, x.end - 1) - _at(x, x.begin)
        step = ends / (n - 1).clamp_min(1)
        squares = _squares(x, one, step)
        at = _recursions(x, one, step, squares / (n - 2).clamp_min(1))
        return DriftFitted(at, torch.zeros_like(size), size, data.lens, info={"points": data.lens})


@dataclass(frozen=True)
class Mean(Model):
    """The mean of all values."""

    def fit(self, data: Ragged, season: int = 1) -> LinearFitted:
        """All series at once."""
        x, size = _scaled(data)
        n = data.lens.to(size).clamp_min(1)
        zero = torch.zeros_like(data.lens)
        mean = _total(x, x.values) / n
        sigma2 = _squares(x, zero, mean) / (n - 1).clamp_min(1) * (1 + 1 / n)
        at = _recursions(x, zero, mean, sigma2)
        return LinearFitted(at, torch.zeros_like(size), size, data.lens)


@dataclass(frozen=True, eq=False)
class DriftFitted(LinearFitted):
    """A random walk whose mean step is itself an estimate, from ``info["points"]`` points."""

    @property
    def spread(self) -> Tensor:
        """Standard deviation of a one-step error, [N]."""
        return (super().spread * (1 + 1 / self._steps).sqrt()).clamp_max(_MOST)

    @property
    def _steps(self) -> Tensor:
        return (self.info["points"].to(self.loc) - 1).clamp_min(1)

    def forecast(self, horizon: int, future: Tensor | None = None) -> NormalForecast:
        """The next H steps."""
        law = super().forecast(horizon, future)
        ahead = torch.arange(1, horizon + 1, device=law.scale.device, dtype=law.scale.dtype)
        scale = law.scale * (1 + ahead / self._steps[:, None]).sqrt()
        return replace(law, scale=scale.clamp_max(_MOST))

    def simulate(
        self, horizon: int, num: int, noise: Noise, future: Tensor | None = None
    ) -> Tensor:
        """Sample paths [N, S, H], each with a mean step of its own."""
        paths = super().simulate(horizon, num, noise, future)
        now = Positions(tuple(self.seen.tolist()), 1)
        dice = torch.special.ndtri(noise.to(paths.device).at(now).part(0).uniform(num)[:, 0])
        ahead = torch.arange(1, horizon + 1, device=paths.device, dtype=paths.dtype)
        step = dice * (super().spread / self._steps.sqrt())[:, None]
        moved: Tensor = paths + step[..., None] * ahead
        return moved.clamp(-_MOST, _MOST)

    @staticmethod
    def from_tensors(held: Mapping[str, Tensor]) -> DriftFitted:
        """What ``tensors`` gave. Raises ValueError where a part is missing."""
        plain = LinearFitted.from_tensors(held)
        if "points" not in plain.info:
            raise ValueError("not a fitted drift: 'info.points' is missing; fit it anew")
        return DriftFitted(**{f.name: getattr(plain, f.name) for f in fields(plain)})


def _repeated(data: Ragged, lag: Tensor, transform: Transform | None = None) -> LinearFitted:
    """Each series repeats what was ``lag`` (int64 [N]) steps ago."""
    x, size = _scaled(data)
    spare = (data.lens - lag).clamp_min(1).to(size.device)
    sigma2 = _squares(x, lag, torch.zeros_like(size)) / spare
    at = _recursions(x, lag, torch.zeros_like(size), sigma2)
    return LinearFitted(at, torch.zeros_like(size), size, data.lens, transform)


def _recursions(x: Ragged, lag: Tensor, constant: Tensor, sigma2: Tensor) -> Recursions:
    width = int(lag.max()) if len(lag) else 0
    phi = constant.new_zeros(len(x), width)
    if width:
        phi.scatter_(1, (lag - 1)[:, None].to(phi.device), 1.0)
    none = constant.new_zeros(len(x), 0)
    return Recursions(constant, phi, none, none, sigma2, newest(x, width), none)


def _scaled(data: Ragged) -> tuple[Ragged, Tensor]:
    """Packed, in units [N] in which no value is beyond 1."""
    data = data.packed()
    size = sizes(data)
    return Ragged(data.values / size[_rows(data)], data.begin, data.end), size


def _squares(x: Ragged, lag: Tensor, constant: Tensor) -> Tensor:
    """Σ (x_t - constant - x_{t-lag})² of packed series, [N]; lag 0: nothing is subtracted."""
    row = _rows(x)
    place = torch.arange(len(row), device=row.device)
    lag, begin = lag.to(row.device)[row], x.begin.to(row.device)[row]
    old = torch.where(lag > 0, x.values[(place - lag).clamp_min(0)], 0.0)
    error = x.values - constant[row] - old
    return _total(x, torch.where(place - lag >= begin, error, 0.0).square())


def _total(x: Ragged, values: Tensor) -> Tensor:
    return values.new_zeros(len(x)).index_add(0, _rows(x), values)


def _rows(x: Ragged) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(x)), x.lens).to(x.values.device)


def _at(x: Ragged, place: Tensor) -> Tensor:
    """The values at these places [N]; 0 for a series without any."""
    there = (x.lens > 0).to(x.values.device)
    place = place.clamp(0, max(len(x.values) - 1, 0)).to(there.device)
    return torch.where(there, x.values[place], 0.0) if len(x.values) else there.double()
