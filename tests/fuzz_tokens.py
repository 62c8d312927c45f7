"""Broken tokenizers and models' facts for tests.fuzz: files that are well-formed, and wrong."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chainrule.codecs import bpe
from chainrule.codecs.text import BPECodec
from chainrule.codecs.tokenizer_json import REGEXES
from chainrule.formats import gguf_model
from chainrule.formats.gguf import GGUF
from chainrule.formats.tokens import from_gguf, to_gguf, to_hf
from chainrule.verbs.export import export
from tests.models.brought import SHAPES, save
from tests.models.tokenizers import ENDS, codec, definition

_FLAG = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
}
# Those that are had here, and after them some that are not.
_STEPS: list[dict[str, Any]] = [
    *({"type": kind} for kind in ("NFC", "NFD", "NFKC", "NFKD", "ByteFallback", "Fuse")),
    {"type": "ByteLevel", **_FLAG},
    {"type": "ByteLevel", **_FLAG, "add_prefix_space": True, "use_regex": False},
    {"type": "Digits", "individual_digits": True},
    {"type": "Punctuation", "behavior": "Contiguous"},
    *(
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
        for regex in [*REGEXES.values(), "(a+)+$", "("]
    ),
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    {"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    _TEMPLATE,
    {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000},
    {"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA"},
    {"type": "Prepend", "prepend": ""},
    *({"type": kind} for kind in ("Lowercase", "Whitespace", "BertPreTokenizer", "Sequence")),
]
_VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    255,
    2**31,
    2**32,
    2**63,
    10**30,
    1.5,
    float("nan"),
    "",
    "a",
]
_VALUES += ["▁", " ", "\0", "é", "a b", "a" * 5000, "Ġ", "<0x41>", "</s>", [], {}, [[]], {"a": {}}]
_TEXTS = [
    "",
    " ",
    "The cat sat",
    "a" * 300,
    "  \n\n\t x  ",
    "e\u0301 ﷺ ﬁ",
    "日本語 🙂👩‍👩‍👧",
    "▁▁a ▁",
]
_TEXTS += ["<|endoftext|>x</s> <s>", "\0\x04", "Alice's 123456 I'LL", "\u0301\u0301", "ʰAaʰ'S/\r\n"]
_SEQUENCES = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "decoder": "decoders",
    "post_processor": "processors",
}


def _changed(rng: random.Random, root: Any) -> None:
    """One value somewhere, near the top more often than deep down."""
    at = root
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            return
        key = rng.choice(keys)
        inner = at[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.2:
            break
        at = inner
    match rng.randrange(6):
        case 0:
            del at[key]
        case 1 if isinstance(at, dict):
            at[rng.choice([*at, "type", "more"])] = at.pop(key)
        case 2 if isinstance(at, list):
            at.insert(key, copy.deepcopy(rng.choice(at)))
        case 3:
            at[key] = copy.deepcopy(rng.choice(_STEPS))
        case 4 if isinstance(inner, str | int):
            at[key] = inner * rng.choice([0, 2, 3])
        case _:
            at[key] = copy.deepcopy(rng.choice(_VALUES))


def definition_of(rng: random.Random) -> str:
    """The content of a tokenizer.json."""
    data = json.loads(definition(rng.choice(list(ENDS))))
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        key = rng.choice(list(_SEQUENCES))
        some = copy.deepcopy(rng.choices(_STEPS, k=rng.choice([0, 1, 2, 3, 9])))
        data[key] = rng.choice([{"type": "Sequence", _SEQUENCES[key]: some}, *some])
        if rng.random() < 0.7 and key in data:
            data[key] = json.loads(definition(rng.choice(list(ENDS))))[key]
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        _changed(rng, data)
    text = json.dumps(data, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.1:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(["", '"', "\\ud800", "9" * 400, "[" * 3000]) + text[at + 1 :]
    return text


def facts_of(rng: random.Random) -> dict[str, Any]:
    """The metadata of a tokenizer in a GGUF file."""
    facts: dict[str, Any] = copy.deepcopy(_tokenizer_facts(rng.choice(list(ENDS))))
    for _ in range(rng.choice([0, 1, 1, 2])):
        _changed(rng, facts)
    return facts


@functools.cache
def _tokenizer_facts(name: str) -> dict[str, Any]:
    return to_gguf(codec(name))


@contextlib.contextmanager
def _panics(what: str) -> Iterator[None]:
    """As `bpe.told`, but that a panic of the library is a finding."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what} ({str(error).splitlines()[0]})") from None


def opened(rng: random.Random, path: Path) -> BPECodec:
    """A tokenizer of either kind of file, broken."""
    bpe.told = _panics
    if rng.random() < 0.7:
        return BPECodec(definition_of(rng), where=str(path))
    tokens = from_gguf(facts_of(rng), str(path))
    return BPECodec(tokens.definition, tokens.eos, str(path), tokens.size)


def used(made: BPECodec, rng: random.Random) -> None:
    """All that is asked of one that was read; nothing of it may fail."""
    wild = "".join(chr(rng.choice([rng.randrange(128), rng.randrange(0xD800)])) for _ in range(20))
    for text in (rng.choice(_TEXTS), rng.choice([wild, rng.choice(_TEXTS) * 9])):
        try:
            found = made.encode(text)
            special = made.encode_special(text)
        except ValueError as error:
            raise AssertionError(f"{text!r}: {error}") from error
        size = made.space.size or 0
        assert all(
            s.min(initial=0) >= 0 and s.max(initial=0) < size for s in (found.symbols, special)
        )
        assert made.decode(found) == text or not made.lossless, text
        assert made.units(found) == len(text.encode())
    to_hf(made)
    with contextlib.suppress(ValueError):
        to_gguf(made)


def model_of(rng: random.Random, folder: Path) -> GGUF:
    """A whole GGUF file that says something else of its model."""
    file = copy.copy(_models(folder)[rng.randrange(4)])
    file.metadata = {k: v for k, v in file.metadata.items() if "ggml.tokens" not in k}
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        key = rng.choice(list(file.metadata))
        arch = file.metadata.get("general.architecture")
        if rng.random() < 0.3:
            key = f"{arch}.{rng.choice([*gguf_model._USUAL, *_MORE])}"
        file.metadata[key] = rng.choice(
            [*_VALUES, 2.0, 8.0, 24, 32, "linear", "yarn", "none", "gpt2"]
        )
    if rng.random() < 0.2:
        file.tensors = dict(file.tensors)
        del file.tensors[rng.choice(list(file.tensors))]
    return file


_MORE = [f"rope.scaling.{key}" for key in ("type", "factor", "original_context_length")]
_MORE += ["rope.scale_linear", "rope.freq_base", "attention.key_length", "attention.head_count"]


@functools.cache
def _models(folder: Path) -> list[GGUF]:
    found = []
    for name in ("llama", "qwen3", "llama3", "gpt2"):
        run = save(folder / name, **SHAPES[name])
        found.append(GGUF(Path(export(run, "gguf", folder / f"{name}.gguf", kind="F32").path)))
    return found
