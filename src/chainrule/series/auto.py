"""auto: a small ensemble whose weights and intervals come from the training part alone.

Every member forecasts windows of the past. From how it did there a linear gate learns, over all
series together, how much weight each member gets on a series like this one (Montero-Manso et
al. 2020, "FFORMA: feature-based forecast model averaging", with four features and no trees),
and what the weighted forecasts missed by makes the intervals (intervals.py).

Shapes: N series, J members, H horizon, F features, W windows, R = windows of all series.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from chainrule.core.noise import Noise, Positions
from chainrule.series.ar import AR
from chainrule.series.arima import ARIMA
from chainrule.series.baselines import SeasonalNaive
from chainrule.series.batch import Fitted, Forecast, Model, Ragged
from chainrule.series.descent import minimised
from chainrule.series.intervals import Calibrated, Calibration
from chainrule.series.metrics import scale
from chainrule.series.recursion import LinearFitted
from chainrule.series.smoothing import Holt, HoltWinters
from chainrule.series.transform import power_of_two
from chainrule.series.windows import windows

_FAR = 30.0  # scaled errors beyond it count as this: one wild window decides nothing
_WILD = 1e100  # spreads: nothing misses by more
_MOST = torch.finfo(torch.float64).max
_SD = 2.5631031310892007  # from the 10 % to the 90 % quantile of the normal law


def members(regressors: bool = False) -> tuple[Model, ...]:
    """The ensemble: unlike each other, and each of them quick. Where there are regressors it is
    autoregressions, which take them, and one member that gets on if they are worth nothing."""
    if regressors:
        levels = AR(difference=0, seasonal_difference=0)
        return HoltWinters(), levels, replace(levels, difference=1), AR()
    return (
        HoltWinters(),
        HoltWinters(transform="box-cox"),
        Holt(),
        AR(difference=0, seasonal_difference=0),
        AR(difference=1, seasonal_difference=0, method="burg"),
        ARIMA(),
        SeasonalNaive(),
    )


def _beside(data: Ragged) -> bool:
    return data.known is not None and data.known.shape[1] > 0


@dataclass(frozen=True)
class Auto(Model):
    """An ensemble chosen on the training part, with pooled split-conformal intervals.

    Series teach each other: a forecast depends on those that are fitted with it, and its bounds a
    little on their order too (each half of them is judged by what the other taught).

    Args:
        horizon: the steps that weights and intervals are learned for; later ones take the
            last one's. None: six, or two seasons, as far as the series are long enough.
        windows: how many windows of the past, half a horizon apart.
        strength: of the gate's shrinking towards equal weights.
        emphasis: how much noisy series count: 0 as MASE weighs them, 1 as WQL does.
    """

    horizon: int | None = None
    windows: int = 5
    strength: float = 5e-3
    emphasis: float = 0.5

    def fit(self, data: Ragged, season: int) -> AutoFitted:
        middle = int(data.lens.median()) if len(data) else 0
        horizon = self.horizon or max(6, min(2 * season, middle // 4))
        past = _past(data, season, horizon, self.windows)
        feature = features(data, season)
        center, width = feature.mean(0), feature.std(0, correction=0) + 1e-6
        gate = Gate.fit(past, center, width, self.strength, self.emphasis)
        every = members(_beside(data))
        fitted = tuple(_linear(model.fit(data, season)) for model in every)
        return AutoFitted(
            fitted,
            gate.logits(feature),
            gate.tilt,
            gate.calibrate(past),
            _scale(data, season),
            (data.padded()[0] >= 0).all(1),
        )


@dataclass(frozen=True, eq=False)
class AutoFitted(Fitted):
    """The members, their weights and what their forecasts missed by.

    Args:
        fitted: J of them; logits [N, J] and tilt [J]: of their weights; scale [N].
        positive: bool [N]: nothing below 0 was ever seen, so nothing below 0 is forecast.
    """

    fitted: tuple[LinearFitted, ...]
    logits: Tensor
    tilt: Tensor
    calibration: Calibration
    scale: Tensor
    positive: Tensor

    @property
    def horizon(self) -> int:
        """The steps that weights and intervals were learned for."""
        return len(self.calibration.table)

    def weights(self, horizon: int) -> Tensor:
        """Of the members at every step, [N, J, H]; they add up to 1."""
        return _weights(self.logits, self.tilt, self.horizon, horizon)

    def forecast(self, horizon: int, future: Tensor | None = None) -> Forecast:
        made = torch.stack([_laws(f.forecast(horizon, future)) for f in self.fitted], 1)
        median, spread = _blend(made, self.weights(horizon), self.scale)
        return _Held(median, spread, self.calibration, self.positive)

    def update(self, data: Ragged) -> tuple[AutoFitted, Tensor, Tensor]:
        data, new, one = data.packed(), [], []
        for fitted in self.fitted:
            later, median, deviation = fitted.update(data)
            new.append(later)
            one.append(torch.stack([median, deviation], -1))
        rows = torch.repeat_interleave(torch.arange(len(data)), data.lens).to(self.scale.device)
        made = torch.stack(one, 1)[:, :, None]  # [points, J, 1, 2]
        median, spread = _blend(made, self.weights(1)[rows], self.scale[rows])
        above = self.positive.clone()
        above[rows[data.values < 0]] = False
        median = torch.where(self.positive[rows, None], median.clamp_min(0), median)
        after = replace(self, fitted=tuple(new), positive=above)
        return after, median[:, 0], spread[:, 0]

    def restart(self, data: Ragged, back: Tensor) -> AutoFitted:
        return replace(self, fitted=tuple(f.restart(data, back) for f in self.fitted))

    def simulate(
        self, horizon: int, num: int, noise: Noise, future: Tensor | None = None
    ) -> Tensor:
        """Sample paths [N, S, H]: every path a member's own, its values moved to the quantiles
        that this ensemble gives their ranks (Schefzik et al. 2013, "Uncertainty quantification
        in complex simulation models using ensemble copula coupling")."""
        once = Positions((0,) * len(self.scale), 1)
        dice = noise.to(self.scale.device).at(once).part(0).uniform(num)[:, 0]
        share = self.weights(horizon).mean(-1).cumsum(1)[:, None, :-1]
        chosen = (dice[..., None] > share).sum(-1)[..., None]  # [N, S, 1]
        paths = self.scale.new_zeros(len(self.scale), num, horizon)
        for j, fitted in enumerate(self.fitted):  # the same dice: one of them is taken
            made = fitted.simulate(horizon, num, noise, future)
            paths = torch.where(chosen == j, made, paths)
        levels = [(k + 0.5) / num for k in range(num)]
        ordered = self.forecast(horizon, future).quantile(levels).transpose(1, 2)
        return ordered.gather(1, paths.argsort(1).argsort(1))

    def tensors(self) -> dict[str, Tensor]:
        """All that is held, by name, to be saved. ``once.``: of all series together, so a view
        that repeats one row, which no reader needs to write out."""
        own = {"logits": self.logits, "scale": self.scale, "positive": self.positive}
        for j, fitted in enumerate(self.fitted):
            held = fitted.tensors()
            own |= {f"member{j}.{k}": x for k, x in held.items() if not k.startswith("info.")}
        count = len(self.scale)
        own["once.tilt"] = self.tilt.expand(count, -1)
        own["once.table"] = self.calibration.table.expand(count, -1, -1)
        return own

    @staticmethod
    def from_tensors(held: Mapping[str, Tensor]) -> AutoFitted:
        """What ``tensors`` gave. Raises ValueError where a part is missing."""
        fitted = []
        for j in range(held["logits"].shape[1] if "logits" in held else 0):
            start = f"member{j}."
            own = {k.removeprefix(start): x for k, x in held.items() if k.startswith(start)}
            fitted.append(LinearFitted.from_tensors(own))
        try:
            return AutoFitted(
                tuple(fitted),
                held["logits"],
                held["once.tilt"][0],
                Calibration(held["once.table"][0]),
                held["scale"],
                held["positive"],
            )
        except (KeyError, IndexError) as error:
            raise ValueError(f"not a fitted ensemble: {error}; fit it anew") from None

    def select(self, rows: Tensor) -> AutoFitted:
        return replace(
            self,
            fitted=tuple(f.select(rows) for f in self.fitted),
            logits=self.logits[rows],
            scale=self.scale[rows],
            positive=self.positive[rows],
        )


@dataclass(frozen=True, eq=False)
class _Held(Calibrated):
    """Held above 0 where no series ever was below."""

    positive: Tensor

    @property
    def point(self) -> Tensor:
        return torch.where(self.positive[:, None], self.median.clamp_min(0), self.median)

    def quantile(self, levels: Sequence[float]) -> Tensor:
        made = super().quantile(levels)
        return torch.where(self.positive[:, None, None], made.clamp_min(0), made)


# ---- windows of the past ----


@dataclass(frozen=True, eq=False)
class Past:
    """R windows: features [R, F], members' laws [R, J, H, 2], what came [R, H], its scale [R],
    the level of its series [R] and the series itself, int64 [R]."""

    feature: Tensor
    made: Tensor
    came: Tensor
    scale: Tensor
    level: Tensor
    row: Tensor


def _past(data: Ragged, season: int, horizon: int, count: int) -> Past:
    """What the members would have forecast ``horizon``, ``1.5 horizon``, … before the end."""
    least = max(4, 2 * season + 2 if season > 1 else horizon // 2)
    parts: list[Past] = []
    every = members(_beside(data))
    for window in windows(data, horizon, count, max(1, horizon // 2), least):
        seen, device = window.seen, data.values.device
        made = [_laws(m.fit(seen, season).forecast(horizon, window.future)) for m in every]
        parts.append(
            Past(
                features(seen, season),
                torch.stack(made, 1),
                window.came,
                _scale(seen, season),
                _level(seen),
                window.row.to(device),
            )
        )
    if not parts:
        kinds, dtype = len(every), torch.float64
        empty = torch.zeros(0, dtype=dtype, device=data.values.device)
        return Past(
            empty.view(0, 4), empty.view(0, kinds, horizon, 2), empty.view(0, horizon),
            empty, empty, empty.long(),
        )  # fmt: skip
    return Past(*(torch.cat(list(values)) for values in zip(*map(_fields, parts), strict=True)))


def _fields(past: Past) -> tuple[Tensor, ...]:
    return past.feature, past.made, past.came, past.scale, past.level, past.row


def _laws(forecast: Forecast) -> Tensor:
    """Median and standard deviation, [N, H, 2]."""
    low, high = forecast.quantile([0.1, 0.9]).unbind(-1)
    return torch.stack([forecast.point, ((high - low) / _SD).clamp_max(_MOST)], -1)


def _blend(made: Tensor, weights: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Median and spread [N, H]: the members' own spreads, and how far apart they lie."""
    unit = power_of_two(made)  # so that no square is infinite
    made, unit = made / unit[:, None, None, None], unit[:, None]
    median = (made[..., 0] * weights).sum(1)
    own = (made[..., 1] * weights).sum(1)
    apart = ((made[..., 0] - median[:, None]).square() * weights).sum(1)
    spread = (own.square() + apart).sqrt() + 0.05 * scale[:, None] / unit
    return (median * unit).clamp(-_MOST, _MOST), (spread * unit).clamp_max(_MOST)


def _scale(data: Ragged, season: int) -> Tensor:
    """As ``metrics.scale``; 0 for a single point."""
    return scale(data, season).nan_to_num(0.0)


def _level(data: Ragged) -> Tensor:
    y, there = data.padded()
    unit = power_of_two(y)
    return (y / unit[:, None]).abs().sum(1) / there.sum(1).clamp_min(1) * unit


def features(data: Ragged, season: int) -> Tensor:
    """What the gate looks at, [N, 4]: how noisy a series is beside its level, how steadily it
    drifts, how much of it is a straight line, and its level, which tells beside the others'.
    """
    recent = data.last(max(5, 2 * season))
    noise = (_scale(data, season) / _level(recent).clamp_min(1e-300) + 1e-4).log()
    y, there = data.padded()
    count = there.sum(1).clamp_min(2).to(y.dtype)
    size = torch.nn.functional.pad(y.abs(), (1, 0)).amax(1, keepdim=True)
    y = y / torch.where(size > 0, size, 1.0)
    both = there[:, 1:] & there[:, :-1]
    step = torch.where(both, y[:, 1:] - y[:, :-1], 0.0)
    mean = step.sum(1) / (count - 1)
    var = torch.where(both, (step - mean[:, None]).square(), 0.0).sum(1) / (count - 1)
    drift = (mean.abs() * (count - 1).sqrt() / (var.sqrt() + 1e-12) + 0.05).clamp_max(1e6).log()
    t = torch.arange(y.shape[1], dtype=y.dtype, device=y.device) - y.shape[1]
    t = torch.where(there, t + (count[:, None] + 1) / 2, 0.0)
    away = torch.where(there, y - y.sum(1, keepdim=True) / count[:, None], 0.0)
    whole = (t.square().sum(1) * away.square().sum(1)).clamp_min(1e-300)
    line = (t * away).sum(1).square() / whole
    level = _level(data).clamp_min(1e-300).log()
    return torch.stack([noise, drift, line, level], 1)


# ---- the gate ----


def _linear(fitted: Fitted) -> LinearFitted:
    assert isinstance(fitted, LinearFitted), "every member is a linear recursion"
    return fitted


def _weights(logits: Tensor, tilt: Tensor, learned: int, horizon: int) -> Tensor:
    at = torch.linspace(-1, 1, learned, dtype=logits.dtype, device=logits.device)
    steps = torch.arange(horizon, device=logits.device).clamp_max(learned - 1)
    return torch.softmax(logits[..., None] + tilt[:, None] * at[steps], 1)


@dataclass(frozen=True, eq=False)
class Gate:
    """softmax(bias + slope · feature + tilt · step): [J], [F, J], [J]; features are standardised
    by ``center`` and ``width`` [F]."""

    bias: Tensor
    slope: Tensor
    tilt: Tensor
    center: Tensor
    width: Tensor
    horizon: int
    settings: tuple[float, float]

    def logits(self, feature: Tensor) -> Tensor:
        """[N, J] for raw features [N, F]."""
        scaled = ((feature - self.center) / self.width).clamp(-3, 3)
        return self.bias + scaled @ self.slope

    @staticmethod
    def fit(past: Past, center: Tensor, width: Tensor, strength: float, emphasis: float) -> Gate:
        """Least mean absolute scaled error of the weighted medians, by quasi-Newton steps.

        Few windows shrink harder: with none at all the weights are equal.
        """
        count, members_, horizon = past.made.shape[:3]
        zero = torch.zeros(len(center) + 2, members_, dtype=torch.float64)
        start = zero.to(center.device)
        gate = Gate(start[0], start[2:], start[1], center, width, horizon, (strength, emphasis))
        usable = past.scale > 0
        if not bool(usable.any()):
            return gate
        error = (past.made[..., 0] - past.came[:, None]) / past.scale.clamp_min(1e-300)[
            :, None, None
        ]
        error = error[usable].clamp(-_FAR, _FAR)
        counts = (past.scale / past.level.clamp_min(1e-300))[usable] ** emphasis
        counts = counts / counts.mean()
        shrink = strength * (1 + 200 / count)

        def loss(x: Tensor) -> Tensor:
            now = replace(gate, bias=x[0], tilt=x[1], slope=x[2:])
            share = _weights(now.logits(past.feature[usable]), now.tilt, horizon, horizon)
            off = (share * error).sum(1)
            out = ((off.square() + 1e-4).sqrt().mean(1) * counts).mean()
            return out + shrink * x.square().sum()

        found = minimised(loss, start)
        return replace(gate, bias=found[0], tilt=found[1], slope=found[2:])

    def calibrate(self, past: Past) -> Calibration:
        """Residuals of every window under the weights that the other half of the series taught."""
        off = torch.full_like(past.came, torch.nan)
        for half in (0, 1):
            out = past.row % 2 == half
            other = Past(*(values[~out] for values in _fields(past)))
            gate = self
            if bool((~out).any()) and bool(out.any()):
                gate = Gate.fit(other, self.center, self.width, *self.settings)
            logits = gate.logits(past.feature[out])
            share = _weights(logits, gate.tilt, self.horizon, self.horizon)
            median, spread = _blend(past.made[out], share, past.scale[out])
            good = torch.where(spread > 0, spread, torch.nan)
            off[out] = ((past.came[out] - median) / good).clamp(-_WILD, _WILD)
        return Calibration.of(off)
