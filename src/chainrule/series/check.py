"""What was found in data, and what was done about it.

Policies, for each series on its own: "fill" (a straight line over what is missing), "split" (what
is before the last long gap is dropped, shorter ones are filled), "refuse" (a series that lacks
anything is left out).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Policy = Literal["fill", "split", "refuse"]
POLICIES = ("fill", "split", "refuse")
LISTED = 1000  # statuses that a check holds; the panel has them all


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found.

    Args:
        what: it is. series: how many have it. points: how many are it, in all.
        first: the first one: series, stamp, file and line. done: what was done about it.
    """

    what: str
    series: int
    points: int
    first: str
    done: str


@dataclass(frozen=True)
class Check:
    """What is in some data and what was done to it.

    Args:
        layout: "long", "wide", "one column" or "array".
        begin, end: the first and the last stamp.
        frequency: as pandas writes it; the step where stamps are numbers. season: periods.
        series, points: as they are after repair, refused series included. refused: how many.
        repaired: how many series were changed.
        status: of the series that are not "ok", the first 1,000.
        notes: how the data were read, where that was a choice.
    """

    source: str
    layout: str
    begin: str
    end: str
    frequency: str
    season: int
    policy: Policy
    series: int
    points: int
    refused: int
    repaired: int
    findings: tuple[Finding, ...]
    status: dict[str, str]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names."""
        return asdict(self)

    @staticmethod
    def header() -> tuple[str, ...]:
        """Names of the columns of ``rows``."""
        return "found", "series", "points", "first", "done"

    def rows(self) -> list[tuple[str, ...]]:
        """The findings, as a table."""
        return [(f.what, f"{f.series:,}", f"{f.points:,}", f.first, f.done) for f in self.findings]

    def summary(self) -> str:
        """One line on the data as they are used."""
        steps = "step" if self.frequency.isdecimal() else "frequency"
        return (
            f"{self.source}: {self.layout}, {self.series:,} series, {self.points:,} points, "
            f"{self.begin} to {self.end}, {steps} {self.frequency}, season {self.season}; "
            f"policy {self.policy}: {self.series - self.refused - self.repaired:,} as they were, "
            f"{self.repaired:,} repaired, {self.refused:,} refused"
        )

    def lines(self) -> list[str]:
        """Notes and findings, a line each."""
        said = [f"{f.what}: {_many(f.series)}, first {f.first}; {f.done}" for f in self.findings]
        return [f"{self.source}: {line}" for line in (*self.notes, *said)]

    def require(self) -> None:
        """Go on only if a series is left.

        Raises:
            ValueError: all were refused, with the first one's reason.
        """
        if self.refused == self.series:
            refused = next(f for f in self.findings if f.what.startswith("refused"))
            raise ValueError(
                f"{self.source}: no series is left; {refused.what}: {refused.first}; {refused.done}"
            )

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in self.header())
        cells = ("".join(f"<td>{_escape(cell)}</td>" for cell in row) for row in self.rows())
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        return f"<p>{_escape(self.summary())}</p><table><tr>{head}</tr>{body}</table>"


def merged(checks: Sequence[Check]) -> Check:
    """One check of several parts of the same data, in their order."""
    found: dict[tuple[str, str], Finding] = {}
    for f in (f for check in checks for f in check.findings):
        before = found.get((f.what, f.done))
        if before is not None:
            f = replace(before, series=before.series + f.series, points=before.points + f.points)
        found[f.what, f.done] = f
    status = {k: v for check in checks for k, v in check.status.items()}
    return replace(
        checks[0],
        begin=min((c.begin for c in checks), key=_stamp),
        end=max((c.end for c in checks), key=_stamp),
        series=sum(c.series for c in checks),
        points=sum(c.points for c in checks),
        refused=sum(c.refused for c in checks),
        repaired=sum(c.repaired for c in checks),
        findings=tuple(found.values()),
        status=dict(list(status.items())[:LISTED]),
        notes=tuple(dict.fromkeys(note for c in checks for note in c.notes)),
    )


def _stamp(text: str) -> tuple[int, str]:
    """Stamps in words sort like stamps: ISO ones as they are, numbers by their value."""
    return (int(text), "") if text.lstrip("-").isdecimal() else (0, text)


def _many(series: int) -> str:
    return "1 series" if series == 1 else f"{series:,} series"


def _escape(text: str) -> str:
    import html

    return html.escape(text)
