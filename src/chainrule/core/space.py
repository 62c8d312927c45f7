"""Space: what one symbol is. All that a model knows of a codec.

Shapes: B rows, L symbols in a block, E event shape of one symbol.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from chainrule.core.grid import Grid, check_grid

Kind = Literal["finite", "count", "real"]
REAL_TOLERANCE = 1e-6  # CONTRIBUTING.md, "external reference, float64"


@dataclass(frozen=True)
class Space:
    """The set that one symbol comes from.

    Args:
        kind: ``finite`` (0 … size-1), ``count`` (0, 1, 2, …) or ``real``.
        size: the alphabet size V when finite, else None.
        event_shape: shape of one symbol; ``()`` for scalars, ``(3,)`` for an RGB pixel.
        eos: the end symbol, where the alphabet has one.
        max_len: the length of fixed-size media (a 28×28 picture: 784); decoders stop there.
        grid: of pictures: height, width and channels; a symbol is one channel of one pixel.
        order: in which its symbols come; see ``core.grid``.

    Raises:
        ValueError: sizes that contradict each other.
    """

    kind: Kind
    size: int | None = None
    event_shape: tuple[int, ...] = ()
    eos: int | None = None
    max_len: int | None = None
    grid: Grid | None = None
    order: str = "raster"

    def __post_init__(self) -> None:
        if self.kind not in ("finite", "count", "real"):
            raise ValueError(f"space: kind must be finite, count or real, not {self.kind!r}")
        if (self.kind == "finite") != (self.size is not None):
            raise ValueError("space: a finite space has a size, count and real spaces have none")
        if self.size is not None and not 1 <= self.size <= 2**24:
            raise ValueError(f"space: size must be 1 to {2**24}, not {self.size}")
        if any(n < 1 for n in self.event_shape) or math.prod(self.event_shape) > 2**20:
            raise ValueError(f"space: event_shape {self.event_shape} is out of bounds")
        if self.eos is not None and not (self.size and 0 <= self.eos < self.size):
            raise ValueError(f"space: eos {self.eos} is not a symbol of an alphabet of {self.size}")
        if self.max_len is not None and not 1 <= self.max_len <= 2**31:
            raise ValueError(f"space: max_len must be at least 1, not {self.max_len}")
        if self.grid is not None:
            check_grid(self.grid, self.order, self.max_len)
        elif self.order != "raster":
            raise ValueError("space: an order belongs to a grid")

    @staticmethod
    def picture(grid: Grid, levels: int, order: str = "raster") -> Space:
        """Of pictures: ``levels`` values of every channel of every pixel."""
        return Space("finite", levels, max_len=math.prod(grid), grid=grid, order=order)

    @property
    def dtype(self) -> torch.dtype:
        """int64 for finite and count symbols, the default float type for real ones."""
        return torch.get_default_dtype() if self.kind == "real" else torch.int64

    def agree(self, guess: Tensor, x: Tensor) -> Tensor:
        """Which guessed symbols are the drawn ones: [B, L, *E] twice -> bool [B, L]."""
        if self.kind == "real":
            same = torch.isclose(guess, x, rtol=REAL_TOLERANCE, atol=REAL_TOLERANCE)
        else:
            same = guess == x
        return same.flatten(2).all(-1) if self.event_shape else same
