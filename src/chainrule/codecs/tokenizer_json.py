"""A tokenizer.json, read strictly: which components it may have, and which values in them.

`tokenizers` believes such a file: a normalizer may write gigabytes, a regex take for ever, a table
of characters end the process. So it is shown nothing that isn't listed here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from chainrule.codecs.symbols import LARGEST, parse_json

SPACE = "\u2581"  # what SentencePiece writes for a space
_STEPS = 8  # components in a row
_ADDED = 2**16  # added tokens; Llama 3 has 256
_LONGEST = 2**12  # characters of a token

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+END|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*END"
    r"|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Ways of cutting that files have. Each takes time in proportion to the text, which a test measures.
REGEXES: Mapping[str, str] = {
    "llama-bpe": _WORDS.replace("DIGITS", r"\p{N}{1,3}"),
    "qwen2": _WORDS.replace("DIGITS", r"\p{N}"),
    "tekken": _CASED.replace("END", "").replace("DIGITS", r"\p{N}"),
    "gpt-4o": _CASED.replace("END", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?").replace(
        "DIGITS", r"\p{N}{1,3}"
    ),
    **{f"deepseek-coder {n}": r for n, r in enumerate((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+"))},
    "deepseek-coder 3": "[一-龥ࠀ-一가-퟿]+",
    **{f"falcon {n}": "[0-9]" * n for n in (1, 3)},
}

Step = dict[str, Any]
Fields = Mapping[str, tuple[Any, ...]]

_FLAG = (False, True)
_BYTE_LEVEL: Fields = {"add_prefix_space": _FLAG, "trim_offsets": _FLAG, "use_regex": _FLAG}
_METASPACE: Fields = {
    "replacement": (SPACE,),
    "str_rep": (SPACE,),
    "add_prefix_space": _FLAG,
    "prepend_scheme": ("always", "first", "never"),
    "split": _FLAG,
}
# What each kind of component may say, value by value.
_KINDS: Mapping[str, Mapping[str, Fields]] = {
    "normalizer": {
        **{form: {} for form in ("NFC", "NFD", "NFKC", "NFKD")},
        "Prepend": {"prepend": (SPACE,)},
        "Replace": {"pattern": ({"String": " "},), "content": (SPACE,)},
    },
    "pre_tokenizer": {
        "ByteLevel": _BYTE_LEVEL,
        "Digits": {"individual_digits": _FLAG},
        "Metaspace": _METASPACE,
        "Punctuation": {
            "behavior": ("Isolated", "Contiguous", "MergedWithPrevious", "MergedWithNext")
        },
        "Split": {
            "pattern": tuple({"Regex": regex} for regex in REGEXES.values()),
            "behavior": ("Isolated",),
            "invert": (False,),
        },
    },
    "decoder": {
        "ByteLevel": _BYTE_LEVEL,
        "ByteFallback": {},
        "Fuse": {},
        "Metaspace": _METASPACE,
        "Replace": {"pattern": ({"String": SPACE},), "content": (" ",)},
        "Strip": {"content": (" ",), "start": (0, 1), "stop": (0, 1)},
    },
    "post_processor": {"ByteLevel": _BYTE_LEVEL, "TemplateProcessing": {}},
}
_PLURALS = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "decoder": "decoders",
    "post_processor": "processors",
}
_MODEL: Fields = {
    "type": ("BPE",),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), _FLAG),
}
_TOKEN: Fields = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), _FLAG)


def steps(data: Mapping[str, Any], key: str) -> list[Step]:
    """A component that was checked, such as the normalizer, as the list of its steps."""
    step = data.get(key)
    if step is None:
        return []
    found: list[Step] = step[_PLURALS[key]] if step["type"] == "Sequence" else [step]
    return found


def read(definition: str, where: str) -> tuple[dict[str, Any], str]:
    """The content of a tokenizer.json, and the same anew for the library, with nothing unseen.

    Raises:
        ValueError: not JSON, or a component, setting or value that isn't had here, by its name;
            the message starts with ``where``.
    """
    data = parse_json(definition, where)
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        raise ValueError(f"{where}: not a tokenizer.json (it has no model)")
    here = {"version", "truncation", "padding", "added_tokens", "model", *_KINDS}
    if others := data.keys() - here:
        raise ValueError(f"{where}: {min(others)!r:.60} is not had here; known: {_names(here)}")
    _check_model(data["model"], where)
    for key in _KINDS:
        _check_component(data, key, where)
    _check_added(data.get("added_tokens"), where)
    # Of a key that is there twice, or of numbers, another reader may make something else.
    return data, json.dumps({**data, "truncation": None, "padding": None})


def _names(names: Any) -> str:
    return ", ".join(sorted(names))


def _fields(found: Mapping[str, Any], allowed: Fields, place: str, *others: str) -> None:
    """Refuse a setting that isn't had here, or a value of one, by name."""
    for name, value in found.items():
        if name in others:
            continue
        if name not in allowed:
            known = _names([*allowed, *others])
            raise ValueError(f"{place}: {name!r:.60} is not had here; known: {known}")
        if value not in allowed[name]:
            raise ValueError(f"{place}: {name} {value!r:.90} is not had here")


def _check_component(data: Mapping[str, Any], key: str, where: str) -> None:
    step = data.get(key)
    if step is None:
        return
    found: Any = [step]
    if isinstance(step, dict) and step.get("type") == "Sequence":
        _fields(step, {}, f"{where}: {key} Sequence", "type", _PLURALS[key])
        found = step.get(_PLURALS[key])
    if not isinstance(found, list) or len(found) > _STEPS:
        raise ValueError(f"{where}: {key}: expected a list of {_STEPS} steps at most")
    for each in found:
        kind = each.get("type") if isinstance(each, dict) else None
        if not isinstance(kind, str) or kind not in _KINDS[key]:
            raise ValueError(
                f"{where}: {key} {kind!r:.60} is not had here; known: {_names(_KINDS[key])}"
            )
        place = f"{where}: {key} {kind}"
        if kind == "TemplateProcessing":
            _check_template(each, place)
        else:
            _fields(each, _KINDS[key][kind], place, "type")
    if key == "post_processor" and sum(s["type"] == "TemplateProcessing" for s in found) > 1:
        raise ValueError(f"{where}: {key}: only one TemplateProcessing is had here")


def _check_template(step: Step, place: str) -> None:
    """What is put around a text: every text must come out once, and all names be known."""
    _fields(step, {}, place, "type", "single", "pair", "special_tokens")
    special = step.get("special_tokens")
    if not isinstance(special, dict) or not all(map(_is_special, special.values())):
        raise ValueError(f"{place}: special_tokens: expected an id, ids and tokens for each name")
    for name, wanted in (("single", [["A"]]), ("pair", [["A", "B"], []])):
        texts, pieces = [], step.get(name)
        for piece in pieces if isinstance(pieces, list) and len(pieces) <= _STEPS else [None]:
            items = [*piece.items()] if isinstance(piece, dict) else []
            kind, inner = items[0] if len(items) == 1 else ("", None)
            symbol = inner.get("id") if isinstance(inner, dict) else None
            if kind == "SpecialToken" and isinstance(symbol, str) and symbol in special:
                continue
            texts.append(symbol if kind == "Sequence" else None)
        if texts not in wanted:
            raise ValueError(f"{place}: {name}: expected each text once, and known special tokens")


def _is_special(token: Any) -> bool:
    if not isinstance(token, dict):
        return False
    ids, tokens = token.get("ids"), token.get("tokens")
    if not isinstance(ids, list) or not isinstance(tokens, list):
        return False
    return len(ids) == len(tokens) <= _STEPS


def _check_model(model: Mapping[str, Any], where: str) -> None:
    place = f"{where}: model"
    if model.get("dropout"):
        raise ValueError(f"{where}: with dropout a text has no one encoding; set it to null")
    _fields(model, _MODEL, place, "vocab", "merges", "dropout", "unk_token")
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocabulary, dict) or set(map(type, vocabulary.values())) != {int}:
        raise ValueError(f"{place}: vocab: expected an object of tokens and their numbers")
    if min(vocabulary.values()) < 0:
        raise ValueError(f"{place}: vocab: a number is negative")
    if (size := 1 + max(vocabulary.values())) > LARGEST:
        raise ValueError(f"{where}: an alphabet of {size:,} is too large, {LARGEST:,} at most")
    if max(map(len, vocabulary)) > _LONGEST:
        raise ValueError(f"{place}: vocab: a token of more than {_LONGEST:,} characters")
    if not isinstance(merges, list):
        raise ValueError(f"{place}: merges: expected a list")
    for merge in merges:
        try:
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            if left in vocabulary and right in vocabulary and left + right in vocabulary:
                continue
        except (TypeError, ValueError):
            pass
        raise ValueError(f"{place}: merges: {merge!r:.60} is not two tokens that make a third")


def _check_added(tokens: Any, where: str) -> None:
    place = f"{where}: added_tokens"
    tokens = [] if tokens is None else tokens
    if not isinstance(tokens, list) or len(tokens) > _ADDED:
        raise ValueError(f"{place}: expected a list of {_ADDED:,} at most")
    for token in tokens:
        if not isinstance(token, dict):
            raise ValueError(f"{place}: {token!r:.60} is not an object")
        content, symbol = token.get("content"), token.get("id")
        if not isinstance(content, str) or not 1 <= len(content) <= _LONGEST:
            raise ValueError(
                f"{place}: {content!r:.60} is not a text of 1 to {_LONGEST:,} characters"
            )
        if type(symbol) is not int or not 0 <= symbol < LARGEST:
            raise ValueError(f"{place}: {symbol!r:.60} is not the number of a symbol")
        _fields(token, _TOKEN, f"{place}: {content!r:.60}", "id", "content")
