"""Regular expressions as trees.

Syntax and meaning are those of Python's ``re.fullmatch``, whose parser reads them; look-around,
back references and flags are refused.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Ranges = tuple[tuple[int, int], ...]  # code points, first and last, in order
_EVERY: Ranges = ((0, 0xD7FF), (0xE000, 0x10FFFF))  # surrogates are no characters

# ---- trees ----


@dataclass(frozen=True)
class Chars:
    """One character out of a set."""

    ranges: Ranges


@dataclass(frozen=True)
class Seq:
    """One part after another; without parts, the empty text."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True)
class Alt:
    """One of the parts."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True)
class Repeat:
    """A part so many times, with ``between`` between them; ``most`` None is without end."""

    part: Tree
    least: int
    most: int | None
    between: Tree = Seq(())


@dataclass(frozen=True)
class Join:
    """Parts in this order with ``between`` between them; those that needn't be may be missing."""

    parts: tuple[tuple[Tree, bool], ...]
    between: Tree


@dataclass(frozen=True)
class Anchor:
    """``^`` or ``$``."""

    end: bool


Tree = Chars | Seq | Alt | Repeat | Join | Anchor


def literal(text: str) -> Tree:
    """Exactly this text.

    Raises:
        ValueError: half a surrogate pair, which is not a character.
    """
    if any(0xD800 <= ord(c) < 0xE000 for c in text):
        raise ValueError(f"{text!r} holds half a surrogate pair, which is not a character")
    return Seq(tuple(Chars(((ord(c), ord(c)),)) for c in text))


def parse(regex: str) -> Tree:
    """The tree of a regular expression that is to match the whole text.

    Raises:
        ValueError: not a regular expression (with the place), or one that no automaton can hold.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of syntax that may change some day
            items = importlib.import_module("re._parser").parse(regex)
    except re.error as error:
        place = "" if error.pos is None else f" at position {error.pos}"
        raise ValueError(f"regular expression {regex!r}: {error.msg}{place}") from None
    except (OverflowError, RecursionError):
        raise ValueError(f"regular expression {regex!r} is too large") from None
    try:
        _plain(items.state.flags)
        return _unanchored(_tree(items), True, True)
    except ValueError as error:
        raise ValueError(f"regular expression {regex!r}: {error}") from None


def within(tree: Tree, allowed: Ranges) -> Tree:
    """The same tree, with only these characters."""
    match tree:
        case Chars(ranges):
            return Chars(_without(ranges, _without(_EVERY, allowed)))
        case Seq(parts):
            return Seq(tuple(within(p, allowed) for p in parts))
        case Alt(parts):
            return Alt(tuple(within(p, allowed) for p in parts))
        case Repeat(part, least, most):
            return Repeat(within(part, allowed), least, most)
    return tree


def _plain(flags: int) -> None:
    if flags & ~(re.UNICODE | re.VERBOSE):
        raise ValueError("flags other than x can't be used: write what they mean, [aA] for (?i)a")


def _tree(items: Iterable[tuple[Any, Any]]) -> Tree:
    parts: list[Tree] = []
    for op, value in items:
        match str(op):
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
                parts.append(Chars(_ranges(str(op), value)))
            case "BRANCH":
                parts.append(Alt(tuple(_tree(p) for p in value[1])))
            case "SUBPATTERN":
                _plain(value[1] | value[2])
                parts.append(_tree(value[3]))
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, inner = value
                endless = str(most) == "MAXREPEAT"
                parts.append(Repeat(_tree(inner), int(least), None if endless else int(most)))
            case "AT" if str(value) in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
                parts.append(Anchor(end=False))
            case "AT" if str(value) in ("AT_END", "AT_END_STRING"):
                parts.append(Anchor(end=True))
            case _:
                raise ValueError(
                    "look-around, back references, word borders and possessive repeats "
                    "can't be used"
                )
    return parts[0] if len(parts) == 1 else Seq(tuple(parts))


def _unanchored(tree: Tree, first: bool, last: bool) -> Tree:
    """Without the anchors at the ends, which say nothing where the whole text is matched."""
    match tree:
        case Anchor(end):
            if last if end else first:
                return Seq(())
            raise ValueError("^ and $ can only stand at the two ends")
        case Alt(parts):
            return Alt(tuple(_unanchored(p, first, last) for p in parts))
        case Repeat(part, least, most):
            return Repeat(_unanchored(part, False, False), least, most)
        case Seq(parts):
            left = next((i for i, p in enumerate(parts) if p != Anchor(False)), len(parts))
            right = next((i for i, p in enumerate(parts[::-1]) if p != Anchor(True)), len(parts))
            if first and last and left + right >= len(parts):
                return Seq(())
            stop = len(parts) - 1
            return Seq(
                tuple(
                    _unanchored(p, first and i <= left, last and i >= stop - right)
                    for i, p in enumerate(parts)
                )
            )
    return tree


# ---- sets of characters ----


def _ranges(op: str, value: Any) -> Ranges:
    if op == "LITERAL":
        return _without(_EVERY, _without(_EVERY, ((value, value),)))
    if op == "NOT_LITERAL":
        return _without(_EVERY, ((value, value),))
    if op == "ANY":
        return _without(_EVERY, ((10, 10),))
    found: list[tuple[int, int]] = []
    for kind, item in value:
        match str(kind):
            case "LITERAL":
                found.append((item, item))
            case "RANGE":
                found.append(item)
            case "CATEGORY":
                found += _category(str(item))
    others = _without(_EVERY, tuple(found))
    return others if str(value[0][0]) == "NEGATE" else _without(_EVERY, others)


@lru_cache
def _category(name: str) -> Ranges:
    r"""What ``re`` itself takes for \d, \s or \w, or for everything else."""
    letter = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}[name.rpartition("_")[2]]
    every = "".join(map(chr, range(0x110000)))
    found = tuple((m.start(), m.end() - 1) for m in re.finditer(letter + "+", every))
    return _without(_EVERY, found) if "_NOT_" in name else found


def _without(ranges: Ranges, others: Ranges) -> Ranges:
    """``ranges`` less ``others``, which may overlap and stand in any order."""
    out = []
    others = tuple(sorted(others))
    for low, high in ranges:
        for first, last in others:
            if last >= low and first <= high:
                if first > low:
                    out.append((low, first - 1))
                low = max(low, last + 1)
        if low <= high:
            out.append((low, high))
    return tuple(out)
