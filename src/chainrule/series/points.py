"""Rows of a table, put together series by series.

Shapes: N series, rows of the table, F regressors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chainrule.series.calendar import Bools, Ints
from chainrule.series.panel import Floats
from chainrule.series.stamps import Where

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, eq=False)
class Points:
    """What was read and not yet looked at: series by series, each in the order of time.

    Args:
        ids: Arrow array [N], in the order of first appearance; every series has a row.
        offsets: [N + 1]. stamps [rows]. values [rows]: NaN where there is none. known [rows, F].
        rows: which row of the table each was; None: they stand as they stood.
        late: rows of every series that stood behind a later one [N].
    """

    ids: pa.Array
    offsets: Ints
    stamps: Ints
    values: Floats
    known: Floats
    rows: Ints | None
    late: Ints


def gather(
    ids: pa.ChunkedArray, stamps: Ints, values: Floats, known: Floats, where: Where
) -> Points:
    """Put the rows of every series together and in the order of time.

    Raises:
        ValueError: a row without an id, or ids of a kind that can't be compared.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    require_plain(ids.type, where.source)
    if pa.types.is_string_view(ids.type):
        ids = ids.cast(pa.large_string())
    if pa.types.is_dictionary(ids.type) and any(_loose(c.dictionary) for c in ids.chunks):
        ids = ids.cast(ids.type.value_type)
    if ids.null_count:
        row = int(pc.index(pc.is_null(ids), True).as_py())
        raise ValueError(f"{where(row)}: a row without an id: fill it in or drop the row")
    codes = _codes(ids)
    starts = np.concatenate([[0], np.flatnonzero(codes[1:] != codes[:-1]) + 1])
    lens = np.diff(starts, append=len(codes))
    _, firsts, kinds = np.unique(codes[starts], return_index=True, return_inverse=True)
    order: Ints | None = None
    if len(firsts) < len(starts):  # series are mixed: number them as they first appear
        rank = np.empty(len(firsts), np.int64)
        rank[np.argsort(firsts)] = np.arange(len(firsts))
        series = np.repeat(rank[kinds], lens)
        order = np.argsort(series, kind="stable")
        starts = starts[np.sort(firsts)]
        lens = np.bincount(series, minlength=len(firsts))
    names = ids.take(starts).combine_chunks()
    names = names.cast(names.type.value_type) if hasattr(names.type, "value_type") else names
    return _in_time(names, lens, stamps, values, known, order)


def require_plain(ids: pa.DataType, source: str) -> None:
    """Go on only if ids of this type can be compared.

    Raises:
        ValueError: they are lists, structs or something that only its maker knows.
    """
    import pyarrow as pa

    if pa.types.is_nested(ids) or isinstance(ids, pa.BaseExtensionType):
        raise ValueError(f"{source}: ids are {ids}: turn them into text or numbers")


def _loose(dictionary: pa.Array) -> bool:
    """Whether a word of a dictionary is there twice, or is no word."""
    import pyarrow.compute as pc

    return bool(dictionary.null_count or pc.count_distinct(dictionary).as_py() < len(dictionary))


def of_wide(ids: pa.Array, stamps: Ints, columns: Floats) -> Points:
    """From values [N, rows] that share their stamps [rows]."""
    order = None
    if (np.diff(stamps) < 0).any():
        order = np.argsort(stamps, kind="stable")
    late = np.full(len(ids), int((np.diff(stamps) < 0).sum()), np.int64)
    rows = np.arange(len(stamps)) if order is None else order
    return Points(
        ids=ids,
        offsets=np.arange(len(ids) + 1) * len(stamps),
        stamps=np.tile(stamps[rows], len(ids)),
        values=(columns if order is None else columns[:, order]).reshape(-1),
        known=np.zeros((columns.size, 0)),
        rows=np.tile(rows, len(ids)),
        late=late,
    )


def _codes(ids: pa.ChunkedArray) -> Ints:
    """Equal numbers for equal ids."""
    import pyarrow as pa

    if pa.types.is_integer(ids.type):
        return np.asarray(ids.to_numpy())
    coded = ids if pa.types.is_dictionary(ids.type) else ids.dictionary_encode()
    return np.asarray(coded.combine_chunks().indices.to_numpy())


def next_is_same(offsets: Ints) -> Bools:
    """Whether a row and the next one are of one series [rows - 1]."""
    out = np.ones(max(0, int(offsets[-1]) - 1), np.bool_)
    inner = offsets[1:-1]
    out[inner[(inner > 0) & (inner <= len(out))] - 1] = False  # series may be empty
    return out


def _in_time(
    ids: Any, lens: Ints, stamps: Ints, values: Floats, known: Floats, order: Ints | None
) -> Points:
    offsets = np.concatenate([[0], np.cumsum(lens)])
    if order is not None:
        stamps = stamps[order]
    late = (stamps[1:] < stamps[:-1]) & next_is_same(offsets)
    counts = np.zeros(len(ids), np.int64)
    if late.any():
        counts = np.add.reduceat(np.append(False, late), offsets[:-1], dtype=np.int64)
        again = np.lexsort((stamps, np.repeat(np.arange(len(ids)), lens)))
        stamps = stamps[again]
        order = again if order is None else order[again]
    if order is not None:
        values, known = values[order], known[order]
    return Points(ids, offsets, stamps, values, known, order, counts)


def chosen(points: Points, kept: Bools) -> Points:
    """The named series (bool [N])."""
    import pyarrow as pa

    lens = np.diff(points.offsets)
    row = np.flatnonzero(np.repeat(kept, lens))
    return Points(
        ids=points.ids.filter(pa.array(kept)),
        offsets=np.append(0, np.cumsum(lens[kept])),
        stamps=points.stamps[row],
        values=points.values[row],
        known=points.known[row],
        rows=row if points.rows is None else points.rows[row],
        late=points.late[kept],
    )


def led(points: Points, stamps: Ints, values: Floats) -> Points:
    """With a point [N] before the others of every series; of it no regressors are known."""
    at = points.offsets[:-1]
    rows = np.arange(len(points.values)) if points.rows is None else points.rows
    return Points(
        ids=points.ids,
        offsets=points.offsets + np.arange(len(points.offsets)),
        stamps=np.insert(points.stamps, at, stamps),
        values=np.insert(points.values, at, values),
        known=np.insert(points.known, at, np.nan, axis=0),
        rows=np.insert(rows, at, 0),
        late=points.late,
    )


# ---- sums and the like over series that stand one after the other ----


def sums(what: NDArray[np.bool_] | Ints, offsets: Ints) -> Ints:
    """How much of [rows] every series has [N]; series may be empty."""
    total = np.zeros(len(what) + 1, np.int64)
    np.cumsum(what, out=total[1:])
    out: Ints = total[offsets[1:]] - total[offsets[:-1]]
    return out


def filled(values: Floats, offsets: Ints) -> Floats:
    """Straight lines over NaN within a series, the nearest value at its ends. What a series
    without any value gets has no meaning."""
    good, holes = np.flatnonzero(~np.isnan(values)), np.flatnonzero(np.isnan(values))
    if not len(holes) or not len(good):
        return values
    next_ = np.searchsorted(good, holes)
    before, after = good[np.maximum(next_ - 1, 0)], good[np.minimum(next_, len(good) - 1)]
    series = np.searchsorted(offsets, holes, "right") - 1
    before = np.where((before > holes) | (before < offsets[series]), after, before)
    after = np.where((after < holes) | (after >= offsets[series + 1]), before, after)
    share = (holes - before) / np.maximum(after - before, 1)
    out = values.copy()
    out[holes] = values[before] * (1 - share) + values[after] * share
    return out


def ends(periods: Ints, offsets: Ints) -> tuple[Ints, Ints]:
    """The first and the last period of every series; 0 of those without."""
    if not len(periods):
        return np.zeros_like(offsets[1:]), np.zeros_like(offsets[1:])
    last = len(periods) - 1
    return periods[np.minimum(offsets[:-1], last)], periods[np.maximum(offsets[1:] - 1, 0)]


def missing_before(periods: Ints, offsets: Ints) -> Ints:
    """The steps that are missing right before every row [rows]."""
    out = np.diff(periods, prepend=periods[:1]) - 1
    out[offsets[:-1][np.diff(offsets) > 0]] = 0
    return out


def means(values: Floats, first: Ints) -> Floats:
    """The mean of what is not NaN from one row of ``first`` to the next."""
    there = ~np.isnan(values)
    total = np.add.reduceat(np.where(there, values, 0.0), first)
    counts = np.add.reduceat(there, first, dtype=np.int64)
    out: Floats = np.where(counts > 0, total / np.maximum(counts, 1), np.nan)
    return out
