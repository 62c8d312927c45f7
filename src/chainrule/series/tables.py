"""What people have (files, frames of any library) as Arrow tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.series.csv_files import STDIN, Outline, first_twice, outline, read_csv
from chainrule.series.layout import Layout, Names, layout_of, near_to, with_commas
from chainrule.series.panel import Floats
from chainrule.series.stamps import Where, looks_like_time

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET = (".parquet", ".pq")
TEXT = (".csv", ".tsv", ".txt")
_INDEX = "__index_level_0__"  # what an index without a name becomes in Arrow


@dataclass(frozen=True, eq=False)
class Source:
    """A table, and what it came from. ``kind`` as in ``Origin``."""

    table: pa.Table
    layout: Layout
    kind: str
    where: Where
    notes: tuple[str, ...] = ()


def is_array(source: Any) -> bool:
    """Numbers without names: lists, arrays, tensors."""
    kind = type(source)  # asking a lazy frame itself would make it work
    frame = hasattr(kind, "columns") or hasattr(kind, "to_frame")
    return isinstance(source, list | tuple) or (hasattr(source, "__array__") and not frame)


def floats(array: Any, wanted: str) -> Floats:
    """Numbers without names as float64; NaN for None, and where a mask hides them.

    Raises:
        ValueError: words, stamps, complex numbers, rows of several lengths; and what is wanted.
    """
    try:
        array = array.detach() if hasattr(array, "detach") else array
        if isinstance(array, np.ma.MaskedArray):
            array = np.ma.filled(array.astype(np.float64), np.nan)
        if np.asarray(array).dtype.kind in "cmMV":
            raise TypeError
        return np.asarray(array, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"the array: {wanted}") from None


def open_source(source: Any, names: Names) -> Source:
    """A file by its path (``-``: CSV from standard input), or a frame.

    Raises:
        ValueError: it can't be read, or has no such columns: one line with place and remedy.
    """
    if isinstance(source, str | Path):
        return _open_file(str(source), names)
    return _open_frame(source, names)


# ---- files ----


def existing(path: str | Path) -> Path:
    """The file of a path.

    Raises:
        ValueError: there is none, or it is a folder.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise ValueError(f"{path}: a folder: give the path of one file in it")
    if not file.is_file():
        near = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
        sample = Path(__file__).parents[1] / "assets" / file.name
        along = f"; the one of the package is {sample}" if sample.is_file() else ""
        raise ValueError(f"{path}: no such file{along or near_to(file.name, near)}")
    return file


@contextmanager
def opened_parquet(path: str | Path) -> Iterator[None]:
    """What Parquet says while a file is read, as one line.

    Raises:
        ValueError: the file is damaged, encrypted or no Parquet at all.
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        why = str(error).partition("\n")[0]
        raise ValueError(f"{path}: not a Parquet file, or damaged ({why})") from None


def _open_file(path: str, names: Names) -> Source:
    suffix = Path(path.lower().removesuffix(".gz")).suffix
    file = Path(path)
    if path != STDIN:
        file = existing(path)
        if suffix in PARQUET:
            return _open_parquet(file, names)
        if suffix in (".xlsx", ".xls", ".ods"):
            raise ValueError(f"{path}: save the sheet as CSV UTF-8: workbooks are not read")
        if suffix not in TEXT:
            kinds = ", ".join((*TEXT, *PARQUET))
            raise ValueError(
                f"{path}: what is {suffix or 'a name without an ending'}? Read are {kinds}"
            )
    found, data = outline(str(file) if path != STDIN else path)
    layout = layout_of(_sample(found), names, found.source)
    wanted = [n for n in (layout.id, layout.time) if n is not None]
    table = read_csv(str(file), found, data, layout.columns, wanted)
    table, layout = _without_empty(table, layout)
    for name in (*layout.values, *layout.known) if found.comma else ():
        i = table.column_names.index(name)
        table = table.set_column(i, name, with_commas(table.column(i)))
    if layout.id is not None:
        ids = _ids(table.column(layout.id))
        table = table.set_column(table.column_names.index(layout.id), layout.id, ids)
    return Source(table, layout, "file", found.where, found.notes)


def _sample(found: Outline) -> pa.Table:
    """The first rows as text."""
    import pyarrow as pa

    width = len(found.names)
    rows = [row for row in found.sample if len(row) == width]
    columns = [pa.array([row[i] for row in rows], pa.string()) for i in range(width)]
    return pa.table(columns, found.names)


def _ids(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids that are written as plain whole numbers, as numbers; null where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pc.if_else(pc.equal(column, ""), None, column)
    plain = pc.match_substring_regex(column, r"^(0|-?[1-9]\d{0,17})$")
    return column.cast(pa.int64()) if pc.all(plain).as_py() else column


def _without_empty(table: pa.Table, layout: Layout) -> tuple[pa.Table, Layout]:
    """Wide tables without the columns that have neither a name nor a value (Excel's)."""
    empty = [
        n
        for n in layout.values
        if n.startswith("column ") and table.column(n).null_count == len(table)
    ]
    kept = tuple(n for n in layout.values if n not in empty)
    return table.drop_columns(empty), replace(layout, values=kept)


def head_of(source: Any) -> tuple[pa.Table, str]:
    """The first rows of a file, or all of a frame, and what it is called.

    Raises:
        ValueError: it can't be read.
    """
    import narwhals as nw
    import pyarrow as pa
    from pyarrow import parquet

    if not isinstance(source, str | Path):
        if isinstance(source, pa.Table):
            return source, "the frame"
        try:
            wrapped = nw.from_native(source)
        except TypeError:
            raise ValueError(f"a {type(source).__name__} is no frame") from None
        wrapped = wrapped.collect() if isinstance(wrapped, nw.LazyFrame) else wrapped
        return wrapped.to_arrow(), "the frame"
    file = existing(source)
    if file.suffix.lower() not in PARQUET:
        return _sample(outline(str(file))[0]), str(source)
    with opened_parquet(source), parquet.ParquetFile(file) as opened:
        return parquet_head(opened), str(source)


def _open_parquet(file: Path, names: Names) -> Source:
    from pyarrow import parquet

    with opened_parquet(file), parquet.ParquetFile(file) as opened:
        head = parquet_head(opened)
    layout = layout_of(head, names, str(file))
    with opened_parquet(file):
        table = parquet.read_table(file, columns=layout.columns)
    if not len(table):
        raise ValueError(f"{file}: there are columns, but no rows")
    return Source(table, layout, "file", Where(str(file), "row", 1))


def parquet_head(opened: Any) -> pa.Table:
    """The first rows of a Parquet file."""
    import pyarrow as pa

    first = next(opened.iter_batches(batch_size=20), None)
    return opened.schema_arrow.empty_table() if first is None else pa.table(first)


# ---- frames ----


def _open_frame(frame: Any, names: Names) -> Source:
    import narwhals as nw
    import pyarrow as pa

    if isinstance(frame, pa.Table | pa.RecordBatch):
        table = pa.table(frame) if isinstance(frame, pa.RecordBatch) else frame
        return _of_table(table, names, "arrow")
    if hasattr(frame, "to_frame"):  # a series of pandas or polars, with its index
        name = getattr(frame, "name", None)
        frame = frame.to_frame(name if isinstance(name, str) and name else names.target)
    if nw.dependencies.is_pandas_like_dataframe(frame):
        frame = _of_pandas(frame)
    try:
        wrapped = nw.from_native(frame)
    except TypeError:
        raise ValueError(
            f"series can't be read from a {type(frame).__name__}: give a frame of pandas, polars "
            "or Arrow, an array, or the path of a .csv or .parquet file"
        ) from None
    wrapped = wrapped.collect() if isinstance(wrapped, nw.LazyFrame) else wrapped
    try:
        table = wrapped.to_arrow()
    except (pa.ArrowException, TypeError) as error:
        why = "; ".join(map(str, error.args))
        raise ValueError(f"the frame: values of several kinds in a column: {why}") from None
    return _of_table(table, names, wrapped.implementation.value)


def _of_table(table: pa.Table, names: Names, kind: str) -> Source:
    import pyarrow as pa

    if _INDEX in table.column_names:
        index = table.column(_INDEX)
        timely = looks_like_time(index) or isinstance(index.type, pa.BaseExtensionType)  # Periods
        if timely and names.time not in table.column_names:
            table = table.rename_columns(
                [names.time if n == _INDEX else n for n in table.column_names]
            )
        else:
            table = table.drop_columns(_INDEX)
    if not len(table):
        raise ValueError("the frame has no rows")
    layout = layout_of(table, names, "the frame")
    return Source(table.select(layout.columns), layout, kind, Where("the frame"))


def _of_pandas(frame: Any) -> Any:
    """With words for the names of columns.

    Raises:
        ValueError: names that are there twice, or stamps of several zones: pandas keeps these as
            objects, which Arrow would take for one zone.
    """
    words = [str(name) for name in frame.columns]
    twice = first_twice(words)
    if twice is not None:
        raise ValueError(f"the frame: two columns are called {twice!r}: rename one")
    columns = [("index", frame.index)]
    columns += [(words[i], frame.iloc[:, i]) for i in np.flatnonzero(frame.dtypes == "object")]
    for name, column in columns:
        if column.dtype != "object" or not hasattr(next(iter(column), None), "tzinfo"):
            continue
        zones = {str(v.tzinfo) for v in column if hasattr(v, "tzinfo")}
        if len(zones) > 1:
            raise ValueError(
                f"the frame: {name!r} has several time zones ({' and '.join(sorted(zones)[:2])}): "
                "bring all stamps into one, as by .dt.tz_convert or pandas.to_datetime(…, utc=True)"
            )
    return frame if words == list(frame.columns) else frame.set_axis(words, axis=1)
