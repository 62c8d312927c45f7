"""Pictures: every channel of every pixel is a symbol.

Shapes: N pictures, h × w of a picture as it came, H × W and C channels of the codec's own, T
symbols (H·W·C), V levels. A picture is uint8 [h, w], [h, w, 1], [h, w, 3] or, with opacity,
[h, w, 4].
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrule.codecs.colours import (
    Colour,
    Pixels,
    as_palette,
    coloured,
    grey,
    nearest,
    pillow,
    to_luma,
    to_rgb,
)
from chainrule.codecs.colours import fit_palette as fit_palette
from chainrule.codecs.symbols import ScoreKind
from chainrule.core.codec import Codec, Encoded, Symbols
from chainrule.core.config import bounded, from_dict, to_dict
from chainrule.core.grid import places
from chainrule.core.space import Space

Colours = Literal["grey", "rgb", "luma", "palette"]
COLOURS: tuple[str, ...] = get_args(Colours)
LONGEST_SIDE = 4096  # pixels
MOST_SYMBOLS = 2**22
_MOST_COLOURS = 4096
_MOST_LABELS, _LONGEST_LABEL = 10_000, 200
_PIECE = 2**22  # pixels that are encoded at a time


class PixelCodec(Codec):
    """Pictures of one size. ``lossless``: of pictures of that size and colour.

    Levels: value v is symbol round(v·(V-1) / 255), and a symbol s stands for round(s·255 / (V-1)).
    Colours: ``grey`` (colour becomes brightness), ``rgb``, ``luma`` (Y, Cb, Cr as JPEG has them:
    a grey picture is known when its first channel is; red, green and blue come back up to 1 off;
    with fewer than 256 levels greys get a tint), ``palette`` (one symbol a pixel).

    Args:
        height, width: pixels.
        levels: V, of every channel; a palette has as many as it has colours.
        order: of the symbols, see ``core.grid``.
        background: what transparent pixels are laid on.
        crop: height and width that are cut from the middle first.
        resize: pictures of another size are scaled to cover this one and their middle is cut out.
        labels: names of classes, in the order of their numbers.

    Raises:
        ValueError: settings out of bounds, or that contradict each other.
    """

    name: ClassVar[str] = "pixels"

    def __init__(
        self,
        height: int,
        width: int,
        *,
        colour: str = "grey",
        levels: int = 256,
        order: str = "raster",
        palette: Sequence[Sequence[int]] = (),
        background: Sequence[int] | None = None,
        crop: Sequence[int] | None = None,
        resize: bool = False,
        labels: Sequence[str] = (),
    ) -> None:
        bounded("the height of pictures", height, 1, LONGEST_SIDE)
        bounded("the width of pictures", width, 1, LONGEST_SIDE)
        if colour not in COLOURS:
            raise ValueError(f"colour {colour!r} is not one of {', '.join(COLOURS)}")
        if (colour == "palette") != bool(palette):
            raise ValueError("a list of colours belongs to the colour palette, and only to it")
        self.palette = as_palette(palette)
        if palette:
            bounded("the number of colours", len(palette), 2, _MOST_COLOURS)
        bounded("levels", levels, 2, 256)
        self.levels = len(palette) if palette else levels
        self.grid = height, width, 3 if colour in ("rgb", "luma") else 1
        if math.prod(self.grid) > MOST_SYMBOLS:
            raise ValueError(
                f"pictures of {_size(self.grid)} are {math.prod(self.grid):,} symbols, "
                f"{MOST_SYMBOLS:,} at most: make them smaller with --resize"
            )
        self.crop = None
        if crop is not None:
            self.crop = int(crop[0]), int(crop[1])
            bounded("the height of the crop", self.crop[0], 1, 2**16)
            bounded("the width of the crop", self.crop[1], 1, 2**16)
            if self.crop != (height, width) and not resize:
                raise ValueError(
                    f"a crop of {_size(self.crop)} makes no pictures of {_size(self.grid)}: "
                    "--resize them as well"
                )
        self.colour, self.order, self.resize = colour, order, resize
        self.background = None if background is None else as_palette([background])[0]
        self.labels = _names(labels)
        self.space = Space.picture(self.grid, self.levels, order)
        plain = colour in ("grey", "rgb") and levels == 256
        self.lossless = plain and not crop and not resize and background is None
        self._places: NDArray[np.int64] = places(self.grid, order).numpy()
        value, symbol = np.arange(256), np.arange(self.levels)
        top = self.levels - 1
        self._symbol = ((2 * value * top + 255) // 510).astype(np.uint8)  # of a value
        self._value = ((510 * symbol + top) // (2 * top)).astype(np.uint8)  # of a symbol

    # ---- pictures to symbols ----

    def encode(self, obj: ArrayLike) -> Encoded:
        """Symbols int64 [T] of a picture, in the codec's order.

        Raises:
            ValueError: no picture, another size, or transparent pixels, with the remedy.
        """
        return Encoded(self.encode_many(np.asarray(obj)[None])[0].astype(np.int64))

    def encode_many(self, pictures: NDArray[Any]) -> NDArray[Any]:
        """Symbols [N, T] of pictures [N, h, w] or [N, h, w, 1 | 3 | 4], as ``encode`` has them.

        They are of the narrowest unsigned type that holds V.

        Raises:
            ValueError: as ``encode``.
        """
        x = self._cropped(_checked(pictures))
        kind = np.uint8 if self.levels <= 256 else np.uint16
        out = np.empty((len(x), math.prod(self.grid)), kind)
        step = max(1, _PIECE // math.prod(x.shape[1:3]))
        for i in range(0, len(x), step):
            values = self._encoded(x[i : i + step]).reshape(-1, out.shape[1])
            out[i : i + step] = values if self.order == "raster" else values[:, self._places]
        return out

    def _cropped(self, x: Pixels) -> Pixels:
        if self.crop is not None:
            (h, w), (height, width) = x.shape[1:3], self.crop
            if h < height or w < width:
                raise ValueError(f"{_size((h, w))} is too small for a crop of {_size(self.crop)}")
            top, left = (h - height) // 2, (w - width) // 2
            x = x[:, top : top + height, left : left + width]
        if x.shape[1:3] != self.grid[:2] and not self.resize:
            raise ValueError(
                f"{_size(x.shape[1:3])}, where this run's pictures are {_size(self.grid)}: "
                "--resize when fitting"
            )
        return x

    def _encoded(self, x: Pixels) -> NDArray[Any]:
        """Symbols [N, H, W(, C)] of pictures [N, h, w, 1 | 3 | 4]."""
        if self.colour != "grey" or x.shape[-1] != 1:
            x = coloured(x, self.background)
        if self.colour == "grey" and x.shape[-1] == 3:
            x = grey(x)
        if x.shape[1:3] != self.grid[:2]:
            x = np.stack([self._scaled(each) for each in x])
        if self.colour == "palette":
            return nearest(x, np.array(self.palette, np.uint8))
        return self._symbol[to_luma(x) if self.colour == "luma" else x]

    def _scaled(self, x: Pixels) -> Pixels:
        """One picture [h, w, C], scaled to cover [H, W, C]; the middle of what it covers."""
        Image = pillow()
        (h, w), (height, width) = x.shape[:2], self.grid[:2]
        tall, wide = min(h, w * height / width), min(w, h * width / height)
        top, left = (h - tall) / 2, (w - wide) / 2
        how = Image.Resampling.LANCZOS if tall > height else Image.Resampling.BICUBIC
        image = Image.fromarray(np.ascontiguousarray(x[..., 0] if x.shape[2] == 1 else x))
        done = image.resize((width, height), how, box=(left, top, left + wide, top + tall))
        return np.asarray(done).reshape(height, width, -1)

    # ---- and back ----

    def decode(self, encoded: Encoded) -> Pixels:
        """The picture [H, W] in grey or [H, W, 3]. Where symbols are missing at the end, black.

        Raises:
            ValueError: too many symbols, or numbers that are none.
        """
        return self._painted(self._symbols_of(encoded.symbols), self.grid[0])

    def _painted(self, symbols: NDArray[Any], height: int) -> Pixels:
        """The first rows; of one order only, raster, may it be fewer than there are."""
        _, width, channels = self.grid
        at = self._places[: len(symbols)]
        if self.colour == "palette":
            pixels = np.zeros((height * width, 3), np.uint8)
            pixels[at] = np.array(self.palette, np.uint8)[symbols]
            return pixels.reshape(height, width, 3)
        rest = [0, 128, 128] if self.colour == "luma" else [0] * channels
        flat = np.tile(np.array(rest, np.uint8), height * width)
        flat[at] = self._value[symbols]
        if channels == 1:
            return flat.reshape(height, width)
        out = flat.reshape(height, width, 3)
        return to_rgb(out) if self.colour == "luma" else out

    def _symbols_of(self, symbols: Symbols) -> NDArray[Any]:
        symbols = np.asarray(symbols)
        if not symbols.size:
            return np.empty(0, np.int64)
        if symbols.ndim != 1 or symbols.dtype.kind not in "iu":
            raise ValueError(
                f"symbols must be whole numbers [T], not {symbols.dtype} of shape "
                f"{list(symbols.shape)}"
            )
        if len(symbols) > len(self._places):
            raise ValueError(f"{len(symbols):,} symbols, where a picture has {len(self._places):,}")
        if symbols.min() < 0 or symbols.max() >= self.levels:
            wrong = symbols[(symbols < 0) | (symbols >= self.levels)][0]
            raise ValueError(f"{wrong} is not a symbol of {self.levels} levels")
        return symbols

    def stream(self) -> PixelStream:
        """An incremental decoder: joined, the same as ``decode`` of the whole."""
        return PixelStream(self)

    def units(self, encoded: Encoded) -> int:
        """Dimensions: symbols."""
        return len(encoded.symbols)

    def score_kind(self, obj: ArrayLike) -> ScoreKind:
        """What log p(symbols) says of a picture.

        ``exact``: it is the picture's log-probability, because decoding gives it back and nothing
        else does. ``codes``: of the symbols alone, which stand for many pictures.

        Raises:
            ValueError: as ``encode``.
        """
        x = _checked(np.asarray(obj)[None])
        if self.colour == "luma" or x.shape[1:3] != self.grid[:2]:
            return "codes"
        if x.shape[-1] == 4 and not (x[..., 3] == 255).all():
            return "codes"
        back = _checked(self.decode(self.encode(x[0]))[None])
        same = np.array_equal(coloured(back, None), coloured(x, None))
        return "exact" if same else "codes"

    # ---- labels ----

    def label(self, given: str | int) -> int:
        """The number of a class, by its name. A number that is no name is taken as it is.

        Raises:
            ValueError: there is no such class; the message names those that there are.
        """
        if not self.labels:
            raise ValueError(
                f"label {given!r}: this run has learned no labels; fit it on sub-folders, or "
                "with --labels FILE.csv"
            )
        if str(given) in self.labels:
            return self.labels.index(str(given))
        numbers = any(name.isdecimal() for name in self.labels)
        if isinstance(given, int) and not numbers and 0 <= given < len(self.labels):
            return given
        more = ", …" if len(self.labels) > 20 else ""
        raise ValueError(
            f"label {given!r} was not trained; there are: {', '.join(self.labels[:20])}{more}"
        )

    # ---- on disk ----

    def _definition(self) -> dict[str, Any]:
        height, width, _ = self.grid
        levels = 256 if self.palette else self.levels
        names = [f.name for f in fields(_Pixels) if f.name not in ("height", "width", "levels")]
        rest: dict[str, Any] = {name: getattr(self, name) for name in names}
        return to_dict(_Pixels(height, width, levels=levels, **rest))

    def fingerprint(self) -> str:
        """Hash of all that the encoding depends on: equal ones encode equally."""
        data = json.dumps([self.name, self._definition()]).encode()
        return hashlib.blake2b(data, digest_size=16).hexdigest()

    def save(self, folder: Path) -> dict[str, Any]:
        """Everything is in the JSON."""
        return self._definition()

    @classmethod
    def load(cls, data: dict[str, Any], folder: Path) -> Self:
        where = f"{folder / 'config.json'}: codec"
        given = from_dict(_Pixels, data, where)
        try:
            return cls(**vars(given))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


class PixelStream:
    """Incremental decoding: whole rows as soon as they are complete, in the order raster.

    Other orders have a picture only in the end.
    """

    def __init__(self, codec: PixelCodec) -> None:
        self._codec = codec
        self._held: NDArray[Any] = np.empty(0, np.int64)
        self._rows = 0

    def push(self, symbols: Symbols) -> Pixels:
        """The rows [k, W] or [k, W, 3] that these symbols [L] complete.

        Raises:
            ValueError: as ``decode``.
        """
        _, width, channels = self._codec.grid
        new = self._codec._symbols_of(symbols)
        self._held = np.concatenate([self._held, new])
        past = self._rows * width * channels
        if past + len(self._held) > math.prod(self._codec.grid):
            raise ValueError("more symbols than a picture has")
        rows = len(self._held) // (width * channels) if self._codec.order == "raster" else 0
        done, self._held = np.split(self._held, [rows * width * channels])
        self._rows += rows
        return self._codec._painted(done, rows)

    def finish(self) -> Pixels:
        """The rows that are left; what they lack is black."""
        rest, self._held = self._held, self._held[:0]
        rows, self._rows = self._codec.grid[0] - self._rows, self._codec.grid[0]
        return self._codec._painted(rest, rows)


@dataclass(frozen=True)
class _Pixels:
    height: int
    width: int
    colour: Colours = "grey"
    levels: int = 256
    order: str = "raster"
    palette: tuple[Colour, ...] = ()
    background: Colour | None = None
    crop: tuple[int, int] | None = None
    resize: bool = False
    labels: tuple[str, ...] = ()


def _checked(pictures: NDArray[Any]) -> Pixels:
    """Pictures as uint8 [N, h, w, 1 | 3 | 4]."""
    x = np.asarray(pictures)
    if x.dtype != np.uint8:
        raise ValueError(f"a picture is an array of uint8, not of {x.dtype}")
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.shape[-1] not in (1, 3, 4) or 0 in x.shape[1:]:
        raise ValueError(
            f"a picture has the shape [h, w] or [h, w, 1 | 3 | 4], not {list(pictures.shape[1:])}"
        )
    return x


def _names(labels: Sequence[str]) -> tuple[str, ...]:
    labels = tuple(labels)
    bounded("the number of labels", len(labels), 0, _MOST_LABELS)
    if any(not 1 <= len(name) <= _LONGEST_LABEL for name in labels):
        raise ValueError(f"a label has 1 to {_LONGEST_LABEL} characters")
    if len(set(labels)) < len(labels):
        raise ValueError("the labels have a name twice")
    return labels


def _size(shape: Sequence[int]) -> str:
    return f"{shape[0]}x{shape[1]}"
