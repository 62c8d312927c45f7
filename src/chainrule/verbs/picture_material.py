"""What fit learns from: pictures of one size.

Shapes: N pictures, H × W pixels, T symbols of a picture, V levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.text import Text as Rich

from chainrule.artifact import Artifact
from chainrule.codecs.colours import fit_palette
from chainrule.codecs.image import PixelCodec
from chainrule.core.model import AnyOrder, SequenceModel
from chainrule.training.picture_files import read_pictures
from chainrule.training.picture_labels import label_order
from chainrule.training.pictures import DRAWS, Pictures, picture_nats, prepare_pictures
from chainrule.training.plan import TrainConfig
from chainrule.training.scoring import affordable
from chainrule.training.shards import Progress, SymbolArray
from chainrule.verbs.choosing import Options
from chainrule.verbs.display import Display, Silent
from chainrule.verbs.material import Material
from chainrule.verbs.tune import Data

MOST_UNASKED = 2**16  # symbols of a picture, without --resize
MOST_BYTES = 2**33  # of all pixels together
SCORED = 2**22  # symbols of the held-out part that a score reads, at most
SHOWN = 3  # pictures
CHEAP = 2**36  # multiplications that showing them may take
_COLOURS = 16  # of a palette, unless asked
Pixels = NDArray[np.uint8]


@dataclass(eq=False)
class PictureMaterial(Material):
    """Pictures as a trainer asks for them; ``skipped``: files that could not be read, and why."""

    codec: PixelCodec
    lessons: Pictures
    skipped: list[str] = field(default_factory=list)

    @property
    def digest(self) -> str:  # type: ignore[override]
        assert self.lessons.folder is not None
        return self.lessons.folder.name

    @property
    def description(self) -> str:  # type: ignore[override]
        return self.lessons.description

    @property
    def size(self) -> int:  # type: ignore[override]
        return self.lessons.train.size

    @property
    def rows(self) -> int:
        return len(self.lessons.train)

    def settle(self, config: TrainConfig) -> TrainConfig:
        return replace(config, length=self.lessons.train.shape[1], carry=False)

    def fields(self, asked: Options) -> dict[str, Any]:
        masked = asked.objective == "hybrid"
        return {"ahead": asked.ahead, "masked": masked, "labels": len(self.codec.labels)}

    def suit(self, model: SequenceModel) -> None:
        if "label" not in model.reads:
            self.lessons = replace(self.lessons, labels=None, held_out_labels=None)

    def facts(self, source: Any, asked: Options) -> dict[str, Any]:
        paths = list(map(str, source)) if isinstance(source, list) else [str(source)]
        told = {"field": asked.field, "labels": None if asked.labels is None else str(asked.labels)}
        found = {"data": self.digest, "source": paths, **told}
        return {name: value for name, value in found.items() if value is not None}

    def bits(self, model: SequenceModel, progress: Progress) -> float:
        """Of an any-order model, the mean over some orders, which is estimated."""
        x, labels = self.scored(model)

        def say(done: int) -> None:
            progress("scoring the held-out part", done, len(x))

        nats = picture_nats(model, x, labels, say, DRAWS if isinstance(model, AnyOrder) else 0)
        return float(nats.sum() / math.log(2) / x.size)

    def scored(self, model: SequenceModel) -> tuple[SymbolArray, NDArray[np.int64] | None]:
        """The held-out pictures that a score of a model reads, and their labels."""
        lessons = self.lessons
        count = max(1, affordable(model, SCORED) // lessons.held_out.shape[1])
        labels = lessons.held_out_labels
        return lessons.held_out[:count], None if labels is None else labels[:count]

    def data_of(self, path: str | Path, artifact: Artifact, progress: Progress) -> Data:
        found = read_material(path, self.codec, Options(), Silent())
        return Data(found.digest, (str(path),))

    def bits_of(self, was: Data, artifact: Artifact, progress: Progress) -> float | str:
        if not was.source or "-" in was.source:
            return "not found: the run names no files to read again"
        source: Any = list(was.source) if len(was.source) > 1 else was.source[0]
        asked = Options(field=was.field, labels=was.labels)
        try:
            found = read_material(source, self.codec, asked, Silent())
        except (ValueError, OSError) as error:
            return f"not found: {error}"
        if found.digest != was.data:
            return f"not found: {', '.join(was.source)} is not what it was"
        found.suit(artifact.model)
        return found.bits(artifact.model, progress)

    def orders(self) -> dict[str, Any]:
        lessons = self.lessons
        labels = (lessons.labels, lessons.held_out_labels)
        return {
            "symbols": str(lessons.folder),
            "length": lessons.train.shape[1],
            "labels": [None if each is None else each.tolist() for each in labels],
        }

    def baseline(self, model: SequenceModel) -> SequenceModel | None:
        return None

    def counted(self) -> Any:
        return list(self.lessons.train)

    def shown(self, artifact: Artifact, seed: int) -> Rich | None:
        from chainrule.verbs.draw import draw

        length = self.lessons.train.shape[1]
        cost = length * sum(p.numel() for p in artifact.model.parameters())
        if artifact.choose().backend == "torch":
            cost *= length  # each symbol a pass, it may be
        if cost > CHEAP:
            return None
        return blocks([d.pixels for d in draw(artifact, SHOWN, seed=seed, strategy="ancestral")])

    def finish(
        self,
        artifact: Artifact,
        folder: Path,
        done: dict[str, Any],
        records: list[dict[str, Any]],
        display: Display,
    ) -> None:
        from chainrule.verbs.picture_card import finish

        finish(artifact, self, folder, done, records, display)


def blocks(pictures: Sequence[Pixels], gap: int = 2) -> Rich:
    """Pictures side by side for a terminal: a character is two pixels, one above the other."""
    shape = (*pictures[0].shape[:2], 3)
    colour = [np.broadcast_to(p.reshape(*shape[:2], -1), shape) for p in pictures]
    text, (height, width, _) = Rich(), shape
    for row in range(0, height, 2):
        for number, picture in enumerate(colour):
            text.append(" " * gap if number else "")
            for column in range(width):
                upper, lower = (picture[min(r, height - 1), column] for r in (row, row + 1))
                text.append("▀", f"rgb({_rgb(upper)}) on rgb({_rgb(lower)})")
        text.append("\n")
    text.rstrip()
    return text


def _rgb(pixel: Pixels) -> str:
    return ",".join(map(str, pixel.tolist()))


# ---- from files ----


def read_material(
    source: Any, codec: PixelCodec | None, asked: Options, display: Display
) -> PictureMaterial:
    """Read and encode pictures, by a codec or by the one that suits them.

    Raises:
        ValueError: no picture that can be read, unlike sizes without --resize, or more than there
            is room for.
    """
    skipped: list[str] = []
    frames, labels, held = _frames(source, codec, asked, skipped, display)
    for line in skipped[:5]:
        display.say(f"left out: {line}")
    if len(skipped) > 5:
        display.say(f"left out: {_number(len(skipped) - 5, 'more file')}")
    if codec is None:
        codec = _codec(frames, labels, asked)
        kinds = f", {_number(len(codec.labels), 'label')}" if codec.labels else ""
        height, width, _ = codec.grid
        display.say(
            f"{_number(len(frames), 'picture')} of {height}x{width}, {codec.colour}, "
            f"{codec.levels} levels{kinds}: {_number(codec.space.max_len, 'symbol')} each"
        )
    told = labels if codec.labels else None
    # Frames are cropped already: once more would be another picture.
    sized = PixelCodec.load(codec.save(Path()) | {"crop": None}, Path())
    lessons = prepare_pictures(frames, told, sized, held=held)
    return PictureMaterial(codec, lessons, skipped)


def _number(count: int | None, name: str) -> str:
    return f"{count:,} {name}" + ("" if count == 1 else "s")


def _frames(
    source: Any, codec: PixelCodec | None, asked: Options, skipped: list[str], display: Display
) -> tuple[Pixels, list[str] | None, NDArray[np.bool_] | None]:
    """All pictures at the size of the run [N, H, W(, 3)], their labels where they have some, and
    which are held out where folders say so."""
    name = ", ".join(map(str, source)) if isinstance(source, list) else str(source)
    plain, frames, labels, parts = None, [], [], []
    sizes: dict[tuple[int, int], str] = {}
    grey, taken = True, 0
    for picture in read_pictures(source, labels=asked.labels, array=asked.field, skipped=skipped):
        height, width = picture.pixels.shape[:2]
        if plain is None:
            plain = _plain(height, width, codec, asked)
        if not (plain.resize or plain.crop):
            sizes.setdefault((height, width), picture.name)
            if len(sizes) > 1:
                continue  # say at the end how many there are
        try:
            pixels = plain.decode(plain.encode(picture.pixels))
        except ValueError as error:
            skipped.append(f"{picture.name}: {error}")
            continue
        taken += pixels.nbytes
        if taken > MOST_BYTES:
            raise ValueError(
                f"{name}: more than {MOST_BYTES / 2**30:.0f} GiB of pixels: --resize makes the "
                "pictures smaller"
            )
        if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
            pixels = pixels[..., 0]
        grey = grey and pixels.ndim == 2
        frames.append(pixels)
        labels.append(picture.label)
        parts.append(picture.split in ("validation", "test"))
        if len(frames) % 64 == 0:
            display.working("reading pictures", len(frames), None)
    if len(sizes) > 1:
        small, large = (f"{h}x{w} ({sizes[h, w]})" for h, w in (min(sizes), max(sizes)))
        raise ValueError(
            f"{name}: pictures have {len(sizes):,} sizes, from {small} to {large}: say "
            "--resize 32, or 24x32 (height x width)"
        )
    if not frames:
        first = f"; the first: {skipped[0]}" if skipped else ""
        raise ValueError(f"{name}: no picture in it can be used{first}")
    if not grey:
        frames = [np.repeat(f[..., None], 3, 2) if f.ndim == 2 else f for f in frames]
    known = [name for name in labels if name is not None]
    if known and len(known) < len(labels):
        without = _number(len(labels) - len(known), "picture")
        display.say(f"{without} without a label: labels are left out")
    held = np.array(parts)
    told = known if len(known) == len(labels) else None
    return np.stack(frames), told, held if 0 < held.sum() < len(held) else None


def _plain(height: int, width: int, codec: PixelCodec | None, asked: Options) -> PixelCodec:
    """What brings pictures to the size of the run, in full colour, or grey as the codec does."""
    colour = "grey" if (asked if codec is None else codec).colour == "grey" else "rgb"
    if codec is not None:
        height, width, _ = codec.grid
        crop, resize, background = codec.crop, codec.resize, codec.background
    else:
        crop = None if asked.crop is None else size_of(asked.crop, "crop")
        resize, height, width = False, *(crop or (height, width))
        if asked.resize is not None:
            resize, (height, width) = True, size_of(asked.resize, "resize")
        background = None if asked.background is None else colour_of(asked.background)
        if not resize and height * width > MOST_UNASKED:
            raise ValueError(
                f"pictures of {height}x{width} are {height * width:,} symbols each and more: say "
                "--resize 64x64, or another size"
            )
    return PixelCodec(height, width, colour=colour, background=background, crop=crop, resize=resize)


def _codec(frames: Pixels, labels: list[str] | None, asked: Options) -> PixelCodec:
    """As asked; else grey where nothing has colour, and as few levels as lose nothing."""
    height, width = frames.shape[1:3]
    colour = asked.colour or ("grey" if frames.ndim == 3 else "rgb")
    palette: Sequence[Any] = ()
    levels = asked.levels or 256
    if colour == "palette":
        palette = fit_palette(frames, asked.levels or _COLOURS)
    elif asked.levels is None:
        values = np.flatnonzero(np.bincount(frames.reshape(-1), minlength=256))
        levels = next((v for v in range(2, 65) if _has_levels(values, v)), 256)
    plain = _plain(height, width, None, asked)
    return PixelCodec(
        height,
        width,
        colour=colour,
        levels=levels,
        order=asked.order or "raster",
        palette=palette,
        background=plain.background,
        crop=plain.crop,
        resize=plain.resize,
        labels=label_order(labels) if labels is not None else (),
    )


def _has_levels(values: NDArray[np.intp], levels: int) -> bool:
    """Whether no value lies between these levels."""
    steps = values * (levels - 1) / 255
    return bool(np.array_equal(np.round(np.round(steps) * 255 / (levels - 1)), values))


def size_of(text: str, name: str) -> tuple[int, int]:
    """ "32" or "24x32", height first.

    Raises:
        ValueError: not a size.
    """
    parts = str(text).lower().split("x")
    if not 1 <= len(parts) <= 2 or not all(p.isdecimal() and 0 < int(p) <= 4096 for p in parts):
        raise ValueError(f"--{name} {text!r} is not a size: write 32, or 24x32 (height, width)")
    return int(parts[0]), int(parts[-1])


def colour_of(text: str) -> tuple[int, int, int]:
    """ "white", "black", "grey" or "#rrggbb".

    Raises:
        ValueError: not a colour.
    """
    named = {"white": "ffffff", "black": "000000", "grey": "808080", "gray": "808080"}
    try:
        red, green, blue = bytes.fromhex(named.get(text.lower(), text.removeprefix("#")))
    except ValueError:
        raise ValueError(
            f"--background {text!r} is not a colour: write white, black or #rrggbb"
        ) from None
    return red, green, blue
