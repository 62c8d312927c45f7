"""Codec: media to symbols and back. Shapes: T symbols, E event shape."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from numpy.typing import NDArray

from chainrule.core.space import Space

Symbols = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Encoded:
    """Symbols [T, *E] and the side information that decoding needs (JSON-able)."""

    symbols: Symbols
    side: dict[str, Any] = field(default_factory=dict)


class Stream(Protocol):
    """An incremental decoder: what it has returned so far, joined, is the decoded prefix."""

    def push(self, symbols: Symbols) -> Any:
        """Whatever is complete by now; never half a character."""

    def finish(self) -> Any:
        """What was still held back."""


class Codec(ABC):
    """What a symbol means. ``lossless``: decode(encode(x)) == x for every x it takes."""

    space: Space
    lossless: bool
    exact: ClassVar[bool] = True  # one medium has one encoding, so scores of media are exact

    @abstractmethod
    def encode(self, obj: Any) -> Encoded:
        """Raises ValueError, naming the place, for what this codec can't take."""

    @abstractmethod
    def decode(self, encoded: Encoded) -> Any:
        """The medium; with ``lossless``, exactly what was encoded."""

    @abstractmethod
    def stream(self) -> Stream:
        """A fresh incremental decoder."""

    @abstractmethod
    def units(self, encoded: Encoded) -> int:
        """Bytes, sub-pixels or samples: the denominator of bits per unit."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of all that the encoding depends on: equal ones encode equally."""

    def log_abs_det(self, side: dict[str, Any]) -> float:
        """Log-volume of rescaling real symbols, in nats; 0 where nothing is rescaled."""
        return 0.0

    @abstractmethod
    def save(self, folder: Path) -> dict[str, Any]:
        """Write files of its own into the folder; return the JSON that ``load`` reads back."""

    @classmethod
    @abstractmethod
    def load(cls, data: dict[str, Any], folder: Path) -> Codec:
        """The inverse of ``save``; raises ValueError for what it can't trust."""
