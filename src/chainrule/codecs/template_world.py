"""How a chat template gets from one value to another: attributes, entries, calls, strings."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from chainrule.codecs.template_tables import FILTERS, METHODS, TESTS
from chainrule.codecs.template_values import (
    ELEMENT,
    MISSING,
    STEP,
    Budget,
    Lazy,
    Loop,
    Method,
    Namespace,
    Undefined,
    named,
    refuse,
    shown,
    want,
    weight,
)


class World(Budget):
    """Values, and how a template gets from one to another."""

    def attribute(self, value: Any, name: str) -> Any:
        """``value.name``."""
        if name.startswith("_"):
            refuse(f"it reaches for the attribute {shown(name)}, which no template may")
        if isinstance(value, Undefined):
            refuse(f"{value.what} is undefined")
        if isinstance(value, (Namespace, Loop)):
            found = value.attribute(name)
            return _missing(value, name) if found is MISSING else found
        kind = next((k for k in METHODS if isinstance(value, k)), type(value))
        if name in METHODS.get(kind, ()):
            return Method(value, name)
        if isinstance(value, dict) and name in value:
            return value[name]
        if hasattr(kind, name):
            refuse(f"it reaches for the attribute {shown(name)} of {named(value)}")
        return _missing(value, name)

    def item(self, value: Any, key: Any) -> Any:
        """``value[key]``."""
        if isinstance(value, Undefined):
            refuse(f"{value.what} is undefined")
        if isinstance(value, dict):
            known = self.key(key)
            if known in value:
                return value[known]
        elif isinstance(value, (str, list, tuple)) and isinstance(key, int):
            return value[key] if -len(value) <= key < len(value) else _missing(value, key)
        if isinstance(key, str):
            return self.attribute(value, self.plain(key))
        return _missing(value, key)

    def path(self, value: Any, path: Any) -> Any:
        """``a.b.0``, as ``map(attribute=…)`` takes it."""
        parts: list[Any] = [want(path, (str, int))]
        if isinstance(path, str):
            parts = [int(p) if p.isdecimal() and len(p) < 20 else p for p in self.split(path, ".")]
        for part in parts:
            self.charge(STEP)
            value = self.item(value, part)
        return value

    def filter(self, name: Any, value: Any, args: Any = (), kwargs: Any = None) -> Any:
        """``value | name(…)``."""
        self.charge(STEP + ELEMENT * len([*args, *(kwargs or ())]))
        made = self.known(FILTERS, "filter", name)(self, value, *args, **(kwargs or {}))
        return self.made(made)

    def test(self, name: Any, value: Any, args: Any = (), kwargs: Any = None) -> bool:
        """``value is name(…)``."""
        self.charge(STEP + ELEMENT * len([*args, *(kwargs or ())]))
        return bool(self.known(TESTS, "test", name)(self, value, *args, **(kwargs or {})))

    def known(self, table: dict[str, Callable[..., Any]], what: str, name: Any) -> Any:
        """The filter or test of a name that may be computed."""
        found = table.get(self.plain(want(name, str)))
        return found or refuse(f"the {what} {shown(name)} is not one that chat templates may use")

    def method(self, method: Method, args: Any, kwargs: Any) -> Any:
        """``value.name(…)``."""
        kind = next(k for k in METHODS if isinstance(method.of, k))
        return self.made(METHODS[kind][method.name](self, method.of, *args, **kwargs))

    # ---- comparing ----

    def true(self, value: Any) -> bool:
        """What ``if`` makes of a value."""
        return isinstance(value, Lazy) or (not isinstance(value, Undefined) and bool(value))

    def equal(self, a: Any, b: Any) -> bool:
        """a == b."""
        if isinstance(a, Undefined) or isinstance(b, Undefined):
            return isinstance(a, Undefined) and isinstance(b, Undefined)
        if isinstance(a, str) and isinstance(b, str):
            return len(a) == len(b) and self.plain(a) == self.plain(b)
        if isinstance(a, (list, tuple, dict)) and isinstance(b, (list, tuple, dict)):
            self.charge(weight(a)[0] + weight(b)[0])
            return bool(self.bare(a) == self.bare(b))
        return bool(a == b)

    def contains(self, where: Any, what: Any) -> bool:
        """``what in where``."""
        if isinstance(where, str):
            plain, what = self.seek(where, what)
            return what in plain
        if isinstance(where, Undefined):
            return False
        if isinstance(where, dict):
            return self.key(what) in where
        return any(self.equal(what, v) for v in self.iterate(where))

    def compare(self, a: Any, b: Any) -> int:
        """Negative, zero or positive: numbers or strings."""
        if isinstance(a, str) and isinstance(b, str):
            a, b = self.plain(a), self.plain(b)
        else:
            a, b = want(a, (int, float)), want(b, (int, float))
        return int(a > b) - int(a < b)

    def order(self, values: list[Any], keys: list[Any], reverse: Any, cased: Any) -> list[Any]:
        """The values in the order of their keys: numbers or strings, not both."""
        self.charge(20 * ELEMENT * len(values))
        by = [self.sortable(k, cased) for k in keys]
        return [
            values[i] for i in sorted(range(len(by)), key=by.__getitem__, reverse=bool(reverse))
        ]

    def sortable(self, value: Any, cased: Any) -> Any:
        """What a value is sorted by."""
        if isinstance(value, str):
            plain = self.marks.plain(self.bytes(value, 8))
            return plain if cased else plain.lower()
        return want(value, (int, float))

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
        cut = str.rsplit if right else str.split
        if sep is None:
            self.charge(ELEMENT * (len(s) // 2 + 1))
            return cut(s, None, maxsplit)
        plain, sep = self.seek(s, sep, right)
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
        plain, sub = self.seek(s, sub, right)
        return plain.rfind(sub) if right else plain.find(sub)

    def begins(self, s: str, with_: Any, end: bool = False) -> bool:
        """startswith and endswith."""
        given = self.iterate(with_) if isinstance(with_, (tuple, list)) else [with_]
        options = tuple(self.plain(want(x, str)) for x in given)
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
        size, depth = weight(value)
        parts = size // ELEMENT  # it has no more than that, names and values
        if indent is not None:
            wide = 4 * len(indent) if isinstance(indent, str) else max(want(indent, int), 0)
            self.charge(parts * (depth + 1) * wide)
        if separators is not None:
            separators = [want(x, str) for x in want(separators, (list, tuple))]
            self.charge(parts * 4 * max(map(len, separators), default=0))
        self.charge(size * (20 if sort_keys else 4))
        text = json.dumps(
            self.bare(value),
            ensure_ascii=bool(ensure_ascii),
            indent=indent,
            separators=separators,
            sort_keys=bool(sort_keys),
        )
        return self.marks.mark(text)


def _missing(value: Any, key: Any) -> Undefined:
    return Undefined(f"{shown(key)} of {named(value)}")
