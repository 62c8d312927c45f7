"""A GRU told a label; -1 stands for none. Shapes: B rows, T length, L block, D width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chainrule.core.distributions import Categorical, Distribution
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.space import Space
from chainrule.core.state import State, Window


class LabelGRU(SequenceModel):
    """The label is the first hidden state; the hidden states are the whole memory."""

    reads = frozenset({"label"})

    def __init__(self, size: int, labels: int, dim: int = 6) -> None:
        super().__init__()
        self.space = Space("finite", size)
        self.embedding = nn.Embedding(size + 1, dim)  # the last row: start
        self.label = nn.Embedding(labels + 1, dim)  # the last row: none
        self.gru = nn.GRU(dim, dim, batch_first=True)
        self.head = nn.Linear(dim, size)

    def start(self, batch: int, cond: Condition | None = None) -> State:
        label = self.check(batch, cond).label
        if label is None:
            label = torch.full((batch,), -1)
        none = self.label.num_embeddings - 1
        first_BD = self.label(torch.where(label < 0, none, label))
        begin = torch.full((batch, 1), self.embedding.num_embeddings - 1)
        return State((0,) * batch, {"hidden": Window(self._run(first_BD, begin), 1)})

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        return state.push(x.shape[1], tail, hidden=self._run(state.window("hidden")[:, -1], x))

    def predict(self, state: State) -> Categorical:
        return Categorical(self.head(state.window("hidden")))

    def carry(
        self, x: Tensor, cond: Condition | None = None, state: State | None = None
    ) -> tuple[Distribution, State]:
        state = self.start(len(x), cond) if state is None else state.trim()
        before = state.window("hidden")
        out = self._run(before[:, -1], x)
        law = Categorical(self.head(torch.cat([before, out[:, :-1]], 1)))
        return law, state.push(x.shape[1], 0, hidden=out).detach()

    def _run(self, hidden_BD: Tensor, x: Tensor) -> Tensor:
        return self.gru(self.embedding(x), hidden_BD[None].contiguous())[0]
