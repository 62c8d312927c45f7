"""--resume: whether what is asked now is what a folder was begun with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from chainrule.verbs.choosing import DEFAULT_TIME, Options, seconds_of

FREE = ("tensorboard", "shard")  # options that change nothing in what is learned


def given(asked: Options) -> dict[str, Any]:
    """The options that are not at their defaults, as a recipe keeps them (JSON-able)."""
    values = {f.name: getattr(asked, f.name) for f in fields(Options) if f.name not in FREE}
    found = {
        f.name: values[f.name]
        for f in fields(Options)
        if values.get(f.name, f.default) != f.default
    }
    if asked.time is not None:
        found["time"] = seconds_of(asked.time)
    return {k: str(v) if isinstance(v, Path) else v for k, v in found.items()}


def same_options(folder: Path, config: dict[str, Any], asked: Options) -> None:
    """Compare with what ``config`` (of config.json) says.

    Raises:
        ValueError: naming every option that is another one.
    """
    recipe = config["recipe"]
    training, before = recipe.get("training", {}), recipe.get("asked", {})
    known = {**config["model"], **training, **recipe}
    known |= {"model": recipe.get("name"), "codec": config["codec"].get("kind")}
    known |= {"context": training.get("length"), "time": None, "base": None}
    if "steps" not in before:
        known["time"] = seconds_of(DEFAULT_TIME)
    known |= before
    other = [
        f"{name}: {_text(known.get(name))} in {folder}, {value} asked"
        for name, value in given(asked).items()
        if value != known.get(name)
    ]
    if other:
        raise ValueError(
            f"{'; '.join(other)}: leave that out to go on with {folder}, or choose another -o"
        )


def same_data(folder: Path, recipe: dict[str, Any], source: Any, digest: str) -> None:
    """Compare the data by its name in the cache.

    Raises:
        ValueError: naming both.
    """
    if digest == recipe.get("data"):
        return
    now = ", ".join(map(str, source if isinstance(source, list) else [source]))
    was = ", ".join(recipe.get("source", ())) or "other data"
    if was == now:
        raise ValueError(
            f"{now} has changed since {folder} began to learn it: resume with the same data as then"
        )
    raise ValueError(f"{folder} learns {was}, not {now}: resume with the same data")


def records(path: Path, step: int) -> Iterator[dict[str, Any]]:
    """What metrics.jsonl says of the first ``step`` steps; a crash may have cut its last line."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        with suppress(json.JSONDecodeError):
            record = json.loads(line)
            if record["step"] <= step:
                yield record


def _text(value: Any) -> str:
    return "not given" if value is None else str(value)
