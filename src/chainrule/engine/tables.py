"""Lookups instead of products: what depends on a symbol alone is computed once for each of them.

The first layer's share of an RNN's gates, say, is a function of the symbol; for a small alphabet
its table takes less than twice the weights. The machine itself fills it, so that no bit changes.
Shapes: V rows of an embedding, D width of a buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from chainrule.engine import program as p

# Functions of nothing but what they read.
_ALONE = (p.Linear, p.Bias, p.Add, p.Mul, p.Norm, p.Activate, p.Gate)
_MOST = 64  # ops that are looked at: the sets of those behind them grow with the square
_READS = ("x", "a", "b", "q", "k", "v", "edge")
_WEIGHTS = (
    "weight", "bias", "rate", "phase", "contexts", "grams", "values", "backoff", "index",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Table(p.Op):
    """The symbol's row of ``made`` float32 [V, D]: an op of the machine's alone."""

    name = "table"
    made: Tensor


def weights_of(ops: Sequence[p.Op]) -> set[str]:
    """The weights that the ops name."""
    named = (getattr(op, field, None) for op in ops for field in _WEIGHTS)
    return {name for name in named if isinstance(name, str)}


def tabled(
    program: p.Program,
    size: Callable[[str], int],
    make: Callable[[Sequence[p.Op], str, int], Tensor],
) -> tuple[p.Op, ...]:
    """The program's ops, some of them replaced by tables of less than twice their weights' size.

    Args:
        size: bytes of a weight as it would be held.
        make: given ops, a buffer and V, what they leave in it for every symbol [V, D].
    """
    needs, read = _alone(program)
    chosen: dict[int, int] = {}  # op to V
    for last in sorted(read, reverse=True):
        stay = _stay(program, needs, read - chosen.keys())
        without = _stay(program, needs, read - chosen.keys() - {last})
        gone = weights_of([program.ops[i] for i in stay]) - weights_of(
            [*(program.ops[i] for i in without), *program.head, *program.rows, *program.pixels]
        )
        behind = (program.ops[i] for i in needs[last])
        rows = min(program.weights[e.weight].shape[0] for e in behind if isinstance(e, p.Embed))
        table = 4 * rows * program.buffers[program.ops[last].out].dim
        if table < 2 * sum(size(name) for name in gone):
            chosen[last] = rows
    kept = _stay(program, needs, read - chosen.keys())
    ops: list[p.Op] = []
    for i, op in enumerate(program.ops):
        if i in chosen:
            needed = [program.ops[k] for k in sorted(needs[i])]
            ops.append(Table(op.out, make(needed, op.out, chosen[i])))
        elif i in kept:
            ops.append(op)
    return tuple(ops)


def _alone(program: p.Program) -> tuple[dict[int, set[int]], set[int]]:
    """Of each op that depends on the symbol alone, those behind its value; which others read."""
    newest: dict[str, int] = {}
    needs: dict[int, set[int]] = {}
    read: set[int] = set()
    for i, op in enumerate(program.ops):
        names = [getattr(op, field) for field in _READS if getattr(op, field, None) is not None]
        before = {newest[program.buffers[name].of or name] for name in names}
        begins = isinstance(op, p.Embed) and op.of == "symbol"
        goes_on = isinstance(op, _ALONE) and before <= needs.keys()
        if len(needs) < _MOST and (begins or goes_on):
            needs[i] = {i}.union(*(needs[k] for k in before))
        else:
            read |= before & needs.keys()
        newest[op.out] = i
    return needs, read | {newest[program.hidden]} & needs.keys()


def _stay(program: p.Program, needs: dict[int, set[int]], read: set[int]) -> set[int]:
    """The ops that run where only ``read`` is computed anew."""
    others = set(range(len(program.ops))) - needs.keys()
    return others.union(*(needs[i] for i in read))
