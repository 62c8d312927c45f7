"""forecast: from series to a frame, a file or a picture of what comes next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.series import frames
from chainrule.series.check import Check, merged
from chainrule.series.future import regressors_of
from chainrule.series.panel import Panel
from chainrule.verbs import series_pictures
from chainrule.verbs.display import Display, Silent
from chainrule.verbs.forecaster import LEVEL, Forecaster, Names
from chainrule.verbs.forecaster_parts import (
    blind,
    checked_horizon,
    checked_levels,
    column_names,
    distinct,
    for_horizon,
    for_time,
)
from chainrule.verbs.learned import learn, next_known
from chainrule.verbs.places import places

Table = tuple[tuple[str, ...], ...]
CHUNK = 50_000  # series that are in memory at a time


@dataclass(frozen=True)
class Forecasted:
    """What was forecast.

    Args:
        models: their names. series: all of them; refused: those without a forecast; short: those
            of which fewer points are known than steps are forecast.
        rows: of the file. blind: models that do without the regressors.
        lacks: the first series that is refused because its regressors don't reach the horizon.
        out, picture: files that were written.
        check: what was found in the data.
        shown: the first rows of the first series for people: names, then rows; see ``table``.
    """

    models: tuple[str, ...]
    horizon: int
    level: tuple[float, ...]
    series: int
    refused: int
    short: int
    rows: int
    blind: tuple[str, ...]
    lacks: str | None
    out: str | None
    picture: str | None
    check: Check
    shown: Table

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names; without ``shown``."""
        out = asdict(self)
        del out["shown"]
        return out

    def table(self, width: int) -> tuple[Table, str]:
        """``shown`` with all intervals if they fit into so many characters, or else with the
        narrowest; and in words what of the forecasts isn't there, or nothing."""
        names, left, count = self.shown[0], [], len(self.shown) - 1
        out = self.shown
        if sum(max(map(len, column)) + 2 for column in zip(*out, strict=True)) - 2 > width:
            kept = [i < 2 or (i - 2) % (1 + len(self.level)) < 2 for i in range(len(names))]
            out = tuple(tuple(compress(row, kept)) for row in out)
        if len(out[0]) < len(names):
            left.append(f"only the {self.level[0]:g} % intervals")
        if count < self.horizon:
            left.append(f"the first {count} of {self.horizon:,} steps")
        if self.series > 1:
            left.append(f"the first of {self.series:,} series")
        return out, " of ".join(left)

    def lines(self) -> list[str]:
        """What happened, a line each."""
        done = f"{self.series - self.refused:,} series, {self.horizon} steps each, by "
        said = [done + ", ".join(self.models) + (f": {self.out}" if self.out else "")]
        if self.short:
            fewer = f"{self.short:,} series: fewer points than the {self.horizon:,} steps"
            said.append(f"{fewer} that are forecast, so the far ones rest on little")
        if self.lacks:
            said.append(f"refused: {self.lacks}")
        said += [f"{name} does without the regressors" for name in self.blind]
        return [*self.check.lines(), *said, *([self.picture] if self.picture else [])]


def forecast(
    data: Any,
    horizon: int,
    model: Names = "auto",
    *,
    level: Sequence[float] = LEVEL,
    future: Any = None,
    **settings: Any,
) -> Any:
    """The next steps of every series, as the kind of frame that came in.

    Args:
        data: pandas, polars or Arrow, an array, or the path of a .csv or .parquet file.
        future: a frame or file of what is known of those steps; its columns are regressors.
        settings: as ``Forecaster`` takes them, those of the model too, as in ``order=24``.

    Raises:
        ValueError: see ``Forecaster``.
    """
    levels = checked_levels(level)
    forecaster = _forecaster(model, horizon, future, settings)
    return forecaster.fit(data).predict(horizon, levels, future)


def forecast_file(
    data: Any,
    horizon: int,
    out: str | Path | None = None,
    model: Names = "auto",
    *,
    level: Sequence[float] = LEVEL,
    future: Any = None,
    plot: str | Path | None = None,
    time: str | None = None,
    shown: int = 0,
    display: Display | None = None,
    **settings: Any,
) -> Forecasted:
    """The same into a .csv or .parquet file, which appears whole or not at all.

    A long Parquet file whose series stand together is read, forecast and written part by part:
    memory holds 50,000 series, which share what ``auto`` learns.

    Args:
        out: the file; ``-``: CSV to standard output; None: none. plot: a picture (PNG or SVG) of
            the first six series. Folders are made. time: of training, of networks: "30s", "10m".
        shown: how many rows come back for people.

    Raises:
        ValueError: see ``Forecaster``; nothing is written then.
    """
    steps, levels = checked_horizon(horizon), checked_levels(level)
    forecaster = _forecaster(model, steps, future, settings)
    models = for_horizon(forecaster.models, steps)
    if time is not None:
        models = for_time(models, time)
    if plot is not None:
        series_pictures.check(Path(plot))
    parts: Iterator[tuple[Panel, Check | None]] = frames.read_chunks(
        data, CHUNK, **forecaster.reading
    )
    names = [name for model in models for name in column_names(model, levels)]
    checks: list[Check] = []
    series = refused = short = rows = 0
    without: dict[str, None] = {}
    lacks: str | None = None
    waiting: list[Any] = []
    head: Table = ()
    drawn: tuple[Panel, dict[str, Any]] | None = None
    show = display or Silent()
    with places(out, plot), nullcontext() if out is None else frames.Writer(out) as writer:
        for panel, check in parts:
            if check is not None:
                checks.append(check)
            distinct(panel, [*names, "status"])
            columns: dict[str, Any] = dict.fromkeys(names, _nothing(panel, steps))
            columns["status"] = panel.status
            ahead = next_known(panel, future, steps) if panel.ok.any() else None
            left = panel
            if ahead is not None:
                left, lacks = ahead.reached(panel), lacks or ahead.lacks
                columns["status"] = left.status
            if left.ok.any():
                learned, known = learn(models, panel, show).reached(ahead)
                columns = learned.columns(steps, levels, known)
                if future is not None:
                    without |= {n: None for n, f in learned.fitted.items() if blind(f)}
            waiting.append(table := frames.table_of(panel, columns))
            if not series and shown:
                head = _shown(table, list(models), levels, shown)
            if plot is not None and drawn is None and left.ok.any():
                drawn = _first(left, columns)
            series, rows = series + len(panel), rows + len(table)
            refused += int((~left.ok).sum())
            if refused < series:  # nothing is written of a file in which no series is left
                if writer is not None:
                    for each in waiting:
                        writer.write(each)
                waiting.clear()
            short += int((left.ok & (left.lens < steps)).sum())
            show.working("forecasting", series, None)
        merged(checks).require()
        if refused == series:
            raise ValueError(lacks)
        if drawn is not None and plot is not None:
            series_pictures.forecast_picture(*drawn, list(models), plot)
    show.end()
    return Forecasted(
        models=tuple(models),
        horizon=steps,
        level=levels,
        series=series,
        refused=refused,
        short=short,
        rows=rows,
        blind=tuple(without),
        lacks=lacks,
        out=None if out is None else str(out),
        picture=None if plot is None else str(plot),
        check=merged(checks),
        shown=head,
    )


def _forecaster(model: Names, horizon: int, future: Any, settings: dict[str, Any]) -> Forecaster:
    asked = dict(settings)
    if future is not None and not asked.get("known"):
        names = {"id_col": "unique_id", "time_col": "ds", "target_col": "y"}
        asked["known"] = regressors_of(future, **{k: asked.get(k, v) for k, v in names.items()})
    return Forecaster(model, horizon=horizon, **asked)


def _nothing(panel: Panel, steps: int) -> NDArray[np.float64]:
    """[N, H] of series that were all refused."""
    return np.full((len(panel), steps), np.nan)


def _first(panel: Panel, columns: dict[str, Any]) -> tuple[Panel, dict[str, Any]]:
    """What a picture needs: the first series that were not refused."""
    rows = np.flatnonzero(panel.ok)[: series_pictures.MOST_SERIES]
    kept = {k: v[rows] for k, v in columns.items() if k != "status"}
    return panel.select(rows), kept


def _shown(table: Any, models: Sequence[str], level: Sequence[float], rows: int) -> Table:
    """Names and rows: of every model its median and its intervals, with as many decimals."""
    few = table.slice(0, rows)
    names = few.column_names[:2]
    columns = [[str(v) for v in few.column(name).to_pylist()] for name in names]
    for model in models:
        numbers = {name: few.column(name).to_pylist() for name in column_names(model, level)}
        form = _form([v for each in numbers.values() for v in each])
        said = {k: [format(v, form) for v in each] for k, each in numbers.items()}
        said = {k: [v.rjust(max(map(len, each))) for v in each] for k, each in said.items()}
        names, columns = [*names, model], [*columns, said[model]]
        for p in level:
            sides = (said[f"{model}-{side}-{p:g}"] for side in ("lo", "hi"))
            names.append(f"{p:g} %")
            columns.append([f"{low} to {high}" for low, high in zip(*sides, strict=True)])
    return (tuple(names), *zip(*columns, strict=True))


def _form(numbers: Sequence[float]) -> str:
    """How numbers are written alike: one of usual size has five digits."""
    sizes = sorted(abs(v) for v in numbers if v and math.isfinite(v))
    size = sizes[len(sizes) // 2] if sizes else 1.0
    if not 1e-4 <= size < 1e12:
        return ".4e"
    return f",.{max(0, 4 - math.floor(math.log10(size)))}f"
