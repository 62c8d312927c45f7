"""Readers: files to documents. What can't be read is a ValueError with file, line and remedy."""

from __future__ import annotations

import codecs
import csv
import difflib
import glob
import gzip
import io
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

Source = str | Path | list[str] | list[Path] | list[str | Path]
_PIECE = 2**26  # bytes of a plain text that are in memory at a time
_LINE = 2**27  # bytes of a JSON line, characters of a CSV field
_STDIN = "standard input"
_TEXT = bytes([8, 9, 10, 12, 13, 27, *range(32, 256)])  # what is no control byte


@dataclass(frozen=True)
class Document:
    """One document, or a piece of a long one.

    Args:
        data: its bytes: UTF-8 unless the file holds something else.
        name: the file, with the line where a file holds many.
        index: number of the document in its source; pieces of one document come in a row.
        more: another piece of this document follows.
    """

    data: bytes
    name: str
    index: int
    more: bool = False


def read_documents(
    source: Source, *, field: str | None = None, column: str | None = None
) -> Iterator[Document]:
    """Read documents one after another; only one piece is in memory.

    Args:
        source: a file, a folder (everything in it that is not hidden, sorted by path), a glob,
            ``-`` for standard input, or a list of these. .jsonl, .csv, .tsv and .parquet hold a
            document a row; any other file is one document. Each may be compressed: ``.gz``.
        field: of .jsonl (default ``text``); column: of .csv and .parquet (default ``text``, or
            the only one). Rows that are null or empty are left out.

    Raises:
        ValueError: whatever can't be read, with file, line and remedy.
    """
    index = 0
    found = files(source)
    for path in found:
        with _readable(path):
            for data, name, more in _read(path, field, column):
                if data:
                    yield Document(data, name, index, more)
                    index += not more
    if not index:
        if len(found) == 1:
            raise ValueError(f"{_name(found[0])} is empty: there is nothing to read in it")
        raise ValueError(f"{source}: all {len(found)} files are empty")


def _name(path: Path | None) -> str:
    return _STDIN if path is None else str(path)


# ---- which files ----


def files(source: Source) -> list[Path | None]:
    """Paths in reading order; None is standard input."""
    if isinstance(source, list):
        if not source:
            raise ValueError("no files were given")
        return [f for s in source for f in files(s)]
    if str(source) == "-":
        return [None]
    path = Path(source).expanduser()
    if path.is_dir():
        found = sorted(_walk(path))
        if not found:
            raise ValueError(f"{path}: the folder has no files (hidden ones are left out)")
        return list(found)
    if path.exists():
        return [path]
    if glob.has_magic(str(path)):
        matches = map(Path, glob.glob(str(path), recursive=True))
        found = sorted(m for m in matches if m.is_file())
        if not found:
            raise ValueError(f"{source}: no file matches; quote it, or say the folder instead")
        return list(found)
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ValueError(f"{source}: no such file or folder{_near(path.name, siblings)}")


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        yield from (Path(root, n) for n in names if not n.startswith("."))


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


# ---- one file ----

_Rows = Iterator[tuple[bytes, str, bool]]  # data, name, more


@contextmanager
def _readable(path: Path | None) -> Iterator[None]:
    """Turn what a broken file raises into a ValueError that names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        found = _first_invalid(path) or error.start
        raise ValueError(
            f"{_name(path)}: byte {found} is not UTF-8 text: convert the file to UTF-8"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise ValueError(
            f"{_name(path)}: truncated, or not gzip: fetch it again, or drop the .gz of its name"
        ) from None
    except OSError as error:
        raise ValueError(f"{_name(path)}: {error.strerror or error}") from None


def _read(path: Path | None, field: str | None, column: str | None) -> _Rows:
    if path is None:
        return _plain(nullcontext(sys.stdin.buffer), _STDIN)  # which is not ours to close
    suffixes = [s.lower() for s in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = (suffixes[-2:-1] if packed else suffixes[-1:]) or [""]
    if kind[0] == ".parquet":
        return _parquet(path, packed, column)
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".tsv": _csv}
    wanted = field if kind[0] in (".jsonl", ".ndjson") else column
    if kind[0] in readers:
        return readers[kind[0]](_open(path), str(path), wanted)
    return _plain(_open(path), str(path))


def _open(path: Path) -> IO[bytes]:
    packed = path.suffix.lower() == ".gz"
    return gzip.open(path, "rb") if packed else path.open("rb")  # type: ignore[return-value]


def _plain(opened: AbstractContextManager[IO[bytes]], name: str) -> _Rows:
    with opened as file:
        data = file.read(_PIECE)
        while data:
            following = file.read(_PIECE)
            yield data, name, bool(following)
            data = following


def _jsonl(file: IO[bytes], name: str, field: str | None) -> _Rows:
    field = field or "text"
    with file:
        number = 0
        while line := file.readline(_LINE):
            number += 1
            where = f"{name}, line {number}"
            if len(line) == _LINE:
                raise ValueError(f"{where}: longer than {_LINE:,} bytes; is this JSON lines?")
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield _json_text(line, where, field), f"{name}:{number}", False


def _json_text(line: bytes, where: str, field: str) -> bytes:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: byte {error.start} is not UTF-8: convert the file to UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where}: bad JSON ({error.msg}, column {error.colno}); every line is one object"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: bad JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a JSON {type(row).__name__}, not an object with fields")
    if field not in row:
        raise ValueError(f"{where}: {_lacks('field', field, row)}")
    return _utf8(row[field], f"{where}: field {field!r}")


def _lacks(what: str, name: str, known: Iterable[str]) -> str:
    """There's no such field or column: what there is instead."""
    names = list(known)
    there = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"there is no {what} {name!r} (--{what}); there are: {there}{_near(name, names)}"


def _utf8(value: Any, where: str) -> bytes:
    """The text of one cell; null is empty."""
    if isinstance(value, bytes):
        return value
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{where} is {value!r:.40}, not text")
    try:
        return (value or "").encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} holds half a surrogate pair, which is no character") from None


def _csv(file: IO[bytes], name: str, column: str | None) -> _Rows:
    csv.field_size_limit(_LINE)  # of the process: the module has no other
    with file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
        first = lines.readline(_LINE)
        if not first.strip():
            return
        delimiter = max(",;\t", key=first.count)
        header = next(csv.reader([first], delimiter=delimiter))
        at = _column(header, column, name)
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            for row in rows:
                number = rows.line_num + 1
                if row and len(row) != len(header):
                    raise ValueError(
                        f"{name}, line {number}: {len(row)} columns where the header has "
                        f"{len(header)}; put fields that hold {delimiter!r} in quotes"
                    )
                if row:
                    yield row[at].encode(), f"{name}:{number}", False
        except csv.Error as error:
            raise ValueError(f"{name}, line {rows.line_num + 1}: bad CSV ({error})") from None


def _column(header: list[str], column: str | None, name: str) -> int:
    if column is None and len(header) == 1:
        return 0
    wanted = column or "text"
    if wanted not in header:
        raise ValueError(f"{name}: {_lacks('column', wanted, header)}")
    return header.index(wanted)


def _parquet(path: Path, packed: bool, column: str | None) -> _Rows:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            f"{path}: reading parquet needs pyarrow: pip install 'chainrule[parquet]'"
        ) from None
    with _open(path) as opened, tempfile.TemporaryFile() as unpacked:
        if packed:  # parquet is read from its end
            while block := opened.read(_PIECE):
                unpacked.write(block)
            unpacked.seek(0)
        try:
            table = pyarrow.parquet.ParquetFile(unpacked if packed else opened)
            header = list(table.schema_arrow.names)
            chosen = header[_column(header, column, str(path))]
            number = 0
            for batch in table.iter_batches(batch_size=256, columns=[chosen]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    where = f"{path}, row {number}: column {chosen!r}"
                    yield _utf8(value, where), f"{path}:{number}", False
        except pyarrow.ArrowException as error:
            raise ValueError(f"{path}: not a parquet file, or damaged ({error})") from None


# ---- is it text ----


def _first_invalid(path: Path | None) -> int | None:
    """Offset of the first byte of a file that is not UTF-8."""
    if path is None:
        return None
    check = TextCheck()
    for data, _, more in _plain(_open(path), str(path)):
        check.feed(Document(data, str(path), 0, more))
    return check.offset


class TextCheck:
    """Looks for the first byte that is not text.

    Attributes:
        problem: what was found and what to do, None while all is text.
        offset: of that byte in its document.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self.offset: int | None = None
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._done = 0

    def feed(self, document: Document) -> None:
        """Pieces in their order; after the first problem, nothing is looked at."""
        if self.problem is not None:
            return
        data, bad = document.data, None
        pending = len(self._utf8.getstate()[0])  # of a character begun in the piece before
        try:
            self._utf8.decode(data, not document.more)
        except UnicodeDecodeError as error:
            bad = error.start - pending, error.object[error.start]
        nul = data.find(b"\0")
        if nul >= 0 and (bad is None or nul < bad[0]):
            bad = nul, 0
        if bad is not None:
            self.offset = self._done + bad[0]
            what = f"byte 0x{bad[1]:02X} at offset {self.offset}"
            self.problem = f"{document.name}: {_diagnosis(data, what, bad[1] == 0)}"
        self._done = self._done + len(data) if document.more else 0


def _diagnosis(data: bytes, what: str, nul: bool) -> str:
    head = data[:65536]
    as_it_is = "take it as it is with --codec bytes"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return f"UTF-16, not UTF-8 ({what}): convert it, or {as_it_is}"
    if nul or len(head.translate(None, _TEXT)) > len(head) / 20:
        return f"a binary file, not text ({what}): {as_it_is}, or name the text files alone"
    return f"{what} is not UTF-8: convert it, from Latin-1 perhaps, or {as_it_is}"
