"""fill: what is missing of a picture, given the rest; colours for a grey one, detail for a small.

Shapes: H height, W width, T symbols of a picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.artifact import Artifact
from chainrule.codecs.colours import Pixels
from chainrule.codecs.image import PixelCodec
from chainrule.core.codec import Encoded
from chainrule.core.config import bounded
from chainrule.core.grid import places
from chainrule.decoding.infill import EXACTNESS, Method, infill
from chainrule.decoding.warps import Warps
from chainrule.verbs.forecaster_parts import whole
from chainrule.verbs.pictures import (
    Given,
    Progress,
    coloured,
    encoded,
    grid_of,
    html,
    magnified,
    pixel_codec,
    pixels_of,
    resized,
    save,
    size_of,
    told,
    where,
)

Task = Literal["colourise", "upscale"]
TASKS: tuple[str, ...] = get_args(Task)
METHODS: tuple[str, ...] = get_args(Method)
FACTORS = (2, 4, 8)
ROW = 10  # pictures in a row, at most
FILL_IN = 128  # from this brightness on, a mask says so
BLANK, STRIPE = (214, 39, 90), (245, 150, 180)  # how blanks are shown


@dataclass(frozen=True, eq=False)
class FilledPicture:
    """A picture whose blanks were filled.

    Args:
        pixels: uint8 [H, W], or [H, W, 3] in colour; given: what it was made from, its blanks
            striped, [H, W, 3].
        symbols: all T, in the run's order; blanks: how many of them were filled in.
        log_prob: of the blanks given the known symbols, in nats: exact; by smc, an estimate; by
            clamp, given only what precedes each blank. bits: the same in bits.
        exactness: "distribution" for exact, "approximate" for clamp and smc.
        effective_sample_size: by smc, how many independent particles its own are worth.
        log_evidence: by smc, the estimated log-probability of the known symbols, in nats.
    """

    pixels: Pixels = field(repr=False)
    given: Pixels = field(repr=False)
    symbols: list[int] = field(repr=False)
    blanks: int
    log_prob: float
    bits: float
    method: str
    exactness: str
    seed: int
    label: str | int | None = None
    effective_sample_size: float | None = None
    log_evidence: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names; the pixels are left to the symbols."""
        return {k: v for k, v in vars(self).items() if k not in ("pixels", "given")}

    def save(self, path: str | Path) -> Path:
        """Write a PNG in the picture's own size.

        Raises:
            ValueError: another kind of file is named.
        """
        return save(self.pixels, path)

    def _repr_html_(self) -> str:
        return html(sheet_of([self])) + f"<p>{self.method} ({self.exactness})</p>"


def sheet_of(found: list[FilledPicture]) -> Pixels:
    """What was given, and then all that was made of it: in one row, if that is not too long."""
    columns = len(found) + 1 if len(found) < ROW else None
    return grid_of([found[0].given, *(f.pixels for f in found)], columns)


@torch.no_grad()
def fill(
    artifact: Artifact,
    picture: Given,
    *,
    mask: Given | None = None,
    task: Task | None = None,
    method: Method | None = None,
    n: int = 1,
    label: str | int | None = None,
    particles: int = 256,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical: float = 1.0,
    progress: Progress | None = None,
) -> list[FilledPicture]:
    """Fill in what is missing of a picture, n times.

    Args:
        mask: white where it is to be filled in, black where it stays; or bool, True where it is to
            be. It has the size of the picture, or of the run's pictures.
        task: colourise (the brightness is known, of a run fitted with ``colour="luma"``) or upscale
            (the picture's pixels are every 2nd, 4th or 8th of every 2nd, 4th or 8th row).
        method: exact (any-order models, and where the known symbols come first; the default there),
            smc (particles, weighed by what follows) or clamp (what follows has no say).
        label: the class that it is of, by name.
        particles: of smc; more are better and slower.

    Raises:
        ValueError: nothing to fill in, a mask of another size, a label that was not trained, a
            model that can't do it in this way, or a setting out of bounds.
    """
    codec = pixel_codec(artifact)
    if (mask is None) == (task is None):
        raise ValueError(
            "say what to fill in: a mask (--mask), or the task (--task) colourise or upscale"
        )
    if task is not None and task not in TASKS:
        raise ValueError(f"task {task!r} is not one of {', '.join(TASKS)}")
    if method is not None and method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")
    n = whole("n", n, 1000)
    bounded("seed", seed, 0, 2**63 - 1)
    warp = Warps.of(
        1, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical=typical
    )
    cond = told(artifact, label)
    if mask is not None:
        x, known, given = masked(codec, picture, mask)
    else:
        x, known, given = (_grey if task == "colourise" else _small)(codec, picture)
    net = artifact.model.masked is not None and method in (None, "exact")
    model = artifact.model if net else artifact.runner(artifact.choose(dtype="f32"))
    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def say(done: int, of: int) -> None:
        if progress is not None:
            progress("filling in", done, of)

    found = infill(
        model,
        x.to(device),
        known.to(device),
        method,
        n,
        particles=particles,
        seed=seed,
        warp=warp,
        cond=None if cond is None else cond.to(device),
        progress=say,
    )
    return [
        FilledPicture(
            codec.decode(Encoded(np.array(symbols, np.int64))),
            given,
            symbols,
            int((~known).sum()),
            log_prob,
            -log_prob / math.log(2),
            found.method,
            EXACTNESS[found.method],
            seed,
            label,
            found.effective_sample_size,
            found.log_evidence,
        )
        for symbols, log_prob in zip(found.symbols.tolist(), found.log_prob.tolist(), strict=True)
    ]


Known = tuple[Tensor, Tensor, Pixels]  # symbols [T], which are known [T], and how to show that


def masked(codec: PixelCodec, picture: Given, mask: Given) -> Known:
    """A picture whose pixels are known where the mask is black.

    Raises:
        ValueError: a picture or a mask that can't be taken, a mask of another size, or a mask that
            is white nowhere.
    """
    symbols, pixels = encoded(codec, picture)
    painted, name = pixels_of(mask, "the mask")
    if painted.dtype == bool:
        painted = painted.astype(np.uint8) * 255
    height, width, _ = codec.grid
    if painted.shape[:2] not in (pixels.shape[:2], (height, width)):
        size = f"{height}x{width}"
        own = f", or {size}" if pixels.shape[:2] != (height, width) else ""
        raise ValueError(
            f"{name}: the mask is {size_of(painted)} and the picture {size_of(pixels)}: make it of "
            f"that size{own}"
        )
    same = painted.shape[:2] == (height, width)
    crop = None if same else codec.crop  # else it goes the way that the picture went
    as_mask = PixelCodec(height, width, background=(0, 0, 0), crop=crop, resize=codec.resize)
    blank = as_mask.decode(Encoded(encoded(as_mask, painted, name)[0])) >= FILL_IN
    if not blank.any():
        raise ValueError(
            f"{name}: nothing to fill in, no pixel of the mask is white ({FILL_IN} or brighter)"
        )
    row, column, _ = where(codec)
    given = striped(codec.decode(Encoded(symbols)), blank)
    return torch.from_numpy(symbols), ~torch.from_numpy(blank)[row, column], given


def striped(pixels: Pixels, blank: NDArray[np.bool_]) -> Pixels:
    """The picture [H, W, 3] with its blanks marked."""
    out = coloured(pixels).copy()
    row, column = np.nonzero(blank)
    stripe = (row + column) % 4 < 2
    out[row[stripe], column[stripe]] = STRIPE
    out[row[~stripe], column[~stripe]] = BLANK
    return out


def _grey(codec: PixelCodec, picture: Given) -> Known:
    """The brightness of a picture is known, its colours are not."""
    if codec.colour != "luma":
        raise ValueError(
            f"colourise needs a run whose colours are apart from brightness, and this one's are "
            f"{codec.colour}: fit with --colour luma --order planes"
        )
    symbols, _ = encoded(codec, picture)
    bright = where(codec)[2] == 0
    height, width, _ = codec.grid
    as_grey = PixelCodec(height, width, levels=codec.levels)
    in_rows = np.zeros(codec.grid, np.int64).reshape(-1)
    in_rows[places(codec.grid, codec.order)] = symbols
    given = coloured(as_grey.decode(Encoded(in_rows[::3])))
    return torch.from_numpy(symbols), bright, given


def _small(codec: PixelCodec, picture: Given) -> Known:
    """Every f-th pixel of every f-th row is known."""
    pixels, name = pixels_of(picture)
    height, width, _ = codec.grid
    sizes = {f: (-(-height // f), -(-width // f)) for f in FACTORS}
    found = [f for f, size in sizes.items() if pixels.shape[:2] == size]
    if not found:
        known = ", ".join(f"{h}x{w}" for h, w in sizes.values())
        raise ValueError(
            f"{name}: {size_of(pixels)} is no small version of {height}x{width}: it must be {known}"
        )
    f = found[0]
    small = resized(codec, *sizes[f])
    symbols, _ = encoded(small, picture)
    canvas = np.zeros(codec.grid, np.int64)
    canvas[::f, ::f] = symbols.reshape(small.grid)
    row, column, _ = where(codec)
    known_at = (row % f == 0) & (column % f == 0)
    given = coloured(magnified(small.decode(Encoded(symbols)), f)[:height, :width])
    return torch.from_numpy(canvas.reshape(-1))[places(codec.grid, codec.order)], known_at, given
