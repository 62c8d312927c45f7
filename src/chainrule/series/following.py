"""New rows of series that are known already: they have to come after the last ones.

Shapes: N series, R of them in the new rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from chainrule.series.calendar import Bools, Calendar, Ints
from chainrule.series.check import Check, Policy
from chainrule.series.findings import text_of
from chainrule.series.frames import read_array
from chainrule.series.layout import Layout, Names
from chainrule.series.panel import Origin, Panel
from chainrule.series.points import Points, chosen, led
from chainrule.series.reading import Reader
from chainrule.series.repair import Repair
from chainrule.series.stamps import Times, Where, kind_for, sort_of
from chainrule.series.tables import is_array, open_source


@dataclass(frozen=True, eq=False)
class New:
    """New rows as a panel of the same N series, in their order: some may have no points.

    Args:
        seen: which of its points were in the rows [points]; the others were filled.
        check: what was found in the rows and done about it.
    """

    panel: Panel
    seen: Bools
    check: Check


def following(panel: Panel, rows: Any, policy: Policy = "refuse", strict: bool = True) -> New:
    """New rows beside the last points of their series.

    What is missing between the last point and the new ones, or among these, is what ``policy``
    says (see ``check``); a "split" that would drop the last point is refused.

    Args:
        panel: the series; their last points are enough.
        rows: as ``frames.read`` takes them, with the columns that the panel was read with. Stamps
            tell where they belong; an array or a lone column has none, and goes on where the
            panel ends.
        strict: stamps must be those of the calendar; else the mean of each period is taken.

    Raises:
        ValueError: an unknown series, a point that is not after the last, or what the policy
            refuses, naming the first such series.
    """
    origin = panel.origin
    names = Names(origin.id_col, origin.time_col, origin.target_col, panel.names)
    reader = _Onward(names, panel, policy, strict)
    if is_array(rows):
        read_array(rows, reader)
    else:
        reader.panel(open_source(rows, names))
    assert reader.new is not None
    return reader.new


class _Onward(Reader):
    """Puts the last point that is known before the new ones of a series, so that these are mended
    as they would be in the whole series."""

    def __init__(self, names: Names, panel: Panel, policy: Policy, strict: bool) -> None:
        super().__init__(names, None, None, policy)
        self.known, self.strict = panel, strict
        self.new: New | None = None

    def mend(
        self,
        points: Points,
        times: Times,
        origin: Origin,
        where: Where,
        layout: Layout,
        notes: tuple[str, ...],
    ) -> tuple[Panel, Check]:
        panel, source = self.known, origin.source
        stamped = layout.time is not None
        if stamped and sort_of(times.kind) != sort_of(panel.origin.time):
            raise ValueError(
                f"{source}: {origin.time_col!r} has {sort_of(times.kind)}, the series have "
                f"{sort_of(panel.origin.time)}: both must be of one kind"
            )
        if layout.kind == "array" and len(points.ids) != len(panel):
            raise ValueError(f"{source}: it has {len(points.ids)} series, not {len(panel)}")
        at = _places(panel, points, origin, layout)
        points, at, left_out = self._of_fitted(points, at, source)
        calendar = panel.calendar if stamped else Calendar("step")
        origin = replace(origin, time=kind_for(origin.time, calendar))
        wanted = panel.future(1)[at, 0] if stamped else np.zeros(len(at), np.int64)
        begin = calendar.locate(points.stamps[points.offsets[:-1]])[0]
        late = np.flatnonzero(begin < wanted)
        if len(late):
            i = int(late[0])
            gap = _gap(i, calendar, wanted, begin, origin)
            raise ValueError(
                f"{source}: series {points.ids[i].as_py()} {gap}: leave out what came before"
            )
        values = np.zeros(len(panel))
        values[panel.ok] = panel.values[panel.offsets[1:][panel.ok] - 1]
        repair = Repair(
            led(points, calendar.stamps(wanted - 1), values[at]),
            calendar,
            origin,
            where,
            policy=self.policy,
            strict=self.strict,
            names=layout.known,
            spare=layout.spare,
            led=True,
        )
        new = repair.run()
        check = repair.check(new, layout.kind, (*notes, *left_out))
        if check.refused:
            i = int(np.argmin(new.ok))
            gap = f" ({_gap(i, calendar, wanted, begin, origin)})" if begin[i] > wanted[i] else ""
            advice = {f.done for f in check.findings if f.what.startswith("refused")}
            more = f"; {advice.pop()}" if len(advice) == 1 else ""
            raise ValueError(
                f"{source}: series {new.ids[i].as_py()}: {new.status[i].as_py()}{gap}{more}"
            )
        own = np.ones(len(new.values), np.bool_)
        own[new.offsets[:-1]] = False
        check = replace(
            check,
            begin=text_of(points.stamps.min(), origin),
            points=int(own.sum()),
        )
        self.new = New(*_spread(panel, new, repair.seen(new), own, at), check)
        return self.new.panel, check

    def _of_fitted(
        self, points: Points, at: Ints, source: str
    ) -> tuple[Points, Ints, tuple[str, ...]]:
        """Without the rows of series that were refused when all were fitted, and a note of it."""
        ok = self.known.ok[at]
        if ok.all():
            return points, at, ()
        i = int(np.argmin(ok))
        name, status = points.ids[i].as_py(), self.known.status[int(at[i])].as_py()
        if not ok.any():
            raise ValueError(f"{source}: series {name} was {status}: fit again to take it in")
        note = f"left out, as fit did: {int((~ok).sum()):,} series, first {name} ({status})"
        return chosen(points, ok), at[ok], (note,)


def _gap(i: int, calendar: Calendar, wanted: Ints, begin: Ints, origin: Origin) -> str:
    stamps = calendar.stamps(np.array([wanted[i], begin[i]]))
    expected, seen = (text_of(stamp, origin) for stamp in stamps)
    return f"goes on at {expected}, but the first new row is of {seen}"


def _places(panel: Panel, points: Points, origin: Origin, layout: Layout) -> Ints:
    """Where the series of the points stand in the panel."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if layout.kind == "array" or (panel.origin.single and origin.single):
        return np.arange(len(points.ids))
    theirs, mine = points.ids, panel.ids
    if theirs.type != mine.type:
        theirs, mine = theirs.cast(pa.string()), mine.cast(pa.string())
    at: Ints = pc.fill_null(pc.index_in(theirs, value_set=mine), -1).to_numpy().astype(np.int64)
    if (at < 0).any():
        unknown = theirs[int(np.flatnonzero(at < 0)[0])].as_py()
        raise ValueError(f"{origin.source}: series {unknown} is new: fit again to take it in")
    return at


def _spread(panel: Panel, new: Panel, seen: Bools, own: Bools, at: Ints) -> tuple[Panel, Bools]:
    """The ``own`` points of ``new`` at their places among the series of ``panel``."""
    lens = np.zeros(len(panel), np.int64)
    lens[at] = new.lens - 1
    offsets = np.append(0, np.cumsum(lens))
    row = np.flatnonzero(own)
    if (np.diff(at) < 0).any():
        order = np.argsort(at, kind="stable")
        begin = np.repeat((new.offsets[:-1] + 1)[order] - offsets[at[order]], lens[at[order]])
        row = begin + np.arange(len(row))
    spread = Panel(
        ids=panel.ids,
        values=new.values[row],
        offsets=offsets,
        first=panel.first + panel.lens,
        status=panel.status,
        calendar=panel.calendar,
        origin=panel.origin,
        known=new.known[row],
        names=panel.names,
    )
    return spread, seen[row]
