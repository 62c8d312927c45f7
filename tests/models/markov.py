"""An order-2 Markov table: the exact oracle. Shapes: B rows, L block, R tail, V alphabet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chainrule.core.distributions import Categorical
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.space import Space
from chainrule.core.state import State, Window

ORDER = 2


class Markov(SequenceModel):
    """p(x_t | x_{t-2}, x_{t-1}) in a table; symbol V stands for "before the beginning"."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.space = Space("finite", size)
        self.logits = nn.Parameter(torch.randn(size + 1, size + 1, size))

    def start(self, batch: int, cond: Condition | None = None) -> State:
        self.check(batch, cond)
        before = torch.full((batch,), self.logits.shape[-1])
        return State((0,) * batch, {"last": Window.full(before, ORDER)})

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        return state.push(x.shape[1], tail, last=x)

    def predict(self, state: State) -> Categorical:
        past = state.window("last").unfold(1, ORDER, 1)  # [B, R+1, 2]
        return Categorical(self.logits[past[..., 0], past[..., 1]])

    def oracle(self, x: list[int]) -> float:
        """log p(x) by the definition, one table look-up at a time."""
        table = self.logits.detach().log_softmax(-1)
        padded = [table.shape[-1]] * ORDER + x
        return sum(float(table[tuple(padded[t : t + ORDER + 1])]) for t in range(len(x)))
