"""From rows as they were read to a panel without holes, all series at once.

Shapes: N series, rows (of all series, one after the other), F regressors.
"""

from __future__ import annotations

import numpy as np

from chainrule.series.calendar import Bools, Calendar, Ints, coarser
from chainrule.series.check import Policy
from chainrule.series.findings import FILL, Findings, literal
from chainrule.series.panel import Floats, Origin, Panel
from chainrule.series.points import Points, ends, filled, means, missing_before, next_is_same, sums
from chainrule.series.stamps import Where

_LINE, _NOTHING = "filled by a straight line", "there is nothing to go on"
_AGAIN = "correct the stamps, or fit again"
_FAR = "a few stamps are far from the others: correct them, or drop their rows"
FEWEST = 3  # points that a series must have
_REACH = 100  # steps that a gap behind a known point may have beside as many as there are points
_SHORT = 10  # with fewer, a series is called short


class Repair(Findings):
    """Finds what is wrong with the series, one thing after the other, and mends or refuses.

    Args:
        points: what was read. calendar: which all are on. policy: see ``check``.
        strict: stamps must be those of the calendar; else they belong to the period they are in.
        names: of the regressors. spare: columns that nobody asked for, for advice.
        season: in periods, if it was asked for.
        led: the first point of every series was known before: it is held to be right, has no
            regressors, and is what a gap may follow.
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
        season: int | None = None,
        led: bool = False,
    ) -> None:
        self.led, self.fewest = led, 1 if led else FEWEST
        super().__init__(points, calendar, origin, where, policy)
        self.strict, self.names, self.spare, self.season = strict, names, spare, season
        self.periods, self.on = calendar.locate(points.stamps)
        self.values, self.known = points.values, points.known
        self.infinite: Bools | None = None

    def run(self) -> Panel:
        """Everything, in the order in which one thing needs the other."""
        if self.points.late.any():
            self._find("rows out of order", self.points.late, "sorted")
        self._off_grid()
        self._infinities()
        self._duplicates()
        finite = self._finite()
        if self.policy == "split":
            self._split(finite[0], finite[2])
            finite = self._finite()
        periods, _, offsets = finite
        missing = self._sparse(periods, offsets)
        self._holes(periods, offsets, missing)
        if self.names:
            self._regressors(periods, offsets)
        return self._panel(*finite)

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
        values, known = means(self.values, first), [means(k, first) for k in self.known.T]
        if self.infinite is not None:
            self.infinite[first] = np.logical_or.reduceat(self.infinite, first)
        self._keep(first)
        self.values = values
        self.known = np.stack(known, 1) if known else self.known

    def _keep(self, rows: Ints) -> None:
        """Go on with these rows; every series has one at least."""
        self.periods, self.values = self.periods[rows], self.values[rows]
        self.known = self.known[rows]
        self.infinite = None if self.infinite is None else self.infinite[rows]
        self.rows = rows if self.rows is None else self.rows[rows]
        self.offsets = np.append(np.searchsorted(rows, self.offsets[:-1]), len(rows))

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

    def _split(self, periods: Ints, offsets: Ints) -> None:
        """Go on with what is behind the last long gap of every series."""
        long = max(3, self.calendar.season // 4)
        behind = np.flatnonzero(missing_before(periods, offsets) > long)
        begin = offsets[:-1].copy()
        np.maximum.at(begin, np.searchsorted(offsets, behind, "right") - 1, behind)
        dropped = begin - offsets[:-1]
        if self.led:
            reason = f"a gap of more than {long} steps, at which what was fitted can't be split"
            self._refuse("a long gap", dropped, reason, f"{FILL}, or fit again")
            return
        self._note("values before a long gap", dropped, f"dropped: more than {long} steps are long")
        self._remark("dropped {} value{s} before a gap", dropped)
        low = np.full(len(dropped), np.iinfo(np.int64).min)
        low[dropped > 0] = periods[begin[dropped > 0]]
        self._keep(np.flatnonzero(self.periods >= np.repeat(low, np.diff(self.offsets))))

    def _sparse(self, periods: Ints, offsets: Ints) -> Ints:
        """Refuse series that are mostly holes, or few points; the missing steps of all [N]."""
        steps, lens = missing_before(periods, offsets), np.diff(offsets)
        missing = sums(steps, offsets)
        mostly = missing > lens + (_REACH if self.led else 0)
        if mostly.any():
            every = missing // np.maximum(lens - 1, 1)  # holes between points, where all are alike
            alike = sums(steps == np.repeat(every, lens), offsets) == lens - 1
            name = self.calendar.alias
            self._refuse(
                "another frequency",
                np.where(mostly & alike & (lens >= FEWEST), every + 1, 0),
                f"a value every {{}} steps of {name}",
                "read series of one frequency at a time, or name a longer one for all by --freq",
            )
            first = int(np.argmax(mostly & self.alive))
            own = self.points.stamps[slice(*self.points.offsets[first : first + 2])]
            far = coarser(own, self.calendar) == name
            advice = _FAR if far else _longer(own, self.calendar)
            advice = _AGAIN if self.led else advice
            self._refuse(
                "mostly missing", np.where(mostly, missing, 0), "mostly missing, {} step{s}", advice
            )
        few = np.where(lens < self.fewest, np.maximum(lens, 1), 0)
        self._refuse("too short", few, "{} point{s}", f"{self.fewest} points are the fewest")
        return missing

    def _holes(self, periods: Ints, offsets: Ints, missing: Ints) -> None:
        """Note what is missing in the series that go on."""
        none = np.isnan(self.values)
        none = none if self.infinite is None else none & ~self.infinite
        if none.any():
            begin, end = ends(periods, offsets)
            series = np.repeat(np.arange(len(missing)), np.diff(self.offsets))
            after = none & (self.periods > end[series])
            early = none & (self.periods < begin[series])
            none &= ~(early | after)
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
        if self.led:
            inside[self.offsets[:-1]] = False
        for name, column in zip(self.names, self.known.T, strict=True):
            none = np.isnan(column) & inside
            if none.any():
                counts = sums(none, self.offsets)
                empty = np.where(counts == sums(inside, self.offsets), counts, 0)
                self._refuse(f"no {name}", empty, f"no value of {literal(name)}", _NOTHING, none)
                self._mend(f"NaN of {name}", counts, f"{_LINE}, or the nearest", none)
                self._remark(f"filled {{}} value{{s}} of {literal(name)}", counts)

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
        if not self.led:
            self._flags(values, spans)
            self._early(begin + spans)
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
        if self.season is not None and self.season > 1:
            few = np.where(self.alive & (spans <= 2 * self.season), spans, 0)
            if few.any():
                done = "no season is learned; only seasonal-naive may repeat the last one"
                self._find(f"at most two seasons of {self.season}", few, done)
        mostly = np.where(~constant & (2 * zeros > lens), zeros, 0)
        if mostly.any():
            self._find("mostly zeros", mostly, "left as they are")

    def _early(self, after: Ints) -> None:
        """Note series that end before the others: where stamps are those of a calendar, and half of
        the series or more end together. ``after`` [N]: the period behind each."""
        latest = after[self.alive].max(initial=np.iinfo(np.int64).min)
        early = self.alive & (after < latest)
        if self.calendar.unit != "step" and early.any() and 2 * early.sum() <= self.alive.sum():
            lens = np.diff(self.offsets)
            mask = np.repeat(early, lens) & (self.periods == np.repeat(after - 1, lens))
            self._find(
                "ends before the others", early.astype(np.int64), "forecast from there on", mask
            )

    def seen(self, panel: Panel) -> Bools:
        """Which points of the panel, none of whose series was refused, were not filled."""
        out = np.zeros(len(panel.values), np.bool_)
        there = ~np.isnan(self.values)
        shift = np.repeat(panel.offsets[:-1] - panel.first, np.diff(self.offsets))
        out[(self.periods + shift)[there]] = True
        return out


def _longer(stamps: Ints, calendar: Calendar) -> str:
    return f"put it into longer steps, as in --freq {coarser(stamps, calendar)}; means are taken"
