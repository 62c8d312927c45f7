"""Special functions that torch lacks, vectorised, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_LARGE = 10.0  # from here on Stirling's series has all digits


def log_beta(a: Tensor, b: Tensor) -> Tensor:
    """log B(a, b), broadcast, float64, for a, b > 0 of any size: gamma functions of large numbers
    are not subtracted (Didonato & Morris 1992, "Algorithm 708", BETALN)."""
    a, b = a.double(), b.double()
    a, b = torch.minimum(a, b), torch.maximum(a, b)
    small = torch.lgamma(a) + torch.lgamma(b.clamp_max(_LARGE)) - torch.lgamma(a + b)
    share = a / (a + b)
    rest = _beyond_stirling(b) - _beyond_stirling(a + b) + (b - 0.5) * torch.log1p(-share)
    one = torch.lgamma(a.clamp_max(_LARGE)) + a - a * torch.log(a + b)
    half = 0.5 * math.log(2 * math.pi)
    two = _beyond_stirling(a) + half - 0.5 * torch.log(a + b) + (a - 0.5) * torch.log(share)
    return torch.where(b < _LARGE, small, rest + torch.where(a < _LARGE, one, two))


def _beyond_stirling(x: Tensor) -> Tensor:
    """lgamma(x) less Stirling's formula, for x of _LARGE or more."""
    y = 1 / x.clamp_min(_LARGE)
    square, total = y * y, torch.zeros_like(y)
    for term in (-691 / 360360, 1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12):
        total = total * square + term
    return total * y


def betainc(a: Tensor, b: Tensor, x: Tensor, rest: Tensor | None = None) -> Tensor:
    """Regularised incomplete beta function I_x(a, b), broadcast, float64.

    ``rest`` is 1 - x where the caller knows it better than a subtraction does.

    Lentz's continued fraction (Numerical Recipes, 3rd ed., eq. 6.4.5): about 1e-14, and 1e-11 where
    a or b is a million.
    """
    x = x.double().clamp(0, 1)
    rest = 1 - x if rest is None else rest.double().clamp(0, 1)
    a, b, x, rest = torch.broadcast_tensors(a.double(), b.double(), x, rest)
    flip = x > (a + 1) / (a + b + 2)
    p, q, z = torch.where(flip, b, a), torch.where(flip, a, b), torch.where(flip, rest, x)
    # With z at most (p + 1) / (p + q + 2) no denominator comes near 0 but the first.
    c, one = torch.ones_like(z), torch.ones_like(z)
    d = 1 / (1 - (p + q) * z / (p + 1)).clamp_min(1e-300)
    value, going = d, torch.ones_like(z, dtype=torch.bool)
    for m in range(1, 2000):
        even = m * (q - m) * z / ((p + (2 * m - 1)) * (p + 2 * m))
        d, c = torch.addcmul(one, even, d).reciprocal(), torch.addcdiv(one, even, c)
        first = d * c
        odd = (p + m) * (p + q + m) * z / ((p + 2 * m) * (p + (2 * m + 1)))
        d = torch.addcmul(one, odd, d, value=-1).reciprocal()
        c = torch.addcdiv(one, odd, c, value=-1)
        ratio = d * c
        value = torch.where(going, value * first * ratio, value)
        if m % 4 == 0:  # an element that has settled stays, whatever shares its batch
            going = going & ((ratio - 1).abs() >= 1e-15)
            if not bool(going.any()):
                break
    w = torch.where(flip, x, rest)  # 1 - z; the logarithm of each is taken of the smaller one
    log_z = torch.where(z < w, torch.log(z), torch.log1p(-w))
    log_w = torch.where(z < w, torch.log1p(-z), torch.log(w))
    front = torch.exp(p * log_z + q * log_w - log_beta(p, q)) / p
    result = front * value
    return torch.where(flip, 1 - result, result).clamp(0, 1)


def solve(
    f: Callable[[Tensor], Tensor],
    slope: Callable[[Tensor], Tensor],
    bend: Callable[[Tensor], Tensor],
    target: Tensor,
    z: Tensor,
) -> Tensor:
    """Solve f(z) = target for an increasing convex f by Halley's method; ``bend`` is f'' / f'.

    Near the root the error becomes its cube: a step of 1e-5 is the last. Far above it Newton's
    steps are taken, which never cross it.
    """
    going = torch.ones_like(z, dtype=torch.bool)
    for _ in range(500):
        step = (f(z) - target) / slope(z)
        curved = step * bend(z) / 2
        step = step / (1 - torch.where(curved.abs() < 0.1, curved, 0.0))
        z = torch.where(going, z - step, z)
        going = going & (step.abs() > 1e-5 * (1 + z.abs()))
        if not bool(going.any()):
            break
    return z


def student_start(df: Tensor, v: Tensor) -> Tensor:
    """A little above Student's t quantile of v < 1/2: within 0.4 % from 2 degrees on.

    Hill 1970, "Algorithm 396: Student's t-quantiles". Below 2 it is the normal law's quantile,
    which lies above the root too.
    """
    n = df.clamp_min(2)
    a = 1 / (n - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * torch.sqrt(a * math.pi / 2) * n
    y = (2 * v * d) ** (2 / n)
    x: Tensor = torch.special.ndtri(v)
    c = torch.where(n < 5, c + 0.3 * (n - 4.5) * (x + 0.6), c)
    c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
    near = (((((0.4 * x * x + 6.3) * x * x + 36) * x * x + 94.5) / c - x * x - 3) / b + 1) * x
    far = 1 / (((n + 6) / (n * y) - 0.089 * d - 0.822) * (n + 2) * 3) + 0.5 / (n + 4)
    far = (far * y - 1) * (n + 1) / (n + 2) + 1 / y
    square = torch.where(y > 0.05 + a, torch.expm1(a * near * near), far)
    return torch.where(df < 2, x, -0.998 * torch.sqrt(n * square))
