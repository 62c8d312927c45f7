"""Pictures of forecasts: what was, what is to come, and how sure that is.

Shapes: N series, H horizon, P periods that follow each other.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.files import replacing
from chainrule.series.calendar import DAY, HOUR, MINUTE, SECOND, Calendar, Ints, wall
from chainrule.series.panel import Floats, Panel

COLOURS = ("#1f6fb2", "#d1622b", "#2a9d62", "#8e5bb5", "#b8860b", "#c0392b", "#5f7a8a")
MOST_SERIES = 6
_BAND = 2.0  # how far intervals stretch the axis to each side, at most, in heights of the lines
_TICKS = 7  # labels of one axis of time
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def check(path: Path) -> None:
    """Refuse what can't become a picture.

    Raises:
        ValueError: a name that is neither a PNG's nor an SVG's, or matplotlib is not installed.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"{path}: a picture is a PNG or an SVG: end its name in .png or .svg")
    if find_spec("matplotlib") is None:
        raise ValueError("the picture needs matplotlib: pip install 'chainrule[plot]'")


def forecast_picture(
    panel: Panel,
    columns: Mapping[str, NDArray[Any]],
    models: Sequence[str],
    path: str | Path,
    names: Sequence[str] | None = None,
) -> Path:
    """Draw history, medians and intervals of up to six series; a file that ends in .png or .svg.

    The intervals are those of the first model, which the legend then says; of the others there
    are the medians. All begin at the last point that is known.

    Args:
        panel: what the forecasts go on from. columns: [N, H], as ``Forecaster.predict`` has them.
        names: ids of the series; None: the first ones that were not refused.

    Raises:
        ValueError: as ``check``, or an id that isn't there or was refused.
    """
    path = Path(path)
    check(path)
    from matplotlib import rc_context

    figure = _draw(panel, columns, models, _chosen(panel, names))
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix.lower()[1:]
    with replacing(path) as beside, warnings.catch_warnings(), rc_context({"svg.hashsalt": "1"}):
        warnings.filterwarnings("ignore", "Glyph")  # a script that the font lacks
        about = {"Date": None} if kind == "svg" else None  # the same data, the same file
        figure.savefig(beside, format=kind, metadata=about)
    return path


def history(season: int, horizon: int, points: int) -> int:
    """How many of the last points a picture shows: a few seasons, at most about four horizons."""
    return min(points, max(5 * season, 2 * horizon, 20), max(4 * horizon, 20))


def intervals(columns: Mapping[str, Any], model: str) -> list[str]:
    """The levels that a model's columns have, in percent, the widest first."""
    start = f"{model}-lo-"
    return sorted((k[len(start) :] for k in columns if k.startswith(start)), key=float)[::-1]


def span(lines: Floats, bands: Floats) -> tuple[float, float]:
    """The ends of a vertical axis: room for what is drawn as a line, and for the intervals as far
    as these leave the lines most of it."""
    low, high = float(np.min(lines)), float(np.max(lines))
    most = _BAND * ((high - low) or abs(high) or 1.0)
    bottom = max(min(low, float(np.min(bands, initial=low))), low - most)
    top = min(max(high, float(np.max(bands, initial=high))), high + most)
    room = 0.05 * ((top - bottom) or abs(high) or 20.0)
    return bottom - room, top + room


def title(panel: Panel, row: int) -> str:
    """What a series is called."""
    unnamed = panel.origin.single and panel.origin.kind == "array"
    return panel.origin.target_col if unnamed else str(panel.ids[row].as_py())


def _chosen(panel: Panel, names: Sequence[str] | None) -> list[int]:
    if names is None:
        return [int(row) for row in np.flatnonzero(panel.ok)[:MOST_SERIES]]
    known = {str(name): i for i, name in enumerate(panel.ids.to_pylist())}
    rows = []
    for name in names[:MOST_SERIES]:
        row = known.get(str(name))
        if row is None or not panel.ok[row]:
            why = "there is no such series" if row is None else panel.status[row].as_py()
            raise ValueError(f"{panel.origin.source}: can't draw {name!r}: {why}")
        rows.append(row)
    return rows


def _draw(
    panel: Panel, columns: Mapping[str, NDArray[Any]], models: Sequence[str], rows: Sequence[int]
) -> Any:
    """One panel a series, two beside each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = 1 if len(rows) == 1 else 2
    down = -(-len(rows) // across)
    size = 9 if across == 1 else 11, 0.8 + 3 * down
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False).flatten()
    for axes, row in zip(grid, rows, strict=False):
        _panel(axes, panel, row, columns, models)
    for axes in grid[len(rows) :]:
        axes.set_visible(False)
    marks, said = grid[0].get_legend_handles_labels()
    figure.legend(marks, said, loc="outside lower left", ncols=min(6, len(said)), frameon=False)
    return figure


def _panel(
    axes: Any, panel: Panel, row: int, columns: Mapping[str, NDArray[Any]], models: Sequence[str]
) -> None:
    """One series. The axis counts periods: 0 is the last one that was seen."""
    begin, end = panel.offsets[row : row + 2]
    horizon = columns[models[0]].shape[1]
    kept = history(panel.calendar.season, horizon, int(end - begin))
    past, future = np.arange(1 - kept, 1), np.arange(horizon + 1)
    seen = panel.values[end - kept : end]
    axes.plot(past, seen, color="#3d4852", lw=1.2, label="history")
    lines = {name: np.append(seen[-1], columns[name][row]) for name in models}
    whose = f" of {models[0]}" if len(models) > 1 else ""
    bands = []
    for i, level in enumerate(intervals(columns, models[0])):
        low, high = (columns[f"{models[0]}-{side}-{level}"][row] for side in ("lo", "hi"))
        bands += [low, high]
        style = {"color": _shade(i), "lw": 0, "label": f"{level} % interval{whose}"}
        if horizon == 1:
            axes.bar(future[1:], high - low, 0.5, bottom=low, **style)
        else:
            sides = (np.append(seen[-1], side) for side in (low, high))
            axes.fill_between(future, *sides, **style)
    for i, (name, line) in enumerate(lines.items()):
        style = {"marker": "o", "ms": 3, "markevery": slice(1, None)} if horizon <= 2 else {}
        again = "--" if i >= len(COLOURS) else "-"
        style |= {
            "color": COLOURS[i % len(COLOURS)],
            "ls": again,
            "zorder": 3 - i / 100,
        }  # the first one is on top
        axes.plot(future, line, lw=1.6, label=name, **style)
    last = panel.first[row] + (end - begin) - 1
    places = ticks(panel.calendar, last + np.arange(1 - kept, horizon + 1))
    axes.set_xticks([at + 1 - kept for at, _ in places], [said for _, said in places])
    axes.tick_params(labelsize=8, length=3)
    axes.axvline(0.5, color="#9aa5b1", lw=1, ls=":")
    axes.set_xlim(0.5 - kept, horizon + 0.5)
    axes.set_ylim(*span(np.concatenate([seen, *lines.values()]), np.concatenate([[], *bands])))
    if max(map(abs, axes.get_ylim())) >= 10_000:
        axes.yaxis.set_major_formatter("{x:,.0f}")
    name = title(panel, row)
    shown = name if len(name) <= 60 else f"{name[:59]}…"
    axes.set_title(shown, loc="left", fontsize=10, parse_math=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _shade(number: int) -> str:
    """The colour of an interval, the widest first: they lie on each other, and each is darker."""
    paper = 0.85 * 0.75**number
    ink = (int(COLOURS[0][k : k + 2], 16) for k in (1, 3, 5))
    return "#" + "".join(f"{round(255 * paper + (1 - paper) * c):02x}" for c in ink)


# ---- the axis of time ----


def ticks(calendar: Calendar, periods: Ints, most: int = _TICKS) -> list[tuple[int, str]]:
    """Where the axis of P periods is labelled, and how: (which of them, label).

    A label stands where a year, a month, a day, … begins, the shortest of which there are not
    too many. Its second line has the year or the day, where that has changed.
    """
    stamps = calendar.stamps(periods)
    if calendar.unit == "step":
        sizes = (m * 10**k for k in range(19) for m in (1, 2, 5))
        each = (_changes(stamps // size) for size in sizes if size >= calendar.count)
        found = next(places for places in each if len(places) <= most)
        return [(int(i), f"{stamps[i]:,}") for i in found]
    days, clock = wall(stamps, calendar.zone)
    months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    found, kind, size = _place(calendar, days, clock, months, most)
    out, before = [], None
    for i in found:
        year, month = divmod(int(months[i]), 12)
        day = int(days[i] - (months[i].astype("datetime64[M]").astype("datetime64[D]")).astype(int))
        year, text = year + 1970, f"{day + 1} {_MONTHS[month]}"
        context = {"year": "", "clock": text}.get(kind, str(year))
        said = {"year": str(year), "month": _MONTHS[month], "day": text}.get(kind)
        said = said or _time(int(clock[i]), size)
        out.append((int(i), said if context in ("", before) else f"{said}\n{context}"))
        before = context
    return out


def _place(
    calendar: Calendar, days: Ints, clock: Ints, months: Ints, most: int
) -> tuple[Ints, str, int]:
    """Which stamps are labelled, by what, and the length of that."""
    for kind, size, number in _ladder(days, clock, months):
        unit = {"us": "clock", "month": "year" if calendar.count % 12 == 0 else "month"}
        least = unit.get(calendar.unit, "day")
        order = ("clock", "day", "month", "year")
        if order.index(kind) < order.index(least) or (kind == "clock" and size < calendar.count):
            continue
        found = _changes(number)
        if len(found) <= most:
            return found, kind, size
    raise AssertionError("the ladder has no end")


def _ladder(days: Ints, clock: Ints, months: Ints) -> Iterator[tuple[str, int, Ints]]:
    """Lengths of time, the shortest first, and the number that every stamp has in them."""
    times = [m * 10**k for k in range(6) for m in (1, 2, 5)]
    times += [m * unit for unit in (SECOND, MINUTE) for m in (1, 5, 15, 30)]
    times += [m * HOUR for m in (1, 3, 6, 12)]
    for size in times:
        yield "clock", size, days * (DAY // size + 1) + clock // size
    for size in (1, 2, 7, 14):
        yield "day", size, (days + 3) // size  # weeks begin on Mondays
    for size in (1, 2, 3, 6):
        yield "month", size, months // size
    for size in (m * 10**k for k in range(18) for m in (1, 2, 5)):
        yield "year", size, (months // 12 + 1970) // size


def _changes(numbers: Ints) -> Ints:
    out: Ints = np.flatnonzero(np.diff(numbers)) + 1
    return out


def _time(clock: int, size: int) -> str:
    """As a clock shows it, as exactly as steps of ``size`` need."""
    out = f"{clock // HOUR:02}:{clock // MINUTE % 60:02}"
    if size % MINUTE:
        out += f":{clock // SECOND % 60:02}"
    return out if size % SECOND == 0 else out + f".{clock % SECOND:06}".rstrip("0")
