"""What the verbs of pictures share: which runs, which files, grids, PNGs.

Shapes: H height, W width, C channels (none or 3), T symbols of a picture. Pixels are uint8.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from chainrule.artifact import Artifact
from chainrule.codecs.colours import Pixels, pillow
from chainrule.codecs.image import PixelCodec
from chainrule.core.codec import Encoded
from chainrule.core.grid import coordinates
from chainrule.core.model import Condition
from chainrule.files import replacing
from chainrule.training.picture_bytes import image_pixels
from chainrule.training.picture_files import read_picture

SEEN = 96  # pixels that the shorter side of a picture has at least, where it is shown,
SIDE = 2048  # if all of them have about so many at most
FILES = 1000  # pictures that are written as files, to compare
GAP, BETWEEN = 2, 144  # pixels between two pictures, and how bright these are
# A picture: its file, uint8 [h, w], [h, w, 1], 3 or 4, or one of Pillow's.
Given = str | Path | ArrayLike
Progress = Callable[[str, int, int | None], None]


def of_pictures(artifact: Artifact) -> bool:
    """Whether a run models pictures."""
    return isinstance(artifact.any_codec, PixelCodec)


def pixel_codec(artifact: Artifact) -> PixelCodec:
    """The codec of a run that models pictures.

    Raises:
        ValueError: it models something else.
    """
    codec = artifact.any_codec
    if not isinstance(codec, PixelCodec):
        raise ValueError(f"{artifact.path or 'this run'} doesn't model pictures")
    return codec


def pixels_of(picture: Given, what: str = "the picture") -> tuple[Pixels, str]:
    """The pixels of a file, an array or an image of Pillow's, and its name: its file, or ``what``.

    Raises:
        ValueError: a file that can't be read, or no picture.
    """
    if isinstance(picture, str | Path):
        return read_picture(picture).pixels, str(picture)
    if hasattr(picture, "getbands"):  # Pillow's: its array may hold numbers of colours
        try:
            return image_pixels(picture), what
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None
    pixels = np.asarray(picture)
    if pixels.ndim not in (2, 3):
        raise ValueError(
            f"{what}: an array has the shape [h, w] or [h, w, 1 | 3 | 4], not {list(pixels.shape)}"
        )
    return pixels, what


def encoded(
    codec: PixelCodec, picture: Given, what: str = "the picture"
) -> tuple[NDArray[np.int64], Pixels]:
    """Symbols [T] in the codec's order, and the pixels that they were made from.

    Raises:
        ValueError: a picture that the codec can't take, by its name.
    """
    pixels, name = pixels_of(picture, what)
    try:
        return codec.encode(pixels).symbols, pixels
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def resized(codec: PixelCodec, height: int, width: int) -> PixelCodec:
    """The same colours for pictures of another size, in raster order; nothing is cropped."""
    data = codec.save(Path()) | {"height": height, "width": width, "order": "raster"}
    return PixelCodec.load(data | {"crop": None, "resize": True}, Path())


def where(codec: PixelCodec) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and channel of every symbol in turn: int64 [T] each."""
    return coordinates(codec.grid, codec.order)


def size_of(pixels: Any) -> str:
    """As messages have it."""
    return f"{pixels.shape[0]}x{pixels.shape[1]}"


def told(artifact: Artifact, label: str | int | None) -> Condition | None:
    """What the model is told of one picture; None without a label.

    Raises:
        ValueError: a label that was not trained, or a model that reads none.
    """
    if label is None:
        return None
    number = pixel_codec(artifact).label(label)
    if "label" not in artifact.outline.reads:
        raise ValueError(f"label {label!r}: the model of this run ({artifact.kind}) reads no label")
    return Condition(label=torch.tensor([number]))


# ---- to be looked at ----


def magnified(pixels: Pixels, by: int) -> Pixels:
    """Every pixel as a square of ``by`` times ``by``."""
    return pixels.repeat(by, 0).repeat(by, 1)


def coloured(pixels: Pixels) -> Pixels:
    """[H, W] or [H, W, 3] -> [H, W, 3]."""
    return pixels if pixels.ndim == 3 else np.stack([pixels] * 3, -1)


def grid_of(pictures: Sequence[Pixels], columns: int | None = None) -> Pixels:
    """All pictures in one, row by row; without ``columns``, about as wide as high.

    They have one size, and are magnified by a whole factor so that small ones can be seen.
    """
    height, width = pictures[0].shape[:2]
    columns = columns or min(len(pictures), math.ceil(math.sqrt(len(pictures) * height / width)))
    rows = -(-len(pictures) // columns)
    if any(p.ndim == 3 for p in pictures):
        pictures = [coloured(p) for p in pictures]
    most = min(SIDE // (columns * width), SIDE // (rows * height))
    by = max(1, min(-(-SEEN // min(height, width)), most))
    height, width = by * height, by * width
    shape = rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, *pictures[0].shape[2:]
    sheet = np.full(shape, BETWEEN, np.uint8)
    for i, pixels in enumerate(pictures):
        top, left = (
            GAP + n * (side + GAP)
            for n, side in zip(divmod(i, columns), (height, width), strict=True)
        )
        sheet[top : top + height, left : left + width] = magnified(pixels, by)
    return sheet


def png(pixels: Pixels) -> bytes:
    """The bytes of a PNG of [H, W] or [H, W, 3].

    Raises:
        ValueError: Pillow is not installed.
    """
    file = io.BytesIO()
    pillow().fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", optimize=True)
    return file.getvalue()


def file_formats(
    codec: PixelCodec,
    symbols: Sequence[NDArray[Any]] | NDArray[Any],
    progress: Progress | None = None,
) -> dict[str, float]:
    """Bits per dimension of PNG and lossless WebP, each picture [T] a file of its own.

    Of a thousand of them, spread evenly, where there are more.
    """
    chosen = [symbols[i] for i in np.unique(np.linspace(0, len(symbols) - 1, FILES).astype(int))]
    sizes = {"PNG": 0, "WebP": 0}
    for number, each in enumerate(chosen):
        pixels, file = codec.decode(Encoded(np.asarray(each, np.int64))), io.BytesIO()
        webp = {"lossless": True, "quality": 100, "method": 6}
        pillow().fromarray(pixels).save(file, "WEBP", **webp)
        sizes["WebP"] += file.tell()
        sizes["PNG"] += min(map(len, [png(pixels), *_narrower(pixels)]))
        if progress is not None:
            progress("PNG and WebP", number + 1, len(chosen))
    return {name: 8 * size / sum(map(len, chosen)) for name, size in sizes.items()}


def _narrower(pixels: Pixels) -> list[bytes]:
    """A PNG with fewer bits a pixel, where a grey picture has so few values."""
    values = np.unique(pixels)
    if pixels.ndim == 3 or len(values) > 16:
        return []
    file = io.BytesIO()
    if set(values.tolist()) <= {0, 255}:
        pillow().fromarray(pixels).convert("1").save(file, "PNG", optimize=True)
    else:
        packed = pillow().fromarray(np.searchsorted(values, pixels).astype(np.uint8))
        packed.putpalette(values.repeat(3).tobytes())
        packed.save(file, "PNG", optimize=True, bits=1 if len(values) < 3 else 4)
    return [file.getvalue()]


def html(pixels: Pixels) -> str:
    """As a notebook shows it."""
    data = base64.b64encode(png(pixels)).decode()
    style = "image-rendering:pixelated"
    return f'<img style="{style}" src="data:image/png;base64,{data}">'


def save(pixels: Pixels, path: str | Path) -> Path:
    """Write a PNG whole.

    Raises:
        ValueError: another kind of file is named.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the picture is a PNG, so give it a name that ends in .png")
    data = png(pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_bytes(data)
    return path


@dataclass(frozen=True)
class Place:
    """Where pictures are to be written.

    Args:
        path: a PNG for all of them, or a folder for one each.
    """

    path: Path
    folder: bool

    @staticmethod
    def of(name: str | None) -> Place:
        """By a name; one that ends in / or is a folder's is a folder.

        Raises:
            ValueError: no name, one that is no PNG's, a folder with other pictures in it, or a
                place that can't be written to.
        """
        if name is None:
            raise ValueError("a picture needs a place: -o picture.png, or -o FOLDER/ for one each")
        path = Path(name)
        folder = name.endswith("/") or path.is_dir()
        if not folder and path.suffix.lower() != ".png":
            raise ValueError(
                f"{name}: pictures are written as PNG: give it a name that ends in .png, or in / "
                "for a folder with one each"
            )
        above = path.absolute() if folder else path.absolute().parent
        there = next(p for p in (above, *above.parents) if p.exists())
        if not there.is_dir():
            raise ValueError(f"{name}: {there.name} is a file and no folder: choose another place")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ValueError(f"{name}: no right to write there: choose another place")
        others = (p.name for p in path.iterdir()) if folder and path.is_dir() else ()
        other = min((p for p in others if p.lower().endswith(".png")), default=None)
        if other is not None:
            raise ValueError(
                f"{name} holds pictures already ({other}): choose an empty or a new folder with -o"
            )
        return Place(path, folder)

    def write(self, each: Sequence[Pixels], sheet: Callable[[], Pixels]) -> str:
        """All of them: in the folder as 1.png and so on, else as ``sheet``; says what was done."""
        if not self.folder:
            return str(save(sheet(), self.path))
        digits = len(str(len(each)))
        for i, pixels in enumerate(each):
            save(pixels, self.path / f"{i + 1:0{digits}}.png")
        return f"{self.path}/{1:0{digits}}.png to {len(each)}.png"
