"""Places for files that a verb writes when it is done: found wanting before the long work."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def places(*paths: str | Path | None) -> Iterator[None]:
    """Make the folders of the files that are to be written; where the block fails, those that
    were made are gone again. None and ``-`` need none.

    Raises:
        ValueError: a folder has that name. OSError: a folder can't be made or written to.
    """
    made: list[Path] = []
    try:
        for path in (Path(p).expanduser() for p in paths if p is not None and str(p) != "-"):
            if path.is_dir():
                raise ValueError(f"{path} is a folder: name a file")
            made += [above for above in path.parents if not above.exists()]  # the nearest first
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):  # not empty, or never made
                folder.rmdir()
        raise
