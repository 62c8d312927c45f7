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
    """First derivatives only; both are written in place of their halves, and nothing is joined."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        opened = torch.sigmoid(a)
        ctx.save_for_backward(opened, b)
        return opened * b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        opened, b = ctx.saved_tensors
        shape = (g.shape[0], 2 * g.shape[1], *g.shape[2:])
        layout = torch.channels_last if g.ndim == 4 else torch.contiguous_format
        slope = torch.empty(shape, dtype=g.dtype, device=g.device, memory_format=layout)
        first, second = slope.chunk(2, 1)
        torch.mul(g, opened, out=second)
        torch.ops.aten.sigmoid_backward(g * b, opened, grad_input=first)
        return slope
