"""next: the likeliest words to come, as a phone keyboard shows them, key by key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chainrule.artifact import Artifact
from chainrule.core.config import bounded
from chainrule.core.model import SequenceModel
from chainrule.core.state import State
from chainrule.verbs.spelling import Spellings, alphabet_of, letters_from

_BACK = 4  # words that can be erased without reading the text again


@dataclass(frozen=True, eq=False)
class _Border:
    """A place behind which words are spelled: bytes and symbols before it, and their state."""

    cut: int
    num_symbols: int
    state: State


class Typist:
    """Suggests words while a text is typed. What was typed is read once.

    After any keys it suggests what ``next_words`` finds for the whole text: to the bit in the
    engine, in torch up to rounding.

    Args:
        k: words to suggest.

    Raises:
        ValueError: k out of bounds, or a backend that can't be.
    """

    def __init__(
        self, artifact: Artifact, k: int = 3, *, backend: str = "auto", dtype: str | None = None
    ) -> None:
        bounded("k", k, 1, 1000)
        self.k, self.text = k, ""
        self._codec, self._alphabet = artifact.codec, alphabet_of(artifact.codec)
        self._model = _runner(artifact, backend, dtype)
        self._head = np.empty(0, np.int64)  # the symbols before the last border
        with torch.no_grad():
            self._borders = [_Border(0, 0, self._model.start(1))]
        self._spellings: Spellings | None = None

    def type(self, keys: str) -> list[tuple[str, float]]:
        """Add one character or more; then the k likeliest (word, probability), likeliest first.

        Inside a word they complete it; else they follow it.

        Raises:
            ValueError: a character that the codec can't take. Then nothing was typed.
        """
        self._codec.encode(keys)
        self.text += keys
        return self.words()

    def erase(self, count: int = 1) -> list[tuple[str, float]]:
        """Take back the last ``count`` characters, and suggest.

        Raises:
            ValueError: more than were typed.
        """
        bounded("count", count, 0, len(self.text))
        self.text = self.text[: len(self.text) - count]
        return self.words()

    def words(self) -> list[tuple[str, float]]:
        """What is suggested now."""
        typed = self.text.encode()
        start = letters_from(typed)
        cut = start if self._alphabet.single else _before_blanks(typed, start)
        self._move(typed, cut)
        if self._spellings is None:
            self._spellings = Spellings(self._model, self._alphabet, self._borders[-1].state)
        found = self._spellings.search(typed[cut:], typed[start:], self.k)
        return [(word.decode("utf-8", "replace"), p) for word, p in found]

    @property
    def exact(self) -> bool:
        """Whether the last search came to its end: no word that was left out is likelier."""
        return self._spellings is None or self._spellings.exact

    def _move(self, typed: bytes, cut: int) -> None:
        """Have the state behind typed[:cut] as the last border, by the shortest way."""
        borders = self._borders
        while borders[-1].cut > cut:
            borders.pop()
            self._spellings = None
        last = borders[-1]
        if last.cut == cut:
            return
        self._spellings = None  # it holds longer states
        if self._alphabet.single:
            new = self._codec.encode(typed[last.cut : cut].decode()).symbols
            head = np.concatenate([self._head[: last.num_symbols], new])
        else:  # what was typed since may change the symbols of what was there
            head = self._codec.encode(typed[:cut].decode()).symbols.astype(np.int64)
            same = _same(head, self._head)
            while borders[-1].num_symbols > same:
                borders.pop()
            last = borders[-1]
        state, rest = last.state, head[last.num_symbols :].astype(np.int64)
        del last
        if len(rest):
            with torch.no_grad():
                state = self._model.extend(state, torch.from_numpy(rest)[None])
        self._head = head
        borders.append(_Border(cut, len(head), state))
        if len(borders) > _BACK + 1:
            del borders[1]


def next_words(
    artifact: Artifact,
    prefix: str,
    k: int = 5,
    *,
    backend: str = "auto",
    dtype: str | None = None,
) -> list[tuple[str, float]]:
    """The k likeliest (word, probability), likeliest first.

    When the prefix ends inside a word, the words complete it; else they follow it. Every spelling
    that is likelier than the k-th word has been followed, unless that would be more than
    ``spelling.SPELLINGS`` of them. ``Typist`` finds the same, key by key.

    Raises:
        ValueError: k out of bounds, a prefix that the codec can't take, or a backend that can't be.
    """
    return Typist(artifact, k, backend=backend, dtype=dtype).type(prefix)


def _runner(artifact: Artifact, backend: str, dtype: str | None) -> SequenceModel:
    """Float32 in the engine where it can be, if nothing is said: there it is soon done."""
    choice = artifact.choose(backend, dtype)
    if (backend, dtype, choice.backend) == ("auto", None, "engine"):
        choice = artifact.choose("engine", draws=False)
    return artifact.runner(choice)


def _before_blanks(typed: bytes, start: int) -> int:
    """Symbols of several bytes may run across what was typed: a blank belongs to the next word."""
    while start > 0 and typed[start - 1 : start].isspace():
        start -= 1
    return start


def _same(a: NDArray[Any], b: NDArray[Any]) -> int:
    """How many leading entries are the same."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n
