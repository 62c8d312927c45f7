"""import: a model that somebody else trained, as a run of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from chainrule.artifact import QUANTISED, Artifact, load_artifact
from chainrule.codecs.symbols import read_text
from chainrule.codecs.text import BPECodec
from chainrule.core.outline import unfilled
from chainrule.engine.quantize import BLOCKS, DType, Narrow
from chainrule.engine.quantize import blocks as packed_blocks
from chainrule.engine.quantize import layout as packing
from chainrule.files import new_folder, read_json, stream_tensors, write_json, write_text
from chainrule.formats import gguf_model, hf, layout
from chainrule.formats.gguf import GGUF
from chainrule.formats.gguf_blocks import PLAIN
from chainrule.formats.gguf_blocks import parts as parts_of
from chainrule.formats.imported import Imported
from chainrule.formats.tokens import from_gguf
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import TransformerConfig
from chainrule.training.shards import Progress
from chainrule.verbs.inspect import inspect

TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True)
class Found:
    """A foreign model: its shape, its codec and where its tensors come from.

    Args:
        where: the file or folder, for errors.
        read: the whole of a foreign tensor, as a run is to store it.
        types: what type that has.
        blocks: of a GGUF, the foreign matrices that stay as they are, and their kind.
        packed: one of them.
    """

    source: str
    name: str
    where: str
    config: TransformerConfig
    parts: layout.Layout
    facts: hf.Facts
    codec: BPECodec
    read: Callable[[str], Tensor]
    types: Mapping[str, torch.dtype]
    blocks: Mapping[str, DType] = field(default_factory=dict)
    packed: Callable[[str], Narrow] | None = None


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
    codec = _codec(read_text(tokenizer), facts.ends[0], str(tokenizer), config, facts.adds_begin)
    name, where = folder.resolve().name, str(folder)
    found = Found("hf", name, where, config, parts, facts, codec, weights.tensor, weights.types)
    return _write(found, out, progress)


def import_gguf(
    path: str | Path,
    out: str | Path | None = None,
    *,
    widen: str | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """A GGUF file as a run.

    Matrices in Q8_0, Q4_0 and Q4_1 stay so; those in Q4_K and Q6_K become bf16.

    Args:
        out: the folder to make, ``runs/NAME`` if not given.
        widen: "f32" or "bf16": what all matrices become instead.

    Raises:
        ValueError: what isn't such a file, isn't had here, or contradicts itself.
    """
    if widen is not None and widen not in _WIDE:
        raise ValueError(f"widen {widen!r} is not one of {', '.join(_WIDE)}")
    file = GGUF(Path(path))
    config, parts, facts = gguf_model.read(file)
    tokens = from_gguf(file.metadata, str(path))
    codec = _codec(tokens.definition, tokens.eos, str(path), config, tokens.adds_begin)
    known = {text: i for i, text in enumerate(file.metadata["tokenizer.ggml.tokens"])}
    facts = replace(facts, ends=[known[stop] for stop in tokens.stops])
    wide = _WIDE.get(widen or "", torch.bfloat16)
    types, blocks = {}, {}
    for name, entry in file.tensors.items():
        types[name] = PLAIN.get(entry.kind, wide)
        if widen is not None and len(entry.shape) > 1:
            types[name] = wide
        kind = next((k for k in BLOCKS if k == entry.kind.lower()), None)
        if kind is not None and widen is None and len(entry.shape) == 2:
            blocks[name] = kind

    def read(name: str) -> Tensor:
        return file.floats(name).view(file.tensors[name].shape).to(types[name])

    def packed(name: str) -> Narrow:
        entry = file.tensors[name]
        data, scale, minimum = parts_of(entry.kind, file.raw(name), entry.columns)
        return Narrow(blocks[name], data, scale, entry.columns, minimum)

    name = Path(path).stem
    found = Found("gguf", name, str(path), config, parts, facts, codec, read, types, blocks, packed)
    return _write(found, out, progress)


def _codec(
    definition: str, eos: str | int, where: str, config: TransformerConfig, begins: bool | None
) -> BPECodec:
    """The codec of a tokenizer.json, which then has others put the start symbol first or not."""
    codec = BPECodec(definition, eos, where, config.space.size)
    end = codec.space.eos
    assert end is not None, "text has an end"
    symbol = end if config.begin is None else config.begin
    if begins is None or begins == hf.begins(codec.tokenizer_json(), symbol):
        return codec
    first = codec.spelling(symbol) if begins else None
    return BPECodec(hf.beginning(definition, where, first, symbol), eos, where, config.space.size)


_WIDE = {"f32": torch.float32, "bf16": torch.bfloat16}


def _write(found: Found, out: str | Path | None, progress: Progress | None) -> Artifact:
    target = Path("runs") / found.name if out is None else Path(out)
    facts, codec = found.facts, found.codec
    stops = [text for end in facts.ends if (text := _spelled(codec, end))]
    said = Imported(found.source, found.name, facts.architecture, facts.ends, stops, facts.notes)
    weights = _Weights(found, progress)
    artifact = Artifact(weights.outline, codec, {"imported": said.to_dict()})
    with new_folder(target) as aside:
        stream_tensors(aside / "model.safetensors", weights.plan, weights.make)
        if facts.template is not None:
            write_text(aside / TEMPLATE, facts.template)
        artifact.save_config(aside)
        if weights.kinds:
            config = read_json(aside / "config.json")
            config |= {"format": QUANTISED, "precision": {"dtype": "gguf", "kinds": weights.kinds}}
            write_json(aside / "config.json", config)
        write_text(aside / "README.md", _card(artifact, target.name, said))
        load_artifact(aside)  # what could not be read again is not kept
    return load_artifact(target)


def _spelled(codec: BPECodec, symbol: int) -> str:
    """The text by which a symbol is known in what was generated."""
    if symbol == codec.space.eos:
        return codec.end
    return codec.symbol_bytes()[symbol].decode("utf-8", "ignore")


class _Weights:
    """The tensors of the run to be: ``plan`` has types and shapes, ``make`` the values.

    ``kinds``: of our matrices, those that stay in GGUF's blocks.
    """

    def __init__(self, found: Found, progress: Progress | None) -> None:
        self.found, self.progress, self.done = found, progress, 0
        self.outline = unfilled(Transformer, found.config)
        self.plan: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        self.kinds: dict[str, DType] = {}
        self.owner: dict[str, str] = {}
        self.held: dict[str, Tensor] = {}
        for name, t in self.outline.state_dict().items():
            parts, shape = found.parts[name], tuple(t.shape)
            blocks = {found.blocks.get(part.name) for part in parts}
            kind = blocks.pop()
            if kind is not None and not blocks:
                self.kinds[name] = kind
                for behind, (size, own) in packing(kind, *shape).items():
                    self.plan[name + behind], self.owner[name + behind] = (own, size), name
                continue
            types = {found.types[part.name] for part in parts}
            self.plan[name] = (types.pop() if len(types) == 1 else torch.float32), shape
            self.owner[name] = name

    def make(self, name: str) -> Tensor:
        """One of the plan; those of the same matrix are kept until another is asked for."""
        if name not in self.held:
            if self.progress is not None:
                self.progress("reading", self.done, len(self.found.parts))
            self.done += 1
            self.held = self._read(self.owner[name])
        return self.held[name]

    def _read(self, ours: str) -> dict[str, Tensor]:
        parts = self.found.parts[ours]
        if ours not in self.kinds:
            return {ours: layout.joined(parts, self._plain)}
        pieces = [(part, self._packed(part.name)) for part in parts]
        data, scale, minimum = (
            None if any(t is None for _, t in each) else torch.cat([p.ours(t) for p, t in each])
            for each in (
                [(part, getattr(piece, name)) for part, piece in pieces]
                for name in ("data", "scale", "minimum")
            )
        )
        assert data is not None and scale is not None
        return packed_blocks(self.kinds[ours], data, scale, minimum).parts(ours)

    def _plain(self, name: str) -> Tensor:
        return self._finite(name, self.found.read(name))

    def _packed(self, name: str) -> Narrow:
        assert self.found.packed is not None
        piece = self.found.packed(name)
        for scales in (piece.scale, piece.minimum):
            if scales is not None:
                self._finite(name, scales)
        return piece

    def _finite(self, name: str, t: Tensor) -> Tensor:
        if not torch.isfinite(t.sum(dtype=torch.float64)):
            raise ValueError(f"{self.found.where}: tensor {name!r} has values that are not finite")
        return t


def _card(artifact: Artifact, name: str, said: Imported) -> str:
    lines = [
        f"# {name}",
        "",
        f"A {inspect(artifact).headline}: `{said.name}` ({said.architecture}), imported "
        "by chainrule. Its licence is the one that it came with.",
        "",
        *(f"- {note}" for note in said.notes),
        "Use it:",
        "",
        "```",
        f'chainrule generate {name} "…"',
        "```",
        "",
    ]
    return "\n".join(lines)
