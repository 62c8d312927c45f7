"""Many series in scaled units, differenced, for the torch fit of ARIMA: native/arima_orders.h's.

Shapes: N series, T points of the longest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.series.batch import Ragged

_LEAST = 1e-300  # smaller sizes stay as they are
_HIGHEST = 1020  # so that every power of two here is finite
_FLAT = 1e-12  # a differenced series that moves less is constant


@dataclass(frozen=True, eq=False)
class Scaled:
    """x [N, T] = z / scale - loc / scale, right-aligned, zeros on the left.

    Args:
        loc, scale, level: [N]; level is the mean of the differenced x.
        raw [T, N]: the differenced x, zeros before row ``begin`` [N]. centred: less its level.
        flat, still: bool [N]: the differenced series is constant, and is zero.
    """

    x: Tensor
    loc: Tensor
    scale: Tensor
    raw: Tensor
    centred: Tensor
    level: Tensor
    begin: Tensor
    flat: Tensor
    still: Tensor


def scaled(z: Ragged, d: Tensor, D: Tensor, season: int, center: Tensor) -> Scaled:
    """``center``: bool [N]: loc is the mean of z, otherwise 0. d, D: int64 [N] on the host."""
    x, there = z.padded()
    if not x.shape[1]:
        x, there = x.new_zeros(len(x), 1), there.new_zeros(len(x), 1)
    d, D, center = d.to(x.device), D.to(x.device), center.to(x.device)
    count = there.sum(1).clamp_min(1)
    power = _power(x, torch.full_like(count, _HIGHEST))
    x = torch.ldexp(x, -power[:, None])
    first = x.gather(1, (x.shape[1] - there.sum(1, keepdim=True)) % x.shape[1])
    mean = first[:, 0] + torch.where(there, x - first, 0.0).sum(1) / count
    loc = torch.where(center, mean, 0.0)
    x = torch.where(there, x - loc[:, None], 0.0)
    fine = torch.where(center, _power(x, _HIGHEST - power), 0)
    x = torch.ldexp(x, -fine[:, None])
    loc, scale = torch.ldexp(loc, power), torch.ldexp(torch.ones_like(loc), power + fine)
    w = x
    for times, lag in ((D, season), (d, 1)):
        for step in range(int(times.max()) if len(times) else 0):
            on = (times > step)[:, None]
            less = w - torch.nn.functional.pad(w, (lag, 0))[:, : w.shape[1]]
            there = there & (~on | torch.nn.functional.pad(there, (lag, 0))[:, : w.shape[1]])
            w = torch.where(there, torch.where(on, less, w), 0.0)
    left = there.sum(1)
    level = w.sum(1) / left.clamp_min(1)
    centred = torch.where(there, w - level[:, None], 0.0)
    flat, still = (~(x.abs().amax(1) > _FLAT) for x in (centred, w))
    first = w.shape[1] - left
    across = w.T.contiguous(), centred.T.contiguous()
    return Scaled(x, loc, scale, *across, level, first, flat, still)


def _power(x: Tensor, highest: Tensor) -> Tensor:
    """int64 [N]: x [N, T] divided by 2 to these powers is at most 1 in size."""
    size = x.abs().amax(1)
    power = torch.minimum(torch.frexp(size).exponent.long(), highest)
    return torch.where(size > _LEAST, power, 0)
