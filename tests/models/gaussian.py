"""Vector-valued Gaussian autoregression. Shapes: B rows, L block, R tail, E parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chainrule.core.distributions import Normal
from chainrule.core.joint import Independent, Joint
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.space import Space
from chainrule.core.state import State, Window

ORDER = 2


@dataclass(frozen=True, eq=False)
class Correlated(Joint):
    """Part i's mean moves by ``coupling[i, j]`` times the surprise of part j, j < i."""

    loc: Tensor
    scale: Tensor
    coupling: Tensor

    @property
    def num_parts(self) -> int:
        return self.loc.shape[-1]

    def part(self, i: int, prefix: Tensor) -> Normal:
        loc = self.loc[..., i]
        if i:
            surprise = prefix - self.loc[..., :i]
            loc = loc + (surprise * self.coupling[..., i, :i]).sum(-1)
        return Normal(loc, self.scale[..., i])


class VectorAR(SequenceModel):
    """x_t ~ N(f(x_{t-1}, x_{t-2}), ·); what precedes the first symbol is learned."""

    def __init__(self, parts: int, correlated: bool) -> None:
        super().__init__()
        self.space, self.correlated = Space("real", event_shape=(parts,)), correlated
        self.before = nn.Parameter(torch.randn(parts))
        self.mean = nn.Linear(ORDER * parts, parts)
        self.log_scale = nn.Parameter(0.2 * torch.randn(parts))
        if correlated:
            self.coupling = nn.Parameter(torch.randn(parts, parts).tril(-1))

    def start(self, batch: int, cond: Condition | None = None) -> State:
        self.check(batch, cond)
        before = self.before.expand(batch, -1)
        return State((0,) * batch, {"last": Window.full(before, ORDER)})

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        return state.push(x.shape[1], tail, last=x)

    def predict(self, state: State) -> Joint:
        past = state.window("last").unfold(1, ORDER, 1).flatten(2)  # [B, R+1, 2E]
        loc = torch.tanh(self.mean(past))
        scale = self.log_scale.exp().expand_as(loc)
        if not self.correlated:
            return Independent(Normal(loc, scale), self.space.event_shape[0])
        return Correlated(loc, scale, self.coupling.expand(*loc.shape[:2], -1, -1))
