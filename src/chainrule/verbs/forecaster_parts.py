"""What a Forecaster is made of: settings that are checked, columns of its frames, last points.

Shapes: N series, H horizon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from operator import index
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.series.batch import Fitted, Forecast, Model
from chainrule.series.panel import Panel
from chainrule.series.recursion import LinearFitted
from chainrule.series.regression import RegressionFitted
from chainrule.series.var import VAR
from chainrule.verbs.choosing import seconds_of
from chainrule.verbs.neural_models import NEURAL, Neural

_ROUNDING = 1e-12


def whole(what: str, value: Any, most: int, of: str = "") -> int:
    """A number of things, 1 or more.

    Raises:
        ValueError: no whole number, or out of bounds.
    """
    try:
        number = index(value)
    except TypeError:
        raise ValueError(f"{what}: a whole number, not {value!r}") from None
    if not 1 <= number <= most:
        raise ValueError(f"{what}: 1 to {most:,}{of and f' {of}'}, not {number}")
    return number


def checked_horizon(horizon: Any) -> int:
    """Raises ValueError: as ``whole``."""
    return whole("horizon", horizon, 100_000, "steps")


def checked_levels(level: Any) -> tuple[float, ...]:
    """Each once, the narrowest first.

    Raises:
        ValueError: what is no coverage, or has so many digits that its columns' names lack some;
            a share, as 0.8, was most likely meant as 80.
    """
    try:
        if isinstance(level, str):
            raise TypeError
        found = sorted({float(p) for p in level})
    except (TypeError, ValueError):
        raise ValueError(f"level: coverages in percent, as in [80, 95], not {level!r}") from None
    for percent in found:
        if not 0 < percent < 100 or float(f"{percent:g}") != percent:
            raise ValueError(f"level: a coverage in percent, as in 80, not {percent:.15g}")
        if percent < 1:
            raise ValueError(
                f"level: {percent:g} is {percent:g} %: did you mean {100 * percent:g}?"
            )
    return tuple(found)


def for_horizon(models: Mapping[str, Model], horizon: int | None) -> dict[str, Model]:
    """The models, told for how many steps where they ask."""
    out = {}
    for name, model in models.items():
        asks = any(f.name == "horizon" for f in fields(model))  # type: ignore[arg-type]
        if asks and horizon is not None:
            model = replace(model, horizon=horizon)  # type: ignore[type-var]
        out[name] = model
    return out


def for_time(models: Mapping[str, Model], time: str) -> dict[str, Model]:
    """The models, told how long to train where they do.

    Raises:
        ValueError: none of them does, or it is no time.
    """
    seconds_of(time)
    if not any(isinstance(model, Neural) for model in models.values()):
        raise ValueError(
            f"--time {time}: {', '.join(models)} {'does' if len(models) == 1 else 'do'} not train "
            f"by time; of the models {', '.join(NEURAL)} do"
        )
    return {
        name: replace(model, time=time) if isinstance(model, Neural) else model
        for name, model in models.items()
    }


def distinct(panel: Panel, names: Sequence[str]) -> None:
    """Whether the columns of a result can be told apart.

    Raises:
        ValueError: a column of the data is called like another one.
    """
    for name in {panel.origin.id_col, panel.origin.time_col, *names}:
        if [panel.origin.id_col, panel.origin.time_col, *names].count(name) > 1:
            raise ValueError(
                f"{panel.origin.source}: the result has a column {name!r} of its own: give the "
                "column of the data another name"
            )


def law_columns(name: str, forecast: Forecast, level: Sequence[float]) -> dict[str, NDArray[Any]]:
    """Columns [N, H]: the median, and the bounds of every interval of ``checked_levels``."""
    low = [0.5 - p / 200 for p in level]
    made = [forecast.point[..., None]]
    if low:
        made.append(forecast.quantile([x for u in low for x in (u, 1 - u)]))
    each = torch.cat(made, -1).cpu().numpy()
    return {key: each[..., i] for i, key in enumerate(column_names(name, level))}


def column_names(name: str, level: Sequence[float]) -> list[str]:
    """Of a model: its median and its intervals."""
    return [name, *(f"{name}-{side}-{p:g}" for p in level for side in ("lo", "hi"))]


def spread_out(values: NDArray[Any], rows: NDArray[np.bool_]) -> NDArray[Any]:
    """[n, H] of the named series as [N, H], nan for the others."""
    if rows.all():
        return values
    out = np.full((len(rows), values.shape[1]), np.nan)
    out[rows] = values
    return out


def last_points(panel: Panel, before: Panel | None = None) -> Panel:
    """The last point of every series, of ``before`` where there is none. Regressors are not kept:
    what is to come has its own."""
    lens = panel.lens
    ok = panel.ok if before is None else before.ok
    end, new = panel.first + lens, lens > 0
    values = np.zeros(len(panel))
    if before is not None:
        values[ok] = before.values
    values[new] = panel.values[panel.offsets[1:][new] - 1]
    return replace(
        panel,
        values=values[ok],
        offsets=np.append(0, np.cumsum(ok)).astype(np.int64),
        first=np.where(ok, end - 1, end),
        known=np.zeros((int(ok.sum()), len(panel.names))),
    )


def together(panel: Panel, models: Mapping[str, Model]) -> None:
    """Whether series that are one system stand on the same stamps.

    Raises:
        ValueError: they don't, and a model takes them as one; naming two of them.
    """
    systems = [name for name, model in models.items() if isinstance(model, VAR)]
    if not systems:
        return
    at = np.flatnonzero(panel.ok)
    ends = (panel.first + panel.lens)[at]
    for what, where in (("begin", panel.first[at]), ("end", ends)):
        off = np.flatnonzero(where != where[:1])
        if len(off):
            one, other = (panel.ids[int(at[i])].as_py() for i in (0, int(off[0])))
            raise ValueError(
                f"{panel.origin.source}: {systems[0]} takes all series as one system, but {one} "
                f"and {other} don't {what} together: cut them to the same stamps"
            )


def refusals(panel: Panel, name: str, fitted: Fitted) -> Panel:
    """With a remark for every series whose values a model's transform can't take."""
    base = fitted.base if isinstance(fitted, RegressionFitted) else fitted
    bent = base.transform if isinstance(base, LinearFitted) else None
    if bent is None or not bool(bent.refused.any()):
        return panel
    rows = np.flatnonzero(panel.ok)[bent.refused.cpu().numpy()]
    return panel.noted(rows, f"{name} without its transform: not every value is above 0")


def blind(fitted: Fitted) -> bool:
    """Whether a model that was given regressors does without them."""
    return isinstance(fitted, LinearFitted) and fitted.recursions.beta.shape[1] == 0


def in_deviations(off: Tensor, deviation: Tensor, expected: Tensor) -> Tensor:
    """Residuals in standard deviations; where none was expected, 0 or endless, and what rounding
    leaves of ``expected`` is 0."""
    sure = torch.where(off.abs() <= _ROUNDING * expected.abs(), 0.0, torch.sign(off) * torch.inf)
    return torch.where(deviation > 0, off / deviation.clamp_min(1e-300), sure)
