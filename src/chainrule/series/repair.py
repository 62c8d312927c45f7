"""From rows as they were read to a panel without holes, all series at once.

Shapes: N series, rows (of all series, one after the other), F regressors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chainrule.series.calendar import Bools, Calendar, Ints, coarser
from chainrule.series.check import LISTED, Check, Finding, Policy
from chainrule.series.panel import Floats, Origin, Panel
from chainrule.series.points import Points, ends, filled, means, missing_before, next_is_same, sums
from chainrule.series.stamps import Where, write_times

if TYPE_CHECKING:
    import pyarrow as pa

_LINE, _NOTHING = "filled by a straight line", "there is nothing to go on"
FEWEST = 3  # points that a series must have
_SHORT = 10  # with fewer, a series is called short


class Repair:
    """Finds what is wrong with the series, one thing after the other, and mends or refuses.

    Args:
        points: what was read. calendar: which all are on. policy: see ``check``.
        strict: stamps must be those of the calendar; else they belong to the period they are in.
        names: of the regressors. spare: columns that nobody asked for, for advice.
        fewest: points that a series must have.
    """

    def __init__(
        self,
        points: Points,
        calendar: Calendar,
        origin: Origin,
        where: Where,
        *,
        policy: Policy = "fill",
        strict: bool = True,
        names: tuple[str, ...] = (),
        spare: tuple[str, ...] = (),
        fewest: int = FEWEST,
    ) -> None:
        self.fewest = fewest
        self.points, self.calendar, self.origin, self.where = points, calendar, origin, where
        self.policy, self.strict, self.names, self.spare = policy, strict, names, spare
        self.periods, self.on = calendar.locate(points.stamps)
        self.values, self.known, self.offsets = points.values, points.known, points.offsets
        self.rows: Ints | None = None  # which of the points' rows are left; None: all
        self.infinite: Bools | None = None
        self.alive = np.ones(len(points.ids), np.bool_)
        self.touched = np.zeros(len(points.ids), np.bool_)
        self.remarks: list[tuple[str, Ints]] = []
        self.findings: list[Finding] = []

    def run(self) -> Panel:
        """Everything, in the order in which one thing needs the other."""
        if self.points.late.any():
            self._find("rows out of order", self.points.late, "sorted")
        self._off_grid()
        self._infinities()
        self._duplicates()
        finite = self._finite()
        if self.policy == "split":
            finite = self._split(*finite)
        periods, _, offsets = finite
        missing = self._sparse(periods, offsets)
        self._holes(periods, offsets, missing)
        if self.names:
            self._regressors(periods, offsets)
        return self._panel(*finite)

    # ---- what is said ----

    def _find(self, what: str, counts: Ints, done: str, mask: Bools | None = None) -> None:
        """Note a finding: how many rows of every series are it; ``mask`` [rows]: which."""
        series = int(np.argmax(counts > 0))
        first = str(self.points.ids[series].as_py())
        if mask is not None:
            begin, end = self.offsets[series : series + 2]
            row = int(begin + np.argmax(mask[begin:end]))
            row = row if self.rows is None else int(self.rows[row])
            stamp = text_of(self.points.stamps[row], self.origin)
            row = row if self.points.rows is None else int(self.points.rows[row])
            first = f"{first} at {stamp} ({self.where.line(row)})"
        series_with = int((counts > 0).sum())
        self.findings.append(Finding(what, series_with, int(counts.sum()), first, done))

    def _refuse(
        self, what: str, counts: Ints, reason: str, advice: str, mask: Bools | None = None
    ) -> None:
        """Leave out the series that have a count; ``reason`` has a place for it."""
        counts = np.where(self.alive, counts, 0)
        if counts.any():
            lens = np.where(counts > 0, np.diff(self.offsets), 0)
            self._find(f"refused: {what}", lens if mask is None else counts, advice, mask)
            self.remarks.append((f"refused: {reason}", counts))
            self.alive &= counts == 0

    def _mend(
        self, what: str, counts: Ints, done: str, mask: Bools | None, remark: str = ""
    ) -> None:
        """Note what is done to the series with a count; refuse them if that is the policy."""
        if self.policy == "refuse":
            advice = "--policy fill would mend it"
            self._refuse(what, counts, f"{{}} {what}", advice, mask)
        self._note(what, counts, done, mask, remark)

    def _note(
        self, what: str, counts: Ints, done: str, mask: Bools | None = None, remark: str = ""
    ) -> None:
        """Note what is done to the series with a count."""
        counts = np.where(self.alive, counts, 0)
        if counts.any():
            self._find(what, counts, done, mask)
        if remark and counts.any():
            self._remark(remark, counts)

    def _remark(self, remark: str, counts: Ints) -> None:
        """Add a remark, with a place for the count, to the status of the series that have one."""
        counts = np.where(self.alive, counts, 0)
        self.remarks.append((remark, counts))
        self.touched |= counts > 0

    # ---- what is done ----

    def _off_grid(self) -> None:
        if not self.strict or self.on.all():
            return
        off, name = ~self.on, self.calendar.alias
        counts = sums(off, self.offsets)
        self._refuse(
            "irregular spacing",
            np.where(counts * 10 > np.diff(self.offsets), counts, 0),
            f"{{}} stamp{{s}} between the steps of {name}",
            _longer(self.points.stamps, self.calendar),
            off,
        )
        done = "moved to the step that they are in"
        self._mend("stamps between steps", counts, done, off, "moved {} stamp{s} to their step")

    def _infinities(self) -> None:
        if self.names:
            self.known = np.where(np.isfinite(self.known), self.known, np.nan)
        mask = np.isinf(self.values)
        if mask.any():
            self.infinite = mask
            self.values = np.where(mask, np.nan, self.values)
            counts = sums(mask, self.offsets)
            self._mend(
                "infinities", counts, "taken as missing", mask, "dropped {} infinite value{s}"
            )

    def _duplicates(self) -> None:
        mask = np.append(False, (np.diff(self.periods) == 0) & next_is_same(self.offsets))
        if not mask.any():
            return
        counts = sums(mask, self.offsets)
        if self.strict:
            spare = f" (perhaps {self.spare[0]!r})" if self.spare else ""
            self._refuse(
                "stamps that come again and again",
                np.where(2 * counts >= np.diff(self.offsets), counts, 0),
                "{} row{s} with the stamp of another row",
                f"name the column that tells series apart by --id-col{spare}, or add up the rows "
                "of a stamp first",
                mask,
            )
            self._mend("duplicates", counts, "the mean is taken", mask, "averaged {} duplicate{s}")
        else:
            self._note("stamps in the step of another", counts, "the mean is taken", mask)
        first = np.flatnonzero(~mask)
        self.values = means(self.values, first)
        self.known = (
            np.stack([means(k, first) for k in self.known.T], 1)
            if self.names
            else (self.known[first])
        )
        if self.infinite is not None:
            self.infinite = np.logical_or.reduceat(self.infinite, first)
        self.periods, self.rows = self.periods[first], first
        self.offsets = np.append(np.searchsorted(first, self.offsets[:-1]), len(first))

    def _finite(self) -> tuple[Ints, Floats, Ints]:
        """Periods and values of the points that have one, and their offsets [N + 1]."""
        none = np.isnan(self.values)
        if not none.any():
            return self.periods, self.values, self.offsets
        counts, lens = sums(none, self.offsets), np.diff(self.offsets)
        empty = np.where(counts == lens, lens, 0)
        if self.infinite is not None:
            some = sums(self.infinite, self.offsets) > 0
            self._refuse("no finite value", np.where(some, empty, 0), "no finite value", _NOTHING)
        self._refuse("all NaN", empty, "all NaN", _NOTHING)
        there = np.flatnonzero(~none)
        return self.periods[there], self.values[there], np.append(0, np.cumsum(lens - counts))

    def _split(self, periods: Ints, values: Floats, offsets: Ints) -> tuple[Ints, Floats, Ints]:
        """Only what is behind the last long gap of every series."""
        long = max(3, self.calendar.season // 4)
        behind = np.flatnonzero(missing_before(periods, offsets) > long)
        begin = offsets[:-1].copy()
        np.maximum.at(begin, np.searchsorted(offsets, behind, "right") - 1, behind)
        dropped = begin - offsets[:-1]
        self._note("values before a long gap", dropped, f"dropped: more than {long} steps are long")
        self._remark("dropped {} value{s} before a gap", dropped)
        kept = np.arange(len(values)) >= np.repeat(begin, np.diff(offsets))
        return periods[kept], values[kept], offsets - np.append(0, np.cumsum(dropped))

    def _sparse(self, periods: Ints, offsets: Ints) -> Ints:
        """Refuse series that are mostly holes, or few points; the missing steps of all [N]."""
        steps, lens = missing_before(periods, offsets), np.diff(offsets)
        missing = sums(steps, offsets)
        mostly = missing > lens
        if mostly.any():
            every = missing // np.maximum(lens - 1, 1)  # holes between points, where all are alike
            alike = sums(steps == np.repeat(every, lens), offsets) == lens - 1
            name = self.calendar.alias
            self._refuse(
                "another frequency",
                np.where(mostly & alike & (lens >= self.fewest), every + 1, 0),
                f"a value every {{}} steps of {name}",
                "read series of one frequency at a time, or name a longer one for all by --freq",
            )
            first = int(np.argmax(mostly & self.alive))
            own = self.points.stamps[slice(*self.points.offsets[first : first + 2])]
            advice = _longer(own, self.calendar)
            self._refuse(
                "mostly missing", np.where(mostly, missing, 0), "mostly missing, {} step{s}", advice
            )
        few = np.where(lens < self.fewest, np.maximum(lens, 1), 0)
        self._refuse("too short", few, "{} point{s}", f"{self.fewest} points are the fewest")
        return missing

    def _holes(self, periods: Ints, offsets: Ints, missing: Ints) -> None:
        """Note what is missing in the series that go on."""
        none = np.isnan(self.values)
        if none.any():
            begin, end = ends(periods, offsets)
            series = np.repeat(np.arange(len(missing)), np.diff(self.offsets))
            after = none & (self.periods > end[series])
            early = none & (self.periods < begin[series])
            none &= ~(early | after) if self.infinite is None else ~(early | after | self.infinite)
            for mask, place, done in ((early, "before", "begins"), (after, "after", "ends")):
                counts, done = sums(mask, self.offsets), f"the series {done} there"
                self._note(f"NaN {place} all values", counts, done, mask)
            self._remark("dropped {} NaN at its end", sums(after, self.offsets))
            self._mend("NaN", sums(none, self.offsets), _LINE, none)
        steps = missing_before(self.periods, self.offsets)
        if steps.any():
            self._mend("missing steps", sums(steps, self.offsets), _LINE, steps > 0)
        self._remark("filled {} step{s}", missing)

    def _regressors(self, periods: Ints, offsets: Ints) -> None:
        """Note what regressors lack between the first and the last value of a series."""
        begin, end = (np.repeat(x, np.diff(self.offsets)) for x in ends(periods, offsets))
        inside = (self.periods >= begin) & (self.periods <= end)
        for name, column in zip(self.names, self.known.T, strict=True):
            none = np.isnan(column) & inside
            if none.any():
                counts = sums(none, self.offsets)
                empty = np.where(counts == sums(inside, self.offsets), counts, 0)
                self._refuse(f"no {name}", empty, f"no value of {name}", _NOTHING, none)
                self._mend(f"NaN of {name}", counts, f"{_LINE}, or the nearest", none)
                self._remark(f"filled {{}} value{{s}} of {name}", counts)

    def _panel(self, periods: Ints, values: Floats, offsets: Ints) -> Panel:
        (begin, end), alive = ends(periods, offsets), self.alive
        spans = np.where(alive, end - begin + 1, 0)
        closed = np.append(0, np.cumsum(spans))
        shift = closed[:-1] - begin  # where period 0 of a series would be

        def placed(at: Ints, what: Floats, lens: Ints, mine: Bools) -> Floats:
            """Rows in their places, and lines between them."""
            if len(what) == closed[-1] and mine.all():
                return what
            out = np.full(closed[-1], np.nan)
            out[(at + np.repeat(shift, lens))[mine]] = what[mine]
            return filled(out, closed)

        lens = np.diff(offsets)
        values = placed(periods, values, lens, np.repeat(alive, lens))
        known = np.zeros((len(values), len(self.names)))
        if self.names:
            lens = np.diff(self.offsets)
            inside = self.periods >= np.repeat(np.where(alive, begin, np.iinfo(np.int64).max), lens)
            inside &= self.periods <= np.repeat(end, lens)
            for i, column in enumerate(self.known.T):
                known[:, i] = filled(placed(self.periods, column, lens, inside), closed)
        self._flags(values, spans)
        after = self.periods[self.offsets[1:] - 1] + 1
        return Panel(
            ids=self.points.ids,
            values=values,
            offsets=closed,
            first=np.where(alive, begin, after),
            status=self._status(),
            calendar=self.calendar,
            origin=self.origin,
            known=known,
            names=self.names,
        )

    def _flags(self, values: Floats, spans: Ints) -> None:
        """Note what a forecaster should know."""
        starts = (np.cumsum(spans) - spans)[self.alive]
        if not len(starts):
            return
        low, high, lens = (np.zeros(len(spans)) for _ in range(3))
        low[self.alive] = np.minimum.reduceat(values, starts)
        high[self.alive] = np.maximum.reduceat(values, starts)
        lens = np.where(self.alive, spans, 0)
        constant, zero = (low == high) & self.alive, (low == 0) & (high == 0)
        zeros = sums(values == 0, np.append(0, np.cumsum(spans)))
        for what, flag, done in (
            ("constant", constant & ~zero, "a constant forecast, without a spread"),
            ("all zeros", constant & zero, "a forecast of zeros, without a spread"),
            ("short", self.alive & (spans < _SHORT), f"fewer than {_SHORT} points: simple models"),
        ):
            if flag.any():
                counts = np.where(flag, lens, 0)
                self._find(what, counts, done)
                self.remarks.append((what if what != "short" else "short: {} point{s}", counts))
        mostly = np.where(~constant & (2 * zeros > lens), zeros, 0)
        if mostly.any():
            self._find("mostly zeros", mostly, "left as they are")

    def _status(self) -> pa.DictionaryArray:
        import pyarrow as pa

        codes, words = np.zeros(len(self.alive), np.int32), ["ok"]
        if self.remarks:
            counts = np.stack([c for _, c in self.remarks], 1)
            some = counts.any(1)
            kinds, which = np.unique(counts[some], axis=0, return_inverse=True)
            codes[some] = 1 + which.reshape(-1)
            texts = [text for text, _ in self.remarks]
            words += [_said(texts, k) for k in kinds.tolist()]
        return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(words))

    def check(self, panel: Panel, layout: str, notes: tuple[str, ...]) -> Check:
        """What was found and done, for people."""
        stamps, codes = self.points.stamps, panel.status.indices.to_numpy()
        first = np.flatnonzero(codes)[:LISTED]
        names = map(str, panel.ids.take(first).to_pylist())
        return Check(
            source=self.origin.source,
            layout=layout,
            begin=text_of(stamps.min(), self.origin),
            end=text_of(stamps.max(), self.origin),
            frequency=self.calendar.alias,
            season=self.calendar.season,
            policy=self.policy,
            series=len(panel),
            points=len(panel.values),
            refused=int((~self.alive).sum()),
            repaired=int((self.alive & self.touched).sum()),
            findings=tuple(self.findings),
            status=dict(zip(names, panel.status.take(first).to_pylist(), strict=True)),
            notes=notes,
        )


def text_of(stamp: int, origin: Origin) -> str:
    """A stamp for people."""
    return str(write_times(np.array([stamp]), origin.time)[0].as_py())


def _longer(stamps: Ints, calendar: Calendar) -> str:
    return f"put it into longer steps, as in --freq {coarser(stamps, calendar)}; means are taken"


def _said(texts: list[str], counts: list[int]) -> str:
    """The remarks that have a count; why a series was refused comes first."""
    both = zip(texts, counts, strict=True)
    said = [t.format(f"{n:,}", s="s" * (n != 1)) for t, n in both if n]
    return "; ".join(sorted(said, key=lambda s: not s.startswith("refused")))
