"""Labels of pictures: by the folders that they lie in, or by a table."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from chainrule.codecs.symbols import read_text

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_FILE = ("file", "filename", "name", "path", "image")
_LABEL = ("label", "class")

Parts = tuple[str, ...]  # of a path


def label_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Each label once: sorted, by number where all are numbers."""
    distinct = set(labels)
    try:
        return tuple(sorted(distinct, key=lambda name: (float(name), name)))
    except ValueError:
        return tuple(sorted(distinct))


def labels_of_folders(paths: Sequence[Parts]) -> list[tuple[str | None, str | None]]:
    """Label and split of every picture, by the folders that it lies in.

    Folders that all have in common say nothing. Where what is left begins with train, val(id,
    idation) or test for all of them, that is the split. Where one folder is then left for every
    picture, it is the label.
    """
    above = [path[:-1] for path in paths]
    if above:
        first, last = min(above), max(above)  # what these two share, all do
        pairs = enumerate(zip(first, last, strict=False))
        shared = next((i for i, (a, b) in pairs if a != b), min(len(first), len(last)))
        above = [path[shared:] for path in above]
    splits: list[str | None] = [None] * len(above)
    if above and all(path and path[0].lower() in _SPLITS for path in above):
        splits = [_SPLITS[path[0].lower()] for path in above]
        above = [path[1:] for path in above]
    labels: list[str | None] = [None] * len(above)
    if all(len(path) == 1 for path in above):
        labels = [path[0] for path in above]
    return list(zip(labels, splits, strict=True))


class Table:
    """Labels by the names of files: a CSV with the columns file and label.

    The columns are called file, filename, name, path or image, and label or class; without such
    a header there are two, in that order. A file is named by its path from the folder or the
    archive, or by the end of that path, down to the name alone.

    Raises:
        ValueError: not such a table, or two labels for one file, with the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[Parts, tuple[str, int]] = {}  # label and line
        self._used: set[Parts] = set()
        lines = read_text(path).removeprefix("\ufeff").splitlines()
        if not any(line.strip() for line in lines):
            raise ValueError(f"{path} is empty: it needs rows of a file and its label")
        delimiter = max(",;\t", key=lines[0].count)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            self._read(reader)
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: bad CSV ({error})") from None

    def _read(self, reader: Iterable[list[str]]) -> None:
        at: tuple[int, int] | None = None
        for number, row in enumerate(reader, 1):
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            where = f"{self.path}, line {number}"
            if at is None:
                header = [cell.lower() for cell in cells]
                file, label = (
                    next((header.index(n) for n in names if n in header), None)
                    for names in (_FILE, _LABEL)
                )
                if file is not None and label is not None:
                    at = file, label
                    continue
                if len(cells) != 2:
                    raise ValueError(
                        f"{where}: which columns? Call them file and label; there are: "
                        f"{', '.join(cells)[:200]}"
                    )
                at = 0, 1
            if len(cells) <= max(at) or not cells[at[0]] or not cells[at[1]]:
                raise ValueError(f"{where}: a file or its label is missing")
            name, label_name = _parts(cells[at[0]]), cells[at[1]]
            known = self.rows.setdefault(name, (label_name, number))
            if known[0] != label_name:
                raise ValueError(
                    f"{where}: {cells[at[0]]} is {label_name!r}, and {known[0]!r} in line "
                    f"{known[1]}: leave one of them"
                )

    def label(self, path: Parts) -> str | None:
        """Of a picture; None: no row names it."""
        for i in range(len(path)):
            if path[i:] in self.rows:
                self._used.add(path[i:])
                return self.rows[path[i:]][0]
        return None

    def unused(self) -> str | None:
        """A line about the rows that have named no picture so far, if there are any."""
        rest = [(line, name) for name, (_, line) in self.rows.items() if name not in self._used]
        if not rest:
            return None
        line, name = min(rest)
        first = f"the first is {'/'.join(name)}, line {line}"
        return f"{self.path}: rows that name no picture: {len(rest):,}; {first}"


def _parts(name: str) -> Parts:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return tuple(part for part in parts if part not in ("/", ".", ".."))
