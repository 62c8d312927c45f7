"""LAYER 1: the compiled step engine, and what the machine under it can do. No torch here."""

from __future__ import annotations

import os
from collections.abc import Callable

from chainrule.native import _native

# Ancestral sampling from an n-gram's tables; None where it wasn't built.
ngram_rollout: Callable[..., None] | None = getattr(_native, "chainrule_ngram_rollout", None)

__all__ = ["cpu_features", "kernels", "native_available", "ngram_rollout", "num_cores"]


def native_available() -> bool:
    """True where the compiled part was built and loads."""
    return _native is not None


def cpu_features() -> dict[str, bool]:
    """The instruction sets that matter here, by name; empty if they can't be told."""
    return {} if _native is None else dict(_native.chainrule_features())


def kernels() -> str | None:
    """The kernels that run on this processor: portable, avx2 or avx512; None without any."""
    return None if _native is None else str(_native.chainrule_used())


def num_cores() -> int:
    """The cores that this process may use, at least one."""
    told = 0 if _native is None else int(_native.chainrule_num_cores())
    return told or os.cpu_count() or 1
