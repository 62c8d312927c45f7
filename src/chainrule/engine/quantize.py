"""Narrow weights, row by row as they lie on disk and as the compiled engine packs them.

int8 and q4 have one bf16 scale for each group of columns, chosen before the weights are rounded,
so it costs nothing that it is narrow itself. int8-row has one float32 scale a row. The blocks of
GGUF (q8_0, q4_0, q4_1) are never rounded here: they are kept as a file has them.
Shapes: M rows (outputs), K columns (inputs), N groups of columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from chainrule.native import _native

DType = Literal["f32", "bf16", "int8", "int8-row", "q4", "q8_0", "q4_0", "q4_1", "gguf"]
DTYPES: tuple[DType, ...] = ("f32", "bf16", "int8", "int8-row", "q4")  # that floats are rounded to
BLOCKS: tuple[DType, ...] = ("q8_0", "q4_0", "q4_1")  # a matrix's own; such a run is "gguf"
Cache = Literal["auto", "int8"]  # keys and values; auto: f32 where weights are, else bf16
CACHES: tuple[Cache, ...] = ("auto", "int8")
Kept = Literal["f32", "bf16", "int8"]
KEPT: tuple[Kept, ...] = ("f32", "bf16", "int8")
GROUP = {"int8": 64, "q4": 32, **dict.fromkeys(BLOCKS, 32)}  # columns that share a scale
Precision = DType | Mapping[str, DType]  # of all matrices, or of "gguf" each tensor's, by name
_TRIES = 12  # scales that q4 tries for every group and sign


@dataclass(frozen=True, eq=False)
class Narrow:
    """Rows of a matrix in one dtype.

    ``data``: float32, or bfloat16, or int8 [M, K]; q4: uint8 [M, ceil(K / 2)], w / scale + 8, the
    even column in the low half. ``scale``: bfloat16 [M, N], float32 [M] for int8-row.
    Blocks: q8_0 is int8, q4_0 is q4, and q4_1 (w - minimum) / scale in halves; their ``scale`` and
    ``minimum`` are float16 [M, N].
    """

    dtype: DType
    data: Tensor
    scale: Tensor | None
    columns: int
    minimum: Tensor | None = None

    def parts(self, name: str) -> dict[str, Tensor]:
        """The tensors of a file that hold this matrix as ``name``; see ``layout``."""
        kept = (self.data, self.scale, self.minimum)
        behind = layout(self.dtype, len(self.data), self.columns)
        return {f"{name}{k}": t for k, t in zip(behind, kept, strict=False) if t is not None}

    def wide(self) -> Tensor:
        """Float32 [M, K]."""
        if self.dtype in ("f32", "bf16"):
            return self.data.float()
        assert self.scale is not None
        if self.dtype == "int8-row":
            return self.data.float() * self.scale[:, None]
        w = self.data
        if w.dtype == torch.uint8:
            w = torch.stack([w & 15, w >> 4], -1).flatten(1)[:, : self.columns].to(torch.int8)
            w = w if self.minimum is not None else w - 8
        scale, least = (
            None if t is None else t.float().repeat_interleave(GROUP[self.dtype], 1)
            for t in (self.scale, self.minimum)
        )
        assert scale is not None
        wide = w.float() * scale[:, : self.columns]
        return wide if least is None else wide + least


def layout(dtype: DType, rows: int, columns: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of the tensors that hold a matrix, by what stands behind its name.

    Raises:
        ValueError: columns that don't fill the blocks of GGUF.
    """
    if dtype in ("f32", "bf16"):
        return {"": ((rows, columns), torch.float32 if dtype == "f32" else torch.bfloat16)}
    if dtype == "int8-row":
        return {".data": ((rows, columns), torch.int8), ".scale": ((rows,), torch.float32)}
    if dtype in BLOCKS and columns % GROUP[dtype]:
        raise ValueError(f"{columns} columns don't fill {dtype}'s blocks of {GROUP[dtype]}")
    eight = dtype in ("int8", "q8_0")
    width, group = columns if eight else -(-columns // 2), -(-columns // GROUP[dtype])
    found: dict[str, tuple[tuple[int, ...], torch.dtype]]
    found = {".data": ((rows, width), torch.int8 if eight else torch.uint8)}
    found[".scale"] = (rows, group), torch.float16 if dtype in BLOCKS else torch.bfloat16
    return found | ({".minimum": found[".scale"]} if dtype == "q4_1" else {})


def blocks(dtype: DType, data: Tensor, scale: Tensor, minimum: Tensor | None = None) -> Narrow:
    """A matrix in the blocks of GGUF, as ``Narrow`` has them; ``parts`` is what a run stores.

    Raises:
        ValueError: an unknown kind, other shapes or types, or scales that are not finite.
    """
    if dtype not in BLOCKS:
        raise ValueError(f"{dtype!r} is not one of {', '.join(BLOCKS)}")
    kept = {".data": data, ".scale": scale, ".minimum": minimum}
    found = {k: (tuple(t.shape), t.dtype) for k, t in kept.items() if t is not None}
    rows, width = data.shape if data.ndim == 2 else (0, 0)
    columns = width if dtype == "q8_0" else 2 * width
    if not rows * width or found != layout(dtype, rows, columns):
        raise ValueError(f"{dtype} has other parts than {found}")
    for part in (scale, minimum):
        if part is not None and not np.isfinite(part.numpy()).all():
            raise ValueError(f"{dtype} blocks with scales that are not finite")
    return Narrow(dtype, data, scale, columns, minimum)


def narrow(w_MK: Tensor, dtype: DType) -> Narrow:
    """Round a matrix of floats to one of ``DTYPES``.

    Raises:
        ValueError: weights that are not finite, or another dtype.
    """
    if dtype not in DTYPES:
        raise ValueError(f"floats are rounded to one of {', '.join(DTYPES)}, not to {dtype}")
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
