"""Least squares on lags and regressors, batched: native/least_squares.cpp in torch.

Shapes: N series, T points of the longest, C columns (seasonal lags, regressors, lags).
"""

from __future__ import annotations

import torch
from torch import Tensor

_DEPENDENT = 1e-13  # a pivot below this part of its column: a sum of those before it
_NOTHING = 1e-14  # less than this part of a sum of squares is rounding
_SAFE = 1e-4  # pivots above it cost four digits at most: no refinement


class Squares:
    """Least squares of N series at once; native/least_squares.h has the words.

    Columns: seasonal lags, regressors, lags 1, 2, …; ``active`` [N, C]. ``rows`` bool [N, T].
    """

    def __init__(
        self,
        w: Tensor,
        known: Tensor,
        lag: Tensor,
        active: Tensor,
        constant: Tensor,
        rows: Tensor,
    ) -> None:
        self.w, self.active, self.constant, self.rows = w, active, constant, rows
        width = w.shape[1]
        columns = [w.roll(int(a), 1) if a else w for a in lag.tolist()]
        x = torch.stack(columns, 2)
        if known.shape[2]:
            x[:, :, lag == 0] = known.expand(-1, width, -1)
        self.all = torch.where(active[:, None], x, 0.0)
        self.x = torch.where(rows[..., None], self.all, 0.0)
        self.y = torch.where(rows, w, 0.0)
        self.count = rows.sum(1).clamp_min(1)
        full = torch.cat([self.x, self.y[..., None]], 2)
        raw = full.transpose(1, 2) @ full
        self.size = raw.diagonal(dim1=1, dim2=2).clone()
        self.sums = full.sum(1)
        shift = self.sums[:, :, None] * self.sums[:, None] / self.count[:, None, None]
        self.raw = raw - torch.where(constant[:, None, None], shift, 0.0)
        self.factor(torch.zeros_like(self.w[:, 0]))

    def factor(self, penalty: Tensor) -> None:
        """Gauss without exchanges; what each column leaves of the squares goes to ``left``."""
        u, width = self.raw.clone(), self.active.shape[1]
        own = u.diagonal(dim1=1, dim2=2)[:, :width]
        own *= 1 + penalty[:, None]
        self.inverse = torch.zeros_like(self.size)
        least = torch.ones_like(penalty)
        left = [u[:, -1, -1].clone()]
        for j in range(width):
            pivot = u[:, j, j].clone()
            kept = pivot > _DEPENDENT * self.size[:, j]
            inverse = torch.where(kept, 1 / torch.where(kept, pivot, 1.0), 0.0)
            self.inverse[:, j] = inverse
            share = torch.where(kept, pivot / torch.where(kept, self.size[:, j], 1.0), 0.0)
            least = torch.where(self.active[:, j], torch.minimum(least, share), least)
            row = u[:, j, j + 1 :].clone()
            u[:, j + 1 :, j + 1 :] -= (row * inverse[:, None])[:, :, None] * row[:, None]
            left.append(u[:, -1, -1].clone())
        target = self.size[:, -1]
        share = left[-1] / torch.where(target > 0, target, 1.0)
        self.lossy = torch.where(target > 0, torch.minimum(least, share), least) < _SAFE
        self.u = u
        floor = (_NOTHING * target)[:, None]
        self.left = torch.maximum(torch.stack(left, 1), floor)

    def solve(self, used: Tensor) -> Tensor:
        """b [N, C] of the columns where ``used`` [N, C]."""
        return self._back(self.u[:, :-1, -1], used)

    def _back(self, s: Tensor, used: Tensor) -> Tensor:
        b = torch.zeros_like(s)
        for j in range(s.shape[1] - 1, -1, -1):
            total = s[:, j] - (self.u[:, j, j + 1 : -1] * b[:, j + 1 :]).sum(1)
            b[:, j] = torch.where(used[:, j], total * self.inverse[:, j], 0.0)
        return b

    def mean(self, b: Tensor) -> Tensor:
        """The constants beside b."""
        total = self.sums[:, -1] - (b * self.sums[:, :-1]).sum(1)
        return torch.where(self.constant, total / self.count, 0.0)

    def residuals(self, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, T] of mean zero, the constants that make them so, the sums of their squares."""
        r = self.y - (self.x @ b[..., None])[..., 0]
        mean = torch.where(self.constant, r.sum(1) / self.count, 0.0)
        r = torch.where(self.rows, r - mean[:, None], 0.0)
        return r, mean, (r * r).sum(1)

    def refine(self, b: Tensor) -> Tensor:
        """b again with true residuals, where the elimination has lost digits."""
        going, before = self.lossy, torch.full_like(self.w[:, 0], torch.inf)
        for _ in range(8):
            if not bool(going.any()):
                break
            r, _, _ = self.residuals(b)
            s = (r[:, None] @ self.x)[:, 0]
            for j in range(s.shape[1]):
                part = s[:, j] * self.inverse[:, j]
                s[:, j + 1 :] -= self.u[:, j, j + 1 : -1] * part[:, None]
            step = self._back(s, self.active)
            moved = (step * step * self.size[:, :-1]).amax(1)
            size = (b * b * self.size[:, :-1]).amax(1)
            going = going & (moved < before)
            b = torch.where(going[:, None], b + step, b)
            going = going & (moved > 1e-28 * size)
            before = moved
        return b

    def ridge(self) -> Tensor:
        """b with the penalty of Hoerl, Kennard and Baldwin."""
        b = self.refine(self.solve(self.active))
        _, _, squares = self.residuals(b)
        width = self.active.sum(1)
        size = (b * b * self.raw.diagonal(dim1=1, dim2=2)[:, :-1]).sum(1)
        free = self.rows.sum(1) - width - 1
        some = (size > 0) & (free >= 1)
        share = width * (squares / free.clamp_min(1)) / torch.where(some, size, 1.0)
        self.factor(torch.where(some, share, 0.0))
        return self.solve(self.active)
