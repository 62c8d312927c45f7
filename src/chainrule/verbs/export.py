"""export: a run in the form that other software reads, with no code of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from chainrule.artifact import Artifact
from chainrule.codecs.text import BPECodec
from chainrule.files import new_folder, stream_tensors, write_text
from chainrule.formats import gguf_model, hf_config, layout
from chainrule.formats.gguf import write_gguf
from chainrule.formats.hf_config import dumps
from chainrule.formats.tokens import to_gguf, to_hf
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import TransformerConfig
from chainrule.training.shards import Progress
from chainrule.verbs.bring import TEMPLATE

Kind = Literal["F32", "BF16", "F16", "Q8_0", "Q4_0"]
KINDS: tuple[str, ...] = get_args(Kind)
_FILE_TYPE = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}
_BLOCKS = {"Q8_0": 32, "Q4_0": 32}


@dataclass(frozen=True)
class Exported:
    """What was written: ``architecture`` is the class or name that others know it by.

    ``notes``: what the other form has no place for.
    """

    path: str
    form: str
    architecture: str
    parameters: int
    size: int
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names."""
        return asdict(self)


def export(
    artifact: Artifact,
    to: str = "hf",
    out: str | Path | None = None,
    *,
    kind: str | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write a transformer for other software.

    Args:
        to: "hf": a folder that transformers, vLLM and others load (LlamaForCausalLM and its
            relatives, or GPT2LMHeadModel; tokenizer included); "gguf": a file for llama.cpp.
        out: by default RUN-hf, or RUN-KIND.gguf.
        kind: of the matrices in a GGUF: F32, BF16, F16 (the default), Q8_0 or Q4_0.

    Raises:
        ValueError: a run that the form has no place for, with the reason; a place that is taken.
    """
    if to not in ("hf", "gguf"):
        raise ValueError(f"to {to!r} is not one of hf, gguf")
    if kind is not None and (to != "gguf" or kind not in KINDS):
        raise ValueError(f"kind {kind!r}: a GGUF's is one of {', '.join(KINDS)}; hf has none")
    config = artifact.outline.config
    if not isinstance(artifact.outline, Transformer) or not isinstance(config, TransformerConfig):
        raise ValueError(
            f"a {artifact.kind} can't be exported: others know no such model; a transformer can "
            "(chainrule fit --model transformer, or gpt2)"
        )
    notes = _left_out(config)
    config = replace(config, ahead=0, masked=False)
    stem = artifact.path or Path("model")
    if to == "hf":
        target = stem.with_name(f"{stem.name}-hf") if out is None else Path(out)
        return _to_hf(artifact, config, target, notes, progress)
    kind = kind or "F16"
    target = stem.with_name(f"{stem.name}-{kind}.gguf") if out is None else Path(out)
    return _to_gguf(artifact, config, target, kind, notes, progress)


def _left_out(config: TransformerConfig) -> list[str]:
    notes = []
    if config.ahead:
        notes.append("the extra heads of strategy heads are left out")
    if config.masked:
        notes.append("what fills in blanks is left out")
    if config.layout == "llama":
        notes.append(
            f"made for {config.context:,} symbols: others do not slide beyond them as here"
        )
    return notes


class _Tensors:
    """The foreign tensors of a run, made of ours one after the other.

    ``types`` and ``shapes`` are by foreign name, the types those that ours are stored in.
    """

    def __init__(self, artifact: Artifact, parts: layout.Layout, progress: Progress | None) -> None:
        self.parts, self.progress = parts, progress
        own = {k: tuple(v.shape) for k, v in artifact.outline.state_dict().items()}
        if artifact.stored is not None and artifact.precision is None:
            file = artifact.stored.file
            self.get: Callable[[str], Tensor] = file.tensor
            types = dict(file.types)
        else:
            held = artifact.model.state_dict()
            self.get, types = held.__getitem__, {k: t.dtype for k, t in held.items()}
        self.owner = {part.name: ours for ours, each in parts.items() for part in each}
        self.types = {name: types[ours] for name, ours in self.owner.items()}
        self.shapes = {p.name: p.shape(own[k][1:]) for k, each in parts.items() for p in each}
        self.held: dict[str, Tensor] = {}
        self.done = 0

    def whole(self, name: str) -> Tensor:
        """One of them; those of the same tensor of ours are kept until another is asked for."""
        if name not in self.held:
            if self.progress is not None:
                self.progress("writing", self.done, len(self.parts))
            self.done += 1
            ours = self.owner[name]
            self.held = dict(layout.parted(self.parts[ours], self.get(ours).detach()))
        return self.held[name]

    def rows(self, name: str) -> Callable[[int, int], Tensor]:
        """Some rows of one in float32, when they are asked for."""
        columns = self.shapes[name][-1]
        return lambda first, count: (
            self.whole(name).view(-1, columns)[first : first + count].float()
        )


def _to_hf(
    artifact: Artifact,
    config: TransformerConfig,
    target: Path,
    notes: list[str],
    progress: Progress | None,
) -> Exported:
    imported = artifact.recipe.get("imported", {})
    architecture = hf_config.architecture_of(config, imported.get("architecture"))
    parts = layout.hf(config)
    if architecture == "GPT2LMHeadModel":
        parts = layout.prefixed(parts, "transformer.")
    tensors = _Tensors(artifact, parts, progress)
    plan = {name: (tensors.types[name], shape) for name, shape in tensors.shapes.items()}
    settings = hf_config.config_json(config, architecture, _common(tensors.types))
    template = _template(artifact)
    codec, ends = artifact.codec, []
    if isinstance(codec, BPECodec):
        ends = [codec.special(end) for end in imported.get("stops", ())]
    tokens = to_hf(codec, template, config.begin, config.context)
    both = {"bos_token_id": settings["bos_token_id"], "eos_token_id": ends or config.space.eos}
    with new_folder(target) as aside:
        stream_tensors(aside / "model.safetensors", plan, tensors.whole)
        write_text(aside / "config.json", dumps(settings))
        write_text(aside / "generation_config.json", dumps(both))
        write_text(aside / "tokenizer.json", tokens.definition)
        write_text(aside / "tokenizer_config.json", dumps(tokens.config))
        if template is not None:
            write_text(aside / TEMPLATE, template)
    size = sum(p.stat().st_size for p in target.iterdir())
    return Exported(str(target), "hf", architecture, _count(tensors), size, notes)


def _to_gguf(
    artifact: Artifact,
    config: TransformerConfig,
    target: Path,
    kind: str,
    notes: list[str],
    progress: Progress | None,
) -> Exported:
    if target.exists():
        raise ValueError(f"{target} exists: choose another -o")
    name = target.stem if artifact.path is None else artifact.path.name
    arch, facts = gguf_model.facts_of(config, name, _FILE_TYPE[kind])
    facts |= to_gguf(artifact.codec, _template(artifact), config.begin)
    tensors = _Tensors(artifact, layout.gguf(config, arch in gguf_model.PAIRED), progress)
    plan: list[tuple[str, tuple[int, ...], Any, Any]] = []
    wider: set[int] = set()
    for each, shape in tensors.shapes.items():
        own = kind
        if len(shape) == 1 or each == "position_embd.weight":
            own = "F32"
        elif kind in _BLOCKS and shape[1] % _BLOCKS[kind]:
            own = "F16"
            wider.add(shape[1])
        elif kind == "Q4_0" and each in ("token_embd.weight", "output.weight"):
            own = "Q8_0"  # as is usual: few bits cost most where symbols are told apart
        plan.append((each, shape, own, tensors.rows(each)))
    if (factors := gguf_model.rope_tensor(config)) is not None:
        plan.append(("rope_freqs.weight", tuple(factors.shape), "F32", factors))
    if wider:
        columns = ", ".join(map(str, sorted(wider)))
        notes = [*notes, f"matrices of {columns} columns are F16: {kind} needs multiples of 32"]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_gguf(target, facts, plan)
    size = target.stat().st_size
    return Exported(str(target), f"gguf {kind}", arch, _count(tensors), size, notes)


def _count(tensors: _Tensors) -> int:
    return sum(math.prod(shape) for shape in tensors.shapes.values())


def _common(types: Mapping[str, torch.dtype]) -> torch.dtype:
    """The type of most tensors."""
    every = list(types.values())
    return max(set(every), key=every.count)


def _template(artifact: Artifact) -> str | None:
    path = None if artifact.path is None else artifact.path / TEMPLATE
    return path.read_text(encoding="utf-8") if path is not None and path.exists() else None
