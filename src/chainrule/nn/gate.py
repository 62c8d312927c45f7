"""A gate over channels: σ(first half) · second half, with as few passes over memory as can be.

Shapes: B rows, K channels behind the gate, H × W places.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def gate(x_B2HW: Tensor) -> Tensor:
    """[B, 2 K, H, W] to [B, K, H, W]."""
    out: Tensor = _Gate.apply(x_B2HW)
    return out


class _Gate(torch.autograd.Function):
    """First derivatives only; what it keeps is its output and σ, not the input.

    Half of a channels-last tensor is read by a copy first: other ops stall on its gaps.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        opened = torch.sigmoid(a)
        out = torch.empty_like(opened).copy_(b).mul_(opened)
        ctx.save_for_backward(opened, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        opened, out = ctx.saved_tensors
        of_b = g * opened
        return torch.cat([(g - of_b).mul_(out), of_b], 1)  # g b σ (1 - σ) = (g - g σ) out
