"""Models that have shapes and no values, so that sizes are known before anything is allocated."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from chainrule.core.model import SequenceModel


def unfilled(cls: type[SequenceModel], config: Any) -> SequenceModel:
    """A model that has shapes and no values."""
    with torch.device("meta"), _Unfilled():
        model: Any = cls
        outline: SequenceModel = model(config).eval()
    return outline


class _Unfilled(TorchFunctionMode):
    """No random numbers where there is no memory for them.

    Else torch would import its compiler to draw none: 1.5 seconds and 80 megabytes.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "normal_":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def on_meta(model: SequenceModel) -> bool:
    """Whether it has shapes and no values."""
    return any(t.is_meta for t in (*model.parameters(), *model.buffers()))
