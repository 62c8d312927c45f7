"""What training minimises. Shapes: B rows, T sequence length, E event shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from chainrule.core.model import Condition, SequenceModel
from chainrule.core.noise import Noise


@dataclass(frozen=True, eq=False)
class Example:
    """One datum: symbols [T, *E] and the fields of its condition, without a batch axis."""

    symbols: Tensor
    cond: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Batch:
    """Right-padded rows. ``weight`` [B, T] is 0 where nothing is scored, None for all ones."""

    x: Tensor
    lens: tuple[int, ...]
    cond: Condition | None = None
    weight: Tensor | None = None

    @staticmethod
    def of(examples: Sequence[Example]) -> Batch:
        """Pad examples of any lengths into one batch; padding has weight 0."""
        lens = tuple(len(e.symbols) for e in examples)
        first = examples[0].symbols
        x = first.new_zeros(len(examples), max(lens), *first.shape[1:])
        weight = torch.zeros(x.shape[:2])
        for row, example in enumerate(examples):
            x[row, : lens[row]] = example.symbols
            weight[row, : lens[row]] = 1
        given = [Condition(**{k: v[None] for k, v in e.cond.items()}) for e in examples]
        cond = Condition.concat(given) if any(e.cond for e in examples) else None
        return Batch(x, lens, cond, None if min(lens) == max(lens) else weight)

    def part(self, rows: slice) -> Batch:
        """Some rows."""
        cond = None if self.cond is None else self.cond.select(range(len(self.x))[rows])
        weight = None if self.weight is None else self.weight[rows]
        return Batch(self.x[rows], self.lens[rows], cond, weight)

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        cond = None if self.cond is None else self.cond.to(device)
        weight = None if self.weight is None else self.weight.to(device, non_blocking=True)
        return Batch(self.x.to(device, non_blocking=True), self.lens, cond, weight)


class Objective(Protocol):
    """(model, batch, noise) -> (loss summed over scored symbols, in nats; their number)."""

    def __call__(
        self, model: SequenceModel, batch: Batch, noise: Noise | None = None
    ) -> tuple[Tensor, Tensor]: ...


def nll(model: SequenceModel, batch: Batch, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
    """Teacher forcing on the exact negative log-likelihood."""
    log_prob = model(batch.x, batch.cond).log_prob(batch.x)
    if batch.weight is None:
        return -log_prob.sum(), torch.tensor(float(log_prob.numel()))
    return -(log_prob * batch.weight).sum(), batch.weight.sum()
