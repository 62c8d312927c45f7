"""Matrices in GGUF's blocks, of random numbers.

Shapes: M rows and K columns of a matrix, N groups of 32 columns.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from chainrule.engine.quantize import DType, Narrow, blocks


def made(kind: DType, rows: int, columns: int, seed: int = 0, scale: float = 1.0) -> Narrow:
    """Any numbers that such blocks can have, with scales of either sign, 0, and far too small."""
    dice = torch.Generator().manual_seed(seed)
    shape = rows, columns // 32
    data = torch.randint(256, (rows, columns if kind == "q8_0" else columns // 2), generator=dice)
    width = scale / (127 if kind == "q8_0" else 8)
    scales, minimum = (width * torch.randn(shape, generator=dice).half() for _ in range(2))
    scales.flatten()[::7] *= 1e-4  # no longer normal numbers
    scales.flatten()[3::11] = 0
    data = (data - 128).to(torch.int8) if kind == "q8_0" else data.to(torch.uint8)
    return blocks(kind, data, scales, 4 * minimum if kind == "q4_1" else None)


def part(whole: Narrow, first: int, count: int) -> Narrow:
    """Some of its rows."""
    at = slice(first, first + count)
    scale, least = (None if t is None else t[at] for t in (whole.scale, whole.minimum))
    return replace(whole, data=whole.data[at], scale=scale, minimum=least)
