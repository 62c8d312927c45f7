"""The values of a JSON or GGUF that somebody else wrote: each is read with its type and bounds.

Every error names the file and the key; nothing else reaches a model's config.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from chainrule.core.config import bounded
from chainrule.models.transformer_config import TransformerConfig

T = TypeVar("T")
LARGEST = 2**24


class Given:
    """An object's values by key; null is the same as missing.

    Args:
        where: the file, and the keys that lead to this object.

    Raises:
        ValueError: no object; every reader: a value that is missing, of another type or out of
            bounds.
    """

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise ValueError(f"{where}: expected an object, not {shown(data)}")
        self.data, self.where = data, where

    def wrong(self, message: str) -> ValueError:
        return ValueError(f"{self.where}: {message}")

    def has(self, key: str) -> bool:
        return self.data.get(key) is not None

    def get(self, key: str, default: Any, *kinds: type) -> Any:
        value = self.data.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.wrong(f"{key!r} is missing")
        if type(value) not in kinds:
            names = " or ".join(k.__name__ for k in kinds)
            raise self.wrong(f"{key!r} is {shown(value)}, not {names}")
        return value

    def whole(self, key: str, default: int | None = None, low: int = 1, high: int = LARGEST) -> int:
        value: int = self.get(key, default, int)
        bounded(f"{self.where}: {key}", value, low, high)
        return value

    def wholes(self, key: str, low: int, high: int) -> list[int]:
        """One number or a list of them; none where it is missing."""
        value = self.get(key, [], int, list)
        values = value if isinstance(value, list) else [value]
        for each in values:
            if type(each) is not int:
                raise self.wrong(f"{key!r} holds {shown(each)}, not int")
            bounded(f"{self.where}: {key}", each, low, high)
        return list(values)

    def real(
        self,
        key: str,
        default: float | None = None,
        low: float = -math.inf,
        high: float = math.inf,
    ) -> float:
        """A number; never infinite nor NaN."""
        value = self.get(key, default, int, float)
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
        if not math.isfinite(found):
            raise self.wrong(f"{key!r} is {shown(value)}, not a finite number")
        bounded(f"{self.where}: {key}", found, low, high)
        return found

    def unusual(self, key: str, usual: float, low: float, high: float) -> float | None:
        """A number; None where it is the usual one."""
        value = self.real(key, usual, low, high)
        return None if value == usual else value

    def true(self, key: str, default: bool) -> bool:
        value: bool = self.get(key, default, bool)
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value: str = self.get(key, default, str)
        return value

    def texts(self, key: str) -> list[str]:
        """A list of texts; none where it is missing."""
        values = self.get(key, [], list)
        for each in values:
            if not isinstance(each, str):
                raise self.wrong(f"{key!r} holds {shown(each)}, not str")
        return list(values)

    def inner(self, key: str) -> Given:
        """The object under a key; an empty one where it is missing."""
        value = self.data.get(key)
        return Given({} if value is None else value, f"{self.where}: {key}")

    def only(self, key: str, usual: bool | float | str, *more: str) -> None:
        """Refuse a setting that changes the law in a way that isn't had here."""
        kinds = (int, float) if isinstance(usual, float) else (type(usual),)
        value = self.get(key, usual, *kinds)
        if value not in (usual, *more):
            raise self.wrong(f"{key} {shown(value)} is not had here, only {usual!r}")

    def built(self, make: Callable[..., T], *args: Any, **values: Any) -> T:
        """What a constructor makes of values; what is wrong with them is told of this place."""
        try:
            return make(*args, **values)
        except (ValueError, TypeError) as error:
            raise self.wrong(str(error)) from None

    def made(self, **values: Any) -> TransformerConfig:
        """The config of these values."""
        return self.built(TransformerConfig, **values)


def shown(value: Any) -> str:
    """A value for an error: short, whatever it is."""
    if isinstance(value, str):
        return repr(value[:40])
    if isinstance(value, bool | int | float):
        return repr(str(value)[:40])
    return f"a {type(value).__name__}" if value is not None else "null"
