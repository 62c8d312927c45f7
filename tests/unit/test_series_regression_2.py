"""Regression on lags in use: new points, short and odd series, intervals, paths, and files."""

from __future__ import annotations

import pytest
import torch

from chainrule.core.noise import Noise
from chainrule.series.batch import Ragged
from chainrule.series.levinson import stable
from chainrule.series.regression import STRATEGIES, Regression, RegressionFitted
from tests.laws import tolerances
from tests.unit.series_examples import AIRLINE, ragged
from tests.unit.test_series_regression import PLAIN, H, close, near


@pytest.mark.parametrize("transform", [None, "log"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_update_is_the_first_equation_at_later_points(strategy, transform):
    data = ragged(6, 1)
    values = data.values.abs() + 1
    lens = torch.minimum(data.lens, torch.arange(len(data)) % 4)
    data = Ragged(values, data.begin, data.end, data.known)
    some = data.before(3)
    new = Ragged(values, some.end, some.end + lens, data.known)
    model = Regression(3, strategy, H, trend=True, seasonal=True, transform=transform)
    fit = model.fit(some, 6)
    later, level, spread = fit.update(new)
    future = torch.randn(len(data), H, 1, generator=torch.Generator().manual_seed(0)).double()
    at = 0
    for i in range(len(data)):
        one, row = fit.select(torch.tensor([i])), torch.tensor([i])
        for t in range(int(lens[i])):
            place = int(some.end[i]) + t
            law = one.forecast(1, data.known[place][None, None])
            assert near(law.point, level[None, at : at + 1]) or spread[at] == 0
            low, high = law.quantile([0.15865525393145707, 0.8413447460685429])[0, 0]
            assert abs(float((high - low) / 2 - spread[at])) <= tolerances.REFERENCE64 * float(
                spread[at] + law.point.abs().max()
            )
            point = Ragged(values, torch.tensor([place]), torch.tensor([place + 1]), data.known)
            one, _, _ = one.update(point)
            at += 1
        assert near(
            one.forecast(H, future[i : i + 1]).point,
            later.select(row).forecast(H, future[i : i + 1]).point,
        )
    assert at == len(level) == int(lens.sum())
    back = later.restart(some, lens)
    assert near(back.forecast(H, future).point, fit.forecast(H, future).point)


def test_direct_beyond_its_horizon_says_what_to_do():
    fit = Regression(2, "direct", 4).fit(Ragged.of([AIRLINE]))
    assert fit.forecast(4).point.shape == (1, 4)
    assert near(fit.forecast(2).point, fit.forecast(4).point[:, :2])
    with pytest.raises(ValueError, match=r"fitted for 4 steps, not 5: fit with horizon=5"):
        fit.forecast(5)
    with pytest.raises(ValueError, match="the direct strategy fits an equation a step: give hori"):
        Regression(2, "direct").fit(Ragged.of([AIRLINE]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strategy": "both"}, "no strategy 'both': one of recursive"),
        ({"strategy": "direct", "horizon": 0}, "horizon is 0: give 1 or more"),
        ({"lags": 0}, "lags are 0: give whole numbers from 1 on"),
        ({"lags": (2, 0)}, "give whole numbers from 1 on"),
        ({"lags": ()}, "give whole numbers from 1 on"),
        ({"ridge": -1.0}, "ridge is -1.0: give 0 or more"),
        ({"ridge": float("nan")}, "ridge is nan: give 0 or more"),
        ({"difference": -1}, "difference is -1: give 0 or more"),
        ({"transform": "root"}, "no transform 'root': log, box-cox or none"),
    ],
)
def test_wrong_settings(given, message):
    with pytest.raises(ValueError, match=message):
        Regression(**given)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_series_stops_the_batch(strategy, pooled):
    t = torch.arange(60, dtype=torch.float64)
    die = torch.Generator().manual_seed(0)
    odd = [
        torch.zeros(0).double(),
        *[t[:n] ** 2 for n in range(1, 12)],
        torch.zeros(30).double(),
        torch.full((30,), 1e300, dtype=torch.float64),
        torch.randn(40, generator=die).double() * 1e300,
        torch.randn(40, generator=die).double() * 1e-310,
        torch.exp(2 * t),
        (-1.3) ** t,
        (t % 4 == 0).double(),
        1e6 + 1e-8 * torch.randn(50, generator=die).double(),
    ]
    for given in ({}, {"difference": 1}, {"trend": True, "seasonal": True, "transform": "log"}):
        fit = Regression(strategy=strategy, horizon=40, pooled=pooled, **given).fit(
            Ragged.of(odd), 4
        )
        law = fit.forecast(40)
        assert bool(law.point.isfinite().all())
        assert bool(law.quantile([0.025, 0.975]).isfinite().all())
        assert bool(fit.simulate(40, 3, Noise.seeded(0, range(len(odd)))).isfinite().all())
    assert Regression(strategy=strategy, horizon=3).fit(Ragged.of([])).forecast(3).point.shape == (
        0,
        3,
    )


def test_what_short_series_get():
    y = [5.0, 7.0, 6.0, 9.0]
    plain = {"strategy": "direct", "horizon": 8, "seasonal_difference": 0}
    for count in range(1, 5):
        data = Ragged.of([y[:count]])
        mean = Regression(difference=0, **plain).fit(data).forecast(8).point[0]
        assert close(mean, torch.full_like(mean, sum(y[:count]) / count))
    last = Regression(difference=1, **plain).fit(Ragged.of([y[:2]])).forecast(8).point[0]
    assert close(last, torch.full_like(last, 7.0))
    die = torch.Generator().manual_seed(0)
    values, x = torch.randn(2, 20, generator=die, dtype=torch.float64)
    data = Ragged(values[:12], torch.tensor([0]), torch.tensor([12]), x[:12, None])
    made = [
        Regression(3, strategy, 8, **PLAIN).fit(data).forecast(8, x[None, 12:, None])
        for strategy in ("direct", "recursive")
    ]
    assert torch.equal(made[0].point, made[1].point)  # its regressor alone is no direct equation
    few = Regression(12, **plain).fit(ragged(1))  # too short for the last step: the recursive one
    own, info = few.correction, few.base.info
    assert own is not None
    assert 0 < int(own.deviation.isnan().any(1).sum()) < len(few)
    assert bool((info["lags"] <= 12).all()) and int(info["lags"].max()) > 0


def test_the_guard_keeps_the_recursion_inside():
    t = torch.arange(40, dtype=torch.float64)
    data = Ragged.of([1.2**t, 1.1**t + torch.sin(t)])
    free = Regression(2, **PLAIN).fit(data)
    held = Regression(2, **{**PLAIN, "stable": True}).fit(data)
    assert not bool(stable(free.base.recursions.phi).any())
    assert bool(stable(held.base.recursions.phi).all())
    assert bool((held.base.info["radius"] < 1).all())
    at, base = held.base.recursions, held.base
    for i in range(2):  # errors of mean zero under the smaller weights
        x = (data.values[40 * i : 40 * i + 40] - base.loc[i]) / base.scale[i]
        e = x[2:] - at.phi[i, 0] * x[1:-1] - at.phi[i, 1] * x[:-2]
        assert close(e.mean(), at.constant[i])
        assert close((e - e.mean()).square().sum() / (38 - 3), at.sigma2[i])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_intervals_cover_what_they_say_and_paths_have_the_same_law(strategy):
    die = torch.Generator().manual_seed(5)
    count, horizon = 600, 5
    e = torch.randn(count, 260 + horizon, generator=die, dtype=torch.float64)
    y = torch.zeros_like(e)
    for t in range(2, e.shape[1]):
        y[:, t] = 1.2 * y[:, t - 1] - 0.5 * y[:, t - 2] + e[:, t]
    y = y[:, 60:]
    model = Regression(2, strategy, horizon, difference=0)
    fit = model.fit(Ragged.of(list(y[:, :-horizon])))
    law = fit.forecast(horizon)
    low, high = law.quantile([0.1, 0.9]).unbind(-1)
    came = y[:, -horizon:]
    inside = ((low <= came) & (came <= high)).double().mean(0)
    # Six deviations of a share of 600 at 80 %, and the weights were estimated.
    assert bool(((inside - 0.8).abs() < 6 * (0.16 / count) ** 0.5).all())
    rows = torch.arange(4)
    paths = fit.select(rows).simulate(horizon, 20000, Noise.seeded(1, rows.tolist()))
    spread = law.scale[rows]
    assert bool(((paths.mean(1) - law.point[rows]).abs() < tolerances.CLOSED_FORM * spread).all())
    assert close(paths.std(1), spread, tolerances.CLOSED_FORM)
    near_by = torch.corrcoef(paths[0].T)[0, 1]
    assert float(near_by) > 0.5  # neighbouring steps hang together


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_saved_comes_back(strategy):
    fit = Regression(3, strategy, H, trend=True, seasonal=True, transform="log").fit(ragged(6), 6)
    again = RegressionFitted.from_tensors(fit.tensors())
    assert torch.equal(again.forecast(H).point, fit.forecast(H).point)
    held = fit.tensors()
    assert all(len(x) == len(fit) for x in held.values())
    del held["later"]
    with pytest.raises(ValueError, match="not a fitted regression: 'later'"):
        RegressionFitted.from_tensors(held)
