"""How many sequences are drawn at a time: no symbol depends on it, but memory does.

Shapes: T symbols of a sequence.
"""

from __future__ import annotations

import torch

from chainrule.core.model import Condition, SequenceModel
from chainrule.core.state import Fixed, Grow, State, Window

MOST = 64  # more only cost memory
BYTES = 2**30  # of all states together, where a row takes less


def rows_at_once(model: SequenceModel, n: int, length: int, cond: Condition | None = None) -> int:
    """Of ``n`` rows of T = ``length`` symbols, as many as their states leave room for.

    ``cond``: of one row.
    """
    if n == 1:
        return 1
    with torch.no_grad():
        return max(1, min(n, MOST, BYTES // row_bytes(model.start(1, cond), length)))


def row_bytes(state: State, length: int) -> int:
    """What a state of one row takes once it holds ``length`` symbols, about."""
    total = 0.0
    for leaf in state.leaves.values():
        if isinstance(leaf, Grow):
            total += leaf.slab.tensor.nbytes * max(1.0, (length + 1) / max(1, leaf.capacity))
        elif isinstance(leaf, Window | Fixed):
            total += leaf.t.nbytes
    return max(1, int(total))
