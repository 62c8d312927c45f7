"""How good forecasts are. Tensors or arrays in, float64 tensors out.

A nan among what came true is a step that nobody saw: it counts nowhere. Shapes: N series,
H horizon, K quantile levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.series.batch import Ragged
from chainrule.series.transform import power_of_two

Numbers = Tensor | NDArray  # type: ignore[type-arg]


def scale(data: Ragged, season: int = 1) -> Tensor:
    """What MASE and MSIS divide by: the mean |y_t - y_{t-m}| of the training part, [N].

    A series no longer than its season is measured by one step. 0 for a constant one, nan where
    there is but one point (Hyndman & Koehler 2006, "Another look at measures of accuracy").
    """
    y, there = data.padded()
    out = _moved(y, there, 1)
    longer = (data.lens > season).to(y.device)
    return torch.where(longer, _moved(y, there, season), out) if season > 1 else out


def _moved(y: Tensor, there: Tensor, lag: int) -> Tensor:
    if y.shape[1] <= lag:
        return y.new_full((len(y),), torch.nan)
    old, unit = there[:, :-lag], power_of_two(y)
    y = y / unit[:, None]
    moved = torch.where(old, (y[:, lag:] - y[:, :-lag]).abs(), 0.0).sum(1) / old.sum(1)
    return (moved * unit).clamp_max(torch.finfo(y.dtype).max)


def mae(y: Numbers, point: Numbers) -> Tensor:
    """Mean absolute error over the horizon, [N]."""
    return (_real(y) - _real(point)).abs().nanmean(1)


def rmse(y: Numbers, point: Numbers) -> Tensor:
    """Root of the mean squared error over the horizon, [N]."""
    return (_real(y) - _real(point)).square().nanmean(1).sqrt()


def mase(y: Numbers, point: Numbers, scales: Tensor) -> Tensor:
    """Mean absolute scaled error, [N] (Hyndman & Koehler 2006): ``mae`` over ``scale``.

    nan where the scale is 0; the mean of a task leaves those out (``nanmean``).
    """
    return mae(y, point) / torch.where(scales > 0, scales, torch.nan)


def smape(y: Numbers, point: Numbers) -> Tensor:
    """Symmetric mean absolute percentage error of M4, 0 … 200, [N]; 0 / 0 counts as 0.

    (Makridakis, Spiliotis & Assimakopoulos 2020, "The M4 competition", section 3.)
    """
    y, point = _real(y), _real(point)
    size = y.abs() + point.abs()
    return (200 * (y - point).abs() / torch.where(size == 0, 1.0, size)).nanmean(1)


def owa(smapes: Tensor, mases: Tensor, naive_smapes: Tensor, naive_mases: Tensor) -> float:
    """Overall weighted average of M4: the mean of the two measures, each over Naive2's.

    The naive ones are of ``Naive(seasonal=True)``. Series without a MASE are left out of that.
    """
    relative = smapes.nanmean() / naive_smapes.nanmean() + mases.nanmean() / naive_mases.nanmean()
    return float(relative / 2)


def pinball(y: Numbers, quantiles: Numbers, levels: Sequence[float]) -> Tensor:
    """The loss that a quantile minimises, [N, H, K] of quantiles [N, H, K].

    (Koenker & Bassett 1978: level × (y - q) above the quantile, (1 - level) × (q - y) below.)
    """
    off = _real(y)[..., None] - _real(quantiles)
    level = torch.tensor(levels, dtype=torch.float64, device=off.device)
    return torch.maximum(level * off, (level - 1) * off)


def wql(y: Numbers, quantiles: Numbers, levels: Sequence[float]) -> float:
    """Weighted quantile loss of a task: 2 Σ pinball / Σ |y| over all points, mean over levels.

    (Ansari et al. 2024, "Chronos", appendix D: there with the levels 0.1, 0.2 … 0.9.)
    nan where every y is 0.
    """
    loss = pinball(y, quantiles, levels).nansum((0, 1))
    size = _real(y).abs().nansum()
    return float((2 * loss / torch.where(size > 0, size, torch.nan)).mean())


def crps(y: Numbers, quantiles: Numbers, levels: Sequence[float]) -> Tensor:
    """Continuous ranked probability score [N, H] from evenly spaced levels: 2 mean pinball.

    (Gneiting & Ranjan 2011, "Comparing density forecasts", equation 3, as a sum over levels.)
    """
    return 2 * pinball(y, quantiles, levels).mean(-1)


def msis(y: Numbers, low: Numbers, high: Numbers, scales: Tensor, miss: float = 0.05) -> Tensor:
    """Mean scaled interval score of M4, [N]: width, plus 2 / ``miss`` times what lies outside.

    (Gneiting & Raftery 2007, section 6.2.) nan where the scale is 0.
    """
    y, low, high = _real(y), _real(low), _real(high)
    outside = (low - y).clamp_min(0) + (y - high).clamp_min(0)
    return (high - low + 2 / miss * outside).nanmean(1) / torch.where(scales > 0, scales, torch.nan)


def coverage(y: Numbers, low: Numbers, high: Numbers) -> Tensor:
    """The share of series whose value lies in its interval, by step: [H]."""
    y = _real(y)
    inside = ((_real(low) <= y) & (y <= _real(high))).double()
    return torch.where(y.isnan(), torch.nan, inside).nanmean(0)


def _real(numbers: Numbers) -> Tensor:
    return torch.as_tensor(numbers, dtype=torch.float64)
