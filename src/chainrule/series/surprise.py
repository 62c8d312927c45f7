"""How surprising a point is, in bits, calibrated on what the same forecasts missed by before.

A surprise of b bits or more happens by chance once in 2^b points. Shapes: P points.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TAIL = 0.05  # the share of the largest residuals that the tail is drawn from
_FEW = 20  # residuals that a tail needs; with less than twice as many it is Student's, 5 degrees
_MEDIAN5 = 0.7266868438004226  # of that law's size


def surprise(residuals: Tensor, known: Tensor) -> Tensor:
    """-log2 P(|R| ≥ |r|) of ``residuals`` [P], by what ``known`` residuals [any] were.

    Both are errors of one step over the standard deviation that was forecast for it. Inside, the
    probability is a rank among the known ones; beyond, their largest 5 % go on as a generalised
    Pareto law, no lighter than exponential (Hosking & Wallis 1987, "Parameter and quantile
    estimation for the generalized Pareto distribution", by probability-weighted moments).
    Residuals that are nan have no surprise (nan).
    """
    pool = known[~known.isnan()].abs().sort().values
    count, size = len(pool), residuals.abs()
    beyond = max(_FEW, int(count * _TAIL))
    if count < 2 * beyond:
        middle = float(pool.median()) if count else 0.0
        unit = middle / _MEDIAN5 if middle > 0 else 1.0
        return -torch.log2(_student5(size / unit).clamp_min(1e-300))
    edge = pool[count - beyond - 1]
    over = pool[count - beyond :] - edge
    rank = torch.arange(beyond, 0, -1).to(pool) - 0.65
    first, second = over.mean(), (over * rank / beyond).mean()
    shape = float((2 - first / (first - 2 * second)).nan_to_num(0.0).clamp(0.0, 0.9))
    unit = max(float(first * (1 - shape)), 1e-12 * max(float(edge), 1e-288))
    out_there = (size - edge).clamp_min(0) / unit
    fall = torch.log1p(shape * out_there) / shape if shape > 1e-6 else out_there
    far = math.log2(count / beyond) + fall / math.log(2)
    inside = (count - torch.searchsorted(pool, size.contiguous()) + 1) / (count + 1)
    out = torch.where(size <= edge, -torch.log2(inside.to(size.dtype)), far)
    return torch.where(residuals.isnan(), torch.nan, out)


def _student5(t: Tensor) -> Tensor:
    """P(|T| ≥ t) for Student's law with 5 degrees of freedom, in closed form."""
    angle = torch.atan(t / math.sqrt(5))
    sine, cosine = angle.sin(), angle.cos()
    within = 2 / math.pi * (angle + sine * (cosine + 2 / 3 * cosine**3))
    tail = 1 - within
    far = 2 * 9.4906 / t.clamp_min(1.0) ** 5  # its leading term, where 1 - within has no digits
    return torch.where(t > 100, far.clamp_max(1.0), tail)
