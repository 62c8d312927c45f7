"""PixelRNN: diagonal LSTMs in both directions over a picture, row by row all diagonals at once.

Source: van den Oord et al. 2016, "Pixel recurrent neural networks", sections 3.2 to 3.4.
Shapes: B rows of a batch, L symbols given, H height, W width, C channels, E embedding of a pixel,
D width, S width of an LSTM, G = 4 S gates, n = W + H - 1 diagonals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrule.core.config import bounded
from chainrule.core.distributions import Distribution
from chainrule.core.model import Condition, ReplayModel
from chainrule.core.space import Space
from chainrule.core.state import State
from chainrule.nn.labels import Labels
from chainrule.nn.pixels import PixelHead, PixelInput

SIZES = {"tiny": (1, 32), "small": (4, 64), "base": (7, 128)}
KERNEL = 7  # rows and columns of the first convolution
REMEMBERED = 1.0  # what the forget gates' bias begins with (Jozefowicz et al. 2015)


@dataclass(frozen=True)
class PixelRNNConfig:
    """Shape of a PixelRNN.

    Args:
        space: of pictures, in raster order.
        num_layers: residual layers, each of an LSTM a direction.
        dim: features of a pixel; an LSTM has half as many.
        labels: classes that it learns to tell apart.
        dropout: share of what is dropped behind the LSTMs, in training.

    Raises:
        ValueError: symbols that are no picture in raster order, or a size out of bounds.
    """

    space: Space
    num_layers: int = 4
    dim: int = 64
    labels: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.space.grid is None or self.space.size is None or self.space.order != "raster":
            raise ValueError("a PixelRNN models pictures in raster order")
        bounded("num_layers", self.num_layers, 1, 128)
        bounded("dim", self.dim, 2, 65536)
        bounded("labels", self.labels, 0, 65536)
        bounded("dropout", self.dropout, 0, 0.95)


def pixelrnn(space: Space, size: str = "small") -> PixelRNNConfig:
    """The shape of each size."""
    return PixelRNNConfig(space, *SIZES[size])


class Diagonal(nn.Module):
    """An LSTM from the left and one from the right, added to what they are given.

    Each pixel hears the one beside it and the one above it. What comes from the right goes one
    row down, so that it is behind nobody.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.size = dim // 2
        gates = 4 * self.size
        self.left = nn.Linear(dim, gates)
        self.right = nn.Linear(dim, gates)
        # Of each direction, from the pixel beside and from the one above.
        self.state = nn.Parameter(torch.empty(2, 2 * self.size, gates))
        nn.init.normal_(self.state, std=(2 * self.size) ** -0.5)
        self.out = nn.Linear(2 * self.size, dim)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            for way in (self.left, self.right):
                way.bias[self.size : 2 * self.size] = REMEMBERED

    def forward(self, left_BHWD: Tensor, right_BHWD: Tensor) -> Tensor:
        """The input of either direction -> [B, H, W, D]."""
        gates = torch.stack([self.left(left_BHWD), self.right(right_BHWD).flip(2)])
        ahead, back = self._scanned(gates.to(self.state.dtype))  # under autocast, not in bfloat16
        back = F.pad(back.flip(2), (0, 0, 0, 0, 1, 0))[:, :-1]
        out: Tensor = left_BHWD + self.out(self.dropout(torch.cat([ahead, back], -1)))
        return out

    def _scanned(self, gates_2BHWG: Tensor) -> Tensor:
        """Hidden states [2, B, H, W, S]. Row r is moved r to the right: a diagonal is a column.

        What lies outside of the picture, to its right, is never heard by what lies inside.
        """
        ways, batch, height, width = gates_2BHWG.shape[:4]
        skewed = F.pad(gates_2BHWG, (0, 0, 0, height)).flatten(2, 3)[:, :, :-height]
        skewed = skewed.unflatten(2, (height, width + height - 1))
        hidden = skewed.new_zeros(ways, batch, height, self.size)
        cell, kept = hidden, []
        for gates in skewed.unbind(3):
            both = torch.cat([hidden, F.pad(hidden, (0, 0, 1, 0))[:, :, :-1]], -1)
            heard = torch.bmm(both.flatten(1, 2), self.state).view(gates.shape)
            enter, keep, show, new = (gates + heard).chunk(4, -1)
            cell = torch.sigmoid(keep) * cell + torch.sigmoid(enter) * torch.tanh(new)
            hidden = torch.sigmoid(show) * torch.tanh(cell)
            kept.append(hidden)
        every = F.pad(torch.stack(kept, 3).flatten(2, 3), (0, 0, 0, height))
        out: Tensor = every.unflatten(2, (height, width + height))[:, :, :, :width]
        return out


class PixelRNN(ReplayModel):
    """p(channel of a pixel | all pixels before it, its channels before)."""

    Config = PixelRNNConfig
    mask: Tensor

    def __init__(self, config: PixelRNNConfig) -> None:
        super().__init__()
        assert config.space.grid is not None
        self.config, self.space = config, config.space
        _, self.width, self.channels = config.space.grid
        self.reads = frozenset({"label"} if config.labels else ())
        self.input = PixelInput(config.space)
        self.before = nn.Conv2d(self.input.dim, config.dim, KERNEL, padding=KERNEL // 2)
        self.itself = nn.Linear(self.input.dim, config.dim)
        mask = torch.zeros(KERNEL**2)
        mask[: KERNEL**2 // 2] = 1
        self.register_buffer("mask", mask.view(KERNEL, KERNEL), persistent=False)
        self.labels = Labels(config.labels, config.dim) if config.labels else None
        self.layers = nn.ModuleList(
            Diagonal(config.dim, config.dropout) for _ in range(config.num_layers)
        )
        self.head = PixelHead(config.space, config.dim)

    def forward(
        self, x: Tensor, cond: Condition | None = None, state: State | None = None
    ) -> Distribution:
        if state is not None:
            return super().carry(x, cond, state)[0]
        cond = self.check(len(x), cond)
        self.check_room(x.shape[1])
        each = self.width * self.channels
        rows = -(-x.shape[1] // each)
        pixels = F.pad(x, (0, rows * each - x.shape[1])).unflatten(1, (-1, self.channels))
        e = self.input(pixels)
        picture = e.unflatten(1, (rows, self.width))
        weight = self.before.weight * self.mask
        h = F.conv2d(picture.movedim(3, 1), weight, self.before.bias, padding=KERNEL // 2)
        h = h.movedim(1, 3)
        # From the right, the first layer hears pixels themselves: they lie in rows above.
        right = self.itself(picture)
        if self.labels is not None:
            told = self.labels(len(x), cond)[:, None, None]
            h, right = h + told, right + told
        for layer in self.layers:
            h = layer(h, right)
            right = h
        hidden = self.head.hidden(h.flatten(1, 2), pixels, e)
        return self.head.law(hidden.flatten(1, 2)[:, : x.shape[1]])
