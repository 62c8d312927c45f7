"""Heads: from a hidden vector to a distribution.

Shapes: B rows, L positions, N = B·L, D hidden width, V alphabet size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from chainrule.core.distributions import Finite
from chainrule.nn.precision import product_type

EXTRA = 16  # columns beside the hidden ones: one carries the bias, the others align the rows


@dataclass(frozen=True, eq=False)
class LinearCategorical(Finite):
    """Softmax of ``hidden @ weight.T + bias``; logits are made only when somebody looks.

    hidden [B, L, D]; weight [V, D] and bias [V] have no batch axes.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor

    def map(self, f: Callable[[Tensor], Tensor]) -> LinearCategorical:
        return LinearCategorical(f(self.hidden), self.weight, self.bias)

    @functools.cached_property
    def logits(self) -> Tensor:
        """Unnormalised [B, L, V]."""
        return F.linear(self.hidden.to(product_type(self.weight)), self.weight, self.bias)

    @functools.cached_property
    def _log_probs(self) -> Tensor:
        # Under autocast logits are bfloat16; what is said of a symbol is not.
        return torch.log_softmax(self.logits, -1, dtype=self.bias.dtype)

    def log_probs(self) -> Tensor:
        return self._log_probs

    def pick(self, gumbel: Callable[[int], Tensor]) -> Tensor:
        return (self.logits + gumbel(self.logits.shape[-1])).argmax(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        learns = self.hidden.requires_grad or self.weight.requires_grad
        few = 2 * len(self.weight) <= self.weight.shape[1]  # logits then cost less than copies
        if not (learns and torch.is_grad_enabled()) or "logits" in self.__dict__ or few:
            return super().log_prob(x)
        hidden, compute = self.hidden.flatten(0, -2), product_type(self.weight)
        out: Tensor = _LinearLogProb.apply(hidden, self.weight, self.bias, x.flatten(), compute)
        return out.view(x.shape)


class _LinearLogProb(torch.autograd.Function):
    """log softmax(hidden @ weight.T + bias)[x], [N]; first derivatives only.

    One buffer [N, V] holds the logits, then the probabilities, then the gradient of -log p: it
    is written by one product and read by two. No chunks: a chunk would pack the weight anew.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, x: Tensor, compute: torch.dtype
    ) -> Tensor:
        width = hidden.shape[1]
        h = hidden.new_zeros(len(hidden), width + EXTRA, dtype=compute)
        w = weight.new_zeros(len(weight), width + EXTRA, dtype=compute)
        h[:, :width], h[:, width] = hidden, 1
        w[:, :width], w[:, width] = weight, bias
        p = h @ w.t()
        torch.softmax(p, -1, out=p)
        rows = torch.arange(len(x), device=x.device)
        at = p[rows, x].to(bias.dtype)
        p[rows, x] = 0
        others = p.sum(-1)  # = 1 - p[x], without the rounding of a p[x] near 1
        p[rows, x] = -others
        ctx.save_for_backward(h, w, p)
        ctx.types = hidden.dtype, weight.dtype, bias.dtype
        tiny = torch.finfo(bias.dtype).tiny
        return torch.where(at > 0.5, torch.log1p(-others.to(bias.dtype)), at.clamp_min(tiny).log())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_N: Tensor) -> tuple[Tensor | None, ...]:
        h, w, p = ctx.saved_tensors
        of_hidden, of_weight, of_bias = ctx.types
        width = w.shape[1] - EXTRA
        d_hidden = (p @ w[:, :width]).to(of_hidden).mul_(-g_N[:, None].to(of_hidden))
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            return d_hidden, None, None, None, None
        d_w = p.t() @ (h * -g_N[:, None].to(p.dtype))
        return d_hidden, d_w[:, :width].to(of_weight), d_w[:, width].to(of_bias), None, None


class Ahead(nn.Module):
    """Extra heads: what the head would read one symbol later, guessed without the layers.

    One small step, done again for each symbol further on. Sources: DeepSeek-AI 2024, "DeepSeek-V3
    technical report", 2.2 (symbols beyond the next, one after the other); Ankner et al. 2024,
    "Hydra" (heads that see the symbols drafted before).
    """

    def __init__(self, dim: int, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.up = nn.Linear(2 * dim, dim, bias=False)
        self.down = nn.Linear(dim, dim, bias=False)

    def forward(self, hidden: Tensor, symbol: Tensor) -> Tensor:
        """From what the head reads [..., D] and the next symbol's embedding [..., D]."""
        inner = F.silu(self.up(torch.cat([hidden, self.norm(symbol)], -1)))
        out: Tensor = self.norm(hidden + self.down(inner))
        return out
