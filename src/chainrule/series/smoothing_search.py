"""The search behind smoothing.py: one for all series, in C++ and in torch, to the same bits.

Errors are linear in the start, so for each candidate the best start is solved for. Candidates are
a grid over the parameters and then ever closer neighbours of the best one, the same moves for
every series. A small part of beta in alpha is preferred, as if by a prior.

Shapes: N series, T points of the longest, C candidates, P lags, m season length.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from chainrule.native import _native
from chainrule.series.batch import Ragged
from chainrule.series.recursion import left_aligned

LEAST = 3  # points that are searched; with fewer, the last value is the forecast
_FREE = (-float("inf"), float("inf"))
_WILD = 1e3  # squares of what a start of 1 leads to: it grows instead of fading
_TWIN = 1e-10  # of the determinant: below, the two starts can't be told apart


@dataclass(frozen=True)
class Search:
    """Which smoothing is looked for, and where.

    Args:
        sizes: points of the grid along alpha, beta, phi and gamma; 1: stays at the least.
        box: the least and the greatest alpha, then phi.
        bounds: of the slope at the start; of the drift's weight where there is a drift.
        drift: 0: the slope is a state; 1: the straight line's slope is added to each step; 2: in
            the past, the slope of the line through the points before.
        season: of a season that is learned; 1: none.
        prior: a share b of beta in alpha costs as much as prior · b / n more squares.
    """

    sizes: tuple[int, int, int, int]
    box: tuple[float, float, float, float]
    bounds: tuple[float, float] = _FREE
    drift: Literal[0, 1, 2] = 0
    season: int = 1
    prior: float = 80.0

    @property
    def free(self) -> int:
        """How many parameters are looked for."""
        return sum(s > 1 for s in self.sizes)

    @property
    def unknowns(self) -> int:
        """Parameters and starts."""
        return self.free + 1 + (self.bounds[0] < self.bounds[1])

    @property
    def lags(self) -> int:
        """P."""
        return self.season + 1 if self.season > 1 else 1 if self.drift else 2

    def grid(self) -> Tensor:
        """The first candidates [C, 4], in the unit cube."""
        return _product([[i / max(s - 1, 1) for i in range(s)] for s in self.sizes])

    def moves(self) -> Tensor:
        """To the next candidates, in steps: [C, 4]; as many as C++ tries at once."""
        far = 4 if self.free == 1 else 1
        one = [float(i) for i in range(-far, far + 1)]
        moves = _product([one if s > 1 else [0.0] for s in self.sizes])
        count = (moves != 0).sum(1)
        return moves[(count > 0) & (count <= max(1, 4 - self.free))]

    def step(self) -> Tensor:
        """How long the first steps are, [4]: the outermost ends half way to the grid's next."""
        far = 4 if self.free == 1 else 2
        return _real([1 / (s - 1) / far if s > 1 else 0.0 for s in self.sizes])

    @property
    def rounds(self) -> int:
        """How often the neighbours are tried."""
        return 4 if self.free == 1 else 12

    @property
    def shrink(self) -> float:
        """What a step is multiplied by after each round."""
        return 0.25 if self.free == 1 else 0.7


def _product(sides: list[list[float]]) -> Tensor:
    return _real(list(product(*sides)))


def _real(numbers: object) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def found(data: Ragged, search: Search) -> tuple[Tensor, Tensor]:
    """Of packed series: figures [N, 6] (alpha, beta, phi, gamma, what a drift adds to each step
    from now on, the sum of squared errors) and the newest errors [N, P] of the best candidate."""
    native = _native is not None and data.values.device.type == "cpu"
    return (_natively if native else _batched)(data, search)


def _natively(data: Ragged, search: Search) -> tuple[Tensor, Tensor]:
    assert _native is not None
    figures = torch.empty(len(data), 6, dtype=torch.float64)
    errors = torch.zeros(len(data), search.lags, dtype=torch.float64)
    _native.chainrule_series_smooth(
        data.values.contiguous().numpy(),
        data.begin.contiguous().numpy(),
        data.end.contiguous().numpy(),
        search.grid().numpy(),
        search.moves().numpy(),
        search.step().numpy(),
        search.rounds,
        search.shrink,
        search.prior,
        _real(search.box).numpy(),
        _real(search.bounds).numpy(),
        search.drift,
        search.season,
        LEAST,
        figures.numpy(),
        errors.numpy(),
        torch.get_num_threads(),
    )
    return figures, errors


def _batched(data: Ragged, search: Search) -> tuple[Tensor, Tensor]:
    device, lens = data.values.device, data.lens.to(data.values.device)
    there = left_aligned(data.lens).to(device)
    y = data.values.new_zeros(there.shape)
    y[there] = data.values
    slopes = _slopes(y, lens)
    last = slopes.gather(1, lens[:, None])
    past = (slopes * 0, last.expand_as(slopes), slopes)[search.drift][:, :-1]
    step, moves = search.step().to(device), search.moves().to(device)
    top = torch.ones(len(data), 1, 4, dtype=y.dtype, device=device)
    top[:, 0, 3] = (lens > search.season).to(y.dtype)
    places = torch.minimum(search.grid().to(device).expand(len(data), -1, -1), top)
    best = y.new_zeros(len(data), 4)
    loss, level, slope = y.new_full((3, len(data)), torch.inf)
    for turn in range(search.rounds + 1):
        if turn:
            places = torch.minimum((best[:, None] + moves * step).clamp_min(0), top)
        trial = _losses(y, there, past, _gains(places, search), search)
        dear = trial[0] * (1 + search.prior * places[..., 1].square() / lens[:, None])
        least, at = dear.nan_to_num(torch.inf, torch.inf, -torch.inf).min(1)
        better = (least < loss) & (lens >= LEAST)
        loss = torch.where(better, least, loss)
        level = torch.where(better, trial[1].gather(1, at[:, None])[:, 0], level)
        slope = torch.where(better, trial[2].gather(1, at[:, None])[:, 0], slope)
        best = torch.where(better[:, None], places[torch.arange(len(y)), at], best)
        step = step * search.shrink if turn else step
    any_found = loss < torch.inf
    still = y.new_tensor([1.0, 0.0, search.box[2], 0.0])
    gains = torch.where(any_found[:, None], torch.stack(_gains(best, search), 1), still)
    first = y[:, :1].sum(1) + torch.where(any_found, level, 0.0)
    errors = _errors(y, past, gains, first, torch.where(any_found, slope, 0.0), search)
    errors = torch.where(there, errors, 0.0)
    squares = y.new_zeros(len(y))
    for t in range(y.shape[1]):
        squares = squares + errors[:, t] * errors[:, t]
    drift = (slope * last[:, 0]).where(any_found, 0.0) * (search.drift > 0)
    place = lens[:, None] + torch.arange(-search.lags, 0, device=device)
    newest = errors.gather(1, place.clamp_min(0)).where(place >= 0, 0.0)
    return torch.cat([gains, drift[:, None], squares[:, None]], 1), newest


def _gains(at: Tensor, search: Search) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """alpha, beta, phi and gamma of places [..., 4] in the unit cube. beta is a part of alpha,
    gamma of what alpha leaves, and small parts lie dense."""
    low, high, least, most = search.box
    alpha = low + at[..., 0] * (high - low)
    beta, gamma = alpha * at[..., 1].square(), (1 - alpha) * at[..., 3].square()
    return alpha, beta, least + at[..., 2] * (most - least), gamma


def _slopes(y: Tensor, lens: Tensor) -> Tensor:
    """Of the straight lines through the first 0 … T points, [N, T + 1] of left-aligned y."""
    total, moment = y.new_zeros(2, len(y))
    out = [total] * min(2, y.shape[1] + 1)
    for t in range(1, y.shape[1] + 1):
        away = y[:, t - 1] - y[:, 0]
        total, moment = total + away, moment + t * away
        if t > 1:
            out.append((moment - (t + 1) * 0.5 * total) / (t * (t * t - 1.0) / 12))
    return torch.stack(out, 1)


def _losses(
    y: Tensor, there: Tensor, drift: Tensor, gains: tuple[Tensor, ...], search: Search
) -> tuple[Tensor, Tensor, Tensor]:
    """Squares, and the level less the first value and the slope at their best start, [N, C].

    Errors are linear in the start, so three filters run: from nothing, from a level, from a slope.
    """
    a, b, f, g = gains
    zero = torch.zeros_like(a)
    l, s, l1, s1, l2 = y[:, :1] + zero, zero, zero + 1, zero, zero
    s2 = zero if search.drift else zero + 1
    ee = e1 = e2 = g11 = g12 = g22 = zero
    rings = [(zero, zero, zero)] * search.season
    for t in range(y.shape[1]):
        on, now, pull = (x[:, t, None] for x in (there, y, drift))
        p, p1, p2 = f * s, f * s1, f * s2 + pull
        base, base1, base2 = l + p, l1 + p1, l2 + p2
        ring, ring1, ring2 = rings[t % search.season]
        e, q1, q2 = now - (base + ring), base1 + ring1, base2 + ring2
        l, s = base + a * e, p + b * e
        l1, s1 = base1 - a * q1, p1 - b * q1
        l2, s2 = base2 - a * q2, p2 - b * q2
        if search.season > 1:
            rings[t % search.season] = ring + g * e, ring1 - g * q1, ring2 - g * q2
        e, q1, q2 = (torch.where(on, x, 0.0) for x in (e, q1, q2))
        ee, e1, e2 = ee + e * e, e1 + e * q1, e2 + e * q2
        g11, g12, g22 = g11 + q1 * q1, g12 + q1 * q2, g22 + q2 * q2
    det = g11 * g22 - g12 * g12
    apart = det > _TWIN * (g11 * g22)
    slope = torch.where(apart, (e2 * g11 - e1 * g12) / torch.where(apart, det, 1.0), 0.0)
    slope = slope.clamp(*search.bounds)
    level = (e1 - slope * g12) / g11
    explained = level * (e1 + e1 - level * g11)
    explained = explained + slope * (e2 + e2 - slope * g22 - (level + level) * g12)
    loss = torch.where(g11 < _WILD, ee - explained, torch.inf)
    return loss, level, slope


def _errors(
    y: Tensor, drift: Tensor, gains: Tensor, level: Tensor, slope: Tensor, search: Search
) -> Tensor:
    """One-step errors [N, T] from a start; behind the end of a series they mean nothing."""
    a, b, f, g = gains.unbind(1)
    weight, slope = (slope, slope * 0) if search.drift else (slope * 0, slope)
    ring, out = [a * 0] * search.season, []
    for t in range(y.shape[1]):
        base, k = level + (f * slope + weight * drift[:, t]), t % search.season
        out.append(y[:, t] - (base + ring[k]))
        level, slope = base + a * out[-1], f * slope + b * out[-1]
        ring[k] = ring[k] + g * out[-1]
    return torch.stack(out, 1) if out else y
