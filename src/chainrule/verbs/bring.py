"""import: a model that somebody else trained, as a run of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chainrule.artifact import Artifact, load_artifact, unfilled
from chainrule.codecs.symbols import read_text
from chainrule.codecs.text import BPECodec
from chainrule.files import new_folder, stream_tensors, write_text
from chainrule.formats import gguf_model, hf, layout
from chainrule.formats.tokens import from_gguf
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import TransformerConfig
from chainrule.training.shards import Progress
from chainrule.verbs.inspect import inspect

TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True)
class Found:
    """A foreign model: its shape, its codec and where its tensors come from.

    ``types``: what a tensor is stored in; ``read``: the whole of one.
    """

    source: str
    name: str
    config: TransformerConfig
    parts: layout.Layout
    facts: hf.Facts
    codec: BPECodec
    types: Mapping[str, torch.dtype]
    read: Callable[[str], Tensor]


def import_hf(
    path: str | Path, out: str | Path | None = None, *, progress: Progress | None = None
) -> Artifact:
    """A Hugging Face folder (config.json, safetensors, tokenizer.json) as a run.

    The weights keep their type. Nothing of it is executed and nothing is downloaded.

    Args:
        out: the folder to make, ``runs/NAME`` if not given.

    Raises:
        ValueError: what isn't such a folder, isn't had here, or contradicts itself.
    """
    folder = Path(path)
    config, parts, weights, facts = hf.read(folder)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.exists():
        raise ValueError(
            f"{folder}: it has no tokenizer.json; write one where transformers is installed: "
            f'AutoTokenizer.from_pretrained("{folder}").save_pretrained("{folder}")'
        )
    codec = BPECodec(read_text(tokenizer), facts.ends[0], str(tokenizer), config.space.size)
    name = folder.resolve().name
    found = Found("hf", name, config, parts, facts, codec, weights.types, weights.tensor)
    return _write(found, out, progress)


def import_gguf(
    path: str | Path, out: str | Path | None = None, *, progress: Progress | None = None
) -> Artifact:
    """A GGUF file as a run.

    Args:
        out: the folder to make, ``runs/NAME`` if not given.

    Raises:
        ValueError: what isn't such a file, isn't had here, or contradicts itself.
    """
    file = gguf_model.opened(Path(path))
    config, parts, facts = gguf_model.read(file)
    tokens = from_gguf(file.metadata, str(path))
    codec = BPECodec(tokens.definition, tokens.eos, str(path), config.space.size)
    types = {name: _TYPES.get(e.kind, torch.bfloat16) for name, e in file.tensors.items()}

    def read(name: str) -> Tensor:
        return file.floats(name).view(file.tensors[name].shape).to(types[name])

    name = Path(path).stem
    return _write(Found("gguf", name, config, parts, facts, codec, types, read), out, progress)


_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def _write(found: Found, out: str | Path | None, progress: Progress | None) -> Artifact:
    target = Path("runs") / found.name if out is None else Path(out)
    facts, codec = found.facts, found.codec
    ends = [codec.spelling(symbol) for symbol in facts.ends]
    said: dict[str, Any] = {
        "from": found.source,
        "name": found.name,
        "architecture": facts.architecture,
        "stops": [end for end in ends if end],
    }
    if facts.notes:
        said["notes"] = facts.notes
    outline = unfilled(Transformer, found.config)
    shapes = {k: tuple(v.shape) for k, v in outline.state_dict().items()}
    kinds = {name: {found.types[p.name] for p in found.parts[name]} for name in shapes}
    plan = {
        name: (next(iter(kinds[name])) if len(kinds[name]) == 1 else torch.float32, shape)
        for name, shape in shapes.items()
    }
    done = iter(range(len(plan)))

    def make(name: str) -> Tensor:
        if progress is not None:
            progress("reading", next(done), len(plan))
        return layout.joined(found.parts[name], found.read)

    artifact = Artifact(outline, codec, {"imported": said})
    with new_folder(target) as aside:
        stream_tensors(aside / "model.safetensors", plan, make)
        if facts.template is not None:
            write_text(aside / TEMPLATE, facts.template)
        artifact.save_config(aside)
        write_text(aside / "README.md", _card(artifact, target.name, said))
    return load_artifact(target)


def _card(artifact: Artifact, name: str, said: Mapping[str, Any]) -> str:
    lines = [
        f"# {name}",
        "",
        f"A {inspect(artifact).headline}: `{said['name']}` ({said['architecture']}), imported "
        "by chainrule. Its licence is the one that it came with.",
        "",
        *(f"- {note}" for note in said.get("notes", ())),
        "Use it:",
        "",
        "```",
        f'chainrule generate {name} "…"',
        "```",
        "",
    ]
    return "\n".join(lines)
