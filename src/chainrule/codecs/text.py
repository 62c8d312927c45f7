"""Text codecs: bytes, characters, words, byte-pair encoding. Shapes: T symbols.

What they have in common is in symbols.py; what a tokenizer.json may hold, in bpe.py.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from chainrule.codecs import bpe
from chainrule.codecs.symbols import (
    LARGEST,
    ScoreKind,
    TextCodec,
    as_text,
    read_json,
    read_text,
)
from chainrule.core.codec import Encoded
from chainrule.core.config import bounded, from_dict
from chainrule.files import write_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["BPECodec", "ByteCodec", "CharCodec", "TextCodec", "WordCodec"]

_CODE_POINTS = 0x110000


class ByteCodec(TextCodec):
    """256 byte values. Takes any bytes; ``decode_bytes`` gives back exactly those."""

    name: ClassVar[str] = "bytes"
    takes_any_bytes: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__([bytes([i]) for i in range(256)] + [b""], eos=256, lossless=True)

    @classmethod
    def fit(cls, texts: Iterable[str | bytes] = ()) -> Self:
        """Nothing to fit: the texts are not looked at."""
        return cls()

    def encode(self, obj: str | bytes) -> Encoded:
        data = obj if isinstance(obj, bytes) else as_text(obj).encode()
        return Encoded(np.frombuffer(data, np.uint8).astype(np.int64))

    def _symbols(self, text: str) -> NDArray[np.int64]:
        symbols: NDArray[np.int64] = self.encode(text).symbols
        return symbols

    def decode_bytes(self, encoded: Encoded) -> bytes:
        symbols = self._checked(encoded)
        return symbols[symbols < 256].astype(np.uint8).tobytes()

    def _definition(self) -> None:
        return None

    def save(self, folder: Path) -> dict[str, Any]:
        """Nothing: there is only one such codec."""
        return {}

    @classmethod
    def load(cls, data: dict[str, Any], folder: Path) -> Self:
        from_dict(_Nothing, data, f"{folder / 'config.json'}: codec")
        return cls()


class CharCodec(TextCodec):
    """The characters (code points) of the data, sorted. There is no unknown symbol."""

    name: ClassVar[str] = "chars"

    def __init__(self, alphabet: str) -> None:
        points = _points(as_text(alphabet))
        if not len(points) or (points[1:] <= points[:-1]).any():
            raise ValueError("the alphabet must be one character or more, sorted, each once")
        super().__init__([c.encode() for c in alphabet] + [b""], len(alphabet), lossless=True)
        self.alphabet = alphabet
        self._index = np.full(_CODE_POINTS, -1, np.int32)
        self._index[points] = np.arange(len(points))

    @classmethod
    def fit(cls, texts: Iterable[str | bytes]) -> Self:
        """All characters that occur; fit it on all of the data, or scoring the rest may fail."""
        seen = np.zeros(_CODE_POINTS, bool)
        for text in texts:
            seen[_points(as_text(text))] = True
        return cls("".join(map(chr, np.flatnonzero(seen))))

    def _symbols(self, text: str) -> NDArray[np.int64]:
        points = _points(text)
        symbols = self._index[points]
        if symbols.min(initial=0) < 0:
            at = int((symbols < 0).argmax())
            raise ValueError(
                f"character {text[at]!r} (U+{points[at]:04X}) at position {at} is not one of the "
                f"{len(self.alphabet)} that the codec knows: leave it out, or fit with "
                "--codec bytes, which takes any text"
            )
        return symbols.astype(np.int64)

    def _definition(self) -> str:
        return self.alphabet

    def save(self, folder: Path) -> dict[str, Any]:
        return {"alphabet": self.alphabet}

    @classmethod
    def load(cls, data: dict[str, Any], folder: Path) -> Self:
        where = f"{folder / 'config.json'}: codec"
        alphabet = from_dict(_Characters, data, where).alphabet
        try:
            return cls(alphabet)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


class WordCodec(TextCodec):
    """Words with the space before them; digits, marks and white space one by one.

    Pieces outside the vocabulary are one of two unknown symbols, which decode to ``<unk>`` and
    `` <unk>``: that is the whole loss, and known pieces come back exactly. A word is a run of
    letters; what is written without spaces or with combining marks is better served by BPE.
    A score is a lower bound: "no" + "on" spell "noon" too. With unknowns it is of the codes.
    """

    name: ClassVar[str] = "words"
    exact: ClassVar[bool] = False
    piece: ClassVar[re.Pattern[str]] = re.compile(r" ?<unk>| ?[^\W\d_]+(?:['’][^\W\d_]+)*| ?\S|\s")
    _file: ClassVar[str] = "vocabulary.json"

    def __init__(self, vocabulary: Sequence[str]) -> None:
        size = len(vocabulary)
        bounded("the number of words", size, 0, LARGEST - 3)
        if len(set(vocabulary)) < size:
            raise ValueError("the vocabulary holds a word twice")
        for word in vocabulary:
            if word.endswith("<unk>") or not self.piece.fullmatch(as_text(word)):
                raise ValueError(f"{word!r} can't be one word of a vocabulary")
        table = [w.encode() for w in vocabulary] + [b"<unk>", b" <unk>", b""]
        super().__init__(table, eos=size + 2, lossless=False)
        self.vocabulary = tuple(vocabulary)
        self.unknown = (size, size + 1)
        self._index = _Words(zip(vocabulary, range(size), strict=True))
        self._index.unknown = self.unknown

    @classmethod
    def fit(cls, texts: Iterable[str | bytes], *, size: int = 10_000, min_count: int = 2) -> Self:
        """The ``size`` most frequent pieces.

        Words seen fewer than ``min_count`` times are left out, so that the model meets unknown
        words while it learns; digits, marks and white space are kept from the first.
        """
        bounded("size", size, 1, LARGEST - 3)
        bounded("min_count", min_count, 1, 10**9)
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(cls.piece.findall(as_text(text)))
        kept = [
            (-count, piece)
            for piece, count in counts.items()
            if (count >= min_count or not piece[-1].isalpha()) and not piece.endswith("<unk>")
        ]
        return cls([piece for _, piece in sorted(kept)[:size]])

    def _symbols(self, text: str) -> NDArray[np.int64]:
        pieces = self.piece.findall(text)
        return np.fromiter(map(self._index.__getitem__, pieces), np.int64, len(pieces))

    def _definition(self) -> list[str]:
        return list(self.vocabulary)

    def save(self, folder: Path) -> dict[str, Any]:
        """Writes vocabulary.json, most frequent first."""
        content = json.dumps(self.vocabulary, ensure_ascii=False, indent=0)
        write_text(folder / self._file, content + "\n")
        return {"words": len(self.vocabulary)}

    @classmethod
    def load(cls, data: dict[str, Any], folder: Path) -> Self:
        size = from_dict(_Vocabulary, data, f"{folder / 'config.json'}: codec").words
        path = folder / cls._file
        words = read_json(path)
        if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
            raise ValueError(f"{path}: expected a list of words")
        if len(words) != size:
            raise ValueError(f"{path}: it has {len(words)} words and config.json says {size}")
        try:
            return cls(words)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


class _Words(dict[str, int]):
    unknown: tuple[int, int]

    def __missing__(self, piece: str) -> int:
        return self.unknown[piece[0] == " " and len(piece) > 1]


class BPECodec(TextCodec):
    """Byte-pair encoding by `tokenizers`, byte-level or SentencePiece-like: no text is unknown.

    A score is a lower bound, because other segmentations spell the same text. ``lossless``
    unless a foreign tokenizer.json strips or rewrites text. Where decoding needs to be told,
    ``side`` has ``prefix``, the bytes of a space that encoding put before the text; or ``text``
    where the symbols spell another one (of no NFC; with U+2581, SentencePiece's space; with a
    byte that the tokenizer lacks), and then a score is of the codes.
    """

    name: ClassVar[str] = "bpe"
    exact: ClassVar[bool] = False
    _file: ClassVar[str] = "tokenizer.json"

    def __init__(
        self,
        definition: str,
        eos: str | int | None = None,
        where: str = _file,
        size: int | None = None,
    ) -> None:
        """From the content of a tokenizer.json.

        Args:
            eos: the token that ends a document, or its symbol. By default a well-known one that
                is there, else ``<|endoftext|>`` is added.
            size: the alphabet's, where the model's embedding has more rows than there are tokens:
                the symbols beyond stand for nothing.

        Raises:
            ValueError: another kind of tokenizer, no such token, or another size than the
                tokenizer's; the message starts with ``where``.
        """
        self._tokenizer, opened = bpe.open_tokenizer(definition, eos, where)
        self._chunked = opened.splits_at_spaces
        self._marking: Tokenizer | None = None
        self.end, self.size, table = opened.end, size, opened.table
        if size is not None:
            bpe.fits(len(table), size, where)
            table += [b""] * (size - len(table))
        super().__init__(table, opened.eos, opened.lossless)

    @classmethod
    def fit(cls, texts: Iterable[str | bytes], *, size: int = 4096, min_count: int = 2) -> Self:
        """Merge the most frequent pairs until there are ``size`` symbols, the end included.

        Pairs seen fewer than ``min_count`` times are not merged: little text, fewer symbols.
        """
        bounded("size", size, 257, LARGEST)
        bounded("min_count", min_count, 1, 10**9)
        return cls(bpe.train(map(as_text, texts), size - 1, min_count))

    @classmethod
    def from_file(
        cls, path: str | Path, eos: str | int | None = None, size: int | None = None
    ) -> Self:
        """An existing tokenizer.json.

        Raises:
            ValueError: missing, too large, or of another kind.
        """
        return cls(read_text(Path(path)), eos, str(path), size)

    def encode_special(self, text: str) -> NDArray[np.int64]:
        """Symbols int64 [T] of a text in which special tokens may be spelled, as templates do.

        Plain ``encode`` takes such spellings for text.
        """
        with bpe.told("its tokenizer can't encode this text"):
            if self._marking is None:
                self._marking = type(self._tokenizer).from_str(self._tokenizer.to_str())
            found = self._marking.encode(as_text(text), add_special_tokens=False)
        return np.array(found.ids, np.int64)

    def spelling(self, symbol: int) -> str | None:
        """How the tokenizer writes a symbol; None where no token has it."""
        content: str | None = self._tokenizer.id_to_token(symbol)
        return content

    def special(self, content: str) -> int | None:
        """The symbol of an added token, such as ``<|im_end|>``, if there is one."""
        added = self._tokenizer.get_added_tokens_decoder()
        return next((i for i, token in added.items() if token.content == content), None)

    def specials(self) -> dict[str, int]:
        """The special tokens, which no text spells, and their symbols."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {token.content: i for i, token in added.items() if token.special}

    def decode_bytes(self, encoded: Encoded) -> bytes:
        data = super().decode_bytes(encoded)
        if "text" in encoded.side:
            return str(encoded.side["text"]).encode()
        return data[encoded.side.get("prefix", 0) :]

    def units(self, encoded: Encoded) -> int:
        if "text" in encoded.side:
            return len(str(encoded.side["text"]).encode())
        return super().units(encoded) - int(encoded.side.get("prefix", 0))

    def score_kind(self, encoded: Encoded) -> ScoreKind:
        return "codes" if "text" in encoded.side else super().score_kind(encoded)

    def _symbols(self, text: str) -> NDArray[np.int64]:
        pieces = bpe.chunks(text) if self._chunked else [text]
        with bpe.told("its tokenizer can't encode this text"):
            found = self._tokenizer.encode_batch_fast(pieces, add_special_tokens=False)
        ids = [np.array(f.ids, np.int64) for f in found]
        return np.concatenate(ids) if ids else np.empty(0, np.int64)

    def _side(self, text: str, symbols: NDArray[np.int64]) -> dict[str, Any]:
        if not self.lossless:
            return super()._side(text, symbols)
        spelled = b"".join(map(self._table.__getitem__, symbols.tolist()))
        prefix = len(spelled) - len(text.encode())
        if prefix in (0, 1) and spelled == b" " * prefix + text.encode():
            return {"prefix": 1} if prefix else {}
        return {"text": text}

    def _definition(self) -> list[str | int]:
        size = [] if self.size is None else [self.size]
        return [self._tokenizer.to_str(), self.end, *size]

    def tokenizer_json(self) -> str:
        """The content of a tokenizer.json, which `tokenizers` and `transformers` read as well."""
        return str(self._tokenizer.to_str(pretty=True))

    def save(self, folder: Path) -> dict[str, Any]:
        """Writes tokenizer.json."""
        write_text(folder / self._file, self.tokenizer_json())
        return {"eos": self.end, **({} if self.size is None else {"size": self.size})}

    @classmethod
    def load(cls, data: dict[str, Any], folder: Path) -> Self:
        given = from_dict(_Tokenizer, data, f"{folder / 'config.json'}: codec")
        return cls.from_file(folder / cls._file, given.eos, given.size)


@dataclass(frozen=True)
class _Nothing:
    pass


@dataclass(frozen=True)
class _Characters:
    alphabet: str


@dataclass(frozen=True)
class _Vocabulary:
    words: int


@dataclass(frozen=True)
class _Tokenizer:
    eos: str
    size: int | None = None


def _points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)
