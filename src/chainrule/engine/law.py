"""The law that the engine's head makes, in float64: the same bits in a rollout and here.

Shapes: B rows, L positions, D width of the hidden, V alphabet size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chainrule.core.distributions import Categorical, Finite
from chainrule.native import _native


@dataclass(frozen=True, eq=False)
class EngineLaw(Finite):
    """What the head makes of hidden [B, L, D]: log-probabilities are float64, made when asked."""

    hidden: Tensor
    machine: Any
    size: int

    @functools.cached_property
    def _log_probs(self) -> Tensor:
        out = torch.empty(self.hidden.shape[:-1].numel(), self.size, dtype=torch.float64)
        self.machine.log_probs(self._flat(), out.numpy())
        return out.view(*self.hidden.shape[:-1], self.size)

    def log_probs(self) -> Tensor:
        return self._log_probs

    def log_prob(self, x: Tensor) -> Tensor:
        if "_log_probs" in self.__dict__:
            return super().log_prob(x)
        x = x.expand(self.hidden.shape[:-1])
        out = torch.empty(x.numel(), dtype=torch.float64)
        self.machine.log_prob(self._flat(), x.reshape(-1).contiguous().numpy(), out.numpy())
        return out.view(x.shape)

    def pick(self, gumbel: Callable[[int], Tensor]) -> Tensor:
        return Scores(self.log_probs()).pick(gumbel)

    def warped(self, warp: Any) -> Scores:
        """What ``Warps`` makes of it, by the code that a rollout runs too."""
        each = warp.settings.repeat_interleave(self.hidden.shape[1], 0)
        log_p = self.log_probs().reshape(-1, self.size).contiguous()
        out = torch.empty_like(log_p)
        assert _native is not None
        temperature, top_k, top_p, min_p, typical = (c.contiguous() for c in each.unbind(1))
        _native.chainrule_warp(
            log_p.numpy(), temperature.numpy(), top_k.long().numpy(), top_p.numpy(),
            min_p.numpy(), typical.numpy(), out.numpy(),
        )  # fmt: skip
        return Scores(out.view(*self.hidden.shape[:-1], self.size))

    def _flat(self) -> np.ndarray[Any, Any]:
        array: np.ndarray[Any, Any] = self.hidden.reshape(-1, self.hidden.shape[-1]).numpy()
        return np.ascontiguousarray(array)


class Scores(Categorical):
    """Log-probabilities up to a constant [B, L, V], drawn from as a rollout draws."""

    def pick(self, gumbel: Callable[[int], Tensor]) -> Tensor:
        size = self.logits.shape[-1]
        noise = gumbel(size).expand(self.logits.shape).reshape(-1, size).contiguous()
        scores = self.logits.reshape(-1, size).contiguous()
        out = torch.empty(len(scores), dtype=torch.int64)
        assert _native is not None
        _native.chainrule_pick(scores.numpy(), noise.float().numpy(), out.numpy())
        return out.view(self.logits.shape[:-1])
