"""What training asks of the machine: memory that stays, and bfloat16 where it pays."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import sys

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
    kept = mallopt(_MMAP, _KEPT) and mallopt(_TRIM, 2 * _KEPT - 1)
    if kept:
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages; torch reads it once
    return bool(kept)


def compiling_pays() -> bool:
    """Whether torch.compile makes training faster here: on a GPU.

    On a processor what it would fuse is one node already (``nn/block.py``, ``nn/scan.py``).
    """
    return torch.cuda.is_available() and importlib.util.find_spec("triton") is not None


def training_precision(device: torch.device) -> torch.autocast:
    """The context of a forward pass in training: bfloat16 products where they are faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=_bfloat16_pays(device.type))


@functools.cache
def _bfloat16_pays(kind: str) -> bool:
    """The processor is asked, not timed: a busy machine would change the result of a run."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if kind != "cpu" or not torch.backends.mkldnn.is_available():
        return False  # without oneDNN, such products are some 50 times slower
    can = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))
