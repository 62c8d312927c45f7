"""Tokenizers in and out: codecs as llama.cpp and `transformers` read them. Shapes: T symbols.

The way in from GGUF is in tokens_in.py; tokenizer.json needs none (`BPECodec.from_file`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from chainrule.codecs.bpe import BYTE, END, byte_letters, pattern
from chainrule.codecs.symbols import TextCodec
from chainrule.codecs.text import BPECodec, ByteCodec, CharCodec, WordCodec
from chainrule.codecs.tokenizer_json import SPACE, steps
from chainrule.formats.tokens_in import (
    BYTES,
    CONTROL,
    INLINE,
    NORMAL,
    UNKNOWN,
    UNUSED,
    Tokens,
    from_gguf,
    splits,
)

__all__ = ["HFTokens", "Tokens", "from_gguf", "to_gguf", "to_hf"]

# A piece of --codec words, for Oniguruma, whose \w and \s are not Python's.
_LETTER, _BLANK = r"\p{L}\p{Nl}\p{No}", r"\s\x1C-\x1F"
_PIECE = rf" ?<unk>| ?[{_LETTER}]+(?:['’][{_LETTER}]+)*| ?[^{_BLANK}]|[{_BLANK}]"


@dataclass(frozen=True)
class HFTokens:
    """``definition``: the content of tokenizer.json; ``config``: of tokenizer_config.json."""

    definition: str
    config: dict[str, Any]


def to_hf(
    codec: TextCodec,
    template: str | None = None,
    begin: int | None = None,
    length: int | None = None,
    adds_begin: bool = False,
) -> HFTokens:
    """A codec as a tokenizer that `AutoTokenizer` reads without code of ours.

    The symbols are the codec's, but for what has no equal there: a spelling of a special token
    means the token, `chars` fails on unknown characters with an error of its own, and `words` has
    one symbol for unknown words, ``<unk>``, also where " <unk>" would be right.

    Args:
        template: the chat template.
        begin: the start symbol; None: the end symbol.
        length: the model's context.
        adds_begin: the codec's own tokenizer.json puts the start symbol before every text.
    """
    eos = codec.space.eos
    assert eos is not None, "text has an end"
    if isinstance(codec, BPECodec):
        definition, end = codec.tokenizer_json(), codec.end
        first = end if begin is None else codec.spelling(begin)
    else:
        definition, end = json.dumps(_simple(codec, eos), ensure_ascii=False, indent=2), END
        first = (
            END if begin in (None, eos) else codec.symbol_bytes()[begin].decode("utf-8", "replace")
        )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end,
        "bos_token": first,
        "add_bos_token": adds_begin,
        "clean_up_tokenization_spaces": False,
        **({} if length is None else {"model_max_length": length}),
        **({} if template is None else {"chat_template": template}),
    }
    return HFTokens(definition, config)


def _simple(codec: TextCodec, eos: int) -> dict[str, Any]:
    """A tokenizer.json that only cuts and looks up."""
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    common = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": eos, "content": END, **added, "special": True}],
        "normalizer": None,
        "post_processor": None,
    }
    if isinstance(codec, ByteCodec):
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        vocabulary = byte_letters()
        return common | {
            "pre_tokenizer": {**byte_level, "use_regex": True},
            "decoder": {**byte_level, "use_regex": True},
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
        }
    assert isinstance(codec, CharCodec | WordCodec), "the four text codecs"
    regex = _PIECE if isinstance(codec, WordCodec) else r"[\s\S]"
    cutter = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    words = [piece.decode() for piece in codec.symbol_bytes()[:eos]]
    return common | {
        "pre_tokenizer": cutter,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {word: i for i, word in enumerate(words)},
            "unk_token": "<unk>",
        },
    }


def to_gguf(
    codec: TextCodec,
    template: str | None = None,
    begin: int | None = None,
    adds_begin: bool = False,
) -> dict[str, Any]:
    """The metadata from which llama.cpp makes the same symbols, special tokens apart.

    Two things llama.cpp does not do: NFC (Qwen), and refusing characters that ``chars`` doesn't
    know, which it leaves out.

    Raises:
        ValueError: llama.cpp has no such tokenizer; with the reason and a remedy.
    """
    if isinstance(codec, BPECodec):
        kind, facts = _bpe_facts(codec)
    elif isinstance(codec, ByteCodec | CharCodec):
        kind, facts = "gpt2", _letters(codec)
    else:
        raise ValueError(
            f"llama.cpp cuts text into words in its own way, so --codec {codec.name} can't be "
            "exported to GGUF: export --to hf, or fit with --codec bpe"
        )
    eos = codec.space.eos
    values = {
        "model": kind,
        **facts,
        "eos_token_id": eos,
        "bos_token_id": eos if begin is None else begin,
        "add_bos_token": adds_begin,
    }
    about = {} if template is None else {"tokenizer.chat_template": template}
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()} | about


def _letters(codec: ByteCodec | CharCodec) -> dict[str, Any]:
    """Byte-level BPE whose only merges put the bytes of a character together.

    UTF-8 is prefix-free, so no two characters can merge. Characters need no tokens for their
    bytes: llama.cpp looks up what is left after merging.
    """
    letters = {b: c for c, b in byte_letters().items()}
    texts = ["".join(letters[b] for b in piece) for piece in codec.symbol_bytes()[:-1]]
    merges = {text[:n] + " " + text[n] for text in texts for n in range(1, len(text))}
    return {
        "pre": "gpt-2",
        "tokens": [*texts, END],
        "token_type": [NORMAL] * len(texts) + [CONTROL],
        "merges": sorted(merges, key=lambda m: (len(m), m)),
    }


def _bpe_facts(codec: BPECodec) -> tuple[str, dict[str, Any]]:
    data = json.loads(codec.tokenizer_json())
    model = data["model"]
    added = {t["content"]: CONTROL if t["special"] else INLINE for t in data["added_tokens"]}
    names = {i: t for t, i in model["vocab"].items()} | {
        t["id"]: t["content"] for t in data["added_tokens"]
    }
    texts = [names.get(i, f"[PAD{i}]") for i in range(len(codec.symbol_bytes()))]
    types = [UNUSED if i not in names else added.get(names[i], NORMAL) for i in range(len(texts))]
    merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in model["merges"]]
    if not model["byte_fallback"]:
        pre = pattern(data)
        same = pre is not None and model["ignore_merges"] == (pre == "llama-bpe")
        if not same or not codec.lossless:
            raise ValueError(
                "llama.cpp knows no way of cutting text that is this tokenizer's: export --to hf"
            )
        return "gpt2", {
            "pre": pre,
            "tokens": texts,
            "token_type": types,
            "merges": [" ".join(m) for m in merges],
        }
    types = [
        BYTES if BYTE.fullmatch(t) and k == NORMAL else UNKNOWN if t == model["unk_token"] else k
        for t, k in zip(texts, types, strict=True)
    ]
    order: dict[str, int] = {}
    for left, right in merges:
        order.setdefault(left + right, len(order))
    ranks = [order[left + right] for left, right in merges]
    missing = {m[:2] for m in splits(texts, types)} - set(merges)
    cutter = next(iter(steps(data, "pre_tokenizer")), {})
    inner = cutter.get("split", True) and any(SPACE in t[1:] for t in texts) if cutter else False
    if missing or ranks != sorted(ranks) or inner:
        raise ValueError(
            "llama.cpp merges by scores of tokens, and this tokenizer's merges can't be told so: "
            "export --to hf"
        )
    normalizer = steps(data, "normalizer")
    prefix = any("prepend" in s for s in normalizer)
    prefix |= cutter.get("prepend_scheme", "never") != "never"
    return "llama", {
        "tokens": texts,
        "token_type": types,
        "scores": [-float(order.get(t, len(order))) for t in texts],
        "add_space_prefix": prefix,
    }
