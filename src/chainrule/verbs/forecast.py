"""forecast: from series to a frame, a file or a picture of what comes next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chainrule.series import frames
from chainrule.series.check import Check, merged
from chainrule.series.future import regressors_of
from chainrule.series.panel import Panel
from chainrule.verbs import series_pictures
from chainrule.verbs.display import Display, Silent
from chainrule.verbs.forecaster import LEVEL, Forecaster, Names
from chainrule.verbs.forecaster_parts import blind

Table = tuple[tuple[str, ...], ...]
CHUNK = 50_000  # series that are in memory at a time


@dataclass(frozen=True)
class Forecasted:
    """What was forecast.

    Args:
        models: their names. series: all of them; refused: those without a forecast; short: those
            of which fewer points are known than steps are forecast.
        rows: of the file. blind: models that do without the regressors.
        out, picture: files that were written.
        check: what was found in the data.
        shown: the first rows for people: names, then rows.
    """

    models: tuple[str, ...]
    horizon: int
    level: tuple[float, ...]
    series: int
    refused: int
    short: int
    rows: int
    blind: tuple[str, ...]
    out: str | None
    picture: str | None
    check: Check
    shown: Table

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names; without ``shown``."""
        out = asdict(self)
        del out["shown"]
        return out

    def lines(self) -> list[str]:
        """What happened, a line each."""
        done = f"{self.series - self.refused:,} series, {self.horizon} steps each, by "
        said = [done + ", ".join(self.models) + (f": {self.out}" if self.out else "")]
        if self.short:
            fewer = f"{self.short:,} series: fewer points than the {self.horizon:,} steps"
            said.append(f"{fewer} that are forecast, so the far ones rest on little")
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
        settings: as ``Forecaster`` takes them.

    Raises:
        ValueError: see ``Forecaster``.
    """
    forecaster = _forecaster(model, horizon, future, settings)
    return forecaster.fit(data).predict(horizon, level, future)


def forecast_file(
    data: Any,
    horizon: int,
    out: str | Path | None = None,
    model: Names = "auto",
    *,
    level: Sequence[float] = LEVEL,
    future: Any = None,
    plot: str | Path | None = None,
    shown: int = 0,
    display: Display | None = None,
    **settings: Any,
) -> Forecasted:
    """The same into a .csv or .parquet file, which appears whole or not at all.

    A long Parquet file whose series stand together is read, forecast and written part by part:
    memory holds 50,000 series, which share what ``auto`` learns.

    Args:
        out: the file; ``-``: CSV to standard output; None: none. plot: a picture (PNG or SVG) of
            the first six series. shown: how many rows come back for people.

    Raises:
        ValueError: see ``Forecaster``; nothing is written then.
    """
    forecaster = _forecaster(model, horizon, future, settings)
    show = display or Silent()
    if plot is not None:
        series_pictures.check(Path(plot))
    parts: Iterator[tuple[Panel, Check | None]] = frames.read_chunks(
        data, CHUNK, **forecaster.reading
    )
    checks: list[Check] = []
    series = refused = short = rows = 0
    head: Table = ()
    with ExitStack() as stack:
        writer = None if out is None else stack.enter_context(frames.Writer(out))
        for panel, check in parts:
            if check is not None:
                checks.append(check)
            if not panel.ok.any() and not series:
                merged(checks).require()
            columns = forecaster.fit_panel(panel, show).predicted(horizon, level, future)
            table = frames.table_of(panel, columns)
            if writer is not None:
                writer.write(table)
            if not series:
                head = _shown(table, list(forecaster.models), level, shown) if shown else ()
                if plot is not None:
                    series_pictures.forecast_picture(panel, columns, list(forecaster.models), plot)
            series, rows = series + len(panel), rows + len(table)
            refused += int((~panel.ok).sum())
            short += int((panel.ok & (panel.lens < horizon)).sum())
            show.working("forecasting", series, None)
    show.end()
    return Forecasted(
        models=tuple(forecaster.models),
        horizon=horizon,
        level=tuple(level),
        series=series,
        refused=refused,
        short=short,
        rows=rows,
        blind=tuple(n for n, f in forecaster.fitted.items() if future is not None and blind(f)),
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


def _shown(table: Any, models: Sequence[str], level: Sequence[float], rows: int) -> Table:
    """Names and rows: a model's median, and its narrowest interval beside it."""
    few = table.slice(0, rows)
    names = few.column_names[:2]
    columns = [[str(v) for v in few.column(name).to_pylist()] for name in names]
    for model in models:
        parts = [model]
        if level:
            parts += [f"{model}-{side}-{min(level):g}" for side in ("lo", "hi")]
            names = [*names, f"{model} ({min(level):g} %)"]
        else:
            names = [*names, model]
        columns.append(
            [_said(*row) for row in zip(*(few.column(p).to_pylist() for p in parts), strict=True)]
        )
    return (tuple(names), *zip(*columns, strict=True))


def _said(median: float, low: float | None = None, high: float | None = None) -> str:
    within = "" if low is None or high is None else f" ({low:,.5g} to {high:,.5g})"
    return f"{median:,.5g}{within}"
