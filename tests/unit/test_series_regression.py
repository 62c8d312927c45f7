"""Regression on lags: beside plain least squares and AR, and the four strategies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from chainrule.native import _native
from chainrule.series import differencing, equations, recursion
from chainrule.series.ar import AR
from chainrule.series.batch import Ragged
from chainrule.series.regression import STRATEGIES, Regression, RegressionFitted
from tests.laws import tolerances
from tests.unit.series_examples import AIRLINE, ragged

built = pytest.mark.skipif(_native is None, reason="the compiled part was not built")
PLAIN = {"difference": 0, "seasonal_difference": 0, "stable": False}
DIRECT = STRATEGIES[1:]
H = 6


def reals(x) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def close(a: torch.Tensor, b: torch.Tensor, rtol: float = tolerances.FLOAT64) -> bool:
    return torch.allclose(a, b, rtol=rtol, atol=0)


def near(a: torch.Tensor, b: torch.Tensor, rtol: float = tolerances.FLOAT64) -> bool:
    """Beside the size of each series' own row."""
    size = b.abs().flatten(1).amax(1).clamp_min(1e-300)
    return bool(((a - b).abs().flatten(1).amax(1) <= rtol * size).all())


def in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (equations, differencing, recursion):
        monkeypatch.setattr(module, "_native", None)


def pairs(y: np.ndarray, lags: tuple[int, ...], h: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows with a constant, and what came h steps after each; origins leave ``last`` steps."""
    origins = np.arange(max(lags) - 1, len(y) - last)
    x = np.stack([np.ones(len(origins)), *[y[origins + 1 - lag] for lag in lags]], 1)
    return x, y[origins + h]


def weights(fit: RegressionFitted) -> torch.Tensor:
    """The constants and lags of direct equations for the series as it came: [N, H, 1 + P]."""
    own, base = fit.correction, fit.base
    assert own is not None
    loc, scale = base.loc[:, None], base.scale[:, None]
    constant = loc * (1 - own.weights.sum(-1)) + scale * own.constant
    return torch.cat([constant[..., None], own.weights], -1)


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=built), False])
def test_recursive_is_an_autoregression(monkeypatch, compiled):
    if not compiled:
        in_torch(monkeypatch)
    data = ragged(6).select(torch.arange(13, 19))  # all long enough for either's lags
    for given in ({}, {"difference": 1}, {"difference": 1, "seasonal_difference": 1}):
        given = {**PLAIN, **given}
        made = Regression(lags=5, **given).fit(data, 6)
        want = AR(order=5, **given).fit(data, 6)
        assert near(made.base.recursions.phi, want.recursions.phi)
        assert near(made.forecast(20).point, want.forecast(20).point)


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=built), False])
@pytest.mark.parametrize("lags", [(1, 2, 3), (1, 12)])
def test_direct_is_least_squares_at_every_step(monkeypatch, compiled, lags):
    if not compiled:
        in_torch(monkeypatch)
    y = np.array(AIRLINE)
    model = Regression(lags, "direct", H, **PLAIN)
    shared = replace(model, strategy="multi-output")
    each, common = (weights(m.fit(Ragged.of([y]), 12))[0] for m in (model, shared))
    for h in range(1, H + 1):
        for found, last in ((each, h), (common, H)):
            want = np.zeros(1 + max(lags))
            want[[0, *lags]] = np.linalg.lstsq(*pairs(y, lags, h, last))[0]
            assert near(found[None, h - 1], reals(want)[None])
    x, _ = pairs(y, lags, 1, H)
    together = np.stack([pairs(y, lags, h, H)[1] for h in range(1, H + 1)], 1)
    together = np.linalg.lstsq(x, together)[0]  # H outputs, one solution
    assert near(common[None, :, [0, *lags]], reals(together.T)[None])


@pytest.mark.reference
def test_direct_as_scikit_learn_fits_it():
    from sklearn.linear_model import LinearRegression, Ridge

    y = np.array(AIRLINE)
    lags = (1, 2, 3, 12)
    for ridge in (0.0, 0.1):
        model = Regression(lags, "direct", H, ridge=ridge, **PLAIN)
        fit = model.fit(Ragged.of([y]), 12)
        size = np.sqrt(np.mean((y - y.mean()) ** 2))
        for h in range(1, H + 1):
            x, target = pairs((y - y.mean()) / size, lags, h, h)
            peer = Ridge(ridge * len(x)) if ridge else LinearRegression()
            peer.fit(x[:, 1:], target)
            want = y.mean() + size * peer.predict(((y - y.mean()) / size)[[-1, -2, -3, -12]][None])
            assert close(fit.forecast(H).point[0, h - 1 : h], reals(want))


def test_ridge_is_the_penalty_on_standardised_windows():
    y = np.array(AIRLINE)
    z, strength = (y - y.mean()) / y.std(), 0.3
    for strategy in ("recursive", "direct"):
        fit = Regression(3, strategy, H, ridge=strength, **PLAIN).fit(Ragged.of([y]))
        x, target = pairs(z, (1, 2, 3), 1, 1)
        rows = np.sqrt(strength * len(x)) * np.eye(4)[1:]
        want = np.linalg.lstsq(np.vstack([x, rows]), np.append(target, np.zeros(3)))[0]
        point = y.mean() + y.std() * (want @ [1, z[-1], z[-2], z[-3]])
        assert close(fit.forecast(1).point[0], reals([point]))


def test_differenced_targets_are_what_differencing_alone_misses():
    y, d = np.array(AIRLINE), np.diff(AIRLINE)
    fit = Regression(3, "direct", H, difference=1, seasonal_difference=0).fit(Ragged.of([y]), 12)
    for h in range(1, H + 1):
        x, _ = pairs(d, (1, 2, 3), h, h)
        want = np.linalg.lstsq(x, y[3 + h :] - y[3:-h])[0]
        step = want @ [1, d[-1], d[-2], d[-3]]
        assert close(fit.forecast(H).point[0, h - 1], reals(y[-1] + step))
    z = y[12:] - y[:-12]
    fit = Regression(2, "direct", H, difference=0, seasonal_difference=1).fit(Ragged.of([y]), 12)
    x, target = pairs(z, (1, 2), 4, 4)
    step = np.linalg.lstsq(x, target)[0] @ [1, z[-1], z[-2]]
    assert close(fit.forecast(H).point[0, 3], reals(y[-9] + step))


@pytest.mark.parametrize("given", [{}, {"difference": 1}, {"pooled": True}])
def test_rectify_goes_from_recursive_to_direct(given):
    """With the same linear features the correction of a linear recursion is the direct forecast
    less the recursive one; a penalty keeps a part of it."""
    given = {"lags": 4, "horizon": H, **PLAIN, **given}
    data = ragged(6).select(torch.arange(13, 19))
    direct = Regression(strategy="direct", **given).fit(data, 6).forecast(H).point
    free = Regression(strategy="rectify", ridge=0.0, **given).fit(data, 6).forecast(H).point
    held = Regression(strategy="rectify", ridge=1e12, **given).fit(data, 6)
    once = Regression(**given).fit(data, 6)
    assert near(free, direct)
    assert not near(direct, once.forecast(H).point, tolerances.CLOSED_FORM / 100)
    # The constants are not shrunk: what is left of the correction is the mean error of each step.
    own = held.correction
    assert own is not None
    assert bool((own.weights.abs() < tolerances.FLOAT64).all())
    part = held.forecast(H).point - once.forecast(H).point
    assert near(part, own.constant * held.base.scale[:, None], tolerances.REFERENCE64)


def test_rectify_stands_between_a_wrong_recursion_and_noisy_equations():
    die = torch.Generator().manual_seed(3)
    e = torch.randn(400, 80, generator=die, dtype=torch.float64)
    errors = {}
    for lag in (1, 4):
        y = torch.zeros_like(e)
        for t in range(4, 80):
            y[:, t] = 0.8 * y[:, t - lag] + e[:, t]
        data, came = Ragged.of(list(y[:, 20:70])), y[:, 70:]
        for strategy in STRATEGIES:
            model = Regression(2 if lag == 4 else 6, strategy, 10, **PLAIN)
            point = model.fit(data).forecast(10).point
            errors[strategy, lag] = float((point - came).square().mean())
    assert errors["rectify", 1] < 0.95 * errors["direct", 1]
    assert errors["rectify", 4] < 0.95 * errors["recursive", 4]


def test_pooled_is_one_regression_over_all_windows():
    die = torch.Generator().manual_seed(0)
    series = [10.0**i * (5 + torch.randn(20 + 5 * i, generator=die).double()) for i in range(5)]
    units = [y / y.square().mean().sqrt() for y in series]  # each in units of its own size
    for strategy, ridge in (("recursive", 0), ("direct", 0), ("multi-output", 0), ("direct", 0.2)):
        model = Regression((1, 3), strategy, 4, pooled=True, ridge=ridge, **PLAIN)
        law = model.fit(Ragged.of(series)).forecast(4)
        for h in (1, 4)[: 1 if strategy == "recursive" else 2]:
            last = 4 if strategy == "multi-output" else h
            parts = [pairs(u.numpy(), (1, 3), h, last) for u in units]
            x, target = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
            rows = np.sqrt(ridge * len(x)) * np.eye(3)[1:]
            x, target = np.vstack([x, rows]), np.append(target, np.zeros(2))
            want = reals(np.linalg.lstsq(x, target)[0])
            for i, u in enumerate(units):
                point = (want[0] + want[1] * u[-1] + want[2] * u[-3]) * (series[i] / u)[0]
                assert close(law.point[i, h - 1], point)


def test_a_pool_is_differenced_alike():
    rows = torch.arange(10, 19)
    fit = Regression(2, pooled=True).fit(ragged(6).select(rows), 6)
    own = Regression(2).fit(ragged(6).select(rows), 6).base.info
    for name in ("difference", "seasonal_difference"):
        assert fit.base.info[name].unique().tolist() == [int(own[name].mode().values)]
    assert len(own["difference"].unique()) > 1


def test_a_short_series_takes_part_in_a_pool_by_its_own_equation():
    series = [torch.randn(40, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    data = Ragged.of([*series, series[0][:5]])
    for strategy in STRATEGIES:
        model = Regression(6, strategy, 3, pooled=True, **PLAIN)
        fit = model.fit(data)
        alone = replace(model, pooled=False).fit(data.select(torch.tensor([4])))
        assert fit.base.info["lags"].tolist()[-1] < 6
        assert near(fit.forecast(3).point[4:], alone.forecast(3).point)


@built
@pytest.mark.parametrize("known", [0, 2])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_torch_fits_the_same(monkeypatch, strategy, known):
    data = ragged(6, known)
    future = torch.ones(len(data), H, known, dtype=torch.float64) if known else None
    models = [
        Regression(5, strategy, H, ridge=0.1),
        Regression(5, strategy, H, difference=1, seasonal_difference=0),
        Regression((1, 2, 6), strategy, H, trend=True, seasonal=True, difference=0),
        Regression(4, strategy, H, pooled=True),
    ]
    for model in models:
        with monkeypatch.context() as patch:
            law = model.fit(data, 6).forecast(H, future)
            in_torch(patch)
            other = model.fit(data, 6).forecast(H, future)
        assert near(law.point, other.point)
        assert near(law.scale, other.scale)
        assert bool(law.point.isfinite().all() and law.scale.isfinite().all())


@built
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_neither_the_batch_nor_threads_change_a_bit(strategy):
    data, model = ragged(6), Regression(strategy=strategy, horizon=H)
    whole = model.fit(data, 6)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = model.fit(data, 6)
    finally:
        torch.set_num_threads(before)
    for name, x in whole.tensors().items():
        assert torch.equal(x.nan_to_num(0), again.tensors()[name].nan_to_num(0)), name
    for i in range(len(data)):
        alone = model.fit(data.select(torch.tensor([i])), 6)
        assert near(alone.forecast(H).point, whole.forecast(H).point[i : i + 1])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_regressors_trend_and_season_are_found(strategy):
    die = torch.Generator().manual_seed(1)
    t = torch.arange(80 + H, dtype=torch.float64)
    x = torch.randn(80 + H, 2, generator=die, dtype=torch.float64) + 5
    season = reals([3, -1, 4, 1]).repeat(25)[: 80 + H]
    y = 50 + 0.5 * t + season + x @ reals([2, -3])
    data = Ragged(y[:80], torch.tensor([0]), torch.tensor([80]), x[:80])
    future = x[None, 80:]
    for given in ({"difference": 0}, {"difference": 1}):
        model = Regression(2, strategy, H, trend=True, seasonal=True, ridge=0.0, **given)
        model = replace(model, seasonal_difference=0)
        law = model.fit(data, 4).forecast(H, future)
        assert close(law.point[0], y[80:], tolerances.REFERENCE64)
        assert bool((law.scale < tolerances.REFERENCE64).all())
    with pytest.raises(ValueError, match=r"future regressors are none, not \[1, 6, 2\]"):
        model.fit(data, 4).forecast(H)


def test_direct_equations_read_their_own_steps_regressors():
    die = torch.Generator().manual_seed(2)
    y = torch.randn(60, generator=die, dtype=torch.float64)
    x = torch.randn(64, 1, generator=die, dtype=torch.float64)
    data = Ragged(y, torch.tensor([0]), torch.tensor([60]), x[:60])
    for strategy in ("direct", "multi-output"):
        law = Regression(2, strategy, 4, **PLAIN).fit(data).forecast(4, x[None, 60:])
        for h in range(1, 5):
            windows, target = pairs(y.numpy(), (1, 2), h, h if strategy == "direct" else 4)
            beside = x[1 + h :, 0].numpy()[: len(windows)]
            w = np.linalg.lstsq(np.column_stack([windows, beside]), target)[0]
            want = w @ [1, y[59], y[58], x[59 + h, 0]]
            assert close(law.point[0, h - 1], reals(want))


def test_deviations_are_those_of_the_residuals():
    """By degrees of freedom, and wider as weights are uncertain; of windows that overlap h steps
    a part of 1 / h counts."""
    y = np.array(AIRLINE)
    law = Regression(3, "direct", H, **PLAIN).fit(Ragged.of([y])).forecast(H)
    for h in range(1, H + 1):
        x, target = pairs(y, (1, 2, 3), h, h)
        rest = target - x @ np.linalg.lstsq(x, target)[0]
        want = rest @ rest / (len(x) - 4) * (1 + 4 * h / len(x))
        assert close(law.scale[0, h - 1] ** 2, reals(want))
    series = [np.array(AIRLINE[:20]), 5 * np.array(AIRLINE[10:])]
    law = Regression(2, "direct", H, pooled=True, **PLAIN).fit(Ragged.of(series)).forecast(H)
    units = [s / np.sqrt(np.mean(s**2)) for s in series]
    sets = [pairs(u, (1, 2), 3, 3) for u in units]
    w = np.linalg.lstsq(np.concatenate([s[0] for s in sets]), np.concatenate([s[1] for s in sets]))
    rest = [target - x @ w[0] for x, target in sets]
    mean = sum(r @ r for r in rest) / sum(len(r) for r in rest)
    for i, r in enumerate(rest):
        want = (r @ r + mean) / (len(r) + 1) * (series[i] / units[i])[0] ** 2
        assert close(law.scale[i, 2] ** 2, reals(want))
