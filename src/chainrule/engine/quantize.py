"""Narrow weights, row by row as they lie on disk and as the compiled engine packs them.

int8 and q4 have one bf16 scale for each group of columns, chosen before the weights are rounded,
so it costs nothing that it is narrow itself. int8-row has one float32 scale a row.
Shapes: M rows (outputs), K columns (inputs), N groups of columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from chainrule.native import _native

DType = Literal["f32", "bf16", "int8", "int8-row", "q4"]
DTYPES: tuple[DType, ...] = ("f32", "bf16", "int8", "int8-row", "q4")
Cache = Literal["auto", "int8"]  # keys and values; auto: f32 where weights are, else bf16
CACHES: tuple[Cache, ...] = ("auto", "int8")
Kept = Literal["f32", "bf16", "int8"]
KEPT: tuple[Kept, ...] = ("f32", "bf16", "int8")
GROUP = {"int8": 64, "q4": 32}  # columns that share a scale
_TRIES = 12  # scales that q4 tries for every group and sign


@dataclass(frozen=True, eq=False)
class Narrow:
    """Rows of a matrix in one dtype.

    ``data``: float32, or bfloat16, or int8 [M, K]; q4: uint8 [M, ceil(K / 2)], w / scale + 8, the
    even column in the low half. ``scale``: bfloat16 [M, N], float32 [M] for int8-row.
    """

    dtype: DType
    data: Tensor
    scale: Tensor | None
    columns: int

    def wide(self) -> Tensor:
        """Float32 [M, K]."""
        if self.dtype in ("f32", "bf16"):
            return self.data.float()
        assert self.scale is not None
        if self.dtype == "int8-row":
            return self.data.float() * self.scale[:, None]
        w = self.data
        if self.dtype == "q4":
            w = torch.stack([w & 15, w >> 4], -1).flatten(1)[:, : self.columns].to(torch.int8) - 8
        scale = self.scale.float().repeat_interleave(GROUP[self.dtype], 1)
        return w.float() * scale[:, : self.columns]


def narrow(w_MK: Tensor, dtype: DType) -> Narrow:
    """Round a matrix of floats.

    Raises:
        ValueError: weights that are not finite.
    """
    w = w_MK.detach().float()
    if not np.isfinite(w.numpy()).all():  # torch's takes two megabytes of code
        raise ValueError("weights that are not finite can't be rounded")
    columns = w.shape[1]
    if dtype == "f32":
        return Narrow(dtype, w.contiguous(), None, columns)
    if dtype == "bf16":
        return Narrow(dtype, w.bfloat16(), None, columns)
    if dtype == "int8-row":
        row = w.abs().amax(1) / 127
        return Narrow(dtype, _rounded(w, row[:, None], 127).to(torch.int8), row, columns)
    group = GROUP[dtype]
    groups = -(-columns // group)
    padded = F.pad(w, (0, groups * group - columns)) if columns % group else w
    w_MNG = padded.unflatten(1, (groups, group))
    if dtype == "int8":
        scale = (w_MNG.abs().amax(-1) / 127).bfloat16()
        q = _rounded(w_MNG, scale.float()[..., None], 127).to(torch.int8).flatten(1)
        return Narrow(dtype, q[:, :columns].contiguous(), scale, columns)
    scale = _scales(w_MNG)
    q = _rounded(w_MNG, scale.float()[..., None], 7).add_(8).flatten(1)
    q = F.pad(q[:, :columns], (0, 1), value=8) if columns % 2 else q[:, :columns]
    q = q.unflatten(1, (-1, 2))  # whole numbers below 256, still floats: fewer of torch's kernels
    return Narrow(dtype, q[..., 0].add(q[..., 1], alpha=16).to(torch.uint8), scale, columns)


def _rounded(w: Tensor, scale: Tensor, most: int) -> Tensor:
    low = -8 if most == 7 else -most
    return (w / torch.where(scale == 0, 1, scale)).round_().clamp_(low, most)


def _scales(w_MNG: Tensor) -> Tensor:
    """For -8 … 7: of several scales a group, the one with the least squared error."""
    if _native is not None:
        found = torch.empty(w_MNG.shape[:2], dtype=torch.int16)
        groups = w_MNG.reshape(-1, w_MNG.shape[2]).contiguous()
        _native.chainrule_q4_scales(groups.numpy(), _TRIES, found.view(-1).numpy())
        return found.view(torch.bfloat16)
    top = w_MNG.gather(-1, w_MNG.abs().argmax(-1, keepdim=True))[..., 0]
    best, least = torch.zeros_like(top, dtype=torch.bfloat16), torch.full_like(top, torch.inf)
    for sign in (-1, 1):
        for i in range(_TRIES):
            scale = (sign * top / (8.5 - 0.25 * i)).bfloat16()
            wide = scale.float()[..., None]
            error = (_rounded(w_MNG, wide, 7).mul_(wide) - w_MNG).square_()
            while error.shape[-1] > 1:  # in one order, whatever the processor
                error = error[..., : error.shape[-1] // 2] + error[..., error.shape[-1] // 2 :]
            error = error[..., 0]
            better = error < least
            best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best
