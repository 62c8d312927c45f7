"""Small tokenizers set up as those of well-known models are: the content of a tokenizer.json."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    processors,
    trainers,
)
from tokenizers import pre_tokenizers as cut

import chainrule.codecs.text as text_module
from chainrule.codecs.text import BPECodec

ALICE = (Path(text_module.__file__).parents[1] / "assets" / "alice.txt").read_text()[:9_000]
EXTRA = "Größe naïve café, 日本語のテキスト 한국어 Привет мир 12345 3.14\n\n"
CODE = "\tdef f(x):\n        return x\r\n"
CORPUS = [ALICE, (EXTRA + CODE) * 5]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
# The symbols by which a chat is marked, and what ends a text.
ENDS = {
    "gpt2": "<|endoftext|>",
    "smollm2": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "qwen2": "<|im_end|>",
    "llama2": "</s>",
    "mistral": "</s>",
    "gemma": "</s>",
}
BYTE_LEVEL = ["gpt2", "smollm2", "llama3", "qwen2"]
SENTENCEPIECE = ["llama2", "mistral", "gemma"]  # with Prepend, with Metaspace, with neither


@cache
def definition(name: str) -> str:
    """The content of a tokenizer.json, trained on a little text and set up as the model's."""
    return json.dumps(_sentencepiece(name) if name in SENTENCEPIECE else _byte_level(name))


@cache
def codec(name: str) -> BPECodec:
    return BPECodec(definition(name), ENDS[name])


@cache
def library(name: str, special: bool = False) -> Tokenizer:
    """The library's own; spellings of special tokens mean them only if asked for."""
    tokenizer = Tokenizer.from_str(definition(name))
    tokenizer.encode_special_tokens = not special
    return tokenizer


def _cutter(name: str) -> Any:
    split = {"llama3": LLAMA3, "qwen2": QWEN2}.get(name)
    if split is not None:
        isolated = cut.Split(Regex(split), "isolated")
        return cut.Sequence([isolated, cut.ByteLevel(add_prefix_space=False, use_regex=False)])
    byte_level = cut.ByteLevel(add_prefix_space=False)
    return byte_level if name == "gpt2" else cut.Sequence([cut.Digits(True), byte_level])


def _byte_level(name: str) -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _cutter(name)
    tokenizer.decoder = decoders.ByteLevel()
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    if name == "llama3":
        begin = ("<|begin_of_text|>", 452)
        template = processors.TemplateProcessing("<|begin_of_text|> $A", special_tokens=[begin])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), template])
    letters = sorted(cut.ByteLevel.alphabet())
    first = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] if name == "smollm2" else []
    if name == "smollm2":  # the real one lacks these
        letters = [c for c in letters if c not in "ÀÁĄĈ"]
    trainer = trainers.BpeTrainer(
        vocab_size=450, special_tokens=first, initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    last = {
        "gpt2": ["<|endoftext|>"],
        "llama3": ["<|eot_id|>", "<|end_of_text|>", "<|begin_of_text|>"],
        "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    }
    tokenizer.add_special_tokens(last.get(name, []))
    if name == "qwen2":
        tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False)])
    data: dict[str, Any] = json.loads(tokenizer.to_str())
    data["model"]["ignore_merges"] = name == "llama3"
    return data


def _sentencepiece(name: str) -> dict[str, Any]:
    """Merges are those that a SentencePiece vocabulary implies: all splits, best piece first."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = cut.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(vocab_size=250, show_progress=False, min_frequency=2)
    trained.train_from_iterator(CORPUS, trainer)
    learned: dict[str, int] = json.loads(trained.to_str())["model"]["vocab"]
    pieces = sorted((t for t in learned if len(t) > 1), key=learned.__getitem__)
    letters = sorted(t for t in learned if len(t) == 1 and t not in "日本")
    pieces = [p for p in pieces if all(c in letters for c in p)]
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *pieces, *letters]
    vocabulary = {t: i for i, t in enumerate(texts)}
    normal = {*pieces, *letters}
    merges = [
        [piece[:n], piece[n:]]
        for piece in pieces
        for n in range(1, len(piece))
        if piece[:n] in normal and piece[n:] in normal
    ]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepend = {"type": "Prepend", "prepend": "▁"}
    metaspace = {
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False,
    }  # fmt: skip
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    normalizer: Any = {"type": "Sequence", "normalizers": [prepend, replace]}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": t, **plain, "special": True} for i, t in enumerate(texts[:3])
        ],
        "normalizer": {"llama2": normalizer, "mistral": None, "gemma": replace}[name],
        "pre_tokenizer": metaspace if name == "mistral" else None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
            + ([] if name == "gemma" else [strip]),
        },
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>",
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
            "byte_fallback": True, "ignore_merges": False, "vocab": vocabulary, "merges": merges,
        },
    }  # fmt: skip
