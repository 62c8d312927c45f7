"""What the expressions of a chat template compute: values, their limits, and marks on them.

Values are None, booleans, numbers, strings and the classes below: no Python object of any other
kind is ever in a template's reach. What one rendering may do is bounded by a ``Budget``; whatever
can grow is charged before it is made. Containers know how deep they are and how much stands in
them, however often it is shared, so that nothing which walks through one can be surprised by it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

LIMIT = 2**25  # units of work of one rendering: a byte that is copied or looked at is one
STEP, ELEMENT = 80, 40  # units of one node of the template, and of one element of a list
DEEPEST = 64  # lists in lists
CALLS = 50  # calls in calls: a template that describes a schema goes as deep as the schema does
MISSING = object()
_EXPLODES = "it does more work than a template may: it loops, or its text explodes"
_FIRST, _MARKS = 0xDC00, 2**10  # half a surrogate pair: no text holds one, so marks are no text


class Refused(Exception):
    """What a template must not do, or can't; the message is for people."""


class Opaque:
    """What has attributes and no contents: one is equal to itself, and writes what it is."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lower()}>"


class Undefined(Opaque):
    """A name or an entry that isn't there."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __repr__(self) -> str:
        return "Undefined"


class Namespace(Opaque):
    """What ``namespace(…)`` makes: its attributes can be set."""

    def __init__(self, names: dict[Any, Any]) -> None:
        self.names = names

    def attribute(self, name: str) -> Any:
        """What was set; MISSING where nothing was."""
        return self.names.get(name, MISSING)


@dataclass(eq=False, repr=False)
class Method(Opaque):
    """A method and what it is of."""

    of: Any
    name: str


@dataclass(eq=False, repr=False)
class Loop(Opaque):
    """``loop`` inside a ``for``."""

    items: list[Any]
    at: int
    depth: int
    again: Callable[[Any], str] | None = None
    seen: Any = MISSING

    def attribute(self, name: str) -> Any:
        """One of Jinja's, or MISSING."""
        n, i, undefined = len(self.items), self.at, Undefined("an entry beyond the loop")
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
        }.get(name, MISSING)


class Function(Opaque):
    """A function of the template's world."""

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.name, self.call = name, call


# ---- containers: made by `measured` alone ----


class List(list[Any]):
    """A list: ``size`` is all that it prints, in units of work, ``depth`` its lists in lists."""

    __slots__ = ("depth", "size")
    size: int
    depth: int


class Lazy(List):
    """What ``map``, ``select`` and their like return: true even when it is empty, as in Jinja."""

    __slots__ = ()


class Tuple(tuple[Any, ...]):
    """As List."""

    size: int
    depth: int


class Dict(dict[Any, Any]):
    """As List; its keys are plain."""

    __slots__ = ("depth", "size")
    size: int
    depth: int


_MEASURED: dict[type, Any] = {list: List, tuple: Tuple, dict: Dict}
_VALUES = {type(None), bool, int, float, str, List, Lazy, Tuple, Dict}
_VALUES |= {Undefined, Namespace, Method, Loop, Function}


def measured(values: Any, kind: Any = None) -> Any:
    """A list, tuple or dict of values as one that knows its size and depth; raises Refused."""
    made = (kind or _MEASURED[type(values)])(values)
    made.size, made.depth = ELEMENT, 1
    for part in chain(values, values.values()) if isinstance(values, dict) else values:
        size, depth = weight(part)
        made.size += size
        made.depth = max(made.depth, depth + 1)
    if made.depth > DEEPEST:
        refuse("its values are nested too deeply")
    return made


def weight(value: Any) -> tuple[int, int]:
    """The size and the depth of a value; what it prints is no longer, but for what is escaped."""
    if isinstance(value, str):
        return ELEMENT + len(value) * (1 if value.isascii() else 4), 0
    if isinstance(value, (List, Tuple, Dict)):
        return value.size, value.depth
    if type(value) not in _VALUES:
        refuse(f"{named(value)} is nothing that a template may hold")
    return ELEMENT, 0


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
            chars |= {c for c in each if not c.isalnum() and not c.isspace()} or {*each[:1]}
        kept = sorted(chars)
        if len(kept) > _MARKS:
            refuse(f"the special tokens have {len(kept):,} characters, too many to mark")
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
        self.marks, self.left, self.calls = marks, LIMIT, 0

    def charge(self, units: int) -> None:
        """Take units away; raises Refused when there are none left."""
        self.left -= units
        if self.left < 0:
            refuse(_EXPLODES)

    @contextmanager
    def deeper(self) -> Iterator[None]:
        """One call further in; raises Refused where a template calls itself without an end."""
        if self.calls == CALLS:
            refuse("it is nested too deeply, or it calls itself")
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1

    def bytes(self, text: str, times: int = 1) -> str:
        """Charge for a copy of a text, or several; the text itself."""
        self.charge(len(text) * times * (1 if text.isascii() else 4))
        return text

    def plain(self, text: str) -> str:
        """The text to look into, charged for being looked at."""
        self.bytes(text)
        return self.marks.plain(text)

    def seek(self, s: str, sub: Any, right: bool = False) -> tuple[str, str]:
        """The text and what is looked for in it, charged for the search at its worst."""
        plain, sub = self.plain(s), self.plain(want(sub, str))
        # From the left CPython's search is linear, but for short texts and short patterns.
        self.charge(len(s) * (len(sub) if right or len(s) < 2500 else min(len(sub), 100)) // 8)
        return plain, sub

    def elements(self, values: Collection[Any]) -> list[Any]:
        """A list of values that are there already, charged before it is made."""
        self.charge(ELEMENT * len(values))
        return list(values)

    def number(self, value: Any) -> Any:
        """A number that is not too large."""
        if isinstance(value, complex) or (isinstance(value, int) and not -(2**63) <= value < 2**63):
            refuse("a number is out of bounds")
        return value

    def made(self, value: Any, kind: Any = None) -> Any:
        """What an expression, a filter or a function has made, as a value.

        Nothing else gets into a template's hands: lists of any kind that aren't measured yet are
        charged and measured here, and what is no value at all is refused.
        """
        if kind is None and type(value) in _VALUES:
            return value
        if kind is None and type(value) not in _MEASURED:
            refuse(f"{named(value)} is nothing that a template may hold")
        self.charge(ELEMENT * len(value))
        value = measured(value, kind)
        return value if value.size <= LIMIT else refuse(_EXPLODES)

    def bare(self, value: Any) -> Any:
        """A value without marks, of Python's own kinds; its size is to be charged before."""
        if isinstance(value, str):
            return self.marks.plain(value)
        if isinstance(value, dict):
            return {k: self.bare(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self.bare(v) for v in value]
        return tuple(map(self.bare, value)) if isinstance(value, tuple) else value

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
        if not isinstance(value, (List, Tuple, Dict)):
            refuse(f"{named(value)} can't be written")
        self.charge(4 * value.size)
        return self.marks.mark(str(self.bare(value)))

    def iterate(self, value: Any) -> list[Any]:
        """The elements of a value, as a new list."""
        if isinstance(value, Undefined):
            return []
        if isinstance(value, dict):
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
        found = self.elements(want(value, dict).items())
        return [self.made((self.keyed(k), v)) for k, v in found]

    def join(self, parts: Sequence[str], between: str = "") -> str:
        """Strings as one, charged before it is made."""
        length = sum(map(len, parts)) + len(between) * max(len(parts) - 1, 0)
        self.charge(length * (1 if between.isascii() and all(p.isascii() for p in parts) else 4))
        return between.join(parts)


def named(value: Any) -> str:
    """What a value is, in a word or two."""
    if isinstance(value, Undefined):
        return value.what
    return "none" if value is None else f"a {type(value).__name__.lower()}"


def shown(key: Any) -> str:
    """A name or a key for a message: cut short before it is written, never after."""
    if isinstance(key, str):
        return repr(key[:40])
    return str(key) if isinstance(key, (int, float)) else named(key)


def want(value: Any, kind: Any) -> Any:
    """The value, if it is of the kind; raises Refused."""
    if isinstance(value, Undefined):
        refuse(f"{value.what} is undefined")
    if not isinstance(value, kind):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        refuse(f"{named(value)} stands where {names} is needed")
    return value
