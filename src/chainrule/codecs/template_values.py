"""What the expressions of a chat template compute: values, their limits, filters, tests, methods.

Values are None, booleans, numbers, strings, lists, tuples, dicts and the classes below: no Python
object of any other kind is ever in a template's reach. What one rendering may do is bounded by a
``Budget``; whatever can grow is charged before it is made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

LIMIT = 2**25  # units of work of one rendering: a byte that is copied or looked at is one
STEP, ELEMENT = 80, 40  # units of one node of the template, and of one element of a list
DEEPEST = 64  # lists in lists
MISSING = object()
_FIRST = 0xDC00  # half a surrogate pair: no text can hold one, so marks are never mistaken


class Refused(Exception):
    """What a template must not do, or can't; the message is for people."""


class Undefined:
    """A name or an entry that isn't there."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __repr__(self) -> str:
        return "Undefined"


class Namespace(dict[str, Any]):
    """What ``namespace(…)`` makes: its attributes can be set."""


class Lazy(list[Any]):
    """What ``map``, ``select`` and their like return: true even when it is empty, as in Jinja."""


@dataclass(frozen=True, eq=False)
class Method:
    """A method and what it is of."""

    of: Any
    name: str


@dataclass(eq=False)
class Loop:
    """``loop`` inside a ``for``."""

    items: list[Any]
    at: int
    depth: int
    again: Callable[[Any], str] | None = None
    seen: Any = MISSING

    def attribute(self, name: str) -> Any:
        """One of Jinja's; None stands for none of them."""
        n, i, undefined = len(self.items), self.at, Undefined(f"loop.{name}")
        if name in ("cycle", "changed"):
            return Method(self, name)
        return {
            "index": i + 1,
            "index0": i,
            "revindex": n - i,
            "revindex0": n - i - 1,
            "first": i == 0,
            "last": i == n - 1,
            "length": n,
            "depth": self.depth,
            "depth0": self.depth - 1,
            "previtem": self.items[i - 1] if i else undefined,
            "nextitem": self.items[i + 1] if i + 1 < n else undefined,
        }.get(name)


class Function:
    """A function of the template's world."""

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.name, self.call = name, call


def refuse(reason: str) -> NoReturn:
    """Stop with a reason; raises Refused."""
    raise Refused(reason)


class Marks:
    """Marks every character of a message that could be part of a special token.

    A marked character is another code point that means the same one, and everything that looks
    into a string looks at ``plain``. So wherever a template moves a message's characters, they
    are known, and can't spell a special token.
    """

    def __init__(self, specials: Iterable[str]) -> None:
        chars: set[str] = set()
        for each in specials:
            chars |= {c for c in each if not c.isalnum() and not c.isspace()} or {each[0]}
        kept = sorted(chars)[: 0xE000 - _FIRST]
        self._to = {ord(c): _FIRST + i for i, c in enumerate(kept)}
        self._from = {_FIRST + i: ord(c) for i, c in enumerate(kept)}
        self._seek = re.compile(f"[\\udc00-{chr(_FIRST + max(len(kept) - 1, 0))}]")

    def mark(self, text: str) -> str:
        """The text of a message."""
        return text.translate(self._to) if self._to else text

    def plain(self, text: str) -> str:
        """The characters that are meant; the same object where none is marked."""
        if text.isascii() or self._seek.search(text) is None:
            return text
        return text.translate(self._from)


class Budget:
    """The work that is left, and what every operation does with strings and lists."""

    def __init__(self, marks: Marks) -> None:
        self.marks, self.left = marks, LIMIT

    def charge(self, units: int) -> None:
        """Take units away; raises Refused when there are none left."""
        self.left -= units
        if self.left < 0:
            raise Refused("it does more work than a template may: it loops, or its text explodes")

    def bytes(self, text: str, times: int = 1) -> str:
        """Charge for a copy of a text, or several; the text itself."""
        self.charge(len(text) * times * (1 if text.isascii() else 4))
        return text

    def plain(self, text: str) -> str:
        """The text to look into, charged for being looked at."""
        self.bytes(text)
        return self.marks.plain(text)

    def elements(self, values: Iterable[Any]) -> list[Any]:
        """A list of values that are there already, charged before it is made."""
        self.charge(ELEMENT * len(values))  # type: ignore[arg-type]
        return list(values)

    def number(self, value: Any) -> Any:
        """A number that is not too large."""
        if isinstance(value, complex) or (isinstance(value, int) and not -(2**63) <= value < 2**63):
            refuse("a number is out of bounds")
        return value

    def measure(self, value: Any, depth: int = 0) -> int:
        """Charge for all that is in a value, and return about how many characters it prints."""
        self.charge(ELEMENT)
        if isinstance(value, str):
            self.bytes(value)
            return len(value) + 2
        if isinstance(value, Namespace) or not isinstance(value, (list, tuple, dict)):
            return 24
        if depth == DEEPEST:
            refuse("its values are nested too deeply")
        parts = value if not isinstance(value, dict) else [*value, *value.values()]
        return 2 + sum(self.measure(v, depth + 1) + 2 * depth + 4 for v in parts)

    def bare(self, value: Any) -> Any:
        """A measured value without marks."""
        if isinstance(value, str):
            return self.marks.plain(value)
        if isinstance(value, Namespace):
            return value
        if isinstance(value, dict):
            return {self.bare(k): self.bare(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self.bare(v) for v in value]
        return tuple(map(self.bare, value)) if isinstance(value, tuple) else value

    def equal(self, a: Any, b: Any) -> bool:
        """a == b."""
        if isinstance(a, Undefined) or isinstance(b, Undefined):
            return isinstance(a, Undefined) and isinstance(b, Undefined)
        if isinstance(a, str) and isinstance(b, str):
            return len(a) == len(b) and self.plain(a) == self.plain(b)
        if isinstance(a, Namespace) or isinstance(b, Namespace):
            return a is b
        if isinstance(a, (list, tuple, dict)) and isinstance(b, (list, tuple, dict)):
            self.measure(a)
            self.measure(b)
            return bool(self.bare(a) == self.bare(b))
        return bool(a == b)

    def contains(self, where: Any, what: Any) -> bool:
        """``what in where``."""
        if isinstance(where, str):
            return self.plain(want(what, str)) in self.plain(where)
        if isinstance(where, Undefined):
            return False
        if isinstance(where, dict):
            return self.key(what) in where
        return any(self.equal(what, v) for v in self.iterate(where))

    def key(self, value: Any) -> Any:
        """A key of a dict."""
        if isinstance(value, str):
            return self.plain(value)
        if value is None or isinstance(value, (bool, int, float)):
            return value
        refuse(f"{named(value)} can't be the key of a dict")

    def text(self, value: Any) -> str:
        """What is written for a value."""
        if isinstance(value, str):
            return value
        if isinstance(value, Undefined):
            return ""
        if value is None or isinstance(value, (bool, int, float)):
            return str(value)
        if isinstance(value, Namespace) or not isinstance(value, (list, tuple, dict)):
            refuse(f"{named(value)} can't be written")
        self.charge(6 * self.measure(value))
        return self.marks.mark(str(self.bare(value)))

    def iterate(self, value: Any) -> list[Any]:
        """The elements of a value, as a new list."""
        if isinstance(value, Undefined):
            return []
        if isinstance(value, dict) and not isinstance(value, Namespace):
            return [self.keyed(k) for k in self.elements(value)]
        if isinstance(value, (str, list, tuple)):
            return self.elements(value)
        refuse(f"{named(value)} has no elements")

    def keyed(self, key: Any) -> Any:
        """A key of a dict as a value: it may be of a message, and is marked."""
        return self.marks.mark(self.bytes(key)) if isinstance(key, str) else key

    def pairs(self, value: Any) -> list[Any]:
        """The entries of a dict."""
        if isinstance(value, Undefined):
            return []
        return [(self.keyed(k), v) for k, v in self.elements(want(value, dict).items())]

    def join(self, parts: Sequence[str], between: str = "") -> str:
        """Strings as one, charged before it is made."""
        length = sum(map(len, parts)) + len(between) * max(len(parts) - 1, 0)
        self.charge(length * (1 if between.isascii() and all(p.isascii() for p in parts) else 4))
        return between.join(parts)

    def order(self, values: list[Any], key: Callable[[Any], Any], reverse: bool) -> list[Any]:
        """Sorted; numbers or strings, not both."""
        self.measure(values)
        self.charge(8 * sum(len(v) for v in map(key, values) if isinstance(v, str)))
        self.charge(ELEMENT * len(values) * 20)
        return sorted(values, key=key, reverse=bool(reverse))

    # ---- strings: positions in the plain text are positions in the marked one ----

    def strip(self, s: str, chars: str | None = None, left: bool = True, right: bool = True) -> str:
        """Without these characters at its ends."""
        plain, chars = self.plain(s), None if chars is None else self.plain(want(chars, str))
        if chars is not None and len(chars) > 100:
            refuse("it strips more than 100 characters")
        begin = len(plain) - len(plain.lstrip(chars)) if left else 0
        end = len(plain.rstrip(chars)) if right else len(plain)
        return s[begin:end] if begin < end else ""

    def split(self, s: str, sep: Any = None, maxsplit: int = -1, right: bool = False) -> list[str]:
        """Cut at a separator, or at white space."""
        plain = self.plain(s)
        cut = str.rsplit if right else str.split
        if sep is None:
            self.charge(ELEMENT * (len(s) // 2 + 1))
            return cut(s, None, maxsplit)
        sep = self.plain(want(sep, str))
        self.charge(len(s) * len(sep) // 8 * right)
        self.charge(2 * ELEMENT * (plain.count(sep) + 1))
        found, at = [], 0
        for part in cut(plain, sep, maxsplit):
            found.append(s[at : at + len(part)])
            at += len(part) + len(sep)
        return found

    def replace(self, s: str, old: Any, new: Any, count: Any = None) -> str:
        """Every ``old`` by ``new``, or the first so many."""
        if not want(old, str):
            refuse("it replaces an empty string")
        most = -1 if count is None else want(count, int)
        return self.join(self.split(s, old, most), want(new, str))

    def find(self, s: str, sub: Any, right: bool = False) -> int:
        """Where it begins; -1 where it is not."""
        plain, sub = self.plain(s), self.plain(want(sub, str))
        self.charge(len(s) * len(sub) // 8 * right)
        return plain.rfind(sub) if right else plain.find(sub)

    def begins(self, s: str, with_: Any, end: bool = False) -> bool:
        """startswith and endswith."""
        options = tuple(map(self.plain, with_ if isinstance(with_, (tuple, list)) else [with_]))
        plain = self.plain(s)
        return plain.endswith(options) if end else plain.startswith(options)

    def title(self, s: str) -> str:
        """Every word with a capital, in Jinja's way."""
        self.bytes(s, 20)
        border, out = True, []
        for meant, c in zip(self.marks.plain(s), s, strict=True):
            out.append(c.upper() if border else c.lower())
            border = meant in "-({[<" or meant.isspace()
        return "".join(out)

    def indent(self, s: str, width: Any = 4, first: bool = False, blank: bool = False) -> str:
        """Spaces before its lines; before the first and empty ones where asked for."""
        pad = width if isinstance(width, str) else " " * min(max(want(width, int), 0), 1000)
        self.charge((s.count("\n") + 1) * (len(pad) * 4 + ELEMENT))
        lines = self.bytes(s, 2).split("\n")
        kept = [pad + x if (x or blank) and (i or first) else x for i, x in enumerate(lines)]
        return "\n".join(kept)

    def tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        """As transformers writes it: no HTML, and characters as they are."""
        size = self.measure(value)
        if isinstance(indent, (int, str)):
            wide = len(indent) if isinstance(indent, str) else max(indent, 0)
            self.charge(size * min(wide, LIMIT))
        if separators is not None:
            separators = [want(x, str) for x in want(separators, (list, tuple))]
            self.charge(size * max(map(len, separators), default=0))
        self.charge(6 * size)
        text = json.dumps(
            self.bare(value),
            ensure_ascii=bool(ensure_ascii),
            indent=indent,
            separators=separators,
            sort_keys=bool(sort_keys),
        )
        return self.marks.mark(text)


def named(value: Any) -> str:
    """What a value is, in a word or two."""
    if isinstance(value, Undefined):
        return value.what
    return "none" if value is None else f"a {type(value).__name__.lower()}"


def want(value: Any, kind: Any) -> Any:
    """The value, if it is of the kind; raises Refused."""
    if isinstance(value, Undefined):
        refuse(f"{value.what} is undefined")
    if not isinstance(value, kind) or isinstance(value, Namespace):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        refuse(f"{named(value)} stands where {names} is needed")
    return value
