"""What training asks of the machine: memory that stays, and bfloat16 where it pays."""

from __future__ import annotations

import ctypes
import functools
import sys
import time

import torch

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_KEPT = 1 << 30  # bytes


@functools.cache
def keep_memory() -> bool:
    """Let glibc keep what a step frees for the next step; whether that worked.

    By default every tensor above 32 MB is mapped anew, page fault by page fault. The price: the
    process does not shrink again.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not glibc
        return False
    return bool(mallopt(_MMAP, _KEPT) and mallopt(_TRIM, 2 * _KEPT - 1))


def training_precision(device: torch.device) -> torch.autocast:
    """The context of a forward pass in training: bfloat16 products where they are faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=_bfloat16_pays(device.type))


@functools.cache
def _bfloat16_pays(kind: str) -> bool:
    """By a test of about 20 ms, made once a process."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if kind != "cpu" or not torch.backends.mkldnn.is_available():
        return False  # without oneDNN, such products are some 50 times slower
    return _seconds(torch.bfloat16) * 1.3 < _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    a, b = torch.ones(256, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - began)
    return best
