"""Linear regression on lags, with the four ways to look several steps ahead.

Shapes: N series, T points of the longest, L lags, P of a recursion, F regressors (trend and
seasons among them), H horizon, K columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from chainrule.core.noise import Noise
from chainrule.series.batch import Fitted, Model, Ragged, Rows
from chainrule.series.differencing import ndiffs, nsdiffs, reverts, unexplained
from chainrule.series.equations import Columns
from chainrule.series.recursion import LinearFitted, NormalForecast, forecast, psi, simulate
from chainrule.series.transform import Transform
from chainrule.series.windowed import Found, One, Task

STRATEGIES = ("recursive", "direct", "multi-output", "rectify")
_ENDS = torch.finfo(torch.float64).min, torch.finfo(torch.float64).max
_TREND = 128.0  # steps that the trend's column grows by 1 in


@dataclass(frozen=True)
class Regression(Model):
    """y_{t+h} = c_h + Σ_i w_{h,i} y_{t+1-lag_i} + x_{t+h}·b_h + e, by least squares over windows.

    A series too short for its lags gets fewer; one too short for the equations of all steps gets
    the recursive one; in the end there is its mean (its last value where it is differenced).

    Args:
        lags: as named, or 1 .. lags; None: one season and a step more, or four.
        strategy: "recursive": one equation, fed with its own forecasts. "direct": one a step.
            "multi-output": the same, over the windows that all steps share, so that they are
            solved together. "rectify": the recursive forecast, and direct equations for what it
            misses by (Ben Taieb and Hyndman 2012, "Recursive and direct multi-step forecasting:
            the best of both worlds"); without ``ridge`` that is the direct forecast again.
        horizon: the steps to fit; needed by all but the recursive strategy.
        pooled: one set of weights for all series, each in units of its own size.
        ridge: strength of Hoerl and Kennard's (1970) penalty on the weights, as a part of the
            variance of what they weigh; "rectify" shrinks its corrections alone. None: 0, and 1
            for "rectify".
        trend, seasonal: a straight line; a level for every phase of the season.
        difference, seasonal_difference: how often; None: by tests of what regressors leave, KPSS
            and the season's strength.
            A direct equation is one for y_{t+h} less the forecast that differencing alone makes.
        stable: shrink the recursion's roots that are outside to just inside the unit circle.
        transform: "log", or "box-cox" with Guerrero's lambda.
    """

    lags: int | tuple[int, ...] | None = None
    strategy: Literal["recursive", "direct", "multi-output", "rectify"] = "recursive"
    horizon: int | None = None
    pooled: bool = False
    ridge: float | None = None
    trend: bool = False
    seasonal: bool = False
    difference: int | None = None
    seasonal_difference: int | None = None
    stable: bool = True
    transform: Literal["log", "box-cox"] | None = None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"no strategy {self.strategy!r}: one of {', '.join(STRATEGIES)}")
        if self.horizon is not None and self.horizon < 1:
            raise ValueError(f"horizon is {self.horizon}: give 1 or more")
        lags = self.lags if isinstance(self.lags, tuple) else (self.lags or 1,)
        if self.lags == 0 or not lags or min(lags) < 1:
            raise ValueError(f"lags are {self.lags}: give whole numbers from 1 on")
        if not 0 <= (self.ridge or 0.0) < float("inf"):
            raise ValueError(f"ridge is {self.ridge}: give 0 or more")
        for name in ("difference", "seasonal_difference"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give 0 or more")
        if self.transform not in (None, "log", "box-cox"):
            raise ValueError(f"no transform {self.transform!r}: log, box-cox or none")

    def _lags(self, season: int) -> tuple[int, ...]:
        if isinstance(self.lags, tuple):
            return tuple(sorted(set(self.lags)))
        return tuple(range(1, (self.lags or (season + 1 if season > 1 else 4)) + 1))

    @property
    def _ridge(self) -> float:
        if self.ridge is None:
            return 1.0 if self.strategy == "rectify" else 0.0
        return self.ridge

    def fit(self, data: Ragged, season: int = 1) -> RegressionFitted:
        """All series at once. ``info`` holds lags, difference, seasonal_difference and radius
        (below 1: the guard shrank the recursion's roots). Raises ValueError for a direct strategy
        without a horizon."""
        if self.strategy != "recursive" and self.horizon is None:
            raise ValueError(f"the {self.strategy} strategy fits an equation a step: give horizon")
        data, bent = data.packed(), None
        if self.transform is not None:
            bent = Transform.fit(data, season, 0.0 if self.transform == "log" else "guerrero")
        clock = Clock(self.trend, season if self.seasonal else 1)
        z = clock.beside(data if bent is None else bent.forward(data), 1 - data.lens)
        task = Task.of(z, *self._differences(z, season), season, self.pooled)
        lags, ridge, steps = self._lags(season), self._ridge, self.horizon or 1
        columns = Columns(lags, task.known, ridge, self.strategy == "multi-output")
        least = replace(columns, ridge=0.0 if self.strategy == "rectify" else ridge, common=False)
        correction, ahead = None, task.scale.new_ones(len(data), 1)
        if self.strategy == "recursive":
            one = task.one(least, self.pooled, self.stable)
        elif self.strategy == "rectify":
            one = task.one(least, self.pooled, self.stable)
            ahead = psi(task.recursions(one), steps)
            correction = task.equations(
                columns, task.errors(one, lags), ahead, self.pooled, one.reach
            )
        else:
            ahead = psi(task.recursions(task.naive(lags)), steps)
            correction = task.equations(columns, task.w.values, ahead, self.pooled)
            short = correction.count < 1
            one = task.naive(lags)
            if bool(short.any()):
                one = one.put(short, task.select(short).one(least, False, self.stable))
        base = _base(task, one, lags, bent, z)
        if correction is None:
            return RegressionFitted(base, torch.zeros_like(data.lens), clock)
        made = Correction.of(task, correction, ahead, lags)
        return RegressionFitted(base, torch.zeros_like(data.lens), clock, made)

    def _differences(self, data: Ragged, season: int) -> tuple[Tensor, Tensor]:
        """int64 [N] each; never more than leave a point. By test: of most where pooled."""
        D, left = torch.zeros(len(data), dtype=torch.int64), unexplained(data)
        if season > 1:
            fixed = self.seasonal_difference
            D = self._shared(nsdiffs(left, season)) if fixed is None else D + fixed
        D = torch.minimum(D, (data.lens - 1).clamp_min(0) // season)
        if self.difference is None:
            d = ndiffs(left, D=D, season=season)
            d = self._shared(torch.where((D == 0) & reverts(left, data.known), 0, d))
        else:
            d = torch.full_like(D, self.difference)
        return torch.minimum(d, (data.lens - D * season - 1).clamp_min(0)), D

    def _shared(self, times: Tensor) -> Tensor:
        return times.mode().values.expand(len(times)) if self.pooled and len(times) else times


@dataclass(frozen=True)
class Clock:
    """The regressors that time itself is: a straight line, and which phase it is."""

    trend: bool = False
    season: int = 1

    @property
    def width(self) -> int:
        """How many they are."""
        return self.trend + self.season - 1

    def at(self, steps: Tensor) -> Tensor:
        """[..., width] for whole steps after the last point of the fit."""
        out = [steps / _TREND] if self.trend else []
        out += [(steps % self.season == phase).double() for phase in range(1, self.season)]
        empty = steps.new_zeros(*steps.shape, 0, dtype=torch.float64)
        return torch.stack(out, -1).double() if out else empty

    def beside(self, data: Ragged, first: Tensor) -> Ragged:
        """Packed series with these regressors too; ``first`` int64 [N]: the steps of the first
        points."""
        if not self.width:
            return data
        rows = torch.repeat_interleave(torch.arange(len(data)), data.lens)
        steps = torch.arange(len(rows)) + (first - data.begin)[rows]
        own = self.at(steps).to(data.values.device)
        known = own if data.known is None else torch.cat([own, data.known], 1)
        return replace(data, known=known)


@dataclass(frozen=True, eq=False)
class Correction(Rows):
    """What direct equations add to a recursion, in its units.

    Args:
        psi [N, H]: of that recursion. constant [N, H]; weights [N, H, P]: of what it remembers,
            lag 1 first; gamma [N, H, F]: of Σ_j psi_{h-j} x_{t+j}.
        deviation [N, H]: of the errors; nan where there is no equation.
    """

    psi: Tensor
    constant: Tensor
    weights: Tensor
    gamma: Tensor
    deviation: Tensor

    @staticmethod
    def of(task: Task, found: Found, ahead: Tensor, lags: tuple[int, ...]) -> Correction:
        """Lags of the differenced series become lags of the series."""
        some = (found.count > 0).to(ahead.device)[:, None]
        weights = torch.where(some[..., None], found.weights, 0.0)
        one = task.poly.new_ones(len(task.poly), 1)
        difference = torch.cat([one, -task.poly], 1)[:, None]  # w_t of x_t, x_{t-1}, …
        reach = task.poly.shape[1]
        wide = ahead.new_zeros(*ahead.shape, max(lags) + reach)
        for place, lag in enumerate(lags):
            wide[..., lag - 1 : lag + reach] += weights[..., place + 1, None] * difference
        gamma = weights[..., 1 + len(lags) :] / task.size[:, None]
        still = (task.d + task.D == 0).to(ahead.device)[:, None]
        shift = (gamma * task.centre[:, None]).sum(-1) * ahead.cumsum(1)
        constant = weights[..., 0] - torch.where(still, shift, 0.0)
        deviation = torch.where(some, found.variance.sqrt(), torch.nan)
        return Correction(ahead, constant, wide, gamma, deviation)

    def added(self, past: Tensor, known: Tensor | None, horizon: int) -> Tensor:
        """[N, horizon] for past [N, P], the newest last, and regressors [N, horizon, F]."""
        h = horizon
        out = self.constant[:, :h] + (self.weights[:, :h] @ past.flip(1)[..., None])[..., 0]
        if known is not None:
            step = torch.arange(h, device=past.device)
            back = step[:, None] - step[None, :]
            matrix = torch.where(back >= 0, self.psi[:, back.clamp_min(0)], 0.0)
            out = out + (self.gamma[:, :h] * (matrix @ known)).sum(-1)
        return out


@dataclass(frozen=True, eq=False)
class RegressionFitted(Fitted):
    """A recursion, and direct equations for what it misses by.

    Args:
        base: the recursion; for direct equations what differencing alone forecasts.
        later: int64 [N] on the host, points since the fit.
    """

    base: LinearFitted
    later: Tensor
    clock: Clock
    correction: Correction | None = None

    def __len__(self) -> int:
        return len(self.base)

    def forecast(self, horizon: int, future: Tensor | None = None) -> NormalForecast:
        """The next H steps. Raises ValueError for more than were fitted, and where ``future`` is
        missing or of another shape."""
        beside = self._with_clock(future, horizon)
        made = self.base.forecast(horizon, beside)
        if self.correction is None:
            return made
        most = self.correction.psi.shape[1]
        if horizon > most:
            raise ValueError(
                f"direct equations were fitted for {most} steps, not {horizon}: fit with "
                f"horizon={horizon}, or with the recursive strategy"
            )
        known = self.base._future(horizon, beside)
        past, scale = self.base.recursions.past, self.base.scale[:, None]
        own = scale * self.correction.deviation[:, :horizon]
        return replace(
            made,
            loc=(made.loc + scale * self.correction.added(past, known, horizon)).clamp(*_ENDS),
            scale=torch.where(own.isnan(), made.scale, own).clamp_max(_ENDS[1]),
        )

    def simulate(
        self, horizon: int, num: int, noise: Noise, future: Tensor | None = None
    ) -> Tensor:
        """Sample paths [N, S, H]. Direct equations say nothing of how steps hang together: their
        paths hang together as those of the first step's equation, and have their own laws."""
        beside = self._with_clock(future, horizon)
        one = self._one_step()
        if self.correction is None:
            return one.simulate(horizon, num, noise, beside)
        law = self.forecast(horizon, future)
        known, start = one._future(horizon, beside), one.seen.tolist()
        mean, variance = forecast(one.recursions, horizon, known)
        paths = simulate(one.recursions, horizon, num, noise, start, known) - mean[:, None]
        deviation = variance.sqrt()[:, None]
        paths = torch.where(deviation > 0, paths / torch.where(deviation > 0, deviation, 1.0), 0.0)
        z = (law.loc[..., None] + law.scale[..., None] * paths.transpose(1, 2)).clamp(*_ENDS)
        return (z if law.transform is None else law.transform.inverse(z)).transpose(1, 2)

    def update(self, data: Ragged) -> tuple[RegressionFitted, Tensor, Tensor]:
        data = data.packed()
        beside = self.clock.beside(data, 1 + self.later)
        after, level, spread = self._one_step().update(beside)
        held = replace(self.base.recursions, past=after.recursions.past)
        base = replace(after, recursions=held)
        return replace(self, base=base, later=self.later + data.lens), level, spread

    def restart(self, data: Ragged, back: Tensor) -> RegressionFitted:
        data, later = data.packed(), self.later - back
        beside = self.clock.beside(data, 1 + later - data.lens)
        return replace(self, base=self.base.restart(beside, back), later=later)

    def _one_step(self) -> LinearFitted:
        """The equation of the first step as a recursion."""
        made, own = self.base.recursions, self.correction
        if own is None:
            return self.base
        first = own.deviation[:, 0]
        one = replace(
            made,
            constant=made.constant + own.constant[:, 0],
            phi=made.phi + own.weights[:, 0],
            beta=made.beta + own.gamma[:, 0],
            sigma2=torch.where(first.isnan(), made.sigma2, first.square()),
        )
        return replace(self.base, recursions=one)

    def select(self, rows: Tensor) -> RegressionFitted:
        own = self.correction
        return replace(
            self,
            base=self.base.select(rows),
            later=self.later[rows],
            correction=None if own is None else own.select(rows),
        )

    def tensors(self) -> dict[str, Tensor]:
        """All that is held, by name, to be saved."""
        clock = torch.tensor([int(self.clock.trend), self.clock.season]).expand(len(self), 2)
        held = {"later": self.later, "clock": clock}
        held |= {f"base.{k}": x for k, x in self.base.tensors().items()}
        held["base.recursions.past"] = self.base.recursions.past  # corrections read all of it
        if self.correction is not None:
            held |= {f"correction.{k}": x for k, x in self.correction._tensors().items()}
        return held

    @staticmethod
    def from_tensors(held: Mapping[str, Tensor]) -> RegressionFitted:
        """What ``tensors`` gave. Raises ValueError where a part is missing."""

        def under(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): x for k, x in held.items() if k.startswith(prefix)}

        own, base = under("correction."), LinearFitted.from_tensors(under("base."))
        try:
            trend, season = held["clock"][0].tolist() if len(base) else (0, 1)
            correction, clock = Correction(**own) if own else None, Clock(bool(trend), season)
            if season < 1 or clock.width > base.recursions.beta.shape[1]:
                raise ValueError(f"a season of {season} has not so many regressors; fit it anew")
            return RegressionFitted(base, held["later"], clock, correction)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a fitted regression: {error}; fit it anew") from None

    def _with_clock(self, future: Tensor | None, horizon: int) -> Tensor | None:
        if not self.clock.width:
            return future
        steps = 1 + torch.arange(horizon) + self.later[:, None]
        own = self.clock.at(steps).to(self.base.loc.device)
        given = self.base.recursions.beta.shape[1] - self.clock.width
        if given == 0:
            return own
        shape = [*steps.shape, given]
        if future is None or list(future.shape) != shape:
            found = "none" if future is None else list(future.shape)
            raise ValueError(f"future regressors are {found}, not {shape}")
        return torch.cat([own, future], -1)


def _base(
    task: Task, one: One, lags: tuple[int, ...], bent: Transform | None, z: Ragged
) -> LinearFitted:
    reach, recent, poly = task.poly.shape[1], None, None
    if z.known is not None and task.known:
        place = z.end[:, None] - reach + torch.arange(reach)
        place = torch.maximum(place, z.begin[:, None]).clamp_max(max(0, len(z.values) - 1))
        recent, poly = z.known[place.to(z.values.device)], task.poly
    info = {
        "lags": one.count.clamp_min(0),
        "difference": task.d,
        "seasonal_difference": task.D,
        "radius": one.radius.cpu(),
    }
    return LinearFitted(
        task.recursions(one), task.loc, task.scale, z.lens, bent, poly, recent, info
    )
