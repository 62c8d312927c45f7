"""Symbols in memory-mapped files, their held-out split, and batches of them.

Shapes: N symbols of a part, B rows, T window length.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.core.config import from_dict, to_dict

SymbolArray = NDArray[np.unsignedinteger[Any]]
Bytes = NDArray[np.uint8]
Progress = Callable[[str, int, int | None], None]  # stage, bytes done, bytes in all if known

VERSION = 1  # of the split and of the files: another one, another folder
CHUNK = 2**20  # bytes that are encoded at a time
_BORDER = re.compile(rb"\S(?= )")
_SLACK = 4096  # bytes within which a line's end is looked for
_SMALL = 10_000_000  # bytes: above, 5 % are held out instead of 10 %
_DOCUMENTS = 20  # so many are split whole, fewer by their tails


# ---- which part is held out ----


@dataclass(frozen=True, eq=False)
class Split:
    """Byte ranges [n, 2] of the two parts, and a line that says how they were chosen."""

    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    description: str


def split(raw: Bytes, ends: NDArray[np.int64], hashes: NDArray[np.uint64], name: str) -> Split:
    """Hold out documents chosen by their content, or the tail of each when they are few.

    Depends on the documents alone. Equal documents are on the same side.

    Args:
        raw: all documents [bytes]; ends: where each ends; hashes: of each one's content.

    Raises:
        ValueError: too little to hold anything out.
    """
    begins = np.concatenate([[0], ends[:-1]])
    ranges = np.stack([begins, ends], 1)
    share = 0.05 if len(raw) > _SMALL else 0.1
    if len(ends) >= _DOCUMENTS:
        held = by_content(ends - begins, hashes, share)
        if held.any():
            size = int((ends - begins)[held].sum())
            description = (
                f"held out: {held.sum():,} of {len(ends):,} documents, chosen by their content "
                f"({size:,} bytes, {100 * size / len(raw):.1f} %)"
            )
            return Split(ranges[~held], ranges[held], description)
    cuts = np.array([_tail(raw, int(a), int(b), share) for a, b in ranges])
    size = int((ends - cuts).sum())
    if not size:
        raise ValueError(
            f"{name} is too short to hold a part out ({len(raw)} bytes): give it some pages of text"
        )
    of = name if len(ends) == 1 else f"each of {len(ends):,} documents"
    description = f"held out: the last {100 * share:.0f} % of {of} ({size:,} bytes)"
    tails = np.stack([cuts, ends], 1)
    return Split(np.stack([begins, cuts], 1), tails[cuts < ends], description)


def by_content(sizes: NDArray[Any], hashes: NDArray[np.uint64], share: float) -> NDArray[np.bool_]:
    """In the order of their hashes, documents while they fit into the share: bool [n]."""
    keys, group = np.unique(hashes, return_inverse=True)
    mass = np.bincount(group, weights=sizes)
    left, chosen = share * sizes.sum(), np.zeros(len(keys), bool)
    for i, size in enumerate(mass):
        if size <= left:
            chosen[i] = True
            left -= size
    return chosen[group]


def _tail(raw: Bytes, begin: int, end: int, share: float) -> int:
    """Where the held-out tail begins: at a line if one ends close before, else at a character."""
    at = end - max(1, int((end - begin) * share))
    near = max(begin, at - min(_SLACK, (end - at) // 2))
    line = raw[near:at].tobytes().rfind(b"\n")
    at = near + line + 1 if line >= 0 else character_border(raw, begin, at)
    return at if at > begin else end


def character_border(raw: Bytes, begin: int, at: int) -> int:
    """The last position up to ``at`` where a UTF-8 character begins."""
    first = max(begin, at - 3)
    for border in range(at, first - 1, -1):
        if border == len(raw) or raw[border] & 0xC0 != 0x80:
            return border
    return at


def pieces(raw: Bytes, ranges: Iterable[Any]) -> Iterator[tuple[int, int, bool]]:
    """Cut ranges into chunks (begin, end, last of its range).

    Before a space where one is close: there a word codec, or BPE, would have cut anyway.
    """
    for begin, end in ranges:
        at = int(begin)
        while end - at > CHUNK:
            near = at + CHUNK - 2**16
            close = [m.end() for m in _BORDER.finditer(raw[near : at + CHUNK].tobytes())]
            cut = near + close[-1] if close else character_border(raw, at, at + CHUNK)
            yield at, cut, False
            at = cut
        yield at, int(end), True


# ---- symbols on disk ----


@dataclass(frozen=True)
class Header:
    """What header.json says of the two files beside it."""

    version: int
    dtype: Literal["uint8", "uint16", "uint32"]
    train: int
    held_out: int


def open_symbols(folder: Path) -> tuple[SymbolArray, SymbolArray] | None:
    """Training and held-out symbols, memory-mapped; None unless all is there and whole."""
    try:
        header = from_dict(Header, json.loads((folder / "header.json").read_bytes()))
        width = np.dtype(header.dtype).itemsize
        sizes = {"train": header.train, "held_out": header.held_out}
        if header.version != VERSION or min(sizes.values()) < 1:
            return None
        if any((folder / k).stat().st_size != n * width for k, n in sizes.items()):
            return None
        train, held_out = (
            np.memmap(folder / k, header.dtype, "r", shape=(n,)) for k, n in sizes.items()
        )
    except (OSError, ValueError):
        return None
    return train, held_out


class SymbolFile:
    """Writes one part's symbols, in the narrowest unsigned type; use in a ``with`` block."""

    def __init__(self, path: Path, size: int) -> None:
        self.dtype = np.min_scalar_type(size - 1)
        self.count = 0
        self._seen = np.zeros(size, bool)
        self._path = path

    def __enter__(self) -> SymbolFile:
        self._file: BinaryIO = self._path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def write(self, symbols: NDArray[Any]) -> None:
        """Append symbols [n]."""
        self._seen[symbols] = True
        self.count += len(symbols)
        self._file.write(symbols.astype(self.dtype).tobytes())

    @property
    def distinct(self) -> int:
        """How many different symbols were written."""
        return int(self._seen.sum())


def write_header(folder: Path, dtype: np.dtype[Any], train: int, held_out: int) -> None:
    """The last file to be written."""
    header = from_dict(
        Header,
        {"version": VERSION, "dtype": dtype.name, "train": train, "held_out": held_out},
    )
    with (folder / "header.json").open("w", encoding="utf-8") as file:
        json.dump(to_dict(header), file)
        file.flush()
        os.fsync(file.fileno())


# ---- batches: pure functions of the step, so that a resumed run sees the same ones ----


def windows(array: SymbolArray, batch: int, length: int, seed: int, step: int) -> Tensor:
    """Random windows int64 [B, T], the same for the same (seed, step).

    T is ``length``, or N where there are fewer symbols.
    """
    length = min(length, len(array))
    return _cut(array, window_starts(len(array), batch, length, seed, step), length)


def window_starts(
    size: int, batch: int, length: int, seed: int, step: int
) -> NDArray[np.integer[Any]]:
    """Where the windows of ``windows`` begin among ``size`` symbols: [B]."""
    dice = np.random.Philox(key=np.array([seed % 2**64, step % 2**64], np.uint64))
    starts = dice.random_raw(batch) % np.uint64(size - min(length, size) + 1)
    return starts.astype(np.int64)


def stream_batch(array: SymbolArray, batch: int, length: int, step: int) -> tuple[Tensor, bool]:
    """The step-th batch int64 [B, T] of B lanes that are each read from end to end.

    Row b of step s + 1 goes on where row b of step s ended, but for the second value: True where
    all lanes begin anew (step 0 included), and a carried state no longer belongs to them. What is
    left at the end of a lane, less than T symbols, is not read. Few symbols, fewer rows: B is at
    most N, T at most N // B.
    """
    starts = lane_starts(len(array), batch, length, step)
    return _cut(array, starts, min(length, len(array) // len(starts))), bool(starts[0] == 0)


def lane_starts(size: int, batch: int, length: int, step: int) -> NDArray[np.integer[Any]]:
    """Where the rows of ``stream_batch`` begin among ``size`` symbols: [B]."""
    batch = min(batch, size)
    lane = size // batch
    length = min(length, lane)
    return np.arange(batch) * lane + step % (lane // length) * length


def _cut(array: SymbolArray, starts: NDArray[np.integer[Any]], length: int) -> Tensor:
    index = starts[:, None] + np.arange(length)
    return torch.from_numpy(np.asarray(array)[index].astype(np.int64))
