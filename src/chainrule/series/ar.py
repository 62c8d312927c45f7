"""Autoregression: AR(p) of many series, with differences, seasonal lags and regressors.

Shapes: N series, P lags, F regressors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from chainrule.native import _native
from chainrule.series.ar_batched import fit_batched
from chainrule.series.ar_plan import CRITERIA, METHODS, VALIDATED, Found, Plan
from chainrule.series.batch import Model, Ragged, Recursions
from chainrule.series.differencing import expand, ndiffs, nsdiffs, reverts, unexplained
from chainrule.series.recursion import LinearFitted
from chainrule.series.transform import Transform

_DIFFERENCES = 1  # at most, by test: long lags see to the rest better than a second difference


@dataclass(frozen=True)
class AR(Model):
    """z_t = c + Σ phi_i z_{t-i} + x_t·beta + e_t of the (transformed, differenced) series.

    A series too short for its order gets a shorter one, in the end its mean (its last value where
    it is differenced); one with a constant or exactly predictable past gets variance 0. Variances
    count what was estimated: squared errors over rows less coefficients.

    Args:
        order: lags 1 .. order; None: up to ``max_order`` by ``criterion``, from one elimination.
        method: "ols" conditional on the first values; "ridge": the same with the penalty of Hoerl,
            Kennard and Baldwin (1975); "yule-walker" and "burg" need no more than lags.
        criterion: "aicc", "bic", or "validation": one-step errors on the last fifth.
        difference, seasonal_difference: how often; None: by tests of what regressors leave, KPSS
            and the season's strength.
        seasonal_lags: that many multiples of the season are lags too, whatever the order.
        constant: None: unless the series is differenced more than once in all.
        stable: shrink roots of phi that are outside to just inside the unit circle.
        transform: "log", or "box-cox" with Guerrero's lambda.
    """

    order: int | None = None
    max_order: int = 12
    method: Literal["ols", "ridge", "yule-walker", "burg"] = "ols"
    criterion: Literal["aicc", "bic", "validation"] = "aicc"
    difference: int | None = None
    seasonal_difference: int | None = None
    seasonal_lags: int = 0
    constant: bool | None = None
    stable: bool = True
    transform: Literal["log", "box-cox"] | None = None

    def __post_init__(self) -> None:
        for name, known in (("method", METHODS), ("criterion", CRITERIA[1:])):
            if getattr(self, name) not in known:
                raise ValueError(f"no {name} {getattr(self, name)!r}: one of {', '.join(known)}")
        if self.transform not in (None, "log", "box-cox"):
            raise ValueError(f"no transform {self.transform!r}: log, box-cox or none")
        for name in ("order", "max_order", "difference", "seasonal_difference", "seasonal_lags"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give 0 or more")
        if self.seasonal_lags and not self._regresses:
            raise ValueError(f"seasonal lags need method ols or ridge, not {self.method}")

    @property
    def _regresses(self) -> bool:
        return self.method in ("ols", "ridge")

    def fit(self, data: Ragged, season: int = 1) -> LinearFitted:
        """All series at once. ``info`` holds order, difference, seasonal_difference and radius
        (below 1: the guard shrank its roots). Raises ValueError for regressors that ``method``
        can't use."""
        if data.known is not None and data.known.shape[1] and not self._regresses:
            raise ValueError(f"regressors need method ols or ridge, not {self.method}")
        bent = None
        if self.transform is not None:
            bent = Transform.fit(data, season, 0.0 if self.transform == "log" else "guerrero")
        z = data if bent is None else bent.forward(data)
        plan = self._plan(z, season)
        native = _native is not None and z.values.device.type == "cpu"
        found = _fit_natively(z, plan) if native else fit_batched(z, plan)
        return self._fitted(data, bent, plan, found)

    def _plan(self, data: Ragged, season: int) -> Plan:
        lens, count, left = data.lens, len(data), unexplained(data)
        D = torch.zeros(count, dtype=torch.int64)
        if season > 1:
            fixed = self.seasonal_difference
            D = nsdiffs(left, season) if fixed is None else D + fixed
        D = torch.minimum(D, (lens - 1).clamp_min(0) // season)
        if self.difference is None:
            d = ndiffs(left, _DIFFERENCES, D, season)
            d = torch.where((D == 0) & reverts(left, data.known), 0, d)
        else:
            d = torch.full_like(D, self.difference)
        d = torch.minimum(d, (lens - D * season - 1).clamp_min(0))
        constant = d + D <= 1 if self.constant is None else torch.full_like(D, self.constant) > 0
        return Plan.of(
            lens - d - D * season,
            d,
            D,
            season,
            self.order if self.order is not None else self.max_order,
            self.seasonal_lags if season > 1 else 0,
            0 if data.known is None else data.known.shape[1],
            constant,
            self.method,
            "fixed" if self.order is not None else self.criterion,
            self.stable,
        )

    def _fitted(
        self, data: Ragged, bent: Transform | None, plan: Plan, found: Found
    ) -> LinearFitted:
        count, device = len(data), data.values.device
        empty = found.phi.new_zeros(count, 0)
        recursions = Recursions(
            found.constant, found.phi, empty, found.beta, found.sigma2, found.past, empty
        )
        width = found.beta.shape[1]
        lags = recent = None
        if width:
            assert data.known is not None
            lags = expand(torch.zeros(count, 0, dtype=torch.float64), plan.d, plan.D, plan.season)
            place = data.end[:, None] - lags.shape[1] + torch.arange(lags.shape[1])
            place = torch.maximum(place, data.begin[:, None])
            lags = lags.to(device)
            recent = data.known[place.to(device)]
        info = {
            "order": found.order,
            "difference": plan.d,
            "seasonal_difference": plan.D,
            "radius": found.radius.cpu(),
        }
        return LinearFitted(recursions, found.loc, found.scale, data.lens, bent, lags, recent, info)


def _fit_natively(data: Ragged, plan: Plan) -> Found:
    assert _native is not None
    count, room = len(data), plan.room()
    known = data.values.new_zeros(len(data.values), 0) if data.known is None else data.known
    phi, past = data.values.new_zeros(2, count, room)
    beta = data.values.new_zeros(count, known.shape[1])
    found = data.values.new_empty(count, 5)
    orders = torch.empty(count, dtype=torch.int64)
    given = (
        *(data.values, data.begin, data.end, known, plan.d, plan.D, plan.order),
        *(plan.seasonal, plan.constant.long(), plan.regressed.long()),
    )
    _native.chainrule_ar_fit(
        *[x.contiguous().numpy() for x in given],
        METHODS.index(plan.method),
        CRITERIA.index(plan.criterion),
        plan.season,
        VALIDATED,
        plan.stable,
        *[x.numpy() for x in (phi, beta, past, found, orders)],
        torch.get_num_threads(),
    )
    constant, sigma2, loc, scale, radius = found.unbind(1)
    out = Found(constant, phi, beta, sigma2, past, loc, scale, orders, radius)
    used = plan.used(orders)
    return replace(out, phi=phi[:, :used].contiguous(), past=past[:, room - used :].contiguous())
