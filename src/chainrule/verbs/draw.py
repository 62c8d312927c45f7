"""draw: pictures from a run of them, whole or going on from an upper part.

Shapes: H height, W width, T symbols of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chainrule.artifact import Artifact
from chainrule.codecs.colours import Pixels
from chainrule.codecs.image import PixelCodec
from chainrule.core.codec import Encoded
from chainrule.core.grid import places
from chainrule.core.model import Condition
from chainrule.decoding.infill import EXACTNESS, blanks_last, infill
from chainrule.decoding.rows import rows_at_once
from chainrule.decoding.verify import Emitted
from chainrule.verbs.forecaster_parts import whole
from chainrule.verbs.generate import Settings, by_row, decoded, settings_of
from chainrule.verbs.pictures import (
    Given,
    Progress,
    encoded,
    grid_of,
    html,
    pixel_codec,
    pixels_of,
    resized,
    save,
    size_of,
    told,
    where,
)

OF_TEXT = (
    "repetition_penalty", "presence_penalty", "frequency_penalty", "ban", "force", "stop", "regex",
    "choices", "schema",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Drawn:
    """One picture.

    Args:
        pixels: uint8 [H, W], or [H, W, 3] in colour.
        symbols: all T, in the run's order; the first ``given`` of them were not drawn.
        log_prob: of those that were drawn, in nats, under the model before any warp.
        bits_per_dim: the same in bits, over their number.
        label: what the model was told.
    """

    pixels: Pixels = field(repr=False)
    symbols: list[int] = field(repr=False)
    log_prob: float
    bits_per_dim: float
    strategy: str
    exactness: str
    seed: int
    label: str | int | None = None
    given: int = 0
    choice: str | None = None  # what strategy auto found, in words
    backend: str = "torch f32"  # what computed it, and in which dtype

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names; the pixels are left to the symbols."""
        return {k: v for k, v in vars(self).items() if k != "pixels"}

    def save(self, path: str | Path) -> Path:
        """Write a PNG in the picture's own size.

        Raises:
            ValueError: another kind of file is named.
        """
        return save(self.pixels, path)

    def _repr_html_(self) -> str:
        return html(grid_of([self.pixels]))


def draw(
    artifact: Artifact,
    n: int = 1,
    *,
    label: str | int | None = None,
    top: Given | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> list[Drawn]:
    """Draw n pictures. The i-th depends on the seed, i and what is given alone.

    Args:
        label: the class that they are to be of, by name; None: of any.
        top: a picture of the upper part; of one as high as the run's, the upper half is taken.
        settings: those of ``generate`` that are not about text.

    Raises:
        ValueError: a setting out of bounds or about text, a label that was not trained, or a
            picture that is no upper part.
    """
    codec, asked = pixel_codec(artifact), settings_of(settings)
    n = whole("n", n, 100_000)
    plain = Settings()
    about = [name for name in OF_TEXT if getattr(asked, name) != getattr(plain, name)]
    if about:
        raise ValueError(f"{about[0]} is about text, and this run models pictures")
    cond, about_it = told(artifact, label), {"seed": asked.seed, "label": label}
    length = math.prod(codec.grid)
    x, known = torch.zeros(length, dtype=torch.int64), torch.zeros(length, dtype=torch.bool)
    if top is not None:
        x, rows = upper_part(codec, top)
        known = where(codec)[0] < rows
    if not blanks_last(known):
        return _filled(artifact, x, known, n, asked, cond, about_it, progress)
    found: list[Drawn] = []
    missing = int((~known).sum())
    model = artifact.runner(artifact.choose(asked.backend, asked.dtype, strategy=asked.strategy))
    most = rows_at_once(model, n, length, cond)
    for first in range(0, n, most):
        ids = list(range(first, min(n, first + most)))
        say = None if progress is None else partial(_say, progress, first * missing, n * missing)
        found += _batch(artifact, x[known], ids, asked, cond, about_it, say)
    return found


def _say(progress: Progress, before: int, total: int, done: int) -> None:
    progress("drawing", before + done, total)


def _batch(
    artifact: Artifact,
    given: Tensor,
    ids: list[int],
    asked: Settings,
    cond: Condition | None,
    about_it: dict[str, Any],
    say: Callable[[int], None] | None,
) -> list[Drawn]:
    """The pictures of these numbers, which go on from ``given`` [k]."""
    codec, rows = pixel_codec(artifact), len(ids)
    length = math.prod(codec.grid) - len(given)
    on = artifact.choose(asked.backend, asked.dtype, strategy=asked.strategy)
    read = None if cond is None else cond.select([0] * rows)
    symbols: list[list[int]] = [given.tolist() for _ in ids]
    nats = [0.0] * rows
    held: list[Emitted] = []
    done = 0
    with torch.no_grad():
        model = artifact.runner(on)
        how, steps = decoded(artifact, on, model, [given] * rows, ids, length, asked, read)
        for emitted in steps:
            held.append(emitted)
            done += sum(emitted.count)
            if say is not None:
                say(done)
    for row, new, log_prob in by_row(held):
        symbols[row] += new
        nats[row] += log_prob
    choice = None if how.choice is None else str(how.choice)
    made = {"strategy": how.strategy, "exactness": how.exactness, "choice": choice}
    return [
        _drawn(codec, x, log_prob, len(given), backend=str(how.on), **made, **about_it)
        for x, log_prob in zip(symbols, nats, strict=True)
    ]


def _filled(
    artifact: Artifact,
    x: Tensor,
    known: Tensor,
    n: int,
    asked: Settings,
    cond: Condition | None,
    about_it: dict[str, Any],
    progress: Progress | None,
) -> list[Drawn]:
    """Where the given symbols don't come first: by an any-order model.

    Raises:
        ValueError: the model is none.
    """
    codec, model = pixel_codec(artifact), artifact.model
    if model.masked is None:
        raise ValueError(
            f"the upper part does not come first in this run's order {codec.order!r}: chainrule "
            "infill with --method clamp or smc fills in below it, and --model anyorder any part"
        )
    device = next(model.parameters()).device
    read = None if cond is None else cond.to(device)
    say = None if progress is None else lambda done, of: progress("drawing", done, of)
    found = infill(
        model, x.to(device), known.to(device), None, n,
        seed=asked.seed, warp=asked.warps(1), cond=read, progress=say,
    )  # fmt: skip
    made = {"strategy": "ancestral", "exactness": EXACTNESS[found.method], **about_it}
    return [
        _drawn(codec, symbols, log_prob, int(known.sum()), **made)
        for symbols, log_prob in zip(found.symbols.tolist(), found.log_prob.tolist(), strict=True)
    ]


def _drawn(
    codec: PixelCodec, symbols: list[int], log_prob: float, given: int, **about: Any
) -> Drawn:
    pixels = codec.decode(Encoded(np.array(symbols, dtype=np.int64)))
    bits = -log_prob / math.log(2) / (len(symbols) - given)
    return Drawn(pixels, symbols, log_prob, bits, given=given, **about)


def upper_part(codec: PixelCodec, top: Given) -> tuple[Tensor, int]:
    """Symbols [T] of a picture whose upper rows are given, and how many rows these are.

    It is scaled to the width of the run. Of a picture in the shape of the run's, the upper half.

    Raises:
        ValueError: a picture that can't be read, or too flat or too high to be an upper part.
    """
    pixels, name = pixels_of(top)
    height, width, _ = codec.grid
    rows = round(pixels.shape[0] * width / pixels.shape[1])
    if not 1 <= rows <= height:
        raise ValueError(
            f"{name}: {size_of(pixels)} is no upper part of {height}x{width}: at that width it has "
            f"{rows} rows"
        )
    symbols, _ = encoded(resized(codec, rows, width), top)
    canvas = np.zeros(math.prod(codec.grid), np.int64)
    canvas[: len(symbols)] = symbols
    given = rows if rows < height else height // 2
    return torch.from_numpy(canvas)[places(codec.grid, codec.order)], given
