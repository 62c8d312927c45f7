"""Interpolated Kneser-Ney n-grams: a serious baseline, counted rather than trained.

Sources: Kneser & Ney 1995, "Improved backing-off for m-gram language modeling"; Chen & Goodman
1999, "An empirical study of smoothing techniques for language modeling" (three discounts an
order, tuned on held-out symbols); Teh 2006, "A hierarchical Bayesian language model based on
Pitman-Yor processes" (a frequent n-gram tells the order below more than once).
Shapes: B rows, L positions, T symbols of text, R undoable tail, V alphabet size, C contexts,
G n-grams, N held-out symbols. Log-probabilities are in nats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.core.config import bounded
from chainrule.core.distributions import Finite
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.objective import Batch
from chainrule.core.space import Space
from chainrule.core.state import State, Window

Ints = NDArray[Any]

MAX_ORDER, MAX_ROWS = 32, 2**28
PRUNE_FROM = 2**22  # symbols; from here on, contexts seen once are not made longer
HELD_OUT, MAX_HELD_OUT = 0.1, 2**17  # the share of symbols that tunes the discounts; its limit
END = 2**63 - 1  # closes every sorted table, so that a search never runs off it
CLASSES = 3  # n-grams counted once, twice, oftener: one discount each
ORDERS = {  # alphabet up to -> order for each size
    16: {"tiny": 8, "small": 12, "base": 16},
    512: {"tiny": 5, "small": 8, "base": 10},
    2**24: {"tiny": 3, "small": 4, "base": 5},
}


@dataclass(frozen=True)
class NGramConfig:
    """An n-gram model and the sizes of its tables, which ``NGram.estimate`` fills in.

    Args:
        space: a finite space of scalar symbols.
        order: n; the last n-1 symbols are looked at.
        max_symbols: ``estimate`` reads so many symbols and no more: its memory peaks at
            some 120 bytes a symbol.
        num_contexts: contexts of length 1 … n-1 in the tables.
        num_grams: n-grams of length 2 … n in the tables.
        num_symbols: how many symbols were read; 0 is an unfitted model, which is uniform.

    Raises:
        ValueError: a space that isn't finite and scalar, or a size out of bounds.
    """

    space: Space
    order: int = 8
    max_symbols: int = 2**24
    num_contexts: int = 0
    num_grams: int = 0
    num_symbols: int = 0

    def __post_init__(self) -> None:
        if self.space.size is None or self.space.event_shape:
            raise ValueError("an n-gram model needs a finite space of scalar symbols")
        bounded("order", self.order, 1, MAX_ORDER)
        bounded("max_symbols", self.max_symbols, 1, 2**32)
        for name in ("num_contexts", "num_grams"):
            bounded(name, getattr(self, name), 0, MAX_ROWS)
        bounded("num_symbols", self.num_symbols, 0, self.max_symbols)

    @property
    def size(self) -> int:
        """The alphabet size V; ``size`` itself stands for the start symbol."""
        assert self.space.size is not None
        return self.space.size


def ngram(space: Space, size: str = "small") -> NGramConfig:
    """The order that suits the alphabet: 8 for bytes and characters, 4 for words (``small``).

    Raises:
        ValueError: an unknown size, or a space that isn't finite and scalar.
    """
    orders = next((o for top, o in ORDERS.items() if (space.size or 0) <= top), {})
    if size not in orders:
        raise ValueError(f"size {size!r} is not one of {', '.join(orders)}")
    return NGramConfig(space, orders[size])


class NGram(SequenceModel):
    """p_k(x | h) = (c(h x) - d_k) / c(h) + backoff(h) p_{k-1}(x | h without its oldest symbol).

    It ends at the uniform law, so every symbol has positive probability. All contexts h lie in
    one trie: ``contexts`` [C + 1] holds, sorted, (row of the context one shorter) * (V + 1) +
    (its oldest symbol), and a context's row is one more than its place there; row 0 is the
    empty context. ``grams`` [V + G + 1] holds, sorted, row * V + symbol, and ``values`` the
    first term above; row 0 is dense and smoothed already. ``backoff`` [C + 2] ends with 1, for
    contexts that were never seen.
    """

    Config = NGramConfig

    config: NGramConfig
    contexts: Tensor
    grams: Tensor
    values: Tensor
    backoff: Tensor

    def __init__(self, config: NGramConfig) -> None:
        super().__init__()
        self.config, self.space = config, config.space
        size, rows = config.size, config.size + config.num_grams
        grams = torch.full((rows + 1,), END)
        grams[:size] = torch.arange(size)
        values = torch.zeros(rows + 1, dtype=torch.float64)
        values[:size] = 1 / size
        self.register_buffer("contexts", torch.full((config.num_contexts + 1,), END))
        self.register_buffer("grams", grams)
        self.register_buffer("values", values)
        self.register_buffer("backoff", torch.ones(config.num_contexts + 2, dtype=torch.float64))

    def start(self, batch: int, cond: Condition | None = None) -> State:
        self.check(batch, cond)
        begin = torch.full((batch,), self.config.size, device=self.grams.device)
        return State((0,) * batch, {"symbols": Window.full(begin, max(self.config.order - 1, 1))})

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        return state.push(x.shape[1], tail, symbols=x)

    def predict(self, state: State) -> Backoff:
        past = state.window("symbols")  # [B, w + R]
        first = past.shape[1] - state.tail
        older = [past[:, first - k : past.shape[1] - k + 1] for k in range(1, self.config.order)]
        shape = (len(past), state.tail + 1)
        return Backoff(_rows(self.contexts, self.config.size, older, shape), self)

    @torch.inference_mode(False)  # and with gradients, which tune the discounts
    def estimate(self, batches: Iterable[Batch | Ints]) -> None:
        """Count streams [T] of symbols, or the rows of batches (where their weight isn't 0).

        No context reaches across the beginning of a stream. The last tenth is first held out
        to tune the discounts, which beats reading them off counts of counts, because text
        repeats itself nearby; then everything is counted. Above ``PRUNE_FROM`` symbols,
        contexts seen once are not made longer: a third less memory, 0.001 bits a symbol.

        Raises:
            ValueError: no symbols, symbols outside the alphabet, tables beyond their bounds.
        """
        size, order = self.config.size, self.config.order
        text, scored = _join(batches, self.config)
        cut = len(scored) - min(int(HELD_OUT * len(scored)), MAX_HELD_OUT)
        part = _Counts.of(text, scored[:cut], size, order)
        discounts = part.tune(text, scored[cut:])
        full = _Counts.of(text, scored, size, order) if cut < len(scored) else part
        values, backoff = full.smooth(discounts)
        root = int(np.searchsorted(full.grams, size))
        dense = np.full(size, backoff[0] / size)
        dense[full.grams[:root]] += values[:root]
        self.config = replace(
            self.config,
            num_contexts=len(full.contexts),
            num_grams=len(full.grams) - root,
            num_symbols=len(scored),
        )
        tables: dict[str, list[Any]] = {
            "contexts": [full.contexts, [END]],
            "grams": [np.arange(size), full.grams[root:], [END]],
            "values": [dense, values[root:], [0.0]],
            "backoff": [backoff, [1.0]],
        }
        for name, parts in tables.items():
            setattr(self, name, torch.from_numpy(np.concatenate(parts)).to(getattr(self, name)))


@dataclass(frozen=True, eq=False)
class Backoff(Finite):
    """The law after each context. ``rows`` [B, L, n]: its table row at each length, -1 unseen.

    ``log_prob`` looks up one n-gram an order and never builds [B, L, V]; it agrees with
    ``log_probs`` bit for bit, since both add the orders' terms from the shortest up.
    """

    rows: Tensor
    model: NGram

    def _weights(self) -> Tensor:
        """What each length's term is multiplied by: the backoffs of the longer ones [B, L, n]."""
        back = self.model.backoff[self.rows[..., 1:]]
        one = back.new_ones(*back.shape[:-1], 1)
        return torch.cat([one, back.flip(-1)], -1).cumprod(-1).flip(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        model = self.model
        key = self.rows * model.config.size + x[..., None]
        where, hit = _find(model.grams, key)
        terms = torch.where(hit, model.values[where] * self._weights(), 0)
        p = terms[..., 0]
        for k in range(1, terms.shape[-1]):
            p = p + terms[..., k]
        return p.log()

    def log_probs(self) -> Tensor:
        done: Tensor | None = self.__dict__.get("_log_probs")
        if done is None:
            done = self._dense()
            object.__setattr__(self, "_log_probs", done)
        return done

    def _dense(self) -> Tensor:
        model, size, weight = self.model, self.model.config.size, self._weights()
        p = weight[..., :1] * model.values[:size]
        row = self.rows[..., 1:].flatten()
        first, end = torch.searchsorted(model.grams, torch.stack([row * size, (row + 1) * size]))
        count = end - first
        cell = torch.repeat_interleave(count)  # one entry for every n-gram of every row
        place = torch.arange(len(cell), device=cell.device)
        entry = place + (first - (count.cumsum(0) - count))[cell]
        law = torch.arange(len(row), device=row.device) // max(self.rows.shape[-1] - 1, 1)
        target = model.grams[entry] + ((law - row) * size)[cell]
        terms = model.values[entry] * weight[..., 1:].flatten()[cell]
        return p.view(-1).index_add_(0, target, terms).view(p.shape).log_()


# ---- tables ----


def _find(table: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Where the keys belong in a sorted table, and which of them are there."""
    where = torch.searchsorted(table, key.contiguous())
    return where, table[where] == key


def _rows(contexts: Tensor, size: int, older: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Rows [*shape, n] of the contexts of length 0 … n-1; older[k] is k + 1 symbols back."""
    row = torch.zeros(tuple(shape), dtype=torch.int64, device=contexts.device)
    rows = [row]
    for symbol in older:
        where, hit = _find(contexts, row * (size + 1) + symbol)  # below 0 where row is -1
        row = torch.where(hit, where + 1, -1)
        rows.append(row)
    return torch.stack(rows, -1)


@dataclass(frozen=True, eq=False)
class _Counts:
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
    def of(text: Ints, scored: Ints, size: int, order: int) -> _Counts:
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
        return _Counts(size, order, keys, levels, np.concatenate(grams), np.concatenate(counts))

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
        rows = _rows(table, self.size, older, (len(held_out),))
        symbol = torch.from_numpy(text[held_out])[:, None]
        where, hit = _find(torch.from_numpy(np.append(self.grams, END)), rows * self.size + symbol)
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


def _join(batches: Iterable[Batch | Ints], config: NGramConfig) -> tuple[Ints, Ints]:
    """One text, the start symbol V before every stream, and the places that are to be counted."""
    pieces: list[Ints] = []
    places = [np.zeros(0, np.int64)]
    length, left = 0, config.max_symbols
    for symbols, weight in _streams(batches):
        if symbols.ndim != 1 or (len(symbols) and symbols.dtype.kind not in "iu"):
            raise ValueError(f"a stream is integers [T], not {symbols.dtype} {symbols.shape}")
        symbols, weight = symbols[:left], weight[:left]
        low, high = (symbols.min(), symbols.max()) if len(symbols) else (0, 0)
        if low < 0 or high >= config.size:
            raise ValueError(f"symbols are 0 to {config.size - 1}, the data has {low} to {high}")
        pieces += [np.array([config.size]), symbols.astype(np.int64)]
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
