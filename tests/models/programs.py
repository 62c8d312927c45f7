"""Small Programs with random weights, and the model that they belong to.

Shapes: B rows, S length of the memory, D width of a buffer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from chainrule.core.model import Condition, SequenceModel
from chainrule.core.space import Space
from chainrule.core.state import Fixed, State
from chainrule.engine import program as p
from chainrule.engine.build import held
from chainrule.engine.compiled import Compiled
from chainrule.engine.quantize import Cache, DType, narrow
from chainrule.engine.reference import Reference

SYMBOLS = 37


class Owner(SequenceModel):
    """What a program belongs to. Row b of its memory has so many places that are not padding."""

    reads = frozenset({"source"})

    def __init__(self, program: p.Program, tensors: Mapping[str, Tensor], eos: int | None = None):
        super().__init__()
        self.space = Space("finite", program.size, eos=eos)
        self.program, self.tensors = program, dict(tensors)

    def lower(self) -> p.Program:
        return self.program

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return self.tensors

    def start(self, batch: int, cond: Condition | None = None) -> State:
        leaves = {}
        dice = torch.Generator().manual_seed(3)
        for name, leaf in self.program.leaves.items():
            if leaf.kind == "fixed":
                t = torch.randn(batch, 21, leaf.dim, generator=dice)
                ok = torch.rand(batch, 21, generator=dice) < 0.7
                ok[:, 2] = True
                leaves |= {name: Fixed(t, ragged=True), f"{name}_ok": Fixed(ok, ragged=True)}
        return State((0,) * batch, leaves)

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        raise NotImplementedError

    predict = extend


class Sketch:
    """A program in the making: its first op embeds a symbol into the buffer ``x`` [D]."""

    def __init__(self, dim: int, scale: float = 1.0, size: int = SYMBOLS, seed: int = 0) -> None:
        self.dice = torch.Generator().manual_seed(seed)
        self.size = size
        self.buffers: dict[str, p.Buffer] = {}
        self.weights: dict[str, p.Weight] = {}
        self.leaves: dict[str, p.Leaf] = {}
        self.tensors: dict[str, Tensor] = {}
        self.ops: list[p.Op] = []
        self.grid: tuple[int, int, int] | None = None
        self.rows: list[p.Op] = []  # of pictures
        self.pixels: list[p.Op] = []
        self.buffer("x", dim)
        self.ops.append(p.Embed("x", self.matrix("table", size + 1, dim, scale)))

    def buffer(self, name: str, dim: int, of: str | None = None, first: int = 0) -> str:
        self.buffers[name] = p.Buffer(dim, of, first)
        return name

    def matrix(self, name: str, rows: int, columns: int, scale: float = 1.0) -> str:
        self.weights[name] = p.Weight(name, (rows, columns))
        self.tensors[name] = scale * torch.randn(rows, columns, generator=self.dice)
        return name

    def vector(self, name: str, dim: int, scale: float = 1.0) -> str:
        self.weights[name] = p.Weight(name, (dim,), kind="vector")
        self.tensors[name] = scale * torch.randn(dim, generator=self.dice)
        return name

    def project(self, out: str, dim: int, x: str = "x", ops: list[p.Op] | None = None) -> str:
        """Another buffer, made of x by a random matrix and bias."""
        columns, ops = self.buffers[x].dim, self.ops if ops is None else ops
        weight = self.matrix(f"{out}.weight", dim, columns, columns**-0.5)
        ops.append(p.Linear(self.buffer(out, dim), x, weight, self.vector(f"{out}.bias", dim)))
        return out

    def program(self, hidden: str) -> p.Program:
        """The program that ends at this buffer."""
        columns = self.buffers[hidden].dim
        head = p.Linear("logits", hidden, self.matrix("head", self.size, columns, columns**-0.5))
        self.buffer("logits", self.size)
        parts = self.buffers, self.weights, self.leaves, tuple(self.ops), (head,)
        return p.Program(
            self.size, self.size, *parts, hidden, grid=self.grid, rows=tuple(self.rows),
            pixels=tuple(self.pixels),
        )  # fmt: skip

    def pair(
        self, hidden: str, dtype: DType, threads: int = 1, cache: Cache = "auto"
    ) -> tuple[Compiled, Reference]:
        """Compiled, and torch in float64 with the weights that the engine holds."""
        program = self.program(hidden)
        owner = Owner(program, self.tensors)
        kinds = held(program, dtype)
        wide = {
            name: narrow(t, kinds[name]).wide() if name in kinds else t
            for name, t in self.tensors.items()
        }
        oracle = Reference(owner, program, wide, torch.float64, cache)
        return Compiled(owner, dtype, threads, cache=cache), oracle
