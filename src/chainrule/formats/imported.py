"""What a run's recipe keeps of the model that it was imported from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chainrule.codecs.symbols import LARGEST
from chainrule.formats.given import Given


@dataclass(frozen=True)
class Imported:
    """``recipe["imported"]``.

    Args:
        source: hf or gguf. architecture: Hugging Face's name of the class.
        ends: the symbols that end a turn, the end symbol first. stops: what these spell.
    """

    source: str = ""
    name: str = ""
    architecture: str = ""
    ends: list[int] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, as it stands in a recipe."""
        told = {"from": self.source, "name": self.name, "architecture": self.architecture}
        more = {"ends": self.ends, "stops": self.stops, "notes": self.notes}
        return told | {key: value for key, value in more.items() if value}


def imported(recipe: Mapping[str, Any], where: str) -> Imported:
    """What a recipe says; nothing, where the run was not imported.

    Raises:
        ValueError: what can't stand there, by its key; starts with ``where``.
    """
    given = Given(recipe.get("imported", {}), f"{where}: imported")
    if nothing := [key for key, value in given.data.items() if value is None]:
        raise given.wrong(f"{nothing[0]!r} is null")
    return Imported(
        given.text("from", ""),
        given.text("name", ""),
        given.text("architecture", ""),
        given.wholes("ends", 0, LARGEST),
        given.texts("stops"),
        given.texts("notes"),
    )


PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def instead(path: Path, usual: str) -> str:
    """What stands here in place of what was asked for, and what takes it; if unknown, ``usual``."""
    try:
        if path.is_dir():
            return _folder(path) or usual
        with path.open("rb") as file:
            begins = file.read(4)
    except OSError:
        return usual
    if begins == b"GGUF":
        return f"a GGUF file: chainrule import gguf {path} makes a run of it"
    if path.suffix in PICKLES or begins.startswith((b"\x80", b"PK\3\4")):
        return (
            "a pickle, which runs whatever code it holds when it is read, so it is never opened "
            "here: write the weights as safetensors where you trust it"
        )
    return "a file, where a folder is needed"


def _folder(path: Path) -> str | None:
    try:
        with (path / "config.json").open("rb") as file:
            config = json.loads(file.read(2**20))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(config, dict):
        return None
    if "format" in config and "recipe" in config:
        return "a run already"
    if "model_type" in config or "architectures" in config:
        return f"a Hugging Face checkpoint: chainrule import hf {path} makes a run of it"
    return None


def whole(precision: str) -> str:
    """Where the weights are that a narrow run was made of."""
    if precision == "gguf":
        return "import the file once more, with --widen f32"
    return "take the run that it was made of"
