"""Exponential smoothing: recursions beside the state space, the search, and hard series."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from chainrule.native import _native
from chainrule.series import smoothing_search
from chainrule.series.batch import Ragged, Recursions
from chainrule.series.recursion import LinearFitted
from chainrule.series.smoothing import (
    SES,
    Damped,
    Holt,
    HoltWinters,
    Smoothing,
    Theta,
    coefficients,
)
from chainrule.series.smoothing_search import Search, found
from tests.laws import tolerances
from tests.unit.series_examples import AIRLINE, ragged

built = pytest.mark.skipif(_native is None, reason="the compiled part was not built")
MODELS = (SES(), Holt(), Damped(), HoltWinters(), Theta(), Theta(theta=2.0))
names = pytest.mark.parametrize("model", MODELS, ids=repr)

# Oil production in Saudi Arabia, million tonnes, 1996 to 2013, and what R's ets makes of it:
# Hyndman & Athanasopoulos, "Forecasting: principles and practice", 2nd edition, section 7.1.
OIL = [445.36, 453.20, 454.41, 422.38, 456.04, 440.39, 425.19, 486.21, 500.43]
OIL += [521.28, 508.95, 488.89, 509.87, 456.72, 473.82, 525.95, 549.83, 542.34]


# A walk under noise, going up: no smoothing parameter of it lies on a border.
_DIE = torch.Generator().manual_seed(11)
_NOISE = torch.randn(2, 60, generator=_DIE, dtype=torch.float64)
WANDER = 100 + 0.6 * torch.arange(60) + 0.8 * _NOISE[0].cumsum(0) + 2 * _NOISE[1]

CURVE = WANDER + 2 * _NOISE[1].cumsum(0).cumsum(0)
CURVE = CURVE + torch.tensor([4.0, -2.0, 5.0, -7.0]).double().repeat(15) * (1 + _NOISE[0] / 4)


def close(a, b, rtol: float = tolerances.FLOAT64) -> bool:
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    return torch.allclose(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))


class StateSpace:
    """Level, slope and season as they stand in Hyndman et al. 2008, chapter 2."""

    def __init__(self, gains, level=0.0, slope=0.0, season=(0.0,), drift=0.0):
        self.alpha, self.beta, self.phi, self.gamma = (float(g) for g in gains)
        self.level, self.slope, self.season, self.drift = level, slope, list(season), drift

    def ahead(self, steps: int) -> list[float]:
        """Forecasts."""
        level, slope, out = self.level, self.slope, []
        for h in range(steps):
            slope *= self.phi
            level += slope + self.drift
            out.append(level + self.season[h % len(self.season)])
        return out

    def see(self, y: float, drift: float | None = None) -> float:
        """Takes a point in; returns the error."""
        drift = self.drift if drift is None else drift
        base = self.level + self.phi * self.slope + drift
        e = y - base - self.season[0]
        self.level, self.slope = base + self.alpha * e, self.phi * self.slope + self.beta * e
        self.season = [*self.season[1:], self.season[0] + self.gamma * e]
        return e


def kinds():
    level = (0.0, 1.0, 0.0, 0.0)
    return {
        "ses": (Search((9, 1, 1, 1), level, (0, 0), 1), (0.3, 0, 0, 0), 0.0),
        "drift": (Search((9, 1, 1, 1), level, (0, 1), 2), (0.3, 0, 0, 0), 0.7),
        "holt": (Search((9, 9, 1, 1), (0, 1, 1, 1)), (0.3, 0.1, 1, 0), 0.0),
        "damped": (Search((9, 9, 9, 1), (0, 1, 0.9, 1)), (0.3, 0.1, 0.9, 0), 0.0),
        "no season": (Search((9, 9, 9, 9), (0, 1, 0.9, 1), season=4), (0.3, 0.1, 0.9, 0), 0.0),
        "season": (Search((9, 9, 9, 9), (0, 1, 0.9, 1), season=4), (0.3, 0.1, 0.9, 0.2), 0.0),
        "long season": (Search((9, 9, 9, 9), (0, 1, 0.9, 1), season=7), (0.5, 0, 1, 0.4), 0.0),
    }


@pytest.mark.parametrize("kind", kinds())
def test_the_recursion_is_the_state_space(kind):
    search, gains, drift = kinds()[kind]
    die = np.random.default_rng(5)
    season = die.normal(size=search.season) if gains[3] else (0.0,)
    slope = 0.0 if search.drift else 0.5
    space = StateSpace(gains, 10.0, slope, season, drift)
    y = die.normal(size=30) + 10
    errors = [space.see(v) for v in y]
    phi, theta = coefficients(
        [torch.tensor([float(g)], dtype=torch.float64) for g in gains], search
    )
    one, n = torch.ones(1).double(), search.lags
    past, errors = torch.tensor(y[-n:])[None], torch.tensor(errors[-n:])[None]
    at = Recursions(drift * one, phi, theta, one[:, None][:, :0], one, past, errors)
    fitted = LinearFitted(at, 0 * one, one, torch.tensor([30]))
    assert close(fitted.forecast(20).point[0], space.ahead(20))
    more = die.normal(size=15) + 12
    later, means, _ = fitted.update(Ragged.of([more]))
    seen = [v - space.see(v) for v in more]
    assert close(means, seen)
    assert close(later.forecast(20).point[0], space.ahead(20))


def slopes(y) -> list[float]:
    """Of the line through the first t points, t = 0 … n."""
    return [np.polyfit(range(t), y[:t], 1)[0] if t > 1 else 0.0 for t in range(len(y) + 1)]


@pytest.mark.parametrize("y", [WANDER, CURVE], ids=["wander", "curve"])
@names
def test_a_fit_is_the_best_start_and_then_the_filter(model, y):
    fitted, y = replace(model, seasonal=False).fit(Ragged.of([y]), 4), y.numpy()
    gains = [float(fitted.info[k]) for k in ("alpha", "beta", "phi", "gamma")]
    m, lines = 4 if gains[3] else 1, slopes(y)
    drifts = lines if model == Theta() else [lines[-1]] * len(lines)
    drifting = isinstance(model, (SES, Theta))

    def run(values, level, slope, weight):
        space = StateSpace(gains, level, slope, [0.0] * m)
        errors = [space.see(v, weight * d) for v, d in zip(values, drifts, strict=False)]
        return space, np.array(errors)

    columns = [run(0 * y, 1, 0, 0)[1], run(0 * y, 0, 1, 0)[1], run(0 * y, 0, 0, 1)[1]]

    def start(used: list[int], weight: float) -> list[float]:
        design = np.stack([columns[k] for k in used], 1)
        best = np.linalg.lstsq(design, -run(y, 0, 0, weight)[1])[0]
        return [dict(zip(used, best, strict=True)).get(k, weight * (k == 2)) for k in range(3)]

    if isinstance(model, Theta) and model.theta is None:
        first = start([0, 2], 0.0)
        if not 0 < first[2] < 1:
            first = start([0], float(first[2] > 1))
    else:
        weight = 0.5 if isinstance(model, Theta) else 0.0
        first = start([0] if drifting else [0, 1], weight)
    space, errors = run(y, *first)
    space.drift = first[2] * lines[-1]
    assert close(fitted.forecast(24).point[0], space.ahead(24), tolerances.REFERENCE64)
    unknowns = {SES(): 2, Theta(theta=2.0): 2, Theta(): 3, Holt(): 4, Damped(): 5}.get(model, 6)
    unknowns += 3 if m > 1 else 0
    sigma2 = fitted.recursions.sigma2 * fitted.scale**2
    assert close(sigma2, [np.square(errors).sum() / (len(y) - unknowns)], tolerances.REFERENCE64)


def test_theta_is_the_mean_of_a_line_and_a_smoothed_line():
    # Assimakopoulos & Nikolopoulos 2000: lines of theta 0 and 2. The start is long forgotten.
    y = WANDER.numpy()
    fitted = Theta(theta=2.0).fit(Ragged.of([y]))
    alpha, n = float(fitted.info["alpha"]), len(y)
    slope, start = np.polyfit(range(n), y, 1)
    line = start + slope * np.arange(n + 24)
    smooth = y[0]
    for v in 2 * y - line[:n]:
        smooth += alpha * (v - smooth)
    assert close(fitted.forecast(24).point[0], (smooth + line[n:]) / 2)


def test_saudi_oil_of_the_textbook():
    fitted = SES().fit(Ragged.of([OIL]))
    law = fitted.forecast(5)
    assert abs(float(fitted.info["alpha"]) - 0.8339) < tolerances.REFERENCE32 * 2
    assert close(law.point[0], [542.6806] * 5, tolerances.REFERENCE32)
    ends = law.quantile([0.1, 0.9, 0.025, 0.975])[0, 0]
    assert close(ends, [504.4541, 580.9070, 484.2183, 601.1429], tolerances.REFERENCE32)


def test_intervals_widen_as_the_textbook_says():
    # Hyndman & Athanasopoulos, 3rd edition, table 8.8: A,N,N and A,A,N.
    data, h = Ragged.of([AIRLINE]), torch.arange(1, 9).double()
    ses = SES(seasonal=False).fit(data).forecast(8)
    alpha = float(SES(seasonal=False).fit(data).info["alpha"])
    assert close(ses.scale[0] / ses.scale[0, 0], (1 + alpha**2 * (h - 1)).sqrt())
    holt = Holt(seasonal=False).fit(data)
    alpha, beta = float(holt.info["alpha"]), float(holt.info["beta"])
    spread = alpha**2 + alpha * beta * h + beta**2 * h * (2 * h - 1) / 6
    law = holt.forecast(8)
    assert close(law.scale[0] / law.scale[0, 0], (1 + (h - 1) * spread).sqrt())


@pytest.mark.parametrize("model", MODELS[:5], ids=repr)
def test_no_other_parameters_are_better(model):
    # C++ or torch finds; torch's losses judge two thousand candidates anywhere in the box.
    data = Ragged.of([OIL, AIRLINE, np.diff(AIRLINE), np.log(AIRLINE)])
    search = model.search(12)
    figures, _ = found(data, search)
    y = torch.zeros(4, 48).double()
    there = torch.arange(48) < data.lens[:, None]
    y[there] = data.values
    drift = torch.zeros_like(y) if search.drift == 0 else smoothing_search._slopes(y, data.lens)
    drift = drift[:, :48] * (search.bounds[1] > 0)
    at = torch.rand(4, 2000, 4, generator=torch.Generator().manual_seed(3)).double()
    at = at * torch.tensor([s > 1 for s in search.sizes])
    losses, _, _ = smoothing_search._losses(
        y, there, drift, smoothing_search._gains(at, search), search
    )
    losses = losses * (1 + search.prior * at[..., 1].square() / data.lens[:, None])
    alpha, beta, squares = figures[:, 0], figures[:, 1], figures[:, 5]
    ours = squares * (1 + search.prior * beta / alpha / data.lens)
    assert bool((ours <= losses.amin(1) * (1 + tolerances.REFERENCE32)).all())


@built
@pytest.mark.parametrize("season", [1, 4])
@names
def test_torch_finds_the_same_to_the_bit(model, season, monkeypatch):
    data = ragged(4)
    data = data.select(data.lens < 50).packed()
    data = Ragged(data.values / 2048, data.begin, data.end)
    native = found(data, model.search(season))
    monkeypatch.setattr(smoothing_search, "_native", None)
    for ours, theirs in zip(native, found(data, model.search(season)), strict=True):
        assert torch.equal(ours, theirs)


@names
def test_neither_the_batch_nor_threads_change_a_series(model):
    data = ragged(4)
    whole = model.fit(data, 4).forecast(6)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        many = Ragged(data.values, data.begin.repeat(20), data.end.repeat(20))
        again = model.fit(many, 4).forecast(6)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again.point, whole.point.repeat(20, 1))
    for i in (4, 9, 15):
        alone = model.fit(data.select(torch.tensor([i])), 4).forecast(6)
        assert torch.equal(alone.point[0], whole.point[i])
        assert torch.equal(alone.scale[0], whole.scale[i])
    windows = model.fit(data.before(3), 4).forecast(6)
    cut = Ragged.of(
        [data.values[b : max(b, e - 3)] for b, e in zip(data.begin, data.end, strict=True)]
    )
    assert torch.equal(windows.point, model.fit(cut, 4).forecast(6).point)


def hard() -> list:
    die = torch.Generator().manual_seed(2)
    noise = torch.randn(40, generator=die).double()
    series = [noise[:n] for n in range(9)]
    series += [torch.zeros(30), torch.full((30,), -3e5), torch.ones(3).double() * 1e300]
    series += [noise * 1e300, noise * 1e-300, noise + 1e15, noise.exp() ** 9]
    jump = torch.zeros(40)
    jump[-1] = 1e12
    return [*series, jump, torch.arange(40.0), -(2.0 ** torch.arange(40.0)), (noise > 1).double()]


@pytest.mark.parametrize("transform", [None, "log", "box-cox"])
@names
def test_hard_series_have_finite_forecasts(model, transform):
    model = replace(model, transform=transform)
    for season in (1, 4):
        fitted = model.fit(Ragged.of([s.double() for s in hard()]), season)
        law = fitted.forecast(30)
        made = law.quantile([0.01, 0.5, 0.99])
        assert bool(law.point.isfinite().all()) and bool(made.isfinite().all())
        assert bool((made.diff(dim=-1) >= 0).all())
        later, means, deviations = fitted.update(Ragged.of([[5.0, -5.0]] * len(hard())))
        assert bool(means.isfinite().all()) and bool(deviations.isfinite().all())
        assert bool(later.forecast(3).point.isfinite().all())


@names
def test_a_constant_stays_and_is_certain(model):
    law = model.fit(Ragged.of([[7.5] * 40, [7.5] * 2, [7.5]]), 4).forecast(9)
    assert torch.equal(law.point, torch.full((3, 9), 7.5).double())
    assert torch.equal(law.scale, torch.zeros(3, 9).double())


def test_lines_and_seasons_go_on():
    t = torch.arange(48).double()
    season = torch.tensor([3.0, -1.0, 4.0, -6.0]).double().repeat(18)
    line = 20 + 0.5 * torch.arange(72).double()
    data = Ragged.of([line[:48], line[:48] + season[:48]])
    point = HoltWinters().fit(data, 4).forecast(4).point
    wanted = torch.stack([line, line + season])[:, 48:52]
    assert bool(((point - wanted).abs() < 0.5).all())  # phi < 1: half a step of the line
    assert close(Holt().fit(data.select(torch.tensor([0]))).forecast(24).point[0], line[48:])
    assert close(Theta().fit(Ragged.of([0 * t + 3])).forecast(4).point, [[3.0] * 4])


def test_too_few_points_have_the_errors_of_the_last_value():
    data = Ragged.of([[1.0, 3.0], [1.0, 3.0, 6.0], [4.0]])
    law = Holt().fit(data).forecast(1)
    assert close(law.scale[:, 0], [2.0, math.sqrt((4 + 9) / 2), 0.0])
    assert close(law.point[0], [3.0])


def test_a_season_is_learned_where_there_is_more_than_one():
    die = torch.Generator().manual_seed(0)
    y = torch.randn(40, generator=die).double() + 8 * torch.sin(torch.arange(40) * math.pi / 4)
    fitted = HoltWinters(seasonal=False).fit(Ragged.of([y, y[:8], y[:9]]), 8)
    assert fitted.info["gamma"][0] > 0 and fitted.info["gamma"][1] == 0
    assert fitted.transform is None and fitted.recursions.phi.shape == (3, 9)


def test_what_can_not_be():
    with pytest.raises(ValueError, match="theta is 0"):
        Theta(theta=0.5)
    with pytest.raises(ValueError, match="no transform 'sqrt'"):
        SES(transform="sqrt")  # type: ignore[arg-type]
    assert issubclass(Theta, Smoothing)


@pytest.mark.reference
def test_statsmodels_finds_no_fewer_squares():
    holtwinters = pytest.importorskip("statsmodels.tsa.holtwinters")
    for y in (OIL, AIRLINE, np.diff(AIRLINE)):
        theirs = holtwinters.SimpleExpSmoothing(y, initialization_method="estimated").fit()
        fitted = SES(seasonal=False).fit(Ragged.of([y]))
        squares = float(fitted.recursions.sigma2 * fitted.scale**2) * (len(y) - 2)
        if theirs.params["smoothing_level"] > 0.05:
            assert squares <= theirs.sse * (1 + tolerances.REFERENCE64)


def test_a_start_that_grows_instead_of_fading_is_no_candidate():
    """Sixty days of hours that wander: gains whose errors feed themselves fit nothing."""
    dice = torch.Generator().manual_seed(0)
    t = torch.arange(24 * 60, dtype=torch.float64)
    series = []
    for _ in range(6):
        steps = torch.randn(2, len(t), generator=dice, dtype=torch.float64)
        series.append(50 + 10 * torch.sin(t * 0.2617993878) + 0.6 * steps[0].cumsum(0) + steps[1])
    for model in (HoltWinters(), HoltWinters(transform="box-cox")):
        point = model.fit(Ragged.of(series), 24).forecast(48).point
        assert float(point.abs().max()) < 200
