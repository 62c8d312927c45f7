"""Pictures in folders, archives and arrays. What can't be read is one line with file and remedy.

Shapes: h × w pixels. Archives are never unpacked to disk, and their names are only for messages
and labels.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any

from chainrule.codecs.colours import Pixels, pillow
from chainrule.training.picture_arrays import read_arrays
from chainrule.training.picture_bytes import (
    MOST_BYTES,
    begins_as_picture,
    check_size,
    decode_picture,
)
from chainrule.training.picture_labels import Parts, Table, labels_of_folders
from chainrule.training.picture_labels import label_order as label_order
from chainrule.training.readers import Source
from chainrule.training.readers import files as files_of

MOST_MEMBERS = 10**6  # of an archive
MOST_UNPACKED = 2**34  # bytes of an archive, all members together
_LOOKED_AT = 1000  # names, to tell whether there are pictures
_READ = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp")
_KNOWN = (*_READ, ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2")  # named when skipped
_TAR: dict[str, Callable[[Path], Any]] = {
    ".tar": lambda path: path.open("rb"),
    **dict.fromkeys((".tar.gz", ".tgz"), gzip.open),
    **dict.fromkeys((".tar.bz2", ".tbz2", ".tbz"), bz2.open),
    **dict.fromkeys((".tar.xz", ".txz"), lzma.open),
}


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture.

    Args:
        pixels: uint8 [h, w, 1 | 3 | 4]; of four channels only where something is transparent.
        name: file, archive:member or file[row].
        label: its class, where there are labels.
        split: train, validation or test, where folders say so.
    """

    pixels: Pixels
    name: str
    label: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class _Entry:
    name: str
    path: Parts
    read: Callable[[], bytes]


def read_pictures(
    source: Source,
    *,
    labels: str | Path | None = None,
    array: str | None = None,
    skipped: list[str],
) -> Iterator[Picture]:
    """Read pictures one after another; only one is in memory, but for arrays.

    Args:
        source: a folder (everything in it that is not hidden, sorted by path), a file, a glob, or
            a list of these: PNG, JPEG, WebP, BMP, .zip and .tar (.gz, .bz2, .xz) of them (a tar
            in its own order), .npz (see ``read_arrays``). Archives in a folder are left alone.
        labels: a CSV (see ``Table``); pictures that it doesn't name are skipped. Else labels are
            what folders say (see ``labels_of_folders``), or what an .npz has.
        array: which array of an .npz.
        skipped: one line is added for each picture of several that can't be read, and for
            rows of the CSV that name no picture.

    Raises:
        ValueError: no picture can be read, an archive is damaged, or the CSV is.
    """
    found = _found(source)
    arrays = [path for path, inside in found if not inside and path.suffix.lower() == ".npz"]
    alone = len(found) == 1 and not found[0][1] and not _kind(found[0][0])
    if arrays and labels is not None:
        raise ValueError(f"{arrays[0]}: its labels are an array in it, not {labels}")
    with ExitStack() as stack:
        entries: list[_Entry] = []
        for path, inside in found:
            if inside or not _kind(path):
                if (len(found) == 1 and not inside) or path.suffix.lower() in _KNOWN:
                    entries.append(_Entry(_clean(path), path.parts, partial(_bytes, path)))
            elif path not in arrays:
                entries += _members(path, stack)
        if not entries and not arrays:
            raise ValueError(_none(source, [path for path, _ in found]))
        if entries:
            pillow()  # without it, every picture would be skipped
        good, bad = 0, len(skipped)
        for picture in _read(entries, labels, skipped, alone):
            good += 1
            yield picture
        for path in arrays:
            x, names = read_arrays(path, array, skipped)
            for row, pixels in enumerate(x):
                label = None if names is None else names[row]
                yield Picture(pixels, f"{_clean(path)}[{row}]", label)
                good += 1
    if not good:
        raise ValueError(f"{source}: no picture of {len(entries):,} can be read; {skipped[bad]}")


def read_picture(path: str | Path) -> Picture:
    """The picture of one file.

    Raises:
        ValueError: it can't be read, with the file and the remedy.
    """
    path = Path(path).expanduser()
    if _kind(path):
        raise ValueError(f"{path}: this is no single picture: name a PNG, JPEG, WebP or BMP")
    return _picture(_Entry(_clean(path), path.parts, partial(_bytes, path)))


def is_pictures(source: Source) -> bool:
    """Whether these are pictures, by names and first bytes; what can't be read is none.

    Of a folder, a glob or a list, at least half of it; of an archive, any one.
    """
    try:
        check_source(source)
        if isinstance(source, list):
            told = [is_pictures(each) for each in source[:_LOOKED_AT]]
            return bool(told) and 2 * sum(told) >= len(told)
        path = Path(source).expanduser()
        if path.is_dir():
            names = [p.suffix.lower() in _KNOWN for p, _ in _found(path)]
            return 2 * sum(names) >= len(names)
        if not path.exists() and glob.has_magic(str(path)):
            return is_pictures([p for p, _ in _found(path)])
        if (kind := _kind(path)) and kind != ".npz" and path.is_file():
            with ExitStack() as stack:
                return bool(_members(path, stack, _LOOKED_AT))
        with path.open("rb") as file:
            known = kind == ".npz" or path.suffix.lower() in _KNOWN
            return known or begins_as_picture(file.read(16))
    except (ValueError, OSError):
        return False


# ---- which files ----


def check_source(source: Any) -> None:
    """Refuse what names no files, such as an array.

    Raises:
        ValueError: neither a name nor a list of names.
    """
    for each in source if isinstance(source, list) else [source]:
        if isinstance(each, list):
            check_source(each)
        elif not isinstance(each, str | os.PathLike):
            raise ValueError(
                f"a source is the name of a file or a folder, or a list of names, and not of type "
                f"{type(each).__name__}: save pictures in an array as .npz"
            )


def _found(source: Source) -> list[tuple[Path, bool]]:
    """Files in reading order, and whether each was found in a folder."""
    check_source(source)
    if isinstance(source, list) and source:
        return [each for s in source for each in _found(s)]
    inside = not isinstance(source, list) and Path(source).expanduser().is_dir()
    files = []
    for path in files_of(source):
        if path is None:
            raise ValueError("pictures are not read from standard input: name a file or a folder")
        files.append((path, inside))
    return files


def _kind(path: Path) -> str:
    """The suffix of an archive; "" of anything else."""
    name = path.name.lower()
    return next((end for end in (".npz", ".zip", *_TAR) if name.endswith(end)), "")


def _none(source: Source, files: list[Path]) -> str:
    """Why there is nothing to read."""
    if any(_kind(path) for path in files):
        return f"{source}: no pictures in it; an archive in a folder is not read, name it alone"
    kinds = sorted({path.suffix or path.name for path in files})
    return f"{source}: no PNG, JPEG, WebP or BMP in it; there are: {', '.join(kinds[:10])}"


def _clean(name: str | Path) -> str:
    """On one line, and printable anywhere."""
    return "".join(c if c.isprintable() else "?" for c in str(name))


# ---- one picture ----


def _read(
    entries: list[_Entry], labels: str | Path | None, skipped: list[str], alone: bool
) -> Iterator[Picture]:
    told = labels_of_folders([entry.path for entry in entries])
    table = None if labels is None else Table(Path(labels).expanduser())
    if table is not None:
        by_table = [table.label(entry.path) for entry in entries]
        if entries and not any(by_table):
            row = "/".join(next(iter(table.rows), ("nothing",)))
            raise ValueError(
                f"{labels}: no row names a picture: the first says {row}, and the first picture "
                f"is {entries[0].name}"
            )
        told = [(label, split) for label, (_, split) in zip(by_table, told, strict=True)]
    for entry, (label, split) in zip(entries, told, strict=True):
        if table is not None and label is None:
            skipped.append(f"{entry.name}: {labels} has no row for it")
            continue
        try:
            pixels = _picture(entry).pixels
        except ValueError as error:
            if alone:
                raise
            skipped.append(str(error))
        else:
            yield Picture(pixels, entry.name, None if label is None else _clean(label), split)
    if table is not None and (line := table.unused()) is not None:
        skipped.append(line)


def _picture(entry: _Entry) -> Picture:
    try:
        return Picture(decode_picture(entry.read()), entry.name)
    except OSError as error:
        raise ValueError(f"{entry.name}: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"{entry.name}: {error}") from None


def _bytes(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError("this is no file")
    with path.open("rb") as file:
        check_size(path.stat().st_size)
        return file.read(MOST_BYTES + 1)


# ---- archives ----


def _members(path: Path, stack: ExitStack, most: int | None = None) -> list[_Entry]:
    """The pictures of an archive, which stays open as long as the stack; of its first names.

    Raises:
        ValueError: truncated, too large or no archive.
    """
    lister = _zipped if _kind(path) == ".zip" else _tarred
    shared = (*path.parent.parts, path.name[: -len(_kind(path))])  # so that cats.zip is a label
    found = []
    try:
        for name, read in islice(lister(path, stack), most):
            parts = PurePosixPath(name.replace("\\", "/")).parts
            inside = tuple(part for part in parts if part not in ("/", ".", ".."))
            hidden = any(part.startswith(".") for part in inside)
            if not hidden and PurePosixPath(name).suffix.lower() in _KNOWN:
                found.append(_Entry(f"{_clean(path)}:{_clean(name)}", (*shared, *inside), read))
    except Exception as error:  # what the standard library raises for damage has no one class
        if found and most is not None:
            return found
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ValueError(f"{path}: truncated, too large or no archive ({reason})") from None
    if not found and most is None:
        raise ValueError(f"{path}: no PNG, JPEG, WebP or BMP in it")
    return found


_Members = Iterator[tuple[str, Callable[[], bytes]]]  # names, and what reads each


def _zipped(path: Path, stack: ExitStack) -> _Members:
    archive = stack.enter_context(zipfile.ZipFile(path))
    members = [member for member in archive.infolist() if not member.is_dir()]
    _bound(len(members), sum(member.file_size for member in members))

    def read(member: zipfile.ZipInfo) -> bytes:
        if member.flag_bits & 1:
            raise ValueError("encrypted: unpack it first")
        check_size(member.file_size)
        with archive.open(member) as file:
            return file.read(MOST_BYTES + 1)

    for member in sorted(members, key=lambda member: member.filename):
        yield member.filename, partial(_undamaged, read, member)


def _tarred(path: Path, stack: ExitStack) -> _Members:
    file: Any = _Bounded(stack.enter_context(_TAR[_kind(path)](path)))
    archive = stack.enter_context(tarfile.TarFile(fileobj=file))

    def read(member: tarfile.TarInfo) -> bytes:
        check_size(member.size)
        opened = archive.extractfile(member)
        assert opened is not None
        return opened.read(MOST_BYTES + 1)

    for count, member in enumerate(archive):
        _bound(count, member.offset)
        if member.isreg() and not member.issparse():  # so that no link is followed
            yield member.name, partial(_undamaged, read, member)
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes anything for it
        raise ValueError("its end is missing")


def _undamaged(read: Callable[[Any], bytes], member: Any) -> bytes:
    try:
        return read(member)
    except ValueError:
        raise
    except Exception:  # see above
        raise ValueError("damaged in its archive: fetch that again") from None


def _bound(members: int, size: int) -> None:
    if members > MOST_MEMBERS:
        raise ValueError(f"more than {MOST_MEMBERS:,} members")
    if size > MOST_UNPACKED:
        raise ValueError(f"it unpacks to more than {MOST_UNPACKED:,} bytes")


class _Bounded:
    """What a tar is unpacked from: neither read nor skipped by more than a tar of ours has."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        check_size(size)
        if size < 0:  # would be all that there is
            raise ValueError("a negative size")
        return self._file.read(size)

    def seek(self, place: int) -> int:
        _bound(0, place)
        return self._file.seek(place)
