"""MADE: one pass of a masked multilayer net gives the laws of all symbols of a picture.

Sources: Germain et al. 2015, "MADE: Masked autoencoder for distribution estimation"; residual
blocks as in Nash & Durkan 2019, "Autoregressive energy machines".
Shapes: B rows, L symbols given, T of a whole picture, V levels, F numbers that stand for a level,
D hidden units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrule.core.config import bounded
from chainrule.core.distributions import Bernoulli, Finite
from chainrule.core.model import Condition, ReplayModel
from chainrule.core.space import Space
from chainrule.core.state import State
from chainrule.nn.heads import LinearCategorical
from chainrule.nn.labels import Labels

SIZES = {"tiny": (1, 64), "small": (1, 512), "base": (1, 2048)}
FEATURES = 8  # at most so many numbers stand for a level: V of them would be too many weights
MOST = 2**28  # weights, each with a mask: of larger pictures they fill any memory
SMALL = 0.1  # what a block adds at first, beside what it is added to


@dataclass(frozen=True)
class MADEConfig:
    """Shape of a masked net over pictures in any order.

    Args:
        num_layers: residual blocks of two masked layers each.
        dim: hidden units of every layer.
        labels: classes that it learns to tell apart.
        dropout: share of hidden units dropped before every layer but the first, in training.

    Raises:
        ValueError: symbols of no picture, a size out of bounds, or too many weights.
    """

    space: Space
    num_layers: int = 1
    dim: int = 512
    labels: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.space.grid is None or self.space.size is None or self.space.event_shape:
            raise ValueError("made models pictures: give it a space that has a grid")
        bounded("num_layers", self.num_layers, 0, 128)
        bounded("dim", self.dim, 1, 65536)
        bounded("labels", self.labels, 0, 65536)
        bounded("dropout", self.dropout, 0, 0.95)
        places, numbers = math.prod(self.space.grid), _features(self.space.size)
        across = places * numbers * (places + 2 * self.dim)
        if across + 2 * self.num_layers * self.dim**2 > MOST:
            raise ValueError(
                f"a made of {places:,} symbols, {self.dim:,} wide, has more than {MOST:,} weights: "
                "make the pictures smaller, or choose --model pixelcnn or transformer"
            )


def _features(levels: int) -> int:
    return 1 if levels == 2 else min(levels, FEATURES)


def made(space: Space, size: str = "small") -> MADEConfig:
    """The shape of each size."""
    return MADEConfig(space, *SIZES[size])


class Masked(nn.Module):
    """A linear layer without the weights that would tell an output too much.

    Args:
        knows: of every input, of how many symbols it knows; may: of every output, how many it may.
        scale: of what comes out at first.
    """

    mask: Tensor

    def __init__(self, knows: Tensor, may: Tensor, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(len(may), len(knows)))
        self.bias = nn.Parameter(torch.zeros(len(may)))
        self.register_buffer("mask", torch.empty(len(may), len(knows)), persistent=False)
        if self.mask.is_meta:
            return  # an outline has no values, and there may be very many
        with torch.no_grad():
            self.mask.copy_(knows <= may[:, None])
            seen = self.mask.sum(1, keepdim=True).clamp_min(1)
            self.weight.normal_().mul_(scale / seen.sqrt())

    def forward(self, x: Tensor) -> Tensor:
        # The bias is added outside: under autocast the product is bfloat16, the sum is not.
        return F.linear(x, self.weight * self.mask) + self.bias


class Block(nn.Module):
    """Two masked layers, added to what they are given."""

    def __init__(self, degree: Tensor, dropout: float) -> None:
        super().__init__()
        self.inner, self.outer = Masked(degree, degree), Masked(degree, degree, SMALL)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        between = self.inner(self.dropout(F.relu(hidden)))
        out: Tensor = hidden + self.outer(self.dropout(F.relu(between)))
        return out


class MADE(ReplayModel):
    """Hidden unit k sees the first degree[k] symbols only, and symbol t units of degree ≤ t.

    Degrees lie evenly between 1 and T - 1. Two levels are one number, -1 or 1, and a log-odds;
    more are ``FEATURES`` learned numbers each, which all places share, going in and coming out.
    Few units see a symbol's nearest neighbours, so linear weights lead there past all of them.
    """

    Config = MADEConfig

    def __init__(self, config: MADEConfig) -> None:
        super().__init__()
        self.config, self.space = config, config.space
        assert config.space.grid is not None and config.space.size is not None
        self.places, size, dim = math.prod(config.space.grid), config.space.size, config.dim
        self.features = _features(size)
        self.embedding: nn.Embedding | None = None
        if size != 2:
            self.embedding = nn.Embedding(size, self.features)
            with torch.no_grad():
                self.embedding.weight[:, 0] = torch.linspace(-1, 1, size)
        with torch.device("cpu"):
            place, unit = torch.arange(self.places), torch.arange(dim)
            number = place.repeat_interleave(self.features)
            degree = (1 + unit * (self.places - 1) // dim).clamp_max(self.places - 1)
        self.first = Masked(number + 1, degree)
        self.blocks = nn.Sequential(
            *(Block(degree, config.dropout) for _ in range(config.num_layers))
        )
        self.last = Masked(degree, number, SMALL)
        self.direct = Masked(place + 1, number, 0.0)
        self.head = None if size == 2 else nn.Linear(self.features, size)
        self.dropout = nn.Dropout(config.dropout)
        self.labels = Labels(config.labels, dim + len(number)) if config.labels else None
        self.reads = frozenset({"label"} if config.labels else ())

    def forward(
        self, x: Tensor, cond: Condition | None = None, state: State | None = None
    ) -> Finite:
        if state is not None:
            law = super().carry(x, cond, state)[0]
            assert isinstance(law, Finite)
            return law
        cond = self.check(len(x), cond)
        self.check_room(x.shape[1])
        numbers = self._numbers(F.pad(x, (0, self.places - x.shape[1])))
        hidden = self.first(numbers.flatten(1))
        told: Tensor | None = None
        if self.labels is not None:
            label, told = self.labels(len(x), cond).split([self.config.dim, len(self.last.bias)], 1)
            hidden = hidden + label
        out = self.last(self.dropout(F.relu(self.blocks(hidden)))) + self.direct(numbers[..., 0])
        out = out if told is None else out + told
        if self.head is None:
            return Bernoulli(out[:, : x.shape[1]])
        out = out.unflatten(1, (-1, self.features))[:, : x.shape[1]]
        return LinearCategorical(out, self.head.weight, self.head.bias)

    def _numbers(self, x: Tensor) -> Tensor:
        """What stands for symbols [B, T]: [B, T, F]. The first number begins as the level."""
        if self.embedding is None:
            return x[..., None].to(self.last.bias.dtype) * 2 - 1
        numbers: Tensor = self.embedding(x)
        return numbers
