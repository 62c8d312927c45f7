"""Scalar autoregressions of order 2: heavy-tailed reals and counts. Shapes: B, L, R as ever."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrule.core.distributions import NegativeBinomial, Scalar, StudentT
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.space import Space
from chainrule.core.state import State, Window

ORDER = 2


class _ScalarAR(SequenceModel):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(ORDER, 1)
        self.raw = nn.Parameter(torch.ones(2))

    def start(self, batch: int, cond: Condition | None = None) -> State:
        self.check(batch, cond)
        before = torch.zeros(batch, dtype=self.space.dtype)
        return State((0,) * batch, {"last": Window.full(before, ORDER)})

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        return state.push(x.shape[1], tail, last=x)

    def _past(self, state: State) -> Tensor:
        return state.window("last").unfold(1, ORDER, 1)  # [B, R+1, 2]


class StudentAR(_ScalarAR):
    """Heavy tails; mean, scale and degrees of freedom are learned."""

    space = Space("real")

    def predict(self, state: State) -> Scalar:
        loc = torch.tanh(self.linear(self._past(state))[..., 0])
        df, scale = F.softplus(self.raw)
        return StudentT((3 + df).expand_as(loc), loc, scale.expand_as(loc))


class CountAR(_ScalarAR):
    """Counts whose mean follows the last two."""

    space = Space("count")

    def predict(self, state: State) -> Scalar:
        past = torch.log1p(self._past(state).to(self.raw))
        mean = F.softplus(self.linear(past)[..., 0]) + 0.5 * F.softplus(self.raw[0])
        return NegativeBinomial(mean, F.softplus(self.raw[1]).expand_as(mean))
