"""Strict dataclass <-> JSON: an unknown key is an error that names the nearest known one."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as a dict of JSON values (tuples become lists)."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def from_dict(cls: type[T], data: Any, where: str = "config") -> T:
    """Build ``cls`` from JSON values.

    Raises:
        ValueError: an unknown or missing key, or a value of the wrong type; the message
            starts with ``where`` and the path of the key.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected an object for {cls.__name__}, found {_kind(data)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(fields)}"
            raise ValueError(f"{where}: unknown key {key!r}{hint}")
    values = {k: _read(hints[k], v, f"{where}: {k}") for k, v in data.items()}
    for name, field in fields.items():
        no_default = field.default is field.default_factory is dataclasses.MISSING
        if no_default and name not in values:
            raise ValueError(f"{where}: key {name!r} is missing")
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _read(hint: Any, value: Any, where: str) -> Any:
    """One JSON value as the type that the field declares."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        *others, last = (a for a in args if a is not type(None))
        for other in others:
            with contextlib.suppress(ValueError):
                return _read(other, value, where)
        return _read(last, value, where)
    if origin is typing.Literal:
        if value not in args:
            known = ", ".join(map(repr, args))
            raise ValueError(f"{where}: {value!r} is not one of {known}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}: expected a list, found {_kind(value)}")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_read(args[0], v, where) for v in value)
        if len(value) != len(args):
            raise ValueError(f"{where}: expected {len(args)} values, found {len(value)}")
        return tuple(_read(a, v, where) for a, v in zip(args, value, strict=True))
    if origin is dict or hint is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where}: expected an object, found {_kind(value)}")
        return value
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1023 else math.inf
    if type(value) is not hint:
        raise ValueError(f"{where}: expected {hint.__name__}, found {_kind(value)}")
    if hint is float and not math.isfinite(value):
        raise ValueError(f"{where}: {value} is not a finite number")
    return value


def _kind(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"


def bounded(name: str, value: float, low: float, high: float) -> None:
    """Refuse a setting outside [low, high], NaN included.

    Raises:
        ValueError: naming the setting, its value and its bounds.
    """
    if not low <= value <= high:
        if isinstance(value, int) and abs(value) > 2**1023:  # too long to print
            value = math.inf if value > 0 else -math.inf
        raise ValueError(f"{name} must be {low:g} to {high:g}, not {value:g}")
