"""New rows of series that are known already: they have to be the next ones.

Shapes: N series, R of them in the new rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.series.calendar import Ints
from chainrule.series.check import Policy
from chainrule.series.frames import read
from chainrule.series.layout import Names
from chainrule.series.panel import Floats, Panel
from chainrule.series.reading import Reader
from chainrule.series.repair import text_of
from chainrule.series.tables import is_array, open_source


def following(panel: Panel, rows: Any, policy: Policy = "refuse") -> Panel:
    """The new rows as a panel of the same N series, in their order: some may have no points.

    Args:
        rows: as ``frames.read`` takes them, with the columns that the panel was read with. Stamps
            tell where they belong; an array has none and goes on where the panel ends.
        policy: what is done about gaps among the new rows.

    Raises:
        ValueError: an unknown series, one that was refused, or points that don't follow the last,
            naming the first such series and what was expected.
    """
    origin = panel.origin
    if is_array(rows):
        new, check = read(rows, policy=policy)
        if len(new) != len(panel):
            raise ValueError(f"the array: it has {len(new)} series, not {len(panel)}")
        at: Ints = np.arange(len(panel))
    else:
        names = Names(origin.id_col, origin.time_col, origin.target_col, panel.names)
        reader = Reader(names, None, None, policy)
        reader.calendar, reader.fewest = panel.calendar, 1
        new, check = reader.panel(open_source(rows, names))
        at = _places(panel, new, check.source)
    if check.refused:
        name, why = next(iter(check.status.items()))
        raise ValueError(f"{check.source}: series {name}: {why}")
    late = np.flatnonzero(~panel.ok[at])
    if len(late):
        status = panel.status[int(at[late[0]])].as_py()
        raise ValueError(f"{check.source}: series {new.ids[int(late[0])].as_py()} was {status}")
    wanted = panel.future(1)[at, 0]
    off = np.flatnonzero(new.first != wanted)
    if len(off) and not is_array(rows):
        i = int(off[0])
        stamps = panel.calendar.stamps(np.array([wanted[i], new.first[i]]))
        expected, found = (text_of(stamp, origin) for stamp in stamps)
        raise ValueError(
            f"{check.source}: series {new.ids[i].as_py()} goes on at {expected}, "
            f"but the first new row is of {found}: give the rows that follow, without a gap"
        )
    return _spread(panel, new, at)


def _places(panel: Panel, new: Panel, source: str) -> Ints:
    import pyarrow as pa
    import pyarrow.compute as pc

    theirs, mine = new.ids, panel.ids
    if panel.origin.single and new.origin.single:
        return np.zeros(1, np.int64)
    if theirs.type != mine.type:
        theirs, mine = theirs.cast(pa.string()), mine.cast(pa.string())
    at: Ints = pc.fill_null(pc.index_in(theirs, value_set=mine), -1).to_numpy().astype(np.int64)
    if (at < 0).any():
        unknown = theirs[int(np.flatnonzero(at < 0)[0])].as_py()
        raise ValueError(f"{source}: series {unknown} is new: fit again to take it in")
    return at


def _spread(panel: Panel, new: Panel, at: Ints) -> Panel:
    """The rows of ``new`` at their places among the series of ``panel``."""
    lens = np.zeros(len(panel), np.int64)
    lens[at] = new.lens
    order = np.argsort(at, kind="stable")
    sorted_ = new.select(order)
    offsets = np.append(0, np.cumsum(lens))
    values: Floats = sorted_.values
    return Panel(
        ids=panel.ids,
        values=values,
        offsets=offsets,
        first=panel.first + panel.lens,
        status=panel.status,
        calendar=panel.calendar,
        origin=panel.origin,
        known=sorted_.known,
        names=panel.names,
    )
