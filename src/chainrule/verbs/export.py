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
from chainrule.files import named, new_folder, stream_tensors, write_text
from chainrule.formats import gguf_model, hf, hf_config, layout
from chainrule.formats.gguf import write_gguf
from chainrule.formats.gguf_blocks import BLOCKS
from chainrule.formats.hf_config import dumps
from chainrule.formats.imported import Imported, imported
from chainrule.formats.tokens import from_gguf, to_gguf, to_hf
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import TransformerConfig
from chainrule.training.shards import Progress
from chainrule.verbs.bring import TEMPLATE

Kind = Literal["F32", "BF16", "F16", "Q8_0", "Q4_0"]
KINDS: tuple[str, ...] = get_args(Kind)
_FILE_TYPE = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}


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
    stem = named(artifact.path or Path("model"))
    told = imported(artifact.recipe, f"{stem}: recipe")
    architecture = hf_config.architecture_of(config, told.architecture)
    windowed = to == "hf" and architecture == "MistralForCausalLM" and not config.sinks
    notes = _left_out(config, windowed)
    config = replace(config, ahead=0, masked=False)
    tokens = _tokens(artifact, config, told)
    if to == "hf":
        target = stem.with_name(f"{stem.name}-hf") if out is None else Path(out)
        return _to_hf(artifact, config, architecture, tokens, target, notes, progress)
    kind = kind or "F16"
    target = stem.with_name(f"{stem.name}-{kind}.gguf") if out is None else Path(out)
    return _to_gguf(artifact, config, stem.name, tokens, target, kind, notes, progress)


def _left_out(config: TransformerConfig, windowed: bool) -> list[str]:
    notes = []
    if config.ahead:
        notes.append("the extra heads of strategy heads are left out")
    if config.masked:
        notes.append("what fills in blanks is left out")
    if config.layout == "llama" and not windowed:
        notes.append(
            f"made for {config.context:,} symbols: others do not slide beyond them as here"
        )
    return notes


@dataclass(frozen=True)
class _Tokens:
    """What goes out beside the codec.

    ``ends``: the symbols that end a turn, the end symbol first; ``stops``: those that are tokens,
    by name; ``adds_begin``: others put the start symbol before every text.
    """

    template: str | None
    ends: list[int]
    stops: list[str]
    adds_begin: bool


def _tokens(artifact: Artifact, config: TransformerConfig, told: Imported) -> _Tokens:
    template, codec, eos = _template(artifact), artifact.codec, config.space.eos
    assert eos is not None, "text has an end"
    if not isinstance(codec, BPECodec):
        return _Tokens(template, [eos], [], False)
    known = [codec.special(stop) for stop in told.stops]  # a run from before it kept ends
    further = told.ends or [symbol for symbol in known if symbol is not None]
    ends = list(dict.fromkeys([eos, *(e for e in further if e < len(codec.symbol_bytes()))]))
    spelled = [codec.spelling(end) for end in ends]
    begin = eos if config.begin is None else config.begin
    adds = hf.begins(codec.tokenizer_json(), begin)
    return _Tokens(template, ends, [text for text in spelled if text is not None], adds)


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
    architecture: str,
    told: _Tokens,
    target: Path,
    notes: list[str],
    progress: Progress | None,
) -> Exported:
    tensors = _Tensors(artifact, layout.hf(config), progress)
    plan = {name: (tensors.types[name], shape) for name, shape in tensors.shapes.items()}
    settings = hf_config.config_json(config, architecture, _common(tensors.types))
    tokens = to_hf(artifact.codec, told.template, config.begin, config.context, told.adds_begin)
    ends = told.ends if len(told.ends) > 1 else config.space.eos
    both = {"bos_token_id": settings["bos_token_id"], "eos_token_id": ends}
    with new_folder(target) as aside:
        stream_tensors(aside / "model.safetensors", plan, tensors.whole)
        write_text(aside / "config.json", dumps(settings))
        write_text(aside / "generation_config.json", dumps(both))
        write_text(aside / "tokenizer.json", tokens.definition)
        write_text(aside / "tokenizer_config.json", dumps(tokens.config))
        if told.template is not None:
            write_text(aside / TEMPLATE, told.template)
    size = sum(p.stat().st_size for p in target.iterdir())
    return Exported(str(target), "hf", architecture, _count(tensors), size, notes)


def _to_gguf(
    artifact: Artifact,
    config: TransformerConfig,
    name: str,
    told: _Tokens,
    target: Path,
    kind: str,
    notes: list[str],
    progress: Progress | None,
) -> Exported:
    if target.exists():
        raise ValueError(f"{target} exists: choose another -o")
    arch, facts = gguf_model.facts_of(config, name, _FILE_TYPE[kind])
    facts |= to_gguf(artifact.codec, told.template, config.begin, told.adds_begin)
    notes = [*notes, *_further_ends(facts, told.stops)]
    tensors = _Tensors(artifact, layout.gguf(config, arch in gguf_model.PAIRED), progress)
    plan: list[tuple[str, tuple[int, ...], Any, Any]] = []
    wider: set[int] = set()
    for each, shape in tensors.shapes.items():
        own = kind
        if len(shape) == 1 or each == "position_embd.weight":
            own = "F32"
        elif shape[1] % BLOCKS[kind][0]:
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


def _further_ends(facts: dict[str, Any], stops: list[str]) -> list[str]:
    """Name what ends a turn where llama.cpp does not know it by itself; notes on what is left."""
    if len(stops) < 2:
        return []
    found, texts = from_gguf(facts, "").stops, facts["tokenizer.ggml.tokens"]
    missing = [stop for stop in stops if stop not in found]
    for key, stop in zip(("eot_token_id", "eom_token_id"), missing, strict=False):
        facts[f"tokenizer.ggml.{key}"] = texts.index(stop)
    return [f"a GGUF has no place for a further end of a turn: {stop}" for stop in missing[2:]]


def _count(tensors: _Tensors) -> int:
    return sum(math.prod(shape) for shape in tensors.shapes.values())


def _common(types: Mapping[str, torch.dtype]) -> torch.dtype:
    """The type of most tensors."""
    every = list(types.values())
    return max(set(every), key=every.count)


def _template(artifact: Artifact) -> str | None:
    path = None if artifact.path is None else artifact.path / TEMPLATE
    return path.read_text(encoding="utf-8") if path is not None and path.exists() else None
