"""heat: how probable a picture is, and what in it is surprising, as a heat map.

Shapes: N pictures, H height, W width, T symbols of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chainrule.artifact import Artifact
from chainrule.codecs.colours import Pixels, pillow
from chainrule.codecs.symbols import ScoreKind
from chainrule.core.codec import Encoded
from chainrule.core.grid import Grid, places
from chainrule.core.model import AnyOrder, Condition, SequenceModel
from chainrule.verbs.pictures import (
    BETWEEN,
    GAP,
    Given,
    Progress,
    coloured,
    encoded,
    grid_of,
    html,
    pixel_codec,
    save,
    told,
)

_ENTRIES = 2**24  # probabilities at a time,
_SYMBOLS = 2**16  # symbols,
_APART = 32  # and those of a model that needs a pass for each
_LEGEND = 48  # pixels that a legend has at least, to be read
# Black, violet, red, orange, cream: about evenly brighter to the eye.
_ANCHORS = [
    (6, 6, 22), (44, 18, 92), (98, 24, 118), (152, 38, 112), (204, 62, 84), (238, 106, 48),
    (250, 160, 36), (248, 212, 88), (254, 252, 204),
]  # fmt: skip
SCALE = np.stack(
    [np.interp(np.linspace(0, 8, 256), range(9), part) for part in zip(*_ANCHORS, strict=True)], -1
).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class PictureScore:
    """How probable a picture is under a model.

    Args:
        nats: log-probability of all symbols together.
        units: symbols, one a channel of a pixel; bits_per_unit: -log2 p of each on the mean.
        per_symbol: log-probability of every symbol in nats, in the run's order.
        kind: "exact"; "codes": of the symbols alone, which stand for many pictures.
        pixels: uint8 [H, W], or [H, W, 3]: as the run sees it.
        label: what the model was told.
        backend: what computed it, and in which dtype.
    """

    nats: float
    units: int
    bits_per_unit: float
    per_symbol: list[float] = field(repr=False)
    kind: ScoreKind
    pixels: Pixels = field(repr=False)
    grid: Grid
    order: str
    label: str | int | None = None
    backend: str = "torch f32"
    unit: str = "dimension"

    def surprise(self) -> NDArray[np.float64]:
        """-log2 p of every pixel [H, W], its channels together, in bits."""
        height, width, channels = self.grid
        bits = np.empty(self.units)
        bits[places(self.grid, self.order).numpy()] = np.array(self.per_symbol) / -math.log(2)
        found: NDArray[np.float64] = bits.reshape(height, width, channels).sum(2)
        return found

    def oddest(self, k: int = 3) -> list[tuple[int, int, float]]:
        """(row, column, bits) of the k most surprising pixels, the first row and column being 0."""
        bits = self.surprise()
        order = np.argsort(-bits, axis=None, kind="stable")[:k]
        return [(*divmod(int(i), bits.shape[1]), float(bits.flat[i])) for i in order]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names, without the pixels."""
        return {k: v for k, v in vars(self).items() if k != "pixels"}

    def save(self, path: str | Path) -> Path:
        """Write the picture beside its heat map, a PNG.

        Raises:
            ValueError: another kind of file is named.
        """
        return save(heat_map([self]), path)

    def _repr_html_(self) -> str:
        line = f"{self.bits_per_unit:.4f} bits per {self.unit} ({self.kind})"
        return f"<p>{line}</p>{html(heat_map([self]))}"


def picture_score(
    artifact: Artifact,
    picture: Given,
    *,
    label: str | int | None = None,
    backend: str = "auto",
    dtype: str | None = None,
    progress: Progress | None = None,
) -> PictureScore:
    """Score one picture.

    Raises:
        ValueError: a picture that can't be taken, a label that was not trained, or a backend that
            can't be.
    """
    codec, cond = pixel_codec(artifact), told(artifact, label)
    on = artifact.choose(backend, dtype, draws=False)
    symbols, pixels = encoded(codec, picture)
    number = None if cond is None or cond.label is None else cond.label.numpy()
    (nats,) = log_probs(artifact.runner(on), symbols[None], number, progress)
    total = float(nats.sum())
    return PictureScore(
        total,
        len(symbols),
        -total / math.log(2) / len(symbols),
        nats.tolist(),
        codec.score_kind(pixels),
        codec.decode(Encoded(symbols)),
        codec.grid,
        codec.order,
        label,
        str(on),
    )


@torch.no_grad()
def log_probs(
    model: SequenceModel,
    symbols: NDArray[Any],
    labels: NDArray[np.int64] | None = None,
    progress: Progress | None = None,
) -> Iterator[NDArray[np.float64]]:
    """log p of every symbol in nats, float64 [T], of pictures [N, T] one after another.

    ``labels``: int64 [N], -1 for none, where the model is told them.
    """
    count, length = symbols.shape
    apart = isinstance(model, AnyOrder)  # every symbol needs a pass of its own
    rows = max(1, min(_SYMBOLS // length, _ENTRIES // (length * (model.space.size or 1))))
    block, rows = (_APART, 1) if apart else (length, rows)
    was_training = model.training
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    model.eval()
    try:
        for first in range(0, count, rows):
            x = torch.from_numpy(symbols[first : first + rows].astype(np.int64)).to(device)
            cond = None
            if labels is not None:
                cond = Condition(label=torch.from_numpy(labels[first : first + rows]).to(device))
            state, parts = model.start(len(x), cond) if apart else None, []
            for at in range(0, length, block):
                piece = x[:, at : at + block]
                if state is None:
                    law = model(piece, cond)
                else:
                    law, state = model.carry(piece, state=state)
                parts.append(law.log_prob(piece).double().cpu())
                if progress is not None:
                    done = first * length + len(x) * (at + piece.shape[1])
                    progress("scoring", done, count * length)
            yield from torch.cat(parts, 1).numpy()
    finally:
        model.train(was_training)


# ---- to be looked at ----


def heat_map(scores: Sequence[PictureScore]) -> Pixels:
    """Every picture beside the surprise of its pixels, and the scale; three one below the other,
    more in several columns."""
    surprises = [score.surprise() for score in scores]
    most = max(float(bits.max()) for bits in surprises) or 1.0
    shown: list[Pixels] = []
    for score, bits in zip(scores, surprises, strict=True):
        level = np.clip(bits / most * 255, 0, 255).round().astype(np.uint8)
        shown += [coloured(score.pixels), SCALE[level]]
    sheet = grid_of(shown, columns=2 * math.ceil(math.sqrt(len(scores) / 3)))
    short = max(0, _LEGEND - len(sheet))
    sheet = np.pad(sheet, ((0, short), (0, 0), (0, 0)), constant_values=BETWEEN)
    return np.concatenate([sheet, _legend(len(sheet), most)], 1)


def _legend(height: int, most: float) -> Pixels:
    """A bar from 0 bits at its foot to the most at its head."""
    pillow()
    from PIL import Image, ImageDraw

    side, words = 12, [f"{most:.3g} bits", f"{most / 2:.3g}", "0"]
    area = Image.new("RGB", (side + 64, height), (BETWEEN,) * 3)
    level = np.linspace(255, 0, height - 2 * GAP).round().astype(np.uint8)
    bar = SCALE[level][:, None].repeat(side, 1)
    area.paste(Image.fromarray(bar), (GAP, GAP))
    pen = ImageDraw.Draw(area)
    for word, y in zip(words, (GAP, height // 2 - 6, height - GAP - 12), strict=True):
        pen.text((side + GAP + 5, y), word, fill=(0, 0, 0))
    return np.asarray(area)
