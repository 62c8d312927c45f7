"""Which arithmetic training uses, and memory that is given back less eagerly."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def training_precision(model: nn.Module) -> Iterator[None]:
    """The context of one forward pass in training."""
    yield
