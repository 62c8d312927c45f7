"""The optimiser and its schedule."""

from __future__ import annotations

import torch
from torch import nn


def adamw(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), fused; only matrices decay."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=lr, betas=(0.9, 0.99), fused=True
    )


def warm_up_stable_decay(step: int, steps: int, warm_up: int, decay: float) -> float:
    """The learning rate's factor at ``step`` (0-based): linear up, flat, linear down to 0.

    Source: Hägele et al. 2024; ``decay`` is the share of the steps spent going down.
    """
    falling = max(1, round(steps * decay))
    up = (step + 1) / max(1, warm_up)
    down = (steps - step) / falling
    return min(1.0, up, down)
