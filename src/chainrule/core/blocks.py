"""Positions that come to an end: a new block begins each half context, with the other half in it.

Shapes: B rows, L symbols in this call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from chainrule.core.state import State


def block(consumed: int, context: int) -> tuple[int, int]:
    """The first symbol of the block that predicts symbol ``consumed``, and of the next one."""
    stride = context // 2
    number = 0 if consumed < context else (consumed - context) // stride + 1
    return number * stride, context + number * stride


def rooms(cached: Sequence[int], lens: Sequence[int], context: int) -> list[int]:
    """How many symbols each row's block has room for; ``cached``: positions in its cache."""
    out = []
    for held, n in zip(cached, lens, strict=True):
        begin, end = block(n, context)
        # A cache of another length belongs to a block that was left by a rewind.
        out.append(end - n - 1 if held == n - begin + 1 else 0)
    return out


def cross(
    state: State,
    x_B1: Tensor,
    over: Sequence[bool],
    context: int,
    within: Callable[[State, Tensor], State],
    anew: Callable[[State, Tensor, Tensor], State],
) -> State:
    """One symbol more, where some rows need their block encoded anew.

    ``within`` takes rows whose block goes on; ``anew`` one row, its symbol [1, 1], and the symbols
    [1, L] of its new block, that one included.
    """
    rows = range(len(over))
    parts, order = [], []
    if not all(over):
        order += [b for b in rows if not over[b]]
        parts.append(within(state.select(order), x_B1[order]))
    for b in (b for b in rows if over[b]):
        order.append(b)
        alone, x = state.select([b]), x_B1[b : b + 1]
        symbols = torch.cat([alone.window("symbols"), x], 1)
        inside = state.lens[b] + 1 - block(state.lens[b] + 1, context)[0]
        parts.append(anew(alone, x, symbols[:, symbols.shape[1] - inside :]))
    return State.concat(parts).select([order.index(b) for b in rows])
