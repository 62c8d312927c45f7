"""Windows of the past: what was known at a time, and what came after it.

Shapes: N series, R of them in a window, H horizon, F regressors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.series.batch import Ragged


@dataclass(frozen=True, eq=False)
class Window:
    """One time to forecast from.

    Args:
        back: how many steps before the end of every series it lies.
        row: int64 [R], the series that are long enough. seen: their points before it.
        came: the next values [R, H]. future: the regressors there [R, H, F], or None.
    """

    back: int
    row: Tensor
    seen: Ragged
    came: Tensor
    future: Tensor | None


def windows(data: Ragged, horizon: int, count: int, step: int, least: int) -> Iterator[Window]:
    """``count`` windows, the newest first, ``step`` apart; the newest ends with the data.

    A series takes part where ``least`` points of it were known; windows without any are left out.
    """
    for number in range(count):
        back = horizon + number * step
        before = data.before(back)
        row = (before.lens >= least).nonzero()[:, 0]
        if not len(row):
            return
        seen = before.select(row)
        place = (seen.end[:, None] + torch.arange(horizon)).to(data.values.device)
        future = None if data.known is None else data.known[place]
        yield Window(back, row, seen, data.values[place], future)
