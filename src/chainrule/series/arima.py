"""ARIMA and seasonal ARIMA of many series at once, by conditional least squares.

Shapes: N series, P lags, Q errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from chainrule.native import _native
from chainrule.series.arima_fit import Task, coefficients, evaluate, fit, last, split
from chainrule.series.arima_orders import choose, product
from chainrule.series.arima_scaled import scaled
from chainrule.series.batch import Model, Ragged, Recursions
from chainrule.series.differencing import expand, ndiffs, nsdiffs
from chainrule.series.recursion import LinearFitted
from chainrule.series.transform import Transform

_DIFFERENCES = 2  # at most, by test
_MOST = (5, 5, 2, 2)  # of p, q, P, Q that the search tries
_LONG_SEASON = 24  # beyond it the search tries one seasonal lag of either kind
_FEW = 3  # points that have no AICc once their mean is a parameter
_FREE = 2  # points beyond the parameters that a fit needs


@dataclass(frozen=True)
class ARIMA(Model):
    """phi(B) Phi(B^m) (w_t - mean) = theta(B) Theta(B^m) e_t of the differenced series w.

    The first d + m D + p + m P values are conditioned on and earlier errors are zero, as in R's
    ``arima(method="CSS")``; roots stay outside the unit circle. A series too short for its orders
    gets lower ones, in the end its mean or its last value. The variance of an error is that of a
    step ahead, where the K parameters were estimated from n points: Σ e² / (n - K) · (n + K) / n
    (Akaike 1969, "Fitting autoregressive models for prediction").

    Args:
        order: (p, d, q); None: chosen for every series, d by KPSS, p and q by AICc.
        seasonal: (P, D, Q); None: chosen, D by the season's strength. Without a season: none.
        constant: the mean of w; there is none where d + D is 2 or more. None: chosen by AICc, or
            with both orders given only where nothing is differenced, as in R.
        transform: "log", or "box-cox" with Guerrero's lambda.
    """

    order: tuple[int, int, int] | None = None
    seasonal: tuple[int, int, int] | None = None
    constant: bool | None = None
    transform: Literal["log", "box-cox"] | None = None

    def __post_init__(self) -> None:
        for name in ("order", "seasonal"):
            given = getattr(self, name)
            if given is not None and (len(given) != 3 or min(given) < 0):
                raise ValueError(f"{name} is {given}: give three numbers, 0 or more, or None")
        if self.transform not in (None, "log", "box-cox"):
            raise ValueError(f"no transform {self.transform!r}: log, box-cox or none")

    def fit(self, data: Ragged, season: int = 1) -> LinearFitted:
        """All series at once. ``info`` holds mean, p, d, q, P, D and Q. Raises ValueError for
        regressors: AR takes them."""
        if data.known is not None and data.known.shape[1]:
            raise ValueError("ARIMA takes no regressors: leave them out, or use the model ar")
        bent = None
        if self.transform is not None:
            bent = Transform.fit(data, season, 0.0 if self.transform == "log" else "guerrero")
        z = data if bent is None else bent.forward(data)
        orders = self._orders(z, season)
        found = _estimated(z, orders, season)
        names = ("mean", "p", "q", "P", "Q", "d", "D")
        info = {name: orders[:, i].clone() for i, name in enumerate(names)}
        return LinearFitted(*found, data.lens, bent, info=info)

    def _orders(self, z: Ragged, season: int) -> Tensor:
        """int64 [N, 7] on the host: mean, p, q, P, Q, d, D."""
        lens, none = z.lens, torch.zeros(len(z), dtype=torch.int64)
        seasonal = self.seasonal if season > 1 else (0, 0, 0)
        D = nsdiffs(z, season) if seasonal is None else none + seasonal[1]
        D = torch.minimum(D, (lens - 1).clamp_min(0) // season)
        if self.order is None:
            d = ndiffs(z, _DIFFERENCES, D, season)
        else:
            d = none + self.order[1]
        d = torch.minimum(d, (lens - D * season - 1).clamp_min(0))
        least, most = [0, 0, 0, 0], list(_MOST)
        if season > _LONG_SEASON:
            most[2:] = 1, 1
        for at, given in ((0, self.order), (2, seasonal)):
            if given is not None:
                least[at : at + 2] = most[at : at + 2] = given[0], given[2]
        constant, mean = self.constant, (d + D < 2).long()
        if constant is None and least == most:
            mean = (d + D == 0).long()
        if constant is False:
            mean = none
        if least == most:
            orders = torch.cat([mean[:, None], none[:, None] + torch.tensor(least)], 1)
        else:
            few = (d + D == 0) & (lens <= _FEW)  # AICc would take 0 for their mean
            lowest = mean if constant else torch.where(few, mean, none)
            orders = _searched(z, d, D, season, lowest, mean, least, most)
        return _feasible(torch.cat([orders, d[:, None], D[:, None]], 1), lens, season)


def _feasible(orders: Tensor, lens: Tensor, season: int) -> Tensor:
    """Orders [N, 7] that leave a series points beyond its parameters: seasonal lags go first,
    then the longer of the others, then a drift."""
    orders = orders.clone()
    while True:
        mean, p, q, P, Q, d, D = orders.unbind(1)
        lags = p + q + P + Q
        left = lens - d - season * D - p - season * P
        drift = torch.where(d + D > 0, mean, 0)
        short = (lags + drift > 0) & (left < lags + mean + _FREE)
        if not bool(short.any()):
            return orders
        other = torch.where((q > 0) & (q >= p), 2, (p > 0).long())
        column = torch.where(P > 0, 3, torch.where(Q > 0, 4, other))
        orders.scatter_add_(1, column[:, None], -short.long()[:, None])


def _searched(
    z: Ragged,
    d: Tensor,
    D: Tensor,
    season: int,
    lowest: Tensor,
    highest: Tensor,
    least: list[int],
    most: list[int],
) -> Tensor:
    """int64 [N, 5]; a mean is tried between ``lowest`` and ``highest`` [N], lags likewise."""
    if _native is not None and z.values.device.type == "cpu":
        out = torch.empty(len(z), 5, dtype=torch.int64)
        ends = torch.tensor(least), torch.tensor(most)
        means = torch.where(lowest == highest, lowest, 2)
        given = [x.contiguous().numpy() for x in (z.values, z.begin, z.end, d, D, means)]
        _native.chainrule_arima_orders(
            *given, season, *[x.numpy() for x in ends], out.numpy(), torch.get_num_threads()
        )
        return out
    at = scaled(z, d, D, season, d + D > 0)
    bounds = [
        torch.cat([mean[:, None], torch.tensor(of).expand(len(z), 4)], 1).to(at.raw.device)
        for mean, of in ((lowest, least), (highest, most))
    ]
    task = Task(at.centred, at.begin, bounds[0], season, (0, 0, 0, 0))
    flat = torch.where(bounds[1][:, 0] > 0, at.flat, at.still)
    return choose(task, at.raw, flat, *bounds).cpu()


def _estimated(z: Ragged, orders: Tensor, season: int) -> tuple[Recursions, Tensor, Tensor]:
    """The recursions, and the loc and scale [N] of their units."""
    _, p, q, P, Q, d, D = orders.unbind(1)
    longest = [p + d + season * (P + D), q + season * Q, *orders[:, 1:5].unbind(1)]
    reach, memory, *most = [int(x.max()) if len(z) else 0 for x in longest]
    native = _native is not None and z.values.device.type == "cpu"
    run = _fit_natively if native else _fit_batched
    coefs, found, past, errors = run(z, orders, season, most, reach, memory)
    phi, theta, Phi, Theta = split(coefs, most)
    lags, memories = product(phi, Phi, season, -1), product(theta, Theta, season, 1)
    squares, count, loc, scale = found.unbind(1)
    used = orders[:, :5].sum(1).to(count.device)
    variance = squares / (count - used).clamp_min(1)
    recursions = Recursions(
        coefs[:, 0] * (1 - lags.sum(1)),
        expand(lags, d, D, season)[:, :reach].contiguous(),
        memories[:, :memory].contiguous(),
        coefs.new_zeros(len(z), 0),
        variance * (count + used) / count.clamp_min(1),
        past,
        errors,
    )
    return recursions, loc, scale


def _fit_natively(
    z: Ragged, orders: Tensor, season: int, most: list[int], reach: int, memory: int
) -> list[Tensor]:
    """coefs [N, 1 + sum(most)], found [N, 4] (sum of squares, points in it, loc, scale), past
    [N, reach] and errors [N, memory]."""
    assert _native is not None
    widths = 1 + sum(most), 4, reach, memory
    out = [z.values.new_zeros(len(z), width) for width in widths]
    given = [x.contiguous().numpy() for x in (z.values, z.begin, z.end, orders)]
    _native.chainrule_arima_fit(
        *given,
        season,
        torch.tensor(most).numpy(),
        *[x.numpy() for x in out],
        torch.get_num_threads(),
    )
    return out


def _fit_batched(
    z: Ragged, orders: Tensor, season: int, most: list[int], reach: int, memory: int
) -> list[Tensor]:
    """The same in torch."""
    mean, d, D = orders[:, 0], orders[:, 5], orders[:, 6]
    at = scaled(z, d, D, season, mean + d + D > 0)
    there = orders[:, :5].to(at.raw.device)
    y = torch.where(there[:, 0] > 0, at.centred, at.raw)
    task = Task(y, at.begin, there, season, most)
    flat = torch.where(there[:, 0] > 0, at.flat, at.still)
    rows = (~flat & (task.first < len(y))).nonzero()[:, 0]
    coefs = y.new_zeros(len(z), 1 + sum(most))
    found = torch.stack([at.loc * 0, (len(y) - task.first).clamp_min(0), at.loc, at.scale], 1)
    past = last(at.x, reach)
    errors = y.new_zeros(len(z), memory)
    if len(rows):
        part = task.select(rows)
        point, found[rows, 0] = fit(part)
        errors[rows] = last(evaluate(part, point).e.T, memory)
        coefs[rows] = coefficients(point, most)
    coefs[:, 0] = torch.where(there[:, 0] > 0, coefs[:, 0] + at.level, 0.0)
    return [coefs, found, past, errors]
