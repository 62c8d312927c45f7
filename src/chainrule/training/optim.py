"""Optimisers and their schedule.

Shapes: M matrices of one shape in a stack, R rows, C columns. A convolution's kernel is a matrix
with a row for each channel that it makes.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

BETAS = 0.9, 0.99
MOMENTUM = 0.95
SHARE = 0.2  # the root mean square of an AdamW update, about; Muon's is scaled to it


def make_optimiser(
    model: nn.Module, kind: str, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """``adamw`` for all, or ``muon`` for the matrices and kernels inside the network and AdamW for
    the rest.

    One ``lr`` suits both. Only matrices decay.

    Raises:
        ValueError: another kind.
    """
    if kind not in ("adamw", "muon"):
        raise ValueError(f"optimiser {kind!r} is not one of adamw, muon")
    outer = {id(p) for p in _outer(model)}
    wanted = [p for p in model.parameters() if p.requires_grad]
    inner = [p for p in wanted if kind == "muon" and p.ndim in (2, 4) and id(p) not in outer]
    taken = {id(p) for p in inner}
    rest = [p for p in wanted if id(p) not in taken]
    groups = [
        {"params": inner, "weight_decay": weight_decay, "muon": True},
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": weight_decay, "muon": False},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0, "muon": False},
    ]
    groups = [g for g in groups if g["params"]]
    if kind == "muon":
        return Muon(groups, lr)
    for group in groups:
        del group["muon"]
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, fused=True)


def _outer(model: nn.Module) -> list[Tensor]:
    """Tables of symbols and positions and the weights of the head: a row for each symbol."""
    size = getattr(getattr(model, "space", None), "size", None)
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    heads = [p for p in model.parameters() if p.ndim == 2 and p.shape[0] == size]
    return tables + heads


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal: every direction of a matrix learns at the same pace.

    Groups with ``muon`` set hold matrices and kernels; the others get AdamW. Those of one shape are
    made orthogonal together. Source: Jordan et al. 2024, "Muon"; the scale of the update from
    Liu et al. 2025, "Muon is scalable for LLM training", section 2.2.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "muon": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the gradients that are there."""
        assert closure is None, "no closures"
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            if group["muon"]:
                for _, same in groupby(sorted(params, key=_shape), key=_shape):
                    self._orthogonal(list(same), group["lr"], group["weight_decay"])
            else:
                self._adamw(params, group["lr"], group["weight_decay"])

    def _orthogonal(self, params: list[Tensor], lr: float, weight_decay: float) -> None:
        grads, moments = _grads(params), []
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
            moments.append(self.state[p]["momentum"])
        torch._foreach_lerp_(moments, grads, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(grads, moments, MOMENTUM)
        update = orthogonalised(torch.stack([each.flatten(1) for each in ahead]))
        torch._foreach_mul_(params, 1 - lr * weight_decay)
        scale = -lr * SHARE * max(update.shape[1:]) ** 0.5
        steps = [each.view(params[0].shape) for each in update.to(params[0].dtype)]
        torch._foreach_add_(params, steps, alpha=scale)

    def _adamw(self, params: list[Tensor], lr: float, weight_decay: float) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros((), device=p.device)
                self.state[p]["exp_avg"] = torch.zeros_like(p)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
        states = [self.state[p] for p in params]
        steps = [s["step"] for s in states]
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            params,
            _grads(params),
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            steps,
            lr=lr,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=weight_decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


def orthogonalised(g_MRC: Tensor, iterations: int = 5) -> Tensor:
    """The nearest matrices with orthonormal rows or columns, about; float32 in bfloat16.

    Newton-Schulz with the coefficients of Jordan et al. 2024: singular values end near 1, between
    0.7 and 1.2.
    """
    x = g_MRC.to(torch.bfloat16) if g_MRC.dtype == torch.float32 else g_MRC
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        a = x @ x.mT
        b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, b, x, beta=3.4445)
    return x.mT if tall else x


def _grads(params: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in params if p.grad is not None]


def _shape(p: Tensor) -> tuple[int, ...]:
    return tuple(p.shape)


def warm_up_stable_decay(step: int, steps: int, warm_up: int, decay: float) -> float:
    """The learning rate's factor at ``step`` (0-based): linear up, flat, linear down to 0.

    Source: Hägele et al. 2024; ``decay`` is the share of the steps spent going down.
    """
    falling = max(1, round(steps * decay))
    up = (step + 1) / max(1, warm_up)
    down = (steps - step) / falling
    return min(1.0, up, down)
