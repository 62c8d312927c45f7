"""Spelling: the likeliest words behind a state, by a search over the symbols that spell them.

The search is best-first: it follows the likeliest unfinished spelling, and stops when that is no
likelier than the k-th word. Laws that were asked for are kept, so that a key more costs little.
Shapes: V alphabet size, N symbols that are looked at.
"""

from __future__ import annotations

import functools
import heapq
import math
import re
from bisect import bisect_left
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from chainrule.codecs.text import TextCodec
from chainrule.core.model import SequenceModel
from chainrule.core.state import State
from chainrule.engine.backend import Compiled

LONGEST = 64  # bytes of a spelling behind what was typed
SPELLINGS = 1024  # that a search follows at most
_FIRST = 128  # symbols that are put in order at first
# Letters, digits, apostrophes, and every byte of a character beyond ASCII.
_WORD = re.compile(rb"[0-9A-Za-z'\x80-\xff]+")
_LETTERS = b"".join(_WORD.findall(bytes(range(256))))

Path = tuple[int, ...]
Ids = NDArray[np.int64]
# What waits: -log p, path, its parent, the name of the parent's symbols, those, and its rank.
_Heap = list[tuple[float, Path, "_Spelling | None", bytes | bool, Ids, int]]


def letters_from(text: bytes) -> int:
    """Where the letters that ``text`` ends with begin."""
    return len(text.rstrip(_LETTERS))


class Alphabet:
    """What the symbols of a codec mean to words.

    Attributes:
        goes: symbols that go on with a word, or begin one. ends: those that show that it has
            ended. any: those that may stand before a word.
        single: no symbol spells two characters, so a text is encoded piece by piece.
    """

    def __init__(self, codec: TextCodec) -> None:
        self.table = codec.symbol_bytes()
        spells = {i for i, b in enumerate(self.table) if b} - set(codec.unknown)
        starts = {i for i in spells if _WORD.match(self.table[i])}
        ends = (spells - starts) | set(codec.unknown)
        if codec.space.eos is not None:
            ends.add(codec.space.eos)
        self.goes, self.ends, self.any = _ids(starts), _ids(ends), _ids(spells)
        self._longest = max(map(len, self.table))
        self.single = codec.name == "chars" or self._longest <= 1
        self._order = sorted(spells, key=self.table.__getitem__)
        self._sorted = [self.table[i] for i in self._order]

    def fitting(self, rest: bytes) -> tuple[Ids, Ids]:
        """Symbols that reproduce a part of ``rest``, and those that reproduce it all."""
        most = min(len(rest) - 1, self._longest)
        part = (self._between(rest[:n], rest[:n] + b"\0") for n in range(1, most + 1))
        after = rest[:-1] + bytes([rest[-1] + 1])  # UTF-8 has no byte 255
        return _ids(chain.from_iterable(part)), _ids(self._between(rest, after))

    def _between(self, first: bytes, last: bytes) -> list[int]:
        return self._order[bisect_left(self._sorted, first) : bisect_left(self._sorted, last)]


@functools.lru_cache(maxsize=8)
def alphabet_of(codec: TextCodec) -> Alphabet:
    """Made once for a codec."""
    return Alphabet(codec)


class _Spelling:
    """A path of symbols behind the root, what it spells, and the law behind it [V], once asked."""

    __slots__ = ("_ends", "_ranked", "law", "log_p", "path", "text")

    def __init__(self, path: Path, log_p: float, text: bytes) -> None:
        self.path, self.log_p, self.text = path, log_p, text
        self.law: NDArray[np.float64] | None = None
        self._ranked: dict[bytes | bool, Ids] = {}
        self._ends: float | None = None

    def ends(self, alphabet: Alphabet) -> float:
        """The probability that a word ends here."""
        if self._ends is None:
            assert self.law is not None
            self._ends = float(np.exp(self.law[alphabet.ends]).sum())
        return self._ends

    def ranked(self, key: bytes | bool, ids: Ids, rank: int) -> int | None:
        """The symbol that is likelier than all but ``rank`` of ``ids`` [N], which ``key`` names."""
        found = self._ranked.get(key)
        if found is None or rank >= len(found):
            if rank >= len(ids):
                return None
            assert self.law is not None
            found = self._ranked[key] = _likeliest(self.law, ids, max(_FIRST, 8 * rank))
        return int(found[rank])


def _likeliest(law: NDArray[np.float64], ids: Ids, count: int) -> Ids:
    """At least ``count`` of ``ids``, likeliest first, equals by number."""
    p = law[ids]
    if count < len(p):
        kept = p >= np.partition(p, -count)[-count]
        ids, p = ids[kept], p[kept]
    ranked: Ids = ids[(-p).argsort(kind="stable")]
    return ranked


class Spellings:
    """The spellings behind one state, as far as searches have come.

    Args:
        root: of one row; nobody else extends it while this is in use.
    """

    def __init__(self, model: SequenceModel, alphabet: Alphabet, root: State) -> None:
        self._model, self._alphabet = model, alphabet
        self._walk = model.walk(root) if isinstance(model, Compiled) else None
        # States along the path that was followed last: to go on costs one symbol.
        self._live: list[tuple[Path, State]] = [((), root)]
        self._known: dict[Path, _Spelling] = {(): _Spelling((), 0.0, b"")}
        self.exact = True

    @torch.no_grad()
    def search(self, owed: bytes, begun: bytes, k: int) -> list[tuple[bytes, float]]:
        """The k likeliest (word, probability) among what reproduces ``owed``, likeliest first.

        Every spelling that is likelier than the k-th word has been followed, unless there were
        more than SPELLINGS of them: then ``exact`` is False. What less likely ways to spell a
        listed word would add is left out. The result depends on the laws alone.

        Args:
            owed: bytes behind the root that were typed. begun: the letters that they end with.
        """
        alphabet, words = self._alphabet, _Best(k)
        spelled = 0.0 if owed else 1.0  # mass of what reproduces the typed bytes
        root = self._known[()]
        heap: _Heap = [(0.0, (), None, False, alphabet.any, 0)]
        followed = 0
        while heap and followed < SPELLINGS and math.exp(-heap[0][0]) > words.least:
            _, path, parent, key, ids, rank = heapq.heappop(heap)
            each = root if parent is None else self._spelling(parent, path)
            if parent is not None:
                self._push(heap, parent, key, ids, rank + 1)
            word = None
            if len(each.text) >= len(owed):
                whole = begun + each.text[len(owed) :]
                word = _WORD.search(whole)
                if word and word.end() < len(whole):
                    words.add(word.group(), math.exp(each.log_p))
                    continue
            if len(each.text) >= len(owed) + LONGEST:
                continue
            followed += 1
            law, p = self._law(each), math.exp(each.log_p)
            if len(each.text) < len(owed):
                key = owed[len(each.text) :]
                part, all_of_it = alphabet.fitting(key)
                spelled += p * float(np.exp(law[all_of_it]).sum())
                ids = np.concatenate([part, all_of_it])
                ids.sort()
            elif word:
                words.add(word.group(), p * each.ends(alphabet))
                key, ids = True, alphabet.goes
            else:
                key, ids = False, alphabet.any
            self._push(heap, each, key, ids, 0)
        self.exact = followed < SPELLINGS
        total = spelled or 1.0
        return [(word, min(1.0, p / total)) for word, p in words.ranked()]

    def _push(self, heap: _Heap, parent: _Spelling, key: bytes | bool, ids: Ids, rank: int) -> None:
        """Put the child of that rank into the heap; its next sibling follows when it comes out."""
        symbol = parent.ranked(key, ids, rank)
        if symbol is not None:
            assert parent.law is not None
            log_p = parent.log_p + float(parent.law[symbol])
            heapq.heappush(heap, (-log_p, (*parent.path, symbol), parent, key, ids, rank))

    def _spelling(self, parent: _Spelling, path: Path) -> _Spelling:
        found = self._known.get(path)
        if found is None:
            assert parent.law is not None
            log_p = parent.log_p + float(parent.law[path[-1]])
            found = _Spelling(path, log_p, parent.text + self._alphabet.table[path[-1]])
            self._known[path] = found
        return found

    def _law(self, each: _Spelling) -> NDArray[np.float64]:
        """p(next | root, path) in nats [V]."""
        if each.law is None and self._walk is not None:
            each.law = self._walk.law(each.path)
        if each.law is None:
            live, path = self._live, each.path
            while path[: len(live[-1][0])] != live[-1][0]:
                live.pop()  # before its parent goes on: no cache is copied then
            done, state = live[-1]
            if path != done:
                state = self._model.extend(state, torch.tensor([path[len(done) :]]))
                live.append((path, state))
            law = self._model.predict(state)
            log_p = law.log_probs()[0, -1]  # type: ignore[attr-defined]
            each.law = log_p.double().cpu().numpy()
        return each.law


class _Best:
    """Words with their mass, and the least of the k greatest."""

    def __init__(self, k: int) -> None:
        self._k, self._mass = k, dict[bytes, float]()
        self.least = 0.0  # while there are fewer than k

    def add(self, word: bytes, mass: float) -> None:
        self._mass[word] = total = self._mass.get(word, 0.0) + mass
        if len(self._mass) >= self._k and total > self.least:
            self.least = heapq.nlargest(self._k, self._mass.values())[-1]

    def ranked(self) -> list[tuple[bytes, float]]:
        """The k with most mass, equals by spelling."""
        return sorted(self._mass.items(), key=lambda item: (-item[1], item[0]))[: self._k]


def _ids(symbols: object) -> Ids:
    return np.array(sorted(symbols), np.int64)  # type: ignore[call-overload]
