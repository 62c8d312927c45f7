"""CSV as people have it: any delimiter, decimal commas, byte order marks, no header for one column.

What can't be read is a ValueError with file, line and remedy.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chainrule.series.stamps import Where

if TYPE_CHECKING:
    import pyarrow as pa

STDIN = "-"
_HEAD = 2**18  # bytes that are looked at before a file is read
NULLS = ["", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None", "-", ".", "?"]
_NUMBER = re.compile(r"\s*[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?\s*")
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")


@dataclass(frozen=True)
class Outline:
    """What the head of a CSV file tells.

    Args:
        names: of the columns. A lone column without a header is called as the file is.
        skip: lines before the data. delimiter. comma: decimals have a comma.
        sample: text of the first rows.
    """

    source: str
    names: tuple[str, ...]
    skip: int
    delimiter: str
    comma: bool
    sample: tuple[tuple[str, ...], ...]

    @property
    def where(self) -> Where:
        return Where(self.source, "line", self.skip + 1)


def outline(path: str) -> tuple[Outline, bytes | None]:
    """Look at the head of a file (also a gzipped one); standard input is read whole.

    Raises:
        ValueError: not a CSV in UTF-8, no rows, two columns of one name.
    """
    import pyarrow as pa

    name, data = path, None
    if path == STDIN:
        name, data = "standard input", sys.stdin.buffer.read()
        head = data[:_HEAD]
    else:
        try:
            with pa.input_stream(path, compression="detect") as stream:
                head = stream.read(_HEAD)
        except (pa.ArrowException, OSError) as error:
            if getattr(error, "errno", None) is not None:  # a folder's rights, a disk's faults
                raise
            raise ValueError(f"{path}: damaged, or not what its name says ({error})") from None
    return _outline(name, _text(name, head), len(head) == _HEAD), data


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


def _outline(name: str, text: str, cut: bool) -> Outline:
    lines = text.splitlines()
    lines = lines[:-1] if cut else lines
    skip, delimiter = 0, None
    while lines and not lines[0].strip():
        lines, skip = lines[1:], skip + 1
    if lines and (told := re.fullmatch(r'"?sep=(.)"?', lines[0].strip(), re.IGNORECASE)):
        lines, skip, delimiter = lines[1:], skip + 1, told[1]
    lines = [line for line in lines[:200] if line.strip()]
    if not lines:
        raise ValueError(f"{name} is empty: there is nothing to read in it")
    delimiter = delimiter or _delimiter(lines)
    rows = list(csv.reader(lines, delimiter=delimiter))
    names = tuple(cell.strip() for cell in rows[0])
    if all(_NUMBER.fullmatch(cell) for cell in names):
        if len(names) > 1:
            raise ValueError(
                f"{name}, line {skip + 1}: numbers where the names of the columns should be: "
                "write a line of names above them, as unique_id,ds,y"
            )
        names = (re.sub(r"\.\w+$", "", re.split(r"[/\\]", name)[-1]),)
    else:
        rows, skip = rows[1:], skip + 1
    twice = [n for i, n in enumerate(names) if n and n in names[:i]]
    if twice:
        raise ValueError(f"{name}: two columns are called {twice[0]!r}: rename one")
    # Excel leaves columns without a name; pandas writes its index as the first of them.
    names = tuple(n or (f"column {i + 1}" if i else "") for i, n in enumerate(names))
    cells = [cell for row in rows for cell in row]
    comma = delimiter != "," and any(map(_DECIMAL_COMMA.fullmatch, cells))
    return Outline(name, names, skip, delimiter, comma, tuple(map(tuple, rows)))


def _delimiter(lines: list[str]) -> str:
    """The one by which all of the first rows have the same number of columns, the largest."""
    best, most = ";", 1  # a lone column may have decimal commas, but no semicolons
    for delimiter in ",;\t|":
        widths = {len(row) for row in csv.reader(lines[:50], delimiter=delimiter)}
        if min(widths) > most and (len(widths) == 1 or most == 1):
            best, most = delimiter, min(widths)
    return best


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
            arrow_csv.ReadOptions(skip_rows=found.skip, column_names=found.names),
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
    if not len(out):
        raise ValueError(f"{found.source}: there are names of columns, but no rows")
    return out


def _why(path: str, found: Outline, data: bytes | None, error: str) -> str:
    """The first line that has another number of columns, or Arrow's words."""
    import pyarrow as pa

    raw = io.BytesIO(data) if data is not None else pa.input_stream(path, compression="detect")
    with io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="") as lines:
        for _ in range(found.skip):
            lines.readline()
        rows = csv.reader(lines, delimiter=found.delimiter)
        for row in rows:
            if row and len(row) != len(found.names):
                return (
                    f"{found.where(rows.line_num - 1)}: {len(row)} columns where the header has "
                    f"{len(found.names)}; put fields that hold {found.delimiter!r} in quotes"
                )
    return f"{found.source}: bad CSV ({error})"
