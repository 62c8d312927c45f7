"""Symbols that stand for bytes: what all text codecs have in common. Shapes: T, L symbols.

The alphabet holds one symbol more, the end of a document (``space.eos``): it stands for no
bytes, so decoding drops it.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from chainrule.core.codec import Codec, Encoded, Symbols
from chainrule.core.space import Space

ScoreKind = Literal["exact", "bound", "codes"]
LARGEST = 2**24  # symbols of an alphabet
_LARGEST_FILE = 2**28  # bytes


def as_text(text: str | bytes) -> str:
    """Bytes as UTF-8, strictly.

    Raises:
        ValueError: not UTF-8, with the offset; a lone surrogate, with its position.
    """
    try:
        if isinstance(text, bytes):
            return text.decode()
        text.encode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte 0x{error.object[error.start]:02X} at offset {error.start} is not UTF-8: "
            "convert the text to UTF-8, or take it as it is with --codec bytes"
        ) from None
    except UnicodeEncodeError as error:
        raise ValueError(
            f"position {error.start} holds half a surrogate pair, which is not a character"
        ) from None
    return text


class TextStream:
    """Incremental decoding: whole characters as soon as they are complete."""

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, symbols: Symbols) -> str:
        """The characters that these symbols [L] complete; bytes that can't be UTF-8 are U+FFFD."""
        return self._utf8.decode(self._codec.decode_bytes(Encoded(symbols)))

    def finish(self) -> str:
        """U+FFFD where a character was begun and never completed."""
        return self._utf8.decode(b"", True)


class TextCodec(Codec):
    """Symbols that stand for bytes each: everything but ``encode``, ``fit`` and files.

    Attributes:
        takes_any_bytes: it encodes bytes that are not UTF-8.
        unknown: symbols that stand for something left out of the alphabet.
    """

    name: ClassVar[str]
    takes_any_bytes: ClassVar[bool] = False
    unknown: tuple[int, ...] = ()

    def __init__(self, table: Sequence[bytes], eos: int, lossless: bool) -> None:
        self._table = list(table)
        self._lengths = np.fromiter(map(len, self._table), np.int64, len(self._table))
        self.space = Space("finite", len(self._table), eos=eos)
        self.lossless = lossless

    @classmethod
    @abstractmethod
    def fit(cls, texts: Iterable[str | bytes]) -> Self:
        """The alphabet of these texts, which are gone through once.

        Raises:
            ValueError: bytes that are not UTF-8, or a setting out of bounds.
        """

    @abstractmethod
    def _definition(self) -> Any:
        """JSON-able: all that the encoding depends on."""

    @abstractmethod
    def _symbols(self, text: str) -> NDArray[np.int64]: ...

    def encode(self, obj: str | bytes) -> Encoded:
        """Symbols int64 [T], without an end symbol.

        Raises:
            ValueError: what this codec can't take, with its place and a remedy.
        """
        text = as_text(obj)
        symbols = self._symbols(text)
        return Encoded(symbols, self._side(text, symbols))

    def _side(self, text: str, symbols: NDArray[np.int64]) -> dict[str, Any]:
        return {} if self.lossless else {"bytes": len(text.encode())}

    def decode(self, encoded: Encoded) -> str:
        """The text; bytes that are not UTF-8 become U+FFFD (``decode_bytes`` keeps them)."""
        return self.decode_bytes(encoded).decode("utf-8", "replace")

    def decode_bytes(self, encoded: Encoded) -> bytes:
        """The bytes that the symbols stand for, joined.

        Raises:
            ValueError: numbers that are no symbols of this alphabet.
        """
        symbols = self._checked(encoded)
        return b"".join(map(self._table.__getitem__, symbols.tolist()))

    def stream(self) -> TextStream:
        """An incremental decoder: joined, the same as ``decode`` of the whole."""
        return TextStream(self)

    def units(self, encoded: Encoded) -> int:
        """UTF-8 bytes of the text that was encoded."""
        if "bytes" in encoded.side:
            return int(encoded.side["bytes"])
        return int(self._lengths[self._checked(encoded)].sum())

    def score_kind(self, encoded: Encoded) -> ScoreKind:
        """What log p(symbols) says of the text.

        ``exact``: it is the text's log-probability. ``bound``: a lower bound, because other
        symbols spell the same text. ``codes``: of the symbols alone, which stand for many texts.
        """
        unknown = not self.unknown or bool(np.isin(encoded.symbols, self.unknown).any())
        if not self.lossless and unknown:  # a lossy codec without unknowns rewrites any text
            return "codes"
        return "exact" if type(self).exact else "bound"

    def exact_for(self, encoded: Encoded) -> bool:
        """Whether log p(symbols) is the log-probability of the text."""
        return self.score_kind(encoded) == "exact"

    def symbol_bytes(self) -> list[bytes]:
        """The bytes that each symbol stands for: V entries, empty for the end symbol."""
        return list(self._table)

    def fingerprint(self) -> str:
        """Hash of all that the encoding depends on: equal ones encode equally."""
        data = json.dumps([self.name, self._definition()]).encode()
        return hashlib.blake2b(data, digest_size=16).hexdigest()

    def _checked(self, encoded: Encoded) -> NDArray[np.integer[Any]]:
        symbols = np.asarray(encoded.symbols)
        if not symbols.size:
            return np.empty(0, np.int64)
        if symbols.ndim != 1 or symbols.dtype.kind not in "iu":
            raise ValueError(
                f"symbols must be whole numbers [T], not {symbols.dtype} of shape "
                f"{list(symbols.shape)}"
            )
        if symbols.min() < 0 or symbols.max() >= len(self._table):
            wrong = symbols[(symbols < 0) | (symbols >= len(self._table))][0]
            raise ValueError(f"{wrong} is not a symbol of an alphabet of {len(self._table)}")
        return symbols


def read_text(path: Path) -> str:
    """The text of a file of bounded size.

    Raises:
        ValueError: missing, too large, or not UTF-8.
    """
    try:
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise ValueError(f"{path}: {size:,} bytes are too many, {_LARGEST_FILE:,} at most")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None


def read_json(path: Path) -> Any:
    """The JSON of a file of bounded size.

    Raises:
        ValueError: missing, too large, or not JSON.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> Any:
    """JSON; raises ValueError, which starts with ``where``."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error})") from None
