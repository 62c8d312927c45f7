"""What a run's recipe keeps of the model that it was imported from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
