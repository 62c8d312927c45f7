"""series-check, forecast and backtest: what series are, what comes next, how good that is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from chainrule.cli.options import ForecasterName, Json
from chainrule.verbs.printing import console, print_json, table

_NAMES = ", ".join(get_args(ForecasterName))
PolicyName = Literal["fill", "split", "refuse"]

Series = Annotated[
    str, typer.Argument(metavar="DATA", help=".csv or .parquet, long or wide; -: a CSV.")
]
IdCol = Annotated[str, typer.Option(help="Column that tells series apart.")]
TimeCol = Annotated[str, typer.Option(help="Column of dates, times or step numbers.")]
TargetCol = Annotated[str, typer.Option(help="Column of values, in a long table.")]
Freq = Annotated[
    str | None,
    typer.Option(help="h, 15min, D, W, MS, …; stamps of one period are averaged. Else they tell."),
]
Season = Annotated[
    int | None, typer.Option(help="Periods of a season; else what is usual for the frequency.")
]
PolicyOption = Annotated[
    PolicyName,
    typer.Option(help="What is missing is filled; or splits a series; or a series is refused."),
]


Horizon = Annotated[int, typer.Option("--horizon", "-H", help="How many steps.")]
Level = Annotated[
    list[float] | None, typer.Option(help="Coverage of the intervals, %: 80 95 if not given.")
]
SeriesAndLevels = Annotated[
    list[str], typer.Argument(metavar="DATA", help=".csv or .parquet, long or wide; -: a CSV.")
]
Time = Annotated[
    str | None, typer.Option(help="Budget of training a network: 30s, 10m, 2h (1m if not given).")
]
_READING = ("id_col", "time_col", "target_col", "freq", "season", "policy")


def series_check(
    ctx: typer.Context,
    data: Series,
    id_col: IdCol = "unique_id",
    time_col: TimeCol = "ds",
    target_col: TargetCol = "y",
    freq: Freq = None,
    season: Season = None,
    policy: PolicyOption = "fill",
    json: Json = False,
) -> None:
    """Find gaps, duplicates, odd values; exit code 1 if a series has to be refused."""
    from chainrule.verbs.series_check import series_check as check

    found = check(data, **_reading(ctx))
    if json:
        print_json(found.to_dict())
    else:
        console.print(found.summary(), markup=False, soft_wrap=True)
        for note in found.notes:
            console.print(note, markup=False, soft_wrap=True)
        if found.findings:
            console.print()
            table(found.header(), found.rows())
    if found.refused:
        raise typer.Exit(1)


def _reading(ctx: typer.Context) -> dict[str, Any]:
    """How DATA are read: the options that all three commands have."""
    return {name: ctx.params[name] for name in _READING}


def _data_and_levels(words: list[str], level: list[float] | None) -> tuple[str, list[float]]:
    """DATA, and what stands behind --level: it takes as many numbers as follow."""
    levels, rest = list(level or []), []
    for word in words:
        try:
            number = float(word)
        except ValueError:
            number = None
        if number is None or level is None:
            rest.append(word)
        else:
            levels.append(number)
    if len(rest) != 1:
        what = " ".join(rest) or "nothing"
        raise ValueError(f"name one file of series, not {what}")
    return rest[0], levels or [80.0, 95.0]


def forecast(
    ctx: typer.Context,
    data: SeriesAndLevels,
    horizon: Horizon,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"{_NAMES}; auto if not given. Repeat it for several."),
    ] = None,
    level: Level = None,
    future: Annotated[
        Path | None, typer.Option(help="What is known of the steps to come: its columns are used.")
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help=".csv or .parquet; -: CSV on the output.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG or SVG of the first series.")] = None,
    time: Time = None,
    id_col: IdCol = "unique_id",
    time_col: TimeCol = "ds",
    target_col: TargetCol = "y",
    freq: Freq = None,
    season: Season = None,
    policy: PolicyOption = "fill",
    json: Json = False,
) -> None:
    """Forecast every series of DATA, with intervals and a status for each."""
    source, levels = _data_and_levels(data, level)
    from chainrule.verbs.display import display_for
    from chainrule.verbs.forecast import forecast_file
    from chainrule.verbs.printing import aside

    if json and out == "-":
        raise ValueError("--json and -o -: both go to standard output; name a file")
    done = forecast_file(
        source,
        horizon,
        out,
        model or ["auto"],
        level=levels,
        future=future,
        plot=plot,
        time=time,
        shown=0 if json or out else min(horizon, 48),
        display=display_for(json),
        **_reading(ctx),
    )
    if json:
        print_json(done.to_dict())
        return
    for line in done.lines():
        aside.print(line, markup=False, soft_wrap=True)
    if done.shown:
        (names, *rows), part = done.table(console.width)
        table(names, rows)
        if part:
            said = f"{part}; -o FILE.csv has all of it, {done.rows:,} rows"
            aside.print(said, markup=False, soft_wrap=True)


def backtest(
    ctx: typer.Context,
    data: SeriesAndLevels,
    horizon: Horizon,
    windows: Annotated[int, typer.Option(help="Times of the past to forecast from.")] = 5,
    step: Annotated[int | None, typer.Option(help="Periods between them; a horizon.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Repeat it for several; else seasonal-naive, ar, regression, arima, theta, auto.",
        ),
    ] = None,
    level: Level = None,
    known: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="What is known ahead, as of --future. Repeat it for several."
        ),
    ] = None,
    time: Time = None,
    report: Annotated[Path | None, typer.Option(help="HTML page with pictures.")] = None,
    id_col: IdCol = "unique_id",
    time_col: TimeCol = "ds",
    target_col: TargetCol = "y",
    freq: Freq = None,
    season: Season = None,
    policy: PolicyOption = "fill",
    json: Json = False,
) -> None:
    """Forecast the past: how far off each model was, and what its intervals covered."""
    source, levels = _data_and_levels(data, level)
    from chainrule.verbs.backtest import MODELS
    from chainrule.verbs.backtest import backtest as verb
    from chainrule.verbs.display import display_for

    display = display_for(json)
    found = verb(
        source,
        horizon,
        windows,
        model or MODELS,
        step=step,
        level=levels,
        known=known or (),
        time=time,
        report=report,
        display=display,
        **_reading(ctx),
    )
    display.end()
    if json:
        print_json(found.to_dict())
        return
    console.print(found.summary, markup=False, soft_wrap=True)
    for note in found.notes:
        console.print(note, markup=False, soft_wrap=True)
    console.print()
    table(found.header(), found.rows())
    console.print()
    console.print(found.remark(), markup=False, soft_wrap=True)
    if report is not None:
        console.print(str(report), markup=False, soft_wrap=True)
