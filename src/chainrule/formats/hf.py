"""Hugging Face folders: config.json, safetensors, tokenizer.json; read and written.

Nothing in them is executed, and nothing is downloaded. Shapes: V alphabet size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from chainrule.artifact import unfilled
from chainrule.codecs.symbols import read_json, read_text
from chainrule.core.config import bounded
from chainrule.core.space import Space
from chainrule.files import TensorFile
from chainrule.formats import layout
from chainrule.formats.hf_config import CLASSES, Given, read_config
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import TransformerConfig

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class Facts:
    """What stands in a folder beside the weights: symbols, as numbers, and texts.

    ``ends``: every symbol that ends a turn, the end symbol first; ``begin``: the start symbol.
    """

    architecture: str
    ends: list[int]
    begin: int | None
    template: str | None = None
    notes: list[str] = field(default_factory=list)


class Weights:
    """The tensors of one or several safetensors files: shapes at once, values when asked for."""

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        self._in = {name: file for file in _files(folder) for name in file.shapes}
        self.shapes = {name: file.shapes[name] for name, file in self._in.items()}
        self.types = {name: file.types[name] for name, file in self._in.items()}

    def tensor(self, name: str) -> Tensor:
        """The whole of one, in its own type."""
        return self._in[name].tensor(name)


def read(folder: Path) -> tuple[TransformerConfig, layout.Layout, Weights, Facts]:
    """A checkpoint's config, and its tensors, whose shapes are what the config says.

    Raises:
        ValueError: no such folder, a pickle, code of its own, an architecture or setting that
            isn't had here, or files that contradict each other.
    """
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder; nothing is downloaded here: fetch it first, "
            f"as with: hf download {folder} --local-dir FOLDER"
        )
    path = folder / "config.json"
    if not path.exists():
        raise ValueError(f"{folder}: not a Hugging Face checkpoint (it has no config.json)")
    given = Given(read_json(path), str(path))
    config, facts = _config(given, folder)
    weights = Weights(folder)
    names = layout.hf(config)
    if config.layout == "gpt2" and "transformer.wte.weight" in weights.shapes:
        names = layout.prefixed(names, "transformer.")
    wanted = shapes_of(config)
    layout.check_shapes(names, wanted, weights.shapes, str(folder), _ignored(config.tied))
    return config, names, weights, facts


def shapes_of(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Of every tensor of a transformer that is not made."""
    return {k: tuple(v.shape) for k, v in unfilled(Transformer, config).state_dict().items()}


def _ignored(tied: bool) -> Any:
    ends = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")
    return lambda name: name.endswith(ends) or (tied and name == "lm_head.weight")


def _files(folder: Path) -> list[TensorFile]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        named = read_json(index)
        where = named.get("weight_map") if isinstance(named, dict) else None
        if not isinstance(where, dict) or not all(isinstance(v, str) for v in where.values()):
            raise ValueError(f"{index}: it has no weight_map of tensor names to file names")
        names = sorted(set(where.values()))
        for name in names:
            if Path(name).name != name:
                raise ValueError(f"{index}: {name!r} is not the name of a file in this folder")
        files = [TensorFile(folder / name) for name in names]
        seen: set[str] = set()
        for file in files:
            if both := seen & file.shapes.keys():
                raise ValueError(f"{file.path}: tensor {min(both)!r} is in another file too")
            seen |= file.shapes.keys()
        if missing := where.keys() - seen:
            raise ValueError(f"{index}: tensor {min(missing)!r} is in none of the files")
        return files
    whole = folder / "model.safetensors"
    if whole.exists():
        return [TensorFile(whole)]
    for pattern in _PICKLES:
        for path in sorted(folder.glob(pattern)):
            raise ValueError(
                f"{path}: a pickle, which runs whatever code it holds when it is read, so it is "
                "not read here; take the model's safetensors, or write them where you trust it: "
                "model.save_pretrained(FOLDER, safe_serialization=True)"
            )
    raise ValueError(f"{folder}: it has no model.safetensors")


def _config(given: Given, folder: Path) -> tuple[TransformerConfig, Facts]:
    kind = given.data.get("model_type")
    others = folder / "tokenizer_config.json"
    tokenizer = read_json(others) if others.exists() else {}
    tokenizer = tokenizer if isinstance(tokenizer, dict) else {}
    for data, path in ((given.data, given.where), (tokenizer, str(others))):
        if "auto_map" in data:
            raise ValueError(
                f"{path}: auto_map names code of the checkpoint's own, and none is ever run; "
                f"take a checkpoint in one of these layouts: {', '.join(CLASSES)}"
            )
    if kind not in CLASSES:
        raise given.wrong(
            f"model_type {str(kind)[:40]!r} is not had here; known: {', '.join(CLASSES)}"
        )
    if given.data.get("quantization_config") is not None:
        raise given.wrong(
            "its weights are quantised in a way that isn't had here; import a GGUF instead"
        )
    ends, begin = _ends(given, folder)
    size = given.whole("vocab_size", 50257 if kind == "gpt2" else None)
    for name, symbol in (("eos_token_id", ends[0]), ("bos_token_id", begin)):
        if symbol is not None:
            bounded(f"{given.where}: {name}", symbol, 0, size - 1)
    space = Space("finite", size, eos=ends[0])
    begin = None if begin == ends[0] else begin
    notes: list[str] = []
    config = read_config(given, space, begin, notes)
    template = _template(folder, tokenizer)
    return config, Facts(CLASSES[kind], ends, begin, template, notes)


def _ends(given: Given, folder: Path) -> tuple[list[int], int | None]:
    more = folder / "generation_config.json"
    said = Given(read_json(more), str(more)) if more.exists() else given
    ends: list[int] = []
    for each in (given, said):
        value = each.data.get("eos_token_id")
        for symbol in value if isinstance(value, list) else [value]:
            if type(symbol) is int and symbol not in ends:
                ends.append(symbol)
    if not ends and given.data.get("model_type") == "gpt2":
        ends = [50256]
    if not ends:
        raise given.wrong("eos_token_id is missing: which symbol ends a text?")
    begin = given.data.get("bos_token_id")
    return ends, begin if type(begin) is int else None


def _template(folder: Path, tokenizer: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        return read_text(path)
    found = tokenizer.get("chat_template")
    if isinstance(found, list):  # several by name
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None
