"""The numbers of GGUF's tensors: blocks of columns that share a scale, to floats and back.

Layouts: ggml-common.h of llama.cpp. Rounding: its reference quantisers, bit for bit.
Shapes: M rows, K columns, N blocks in a row; raw is uint8 [M, bytes of a row].
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Kind = Literal["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"]

# The kinds by their number in a file, and those that nothing here reads.
KINDS: dict[int, Kind] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    8: "Q8_0",
    12: "Q4_K",
    14: "Q6_K",
    30: "BF16",
}
FOREIGN = {4: "Q4_2", 5: "Q4_3", 6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K"}
FOREIGN |= {13: "Q5_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S"}
FOREIGN |= {20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32"}
FOREIGN |= {27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"}
FOREIGN |= {40: "NVFP4", 41: "Q1_0"}

PLAIN: dict[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
# d: scale, m: minimum, s: narrow scales of parts of the block, q: the numbers
_LAYOUT = {
    "Q8_0": np.dtype([("d", "<f2"), ("q", "i1", 32)]),
    "Q4_0": np.dtype([("d", "<f2"), ("q", "u1", 16)]),
    "Q4_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)]),
    "Q4_K": np.dtype([("d", "<f2"), ("m", "<f2"), ("s", "u1", 12), ("q", "u1", 128)]),
    "Q6_K": np.dtype([("low", "u1", 128), ("high", "u1", 64), ("s", "i1", 16), ("d", "<f2")]),
}
# How many columns a block has, and how many bytes.
BLOCKS: dict[str, tuple[int, int]] = {
    **{kind: (1, dtype.itemsize) for kind, dtype in PLAIN.items()},
    **{kind: (256 if "K" in kind else 32, d.itemsize) for kind, d in _LAYOUT.items()},
}


def row_bytes(kind: str, columns: int) -> int:
    """Bytes of one row.

    Raises:
        ValueError: a kind that nothing here reads, or a row that isn't whole blocks.
    """
    if kind not in BLOCKS:
        raise ValueError(f"{kind} is not read here; what is: {', '.join(BLOCKS)}")
    block, size = BLOCKS[kind]
    if columns % block:
        raise ValueError(f"rows of {columns:,} are not whole blocks of {block} as {kind} needs")
    return columns // block * size


def wide(kind: str, raw: np.ndarray[Any, Any], columns: int) -> np.ndarray[Any, Any]:
    """Blocks of Q8_0, Q4_0, Q4_1, Q4_K or Q6_K as float32 [M, K].

    Raises:
        ValueError: another kind, or rows of another length.
    """
    blocks = _blocks(kind, raw, columns)
    with np.errstate(all="ignore"):  # scales may be infinite: what comes out then isn't finite
        scale = blocks["d"].astype(np.float32)[..., None]
        if kind == "Q8_0":
            out = blocks["q"] * scale
        elif kind == "Q4_0":
            out = (_nibbles(blocks["q"]).view(np.int8) - np.int8(8)) * scale
        elif kind == "Q4_1":
            out = _nibbles(blocks["q"]) * scale
            out += blocks["m"].astype(np.float32)[..., None]
        elif kind == "Q4_K":
            scales, minima = _six_bits(blocks["s"])
            low = blocks["m"].astype(np.float32)[..., None] * minima
            out = _nibbles(blocks["q"].reshape(*blocks.shape, 4, 32)).reshape(*blocks.shape, 8, 32)
            out = out * (scale * scales)[..., None]
            out -= low[..., None]
        else:
            out = _six_bit_numbers(blocks) * (scale * blocks["s"])[..., None]
    return out.reshape(len(raw), columns)


def _blocks(kind: str, raw: np.ndarray[Any, Any], columns: int) -> np.ndarray[Any, Any]:
    """[M, N], structured."""
    if kind not in _LAYOUT:
        raise ValueError(f"{kind} has no blocks; what has: {', '.join(_LAYOUT)}")
    if raw.dtype != np.uint8 or raw.ndim != 2 or raw.shape[1] != row_bytes(kind, columns):
        raise ValueError(f"{raw.dtype} {list(raw.shape)} is not rows of {columns:,} in {kind}")
    return np.ascontiguousarray(raw).view(_LAYOUT[kind])


def _nibbles(q: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The low halves of each run of bytes, then the high ones: uint8 […, 2 × bytes]."""
    return np.concatenate([q & 15, q >> 4], -1)


def _six_bits(s: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Q4_K's scales and minima, uint8 [M, N, 8] each; four of each keep two bits elsewhere."""
    d, m, rest = s[..., :4], s[..., 4:8], s[..., 8:]
    scales = np.concatenate([d & 63, (rest & 15) | ((d >> 2) & 48)], -1)
    return scales, np.concatenate([m & 63, (rest >> 4) | ((m >> 2) & 48)], -1)


def _six_bit_numbers(blocks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Q6_K's numbers, int8 [M, N, 16, 16], from -32 to 31."""
    low = _nibbles(blocks["low"].reshape(*blocks.shape, 2, 64)).reshape(*blocks.shape, 256)
    high = blocks["high"].reshape(*blocks.shape, 2, 1, 32)
    high = (high >> np.array([0, 2, 4, 6], np.uint8)[:, None]) & 3
    q = (low | (high.reshape(low.shape) << 4)).view(np.int8) - np.int8(32)
    numbers: np.ndarray[Any, Any] = q.reshape(*blocks.shape, 16, 16)
    return numbers


def parts(
    kind: str, raw: np.ndarray[Any, Any], columns: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Numbers, scales and minima of Q8_0, Q4_0 or Q4_1, for arithmetic on the blocks themselves.

    Returns:
        data: int8 [M, K] for Q8_0; else uint8 [M, K / 2], 0 to 15, the even column in the low
        half (Q4_0 means these less 8). scale: float16 [M, K / 32]. minimum: the same, for Q4_1.

    Raises:
        ValueError: another kind, or rows of another length.
    """
    if kind not in ("Q8_0", "Q4_0", "Q4_1"):
        raise ValueError(f"{kind} has more than one scale a block; Q8_0, Q4_0 and Q4_1 have not")
    blocks = _blocks(kind, raw, columns)
    q = blocks["q"]
    if kind != "Q8_0":
        # A byte of GGUF has columns j and j + 16 of its block; here it has 2j and 2j + 1.
        even, odd = q[..., 0::2], q[..., 1::2]
        q = np.concatenate([(even & 15) | (odd << 4), (even >> 4) | (odd & 240)], -1)
    data = torch.from_numpy(q.reshape(len(raw), -1))
    minimum = torch.from_numpy(blocks["m"].copy()) if kind == "Q4_1" else None
    return data, torch.from_numpy(blocks["d"].copy()), minimum


def pack(kind: str, rows: Tensor) -> np.ndarray[Any, Any]:
    """Floats [M, K] as uint8 [M, bytes of a row]; F32, F16, BF16, Q8_0 and Q4_0.

    Raises:
        ValueError: another kind, rows that aren't whole blocks, or numbers that are not finite or
            too large for the kind.
    """
    width = row_bytes(kind, rows.shape[1])
    if kind not in (*PLAIN, "Q8_0", "Q4_0"):
        raise ValueError(f"{kind} is not written; what is: {', '.join(PLAIN)}, Q8_0, Q4_0")
    rows = rows.detach().cpu()
    if not np.isfinite(rows.float().numpy()).all():
        raise ValueError("numbers that are not finite can't be written")
    if kind in PLAIN:
        cast = rows.to(PLAIN[kind]).contiguous()
        if not np.isfinite(cast.float().numpy()).all():
            raise ValueError(f"{rows.abs().max():g} is too large for {kind}")
        return cast.view(torch.uint8).numpy().reshape(len(rows), width)
    x = rows.float().numpy().reshape(len(rows), -1, 32)
    blocks = np.empty(x.shape[:2], _LAYOUT[kind])
    if kind == "Q8_0":
        scale = np.abs(x).max(-1, initial=0, keepdims=True) / 127
        y = x * _inverse(scale)
        whole = np.floor(np.abs(y))
        whole += np.abs(y) - whole >= 0.5  # halves go away from zero
        blocks["q"] = np.copysign(whole, y)
    else:
        # The number furthest from zero becomes -8, whichever sign it has.
        scale = np.take_along_axis(x, np.abs(x).argmax(-1, keepdims=True), -1) / -8
        q = (x * _inverse(scale) + np.float32(8.5)).astype(np.uint8).clip(0, 15)
        blocks["q"] = q[..., :16] | (q[..., 16:] << 4)
    with np.errstate(over="ignore", under="ignore"):
        blocks["d"] = scale[..., 0]
    if not np.isfinite(blocks["d"]).all():
        raise ValueError(f"{np.abs(x).max():g} is too large for {kind}")
    return blocks.view(np.uint8).reshape(len(rows), width)


def _inverse(scale: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """1 / scale, or 0 where that would be infinite: such a scale is 0 in float16 anyway."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = 1 / scale
    return np.where(np.isfinite(inverse), inverse, np.float32(0))
