"""Decoder-only transformers in two layouts: Llama's and GPT-2's.

Shapes: B rows, T sequence length, L symbols in this call, R undoable tail, D width, H heads,
G key-value heads, K head width, C context, S keys, V alphabet size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrule.core.config import bounded
from chainrule.core.distributions import Distribution
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.space import Space
from chainrule.core.state import Grow, State, Window
from chainrule.nn import attention
from chainrule.nn.attention import Angles, rotate
from chainrule.nn.block import Layer, Shape
from chainrule.nn.heads import LinearCategorical

Layout = Literal["llama", "gpt2"]
SIZES = {"tiny": (2, 64, 2), "small": (4, 128, 4), "base": (6, 384, 6)}
FIRST = 16  # positions that a fresh cache has room for
BLOCK = 1024  # symbols that a cache takes in at a time


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a transformer.

    Args:
        layout: llama (Touvron et al. 2023: RMSNorm, rotary positions, SwiGLU, grouped queries, no
            biases) or gpt2 (Radford et al. 2019: LayerNorm, learned positions, GELU, biases).
        hidden: width inside the feed-forward part.
        context: how many inputs a prediction looks at, the start symbol included. Beyond it, llama
            slides: the newest ``context - sinks`` and the first ``sinks`` inputs. gpt2 begins a
            new block each ``context // 2`` symbols, with the other half of the context in it.
        dropout: share of what is dropped from the embedding and from every branch, in training.
        gelu: exact (none) or by a hyperbolic tangent, as OpenAI's weights want it; of gpt2.
        tied: the embedding is the output weights too (Press & Wolf 2017).

    Raises:
        ValueError: a size out of bounds, or sizes that don't fit each other.
    """

    space: Space
    layout: Layout = "llama"
    num_layers: int = 4
    dim: int = 128
    num_heads: int = 4
    num_kv_heads: int = 4
    hidden: int = 384
    context: int = 256
    sinks: int = 4
    dropout: float = 0.0
    tied: bool = False
    gelu: Literal["none", "tanh"] = "none"
    rope_base: float = 10000.0
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if self.space.kind != "finite" or self.space.event_shape:
            raise ValueError("a transformer models scalar symbols of a finite alphabet")
        bounded("num_layers", self.num_layers, 1, 512)
        bounded("dim", self.dim, 2, 65536)
        bounded("num_heads", self.num_heads, 1, 4096)
        bounded("num_kv_heads", self.num_kv_heads, 1, 4096)
        bounded("hidden", self.hidden, 1, 2**20)
        bounded("context", self.context, 2, 2**24)
        bounded("sinks", self.sinks, 0, self.context - 1)
        bounded("dropout", self.dropout, 0, 0.95)
        bounded("rope_base", self.rope_base, 1, 1e12)
        bounded("epsilon", self.epsilon, 1e-12, 1e-1)
        if self.num_heads > self.dim:
            raise ValueError(
                f"more heads ({self.num_heads}) than the width has room for: {self.dim}"
            )
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.layout == "gpt2" and self.num_kv_heads != self.num_heads:
            raise ValueError("the gpt2 layout has as many key-value heads as heads")
        if self.layout == "llama" and self.head_width % 2:
            raise ValueError(f"rotary positions need an even head width, not {self.head_width}")

    @property
    def head_width(self) -> int:
        """K."""
        return self.dim // self.num_heads


class Transformer(SequenceModel):
    """Embedding, layers, a norm, a linear head. The start symbol is the end symbol, if any."""

    Config = TransformerConfig
    no_bias: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        assert config.space.size is not None
        self.config: TransformerConfig = config
        self.space = config.space
        eos = config.space.eos
        self.begin = config.space.size if eos is None else eos
        self.embedding = nn.Embedding(config.space.size + (eos is None), config.dim)
        self.position = nn.Embedding(config.context, config.dim) if self.learned else None
        shape = Shape(
            self.learned,
            config.dim,
            config.hidden,
            config.num_heads,
            config.num_kv_heads,
            config.gelu,
            config.epsilon,
            config.dropout,
        )
        self.layers = nn.ModuleList(Layer(shape) for _ in range(config.num_layers))
        self.norm = shape.norm()
        self.head: nn.Linear | None = None
        if not config.tied:
            self.head = nn.Linear(config.dim, config.space.size, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("no_bias", torch.zeros(config.space.size), persistent=False)
        for name, p in self.named_parameters():
            if p.ndim > 1:
                last = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / (2 * config.num_layers) ** 0.5 if last else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    @property
    def learned(self) -> bool:
        """Whether positions are learned, and so come to an end."""
        return self.config.layout == "gpt2"

    @property
    def stride(self) -> int | None:
        """How many symbols one block of learned positions predicts before the next begins."""
        return self.config.context // 2 if self.learned else None

    # ---- training: all positions at once ----

    def forward(
        self, x: Tensor, cond: Condition | None = None, state: State | None = None
    ) -> Distribution:
        if state is not None:
            return super().forward(x, cond, state)
        self.check(len(x), cond)
        if self.learned and x.shape[1] > self.config.context:
            return self._law(self._blocks(x))
        return self._law(self._whole(x))

    def _whole(self, x: Tensor) -> Tensor:
        """What the head reads for every symbol of x: [B, T, D]."""
        inputs = F.pad(x[:, :-1], (1, 0), value=self.begin)
        length, context = x.shape[1], self.config.context
        pos = torch.arange(length, device=x.device)
        out = self.dropout(self._embed(inputs, pos))
        angles = self._angles(pos, out)
        edge = self._edge(pos, out) if length > context else None
        for layer in self._layers():
            if length <= context:
                out = layer(out, angles)
                continue
            q, k, v = layer.heads(out)
            mixed = attention.banded(
                rotate(q, angles),
                rotate(k, angles),
                v,
                (0,) * len(x),
                context,
                self.config.sinks,
                None if edge is None else rotate(q, edge),
            )
            out = layer.join(out, mixed)
        hidden: Tensor = self.norm(out)
        return hidden

    def _blocks(self, x: Tensor) -> Tensor:
        """``_whole`` beyond learned positions: the first context, then half a context a time."""
        context, stride = self.config.context, self.config.context // 2
        parts, at = [self._whole(x[:, :context])], context
        while at < x.shape[1]:
            begin = at - context + stride
            parts.append(self._whole(x[:, begin : begin + context])[:, context - stride :])
            at += stride
        return torch.cat(parts, 1)

    # ---- decoding: a cache ----

    def start(self, batch: int, cond: Condition | None = None) -> State:
        self.check(batch, cond)
        kv, hidden = self._open(torch.zeros(batch, 0, dtype=torch.int64))
        leaves = {"kv": kv, "hidden": Window(hidden, 1)}
        if self.learned:
            blank = torch.zeros(batch, dtype=torch.int64, device=hidden.device)
            leaves["symbols"] = Window.full(blank, self.config.context)
        return State((0,) * batch, leaves)

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        if self.learned:
            return self._extend_blocks(state, x, tail)
        for at in range(0, x.shape[1], BLOCK):
            piece = x[:, at : at + BLOCK]
            length = piece.shape[1]
            kept = state.kept(length, tail)
            kv = self._roomy(state.grow("kv"), length, state.tail)
            kv, hidden = self._run(kv, piece, [n + 1 for n in state.lens])
            state = state.push(length, tail, kv=kv, hidden=hidden[:, -1 - kept :])
        return state

    def predict(self, state: State) -> Distribution:
        return self._law(state.window("hidden"))

    def _open(self, x: Tensor) -> tuple[Grow, Tensor]:
        """A cache behind the start symbol and x [B, L], and the last hidden [B, 1, D]."""
        config, weight = self.config, self.embedding.weight
        shape = (config.num_layers, 2, config.num_kv_heads, FIRST, config.head_width)
        kv = Grow.empty(weight.new_zeros(len(x), *shape), axis=4)
        x = F.pad(x.to(weight.device), (1, 0), value=self.begin)
        kv, hidden = self._run(kv, x, [0] * len(x))
        return kv, hidden[:, -1:]

    def _roomy(self, kv: Grow, length: int, tail: int) -> Grow:
        """The cache without what no query will see again, when it would have to grow for that."""
        sinks, recent = self.config.sinks, self.config.context - self.config.sinks + tail
        longest = max(kv.lens)
        if longest >= sinks + 2 * recent and longest + length > kv.capacity:
            return kv.compact(sinks, recent)
        return kv

    def _run(self, kv: Grow, inputs: Tensor, pos: list[int]) -> tuple[Grow, Tensor]:
        """Consume inputs [B, L] that stand at ``pos``: the cache and the hidden [B, L, D]."""
        first, length, config = kv.lens, inputs.shape[1], self.config
        begin = torch.tensor(pos, device=inputs.device)[:, None]
        pos_BL = begin + torch.arange(length, device=inputs.device)
        out = self._embed(inputs, pos_BL)
        angles = self._angles(pos_BL[:, None], out)
        beyond = max(pos) + length > config.context
        edge = self._edge(pos_BL[:, None], out) if beyond else None
        kv = kv.claim(length)
        for i, layer in enumerate(self._layers()):
            q, k, v = layer.heads(out)
            kv.write(rotate(k, angles), i, 0)
            kv.write(v, i, 1)
            mixed = attention.banded(
                rotate(q, angles),
                kv.read(i, 0),
                kv.read(i, 1),
                first,
                config.context,
                config.sinks,
                None if edge is None else rotate(q, edge),
            )
            out = layer.join(out, mixed)
        return kv, self.norm(out)

    # ---- learned positions come to an end: blocks ----

    def _block(self, consumed: int) -> tuple[int, int]:
        """The first symbol of the block that predicts symbol ``consumed``, and of the next one."""
        context, stride = self.config.context, self.config.context // 2
        number = 0 if consumed < context else (consumed - context) // stride + 1
        return number * stride, context + number * stride

    def _extend_blocks(self, state: State, x: Tensor, tail: int) -> State:
        done = 0
        while done < x.shape[1]:
            # A cache of another length belongs to a block that was left by a rewind.
            lens = state.grow("kv").lens
            stale = [m != n - self._block(n)[0] + 1 for m, n in zip(lens, state.lens, strict=True)]
            rooms = [self._block(n)[1] - n - 1 for n in state.lens]
            if any(stale) or not min(rooms):
                over = [s or not room for s, room in zip(stale, rooms, strict=True)]
                step, state = 1, self._cross(state, x[:, done : done + 1], tail, over)
            else:
                step = min(min(rooms), x.shape[1] - done)
                state = self._within(state, x[:, done : done + step], tail)
            done += step
        return state

    def _within(self, state: State, x: Tensor, tail: int) -> State:
        kept = state.kept(x.shape[1], tail)
        kv = state.grow("kv")
        kv, hidden = self._run(kv, x, list(kv.lens))
        return state.push(x.shape[1], tail, kv=kv, hidden=hidden[:, -1 - kept :], symbols=x)

    def _cross(self, state: State, x_B1: Tensor, tail: int, over: list[bool]) -> State:
        """One symbol more, where some rows need their block encoded anew."""
        rows = range(len(over))
        parts, order = [], []
        if not all(over):
            order += [b for b in rows if not over[b]]
            parts.append(self._within(state.select(order), x_B1[order], tail))
        for b in (b for b in rows if over[b]):
            order.append(b)
            alone = state.select([b])
            symbols = torch.cat([alone.window("symbols"), x_B1[b : b + 1]], 1)
            begin = self._block(state.lens[b] + 1)[0]
            kv, hidden = self._open(symbols[:, symbols.shape[1] - (state.lens[b] + 1 - begin) :])
            parts.append(alone.push(1, tail, kv=kv, hidden=hidden, symbols=x_B1[b : b + 1]))
        return State.concat(parts).select([order.index(b) for b in rows])

    # ---- pieces ----

    def attention(self, x: Tensor) -> Tensor:
        """Weights of every head on x [B, T]: [num_layers, B, H, T + 1, T + 1].

        Entry 0 is the start symbol; row t says where the head looks after symbol t - 1.

        Raises:
            ValueError: more symbols than the context.
        """
        if x.shape[1] >= self.config.context:
            raise ValueError(f"{x.shape[1]} symbols: the context has {self.config.context - 1}")
        inputs = F.pad(x, (1, 0), value=self.begin)
        pos = torch.arange(inputs.shape[1], device=x.device)
        out, found = self._embed(inputs, pos), []
        angles = self._angles(pos, out)
        unseen = torch.ones(len(pos), len(pos), dtype=torch.bool, device=x.device).triu(1)
        for layer in self._layers():
            q, k, v = layer.heads(out)
            q, k = rotate(q, angles), rotate(k, angles)
            found.append(attention.weights(q, k, unseen))
            out = layer.join(out, attention.causal(q, k, v))
        return torch.stack(found)

    def _embed(self, inputs: Tensor, pos: Tensor) -> Tensor:
        out: Tensor = self.embedding(inputs)
        return out if self.position is None else out + self.position(pos)

    def _angles(self, pos: Tensor, like: Tensor) -> Angles:
        if self.learned:
            return None
        return attention.rotary(pos, self.config.head_width, self.config.rope_base, like)

    def _edge(self, pos: Tensor, like: Tensor) -> Angles:
        """Angles towards the sinks: as far off as the context reaches, and no farther."""
        if self.learned or not self.config.sinks:
            return None
        return self._angles(pos.clamp_max(self.config.context - 1), like)

    def _law(self, hidden: Tensor) -> LinearCategorical:
        weight: Tensor = self.embedding.weight if self.head is None else self.head.weight
        return LinearCategorical(hidden, weight[: self.space.size], self.no_bias)

    def _layers(self) -> list[Layer]:
        return list(self.layers._modules.values())  # type: ignore[arg-type]


def transformer(space: Space, size: str = "small") -> TransformerConfig:
    """The Llama layout."""
    num_layers, dim, heads = SIZES[size]
    return TransformerConfig(
        space, "llama", num_layers, dim, heads, heads, hidden=-(-8 * dim // 3 // 32) * 32
    )


def gpt2(space: Space, size: str = "small") -> TransformerConfig:
    """The GPT-2 layout, output tied to the embedding."""
    num_layers, dim, heads = SIZES[size]
    return TransformerConfig(
        space, "gpt2", num_layers, dim, heads, heads, hidden=4 * dim, sinks=0, tied=True
    )
