"""State: an immutable memo of (condition, prefix), and the leaves it is made of.

Authors never write select, concat or rewind: the leaves do it for everybody.
Shapes: B rows, L symbols in this call, w values kept, R undoable tail, C slab capacity.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from chainrule.core.noise import Positions

WIDE = 64  # a Window at least so wide is appended in place and compacted now and then


class Leaf(ABC):
    """One named piece of a state. All operations return new values."""

    @abstractmethod
    def rewind(self, n: Sequence[int], tail: int) -> Self:
        """Forget the newest n[b] positions of row b; ``tail`` more stay undoable."""

    @abstractmethod
    def select(self, rows: Tensor) -> Self:
        """The rows named by an index tensor."""

    @staticmethod
    @abstractmethod
    def concat(leaves: Sequence[Leaf]) -> Leaf:
        """All rows of all leaves."""

    @abstractmethod
    def detach(self) -> Self:
        """Cut from the autograd graph."""


@dataclass(frozen=True, eq=False)
class Fixed(Leaf):
    """The condition: [B, …], untouched by extend and rewind. ``ragged``: axis 1 is padded."""

    t: Tensor
    ragged: bool = False

    def rewind(self, n: Sequence[int], tail: int) -> Fixed:
        return self

    def select(self, rows: Tensor) -> Fixed:
        return Fixed(self.t[rows.to(self.t.device)], self.ragged)

    @staticmethod
    def concat(leaves: Sequence[Leaf]) -> Fixed:
        ts = [leaf.t for leaf in leaves if isinstance(leaf, Fixed)]
        assert len(ts) == len(leaves), "leaves of one name have one kind"
        first = leaves[0]
        assert isinstance(first, Fixed)
        if first.ragged:
            ts = _pad(ts, 1)
        if any(t.shape[1:] != ts[0].shape[1:] for t in ts):
            raise ValueError("rows with conditions of different shapes can't share a batch")
        return Fixed(torch.cat(ts), first.ragged)

    def detach(self) -> Fixed:
        return Fixed(self.t.detach(), self.ragged)


class Slab:
    """Memory shared by the values of one line of descent; it knows which of them are alive."""

    __slots__ = ("__weakref__", "tensor", "values")
    copies = 0  # copies forced by a longer live value, counted for the whole process
    growths = 0  # copies because the capacity was spent; logarithmic in the length

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.values: weakref.WeakSet[Grow | Window] = weakref.WeakSet()


@dataclass(frozen=True, eq=False)
class Window(Leaf):
    """The last w values, [B, w + R, …]: an RNN's state (w = 1), n-1 symbols, a convolution queue.

    ``slab`` is set on wide windows: they append in place under the same lease as Grow.
    """

    t: Tensor
    w: int
    slab: Slab | None = None
    end: int = 0

    def __post_init__(self) -> None:
        if self.slab is not None:
            self.slab.values.add(self)

    @staticmethod
    def full(value: Tensor, w: int) -> Window:
        """A window whose w values are all ``value`` [B, …]: what precedes the first symbol."""
        return Window(value[:, None].expand(-1, w, *value.shape[1:]), w)

    def push(self, values: Tensor, tail: int) -> Window:
        """Append values [B, L, …], keeping w + tail of them."""
        keep = self.w + tail
        length = values.shape[1]
        if self.w < WIDE or torch.is_grad_enabled():
            t = values if length >= keep else torch.cat([self.t, values], 1)
            spare = t.shape[1] - keep
            return Window(t[:, spare:] if spare else t, self.w)
        slab, end = self.slab, self.end
        clash = slab is not None and any(
            isinstance(v, Window) and v.end > end for v in slab.values if v is not self
        )
        if slab is None or clash or end + length > slab.tensor.shape[1]:
            Slab.copies += clash
            end = self.t.shape[1]
            shape = (len(self.t), 2 * (end + length), *self.t.shape[2:])
            slab = Slab(self.t.new_empty(shape))
            slab.tensor[:, :end] = self.t
        slab.tensor[:, end : end + length] = values
        end += length
        return Window(slab.tensor[:, end - keep : end], self.w, slab, end)

    def rewind(self, n: Sequence[int], tail: int) -> Window:
        keep, have = self.w + tail, self.t.shape[1]
        if len(set(n)) == 1:
            stop = have - n[0]
            return Window(self.t[:, stop - keep : stop], self.w, self.slab, self.end - n[0])
        first = torch.tensor([have - k - keep for k in n], device=self.t.device)
        index = first[:, None] + torch.arange(keep, device=self.t.device)
        rows = torch.arange(len(n), device=self.t.device)[:, None]
        return Window(self.t[rows, index], self.w)

    def select(self, rows: Tensor) -> Window:
        return Window(self.t[rows.to(self.t.device)], self.w)

    @staticmethod
    def concat(leaves: Sequence[Leaf]) -> Window:
        windows = [leaf for leaf in leaves if isinstance(leaf, Window)]
        assert len(windows) == len(leaves), "leaves of one name have one kind"
        return Window(torch.cat([leaf.t for leaf in windows]), windows[0].w)

    def detach(self) -> Window:
        return Window(self.t.detach(), self.w, self.slab, self.end)


@dataclass(frozen=True, eq=False)
class Grow(Leaf):
    """Append-only per position: keys and values, symbols. ``axis`` of the slab is position.

    Appends in place under a lease: the slab keeps weak references to its live values and is
    copied only when a longer live value exists. ``block``: positions that lie together in one
    entry of the axis, which then only the compiled engine writes and reads.
    """

    slab: Slab
    lens: tuple[int, ...]
    axis: int
    block: int = 1

    def __post_init__(self) -> None:
        self.slab.values.add(self)

    @staticmethod
    def empty(like: Tensor, axis: int, block: int = 1) -> Grow:
        """Length 0; ``like`` gives shape, dtype, device and, at ``axis``, the capacity."""
        return Grow(Slab(like), (0,) * like.shape[0], axis, block)

    def claim(self, length: int) -> Grow:
        """A value with ``length`` more positions, to be filled by ``write``."""
        slab, need = self.slab, -(-(max(self.lens) + length) // self.block)
        clash = any(
            isinstance(v, Grow) and any(a > b for a, b in zip(v.lens, self.lens, strict=True))
            for v in slab.values
            if v is not self
        )
        capacity = slab.tensor.shape[self.axis]
        if clash or need > capacity:
            Slab.copies += clash
            Slab.growths += not clash
            shape = list(slab.tensor.shape)
            shape[self.axis] = max(capacity, 2 * need if need > capacity else 0)
            fresh = slab.tensor.new_zeros(shape)  # garbage times a weight of 0 may be NaN
            fresh.narrow(self.axis, 0, capacity).copy_(slab.tensor)
            slab = Slab(fresh)
        return Grow(slab, tuple(n + length for n in self.lens), self.axis, self.block)

    def write(self, values: Tensor, *index: int) -> None:
        """Fill the newest positions; ``index`` picks a layer on the axes after the rows."""
        base, axis = self.slab.tensor, self.axis
        where: tuple[slice | int, ...] = (slice(None), *index)
        axis = axis - len(index)
        length = values.shape[axis]
        starts = [n - length for n in self.lens]
        if torch.is_grad_enabled() and (values.requires_grad or base.requires_grad):
            base = base.clone()  # autograd may need what stood there
            self.slab.tensor = base
        target = base[where].movedim(axis, 1)
        source = values.movedim(axis, 1)
        if len(set(starts)) == 1:
            target[:, starts[0] : starts[0] + length] = source
        else:
            rows = torch.arange(len(starts), device=base.device)[:, None]
            target[rows, Positions(tuple(starts), length).tensor(base.device)] = source

    def push(self, values: Tensor, tail: int = 0) -> Grow:
        """Append values that have the slab's shape, L at ``axis``; any tail is undoable."""
        grown = self.claim(values.shape[self.axis])
        grown.write(values)
        return grown

    @property
    def capacity(self) -> int:
        """Positions that the slab has room for."""
        return self.slab.tensor.shape[self.axis] * self.block

    def compact(self, first: int, newest: int) -> Grow:
        """A slab of its own with the ``first`` and the ``newest`` positions of every row."""
        slab, axis = self.slab.tensor, self.axis
        lens = tuple(min(n, first + newest) for n in self.lens)
        fresh = torch.zeros_like(slab)
        for row, (old, new) in enumerate(zip(self.lens, lens, strict=True)):
            head, tail = min(first, new), max(0, new - first)
            source, target = slab[row], fresh[row]
            target.narrow(axis - 1, 0, head).copy_(source.narrow(axis - 1, 0, head))
            target.narrow(axis - 1, head, tail).copy_(source.narrow(axis - 1, old - tail, tail))
        return Grow(Slab(fresh), lens, axis)

    def read(self, *index: int) -> Tensor:
        """A view up to the longest row; beyond a row's own length lies anything finite."""
        where: tuple[slice | int, ...] = (slice(None), *index)
        view = self.slab.tensor[where]
        return view.narrow(self.axis - len(index), 0, max(self.lens))

    def rewind(self, n: Sequence[int], tail: int) -> Grow:
        lens = tuple(a - b for a, b in zip(self.lens, n, strict=True))
        return Grow(self.slab, lens, self.axis, self.block)

    def select(self, rows: Tensor) -> Grow:
        kept = tuple(self.lens[i] for i in rows.tolist())
        slab = Slab(self.slab.tensor[rows.to(self.slab.tensor.device)])
        return Grow(slab, kept, self.axis, self.block)

    @staticmethod
    def concat(leaves: Sequence[Leaf]) -> Grow:
        grown = [leaf for leaf in leaves if isinstance(leaf, Grow)]
        assert len(grown) == len(leaves), "leaves of one name have one kind"
        slab = torch.cat(_pad([g.slab.tensor for g in grown], grown[0].axis))
        lens = tuple(n for g in grown for n in g.lens)
        return Grow(Slab(slab), lens, grown[0].axis, grown[0].block)

    def detach(self) -> Grow:
        return Grow(Slab(self.slab.tensor.detach()), self.lens, self.axis, self.block)


def _pad(ts: Sequence[Tensor], axis: int) -> list[Tensor]:
    """Zero-pad to one size along an axis."""
    size = max(t.shape[axis] for t in ts)
    out = []
    for t in ts:
        shape = list(t.shape)
        shape[axis] = size - shape[axis]
        out.append(torch.cat([t, t.new_zeros(shape)], axis) if shape[axis] else t)
    return out


@dataclass(frozen=True, eq=False)
class State:
    """What a model has consumed. ``lens``: symbols per row, on the host; ``tail``: R."""

    lens: tuple[int, ...]
    leaves: Mapping[str, Leaf]
    tail: int = 0
    backend: str = "torch"  # chosen in start; states of two backends never merge

    def __getitem__(self, name: str) -> Leaf:
        return self.leaves[name]

    def window(self, name: str) -> Tensor:
        """The values [B, w + R, …] of a Window leaf."""
        leaf = self.leaves[name]
        assert isinstance(leaf, Window), name
        return leaf.t

    def grow(self, name: str) -> Grow:
        """A Grow leaf."""
        leaf = self.leaves[name]
        assert isinstance(leaf, Grow), name
        return leaf

    def fixed(self, name: str) -> Tensor:
        """The tensor of a Fixed leaf."""
        leaf = self.leaves[name]
        assert isinstance(leaf, Fixed), name
        return leaf.t

    def kept(self, length: int, tail: int) -> int:
        """How much stays undoable after ``length`` more symbols when ``tail`` is asked for."""
        return min(tail, self.tail + length)

    def push(self, length: int, tail: int, /, **values: Tensor | Leaf) -> State:
        """The state after ``length`` more symbols.

        A tensor is appended to the leaf of that name (to a Window [B, ≥ min(L, w + R), …], the
        newest values last); a leaf replaces it; leaves not named stay.
        """
        kept = min(tail, self.tail + length)
        leaves = {**self.leaves}
        for name, value in values.items():
            if isinstance(value, Leaf):
                leaves[name] = value
                continue
            leaf = leaves[name]
            assert not isinstance(leaf, Fixed), "a condition is never extended"
            leaves[name] = leaf.push(value, kept)  # type: ignore[attr-defined]
        lens = tuple([n + length for n in self.lens])
        return State(lens, leaves, kept, self.backend)

    def rewind(self, n: Sequence[int]) -> State:
        """Undo the newest n[b] symbols of row b.

        Raises:
            ValueError: more than the undoable tail.
        """
        if len(n) != len(self.lens):
            raise ValueError(f"rewind needs one count a row: {len(self.lens)}, not {len(n)}")
        if any(k < 0 or k > self.tail for k in n):
            raise ValueError(f"can't rewind by {max(n)}: only {self.tail} symbols are undoable")
        return self._cut(n, self.tail - max(n, default=0))

    def trim(self, tail: int = 0) -> State:
        """The same prefix with a shorter undoable tail."""
        return self if tail >= self.tail else self._cut((0,) * len(self.lens), tail)

    def _cut(self, n: Sequence[int], tail: int) -> State:
        lens = tuple(a - b for a, b in zip(self.lens, n, strict=True))
        leaves = {k: v.rewind(n, tail) for k, v in self.leaves.items()}
        return State(lens, leaves, tail, self.backend)

    def select(self, rows: Sequence[int]) -> State:
        """The named rows, in that order; a row may be named twice."""
        rows = list(rows)
        if rows == list(range(len(self.lens))):
            return self
        index = torch.tensor(rows, dtype=torch.int64)
        leaves = {k: v.select(index) for k, v in self.leaves.items()}
        return State(tuple(self.lens[i] for i in rows), leaves, self.tail, self.backend)

    @staticmethod
    def concat(states: Sequence[State]) -> State:
        """All rows of all states.

        Raises:
            ValueError: states of different models, conditions or backends.
        """
        first = states[0]
        if len(states) == 1:
            return first
        if any(
            s.leaves.keys() != first.leaves.keys() or s.backend != first.backend for s in states
        ):
            raise ValueError("states of different models, conditions or backends can't be merged")
        tail = min(s.tail for s in states)
        states = [s.trim(tail) for s in states]
        leaves = {
            name: type(leaf).concat([s.leaves[name] for s in states])
            for name, leaf in first.leaves.items()
        }
        return State(tuple(n for s in states for n in s.lens), leaves, tail, first.backend)

    def pos(self, length: int, back: int = 0) -> Positions:
        """Absolute positions of ``length`` symbols, the first ``back`` before the next one."""
        return Positions(tuple(n - back for n in self.lens), length)

    def detach(self) -> State:
        """Cut from the autograd graph."""
        leaves = {k: v.detach() for k, v in self.leaves.items()}
        return State(self.lens, leaves, self.tail, self.backend)

    # A wrapper keeps the states of the models inside it under a prefix of its own.

    def sub(self, prefix: str) -> State:
        """The inner state whose leaves are named ``prefix/…``."""
        cut = len(prefix) + 1
        inner = {k[cut:]: v for k, v in self.leaves.items() if k.startswith(prefix + "/")}
        return State(self.lens, inner, self.tail, self.backend)

    @staticmethod
    def join(inner: Mapping[str, State], own: Mapping[str, Leaf] | None = None) -> State:
        """Inner states of one length under their prefixes, and leaves of the wrapper's own."""
        first = next(iter(inner.values()))
        leaves: dict[str, Leaf] = dict(own or {})
        for prefix, state in inner.items():
            assert state.lens == first.lens and state.tail == first.tail, "one length"
            leaves.update({f"{prefix}/{k}": v for k, v in state.leaves.items()})
        return State(first.lens, leaves, first.tail, first.backend)
