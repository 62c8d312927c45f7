"""auto: its windows, its gate, its intervals. Calibration and surprise by their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from chainrule.core.noise import Noise
from chainrule.series.auto import Auto, AutoFitted, _past, features, members
from chainrule.series.batch import Ragged
from chainrule.series.descent import minimised
from chainrule.series.intervals import LEVELS, Calibrated, Calibration
from chainrule.series.surprise import surprise
from chainrule.series.windows import windows
from tests.laws import tolerances

SEASON, STEPS = 4, 6


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = tolerances.FLOAT64) -> bool:
    return bool(torch.allclose(a, b.to(a), rtol=tolerance, atol=tolerance))


def panel(count: int = 40, seed: int = 0) -> Ragged:
    """Seasons, drifts and noise of all sizes; lengths from 20 to 60."""
    dice = torch.Generator().manual_seed(seed)
    made = []
    for i in range(count):
        n = 20 + (7 * i) % 41
        t = torch.arange(n).double()
        noise = torch.randn(n, generator=dice, dtype=torch.float64)
        walk = noise.cumsum(0) if i % 2 else noise
        made.append(100 + (i % 5) * t + 10 * (i % 3) * torch.sin(t * math.pi / 2) + (1 + i) * walk)
    return Ragged.of(made)


def test_windows_end_with_the_data_and_hide_what_came():
    data = Ragged.of([list(range(10)), list(range(100, 107)), [1.0, 2.0]])
    first, second, third = windows(data, horizon=3, count=4, step=2, least=2)
    assert (first.back, second.back, third.back) == (3, 5, 7)
    assert first.row.tolist() == [0, 1]
    assert first.came.tolist() == [[7, 8, 9], [104, 105, 106]]
    assert first.seen.lens.tolist() == [7, 4]
    assert second.came.tolist() == [[5, 6, 7], [102, 103, 104]]
    assert second.row.tolist() == [0, 1] and third.row.tolist() == [0]


def test_auto_looks_at_nothing_behind_the_end():
    """The same series with other values hidden behind their ends."""
    data = panel()
    hidden = data.values.clone()
    short = data.before(5)
    for end, stop in zip(short.end.tolist(), data.end.tolist(), strict=True):
        hidden[end:stop] = 1e6
    other = Ragged(hidden, short.begin, short.end)
    laws = [Auto(horizon=STEPS).fit(x, SEASON).forecast(STEPS) for x in (short, other)]
    assert torch.equal(laws[0].point, laws[1].point)
    assert torch.equal(laws[0].quantile([0.1, 0.99]), laws[1].quantile([0.1, 0.99]))


def test_weights_add_up_and_none_is_negative():
    fitted = Auto(horizon=STEPS).fit(panel(), SEASON)
    weights = fitted.weights(STEPS + 3)
    assert weights.shape == (40, len(members()), STEPS + 3)
    assert bool((weights >= 0).all()) and close(weights.sum(1), torch.ones(40, STEPS + 3))
    assert close(weights[..., STEPS - 1], weights[..., STEPS + 2]), "later steps: the last"


def test_the_gate_prefers_who_did_better():
    """On straight lines what follows the line outweighs what repeats a season."""
    lines = Ragged.of([10 + (i + 1) * torch.arange(40).double() for i in range(60)])
    bent = Auto(horizon=STEPS).fit(lines, SEASON).weights(STEPS).mean((0, 2))
    assert bent.argmin() == len(members()) - 1, "the seasonal naive one"
    assert bent[-1] < 0.8 / len(members())


def test_too_little_for_any_window_gives_equal_weights():
    fitted = Auto(horizon=STEPS).fit(Ragged.of([[1.0, 2.0, 4.0], [3.0, 3.0, 3.0]]), SEASON)
    equal = torch.full((2, len(members()), 1), 1 / len(members()), dtype=torch.float64)
    assert close(fitted.weights(1), equal)
    assert bool(fitted.forecast(20).quantile([0.001, 0.999]).isfinite().all())


def test_weights_don_t_depend_on_the_unit():
    data = panel()
    twice = Ragged(data.values * 1024, data.begin, data.end)
    plain, scaled = (Auto(horizon=STEPS).fit(x, SEASON).forecast(STEPS) for x in (data, twice))
    assert close(scaled.point, plain.point * 1024, tolerances.FLOAT32)


def test_quantiles_are_in_order_and_the_median_is_the_point():
    law = Auto(horizon=STEPS).fit(panel(), SEASON).forecast(STEPS)
    levels = [0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999]
    made = law.quantile(levels)
    assert bool((made.diff(dim=-1) >= 0).all())
    assert close(made[..., 4], law.point)


def test_nothing_below_zero_where_nothing_was():
    falling = Ragged.of([(50 - torch.arange(40).double()).clamp_min(0) for _ in range(3)])
    law = Auto(horizon=STEPS).fit(falling, 1).forecast(STEPS)
    assert float(law.quantile([0.01]).min()) >= 0 and float(law.point.min()) >= 0
    below = Ragged(falling.values - 20, falling.begin, falling.end)
    assert float(Auto(horizon=STEPS).fit(below, 1).forecast(STEPS).quantile([0.01]).min()) < -12


def test_update_is_as_if_the_members_had_gone_on():
    data = panel()
    before, late = data.before(3), Ragged(data.values, data.end - 3, data.end)
    fitted = Auto(horizon=STEPS).fit(before, SEASON)
    after, median, spread = fitted.update(late)
    assert median.shape == spread.shape == (3 * 40,) and bool((spread > 0).all())
    first = fitted.forecast(1)
    assert close(median.view(40, 3)[:, 0], first.point[:, 0], tolerances.FLOAT32)
    for one, other in zip(after.fitted, fitted.fitted, strict=True):
        assert close(one.forecast(2).point, other.update(late)[0].forecast(2).point)


def test_tensors_come_back():
    fitted = Auto(horizon=STEPS).fit(panel(), SEASON)
    again = AutoFitted.from_tensors(fitted.tensors())
    assert torch.equal(
        again.forecast(9).quantile([0.2, 0.8]), fitted.forecast(9).quantile([0.2, 0.8])
    )
    held = fitted.tensors()
    del held["once.tilt"]
    with pytest.raises(ValueError, match="fit it anew"):
        AutoFitted.from_tensors(held)


def test_sample_paths_have_the_forecast_s_quantiles_and_a_series_own_dice():
    data = panel()
    fitted, num = Auto(horizon=STEPS).fit(data, SEASON), 200
    noise = Noise.seeded(7, range(40))
    paths = fitted.simulate(STEPS, num, noise)
    assert paths.shape == (40, num, STEPS)
    levels = [(k + 0.5) / num for k in range(num)]
    assert close(paths.sort(1).values, fitted.forecast(STEPS).quantile(levels).transpose(1, 2))
    some = torch.tensor([3, 17])
    assert close(fitted.select(some).simulate(STEPS, num, noise.select([3, 17])), paths[some])


def test_members_and_features_of_a_window_are_of_its_past():
    data = panel()
    past = _past(data, SEASON, STEPS, 2)
    row = int((past.row == 5).nonzero()[0])
    seen = data.select(torch.tensor([5])).before(STEPS)
    assert close(past.feature[row], features(seen, SEASON)[0])
    for j, model in enumerate(members()):
        point = model.fit(seen, SEASON).forecast(STEPS).point[0]
        assert close(past.made[row, j, :, 0], point, tolerances.FLOAT32)


# ---- intervals ----


def test_calibration_of_normal_residuals_is_the_normal_law():
    dice = torch.Generator().manual_seed(0)
    found = Calibration.of(torch.randn(20_000, 3, generator=dice, dtype=torch.float64))
    z = torch.special.ndtri(torch.tensor([0.1, 0.5, 0.9, 0.975], dtype=torch.float64))
    made = found.at([0.1, 0.5, 0.9, 0.975], 3)
    assert bool(((made - z).abs() < 0.05).all()) and bool((made[:, 1] == 0).all())


def test_calibrated_intervals_cover_what_they_say():
    """Residuals that no normal law has: skewed, and three times too wide."""
    dice = torch.Generator().manual_seed(1)
    draw = torch.empty(40_000, 4, dtype=torch.float64).exponential_(generator=dice)
    off = 3 * (draw - math.log(2))
    law = Calibrated(torch.zeros(1, 4), torch.ones(1, 4), Calibration.of(off[:20_000]))
    low, high = law.quantile([0.1, 0.9])[0].unbind(-1)
    inside = ((off[20_000:] >= low) & (off[20_000:] <= high)).double().mean(0)
    assert bool(((inside - 0.8).abs() < 0.03).all())
    assert float(high.mean()) > -2 * float(low.mean()), "each side has its own"


def test_few_residuals_lean_on_the_normal_law_and_later_steps_on_the_last():
    few = Calibration.of(torch.full((2, 1), 3.0, dtype=torch.float64))
    z = float(torch.special.ndtri(torch.tensor(0.9, dtype=torch.float64)))
    assert 0 < float(few.at([0.9], 1)) <= z
    empty = Calibration.of(torch.full((0, 2), torch.nan, dtype=torch.float64))
    assert close(empty.at([0.1, 0.9], 5), torch.tensor([[-z, z]] * 5, dtype=torch.float64))
    grown = Calibration(torch.stack([LEVELS - 0.5, 2 * (LEVELS - 0.5)]))
    assert close(grown.at([0.9], 4)[:, 0], torch.tensor([0.4, 0.8, 0.8, 0.8], dtype=torch.float64))


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, math.nan])
def test_levels_out_of_bounds_are_refused(level):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Calibration(torch.special.ndtri(LEVELS)[None]).at([level], 1)


# ---- surprise ----


@pytest.mark.parametrize("law", ["normal", "student"])
@pytest.mark.parametrize("count", [50, 400, 20_000])
def test_a_surprise_of_b_bits_happens_once_in_two_to_the_b(law, count):
    dice = torch.Generator().manual_seed(3)

    def draw(n: int) -> torch.Tensor:
        z = torch.randn(n, 6, generator=dice, dtype=torch.float64)
        return z[:, 0] if law == "normal" else z[:, 0] / z[:, 1:].square().mean(1).sqrt()

    pools = max(4, 2_000 // count)
    found = torch.cat([surprise(draw(20_000), draw(count)) for _ in range(pools)])
    for bits in (1, 2, 4) if count < 20_000 else (1, 2, 4, 7, 10):
        share = float((found >= bits).double().mean()) * 2**bits
        assert 0.6 < share < 1.6, bits


@pytest.mark.parametrize("count", [300, 730])
def test_outliers_hide_neither_themselves_nor_each_other(count):
    dice = torch.Generator().manual_seed(4)
    off = torch.randn(count, generator=dice, dtype=torch.float64)
    off[:3] = torch.tensor([10.0, -11.0, 7.0]).double()
    found = surprise(off, off)
    assert bool((found[:3] >= 10).all()) and int((found[3:] >= 10).sum()) <= 1


def test_surprise_grows_with_size_and_has_no_sign():
    known = torch.randn(1001, generator=torch.Generator().manual_seed(5)).double()
    size = torch.tensor([0.0, 1.0, 2.9, 3.1, 10.0, 1000.0, 1e300]).double()
    found = surprise(size, known)
    assert bool((found.diff() > 0).all()) and torch.equal(found, surprise(-size, known))
    for few in (known[:0], known[:1], known[:39], torch.zeros(100).double()):
        bits = surprise(torch.cat([size, torch.tensor([torch.inf]).double()]), few)
        assert bool((bits.diff() >= 0).all()) and bool((bits < 1000).all())
    assert bool(surprise(torch.tensor([torch.nan]).double(), known).isnan().all())


def test_regressors_reach_the_members_that_take_them():
    dice = torch.Generator().manual_seed(5)
    known = torch.randn(400, 1, generator=dice, dtype=torch.float64)
    y = 50 + 4 * known[:, 0] + torch.randn(400, generator=dice, dtype=torch.float64)
    ends = torch.arange(1, 9) * 48
    data = Ragged(y, ends - 48, ends, known)
    future = torch.tensor([-3.0, 3.0]).double().view(1, 2, 1).expand(8, -1, -1)
    fitted = Auto(horizon=2).fit(data, 1)
    point = fitted.forecast(2, future).point
    assert bool((point[:, 1] - point[:, 0] > 12).all()), "24 is the truth"
    again = AutoFitted.from_tensors(fitted.tensors())
    assert torch.equal(again.forecast(2, future).point, point)


def test_a_minimum_is_found():
    target = torch.arange(6.0, dtype=torch.float64).view(2, 3)

    def bent(x: torch.Tensor) -> torch.Tensor:
        """Rosenbrock's valley in every pair, moved."""
        a, b = (x - target).unbind(0)
        return ((1 - a) ** 2 + 100 * (b - a * a) ** 2).sum()

    found = minimised(bent, torch.zeros_like(target), 500)
    assert close(found, target + 1, tolerances.FLOAT32)
