"""Box-Cox and seasonal indices: there and back, the choices made, and the compiled path."""

from __future__ import annotations

import math

import pytest
import torch

from chainrule.native import _native
from chainrule.series import transform as module
from chainrule.series.batch import Ragged
from chainrule.series.transform import Transform, has_season, sizes
from tests.laws import tolerances
from tests.unit.series_examples import AIRLINE, ragged

built = pytest.mark.skipif(_native is None, reason="the compiled part was not built")

# statsmodels 0.15.0, seasonal_decompose(AIRLINE, period=12): January to December.
RATIOS = [0.91376583, 0.95416311, 1.05858567, 0.97935177, 0.96531225, 1.0832872]
RATIOS += [1.18222649, 1.16925828, 1.06860352, 0.91540474, 0.79529629, 0.91474485]
DIFFERENCES = [-12.90509259, -7.0162037, 9.33101852, -3.68287037, -5.29398148, 14.37268519]
DIFFERENCES += [26.6087963, 24.92824074, 10.21990741, -12.68287037, -30.93287037, -12.94675926]


def close(a, b, rtol: float = tolerances.FLOAT64) -> bool:
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    return torch.allclose(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))


def ahead(at: Transform, data: Ragged) -> torch.Tensor:
    """z of the points after the fitted ones, as [N, H]."""
    return at.advance(data.lens).forward(data).values.view(len(data), -1)


def test_nothing_is_done_unless_asked():
    data = ragged(4)
    at = Transform.fit(data, 4)
    assert torch.equal(at.forward(data).values, data.values)
    z = torch.randn(len(data), 7, 3).double()
    assert torch.equal(at.inverse(z), z)
    assert not at.refused.any() and at.power.isnan().all()


@pytest.mark.parametrize("seasonal", [None, "either"])
@pytest.mark.parametrize("power", [None, 0.0, 0.5, 1.0, -0.5, "guerrero"])
def test_there_and_back(power, seasonal):
    data, later = Ragged.of([AIRLINE[:41], AIRLINE]), Ragged.of([AIRLINE[41:], AIRLINE[:7]])
    at = Transform.fit(data, 12, power, seasonal)
    assert close(at.inverse(ahead(at, later)), torch.tensor([AIRLINE[41:], AIRLINE[:7]]))
    z = at.forward(data)
    whole = at.advance(-data.lens)  # as seen from before the first point
    assert close(whole.inverse(z.values[None, 41:].expand(2, -1))[1], AIRLINE)


@pytest.mark.parametrize("power", [None, 0.0, 0.3, "guerrero"])
def test_it_rises_and_ends(power):
    at = Transform.fit(Ragged.of([AIRLINE, [1.0, 2.0, 4.0]]), 12, power, "either")
    z = torch.tensor([-math.inf, -1e308, -50.0, -1.0, 0.0, 1.0, 50.0, 1e308, math.inf]).double()
    y = at.inverse(z.expand(2, 1, -1))
    assert bool(y.isfinite().all()) and bool((y.diff(dim=-1) >= 0).all())
    if power is not None:
        assert bool((y > 0).all()) and bool(
            (y <= 1e3 * torch.tensor([242.0, 4.0])[:, None, None]).all()
        )
    steps = torch.linspace(2, 5, 9).double()
    assert bool((at.inverse(steps.expand(2, 1, -1)).diff(dim=-1) > 0).all())


def test_what_has_no_logarithm_is_left_alone():
    data = Ragged.of([[1.0, 2.0], [0.0, 2.0], [-1.0, 2.0], [], [5.0]])
    at = Transform.fit(data, 1, 0.0)
    assert at.refused.tolist() == [False, True, True, True, False]
    z = at.forward(data).values
    assert close(z[:2].exp(), [1.0, 2.0]) and z[2:6].tolist() == [0.0, 2.0, -1.0, 2.0]
    assert bool(ahead(at, Ragged.of([[-3.0]] * 5)).isfinite().all())  # a new point may be negative


def test_seasonal_indices_of_the_airline():
    at = Transform.fit(Ragged.of([AIRLINE, AIRLINE[:45]]), 12, seasonal="either")
    assert at.ratio.all() and close(at.seasonal[0], RATIOS, tolerances.REFERENCE64)
    lower = Ragged.of([torch.tensor(AIRLINE).double() - 104.0])  # now one value is 0
    at = Transform.fit(lower, 12, seasonal="either")
    assert not at.ratio.any() and close(at.seasonal[0], DIFFERENCES, tolerances.REFERENCE64)


def test_the_next_step_comes_first():
    year = torch.arange(12).double().exp() ** 0.2
    for cut in range(12):
        y = year.repeat(6)[: 72 - cut]
        at = Transform.fit(Ragged.of([y]), 12, seasonal="either")
        assert close(at.seasonal[0] / at.seasonal[0, 0], year.roll(cut) / year.roll(cut)[0])
        assert close(at.advance(torch.tensor([cut])).seasonal[0] * year.mean(), year)
        flat = at.forward(Ragged.of([y])).values
        assert close(flat, flat[:1].expand_as(flat))


def test_a_season_must_show():
    die = torch.Generator().manual_seed(4)
    noise = torch.randn(20, 48, generator=die).double()
    wave = 8.0 * (torch.arange(48) % 12 == 3)  # a sine's other lags would hide it
    all_there = torch.ones(20, 48).bool()
    assert has_season(noise + wave, all_there, 12).all()
    assert has_season(noise, all_there, 12).double().mean() < 0.3
    assert not Transform.fit(
        Ragged.of(noise + wave).before(13), 12, seasonal="either"
    ).seasonal.any()
    assert not has_season(noise * 0, all_there, 12).any()
    assert Transform.fit(Ragged.of([AIRLINE]), 12, seasonal="either").seasonal.any()
    assert not Transform.fit(Ragged.of([AIRLINE]), 12, seasonal="level").seasonal.any()


def test_guerrero():
    data = Ragged.of([AIRLINE, AIRLINE[:20], [3.0] * 40, torch.arange(1, 41.0).square()])
    at = Transform.fit(data, 12, "guerrero")
    # coreforecast 0.0.16, boxcox_lambda(AIRLINE, "guerrero", 12, 0, 1).
    assert round(float(at.power[0]), 3) == 0.124
    assert at.power[1:3].tolist() == [1.0, 1.0]  # one neighbourhood; no deviations
    assert abs(float(at.power[3]) - 0.5) < 0.05


@built
@pytest.mark.parametrize("power", [None, 0.0])
@pytest.mark.parametrize("season", [2, 4, 7, 12])
def test_torch_finds_the_same_seasons(season, power, monkeypatch):
    data = ragged(season)
    native = Transform.fit(data, season, power, "either")
    monkeypatch.setattr(module, "_native", None)
    ours = Transform.fit(data, season, power, "either")
    assert torch.equal(native.ratio, ours.ratio)
    assert torch.equal(native.seasonal.any(1), ours.seasonal.any(1)) and ours.seasonal.any()
    assert close(native.seasonal, ours.seasonal)


def test_windows_of_one_series_are_series():
    flat = torch.tensor(AIRLINE, dtype=torch.float64)
    windows = Ragged(flat, torch.tensor([0, 0, 5]), torch.tensor([48, 40, 45]))
    at = Transform.fit(windows, 4, "guerrero", "either")
    z = at.forward(windows)
    for i, (b, e) in enumerate(((0, 48), (0, 40), (5, 45))):
        alone = Transform.fit(Ragged.of([flat[b:e]]), 4, "guerrero", "either")
        assert torch.equal(
            alone.forward(Ragged.of([flat[b:e]])).values, z.values[z.begin[i] : z.end[i]]
        )
        assert torch.equal(alone.seasonal[0], at.select(torch.tensor([i])).seasonal[0])


def test_sizes_are_powers_of_two():
    size = sizes(Ragged.of([[3.0, -5.0], [0.0], [], [0.25], [1e300], [1e-320]]))
    assert size[:4].tolist() == [8.0, 1.0, 1.0, 0.5]
    assert bool((size.log2() == size.log2().round()).all())
