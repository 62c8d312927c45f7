"""How a chat template gets from one value to another: attributes, entries, filters, calls."""

from __future__ import annotations

from typing import Any

from chainrule.codecs.template_tables import FILTERS, METHODS, TESTS
from chainrule.codecs.template_values import (
    STEP,
    Budget,
    Lazy,
    Loop,
    Method,
    Namespace,
    Undefined,
    named,
    refuse,
    want,
)


class World(Budget):
    """Values, and how a template gets from one to another."""

    def attribute(self, value: Any, name: str) -> Any:
        """``value.name``."""
        if name.startswith("_"):
            refuse(f"it reaches for the attribute {name!r}, which no template may")
        if isinstance(value, Undefined):
            refuse(f"{value.what} is undefined")
        if isinstance(value, Namespace):
            return value.get(name, Undefined(f"{name!r} of a namespace"))
        if isinstance(value, Loop):
            found = value.attribute(name)
            return Undefined(f"loop.{name}") if found is None else found
        kind = next((k for k in METHODS if isinstance(value, k)), None)
        if kind is not None and name in METHODS[kind]:
            return Method(value, name)
        if isinstance(value, dict) and name in value:
            return value[name]
        if hasattr(type(value), name):
            refuse(f"it reaches for the attribute {name!r} of {named(value)}")
        return Undefined(f"{name!r} of {named(value)}")

    def item(self, value: Any, key: Any) -> Any:
        """``value[key]``."""
        if isinstance(value, Undefined):
            refuse(f"{value.what} is undefined")
        if isinstance(value, dict) and not isinstance(value, Namespace):
            known = self.key(key)
            if known in value:
                return value[known]
        elif isinstance(value, (str, list, tuple)) and isinstance(key, int):
            inside = -len(value) <= key < len(value)
            return value[key] if inside else Undefined(f"entry {key}")
        if isinstance(key, str):
            return self.attribute(value, self.plain(key))
        return Undefined(f"{key!r:.40} of {named(value)}")

    def path(self, value: Any, path: Any) -> Any:
        """``a.b.0``, as ``map(attribute=…)`` takes it."""
        parts = path.split(".") if isinstance(path, str) else [path]
        for part in parts:
            self.charge(STEP)
            value = self.item(value, int(part) if str(part).isdecimal() else part)
        return value

    def filter(self, name: Any, value: Any, args: Any = (), kwargs: Any = None) -> Any:
        """``value | name(…)``."""
        self.charge(STEP)
        if name not in FILTERS:
            refuse(f"the filter {name!r} is not one that chat templates may use")
        return FILTERS[name](self, value, *args, **(kwargs or {}))

    def test(self, name: Any, value: Any, args: Any = (), kwargs: Any = None) -> bool:
        """``value is name(…)``."""
        self.charge(STEP)
        if name not in TESTS:
            refuse(f"the test {name!r} is not one that chat templates may use")
        return bool(TESTS[name](self, value, *args, **(kwargs or {})))

    def method(self, method: Method, args: Any, kwargs: Any) -> Any:
        """``value.name(…)``."""
        kind = next(k for k in METHODS if isinstance(method.of, k))
        return METHODS[kind][method.name](self, method.of, *args, **kwargs)

    def true(self, value: Any) -> bool:
        """What ``if`` makes of a value."""
        if isinstance(value, (Lazy, Namespace)):
            return True
        return not isinstance(value, Undefined) and bool(value)

    def compare(self, a: Any, b: Any) -> int:
        """Negative, zero or positive: numbers or strings."""
        if isinstance(a, str) and isinstance(b, str):
            a, b = self.plain(a), self.plain(b)
        else:
            a, b = want(a, (int, float)), want(b, (int, float))
        return int(a > b) - int(a < b)

    def sortable(self, value: Any) -> Any:
        """What a value is sorted by: without case."""
        if isinstance(value, str):
            return self.marks.plain(value).lower()
        return want(value, (int, float))
