"""STL: season, trend and remainder by local regression, batched over series.

Cleveland et al. 1990, without robustness weights, as R's ``stl`` runs it.
Shapes: N series, T points of the longest, R rows, L points of the longest row.
"""

from __future__ import annotations

import torch
from torch import Tensor

_INNER = 2  # sweeps over season and trend


def stl(y: Tensor, lens: Tensor, season: int, window: int = 11) -> tuple[Tensor, Tensor]:
    """Seasonal part and trend, both [N, T].

    Args:
        y: left-aligned float64 [N, T].
        lens: int64 [N] on y's device; each above 2 * season.
        season: at least 2.
        window: how many years smooth one season of the year; odd.
    """
    count, width = y.shape
    years = -(-width // season)
    phase = torch.arange(season, device=y.device)
    held = ((lens[:, None] - phase + season - 1) // season).reshape(-1)  # points of a subseries
    low = season + 1 - season % 2
    high = _odd(1.5 * season / (1 - 1.5 / window))
    trend = torch.zeros_like(y)
    seasonal = trend
    for _ in range(_INNER):
        cycle = torch.nn.functional.pad(y - trend, (0, years * season - width))
        rows = cycle.view(count, years, season).transpose(1, 2).reshape(-1, years)
        smooth = loess(rows, held, window, 0, 1).view(count, season, years + 2)
        longer = smooth.transpose(1, 2).reshape(count, -1)[:, : width + 2 * season]
        slow = _mean(_mean(_mean(longer, season), season), 3)
        seasonal = longer[:, season : season + width] - loess(slow, lens, low, 1)
        trend = loess(y - seasonal, lens, high, 1)
    return seasonal, trend


def loess(y: Tensor, lens: Tensor, window: int, degree: int, beyond: int = 0) -> Tensor:
    """Local regression of ``degree`` 0 or 1 with tricube weights: [R, L + 2 * beyond].

    Left-aligned y [R, L] with lens [R]; ``window`` (odd) nearest points count. Also at
    ``beyond`` (0 or 1) places before the first and behind the last point.
    """
    rows, width = y.shape
    at = torch.arange(-beyond, width + beyond, device=y.device).expand(rows, -1)
    last = lens[:, None] - 1
    taken = lens.clamp_max(window)[:, None]
    left = torch.minimum((at - window // 2).clamp_min(0), lens[:, None] - taken)
    reach = torch.maximum(at - left, left + taken - 1 - at).double()
    reach = reach + ((window - lens[:, None]).clamp_min(0) // 2)
    sums = [torch.zeros(at.shape, dtype=y.dtype, device=y.device) for _ in range(5)]
    for k in range(min(window, width)):
        place = left + k
        x = y.gather(1, place.clamp(0, width - 1))
        off = (place - at).double()
        far = off.abs()
        weight = (1 - (far / reach.clamp_min(1e-9)) ** 3) ** 3
        weight = torch.where(far <= 0.001 * reach, 1.0, weight)
        weight = torch.where((far <= 0.999 * reach) & (k < taken), weight, 0.0)
        terms = weight, weight * off, weight * off * off, weight * x, weight * off * x
        for total, term in zip(sums, terms, strict=True):
            total += term
    mass, first, second, level, slope = sums
    some = mass > 0
    mass = torch.where(some, mass, 1.0)
    mean, centre = level / mass, first / mass
    nearest = y.gather(1, torch.minimum(at.clamp_min(0), last.clamp_min(0)))
    if degree:
        spread = second / mass - centre * centre
        wide = spread.clamp_min(0).sqrt() > 0.001 * last
        tilt = (slope / mass - centre * mean) / torch.where(wide, spread, 1.0)
        mean = torch.where(wide, mean - centre * tilt, mean)
    return torch.where(some, mean, nearest)


def _mean(y: Tensor, window: int) -> Tensor:
    """Moving mean [N, T - window + 1]."""
    return y.unfold(1, window, 1).mean(-1)


def _odd(x: float) -> int:
    """The least odd integer that is not below x."""
    up = -int(-x // 1)
    return up + 1 - up % 2
