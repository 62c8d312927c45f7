"""One picture file's bytes to pixels: bounded before they are decoded, and refused in one line.

Shapes: h × w pixels; uint8 [h, w, 1] in grey, [h, w, 3] in colour, [h, w, 4] with transparency.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from typing import Any

import numpy as np

from chainrule.codecs.colours import Pixels, pillow

MOST_BYTES = 2**26  # of a file, or of a member of an archive
MOST_PIXELS = 2**26
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # nothing else that Pillow knows is ever opened
_MAGIC = re.compile(rb"\x89PNG|\xff\xd8\xff|RIFF....WEBP|BM....\0\0\0\0", re.DOTALL)
_GREY = ("1", "L", "LA")
_MODES = (*_GREY, "P", "PA", "RGB", "RGBA", "YCbCr")


def begins_as_picture(data: bytes) -> bool:
    """Whether a file that begins so is PNG, JPEG, WebP or BMP."""
    return _MAGIC.match(data) is not None


def check_size(size: int) -> None:
    """Refuse a file of so many bytes.

    Raises:
        ValueError: too many.
    """
    if size > MOST_BYTES:
        raise ValueError(f"{size:,} bytes are too many for a picture, {MOST_BYTES:,} at most")


def decode_picture(data: bytes) -> Pixels:
    """Pixels of a PNG, JPEG, WebP or BMP, the right way up; opaque pictures have no opacity.

    Raises:
        ValueError: what can't be read, with the remedy; whoever knows the file's name adds it.
    """
    Image = pillow()
    check_size(len(data))
    if (problem := _huge_png(data)) is not None:
        raise ValueError(problem)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which nobody reads
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                problem = _problem(image, data)
                if problem is None:
                    return _pixels(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        found = re.search(r"\d+", str(error))
        assert found is not None
        problem = _too_large(f"{int(found[0]):,}")
    except Image.UnidentifiedImageError:
        if not begins_as_picture(data):
            problem = "not a PNG, JPEG, WebP or BMP picture: save it as PNG"
    except Exception:  # Pillow's plugins raise whatever a damaged file makes them stumble over
        pass
    raise ValueError(problem or "truncated or damaged: fetch it again, or leave it out")


def image_pixels(image: Any) -> Pixels:
    """Pixels of a picture of Pillow's, as ``decode_picture`` has those of its file.

    Raises:
        ValueError: colours of another kind, an animation, or too large, with the remedy.
    """
    problem = _problem(image, b"")
    if problem is not None:
        raise ValueError(problem)
    return _pixels(image)


def _huge_png(data: bytes) -> str | None:
    """Said by its header, whose checksum need not be right."""
    if not data.startswith(b"\x89PNG") or len(data) < 24:
        return None
    width, height = struct.unpack(">II", data[16:24])
    return _too_large(f"{height:,} x {width:,}") if width * height > MOST_PIXELS else None


def _too_large(pixels: str) -> str:
    return f"its header says {pixels} pixels, {MOST_PIXELS:,} at most: scale it down first"


def _problem(image: Any, data: bytes) -> str | None:
    """Why an opened picture, of which only the header has been read, is not taken."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        return _too_large(f"{height:,} x {width:,}")
    if image.mode == "CMYK":
        return "its colours are CMYK: convert it to RGB"
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a JPEG with a second view or a depth map
        return f"an animation of {frames} frames: save one of them"
    if image.mode[0] in "IF" or (image.format == "PNG" and data[24:25] == b"\x10"):
        return "more than 8 bits a channel: convert it to 8 bits"
    if image.mode not in _MODES:
        return f"its colours are of the kind {image.mode}: convert it to RGB"
    return None


def _pixels(image: Any) -> Pixels:
    from PIL import ImageOps

    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        x = np.array(image.convert("RGBA"))
        if x[..., 3].min() < 255:
            return x
        x = x[..., :3]
    elif image.mode in _GREY:
        return np.array(image.convert("L"))[..., None]
    else:
        x = np.array(image.convert("RGB"))
    listed = image.mode in (*_GREY, "P", "PA")
    if listed and (x[..., :1] == x).all():
        x = x[..., :1]
    return np.ascontiguousarray(x)
