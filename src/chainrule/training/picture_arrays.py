"""Pictures in the arrays of an .npz. Nothing is allocated before its header is checked.

Shapes: N pictures, h × w pixels.
"""

from __future__ import annotations

import difflib
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from chainrule.codecs.colours import Pixels

_MOST_BYTES = 2**31  # of an array
_MOST_ARRAYS = 10_000
_PICTURES = ("train_images", "images", "x_train", "X_train", "x", "X", "data")
_LABELS = ("labels", "y_train", "y", "target")
_PIECE = 2**24  # values that are converted at a time


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def axes(self) -> int:
        """How many axes pictures have here, 0: none are here."""
        several = len(self.shape) == 3 or (len(self.shape) == 4 and self.shape[3] in (1, 3, 4))
        fits = several or len(self.shape) == 2
        return len(self.shape) if fits and self.dtype.kind in "buif" and 0 not in self.shape else 0

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def read_arrays(path: Path, key: str | None, skipped: list[str]) -> tuple[Pixels, list[str] | None]:
    """Pictures uint8 [N, h, w, 1 | 3 | 4] of an .npz, and their labels where it has some.

    Of several arrays: the one called ``key``, else the only one of pictures ([N, h, w] or
    [N, h, w, 1 | 3 | 4]; else the only one of two axes, which is one picture), else the first that
    there is of train_images, images, x_train, X_train, x, X, data. Whole numbers are 0 to 255,
    floats 0 to 1; where there are only 0 and 1, or bools, these are black and white. Labels: whole
    numbers or text, N of them, called as the pictures are with ``labels`` for ``images`` (or y
    for x), else labels, y_train, y or target. Other arrays of pictures: a line in ``skipped``.

    Raises:
        ValueError: damaged, too large, of another type, it isn't clear which array is meant, or
            there are more labels or fewer than pictures.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            headers = _headers(archive, path)
            chosen = _choose(headers, key, path)
            x = _values(_read(archive, chosen, headers[chosen], path), f"{path}: {chosen}")
            if key is None:
                others = (k for k, h in headers.items() if h.axes > 2 and k != chosen)
                skipped += [f"{path}: {k}, as {chosen} is taken (--field)" for k in others]
            beside = _labels_of(chosen, headers, path)
            names = None
            if beside is not None:
                found = _read(archive, beside, headers[beside], path).ravel()
                names = [_text(value) for value in found.tolist()]
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError):
        raise ValueError(f"{path}: truncated, or not an .npz: save it again") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    x = x[None] if x.ndim == 2 else x
    return x[..., None] if x.ndim == 3 else x, names


def _headers(archive: zipfile.ZipFile, path: Path) -> dict[str, _Header]:
    members = [name for name in archive.namelist() if name.endswith(".npy")]
    if len(members) > _MOST_ARRAYS:
        raise ValueError(f"{path}: {len(members):,} arrays are too many, {_MOST_ARRAYS:,} at most")
    found = {}
    for name in members:
        with archive.open(name) as file:
            found[name.removesuffix(".npy")] = _header(file, f"{path}: {name}")
    return found


def _header(file: IO[bytes], where: str) -> _Header:
    try:
        version = npy.read_magic(file)
        reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        header = _Header(*reader(file))
    except (zipfile.BadZipFile, OSError):
        raise
    except Exception:  # what a header may hold is evaluated, and says so in many ways
        raise ValueError(f"{where}: truncated, or no array of NumPy's: save it again") from None
    if any(n < 0 for n in header.shape):
        raise ValueError(f"{where}: its header says {list(header.shape)}, which can't be")
    return header


def _choose(headers: dict[str, _Header], key: str | None, path: Path) -> str:
    there = ", ".join(f"{name} ({h})" for name, h in list(headers.items())[:20])
    if key is not None:
        if key not in headers:
            near = difflib.get_close_matches(key, headers, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"{path}: there is no array {key!r} (--field); there are: {there}{hint}"
            )
        if not headers[key].axes:
            raise ValueError(
                f"{path}: {key} is {headers[key]}: no pictures, which are numbers of the shape "
                "[N, h, w] or [N, h, w, 1 | 3 | 4]"
            )
        return key
    fit = [name for name, h in headers.items() if h.axes > 2]
    fit = fit or [name for name, h in headers.items() if h.axes]
    if not fit:
        raise ValueError(
            f"{path}: no array has pictures, numbers of the shape [N, h, w] or "
            f"[N, h, w, 1 | 3 | 4]; there are: {there or 'none'}"
        )
    if len(fit) == 1:
        return fit[0]
    usual = [name for name in _PICTURES if name in fit]
    if not usual:
        raise ValueError(
            f"{path}: which array has the pictures? Say --field KEY; there are: {there}"
        )
    return usual[0]


def _labels_of(chosen: str, headers: dict[str, _Header], path: Path) -> str | None:
    if headers[chosen].axes == 2:
        return None
    count = headers[chosen].shape[0]
    own = chosen.replace("images", "labels")
    if chosen[:1] in "xX":
        own = ("y" if chosen[0] == "x" else "Y") + chosen[1:]
    for name in (own, own.lower(), *_LABELS):
        header = None if name == chosen else headers.get(name)
        if header is None or header.dtype.kind not in "iuUS":
            continue
        if header.shape in ((count,), (count, 1)):
            return name
        if name.lower() == own.lower() and name != chosen:
            raise ValueError(
                f"{path}: {name} is {header}, and {chosen} has {count:,} pictures: give each a "
                "label, or save the pictures alone"
            )
    return None


def _read(archive: zipfile.ZipFile, key: str, header: _Header, path: Path) -> NDArray[Any]:
    size = math.prod(header.shape) * header.dtype.itemsize
    if size > _MOST_BYTES:
        raise ValueError(
            f"{path}: {key} has {size:,} bytes, {_MOST_BYTES:,} at most: save it as several files"
        )
    with archive.open(f"{key}.npy") as file:
        _header(file, f"{path}: {key}")
        data = file.read(size)
    if len(data) < size:
        raise ValueError(f"{path}: {key} ends after {len(data):,} of {size:,} bytes: save it again")
    flat = np.frombuffer(data, header.dtype)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def _values(x: NDArray[Any], where: str) -> Pixels:
    """Numbers of any kind as uint8."""
    if x.dtype.kind == "b":
        return x.view(np.uint8) * np.uint8(255)
    low, high = x.min(), x.max()
    most = 1 if x.dtype.kind == "f" else 255
    if not 0 <= low <= high <= most:  # NaN, too
        kind = "floats" if most == 1 else "whole numbers"
        raise ValueError(
            f"{where} holds {low:g} to {high:g}: {kind} must be 0 to {most}, scale them first"
        )
    if high > 1 and x.dtype == np.uint8:
        return x
    scale = 1 if high > 1 else 255
    out = np.empty(x.shape, np.uint8)
    step = max(1, _PIECE // math.prod(x.shape[1:]))
    for i in range(0, len(x), step):
        out[i : i + step] = np.rint(x[i : i + step].astype(np.float64) * scale)
    return out


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
