"""Gated PixelCNN: a picture pixel by pixel, by masked convolutions without a blind spot.

A vertical stack sees the rows above, a horizontal one the pixels to the left and the vertical one
(van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders", figure 2); gates
are σ(a)·b, and all layers are residual. No tap is computed that a mask would throw away.
Shapes: B rows of a batch, L symbols in this call, R undoable tail, T symbols of a picture,
H height, W width, C channels, D width of a stack, K width behind a gate, E embedding, V levels,
n rows or columns, P places in a cache, k pixels side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrule.core.config import bounded
from chainrule.core.distributions import Distribution
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.space import Space
from chainrule.core.state import Grow, Leaf, State, Window
from chainrule.engine.program import Program
from chainrule.models.lower_pixelcnn import lower, memory
from chainrule.nn.gate import gate
from chainrule.nn.labels import Labels
from chainrule.nn.pixels import HeadName, PixelHead, PixelInput, head_of

SIZES = {"tiny": (4, 32, 32), "small": (8, 64, 32), "base": (12, 128, 64)}


@dataclass(frozen=True)
class PixelCNNConfig:
    """A gated PixelCNN.

    Args:
        space: of pictures, in raster order.
        num_layers: of each stack; dim: D; hidden: K, behind each gate.
        kernel: columns that the first convolution sees, and twice the rows above, about.
        dilations: how far apart the taps of a layer lie, layer by layer and then again; without
            them a stack of eight sees too little of MNIST, and is 6 nats worse.
        head: categorical (a softmax of V levels, which None means too) or logistic (a discretised
            mixture, Salimans et al. 2017).
        mixtures: of the logistic head.
        labels: classes that a picture may be told to belong to.
        dropout: share of what is dropped behind every gate, in training.

    Raises:
        ValueError: a size out of bounds, or symbols that are no picture in raster order.
    """

    space: Space
    num_layers: int = 8
    dim: int = 64
    hidden: int = 64
    kernel: int = 7
    dilations: tuple[int, ...] = (1, 2, 4, 8)
    head: HeadName | None = None
    mixtures: int = 10
    labels: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.space.grid is None or self.space.order != "raster":
            raise ValueError("a PixelCNN models pictures in raster order")
        bounded("num_layers", self.num_layers, 1, 1024)
        bounded("dim", self.dim, 1, 65536)
        bounded("hidden", self.hidden, 1, 65536)
        bounded("kernel", self.kernel, 3, 255)
        bounded("mixtures", self.mixtures, 1, 1024)
        bounded("labels", self.labels, 0, 2**20)
        bounded("dropout", self.dropout, 0, 0.9)
        bounded("number of dilations", len(self.dilations), 1, 64)
        for dilation in self.dilations:
            bounded("dilation", dilation, 1, 256)
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, not {self.kernel}")
        head_of(self.space, self.head)


def pixelcnn(space: Space, size: str = "small") -> PixelCNNConfig:
    """The stacks at a size."""
    num_layers, dim, hidden = SIZES[size]
    return PixelCNNConfig(space, num_layers, dim, hidden)


class Layer(nn.Module):
    """One layer of both stacks, whose taps lie ``apart`` rows and columns from each other."""

    def __init__(self, dim: int, hidden: int, apart: int, dropout: float) -> None:
        super().__init__()
        self.apart = apart
        self.down = nn.Conv2d(dim, 2 * hidden, (2, 3))  # this row and one above it
        self.down_out = nn.Conv2d(hidden, dim, 1)
        self.across = nn.Conv2d(dim, 2 * hidden, (1, 2))  # this pixel and one before it
        self.join = nn.Conv2d(dim, 2 * hidden, 1, bias=False)
        self.across_out = nn.Conv2d(hidden, dim, 1)
        self.dropout = nn.Dropout(dropout)

    def vertical(self, v: Tensor) -> Tensor:
        """All rows: [B, D, H, W] to the same."""
        return self._down(F.pad(v, (self.apart, self.apart, self.apart, 0)), v, self.apart)

    def row(self, above: Tensor, v: Tensor) -> Tensor:
        """One row, and the one so far above it: [B, D, 1, W] twice to one."""
        return self._down(F.pad(torch.cat([above, v], 2), (self.apart, self.apart)), v, 1)

    def _down(self, padded: Tensor, v: Tensor, rows_apart: int) -> Tensor:
        dilation = rows_apart, self.apart
        gates = F.conv2d(padded, self.down.weight, self.down.bias, dilation=dilation)
        out: Tensor = v + self.down_out(self.dropout(gate(gates)))
        return out

    def horizontal(self, padded: Tensor, h: Tensor, joined: Tensor) -> Tensor:
        """[B, D, n, W], behind ``apart`` columns in ``padded``, and [B, 2 K, n, W] to the first."""
        gates = F.conv2d(padded, self.across.weight, self.across.bias, dilation=(1, self.apart))
        out: Tensor = h + self.across_out(self.dropout(gate(gates + joined)))
        return out


class PixelCNN(SequenceModel):
    """p(channel of a pixel | all pixels before it, its channels before)."""

    Config = PixelCNNConfig

    def __init__(self, config: PixelCNNConfig) -> None:
        super().__init__()
        assert config.space.grid is not None
        self.config, self.space = config, config.space
        self.height, self.width, self.channels = config.space.grid
        self.reads = frozenset({"label"} if config.labels else ())
        dim, self.near = config.dim, config.kernel // 2
        self.input = PixelInput(config.space)
        self.above = nn.Conv2d(self.input.dim, dim, (self.near, config.kernel))
        self.before = nn.Conv2d(self.input.dim, dim, (1, self.near))
        self.join = nn.Conv2d(dim, dim, 1, bias=False)
        self.labels = Labels(config.labels, 2 * dim) if config.labels else None
        self.layers = nn.ModuleList(
            Layer(dim, config.hidden, apart, config.dropout)
            for apart in islice(cycle(config.dilations), config.num_layers)
        )
        self.head = PixelHead(config.space, dim, config.head, config.mixtures)
        for layer in self.stack():
            for out in (layer.down_out, layer.across_out):
                nn.init.normal_(out.weight, std=(2 * config.num_layers * config.hidden) ** -0.5)

    def stack(self) -> list[Layer]:
        """The layers, typed."""
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    # ---- training: all pixels at once ----

    def forward(
        self, x: Tensor, cond: Condition | None = None, state: State | None = None
    ) -> Distribution:
        if state is not None:
            return super().forward(x, cond, state)
        cond = self.check(len(x), cond)
        each = self.width * self.channels
        self._fits(x.shape[1])
        rows = -(-x.shape[1] // each)
        pixels = F.pad(x, (0, rows * each - x.shape[1])).unflatten(1, (-1, self.channels))
        e = self.input(pixels)
        picture = e.unflatten(1, (rows, self.width)).permute(0, 3, 1, 2)
        hidden = self.head.hidden(self._stacks(picture, self._told(len(x), cond)), pixels, e)
        return self.head.law(hidden.flatten(1, 2)[:, : x.shape[1]])

    def _fits(self, symbols: int) -> None:
        if symbols > self.height * self.width * self.channels:
            raise ValueError(f"a picture has {self.space.max_len} symbols and no more")

    def _told(self, batch: int, cond: Condition) -> tuple[Tensor, Tensor] | None:
        """What a label adds to both stacks: [B, D] twice."""
        if self.labels is None:
            return None
        one, other = self.labels(batch, cond).chunk(2, -1)
        return one, other

    def _stacks(self, e: Tensor, told: tuple[Tensor, Tensor] | None) -> Tensor:
        """[B, C · E, n, W] to what is known of each pixel from those before it: [B, n · W, D]."""
        near = self.near
        v = self.above(F.pad(e[:, :, :-1], (near, near, near, 0)))
        h = self.before(F.pad(e[..., :-1], (near, 0)))
        if told is not None:
            v, h = v + told[0][..., None, None], h + told[1][..., None, None]
        h = h + self.join(v)
        for layer in self.stack():
            v = layer.vertical(v)
            h = layer.horizontal(F.pad(h, (layer.apart, 0)), h, layer.join(v))
        known: Tensor = h.permute(0, 2, 3, 1).flatten(1, 2)
        return known

    # ---- decoding: rows and pixels that are done are kept ----

    def lower(self) -> Program | None:
        return lower(self)

    def start(self, batch: int, cond: Condition | None = None) -> State:
        cond = self.check(batch, cond)
        like, (config, size) = self.join.weight, (self.config, self.height * self.width)
        stacks = like.new_zeros(batch, size + 1, config.num_layers + 1, config.dim)
        symbols = torch.zeros(batch, size * self.channels + 1, dtype=torch.int64)
        leaves: dict[str, Leaf] = {
            "symbols": Grow.empty(symbols.to(like.device), axis=1),
            "down": Grow.empty(stacks, axis=1, block=self.channels),
            "across": Grow.empty(stacks.clone(), axis=1, block=self.channels),
            "hidden": Window(like.new_zeros(batch, 1, self.head.size), 1),
        }
        told = self._told(batch, cond)
        leaves |= {} if told is None else memory(told)
        state = State((0,) * batch, leaves)
        hidden = self._reach(state, [0] * batch, 1)
        return State((0,) * batch, {**leaves, "hidden": Window(hidden, 1)})

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        length, kept = x.shape[1], state.kept(x.shape[1], tail)
        self._fits(max(state.lens) + length)
        grown = {name: state.grow(name).claim(length) for name in ("symbols", "down", "across")}
        grown["symbols"].write(x)
        full = state.push(length, tail, **grown)
        hidden, at = [], [n + 1 for n in state.lens]
        while length:
            step = self._together(at, length)
            hidden.append(self._reach(full, at, step))
            at, length = [n + step for n in at], length - step
        hidden = [state.window("hidden"), *hidden] if kept >= x.shape[1] else hidden
        every = torch.cat(hidden, 1)
        return state.push(x.shape[1], tail, **grown, hidden=every[:, -1 - kept :])

    def predict(self, state: State) -> Distribution:
        return self.head.law(state.window("hidden"))

    def _together(self, at: Sequence[int], most: int) -> int:
        """How many symbols from ``at`` on lie in one picture row, for every row of the batch."""
        each: int = self.width * self.channels
        if len({n % self.channels for n in at}) > 1 or max(at) == self.height * each:
            return 1
        return min(most, *(each - n % each for n in at))

    def _reach(self, state: State, at: Sequence[int], count: int) -> Tensor:
        """What the head reads for symbols ``at`` to ``at + count`` of one picture row: [B, L, S].

        The symbols before are known. Behind the last symbol of a picture it means nothing.
        """
        device, end = self.join.weight.device, self.height * self.width * self.channels
        rows = [b for b, n in enumerate(at) if n % (self.width * self.channels) == 0 and n < end]
        if rows:
            self._row(state, torch.tensor(rows, device=device), [at[b] for b in rows])
        first = [-(-n // self.channels) for n in at]
        # Several symbols at once begin at the same channel in every row of the batch.
        new = (at[0] + count - 1) // self.channels + 1 - first[0] if count > 1 else 1
        begun = [b for b, n in enumerate(at) if (n % self.channels == 0 or count > 1) and n < end]
        if begun and new > 0:
            who = torch.tensor(begun, device=device)
            self._pixels(state, who, torch.tensor([first[b] for b in begun], device=device), new)
        number = torch.tensor(at, device=device)[:, None] + torch.arange(count, device=device)
        number = number.clamp_max(end - 1)
        every = torch.arange(len(at), device=device)[:, None]
        pixel = number // self.channels
        x = self._symbols(state, every, pixel)
        found = state.grow("across").slab.tensor[every, pixel, -1]
        hidden = self.head.hidden(found, x, self.input(x))
        at_channel = (number % self.channels)[..., None, None].expand(-1, -1, 1, hidden.shape[-1])
        return hidden.gather(2, at_channel)[:, :, 0]

    def _kept(self, state: State, name: str) -> Tensor:
        """What a label adds to a stack: [B, D, 1, 1], the values of a memory."""
        return state.fixed(name)[:, 0, self.config.dim :, None, None]

    def _symbols(self, state: State, who: Tensor, pixel: Tensor) -> Tensor:
        """The symbols of pixels of rows ``who`` of the batch, of one shape: [..., C]."""
        place = pixel[..., None] * self.channels + torch.arange(self.channels, device=pixel.device)
        symbols = state.grow("symbols").slab.tensor
        # What isn't consumed yet is another picture's: a symbol, and nobody looks at it.
        return symbols[who[..., None], place]

    def _row(self, state: State, who: Tensor, at: Sequence[int]) -> None:
        """The vertical stack over the picture rows that begin ``at``, in rows ``who`` [n]."""
        near, width = self.near, self.width
        begin = torch.tensor(at, device=who.device) // self.channels
        column = torch.arange(width, device=who.device)
        up = torch.arange(-near, 0, device=who.device) * width
        pixel = (begin[:, None] + up)[..., None] + column  # [n, rows above, W]
        x = self._symbols(state, who[:, None, None], pixel.clamp_min(0))
        e = self.input(x) * (pixel >= 0)[..., None]
        v = self.above(F.pad(e.permute(0, 3, 1, 2), (near, near)))
        if self.labels is not None:
            v = v + self._kept(state, "told.down")[who]
        down, kept = state.grow("down"), [v]
        for i, layer in enumerate(self.stack()):
            first = (begin - layer.apart * width)[:, None]
            above = down.slab.tensor[who[:, None], (first + column).clamp_min(0), i]
            above = (above * (first >= 0)[..., None]).transpose(1, 2)[:, :, None]
            v = layer.row(above, v)
            kept.append(v)
        values = torch.cat(kept, 2).permute(0, 3, 2, 1)  # [n, W, layers + 1, D]
        down.slab.tensor[who[:, None], begin[:, None] + column] = values

    def _pixels(self, state: State, who: Tensor, first: Tensor, count: int) -> None:
        """The horizontal stack over ``count`` pixels from ``first`` [n] on, in rows ``who`` [n]."""
        near, column = self.near, (first % self.width)[:, None]
        back = torch.arange(-near, count - 1, device=who.device)
        pixel = first[:, None] + back
        x = self._symbols(state, who[:, None], pixel.clamp_min(0))
        e = self.input(x) * (column + back >= 0)[..., None]
        h = self.before(e.transpose(1, 2)[:, :, None])
        if self.labels is not None:
            h = h + self._kept(state, "told.across")[who]
        place = first[:, None] + torch.arange(count, device=who.device)
        down = state.grow("down").slab.tensor[who[:, None], place].permute(2, 0, 3, 1)
        across = state.grow("across")
        h, kept = h + self.join(down[0][:, :, None]), []
        for i, layer in enumerate(self.stack()):
            kept.append(h)
            back = torch.arange(-layer.apart, 0, device=who.device)
            left = across.slab.tensor[who[:, None], (first[:, None] + back).clamp_min(0), i]
            left = (left * (column + back >= 0)[..., None]).transpose(1, 2)[:, :, None]
            joined = layer.join(down[i + 1][:, :, None])
            h = layer.horizontal(torch.cat([left, h], 3), h, joined)
        values = torch.cat([*kept, h], 2).permute(0, 3, 2, 1)
        across.slab.tensor[who[:, None], place] = values
