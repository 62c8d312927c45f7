"""Intervals that cover what they say: pooled split-conformal.

What forecasts of windows of the past missed by, in units of the spread that their models gave,
is pooled over all series; the quantiles of that are what the intervals are made of, step by step.
Sources: Vovk et al. 2005, "Algorithmic learning in a random world"; Lei et al. 2018,
"Distribution-free predictive inference for regression", section 5.2 (locally weighted residuals).

Shapes: N series, H horizon, K levels asked for, G levels of the table, R windows of the past.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.series.batch import Forecast

_LEVELS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
LEVELS = torch.tensor([*_LEVELS, 0.5, *(1 - u for u in reversed(_LEVELS))], dtype=torch.float64)
_NEAR = 2  # a step's residuals are pooled with those of so many steps to either side
_PRIOR = 20  # residuals that the normal law is worth where there are few


@dataclass(frozen=True, eq=False)
class Calibration:
    """By how many spreads a law's quantiles lie from its median, [H, G], for ``LEVELS``.

    Steps beyond the last calibrated one take the last one's.
    """

    table: Tensor

    @staticmethod
    def of(residuals: Tensor) -> Calibration:
        """From (y - median) / spread, [R, H] with nan where there is none.

        The median stays where the models put it; both sides have their own quantiles.
        """
        z = torch.special.ndtri(LEVELS).to(residuals.device)
        rows = []
        for step in range(residuals.shape[1]):
            near = residuals[:, max(0, step - _NEAR) : step + _NEAR + 1].flatten()
            near = near[~near.isnan()]
            if not len(near):
                rows.append(z)
                continue
            # The n + 1 is conformal: one more residual is to come, and may be the largest.
            outward = (LEVELS - 0.5).to(near) * (1 + 1 / len(near)) + 0.5
            found = _quantiles(near.sort().values, outward.clamp(0, 1)) - near.median()
            share = len(near) / (len(near) + _PRIOR)
            rows.append(share * found + (1 - share) * z)
        table = torch.stack(rows)
        half = len(LEVELS) // 2
        table[:, :half] = table[:, :half].clamp_max(0.0)
        table[:, half] = 0.0
        table[:, half + 1 :] = table[:, half + 1 :].clamp_min(0.0)
        return Calibration(table)

    def at(self, levels: Sequence[float], horizon: int) -> Tensor:
        """[H, K]: linear between the table's levels on the normal law's axis, and beyond them."""
        asked = torch.tensor(levels, dtype=torch.float64)
        if not bool(((asked > 0) & (asked < 1)).all()):
            raise ValueError(f"quantile levels lie between 0 and 1, not {list(levels)}")
        grid, z = torch.special.ndtri(LEVELS), torch.special.ndtri(asked)
        right = torch.searchsorted(grid, z).clamp(1, len(grid) - 1)
        share = ((z - grid[right - 1]) / (grid[right] - grid[right - 1])).to(self.table)
        steps = torch.arange(horizon).clamp_max(len(self.table) - 1)
        table = self.table[steps.to(self.table.device)]
        out: Tensor = table[:, right - 1] * (1 - share) + table[:, right] * share
        return out


def _quantiles(ordered: Tensor, levels: Tensor) -> Tensor:
    """As ``torch.quantile``, which refuses more than 2^24 numbers."""
    rank = levels * (len(ordered) - 1)
    low = rank.floor()
    return torch.lerp(ordered[low.long()], ordered[rank.ceil().long()], rank - low)


@dataclass(frozen=True, eq=False)
class Calibrated(Forecast):
    """Medians and spreads [N, H] (standard deviations of a law like the normal one)."""

    median: Tensor
    spread: Tensor
    calibration: Calibration

    @property
    def point(self) -> Tensor:
        return self.median

    def quantile(self, levels: Sequence[float]) -> Tensor:
        away = self.calibration.at(levels, self.median.shape[1])
        most = torch.finfo(self.median.dtype).max
        return (self.median[..., None] + self.spread[..., None] * away).clamp(-most, most)
