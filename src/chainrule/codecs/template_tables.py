"""The operators, filters, tests and methods of chat templates: allow-lists.

They are what the templates of published models use. Anything else is refused by name before a
template runs, or, where a name is computed, when it is reached.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chainrule.codecs.template_values import (
    ELEMENT,
    MISSING,
    Lazy,
    Loop,
    Refused,
    Undefined,
    refuse,
    want,
)

if TYPE_CHECKING:
    from chainrule.codecs.template_world import World


# ---- operators ----

ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.truediv,
    "FloorDiv": operator.floordiv,
    "Mod": operator.mod,
    "Pow": operator.pow,
}
COMPARISONS: dict[str, Callable[[World, Any, Any], bool]] = {
    "eq": lambda r, a, b: r.equal(a, b),
    "ne": lambda r, a, b: not r.equal(a, b),
    "gt": lambda r, a, b: r.compare(a, b) > 0,
    "gteq": lambda r, a, b: r.compare(a, b) >= 0,
    "lt": lambda r, a, b: r.compare(a, b) < 0,
    "lteq": lambda r, a, b: r.compare(a, b) <= 0,
    "in": lambda r, a, b: r.contains(b, a),
    "notin": lambda r, a, b: not r.contains(b, a),
}


# ---- filters ----


def _default(r: World, v: Any, other: Any = "", boolean: bool = False) -> Any:
    return other if isinstance(v, Undefined) or (boolean and not r.true(v)) else v


def _length(r: World, v: Any) -> int:
    if isinstance(v, Undefined):
        return 0
    return len(want(v, (str, list, tuple, dict)))


def _join(r: World, v: Any, between: Any = "", attribute: Any = None) -> str:
    values = r.iterate(v)
    if attribute is not None:
        values = [r.path(x, attribute) for x in values]
    return r.join([r.text(x) for x in values], r.text(between))


def _edge(at: int) -> Callable[[World, Any], Any]:
    def edge(r: World, v: Any) -> Any:
        found = r.iterate(v)
        return found[at] if found else Undefined("an entry of nothing")

    return edge


def _reverse(r: World, v: Any) -> Any:
    return r.bytes(v)[::-1] if isinstance(v, str) else r.made(r.iterate(v)[::-1], Lazy)


def _number(kind: Callable[[Any], Any]) -> Callable[..., Any]:
    def number(r: World, v: Any, default: Any = 0, base: int = 10) -> Any:
        if base != 10:
            refuse("numbers are read in base 10")
        try:
            if isinstance(v, str):
                v = r.plain(v).strip()
                if len(v) > 1000:
                    return default  # no number that anybody writes
            return r.number(kind(v))
        except (TypeError, ValueError, OverflowError):
            return default

    return number


def _whole(v: Any) -> int:
    try:
        return int(v)
    except ValueError:
        return int(float(v))


def _map(r: World, v: Any, *args: Any, **kwargs: Any) -> Any:
    if "attribute" in kwargs:
        path, other = kwargs["attribute"], kwargs.get("default", MISSING)
        found = [r.path(x, path) for x in r.iterate(v)]
        if other is not MISSING:
            found = [other if isinstance(x, Undefined) else x for x in found]
        return r.made(found, Lazy)
    if not args:
        refuse("the filter map needs a filter or an attribute")
    with r.deeper():  # it may map the filter map
        return r.made([r.filter(args[0], x, args[1:], kwargs) for x in r.iterate(v)], Lazy)


def _pick(keep: bool, of_attribute: bool) -> Callable[..., Any]:
    def pick(r: World, v: Any, *args: Any) -> Any:
        kept = []
        if of_attribute and not args:
            refuse("selectattr and rejectattr need an attribute")
        path, rest = (args[0], args[1:]) if of_attribute else (None, args)
        for x in r.iterate(v):
            at = r.path(x, path) if of_attribute else x
            passed = r.test(rest[0], at, rest[1:]) if rest else r.true(at)
            if passed is keep:
                kept.append(x)
        return r.made(kept, Lazy)

    return pick


def _unique(r: World, v: Any, case_sensitive: bool = False, attribute: Any = None) -> Any:
    seen, kept = set(), []
    for x in r.iterate(v):
        key = r.key(x if attribute is None else r.path(x, attribute))
        key = key if case_sensitive or not isinstance(key, str) else key.lower()
        if key not in seen:
            seen.add(key)
            kept.append(x)
    return r.made(kept, Lazy)


def _sort(
    r: World, v: Any, reverse: bool = False, case_sensitive: bool = False, attribute: Any = None
) -> Any:
    values = r.iterate(v)
    keys = values if attribute is None else [r.path(x, attribute) for x in values]
    return r.order(values, keys, reverse, case_sensitive)


def _dictsort(
    r: World, v: Any, case_sensitive: bool = False, by: str = "key", reverse: bool = False
) -> Any:
    pairs = r.pairs(want(v, dict))
    keys = [p[by == "value"] for p in pairs]
    return r.order(pairs, keys, reverse, case_sensitive)


def _round(r: World, v: Any, precision: int = 0) -> float:
    digits: int = max(-20, min(20, want(precision, int)))
    return round(float(want(v, (int, float))), digits)


def _text(name: str, weight: int = 3) -> Callable[..., str]:
    """A method of str that looks at letters only, as a filter."""

    def apply(r: World, v: Any) -> str:
        made: str = getattr(r.bytes(r.text(v), weight), name)()
        return made

    return apply


FILTERS: dict[str, Callable[..., Any]] = {
    "abs": lambda r, v: r.number(abs(want(v, (int, float)))),
    "capitalize": _text("capitalize"),
    "count": _length,
    "d": _default,
    "default": _default,
    "dictsort": _dictsort,
    "first": _edge(0),
    "float": _number(float),
    "indent": lambda r, v, *a, **k: r.indent(r.text(v), *a, **k),
    "int": _number(_whole),
    "items": lambda r, v: r.made(r.pairs(v), Lazy),
    "join": _join,
    "last": _edge(-1),
    "length": _length,
    "list": lambda r, v: r.iterate(v),
    "lower": _text("lower"),
    "map": _map,
    "reject": _pick(False, False),
    "rejectattr": _pick(False, True),
    "replace": lambda r, v, *a, **k: r.replace(r.text(v), *a, **k),
    "reverse": _reverse,
    "round": _round,
    "safe": lambda r, v: r.text(v),
    "select": _pick(True, False),
    "selectattr": _pick(True, True),
    "sort": _sort,
    "string": lambda r, v: r.text(v),
    "title": lambda r, v: r.title(r.text(v)),
    "tojson": lambda r, v, *a, **k: r.tojson(v, *a, **k),
    "trim": lambda r, v, *a, **k: r.strip(r.text(v), *a, **k),
    "unique": _unique,
    "upper": _text("upper"),
}


# ---- tests ----


def _remainder(r: World, v: Any, by: Any = 2) -> int:
    return int(want(v, int) % want(by, int))


def _case(name: str) -> Callable[[World, Any], bool]:
    return lambda r, v: bool(getattr(r.bytes(r.text(v)), name)())


_TYPES: dict[str, Callable[..., Any]] = {
    "boolean": lambda r, v: isinstance(v, bool),
    "defined": lambda r, v: not isinstance(v, Undefined),
    "false": lambda r, v: v is False,
    "float": lambda r, v: isinstance(v, float),
    "integer": lambda r, v: isinstance(v, int) and not isinstance(v, bool),
    "iterable": lambda r, v: isinstance(v, (str, list, tuple, dict, Undefined)),
    "mapping": lambda r, v: isinstance(v, dict),
    "none": lambda r, v: v is None,
    "number": lambda r, v: isinstance(v, (int, float)),
    "sequence": lambda r, v: isinstance(v, (str, list, tuple, dict, Undefined)),
    "string": lambda r, v: isinstance(v, str),
    "true": lambda r, v: v is True,
    "undefined": lambda r, v: isinstance(v, Undefined),
}
_BETWEEN: dict[tuple[str, ...], Callable[..., Any]] = {
    ("eq", "equalto", "=="): lambda r, v, w: r.equal(v, w),
    ("ne", "!="): lambda r, v, w: not r.equal(v, w),
    ("gt", "greaterthan", ">"): lambda r, v, w: r.compare(v, w) > 0,
    ("ge", ">="): lambda r, v, w: r.compare(v, w) >= 0,
    ("lt", "lessthan", "<"): lambda r, v, w: r.compare(v, w) < 0,
    ("le", "<="): lambda r, v, w: r.compare(v, w) <= 0,
}
TESTS: dict[str, Callable[..., Any]] = {
    **_TYPES,
    **{name: test for names, test in _BETWEEN.items() for name in names},
    "divisibleby": lambda r, v, by: _remainder(r, v, by) == 0,
    "even": lambda r, v: _remainder(r, v) == 0,
    "in": lambda r, v, where: r.contains(where, v),
    "lower": _case("islower"),
    "odd": lambda r, v: _remainder(r, v) == 1,
    "sameas": lambda r, v, w: v is w,
    "upper": _case("isupper"),
}


# ---- methods ----


def _cut(s: str, plain: str, fix: str, right: bool) -> str:
    if right:
        return s[: len(s) - len(fix)] if fix and plain.endswith(fix) else s
    return s[len(fix) :] if plain.startswith(fix) else s


def _within(name: str) -> Callable[[World, str], bool]:
    return lambda r, s: bool(getattr(r.bytes(s), name)())


def _lines(r: World, s: str, keepends: bool = False) -> list[str]:
    r.charge(ELEMENT * len(s))
    return s.splitlines(bool(keepends))


def _at(r: World, values: Any, what: Any) -> int:
    found = next((i for i, v in enumerate(r.iterate(values)) if r.equal(v, what)), None)
    if found is None:
        raise Refused("the list doesn't hold what its index is asked for")
    return found


def _get(r: World, d: dict[Any, Any], key: Any, default: Any = None) -> Any:
    return d.get(r.key(key), default)


def _changed(r: World, loop: Loop, *values: Any) -> bool:
    now = r.made(values)
    same = loop.seen is not MISSING and r.equal(loop.seen, now)
    loop.seen = now
    return not same


_STR: dict[str, Callable[..., Any]] = {
    "capitalize": _text("capitalize"),
    "count": lambda r, s, sub: str.count(*r.seek(s, sub)),
    "endswith": lambda r, s, x: r.begins(s, x, True),
    "find": lambda r, s, x: r.find(s, x),
    "isalnum": _within("isalnum"),
    "isalpha": _within("isalpha"),
    "isdigit": _within("isdigit"),
    "islower": _within("islower"),
    "isnumeric": _within("isnumeric"),
    "isspace": _within("isspace"),
    "isupper": _within("isupper"),
    "join": lambda r, s, v: r.join([want(x, str) for x in r.iterate(v)], s),
    "lower": _text("lower"),
    "lstrip": lambda r, s, chars=None: r.strip(s, chars, right=False),
    "removeprefix": lambda r, s, x: _cut(s, r.plain(s), r.plain(want(x, str)), False),
    "removesuffix": lambda r, s, x: _cut(s, r.plain(s), r.plain(want(x, str)), True),
    "replace": lambda r, s, *a: r.replace(s, *a),
    "rfind": lambda r, s, x: r.find(s, x, True),
    "rsplit": lambda r, s, *a, **k: r.split(s, *a, **k, right=True),
    "rstrip": lambda r, s, chars=None: r.strip(s, chars, left=False),
    "split": lambda r, s, *a, **k: r.split(s, *a, **k),
    "splitlines": _lines,
    "startswith": lambda r, s, x: r.begins(s, x),
    "strip": lambda r, s, chars=None: r.strip(s, chars),
    "title": lambda r, s: r.title(s),
    "upper": _text("upper"),
}
_LIST: dict[str, Callable[..., Any]] = {
    "count": lambda r, v, what: sum(r.equal(x, what) for x in r.iterate(v)),
    "index": _at,
}
METHODS: dict[type, dict[str, Callable[..., Any]]] = {
    str: _STR,
    list: _LIST,
    tuple: _LIST,
    dict: {
        "get": _get,
        "items": lambda r, d: r.pairs(d),
        "keys": lambda r, d: r.iterate(d),
        "values": lambda r, d: r.elements(d.values()),
    },
    Loop: {
        "changed": _changed,
        "cycle": lambda r, loop, *values: values[loop.at % len(values)],
    },
}
