"""The running average of weights: what is checked, shown and kept while the raw ones learn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """An exponential moving average of a model's floating-point tensors (Polyak & Juditsky 1992).

    Args:
        decay: the share of the old average that a step keeps; 0: no average, all of this is free.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        floats = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
        self.raw = floats if decay else {}  # the model's own memory
        self.tensors = {k: v.clone() for k, v in self.raw.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after ``step`` (0-based) in; early steps are forgotten sooner."""
        if self.decay:
            kept = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(_values(self.tensors), _values(self.raw), 1 - kept)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside the block."""
        kept = [v.clone() for v in _values(self.raw)]
        self._write(_values(self.tensors))
        try:
            yield
        finally:
            self._write(kept)

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        if values:
            torch._foreach_copy_(_values(self.raw), values)


def _values(tensors: dict[str, Tensor]) -> list[Tensor]:
    """The tensors, or of those that are in shards the part that is here."""
    return [v.to_local() if hasattr(v, "to_local") else v for v in tensors.values()]
