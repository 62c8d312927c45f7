"""What a series is made before a linear model sees it, and back: Box-Cox, then seasonal indices.

Both ways are increasing elementwise, so medians and quantiles pass through unchanged.
Shapes: N series, H horizon, K levels, m season length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from chainrule.native import _native
from chainrule.series.batch import Ragged, Rows

_FAR = 1e300  # no forecast lies further out
_WIDE = 1e3  # under a power, none is so many times beyond the greatest or below the least value
_LEAST_INDEX = 0.01  # smaller factors of a season are no season: differences serve instead
_FLAT = 1e-24  # of its squares: a series that moves less is constant
_CRITICAL = 1.6448536269514722  # the normal law's 95 %: a test at 90 %, both sides


@dataclass(frozen=True, eq=False)
class Transform(Rows):
    """N increasing maps y -> z, and the season as seen from now on.

    Args:
        power [N]: Box-Cox's lambda; 0 is the logarithm, nan none.
        seasonal [N, m]: index 0 belongs to the NEXT step.
        ratio: bool [N]: divide by the season; otherwise it is subtracted.
        low, high [N]: y is held between them both ways, so nothing that comes back is infinite.
        refused: bool [N]: a power was asked for, but not every value is positive.
    """

    power: Tensor
    seasonal: Tensor
    ratio: Tensor
    low: Tensor
    high: Tensor
    refused: Tensor

    @staticmethod
    def none(count: int, device: torch.device | str = "cpu") -> Transform:
        """The identity, for so many series."""
        far = torch.full((count,), _FAR, dtype=torch.float64, device=device)
        no = torch.zeros(count, dtype=torch.bool, device=device)
        return Transform(far * torch.nan, torch.zeros_like(far)[:, None], no, -far, far, no)

    @staticmethod
    def fit(
        data: Ragged,
        season: int = 1,
        power: float | Literal["guerrero"] | None = None,
        seasonal: Literal["level", "either"] | None = None,
    ) -> Transform:
        """``power``: a lambda for all, or Guerrero's (1993) choice for each in [0, 1].
        ``seasonal``: take out the season of those series that a test finds one in: in them as
        they stand (as M4 did), or in either them or their steps (a trend hides it from the first).

        A series with a value that is not positive gets no power, and says so (``refused``).
        """
        out = Transform.none(len(data), data.values.device)
        if power is not None:
            out = _with_power(out, data, season, power)
        if seasonal is not None and season > 1:
            z = data if power is None else out.forward(data)
            native = _native is not None and z.values.device.type == "cpu"
            found = _natively if native else _seasons
            table, ratio = found(z, season, out.power.isnan(), seasonal == "either")
            out = replace(out, seasonal=table, ratio=ratio)
        return out

    def forward(self, data: Ragged) -> Ragged:
        """z of series that end now: their last points lie one step before ``seasonal[:, 0]``.

        New points that follow the fitted ones: ``transform.advance(new.lens).forward(new)``.
        """
        data, device = data.packed(), data.values.device
        row = torch.repeat_interleave(torch.arange(len(data)), data.lens)
        count = torch.arange(len(row))
        phase = ((count - data.end[row]) % self.seasonal.shape[1]).to(device)
        row = row.to(device)
        y = torch.maximum(torch.minimum(data.values, self.high[row]), self.low[row])
        index, ratio = self.seasonal[row, phase], self.ratio[row]
        z = _box_cox(y, self.power[row])
        z = torch.where(ratio, z / torch.where(ratio, index, 1.0), z - index)
        return Ragged(z, data.begin, data.end, data.known)

    def inverse(self, z: Tensor) -> Tensor:
        """y of the next H steps: z [N, H], or [N, H, K]."""
        steps = torch.arange(z.shape[1], device=z.device) % self.seasonal.shape[1]
        wide = (slice(None), *[None] * (z.ndim - 1))
        index = self.seasonal[:, steps].reshape(z.shape[:2] + (1,) * (z.ndim - 2))
        w = torch.where(self.ratio[wide], z * index, z + index)
        power, low, high = self.power[wide], self.low[wide], self.high[wide]
        w = torch.maximum(torch.minimum(w, _box_cox(high, power)), _box_cox(low, power))
        y = _box_cox_back(w, power)
        return torch.maximum(torch.minimum(y, high), low)

    def advance(self, counts: Tensor) -> Transform:
        """As seen ``counts`` (int64 [N]) steps later."""
        m, device = self.seasonal.shape[1], self.seasonal.device
        step = (torch.arange(m, device=device) + counts.to(device)[:, None]) % m
        return replace(self, seasonal=self.seasonal.gather(1, step))


def sizes(data: Ragged) -> Tensor:
    """The power of two above the greatest absolute value of each packed series, [N]."""
    row = torch.repeat_interleave(torch.arange(len(data)), data.lens).to(data.values.device)
    most = data.values.new_zeros(len(data)).scatter_reduce(0, row, data.values.abs(), "amax")
    return power_of_two(most[:, None])


def power_of_two(y: Tensor) -> Tensor:
    """The one above the greatest size of y [N, ...], [N]; 1 for zeros. To divide by it and to
    multiply again loses nothing."""
    most = torch.nn.functional.pad(y.abs().flatten(1), (1, 0)).amax(1)
    power = torch.frexp(most).exponent.clamp(-1000, 1000)
    return torch.where(most > 0, torch.ldexp(torch.ones_like(most), power), 1.0)


def _box_cox(y: Tensor, power: Tensor) -> Tensor:
    """(y^power - 1) / power, its limit log y at 0, and y itself where the power is nan."""
    none, log = power.isnan(), power == 0
    safe = torch.where(none, 1.0, y)
    bent = torch.expm1(torch.where(none, 1.0, power) * safe.log())
    z = torch.where(log, safe.log(), bent / torch.where(none | log, 1.0, power))
    return torch.where(none, y, z)


def _box_cox_back(z: Tensor, power: Tensor) -> Tensor:
    none, log = power.isnan(), power == 0
    lam = torch.where(none | log, 1.0, power)
    root = torch.log1p((torch.where(none, 0.0, z) * lam).clamp_min(-1.0)) / lam
    return torch.where(none, z, torch.where(log, torch.where(none, 0.0, z), root).exp())


def _with_power(
    at: Transform, data: Ragged, season: int, power: float | Literal["guerrero"]
) -> Transform:
    flat = data.packed()
    row = torch.repeat_interleave(torch.arange(len(flat)), flat.lens).to(flat.values.device)
    least = flat.values.new_full((len(flat),), torch.inf)
    least = least.scatter_reduce(0, row, flat.values, "amin")
    most = torch.zeros_like(least).scatter_reduce(0, row, flat.values, "amax")
    fine = (least > 0) & (least < torch.inf)
    if power == "guerrero":
        values, there = data.padded()
        safe = torch.where(there & fine[:, None], values, 1.0)
        lam = _guerrero(safe, there, max(2, season))
    else:
        lam = torch.full_like(least, power)
    return replace(
        at,
        power=torch.where(fine, lam, torch.nan),
        low=torch.where(fine, least / _WIDE, at.low),
        high=torch.where(fine, most * _WIDE, at.high).clamp_max(_FAR),
        refused=~fine,
    )


def _guerrero(values: Tensor, there: Tensor, width: int, rounds: int = 14) -> Tensor:
    """Lambdas [N] in [0, 1] under which the deviations of neighbourhoods vary least beside
    their means to the power of 1 - lambda (Guerrero 1993, "Time-series analysis supported by
    power transformations"). 1 where there are fewer than two neighbourhoods.
    """
    groups = values.shape[1] // width
    if groups < 2:
        return values.new_ones(len(values))
    tail = slice(values.shape[1] - groups * width, None)
    parts = values[:, tail].unflatten(1, (groups, width))
    whole = there[:, tail].unflatten(1, (groups, width)).all(-1)
    count = whole.sum(1)
    mean, deviation = parts.mean(-1).log(), parts.std(-1)

    def spread(lam: Tensor) -> Tensor:
        """The coefficient of variation, for lambdas [N, L]."""
        ratio = deviation[..., None] * (mean[..., None] * (lam[:, None] - 1)).exp()
        ratio = torch.where(whole[..., None], ratio, 0.0)
        center = ratio.sum(1) / count[:, None]
        away = torch.where(whole[..., None], ratio - center[:, None], 0.0).square().sum(1)
        varied: Tensor = away.sqrt() / center
        return varied

    grid = torch.linspace(0, 1, 11, dtype=values.dtype, device=values.device)
    found = spread(grid.expand(len(values), -1)).nan_to_num(torch.inf).argmin(1)
    a, b = grid[(found - 1).clamp_min(0)], grid[(found + 1).clamp_max(10)]
    golden = (5**0.5 - 1) / 2
    for _ in range(rounds):
        c, d = b - golden * (b - a), a + golden * (b - a)
        left, right = spread(torch.stack([c, d], 1)).unbind(1)
        a, b = torch.where(left < right, a, c), torch.where(left < right, d, b)
    lam = torch.where((count >= 2) & (deviation * whole).any(1), (a + b) / 2, 1.0)
    return lam.round(decimals=3)  # so that the ends are exactly 0 and 1


def _natively(data: Ragged, m: int, plain: Tensor, steps: bool) -> tuple[Tensor, Tensor]:
    """Seasonal indices [N, m], 0 where the test (of ``steps`` too) finds none, and bool [N]: they
    are ratios, which only ``plain`` series (bool [N]) may have. In C++."""
    assert _native is not None
    table = torch.empty(len(data), m, dtype=torch.float64)
    ratio = plain.long()
    _native.chainrule_series_season(
        data.values.contiguous().numpy(),
        data.begin.contiguous().numpy(),
        data.end.contiguous().numpy(),
        steps,
        table.numpy(),
        ratio.numpy(),
        torch.get_num_threads(),
    )
    return table, ratio > 0


def _seasons(data: Ragged, m: int, plain: Tensor, steps: bool) -> tuple[Tensor, Tensor]:
    """The same in torch: classical decomposition of all series at once."""
    z, there = data.padded()
    if z.shape[1] < 3 * m:
        return z.new_zeros(len(z), m), torch.zeros_like(plain)
    seasonal = has_season(z, there, m)
    if steps:
        old = there[:, :-1]
        seasonal |= has_season(torch.where(old, z.diff(dim=1), 0.0), old, m)
    ratio = indices(z, there, m, True)
    by_ratio = seasonal & plain & (torch.where(there, z, 1.0) > 0).all(1)
    by_ratio &= (ratio >= _LEAST_INDEX).all(1)
    table = torch.where(by_ratio[:, None], ratio, indices(z, there, m, False))
    return table.where(seasonal[:, None], 0.0), by_ratio


def has_season(z: Tensor, there: Tensor, m: int) -> Tensor:
    """Bool [N]: three seasons or more, and the autocorrelation at lag m is beyond its 90 % limit
    (Assimakopoulos & Nikolopoulos 2000, "The theta model"; the limit is Bartlett's)."""
    count = there.sum(1)
    mean = z.sum(1) / count.clamp_min(1)
    away = torch.where(there, z - mean[:, None], 0.0)
    own = away.square().sum(1)
    r = torch.stack([(away[:, k:] * away[:, : z.shape[1] - k]).sum(1) for k in range(1, m + 1)], 1)
    r = r / torch.where(own > 0, own, 1.0)[:, None]
    limit = _CRITICAL * ((1 + 2 * r[:, :-1].square().sum(1)) / count.clamp_min(1)).sqrt()
    moves = own > _FLAT * z.square().sum(1)
    return (count >= 3 * m) & moves & (r[:, -1].abs() > limit)


def indices(z: Tensor, there: Tensor, m: int, ratio: bool) -> Tensor:
    """Seasonal indices [N, m] of right-aligned z [N, T]; index 0 belongs to the next step.

    The mean, per phase, of what a centred moving average leaves; scaled to mean 1 (``ratio``),
    or shifted to mean 0. Only meaningful where a series has two seasons or more.
    """
    half = m // 2
    weight = z.new_full((2 * half + 1,), 1 / m)
    if m % 2 == 0:
        weight[[0, -1]] = 0.5 / m
    trend = z.unfold(1, 2 * half + 1, 1) @ weight
    inner = there.unfold(1, 2 * half + 1, 1).all(-1)
    middle = z[:, half : z.shape[1] - half]
    left = middle / torch.where(inner & (trend != 0), trend, 1.0) if ratio else middle - trend
    left = torch.where(inner, left, 0.0)
    phase = (torch.arange(half, z.shape[1] - half, device=z.device) - z.shape[1]) % m
    total = z.new_zeros(len(z), m).index_add_(1, phase, left)
    count = z.new_zeros(len(z), m).index_add_(1, phase, inner.to(z.dtype))
    mean = total / count.clamp_min(1)
    center = mean.mean(1, keepdim=True)
    return mean / torch.where(center == 0, 1.0, center) if ratio else mean - center
