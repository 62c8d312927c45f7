"""GGUF files: typed facts, then tensors whose rows are blocks. Read and written by hand.

Format: docs/gguf.md of ggml, version 3, little-endian; version 2 is the same. Nothing in a file is
believed: every size is held against what is left of the file before memory is taken for it.
Shapes are torch's, the outputs before the inputs: the reverse of the file's. M rows, K columns.
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from chainrule.files import HEADER_LIMIT, replacing
from chainrule.formats.gguf_blocks import FOREIGN, KINDS, PLAIN, Kind, pack, row_bytes, wide
from chainrule.formats.imported import instead

_MAGIC = b"GGUF"
_ALIGNMENT = 32  # bytes, where the file doesn't say
_COUNT_LIMIT = 2**16  # keys, and tensors
_ITEM_LIMIT = 2**22  # of all arrays together: a vocabulary has 2**18
_NAME_LIMIT = 1024  # bytes of a name; llama.cpp takes 63 for tensors
_DEPTH_LIMIT = 4  # arrays in arrays
_AT_ONCE = 2**22  # bytes of blocks that are widened or packed in one go

_BOOL, _TEXT, _ARRAY = 7, 8, 9
_NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", _BOOL: "u1"}
_NUMBERS |= {10: "<u8", 11: "<i8", 12: "<f8"}
# What write_gguf takes rows from: all of them, or a function of (first, count).
Rows = Tensor | Callable[[int, int], Tensor]


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: ``offset`` from the beginning of the file, ``size``, both in bytes.

    A row is what the last dimension has, so a vector is one row.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def columns(self) -> int:
        return self.shape[-1]


class GGUF:
    """A file's facts and where its tensors are; rows are read when asked for and never mapped.

    ``metadata``: str, bool, int, float, and lists of these. ``tensors``: in the file's order.

    Raises:
        ValueError: missing, truncated, foreign, or with a header that can't be true: it names the
            file and the key or tensor.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not os.path.isfile(path):  # pathlib's raises where a name is too long
            raise ValueError(f"{path}: {instead(path, 'no such file')}")
        with path.open("rb", buffering=2**20) as file:
            header = _Header(path, file)
            num_tensors, num_keys = header.counts()
            self.metadata = header.facts(num_keys)
            self.tensors = header.entries(num_tensors, _alignment(self.metadata, path))
        parts = self.metadata.get("split.count", 1)
        if isinstance(parts, int) and parts > 1:
            raise ValueError(f"{path}: one of {parts} parts; join them (llama-gguf-split --merge)")

    def raw(self, name: str, first: int = 0, count: int | None = None) -> np.ndarray[Any, Any]:
        """Rows ``first`` to ``first + count`` as they lie: uint8 [M, bytes of a row].

        Raises:
            ValueError: no such tensor or rows.
            OSError: the file can't be read, or is shorter than it was.
        """
        entry, count = self._entry(name, first, count)
        width = entry.size // entry.rows
        out = np.empty(count * width, np.uint8)
        with self.path.open("rb", buffering=0) as file:
            file.seek(entry.offset + first * width)
            done = 0
            while done < out.size:
                step = file.readinto(out[done:].data)
                if not step:
                    raise OSError(f"{self.path}: it ends in the middle of tensor {name!r}")
                done += step
        return out.reshape(count, width)

    def floats(self, name: str, first: int = 0, count: int | None = None) -> Tensor:
        """Rows as numbers: float32, or float16 and bfloat16 where the file has these.

        Returns:
            [M, K], or the tensor's own shape where no rows were chosen.

        Raises:
            ValueError: no such tensor or rows.
            OSError: the file can't be read, or is shorter than it was.
        """
        chosen = first > 0 or count is not None
        entry, count = self._entry(name, first, count)
        shape = (count, entry.columns) if chosen else entry.shape
        if entry.kind in PLAIN:
            raw = torch.from_numpy(self.raw(name, first, count))
            return raw.view(PLAIN[entry.kind]).view(shape)
        step = max(1, _AT_ONCE * entry.rows // entry.size)
        out = np.empty((count, entry.columns), np.float32)
        for at in range(0, count, step):
            some = self.raw(name, first + at, min(step, count - at))
            out[at : at + step] = wide(entry.kind, some, entry.columns)
        return torch.from_numpy(out).view(shape)

    def _entry(self, name: str, first: int, count: int | None) -> tuple[Entry, int]:
        if name not in self.tensors:
            raise ValueError(
                f"{self.path}: tensor {name!r} is missing; is this another model's file?"
            )
        entry = self.tensors[name]
        count = entry.rows - first if count is None else count
        last = first + count
        if not 0 <= first <= last <= entry.rows:
            raise ValueError(f"{self.path}: {name!r} has {entry.rows} rows, not {first} to {last}")
        return entry, count


class _Header:
    """What comes before the tensors, piece by piece, each held against what is left."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._size = os.fstat(file.fileno()).st_size
        self._left = min(self._size, HEADER_LIMIT)
        self._items = _ITEM_LIMIT
        self._place = "header"

    def counts(self) -> tuple[int, int]:
        """Tensors and keys, after magic and version."""
        begin = self._file.read(8)
        version = int.from_bytes(begin[4:], "little")
        if len(begin) < 8 or begin[:4] != _MAGIC:
            raise ValueError(f"{self._path}: not a GGUF file, or truncated")
        if version and version % 2**16 == 0:
            raise self._wrong("big-endian; convert it with gguf_convert_endian")
        if version not in (2, 3):
            raise self._wrong(f"GGUF of version {version}; 2 and 3 are read")
        self._left -= 8
        counts = self._number("<u8"), self._number("<u8")
        for count, what in zip(counts, ("tensors", "keys"), strict=True):
            if count > _COUNT_LIMIT:
                raise self._wrong(f"{count:,} {what}; {_COUNT_LIMIT:,} is the limit")
        return counts

    def facts(self, count: int) -> dict[str, Any]:
        """The metadata."""
        facts: dict[str, Any] = {}
        for index in range(count):
            self._place = f"key {index + 1} of {count}"
            name = self._name()
            if name in facts:
                raise self._wrong(f"{name!r} is there twice")
            self._place = f"key {name!r}"
            code = self._number("<u4")
            facts[name] = self._array(0) if code == _ARRAY else self._values(code, 1)[0]
        return facts

    def entries(self, count: int, alignment: int) -> dict[str, Entry]:
        """The tensors, their offsets from the beginning of the file."""
        found: dict[str, Entry] = {}
        for index in range(count):
            self._place = f"tensor {index + 1} of {count}"
            name = self._name()
            if name in found:
                raise self._wrong(f"{name!r} is there twice")
            self._place = f"tensor {name!r}"
            dims = self._number("<u4")
            if not 1 <= dims <= 4:
                raise self._wrong(f"{dims:,} dimensions; 1 to 4 are possible")
            shape = tuple(self._number("<u8") for _ in range(dims))[::-1]
            code = self._number("<u4")
            offset = self._number("<u8")
            if code not in KINDS:
                kind = FOREIGN.get(code, f"unknown type {code}")
                raise self._wrong(
                    f"{kind}, which is not read here; {', '.join(KINDS.values())} are"
                )
            if 0 in shape:
                raise self._wrong(f"shape {list(shape)} has no numbers")
            if offset % alignment:
                raise self._wrong(f"offset {offset:,} is not a multiple of {alignment}")
            try:
                size = row_bytes(KINDS[code], shape[-1]) * math.prod(shape[:-1])
            except ValueError as error:
                raise self._wrong(str(error)) from None
            found[name] = Entry(name, KINDS[code], shape, offset, size)
        begin = -(-self._file.tell() // alignment) * alignment
        return self._placed(found, begin)

    def _placed(self, found: dict[str, Entry], begin: int) -> dict[str, Entry]:
        last = None
        for entry in sorted(found.values(), key=lambda e: e.offset):
            self._place = f"tensor {entry.name!r}"
            if begin + entry.offset + entry.size > self._size:
                raise self._wrong(
                    f"{entry.size:,} bytes at {begin + entry.offset:,} go beyond the file's end "
                    f"({self._size:,}): truncated"
                )
            if last is not None and last.offset + last.size > entry.offset:
                raise self._wrong(f"overlaps tensor {last.name!r}")
            last = entry
        return {name: replace(e, offset=begin + e.offset) for name, e in found.items()}

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"{self._path}, {self._place}: {what}")

    def _take(self, size: int) -> bytes:
        if size > self._left:
            raise self._wrong(f"{size:,} bytes of {self._left:,} that are left: truncated")
        self._left -= size
        return self._file.read(size)

    def _number(self, dtype: str) -> int:
        return int.from_bytes(self._take(np.dtype(dtype).itemsize), "little")

    def _name(self) -> str:
        size = self._number("<u8")
        if size > _NAME_LIMIT:
            raise self._wrong(f"a name of {size:,} bytes; {_NAME_LIMIT:,} is the limit")
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            raise self._wrong("its name is not UTF-8") from None

    def _values(self, code: int, count: int) -> list[Any]:
        if code == _TEXT:
            return self._texts(count)
        if code not in _NUMBERS:
            raise self._wrong(f"unknown type {code} of a value")
        dtype = np.dtype(_NUMBERS[code])
        values = np.frombuffer(self._take(count * dtype.itemsize), dtype)
        if code == _BOOL:
            if (values > 1).any():
                raise self._wrong("a truth value that is neither 0 nor 1")
            values = values.view(np.bool_)
        return list(values.tolist())

    def _texts(self, count: int) -> list[str]:
        """A vocabulary has 10⁵: the loop has as little in it as it can."""
        read, number, left = self._file.read, int.from_bytes, self._left
        texts: list[str] = []
        try:
            for _ in range(count):
                size = number(read(8), "little")
                left -= size + 8  # at the end of the file fewer than 8 were read: negative then
                if left < 0:
                    raise self._wrong(f"text {len(texts) + 1} of {count} goes beyond the end")
                texts.append(read(size).decode())
        except UnicodeDecodeError:
            raise self._wrong(f"text {len(texts) + 1} of {count} is not UTF-8") from None
        self._left = left
        return texts

    def _array(self, depth: int) -> list[Any]:
        code, count = self._number("<u4"), self._number("<u8")
        self._items -= count
        if self._items < 0:
            raise self._wrong(f"a list of {count:,}; {_ITEM_LIMIT:,} in all is the limit")
        if code != _ARRAY:
            return self._values(code, count)
        if depth + 1 == _DEPTH_LIMIT:
            raise self._wrong(f"lists in lists in lists; {_DEPTH_LIMIT} deep is the limit")
        return [self._array(depth + 1) for _ in range(count)]


def _alignment(metadata: Mapping[str, Any], path: Path) -> int:
    given = metadata.get("general.alignment", _ALIGNMENT)
    if type(given) is not int or not 1 <= given <= 2**16 or given & (given - 1):
        raise ValueError(
            f"{path}, key 'general.alignment': {given!r:.40} is not a power of two up to 65536"
        )
    return given


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Iterable[tuple[str, tuple[int, ...], Kind, Rows]],
) -> None:
    """Replace a GGUF file (version 3) whole, a few megabytes of rows at a time.

    Args:
        path: where.
        metadata: str, bool, int (32 bits and unsigned where it fits), float (32 bits), and lists
            of one of these (whole numbers as INT32, or INT64 where they don't fit).
        tensors: (name, shape, kind, rows). Rows are floats [M, K], rounded to the kind, or uint8
            [M, bytes of a row], which are blocks and written as they are.

    Raises:
        ValueError: a fact or tensor that a GGUF file can't have, by name.
        OSError: it can't be written, with the number of bytes. Either leaves the old file as it is.
    """
    alignment = _alignment(metadata, path)
    codes = {kind: code for code, kind in KINDS.items()}
    facts, infos = bytearray(), bytearray()
    for key, value in metadata.items():
        try:
            facts += _text(key) + _fact(value)
        except ValueError as error:
            raise ValueError(f"{path}, key {key!r}: it can't be written ({error})") from None
    plan: dict[str, tuple[int, int, Kind, Rows]] = {}
    offset = 0
    for name, shape, kind, rows in tensors:
        place = f"{path}, tensor {name!r}"
        if name in plan or len(name.encode()) > 63:
            raise ValueError(f"{place}: its name is there twice, or longer than 63 bytes")
        if not 1 <= len(shape) <= 4 or min(shape) < 1:
            raise ValueError(f"{place}: shape {list(shape)}; 1 to 4 dimensions, none of them 0")
        num_rows, columns = math.prod(shape[:-1]), shape[-1]
        try:
            size = row_bytes(kind, columns) * num_rows
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        infos += _text(name) + struct.pack("<I", len(shape)) + struct.pack("<Q", columns)
        infos += b"".join(struct.pack("<Q", dim) for dim in shape[-2::-1])
        infos += struct.pack("<IQ", codes[kind], offset)
        plan[name] = num_rows, columns, kind, rows
        offset += -(-size // alignment) * alignment
    header = _MAGIC + struct.pack("<IQQ", 3, len(plan), len(metadata)) + facts + infos
    header += bytes(-len(header) % alignment)
    try:
        with replacing(path) as beside, beside.open("wb") as file:
            file.write(header)
            for name, what in plan.items():
                try:
                    _write_rows(file, *what)
                except ValueError as error:
                    raise ValueError(f"{path}, tensor {name!r}: {error}") from None
                file.write(bytes(-file.tell() % alignment))
    except OSError as error:
        size = len(header) + offset
        reason = error.strerror or error
        raise OSError(f"{path}: its {size:,} bytes could not be written ({reason})") from None


def _write_rows(file: BinaryIO, num_rows: int, columns: int, kind: Kind, rows: Rows) -> None:
    step = max(1, _AT_ONCE // (4 * columns))
    for first in range(0, num_rows, step):
        count = min(step, num_rows - first)
        if isinstance(rows, Tensor):
            some = rows.reshape(num_rows, -1)[first : first + count]
        else:
            some = rows(first, count).reshape(count, -1)
        blocks = some.dtype == torch.uint8
        width = row_bytes(kind, columns) if blocks else columns
        if tuple(some.shape) != (count, width):
            raise ValueError(f"rows {list(some.shape)} were given, {[count, width]} were promised")
        file.write((some.contiguous().numpy() if blocks else pack(kind, some)).data)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _fact(value: Any) -> bytes:
    """A value behind its type."""
    many = isinstance(value, list | tuple)
    items = value if many else [value]
    kinds = {type(item) for item in items}
    if kinds <= {str}:
        code, data = _TEXT, b"".join(map(_text, items))
    elif len(kinds) == 1 and kinds <= {bool, int, float}:
        # The first type that holds them all; llama.cpp asks for just these.
        fitting = {bool: (_BOOL,), float: (6,), int: (5, 11, 10) if many else (4, 5, 10, 11)}
        for code in fitting[kinds.pop()]:
            with contextlib.suppress(OverflowError):
                data = np.array(items, _NUMBERS[code]).tobytes()
                break
        else:
            raise ValueError("whole numbers beyond 64 bits")
    else:
        raise ValueError(f"{' and '.join(sorted(k.__name__ for k in kinds))} have no type of GGUF")
    begin = struct.pack("<IIQ", _ARRAY, code, len(items)) if many else struct.pack("<I", code)
    return begin + data
