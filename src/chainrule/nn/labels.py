"""The class that a row is told it belongs to, as a vector. Shapes: B rows, D width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chainrule.core.model import Condition


class Labels(nn.Module):
    """One vector for each of ``count`` labels, and a last one for none, -1."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(count + 1, dim)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, batch: int, cond: Condition | None) -> Tensor:
        """[B, D]; rows without a label get the vector for none.

        Raises:
            ValueError: a label that there is no vector for.
        """
        none = self.table.num_embeddings - 1
        weight = self.table.weight
        label = None if cond is None else cond.label
        if label is None:
            return weight[none].expand(batch, -1)
        if bool(((label < -1) | (label >= none)).any()):
            wrong = label[(label < -1) | (label >= none)][0]
            raise ValueError(f"label {int(wrong)}: this model has learned labels 0 to {none - 1}")
        rows: Tensor = self.table(torch.where(label < 0, none, label))
        return rows
