"""Regression on lags, fitted: differenced series in units of their own, and equations over them.

Shapes: N series, L lags, P of a recursion, R of the differences, F regressors, H steps, K columns.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from chainrule.series.batch import Ragged, Recursions, Rows
from chainrule.series.differencing import differenced, expand
from chainrule.series.equations import Columns, Equations
from chainrule.series.levinson import shrunk

_WINDOWS = 2  # at least so many a weight
_HIGH = 1e308  # no unit is greater
_FLAT = 1e-12  # of a series' size: what moves less, or misses by less, doesn't


@dataclass(frozen=True, eq=False)
class Found(Rows):
    """Equations of H steps: coefficients [N, H, K], the variance of their errors [N, H], the
    number of lags [N], -1 where there is no equation at all, and the largest one [N]."""

    weights: Tensor
    variance: Tensor
    count: Tensor
    reach: Tensor


@dataclass(frozen=True, eq=False)
class One(Rows):
    """Equations of one step: constant [N], phi [N, largest lag], beta [N, F], sigma2 [N], the
    number of lags and the largest one, int64 [N], and the guard's radius [N]."""

    constant: Tensor
    phi: Tensor
    beta: Tensor
    sigma2: Tensor
    count: Tensor
    reach: Tensor
    radius: Tensor

    def put(self, where: Tensor, other: One) -> One:
        """With the series where ``where`` is true taken from ``other``."""
        held = {}
        for f in fields(self):
            held[f.name] = getattr(self, f.name).clone()
            held[f.name][where.to(held[f.name].device)] = getattr(other, f.name)
        return One(**held)


@dataclass(frozen=True, eq=False)
class Task:
    """What is fitted: z = loc + scale · x, and w = x differenced d and D times.

    Args:
        x, w: packed, w within x's bounds; the regressors of w in units ``size`` [N, F], those of
            x as they were given less ``centre`` [N, F].
        rows, inside: the series of every point, and whether w is there.
        poly [N, R]: the lags of the differences alone. constant: bool [N].
    """

    x: Ragged
    w: Ragged
    rows: Tensor
    inside: Tensor
    poly: Tensor
    constant: Tensor
    loc: Tensor
    scale: Tensor
    centre: Tensor
    size: Tensor
    d: Tensor
    D: Tensor
    season: int

    @staticmethod
    def of(z: Ragged, d: Tensor, D: Tensor, season: int, pooled: bool) -> Task:
        """From packed series; the units of regressors are common where the weights are."""
        device, count = z.values.device, len(z)
        rows = torch.repeat_interleave(torch.arange(count), z.lens).to(device)
        known = z.values.new_zeros(len(rows), 0) if z.known is None else z.known
        unit = _most(z.values[:, None], rows, count)
        values = z.values / unit[rows, 0]
        loc = _sum(values[:, None], rows, count)[:, 0] / z.lens.clamp_min(1).to(device)
        if pooled:
            loc = torch.where((d + D > 0).to(device), loc, 0.0)
        values = values - loc[rows]
        beside = _most(known, rows, count)
        known = known / beside[rows]
        centre = _sum(known, rows, count) / z.lens.clamp_min(1).to(device)[:, None]
        known = known - centre[rows]
        w = differenced(Ragged(values, z.begin, z.end, known), d, D, season)
        inside = torch.arange(len(rows)).to(device) >= w.begin.to(device)[rows]
        lens = w.lens.clamp_min(1).to(device)
        scale = (
            _sum(w.values[:, None].square() * inside[:, None], rows, count)[:, 0] / lens
        ).sqrt()
        scale = torch.where(scale > _FLAT, scale, 0.0)
        assert w.known is not None
        squares = _sum(w.known.square() * inside[:, None], rows, count)
        if pooled:
            top = beside.amax(0) if count else 1.0
            squares = (squares * (beside / top) ** 2).sum(0) / lens.sum()
            size = (squares.sqrt() * top / beside).expand(count, -1)
        else:
            size = (squares / lens[:, None]).sqrt()
        size = torch.where(size > _FLAT, size, 1.0)
        still = scale == 0
        scale = torch.where(still, 1.0, torch.minimum(scale, _HIGH / unit[:, 0]))
        flat = torch.where(inside & ~still[rows], w.values / scale[rows], 0.0)
        known = torch.where(inside[:, None], w.known / size[rows], 0.0)
        none = torch.zeros(count, 0, dtype=torch.float64, device=device)
        return Task(
            Ragged(values / scale[rows], z.begin, z.end),
            Ragged(flat, w.begin, w.end, known),
            rows,
            inside,
            expand(none, d, D, season),
            (d + D <= 1).to(device),
            loc * unit[:, 0],
            scale * unit[:, 0],
            centre * beside,
            size * beside,
            d,
            D,
            season,
        )

    @property
    def known(self) -> int:
        """F."""
        return self.size.shape[1]

    def select(self, rows: Tensor) -> Task:
        """The named series (bool [N] on the host), over the same points."""
        at = torch.full((len(rows),), -1)
        at[rows] = torch.arange(int(rows.sum()))
        series, own = at.to(self.rows.device)[self.rows], rows.to(self.rows.device)
        return Task(
            self.x.select(rows),
            self.w.select(rows),
            series.clamp_min(0),
            self.inside & (series >= 0),
            self.poly[own],
            self.constant[own],
            self.loc[own],
            self.scale[own],
            self.centre[own],
            self.size[own],
            self.d[rows],
            self.D[rows],
            self.season,
        )

    def equations(
        self,
        columns: Columns,
        targets: Tensor,
        psi: Tensor,
        pooled: bool,
        least: Tensor | None = None,
    ) -> Found:
        """One equation a step for ``targets`` [points]; none where a series is too short.
        ``least`` int64 [N]: the targets are good from there on."""
        steps, lens = psi.shape[1], self.w.lens
        if pooled:
            use, reach, count = self._shared(columns, steps)
        else:
            use, reach, count = self._own(columns, steps, lens * 0 if least is None else least)
        rows = columns.rows(lens, reach, steps).clamp_min(0).to(psi.device)
        found = psi.new_zeros(*psi.shape, columns.width)
        squares = torch.zeros_like(psi)
        on = (count >= 0).to(psi.device)
        some = count >= 0
        given = Equations(columns, self.w.select(some), targets, psi[on], use[on], reach[some])
        if pooled:
            weights, left = given.solve_pooled()
            found[on] = weights * use[on][:, None]
            # A series of few windows has the panel's spread: its own counts for the rest.
            mean = left.sum(0) / rows[on].sum(0).clamp_min(1)
            squares[on] = (left + mean) / (rows[on] + 1)
        else:
            found[on], left = given.solve()
            used = use[on].sum(1, keepdim=True)
            # Errors of h steps overlap: so many windows say as much as 1 / h of them.
            ahead = torch.arange(1, steps + 1, device=psi.device)
            more = 1 + (used * ahead).double() / rows[on].clamp_min(1)
            squares[on] = left / (rows[on] - used).clamp_min(1) * more
        squares = torch.where(squares > _FLAT**2, squares, 0.0)  # the rest is rounding
        return Found(found, squares, count, reach)

    def _own(self, columns: Columns, steps: int, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The columns that a series is long enough for, bool [N, K], its largest lag and their
        number: the fewer, the shorter it is; then its mean; -1 where it has none."""
        lens, constant = self.w.lens, self.constant.cpu()
        mean = constant & (lens >= 1 + 2 * (self.d + self.D > 0)) & (steps == 1)
        count, reach = torch.where(mean, 0, -1), least.clone()
        full = torch.zeros_like(mean)
        for lags in range(0 if columns.known else 1, len(columns.lags) + 1):
            far = least.clamp_min(columns.lags[lags - 1] if lags else 0)
            weights = constant + lags + columns.known
            fits = lens - far - steps + 1 >= _WINDOWS * weights
            count = torch.where(fits, lags, count)
            reach = torch.where(fits, far, reach)
            full |= fits
        place = torch.arange(columns.width)
        use = (place <= count[:, None]) | (place > len(columns.lags))
        use = torch.where(place > 0, use & full[:, None], ((full | mean) & constant)[:, None])
        return use.to(self.rows.device), reach, count

    def _shared(self, columns: Columns, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """All columns, for every series that has a window and moves, where these are enough."""
        far = max(columns.lags)
        rows = columns.rows(self.w.lens, torch.full_like(self.w.lens, far), steps).clamp_min(0)
        enough = int(rows[:, -1].sum()) >= _WINDOWS * columns.width
        able = (rows[:, 0] > 0) & enough & self._moves().cpu()
        use = torch.ones(len(able), columns.width, dtype=torch.bool)
        use[:, 0] = self.constant.cpu()
        count = torch.where(able, len(columns.lags), -1)
        return use.to(self.rows.device), torch.full_like(count, far), count

    def _moves(self) -> Tensor:
        """bool [N]: w is not constant."""
        count = len(self.scale)
        lens = self.w.lens.clamp_min(1).to(self.scale.device)
        mean = _sum((self.w.values * self.inside)[:, None], self.rows, count)[:, 0] / lens
        off = torch.where(self.inside, self.w.values - mean[self.rows], 0.0)
        return _sum(off.square()[:, None], self.rows, count)[:, 0] > _FLAT**2 * lens

    def one(self, columns: Columns, pooled: bool, stable: bool) -> One:
        """Equations of one step. A series that has no part in the common one gets its own."""
        first = self.scale.new_ones(len(self.scale), 1)
        found = self.equations(columns, self.w.values, first, pooled)
        short = found.count < 0
        made = self._one(columns, found, stable)
        if pooled and bool(short.any()):
            made = made.put(short, self.select(short).one(columns, False, stable))
        return made

    def _one(self, columns: Columns, found: Found, stable: bool) -> One:
        lags = columns.lags
        phi = self.scale.new_zeros(len(self.scale), max(lags))
        phi[:, [lag - 1 for lag in lags]] = found.weights[:, 0, 1 : 1 + len(lags)]
        beta = found.weights[:, 0, 1 + len(lags) :]
        sigma2 = torch.where((found.count < 0).to(phi.device), 0.0, found.variance[:, 0])
        made = One(
            found.weights[:, 0, 0],
            phi,
            beta,
            sigma2,
            found.count,
            found.reach,
            torch.ones_like(sigma2),
        )
        none = found.count < 0
        if bool(none.any()):
            made = self._centred(made, lags, none)
        if stable:
            phi, radius = shrunk(phi)
            if bool((radius < 1).any()):
                made = replace(made, phi=phi, radius=radius)
                made = self._centred(made, lags, (radius < 1).cpu())
        return made

    def _centred(self, one: One, lags: tuple[int, ...], which: Tensor) -> One:
        """Constants and variances anew, for other weights than the least squares."""
        count, on = len(which), which.to(self.rows.device)
        bare = replace(one, constant=torch.zeros_like(one.constant))
        e = self.errors(bare, lags)
        first = (self.w.begin + one.reach.cpu()).to(e.device)
        there = self.inside & (torch.arange(len(e), device=e.device) >= first[self.rows])
        rows = _sum(there[:, None].double(), self.rows, count)[:, 0]
        mean = _sum((e * there)[:, None], self.rows, count)[:, 0] / rows.clamp_min(1)
        mean = torch.where(self.constant & (one.count >= 0).to(e.device), mean, 0.0)
        left = torch.where(there, e - mean[self.rows], 0.0).square()
        used = one.count.clamp_min(0).to(e.device) + 1
        sigma2 = _sum(left[:, None], self.rows, count)[:, 0] / (rows - used).clamp_min(1)
        return replace(
            one,
            constant=torch.where(on, mean, one.constant),
            sigma2=torch.where(on, sigma2, one.sigma2),
        )

    def errors(self, one: One, lags: tuple[int, ...]) -> Tensor:
        """One-step errors in the units of w, [points]; only from a series' largest lag on."""
        assert self.w.known is not None
        w = self.w.values
        e = w - one.constant[self.rows] - (self.w.known * one.beta[self.rows]).sum(1)
        for lag in lags:
            e = e - one.phi[self.rows, lag - 1] * w.roll(lag)
        return e

    def naive(self, lags: tuple[int, ...]) -> One:
        """No equation: what differencing alone forecasts."""
        zero = torch.zeros_like(self.scale)
        host = torch.zeros(len(zero), dtype=torch.int64)
        phi = zero[:, None].expand(-1, max(lags))
        beta = zero[:, None].expand(-1, self.known)
        return One(zero, phi, beta, zero, host, host, zero + 1)

    def recursions(self, one: One) -> Recursions:
        """Over x, differencing multiplied in; regressors as they were given."""
        count = len(self.scale)
        phi = expand(one.phi, self.d, self.D, self.season)
        beta = one.beta / self.size
        still = (self.d + self.D == 0).to(phi.device)
        shift = torch.where(still, (beta * self.centre).sum(1), 0.0)
        past = self.x.last(phi.shape[1]).padded()[0]
        past = torch.nn.functional.pad(past, (phi.shape[1] - past.shape[1], 0))
        empty = phi.new_zeros(count, 0)
        return Recursions(one.constant - shift, phi, empty, beta, one.sigma2, past, empty)


def _sum(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Of every series' points [points, C] in their order: [N, C]."""
    return values.new_zeros(count, values.shape[1]).index_add_(0, rows, values)


def _most(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """The greatest size [N, C]; 1 where all are 0."""
    most = values.new_zeros(count, values.shape[1])
    most = most.scatter_reduce_(0, rows[:, None].expand_as(values), values.abs(), "amax")
    return torch.where(most > 0, most, 1.0)
