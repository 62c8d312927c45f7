"""A transformer that fills in blanks: the weights of the causal one, seen both ways.

Places before the first unknown one are causal, as in the sequence model, so its cache serves them;
from there on everything sees everything. The law of an unknown place is read at its own input.
Sources: Ghazvininejad et al. 2019, "Mask-Predict"; Gat et al. 2025, "Set block decoding" (one net
for the next symbol and for a block of masked ones).
Shapes: B rows, T places, L symbols behind a state, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from chainrule.core.distributions import Distribution
from chainrule.core.model import Condition, MaskedModel
from chainrule.core.state import State

if TYPE_CHECKING:
    from chainrule.models.transformer import Transformer


class MaskedTransformer(MaskedModel):
    """A view of a transformer whose config says ``masked``."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model, self.space, self.reads = model, model.space, model.reads
        self.unknown = len(model.embedding.weight) - 1

    def forward(self, x: Tensor, known: Tensor, cond: Condition | None = None) -> Distribution:
        cond = self.model.check(len(x), cond)
        return self.model.law(self._hidden(x, known, cond)[:, 1:])

    def taught(
        self, x: Tensor, copies: Sequence[range], known: Tensor, cond: Condition | None = None
    ) -> Distribution:
        """For training: the next-symbol laws of x [B, T], then the laws of C copied places.

        A copy is a run of places of x, seen both ways behind the causal prefix that precedes it;
        ``known`` bool [B, C] says of all copies, one after the other, what is given. In one pass,
        and what is causal never sees a copy.

        Raises:
            ValueError: x doesn't fit into the context.
        """
        model, device, length = self.model, x.device, x.shape[1]
        self._check(length)
        place = torch.tensor([p for run in copies for p in run], device=device)
        owner = torch.tensor([i for i, run in enumerate(copies) for _ in run], device=device)
        first = torch.tensor([run.start for run in copies], device=device)[owner]
        inputs = F.pad(x[:, :-1], (1, 0), value=model.begin)
        inputs = torch.cat([inputs, x[:, place].masked_fill(~known, self.unknown)], 1)
        pos = torch.arange(length, device=device)
        unseen = torch.ones(length + len(place), length + len(place), dtype=torch.bool)
        unseen = unseen.to(device)
        unseen[:length, :length] = pos[:, None] < pos
        unseen[length:, :length] = first[:, None] < pos  # input p holds the symbol at place p - 1
        unseen[length:, length:] = owner[:, None] != owner
        pos = torch.cat([pos, place + 1])
        return model.law(self._run(inputs, pos, unseen, cond))

    def fill(self, state: State, x: Tensor, known: Tensor) -> Distribution:
        model = self.model
        if x.shape[1] > model.room(state):
            raise ValueError(
                f"{x.shape[1]} symbols to fill in at once: the context of "
                f"{model.config.context} has room for {model.room(state)} here"
            )
        inputs = x.masked_fill(~known, self.unknown)
        return model.law(model.behind(state, inputs, ~_leading(known)))

    def rooms(self, state: State) -> list[int]:
        return self.model.rooms(state)

    def _hidden(self, x: Tensor, known: Tensor, cond: Condition) -> Tensor:
        """What the head reads at the start symbol and at every place: [B, T + 1, D]."""
        self._check(x.shape[1])
        model = self.model
        inputs = F.pad(x.masked_fill(~known, self.unknown), (1, 0), value=model.begin)
        both = F.pad(~_leading(known), (1, 0))
        pos = torch.arange(inputs.shape[1], device=x.device)
        return self._run(inputs, pos, (pos[:, None] < pos) & ~both[..., None], cond)

    def _check(self, length: int) -> None:
        most = self.model.config.context - 1
        if length > most:
            raise ValueError(f"{length} symbols with blanks: the context has room for {most}")

    def _run(self, inputs: Tensor, pos: Tensor, unseen: Tensor, cond: Condition | None) -> Tensor:
        model = self.model
        out = model.dropout(model.embed(inputs, pos, cond))
        angles = model.angles(pos, out)
        for layer in model.stack():
            out = layer(out, angles, unseen)
        hidden: Tensor = model.norm(out)
        return hidden


def _leading(known: Tensor) -> Tensor:
    """Which places lie before a row's first unknown one: bool [B, T]."""
    return known.long().cumprod(1).bool()
