"""Files, folders and archives of pictures, good and bad, that several tests share."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chainrule.codecs.colours import Pixels
from chainrule.training.picture_files import Picture, read_pictures
from chainrule.training.readers import Source

_ORIENTATION = 0x112  # the tag of EXIF

DICE = np.random.default_rng(0)
GREY = DICE.integers(0, 256, (6, 5), dtype=np.uint8)
COLOUR = DICE.integers(0, 256, (6, 5, 3), dtype=np.uint8)
LARGE = DICE.integers(0, 256, (80, 70), dtype=np.uint8)  # noise: kilobytes in every format


def saved(picture: Pixels | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The file of a picture; ``options`` are Pillow's."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PNG = saved(GREY)


def header(width: int, height: int, png: bytes = PNG) -> bytes:
    """A PNG whose header says another size, with the right checksum."""
    chunk = png[12:16] + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def turned(kind: str) -> bytes:
    """COLOUR, to be shown a quarter turn clockwise."""
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    return saved(COLOUR, kind, exif=exif)


def animated(kind: str) -> bytes:
    """Two frames."""
    return saved(COLOUR, kind, save_all=True, append_images=[Image.fromarray(255 - COLOUR)])


def put(path: Path, data: bytes | str) -> Path:
    """Write a file, and the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def zipped(path: Path, members: Mapping[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, members: Mapping[str, bytes], mode: Any) -> Path:
    """``mode``: of tarfile.open, which says how it is packed."""
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def arrays(path: Path, **named: Any) -> Path:
    np.savez(path, **named)
    return path


def read(source: Source, **options: Any) -> tuple[list[Picture], list[str]]:
    """All pictures, and a line for each that was skipped."""
    skipped: list[str] = []
    return list(read_pictures(source, skipped=skipped, **options)), skipped


def refused(source: Source, **options: Any) -> str:
    """The one line that says why nothing is read."""
    with pytest.raises(ValueError, match=r"\A.+\Z") as error:
        read(source, **options)
    return str(error.value)
