"""A masked net for AnyOrder. Shapes: B rows, T places, V alphabet, D width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chainrule.core.distributions import Categorical
from chainrule.core.model import Condition, MaskedModel
from chainrule.core.space import Space


class MaskedNet(MaskedModel):
    """Every place hears every place that is known, and whether it is."""

    def __init__(self, size: int, places: int, dim: int = 6) -> None:
        super().__init__()
        self.space = Space("finite", size, max_len=places)
        self.embedding = nn.Embedding(size + 1, dim)  # the last row: unknown
        self.place = nn.Parameter(torch.randn(places, dim))
        self.mix = nn.Parameter(torch.randn(places, dim, places, dim) / dim)
        self.head = nn.Linear(dim, size)

    def forward(self, x: Tensor, known: Tensor, cond: Condition | None = None) -> Categorical:
        assert self.space.size is not None
        h = self.embedding(x.masked_fill(~known, self.space.size))
        heard = torch.einsum("bsd,sdte->bte", h, self.mix)
        return Categorical(self.head(torch.tanh(heard + self.place)))
