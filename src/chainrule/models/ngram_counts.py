"""Counting an n-gram's text, and smoothing what was counted (sources: see ngram.py).

Shapes: T symbols of text, V alphabet size, C contexts, G n-grams, N held-out symbols.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.core.objective import Batch

Ints = NDArray[Any]

MAX_ROWS = 2**28
PRUNE_FROM = 2**22  # symbols; from here on, contexts seen once are not made longer
END = 2**63 - 1  # closes every sorted table, so that a search never runs off it
CLASSES = 3  # n-grams counted once, twice, oftener: one discount each


def find(table: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Where the keys belong in a sorted table, and which of them are there."""
    where = torch.searchsorted(table, key.contiguous())
    return where, table[where] == key


def context_rows(
    contexts: Tensor, size: int, older: Sequence[Tensor], shape: Sequence[int]
) -> Tensor:
    """Rows [*shape, n] of the contexts of length 0 … n-1; older[k] is k + 1 symbols back."""
    row = torch.zeros(tuple(shape), dtype=torch.int64, device=contexts.device)
    rows = [row]
    for symbol in older:
        where, hit = find(contexts, row * (size + 1) + symbol)  # below 0 where row is -1
        row = torch.where(hit, where + 1, -1)
        rows.append(row)
    return torch.stack(rows, -1)


@dataclass(frozen=True, eq=False)
class Counts:
    """A counted text: sorted ``contexts`` [C] and ``grams`` [G] with their ``counts`` [G].

    ``levels`` [C + 1] is the length of every context, by row.
    """

    size: int
    order: int
    contexts: Ints
    levels: Ints
    grams: Ints
    counts: Ints

    @staticmethod
    def of(text: Ints, scored: Ints, size: int, order: int) -> Counts:
        """Count the symbols at the places ``scored`` of a text whose streams begin with V."""
        rare = 2 if len(scored) > PRUNE_FROM else 0
        row, place = np.zeros(len(scored), np.int64), scored
        contexts: list[Ints] = [np.zeros(0, np.int64)]
        done: list[Ints] = []
        base = 1
        for length in range(order):
            stop = np.full(len(row), length == order - 1)
            if length:
                older = text[place - length]
                key = torch.from_numpy(row * (size + 1) + older)
                found = torch.unique(key, return_inverse=True, return_counts=True)
                keys, row, seen = (t.numpy() for t in found)  # numpy's inverse is 4x slower
                stop |= (older == size) | (seen < rare)[row]  # nothing precedes a stream
                row += base
                base += len(keys)
                contexts.append(keys)
            done.append(row[stop] * size + text[place[stop]])
            row, place = row[~stop], place[~stop]
        levels = np.repeat(np.arange(order), [1, *map(len, contexts[1:])])
        keys = np.concatenate(contexts)
        shorter = np.concatenate([[0], keys // (size + 1)])
        grams: list[Ints] = []
        counts: list[Ints] = []
        told = np.zeros(0, np.int64)
        for length in reversed(range(order)):
            gram, count = np.unique(np.concatenate([told, done[length]]), return_counts=True)
            grams.insert(0, gram)
            counts.insert(0, count)
            # Kneser-Ney tells the order below of a new n-gram once; a second time at its third
            # occurrence gained 0.5 % of the bits per byte of two texts.
            told = shorter[gram // size] * size + gram % size
            told = np.concatenate([told, told[count > 2]])
        if max(len(keys), sum(map(len, grams))) > MAX_ROWS:
            raise ValueError(f"the tables pass {MAX_ROWS} rows: lower order or max_symbols")
        return Counts(size, order, keys, levels, np.concatenate(grams), np.concatenate(counts))

    def by_class(self) -> tuple[Ints, Ints]:
        """Per context, by row: total count [C + 1]; n-grams counted 1, 2, more times [C + 1, 3]."""
        owner, rows = self.grams // self.size, len(self.levels)
        kind = np.minimum(self.counts, CLASSES) - 1
        kinds = np.bincount(owner * CLASSES + kind, minlength=rows * CLASSES)
        total = np.bincount(owner, self.counts, rows)
        return total, kinds.reshape(rows, CLASSES)

    def discounts(self) -> NDArray[np.float64]:
        """Chen & Goodman's closed form [n, 3], their eq. 26; half the count where it fails."""
        level, most = self.levels[self.grams // self.size], np.arange(1, CLASSES + 1)
        out = np.tile(most / 2, (self.order, 1))
        for k in range(1, self.order):
            n = np.bincount(np.minimum(self.counts[level == k], 5), minlength=6)[1:5]
            if n.all():
                out[k] = most - (most + 1) * n[0] / (n[0] + 2 * n[1]) * n[1:] / n[:-1]
        return np.clip(out, 0.05 * most, 0.95 * most)

    def tune(self, text: Ints, held_out: Ints) -> NDArray[np.float64]:
        """Discounts [n, 3] under which the held-out symbols are likeliest.

        A Gaussian prior around the closed form, on the logit scale, decides where they say
        little. The empty context keeps a discount of a half: the door to unseen symbols.
        """
        start = torch.from_numpy(self.discounts())
        if self.order == 1 or not len(held_out):
            return start.numpy()
        older = [torch.from_numpy(text[np.maximum(held_out - k, 0)]) for k in range(1, self.order)]
        table = torch.from_numpy(np.append(self.contexts, END))
        rows = context_rows(table, self.size, older, (len(held_out),))
        symbol = torch.from_numpy(text[held_out])[:, None]
        where, hit = find(torch.from_numpy(np.append(self.grams, END)), rows * self.size + symbol)
        count = torch.from_numpy(np.append(self.counts, 0))[where] * hit
        totals, kinds = (torch.from_numpy(a).double() for a in self.by_class())
        alive, total, kinds = rows >= 0, totals[rows], kinds[rows]
        most = torch.arange(1.0, CLASSES + 1, dtype=torch.float64)
        prior = torch.logit(start[1:] / most)
        free = prior.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([free], max_iter=60, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            discounts = torch.cat([start[:1], most * torch.sigmoid(free)])
            p = torch.full((len(rows),), 1 / self.size, dtype=torch.float64)
            for k, d in enumerate(discounts):
                taken = torch.cat([d.new_zeros(1), d])[count[:, k].clamp_max(CLASSES)]
                mixed = (count[:, k] - taken + (kinds[:, k] @ d) * p) / total[:, k]
                p = torch.where(alive[:, k], mixed, p)
            nats = -p.log().sum() + ((free - prior) ** 2).sum() / 2
            (nats / len(rows)).backward()
            return nats / len(rows)

        optimizer.step(loss)
        return torch.cat([start[:1], most * torch.sigmoid(free.detach())]).numpy()

    def smooth(self, discounts: NDArray[np.float64]) -> tuple[Ints, Ints]:
        """The terms (count - discount) / total [G] and the mass handed down, by row [C + 1]."""
        total, kinds = self.by_class()
        owner = self.grams // self.size
        kind = np.minimum(self.counts, CLASSES) - 1
        values = (self.counts - discounts[self.levels[owner], kind]) / total[owner]
        return values, (discounts[self.levels] * kinds).sum(-1) / total


def join(batches: Iterable[Batch | Ints], size: int, most: int) -> tuple[Ints, Ints]:
    """One text, the start symbol V before every stream, and the places that are to be counted.

    Raises:
        ValueError: no symbols at all, symbols outside the alphabet, streams of another shape.
    """
    pieces: list[Ints] = []
    places = [np.zeros(0, np.int64)]
    length, left = 0, most
    for symbols, weight in _streams(batches):
        if symbols.ndim != 1 or (len(symbols) and symbols.dtype.kind not in "iu"):
            raise ValueError(f"a stream is integers [T], not {symbols.dtype} {symbols.shape}")
        symbols, weight = symbols[:left], weight[:left]
        low, high = (symbols.min(), symbols.max()) if len(symbols) else (0, 0)
        if low < 0 or high >= size:
            raise ValueError(f"symbols are 0 to {size - 1}, the data has {low} to {high}")
        pieces += [np.array([size]), symbols.astype(np.int64)]
        places.append(np.flatnonzero(weight) + length + 1)
        length, left = length + len(symbols) + 1, left - len(symbols)
        if not left:
            break
    scored = np.concatenate(places)
    if not len(scored):
        raise ValueError("an n-gram model needs at least one symbol to count")
    return np.concatenate(pieces), scored


def _streams(batches: Iterable[Batch | Ints]) -> Iterator[tuple[Ints, Ints]]:
    for batch in batches:
        if isinstance(batch, Batch):
            weight = torch.ones(batch.x.shape) if batch.weight is None else batch.weight
            for x, w, n in zip(batch.x.cpu(), weight.cpu(), batch.lens, strict=True):
                yield x[:n].numpy(), w[:n].numpy()
        else:
            yield np.asarray(batch), np.ones(len(batch), bool)
