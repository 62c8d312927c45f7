"""Tables to panels: the whole at once, or a sorted Parquet file part by part.

Shapes: N series, rows of a table, F regressors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.series.calendar import Calendar, Ints, infer, named
from chainrule.series.check import Check, Policy
from chainrule.series.layout import Layout, Names, layout_of, read_numbers
from chainrule.series.panel import Floats, Origin, Panel
from chainrule.series.points import Points, gather, next_is_same, of_wide, require_plain
from chainrule.series.repair import Repair
from chainrule.series.stamps import Times, Where, is_text, kind_for, read_times
from chainrule.series.tables import Source, existing, opened_parquet, parquet_head

_ENOUGH = 10**6  # stamps that tell the frequency
_BATCH = 2**20  # rows that are decoded at a time


class Reader:
    """How some data are read: what its first part told holds for all of it.

    Args:
        freq, season: as they were asked for, or None.
    """

    def __init__(self, names: Names, freq: str | None, season: int | None, policy: Policy) -> None:
        self.names, self.freq, self.season, self.policy = names, freq, season, policy
        self.calendar: Calendar | None = None

    def panel(self, source: Source) -> tuple[Panel, Check]:
        """A whole table.

        Raises:
            ValueError: one line with place and remedy.
        """
        import pyarrow as pa

        table, layout, where = source.table, source.layout, source.where
        values = [read_numbers(table.column(n), n, where) for n in layout.values]
        if layout.time is None:
            times = Times(np.arange(len(table)), pa.int64(), note="no time column: rows are steps")
        else:
            times = read_times(table.column(layout.time), layout.time, where)
        known = _matrix([read_numbers(table.column(n), n, where) for n in layout.known], len(table))
        if layout.id is None:
            points = of_wide(pa.array(layout.values), times.stamps, np.stack(values))
            points = replace(points, known=known if points.rows is None else known[points.rows])
        else:
            ids = table.column(layout.id)
            points = gather(ids, times.stamps, values[0], known, where)
        # Dates that were words or numbers become times in frames: their users count on them.
        made = times.kind == pa.date32() and table.column(layout.time).type != pa.date32()
        kept = source.kind in ("file", "arrow") or not made
        origin = Origin(
            kind=source.kind,
            source=where.source,
            id_col=self.names.id,
            time_col=layout.time or self.names.time,
            target_col=self.names.target,
            time=times.kind if kept else pa.timestamp("us"),
            single=layout.id is None and len(values) == 1,
        )
        notes = tuple(n for n in (*source.notes, times.note) if n)
        return self.mend(points, times, origin, where, layout, notes)

    def mend(
        self,
        points: Points,
        times: Times,
        origin: Origin,
        where: Where,
        layout: Layout,
        notes: tuple[str, ...],
    ) -> tuple[Panel, Check]:
        """Points on their calendar, without holes."""
        if self.calendar is None:
            try:
                self.calendar = self._calendar(points, times)
            except ValueError as error:
                raise ValueError(f"{origin.source}: {error}") from None
        origin = replace(origin, time=kind_for(origin.time, self.calendar))
        repair = Repair(
            points,
            self.calendar,
            origin,
            where,
            policy=self.policy,
            strict=self.freq is None,
            names=layout.known,
            spare=layout.spare,
            season=self.season,
        )
        panel = repair.run()
        return panel, repair.check(panel, layout.kind, notes)

    def _calendar(self, points: Points, times: Times) -> Calendar:
        stamps = points.stamps[:_ENOUGH]
        same = next_is_same(points.offsets)[: len(stamps) - 1]
        if self.freq is None:
            found = infer(stamps, same, times.numbered, times.zone)
        else:
            found = named(self.freq, stamps, times.numbered, times.zone)
        return found if self.season is None else replace(found, season=self.season)

    # ---- part by part ----

    def parts(self, path: Path, size: int) -> Iterator[tuple[Panel, Check]] | None:
        """``size`` series of a long Parquet file at a time; None where the file isn't long, the
        rows of a series don't stand together, or stamps are words, which are read by all of them.

        Raises:
            ValueError: no such file, or not a Parquet file.
        """
        import pyarrow as pa
        from pyarrow import parquet

        with opened_parquet(path), parquet.ParquetFile(existing(path)) as opened:
            head = parquet_head(opened)
        layout = layout_of(head, self.names, str(path))
        if layout.id is None or layout.time is None or not len(head):
            return None
        ids, times = (head.schema.field(n).type for n in (layout.id, layout.time))
        require_plain(ids, str(path))
        if is_text(times) or pa.types.is_string_view(ids):
            return None
        with opened_parquet(path):
            starts = _starts(path, layout.id)
        if starts is None:
            return None
        return self._parts(path, layout, [*starts[:-1:size].tolist(), int(starts[-1])])

    def _parts(self, path: Path, layout: Layout, edges: list[int]) -> Iterator[tuple[Panel, Check]]:
        import pyarrow as pa

        assert layout.id is not None
        held: list[Any] = []
        rows, done = 0, 0
        batches = _batches(path, layout.id, layout.columns)
        for begin, end in pairwise(edges):
            while rows < end - done:
                with opened_parquet(path):
                    held.append(next(batches))
                rows += len(held[-1])
            table = pa.Table.from_batches(held)
            part, rest = table.slice(0, end - done), table.slice(end - done)
            held, rows, done = rest.to_batches(), len(rest), end
            where = Where(str(path), "row", begin + 1)
            yield self.panel(Source(part, layout, "file", where))


def _matrix(columns: list[Floats], rows: int) -> Floats:
    return np.stack(columns, 1) if columns else np.zeros((rows, 0))


def _batches(path: Path, id_col: str, columns: list[str]) -> Iterator[Any]:
    """Rows in their order, ids as a dictionary where they are text: it is read as it is stored."""
    import pyarrow as pa
    from pyarrow import parquet

    kind = parquet.read_schema(path).field(id_col).type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    dictionary = [id_col] if text else None
    # What is read ahead would stay in memory until the end.
    with parquet.ParquetFile(path, read_dictionary=dictionary, pre_buffer=False) as opened:
        yield from opened.iter_batches(batch_size=_BATCH, columns=columns)


def _starts(path: Path, id_col: str) -> Ints | None:
    """The first row of every series and the number of rows; None where series are mixed."""
    import pyarrow as pa
    import pyarrow.compute as pc

    first, names, rows = [np.zeros(0, np.int64)], [], 0
    last = None
    for batch in _batches(path, id_col, [id_col]):
        column = batch.column(0)
        if column.null_count:
            return None
        codes = column.indices if pa.types.is_dictionary(column.type) else column
        if not pa.types.is_integer(codes.type):
            codes = codes.dictionary_encode().indices
        codes = codes.to_numpy(zero_copy_only=False)
        starts = np.append(0, np.flatnonzero(codes[1:] != codes[:-1]) + 1)
        heads = column.take(pa.array(starts))
        if pa.types.is_dictionary(heads.type):
            heads = heads.cast(heads.type.value_type)
        if last is not None and heads[0].as_py() == last:
            starts, heads = starts[1:], heads[1:]
        first.append(starts + rows)
        names.append(heads)
        rows += len(column)
        last = heads[-1].as_py() if len(heads) else last
    every = pa.chunked_array(names)
    if pc.count_distinct(every).as_py() < len(every):
        return None
    return np.append(np.concatenate(first), rows)
