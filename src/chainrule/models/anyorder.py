"""Pictures in any order: a net that is told any places and gives the laws of the others.

Sources: Uria et al. 2014, "A deep and tractable density estimator"; Hoogeboom et al. 2022,
"Autoregressive diffusion models"; the net: Ronneberger et al. 2015, "U-Net", with residual blocks.
Shapes: B rows, L symbols given, T of a whole picture, R undoable tail, H height, W width,
C channels, V levels, E numbers that stand for a level, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrule.core.config import bounded
from chainrule.core.distributions import Distribution
from chainrule.core.grid import places
from chainrule.core.model import AnyOrder, Condition, MaskedModel
from chainrule.core.space import Space
from chainrule.core.state import State
from chainrule.nn.heads import LinearCategorical
from chainrule.nn.labels import Labels

SIZES = {"tiny": (1, 32), "small": (2, 64), "base": (3, 128)}
COARSEST = 4  # rows or columns that are not halved any more
SMALL = 0.1  # what a block adds at first, beside what it is added to
PASSES = 2**23  # numbers in a layer's output at a time, where every symbol needs a pass of its own


@dataclass(frozen=True)
class AnyOrderConfig:
    """Shape of a residual U-Net.

    Args:
        num_layers: residual blocks before and behind every change of scale.
        dim: features of a pixel, at every scale.
        labels: classes that it learns to tell apart.
        dropout: share of features dropped inside every block, in training.

    Raises:
        ValueError: symbols of no picture, or a size out of bounds.
    """

    space: Space
    num_layers: int = 2
    dim: int = 64
    labels: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.space.grid is None or self.space.size is None or self.space.event_shape:
            raise ValueError("anyorder models pictures: give it a space that has a grid")
        bounded("num_layers", self.num_layers, 1, 128)
        bounded("dim", self.dim, 1, 65536)
        bounded("labels", self.labels, 0, 65536)
        bounded("dropout", self.dropout, 0, 0.95)


def anyorder(space: Space, size: str = "small") -> AnyOrderConfig:
    """The shape of each size."""
    return AnyOrderConfig(space, *SIZES[size])


class Block(nn.Module):
    """Two convolutions, added to what they are given."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Conv2d(dim, dim, 3, padding=1)
        self.outer = nn.Conv2d(dim, dim, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.outer.weight.mul_(SMALL)

    def forward(self, h_BDHW: Tensor) -> Tensor:
        between = self.dropout(F.silu(self.inner(F.silu(h_BDHW))))
        out: Tensor = h_BDHW + self.outer(between)
        return out


class Scale(nn.Module):
    """Blocks at one scale, around all that happens at coarser ones."""

    def __init__(self, height: int, width: int, config: AnyOrderConfig) -> None:
        super().__init__()
        blocks = [Block(config.dim, config.dropout) for _ in range(2 * config.num_layers)]
        self.before = nn.Sequential(*blocks[: config.num_layers])
        self.behind = nn.Sequential(*blocks[config.num_layers :])
        self.coarser: Scale | None = None
        if min(height, width) > COARSEST:
            self.down = nn.Conv2d(config.dim, config.dim, 2, stride=2)
            self.coarser = Scale(-(-height // 2), -(-width // 2), config)
            self.up = nn.Conv2d(config.dim, config.dim, 1)

    def forward(self, h_BDHW: Tensor) -> Tensor:
        height, width = h_BDHW.shape[2:]
        h = self.before(h_BDHW)
        if self.coarser is not None:
            deep = self.coarser(self.down(F.pad(h, (0, width % 2, 0, height % 2))))
            deep = self.up(deep).repeat_interleave(2, 2).repeat_interleave(2, 3)
            h = h + deep[:, :, :height, :width]
        out: Tensor = self.behind(h)
        return out


class MaskedPixels(MaskedModel):
    """The U-Net. Symbols come and laws go in the order of the space.

    An unknown place has a row of its own in the table of levels; a picture's border is told from
    learned features of every pixel.
    """

    def __init__(self, config: AnyOrderConfig) -> None:
        super().__init__()
        assert config.space.grid is not None and config.space.size is not None
        (height, width, channels), levels = config.space.grid, config.space.size
        self.grid, self.unknown = config.space.grid, levels
        # Without its grid: of fewer symbols than a picture has, this is a net as well.
        self.space = Space("finite", levels, max_len=height * width * channels)
        self.reads = frozenset({"label"} if config.labels else ())
        place = places(config.space.grid, config.space.order)
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("symbol", torch.argsort(place), persistent=False)
        each = 2 if levels == 2 else 4 if levels <= 16 else 8
        self.embedding = nn.Embedding(levels + 1, each)  # the last row: unknown
        self.first = nn.Conv2d(channels * each, config.dim, 3, padding=1)
        self.pixel = nn.Parameter(torch.zeros(config.dim, height, width))
        self.labels = Labels(config.labels, config.dim) if config.labels else None
        self.scale = Scale(height, width, config)
        self.last = nn.Conv2d(config.dim, channels * config.dim, 1)
        self.head = nn.Linear(config.dim, levels)
        with torch.no_grad(), torch.device("cpu"):  # at first, cosines of the level
            angle = math.pi * (torch.arange(levels) + 0.5) / levels
            waves = torch.cos(angle[:, None] * torch.arange(each)) * 2**0.5
            self.embedding.weight.copy_(F.pad(waves, (0, 0, 0, 1)))

    place: Tensor
    symbol: Tensor

    def forward(self, x: Tensor, known: Tensor, cond: Condition | None = None) -> LinearCategorical:
        length, (height, width, channels) = x.shape[1], self.grid
        symbols = F.pad(x.masked_fill(~known, self.unknown), self._behind(x), value=self.unknown)
        e = self.embedding(symbols[:, self.symbol]).view(len(x), height, width, -1)
        h = self.first(e.permute(0, 3, 1, 2)) + self.pixel
        if self.labels is not None:
            h = h + self.labels(len(x), cond)[..., None, None]
        out = F.silu(self.last(F.silu(self.scale(h))))
        out = out.unflatten(1, (channels, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3)
        hidden = out[:, self.place[:length]]
        return LinearCategorical(hidden, self.head.weight, self.head.bias)

    def fill(self, state: State, x: Tensor, known: Tensor) -> Distribution:
        """x [B, L] stands behind the symbols that ``AnyOrderPixels`` has consumed."""
        device = x.device
        at = state.pos(x.shape[1]).tensor(device)
        if int(at.max()) >= len(self.place):
            raise ValueError(f"a picture has {len(self.place)} symbols, not {int(at.max()) + 1}")
        grown = state.grow("symbols").read()
        seen = torch.arange(len(self.place), device=device)
        whole = F.pad(grown, self._behind(grown)).scatter(1, at, x)
        given = (seen < at[:, :1]).scatter(1, at, known)
        law = self.forward(whole, given, Condition.of(state))
        return law[torch.arange(len(x), device=device)[:, None], at]

    def _behind(self, x: Tensor) -> tuple[int, int]:
        """What is missing of a whole picture."""
        return 0, len(self.place) - x.shape[1]


class AnyOrderPixels(AnyOrder):
    """The chain rule over the order of the space; the net, ``masked``, knows all others as well.

    Every symbol takes a pass of the net: training has an objective of its own, any-order.
    """

    Config = AnyOrderConfig

    def __init__(self, config: AnyOrderConfig) -> None:
        assert config.space.max_len is not None
        super().__init__(MaskedPixels(config), range(config.space.max_len))
        self.config, self.space = config, config.space

    @property
    def masked(self) -> MaskedModel:
        return self.net

    @property
    def guesses_blocks(self) -> bool:
        return False

    def predict(self, state: State) -> LinearCategorical:
        """A few positions at a time: a long tail takes no more memory than a short one."""
        rows, tail = len(state.lens), state.tail
        step = max(1, PASSES // (rows * self.config.dim * len(self.order)))
        laws = []
        for first in range(0, tail + 1, step):
            last = min(first + step - 1, tail)
            law = super().predict(state.rewind([tail - last] * rows).trim(last - first))
            assert isinstance(law, LinearCategorical)
            laws.append(law)
        return replace(laws[0], hidden=torch.cat([law.hidden for law in laws], 1))
