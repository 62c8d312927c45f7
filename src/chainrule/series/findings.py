"""What is found while series are read, and what is said of each: what ``repair`` writes down.

Shapes: N series, rows (of all series, one after the other).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chainrule.series.calendar import Bools, Calendar, Ints
from chainrule.series.check import LISTED, Check, Finding, Policy
from chainrule.series.panel import Origin, Panel
from chainrule.series.points import Points
from chainrule.series.stamps import Where, write_times

if TYPE_CHECKING:
    import pyarrow as pa

FILL = "--policy fill would mend it"
_ONE = {  # of findings that are named in the plural
    "missing steps": "missing step{s}",
    "infinities": "infinite value{s}",
    "duplicates": "duplicate{s}",
    "stamps between steps": "stamp{s} between steps",
}


class Findings:
    """Findings, remarks, and which series are still alive.

    Args:
        points: what was read. calendar: which all are on. policy: see ``check``.
    """

    def __init__(
        self, points: Points, calendar: Calendar, origin: Origin, where: Where, policy: Policy
    ) -> None:
        self.points, self.calendar, self.origin, self.where = points, calendar, origin, where
        self.policy, self.offsets = policy, points.offsets
        self.rows: Ints | None = None  # which of the points' rows are left; None: all
        self.alive = np.ones(len(points.ids), np.bool_)
        self.touched = np.zeros(len(points.ids), np.bool_)
        self.remarks: list[tuple[str, Ints]] = []
        self.findings: list[Finding] = []

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
            reason = f"{{}} {_ONE.get(what, literal(what))}"
            self._refuse(what, counts, reason, FILL, mask)
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


def literal(text: str) -> str:
    """Text that stands as it is in a remark, which has a place for a count."""
    return text.replace("{", "{{").replace("}", "}}")


def text_of(stamp: int, origin: Origin) -> str:
    """A stamp for people."""
    return str(write_times(np.array([stamp]), origin.time)[0].as_py())


def _said(texts: list[str], counts: list[int]) -> str:
    """The remarks that have a count; why a series was refused comes first."""
    both = zip(texts, counts, strict=True)
    said = [t.format(f"{n:,}", s="s" * (n != 1)) for t, n in both if n]
    return "; ".join(sorted(said, key=lambda s: not s.startswith("refused")))
