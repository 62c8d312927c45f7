"""What is measured in windows of the past: errors, intervals, seconds, and a few examples.

Shapes: N series, R of them in a window, H horizon, K quantile levels, L intervals.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.series import metrics
from chainrule.series.batch import Forecast, Model
from chainrule.series.panel import Floats, Panel
from chainrule.series.windows import Window
from chainrule.verbs.series_pictures import history, ticks, title

QUANTILES = tuple(k / 10 for k in range(1, 10))  # of WQL and CRPS
CHUNK = 5000  # series at a time
_MSIS = 95.0  # the level that M4's interval score is of


@dataclass(frozen=True, eq=False)
class Made:
    """What a model made of a window: the MASE of every series [R], nan where none exists, medians
    [R, H], and the bounds of intervals [R, H, L + 1]."""

    errors: Floats
    point: Tensor
    low: Tensor
    high: Tensor


class Tally:
    """Sums over the forecasts of one model: memory does not grow with the number of series.

    Args:
        horizon, levels: H steps, L intervals in percent.
    """

    def __init__(self, horizon: int, levels: Sequence[float]) -> None:
        self.levels = levels
        self.rows, self.scaled, self.fit_s, self.forecast_s = 0, 0, 0.0, 0.0
        self.error = torch.zeros(horizon, dtype=torch.float64)
        self.inside = torch.zeros(len(levels), horizon, dtype=torch.float64)
        self.squares = torch.zeros(len(levels), dtype=torch.float64)
        self.loss = torch.zeros(len(QUANTILES), dtype=torch.float64)
        self.sums = dict.fromkeys(("smape", "size", "crps", "msis"), 0.0)

    def add(self, window: Window, model: Model, season: int) -> Made:
        """Fit, forecast and compare."""
        start = time.perf_counter()
        fitted = model.fit(window.seen, season)
        between = time.perf_counter()
        law = fitted.forecast(window.came.shape[1], window.future)
        point, made, low, high = quantiles(law, [*self.levels, _MSIS])
        self.fit_s += between - start
        self.forecast_s += time.perf_counter() - between
        y, scales = window.came, metrics.scale(window.seen, season)
        flat = scales.repeat_interleave(y.shape[1])
        steps = metrics.mase(y.reshape(-1, 1), point.reshape(-1, 1), flat).view_as(y)
        there = scales > 0
        self.rows += len(y)
        self.scaled += int(there.sum())
        self.error += steps[there].sum(0)
        for i in range(len(self.levels)):
            shares = metrics.coverage(y.T, low[..., i].T, high[..., i].T)  # of every series
            self.inside[i] += len(y) * metrics.coverage(y, low[..., i], high[..., i])
            self.squares[i] += shares.square().sum()
        self.loss += metrics.pinball(y, made, QUANTILES).sum((0, 1))
        crps = metrics.crps(y, made, QUANTILES).mean(1) / scales
        msis = metrics.msis(y, low[..., -1], high[..., -1], scales)
        self.sums["smape"] += float(metrics.smape(y, point).sum())
        self.sums["size"] += float(y.abs().sum())
        self.sums["crps"] += float(crps[there].sum())
        self.sums["msis"] += float(msis[there].sum())
        return Made(steps.mean(1).numpy(), point, low, high)

    def means(self) -> dict[str, float]:
        """Of all forecasts so far; nan where there is none."""
        scaled, size = self.scaled or math.nan, self.sums["size"] or math.nan
        return {
            "mase": float(self.error.mean()) / scaled,
            "smape": self.sums["smape"] / self.rows,
            "wql": float(2 * self.loss.mean()) / size,
            "crps": self.sums["crps"] / scaled,
            "msis": self.sums["msis"] / scaled,
        }

    def mase_by_step(self) -> list[float]:
        """[H]."""
        return [error / (self.scaled or math.nan) for error in self.error.tolist()]

    def coverage(self) -> dict[str, tuple[float, float | None]]:
        """Of every level, with its standard error over forecasts; their steps are alike."""
        shares, count = self.inside.mean(1) / self.rows, self.rows
        spread = (self.squares / count - shares.square()).clamp_min(0) / max(1, count - 1)
        errors = spread.sqrt().tolist() if count > 1 else [None] * len(shares)
        keys = [f"{p:g}" for p in self.levels]
        return dict(zip(keys, zip(shares.tolist(), errors, strict=True), strict=True))

    def coverage_by_step(self) -> dict[str, tuple[float, ...]]:
        """[H] of every level."""
        shares = (self.inside / self.rows).tolist()
        return {f"{p:g}": tuple(s) for p, s in zip(self.levels, shares, strict=True)}


def quantiles(law: Forecast, levels: Sequence[float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Medians [R, H], quantiles [R, H, K] for ``QUANTILES``, lows and highs [R, H, L]."""
    low = [0.5 - p / 200 for p in levels]
    made = law.quantile([*QUANTILES, *low, *(1 - u for u in low)])
    each = made.split([len(QUANTILES), len(low), len(low)], -1)
    return law.point, each[0], each[1], each[2]


@dataclass(frozen=True, eq=False)
class Errors:
    """The MASE of every series, which the sums of a tally don't know.

    Args:
        total: over its windows [M, N]. newest: in the newest one [M, N], nan where none exists.
        count: windows with a MASE [N]. used: windows in all [N].
    """

    total: Floats
    newest: Floats
    count: NDArray[np.int64]
    used: NDArray[np.int64]

    @staticmethod
    def none(models: int, series: int) -> Errors:
        """Before the first window."""
        zero = np.zeros(series, np.int64)
        shape = models, series
        return Errors(np.zeros(shape), np.full(shape, np.nan), zero, zero.copy())

    def add(self, row: NDArray[np.int64], found: Floats, newest: bool) -> None:
        """A window of the series ``row`` [R], as every model did there [M, R]."""
        there = ~np.isnan(found).all(0)
        self.used[row] += 1
        self.count[row] += there
        self.total[:, row] += np.where(there, found, 0.0)
        if newest:
            self.newest[:, row] = found

    def behind(self, model: int, best: int) -> tuple[float | None, float | None]:
        """By how many percent a model's MASE is above the best one's, and the standard error.

        Windows of one series are alike, so the error is that over series; None for one series.
        """
        there = self.count > 0
        count, least = self.count[there], float(self.total[best, there].sum())
        if not least:
            return (0.0 if model == best else None), None
        off = self.total[model, there] - self.total[best, there]
        behind = float(off.sum()) / least
        if len(off) < 2:
            return 100 * behind, None
        spread = np.square(off - count * (off.sum() / count.sum())).sum()
        error = math.sqrt(spread * len(off) / (len(off) - 1)) / least
        return 100 * behind, 100 * error


# ---- examples ----


@dataclass(frozen=True)
class Example:
    """The newest window of one series, as a model forecast it.

    Args:
        rank: "best", "median" or "worst" of all series, or "best that moves" where others have
            a smaller MASE because nothing happened.
        past: the last points that were known. came, median: [H].
        bounds: low and high [H] of every level. ticks: labels of the points, past ones first.
    """

    rank: str
    id: str
    mase: float
    past: tuple[float, ...]
    came: tuple[float, ...]
    median: tuple[float, ...]
    bounds: dict[str, tuple[tuple[float, ...], tuple[float, ...]]]
    ticks: tuple[tuple[int, str], ...]


def candidates(panel: Panel, window: Window, made: Made, levels: Sequence[float]) -> list[Example]:
    """The best (of those that move), the middle and the worst of a window's series: those are
    kept, others are not."""
    order = np.argsort(made.errors, kind="stable")[: int(np.isfinite(made.errors).sum())]
    if not len(order):
        return []
    before = window.seen.values[window.seen.end - 1].to(window.came)
    moves = (window.came != before[:, None]).any(1).numpy()[order]
    best, middle, last = int(moves.argmax()), (len(order) - 1) // 2, len(order) - 1
    kept = sorted({best, middle, last})
    return [_example(panel, window, made, levels, int(order[k])) for k in kept]


def ranked(found: Sequence[Example], errors: Floats) -> tuple[Example, ...]:
    """Of all candidates the best, one near the median of ``errors`` [N], and the worst."""
    order = sorted(found, key=lambda e: e.mase)
    if len(order) < 2:
        return tuple(order)
    *others, worst = order
    best = next((e for e in others if any(v != e.past[-1] for v in e.came)), others[0])
    middle = float(np.nanmedian(errors))
    near = sorted((e for e in others if e is not best), key=lambda e: abs(e.mase - middle))[:1]
    best = replace(best, rank="best that moves") if best.mase > np.nanmin(errors) else best
    return best, *(replace(e, rank="median") for e in near), replace(worst, rank="worst")


def _example(panel: Panel, window: Window, made: Made, levels: Sequence[float], i: int) -> Example:
    at, horizon = int(window.row[i]), window.came.shape[1]
    seen = window.seen.values[window.seen.begin[i] : window.seen.end[i]]
    kept = history(panel.calendar.season, horizon, len(seen))
    last = panel.first[at] + len(seen) - 1
    bounds = zip(levels, made.low[i].T.tolist(), made.high[i].T.tolist(), strict=False)
    return Example(
        rank="best",
        id=title(panel, at),
        mase=float(made.errors[i]),
        past=tuple(seen[-kept:].tolist()),
        came=tuple(window.came[i].tolist()),
        median=tuple(made.point[i].tolist()),
        bounds={f"{p:g}": (tuple(low), tuple(high)) for p, low, high in bounds},
        ticks=tuple(ticks(panel.calendar, last + np.arange(1 - kept, horizon + 1))),
    )
