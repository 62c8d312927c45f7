"""Vector autoregression: several series that depend on each other's past.

Shapes: N series, in G systems of K each; T points of the longest, P lags, C = 1 + K P columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from chainrule.series.batch import Model, Ragged
from chainrule.series.var_fitted import VARFitted

_INSIDE = 1 - 1e-9  # where the guard brings the largest root
_LOAD = 1e-12  # of every pivot: what is collinear stays solvable
_FLAT = 1e-12  # of a series' size: what moves less is constant
_WINDOWS = 2  # points for each weight of an equation, where the order is chosen
_CHUNK = 2**24  # numbers in the windows of one chunk


@dataclass(frozen=True)
class VAR(Model):
    """x_t = c + Σ_i A_i x_{t-i} + e_t for the K series of a system, by least squares
    (Lütkepohl 2005, "New introduction to multiple time series analysis", chapter 3).

    A series that is constant or a sum of others does no harm; a system that is too short for one
    lag of every series is refused.

    Args:
        order: lags; None: up to ``max_order`` by ``criterion``, all on the same points.
        criterion: "aicc" (Hurvich and Tsai 1993) or "bic".
        size: K, where the data are several systems one after the other; None: all are one.
        stable: shrink the roots, where one is outside, so that it is just inside the unit circle.
    """

    order: int | None = None
    max_order: int = 12
    criterion: Literal["aicc", "bic"] = "aicc"
    size: int | None = None
    stable: bool = True

    def __post_init__(self) -> None:
        if self.criterion not in ("aicc", "bic"):
            raise ValueError(f"no criterion {self.criterion!r}: aicc or bic")
        for name, least in (("order", 0), ("max_order", 0), ("size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}: give {least} or more")

    def fit(self, data: Ragged, season: int = 1) -> VARFitted:
        """All systems at once; ``season`` is not used. ``info`` holds order and radius (below 1:
        the guard shrank the roots).

        Raises:
            ValueError: the series of a system differ in length, are too many for it, or come
                with regressors.
        """
        width = self.size or max(1, len(data))
        lens = self._lens(data, width)
        x, loc, scale = _standardised(data)
        x = x.unflatten(0, (-1, width)).mT  # [G, T, K]
        most = self._most(lens, width)
        longest = int(most.max()) if len(most) else 0
        weights = x.new_zeros(len(lens), 1 + width * longest, width)
        sigma, order = x.new_zeros(len(lens), width, width), most.clone()
        each = max(1, _CHUNK // max(1, x.shape[1] * weights.shape[1]))
        for at in range(0, len(lens), each):
            some = slice(at, at + each)
            design = _Design.of(x[some], lens[some].to(x.device), longest)
            if self.order is None:
                order[some] = design.choose(most[some].to(x.device), self.criterion).cpu()
            weights[some], sigma[some] = design.solve(order[some].to(x.device))
        lags = int(order.max()) if len(order) else 0
        A = weights[:, 1 : 1 + width * lags].unflatten(1, (lags, width)).mT  # [G, P, K, K]
        radius = x.new_ones(len(lens))
        if self.stable and lags:
            A, radius = _shrunk(A)
        fitted = VARFitted(
            weights[:, 0],
            A,
            sigma,
            x.new_zeros(len(lens), lags, width),
            loc.view(-1, width),
            scale.view(-1, width),
            lens,
            order,
            radius.cpu(),
        )
        fitted = replace(fitted, past=fitted.newest(data))
        return _centred(fitted, x) if bool((radius < 1).any()) else fitted

    def _lens(self, data: Ragged, width: int) -> Tensor:
        """Points of every system, int64 [G]."""
        if data.known is not None and data.known.shape[1]:
            raise ValueError("a VAR has no regressors: give them as series, or use another model")
        if len(data) % width:
            raise ValueError(f"{len(data)} series are no systems of {width}: one is incomplete")
        lens = data.lens.view(-1, width)
        if bool((lens != lens[:, :1]).any()):
            least, most = int(lens.min()), int(lens.max())
            raise ValueError(
                f"the series of a VAR have one length, not {least} to {most} points: cut them to "
                "the same time, or model each alone"
            )
        lens = lens[:, 0] if len(data) else data.lens
        need = (width + 1) * (1 if self.order is None else self.order) + 1 + width
        if bool((lens < need).any()):
            raise ValueError(
                f"{width} series of {int(lens.min())} points are too many for a VAR, which needs "
                f"{need}: take fewer series, or model each alone"
            )
        return lens

    def _most(self, lens: Tensor, width: int) -> Tensor:
        """The greatest order, int64 [G]."""
        if self.order is not None:
            return torch.full_like(lens, self.order)
        room = (lens - _WINDOWS) // (1 + _WINDOWS * width)
        return room.clamp(1, max(1, self.max_order)).clamp_max(self.max_order)


@dataclass(frozen=True, eq=False)
class _Design:
    """Windows of G systems: X [G, T, C], Y [G, T, K]; place [G, T]: 0 is the oldest point."""

    X: Tensor
    Y: Tensor
    place: Tensor

    @staticmethod
    def of(x: Tensor, lens: Tensor, lags: int) -> _Design:
        longest = x.shape[1]
        wide = torch.nn.functional.pad(x, (0, 0, lags, 0))
        columns = [torch.ones_like(x[..., :1])]
        columns += [wide[:, lags - lag : lags - lag + longest] for lag in range(1, lags + 1)]
        place = torch.arange(longest, device=x.device) - (longest - lens)[:, None]
        return _Design(torch.cat(columns, 2), x, place)

    def choose(self, most: Tensor, criterion: str) -> Tensor:
        """Orders [G], all from one elimination over the points that the greatest one leaves."""
        width = self.Y.shape[2]
        there = (self.place >= most[:, None])[..., None]
        X, Y = self.X * there, self.Y * there
        lower = _factor(X.mT @ X)
        parts = torch.linalg.solve_triangular(lower, X.mT @ Y, upper=False)
        n, total = there.sum((1, 2)).double(), Y.mT @ Y
        scores = []
        for order in range(int(most.max()) + 1 if len(most) else 1):
            count = 1 + width * order
            left = total - parts[:, :count].mT @ parts[:, :count]
            own = total.diagonal(dim1=1, dim2=2)
            floor = own * _LOAD + (own <= 0)  # less than that is rounding
            lower_left, _ = torch.linalg.cholesky_ex(left + torch.diag_embed(floor))
            logs = 2 * lower_left.diagonal(dim1=1, dim2=2).clamp_min(1e-150).log().sum(1)
            logs = logs - width * n.log()
            score = n * logs + _penalty(criterion, n, count, width)
            scores.append(torch.where(order > most, torch.inf, score.nan_to_num(torch.inf)))
        return torch.stack(scores, 1).argmin(1)

    def solve(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [G, C, K] and the covariance of the errors [G, K, K]: squares by degrees of
        freedom."""
        width = self.Y.shape[2]
        column = torch.arange(self.X.shape[2], device=order.device)
        use = column <= (width * order)[:, None]
        there = (self.place >= order[:, None])[..., None]
        X, Y = self.X * (there & use[:, None]), self.Y * there
        lower = _factor(X.mT @ X)
        found = torch.zeros_like(X.mT @ Y)
        for _ in range(2):  # the normal equations, and one refinement
            found = found + torch.cholesky_solve(X.mT @ (Y - X @ found), lower)
        left = (Y - X @ found) * there
        free = (there.sum((1, 2)) - use.sum(1)).clamp_min(1)
        return found, left.mT @ left / free[:, None, None]


def _factor(gram: Tensor) -> Tensor:
    own = gram.diagonal(dim1=1, dim2=2)
    lower: Tensor = torch.linalg.cholesky_ex(gram + torch.diag_embed(own * _LOAD + (own <= 0))).L
    return lower


def _penalty(criterion: str, n: Tensor, count: int, width: int) -> Tensor:
    """Of ``count`` weights an equation."""
    if criterion == "bic":
        return count * width * n.log()
    room = n - count - width - 1
    number = width * count + width * (width + 1) / 2
    return torch.where(room > 0, 2 * number * n / room.clamp_min(1), torch.inf)


def _standardised(data: Ragged) -> tuple[Tensor, Tensor, Tensor]:
    """Right-aligned x = (y - loc) / scale [N, T], of mean 0 and variance 1 or 0."""
    y, there = data.padded()
    lens = data.lens.clamp_min(1).to(y.device)
    size = y.abs().amax(1) if y.shape[1] else y.new_ones(len(y))
    size = torch.where(size > 0, size, 1.0)
    x = y / size[:, None]
    loc = x.sum(1) / lens
    x = torch.where(there, x - loc[:, None], 0.0)
    scale = (x.square().sum(1) / lens).sqrt()
    flat = scale <= _FLAT
    scale = torch.where(flat, 1.0, scale)
    x = torch.where(flat[:, None], 0.0, x / scale[:, None])
    return x, loc * size, scale * size


def _companion(A: Tensor) -> Tensor:
    """[G, K P, K P] of A [G, P, K, K]."""
    count, lags, width = A.shape[:3]
    top = A.transpose(1, 2).flatten(2)  # [G, K, P K]
    below = torch.eye(width * (lags - 1), width * lags, dtype=A.dtype, device=A.device)
    return torch.cat([top, below.expand(count, -1, -1)], 1)


def _shrunk(A: Tensor) -> tuple[Tensor, Tensor]:
    """A_i radius^i, whose roots are radius times those of A, and radius [G]."""
    roots = torch.linalg.eigvals(_companion(A)).abs().amax(1)
    radius = torch.where(roots > _INSIDE, _INSIDE / roots, 1.0)
    powers = torch.arange(1, A.shape[1] + 1, device=A.device)
    return A * (radius[:, None] ** powers)[..., None, None], radius


def _centred(fitted: VARFitted, x: Tensor) -> VARFitted:
    """Constants and covariances anew, for weights that the guard shrank; x [G, T, K]."""
    lags, width = fitted.A.shape[1], fitted.loc.shape[1]
    order = fitted.order.to(x.device)
    design = _Design.of(x, fitted.seen.to(x.device), lags)
    there = (design.place >= order[:, None])[..., None]
    left = (x - design.X[..., 1:] @ fitted.A.mT.flatten(1, 2)) * there
    rows = there.sum((1, 2))
    mean = left.sum(1) / rows[:, None]
    left = (left - mean[:, None]) * there
    free = (rows - 1 - width * order).clamp_min(1)
    sigma = left.mT @ left / free[:, None, None]
    on = (fitted.radius < 1).to(x.device)[:, None]
    return replace(
        fitted,
        constant=torch.where(on, mean, fitted.constant),
        sigma=torch.where(on[..., None], sigma, fitted.sigma),
    )
