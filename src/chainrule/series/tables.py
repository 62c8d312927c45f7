"""What people have (files, frames of any library) as Arrow tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainrule.series.csv_files import STDIN, Outline, outline, read_csv
from chainrule.series.layout import Layout, Names, layout_of, near_to
from chainrule.series.stamps import Where

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


def open_source(source: Any, names: Names) -> Source:
    """A file by its path (``-``: CSV from standard input), or a frame.

    Raises:
        ValueError: it can't be read, or has no such columns: one line with place and remedy.
    """
    if isinstance(source, str | Path):
        return _open_file(str(source), names)
    return _open_frame(source, names)


# ---- files ----


def _open_file(path: str, names: Names) -> Source:
    file = Path(path).expanduser()
    suffix = Path(path.lower().removesuffix(".gz")).suffix
    if path != STDIN:
        if not file.is_file():
            near = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
            raise ValueError(f"{path}: no such file{near_to(file.name, near)}")
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
    if layout.id is not None:
        ids = _ids(table.column(layout.id))
        table = table.set_column(table.column_names.index(layout.id), layout.id, ids)
    return Source(table, layout, "file", found.where)


def _sample(found: Outline) -> pa.Table:
    """The first rows as text."""
    import pyarrow as pa

    width = len(found.names)
    rows = [row for row in found.sample if len(row) == width]
    columns = [pa.array([row[i] for row in rows], pa.string()) for i in range(width)]
    return pa.table(columns, found.names)


def _ids(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids that are written as plain whole numbers, as numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

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

    if not isinstance(source, str | Path):
        if isinstance(source, pa.Table):
            return source, "the frame"
        try:
            wrapped = nw.from_native(source)
        except TypeError:
            raise ValueError(f"a {type(source).__name__} is no frame") from None
        wrapped = wrapped.collect() if isinstance(wrapped, nw.LazyFrame) else wrapped
        return wrapped.to_arrow(), "the frame"
    file = Path(source).expanduser()
    if not file.is_file():
        raise ValueError(f"{source}: no such file")
    if file.suffix.lower() not in PARQUET:
        return _sample(outline(str(file))[0]), str(source)
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            return parquet_head(opened), str(source)
    except pa.ArrowException as error:
        raise ValueError(f"{source}: not a Parquet file, or damaged ({error})") from None


def _open_parquet(file: Path, names: Names) -> Source:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            layout = layout_of(parquet_head(opened), names, str(file))
        table = parquet.read_table(file, columns=layout.columns)
    except pa.ArrowException as error:
        raise ValueError(f"{file}: not a Parquet file, or damaged ({error})") from None
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
    try:
        wrapped = nw.from_native(frame)
    except TypeError:
        raise ValueError(
            f"series can't be read from a {type(frame).__name__}: give a frame of pandas, polars "
            "or Arrow, an array, or the path of a .csv or .parquet file"
        ) from None
    wrapped = wrapped.collect() if isinstance(wrapped, nw.LazyFrame) else wrapped
    if wrapped.implementation.is_pandas_like():
        _one_zone(frame, names.time)
    try:
        table = wrapped.to_arrow()
    except (pa.ArrowException, TypeError) as error:
        why = "; ".join(map(str, error.args))
        raise ValueError(f"the frame: values of several kinds in a column: {why}") from None
    return _of_table(table, names, wrapped.implementation.value)


def _of_table(table: pa.Table, names: Names, kind: str) -> Source:
    import pyarrow as pa

    if _INDEX in table.column_names:
        if pa.types.is_temporal(table.schema.field(_INDEX).type):
            table = table.rename_columns(
                [names.time if n == _INDEX else n for n in table.column_names]
            )
        else:
            table = table.drop_columns(_INDEX)
    if not len(table):
        raise ValueError("the frame has no rows")
    layout = layout_of(table, names, "the frame")
    return Source(table.select(layout.columns), layout, kind, Where("the frame"))


def _one_zone(frame: Any, name: str) -> None:
    """pandas keeps stamps of several zones as objects, which Arrow would take for one zone."""
    if name in frame.columns and str(frame[name].dtype) == "object":
        column = frame[name]
        zones = {str(v.tzinfo) for v in column if hasattr(v, "tzinfo")}
        if len(zones) > 1:
            raise ValueError(
                f"the frame: {name!r} has several time zones ({' and '.join(sorted(zones)[:2])}): "
                "bring all stamps into one, as by .dt.tz_convert or pandas.to_datetime(…, utc=True)"
            )
