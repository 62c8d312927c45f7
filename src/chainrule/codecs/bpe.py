"""Byte-level BPE: what a tokenizer.json may hold, and the bytes that its tokens stand for.

`tokenizers` is imported when it is first used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chainrule.codecs.symbols import LARGEST, parse_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END = "<|endoftext|>"
_ENDS = (END, "<|end_of_text|>", "<|endofsequence|>", "</s>", "<eos>", "<|im_end|>")
_CHUNK = 2**16  # characters that `tokenizers` gets at a time: memory, and work for every core
_BORDER = re.compile(r"\S(?= )")
# Pre-tokenizers that only cut; all others may drop text or rewrite it.
_CUTTERS = ("ByteLevel", "Split", "Digits", "Punctuation")


@dataclass(frozen=True)
class Opened:
    """What `BPECodec` needs to know of a tokenizer.

    ``table`` has the bytes of each symbol; ``end`` is the end token and ``eos`` its symbol.
    """

    table: list[bytes]
    end: str
    eos: int
    lossless: bool
    splits_at_spaces: bool


def open_tokenizer(definition: str, eos: str | None, where: str) -> tuple[Tokenizer, Opened]:
    """Check a tokenizer.json and open it, without padding, truncation and special tokens in text.

    Raises:
        ValueError: not a tokenizer.json of byte-level BPE; the message starts with ``where``.
    """
    from tokenizers import Tokenizer

    data = _parse(definition, where)
    steps = _check(data, where)
    try:
        tokenizer = Tokenizer.from_str(definition)
    except Exception as error:  # its own class of error is plain Exception
        raise ValueError(f"{where}: not a tokenizer.json ({error})") from None
    for token in data.get("added_tokens") or []:
        if tokenizer.token_to_id(token["content"]) != token["id"]:
            raise ValueError(f"{where}: {token['content']!r} can't have the id {token['id']}")
    special = [t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special]
    if eos is None:
        eos = next((e for e in _ENDS if e in special), END)
        tokenizer.add_special_tokens([eos])
    elif eos not in special:
        raise ValueError(f"{where}: {eos!r} is not one of its special tokens")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True  # a text that spells <|endoftext|> is only a text
    added = tokenizer.get_added_tokens_decoder()
    lossless = (
        data.get("normalizer") is None
        and not any(s.get("add_prefix_space") for s in steps)
        and not any((t.lstrip or t.rstrip) and not t.special for t in added.values())
    )
    table = _table(tokenizer, {i: t.content for i, t in added.items()}, where)
    end = tokenizer.token_to_id(eos)
    assert end is not None, "it was found or added above"
    table[end] = b""
    splits = len(steps) == 1 and bool(steps[0].get("use_regex", True))
    return tokenizer, Opened(table, eos, end, lossless, splits)


def train(texts: Iterable[str], size: int, min_count: int) -> str:
    """Merge frequent pairs until there are ``size`` tokens: the content of a tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=min_count,
        initial_alphabet=sorted(byte_letters()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((c for t in texts for c in chunks(t)), trainer)
    return str(tokenizer.to_str())


def chunks(text: str) -> list[str]:
    """Cut before spaces that follow something else, where byte-level BPE cuts anyway."""
    pieces, begin = [], 0
    while len(text) - begin > _CHUNK:
        border = _BORDER.search(text, begin + _CHUNK - 1)
        if border is None:
            break
        pieces.append(text[begin : border.end()])
        begin = border.end()
    if begin < len(text):
        pieces.append(text[begin:])
    return pieces


def byte_letters() -> dict[str, int]:
    """The 256 letters that byte-level BPE writes bytes with, and the bytes (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [i for i in range(256) if i not in printable]
    return {
        **{chr(i): i for i in printable},
        **{chr(256 + n): i for n, i in enumerate(others)},
    }


def _parse(definition: str, where: str) -> dict[str, Any]:
    data = parse_json(definition, where)
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        raise ValueError(f"{where}: not a tokenizer.json (it has no model)")
    return data


def _check(data: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Refuse all but byte-level BPE; the pre-tokenizer's steps."""
    model = data["model"]
    steps, decoders = _steps(data, "pre_tokenizer"), _steps(data, "decoder")
    whole = all(
        step.get("type") in _CUTTERS and step.get("behavior") != "Removed" for step in steps
    )
    byte_level = any(step.get("type") == "ByteLevel" for step in steps)
    plain = not any(
        model.get(k) for k in ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    )
    decodes = bool(decoders) and all(step.get("type") == "ByteLevel" for step in decoders)
    if not (model.get("type") == "BPE" and byte_level and whole and plain and decodes):
        raise ValueError(f"{where}: not byte-level BPE, the only kind that is read here")
    if model.get("dropout"):
        raise ValueError(f"{where}: with dropout a text has no one encoding; set it to null")
    return steps


def _steps(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """A pre-tokenizer or decoder as the list of its steps."""
    step = data.get(key)
    if not isinstance(step, dict):
        return []
    inner = step.get(key + "s") if step.get("type") == "Sequence" else [step]
    return [s for s in inner if isinstance(s, dict)] if isinstance(inner, list) else []


def _table(tokenizer: Tokenizer, added: dict[int, str], where: str) -> list[bytes]:
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    size = 1 + max(vocabulary.values())
    if size > LARGEST:
        raise ValueError(f"{where}: an alphabet of {size:,} is too large, {LARGEST:,} at most")
    if len(set(vocabulary.values())) < len(vocabulary):
        raise ValueError(f"{where}: two tokens have the same id")
    letters = byte_letters()
    if missing := sum(c not in vocabulary for c in letters):
        raise ValueError(f"{where}: its vocabulary lacks {missing} of the 256 bytes")
    table = [b""] * size  # ids that no token has stand for nothing
    for token, i in vocabulary.items():
        if i in added or any(c not in letters for c in token):
            table[i] = token.encode()
        else:
            table[i] = bytes(letters[c] for c in token)
    return table
