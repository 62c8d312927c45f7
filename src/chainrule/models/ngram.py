"""Interpolated Kneser-Ney n-grams: a serious baseline, counted rather than trained.

Sources: Kneser & Ney 1995, "Improved backing-off for m-gram language modeling"; Chen & Goodman
1999, "An empirical study of smoothing techniques for language modeling" (three discounts an
order, tuned on held-out symbols); Teh 2006, "A hierarchical Bayesian language model based on
Pitman-Yor processes" (a frequent n-gram tells the order below more than once).
Shapes: B rows, L positions, T symbols of text, R undoable tail, V alphabet size, C contexts,
G n-grams, N held-out symbols. Log-probabilities are in nats.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chainrule.core.config import bounded
from chainrule.core.distributions import Finite
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.noise import Noise, Positions
from chainrule.core.objective import Batch
from chainrule.core.space import Space
from chainrule.core.state import State, Window
from chainrule.engine import ngram_rollout
from chainrule.engine import program as p
from chainrule.models.ngram_counts import END, MAX_ROWS, Counts, Ints, context_rows, find, join

MAX_ORDER = 32
HELD_OUT, MAX_HELD_OUT = 0.1, 2**17  # the share of symbols that tunes the discounts; its limit
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
        return Backoff(context_rows(self.contexts, self.config.size, older, shape), self)

    def rollout(
        self, state: State, last: Tensor, n: int, noise: Noise, warp: Any
    ) -> tuple[State, Tensor] | None:
        heat = getattr(warp, "only_temperature", None)
        if ngram_rollout is None or heat is None or last.device.type != "cpu":
            return None
        gumbel = noise.at(Positions(tuple([k + 1 for k in state.lens]), n)).gumbel(self.config.size)
        past = torch.cat([state.window("symbols"), last], 1)
        past = past[:, past.shape[1] - self.config.order + 1 :].contiguous()
        out = torch.empty(len(last), n, dtype=torch.int64)
        tables = (t.numpy() for t in (self.contexts, self.grams, self.values, self.backoff))
        ngram_rollout(
            *tables,
            past.numpy(),
            np.array(heat, np.float64),
            gumbel.contiguous().numpy(),
            out.numpy(),
        )
        return self.extend(state, torch.cat([last, out[:, :-1]], 1), tail=n - 1), out

    def lower(self) -> p.Program:
        size, width = self.config.size, max(self.config.order - 1, 1)
        tables = ("contexts", "grams", "values", "backoff")
        return p.Program(
            size,
            size,
            {"symbol": p.Buffer(1), "hidden": p.Buffer(width), "logits": p.Buffer(size)},
            {k: p.Weight(k, tuple(getattr(self, k).shape), kind="table") for k in tables},
            {"recent": p.Leaf("window", 1, width, fill=size)},
            (p.Symbol("symbol"), p.Recent("hidden", "symbol", "recent")),
            (p.Backoff("logits", "hidden", *tables),),
        )

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
        text, scored = join(batches, size, self.config.max_symbols)
        cut = len(scored) - min(int(HELD_OUT * len(scored)), MAX_HELD_OUT)
        part = Counts.of(text, scored[:cut], size, order)
        discounts = part.tune(text, scored[cut:])
        full = Counts.of(text, scored, size, order) if cut < len(scored) else part
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
        where, hit = find(model.grams, key)
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
