"""Series in and out: files, frames and arrays to panels, and forecasts back as what came in.

Shapes: N series, T points of the longest, F regressors, H horizon, R rows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from chainrule.series.calendar import Ints
from chainrule.series.check import POLICIES, Check, Policy
from chainrule.series.csv_files import STDIN
from chainrule.series.layout import Layout, Names
from chainrule.series.panel import Origin, Panel
from chainrule.series.points import Points
from chainrule.series.reading import Reader
from chainrule.series.stamps import Times, Where, write_times
from chainrule.series.tables import PARQUET, floats, is_array, open_source

if TYPE_CHECKING:
    import pyarrow as pa


def read(
    source: Any,
    *,
    id_col: str = "unique_id",
    time_col: str = "ds",
    target_col: str = "y",
    known: Sequence[str] = (),
    freq: str | None = None,
    season: int | None = None,
    policy: Policy = "fill",
) -> tuple[Panel, Check]:
    """Read series, look for what is wrong with them, and mend it or leave series out.

    Args:
        source: the path of a .csv or .parquet file (``-``: CSV from standard input), a frame of
            pandas, polars, Arrow or whatever narwhals knows, an array or a list: one series, or
            one a row. Tables are long (an id, a time and a target column; one series without an
            id), wide (a time column and one for each series), or one column whose rows are steps.
        known: columns that are regressors.
        freq: as pandas writes it: "h", "15min", "D", "W-SUN", "MS"; else the stamps tell. Where
            it is given, stamps may lie anywhere in their period, and the mean of each is taken.
        season: periods of a season; else what is usual for the frequency.
        policy: see ``check``.

    Raises:
        ValueError: what can't be read: one line with place and remedy. A bad series is not that:
            it has a status in the panel, and ``Check.require`` raises if no other is left.
    """
    reader = _reader(Names(id_col, time_col, target_col, tuple(known)), freq, season, policy)
    if is_array(source):
        return read_array(source, reader)
    return reader.panel(open_source(source, reader.names))


def read_chunks(
    source: Any,
    size: int = 20_000,
    *,
    id_col: str = "unique_id",
    time_col: str = "ds",
    target_col: str = "y",
    known: Sequence[str] = (),
    freq: str | None = None,
    season: int | None = None,
    policy: Policy = "fill",
) -> Iterator[tuple[Panel, Check | None]]:
    """The same, ``size`` series at a time.

    A long Parquet file in which the rows of a series stand together, and whose stamps are not
    words, is read part by part, in memory for one part; the frequency is that of the first part.
    Anything else is read whole (of a Parquet file a note says so), and its one check comes with
    the first chunk.

    Raises:
        ValueError: see ``read``.
    """
    reader = _reader(Names(id_col, time_col, target_col, tuple(known)), freq, season, policy)
    notes: tuple[str, ...] = ()
    if isinstance(source, str | Path) and Path(source).suffix.lower() in PARQUET:
        parts = reader.parts(Path(source).expanduser(), size)
        if parts is not None:
            yield from parts
            return
        notes = (
            "it is read whole: only long tables sorted by series, with times that aren't words, "
            "are read part by part",
        )
    panel, check = (
        read_array(source, reader)
        if is_array(source)
        else reader.panel(open_source(source, reader.names))
    )
    check = replace(check, notes=(*check.notes, *notes))
    for i, chunk in enumerate(panel.chunks(size)):
        yield chunk, None if i else check


def _reader(names: Names, freq: str | None, season: int | None, policy: Policy) -> Reader:
    """Raises: ValueError: no such policy or season, or a library is missing."""
    if policy not in POLICIES:
        raise ValueError(f"--policy {policy}: there are {', '.join(POLICIES)}")
    if season is not None and not 1 <= season < 2**31:
        raise ValueError(f"--season {season}: 1 is the least, and means none; 2^31 is too long")
    for library in ("narwhals", "pyarrow"):
        if find_spec(library) is None:
            raise ValueError(f"series need {library}: pip install 'chainrule[series]'")
    return Reader(names, freq, season, policy)


def read_array(source: Any, reader: Reader) -> tuple[Panel, Check]:
    """One series, or several: the steps of each are numbered from 0.

    Raises:
        ValueError: no numbers, or a series without any.
    """
    import pyarrow as pa

    nested = isinstance(source, list | tuple) and any(np.ndim(row) for row in source)
    wanted = "one series is [T] or a list of numbers, several are [N, T] or a list"
    rows = [floats(row, wanted) for row in source] if nested else []
    whole = floats([] if nested else source, wanted)
    single = not nested and whole.ndim == 1
    if not (single or whole.ndim == 2 or nested) or any(row.ndim != 1 for row in rows):
        raise ValueError(f"the array: {wanted}")
    count, width = (1, len(whole)) if whole.ndim == 1 else whole.shape
    lens = np.array([len(r) for r in rows] if nested else [width] * count, np.int64)
    if not count or not lens.min():
        raise ValueError("the array: there is a series without values")
    offsets = np.append(0, np.cumsum(lens))
    stamps = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lens)
    points = Points(
        ids=pa.array(np.arange(len(lens))),
        offsets=offsets,
        stamps=stamps,
        values=np.concatenate(rows) if nested else whole.reshape(-1),
        known=np.zeros((int(offsets[-1]), 0)),
        rows=stamps,
        late=np.zeros_like(lens),
    )
    names = reader.names
    origin = Origin("array", "the array", names.id, names.time, names.target, pa.int64(), single)
    where, layout = Where("the array", "value"), Layout("array", names.id, None, (names.target,))
    return reader.mend(points, Times(stamps, pa.int64()), origin, where, layout, ())


# ---- out ----


def table_of(
    panel: Panel,
    columns: Mapping[str, Any],
    series: Ints | None = None,
    periods: Ints | None = None,
) -> pa.Table:
    """A long Arrow table: id, time, and the columns.

    Args:
        columns: arrays (NumPy, torch or Arrow) [N, H] for the next H steps of every series, or [N],
            which are repeated. Where ``series`` [R] (numbers) and ``periods`` [R] say what the rows
            are: [R].
    """
    import pyarrow as pa

    arrays = {k: v if isinstance(v, pa.Array) else np.asarray(v) for k, v in columns.items()}
    if series is None or periods is None:
        horizon = next(a.shape[1] for a in arrays.values() if getattr(a, "ndim", 1) == 2)
        future = panel.future(horizon)
        series, periods = np.repeat(np.arange(len(panel)), horizon), future.reshape(-1)
        arrays = {
            k: a.reshape(-1) if getattr(a, "ndim", 1) == 2 else a.take(series)
            for k, a in arrays.items()
        }
    stamps = write_times(panel.calendar.stamps(periods), panel.origin.time)
    out = {panel.origin.id_col: panel.ids.take(series), panel.origin.time_col: stamps}
    for name, array in arrays.items():
        column = array if isinstance(array, pa.Array) else pa.array(array)
        coded = pa.types.is_dictionary(column.type)
        out[name] = column.cast(column.type.value_type) if coded else column
    return pa.table(out)


def frame_of(
    panel: Panel,
    columns: Mapping[str, Any],
    series: Ints | None = None,
    periods: Ints | None = None,
) -> Any:
    """The same as what the panel came from.

    A frame of pandas or polars gives one, an Arrow table and a file give an Arrow table; all of
    them long, also where a wide one came in. Arrays give a dict of arrays as ``columns`` has them,
    without the axis of series where there was only one.
    """
    origin = panel.origin
    if origin.kind == "array":
        plain = {k: _plain(v) for k, v in columns.items()}
        return {k: v[0] if origin.single and series is None else v for k, v in plain.items()}
    table = table_of(panel, columns, series, periods)
    if origin.kind in ("arrow", "file"):
        return table
    import narwhals as nw

    backend: Any = origin.kind
    return nw.from_arrow(table, backend=backend).to_native()


def _plain(column: Any) -> Any:
    import pyarrow as pa

    arrow = isinstance(column, pa.Array)
    return column.to_numpy(zero_copy_only=False) if arrow else np.asarray(column)


class Writer:
    """Writes tables, one after the other, into one file: .csv, .parquet, or ``-`` (CSV).

    A context manager: the file appears whole when the block ends well, and not at all otherwise.

    Raises:
        ValueError: another kind of file, or a folder that isn't there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.kind = "csv" if str(path) == STDIN else self.path.suffix.lower().lstrip(".")
        if f".{self.kind}" not in (".csv", *PARQUET):
            raise ValueError(f"{path}: forecasts are written to .csv or .parquet")
        if not self.path.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {self.path.parent}")
        self._stack = ExitStack()
        self._sink: Any = None
        self._began = False

    def __enter__(self) -> Self:
        if str(self.path) == STDIN:
            self._sink = sys.stdout.buffer
        else:
            from chainrule.files import replacing

            self._sink = self._stack.enter_context(replacing(self.path))
            if self.kind == "csv":
                self._sink = self._stack.enter_context(self._sink.open("wb"))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, table: pa.Table) -> None:
        """Append rows; all tables have the same columns."""
        if self.kind == "csv":
            self._csv(table)
            return
        from pyarrow import parquet

        if not self._began:
            words = [f.name for f in table.schema if not _is_float(f.type)]  # numbers repeat rarely
            self._sink = self._stack.enter_context(
                parquet.ParquetWriter(self._sink, table.schema, use_dictionary=words)
            )
            self._began = True
        self._sink.write_table(table)

    def _csv(self, table: pa.Table) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc
        from pyarrow import csv

        columns, plain = {}, True
        for name, column in zip(table.column_names, table.columns, strict=True):
            kind = column.type
            if _is_float(kind):
                column = pc.if_else(pc.is_nan(column), None, column)
            elif pa.types.is_timestamp(kind):
                zone = "UTC" if kind.tz else None  # an offset would change with the clocks
                with suppress(pa.ArrowInvalid):  # whole seconds need no fraction
                    column = column.cast(pa.timestamp("s", kind.tz))
                column = column.cast(pa.timestamp(column.type.unit, zone))
            elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
                plain &= not pc.any(pc.match_substring_regex(column, '[,"\r\n]')).as_py()
            columns[name] = column
        if not self._began:
            self._sink.write(_header(table.column_names))
            self._began = True
        quotes = "none" if plain else "needed"
        options = csv.WriteOptions(include_header=False, quoting_style=quotes)
        csv.write_csv(pa.table(columns), self._sink, options)


def _header(names: list[str]) -> bytes:
    import csv
    import io

    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(names)
    return line.getvalue().encode()


def _is_float(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_floating(kind))
