"""Many series on one calendar, without holes: what models are fitted to.

Shapes: N series, points (of all series, one after the other), F regressors, H horizon.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chainrule.series.calendar import Bools, Calendar, Ints

if TYPE_CHECKING:
    import pyarrow as pa

    from chainrule.series.batch import Ragged

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Origin:
    """What data came from, so that forecasts go back as the same.

    Args:
        kind: "arrow", "array" (NumPy and lists), "file", or the name of a frame's library.
        source: the file's name, or a word for what it was. id_col, time_col, target_col: names.
        time: the Arrow type of stamps. single: one series, without a name of its own.
    """

    kind: str
    source: str
    id_col: str
    time_col: str
    target_col: str
    time: pa.DataType
    single: bool = False


@dataclass(frozen=True, eq=False)
class Panel:
    """N series, each with a value in every period from its first to its last.

    Series stand in the order in which they first appear in the data. One that was refused has no
    points, and ``first`` is the period after its last stamp.

    Args:
        ids: Arrow array [N] of any type.
        values: [points], finite. offsets: [N + 1]; series i is values[offsets[i]:offsets[i + 1]].
        first: [N], the period of every series' first value.
        status: Arrow dictionary of strings [N]: "ok", what was repaired, or why it was refused.
        known: regressors beside every value [points, F]. names: of them.
    """

    ids: pa.Array
    values: Floats
    offsets: Ints
    first: Ints
    status: pa.DictionaryArray
    calendar: Calendar
    origin: Origin
    known: Floats
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lens(self) -> Ints:
        """Points of every series [N]."""
        return np.diff(self.offsets)

    @property
    def season(self) -> int:
        """The calendar's; of one that no series has seen the whole of, no more than shows that."""
        return min(self.calendar.season, int(self.lens.max(initial=0)) + 1)

    @property
    def ok(self) -> Bools:
        """Which series were not refused [N]."""
        return self.lens > 0

    def ragged(self) -> Ragged:
        """For the numerical part, on the CPU: every series, also those without points."""
        import torch

        from chainrule.series.batch import Ragged

        offsets = torch.from_numpy(_own(self.offsets))
        known = torch.from_numpy(_own(self.known)) if self.names else None
        first = torch.from_numpy(_own(self.first))
        values = torch.from_numpy(_own(self.values))
        return Ragged(values, offsets[:-1], offsets[1:], known, first)

    def select(self, rows: NDArray[Any]) -> Panel:
        """The named series (numbers, or bool [N]), in that order."""
        at = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        lens = self.lens[at]
        offsets = np.concatenate([[0], np.cumsum(lens)])
        points = np.arange(offsets[-1]) + np.repeat(self.offsets[at] - offsets[:-1], lens)
        return replace(
            self,
            ids=self.ids.take(at),
            values=self.values[points],
            offsets=offsets,
            first=self.first[at],
            status=self.status.take(at),
            known=self.known[points],
        )

    def chunks(self, size: int) -> Iterator[Panel]:
        """The same series, ``size`` at a time, over the same values."""
        for begin in range(0, len(self), size):
            end = min(begin + size, len(self))
            low, high = self.offsets[begin], self.offsets[end]
            yield replace(
                self,
                ids=self.ids[begin:end],
                values=self.values[low:high],
                offsets=self.offsets[begin : end + 1] - low,
                first=self.first[begin:end],
                status=self.status[begin:end],
                known=self.known[low:high],
            )

    def future(self, horizon: int) -> Ints:
        """The next periods of every series [N, H]."""
        following: Ints = (self.first + self.lens)[:, None] + np.arange(horizon)
        return following

    def noted(self, rows: NDArray[Any], remark: str) -> Panel:
        """With a remark added to the status of the named series (numbers, or bool [N])."""
        import pyarrow as pa

        codes = self.status.indices.to_numpy().copy()
        words = self.status.dictionary.to_pylist()
        kinds, which = np.unique(codes[rows], return_inverse=True)
        codes[rows] = len(words) + which
        words += [remark if words[k] == "ok" else f"{words[k]}; {remark}" for k in kinds]
        status = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(words))
        return replace(self, status=status)

    def without(self, rows: Ints, reasons: list[str]) -> Panel:
        """With the series of these numbers refused: their points dropped, reasons in the status."""
        import pyarrow as pa

        words = self.status.to_pylist()
        for row, reason in zip(rows.tolist(), reasons, strict=True):
            words[row] = reason if words[row] == "ok" else f"{reason}; {words[row]}"
        kept = np.ones(len(self), np.bool_)
        kept[rows] = False
        there = np.repeat(kept, self.lens)
        return replace(
            self,
            values=self.values[there],
            offsets=np.append(0, np.cumsum(np.where(kept, self.lens, 0))),
            first=np.where(kept, self.first, self.first + self.lens),
            status=pa.array(words, pa.string()).dictionary_encode(),
            known=self.known[there],
        )


def _own(array: NDArray[Any]) -> NDArray[Any]:
    """Memory that may be written to, as torch wants it: what Arrow lends may not."""
    return array if array.flags.writeable else array.copy()
