"""next: the likeliest words to come, as a phone keyboard shows them.

A word's probability is the sum over the ways to spell its rest and then end it. The search is
best-first over symbols, in batches, and stops when no unfinished spelling can beat the k-th word.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from chainrule.artifact import Artifact
from chainrule.codecs.text import TextCodec
from chainrule.core.config import bounded
from chainrule.core.model import SequenceModel
from chainrule.core.state import State

_ROWS = 16  # spellings extended in one call
_CALLS = 64  # calls of the model at most
_LONGEST = 64  # bytes of a word


def _letter(byte: int) -> bool:
    """Letters, digits, apostrophes, and every byte of a character beyond ASCII."""
    return byte >= 0x80 or byte == 0x27 or chr(byte).isalnum()


@dataclass(frozen=True)
class _Spelling:
    """A beginning of a word: ``state`` row ``row`` has consumed it but for ``symbol``."""

    log_p: float
    text: bytes  # what it spells, behind the part of the prefix that was typed
    owed: bytes  # typed bytes that it still has to reproduce
    state: State
    row: int
    symbol: int | None


def next_words(
    artifact: Artifact,
    prefix: str,
    k: int = 5,
    *,
    backend: str = "auto",
    dtype: str | None = None,
) -> list[tuple[str, float]]:
    """The k likeliest (word, probability), likeliest first.

    When the prefix ends inside a word, the words complete it; else they follow it.

    Raises:
        ValueError: k out of bounds, a prefix that the codec can't take, or a backend that can't be.
    """
    bounded("k", k, 1, 1000)
    typed = prefix.encode()
    cut = _cut(artifact, typed)
    start = len(typed)
    while start > 0 and _letter(typed[start - 1]):
        start -= 1
    begun, owed = typed[start:], typed[cut:]
    model = artifact.runner(artifact.choose(backend, dtype, draws=False))
    with torch.no_grad():
        state = model.start(1)
        head = artifact.codec.encode(typed[:cut].decode()).symbols.astype(np.int64)
        if len(head):
            state = model.extend(state, torch.from_numpy(head)[None])
        return _search(artifact, model, state, owed, begun, k)


def _cut(artifact: Artifact, typed: bytes) -> int:
    """How much of the prefix is safe to encode on its own.

    Symbols of several bytes may run across the end of what was typed: then the last word, and
    the blank before it, are spelled again by the search.
    """
    if max(map(len, artifact.codec.symbol_bytes())) <= 1 or artifact.codec.name == "chars":
        return len(typed)
    cut = len(typed)
    while cut > 0 and _letter(typed[cut - 1]):
        cut -= 1
    while cut > 0 and typed[cut - 1 : cut].isspace():
        cut -= 1
    return cut


def _search(
    artifact: Artifact, model: SequenceModel, state: State, owed: bytes, begun: bytes, k: int
) -> list[tuple[str, float]]:
    words: dict[bytes, float] = {}
    spelled = 0.0 if owed else 1.0  # mass of what reproduces the typed bytes
    order = itertools.count()
    heap: list[tuple[float, int, _Spelling]] = []

    def push(s: _Spelling) -> None:
        heapq.heappush(heap, (-s.log_p, next(order), s))

    push(_Spelling(0.0, b"", owed, state, 0, None))
    for _ in range(_CALLS):
        best = sorted(words.values(), reverse=True)[:k]
        if not heap or (len(best) == k and best[-1] >= math.exp(-heap[0][0])):
            break
        batch = [heapq.heappop(heap)[2] for _ in range(min(_ROWS, len(heap)))]
        states, log_p_BV = _extend(model, batch)
        for row, s in enumerate(batch):
            log_p_V = log_p_BV[row]
            for symbol in _candidates(artifact, log_p_V, s.owed):
                if symbol in artifact.codec.unknown:  # it spells no word
                    continue
                log_p = s.log_p + float(log_p_V[symbol])
                piece = _bytes(artifact)[symbol]
                rest, owed_left = _match(piece, s.owed)
                if s.owed and not owed_left:
                    spelled += math.exp(log_p)
                text = s.text + rest
                word = None if owed_left else _complete(begun + text, symbol, artifact)
                if word is not None:
                    words[word] = words.get(word, 0.0) + math.exp(log_p)
                elif len(text) < _LONGEST and log_p > -30:
                    push(_Spelling(log_p, text, owed_left, states, row, symbol))
    ranked = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:k]
    total = spelled or 1.0
    return [(w.decode("utf-8", "replace"), min(1.0, p / total)) for w, p in ranked]


def _extend(model: SequenceModel, batch: list[_Spelling]) -> tuple[State, Tensor]:
    """States that have consumed every spelling, and their next-symbol law [B, V]."""
    if batch[0].symbol is None:
        state = batch[0].state
    else:
        rows = [s.state.select([s.row]) for s in batch]
        x = torch.tensor([[s.symbol] for s in batch])
        state = model.extend(State.concat(rows), x)
    law = model.predict(state)
    return state, law.log_probs()[:, -1]  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=8)
def _table(codec: TextCodec) -> list[bytes]:
    return codec.symbol_bytes()


def _bytes(artifact: Artifact) -> list[bytes]:
    return _table(artifact.codec)


def _candidates(artifact: Artifact, log_p_V: Tensor, owed: bytes) -> list[int]:
    """Symbols worth following: those that fit what is owed, the improbable left out."""
    if owed:
        return [
            i
            for i, b in enumerate(_bytes(artifact))
            if b and (b.startswith(owed) or owed.startswith(b))
        ]
    top = log_p_V.topk(min(256, len(log_p_V)))
    return [i for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True) if p > -16]


def _match(piece: bytes, owed: bytes) -> tuple[bytes, bytes]:
    """(bytes beyond what was owed, what is still owed)."""
    return piece[len(owed) :], owed[len(piece) :]


def _complete(text: bytes, symbol: int, artifact: Artifact) -> bytes | None:
    """The word, once something after it shows that it has ended."""
    first = next((i for i, b in enumerate(text) if _letter(b)), None)
    if first is None:
        return None
    end = next((i for i in range(first, len(text)) if not _letter(text[i])), None)
    if end is None:
        return text[first:] if symbol == artifact.codec.space.eos else None
    return text[first:end]
