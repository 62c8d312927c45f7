"""The orders of many seasonal ARMAs by AICc, in torch: the steps of native/arima_orders.h.

Shapes: T points of the longest, N series, K parameters, P lags, R states. Time comes first; series
are right-aligned. Orders are int64 [N, 5]: mean, p, q, P, Q.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from chainrule.series.arima_fit import Task, coefficients, minimise, split, start

MARGIN = 1.01  # candidates with a root nearer to the unit circle are refused, as in R
_TOLERANCE, _MOST = 1e-6, 60
_STARTS = ((1, 2, 2, 1, 1), (1, 0, 0, 0, 0), (1, 1, 0, 1, 0), (1, 0, 1, 0, 1), (0, 0, 0, 0, 0))
_SEASONAL = ((-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))
_MOVES = (
    *((0, 0, 0, P, Q) for P, Q in _SEASONAL),
    *(
        (0, p, q, 0, 0)
        for p, q in ((-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))
    ),
    (1, 0, 0, 0, 0),
)


def choose(task: Task, raw: Tensor, flat: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """The stepwise search of Hyndman and Khandakar (2008, "Automatic time series forecasting: the
    forecast package for R"): orders [N, 5] between ``least`` and ``most`` [N, 5].

    ``raw`` [T, N] is y where there is no mean; ``flat`` [N]: constant series keep what they are
    given, the least orders and a mean if that is allowed.
    """
    sizes = ((most - least).amax(0) + 1).tolist() if len(most) else [1] * 5
    moves = torch.tensor(_MOVES, device=raw.device)
    best = torch.cat([most[:, :1], least[:, 1:]], 1)
    lowest = torch.full((len(best),), torch.inf, dtype=raw.dtype, device=raw.device)
    seen = torch.zeros(len(best), *sizes, dtype=torch.bool, device=raw.device)
    every = torch.arange(len(best), device=raw.device)

    def improves(rows: Tensor, orders: Tensor) -> None:
        seen[rows, *(orders - least[rows]).T] = True
        value = criterion(replace(task.select(rows), orders=orders), raw[:, rows])
        better = value < lowest[rows]
        lowest[rows[better]], best[rows[better]] = value[better], orders[better]

    for given in _STARTS:
        orders = torch.tensor(given, device=raw.device).expand_as(best)
        orders = torch.maximum(torch.minimum(orders, most), least)
        rows = (~flat & ~seen[every, *(orders - least).T]).nonzero()[:, 0]
        if len(rows):
            improves(rows, orders[rows])
    while True:
        near = best[:, None] + moves
        near[..., 0] %= 2
        fine = ((near >= least[:, None]) & (near <= most[:, None])).all(-1) & ~flat[:, None]
        inner = torch.where(fine[..., None], near - least[:, None], 0)
        fine &= ~seen[every[:, None], *inner.unbind(-1)]
        rows = fine.any(1).nonzero()[:, 0]
        if not len(rows):
            return best
        pick = fine[rows].long().argmax(1)
        improves(rows, near[rows, pick])


def criterion(task: Task, raw: Tensor) -> Tensor:
    """AICc [N] by the exact likelihood at the least conditional squares: all candidates are judged
    by all points. Infinite where there are too few, or a root is too near the unit circle."""
    lens, count = len(task.y) - task.begin, task.orders.sum(1) + 1
    left = lens - count - 1
    out = torch.full_like(task.y[0], torch.inf)
    rows = ((left > 0) & (len(task.y) - task.first >= count + 1)).nonzero()[:, 0]
    if not len(rows):
        return out
    task, left, count = task.select(rows), left[rows], count[rows]
    widths = task.orders[:, 1:].amax(0).tolist()
    y = torch.where(task.orders[:, 0] > 0, task.y, raw[:, rows])
    task = replace(task, y=y, widths=widths)
    at, _ = minimise(task, start(task), _TOLERANCE, _MOST)
    phi, theta, Phi, Theta = split(coefficients(at, task.widths), task.widths)
    inside = _inside(phi) & _inside(-theta) & _inside(Phi) & _inside(-Theta)
    whole = product(phi, Phi, task.season, -1), product(theta, Theta, task.season, 1)
    value = likelihood(task, at[:, 0], *whole) + 2.0 * count * lens[rows] / left
    out[rows] = torch.where(inside, value, torch.inf)
    return out


def product(a: Tensor, b: Tensor, season: int, sign: int) -> Tensor:
    """The lags [N, P] of a(B) b(B^season); ``sign`` is that of the lags in the polynomials."""
    out = torch.nn.functional.pad(a, (0, season * b.shape[1]))
    for j in range(b.shape[1]):
        at, value = (j + 1) * season, b[:, j : j + 1]
        out[:, at - 1] += b[:, j]
        out[:, at : at + a.shape[1]] += sign * a * value
    return out


def _inside(a: Tensor) -> Tensor:
    """bool [N]: stable, with all roots drawn nearer by the margin."""
    power = torch.arange(1, a.shape[1] + 1, device=a.device)
    a = a * torch.tensor(MARGIN, dtype=a.dtype, device=a.device) ** power
    out = torch.ones_like(a[:, 0] > 0) if a.shape[1] else a.new_ones(len(a), dtype=torch.bool)
    for j in range(a.shape[1], 0, -1):
        kappa = a[:, j - 1 : j]
        rest = 1 - kappa * kappa
        out = out & (rest[:, 0] > 0)
        a = (a[:, : j - 1] + kappa * a[:, : j - 1].flip(1)) / torch.where(rest > 0, rest, 1.0)
    return out


def likelihood(task: Task, mean: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    """-2 log likelihood [N] at its best variance, up to n (1 + log 2 pi), of y less its mean [N].

    Morf, Sidhu and Kailath 1974, "Some new algorithms for recursive estimation in constant linear
    discrete-time systems": the filter's covariance moves by one dyad a step. Infinite where
    rounding left no stationary law.
    """
    width = max(phi.shape[1], theta.shape[1] + 1)
    phi = torch.nn.functional.pad(phi, (0, width - phi.shape[1]))
    theta = torch.nn.functional.pad(theta, (0, width - 1 - theta.shape[1]))
    own, psi, sound = _covariances(phi, theta)
    gain = [
        (phi[:, i:] * own[:, : width - i]).sum(1) + (theta[:, i:] * psi[:, : width - 1 - i]).sum(1)
        for i in range(width)
    ]
    K = torch.stack(gain, 1)
    W, state, F = K, torch.zeros_like(K), own[:, 0]
    M, squares, logs = -1 / F, torch.zeros_like(F), torch.zeros_like(F)
    there = task.rows_from(task.begin)
    for t in range(len(task.y)):
        on, column = there[t], there[t][:, None]
        error, w, along = task.y[t] - mean - state[:, 0], W[:, 0], M * W[:, 0]
        squares = squares + torch.where(on, error * error / F, 0.0)
        logs = logs + torch.where(on, F.log(), 0.0)
        later = F + along * w
        turned = phi * w[:, None] + _shifted(W)
        ahead = phi * state[:, :1] + _shifted(state) + K * (error / F)[:, None]
        after = K + along[:, None] * turned
        state, K = torch.where(column, ahead, state), torch.where(column, after, K)
        W = torch.where(column, turned - after * (w / later)[:, None], W)
        M = torch.where(on, M + along * along / F, M)
        F = torch.where(on, later, F)
    n = there.sum(0).double()
    fine = sound & (squares >= 0) & logs.isfinite()
    return torch.where(fine, n * (squares / n).log() + logs, torch.inf)


def _shifted(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x[:, 1:], (0, 1))


def _covariances(phi: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Autocovariances [N, R + 1] for errors of variance 1, the weights [N, R] of past errors, and
    bool [N]: there is a stationary law. The autoregression's own come by stepping down."""
    p, q = phi.shape[1], theta.shape[1]
    rows: list[Tensor] = []
    a = phi
    variance, sound = torch.ones_like(phi[:, 0]), torch.ones_like(phi[:, 0] > 0)
    for k in range(p, 0, -1):
        rows.insert(0, a)
        kappa = a[:, k - 1 : k]
        rest = 1 - kappa * kappa
        sound = sound & (rest[:, 0] > 0)
        rest = torch.where(rest > 0, rest, 1.0)
        variance = variance / rest[:, 0]
        a = (a[:, : k - 1] + kappa * a[:, : k - 1].flip(1)) / rest
    u = variance[:, None]
    for k in range(1, p + q + 1):
        taken = min(k, p)
        u = torch.cat([u, (rows[taken - 1] * u[:, k - taken :].flip(1)).sum(1, keepdim=True)], 1)
    full = torch.nn.functional.pad(theta, (1, 0), value=1.0)
    both = torch.cat([u[:, 1 : q + 1].flip(1), u], 1)  # u at -q … p + q
    own = torch.zeros_like(u[:, : p + 1])
    for lag in range(-q, q + 1):
        pairs = (full[:, : q + 1 - abs(lag)] * full[:, abs(lag) :]).sum(1, keepdim=True)
        own = own + pairs * both[:, q + lag : q + lag + p + 1]
    psi = torch.ones_like(u[:, :1])
    for k in range(1, p):
        past = (phi[:, :k] * psi.flip(1)).sum(1, keepdim=True)
        psi = torch.cat([psi, past + (theta[:, k - 1 : k] if k <= q else 0.0)], 1)
    return own, psi, sound
