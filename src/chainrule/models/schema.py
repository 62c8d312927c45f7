"""JSON schemas as trees of regular expressions: every text of the tree is JSON that conforms.

The converse doesn't hold. Of what a schema allows, the tree has: one line with at most a space
behind a comma or colon; declared properties in their order; numbers of 15 digits, with bounds
up to a whole one; scalars where nothing is said; strings without \\u escapes. What it couldn't
keep is refused.
"""

from __future__ import annotations

import json
import math
from typing import Any

from chainrule.models.regex import Alt, Join, Ranges, Repeat, Seq, Tree, literal, parse, within

ANNOTATIONS = {
    *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
    *("$comment", "$schema", "$id", "$defs", "definitions"),
}
BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
KEYWORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern"},
    "integer": BOUNDS,
    "number": BOUNDS,
    "boolean": set(),
    "null": set(),
}
SCALARS = ("string", "number", "boolean", "null")
DEPTH = 50  # levels of schemas within schemas
_LARGEST = 10**15 - 1
_PLAIN: Ranges = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x10FFFF))  # what needs no escape
_CHARACTER = parse(r'[^"\\\x00-\x1f]|\\["\\/bfnrt]')
_NUMBER = parse(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?([eE][+-]?[0-9]{1,2})?")
_COMMA, _COLON = parse(", ?"), parse(": ?")


def schema_tree(schema: dict[str, Any] | bool) -> Tree:
    """JSON texts that conform to a schema.

    Raises:
        ValueError: an invalid schema, one that nothing conforms to, or a keyword that can't be
            kept, with its place; jsonschema is missing.
    """
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError
    except ImportError:
        raise ValueError(
            "a JSON schema needs jsonschema: pip install 'chainrule[constrain]'"
        ) from None
    try:
        _json(schema)
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"schema: at {error.json_path}: {_line(error.message)}") from None
    except (TypeError, ValueError) as error:  # NaN, the infinite, and what isn't JSON at all
        raise ValueError(f"schema: {_line(str(error))}") from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    return _Builder(schema, Draft202012Validator(schema)).tree(schema, "$", ())


_TOO_DEEP = f"schema: nested too deeply, in more than {DEPTH} levels"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _line(message: str) -> str:
    return " ".join(message.split())[:200]


class _Builder:
    def __init__(self, root: Any, validator: Any) -> None:
        self.root, self.validator = root, validator
        self.referred: dict[str, Tree] = {}
        self.depth = 0

    def tree(self, schema: Any, place: str, refs: tuple[str, ...]) -> Tree:
        """The texts of one schema; ``refs`` are the references that led to it."""
        self.depth += 1
        if self.depth > DEPTH:
            raise ValueError(_TOO_DEEP)
        tree = self._tree(schema, place, refs)
        self.depth -= 1
        return tree

    def _tree(self, schema: Any, place: str, refs: tuple[str, ...]) -> Tree:
        if schema is False:
            raise ValueError(f"schema: at {place}: nothing conforms to false")
        schema = {} if schema is True else schema
        if "enum" in schema or "const" in schema:
            return self._values(schema, place)
        for keyword in ("$ref", "anyOf"):
            if keyword in schema:
                _known(schema, {keyword}, place)
                if keyword == "$ref":
                    return self._reference(schema["$ref"], place, refs)
                each = enumerate(schema["anyOf"])
                return Alt(tuple(self.tree(s, f"{place}.anyOf[{i}]", refs) for i, s in each))
        kinds: Any = schema.get("type") or [k for k in KEYWORDS if KEYWORDS[k] & schema.keys()]
        kinds = [kinds] if isinstance(kinds, str) else kinds or SCALARS
        _known(schema, {"type"}.union(*(KEYWORDS[k] for k in kinds)), place)
        return Alt(tuple(getattr(self, f"_{kind}")(schema, place, refs) for kind in kinds))

    def _values(self, schema: Any, place: str) -> Tree:
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        check = self.validator.evolve(schema=schema)
        try:
            good = [v for v in values if check.is_valid(v)]
        except Exception as error:  # a pattern or reference beside it, in classes of their own
            raise ValueError(f"schema: at {place}: {_line(str(error))}") from None
        if not good:
            raise ValueError(f"schema: at {place}: none of its values conforms to the rest of it")
        return Alt(tuple(literal(_json(v)) for v in good))

    def _reference(self, ref: str, place: str, refs: tuple[str, ...]) -> Tree:
        if ref in refs:
            raise ValueError(f"schema: at {place}: {ref} refers to itself, which has no end")
        if not f"{ref}/".startswith("#/"):
            raise ValueError(f"schema: at {place}: {ref} can't be kept: refer to #/$defs/...")
        if ref not in self.referred:
            target = self.root
            try:
                for part in ref.split("/")[1:]:
                    name = part.replace("~1", "/").replace("~0", "~")
                    target = target[int(name) if isinstance(target, list) else name]
            except (LookupError, TypeError, ValueError):
                raise ValueError(f"schema: at {place}: there is no {ref} in this schema") from None
            self.referred[ref] = self.tree(target, ref, (*refs, ref))
        return self.referred[ref]

    def _object(self, schema: Any, place: str, refs: tuple[str, ...]) -> Tree:
        others = schema.get("additionalProperties", True)
        required = schema.get("required", [])
        properties = {**schema.get("properties", {})}
        if others is False and (lost := [n for n in required if n not in properties]):
            raise ValueError(f"schema: at {place}: {lost[0]!r} is required and not allowed")
        properties.update({n: others for n in required if n not in properties})
        if not properties and others is False:
            return literal("{}")
        if not properties:
            name = self._string({}, place, refs)
            value = self.tree(others, f"{place}.additionalProperties", refs)
            member = Seq((name, _COLON, value))
            return Seq((literal("{"), Repeat(member, 0, None, _COMMA), literal("}")))
        each = []
        for name, inner in properties.items():
            value = self.tree(inner, f"{place}.properties.{name}", refs)
            key = literal(_json(name))
            each.append((Seq((key, _COLON, value)), name in required))
        return Seq((literal("{"), Join(tuple(each), _COMMA), literal("}")))

    def _array(self, schema: Any, place: str, refs: tuple[str, ...]) -> Tree:
        least, most = _counts(schema, "minItems", "maxItems", place)
        if most == 0:
            return literal("[]")
        item = self.tree(schema.get("items", True), f"{place}.items", refs)
        return Seq((literal("["), Repeat(item, least, most, _COMMA), literal("]")))

    def _string(self, schema: Any, place: str, refs: tuple[str, ...]) -> Tree:
        least, most = _counts(schema, "minLength", "maxLength", place)
        inner: Tree = Repeat(_CHARACTER, least, most)
        if "pattern" in schema:
            if "minLength" in schema or "maxLength" in schema:
                raise ValueError(
                    f"schema: at {place}: give the length in the pattern: [a-z]{{2,9}}"
                )
            try:
                inner = within(parse(schema["pattern"]), _PLAIN)
            except ValueError as error:
                raise ValueError(f"schema: at {place}.pattern: {error}") from None
        return Seq((literal('"'), inner, literal('"')))

    def _integer(self, schema: Any, place: str, refs: tuple[str, ...]) -> Tree:
        low, high = _bounds(schema, place)
        negative = f"-({_between(max(1, -high), -low)})" if low < 0 else ""
        return _either(negative, _between(max(0, low), high) if high >= 0 else "")

    def _number(self, schema: Any, place: str, refs: tuple[str, ...]) -> Tree:
        if not BOUNDS & schema.keys():
            return _NUMBER
        low, high = _bounds(schema, place)
        negative = f"-({_real(max(0, -high), -low)})" if low < 0 else ""
        return _either(negative, _real(max(0, low), high) if high >= 0 else "")

    def _boolean(self, schema: Any, place: str, refs: tuple[str, ...]) -> Tree:
        return parse("true|false")

    def _null(self, schema: Any, place: str, refs: tuple[str, ...]) -> Tree:
        return literal("null")


def _known(schema: dict[str, Any], keywords: set[str], place: str) -> None:
    for name in schema:
        if name not in keywords and name not in ANNOTATIONS:
            others = ", ".join(sorted(keywords & schema.keys()))
            also = f" beside {others}" if others else ""
            raise ValueError(f"schema: at {place}: {name!r} can't be kept{also}: leave it out")


def _counts(schema: Any, least: str, most: str, place: str) -> tuple[int, int | None]:
    low, high = int(schema.get(least, 0)), schema.get(most)
    if high is not None and high < low:
        raise ValueError(f"schema: at {place}: {least} {low} is more than {most} {high}")
    return low, None if high is None else int(high)


def _bounds(schema: Any, place: str) -> tuple[int, int]:
    """The least and the largest whole number in bounds."""
    low = max(
        math.ceil(schema.get("minimum", -_LARGEST)),
        math.floor(schema.get("exclusiveMinimum", -_LARGEST - 1)) + 1,
        -_LARGEST,
    )
    high = min(
        math.floor(schema.get("maximum", _LARGEST)),
        math.ceil(schema.get("exclusiveMaximum", _LARGEST + 1)) - 1,
        _LARGEST,
    )
    if low > high:
        raise ValueError(f"schema: at {place}: no whole number of at most 15 digits is in bounds")
    return low, high


def _either(*regexes: str) -> Tree:
    return parse("|".join(filter(None, regexes)))


def _real(low: int, high: int) -> str:
    """The numbers 0 ≤ low … high, with up to 15 digits behind the point."""
    below = f"({_between(low, high - 1)})(\\.[0-9]{{1,15}})?|" if low < high else ""
    return f"{below}{high}"


def _between(low: int, high: int) -> str:
    """The integers 0 ≤ low … high, without zeros before them."""
    parts = []
    for digits in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (digits - 1) if digits > 1 else 0)
        parts.append(_alike(str(first), str(min(high, 10**digits - 1))))
    return "|".join(parts)


def _alike(low: str, high: str) -> str:
    """The same, for two numbers of as many digits; zeros before them stay."""
    rest = len(low) - 1
    if not low or (not int(low) and high == "9" * len(high)):
        return f"[0-9]{{{len(low)}}}"
    if not rest or low[0] == high[0]:
        tail = _alike(low[1:], high[1:]) if rest else ""
        return f"[{low[0]}-{high[0]}]{tail}"
    parts = [low[0] + _alike(low[1:], "9" * rest), high[0] + _alike("0" * rest, high[1:])]
    if int(high[0]) - int(low[0]) > 1:
        parts.append(f"[{int(low[0]) + 1}-{int(high[0]) - 1}][0-9]{{{rest}}}")
    return "(" + "|".join(parts) + ")"
