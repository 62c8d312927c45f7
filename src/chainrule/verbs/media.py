"""Which medium a source holds, and its material. A new medium joins here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.codecs.image import PixelCodec
from chainrule.codecs.text import TextCodec
from chainrule.core.codec import Codec
from chainrule.training.data import Corpus
from chainrule.training.picture_files import is_pictures
from chainrule.training.pictures import Pictures, opened
from chainrule.training.plan import Lessons
from chainrule.training.shards import open_symbols
from chainrule.verbs.choosing import PICTURE_OPTIONS, Options
from chainrule.verbs.display import Display
from chainrule.verbs.material import Material, Text
from chainrule.verbs.picture_material import read_material


def material_of(
    source: Any,
    codec: Codec | None,
    asked: Options,
    display: Display,
    check: Callable[[str], None] = lambda digest: None,
) -> Material:
    """What a source holds, encoded by ``codec``, or by one that suits it.

    ``check`` is told the digest as soon as it is known, and may raise.

    Raises:
        ValueError: what can't be read, or options of another medium.
    """
    pictures = isinstance(codec, PixelCodec) if codec is not None else _shows(source, asked)
    if pictures:
        asked.for_pictures(new=codec is None)
        assert codec is None or isinstance(codec, PixelCodec)
        material = read_material(source, codec, asked, display)
        check(material.digest)
        return material
    given = [f"--{name}" for name in PICTURE_OPTIONS if getattr(asked, name) is not None]
    if given:
        why = f"{source} holds none" if asked.codec is None else f"--codec {asked.codec} for text"
        raise ValueError(f"{', '.join(given)} is for pictures, and {why}")
    asked.for_text()
    if codec is not None and not isinstance(codec, TextCodec):
        raise ValueError("that run models numbers: chainrule forecast is for these")
    documents = Text.read(source, asked, display)
    check(documents.folder.name)
    return Text.of(documents, codec, asked, display)


def _shows(source: Any, asked: Options) -> bool:
    """Whether a source is to be read as pictures: asked, or seen by its names and first bytes."""
    return asked.codec == "pixels" or (asked.codec is None and is_pictures(source))


def lessons_of(data: dict[str, Any]) -> Lessons | None:
    """What ``Material.orders`` told; None where the symbols are not seen from here."""
    if "length" not in data:
        found = open_symbols(Path(data["symbols"]))
        sizes = data["train_bytes"], data["held_out_bytes"]
        return None if found is None else Corpus(*found, *sizes)
    both = opened(Path(data["symbols"]), data["length"])
    if both is None:
        return None
    labels = [None if each is None else np.array(each, np.int64) for each in data["labels"]]
    return Pictures(both[0], both[1], labels[0], labels[1])
