"""Differencing: its tests, its polynomials, and the compiled path beside torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from chainrule.native import _native
from chainrule.series import differencing
from chainrule.series.ar import AR
from chainrule.series.batch import Ragged
from chainrule.series.differencing import (
    dickey_fuller,
    differenced,
    expand,
    ndiffs,
    nsdiffs,
    reverts,
    seasonal_strength,
    unexplained,
)
from tests.laws import tolerances
from tests.unit.series_examples import AIRLINE, ragged

built = pytest.mark.skipif(_native is None, reason="the compiled part was not built")


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=tolerances.FLOAT64, atol=tolerances.FLOAT64)


def both(monkeypatch: pytest.MonkeyPatch, run):
    """What a function gives compiled, and in torch."""
    first = run()
    monkeypatch.setattr(differencing, "_native", None)
    return first, run()


def test_walks_are_differenced_and_noise_is_not():
    noise = torch.randn(4, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    walk, twice = noise.cumsum(1), noise.cumsum(1).cumsum(1)
    assert ndiffs(Ragged.of(list(noise))).tolist() == [0] * 4
    assert ndiffs(Ragged.of(list(walk))).tolist() == [1] * 4
    assert ndiffs(Ragged.of(list(twice))).tolist() == [2] * 4
    assert ndiffs(Ragged.of(list(twice)), 1).tolist() == [1] * 4


def test_what_never_moves_is_not_differenced():
    data = Ragged.of([[], [4.0], [1e300] * 30, [0.1 * t for t in range(60)], [5e-324] * 9])
    assert ndiffs(data).tolist() == [0, 0, 0, 1, 0]  # a line is a constant after one difference
    assert nsdiffs(data, 4).tolist() == [0] * 5


def test_airline():
    """The passengers of Box and Jenkins: statsmodels 0.15.0, STL(period=12, seasonal=11,
    seasonal_deg=0) with two inner sweeps; kpss("c", nlags=1) is 1.834 before and 0.028 after."""
    data = Ragged.of([AIRLINE])
    strength = torch.tensor([0.9411157992468361], dtype=torch.float64)
    assert torch.allclose(seasonal_strength(data, 12), strength, rtol=tolerances.REFERENCE64)
    assert nsdiffs(data, 12).tolist() == [1]
    assert ndiffs(data).tolist() == [1]


@pytest.mark.parametrize("season", [2, 4, 7, 12])
@built
def test_torch_finds_the_same(monkeypatch, season):
    data = ragged(season)
    seasonal = (torch.arange(len(data)) % 3).clamp_max(1)
    for run in (
        lambda: ndiffs(data),
        lambda: ndiffs(data, 2, seasonal, season),
        lambda: seasonal_strength(data, season),
    ):
        with monkeypatch.context() as patch:
            compiled, plain = both(patch, run)
        assert close(compiled.double(), plain.double())


def test_seasonal_differences_come_first():
    data = ragged(6)
    once = torch.ones(len(data), dtype=torch.int64)
    before = differenced(data, torch.zeros_like(once), once, 6)
    assert ndiffs(data, 2, once, 6).tolist() == ndiffs(before).tolist()


def test_differences_are_numpys():
    data = ragged(5, known=2)
    d, D = torch.arange(len(data)) % 3, torch.arange(len(data)) % 2
    out = differenced(data, d, D, 5)
    for i in range(len(data)):
        rows = slice(int(data.begin[i]), int(data.end[i]))
        whole = torch.cat([data.values[rows, None], data.known[rows]], 1).numpy()
        for _ in range(int(D[i])):
            whole = whole[5:] - whole[:-5] if len(whole) > 5 else whole[:0]
        whole = np.diff(whole, int(d[i]), axis=0) if len(whole) else whole
        rows = slice(int(out.begin[i]), int(out.end[i]))
        assert close(out.values[rows], torch.tensor(whole[:, 0]))
        assert close(out.known[rows], torch.tensor(whole[:, 1:]))


def test_lags_multiply_out():
    phi = torch.tensor([[0.5, -0.2], [0.3, 0.0], [0.0, 0.0]], dtype=torch.float64)
    d, D = torch.tensor([1, 2, 0]), torch.tensor([1, 0, 0])
    out = expand(phi, d, D, 4)
    for i in range(3):
        poly = np.array([1.0, *(-phi[i])])
        for _ in range(int(d[i])):
            poly = np.convolve(poly, [1, -1])
        for _ in range(int(D[i])):
            poly = np.convolve(poly, [1, 0, 0, 0, -1])
        want = np.zeros(out.shape[1])
        want[: len(poly) - 1] = -poly[1:]
        assert close(out[i], torch.tensor(want))


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_strength_is_that_of_statsmodels():
    from statsmodels.tsa.seasonal import STL

    data = ragged(12)
    for i, strength in enumerate(seasonal_strength(data, 12).tolist()):
        y = data.values[int(data.begin[i]) : int(data.end[i])].numpy()
        if len(y) <= 24 or np.ptp(y) == 0:
            assert strength == 0
            continue
        fit = STL(y, period=12, seasonal=11, seasonal_deg=0).fit(inner_iter=2, outer_iter=0)
        want = 1 - np.var(fit.resid) / np.var(fit.resid + fit.seasonal)
        assert np.isclose(strength, min(max(want, 0), 1), rtol=0, atol=tolerances.REFERENCE64)


def test_what_regressors_explain_needs_no_difference():
    """A season of which there are two, as days have a year, is no walk: its columns say so."""
    turn = 2 * math.pi * torch.arange(1200).double() / 600
    known = torch.stack([turn.cos(), turn.sin()], 1)
    noise = torch.randn(1200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    season, walk = 10 * turn.cos() + noise, noise.cumsum(0)
    ends = torch.tensor([1200, 2400])
    data = Ragged(torch.cat([season, walk]), ends - 1200, ends, known.repeat(2, 1))
    assert ndiffs(data, 1).tolist() == [1, 1]
    assert ndiffs(unexplained(data), 1).tolist() == [0, 1]


def test_unexplained_is_the_residual_of_least_squares_in_units_of_its_own():
    dice = torch.Generator().manual_seed(2)
    known = torch.randn(50, 3, generator=dice, dtype=torch.float64)
    known[:, 1] = 7.0  # a constant, and a column twice
    known[:, 2] = 1e6 + 2 * known[:, 0]
    y = 1e4 + 30 * known[:, 0] + torch.randn(50, generator=dice, dtype=torch.float64)
    one = torch.cat([known[:, :1], torch.ones(50, 1).double()], 1)
    wanted = y - one @ torch.linalg.lstsq(one, y[:, None]).solution[:, 0]
    end = torch.tensor([50])
    found = unexplained(Ragged(y, end - 50, end, known)).values
    assert torch.allclose(found / found.std(), wanted / wanted.std(), atol=tolerances.FLOAT32)
    both = Ragged(torch.cat([y[:30], y]), torch.tensor([0, 30]), torch.tensor([30, 80]),
                  torch.cat([known[:30], known]))  # fmt: skip
    assert torch.equal(unexplained(both).values[30:], found), "whatever the batch"
    short = Ragged(y[:13], end - 50, end - 37, known[:13])
    assert torch.equal(unexplained(short).values, y[:13])


def test_dickey_fuller_is_that_of_statsmodels():
    """``adfuller(x, maxlag=4, regression="c", autolag=None)`` of statsmodels 0.15 on the log of 48
    months of airline passengers, and on its differences."""
    log = torch.tensor(AIRLINE).double().log()
    found = dickey_fuller(Ragged.of([log, log.diff(), log[:20]]))
    wanted = torch.tensor([-0.9392475244113956, -4.010201663485123, 0.0]).double()
    assert torch.allclose(found, wanted, rtol=tolerances.REFERENCE64)


def test_beside_regressors_a_slow_swing_is_no_walk_and_a_walk_is_one():
    dice = torch.Generator().manual_seed(3)
    shock = torch.randn(2, 900, generator=dice, dtype=torch.float64)
    swing = torch.zeros(900, dtype=torch.float64)
    for t in range(1, 900):
        swing[t] = 0.7 * swing[t - 1] + shock[0, t]
    swing += torch.linspace(-1.5, 1.5, 900).double()
    known = torch.randn(1800, 2, generator=dice, dtype=torch.float64)
    ends = torch.tensor([900, 1800])
    data = Ragged(torch.cat([swing, shock[1].cumsum(0)]), ends - 900, ends, known)
    left = unexplained(data)
    assert ndiffs(left, 1).tolist() == [1, 1]
    assert reverts(left, known).tolist() == [True, False]
    assert not bool(reverts(left, None).any())
    assert AR().fit(data).info["difference"].tolist() == [0, 1]
