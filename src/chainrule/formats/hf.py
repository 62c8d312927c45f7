"""Hugging Face folders: config.json, safetensors, tokenizer.json; read and written.

Nothing in them is executed, and nothing is downloaded. Shapes: V alphabet size.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chainrule.artifact import unfilled
from chainrule.codecs.symbols import parse_json, read_json, read_text
from chainrule.core.space import Space
from chainrule.files import TensorFile
from chainrule.formats import layout
from chainrule.formats.given import Given
from chainrule.formats.hf_config import CLASSES, read_config
from chainrule.formats.imported import PICKLES, instead
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import TransformerConfig

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Facts:
    """What stands in a folder beside the weights: symbols, as numbers, and texts.

    ``ends``: every symbol that ends a turn, the end symbol first; ``begin``: the start symbol;
    ``adds_begin``: others put it before every text; None: where tokenizer.json says so.
    """

    architecture: str
    ends: list[int]
    begin: int | None
    template: str | None = None
    notes: list[str] = field(default_factory=list)
    adds_begin: bool | None = None


class Weights:
    """The tensors of one or several safetensors files: shapes at once, values when asked for."""

    def __init__(self, folder: Path) -> None:
        self._in = {name: file for file in _files(folder) for name in file.shapes}
        self.shapes = {name: file.shapes[name] for name, file in self._in.items()}
        self.types = {name: file.types[name] for name, file in self._in.items()}

    def tensor(self, name: str) -> Tensor:
        """The whole of one, in its own type."""
        return self._in[name].tensor(name)

    def only_floats(self, names: layout.Layout) -> None:
        """Refuse whole numbers, which mean something only to whoever quantised them."""
        for name in (part.name for parts in names.values() for part in parts):
            if self.types[name] not in _FLOATS:
                raise ValueError(
                    f"{self._in[name].path}: tensor {name!r} is {self.types[name]}, not floats: "
                    "quantised in a way that isn't had here; import a GGUF instead"
                )


def read(folder: Path) -> tuple[TransformerConfig, layout.Layout, Weights, Facts]:
    """A checkpoint's config, and its tensors, whose shapes are what the config says.

    Raises:
        ValueError: no such folder, a pickle, code of its own, an architecture or setting that
            isn't had here, or files that contradict each other.
    """
    if not os.path.isdir(folder):  # pathlib's raises where a name is too long
        usual = (
            "no such folder; nothing is downloaded here: fetch it first, "
            f"as with: hf download {folder} --local-dir FOLDER"
        )
        raise ValueError(f"{folder}: {instead(folder, usual)}")
    path = folder / "config.json"
    if not path.exists():
        raise ValueError(f"{folder}: not a Hugging Face checkpoint (it has no config.json)")
    given = Given(read_json(path), str(path))
    if given.has("format") and given.has("recipe"):
        raise ValueError(f"{folder}: {instead(folder, '')}")
    config, facts = _config(given, folder)
    weights = Weights(folder)
    names = layout.hf(config, bare="transformer.wte.weight" not in weights.shapes)
    wanted = shapes_of(config)
    layout.check_shapes(names, wanted, weights.shapes, str(folder), _ignored(config.tied))
    weights.only_floats(names)
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
            if Path(name).name != name or name in ("", "..") or not name.isprintable():
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
    for suffix in PICKLES:
        for path in sorted(folder.glob(f"*{suffix}")):
            raise ValueError(
                f"{path}: a pickle, which runs whatever code it holds when it is read, so it is "
                "not read here; take the model's safetensors, or write them where you trust it: "
                "model.save_pretrained(FOLDER, safe_serialization=True)"
            )
    raise ValueError(f"{folder}: it has no model.safetensors")


def _config(given: Given, folder: Path) -> tuple[TransformerConfig, Facts]:
    others = folder / "tokenizer_config.json"
    tokenizer = Given(read_json(others) if others.exists() else {}, str(others))
    for each in (given, tokenizer):
        if "auto_map" in each.data:
            raise each.wrong(
                "auto_map names code of the checkpoint's own, and none is ever run; "
                f"take a checkpoint in one of these layouts: {', '.join(CLASSES)}"
            )
    kind = given.text("model_type")
    if kind not in CLASSES:
        raise given.wrong(f"model_type {kind[:40]!r} is not had here; known: {', '.join(CLASSES)}")
    if given.has("quantization_config"):
        raise given.wrong(
            "quantization_config: its weights are quantised in a way that isn't had here; "
            "import a GGUF instead"
        )
    size = given.whole("vocab_size", 50257 if kind == "gpt2" else None)
    ends = _ends(given, folder, size)
    begin = given.whole("bos_token_id", None, 0, size - 1) if given.has("bos_token_id") else None
    begin = None if begin == ends[0] else begin
    notes: list[str] = []
    config = read_config(given, Space("finite", size, eos=ends[0]), begin, notes)
    key = "add_bos_token"
    adds = tokenizer.true(key, False) if tokenizer.has(key) else None
    return config, Facts(CLASSES[kind], ends, begin, _template(folder, tokenizer), notes, adds)


def _ends(given: Given, folder: Path, size: int) -> list[int]:
    key, more = "eos_token_id", folder / "generation_config.json"
    ends = given.wholes(key, 0, size - 1)
    if more.exists():
        ends += Given(read_json(more), str(more)).wholes(key, 0, size - 1)
    if not ends and given.text("model_type") == "gpt2" and size > 50256:
        ends = [50256]
    if not ends:
        raise given.wrong(f"{key} is missing: which symbol ends a text?")
    return list(dict.fromkeys(ends))


def _template(folder: Path, tokenizer: Given) -> str | None:
    path, key = folder / "chat_template.jinja", "chat_template"
    if path.exists():
        return read_text(path)
    found = tokenizer.data.get(key)
    if isinstance(found, list):  # several by name
        each = [Given(t, f"{tokenizer.where}: {key}") for t in found]
        return {t.text("name"): t.text("template") for t in each}.get("default")
    return tokenizer.text(key) if tokenizer.has(key) else None


def beginning(definition: str, where: str, first: str | None, symbol: int) -> str:
    """A tokenizer.json by which others put a token before every text; or, without one, nothing.

    Raises:
        ValueError: no JSON object; it starts with ``where``.
    """
    data = Given(parse_json(definition, where), where).data
    step = None
    if first is not None:
        mark: list[dict[str, Any]] = [
            {"SpecialToken": {"id": first, "type_id": n}} for n in range(2)
        ]
        text = [{"Sequence": {"id": name, "type_id": n}} for n, name in enumerate("AB")]
        step = {
            "type": "TemplateProcessing",
            "single": [mark[0], text[0]],
            "pair": [mark[0], text[0], mark[1], text[1]],
            "special_tokens": {first: {"id": first, "ids": [symbol], "tokens": [first]}},
        }
    return json.dumps({**data, "post_processor": step}, ensure_ascii=False)


def begins(definition: str, symbol: int) -> bool:
    """Whether others put this symbol before every text, by a tokenizer.json that was opened."""
    step = json.loads(definition)["post_processor"] or {}
    for each in step.get("processors", [step]):
        if each.get("type") == "TemplateProcessing" and each["single"]:
            first = each["single"][0].get("SpecialToken", {}).get("id")
            return first is not None and each["special_tokens"][first]["ids"] == [symbol]
    return False
