"""What one series can't do to others, and numbers at the ends of float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from chainrule.core.noise import Noise
from chainrule.series import recursion
from chainrule.series.arima import ARIMA
from chainrule.series.auto import Auto
from chainrule.series.baselines import Drift
from chainrule.series.batch import Model, Ragged
from chainrule.series.intervals import Calibration, _quantiles
from chainrule.series.metrics import scale
from chainrule.series.regression import Regression
from chainrule.series.surprise import surprise
from tests.laws import tolerances

TOP = torch.finfo(torch.float64).max
LEVELS = (0.01, 0.1, 0.5, 0.9, 0.99)


def walks(count: int, length: int = 60, seed: int = 0) -> list[torch.Tensor]:
    die = torch.Generator().manual_seed(seed)
    steps = torch.randn(count, length, generator=die, dtype=torch.float64)
    return list(50 + steps.cumsum(1))


def wild(kind: str) -> torch.Tensor:
    y = walks(1, seed=9)[0]
    if kind == "marker":  # a missing value that somebody wrote as the greatest number
        y[30] = TOP
    elif kind == "outlier":
        y[30] = 1e300
    elif kind == "exponential":
        y = (10 * torch.arange(60).double()).exp()
    elif kind == "alternating":
        y = TOP * (1 - 2.0 * (torch.arange(60) % 2)).double()
    elif kind == "random":
        y = TOP * torch.linspace(-1, 1, 60, dtype=torch.float64).sin().mul(99).sin()
    return y


WILD = ("marker", "outlier", "exponential", "alternating", "random")


@pytest.mark.parametrize("kind", WILD)
def test_a_wild_series_spoils_no_ensemble(kind):
    data = Ragged.of([*walks(6), wild(kind)])
    fit = Auto(horizon=6).fit(data, 1)
    made = fit.forecast(9).quantile(LEVELS)
    assert bool(made.isfinite().all())
    assert bool((made[..., 1:] >= made[..., :-1]).all())
    last = torch.stack([y[-1] for y in walks(6)])
    assert bool(((made[:6, :, 2] - last[:, None]).abs() < 20).all())
    assert bool(fit.simulate(9, 5, Noise.seeded(0, range(7))).isfinite().all())
    _, medians, spreads = fit.update(Ragged.of([[TOP, -TOP]] * 7))
    assert bool(medians.isfinite().all() and spreads.isfinite().all())


@pytest.mark.parametrize("kind", WILD)
@pytest.mark.parametrize(
    "model",
    [Drift()]
    + [
        Regression(strategy=s, horizon=9, difference=d)
        for s in ("recursive", "direct", "multi-output", "rectify")
        for d in (None, 2)
    ],
    ids=str,
)
def test_the_greatest_numbers_have_finite_forecasts(model: Model, kind: str):
    fit = model.fit(Ragged.of([wild(kind)]), 1)
    later, medians, spreads = fit.update(Ragged.of([[TOP, -TOP, 0.0]]))
    for made in (fit.forecast(9), later.forecast(9)):
        assert bool(made.quantile(LEVELS).isfinite().all() and made.point.isfinite().all())
    assert bool(medians.isfinite().all() and spreads.isfinite().all())
    assert bool(fit.simulate(9, 5, Noise.seeded(0, [0])).isfinite().all())


def test_series_without_points_are_no_trouble_for_an_ensemble():
    fit = Auto(horizon=6).fit(Ragged.of([[], []]), 12)
    assert bool((fit.forecast(3).point == 0).all())


def test_no_columns_of_regressors_are_none_at_all():
    data = Ragged.of(walks(3))
    empty = replace(data, known=data.values.new_zeros(len(data.values), 0))
    for model in (Auto(horizon=4), Regression(lags=2)):
        made = [model.fit(given, 1).forecast(4).point for given in (data, empty)]
        assert torch.equal(*made)


def test_three_points_have_their_mean():
    y = [[1000.0, 1001.0, 999.0], [5.0, 7.0, 6.0]]
    fit = ARIMA().fit(Ragged.of(y))
    assert fit.forecast(2).point.tolist() == [[1000.0, 1000.0], [6.0, 6.0]]
    never = ARIMA(constant=False).fit(Ragged.of(y))
    assert never.info["mean"].tolist() == [0, 0]


def test_a_scale_of_the_greatest_numbers():
    data = Ragged.of([[TOP, -TOP, TOP], [1e300, 3e300, 1e300]])
    assert scale(data).tolist() == [TOP, 2e300]
    assert scale(Ragged.of([[1.0, 2.5, 2.0, 4.0]]), 2).tolist() == [1.25]


@pytest.mark.parametrize("strategy", ["recursive", "direct"])
def test_what_never_moves_has_no_part_in_a_pool(strategy):
    moving = walks(4)
    still = [torch.zeros(50), torch.full((50,), 7.7), torch.full((50,), -3e6)]
    model = Regression(strategy=strategy, horizon=5, pooled=True, difference=0)
    both = model.fit(Ragged.of([*moving, *still]), 1).forecast(5)
    alone = model.fit(Ragged.of(moving), 1).forecast(5)
    assert torch.allclose(both.point[:4], alone.point, rtol=tolerances.FLOAT64)
    levels = torch.stack([y[-1].double() for y in still])[:, None].expand(-1, 5)
    assert torch.allclose(both.point[4:], levels, rtol=tolerances.FLOAT64)
    width = both.quantile([0.99])[4:, :, 0] - both.point[4:]
    assert bool((width <= tolerances.FLOAT64 * levels.abs()).all())


def test_a_rectified_series_is_the_same_beside_any_other():
    model = Regression(strategy="rectify", horizon=12)
    plain = [y - y.roll(1) for y in walks(8, 90)]
    season = 50 * torch.sin(math.tau / 12 * torch.arange(90).double()) + walks(1, 90)[0]
    beside = model.fit(Ragged.of([*plain, season]), 12)
    assert beside.base.info["seasonal_difference"].tolist() == [0] * 8 + [1]
    made = beside.forecast(12).quantile(LEVELS)
    for i, y in enumerate(plain):
        alone = model.fit(Ragged.of([y]), 12)
        assert torch.equal(made[i : i + 1], alone.forecast(12).quantile(LEVELS))


def test_paths_in_small_parts_are_the_same(monkeypatch):
    fit = Drift().fit(Ragged.of(walks(5)))
    noise = Noise.seeded(3, range(5))
    whole = fit.simulate(7, 4, noise)
    monkeypatch.setattr(recursion, "_CHUNK", 1)
    assert torch.equal(fit.simulate(7, 4, noise), whole)


def test_a_drift_s_doubt_is_in_its_spread_and_its_paths():
    data = Ragged.of(walks(2, 12))
    fit = Drift().fit(data)
    law = fit.forecast(20)
    assert torch.allclose(fit.spread, law.scale[:, 0], rtol=tolerances.FLOAT64)
    _, _, deviations = fit.update(Ragged.of([[1.0], [2.0]]))
    assert torch.equal(deviations, fit.spread)
    paths = fit.simulate(20, 40_000, Noise.seeded(0, [0, 1]))
    assert torch.allclose(paths.std(1), law.scale, rtol=tolerances.CLOSED_FORM)
    few = fit.select(torch.tensor([1])).simulate(20, 3, Noise.seeded(0, [1]))
    assert torch.allclose(few[0], paths[1, :3], rtol=tolerances.FLOAT64)


def test_new_points_below_zero_open_what_lies_there():
    fit = Auto(horizon=4).fit(Ragged.of([y.abs() for y in walks(3)]), 1)
    below = Ragged.of([[-200.0] * 8, [40.0], [40.0]])
    later, _, _ = fit.update(below)
    assert bool((later.forecast(4).point[0] < 0).all())
    assert later.positive.tolist() == [False, True, True]
    assert fit.positive.tolist() == [True, True, True]


def test_one_step_medians_are_held_above_zero_as_forecasts_are():
    falling = [torch.arange(20, 0, -1).double(), torch.arange(60, 0, -3).double()]
    fit = Auto(horizon=4).fit(Ragged.of(falling), 1)
    for _ in range(3):
        point = fit.forecast(1).point[:, 0]
        fit, medians, _ = fit.update(Ragged.of([[0.0], [0.0]]))
        assert torch.allclose(medians, point, rtol=tolerances.FLOAT64)


def test_any_number_of_residuals_is_taken(monkeypatch):
    some = torch.randn(999, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    levels = torch.tensor([0.0, 0.013, 0.5, 1.0], dtype=torch.float64)
    expected = torch.quantile(some[:, 0], levels)
    monkeypatch.delattr(torch, "quantile")  # it refuses more than 2^24 numbers
    assert torch.equal(_quantiles(some[:, 0].sort().values, levels), expected)
    assert bool(Calibration.of(some).table.diff(dim=1).gt(0).all())


def test_endless_residuals_are_endlessly_surprising_and_tell_nothing():
    known = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    new = torch.tensor([0.5, 3.0, 9.0, math.inf, -math.inf], dtype=torch.float64)
    endless = torch.cat([known, torch.full((40,), math.inf).double()])
    found = surprise(new, endless)
    assert torch.equal(found, surprise(new, known))
    assert bool((found[3:] > 900).all()) and bool(found.isfinite().all())
