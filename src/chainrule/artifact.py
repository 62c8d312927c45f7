"""A fitted thing on disk and in memory: codec, model and card.

A folder: config.json, model.safetensors, the codec's files, metrics.jsonl, README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chainrule import registry
from chainrule.codecs.image import PixelCodec
from chainrule.codecs.symbols import TextCodec
from chainrule.core.codec import Codec
from chainrule.core.config import from_dict, to_dict
from chainrule.core.model import SequenceModel
from chainrule.core.outline import on_meta as on_meta
from chainrule.core.outline import unfilled as unfilled
from chainrule.engine.backend import Choice, Compiled, choose
from chainrule.engine.build import Rows
from chainrule.engine.quantize import BLOCKS, DTYPES, DType, Precision
from chainrule.files import read_json, write_json, write_tensors
from chainrule.formats.adapter import Merged, Reference, find_base, matrices, read_adapter
from chainrule.formats.imported import imported, instead
from chainrule.formats.stored import Stored, outlined
from chainrule.nn.lora import LoRA

PLAIN, QUANTISED, FORMAT = 1, 2, 3  # floats, quantised weights, an adapter


@dataclass(eq=False)
class Artifact:
    """A model with the codec that its symbols come from.

    Args:
        outline: the model; while nobody has asked for ``model``, it may be on the meta device.
        any_codec: of text, of a series or of pictures.
        recipe: how it was trained (JSON-able); results: held-out scores and the like.
        stored: where the weights of an outline are.
    """

    outline: SequenceModel
    any_codec: Codec
    recipe: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    baseline: SequenceModel | None = None  # an n-gram of the same training part
    path: Path | None = None
    choices: dict[Any, Any] = field(default_factory=dict)  # what strategy auto has measured
    stored: Stored | None = None
    cache: str = "auto"  # of keys and values, where it runs in the engine: auto or int8
    engines: dict[tuple[DType, int, str], Compiled] = field(default_factory=dict)

    @property
    def codec(self) -> TextCodec:
        """The codec, of a run that models text.

        Raises:
            ValueError: it models numbers, or pictures.
        """
        if isinstance(self.any_codec, TextCodec):
            return self.any_codec
        where, what = self.path or "this run", "numbers"
        what = "pictures" if isinstance(self.any_codec, PixelCodec) else what
        raise ValueError(f"{where} models {what}: that needs a run that models text")

    @property
    def model(self) -> SequenceModel:
        """The model in torch, with its weights: they are read when it is first asked for."""
        if self.stored is not None and on_meta(self.outline):
            self.outline = self.stored.model(type(self.outline), self.outline.config)
            for each in self.engines.values():
                each.__dict__["model"] = self.outline  # extra heads run in torch
        return self.outline

    @model.setter
    def model(self, model: SequenceModel) -> None:
        self.outline, self.stored = model, None
        self.engines.clear()

    @property
    def merged(self) -> Merged | None:
        """An adapter and the run that it is for; None: this is a whole run."""
        held = None if self.stored is None else self.stored.file
        return held if isinstance(held, Merged) else None

    @property
    def base(self) -> Artifact:
        """The run that this is an adapter for; itself, where it is none."""
        return self if self.merged is None else self.merged.base

    def adapted(self, lora: LoRA) -> Artifact:
        """The same run with an adapter: it shares the tensors, which stay as they are."""
        outline = unfilled(type(self.outline), self.outline.config)
        fresh: dict[str, Any] = {"choices": {}, "engines": {}, "results": {}}
        return replace(self, outline=outline, stored=Stored(Merged(self.base, lora)), **fresh)

    def learned(self, tensors: Mapping[str, Tensor]) -> None:
        """Take in what was trained: the weights of the model, or of the adapter."""
        if self.merged is None:
            self.model.load_state_dict(tensors)
        else:
            self.merged.lora.load_state_dict(tensors)
            self.outline = unfilled(type(self.outline), self.outline.config)
        self.engines.clear()  # what was shown while it learned ran with the weights of then
        self.choices.clear()

    @property
    def precision(self) -> DType | None:
        """The dtype that the weights were quantised to, or that they came in: "gguf"."""
        kept = None if self.stored is None else self.stored.dtype
        return kept if kept is None or isinstance(kept, str) else "gguf"

    def choose(self, backend: str = "auto", dtype: str | None = None, **how: Any) -> Choice:
        """Where it runs; the rest as ``engine.backend.choose`` takes it.

        Raises:
            ValueError: what can't be, with the reason.
        """
        how = {"cache": self.cache, **how}
        return choose(self.outline, backend, dtype, stored=self.precision, **how)

    def runner(self, choice: Choice) -> SequenceModel:
        """The model that ``choice`` means; compiled once, with the weights of that moment."""
        if choice.backend == "torch":
            return self.model
        key = choice.dtype, torch.get_num_threads(), choice.cache
        if key not in self.engines:
            program: Any = self.outline.lower()
            if any(leaf.kind == "fixed" for leaf in program.leaves.values()):
                self.outline = self.model  # its encoder runs in torch
            rows: Rows | None = None  # those in memory
            dtype: Precision = choice.dtype
            if self.stored is not None and (self.precision or on_meta(self.outline)):
                rows, dtype = self.stored.rows, self.stored.dtype or dtype
            self.engines[key] = Compiled(self.outline, dtype, key[1], rows, choice.cache)
        return self.engines[key]

    @property
    def kind(self) -> str:
        """The registry name of the model's class; of a wrapper, its own."""
        known = type(self.outline) in registry.MODELS.values()
        return registry.kind_of(self.outline) if known else type(self.outline).__name__.lower()

    def save_config(self, folder: Path) -> None:
        """Write config.json and the codec's files."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "format": PLAIN,
            "model": {"kind": self.kind, **to_dict(self.model.config)},
            "codec": {"kind": registry.codec_name(self.any_codec), **self.any_codec.save(folder)},
            "recipe": self.recipe,
            "results": self.results,
            "baseline": None if self.baseline is None else to_dict(self.baseline.config),
        }
        if self.merged is not None:
            config |= {"format": FORMAT, "adapter": to_dict(self.merged.reference(folder))}
        write_json(folder / "config.json", config)
        self.path = folder

    def save_weights(self, folder: Path) -> None:
        """Write model.safetensors, or adapter.safetensors."""
        if self.merged is not None:
            self.merged.write(folder)
        else:
            write_tensors(folder / "model.safetensors", self.model.state_dict(), {"format": "pt"})

    def save_baseline(self, folder: Path) -> None:
        """Write ngram.safetensors, where there is a baseline."""
        if self.baseline is not None:
            write_tensors(folder / "ngram.safetensors", self.baseline.state_dict())


def load_artifact(folder: str | Path, base: str | Path | Artifact | None = None) -> Artifact:
    """Read a fitted artifact; every size is checked before anything is allocated.

    The weights are read when they are asked for.

    Args:
        base: the run that an adapter is for; None: the one that it names. One that is loaded
            already is shared.

    Raises:
        ValueError: not a fitted artifact, a newer format, or files that contradict each other.
    """
    folder = Path(folder)
    config = read_config(folder)
    where = f"{folder / 'config.json'}"
    if config["adapter"] is not None:
        return load_adapter(folder, config, base)
    if base is not None:
        raise ValueError(f"{folder} is a whole run and no adapter: it needs no base")
    model_data = dict(config["model"])
    cls = _named(registry.MODELS, model_data, f"{where}: model")
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise ValueError(f"{folder}: no model.safetensors yet; go on with chainrule fit --resume")
    outline, stored = outlined(
        cls, model_data, weights, f"{where}: model", _precision(config, where)
    )
    codec = _codec(folder, config, outline)
    baseline = _baseline(folder, config, where)
    recipe, results = dict(config["recipe"]), dict(config["results"])
    return Artifact(outline, codec, recipe, results, baseline, folder, stored=stored)


def load_adapter(
    folder: Path,
    config: dict[str, Any],
    base: str | Path | Artifact | None = None,
    fresh: bool = False,
) -> Artifact:
    """A run with an adapter; ``fresh``: with that adapter as it was before it was trained.

    Raises:
        ValueError: an adapter for another base, or files that contradict each other.
    """
    where = f"{folder / 'config.json'}"
    told = from_dict(Reference, config["adapter"], f"{where}: adapter")
    if isinstance(base, Artifact):
        below = base.base
        find_base(folder, told, below.path or Path())
    else:
        below = load_artifact(find_base(folder, told, None if base is None else Path(base)))
    outline = below.outline
    asked = dict(config["model"])
    kind = asked.pop("kind", None)
    if kind != below.kind or from_dict(type(outline.config), asked, where) != outline.config:
        raise ValueError(f"{where}: model: not that of {below.path}, which it adapts")
    lora = read_adapter(folder, matrices(below), told, fresh=fresh)
    found = below.adapted(lora)
    recipe, results = dict(config["recipe"]), dict(config["results"])
    codec, baseline = _codec(folder, config, outline), _baseline(folder, config, where)
    return replace(
        found, any_codec=codec, recipe=recipe, results=results, baseline=baseline, path=folder
    )


def _baseline(folder: Path, config: dict[str, Any], where: str) -> SequenceModel | None:
    if config["baseline"] is None:
        return None
    tables, name = folder / "ngram.safetensors", f"{where}: baseline"
    ngram, at = outlined(registry.MODELS["ngram"], config["baseline"], tables, name)
    return at.model(type(ngram), ngram.config)


def _precision(config: dict[str, Any], where: str) -> Precision | None:
    given = config["precision"]
    if given is None:
        return None
    dtype, kinds = given.get("dtype"), given.get("kinds")
    if config["format"] < QUANTISED or dtype not in (*DTYPES[1:], "gguf"):
        raise ValueError(f"{where}: precision: dtype must be one of {', '.join(DTYPES[1:])}, gguf")
    if dtype != "gguf":
        return next(d for d in DTYPES if d == dtype)
    if not isinstance(kinds, dict) or not kinds or any(k not in BLOCKS for k in kinds.values()):
        raise ValueError(f"{where}: precision: each of kinds must be one of {', '.join(BLOCKS)}")
    return kinds


def load_config_parts(folder: Path, config: dict[str, Any]) -> tuple[SequenceModel, Codec]:
    """The codec, and the model with fresh weights: what a resumed run begins with."""
    where = f"{folder / 'config.json'}: model"
    data = dict(config["model"])
    cls = _named(registry.MODELS, data, where)
    model = cls(from_dict(cls.Config, data, where))
    return model, _codec(folder, config, model)


def load_codec(folder: Path, config: dict[str, Any]) -> Codec:
    """The codec of a run whose ``config`` was read.

    Raises:
        ValueError: an unknown kind, or files that it can't trust.
    """
    where = f"{folder / 'config.json'}: codec"
    data = dict(config["codec"])
    codecs = {**registry.CODECS, **registry.SERIES_CODECS, **registry.PICTURE_CODECS}
    codec: Codec = _named(codecs, data, where).load(data, folder)
    return codec


def _codec(folder: Path, config: dict[str, Any], model: SequenceModel) -> Codec:
    codec = load_codec(folder, config)
    where = f"{folder / 'config.json'}: codec"
    if codec.space != model.space:
        raise ValueError(f"{where}: its alphabet is not the model's")
    return codec


def read_config(folder: Path) -> dict[str, Any]:
    """config.json, checked for its outline.

    Raises:
        ValueError: not a fitted artifact, or a newer format.
    """
    if not folder.is_dir():
        usual = f"no such folder; make one with chainrule fit DATA -o {folder}"
        raise ValueError(f"{folder}: {instead(folder, usual)}")
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder}: not a fitted artifact (it has no config.json)")
    path = folder / "config.json"
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("format"), int):
        usual = "not a chainrule config (no format number)"
        raise ValueError(f"{path}: {instead(folder, usual)}")
    if (number := config["format"]) > FORMAT:
        raise ValueError(f"{folder} has format {number}, this chainrule reads {FORMAT}: upgrade it")
    known = {"format", "model", "codec", "recipe", "results", "baseline", "precision", "adapter"}
    for key in config:
        if key not in known:
            raise ValueError(f"{path}: unknown key {key!r}; known: {', '.join(sorted(known))}")
    for key in sorted(known - {"format"}):
        if not isinstance(config.get(key), dict) and not (
            key in ("baseline", "precision", "adapter") and not config.get(key)
        ):
            raise ValueError(f"{path}: {key!r} must be an object")
    imported(config["recipe"], f"{path}: recipe")
    for key in ("baseline", "precision", "adapter"):
        config.setdefault(key, None)
    return config


def _named(table: Mapping[str, Any], data: dict[str, Any], where: str) -> Any:
    """Pop ``kind`` and look it up."""
    kind = data.pop("kind", None)
    if not isinstance(kind, str) or kind not in table:
        raise ValueError(f"{where}: unknown kind {kind!r}; known: {', '.join(table)}")
    return table[kind]
