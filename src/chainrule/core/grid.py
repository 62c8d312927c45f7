"""Grid: a picture's places, and the orders in which its symbols may come.

A place is one channel of one pixel; places are numbered row by row, pixel by pixel, channel by
channel. Shapes: H height, W width, C channels, T = H·W·C symbols.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, get_args

import torch
from torch import Tensor

from chainrule.core.noise import Noise, Positions

Grid = tuple[int, int, int]  # height, width, channels
Order = Literal["raster", "reverse", "columns", "snake", "planes", "coarse", "random"]
ORDERS: tuple[str, ...] = get_args(Order)
COARSEST = 8  # the order "coarse" begins with every 8th pixel of every 8th row
MOST_PLACES = 2**24


@functools.lru_cache(maxsize=16)
def places(grid: Grid, order: str = "raster") -> Tensor:
    """The place of every symbol in turn: int64 [T], a permutation. Do not write into it.

    ``raster``; ``reverse``, from its end; ``columns``, column by column; ``snake``, every other row
    from right to left; ``planes``, channel by channel; ``coarse``, every 8th pixel of every 8th
    row, then every 4th, every 2nd, the rest; ``random``, one and the same shuffle for a size.
    """
    with torch.device("cpu"):  # kept, so never one without values
        return _places(grid, order)


def _places(grid: Grid, order: str) -> Tensor:
    height, width, channels = grid
    place = torch.arange(height * width * channels).view(height, width, channels)
    if order == "reverse":
        place = place.flatten().flip(0)
    elif order == "columns":
        place = place.transpose(0, 1)
    elif order == "snake":
        place = place.clone()
        place[1::2] = place[1::2].flip(1)
    elif order == "planes":
        place = place.movedim(2, 0)
    elif order == "coarse":
        row, column = torch.arange(height)[:, None], torch.arange(width)
        level = torch.zeros(height, width, dtype=torch.int64)
        stride = 2
        while stride <= COARSEST:
            level += (row % stride == 0) & (column % stride == 0)
            stride *= 2
        by_level = torch.argsort(level.flatten(), descending=True, stable=True)
        place = place.flatten(0, 1)[by_level]
    elif order == "random":
        dice = Noise.seeded(0, [0], "order").at(Positions((0,), place.numel()))
        place = place.flatten()[torch.argsort(dice.uniform()[0, :, 0])]
    elif order != "raster":
        raise ValueError(f"order {order!r} is not one of {', '.join(ORDERS)}")
    return place.flatten()


def coordinates(grid: Grid, order: str = "raster") -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and channel of every symbol in turn: int64 [T] each."""
    _, width, channels = grid
    place = places(grid, order)
    pixel = place // channels
    return pixel // width, pixel % width, place % channels


def check_grid(grid: Grid, order: str, max_len: int | None) -> None:
    """Refuse what is no picture.

    Raises:
        ValueError: sizes out of bounds, an unknown order, or another number of symbols.
    """
    if len(grid) != 3 or any(n < 1 for n in grid) or math.prod(grid) > MOST_PLACES:
        raise ValueError(f"space: a grid of {grid} is out of bounds")
    if order not in ORDERS:
        raise ValueError(f"space: order {order!r} is not one of {', '.join(ORDERS)}")
    if max_len != math.prod(grid):
        raise ValueError(f"space: a grid of {grid} has {math.prod(grid)} symbols, not {max_len}")
