"""CSV as people have it: any delimiter, decimal commas, byte order marks, no header for one column.

What can't be read is a ValueError with file, line and remedy.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chainrule.series.stamps import Where, looks_like_time

if TYPE_CHECKING:
    import pyarrow as pa

STDIN = "-"
_HEAD = 2**18  # bytes that are looked at before a file is read, if they are some lines
_LONGEST = 2**26  # bytes of a few lines
_FIELD = 2**17  # characters of a cell
NULLS = ["", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None", "-", ".", "?"]
_NUMBER = re.compile(r"\s*[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?\s*")
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")
_EITHER_COMMA = re.compile(r"\s*[-+]?[1-9]\d{0,2},\d{3}\s*")
_DAMAGED = "damaged, or not what its name says"


@dataclass(frozen=True)
class Outline:
    """What the head of a CSV file tells.

    Args:
        names: of the columns. A lone column without a header is called as the file is.
        skip: lines before the data. delimiter. comma: decimals have a comma.
        sample: text of the first rows. even: each is on a line of its own. head: bytes of them.
    """

    source: str
    names: tuple[str, ...]
    skip: int
    delimiter: str
    comma: bool
    sample: tuple[tuple[str, ...], ...]
    even: bool
    head: int

    @property
    def where(self) -> Where:
        return (
            Where(self.source, "line", self.skip + 1) if self.even else Where(self.source, "row", 1)
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """How numbers are read, where that is a choice."""
        cells = [c for row in self.sample for c in row if _DECIMAL_COMMA.fullmatch(c)]
        if not self.comma or not all(map(_EITHER_COMMA.fullmatch, cells)):
            return ()
        return (f"numbers like {cells[0].strip()} are read with a decimal comma",)


def outline(path: str) -> tuple[Outline, bytes | None]:
    """Look at the head of a file (also a gzipped one); standard input is read whole.

    Raises:
        ValueError: not a CSV in UTF-8, no rows, two columns of one name.
    """
    import pyarrow as pa

    name, data = path, None
    if path == STDIN:
        name, data = "standard input", sys.stdin.buffer.read()
        head, whole = _head(io.BytesIO(data))
    else:
        try:
            with pa.input_stream(path, compression="detect") as stream:
                head, whole = _head(stream)
        except (pa.ArrowException, OSError) as error:
            if getattr(error, "errno", None) is not None:  # a folder's rights, a disk's faults
                raise
            raise ValueError(f"{path}: {_DAMAGED} ({error})") from None
    try:
        return _outline(name, _text(name, head), whole), data
    except csv.Error as error:
        raise ValueError(f"{name}: {error} in its first lines; is a quote left open?") from None


def _head(stream: Any) -> tuple[bytes, bool]:
    """The first bytes, so many that there are some lines, and whether these are all."""
    head = stream.read(_HEAD)
    while len(head) < _LONGEST and len(head.splitlines()) < 5:
        more = stream.read(len(head) or 1)
        if not more:
            return head, True
        head += more
    return head, not stream.read(1)


def _text(name: str, head: bytes) -> str:
    if head.startswith(b"PK"):
        raise ValueError(f"{name}: an Excel workbook or a zip file: save the sheet as CSV UTF-8")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
        raise ValueError(f"{name}: UTF-16 or binary, not text: save it as CSV UTF-8")
    try:
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # else the head ends within a character
            raise ValueError(
                f"{name}, line {head[: error.start].count(10) + 1}: byte {error.start} is not "
                "UTF-8: save the file as CSV UTF-8"
            ) from None
        return head[: error.start].decode("utf-8-sig")


def _outline(name: str, text: str, whole: bool) -> Outline:
    lines = re.split(r"\r\n|\r|\n", text)  # as Arrow does; more would be lines for splitlines
    if not whole:
        lines = lines[:-1]
        if not lines:
            raise ValueError(
                f"{name}: its first line has over {_LONGEST >> 20} MB: is it CSV at all?"
            )
    skip, delimiter = next((i for i, line in enumerate(lines) if line.strip()), len(lines)), None
    lines = lines[skip : skip + 200]
    if lines and (told := re.fullmatch(r'"?sep=(.)"?', lines[0].strip(), re.IGNORECASE)):
        lines, skip, delimiter = lines[1:], skip + 1, told[1]
    body = [line for line in lines if line.strip()]
    if not body:
        raise ValueError(f"{name} is empty: there is nothing to read in it")
    delimiter = delimiter or _delimiter(body)
    reader = csv.reader(body, delimiter=delimiter)
    names, height = tuple(cell.strip() for cell in _short(next(reader))), reader.line_num
    rows = tuple(tuple(_short(row)) for row in reader)
    even = lines[: len(body)] == body and len(rows) == len(body) - height
    if all(_NUMBER.fullmatch(cell) for cell in names):
        if len(names) > 1:
            raise _headless(name, skip, "numbers")
        rows = (names, *rows)
        names = (re.sub(r"\.\w+$", "", re.split(r"[/\\]", name)[-1]),)
    else:
        if any(_is_stamp(names, rows, i) for i in range(min(10, len(names)))):
            raise _headless(name, skip, "stamps")
        below = [] if len(names) > 1 or _NUMBER.fullmatch((*body, "0")[1]) else body[1:2]
        if below and len(next(csv.reader(below, delimiter=_delimiter(below)))) > 1:
            raise ValueError(
                f"{name}, line {skip + 1}: one column where the rows below have more: delete what "
                "stands above the names of the columns"
            )
        skip += height
        if whole and not rows:
            raise ValueError(f"{name}: there are names of columns, but no rows")
    twice = first_twice(names)
    if twice is not None:
        raise ValueError(f"{name}: two columns are called {twice!r}: rename one")
    # Excel leaves columns without a name; pandas writes its index as the first of them.
    names = tuple(n or (f"column {i + 1}" if i else "") for i, n in enumerate(names))
    comma = delimiter != "," and any(_DECIMAL_COMMA.fullmatch(c) for row in rows for c in row)
    return Outline(name, names, skip, delimiter, comma, rows, even, len(text))


def first_twice(names: Sequence[str]) -> str | None:
    """A name that is there again, not counting empty ones."""
    seen: set[str] = set()
    for name in names:
        if name and name in seen:
            return name
        seen.add(name)
    return None


def _headless(name: str, skip: int, what: str) -> ValueError:
    return ValueError(
        f"{name}, line {skip + 1}: {what} where the names of the columns should be: write a line "
        "of names above them, as unique_id,ds,y"
    )


def _is_stamp(names: tuple[str, ...], rows: tuple[tuple[str, ...], ...], i: int) -> bool:
    """Whether the name of a column is a stamp like those below it."""
    import pyarrow as pa

    column = [row[i] for row in rows[:19] if len(row) == len(names)]
    words = pa.chunked_array([[names[i], *column]], pa.string())
    return bool(column) and not _NUMBER.fullmatch(names[i]) and looks_like_time(words)


def _delimiter(lines: list[str]) -> str:
    """The one by which the first line has columns, and most others have as many."""
    best, most = ";", (0.0, 1)  # a lone column may have decimal commas, but no semicolons
    for delimiter in (d for d in ";\t|," if d in lines[0]):
        widths = [len(row) for row in csv.reader(lines[:50], delimiter=delimiter)]
        fit = widths.count(widths[0]) / len(widths), widths[0]
        if fit[1] > 1 and fit > most:
            best, most = delimiter, fit
    return best


def _short(row: list[str]) -> list[str]:
    """The row; csv's own limit is one for all that a process reads."""
    if any(len(cell) > _FIELD for cell in row):
        raise csv.Error(f"field larger than field limit ({_FIELD})")
    return row


def read_csv(
    path: str, found: Outline, data: bytes | None, columns: list[str], text: list[str]
) -> pa.Table:
    """The named columns; those in ``text`` as text, the others as what they look like.

    Raises:
        ValueError: a row that has more or fewer columns than the header, with its line.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    try:
        out = arrow_csv.read_csv(
            path if data is None else io.BytesIO(data),
            arrow_csv.ReadOptions(
                skip_rows=found.skip,
                column_names=found.names,
                block_size=max(2**20, 4 * found.head),  # a line has to lie in one
            ),
            arrow_csv.ParseOptions(delimiter=found.delimiter, newlines_in_values=True),
            arrow_csv.ConvertOptions(
                include_columns=columns,
                column_types=dict.fromkeys(text, pa.string()),
                null_values=NULLS,
                timestamp_parsers=[],
                decimal_point="," if found.comma else ".",
            ),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(_why(path, found, data, str(error))) from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{found.source}: {_DAMAGED} ({error})") from None
    if not len(out):
        raise ValueError(f"{found.source}: there are names of columns, but no rows")
    return out


def _why(path: str, found: Outline, data: bytes | None, error: str) -> str:
    """The first line that can't be read, or Arrow's words."""
    import pyarrow as pa

    where = Where(found.source, "line", found.skip)
    raw = io.BytesIO(data) if data is not None else pa.input_stream(path, compression="detect")
    with io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="") as lines:
        for _ in range(found.skip):
            lines.readline()
        rows = csv.reader(lines, delimiter=found.delimiter)
        try:
            for row in map(_short, rows):
                if row and len(row) != len(found.names):
                    return (
                        f"{where(rows.line_num)}: {len(row)} columns where the header has "
                        f"{len(found.names)}; put fields that hold {found.delimiter!r} in quotes"
                    )
                if any("\ufffd" in cell for cell in row):
                    return f"{where(rows.line_num)} is not UTF-8: save the file as CSV UTF-8"
        except csv.Error as fault:
            return f"{where(rows.line_num)}: {fault}; is a quote left open?"
    return f"{found.source}: bad CSV ({error})"
