"""An encoder-decoder with attention over a padded source.

Shapes: B rows, T length, L block, S source length, C positions in the slab, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from chainrule.core.distributions import Categorical
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.space import Space
from chainrule.core.state import Fixed, Grow, State, Window


class Seq2Seq(SequenceModel):
    """One decoder layer: keys and values in a Grow leaf, the encoded source in Fixed ones."""

    reads = frozenset({"source", "source_ok"})

    def __init__(self, size: int, source_size: int, dim: int = 6) -> None:
        super().__init__()
        self.space = Space("finite", size)
        self.encoder = nn.Embedding(source_size, dim)
        self.embedding = nn.Embedding(size + 1, dim)  # the last row: start
        self.mix = nn.Linear(dim, dim)
        self.self_qkv = nn.Linear(dim, 3 * dim)
        self.cross_q = nn.Linear(dim, dim)
        self.cross_kv = nn.Linear(dim, 2 * dim)
        self.head = nn.Linear(dim, size)

    def start(self, batch: int, cond: Condition | None = None) -> State:
        cond = self.check(batch, cond)
        assert cond.source is not None
        ok = cond.source_ok
        ok = torch.ones_like(cond.source, dtype=torch.bool) if ok is None else ok
        source = self.encoder(cond.source.masked_fill(~ok, 0)) * ok[..., None]
        mean = source.sum(1, keepdim=True) / ok.sum(1)[:, None, None]
        memory = self.cross_kv(torch.tanh(self.mix(source + mean)))
        dim = self.mix.in_features
        leaves = {
            "memory": Fixed(memory, ragged=True),
            "memory_ok": Fixed(ok, ragged=True),
            "kv": Grow.empty(memory.new_zeros(batch, 2, 4, dim), axis=2),
            "hidden": Window.full(memory.new_zeros(batch, dim), 1),
        }
        # The start symbol is consumed here; it does not count as a symbol.
        begin = torch.full((batch, 1), self.embedding.num_embeddings - 1)
        return self.extend(State((-1,) * batch, leaves), begin)

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        pos_BL = state.pos(x.shape[1]).tensor()
        wave = torch.arange(1, self.mix.in_features + 1)
        h = self.embedding(x) + torch.sin(0.7 * (pos_BL[..., None] + 2) * wave)
        q, k, v = self.self_qkv(h).chunk(3, -1)
        cache = state.grow("kv").push(torch.stack([k, v], 1))
        keys, values = cache.read(0), cache.read(1)
        place = torch.arange(keys.shape[1])  # the start symbol lies at place 0
        h = h + _attend(q, keys, values, place <= pos_BL[..., None] + 1)
        keys, values = state.fixed("memory").chunk(2, -1)
        seen = state.fixed("memory_ok")[:, None].expand(-1, x.shape[1], -1)
        h = h + _attend(self.cross_q(h), keys, values, seen)
        return state.push(x.shape[1], tail, kv=cache, hidden=h)

    def predict(self, state: State) -> Categorical:
        return Categorical(self.head(torch.tanh(state.window("hidden"))))


def _attend(q: Tensor, k: Tensor, v: Tensor, ok: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~ok, -math.inf).softmax(-1) @ v
