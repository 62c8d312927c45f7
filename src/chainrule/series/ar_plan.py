"""Which orders a series is long enough for, decided once for the compiled and the torch fit.

Shapes: N series, P lags, F regressors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

METHODS = ("ols", "ridge", "yule-walker", "burg")
CRITERIA = ("fixed", "aicc", "bic", "validation")
VALIDATED = 5  # one of so many points is held out
_POINTS = 4  # of a series for each lag that a criterion may choose


@dataclass(frozen=True, eq=False)
class Plan:
    """Of N series, all on the host: int64 [N] d, D, the greatest order, the number of seasonal
    lags; bool [N] whether there is a constant, and whether regressors are used."""

    d: Tensor
    D: Tensor
    order: Tensor
    seasonal: Tensor
    constant: Tensor
    regressed: Tensor
    season: int
    method: str
    criterion: str
    stable: bool

    @staticmethod
    def of(
        lens: Tensor,
        d: Tensor,
        D: Tensor,
        season: int,
        order: int,
        seasonal: int,
        width: int,
        constant: Tensor,
        method: str,
        criterion: str,
        stable: bool,
    ) -> Plan:
        """Shortens what ``lens`` [N], after differencing, can't carry: least squares keeps one
        row more than it has columns, and seasonal lags leave half of the series."""
        chosen = criterion != "fixed"
        held = (lens // VALIDATED).clamp_min(1) if criterion == "validation" else 0
        left = lens - held
        regressed = left >= 2 * width + constant.long() + 2
        taken = constant.long() + regressed.long() * width + 1
        most = ((left - taken).clamp_min(0) // (2 * season)).clamp_max(seasonal)
        free = left - taken - most
        limit = torch.minimum(free // 2, free - most * season)
        if chosen:
            limit = torch.minimum(limit, left // _POINTS)
        return Plan(
            d,
            D,
            limit.clamp(0, order),
            most,
            constant,
            regressed,
            season,
            method,
            criterion,
            stable,
        )

    def select(self, rows: Tensor) -> Plan:
        """The named series."""
        return replace(
            self,
            d=self.d[rows],
            D=self.D[rows],
            order=self.order[rows],
            seasonal=self.seasonal[rows],
            constant=self.constant[rows],
            regressed=self.regressed[rows],
        )

    def room(self) -> int:
        """Lags that any series may need, differences included; 1 at least."""
        return max(1, self.used(self.order))

    def used(self, order: Tensor) -> int:
        """The same when the orders [N] are these."""
        reach = torch.maximum(order, self.seasonal * self.season)
        reach = reach + self.d + self.D * self.season
        return int(reach.max()) if len(reach) else 0


@dataclass(frozen=True, eq=False)
class Found:
    """What a fit gives: as in Recursions and LinearFitted; order int64 [N] on the host, and
    radius [N], by whose powers the guard has multiplied phi."""

    constant: Tensor
    phi: Tensor
    beta: Tensor
    sigma2: Tensor
    past: Tensor
    loc: Tensor
    scale: Tensor
    order: Tensor
    radius: Tensor

    @staticmethod
    def concat(parts: Sequence[Found]) -> Found:
        """All series; lags that only some need are 0 for the others."""
        width = max(p.phi.shape[1] for p in parts)
        out = {}
        for name in (f.name for f in fields(Found)):
            each = [getattr(p, name) for p in parts]
            if name in ("phi", "past"):
                sides = [(0, width - x.shape[1])[:: 1 if name == "phi" else -1] for x in each]
                each = [torch.nn.functional.pad(x, s) for x, s in zip(each, sides, strict=True)]
            out[name] = torch.cat(each)
        return Found(**out)
