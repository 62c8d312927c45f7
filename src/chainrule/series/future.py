"""Regressors of the steps to come, beside each series' own next steps.

Shapes: N series, F regressors, H horizon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.series.calendar import Bools, Ints
from chainrule.series.findings import text_of
from chainrule.series.layout import Names, read_numbers, time_column
from chainrule.series.panel import Floats, Panel
from chainrule.series.points import means
from chainrule.series.stamps import read_times, sort_of, write_times
from chainrule.series.tables import floats, head_of, is_array, open_source

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, eq=False)
class Ahead:
    """What is known of the next H steps.

    Args:
        known: [N, H, F]; 0 for series that were refused, or whose regressors don't reach so far.
        rows: numbers of the latter. reasons: what each lacks, for its status.
        lacks: what the first of them lacks, and what to do, in a line.
    """

    known: Floats
    rows: Ints
    reasons: list[str]
    lacks: str | None = None

    def reached(self, panel: Panel) -> Panel:
        """The panel, in which series that lack something are refused."""
        return panel.without(self.rows, self.reasons) if len(self.rows) else panel


def future_known(panel: Panel, future: Any, horizon: int) -> Ahead:
    """What is known of the next H steps of every series.

    Args:
        future: a path or a frame with the panel's time column and regressors. It may reach into
            the past and beyond the horizon; without an id column it holds for every series; rows
            of one step give their mean. Or an array [N, H, F], or [H, F] for all series.

    Raises:
        ValueError: it can't be read, or has not the columns or the shape.
    """
    if is_array(future):
        source, wanted = "the array", (len(panel), horizon, len(panel.names))
        shape = f"{list(wanted)} is series, steps, regressors"
        out = floats(future, f"future regressors are numbers; {shape}")
        if out.shape not in (wanted, wanted[1:]):
            raise ValueError(f"{source}: future regressors are {list(out.shape)}; {shape}")
        out = np.broadcast_to(out, wanted)
    else:
        out, source = _aligned(panel, future, horizon)
    none = ~np.isfinite(out) & panel.ok[:, None, None]
    lacks = _complaint(panel, none, source) if none.any() else None
    rows, reasons = _lacking(panel, none)
    known = np.where(panel.ok[:, None, None], out, 0.0)
    known[rows] = 0.0
    return Ahead(known, rows, reasons, lacks)


def regressors_of(future: Any, id_col: str, time_col: str, target_col: str) -> tuple[str, ...]:
    """The columns of a file or frame that are neither ids, times nor targets.

    Raises:
        ValueError: an array, which has no names, or nothing is left.
    """
    if is_array(future):
        raise ValueError("an array of regressors has no names: name them by known")
    head, source = head_of(future)
    rest = [n for n in head.column_names if n not in (id_col, target_col, "")]
    time = time_column(head, time_col, rest)
    names = tuple(n for n in rest if n != time)
    if not names:
        there = ", ".join(map(repr, head.column_names))
        raise ValueError(
            f"{source}: no column of regressors beside ids, times and targets: there is {there}"
        )
    return names


def _aligned(panel: Panel, future: Any, horizon: int) -> tuple[Floats, str]:
    """Values in their places, NaN where there is none, and the name of the source."""
    origin, names = panel.origin, panel.names
    found = open_source(
        future, Names(origin.id_col, origin.time_col, names[0], names[1:], one_for_all=True)
    )
    table, layout, where = found.table, found.layout, found.where
    if layout.time is None:
        raise ValueError(
            f"{where.source}: no column {origin.time_col!r}: it tells of which steps the rows are"
        )
    times = read_times(table.column(layout.time), layout.time, where)
    mine, theirs = sort_of(origin.time), sort_of(times.kind)
    if mine != theirs:
        raise ValueError(
            f"{where.source}: {layout.time!r} has {theirs}, the series have {mine}: both must be "
            "of one kind"
        )
    periods, _ = panel.calendar.locate(times.stamps)
    columns = np.stack([read_numbers(table.column(n), n, where) for n in names], 1)
    start = panel.future(1)[:, 0]
    out = np.full((len(panel), horizon, len(names)), np.nan)
    if layout.id is None:
        at = periods - start[:, None]
        series, row = np.nonzero((at >= 0) & (at < horizon))
        step = at[series, row]
    else:
        series, row = _series(panel, table.column(layout.id))
        step = periods[row] - start[series]
        inside = (step >= 0) & (step < horizon)
        series, row, step = series[inside], row[inside], step[inside]
    order = np.lexsort((step, series))
    series, step, row = series[order], step[order], row[order]
    new = np.append(True, (np.diff(series) != 0) | (np.diff(step) != 0))[: len(row)]
    first = np.flatnonzero(new)
    if len(first):
        values = np.stack([means(column, first) for column in columns[row].T], 1)
        out[series[first], step[first]] = values
    return out, where.source


def _series(panel: Panel, ids: pa.ChunkedArray) -> tuple[Ints, Ints]:
    """Numbers of series, and the rows that are theirs; rows of others are left out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    plain = ids.cast(ids.type.value_type) if pa.types.is_dictionary(ids.type) else ids
    mine = panel.ids
    if plain.type != mine.type:
        plain, mine = plain.cast(pa.string()), mine.cast(pa.string())
    at = pc.fill_null(pc.index_in(plain, value_set=mine), -1).to_numpy()
    row = np.flatnonzero(at >= 0)
    return at[row].astype(np.int64), row


def _lacking(panel: Panel, none: Bools) -> tuple[Ints, list[str]]:
    """The series that lack something (bool [N, H, F]), and what, for their status."""
    series = np.flatnonzero(none.any((1, 2)))
    which = none[series].any(1).argmax(1)  # the first regressor that lacks
    mine = none[series, :, which]
    periods = panel.future(1)[series, 0] + mine.argmax(1)
    since = write_times(panel.calendar.stamps(periods), panel.origin.time).to_pylist()
    parts = zip(which.tolist(), mine.sum(1).tolist(), since, strict=True)
    steps = none.shape[1]
    return series, [
        f"refused: {panel.names[k]} lacks {count} of {steps} steps from {stamp} on"
        for k, count, stamp in parts
    ]


def _complaint(panel: Panel, none: Bools, source: str) -> str:
    """Of the first series that lacks something: what, and what to do."""
    series = np.flatnonzero(none.any((1, 2)))
    first = int(series[0])
    name = int(np.flatnonzero(none[first].any(0))[0])
    steps = np.flatnonzero(none[first, :, name])
    stamps = panel.calendar.stamps(panel.future(none.shape[1])[first])
    begin, end = (text_of(stamps[k], panel.origin) for k in (steps[0], none.shape[1] - 1))
    more = f", and {len(series) - 1:,} more series lack some" if len(series) > 1 else ""
    shorter = f", or take --horizon {steps[0]}" if steps[0] else ""
    return (
        f"{source}: {panel.names[name]!r} of {panel.ids[first].as_py()} lacks {len(steps)} of "
        f"{none.shape[1]} steps, the first at {begin}{more}: give it up to {end}{shorter}"
    )
