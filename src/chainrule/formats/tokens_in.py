"""Tokenizers of GGUF files: their metadata as a tokenizer.json. Shapes: V alphabet size.

GGUF's "gpt2" is byte-level BPE; its "llama" is SentencePiece's BPE, where every token has a score
and the merges follow from the vocabulary.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from chainrule.codecs.bpe import PATTERNS
from chainrule.codecs.symbols import LARGEST
from chainrule.codecs.tokenizer_json import SPACE

NORMAL, UNKNOWN, CONTROL, INLINE, UNUSED, BYTES = range(1, 7)  # kinds of tokens
_LONGEST = 256  # characters of a token whose splits are looked for
_CHARACTERS, _SPLITS = 2**23, 2**21  # of all tokens together; Gemma has 1.6 and 0.6 million
_PRE = {
    **{name: name for name in PATTERNS},
    **dict.fromkeys(("phi-2",), "gpt-2"),
    **dict.fromkeys(("starcoder", "refact", "codeshell"), "smollm"),
    **dict.fromkeys(("llama3", "llama-v3"), "llama-bpe"),
}
# Control tokens that end a turn, as llama.cpp knows them too.
_STOPS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>")


@dataclass(frozen=True)
class Tokens:
    """A tokenizer for `BPECodec`, and what else a file says of it.

    Attributes:
        definition: the content of a tokenizer.json.
        eos: the token that ends a document.
        begin: the symbol before every text; None: the end symbol, or nothing is said.
        adds_begin: the symbol is to be put before prompts.
        stops: tokens that end a turn, ``eos`` first.
        template: the chat template, in Jinja.
        size: V, with the tokens that are only padding.
    """

    definition: str
    eos: str
    begin: int | None
    adds_begin: bool
    stops: list[str]
    template: str | None
    size: int


def from_gguf(metadata: Mapping[str, Any], where: str) -> Tokens:
    """The tokenizer that the metadata of a GGUF file describes.

    Raises:
        ValueError: what is missing, wrong or of an unknown kind, by its key; starts with
            ``where``.
    """
    given = Metadata(metadata, where)
    kind = given.value("model", str)
    texts = given.items("tokens", str)
    if not 1 <= len(texts) <= LARGEST:
        given.fail("tokens", f"{len(texts):,} of them; between 1 and {LARGEST:,} are possible")
    if len(set(texts)) < len(texts):
        twice, _ = Counter(texts).most_common(1)[0]
        given.fail("tokens", f"{twice!r:.60} is there twice")
    types = given.items("token_type", int, [NORMAL] * len(texts))
    eos = given.symbol("eos_token_id", len(texts))
    if eos is None:
        given.fail("eos_token_id", "it is missing: which token ends a text?")
    begin = given.symbol("bos_token_id", len(texts))
    for mark in {eos, eos if begin is None else begin}:
        types[mark] = UNKNOWN if types[mark] == UNKNOWN else CONTROL
    if kind == "gpt2":
        definition = _byte_level(given, texts, types)
    elif kind == "llama":
        definition = _sentencepiece(given, texts, types)
    else:
        given.fail("model", f'{kind!r:.60} is not read here, only "gpt2" and "llama" are')
    turns = [given.symbol(k, len(texts)) for k in ("eot_token_id", "eom_token_id")]
    controls = {t for t, kind in zip(texts, types, strict=True) if kind == CONTROL}
    stops = [texts[i] for i in (eos, *turns) if i is not None]
    pre = given.value("pre", str, "")
    return Tokens(
        json.dumps(definition, ensure_ascii=False),
        texts[eos],
        None if begin == eos else begin,
        given.value("add_bos_token", bool, kind == "llama" or _PRE.get(pre) == "llama-bpe"),
        list(dict.fromkeys([*stops, *(t for t in _STOPS if t in controls)])),
        given.value("chat_template", str, None),
        len(texts),
    )


class Metadata:
    """Checked values of ``tokenizer.ggml.*``."""

    def __init__(self, metadata: Mapping[str, Any], where: str) -> None:
        self._metadata, self._where = metadata, where

    def fail(self, key: str, why: str) -> NoReturn:
        raise ValueError(f"{self._where}, key '{self._name(key)}': {why}")

    def value(self, key: str, kind: type, *default: Any) -> Any:
        found = self._metadata.get(self._name(key))
        if found is None and default:
            return default[0]
        if type(found) is not kind:
            self.fail(key, f"expected {kind.__name__}, not {found!r:.60}")
        return found

    def items(self, key: str, kind: type, *default: list[Any]) -> list[Any]:
        """A list, as long as that of the default."""
        found = self._metadata.get(self._name(key))
        if found is None and default:
            return default[0]
        if not isinstance(found, list) or not all(type(item) is kind for item in found):
            self.fail(key, f"expected a list of {kind.__name__}")
        if default and len(found) != len(default[0]):
            self.fail(
                key, f"it has {len(found):,} entries, and there are {len(default[0]):,} tokens"
            )
        return list(found)

    def symbol(self, key: str, size: int) -> int | None:
        """The number of one of so many tokens."""
        found: int | None = self.value(key, int, None)
        if found is not None and not 0 <= found < size:
            self.fail(key, f"{found} is not one of the {size:,} tokens")
        return found

    def _name(self, key: str) -> str:
        return f"tokenizer.{'' if key == 'chat_template' else 'ggml.'}{key}"


def _byte_level(given: Metadata, texts: list[str], types: list[int]) -> dict[str, Any]:
    pre = given.value("pre", str, "default")
    if pre == "default" and given.value("model", str) == "gpt2":
        pre = "gpt-2"  # files from before the key was there
    if pre not in _PRE:
        known = ", ".join(_PRE)
        given.fail(
            "pre", f"{pre!r:.60} is a way of cutting text that isn't known here ({known} are)"
        )
    merges = []
    for merge in given.items("merges", str):
        left, _, right = merge.partition(" ")
        if not left or not right or " " in right:
            given.fail("merges", f"{merge!r:.60} is not two tokens with a space between")
        merges.append([left, right])
    name = _PRE[pre]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    cutters = [
        byte_level | step if step["type"] == "ByteLevel" else step for step in PATTERNS[name]
    ]
    return _definition(
        texts,
        types,
        merges,
        normalizer={"type": "NFC"} if name == "qwen2" else None,
        pre_tokenizer=_sequence("pretokenizers", cutters),
        decoder=byte_level | {"use_regex": True},
        ignore_merges=name == "llama-bpe",
    )


def _sentencepiece(given: Metadata, texts: list[str], types: list[int]) -> dict[str, Any]:
    scores = given.items("scores", float, [0.0] * len(texts))
    if not all(map(math.isfinite, scores)):
        given.fail("scores", "one of them is not a finite number")
    if (longest := max(map(len, texts))) > _LONGEST:
        given.fail("tokens", f"one has {longest:,} characters, {_LONGEST} are the most")
    try:
        found = splits(texts, types)
    except ValueError as error:
        given.fail("tokens", str(error))
    # Best score first, then the order that transformers' converter gives.
    merges = sorted(found, key=lambda m: (-scores[m[2]], -len(m[0]), -len(m[1])))
    prefix = given.value("add_space_prefix", bool, True)
    prepend = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []),
    ]
    return _definition(
        texts,
        types,
        [[left, right] for left, right, _ in merges],
        normalizer=_sequence("normalizers", [*prepend, spaces]),
        pre_tokenizer=None,
        decoder=_sequence("decoders", decoders),
        unk_token=next((t for t, k in zip(texts, types, strict=True) if k == UNKNOWN), None),
        fuse_unk=True,
        byte_fallback=True,
    )


def splits(texts: list[str], types: list[int]) -> list[tuple[str, str, int]]:
    """Every way to put a normal token together from two others, and its symbol.

    Raises:
        ValueError: more than any vocabulary has.
    """
    ids = {t: i for i, (t, k) in enumerate(zip(texts, types, strict=True)) if k == NORMAL}
    if (size := sum(map(len, ids))) > _CHARACTERS:
        raise ValueError(f"{size:,} characters; {_CHARACTERS:,} are the most")
    found: list[tuple[str, str, int]] = []
    for text, i in ids.items():
        if len(found) > _SPLITS:
            raise ValueError(f"more than {_SPLITS:,} ways to put them together")
        halves = [(text[:n], text[n:], i) for n in range(1, len(text))]
        known = [h for h in halves if h[0] in ids and h[1] in ids]
        found += sorted(known, key=lambda h: (ids[h[0]], ids[h[1]]))
    return found


def _definition(
    texts: list[str], types: list[int], merges: list[list[str]], **settings: Any
) -> dict[str, Any]:
    """A tokenizer.json; tokens that are only padding are left out."""
    vocabulary = {t: i for i, t in enumerate(texts) if types[i] != UNUSED}
    added = [
        {
            "id": i,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": types[i] in (UNKNOWN, CONTROL),
        }
        for text, i in vocabulary.items()
        if types[i] in (UNKNOWN, CONTROL) or (types[i] == INLINE and SPACE not in text)
    ]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    of_model = {key: settings.pop(key) for key in list(settings) if key in model}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "post_processor": None,
        **settings,
        "model": {**model, **of_model, "vocab": vocabulary, "merges": merges},
    }


def _sequence(plural: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    return parts[0] if len(parts) == 1 else {"type": "Sequence", plural: parts}
