"""Levinson-Durbin, Burg and the guard that keeps recursions stable: native/levinson.cpp in torch.

Shapes: N series, T points of the longest, P lags.
"""

from __future__ import annotations

import torch
from torch import Tensor

_NOTHING = 1e-14  # less than this part of a variance is rounding
_HALVINGS = 40


def _step_up(path: Tensor, k: int, reflection: Tensor) -> None:
    before = path[:, k - 1, : k - 1]
    path[:, k, : k - 1] = before - reflection[:, None] * before.flip(1)
    path[:, k, k - 1] = reflection


def _spent(total: Tensor, variance: Tensor, of: Tensor) -> Tensor:
    some = variance > _NOTHING * of
    return torch.where(some, total, 0.0) / torch.where(some, variance, 1.0)


def levinson(w: Tensor, rows: Tensor, count: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Coefficients [N, order + 1, order] and error variances [N, order + 1] of every order."""
    width = w.shape[1]
    r = [
        (w[:, min(k, width) :] * w[:, : max(width - k, 0)]).sum(1) / count for k in range(most + 1)
    ]
    path, variance = w.new_zeros(len(w), most + 1, most), [r[0]]
    for k in range(1, most + 1):
        total = r[k]
        for i in range(k - 1):
            total = total - path[:, k - 1, i] * r[k - 1 - i]
        reflection = _spent(total, variance[-1], r[0])
        _step_up(path, k, reflection)
        variance.append(variance[-1] * (1 - reflection * reflection).clamp_min(0))
    return path, torch.stack(variance, 1)


def burg(w: Tensor, rows: Tensor, count: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The same by Burg's recursion."""
    path, variance = w.new_zeros(len(w), most + 1, most), [(w * w).sum(1) / count]
    ahead, back = w, w
    for k in range(1, most + 1):
        rows = rows & rows.roll(1, 1)
        rows[:, : min(k, rows.shape[1])] = False
        shifted = torch.where(rows, back.roll(1, 1), 0.0)
        ahead = torch.where(rows, ahead, 0.0)
        size = (ahead * ahead + shifted * shifted).sum(1)
        some = variance[-1] > _NOTHING * variance[0]
        both = torch.where(some, 2 * (ahead * shifted).sum(1), 0.0)
        reflection = both / torch.where(size > 0, size, 1.0)
        _step_up(path, k, reflection)
        variance.append(variance[-1] * (1 - reflection * reflection).clamp_min(0))
        r = reflection[:, None]
        ahead, back = ahead - r * shifted, shifted - r * ahead
    return path, torch.stack(variance, 1)


def stable(phi: Tensor) -> Tensor:
    """bool [N], by Levinson-Durbin backwards: all reflection coefficients are below 1 in size."""
    fine = torch.ones_like(phi[:, 0], dtype=torch.bool)
    small = phi.abs().sum(1) < 1
    a = phi
    for m in range(phi.shape[1], 0, -1):
        k = a[:, -1:]
        rest = 1 - k * k
        fine &= rest[:, 0] > 0
        a = a[:, : m - 1]
        a = (a + k * a.flip(1)) / torch.where(rest > 0, rest, 1.0)
    return fine | small


def shrunk(phi: Tensor) -> tuple[Tensor, Tensor]:
    """phi_i radius^i with the largest root just inside, and radius [N]."""
    radius = torch.ones_like(phi.sum(1))
    if phi.shape[1] == 0:
        return phi, radius
    outside = ~stable(phi)
    if not bool(outside.any()):
        return phi, radius
    some, powers = phi[outside], torch.arange(1, phi.shape[1] + 1, device=phi.device)
    low, high = torch.zeros_like(some[:, 0]), torch.ones_like(some[:, 0])
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fine = stable(some * middle[:, None] ** powers)
        low, high = torch.where(fine, middle, low), torch.where(fine, high, middle)
    radius[outside] = low
    out = phi.clone()
    out[outside] = some * low[:, None] ** powers
    return out, radius
