"""Colours of pixels: grey, Y Cb Cr, palettes, and what lies behind transparent ones.

Shapes: … any axes, C channels, K colours. Everything is uint8 and in whole numbers, so that the
same picture has the same symbols on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.core.config import bounded

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]  # red, green, blue
_SAMPLE = 2**20  # pixels that a palette is fitted to
_DISTANCES = 2**22  # in memory at a time

# 16-bit fixed point; rows Y, Cb, Cr. Every row of a grey pixel sums to it, or to nothing.
_TO_LUMA = np.array([[19595, 38470, 7471], [-11058, -21710, 32768], [32768, -27439, -5329]])
_TO_RGB = np.array([[65536, 0, 91881], [65536, -22554, -46802], [65536, 116130, 0]])


def pillow() -> Any:
    """The module PIL.Image.

    Raises:
        ValueError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ValueError("pictures need Pillow: pip install 'chainrule[image]'") from None
    return Image


def grey(x: Pixels) -> Pixels:
    """The brightness [..., 1] of colours [..., 3], by ITU-R 601 as Pillow's "L" has it."""
    return _mixed(x, _TO_LUMA[:1], 0)


def to_luma(x: Pixels) -> Pixels:
    """Y, Cb and Cr [..., 3] of colours [..., 3]: JPEG's, full range, rounded.

    Over all 2**24 colours, ``to_rgb`` of it is at most 1 off in every channel (and 24 % come back).
    """
    return _mixed(x, _TO_LUMA, np.array([0, 128, 128]))


def to_rgb(x: Pixels) -> Pixels:
    """Colours [..., 3] of Y, Cb and Cr [..., 3]."""
    return _mixed(x.astype(np.int16) - np.array([0, 128, 128], np.int16), _TO_RGB, 0)


def _mixed(x: NDArray[Any], weights: NDArray[Any], offset: Any) -> Pixels:
    """Sums [..., M] of channels [..., C] by weights [M, C] / 65536, rounded, plus an offset."""
    x = x.astype(np.int32)
    out = np.empty((*x.shape[:-1], len(weights)), np.uint8)
    for channel, row in enumerate(weights.astype(np.int32)):
        total = sum(x[..., i] * w for i, w in enumerate(row))
        at = offset if np.ndim(offset) == 0 else offset[channel]
        out[..., channel] = np.clip(((total + 32768) >> 16) + at, 0, 255)
    return out


def over(x: Pixels, background: Colour | None) -> Pixels:
    """Colours [..., 3] of those with an opacity [..., 4], laid on the background.

    An opaque fourth channel is dropped.

    Raises:
        ValueError: something is transparent and there is no background.
    """
    opacity = x[..., 3:].astype(np.int32)
    if (opacity == 255).all():
        return x[..., :3]
    if background is None:
        share = f"{np.count_nonzero(opacity < 255):,} of {opacity.size:,}"
        raise ValueError(
            f"transparent in {share} pixels: say what lies behind them, such as --background white"
        )
    behind = np.array(background, np.int32) * (255 - opacity)
    return ((x[..., :3] * opacity + behind + 127) // 255).astype(np.uint8)


def nearest(x: Pixels, palette: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Which colour of a palette [K, 3] is nearest to colours [..., 3]: [...].

    By squared distance in RGB; of equally near ones, the first.
    """
    codes, known = _codes(x).ravel(), palette.astype(np.float32)
    lengths = (known * known).sum(1)  # whole numbers below 2**24: float32 is exact
    found = np.empty(len(codes), np.uint16)
    step = max(1, _DISTANCES // len(known))
    for i in range(0, len(codes), step):
        # Each colour is looked up once, however many pixels have it.
        colours, back = np.unique(codes[i : i + step], return_inverse=True)
        products = _of_codes(colours).astype(np.float32) @ known.T
        found[i : i + step] = (lengths - 2 * products).argmin(1)[back]
    return found.reshape(x.shape[:-1])


def fit_palette(
    pictures: Iterable[Pixels], count: int, background: Colour | None = None
) -> tuple[Colour, ...]:
    """At most ``count`` colours for pictures [h, w], [h, w, 1 | 3 | 4] like these, dark to bright.

    All of them where they have no more; else by median cut (Heckbert 1982) over up to 2**20 pixels.

    Raises:
        ValueError: a count that is not 2 to 256, no pictures, or one colour only.
    """
    bounded("the number of colours", count, 2, 256)
    dice, rate = np.random.default_rng(0), 1.0
    found: Pixels = np.zeros((0, 3), np.uint8)
    for picture in pictures:
        x = coloured(picture if picture.ndim == 3 else picture[..., None], background)
        x = x.reshape(-1, 3)
        found = np.concatenate([found, x if rate == 1 else x[dice.random(len(x)) < rate]])
        while len(found) > _SAMPLE:
            found, rate = found[dice.random(len(found)) < 0.5], rate / 2
    distinct = _distinct(found)
    if len(distinct) < 2:
        raise ValueError(f"a palette needs two colours or more, not {len(distinct)}")
    if len(distinct) > count:
        Image = pillow()
        cut = Image.fromarray(found[None]).quantize(
            count, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
        )
        distinct = _distinct(np.array(cut.getpalette(), np.uint8).reshape(-1, 3)[:count])
    order = np.argsort(grey(distinct)[:, 0], kind="stable")
    return as_palette(distinct[order].tolist())


def as_palette(colours: Iterable[Sequence[int]]) -> tuple[Colour, ...]:
    """Colours of red, green and blue, each once.

    Raises:
        ValueError: something else.
    """
    palette = []
    for colour in colours:
        if len(colour) != 3 or any(not 0 <= c <= 255 for c in colour):
            raise ValueError(f"{tuple(colour)} is no colour: three numbers of 0 to 255")
        palette.append((int(colour[0]), int(colour[1]), int(colour[2])))
    if len(set(palette)) < len(palette):
        raise ValueError("the palette has a colour twice")
    return tuple(palette)


def coloured(x: Pixels, background: Colour | None) -> Pixels:
    """Red, green and blue [..., 3] of any picture [..., 1 | 3 | 4].

    Raises:
        ValueError: something is transparent and there is no background.
    """
    if x.shape[-1] == 1:
        return np.broadcast_to(x, (*x.shape[:-1], 3))
    return over(x, background) if x.shape[-1] == 4 else x


def _distinct(x: Pixels) -> Pixels:
    return _of_codes(np.unique(_codes(x)))


def _codes(x: Pixels) -> NDArray[Any]:
    """Colours [..., 3] as one number each."""
    red, green, blue = (x[..., i].astype(np.uint32) for i in range(3))
    return red << 16 | green << 8 | blue


def _of_codes(codes: NDArray[Any]) -> Pixels:
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], -1).astype(np.uint8)
