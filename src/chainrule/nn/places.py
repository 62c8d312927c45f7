"""Where a symbol of a picture lies, as a vector: learned positions of two dimensions.

An input tells the place of its own symbol and the place of the one that it predicts: where the
order of a picture leaps, neither follows from the other.
Sources: Parmar et al. 2018, "Image Transformer" (learned embeddings of coordinates); Pannatier et
al. 2024, "σ-GPTs: a new approach to autoregressive models" (both places).
Shapes: C channels, T symbols of a picture, P inputs: T and the start symbol, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from chainrule.core.grid import Grid, coordinates


class Places(nn.Module):
    """Row, column and channel (where there is more than one) of both places, added up.

    Args:
        grid: of the picture; order: in which its symbols come.
        dim: D.
    """

    index: Tensor

    def __init__(self, grid: Grid, order: str, dim: int) -> None:
        super().__init__()
        with torch.device("cpu"):  # the places of an outline are known too
            axes = [*zip(coordinates(grid, order), grid, strict=True)][: 2 + (grid[2] > 1)]
            own = [torch.cat([at[:1], at]) for at, _ in axes]  # the start symbol lies at the first
            next_ = [torch.cat([at, at[-1:]]) for at, _ in axes]
        first, rows = 0, []
        for at, size in zip(own + next_, 2 * [size for _, size in axes], strict=True):
            rows.append(first + at)
            first += size
        self.table = nn.Embedding(first, dim)
        self.num_axes = len(rows)
        # In the model's file, for the compiled engine takes its tables from there.
        self.register_buffer("index", torch.cat(rows))

    def _load_from_state_dict(self, found: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
        index = found.get(f"{prefix}index")
        if index is not None and not torch.equal(index.cpu(), self.index.cpu()):
            raise ValueError(f"tensor {prefix}index does not hold the places of this model's grid")
        super()._load_from_state_dict(found, prefix, *rest)

    def rows(self) -> Tensor:
        """The rows of the table that every input adds up: int64 [2 axes, P]."""
        return self.index.view(self.num_axes, -1)

    def forward(self, pos: Tensor) -> Tensor:
        """Of inputs at positions [...], the start symbol's being 0: [..., D].

        Behind the last symbol everything stays where that one lies.
        """
        rows = self.rows()
        out: Tensor = self.table(rows[:, pos.clamp_max(rows.shape[1] - 1)]).sum(0)
        return out
