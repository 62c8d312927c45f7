"""A smooth function's minimum, for a few dozen unknowns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_ENOUGH = 1e-9  # no step gains as much: done
_HALVINGS = 30


def minimised(loss: Callable[[Tensor], Tensor], start: Tensor, rounds: int = 150) -> Tensor:
    """Where ``loss`` of a tensor is least, by BFGS with halved steps (Nocedal & Wright 2006,
    "Numerical optimization", section 6.1). torch's own would first load its compiler."""

    def measured(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            free = x.detach().view(start.shape).requires_grad_()
            value = loss(free)
            (slope,) = torch.autograd.grad(value, free)
        return value.detach(), slope.flatten()

    x = start.detach().flatten()
    value, slope = measured(x)
    curved = torch.eye(len(x), dtype=x.dtype, device=x.device)
    for turn in range(rounds):
        step = -(curved @ slope)
        fall = slope @ step
        if fall >= 0:  # rounding has spoilt the curvature
            curved = torch.eye(len(x), dtype=x.dtype, device=x.device)
            step, fall = -slope, -(slope @ slope)
        for _ in range(_HALVINGS):
            there, slope_there = measured(x + step)
            if there <= value + 1e-4 * fall:
                break
            step, fall = step / 2, fall / 2
        else:
            break
        gained, bend = value - there, slope_there - slope
        x, value, slope = x + step, there, slope_there
        if gained < _ENOUGH:
            break
        along = step @ bend
        if along > 1e-12:
            if turn == 0:
                curved = curved * (along / (bend @ bend))
            left = torch.eye(len(x), dtype=x.dtype, device=x.device)
            left = left - torch.outer(step, bend) / along
            curved = left @ curved @ left.T + torch.outer(step, step) / along
    return x.view(start.shape)
