"""From a Program to the native machine: names to numbers, weights into their packed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from chainrule.engine import program as p
from chainrule.engine.quantize import (
    BLOCKS,
    DTYPES,
    GROUP,
    KEPT,
    DType,
    Kept,
    Narrow,
    Precision,
    layout,
    narrow,
)
from chainrule.engine.tables import Table, tabled, weights_of
from chainrule.native import _native

_NUMBERS = (*DTYPES, *BLOCKS)  # as native/packed.h has them
_TIGHT = 2**25  # bytes of bf16 that no cache holds: these are packed tighter, without loss
_PART = 2**15  # values of a matrix that are rounded at a time: all of it may take more than is kept

# (weight, first row, count, wanted dtype): floats, or rows that are stored in that dtype.
Rows = Callable[[p.Weight, int, int, DType], Tensor | Narrow]


def flat(weight: p.Weight, rows: Tensor) -> Tensor:
    """Rows of a weight's tensor as rows of its matrix."""
    return rows.flatten(2).transpose(1, 2).flatten(1) if weight.taps else rows


def rows_of(tensors: Mapping[str, Tensor]) -> Rows:
    """Rows of tensors in memory."""

    def rows(weight: p.Weight, first: int, count: int, dtype: DType) -> Tensor:
        begin = weight.first + first
        return tensors[weight.source].detach()[begin : begin + count]

    return rows


def held(program: p.Program, dtype: Precision) -> dict[str, DType]:
    """What each matrix is held in: integers where it is multiplied, else bf16; or as it is kept."""
    if not isinstance(dtype, str):
        found = {k: w for k, w in program.weights.items() if w.kind == "matrix"}
        return {name: dtype.get(weight.source, "bf16") for name, weight in found.items()}
    products = {op.weight for op in program.every_op if isinstance(op, p.Linear | p.Cell)}
    wide: DType = dtype if dtype in ("f32", "bf16") else "bf16"
    return {
        name: dtype if name in products else wide
        for name, weight in program.weights.items()
        if weight.kind == "matrix"
    }


def kept_as(program: p.Program, dtype: Precision) -> dict[str, set[DType]]:
    """Of every tensor that has matrices of the program: what a run quantised to ``dtype`` holds."""
    found: dict[str, set[DType]] = {}
    for name, kind in held(program, dtype).items():
        found.setdefault(program.weights[name].source, set()).add(kind)
    return found


def size(weight: p.Weight, dtype: DType) -> int:
    """Bytes that a weight takes in ``dtype``, but for the padding of its blocks."""
    if weight.kind != "matrix":
        return weight.shape[0] * (4 if weight.kind == "vector" else 8)
    parts = layout(dtype, *weight.shape).values()
    return sum(math.prod(shape) * kind.itemsize for shape, kind in parts)


def build(program: p.Program, dtype: Precision, threads: int, rows: Rows, kept: Kept) -> Any:
    """The native machine of a program; ``kept``: its keys and values."""
    dtypes = held(program, dtype)

    def make(ops: Sequence[p.Op], out: str, symbols: int) -> Tensor:
        machine = Builder(program, dtype, threads, rows, kept, out, {})(ops, ())
        table = torch.empty(1, symbols, program.buffers[out].dim, dtype=torch.float32)
        x = torch.arange(symbols)[None].numpy()
        machine.run(x, [0], [], [], [], [], [], [], table.numpy(), False)
        return table[0]

    def weighs(name: str) -> int:
        return size(program.weights[name], dtypes.get(name, "f32"))

    ops = tabled(program, weighs, make)
    parts = program.hidden, program.leaves, program.grid or ()
    builder = Builder(program, dtype, threads, rows, kept, *parts)
    return builder(ops, program.head, program.rows, program.pixels)


class Builder:
    """Call it once for a machine that runs some ops up to the buffer ``hidden``."""

    def __init__(
        self,
        program: p.Program,
        dtype: Precision,
        threads: int,
        rows: Rows,
        kept: Kept,
        hidden: str,
        leaves: Mapping[str, p.Leaf],
        grid: Sequence[int] = (),
    ) -> None:
        self.program, self.dtype, self.rows = program, dtype, rows
        self.buffers = {k: i for i, k in enumerate(program.buffers)}
        self.leaves = {k: i for i, k in enumerate(leaves)}
        self.rates: dict[tuple[float, ...], int] = {}
        self.plain: dict[str, int] = {}
        buffers = [
            [b.dim, i if b.of is None else self.buffers[b.of], b.first]
            for i, b in enumerate(program.buffers.values())
        ]
        kinds = {"window": 0, "cache": 1, "fixed": 2, "symbols": 3, "grid": 4}
        shapes = [[kinds[x.kind], x.dim, x.width] for x in leaves.values()]
        ends = self.buffers[hidden], self.buffers[program.logits]
        assert _native is not None
        self.machine = _native.ChainruleMachine(
            buffers, shapes, *ends, program.size, KEPT.index(kept), threads, grid
        )

    def __call__(self, *parts: Sequence[p.Op]) -> Any:
        """``parts``: ops, head, and of pictures rows and pixels."""
        every = [op for part in parts for op in part]
        used = weights_of([op for op in every if not isinstance(op, p.Near)])
        weights = {k: w for k, w in self.program.weights.items() if k in used}
        dtypes = {k: d for k, d in held(self.program, self.dtype).items() if k in used}
        self.weights = {  # all matrices before the first is filled: they share one piece of memory
            name: int(self.machine.add_matrix(_NUMBERS.index(d), *weight.shape, GROUP.get(d, 0)))
            for name, d in dtypes.items()
            for weight in [weights[name]]
        }
        for name, weight in weights.items():
            if name in dtypes:
                self._fill(self.weights[name], weight, dtypes[name])
            else:
                self.weights[name] = self._weight(weight)
        self.machine.tighten(_TIGHT)
        numbered = [*enumerate(parts)]
        for number, part in numbered[2:] + numbered[:2]:  # as they run
            for op in part:
                name = "place" if isinstance(op, p.Embed) and op.index is not None else op.name
                self.machine.add_op(name, *self._arguments(op), number)
        return self.machine

    def _weight(self, weight: p.Weight) -> int:
        values = self.rows(weight, 0, weight.shape[0], "f32")
        assert isinstance(values, Tensor)
        if weight.kind == "vector":
            return int(self.machine.add_vector(values.float().contiguous().numpy()))
        if values.is_floating_point():
            return int(self.machine.add_reals(values.double().contiguous().numpy()))
        return int(self.machine.add_ints(values.long().contiguous().numpy()))

    def _fill(self, index: int, weight: p.Weight, dtype: DType) -> None:
        height, width = weight.shape
        step = max(1, (8 if dtype in BLOCKS else 1) * _PART // width)  # blocks are not rounded
        for first in range(0, height, step):
            count = min(step, height - first)
            part = self.rows(weight, first, count, dtype)
            part = narrow(flat(weight, part), dtype) if isinstance(part, Tensor) else part
            assert part.dtype == dtype, f"stored as {part.dtype}"
            data = part.data.view(torch.int16) if dtype == "bf16" else part.data
            scale = torch.zeros(0) if part.scale is None else part.scale
            scale = scale if part.minimum is None else torch.cat([scale, part.minimum], 1)
            scale = scale.view(torch.int16) if scale.itemsize == 2 else scale
            self.machine.fill(
                index, first, count, data.contiguous().numpy(), scale.contiguous().numpy()
            )

    def _plain(self, name: str) -> int:
        """A matrix row by row as floats, of the values that it is held in."""
        if name not in self.plain:
            weight, dtype = self.program.weights[name], held(self.program, self.dtype)[name]
            part = self.rows(weight, 0, weight.shape[0], dtype)
            part = narrow(flat(weight, part), dtype) if isinstance(part, Tensor) else part
            self.plain[name] = int(
                self.machine.add_vector(part.wide().flatten().contiguous().numpy())
            )
        return self.plain[name]

    def _arguments(self, op: p.Op) -> tuple[list[int], float]:
        """The op's numbers, as native/machine.cpp reads them, and its one real number."""
        b, w, f = self.buffers, self.weights, p.FUNCTIONS.index
        out = b[op.out]
        match op:
            case p.Embed(weight=weight, of=of, index=index):
                last = int(of == "position") if index is None else w[index]
                return [out, w[weight], last], 0
            case Table(made=made):
                return [out, int(self.machine.add_vector(made.flatten().numpy()))], 0
            case p.Symbol():
                return [out], 0
            case p.Wave(rate=rate, phase=phase):
                return [out, w[rate], w[phase]], 0
            case p.Linear(x=x, weight=weight, bias=bias):
                return [out, b[x], w[weight], -1 if bias is None else w[bias]], 0
            case p.Bias(x=x, weight=weight):
                return [out, b[x], w[weight]], 0
            case p.Add(a=a, b=other) | p.Mul(a=a, b=other):
                return [out, b[a], b[other]], 0
            case p.Norm(x=x, weight=weight, bias=bias, kind=kind, epsilon=epsilon):
                more = -1 if bias is None else w[bias]
                each = op.width or self.program.buffers[op.out].dim
                return [out, b[x], w[weight], more, int(kind == "rms"), each], epsilon
            case p.Activate(x=x, kind=function) | p.Gate(x=x, kind=function):
                return [out, b[x], f(function)], 0
            case p.Rope(x=x, width=width, limit=limit, scale=scale):
                rates = op.turns()  # one table of angles for all layers
                if rates not in self.rates:
                    turn = torch.tensor(rates, dtype=torch.float64)
                    self.rates[rates] = int(self.machine.add_reals(turn.numpy()))
                return [out, b[x], width, limit, self.rates[rates]], scale
            case p.Attend():
                edge = -1 if op.edge is None else b[op.edge]
                heads = [self.leaves[op.cache], op.heads, op.window, op.sinks]
                return [out, b[op.q], b[op.k], b[op.v], *heads, edge], 0
            case p.Cross(q=q, memory=memory, heads=count):
                return [out, b[q], self.leaves[memory], count], 0
            case p.Cell(x=x, state=state, kind=cell, weight=weight, bias=bias):
                both = [-1 if k is None else w[k] for k in (weight, bias)]
                return [out, b[x], self.leaves[state], p.CELLS.index(cell), *both], 0
            case p.Recent(x=x, state=state):
                return [out, b[x], self.leaves[state]], 0
            case p.Near(state=state, weight=weight, taps=taps):
                every = [n for tap in taps for n in tap]
                return [out, self.leaves[state], self._plain(weight), *every], 0
            case p.Around(state=state, taps=taps, x=own):
                every = [n for tap in taps for n in tap]
                return [out, self.leaves[state], -1 if own is None else b[own], *every], 0
            case p.Backoff(x=x, contexts=c, grams=g, values=v, backoff=back):
                return [out, b[x], w[c], w[g], w[v], w[back]], 0
        raise AssertionError(op)
