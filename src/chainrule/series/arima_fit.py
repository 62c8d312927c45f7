"""Conditional least squares of many seasonal ARMAs at once, in torch: native/arima_fit.h's steps.

Shapes: T points of the longest, N series, K parameters, C columns. Time comes first, so that a
step is one slice; series are right-aligned. Parameters stand in the order mean, phi, theta, Phi,
Theta; all but the mean are partial autocorrelations, so that every point of a box is stationary
and invertible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

EDGE = 0.9999  # the greatest partial autocorrelation
_TOLERANCE, _MOST = 1e-11, 100  # of a fit: the least promised decrease, and evaluations
_LOWER = 1 - 1e-9  # so much lower is another optimum
_START_EDGE, _START_RIDGE = 0.9, 1e-6


@dataclass(frozen=True, eq=False)
class Task:
    """N series and the ARMA that each gets.

    Args:
        y [T, N]: differenced and centred; zero before each series begins.
        begin: int64 [N], the row it begins in. orders: int64 [N, 5]: mean, p, q, P, Q.
        widths: of the four factors here, at least as wide as any of the N.
    """

    y: Tensor
    begin: Tensor
    orders: Tensor
    season: int
    widths: Sequence[int]

    @property
    def first(self) -> Tensor:
        """int64 [N]: the row of the first error that counts."""
        return self.begin + self.orders[:, 1] + self.season * self.orders[:, 3]

    @property
    def used(self) -> Tensor:
        """bool [N, K]: the parameters that each series has."""
        parts = [self.orders[:, :1] > 0]
        for f, width in enumerate(self.widths):
            place = torch.arange(width, device=self.y.device)
            parts.append(place < self.orders[:, f + 1, None])
        return torch.cat(parts, 1)

    def select(self, rows: Tensor) -> Task:
        """The named series."""
        return replace(self, y=self.y[:, rows], begin=self.begin[rows], orders=self.orders[rows])

    def rows_from(self, begin: Tensor) -> Tensor:
        """bool [T, N]: at or behind the given row."""
        return torch.arange(len(self.y), device=self.y.device)[:, None] >= begin


@dataclass(frozen=True, eq=False)
class Point:
    """What the sum of squares is near a point: errors e [T, N], derivatives J [T, K, N] by the
    coefficients, and jacobian [N, K, K] of these by the parameters; sum [N], slope [N, K] and
    normal [N, K, K] are J'J and J'e in the parameters."""

    e: Tensor = field(metadata={"axis": 1})
    J: Tensor = field(metadata={"axis": 2})
    jacobian: Tensor
    sum: Tensor
    slope: Tensor
    normal: Tensor

    def slope_with(self, other: Point) -> Tensor:
        """[N, K]: these derivatives with the errors of another point."""
        return _turned(self.J, other.e, self.jacobian)

    def where(self, better: Tensor, other: Point) -> Point:
        """``other`` for the series where it is better: bool [N]."""
        merged = {}
        for f in fields(self):
            a, b = getattr(self, f.name), getattr(other, f.name)
            shape = [
                len(better) if n == f.metadata.get("axis", 0) % a.ndim else 1 for n in range(a.ndim)
            ]
            merged[f.name] = torch.where(better.reshape(shape), b, a)
        return Point(**merged)

    def select(self, rows: Tensor) -> Point:
        """The named series."""
        axes = {f.name: f.metadata.get("axis", 0) for f in fields(self)}
        return Point(
            **{k: getattr(self, k).movedim(n, 0)[rows].movedim(0, n) for k, n in axes.items()}
        )


def split(at: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """The four factors' parts of parameters or coefficients [N, K]."""
    return list(at[:, 1:].split(list(widths), 1))


def coefficients(at: Tensor, widths: Sequence[int]) -> Tensor:
    """[N, K] from parameters [N, K]."""
    parts = [_expand(k, f)[0] for f, k in enumerate(split(at, widths))]
    return torch.cat([at[:, :1], *parts], 1)


def _expand(kappa: Tensor, f: int) -> tuple[Tensor, Tensor]:
    """Durbin and Levinson: coefficients [N, k] of factor f and their derivatives [N, k, k]."""
    a, D = kappa[:, :0], kappa.new_zeros(len(kappa), 0, 0)
    for j in range(kappa.shape[1]):
        last, back = kappa[:, j : j + 1], a.flip(1)
        inner = D - last[..., None] * D.flip(1)
        D = torch.nn.functional.pad(inner, (0, 1, 0, 1))
        D[:, :j, j], D[:, j, j] = -back, 1.0
        a = torch.cat([a - last * back, last], 1)
    return (-a, -D) if f % 2 else (a, D)  # moving averages are written with a plus


def lagged(x: Tensor, lag: int) -> Tensor:
    """x [T, …] later by so many rows, zeros first."""
    return torch.cat([torch.zeros_like(x[:lag]), x[: max(len(x) - lag, 0)]])


def last(x: Tensor, count: int) -> Tensor:
    """The newest ``count`` of x [N, T], zeros on the left where there are fewer."""
    x = torch.nn.functional.pad(x, (max(count - x.shape[1], 0), 0))
    return x[:, x.shape[1] - count :].contiguous()


def _reduced(x: Tensor, factor: Tensor, lag: int) -> Tensor:
    out = x
    for i in range(factor.shape[1]):
        out = out - factor[:, i] * lagged(x, (i + 1) * lag)
    return out


def _inverse(x: Tensor, theta: Tensor, lag: int) -> Tensor:
    """x [T, C, N] filtered in place by the inverse of 1 + Σ theta_i B^(i lag)."""
    factors = theta.unbind(1)
    parts = x.split(lag) if factors else ()
    for t, part in enumerate(parts):
        for j in range(min(len(factors), t), 0, -1):
            part.addcmul_(factors[j - 1], parts[t - j][: len(part)], value=-1)
    return x


def evaluate(task: Task, at: Tensor) -> Point:
    """Everything at a point [N, K]."""
    (phi, theta, Phi, Theta), m = split(coefficients(at, task.widths), task.widths), task.season
    c = torch.where(task.rows_from(task.begin), task.y - at[:, 0], 0.0)
    a, b = _reduced(c, Phi, m), _reduced(c, phi, 1)
    mean = -(1 - phi.sum(1)) * (1 - Phi.sum(1))
    columns = [_reduced(a, phi, 1), mean.expand_as(a)]
    columns += [-lagged(a, i + 1) for i in range(phi.shape[1])]
    columns += [-lagged(b, (i + 1) * m) for i in range(Phi.shape[1])]
    seen = task.rows_from(task.first)[:, None]
    x = torch.where(seen, torch.stack(columns, 1), 0.0)
    x = _inverse(_inverse(x, Theta, m), theta, 1)
    e, near, far = x[:, 0], 2 + phi.shape[1], x.shape[1]
    parts = [x[:, 1:near], *_followers(e, theta, 1, seen), x[:, near:far]]
    J = torch.cat([*parts, *_followers(e, Theta, m, seen)], 1)
    J = J * task.used.T
    jacobian = _jacobian(at, task.widths) * task.used[:, None]
    inner = torch.einsum("tin,tjn->nij", J, J)
    normal = jacobian.mT @ inner @ jacobian
    return Point(e, J, jacobian, (e * e).sum(0), _turned(J, e, jacobian), normal)


def _followers(e: Tensor, theta: Tensor, lag: int, seen: Tensor) -> list[Tensor]:
    """The derivatives [T, 1, N] by a moving average: each is the first one, so many lags later."""
    if not theta.shape[1]:
        return []
    first = torch.where(seen, -lagged(e, lag)[:, None], 0.0)
    first = _inverse(first, theta, lag)
    return [lagged(first, i * lag) for i in range(theta.shape[1])]


def _jacobian(at: Tensor, widths: Sequence[int]) -> Tensor:
    out = at.new_zeros(len(at), at.shape[1], at.shape[1])
    out[:, 0, 0], begin = 1.0, 1
    for f, kappa in enumerate(split(at, widths)):
        end = begin + kappa.shape[1]
        out[:, begin:end, begin:end] = _expand(kappa, f)[1]
        begin = end
    return out


def _turned(J: Tensor, e: Tensor, jacobian: Tensor) -> Tensor:
    inner = torch.einsum("tkn,tn->nk", J, e)
    out: Tensor = (inner[:, None] @ jacobian)[:, 0]
    return out


def minimise(task: Task, at: Tensor, tolerance: float, most: int) -> tuple[Tensor, Tensor]:
    """Parameters [N, K] from ``at`` on, and their sums of squares [N].

    Levenberg and Marquardt's steps over J'J, to which the curvature that it leaves out is added as
    the steps tell it (Dennis, Gay and Welsch 1981, "An adaptive nonlinear least-squares
    algorithm"). What stands at an edge of the box and would leave it, stays.
    """
    point, at, least = at, at.clone(), torch.empty_like(task.y[0])
    rows = torch.arange(len(at), device=at.device)
    here = evaluate(task, point)
    second = torch.zeros_like(here.normal)
    damping = torch.full_like(here.sum, 1e-3)
    curved = torch.zeros_like(rows, dtype=torch.bool)
    tried = torch.ones_like(rows)
    while True:
        step, gain, curved, failed = _step(task, point, here, second, damping, curved)
        going = (tried < most) & (here.sum > 0) & (damping < 1e9)
        going &= failed | (gain > tolerance * here.sum)
        at[rows], least[rows] = point, here.sum
        if not bool(going.all()):
            kept = going.nonzero()[:, 0]
            if not len(kept):
                return at, least
            task, here, rows = task.select(kept), here.select(kept), rows[kept]
            point, step, second, damping = point[kept], step[kept], second[kept], damping[kept]
            curved, tried, failed = curved[kept], tried[kept], failed[kept]
        moved = point + torch.where(failed[:, None], 0.0, step)
        moved[:, 1:] = moved[:, 1:].clamp(-EDGE, EDGE)
        there = evaluate(task, moved)
        better = ~failed & (there.sum < here.sum)
        taught, told = _learned(here, there, moved - point, second)
        second = torch.where(better[:, None, None], taught, second)
        curved = better & told
        point = torch.where(better[:, None], moved, point)
        here = here.where(better, there)
        tried = tried + (~failed).long()
        up, down = (damping * 10).clamp_min(1e-6), (damping * 0.1).clamp_min(1e-12)
        damping = torch.where(better, down, up)


def _step(
    task: Task, at: Tensor, here: Point, second: Tensor, damping: Tensor, curved: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A step [N, K], the decrease [N] that it promises, whether it is a curved one, and whether
    there is none."""
    own = here.normal.diagonal(dim1=1, dim2=2)
    stuck = ((at >= EDGE) & (here.slope < 0)) | ((at <= -EDGE) & (here.slope > 0))
    stuck[:, 0] = False
    free = task.used & ~stuck & (own > 0)
    bent, fine = _solve(here.normal + second, here.slope, own, damping, free)
    plain, sound = _solve(here.normal, here.slope, own, damping, free)
    curved = curved & fine
    step = torch.where(curved[:, None], bent, plain)
    gain = (step * (damping[:, None] * own * step - here.slope)).sum(1)
    return step, gain, curved, ~curved & ~sound


def _solve(
    matrix: Tensor, slope: Tensor, own: Tensor, damping: Tensor, free: Tensor
) -> tuple[Tensor, Tensor]:
    """(matrix + damping diag own) step = -slope on what is free, and where that is positive."""
    matrix = matrix + torch.diag_embed(damping[:, None] * own)
    eye = torch.eye(own.shape[1], dtype=own.dtype, device=own.device)
    matrix = torch.where(free[:, None] & free[:, :, None], matrix, eye)
    root, info = torch.linalg.cholesky_ex(matrix)
    pivots = root.diagonal(dim1=1, dim2=2).square()
    fine = (info == 0) & (~free | (pivots > 1e-13 * own)).all(1)
    root = torch.where(fine[:, None, None], root, eye)
    step = torch.cholesky_solve(torch.where(free, -slope, 0.0)[..., None], root)[..., 0]
    return step, fine


def _learned(here: Point, there: Point, step: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """After a step: the curvature [N, K, K] beyond J'J, and whether it told more than it hid."""

    def along(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1)

    grown = there.slope - here.slope
    beyond = there.slope - here.slope_with(there)
    curve = along(step, (second @ step[..., None])[..., 0])
    plain = 2 * along(step, here.slope) + along(step, (here.normal @ step[..., None])[..., 0])
    actual, fresh = there.sum - here.sum, curve == 0
    told = fresh | ((actual - plain - curve).abs() < (actual - plain).abs())
    ratio = (along(step, beyond) / torch.where(fresh, 1.0, curve)).abs().clamp_max(1.0)
    second = second * torch.where(fresh, 1.0, ratio)[:, None, None]
    seen = along(step, grown)[:, None]
    left = beyond - (second @ step[..., None])[..., 0]
    y = grown / torch.where(seen > 0, seen, 1.0)
    outer = left[:, :, None] * y[:, None] + y[:, :, None] * left[:, None]
    outer = outer - along(left, step)[:, None, None] * y[:, :, None] * y[:, None]
    return second + torch.where(seen[..., None] > 0, outer, 0.0), told


def start(task: Task) -> Tensor:
    """Parameters [N, K]. Hannan and Rissanen (1982): the errors of a long autoregression stand in
    for the unseen ones. Zeros where there are too few points for it."""
    m, orders, y = task.season, task.orders, task.y
    p, q, P, Q = orders[:, 1:].unbind(1)
    used = task.used[:, 1:]
    out = y.new_zeros(len(orders), used.shape[1] + 1)
    lens = len(y) - task.begin
    averaged = q + Q > 0
    reach = torch.maximum(p, q) + m * torch.maximum(P, Q) + 2
    reach = torch.maximum(reach, (5 * lens.double().clamp_min(1).log10()).long())
    lags = torch.where(averaged, torch.minimum(lens // 3, reach), 0)
    e = _burg(task, lags)
    seen = torch.where(averaged, lags + torch.maximum(q, m * Q), 0)
    first = task.begin + torch.maximum(p + m * P, seen)
    fits = len(y) - first >= 2 * used.sum(1) + 2
    there = task.rows_from(first)[:, None]
    columns = [y]
    for f, width in enumerate(task.widths):
        columns += [lagged(e if f % 2 else y, i * (m if f > 1 else 1)) for i in range(1, width + 1)]
    x = torch.where(there, torch.stack(columns, 1), 0.0)
    x[:, 1:] *= used.T
    products = torch.einsum("tin,tjn->nij", x, x)
    normal, slope = products[:, 1:, 1:], -products[:, 1:, 0]
    own = normal.diagonal(dim1=1, dim2=2)
    ridge = torch.full_like(own[:, 0] if own.shape[1] else y[0], _START_RIDGE)
    a, fine = _solve(normal, slope, own, ridge, used & (own > 0))
    a = torch.where((fits & fine)[:, None], a, 0.0)
    parts = [_partials(-x if f % 2 else x) for f, x in enumerate(a.split(list(task.widths), 1))]
    out[:, 1:] = torch.cat(parts, 1)
    return out


def _burg(task: Task, lags: Tensor) -> Tensor:
    """The errors [T, N] of autoregressions of so many lags [N], by Burg (1975)."""
    f = b = task.y
    for k in range(1, int(lags.max()) + 1 if len(lags) else 1):
        there = task.rows_from(task.begin + k) & (k <= lags)
        before = torch.where(there, lagged(b, 1), 0.0)
        now = torch.where(there, f, 0.0)
        own = (now * now).sum(0) + (before * before).sum(0)
        kappa = 2 * (now * before).sum(0) / torch.where(own > 0, own, 1.0)
        f, b = (
            torch.where(there, f - kappa * before, f),
            torch.where(there, before - kappa * now, b),
        )
    return f


def _partials(a: Tensor) -> Tensor:
    """Partial autocorrelations [N, k] of factors [N, k] by stepping down, none above 0.9."""
    out = torch.zeros_like(a)
    for j in range(a.shape[1], 0, -1):
        kappa = a[:, j - 1 : j].clamp(-_START_EDGE, _START_EDGE)
        out[:, j - 1 : j] = kappa
        a = (a[:, : j - 1] + kappa * a[:, : j - 1].flip(1)) / (1 - kappa * kappa)
    return out


def fit(task: Task) -> tuple[Tensor, Tensor]:
    """Parameters [N, K] of the lower of the two sums of squares [N] from Hannan and Rissanen's
    start and from zero."""
    at, least = minimise(task, start(task), _TOLERANCE, _MOST)
    other, second = minimise(task, torch.zeros_like(at), _TOLERANCE, _MOST)
    better = second < least * _LOWER
    return torch.where(better[:, None], other, at), torch.where(better, second, least)
