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
from chainrule.engine import program as p


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
        self.register_buffer("rate", 0.7 * torch.arange(1, dim + 1))

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
        h = self.embedding(x) + torch.sin((pos_BL[..., None] + 2) * self.rate)
        q, k, v = self.self_qkv(h).chunk(3, -1)
        cache = state.grow("kv").push(torch.stack([k, v], 1))
        keys, values = cache.read(0), cache.read(1)
        place = torch.arange(keys.shape[1])  # the start symbol lies at place 0
        h = h + _attend(q, keys, values, place <= pos_BL[..., None] + 1)
        keys, values = state.fixed("memory").chunk(2, -1)
        seen = state.fixed("memory_ok")[:, None].expand(-1, x.shape[1], -1)
        h = h + _attend(self.cross_q(h), keys, values, seen)
        return state.push(x.shape[1], tail, kv=cache, hidden=h)

    def lower(self) -> p.Program:
        size, dim = self.space.size, self.mix.in_features
        assert size is not None
        weights = {
            name: p.Weight(name, tuple(w.shape), kind="matrix" if w.ndim == 2 else "vector")
            for name, w in self.state_dict().items()
        }
        dims = {"x": dim, "wave": dim, "qkv": 3 * dim, "look": dim, "seen": dim, "tanh": dim}
        dims |= {"hidden": dim, "logits": size}
        buffers = {name: p.Buffer(width) for name, width in dims.items()}
        buffers |= {name: p.Buffer(dim, "qkv", i * dim) for i, name in enumerate("qkv")}
        ops = (
            p.Embed("x", "embedding.weight"),
            p.Wave("wave", "rate", "rate"),  # the start symbol stands at 0 there, at -1 here
            p.Add("x", "x", "wave"),
            p.Linear("qkv", "x", "self_qkv.weight", "self_qkv.bias"),
            p.Attend("seen", "q", "k", "v", "kv", heads=1, window=p.WIDEST),
            p.Add("x", "x", "seen"),
            p.Linear("look", "x", "cross_q.weight", "cross_q.bias"),
            p.Cross("seen", "look", "memory", heads=1),
            p.Add("hidden", "x", "seen"),
        )
        head = (
            p.Activate("tanh", "hidden", "tanh"),
            p.Linear("logits", "tanh", "head.weight", "head.bias"),
        )
        leaves = {"kv": p.Leaf("cache", dim, dim), "memory": p.Leaf("fixed", 2 * dim)}
        return p.Program(size, size, buffers, weights, leaves, ops, head)

    def predict(self, state: State) -> Categorical:
        return Categorical(self.head(torch.tanh(state.window("hidden"))))


def _attend(q: Tensor, k: Tensor, v: Tensor, ok: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~ok, -math.inf).softmax(-1) @ v
