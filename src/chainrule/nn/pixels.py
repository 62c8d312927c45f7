"""Pixels in and out: the symbols of a pixel as features, and a pixel's features as laws.

Shapes: B rows, n pixels, C channels, E embedding, D features of a pixel, S width of a hidden
vector, K mixture components, V levels.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrule.core.distributions import DiscretizedLogisticMixture, Distribution
from chainrule.core.space import Space
from chainrule.nn.heads import LinearCategorical

HeadName = Literal["categorical", "logistic"]
LEAST = -7.0  # of the log-scale of a logistic, on [-1, 1]: Salimans et al. 2017
MOST, FARTHEST = 7.0, 1e3  # of a log-scale and a centre: beyond, float32 has no law of levels


def head_of(space: Space, name: HeadName | None) -> HeadName:
    """The head for these levels: as asked, else categorical.

    Raises:
        ValueError: no finite symbols, or a head of another name.
    """
    if space.size is None:
        raise ValueError("pixels are finite symbols")
    if name is not None and name not in get_args(HeadName):
        raise ValueError(f"head {name!r} is not one of {', '.join(get_args(HeadName))}")
    return name or "categorical"


class PixelInput(nn.Module):
    """One vector [E] for each level of each channel; at first, cosines of the level.

    The first of them is 1: a picture's inside is told from what lies around it, which is 0.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        assert space.grid is not None and space.size is not None
        levels, self.channels = space.size, space.grid[2]
        self.each = 2 if levels == 2 else 4 if levels <= 16 else 8
        self.dim = self.channels * self.each
        self.table = nn.Embedding(self.channels * levels, self.each)
        with torch.device("cpu"), torch.no_grad():  # elsewhere torch would import its compiler
            angle = math.pi * (torch.arange(levels) + 0.5) / levels
            waves = torch.cos(angle[:, None] * torch.arange(self.each)) * 2**0.5
            waves[:, 0] = 1
            self.table.weight.copy_(waves.repeat(self.channels, 1))
        first = torch.arange(self.channels) * levels
        self.register_buffer("first", first, persistent=False)

    first: Tensor

    def forward(self, x_BnC: Tensor) -> Tensor:
        """Symbols [..., C] to [..., C · E]."""
        out: Tensor = self.table(x_BnC + self.first).flatten(-2)
        return out


class PixelHead(nn.Module):
    """The laws of a pixel's channels, each given those before it.

    ``hidden`` makes a vector [S] for each channel, ``law`` a law of it; so a state keeps vectors.
    The logistic head has one mixture for all channels (Salimans et al. 2017, eq. 3), whose weights
    are re-weighted by the likelihood of the channels before: they tell which component it is.
    """

    def __init__(
        self, space: Space, dim: int, name: HeadName | None = None, mixtures: int = 10
    ) -> None:
        super().__init__()
        assert space.grid is not None and space.size is not None
        self.levels, self.channels, self.mixtures = space.size, space.grid[2], mixtures
        self.name, inner = head_of(space, name), 2 * dim
        self.inner = inner
        self.inside = nn.Linear(dim, inner)
        if self.name == "logistic":
            pairs = self.channels * (self.channels - 1) // 2
            self.parts = [1, self.channels, self.channels, pairs]
            self.out = nn.Linear(inner, sum(self.parts) * mixtures)
            self.size = inner + 1 + self.channels
        else:
            each = PixelInput(space).dim
            self.earlier = nn.Linear(each, inner, bias=False) if self.channels > 1 else None
            self.out = nn.Linear(inner, self.levels)
            self.size = inner
        sees = torch.ones(self.channels, self.channels).tril(-1)  # [channel, one before it]
        self.register_buffer("sees", sees, persistent=False)

    sees: Tensor

    def hidden(self, pixel_BnD: Tensor, x_BnC: Tensor, e_BnF: Tensor) -> Tensor:
        """[B, n, C, S] from features, symbols and their embeddings [B, n, C · E]."""
        inside = self.inside(F.relu(pixel_BnD))[:, :, None].expand(-1, -1, self.channels, -1)
        if self.name == "logistic":
            scale = 2 / max(self.levels - 1, 1)
            # Never in bfloat16, where half of the way to the next level gets lost.
            level = (x_BnC.to(self.sees) * scale - 1)[:, :, None] * self.sees
            number = torch.arange(self.channels, device=level.device).to(level)
            number = number[:, None].expand(*level.shape[:3], 1)
            return torch.cat([F.relu(inside), number, level], -1)
        if self.earlier is not None:
            each = e_BnF.shape[-1] // self.channels
            seen = e_BnF[:, :, None] * self.sees.repeat_interleave(each, 1)
            inside = inside + self.earlier(seen.to(inside.dtype))
        return F.relu(inside)

    def law(self, hidden: Tensor) -> Distribution:
        """[B, L, S] to the laws [B, L]."""
        if self.name == "categorical":
            return LinearCategorical(hidden, self.out.weight, self.out.bias)
        given = hidden[..., self.inner :].float() if hidden.dtype != torch.float64 else hidden
        number, level = given[..., -self.channels - 1].long(), given[..., -self.channels :]
        found = self.out(hidden[..., : self.inner]).to(level)
        found = found.unflatten(-1, (-1, self.mixtures))
        mix, loc, log_scale, coeff = found.split(self.parts, -2)
        mix, log_scale = torch.log_softmax(mix[..., 0, :], -1), log_scale.clamp(LEAST, MOST)
        loc = loc.clamp(-FARTHEST, FARTHEST)
        symbol = ((level + 1) * (max(self.levels - 1, 1) / 2)).round().long()
        pair, moved = 0, []
        for i in range(self.channels):
            centre = loc[..., i, :]
            for j in range(i):
                centre = centre + torch.tanh(coeff[..., pair, :]) * level[..., j, None]
                pair += 1
            moved.append(centre)
        for i in range(self.channels - 1):  # channels that are seen weigh the components
            law = DiscretizedLogisticMixture(mix, moved[i], log_scale[..., i, :], self.levels)
            seen = (number > i)[..., None]
            mix = torch.where(seen, mix + law.component_log_prob(symbol[..., i]), mix)
        at = number[..., None, None].expand(*number.shape, 1, self.mixtures)
        centre = torch.stack(moved, -2).gather(-2, at)[..., 0, :]
        scale = log_scale.gather(-2, at)[..., 0, :]
        return DiscretizedLogisticMixture(mix, centre, scale, self.levels)
