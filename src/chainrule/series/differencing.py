"""How often to difference, and differencing, of many series at once.

Shapes: N series, T points of the longest, P lags, F regressors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chainrule.native import _native
from chainrule.series.batch import Ragged
from chainrule.series.stl import stl

_CRITICAL = 0.463  # KPSS around a level at 5 % (Kwiatkowski et al. 1992, table 1)
_LAGS = 4
_STRONG = 0.64  # of seasonal strength (Wang, Smith and Hyndman 2006; R's forecast)
_FLAT = 1e-12  # a series that moves less than this part of its size is constant


def ndiffs(data: Ragged, most: int = 2, D: Tensor | None = None, season: int = 1) -> Tensor:
    """Differences until KPSS no longer rejects a level, int64 [N] on the host.

    The rule of R's ``forecast::ndiffs``: at 5 %, with floor(3 sqrt(n) / 13) lags. Of the series
    differenced D [N] times at lag ``season``, where that is given.
    """
    D = torch.zeros(len(data), dtype=torch.int64) if D is None else D
    if _native is not None and data.values.device.type == "cpu":
        out = torch.empty(len(data), dtype=torch.int64)
        given = data.values.contiguous(), data.begin.contiguous(), data.end.contiguous(), D
        _native.chainrule_series_ndiffs(
            *[x.numpy() for x in given], season, most, out.numpy(), torch.get_num_threads()
        )
        return out
    x, there = _sized(data)
    for step in range(int(D.max()) if len(D) else 0):
        on = (step < D).to(x.device)[:, None]
        behind = torch.arange(x.shape[1], device=x.device) >= season
        x = torch.where(on, x - x.roll(season, 1), x)
        there = torch.where(on, there & there.roll(season, 1) & behind, there)
        x = torch.where(there, x, 0.0)
    count = torch.zeros(len(data), dtype=torch.int64, device=x.device)
    going = ~_flat(x, there)
    for step in range(most + 1):
        going &= _kpss(x, there) > _CRITICAL
        if step == most or not bool(going.any()):
            break
        count += going
        x, there = x[:, 1:] - x[:, :-1], there[:, 1:] & there[:, :-1]
        going &= ~_flat(x, there)
    return count.cpu()


def nsdiffs(data: Ragged, season: int) -> Tensor:
    """1 where the season is strong, else 0: int64 [N] on the host."""
    return (seasonal_strength(data, season) > _STRONG).long().cpu()


def seasonal_strength(data: Ragged, season: int) -> Tensor:
    """1 - var(remainder) / var(season + remainder) of STL, in [0, 1]: float64 [N].

    0 for a constant series and for one of two seasons or less.
    """
    device = data.values.device
    if season < 2:
        return torch.zeros(len(data), dtype=torch.float64, device=device)
    if _native is not None and device.type == "cpu":
        out = torch.empty(len(data), dtype=torch.float64)
        given = data.values.contiguous(), data.begin.contiguous(), data.end.contiguous()
        _native.chainrule_series_strength(
            *[x.numpy() for x in given], season, out.numpy(), torch.get_num_threads()
        )
        return out
    x, there = _sized(data)
    long = (data.lens > 2 * season).to(device) & ~_flat(x, there)
    strength = torch.zeros(len(data), dtype=torch.float64, device=device)
    if not bool(long.any()):
        return strength
    lens = data.lens.to(device)[long]
    place = torch.arange(x.shape[1], device=device)
    inside = place < lens[:, None]
    y = x[long].gather(1, (place + x.shape[1] - lens[:, None]) % x.shape[1])
    seasonal, trend = stl(torch.where(inside, y, 0.0), lens, season)
    without = _variance(y - trend - seasonal, inside, lens)
    within = _variance(y - trend, inside, lens)
    strength[long] = torch.where(within > 0, 1 - without / within, 0.0).clamp(0, 1)
    return strength


def unexplained(data: Ragged) -> Ragged:
    """What least squares on the regressors leaves of every series: how often to difference is
    asked of that, as it is all that lags have to say (Hyndman and Athanasopoulos 2021,
    "Forecasting: principles and practice", section 10.2), and of ``reverts``: beside regressors
    KPSS takes a slow swing for a walk.

    Series of less than eight points and two for each regressor stay as they are.
    """
    if data.known is None or not data.known.shape[1] or not len(data):
        return data
    data = data.packed()
    assert data.known is not None
    device, count = data.values.device, data.known.shape[1]
    row = torch.repeat_interleave(torch.arange(len(data)), data.lens).to(device)
    lens = data.lens.to(device).clamp_min(1)[:, None]

    def summed(x: Tensor) -> Tensor:
        return x.new_zeros(len(data), x.shape[1]).index_add_(0, row, x)

    x = torch.cat([data.known, data.values[:, None]], 1)
    near = row[:, None].expand_as(x)
    size = x.new_zeros(len(data), count + 1).scatter_reduce_(0, near, x.abs(), "amax")
    x = x / torch.where(size > 0, size, 1.0)[row]
    x = x - (summed(x) / lens)[row]
    x = x / summed(x.square()).sqrt().clamp_min(_FLAT)[row]
    products = torch.stack([summed(x * x[:, [k]]) for k in range(count)], 1)  # [N, F, F + 1]
    eye = torch.eye(count, dtype=x.dtype, device=device) * _FLAT
    weights = torch.linalg.solve(products[..., :count] + eye, products[..., count])
    left = x[:, count] - (x[:, :count] * weights[row]).sum(1)
    left = torch.where(left.abs() > _FLAT, left, 0.0)
    kept = (lens[:, 0] < 8 + 2 * count)[row]
    return Ragged(torch.where(kept, data.values, left), data.begin, data.end, None, data.first)


def reverts(left: Ragged, known: Tensor | None) -> Tensor:
    """bool [N] on the host: what ``known`` regressors left of a series is no random walk, at 5 %
    (within 0.05 of MacKinnon 2010, "Critical values for cointegration tests", table 2). False
    where there are none."""
    if known is None or not known.shape[1]:
        return torch.zeros(len(left), dtype=torch.bool)
    return (dickey_fuller(left) < -(3.0 + 0.35 * known.shape[1])).cpu()


def dickey_fuller(data: Ragged) -> Tensor:
    """The t ratio of Dickey and Fuller's test with a constant and four lags, float64 [N]; 0 for a
    series of less than 21 points."""
    data = data.packed()
    device, y = data.values.device, data.values
    row = torch.repeat_interleave(torch.arange(len(data)), data.lens).to(device)
    lens = data.lens.to(device)

    def summed(x: Tensor) -> Tensor:
        return x.new_zeros(len(data), *x.shape[1:]).index_add_(0, row, x)

    power = summed(y.square()) / lens.clamp_min(1)
    y = y / torch.where(power > 0, power, 1.0).sqrt()[row]
    step = y - y.roll(1)
    before = [y.roll(1), *(step.roll(k) for k in range(1, _LAGS + 1)), torch.ones_like(y)]
    place = torch.arange(len(y), device=device) - data.begin.to(device)[row]
    x = torch.where((place > _LAGS)[:, None], torch.stack([*before, step], 1), 0.0)
    products = torch.stack([summed(x * x[:, [k]]) for k in range(x.shape[1])], 1)
    gram, target = products[:, :-1, :-1], products[:, :-1, -1]
    load = torch.eye(len(before), dtype=y.dtype, device=device) * _FLAT
    inverse = torch.linalg.inv(gram + load * lens.clamp_min(1)[:, None, None])
    weights = (inverse @ target[..., None])[..., 0]
    free = lens - 1 - _LAGS - len(before)
    error = (products[:, -1, -1] - (weights * target).sum(1)).clamp_min(0) / free.clamp_min(1)
    width = (error * inverse[:, 0, 0]).sqrt()
    return torch.where((free >= 10) & (width > 0), weights[:, 0] / width, 0.0)


def differenced(data: Ragged, d: Tensor, D: Tensor, season: int) -> Ragged:
    """Every series differenced d [N] times and D [N] times at lag ``season``; regressors too.

    Series that are too short come out empty. Values near the greatest double can overflow:
    scale them first.
    """
    data = data.packed()
    rows = torch.repeat_interleave(torch.arange(len(data)), data.lens)
    x = data.values[:, None]
    if data.known is not None:
        x = torch.cat([x, data.known], 1)
    for times, lag in ((D, season), (d, 1)):
        for step in range(int(times.max()) if len(data) else 0):
            on = (times[rows] > step).to(x.device)[:, None]
            x = torch.where(on, x - x.roll(lag, 0), x)  # what came from a neighbour is cut off
    begin = torch.minimum(data.begin + d + D * season, data.end)
    known = None if data.known is None else x[:, 1:]
    return Ragged(x[:, 0].contiguous(), begin, data.end, known)


def expand(phi: Tensor, d: Tensor, D: Tensor, season: int) -> Tensor:
    """The lags [N, P + max d + season * max D] of (1 - phi(B)) (1 - B)^d (1 - B^season)^D."""
    poly = torch.cat([phi.new_ones(len(phi), 1), -phi], 1)
    for times, lag in ((d.to(phi.device), 1), (D.to(phi.device), season)):
        for step in range(int(times.max()) if len(phi) else 0):
            poly = torch.nn.functional.pad(poly, (0, lag))
            on = (times > step)[:, None]
            poly = poly - torch.where(on, poly.roll(lag, 1), 0.0)
    return -poly[:, 1:]


def _sized(data: Ragged) -> tuple[Tensor, Tensor]:
    """Right-aligned [N, T], no value above 1 in size, and where there are points."""
    x, there = data.padded()
    if x.shape[1] == 0:
        x, there = torch.zeros_like(x[:, :1]).new_zeros(len(data), 1), there.new_zeros(len(data), 1)
    size = x.abs().amax(1, keepdim=True)
    return x / torch.where(size > 0, size, 1.0), there


def _flat(x: Tensor, there: Tensor) -> Tensor:
    """bool [N]: constant up to rounding, or without points."""
    top = torch.where(there, x, -torch.inf).amax(1)
    bottom = torch.where(there, x, torch.inf).amin(1)
    return ~(top - bottom > _FLAT)


def _variance(x: Tensor, there: Tensor, lens: Tensor) -> Tensor:
    x = torch.where(there, x, 0.0)
    mean = x.sum(1, keepdim=True) / lens[:, None]
    return torch.where(there, (x - mean) ** 2, 0.0).sum(1)


def _kpss(x: Tensor, there: Tensor) -> Tensor:
    """The statistic around a level [N]; NaN for a series without spread."""
    lens = there.sum(1)
    count = lens.clamp_min(1)[:, None]
    e = torch.where(there, x - x.sum(1, keepdim=True) / count, 0.0)
    e = torch.where(there, e - e.sum(1, keepdim=True) / count, 0.0)
    lags = (3 * lens.double().sqrt() / 13).floor()
    spread = (e * e).sum(1)
    for k in range(1, min(int(lags.max()), e.shape[1] - 1) + 1):
        weight = (1 - k / (lags + 1)).clamp_min(0)
        spread = spread + 2 * weight * (e[:, k:] * e[:, : e.shape[1] - k]).sum(1)
    return (e.cumsum(1) ** 2).sum(1) / (lens * spread)
