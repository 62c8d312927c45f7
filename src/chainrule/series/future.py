"""Regressors of the steps to come, beside each series' own next steps.

Shapes: N series, F regressors, H horizon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.series.calendar import Ints
from chainrule.series.layout import Names, read_numbers, time_column
from chainrule.series.panel import Floats, Panel
from chainrule.series.repair import text_of
from chainrule.series.stamps import read_times
from chainrule.series.tables import head_of, is_array, open_source

if TYPE_CHECKING:
    import pyarrow as pa


def future_known(panel: Panel, future: Any, horizon: int) -> Floats:
    """What is known of the next H steps of every series [N, H, F]; 0 for series that were refused.

    Args:
        future: a path or a frame with the panel's time column and regressors. It may reach into
            the past and beyond the horizon; without an id column it holds for every series. Or
            an array [N, H, F], or [H, F] for all series.

    Raises:
        ValueError: what is missing, of which series, from when on, and what to do.
    """
    if is_array(future):
        out, wanted = np.asarray(future, np.float64), (len(panel), horizon, len(panel.names))
        source = "the array"
        if out.shape not in (wanted, wanted[1:]):
            raise ValueError(
                f"{source}: future regressors are {list(out.shape)}; {list(wanted)} is series, "
                "steps, regressors"
            )
        out = np.broadcast_to(out, wanted)
    else:
        out, source = _aligned(panel, future, horizon)
    none = ~np.isfinite(out) & panel.ok[:, None, None]
    if none.any():
        _complain(panel, none, source)
    return np.where(panel.ok[:, None, None], out, 0.0)


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
        raise ValueError(f"{source}: it has no column of regressors beside {time_col!r}")
    return names


def _aligned(panel: Panel, future: Any, horizon: int) -> tuple[Floats, str]:
    """Values in their places, NaN where there is none, and the name of the source."""
    origin, names = panel.origin, panel.names
    found = open_source(
        future, Names(origin.id_col, origin.time_col, names[0], names[1:], one_for_all=True)
    )
    table, layout, where = found.table, found.layout, found.where
    assert layout.time is not None
    times = read_times(table.column(layout.time), layout.time, where)
    mine = "numbers" if panel.calendar.unit == "step" else _kind(panel.calendar.zone)
    theirs = "numbers" if times.numbered else _kind(times.zone)
    if mine != theirs:
        raise ValueError(
            f"{where.source}: {layout.time!r} has {theirs}, the series have {mine}: both must be "
            "of one kind"
        )
    periods, _ = panel.calendar.locate(times.stamps)
    columns = [read_numbers(table.column(n), n, where) for n in names]
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
    out[series, step] = np.stack(columns, 1)[row]
    return out, where.source


def _kind(zone: str | None) -> str:
    return "times without a zone" if zone is None else "times with a zone"


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


def _complain(panel: Panel, none: Any, source: str) -> None:
    series = np.flatnonzero(none.any((1, 2)))
    first = int(series[0])
    name = int(np.flatnonzero(none[first].any(0))[0])
    steps = np.flatnonzero(none[first, :, name])
    stamps = panel.calendar.stamps(panel.future(none.shape[1])[first])
    begin, end = (text_of(stamps[k], panel.origin) for k in (steps[0], none.shape[1] - 1))
    more = f", and {len(series) - 1:,} more series lack some" if len(series) > 1 else ""
    shorter = f", or take --horizon {steps[0]}" if steps[0] else ""
    raise ValueError(
        f"{source}: {panel.names[name]!r} of {panel.ids[first].as_py()} lacks {len(steps)} of "
        f"{none.shape[1]} steps, the first at {begin}{more}: give it up to {end}{shorter}"
    )
