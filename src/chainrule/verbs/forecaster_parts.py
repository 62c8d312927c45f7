"""What a Forecaster is made of: columns of its frames, last points, one-step residuals.

Shapes: N series, H horizon, P points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.series.batch import Fitted, Forecast, Model, Ragged
from chainrule.series.panel import Panel
from chainrule.series.recursion import LinearFitted
from chainrule.series.var import VAR


def law_columns(name: str, forecast: Forecast, level: Sequence[float]) -> dict[str, NDArray[Any]]:
    """Columns [N, H]: the median, and the bounds of every interval.

    Raises:
        ValueError: a level that is not between 0 and 100.
    """
    for percent in level:
        if not 0 < percent < 100:
            raise ValueError(f"level: a coverage in percent, as in 80, not {percent:g}")
    out = {name: forecast.point.cpu().numpy()}
    ordered = sorted(level)
    low = [0.5 - p / 200 for p in ordered]
    if ordered:
        bounds = forecast.quantile([*low, *(1 - u for u in low)]).cpu().numpy()
        for i, percent in enumerate(ordered):
            out[f"{name}-lo-{percent:g}"] = bounds[..., i]
            out[f"{name}-hi-{percent:g}"] = bounds[..., len(ordered) + i]
    return out


def spread_out(values: NDArray[Any], rows: NDArray[np.bool_]) -> NDArray[Any]:
    """[n, H] of the named series as [N, H], nan for the others."""
    if rows.all():
        return values
    out = np.full((len(rows), values.shape[1]), np.nan)
    out[rows] = values
    return out


def last_points(panel: Panel, before: Panel | None = None) -> Panel:
    """The last point of every series, of ``before`` where there is none."""
    lens = panel.lens
    ok = panel.ok if before is None else before.ok
    end = panel.first + lens
    at = np.maximum(panel.offsets[1:] - 1, 0)
    values = np.where(lens > 0, panel.values[np.minimum(at, max(len(panel.values) - 1, 0))], 0.0)
    known = panel.known[np.minimum(at, max(len(panel.values) - 1, 0))]
    if before is not None:
        held = np.zeros(len(panel))
        held[ok] = before.values
        values = np.where(lens > 0, values, held)
    return replace(
        panel,
        values=values[ok],
        offsets=np.append(0, np.cumsum(ok)).astype(np.int64),
        first=np.where(ok, end - 1, end),
        known=known[ok],
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
    bent = fitted.transform if isinstance(fitted, LinearFitted) else None
    if bent is None or not bool(bent.refused.any()):
        return panel
    rows = np.flatnonzero(panel.ok)[bent.refused.cpu().numpy()]
    return panel.noted(rows, f"{name} without its transform: not every value is above 0")


def blind(fitted: Fitted) -> bool:
    """Whether a model that was given regressors does without them."""
    return isinstance(fitted, LinearFitted) and fitted.recursions.beta.shape[1] == 0


def in_deviations(off: Tensor, deviation: Tensor) -> Tensor:
    """Residuals in standard deviations; where none was expected, 0 or endless."""
    sure = torch.where(off == 0, 0.0, torch.sign(off) * torch.inf)
    return torch.where(deviation > 0, off / deviation.clamp_min(1e-300), sure)


def one_step_laws(fitted: Fitted, data: Ragged, panel: Panel) -> tuple[Ragged, Tensor, Tensor]:
    """One-step laws of the points that were fitted, but for the first: those points, medians and
    standard deviations [P]."""
    season = panel.calendar.season
    begin = torch.minimum(data.lens // 2, torch.tensor(max(2 * season + 2, 10)))
    head, rest = replace(data, end=data.begin + begin), data.after(begin)
    _, expected, deviation = fitted.restart(head, rest.lens).update(rest)
    return rest, expected, deviation
