"""Heads: from a hidden vector to a distribution.

Shapes: B rows, L positions, D width, V alphabet size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from chainrule.core.distributions import Finite


@dataclass(frozen=True, eq=False)
class LinearCategorical(Finite):
    """Softmax of ``hidden @ weight.T + bias``; logits are made only when somebody looks.

    Args: hidden [B, L, D]. ``linear`` holds weight [V, D] and bias [V] (no batch axes).
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor

    def map(self, f):  # type: ignore[no-untyped-def]
        return LinearCategorical(f(self.hidden), self.weight, self.bias)

    def logits(self) -> Tensor:
        """Unnormalised [B, L, V]."""
        return F.linear(self.hidden.to(self.weight.dtype), self.weight, self.bias)

    def log_probs(self) -> Tensor:
        done: Tensor | None = self.__dict__.get("_log_probs")
        if done is None:
            done = torch.log_softmax(self.logits(), -1)
            object.__setattr__(self, "_log_probs", done)
        return done
