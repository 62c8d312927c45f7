"""A dilated causal convolution on Window leaves. Shapes: B rows, L block, D width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from chainrule.core.distributions import Categorical
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.space import Space
from chainrule.core.state import State, Window


class DilatedConv(SequenceModel):
    """Layer i looks back (kernel - 1) · dilations[i] of its inputs, ``back[i]``."""

    def __init__(self, size: int, dilations: Sequence[int], kernel: int = 2, dim: int = 5) -> None:
        super().__init__()
        self.space, self.back = Space("finite", size), [(kernel - 1) * d for d in dilations]
        self.embedding = nn.Embedding(size + 1, dim)  # the last row: start
        self.convs = nn.ModuleList(nn.Conv1d(dim, dim, kernel, dilation=d) for d in dilations)
        self.head = nn.Linear(dim, size)

    def start(self, batch: int, cond: Condition | None = None) -> State:
        self.check(batch, cond)
        h = self.embedding(torch.full((batch, 1), self.embedding.num_embeddings - 1))
        leaves = {}
        for i, back in enumerate(self.back):
            past = h.new_zeros(batch, back, h.shape[-1])
            leaves[f"past{i}"] = Window(past, back).push(h, 0)
            h = self._layer(i, past, h)
        return State((0,) * batch, {**leaves, "hidden": Window(h, 1)})

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        h, inputs = self.embedding(x), {}
        for i, back in enumerate(self.back):
            inputs[f"past{i}"] = h
            h = self._layer(i, state.window(f"past{i}")[:, -back:], h)
        return state.push(x.shape[1], tail, hidden=h, **inputs)

    def predict(self, state: State) -> Categorical:
        return Categorical(self.head(state.window("hidden")))

    def forward(
        self, x: Tensor, cond: Condition | None = None, state: State | None = None
    ) -> Categorical:
        if state is not None:
            return super().carry(x, cond, state)[0]
        self.check(len(x), cond)
        begin = torch.full((len(x), 1), self.embedding.num_embeddings - 1)
        h = self.embedding(torch.cat([begin, x[:, :-1]], 1))
        for i, back in enumerate(self.back):
            h = self._layer(i, h.new_zeros(len(x), back, h.shape[-1]), h)
        return Categorical(self.head(h))

    def _layer(self, i: int, past: Tensor, h: Tensor) -> Tensor:
        seen = torch.cat([past, h], 1).transpose(1, 2)
        return h + torch.tanh(self.convs[i](seen).transpose(1, 2))
