"""ARIMA: its objective, its optimum, its orders, and that both paths give the same numbers.

Shapes: N series, T points, P lags, Q errors.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from chainrule.series import arima, arima_fit, arima_orders
from chainrule.series.arima import ARIMA
from chainrule.series.batch import Ragged
from chainrule.series.recursion import LinearFitted
from tests.laws.tolerances import CLOSED_FORM, EXACT, FALSE_ALARM, FLOAT64, REFERENCE32, REFERENCE64

native_only = pytest.mark.skipif(arima._native is None, reason="installed without a compiler")
NO = (0, 0, 0)
# Luteinizing hormone, 48 samples (Diggle 1990, table A.1; `lh` in R's datasets).
LH = [2.4, 2.4, 2.4, 2.2, 2.1, 1.5, 2.3, 2.3, 2.5, 2.0, 1.9, 1.7, 2.2, 1.8, 3.2, 3.2, 2.7, 2.2]
LH += [2.2, 1.9, 1.9, 1.8, 2.7, 3.0, 2.3, 2.0, 2.0, 2.9, 2.9, 2.7, 2.7, 2.3, 2.6, 2.4, 1.8, 1.7]
LH += [1.5, 1.4, 2.1, 3.3, 3.5, 3.5, 3.1, 2.6, 2.1, 3.4, 3.0, 2.9]
# Airline passengers 1949-1960, in thousands (Box & Jenkins 1976, series G; `AirPassengers` in R).
AIR = [112, 118, 132, 129, 121, 135, 148, 148, 136, 119, 104, 118, 115, 126, 141, 135, 125, 149]
AIR += [170, 170, 158, 133, 114, 140, 145, 150, 178, 163, 172, 178, 199, 199, 184, 162, 146, 166]
AIR += [171, 180, 193, 181, 183, 218, 230, 242, 209, 191, 172, 194, 196, 196, 236, 235, 229, 243]
AIR += [264, 272, 237, 211, 180, 201, 204, 188, 235, 227, 234, 264, 302, 293, 259, 229, 203, 229]
AIR += [242, 233, 267, 269, 270, 315, 364, 347, 312, 274, 237, 278, 284, 277, 317, 313, 318, 374]
AIR += [413, 405, 355, 306, 271, 306, 315, 301, 356, 348, 355, 422, 465, 467, 404, 347, 305, 336]
AIR += [340, 318, 362, 348, 363, 435, 491, 505, 404, 359, 310, 337, 360, 342, 406, 396, 420, 472]
AIR += [548, 559, 463, 407, 362, 405, 417, 391, 419, 461, 472, 535, 622, 606, 508, 461, 390, 432]


def made(seed: int, count: int, phi: Any = (), theta: Any = (), d: int = 0) -> np.ndarray:
    """A simulated ARIMA."""
    e = np.random.default_rng(seed).normal(size=count + 200)
    x = np.zeros_like(e)
    for t in range(len(e)):
        x[t] = e[t] + sum(a * x[t - i - 1] for i, a in enumerate(phi) if t > i)
        x[t] += sum(b * e[t - j - 1] for j, b in enumerate(theta) if t > j)
    x = x[200:]
    for _ in range(d):
        x = x.cumsum()
    return x


def several() -> Ragged:
    """Series of all kinds and lengths."""
    waves = 10 * np.sin(np.arange(300) * np.pi / 6)
    series = [
        made(1, 120, [0.6], [0.3], 1),
        made(2, 90, [1.2, -0.5], [], 0) + 50,
        made(3, 75, [], [0.5, -0.3], 1) + waves[:75],
        made(4, 60, [0.4], [-0.7], 0) + np.arange(60),
        made(5, 37, [-0.5], [], 1),
        made(6, 100, [0.3], [0.4], 1) * 1e6 + 1e9,
        made(7, 48, [0.8], [], 0) * 1e-5,
        np.log(np.array(AIR, float)),
    ]
    return Ragged.of([torch.tensor(x) for x in series])


def one(y: Any, model: ARIMA, season: int = 1) -> LinearFitted:
    return model.fit(Ragged.of([torch.as_tensor(np.asarray(y, float))]), season)


def errors(fitted: LinearFitted, y: np.ndarray, season: int, phi: Any, theta: Any) -> np.ndarray:
    """As R's ``arima(method = "CSS")`` defines them: zero before d + m D + p + m P."""
    info, at = {k: int(v[0]) for k, v in fitted.info.items()}, fitted.recursions
    x = (y - float(fitted.loc[0])) / float(fitted.scale[0])
    first = info["d"] + info["p"] + season * (info["D"] + info["P"])
    e = np.zeros_like(x)
    for t in range(first, len(x)):
        e[t] = x[t] - float(at.constant[0])
        e[t] -= sum(phi[i] * x[t - i - 1] for i in range(min(len(phi), t)))
        e[t] -= sum(theta[j] * e[t - j - 1] for j in range(min(len(theta), t)))
    return e[first:]


def test_the_numbers_of_r():
    """R 4.3's help page of ``arima``: arima(lh, order = c(3,0,0), method = "CSS")."""
    fit = one(LH, ARIMA((3, 0, 0), NO))
    assert [round(float(a), 4) for a in fit.recursions.phi[0]] == [0.6578, -0.0658, -0.2348]
    whole = fit.recursions.constant * fit.scale + fit.loc * (1 - fit.recursions.phi.sum(1))
    assert round(float(whole[0] / (1 - fit.recursions.phi.sum())), 4) == 2.3918
    n, k = 45, 4
    variance = float(fit.recursions.sigma2[0] * fit.scale[0] ** 2) * n / (n + k) * (n - k) / n
    assert round(variance, 4) == 0.1905


@pytest.mark.parametrize(
    ("y", "order", "seasonal", "season", "theta", "variance"),
    [  # statsforecast 2.1.1, arima(method="CSS", tol=1e-14)
        (LH, (1, 0, 1), NO, 1, [0.20035534965125035], 0.1963639895616385),
        (AIR, (1, 1, 1), NO, 1, [0.8751666225121546], 968.7178048315382),
        (
            np.log(AIR),
            (0, 1, 1),
            (0, 1, 1),
            12,
            [-0.37716243363541446, *[0] * 10, -0.5723789738132621, 0.21587984532],
            0.0013887499030364838,
        ),
    ],
)
def test_the_numbers_of_statsforecast(y, order, seasonal, season, theta, variance):
    fit = one(y, ARIMA(order, seasonal), season)
    torch.testing.assert_close(
        fit.recursions.theta[0],
        torch.tensor(theta, dtype=torch.float64),
        rtol=REFERENCE32,
        atol=REFERENCE32,
    )
    k = sum(int(fit.info[name]) for name in ("mean", "p", "q", "P", "Q"))
    n = len(y) - order[0] - order[1] - season * (seasonal[0] + seasonal[1])
    ours = float(fit.recursions.sigma2[0] * fit.scale[0] ** 2) * n / (n + k) * (n - k) / n
    assert ours == pytest.approx(variance, rel=REFERENCE64)


@pytest.mark.parametrize(
    ("order", "seasonal"),
    [((1, 1, 1), NO), ((2, 0, 1), NO), ((0, 1, 1), (0, 1, 1)), ((1, 0, 1), (1, 1, 1))],
)
def test_errors_and_variance_of_the_definition(order, seasonal):
    """The last errors and the variance are the definition's."""
    y, season = np.log(np.array(AIR, float)), 12
    fit = one(y, ARIMA(order, seasonal), season)
    at, phi, theta = fit.recursions, fit.recursions.phi[0].numpy(), fit.recursions.theta[0].numpy()
    e = errors(fit, y, season, phi, theta)
    held = at.errors[0].numpy()
    assert held == pytest.approx(e[len(e) - len(held) :], rel=FLOAT64, abs=FLOAT64)
    k = sum(int(fit.info[name]) for name in ("mean", "p", "q", "P", "Q"))
    variance = (e @ e) / (len(e) - k) * (len(e) + k) / len(e)
    assert float(at.sigma2[0]) == pytest.approx(variance, rel=FLOAT64)


def test_no_step_nearby_lowers_the_sum():
    y = np.log(np.array(AIR, float))
    fit = one(y, ARIMA((2, 0, 1), NO))
    point = [*fit.recursions.phi[0].numpy(), *fit.recursions.theta[0].numpy()]

    def plain(x: np.ndarray) -> float:
        e = errors(fit, y, 1, x[:2], x[2:])
        return float(e @ e)

    airline = one(y, ARIMA((0, 1, 1), (0, 1, 1)), 12)
    phi, theta = airline.recursions.phi[0].numpy(), airline.recursions.theta[0].numpy()

    def multiplied(x: np.ndarray) -> float:
        lags = np.r_[x[0], np.zeros(10), x[1], x[0] * x[1]]
        return float((errors(airline, y, 12, phi, lags) ** 2).sum())

    for total, best in ((plain, np.array(point)), (multiplied, theta[[0, 11]])):
        for i in range(len(best)):
            for step in (-1e-4, 1e-4):
                assert total(best + step * (np.arange(len(best)) == i)) > total(best)


def assert_same(ours: LinearFitted, theirs: LinearFitted) -> None:
    other = theirs.tensors()
    for name, x in ours.tensors().items():
        torch.testing.assert_close(x, other[name], rtol=FLOAT64, atol=FLOAT64, equal_nan=True)


MODELS = [
    (ARIMA((1, 1, 1), NO), 1),
    (ARIMA((2, 1, 2), NO), 1),
    (ARIMA((3, 0, 1), NO), 1),
    (ARIMA((0, 1, 1), (0, 1, 1)), 12),
    (ARIMA((1, 0, 1), (1, 0, 1), constant=False), 12),
    (ARIMA((0, 1, 0), NO, constant=True), 1),
    (ARIMA((1, 1, 0), NO, transform="box-cox"), 1),
]


@native_only
@pytest.mark.parametrize(("model", "season"), MODELS)
def test_torch_gives_the_same_numbers(model, season, monkeypatch):
    ours = model.fit(several(), season)
    monkeypatch.setattr(arima, "_native", None)
    theirs = model.fit(several(), season)
    assert_same(ours, theirs)


@native_only
def test_torch_chooses_the_same_orders(monkeypatch):
    data = several().select(torch.tensor([0, 2, 4, 5])).last(40)
    ours = ARIMA().fit(data, 4)
    monkeypatch.setattr(arima, "_native", None)
    assert_same(ours, ARIMA().fit(data, 4))


@native_only
def test_neither_batch_nor_threads_change_a_bit():
    data = several()
    whole = ARIMA().fit(data, 4).forecast(6).point
    for i in range(len(data)):
        alone = ARIMA().fit(data.select(torch.tensor([i])), 4).forecast(6).point
        torch.testing.assert_close(alone[0], whole[i], rtol=EXACT, atol=EXACT)
    many = data.select(torch.arange(200) % len(data))
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        threaded = ARIMA((1, 1, 1), NO).fit(many, 4).forecast(6).point
    finally:
        torch.set_num_threads(threads)
    again = ARIMA((1, 1, 1), NO).fit(many, 4).forecast(6).point
    torch.testing.assert_close(threaded, again, rtol=EXACT, atol=EXACT)


def test_the_likelihood_is_that_of_the_covariance_matrix():
    y = made(9, 50, [0.5], [0.4])
    for phi, theta in (
        ([0.7], [0.3]),
        ([0.4, -0.6], []),
        ([], [0.5, 0.2, -0.3]),
        ([0.9], [0.5] * 2),
    ):
        weights = [1.0]
        for k in range(1, 2000):
            past = sum(a * weights[k - i - 1] for i, a in enumerate(phi) if k > i)
            weights.append(past + (theta[k - 1] if k <= len(theta) else 0.0))
        w = np.array(weights)
        gamma = [w[: len(w) - k] @ w[k:] for k in range(len(y))]
        place = np.arange(len(y))
        matrix = np.array(gamma)[np.abs(place[:, None] - place)]
        scaled = (y - 0.2) @ np.linalg.solve(matrix, y - 0.2)
        expected = len(y) * np.log(scaled / len(y)) + np.linalg.slogdet(matrix)[1]
        zero = torch.zeros(1, dtype=torch.int64)
        task = arima_fit.Task(
            torch.tensor(y)[:, None], zero, zero[:, None].expand(1, 5), 1, (0, 0, 0, 0)
        )
        mean, *lags = (torch.tensor([x], dtype=torch.float64) for x in (0.2, phi, theta))
        ours = arima_orders.likelihood(task, mean, *lags)
        assert float(ours[0]) == pytest.approx(expected, rel=FLOAT64)


def test_no_neighbour_of_the_chosen_orders_is_better():
    data = Ragged.of([torch.tensor(made(s, 80, [0.7], [0.5])) for s in range(6)])
    none = torch.zeros(6, dtype=torch.int64)
    best = arima._searched(data, none, none, 1, none, none + 1, [0] * 4, [5, 5, 0, 0])
    y = torch.stack([data.values[a:b] for a, b in zip(data.begin, data.end, strict=True)], 1)
    level = y.mean(0)
    task = arima_fit.Task(y - level, none, best, 1, (0, 0, 0, 0))
    lowest = arima_orders.criterion(task, y)
    assert lowest.isfinite().all()
    for move in arima_orders._MOVES:
        near = best + torch.tensor(move)
        near[:, 0] %= 2
        rows = ((near >= 0) & (near <= torch.tensor([1, 5, 5, 0, 0]))).all(1)
        value = arima_orders.criterion(replace(task.select(rows), orders=near[rows]), y[:, rows])
        assert (value >= lowest[rows] - REFERENCE64 * lowest[rows].abs()).all()


def test_a_long_series_gives_its_parameters_back():
    """Within the limits of Box, Jenkins and Reinsel (2015), section 7.2.6, for ARMA(1,1)."""
    phi, theta, n = 0.6, 0.4, 5000
    fit = one(made(11, n, [phi], [theta], 1), ARIMA((1, 1, 1), NO))
    reach = float(torch.special.ndtri(torch.tensor(1 - FALSE_ALARM / 2, dtype=torch.float64)))
    unit = reach * (1 + phi * theta) / (phi + theta) / n**0.5
    assert abs(float(fit.recursions.phi[0, 0]) - 1 - phi) < unit * (1 - phi**2) ** 0.5
    assert abs(float(fit.recursions.theta[0, 0]) - theta) < unit * (1 - theta**2) ** 0.5
    assert abs(float(fit.spread[0]) - 1) < reach / (2 * n) ** 0.5


def test_what_has_a_closed_form():
    y = np.array([3.0, 5.0, 4.0, 8.0, 9.0, 7.0, 11.0, 15.0])
    steps = np.arange(1, 5)
    cases = [
        (ARIMA(NO, NO), 1, np.full(4, y.mean())),
        (ARIMA(NO, NO, constant=False), 1, np.zeros(4)),
        (ARIMA((0, 1, 0), NO), 1, np.full(4, y[-1])),
        (ARIMA((0, 1, 0), NO, constant=True), 1, y[-1] + steps * (y[-1] - y[0]) / 7),
        (ARIMA((0, 2, 0), NO, constant=True), 1, y[-1] + steps * (y[-1] - y[-2])),
        (ARIMA(NO, (0, 1, 0)), 4, y[-4:]),
        (ARIMA(NO, (0, 1, 0)), 1, np.full(4, y.mean())),
    ]
    for model, season, expected in cases:
        point = one(y, model, season).forecast(4).point[0].numpy()
        assert point == pytest.approx(expected, rel=FLOAT64, abs=FLOAT64)


@pytest.mark.parametrize("native", [pytest.param(True, marks=native_only), False])
def test_exact_pasts_go_on(native, monkeypatch):
    if not native:
        monkeypatch.setattr(arima, "_native", None)
    t, ahead = np.arange(40.0), np.arange(40.0, 43.0)
    cases = [
        (t * 0 + 5, ARIMA(seasonal=NO), ahead * 0 + 5, REFERENCE64),
        (3 * t + 1, ARIMA(seasonal=NO), 3 * ahead + 1, REFERENCE64),
        (3 * t + 1, ARIMA((1, 1, 1), NO), 3 * ahead + 1, REFERENCE32),
        (t * 0 + 5, ARIMA((1, 0, 0), NO, constant=False), ahead * 0 + 5, CLOSED_FORM),
    ]
    for y, model, expected, near in cases:
        point = one(y, model).forecast(3).point[0].numpy()
        assert point == pytest.approx(expected, rel=near)


def test_ar_is_least_squares():
    y = made(12, 60, [0.5, -0.3]) + 4
    fit = one(y, ARIMA((2, 0, 0), NO))
    x = np.stack([np.ones(58), y[1:-1], y[:-2]], 1)
    best = np.linalg.lstsq(x, y[2:], rcond=None)[0]
    assert fit.recursions.phi[0].numpy() == pytest.approx(best[1:], rel=REFERENCE64)


def test_roots_stay_outside_the_circle():
    """Of series that ask for a root on it, or inside: differenced too often, or explosive."""
    series = [np.diff(made(s, 70)) for s in range(20)] + [1.1 ** np.arange(50) + made(3, 50)]
    fit = ARIMA((2, 0, 2), NO).fit(Ragged.of([torch.tensor(x) for x in series]))
    for sign, lags in ((-1, fit.recursions.phi), (1, fit.recursions.theta)):
        for row in lags.numpy():
            roots = np.roots(np.r_[1.0, sign * row][::-1])
            assert np.abs(roots).min() > 1


def test_too_short_for_the_orders():
    model = ARIMA((3, 1, 3), (1, 1, 1))
    data = Ragged.of([torch.arange(n, dtype=torch.float64) ** 1.5 for n in range(40)])
    info = model.fit(data, 12).info
    used = sum(info[k] for k in ("mean", "p", "q", "P", "Q"))
    left = data.lens - info["d"] - info["p"] - 12 * (info["D"] + info["P"])
    assert (left[1:] >= 1).all()
    assert (left - used >= 2)[used > 1].all()
    assert [int(info[k][25]) for k in "pqPQD"] == [3, 3, 0, 1, 1]
    assert [int(info[k][39]) for k in "pqPQD"] == [3, 3, 1, 1, 1]


def test_what_is_given_is_kept():
    data = several()
    whole = ARIMA((2, 1, 1), constant=False).fit(data, 4).info
    assert (whole["p"] == 2).all() and (whole["d"] == 1).all() and (whole["q"] == 1).all()
    assert (whole["mean"] == 0).all() and len(set(whole["Q"].tolist())) > 1
    part = ARIMA(seasonal=(0, 1, 1), constant=True).fit(data, 4).info
    assert (part["P"] == 0).all() and (part["D"] == 1).all() and (part["Q"] == 1).all()
    assert torch.equal(part["mean"], (part["d"] == 0).long()) and len(set(part["q"].tolist())) > 1


def odd() -> list[torch.Tensor]:
    """What never makes a model raise."""
    t = torch.arange(60, dtype=torch.float64)
    noise = torch.tensor(made(20, 60))
    extremes = torch.tensor([1.7e308, -1.7e308] * 20, dtype=torch.float64)
    spike = torch.zeros(60, dtype=torch.float64)
    spike[40] = 1
    sizes = [noise * 5e306, noise.cumsum(0) * 1e-300, noise.cumsum(0) * 5e-324, noise + 1e15]
    shapes = [t * 0, t * 0 + 5, t, t**2, t % 12, t % 12 + t / 2, 2.0**t, t.sin(), (-1.0) ** t]
    return [*(noise[:n] for n in range(14)), *sizes, *shapes, extremes, spike, 1e6 + 1e-9 * noise]


@pytest.mark.parametrize("native", [pytest.param(True, marks=native_only), False])
@pytest.mark.parametrize(
    "model",
    [ARIMA(), ARIMA((2, 1, 2), (1, 1, 1)), ARIMA((1, 0, 1), NO), ARIMA(transform="log")],
)
def test_never_an_exception_and_never_infinite(model, native, monkeypatch):
    data = Ragged.of(odd())
    if not native:
        monkeypatch.setattr(arima, "_native", None)
        data = data.select(torch.arange(3, len(data), 5)).last(30)
    for season in (1, 12) if native else (4,):
        law = model.fit(data, season).forecast(30)
        assert law.point.isfinite().all()
        assert law.quantile([0.025, 0.975]).isfinite().all()
        assert model.fit(data.select(torch.zeros(0, dtype=torch.int64)), season).forecast(3)


def test_wrong_settings():
    with pytest.raises(ValueError, match="order is"):
        ARIMA((1, -1, 0))
    with pytest.raises(ValueError, match="seasonal is"):
        ARIMA(seasonal=(1, 0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no transform"):
        ARIMA(transform="sqrt")  # type: ignore[arg-type]
    data = several()
    with pytest.raises(ValueError, match="takes no regressors"):
        ARIMA().fit(replace(data, known=data.values[:, None]))


@pytest.mark.reference
def test_beside_statsforecast():
    css = pytest.importorskip("statsforecast.arima")
    data = several()
    fit = ARIMA((1, 1, 1), NO).fit(data)
    for i in range(len(data)):
        y = data.values[data.begin[i] : data.end[i]].numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # their search gives up early
            theirs = css.arima(y, (1, 1, 1), {"order": NO, "period": 1}, method="CSS")["sigma2"]
        n = len(y) - 2
        ours = float(fit.recursions.sigma2[i] * fit.scale[i] ** 2) * n / (n + 2) * (n - 2) / n
        assert ours <= theirs * (1 + REFERENCE64)
