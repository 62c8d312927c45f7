"""Special functions that torch lacks, vectorised, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def betainc(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """Regularised incomplete beta function I_x(a, b), broadcast, float64.

    Lentz's continued fraction (Numerical Recipes, 3rd ed., eq. 6.4.5), about 1e-14.
    """
    a, b, x = torch.broadcast_tensors(a.double(), b.double(), x.double().clamp(0, 1))
    flip = x > (a + 1) / (a + b + 2)
    p, q, z = torch.where(flip, b, a), torch.where(flip, a, b), torch.where(flip, 1 - x, x)
    tiny = torch.full_like(z, 1e-300)

    def nonzero(v: Tensor) -> Tensor:
        return torch.where(v.abs() < 1e-300, tiny, v)

    c = torch.ones_like(z)
    d = 1 / nonzero(1 - (p + q) * z / (p + 1))
    value = d
    for m in range(1, 2000):
        even = m * (q - m) * z / ((p + 2 * m - 1) * (p + 2 * m))
        d, c = 1 / nonzero(1 + even * d), nonzero(1 + even / c)
        value = value * d * c
        odd = -(p + m) * (p + q + m) * z / ((p + 2 * m) * (p + 2 * m + 1))
        d, c = 1 / nonzero(1 + odd * d), nonzero(1 + odd / c)
        value = value * d * c
        if m % 8 == 0 and bool(((d * c - 1).abs() < 1e-15).all()):
            break
    log_beta = torch.lgamma(p) + torch.lgamma(q) - torch.lgamma(p + q)
    front = torch.exp(p * torch.log(z) + q * torch.log1p(-z) - log_beta) / p
    result = front * value
    return torch.where(flip, 1 - result, result).clamp(0, 1)


def invert_increasing(f: Callable[[Tensor], Tensor], target: Tensor, rounds: int = 120) -> Tensor:
    """Solve f(z) = target for an increasing f on the reals, by bracketing and bisection."""
    high = torch.ones_like(target)
    for _ in range(1000):
        short = f(high) < target
        if not bool(short.any()):
            break
        high = torch.where(short, high * 2, high)
    low = -torch.ones_like(target)
    for _ in range(1000):
        over = f(low) > target
        if not bool(over.any()):
            break
        low = torch.where(over, low * 2, low)
    for _ in range(rounds):
        mid = (low + high) / 2
        below = f(mid) < target
        low, high = torch.where(below, mid, low), torch.where(below, high, mid)
    return (low + high) / 2
