"""Reference: any Program in torch, slow and obvious. In float64 it is the oracle of the engine.

Shapes: B rows, L symbols in this call, R undoable tail, D width of a buffer, w values of a window,
H heads, G key-value heads, K head width, S keys, V alphabet size, C contexts of an n-gram; of
pictures n pixels, k taps, C channels, E width of an embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from chainrule.core.distributions import Categorical
from chainrule.core.model import SequenceModel
from chainrule.core.state import Grow
from chainrule.engine import program as p
from chainrule.engine.lowered import FIRST, Lowered, Windows, load
from chainrule.engine.quantize import Cache

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


class Reference(Lowered):
    """``program`` in torch, on the processor.

    Args:
        model: whose step it is.
        tensors: where the weights are; those of ``model`` if None.
        dtype: of buffers, caches and windows.
        cache: int8 rounds keys and values as the engine does.

    Raises:
        ValueError: a tensor that isn't there, or of another shape or type.
    """

    backend = "reference"

    def __init__(
        self,
        model: SequenceModel,
        program: p.Program,
        tensors: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
        cache: Cache = "auto",
    ) -> None:
        super().__init__(model, program)
        self.dtype, self.rounds = dtype, cache == "int8"
        told = model.state_dict() if tensors is None else tensors
        self.weights = {
            name: t if program.weights[name].kind == "table" else t.to(dtype)
            for name, t in load(program, told).items()
        }

    def cache(self, name: str, rows: int) -> Grow:
        leaf = self.program.leaves[name]
        shape = (rows, 2, leaf.dim // leaf.width, FIRST, leaf.width)
        return Grow.empty(torch.zeros(shape, dtype=self.dtype), axis=3)

    def compact(self, name: str, cache: Grow, first: int, newest: int) -> Grow:
        return cache.compact(first, newest)

    def run(
        self,
        x: Tensor,
        pos: Sequence[int],
        caches: Mapping[str, Grow],
        windows: Windows,
        fixed: Windows,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.program.grid is not None:
            alone = []
            for b, symbols in enumerate(x.tolist()):
                kept = {name: grown.slab.tensor[b] for name, grown in caches.items()}
                told = {name: values[b : b + 1] for name, values in fixed.items()}
                alone.append(self._picture(symbols, pos[b], kept, told))
            return torch.cat(alone), {}
        pos_BL = torch.tensor(pos, dtype=torch.int64)[:, None] + torch.arange(x.shape[1])
        call = _Call(self, x, pos_BL, caches, windows, fixed)
        call.run(self.program.ops)
        return call.read(self.program.hidden), call.new

    def _picture(
        self, symbols: Sequence[int], begin: int, kept: Mapping[str, Tensor], fixed: Windows
    ) -> Tensor:
        """The hidden [1, L, D] of one picture's symbols, which stand at ``begin`` and behind."""
        program, hidden = self.program, []
        assert program.grid is not None
        height, width, channels = program.grid
        for position, symbol in enumerate(symbols, begin):
            for name, leaf in program.leaves.items():
                if leaf.kind == "symbols":
                    kept[name][position] = symbol
            pixel = position // channels
            if pixel < height * width and position % channels == 0:
                if pixel % width == 0:
                    place = _Place(kept, range(pixel, pixel + width), position)
                    self._part(program.rows, symbol, place, fixed)
                self._part(program.pixels, symbol, _Place(kept, [pixel], position), fixed)
            place = _Place(kept, [min(pixel, height * width - 1)], position)
            hidden.append(self._part(program.ops, symbol, place, fixed).read(program.hidden))
        return torch.cat(hidden, 1)

    def _part(self, ops: Sequence[p.Op], symbol: int, place: _Place, fixed: Windows) -> _Call:
        one, pos = torch.tensor([[symbol]]), torch.tensor([[place.consumed]])
        call = _Call(self, one, pos, {}, {}, fixed, place)
        call.run(ops)
        return call

    def law(self, hidden: Tensor) -> Categorical:
        nothing = hidden.new_zeros(hidden.shape[:2], dtype=torch.int64)
        call = _Call(self, nothing, nothing, {}, {}, {})
        call.buffers[self.program.hidden] = hidden.to(self.dtype)
        call.run(self.program.head)
        logits = call.read(self.program.logits)
        last = [op for op in self.program.head if op.out == self.program.logits][-1:]
        normalised = any(isinstance(op, p.Backoff) for op in last)
        return Categorical.normalised(logits) if normalised else Categorical(logits)


@dataclass(frozen=True)
class _Place:
    """Where in a picture a call stands: at these pixels [n], so many symbols being consumed."""

    kept: Mapping[str, Tensor]
    pixels: Sequence[int]
    consumed: int


class _Call:
    """The buffers of one call, and one method an op, named after it."""

    def __init__(
        self,
        reference: Reference,
        x_BL: Tensor,
        pos_BL: Tensor,
        caches: Mapping[str, Grow],
        windows: Windows,
        fixed: Windows,
        place: _Place | None = None,
    ) -> None:
        self.program, self.dtype, self.place = reference.program, reference.dtype, place
        self.weights, self.rounds = reference.weights, reference.rounds
        self.x_BL, self.pos_BL = x_BL, pos_BL
        self.caches, self.windows, self.fixed = caches, windows, fixed
        self.buffers: dict[str, Tensor] = {}
        self.new: dict[str, Tensor] = {}  # what joins the windows

    def run(self, ops: Sequence[p.Op]) -> None:
        for op in ops:
            self.buffers[op.out] = getattr(self, f"_{op.name}")(op)

    def read(self, name: str) -> Tensor:
        """A buffer or a view of one [B, L, D]."""
        buffer = self.program.buffers[name]
        whole = self.buffers[buffer.of or name]
        return whole[..., buffer.first : buffer.first + buffer.dim]

    def bias(self, name: str | None) -> Tensor | float:
        return 0.0 if name is None else self.weights[name]

    # ---- from symbols and positions ----

    def _embed(self, op: p.Embed) -> Tensor:
        row = self.x_BL if op.of == "symbol" else self.pos_BL
        if op.index is not None:
            index = self.weights[op.index]
            row = index[row.clamp_max(len(index) - 1)]
        return self.weights[op.weight][row]

    def _symbol(self, op: p.Symbol) -> Tensor:
        return self.x_BL[..., None].to(self.dtype)

    def _wave(self, op: p.Wave) -> Tensor:
        # In float64, as rotary angles: positions far out keep their differences.
        rate, phase = self.weights[op.rate].double(), self.weights[op.phase].double()
        return torch.sin(rate * self.pos_BL[..., None] + phase).to(self.dtype)

    # ---- of pictures ----

    def _near(self, op: p.Near) -> Tensor:
        place, table, size = self.place, self.weights[op.weight], self.program.size
        assert place is not None and self.program.grid is not None
        channels, symbols = self.program.grid[2], place.kept[op.state]
        many = len(place.pixels), len(op.taps), channels
        out_nkCE = torch.zeros(*many, table.shape[1], dtype=self.dtype)
        for i, k, other in self._others(op.taps):
            for c in range(channels):
                number = other * channels + c
                if number < place.consumed:  # behind the start symbol
                    out_nkCE[i, k, c] = table[c * size + symbols[number + 1]]
        return out_nkCE.flatten(1)[None]

    def _around(self, op: p.Around) -> Tensor:
        assert self.place is not None
        values, pixels = self.place.kept[op.state], self.place.pixels
        if op.x is not None:
            values[pixels[0] : pixels[-1] + 1] = self.read(op.x)[0]
        out_nkD = torch.zeros(len(pixels), len(op.taps), values.shape[-1], dtype=self.dtype)
        for i, k, other in self._others(op.taps):
            out_nkD[i, k] = values[other]
        return out_nkD.flatten(1)[None]

    def _others(self, taps: Sequence[p.Tap]) -> Iterator[tuple[int, int, int]]:
        """Of every pixel and tap the pixel that lies there, unless it lies outside."""
        assert self.place is not None and self.program.grid is not None
        height, width, _ = self.program.grid
        for i, pixel in enumerate(self.place.pixels):
            for k, (down, right) in enumerate(taps):
                row, column = pixel // width + down, pixel % width + right
                if 0 <= row < height and 0 <= column < width:
                    yield i, k, row * width + column

    # ---- from each position to the same ----

    def _linear(self, op: p.Linear) -> Tensor:
        return self.read(op.x) @ self.weights[op.weight].T + self.bias(op.bias)

    def _bias(self, op: p.Bias) -> Tensor:
        return self.read(op.x) + self.weights[op.weight]

    def _add(self, op: p.Add) -> Tensor:
        return self.read(op.a) + self.read(op.b)

    def _mul(self, op: p.Mul) -> Tensor:
        return self.read(op.a) * self.read(op.b)

    def _norm(self, op: p.Norm) -> Tensor:
        whole = self.read(op.x)
        x: Tensor = whole.unflatten(-1, (-1, op.width or whole.shape[-1]))
        if op.kind == "layer":
            x = x - x.mean(-1, keepdim=True)
        rate = (x.square().mean(-1, keepdim=True) + op.epsilon).rsqrt()
        return (x * rate * self.weights[op.weight] + self.bias(op.bias)).view_as(whole)

    def _activate(self, op: p.Activate) -> Tensor:
        return FUNCTIONS[op.kind](self.read(op.x))

    def _gate(self, op: p.Gate) -> Tensor:
        gate, value = self.read(op.x).chunk(2, -1)
        return FUNCTIONS[op.kind](gate) * value

    def _rope(self, op: p.Rope) -> Tensor:
        x = _heads(self.read(op.x), op.width)  # [B, H, L, K]
        pos = self.pos_BL.clamp_max(op.limit) if op.limit else self.pos_BL
        rate = torch.tensor(op.turns(), dtype=torch.float64)
        angle = pos.double()[:, None, :, None] * rate
        cos, sin = ((op.scale * t).to(self.dtype) for t in (angle.cos(), angle.sin()))
        left, right = x.chunk(2, -1)
        turned = torch.cat([left * cos - right * sin, right * cos + left * sin], -1)
        return turned.transpose(1, 2).flatten(2)

    # ---- attention ----

    def _attend(self, op: p.Attend) -> Tensor:
        cache, length = self.caches[op.cache], self.x_BL.shape[1]
        width = self.program.leaves[op.cache].width
        for i, name in enumerate((op.k, op.v)):
            heads = _heads(self.read(name), width)
            cache.write(_rounded(heads) if self.rounds else heads, i)
        keys, values = cache.read(0), cache.read(1)  # [B, G, S, K]
        group = op.heads // keys.shape[1]
        keys, values = (t.repeat_interleave(group, 1) for t in (keys, values))
        scores = _heads(self.read(op.q), width) @ keys.mT  # [B, H, L, S]
        key = torch.arange(keys.shape[2])
        first = torch.tensor([n - length for n in cache.lens])[:, None]
        query = (first + torch.arange(length))[:, None, :, None]
        if op.edge is not None:
            edge = _heads(self.read(op.edge), width) @ keys.mT
            scores = torch.where((key < op.sinks) & (query - op.sinks >= op.window), edge, scores)
        seen = (key <= query) & ((query - key < op.window) | (key < op.sinks))
        return _mix(scores, seen, values)

    def _cross(self, op: p.Cross) -> Tensor:
        q = self.read(op.q)
        width = q.shape[-1] // op.heads
        keys, values = (_heads(t, width) for t in self.fixed[op.memory].to(q).chunk(2, -1))
        seen = self.fixed[f"{op.memory}_ok"][:, None, None]
        return _mix(_heads(q, width) @ keys.mT, seen, values)

    # ---- recurrence ----

    def _cell(self, op: p.Cell) -> Tensor:
        x_BLG, state = self.read(op.x), self.windows[op.state][:, -1].to(self.dtype)
        dim, states = self.program.buffers[op.out].dim, []
        for t in range(x_BLG.shape[1]):
            hidden = state[:, -dim:]
            own = None
            if op.weight is not None:
                own = hidden @ self.weights[op.weight].T + self.bias(op.bias)
            state = _cell(op.kind, x_BLG[:, t], own, state)
            states.append(state)
        self.new[op.state] = torch.stack(states, 1)
        return self.new[op.state][..., -dim:]

    def _recent(self, op: p.Recent) -> Tensor:
        x, length = self.read(op.x), self.x_BL.shape[1]
        every = torch.cat([self.windows[op.state].to(self.dtype), x], 1)
        width = every.shape[1] - length
        self.new[op.state] = x
        return torch.stack([every[:, t : t + width].flatten(1) for t in range(1, length + 1)], 1)

    def _backoff(self, op: p.Backoff) -> Tensor:
        x, size = self.read(op.x), self.program.size
        tables = [self.weights[n] for n in (op.contexts, op.grams, op.values, op.backoff)]
        laws = [_backoff(row.tolist(), size, *tables) for row in x.flatten(0, 1)]
        return torch.stack(laws).view(*x.shape[:2], size).to(self.dtype)


def _heads(x_BLD: Tensor, width: int) -> Tensor:
    """[B, H, L, K]."""
    return x_BLD.reshape(*x_BLD.shape[:2], -1, width).transpose(1, 2)


def _rounded(x: Tensor) -> Tensor:
    """To 255 values of each vector's own scale."""
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
    return (x / scale).round() * scale


def _mix(scores_BHLS: Tensor, seen: Tensor, values_BHSK: Tensor) -> Tensor:
    """The values, weighted by a softmax of the scores: [B, L, H · K]."""
    scores = scores_BHLS / math.sqrt(values_BHSK.shape[-1])
    mixed = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ values_BHSK
    return mixed.transpose(1, 2).flatten(2)


def _cell(kind: str, x: Tensor, own: Tensor | None, state: Tensor) -> Tensor:
    """The new state from what the input and the hidden vector add to the gates."""
    if own is None:  # minGRU
        gate, new = x.chunk(2, -1)
        z = torch.sigmoid(gate)
        return (1 - z) * state + z * new
    if kind == "tanh":
        return torch.tanh(x + own)
    if kind == "lstm":
        i, f, g, o = (x + own).chunk(4, -1)
        c = torch.sigmoid(f) * state.chunk(2, -1)[0] + torch.sigmoid(i) * torch.tanh(g)
        return torch.cat([c, torch.sigmoid(o) * torch.tanh(c)], -1)
    (r, z, n), (own_r, own_z, own_n) = x.chunk(3, -1), own.chunk(3, -1)
    z = torch.sigmoid(z + own_z)
    n = torch.tanh(n + torch.sigmoid(r + own_r) * own_n)
    return (1 - z) * n + z * state


def _backoff(
    recent: Sequence[float],
    size: int,
    contexts: Tensor,
    grams: Tensor,
    values: Tensor,
    backoff: Tensor,
) -> Tensor:
    """log p [V] of the next symbol behind ``recent``, the oldest symbol first."""
    law, row = values[:size].clone(), 0
    for symbol in reversed(recent):
        if symbol not in range(size + 1):
            break
        key = row * (size + 1) + int(symbol)
        at = int(torch.searchsorted(contexts, key))
        if at >= len(contexts) or contexts[at] != key:
            break
        row = at + 1
        first, end = torch.searchsorted(grams, torch.tensor([row * size, (row + 1) * size]))
        law = law * backoff[row]
        law[grams[first:end] - row * size] += values[first:end]
    return law.log()
