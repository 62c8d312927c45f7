"""Linear recursions: closed forms, new points, sample paths, and the compiled path beside torch."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from chainrule.core.noise import Noise
from chainrule.native import _native
from chainrule.series import recursion
from chainrule.series.ar import AR
from chainrule.series.batch import Ragged, Recursions
from chainrule.series.recursion import (
    LinearFitted,
    NormalForecast,
    filtered,
    forecast,
    psi,
    simulate,
)
from chainrule.series.transform import Transform
from tests.laws import tolerances
from tests.unit.series_examples import AIRLINE, ragged

built = pytest.mark.skipif(_native is None, reason="the compiled part was not built")


def close(a: torch.Tensor, b: torch.Tensor, rtol: float = tolerances.FLOAT64) -> bool:
    return torch.allclose(a, b, rtol=rtol, atol=rtol)


def reals(x) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def one(phi=(), theta=(), constant=0.0, sigma2=1.0, past=None, errors=None) -> Recursions:
    def row(x, width):
        return torch.tensor([list(x) if x is not None else [0.0] * width], dtype=torch.float64)

    return Recursions(
        reals([constant]),
        row(phi, 0),
        row(theta, 0),
        torch.zeros(1, 0).double(),
        reals([sigma2]),
        row(past, len(phi)),
        row(errors, len(theta)),
    )


def many(count=9, lags=5, memory=3, width=2) -> Recursions:
    die = torch.Generator().manual_seed(1)

    def randn(*shape):
        return torch.randn(*shape, generator=die, dtype=torch.float64)

    return Recursions(
        randn(count),
        randn(count, lags) / lags,
        randn(count, memory),
        randn(count, width),
        randn(count).square(),
        randn(count, lags),
        randn(count, memory),
    )


def test_first_order_in_closed_form():
    mean, variance = forecast(one([0.8], constant=2, sigma2=3, past=[20.0]), 12)
    h = torch.arange(1, 13).double()
    assert close(mean[0], 10 + (20 - 10) * 0.8**h)
    assert close(variance[0], 3 * (1 - 0.8 ** (2 * h)) / (1 - 0.8**2))


def test_errors_are_remembered_and_forgotten():
    at = one([0.5], [0.4, 0.3], past=[2.0], errors=[-1.0, 3.0])  # the newest error is 3
    mean, _ = forecast(at, 3)
    first = 0.5 * 2 + 0.4 * 3 + 0.3 * -1
    assert close(mean[0], reals([first, 0.5 * first + 0.3 * 3, 0.25 * first + 0.45]))
    assert close(psi(at, 4)[0], reals([1, 0.9, 0.75, 0.375]))


def test_a_walk_spreads_with_the_root_of_time():
    _, variance = forecast(one([1.0], sigma2=4), 9)
    assert close(variance[0], 4 * torch.arange(1, 10).double())


@built
def test_torch_runs_the_same(monkeypatch):
    at, data = many(), ragged(4, known=2)
    data = data.select(torch.arange(9) + 8)
    future = data.known[:45].view(9, 5, 2)
    means, (after, steps) = forecast(at, 5, future), filtered(at, data)
    monkeypatch.setattr(recursion, "_native", None)
    assert all(close(a, b) for a, b in zip(means, forecast(at, 5, future), strict=True))
    plain, ticks = filtered(at, data)
    assert close(steps, ticks) and close(after.past, plain.past)
    assert close(after.errors, plain.errors)


def test_new_points_in_pieces_or_at_once():
    at, data = many(width=0), ragged(4).select(torch.arange(9) + 10)
    whole, means = filtered(at, data)
    half, first = filtered(at, data.before(4))
    both, second = filtered(half, data.last(4))
    assert torch.equal(whole.past, both.past) and torch.equal(whole.errors, both.errors)
    at_i = 0
    for i, length in enumerate(data.lens.tolist()):
        mine = torch.cat([first.split((data.lens - 4).tolist())[i], second[4 * i : 4 * i + 4]])
        assert torch.equal(means[at_i : at_i + length], mine)
        at_i += length
    assert close(forecast(half, 1)[0][:, 0], second.view(9, 4)[:, 0])


def test_one_step_means_are_the_forecasts():
    at, y = one([0.6, -0.3], [0.5], constant=1.0, past=[1.0, 2.0], errors=[0.5]), [3.0, -1.0, 4.0]
    _, means = filtered(at, Ragged.of([y]))
    past, error, want = [1.0, 2.0], 0.5, []
    for x in y:
        want.append(1 + 0.6 * past[-1] - 0.3 * past[-2] + 0.5 * error)
        error, past = x - want[-1], [past[-1], x]
    assert close(means, reals(want))


def test_paths_depend_on_nothing_but_seed_series_and_step():
    at, noise = many(width=0), Noise.seeded(3, range(9))
    paths = simulate(at, 6, 5, noise, [0] * 9)
    some = torch.tensor([7, 2])
    fewer = simulate(at.select(some), 6, 3, noise.select([7, 2]), [0, 0])
    assert close(fewer, paths[some][:, :3])
    assert close(simulate(at, 4, 5, noise, [0] * 9), paths[:, :, :4])


def test_a_path_goes_on_from_where_its_points_were_taken_in():
    fit = AR(order=2).fit(Ragged.of([AIRLINE, AIRLINE[:30]]), 12)
    noise = Noise.seeded(0, range(2))
    path = fit.simulate(8, 4, noise)
    later, _, _ = fit.update(Ragged.of([path[0, 2, :5], path[1, 2, :5]]))
    assert close(later.simulate(3, 4, noise)[:, 2], path[:, 2, 5:])


def test_paths_have_the_moments_of_the_forecast():
    at = one([0.9, -0.5], [0.3], constant=4.0, past=[1.0, -2.0], errors=[1.0])
    paths = simulate(at, 8, 60_000, Noise.seeded(0, [0]), [0])[0]
    mean, variance = (x[0] for x in forecast(at, 8))
    assert close(paths.mean(0), mean, tolerances.CLOSED_FORM)
    assert close(paths.var(0), variance, tolerances.CLOSED_FORM)


def test_quantiles_pass_through_a_transform():
    data = Ragged.of([AIRLINE])
    fit = AR(transform="log").fit(data, 12)
    law = fit.forecast(6)
    assert isinstance(law, NormalForecast)
    low, middle, high = law.quantile([0.1, 0.5, 0.9]).unbind(-1)
    assert close(middle, law.point) and bool((low < middle).all() and (middle < high).all())
    assert close(high / middle, middle / low)  # symmetric in logarithms


def test_update_is_the_fit_that_goes_on():
    model = AR(order=3, transform="log", seasonal_difference=1, difference=0)
    fit = model.fit(Ragged.of([AIRLINE[:40]]), 12)
    new = Ragged.of([AIRLINE[40:]])
    later, medians, spreads = fit.update(new)
    step = fit
    for i, y in enumerate(AIRLINE[40:]):
        law = step.forecast(1)
        assert close(medians[i], law.point[0, 0])
        sides = law.quantile([0.15865525393145707, 0.8413447460685429])[0, 0]
        assert close(spreads[i], (sides[1] - sides[0]) / 2)
        step, _, _ = step.update(Ragged.of([[y]]))
    assert close(step.forecast(5).point, later.forecast(5).point)
    assert later.seen.tolist() == [48]


@pytest.mark.parametrize("transform", [None, "log"])
def test_restart_forgets_the_future(transform):
    data = Ragged.of([AIRLINE, AIRLINE[5:]])
    fit = AR(order=4, transform=transform).fit(data, 12)
    back = torch.tensor([7, 3])
    early = Ragged(data.values, data.begin, data.end - back)
    start = fit.restart(early, back)
    late = Ragged(data.values, data.end - back, data.end)
    again, _, _ = start.update(late)
    assert close(again.forecast(9).point, fit.forecast(9).point)
    assert not close(start.forecast(9).point, fit.forecast(9).point)


def test_restart_begins_with_the_error_that_makes_all_of_them_least():
    at = one([0.5], [0.6], past=[0.0], errors=[0.0])
    ones = torch.ones(1).double()
    held = LinearFitted(at, 0 * ones, ones, torch.tensor([0]))
    y = [1.0, 0.5, -0.2, 0.9]

    def errors(first: float) -> list[float]:
        made = [first]
        for last, x in pairwise(y):
            made.append(x - 0.5 * last - 0.6 * made[-1])
        return made

    squares = [sum(e * e for e in errors(first)) for first in (-1.0, 0.0, 1.0)]
    bend = squares[0] - 2 * squares[1] + squares[2]  # a parabola: its lowest point
    best = errors((squares[0] - squares[2]) / (2 * bend))
    begun = held.restart(Ragged.of([y]), torch.tensor([0]))
    assert close(begun.forecast(1).point[0, 0], reals(0.5 * y[-1] + 0.6 * best[-1]))


def test_regressors_move_the_level_even_when_it_is_differenced():
    die = torch.Generator().manual_seed(0)
    x = torch.randn(160, 1, generator=die, dtype=torch.float64)
    level = 0.01 * torch.randn(160, generator=die, dtype=torch.float64).cumsum(0)
    y = 50 + level + 3 * x[:, 0]
    data = Ragged(y[:150], torch.tensor([0]), torch.tensor([150]), x[:150])
    model = AR(order=0, difference=1, seasonal_difference=0)
    fit = model.fit(data)
    point = fit.forecast(10, x[None, 150:]).point[0]
    assert bool(((point - y[150:]).abs() < 0.2).all())
    more = Ragged(y[150:], torch.tensor([0]), torch.tensor([10]), x[150:])
    later, medians, _ = fit.update(more)
    assert bool(((medians - y[150:]).abs() < 0.2).all())
    tail = torch.full((1, 2, 1), 2.0).double()
    whole = Ragged(y, torch.tensor([0]), torch.tensor([160]), x)
    restarted = fit.restart(whole, torch.tensor([-10]))
    assert close(later.forecast(2, tail).point, restarted.forecast(2, tail).point)


def test_missing_regressors_are_refused():
    data = ragged(4, known=2)
    fit = AR().fit(data, 4)
    with pytest.raises(ValueError, match=r"fitted with 2 regressors: give the future ones"):
        fit.forecast(3)
    with pytest.raises(ValueError, match=r"are \[1, 3, 2\], not"):
        fit.forecast(3, torch.zeros(1, 3, 2).double())
    with pytest.raises(ValueError, match="beside new points"):
        fit.update(replace(data, known=None))


def test_saved_and_selected():
    data = Ragged.of([AIRLINE, AIRLINE[:30], [1.0, 2.0]])
    fit = AR(transform="box-cox", seasonal_lags=2).fit(data, 12)
    held = fit.tensors()
    again = LinearFitted.from_tensors(held)
    assert torch.equal(again.forecast(9).point, fit.forecast(9).point)
    assert sum(x.numel() * x.element_size() for x in held.values()) / 3 <= 1024
    some = fit.select(torch.tensor([2, 0]))
    assert torch.equal(some.forecast(4).point, fit.forecast(4).point[[2, 0]])
    assert torch.equal(some.spread, fit.spread[[2, 0]])
    del held["recursions.phi"]
    with pytest.raises(ValueError, match="not a fitted linear model"):
        LinearFitted.from_tensors(held)


def test_the_greatest_numbers_stay_finite():
    at = one([3.0, 2.0], past=[1e140, 1e149], sigma2=1e300, theta=[5.0], errors=[1e150])
    mean, variance = forecast(at, 400)
    assert bool(mean.isfinite().all() and variance.sqrt().isfinite().all())
    top = torch.finfo(torch.float64).max
    ones = torch.ones(1).double()
    held = LinearFitted(at, top * ones, top / 4 * ones, torch.tensor([0]), Transform.none(1))
    later, medians, spreads = held.update(Ragged.of([[top, -top, 0.0]]))
    for part in (medians, spreads, later.forecast(40).quantile([0.001, 0.999])):
        assert bool(part.isfinite().all())


def test_spread_is_one_step_of_the_law():
    fit = AR().fit(Ragged.of([AIRLINE]), 12)
    assert close(fit.spread, fit.forecast(1).scale[:, 0])
    assert math.isclose(
        float(fit.forecast(1).quantile([0.975])[0, 0, 0] - fit.forecast(1).point),
        1.959963984540054 * float(fit.spread),
        rel_tol=tolerances.FLOAT64,
    )


def test_what_no_weight_reaches_is_not_kept_and_changes_nothing():
    dice = torch.Generator().manual_seed(7)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=dice, dtype=torch.float64)

    phi, theta = 0.2 * drawn(3, 4), 0.2 * drawn(3, 3)
    phi[0, 2:], phi[1], theta[0, 1], theta[1, 2] = 0.0, 0.0, 0.0, 0.0
    one = torch.ones(3, dtype=torch.float64)
    at = Recursions(one, phi, theta, drawn(3, 0), one, drawn(3, 4), drawn(3, 3))
    kept = at.needed()
    assert (kept.past != 0).sum(1).tolist() == [2, 0, 4]
    assert (kept.errors != 0).sum(1).tolist() == [3, 2, 3]
    for made, wanted in zip(forecast(kept, 9), forecast(at, 9), strict=True):
        assert torch.equal(made, wanted)
