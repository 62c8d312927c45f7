"""Lowered: a Program under the contract of a SequenceModel, whoever runs it.

Shapes: B rows, L symbols in this call, R undoable tail, D width of a buffer, w values of a window.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from chainrule.core import blocks
from chainrule.core.distributions import Distribution
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.state import Fixed, Grow, Leaf, State, Window
from chainrule.engine.build import flat
from chainrule.engine.program import Attend, Backoff, Embed, Program, Weight

BLOCK = 512  # symbols taken in at a time
FIRST = 64  # positions that a fresh cache has room for

Windows = Mapping[str, Tensor]


def load(program: Program, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The program's weights as they are: the named rows of ``tensors``, on the processor.

    Raises:
        ValueError: a tensor that isn't there, or of another shape or type.
    """
    found = {}
    for name, weight in program.weights.items():
        if weight.source not in tensors:
            raise ValueError(f"weight {name!r}: there is no tensor {weight.source!r}")
        whole, last = tensors[weight.source], weight.first + weight.shape[0]
        if not _fits(weight, tuple(whole.shape)) or len(whole) < last:
            shapes = f"{tuple(whole.shape)}, not {weight.shape} from row {weight.first}"
            raise ValueError(f"weight {name!r}: tensor {weight.source!r} is {shapes}")
        found[name] = flat(weight, whole[weight.first : last].cpu())
        if weight.kind != "table" and not whole.is_floating_point():
            raise ValueError(f"weight {name!r}: tensor {weight.source!r} is {whole.dtype}")
    for op in program.every_op:
        if isinstance(op, Embed) and op.index is not None:
            index, rows = found[op.index], program.weights[op.weight].shape[0]
            if index.dtype != torch.int64 or int(index.min()) < 0 or int(index.max()) >= rows:
                raise ValueError(f"the index {op.index!r} names other rows than 0 to {rows - 1}")
        if isinstance(op, Backoff):
            ints, reals = (op.contexts, op.grams), (op.values, op.backoff)
            kinds = [found[name].dtype for name in (*ints, *reals)]
            if kinds != [torch.int64] * 2 + [torch.float64] * 2:
                raise ValueError(f"an n-gram's {ints} are int64, its {reals} float64: not {kinds}")
    return found


def _fits(weight: Weight, shape: tuple[int, ...]) -> bool:
    if not weight.taps:
        return len(shape) == len(weight.shape) and shape[1:] == weight.shape[1:]
    inputs = weight.shape[1] // weight.taps
    return len(shape) > 2 and shape[1] == inputs and math.prod(shape[2:]) == weight.taps


class Lowered(SequenceModel):
    """``model``'s own step, run as ``program``; the state's leaves are the program's.

    Beside those a state has ``hidden`` [B, 1 + R, D], which the head reads, and, where positions
    come to an end, the newest ``symbols``.
    """

    backend: str
    model: SequenceModel
    dtype = torch.float32  # of windows

    def __init__(self, model: SequenceModel, program: Program) -> None:
        super().__init__()
        # Not a submodule: its parameters are neither trained nor moved from here.
        self.__dict__["model"] = model
        self.program = program
        self.space, self.config, self.reads = model.space, model.config, model.reads
        if program.size != model.space.size:
            raise ValueError(f"a program of {program.size} symbols for {model.space.size}")
        self.windows = [k for k, v in program.leaves.items() if v.kind == "window"]
        self.fixed = [k for k, v in program.leaves.items() if v.kind == "fixed"]
        attends = {op.cache: op for op in program.ops if isinstance(op, Attend)}
        self.attends = {k: attends[k] for k in program.leaves if k in attends}
        self.grids = [k for k, v in program.leaves.items() if v.kind in ("symbols", "grid")]
        self.end = math.prod(program.grid) if program.grid else None  # symbols of a picture

    # ---- what runs it ----

    @abstractmethod
    def cache(self, name: str, rows: int) -> Grow:
        """An empty cache with room for FIRST positions."""

    @abstractmethod
    def compact(self, name: str, cache: Grow, first: int, newest: int) -> Grow:
        """A cache of its own with the ``first`` and the ``newest`` positions of every row."""

    @abstractmethod
    def run(
        self,
        x: Tensor,
        pos: Sequence[int],
        caches: Mapping[str, Grow],
        windows: Windows,
        fixed: Windows,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Consume x [B, L], whose first symbols stand at ``pos``.

        ``caches``, and what is kept of pictures, have been claimed already: their newest L
        positions are to be written.
        ``windows`` [B, w, D] hold the values before x. Returns the hidden [B, L, D] and the
        windows' new values [B, L, D].
        """

    @abstractmethod
    def law(self, hidden: Tensor) -> Distribution:
        """What the head makes of [B, R + 1, D]."""

    # ---- the contract ----

    def start(self, batch: int, cond: Condition | None = None) -> State:
        leaves = self._memories(batch, self.check(batch, cond))
        alone = bool(self.fixed or self.grids)  # each row by itself; else all are the first
        begun = self._open(torch.zeros(batch if alone else 1, 0, dtype=torch.int64), leaves)
        if self.program.context:
            blank = torch.zeros(len(begun.lens), dtype=torch.int64)
            symbols = Window.full(blank, self.program.context)
            begun = State(begun.lens, {**begun.leaves, "symbols": symbols}, 0, self.backend)
        return begun if alone else begun.select([0] * batch)

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        if self.end is not None and max(state.lens) + x.shape[1] > self.end:
            raise ValueError(f"a picture has {self.end} symbols and no more")
        done = 0
        while done < x.shape[1]:
            rooms = self.rooms(state)
            if not min(rooms):
                over = [not room for room in rooms]
                step, state = 1, self._cross(state, x[:, done : done + 1], tail, over)
            else:
                step = min(*rooms, x.shape[1] - done, BLOCK)
                state = self._within(state, x[:, done : done + step], tail)
            done += step
        return state

    def predict(self, state: State) -> Distribution:
        return self.law(state.window("hidden"))

    def guess_ahead(
        self, state: State, last: Tensor, n: int, noise: Noise, warp: Any
    ) -> Tensor | None:
        return self.model.guess_ahead(state, last, n, noise, warp)

    def estimate(self, batches: Any) -> None:
        raise ValueError("a lowered model is not fitted; fit the model that it comes from")

    # ---- pieces ----

    def _memories(self, batch: int, cond: Condition) -> dict[str, Leaf]:
        """What the model makes of a condition once and for all; equal labels share the work."""
        leaves: dict[str, Leaf] = {}
        if not self.fixed:
            return leaves
        rows = torch.arange(batch)
        if self.reads == {"label"}:
            label = torch.full((batch,), -1) if cond.label is None else cond.label
            each, rows = label.unique(return_inverse=True)
            batch, cond = len(each), Condition(label=each)
        told = self.model.start(batch, cond)
        for name in self.fixed:
            leaf, ok = told.leaves.get(name), told.leaves.get(f"{name}_ok")
            width = self.program.leaves[name].dim
            if not (isinstance(leaf, Fixed) and ok and leaf.t.shape[2:] == (width,)):
                raise ValueError(f"the model has no memory {name!r} of {width} columns")
            leaves |= {name: leaf.select(rows), f"{name}_ok": ok.select(rows)}
        return leaves

    def claim(self, state: State, length: int) -> dict[str, Grow]:
        """What grows, with ``length`` more positions; caches without what no query will see."""
        caches = {}
        for name, op in self.attends.items():
            cache = state.grow(name)
            recent, longest = op.window + state.tail, max(cache.lens)
            if longest >= op.sinks + 2 * recent and longest + length > cache.capacity:
                cache = self.compact(name, cache, op.sinks, recent)
            caches[name] = cache.claim(length)
        return caches | {name: state.grow(name).claim(length) for name in self.grids}

    def positions(self, state: State) -> list[int]:
        """Where the next symbol of every row stands; the start symbol stood at 0."""
        if self.program.context:
            return list(state.grow(next(iter(self.attends))).lens)
        return [n + 1 for n in state.lens]

    def kept_grid(self, name: str, rows: int) -> Grow:
        """What is kept of a picture, with room for all of it: nothing is read before it is written.

        An entry is a symbol, the start symbol the first, or a pixel, all of whose positions it has.
        """
        leaf, grid = self.program.leaves[name], self.program.grid
        assert grid is not None and self.end is not None
        if leaf.kind == "symbols":
            return Grow.empty(torch.empty(rows, self.end + 1, dtype=torch.int64), 1)
        pixels = torch.empty(rows, grid[0] * grid[1] + 1, leaf.dim, dtype=self.dtype)
        return Grow.empty(pixels, 1, grid[2])

    def _within(self, state: State, x: Tensor, tail: int) -> State:
        length, kept = x.shape[1], state.kept(x.shape[1], tail)
        caches = self.claim(state, length)
        hidden, new = self.run(x, self.positions(state), caches, *self.kept(state.leaves))
        values: dict[str, Tensor | Leaf] = {**caches, **new, "hidden": hidden[:, -1 - kept :]}
        if self.program.context:
            values["symbols"] = x
        return state.push(length, tail, **values)

    def _open(self, x: Tensor, fixed: Mapping[str, Leaf]) -> State:
        """The state behind the start symbol and x [B, L], which fits into a block."""
        rows, leaves = len(x), dict(fixed)
        for name in self.windows:
            leaf = self.program.leaves[name]
            fill = torch.full((rows, leaf.dim), leaf.fill, dtype=self.dtype)
            leaves[name] = Window.full(fill, leaf.width)
        begin = torch.full((rows, 1), self.program.begin, dtype=torch.int64)
        x = torch.cat([begin, x], 1)
        caches = {name: self.cache(name, rows).claim(x.shape[1]) for name in self.attends}
        caches |= {name: self.kept_grid(name, rows).claim(x.shape[1]) for name in self.grids}
        hidden, new = self.run(x, [0] * rows, caches, *self.kept(leaves))
        for name, values in new.items():
            window = leaves[name]
            assert isinstance(window, Window)
            leaves[name] = window.push(values, 0)
        leaves |= caches
        leaves["hidden"] = Window(hidden[:, -1:], 1)
        return State((x.shape[1] - 1,) * rows, leaves, 0, self.backend)

    def kept(self, leaves: Mapping[str, Leaf]) -> tuple[Windows, Windows]:
        """The newest values of every window, and the fixed memory."""
        windows, fixed = {}, {}
        for name in self.windows:
            leaf = leaves[name]
            assert isinstance(leaf, Window)
            windows[name] = leaf.t[:, leaf.t.shape[1] - leaf.w :]
        for name in self.fixed:
            for each in (name, f"{name}_ok"):
                leaf = leaves[each]
                assert isinstance(leaf, Fixed)
                fixed[each] = leaf.t
        return windows, fixed

    # ---- positions that come to an end: blocks, as ``Transformer`` has them ----

    def rooms(self, state: State) -> list[int]:
        """How many symbols each row can take before its block ends."""
        if self.end is not None:
            return [self.end - n for n in state.lens]
        if not self.program.context:
            return [2**31] * len(state.lens)
        return blocks.rooms(self.positions(state), state.lens, self.program.context)

    def _cross(self, state: State, x_B1: Tensor, tail: int, over: list[bool]) -> State:
        def anew(alone: State, x: Tensor, inside: Tensor) -> State:
            fixed = {k: v for k, v in alone.leaves.items() if isinstance(v, Fixed)}
            values: dict[str, Any] = {
                name: leaf.t if isinstance(leaf, Window) else leaf
                for name, leaf in self._open(inside, fixed).leaves.items()
                if not isinstance(leaf, Fixed)
            }
            return alone.push(1, tail, **values, symbols=x)

        def within(some: State, x: Tensor) -> State:
            return self._within(some, x, tail)

        return blocks.cross(state, x_B1, over, self.program.context, within, anew)
