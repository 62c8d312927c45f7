"""Byte-pair encoding: the tokenizers that are had here, and the bytes that their tokens stand for.

Two kinds are read: byte-level (GPT-2, Llama 3, Qwen, SmolLM2) and SentencePiece-like (Llama 2,
Mistral, TinyLlama), which writes spaces as "\u2581" and spells rare characters in bytes.
`tokenizers` is imported when it is first used.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chainrule.codecs.symbols import LARGEST
from chainrule.codecs.tokenizer_json import REGEXES, SPACE, Step, read, steps

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END = "<|endoftext|>"
BYTE = re.compile("<0x([0-9A-F]{2})>")  # and for a byte of a character that it has no token for
_ENDS = (END, "<|end_of_text|>", "<|endofsequence|>", "</s>", "<eos>", "<|im_end|>")
_CHUNK = 2**16  # characters that `tokenizers` gets at a time: memory, and work for every core
_BORDER = re.compile(r"\S(?= )")
# No text needs C0, C1 or F5 to FF, hardly any the control characters and F1 to F4.
_RARE = {*range(9), *range(11, 32), 127, 0xC0, 0xC1, *range(0xF1, 0x100)}


def _step(kind: str, **settings: Any) -> Step:
    return {"type": kind, **settings}


def _split(regex: str) -> Step:
    return _step("Split", pattern={"Regex": regex}, behavior="Isolated", invert=False)


# How byte-level tokenizers cut, by the names that llama.cpp has for it. A space begins a piece
# unless it follows white space: so texts may be cut there beforehand (`chunks`).
PATTERNS: Mapping[str, list[Step]] = {
    "gpt-2": [_step("ByteLevel", use_regex=True)],
    "smollm": [_step("Digits", individual_digits=True), _step("ByteLevel", use_regex=True)],
    "llama-bpe": [
        _split(REGEXES["llama-bpe"]),
        _step("ByteLevel", use_regex=False),
    ],
    "qwen2": [_split(REGEXES["qwen2"]), _step("ByteLevel", use_regex=False)],
}


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


def open_tokenizer(definition: str, eos: str | int | None, where: str) -> tuple[Tokenizer, Opened]:
    """Check a tokenizer.json and open it, without padding, truncation and special tokens in text.

    Raises:
        ValueError: not a tokenizer.json of a kind that is read; the message starts with ``where``.
    """
    from tokenizers import Tokenizer

    data, definition = read(definition, where)
    byte_level = _check(data, where)
    with told(f"{where}: not a tokenizer.json"):
        tokenizer = Tokenizer.from_str(definition)
    for token in data.get("added_tokens") or []:
        if tokenizer.token_to_id(token["content"]) != token["id"]:
            raise ValueError(f"{where}: {token['content']!r} can't have the id {token['id']}")
    special = [t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special]
    if isinstance(eos, int):
        eos = (tokenizer.id_to_token(eos) if 0 <= eos < 2**32 else None) or str(eos)
    if eos is None:
        eos = next((e for e in _ENDS if e in special), END)
        with told(f"{where}: it can't have {eos!r}"):
            tokenizer.add_special_tokens([eos])
    elif eos not in special:
        raise ValueError(f"{where}: {eos!r} is not one of its special tokens")
    tokenizer.encode_special_tokens = True  # a text that spells <|endoftext|> is only a text
    added = tokenizer.get_added_tokens_decoder()
    inline = [t for t in added.values() if not t.special]
    normalizer = [step["type"] for step in steps(data, "normalizer")]
    unknown = data["model"].get("unk_token")
    table = _table(tokenizer, {i: t.content for i, t in added.items()}, byte_level, unknown, where)
    end = tokenizer.token_to_id(eos)
    assert end is not None, "it was found or added above"
    table[end] = b""
    return tokenizer, Opened(
        table,
        eos,
        end,
        lossless=not byte_level
        or (
            normalizer in ([], ["NFC"])
            and not any(s.get("add_prefix_space") for s in steps(data, "pre_tokenizer"))
            and not any(t.lstrip or t.rstrip for t in inline)
        ),
        splits_at_spaces=byte_level
        and pattern(data) is not None
        and normalizer in ([], ["NFC"])
        and not any(" " in t.content for t in inline),
    )


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Failures of `tokenizers` as a ValueError that begins with ``what``.

    It raises plain Exception, and where it gives up a PanicException, which is none.
    """
    try:
        yield
    except BaseException as error:
        panic = type(error).__name__ == "PanicException"
        if isinstance(error, MemoryError) or not (panic or isinstance(error, Exception)):
            raise
        raise ValueError(f"{what} ({error})") from None


def fits(num_tokens: int, rows: int, where: str) -> None:
    """Whether an embedding of so many rows, which may be padded, is one of these tokens.

    Raises:
        ValueError: more tokens than rows, or far fewer; the message starts with ``where``.
    """
    if not num_tokens <= rows <= num_tokens + max(1024, num_tokens // 4):
        raise ValueError(
            f"{where}: a tokenizer of {num_tokens:,} tokens doesn't match an embedding of "
            f"{rows:,} rows: it is another model's"
        )


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


def pattern(data: Mapping[str, Any]) -> str | None:
    """The name in `PATTERNS` of how this tokenizer.json cuts, if it has one."""
    found = []
    for step in steps(data, "pre_tokenizer"):
        kept = {k: v for k, v in step.items() if k != "trim_offsets"}
        if kept.get("type") == "ByteLevel":
            kept.setdefault("use_regex", True)
            if kept.pop("add_prefix_space", True):
                return None
        found.append(kept)
    return next((name for name, wanted in PATTERNS.items() if found == wanted), None)


def _check(data: dict[str, Any], where: str) -> bool:
    """Refuse what is neither byte-level BPE (True) nor SentencePiece-like BPE (False)."""
    byte_level = _is_byte_level(data)
    if not (byte_level or _is_sentencepiece(data)):
        raise ValueError(
            f"{where}: not byte-level BPE, nor BPE of characters and bytes with "
            f'"{SPACE}" for spaces: no other kind is read here'
        )
    return byte_level


def _is_byte_level(data: dict[str, Any]) -> bool:
    """Text is only cut, and spelled in letters for bytes once; NFC and the like may come first."""
    cutters = [step["type"] for step in steps(data, "pre_tokenizer")]
    decoders = [step["type"] for step in steps(data, "decoder")]
    rewrites = [s["type"] for s in steps(data, "normalizer") if s["type"] in ("Prepend", "Replace")]
    once = cutters.count("ByteLevel") == 1 and "Metaspace" not in cutters and not rewrites
    decodes = bool(decoders) and set(decoders) == {"ByteLevel"}
    return once and decodes and not data["model"].get("byte_fallback")


def _is_sentencepiece(data: dict[str, Any]) -> bool:
    """Spaces become "\u2581", one may come before, and all else stays as it is."""
    kept = [step["type"] for step in steps(data, "normalizer")]
    cutters = [step["type"] for step in steps(data, "pre_tokenizer")]
    decoders = [step["type"] for step in steps(data, "decoder")]
    return (
        bool(data["model"].get("byte_fallback"))
        and kept in ([], ["Replace"], ["Prepend", "Replace"])
        and cutters in ([], ["Metaspace"])
        and bool(kept or cutters)
        and "ByteFallback" in decoders
        and "ByteLevel" not in decoders
    )


def _table(
    tokenizer: Tokenizer,
    added: dict[int, str],
    byte_level: bool,
    unknown: str | None,
    where: str,
) -> list[bytes]:
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    size = 1 + max(vocabulary.values())
    if size > min(LARGEST, 2 * len(vocabulary) + 1024):
        raise ValueError(
            f"{where}: an alphabet of {size:,} is too large for {len(vocabulary):,} tokens"
        )
    if len(set(vocabulary.values())) < len(vocabulary):
        raise ValueError(f"{where}: two tokens have the same id")
    letters = byte_letters()
    names = {b: c if byte_level else f"<0x{b:02X}>" for c, b in letters.items()}
    missing = {b for b, name in names.items() if name not in vocabulary}
    if missing - _RARE or (missing and not byte_level):
        raise ValueError(f"{where}: its vocabulary lacks {len(missing)} of the 256 bytes")
    if missing and unknown is not None and unknown not in vocabulary:
        raise ValueError(f"{where}: its unk_token {unknown!r:.60} is none of its tokens")
    table = [b""] * size  # ids that no token has stand for nothing
    for token, i in vocabulary.items():
        if i in added:
            table[i] = token.encode()
        elif not byte_level:
            byte = BYTE.fullmatch(token)
            spelled = token.replace(SPACE, " ").encode()
            table[i] = bytes([int(byte[1], 16)]) if byte else spelled
        elif any(c not in letters for c in token):
            table[i] = token.encode()
        else:
            table[i] = bytes(letters[c] for c in token)
    return table
