"""A fitted thing on disk and in memory: codec, model and card.

A folder: config.json, model.safetensors, the codec's files, metrics.jsonl, README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from chainrule import registry
from chainrule.codecs.text import TextCodec
from chainrule.core.config import from_dict, to_dict
from chainrule.core.model import SequenceModel
from chainrule.files import (
    load_into,
    match_shapes,
    read_json,
    read_tensors,
    tensor_shapes,
    write_json,
    write_tensors,
)

FORMAT = 1


@dataclass(eq=False)
class Artifact:
    """A model with the codec that its symbols come from.

    Args:
        recipe: how it was trained (JSON-able); results: held-out scores and the like.
    """

    model: SequenceModel
    codec: TextCodec
    recipe: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    baseline: SequenceModel | None = None  # an n-gram of the same training part
    path: Path | None = None
    choices: dict[Any, Any] = field(default_factory=dict)  # what strategy auto has measured

    @property
    def kind(self) -> str:
        """The registry name of the model's class; of a wrapper, its own."""
        known = type(self.model) in registry.MODELS.values()
        return registry.kind_of(self.model) if known else type(self.model).__name__.lower()

    def save_config(self, folder: Path) -> None:
        """Write config.json and the codec's files."""
        folder.mkdir(parents=True, exist_ok=True)
        codec = next(k for k, cls in registry.CODECS.items() if type(self.codec) is cls)
        config = {
            "format": FORMAT,
            "model": {"kind": self.kind, **to_dict(self.model.config)},
            "codec": {"kind": codec, **self.codec.save(folder)},
            "recipe": self.recipe,
            "results": self.results,
            "baseline": None if self.baseline is None else to_dict(self.baseline.config),
        }
        write_json(folder / "config.json", config)
        self.path = folder

    def save_weights(self, folder: Path) -> None:
        """Write model.safetensors."""
        write_tensors(folder / "model.safetensors", self.model.state_dict(), {"format": "pt"})

    def save_baseline(self, folder: Path) -> None:
        """Write ngram.safetensors, where there is a baseline."""
        if self.baseline is not None:
            write_tensors(folder / "ngram.safetensors", self.baseline.state_dict())


def load_artifact(folder: str | Path) -> Artifact:
    """Read a fitted artifact; every size is checked before anything is allocated.

    Raises:
        ValueError: not a fitted artifact, a newer format, or files that contradict each other.
    """
    folder = Path(folder)
    config = read_config(folder)
    where = f"{folder / 'config.json'}"
    model_data = dict(config["model"])
    cls = _named(registry.MODELS, model_data, f"{where}: model")
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise ValueError(f"{folder}: no model.safetensors yet; go on with chainrule fit --resume")
    model = _weighted(cls, model_data, weights, f"{where}: model")
    codec = _codec(folder, config, model)
    baseline = None
    if config["baseline"] is not None:
        tables, name = folder / "ngram.safetensors", f"{where}: baseline"
        baseline = _weighted(registry.MODELS["ngram"], config["baseline"], tables, name)
    recipe, results = dict(config["recipe"]), dict(config["results"])
    return Artifact(model, codec, recipe, results, baseline, folder)


def load_config_parts(folder: Path, config: dict[str, Any]) -> tuple[SequenceModel, TextCodec]:
    """The codec, and the model with fresh weights: what a resumed run begins with."""
    where = f"{folder / 'config.json'}: model"
    data = dict(config["model"])
    cls = _named(registry.MODELS, data, where)
    model = cls(from_dict(cls.Config, data, where))
    return model, _codec(folder, config, model)


def _codec(folder: Path, config: dict[str, Any], model: SequenceModel) -> TextCodec:
    where = f"{folder / 'config.json'}: codec"
    data = dict(config["codec"])
    codec: TextCodec = _named(registry.CODECS, data, where).load(data, folder)
    if codec.space != model.space:
        raise ValueError(f"{where}: its alphabet is not the model's")
    return codec


def _weighted(
    cls: type[SequenceModel], data: dict[str, Any], path: Path, where: str
) -> SequenceModel:
    """A model with its weights; shapes are compared before memory is taken."""
    config = from_dict(cls.Config, data, where)  # type: ignore[attr-defined]
    with torch.device("meta"):
        blank = cls(config)
    expected = {k: tuple(v.shape) for k, v in blank.state_dict().items()}
    match_shapes(expected, tensor_shapes(path), path)
    model = cls(config)
    load_into(model, read_tensors(path)[0], path)
    return model.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """config.json, checked for its outline.

    Raises:
        ValueError: not a fitted artifact, or a newer format.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; make one with chainrule fit DATA -o {folder}")
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder}: not a fitted artifact (it has no config.json)")
    path = folder / "config.json"
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("format"), int):
        raise ValueError(f"{path}: not a chainrule config (no format number)")
    if config["format"] > FORMAT:
        raise ValueError(
            f"{folder} has format {config['format']}, this chainrule reads {FORMAT}: upgrade it"
        )
    known = {"format", "model", "codec", "recipe", "results", "baseline"}
    for key in config:
        if key not in known:
            raise ValueError(f"{path}: unknown key {key!r}; known: {', '.join(sorted(known))}")
    for key in sorted(known - {"format"}):
        if not isinstance(config.get(key), dict) and not (
            key == "baseline" and not config.get(key)
        ):
            raise ValueError(f"{path}: {key!r} must be an object")
    config.setdefault("baseline", None)
    return config


def _named(table: Mapping[str, Any], data: dict[str, Any], where: str) -> Any:
    """Pop ``kind`` and look it up."""
    kind = data.pop("kind", None)
    if not isinstance(kind, str) or kind not in table:
        raise ValueError(f"{where}: unknown kind {kind!r}; known: {', '.join(table)}")
    return table[kind]
