"""Vector autoregressions: beside statsmodels, orders, the guard, paths, and bad systems."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from chainrule.core.noise import Noise
from chainrule.series import var
from chainrule.series.ar import AR
from chainrule.series.batch import Ragged
from chainrule.series.var import VAR
from chainrule.series.var_fitted import VARFitted
from tests.laws import tolerances
from tests.unit.series_examples import AIRLINE

PAIR = [AIRLINE[:24], AIRLINE[24:]]  # 1949 and 1950 beside 1951 and 1952


def reals(x) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def close(a: torch.Tensor, b: torch.Tensor, rtol: float = tolerances.FLOAT64) -> bool:
    return torch.allclose(a, b, rtol=rtol, atol=0)


def near(a: torch.Tensor, b: torch.Tensor, rtol: float = tolerances.FLOAT64) -> bool:
    return float((a - b).abs().max()) <= rtol * float(b.abs().max())


def system(size: int, count: int, seed: int = 0) -> torch.Tensor:
    """A stable VAR(2) [K, T] with shocks that go together."""
    die = torch.Generator().manual_seed(seed)
    A = torch.randn(2, size, size, generator=die, dtype=torch.float64)
    A = A * reals([0.5, 0.3])[:, None, None] / torch.linalg.eigvals(A).abs().amax(1)[:, None, None]
    mix = torch.eye(size).double() + 0.5
    e = torch.randn(count + 50, size, generator=die, dtype=torch.float64) @ mix
    y = torch.zeros_like(e)
    for t in range(2, len(y)):
        y[t] = 1 + A[0] @ y[t - 1] + A[1] @ y[t - 2] + e[t]
    return (y[50:] * 10.0 ** torch.arange(size)).mT.contiguous()


def params(fit: VARFitted) -> torch.Tensor:
    """The constants and lags of the series as they came, [G, K, 1 + P K]."""
    unit = fit.scale[:, None, :, None] / fit.scale[:, None, None]
    A = fit.A * unit
    constant = fit.loc - (A.sum(1) @ fit.loc[..., None])[..., 0] + fit.scale * fit.constant
    return torch.cat([constant[..., None], A.transpose(1, 2).flatten(2)], 2)


def test_a_pair_as_statsmodels_fits_it():
    """statsmodels 0.15.0, VAR(PAIR as columns).fit(2, trend="c"): params, sigma_u, forecast and
    forecast_cov(3)[2]."""
    fit = VAR(2).fit(Ragged.of(PAIR))
    law = fit.forecast(3)
    want = [
        [65.31135096478526, 96.13776504053847],
        [-0.016640409515824434, -0.2593064374979832],
        [0.7742304739077858, 0.9885211275254051],
        [-0.6949257118490628, -1.2799405135450888],
        [0.11728112655106186, 0.6199596253232778],
    ]
    assert close(params(fit)[0], reals(want).mT)
    want = [[117.70210154912064, 145.87880439809555], [145.87880439809555, 230.38129972660155]]
    unit = fit.scale[0]
    assert close(fit.sigma[0] * unit * unit[:, None], reals(want))
    want = [
        [154.13322818666973, 212.32779954221309],
        [152.60010268316526, 207.1410379642495],
        [140.93782696399535, 195.68416826744118],
    ]
    assert close(law.point, reals(want).mT)
    want = reals([[293.500895390662, 355.50429306726835], [355.50429306726835, 489.9534506648581]])
    assert law.covariance is not None
    assert close(law.covariance[0, 2], want)
    assert close(law.scale[:, 2] ** 2, want.diagonal())


@pytest.mark.reference
def test_systems_as_statsmodels_fits_them():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from statsmodels.tsa.api import VAR as Peer
    for size, order, count in ((2, 1, 80), (3, 4, 150), (6, 2, 200)):
        y = system(size, count, seed=size)
        peer = Peer(y.mT.numpy()).fit(order, trend="c")
        fit = VAR(order, stable=False).fit(Ragged.of(list(y)))
        law = fit.forecast(8)
        assert near(params(fit)[0], reals(peer.params).mT)
        middle, low, high = peer.forecast_interval(peer.endog[-order:], 8, 0.05)
        assert near(law.point, reals(middle).mT)
        found = law.quantile([0.025, 0.975])
        assert near(found[..., 0], reals(low).mT)
        assert near(found[..., 1], reals(high).mT)
        assert law.covariance is not None
        assert near(law.covariance[0], reals(peer.forecast_cov(8)))
        most = 5
        chosen = Peer(y.mT.numpy()).select_order(most).bic
        assert VAR(max_order=most, criterion="bic").fit(Ragged.of(list(y))).order.tolist() == [
            chosen
        ]


@pytest.mark.parametrize("criterion", ["aicc", "bic"])
def test_the_order_is_that_of_separate_fits(criterion):
    limit, found = 4, []
    lens = (40, 60, 200, 30, 14, 14, 16, 16, 18, 18)  # the last ones are too short for four lags
    systems = [system(2, n, seed) for seed, n in enumerate(lens)]
    systems.append(torch.randn(2, 50, generator=torch.Generator().manual_seed(0)).double())
    for y in systems:
        y = y.numpy()
        scores, most = [], min(limit, (y.shape[1] - 2) // 5)  # two points for each weight
        for p in range(most + 1):
            lags = [y[:, most - i : y.shape[1] - i] for i in range(1, p + 1)]
            x = np.concatenate([np.ones((1, y.shape[1] - most)), *lags]).T
            rest = y[:, most:].T - x @ np.linalg.lstsq(x, y[:, most:].T)[0]
            n, q = x.shape
            fitted = n * np.linalg.slogdet(rest.T @ rest / n)[1]
            count = 2 * q + 3
            small = 2 * count * n / (n - q - 3)
            scores.append(fitted + (small if criterion == "aicc" else 2 * q * np.log(n)))
        found.append(int(np.argmin(scores)))
    model = VAR(max_order=limit, criterion=criterion, size=2)
    fit = model.fit(Ragged.of([s for y in systems for s in y]))
    assert fit.order.tolist() == found
    assert len(set(found)) > 1
    assert fit.info["order"].tolist() == [k for k in found for _ in range(2)]


def test_one_series_is_an_autoregression():
    y = reals(AIRLINE)
    law = VAR(3, stable=False).fit(Ragged.of([y])).forecast(9)
    want = AR(order=3, difference=0, stable=False).fit(Ragged.of([y])).forecast(9)
    assert close(law.point, want.point)
    assert close(law.scale, want.scale)


def test_systems_are_fitted_alone(monkeypatch):
    systems = [system(3, n, seed) for n, seed in ((50, 1), (90, 2), (70, 3))]
    data = Ragged.of([s for y in systems for s in y])
    model = VAR(size=3)
    fit, law = model.fit(data), model.fit(data).forecast(5)
    for g, y in enumerate(systems):
        alone = VAR().fit(Ragged.of(list(y)))
        assert int(alone.order) == int(fit.order[g])
        assert near(alone.forecast(5).point, law.point[3 * g : 3 * g + 3])
        rows = torch.arange(3 * g, 3 * g + 3)
        picked = fit.select(rows)
        assert near(picked.forecast(5).scale, law.scale[rows])
    everyone = torch.zeros(9, dtype=torch.bool)
    everyone[3:] = True
    assert len(fit.select(everyone)) == 6
    for rows in (torch.tensor([0, 1]), torch.tensor([1, 2, 3]), torch.tensor([1, 0, 2])):
        with pytest.raises(ValueError, match="the 3 series of a VAR are selected together"):
            fit.select(rows)
    monkeypatch.setattr(var, "_CHUNK", 1)
    assert near(model.fit(data).forecast(5).point, law.point)


def test_update_is_the_recursion_at_later_points():
    y = system(2, 60)
    for order in (0, 1, 3):
        fit = VAR(order).fit(Ragged.of(list(y[:, :50])))
        after, level, spread = fit.update(Ragged.of(list(y[:, 50:54])))
        one = fit
        for t in range(4):
            law = one.forecast(1)
            assert close(level.view(2, 4)[:, t], law.point[:, 0])
            assert close(spread.view(2, 4)[:, t], law.scale[:, 0])
            one, _, _ = one.update(Ragged.of(list(y[:, 50 + t : 51 + t])))
        assert near(one.forecast(5).point, after.forecast(5).point)
        back = after.restart(Ragged.of(list(y[:, :50])), torch.tensor([4, 4]))
        assert near(back.forecast(5).point, fit.forecast(5).point)
        assert after.seen.tolist() == [54] and back.seen.tolist() == [50]
        begun = fit.restart(Ragged.of(list(y[:, :2])), torch.tensor([48, 48]))
        assert bool((begun.past[:, : max(0, order - 2)] == 0).all())  # the mean
        with pytest.raises(ValueError, match="as many new points for each"):
            fit.update(Ragged.of([[1.0], [1.0, 2.0]]))
    held, _, _ = fit.update(Ragged.of([[], []]))
    assert torch.equal(held.forecast(3).point, fit.forecast(3).point)


def test_paths_have_the_law_of_the_forecast():
    fit = VAR(2).fit(Ragged.of(list(system(3, 150))))
    law, num = fit.forecast(4), 20000
    paths = fit.simulate(4, num, Noise.seeded(7, range(3)))
    assert law.covariance is not None
    assert bool(((paths.mean(1) - law.point).abs() < tolerances.CLOSED_FORM * law.scale).all())
    for h in range(4):
        made = torch.cov(paths[:, :, h] / law.scale[:, None, h])
        want = law.covariance[0, h] / law.scale[:, h] / law.scale[:, None, h]
        assert float((made - want).abs().max()) < 2 * tolerances.CLOSED_FORM
    few = fit.simulate(4, 5, Noise.seeded(7, range(3)))
    assert near(few, paths[:, :5])  # neither the number of paths …
    pair = VAR(2, size=3).fit(Ragged.of([*system(3, 150), *system(3, 150, seed=5)]))
    both = pair.simulate(4, 5, Noise.seeded(7, range(6)))
    assert near(both[:3], few)  # … nor the batch changes one
    later, _, _ = fit.update(Ragged.of([[float(x)] for x in paths[:, 0, 0]]))
    assert near(later.simulate(3, 1, Noise.seeded(7, range(3)))[:, 0], paths[:, 0, 1:])


def test_intervals_cover_what_they_say():
    count, horizon = 300, 4
    systems = [system(2, 200 + horizon, seed=i) for i in range(count)]
    rows = [s[:-horizon] for y in systems for s in y]
    came = torch.stack([s[-horizon:] for y in systems for s in y])
    low, high = (
        VAR(2, size=2).fit(Ragged.of(rows)).forecast(horizon).quantile([0.1, 0.9]).unbind(-1)
    )
    inside = ((low <= came) & (came <= high)).double().mean(0)
    assert bool(((inside - 0.8).abs() < 6 * (0.16 / count) ** 0.5).all())


def test_the_guard_keeps_the_roots_inside():
    t = torch.arange(40, dtype=torch.float64)
    die = torch.Generator().manual_seed(0)
    y = torch.stack([1.15**t, 0.5 * 1.15**t]) + torch.randn(2, 40, generator=die).double()
    data = Ragged.of([*y, *system(2, 40)])
    free, held = (VAR(2, size=2, stable=stable).fit(data) for stable in (False, True))
    roots = [torch.linalg.eigvals(var._companion(f.A)).abs().amax(1) for f in (free, held)]
    assert float(roots[0][0]) > 1 and bool((roots[1] < 1).all())
    assert held.info["radius"].tolist()[0] < 1 and held.info["radius"].tolist()[3] == 1
    assert near(held.forecast(5).point[2:], free.forecast(5).point[2:])
    far = held.forecast(3000)
    assert bool(far.point.isfinite().all() and far.scale.isfinite().all())
    # Constants are those that leave errors of mean zero under the smaller weights.
    x = (y - held.loc[0][:, None]) / held.scale[0][:, None]
    own = x[:, 2:] - held.A[0, 0] @ x[:, 1:-1] - held.A[0, 1] @ x[:, :-2]
    assert close(own.mean(1), held.constant[0])


def test_odd_series_do_no_harm():
    die = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 60, generator=die, dtype=torch.float64)
    flat = torch.full((60,), 7.7, dtype=torch.float64)
    odd = [
        torch.stack([noise[0], flat, noise[0] * 2 + 1]),
        torch.stack([flat, flat, flat]),
        torch.stack([noise[1] * 1e300, noise[2] * 1e-310, noise[3]]),
        torch.stack([noise[1].cumsum(0), noise[1].cumsum(0), noise[2]]),
    ]
    for order in (None, 0, 1, 4):
        fit = VAR(order, size=3).fit(Ragged.of([s for y in odd for s in y]))
        law = fit.forecast(30)
        assert bool(law.quantile([0.025, 0.5, 0.975]).isfinite().all())
        assert law.covariance is not None and bool(law.covariance.isfinite().all())
        assert bool(fit.simulate(30, 2, Noise.seeded(0, range(12))).isfinite().all())
        assert close(law.point[[1, 3, 4, 5]], torch.full((4, 30), 7.7, dtype=torch.float64))
        assert bool((law.scale[[1, 3, 4, 5]] == 0).all())
    assert len(VAR(size=3).fit(Ragged.of([])).forecast(3).point) == 0


def test_what_is_refused():
    y = list(system(4, 30))
    with pytest.raises(ValueError, match="have one length, not 20 to 30 points: cut them"):
        VAR().fit(Ragged.of([y[0], y[1][:20]]))
    with pytest.raises(ValueError, match="4 series of 9 points are too many for a VAR, which"):
        VAR().fit(Ragged.of([s[:9] for s in y]))
    assert VAR().fit(Ragged.of([s[:10] for s in y])).order.tolist() <= [1]
    with pytest.raises(ValueError, match="of 30 points are too many for a VAR, which needs 35"):
        VAR(6).fit(Ragged.of(y))
    with pytest.raises(ValueError, match="4 series are no systems of 3: one is incomplete"):
        VAR(size=3).fit(Ragged.of(y))
    data = replace(Ragged.of(y), known=torch.zeros(120, 1).double())
    with pytest.raises(ValueError, match="a VAR has no regressors"):
        VAR().fit(data)
    with pytest.raises(ValueError, match="a VAR has no regressors"):
        VAR().fit(Ragged.of(y)).forecast(2, torch.zeros(4, 2, 1))
    for given, message in (
        ({"criterion": "aic"}, "no criterion 'aic': aicc or bic"),
        ({"order": -1}, "order is -1: give 0 or more"),
        ({"size": 0}, "size is 0: give 1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            VAR(**given)


@pytest.mark.parametrize("order", [None, 0, 3])
def test_what_is_saved_comes_back(order):
    fit = VAR(order, size=2).fit(Ragged.of([*system(2, 50), *system(2, 60)]))
    held = fit.tensors()
    assert all(len(x) == len(fit) for x in held.values())
    again = VARFitted.from_tensors(held)
    assert torch.equal(again.forecast(6).point, fit.forecast(6).point)
    assert torch.equal(again.forecast(6).scale, fit.forecast(6).scale)
    more = Ragged.of([*system(2, 5), *system(2, 5)])
    assert torch.equal(again.update(more)[1], fit.update(more)[1])
    del held["sigma"]
    with pytest.raises(ValueError, match="not a fitted VAR: 'sigma'"):
        VARFitted.from_tensors(held)
