"""Least squares over the windows of many series, one equation a step ahead.

A window is what is known at an origin t, of which lag 1 is the last point: v_t. The equation of
step h is fitted on the pairs (window at t, Σ_j psi_{h-j} u_{t+j}), j = 1 … h: with psi = (1, 0,
0, …) and u = v that is y_{t+h} itself, with the weights of a recursion and its one-step errors u
it is what that recursion misses by at its h-th step.

Shapes: N series, T points of the longest, H steps, F regressors, K columns: a constant, the lags,
the regressors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.native import _native
from chainrule.series.batch import Ragged

_LOAD = 1e-12  # of every pivot: what is collinear stays solvable
_NEAR, _FAR = 2**20, 2**26  # numbers in the windows of one chunk: within a cache, or on a device


@dataclass(frozen=True)
class Columns:
    """What an equation reads.

    Args:
        lags: ascending.
        known: regressors F; x becomes Σ_j psi_{h-j} x_{t+j}, as the targets do.
        ridge: least Σ e² + ridge · rows · Σ w², over the weights w of lags and regressors.
        common: every step takes the origins that the last one can.
    """

    lags: tuple[int, ...]
    known: int = 0
    ridge: float = 0.0
    common: bool = False

    @property
    def width(self) -> int:
        """K."""
        return 1 + len(self.lags) + self.known

    def rows(self, lens: Tensor, reach: Tensor, steps: int) -> Tensor:
        """How many windows the steps have, int64 [N, H]."""
        ahead = torch.arange(1, steps + 1, device=lens.device)
        return (lens - reach + 1)[:, None] - (ahead * 0 + steps if self.common else ahead)


@dataclass(frozen=True, eq=False)
class Equations:
    """The equations of N series.

    Args:
        data: v and the regressors. targets [points]: u beside them. psi [N, H].
        use: bool [N, K], the columns of a series. reach: int64 [N] on the host >= its lags.
    """

    columns: Columns
    data: Ragged
    targets: Tensor
    psi: Tensor
    use: Tensor
    reach: Tensor

    def solve(self) -> tuple[Tensor, Tensor]:
        """Coefficients [N, H, K] of every series' own equations, and squared residuals [N, H]."""
        device, shape = self.data.values.device, (*self.psi.shape, self.columns.width)
        if _native is not None and device.type == "cpu":
            return self._natively()
        parts = [self._own(rows) for rows in self._chunks()]
        if not parts:
            return self.psi.new_zeros(shape), self.psi.new_zeros(shape[:2])
        return torch.cat([c for c, _ in parts]), torch.cat([s for _, s in parts])

    def _natively(self) -> tuple[Tensor, Tensor]:
        assert _native is not None
        data, columns = self.data, self.columns
        out = self.psi.new_empty(*self.psi.shape, columns.width)
        squares = torch.empty_like(self.psi, memory_format=torch.contiguous_format)
        known = data.values.new_zeros(0, 0) if data.known is None else data.known
        given = (
            *(data.values, self.targets, known, data.begin, data.end, self.psi),
            *(torch.tensor(columns.lags), self.use.to(torch.uint8), self.reach),
        )
        _native.chainrule_series_equations(
            *[x.contiguous().numpy() for x in given],
            columns.ridge,
            columns.common,
            out.numpy(),
            squares.numpy(),
            torch.get_num_threads(),
        )
        return out, squares

    def _own(self, rows: slice) -> tuple[Tensor, Tensor]:
        chunk = self._windows(rows)
        gram, penalty = chunk.gram(), self._penalty(chunk.count())
        found = torch.zeros_like(penalty)
        for _ in range(2):  # the normal equations, and one refinement
            right = chunk.right(chunk.left(found)) - penalty * found
            found = found + _back(gram, penalty, right)
        return found, chunk.left(found).square().sum(1)

    def solve_pooled(self) -> tuple[Tensor, Tensor]:
        """One set of coefficients [H, K] for all series, and each series' own squares [N, H]."""
        steps, width = self.psi.shape[1], self.columns.width
        found, squares = self.psi.new_zeros(steps, width), torch.zeros_like(self.psi)
        gram, count = self.psi.new_zeros(steps, width, width), self.psi.new_zeros(steps)
        for turn in range(3):  # the normal equations, one refinement, the residuals
            right = torch.zeros_like(found)
            for rows in self._chunks():
                chunk = self._windows(rows)
                left = chunk.left(found.expand(len(chunk.own), -1, -1))
                right += chunk.right(left).sum(0)
                squares[rows] = left.square().sum(1)
                if turn == 0:
                    gram += chunk.gram().sum(0)
                    count += chunk.count().sum(0)
            if turn < 2:
                penalty = self._penalty(count)
                found = found + _back(gram, penalty, right - penalty * found)
        return found, squares

    def _penalty(self, rows: Tensor) -> Tensor:
        """What ridge adds to the diagonal, [*, H, K]."""
        out = rows.new_zeros(*rows.shape, self.columns.width)
        out[..., 1:] = self.columns.ridge * rows[..., None]
        return out

    def _chunks(self) -> Iterator[slice]:
        longest, steps = int(self.data.lens.max()) if len(self.data) else 0, self.psi.shape[1]
        each = longest * (self.columns.width + steps * (1 + self.columns.known))
        each += steps * self.columns.width**2
        count = max(1, (_NEAR if self.psi.device.type == "cpu" else _FAR) // each)
        for at in range(0, len(self.data), count):
            yield slice(at, min(at + count, len(self.data)))

    def _windows(self, rows: slice) -> _Windows:
        begin, end, steps = self.data.begin[rows], self.data.end[rows], self.psi.shape[1]
        v, lags, use = Ragged(self.data.values, begin, end).padded()[0], self.columns.lags, self.use
        width = max(1, v.shape[1])
        v = torch.nn.functional.pad(v, (width - v.shape[1], 0))
        place = torch.arange(width, device=v.device)
        there = place >= (width - (end - begin) + self.reach[rows]).to(v.device)[:, None]
        longest = max(lags, default=0)
        wide = torch.nn.functional.pad(v, (longest, 0))
        shifted = [wide[:, longest - lag : longest - lag + width] for lag in lags]
        own = torch.stack([torch.ones_like(v), *shifted], -1)
        own = own * (there[..., None] & use[rows, None, : 1 + len(lags)])
        step = torch.arange(steps, device=v.device)
        back = step[None, :] - step[:, None]  # of a step ahead, the errors before it
        weights = torch.where(back >= 0, self.psi[rows][:, back.clamp_min(0)], 0.0)
        last = width - (torch.full_like(step, steps) if self.columns.common else step + 1)
        keep = there[..., None] & (place[:, None] <= last)

        def ahead(x: Tensor) -> Tensor:
            """Σ_j psi_{h-j} x_{s+j} of x [points]: [N, T, H]."""
            y = Ragged(x, begin, end).padded()[0]
            y = torch.nn.functional.pad(y, (width - y.shape[1], steps - 1))
            return y.unfold(1, steps, 1) @ weights * keep

        beside = own.new_zeros(*keep.shape, self.columns.known)
        for f in range(self.columns.known):
            assert self.data.known is not None
            beside[..., f] = ahead(self.data.known[:, f])
        beside *= use[rows, None, None, 1 + len(lags) :]
        return _Windows(own, beside, ahead(self.targets), keep)


@dataclass(frozen=True, eq=False)
class _Windows:
    """Windows of some series by target place s, 0 where there is none: own [N, T, 1 + L],
    beside [N, T, H, F], y and keep [N, T, H]."""

    own: Tensor
    beside: Tensor
    y: Tensor
    keep: Tensor

    def count(self) -> Tensor:
        """Float64 [N, H]."""
        return self.keep.sum(1).double()

    def left(self, found: Tensor) -> Tensor:
        """Residuals [N, T, H] under coefficients [N, H, K]."""
        width = self.own.shape[2]
        left = self.y - self.own @ found[..., :width].mT * self.keep
        if self.beside.shape[3]:
            left = left - (self.beside * found[:, None, :, width:]).sum(-1)
        return left

    def right(self, left: Tensor) -> Tensor:
        """Every column times [N, T, H]: [N, H, K]."""
        beside = torch.einsum("nthf,nth->nhf", self.beside, left)
        return torch.cat([(self.own.mT @ left).mT, beside], -1)

    def gram(self) -> Tensor:
        """[N, H, K, K]: later steps lack the last rows, so those are added one by one."""
        rows = (
            self.keep.any(0) * torch.arange(1, self.keep.shape[1] + 1).to(self.own.device)[:, None]
        ).amax(0)
        least, most = int(rows.min()), int(rows.max())
        first, rest = self.own[:, :least], self.own[:, least:most]
        each = rest[..., None] * rest[..., None, :]
        sums = torch.cat([(first.mT @ first)[:, None], each], 1).cumsum(1)
        own = sums[:, rows - least]
        if not self.beside.shape[3]:
            return own
        cross = (self.own.mT @ self.beside.flatten(2)).unflatten(2, self.beside.shape[2:])
        cross = cross.permute(0, 2, 1, 3)  # [N, H, 1 + L, F]
        both = torch.einsum("nthf,nthg->nhfg", self.beside, self.beside)
        return torch.cat([torch.cat([own, cross], -1), torch.cat([cross.mT, both], -1)], -2)


def _back(gram: Tensor, penalty: Tensor, right: Tensor) -> Tensor:
    """(gram + penalty)^-1 right, with a little more on the diagonal: [*, K]."""
    own = gram.diagonal(dim1=-2, dim2=-1)
    more = own * _LOAD + penalty + (own + penalty <= 0)
    lower = torch.linalg.cholesky_ex(gram + torch.diag_embed(more)).L
    found = torch.cholesky_solve(right[..., None], lower)[..., 0]
    return torch.where(found.isfinite(), found, 0.0)
