"""A 3-channel PixelCNN by replay: its author writes ``forward`` only.

Shapes: B rows, T pixels, H height, W width, C channels (3), K components, D features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrule.core.joint import LogisticMixtureJoint
from chainrule.core.model import Condition, ReplayModel
from chainrule.core.space import Space
from chainrule.core.state import State

CHANNELS = 3


class MaskedConv(nn.Conv2d):
    """3×3, blind to later pixels; ``itself`` says whether it sees the pixel in the middle."""

    def __init__(self, inputs: int, outputs: int, itself: bool) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        mask = torch.ones(9)
        mask[4 + itself :] = 0
        self.register_buffer("mask", mask.view(1, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)


class PixelCNN(ReplayModel):
    """Raster order; a pixel's channels are one event."""

    def __init__(self, side: int, levels: int, mixtures: int = 2, dim: int = 6) -> None:
        super().__init__()
        self.space = Space("finite", levels, (CHANNELS,), max_len=side * side)
        self.side, self.levels, self.mixtures = side, levels, mixtures
        self.first = MaskedConv(CHANNELS + 1, dim, itself=False)
        self.second = MaskedConv(dim, dim, itself=True)
        self.head = nn.Conv2d(dim, mixtures * (1 + 2 * CHANNELS + CHANNELS**2), 1)

    def forward(
        self, x: Tensor, cond: Condition | None = None, state: State | None = None
    ) -> LogisticMixtureJoint:
        if state is not None:
            return super().carry(x, cond, state)[0]
        self.check(len(x), cond)
        places = self.side * self.side
        level = x.to(self.head.weight) * (2 / (self.levels - 1)) - 1
        level = F.pad(level, (0, 0, 0, places - x.shape[1]))
        picture = level.transpose(1, 2).unflatten(2, (self.side, self.side))
        inside = torch.ones_like(picture[:, :1])  # tells the border from a grey pixel
        h = torch.tanh(self.first(torch.cat([picture, inside], 1)))
        h = h + torch.tanh(self.second(h))
        out = self.head(h).flatten(2).transpose(1, 2)[:, : x.shape[1]]  # [B, T, K·(…)]
        out = out.unflatten(2, (self.mixtures, -1))
        mix, loc, log_scale, coeff = out.split([1, CHANNELS, CHANNELS, CHANNELS**2], -1)
        coeff = coeff.unflatten(-1, (CHANNELS, CHANNELS)).movedim(2, -1)  # [B, T, C, C, K]
        loc, log_scale = loc.transpose(2, 3), log_scale.transpose(2, 3)
        return LogisticMixtureJoint(mix[..., 0], loc, log_scale, coeff, self.levels)
