"""Series that several tests share."""

from __future__ import annotations

import torch

from chainrule.series.batch import Ragged

# International airline passengers in thousands, January 1949 to December 1952: the first four
# years of series G of Box and Jenkins, "Time series analysis".
AIRLINE = [
    *[112.0, 118, 132, 129, 121, 135, 148, 148, 136, 119, 104, 118],
    *[115, 126, 141, 135, 125, 149, 170, 170, 158, 133, 114, 140],
    *[145, 150, 178, 163, 172, 178, 199, 199, 184, 162, 146, 166],
    *[171, 180, 193, 181, 183, 218, 230, 242, 209, 191, 172, 194],
]


def ragged(season: int, known: int = 0, seed: int = 0) -> Ragged:
    """Twenty-odd series: walks, noise, trends and seasons, of 0 to 130 points, some constant."""
    die = torch.Generator().manual_seed(seed)
    series = [
        torch.zeros(0).double(),
        torch.tensor([3.0], dtype=torch.float64),
        torch.full((40,), 7.7, dtype=torch.float64),
    ]
    for i, length in enumerate((2, 3, 5, 8, 13, 14, 24, 25, 30, 47, 60, 61, 90, 101, 115, 130)):
        t = torch.arange(length, dtype=torch.float64)
        noise = torch.randn(length, generator=die, dtype=torch.float64)
        kind = i % 4
        y = noise.cumsum(0) if kind == 0 else noise
        y = y + 0.3 * t * (kind == 1) + 5 * torch.sin(6.283185 * t / season) * (kind >= 2)
        series.append(1000 * 10.0 ** (i % 3) + y)
    data = Ragged.of(series)
    if not known:
        return data
    rows = torch.randn(len(data.values), known, generator=die, dtype=torch.float64)
    return Ragged(data.values, data.begin, data.end, rows + 100)
