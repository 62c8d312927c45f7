"""How surprising a point is, in bits, calibrated on what the same forecasts missed by before.

A surprise of b bits or more happens by chance once in 2^b points. Shapes: P points.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chainrule.core.distributions import StudentT
from chainrule.core.special import betainc

_INNER, _EDGE = 0.8, 0.975  # how far apart these quantiles lie tells how heavy the tails are
_FEW = 40  # residuals that a tail of their own needs; Student's law of _DF weighs as many
_DF = 5.0
_DFS = 1 / torch.linspace(1, 0.01, 100, dtype=torch.float64)


def surprise(residuals: Tensor, known: Tensor) -> Tensor:
    """-log2 P(|R| ≥ |r|) of ``residuals`` [P], by what ``known`` residuals [any] were.

    Both are errors of one step over the standard deviation that was forecast for it. Inside, the
    probability is a rank among the known ones; beyond their 97.5 % quantile they go on as Student's
    law. Its degrees of freedom come from two quantiles, not from the largest residuals, so that
    a few outliers hide neither themselves nor each other.
    Residuals that are nan have no surprise (nan); endless ones tell nothing of the others.
    """
    pool = known[known.isfinite()].abs().sort().values
    count, size = len(pool), residuals.abs().double()
    middle, inner, edge = (
        float(pool[int(level * (count - 1))]) if count else 0.0 for level in (0.5, _INNER, _EDGE)
    )
    df = 1 / ((count / _heaviness(inner, edge) + _FEW / _DF) / (count + _FEW))
    few = count < _FEW
    place, level = (middle, 0.5) if few else (edge, _EDGE)
    unit = place / float(_size(torch.tensor([df]).double(), level)) if place > 0 else 1.0
    far = -torch.log2(_beyond(size / unit, df).clamp_min(1e-300)) + 0.0
    if few:
        return far
    inside = (count - torch.searchsorted(pool, size.to(pool).contiguous()) + 1) / (count + 1)
    out = torch.where(size <= edge, 0.0 - torch.log2(inside.double()), far)
    return torch.where(residuals.isnan(), torch.nan, out)


def _heaviness(inner: float, edge: float) -> float:
    """The degrees of freedom, 1 to 100, of the law whose quantiles lie as far apart."""
    if not 0 < inner <= edge:
        return _DF
    ratio = _size(_DFS, _EDGE) / _size(_DFS, _INNER)
    return float(_DFS[(ratio - edge / inner).abs().argmin()])


def _size(df: Tensor, level: float) -> Tensor:
    """Quantiles of |T|."""
    one = torch.ones_like(df)
    return StudentT(df, 0 * one, one).quantile(one * (0.5 + level / 2))


def _beyond(t: Tensor, df: float) -> Tensor:
    """P(|T| ≥ t) for Student's law."""
    n = torch.tensor(df, dtype=torch.float64, device=t.device)
    part = n / (n + t.square())
    return betainc(n / 2, torch.full_like(n, 0.5), part, 1 - part)
