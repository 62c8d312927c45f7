"""Linear recursions: forecasts in closed form, new points taken in, and sample paths.

Shapes: N series, P lags, Q errors, F regressors, H horizon, S paths, K levels, R differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from chainrule.core.noise import Noise, Positions
from chainrule.native import _native
from chainrule.series.batch import Fitted, Forecast, Ragged, Recursions
from chainrule.series.transform import Transform

_CHUNK = 2**24  # numbers in the largest tensor beside the paths
_FAR = 1e150  # no step in scaled units goes further: squares and sums of it stay finite
_MOST = torch.finfo(torch.float64).max


def forecast(at: Recursions, horizon: int, future: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Means and variances [N, H] of the next steps; ``future`` [N, H, F].

    The variance is sigma2 times the running sum of the squared weights of the errors
    (Box, Jenkins and Reinsel 2015, "Time series analysis", section 5.1).
    """
    count = len(at.constant)
    beside = at.phi.new_zeros(count, 0)
    if future is not None and at.beta.shape[1]:
        beside = (future * at.beta[:, None]).sum(-1).clamp(-_FAR, _FAR)
    if _native is not None and at.phi.device.type == "cpu":
        return _natively(at, horizon, beside)
    mean = _run(at, horizon, beside)
    sums = psi(at, horizon).square().cumsum(1).clamp_max(_FAR * _FAR)
    return mean, (at.sigma2[:, None] * sums).clamp_max(_FAR * _FAR)


def psi(at: Recursions, horizon: int) -> Tensor:
    """What an error of 1 does now and in the steps after it: [N, H], 1 first."""
    zero = torch.zeros_like
    bare = replace(
        at,
        constant=zero(at.constant),
        past=torch.cat([zero(at.past), zero(at.constant)[:, None] + 1], 1)[:, 1:],
        errors=torch.cat([zero(at.errors), zero(at.constant)[:, None] + 1], 1)[:, 1:],
    )
    if _native is not None and at.phi.device.type == "cpu":
        later, _ = _natively(bare, max(horizon - 1, 0), at.beta[:, :0])
    else:
        later = _run(bare, horizon - 1)
    return torch.cat([later.new_ones(len(later), 1), later], 1)[:, :horizon]


def _natively(at: Recursions, horizon: int, beside: Tensor) -> tuple[Tensor, Tensor]:
    assert _native is not None
    mean, variance = at.phi.new_empty(2, len(at.constant), horizon)
    given = *_parts(at), beside.contiguous().numpy(), mean.numpy(), variance.numpy()
    _native.chainrule_series_forecast(*given, torch.get_num_threads())
    return mean, variance


def _run(at: Recursions, horizon: int, beside: Tensor | None = None) -> Tensor:
    lags, memory = at.phi.flip(1), at.theta.flip(1)
    steps = [at.past, at.past.new_zeros(len(lags), max(horizon, 0))]
    z, width = torch.cat(steps, 1), lags.shape[1]
    errors = torch.cat([at.errors, at.errors.new_zeros(len(lags), max(horizon, 0))], 1)
    for h in range(horizon):
        mean = at.constant + (lags * z[:, h : h + width]).sum(1)
        mean = mean + (memory * errors[:, h : h + memory.shape[1]]).sum(1)
        if beside is not None and beside.shape[1]:
            mean = mean + beside[:, h]
        z[:, h + width] = mean.clamp(-_FAR, _FAR)
    return z[:, width:]


def filtered(at: Recursions, data: Ragged) -> tuple[Recursions, Tensor]:
    """Take in new points, O(P + Q) each: what is remembered then, and one-step means [points]
    of the packed ``data``, whose regressors are those of the recursion."""
    data = data.packed()
    flat = data.values.clamp(-_FAR, _FAR)
    beside = flat.new_zeros(0)
    if at.beta.shape[1] and data.known is not None:
        rows = torch.repeat_interleave(torch.arange(len(data)), data.lens).to(flat.device)
        beside = (data.known * at.beta[rows]).sum(1).clamp(-_FAR, _FAR)
    if _native is not None and flat.device.type == "cpu":
        means, past = torch.empty_like(flat), at.past.clone().contiguous()
        errors = at.errors.clone().contiguous()
        points = flat.numpy(), data.begin.numpy(), data.end.numpy(), beside.numpy()
        out = means.numpy(), past.numpy(), errors.numpy()
        _native.chainrule_series_filter(*_parts(at), *points, *out, torch.get_num_threads())
        return replace(at, past=past, errors=errors), means
    there = left_aligned(data.lens).to(flat.device)
    y, x, means = (flat.new_zeros(there.shape) for _ in range(3))
    y[there] = flat
    if len(beside):
        x[there] = beside
    past, errors = at.past, at.errors
    for t in range(there.shape[1]):
        mean = at.constant + (at.phi.flip(1) * past).sum(1) + x[:, t]
        mean = (mean + (at.theta.flip(1) * errors).sum(1)).clamp(-_FAR, _FAR)
        means[:, t] = mean
        on, e = there[:, t, None], (y[:, t] - mean).clamp(-_FAR, _FAR)
        past = torch.where(on, torch.cat([past, y[:, t, None]], 1)[:, 1:], past)
        errors = torch.where(on, torch.cat([errors, e[:, None]], 1)[:, 1:], errors)
    return replace(at, past=past, errors=errors), means[there]


def begun(at: Recursions, data: Ragged) -> Recursions:
    """Before point P of packed data: its first values, and the errors there that are least with
    those that follow from them, all squared. A slope that hardly moves is then the best one
    rather than the first step."""
    first = torch.minimum(data.begin + at.phi.shape[1], data.end)
    head, rest = replace(data, end=first, known=None), replace(data, begin=first).packed()
    at = replace(at, past=newest(head, at.phi.shape[1]), errors=torch.zeros_like(at.errors))
    count, width = at.theta.shape
    if width == 0:
        return at
    e = rest.values - filtered(at, rest)[1]
    still = replace(at, constant=torch.zeros_like(at.constant), past=torch.zeros_like(at.past))
    still = replace(still, beta=at.beta[:, :0])
    silence = Ragged(torch.zeros_like(rest.values), rest.begin, rest.end)
    one = torch.eye(width, dtype=e.dtype, device=e.device)
    moves = [filtered(replace(still, errors=x.repeat(count, 1)), silence)[1] for x in one]
    H = -torch.stack(moves, 1)
    row = torch.repeat_interleave(torch.arange(count), rest.lens).to(e.device)
    gram = one.repeat(count, 1, 1).index_add(0, row, H[:, :, None] * H[:, None])
    right = e.new_zeros(count, width).index_add(0, row, H * e[:, None])
    return replace(at, errors=-torch.linalg.solve(gram, right[..., None])[..., 0].contiguous())


def simulate(
    at: Recursions,
    horizon: int,
    num: int,
    noise: Noise,
    start: Sequence[int],
    future: Tensor | None = None,
) -> Tensor:
    """Sample paths [N, S, H]. Step h of series i is keyed by noise row i at position
    start[i] + h, and path s by its lane: neither the batch nor ``num`` changes a path."""
    mean, _ = forecast(at, horizon, future)
    if horizon == 0:
        return mean[:, None].expand(-1, num, -1)
    dice = noise.to(mean.device).at(Positions(tuple(start), horizon)).uniform(num)
    errors = torch.special.ndtri(dice).transpose(1, 2) * at.sigma2.sqrt()[:, None, None]
    weights = psi(at, horizon)
    step = torch.arange(horizon, device=mean.device)
    back = step[None, :] - step[:, None]  # error of row, value of column
    each = max(1, _CHUNK // horizon**2)
    paths = []
    for some in torch.arange(len(mean), device=mean.device).split(each):
        matrix = torch.where(back >= 0, weights[some][:, back.clamp_min(0)], 0.0)
        paths.append(mean[some][:, None] + errors[some] @ matrix)
    return torch.cat(paths).clamp(-_FAR, _FAR) if paths else errors


def _parts(at: Recursions) -> list[object]:
    fields = at.constant, at.phi, at.theta, at.sigma2, at.past, at.errors
    return [x.contiguous().numpy() for x in fields]


def left_aligned(lens: Tensor) -> Tensor:
    """bool [N, longest]: the places of packed points, in their order."""
    return torch.arange(int(lens.max()) if len(lens) else 0) < lens[:, None]


def newest(data: Ragged, width: int) -> Tensor:
    """The last ``width`` values of every series [N, width], zeros before the first."""
    place = data.end[:, None] - width + torch.arange(width)
    there = (place >= data.begin[:, None]).to(data.values.device)
    if not len(data.values):
        return data.values.new_zeros(place.shape)
    values = data.values[place.clamp_min(0).to(data.values.device)]
    return torch.where(there, values, 0.0)


@dataclass(frozen=True, eq=False)
class NormalForecast(Forecast):
    """Normal laws behind an increasing transform: loc and scale [N, H] are before it."""

    loc: Tensor
    scale: Tensor
    transform: Transform | None = None

    @property
    def point(self) -> Tensor:
        """The median [N, H]."""
        return self._back(self.loc)

    def quantile(self, levels: Sequence[float]) -> Tensor:
        """[N, H, K] for levels in (0, 1)."""
        at = torch.tensor(list(levels), dtype=self.loc.dtype, device=self.loc.device)
        return self._back(self.loc[..., None] + self.scale[..., None] * torch.special.ndtri(at))

    def _back(self, z: Tensor) -> Tensor:
        z = z.clamp(-_MOST, _MOST)
        return z if self.transform is None else self.transform.inverse(z)


@dataclass(frozen=True, eq=False)
class LinearFitted(Fitted):
    """N recursions over x = (transformed series - loc) / scale.

    Args:
        recursions: in units of x; their regressors are differenced as the series is.
        loc, scale: [N]. A power of two as scale loses nothing.
        seen: int64 [N] on the host: points so far, the absolute position of the next step.
        transform: what came before, or None.
        lags [N, R] and recent [N, R, F]: x_t·beta means x_t less the lagged regressors; R is 0
            where there are none.
        info: int64 or float64 [N] by name: orders, differences, the guard's radius.
    """

    recursions: Recursions
    loc: Tensor
    scale: Tensor
    seen: Tensor
    transform: Transform | None = None
    lags: Tensor | None = None
    recent: Tensor | None = None
    info: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.loc)

    @property
    def spread(self) -> Tensor:
        """Standard deviation of a one-step error before the transform back, [N]."""
        return (self.recursions.sigma2.sqrt() * self.scale).clamp_max(_MOST)

    def forecast(self, horizon: int, future: Tensor | None = None) -> NormalForecast:
        """The next H steps. Raises ValueError where ``future`` is missing or of another shape."""
        beside = self._future(horizon, future)
        mean, variance = forecast(self.recursions, horizon, beside)
        loc, scale = self.loc[:, None], self.scale[:, None]
        level = (loc + scale * mean).clamp(-_MOST, _MOST)
        return NormalForecast(level, (scale * variance.sqrt()).clamp_max(_MOST), self.transform)

    def simulate(
        self, horizon: int, num: int, noise: Noise, future: Tensor | None = None
    ) -> Tensor:
        """Sample paths [N, S, H]; ``noise`` has one row a series. See ``simulate``."""
        start, beside = self.seen.tolist(), self._future(horizon, future)
        x = simulate(self.recursions, horizon, num, noise, start, beside).transpose(1, 2)
        z = (self.loc[:, None, None] + self.scale[:, None, None] * x).clamp(-_MOST, _MOST)
        return (z if self.transform is None else self.transform.inverse(z)).transpose(1, 2)

    def update(self, data: Ragged) -> tuple[LinearFitted, Tensor, Tensor]:
        """Take in new points. One-step medians and standard deviations [points] of them; under a
        transform, half of what one standard deviation to both sides becomes."""
        data, lens = data.packed(), data.lens
        later = None if self.transform is None else self.transform.advance(lens)
        x = self._scaled(data if later is None else later.forward(data))
        known, recent = self._differenced(data)
        recursions, means = filtered(self.recursions, replace(x, known=known))
        rows = torch.repeat_interleave(torch.arange(len(data)), lens).to(self.loc.device)
        level = (self.loc[rows] + self.scale[rows] * means).clamp(-_MOST, _MOST)
        spread = self.spread[rows]
        if self.transform is not None:
            there = left_aligned(lens).to(level.device)
            sides = level.new_zeros(*there.shape, 3)
            sides[there] = torch.stack([level, level - spread, level + spread], 1)
            level, low, high = self.transform.inverse(sides)[there].unbind(1)
            spread = (high - low) / 2
        after = replace(
            self,
            recursions=recursions,
            seen=self.seen + lens,
            transform=later,
            recent=recent,
        )
        return after, level, spread

    def restart(self, data: Ragged, back: Tensor) -> LinearFitted:
        """The same parameters, with the memory of other points of the same series: those that
        end ``back`` (int64 [N]) steps before where it stands. See ``begun``."""
        data, at = data.packed(), self.recursions
        earlier = None if self.transform is None else self.transform.advance(-back)
        x = self._scaled(data if earlier is None else earlier.forward(data))
        known, recent = None, self.recent
        if self.recent is not None:
            fresh = replace(self, recent=torch.zeros_like(self.recent))
            known, recent = fresh._differenced(data)
        x = replace(x, known=known)
        behind = replace(x, begin=torch.minimum(x.begin + at.phi.shape[1], x.end))
        at, _ = filtered(begun(at, x), behind)
        return replace(self, recursions=at, seen=self.seen - back, transform=earlier, recent=recent)

    def select(self, rows: Tensor) -> Self:
        """The named series."""
        return replace(
            self,
            recursions=self.recursions.select(rows),
            loc=self.loc[rows],
            scale=self.scale[rows],
            seen=self.seen[rows],
            transform=None if self.transform is None else self.transform.select(rows),
            lags=None if self.lags is None else self.lags[rows],
            recent=None if self.recent is None else self.recent[rows],
            info={name: x[rows] for name, x in self.info.items()},
        )

    def tensors(self) -> dict[str, Tensor]:
        """All that is held, by name, to be saved."""
        own = {"loc": self.loc, "scale": self.scale, "seen": self.seen}
        own |= {k: x for k in ("lags", "recent") if (x := getattr(self, k)) is not None}
        own |= {f"recursions.{k}": x for k, x in self.recursions.needed()._tensors().items()}
        own |= {f"info.{k}": x for k, x in self.info.items()}
        if self.transform is not None:
            own |= {f"transform.{k}": x for k, x in self.transform._tensors().items()}
        return own

    @classmethod
    def from_tensors(cls, held: Mapping[str, Tensor]) -> Self:
        """What ``tensors`` gave. Raises ValueError where a part is missing."""

        def under(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): x for k, x in held.items() if k.startswith(prefix)}

        bent = under("transform.")
        try:
            return cls(
                Recursions(**under("recursions.")),
                held["loc"],
                held["scale"],
                held["seen"],
                Transform(**bent) if bent else None,
                held.get("lags"),
                held.get("recent"),
                under("info."),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a fitted linear model: {error}; fit it anew") from None

    def _scaled(self, z: Ragged) -> Ragged:
        """x of packed points."""
        rows = torch.repeat_interleave(torch.arange(len(z)), z.lens).to(self.loc.device)
        x = z.values / self.scale[rows] - (self.loc / self.scale)[rows]
        return Ragged(x.clamp(-_FAR, _FAR), z.begin, z.end)

    def _future(self, horizon: int, future: Tensor | None) -> Tensor | None:
        shape = len(self), horizon, self.recursions.beta.shape[1]
        if future is None or not shape[2]:
            if shape[2]:
                raise ValueError(
                    f"fitted with {shape[2]} regressors: give the future ones, {list(shape)}"
                )
            return None
        if tuple(future.shape) != shape:
            raise ValueError(f"future regressors are {list(future.shape)}, not {list(shape)}")
        return self._less_lagged(future)[0]

    def _differenced(self, data: Ragged) -> tuple[Tensor | None, Tensor | None]:
        """Regressors of new points as the recursion takes them, and what is remembered then."""
        width = self.recursions.beta.shape[1]
        if not width:
            return None, None
        if data.known is None:
            raise ValueError(f"fitted with {width} regressors: give them beside new points too")
        there = left_aligned(data.lens).to(data.values.device)
        rows = data.values.new_zeros(*there.shape, width)
        rows[there] = data.known
        known, recent = self._less_lagged(rows, data.lens)
        return known[there], recent

    def _less_lagged(self, rows: Tensor, lens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[N, L, F] less its lags; and the newest R rows after ``lens`` of them."""
        assert self.lags is not None and self.recent is not None
        reach = self.lags.shape[1]
        if reach == 0 or rows.shape[1] == 0:
            return rows, self.recent
        long = torch.cat([self.recent, rows], 1)
        window = long[:, :-1].unfold(1, reach, 1)  # [N, L, F, R]
        less = rows - (window * self.lags.flip(1)[:, None, None]).sum(-1)
        if lens is None:
            return less, self.recent
        place = lens.to(rows.device)[:, None] + torch.arange(reach, device=rows.device)
        return less, long.gather(1, place[..., None].expand(-1, -1, rows.shape[2]))
