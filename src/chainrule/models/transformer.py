"""Decoder-only transformers in two layouts: Llama's and GPT-2's.

Shapes: B rows, T sequence length, L symbols in this call, R undoable tail, D width, H heads,
G key-value heads, K head width, C context, S keys, V alphabet size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrule.core import blocks
from chainrule.core.distributions import Distribution
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.state import Grow, Leaf, State, Window
from chainrule.engine.program import Program
from chainrule.models import guesses
from chainrule.models.blanks import MaskedTransformer
from chainrule.models.lower_transformer import lower, memory
from chainrule.models.transformer_config import TransformerConfig
from chainrule.nn import attention
from chainrule.nn.attention import Angles, rotate
from chainrule.nn.block import Layer, Shape
from chainrule.nn.heads import Ahead, LinearCategorical
from chainrule.nn.labels import Labels
from chainrule.nn.places import Places
from chainrule.nn.rope import rates
from chainrule.nn.scalars import UNKNOWN, Numbers, ScalarHead, Told, head_of

FIRST = 16  # positions that a fresh cache has room for
BLOCK = 1024  # symbols that a cache takes in at a time


class Transformer(SequenceModel):
    """Embedding, layers, a norm, a linear head."""

    Config = TransformerConfig
    no_bias: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config: TransformerConfig = config
        self.space = config.space
        size, head = config.space.size, head_of(config.space, config.head)
        begin = config.space.eos if config.begin is None else config.begin
        self.embedding: nn.Embedding | Numbers
        if size is not None:
            self.begin: Any = size if begin is None else begin
            rows = size + (begin is None) + config.masked  # the last: an unknown symbol
            self.embedding = nn.Embedding(rows, config.dim)
        else:
            self.begin, self.embedding = UNKNOWN[config.space.kind], Numbers(config.dim)
        self.told: Told | None = None
        if head is not None or config.features:
            self.told = Told(config.features, head is not None, config.dim)
            self.reads = self.told.reads
        self.position = nn.Embedding(config.context, config.dim) if self.learned else None
        self.places: Places | None = None
        if config.space.grid is not None and not self.learned:
            self.places = Places(config.space.grid, config.space.order, config.dim)
        self.labels = Labels(config.labels, config.dim) if config.labels else None
        if self.labels is not None:
            self.reads |= {"label"}
        shape = Shape(
            self.learned,
            config.dim,
            config.hidden,
            config.num_heads,
            config.num_kv_heads,
            config.gelu,
            config.epsilon,
            config.dropout,
            config.head_width,
            config.qkv_bias,
            config.qk_norm,
        )
        self.layers = nn.ModuleList(Layer(shape) for _ in range(config.num_layers))
        self.norm = shape.norm()
        self.head: nn.Linear | ScalarHead | None = None
        if head is not None:
            self.head = ScalarHead(config.dim, head)
        elif not config.tied:
            self.head = nn.Linear(config.dim, size or 0, bias=False)
        self.ahead = Ahead(config.dim, shape.norm()) if config.ahead else None
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("no_bias", torch.zeros(size or 0), persistent=False)
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
    def masked(self) -> MaskedTransformer | None:
        """The same weights as a net that fills in blanks, where they were trained so."""
        return MaskedTransformer(self) if self.config.masked else None

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
        cond = self.check(len(x), cond)
        if self.learned and x.shape[1] > self.config.context:
            return self.law(self._blocks(x))
        return self._law(self._whole(x, cond), cond)

    def _whole(self, x: Tensor, cond: Condition) -> Tensor:
        """What the head reads for every symbol of x: [B, T, D]."""
        inputs = F.pad(x[:, :-1], (1, 0), value=self.begin)
        length, context = x.shape[1], self.config.context
        pos = torch.arange(length, device=x.device)
        out = self.dropout(self.embed(inputs, pos, cond))
        angles = self.angles(pos, out)
        edge = self._edge(pos, out) if length > context else None
        for layer in self.stack():
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
        parts, at, none = [self._whole(x[:, :context], Condition())], context, Condition()
        while at < x.shape[1]:
            begin = at - context + stride
            parts.append(self._whole(x[:, begin : begin + context], none)[:, context - stride :])
            at += stride
        return torch.cat(parts, 1)

    # ---- decoding: a cache ----

    def lower(self) -> Program | None:
        return None if self.told is not None else lower(self)

    def start(self, batch: int, cond: Condition | None = None) -> State:
        cond = self.check(batch, cond)
        kv, hidden = self._open(torch.zeros(batch, 0, dtype=self.space.dtype), cond)
        leaves: dict[str, Leaf] = {"kv": kv, "hidden": Window(hidden, 1)}
        leaves |= replace(cond, label=None).leaves()
        if self.labels is not None:
            leaves |= memory(self.labels(batch, cond))
        if self.learned:
            blank = torch.zeros(batch, dtype=torch.int64, device=hidden.device)
            leaves["symbols"] = Window.full(blank, self.config.context)
        return State((0,) * batch, leaves)

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        if self.learned:
            return self._extend_blocks(state, x, tail)
        cond, label = Condition.of(state), self._label(state)
        for at in range(0, x.shape[1], BLOCK):
            piece = x[:, at : at + BLOCK]
            length = piece.shape[1]
            kept = state.kept(length, tail)
            kv = self._roomy(state.grow("kv"), length, state.tail)
            kv, hidden = self._run(kv, piece, [n + 1 for n in state.lens], None, cond, label)
            state = state.push(length, tail, kv=kv, hidden=hidden[:, -1 - kept :])
        return state

    def predict(self, state: State) -> Distribution:
        return self._law(state.window("hidden"), Condition.of(state))

    def guess_ahead(
        self, state: State, last: Tensor, n: int, noise: Noise, warp: Any
    ) -> Tensor | None:
        return guesses.by_heads(self, state, last, n, noise, warp)

    def ahead_log_prob(self, law: LinearCategorical, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the extra heads give the symbols behind every SPARSE-th place of x [B, T].

        Log-probabilities in nats [B, P, ahead] behind the places [P], from the next-symbol law of
        x. Only the heads get a gradient: the model learns as if they were not there.
        """
        return guesses.heads_log_prob(self, law, x)

    def guess_block(
        self, state: State, last: Tensor, n: int, noise: Noise, warp: Any
    ) -> Tensor | None:
        return guesses.by_blanks(self, state, last, n, noise, warp)

    def room(self, state: State) -> int:
        """How many symbols ``behind`` can take."""
        return min(self.rooms(state))

    def rooms(self, state: State) -> list[int]:
        """The same for every row."""
        if self.learned:
            return self._rooms(state)
        # A block that passes the context's end slides: half of the context stays before it.
        most = self.config.context
        return [max(most // 2, most - 1 - n) for n in state.lens]

    def behind(self, state: State, inputs: Tensor, both: Tensor) -> Tensor:
        """What the head reads at inputs [B, L] behind a state, which stays as it is: [B, L, D].

        Where ``both`` [B, L] is True, an input sees those after it too.
        """
        kv = state.grow("kv")
        pos = list(kv.lens) if self.learned else [n + 1 for n in state.lens]
        return self._run(kv, inputs, pos, both, label=self._label(state))[1]

    def _label(self, state: State) -> Tensor | None:
        """The vector of every row's label [B, 1, D], where they have any."""
        return None if self.labels is None else state.fixed("label")[..., self.config.dim :]

    def _open(self, x: Tensor, cond: Condition | None = None) -> tuple[Grow, Tensor]:
        """A cache behind the start symbol and x [B, L], and the last hidden [B, 1, D]."""
        config, weight = self.config, self.embedding.weight
        shape = (config.num_layers, 2, config.num_kv_heads, FIRST, config.head_width)
        kv = Grow.empty(weight.new_zeros(len(x), *shape), axis=4)
        x = F.pad(x.to(weight.device), (1, 0), value=self.begin)
        kv, hidden = self._run(kv, x, [0] * len(x), cond=cond)
        return kv, hidden[:, -1:]

    def _roomy(self, kv: Grow, length: int, tail: int) -> Grow:
        """The cache without what no query will see again, when it would have to grow for that."""
        sinks, recent = self.config.sinks, self.config.context - self.config.sinks + tail
        longest = max(kv.lens)
        if longest >= sinks + 2 * recent and longest + length > kv.capacity:
            return kv.compact(sinks, recent)
        return kv

    def _run(
        self,
        kv: Grow,
        inputs: Tensor,
        pos: list[int],
        both: Tensor | None = None,
        cond: Condition | None = None,
        label: Tensor | None = None,
    ) -> tuple[Grow, Tensor]:
        """Consume inputs [B, L] that stand at ``pos``: the cache and the hidden [B, L, D]."""
        first, length, config = kv.lens, inputs.shape[1], self.config
        begin = torch.tensor(pos, device=inputs.device)[:, None]
        pos_BL = begin + torch.arange(length, device=inputs.device)
        out = self.embed(inputs, pos_BL, cond, label)
        angles = self.angles(pos_BL[:, None], out)
        beyond = max(pos) + length > config.context
        edge = self._edge(pos_BL[:, None], out) if beyond else None
        kv = kv.claim(length)
        for i, layer in enumerate(self.stack()):
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
                both,
            )
            out = layer.join(out, mixed)
        return kv, self.norm(out)

    # ---- learned positions come to an end: blocks ----

    def _extend_blocks(self, state: State, x: Tensor, tail: int) -> State:
        done = 0
        while done < x.shape[1]:
            rooms = self._rooms(state)
            if not min(rooms):
                over = [not room for room in rooms]
                step, state = 1, self._cross(state, x[:, done : done + 1], tail, over)
            else:
                step = min(min(rooms), x.shape[1] - done)
                state = self._within(state, x[:, done : done + step], tail)
            done += step
        return state

    def _rooms(self, state: State) -> list[int]:
        """How many symbols each row's block has room for."""
        return blocks.rooms(state.grow("kv").lens, state.lens, self.config.context)

    def _within(self, state: State, x: Tensor, tail: int) -> State:
        kept = state.kept(x.shape[1], tail)
        kv = state.grow("kv")
        kv, hidden = self._run(kv, x, list(kv.lens))
        return state.push(x.shape[1], tail, kv=kv, hidden=hidden[:, -1 - kept :], symbols=x)

    def _cross(self, state: State, x_B1: Tensor, tail: int, over: list[bool]) -> State:
        def anew(alone: State, x: Tensor, inside: Tensor) -> State:
            kv, hidden = self._open(inside)
            return alone.push(1, tail, kv=kv, hidden=hidden, symbols=x)

        def within(some: State, x: Tensor) -> State:
            return self._within(some, x, tail)

        return blocks.cross(state, x_B1, over, self.config.context, within, anew)

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
        out, found = self.embed(inputs, pos), []
        angles = self.angles(pos, out)
        unseen = torch.ones(len(pos), len(pos), dtype=torch.bool, device=x.device).triu(1)
        for layer in self.stack():
            q, k, v = layer.heads(out)
            q, k = rotate(q, angles), rotate(k, angles)
            found.append(attention.weights(q, k, unseen))
            out = layer.join(out, attention.whole(q, k, v))
        return torch.stack(found)

    def embed(
        self,
        inputs: Tensor,
        pos: Tensor,
        cond: Condition | None = None,
        label: Tensor | None = None,
    ) -> Tensor:
        """Inputs at their positions: [..., D]; an input predicts the symbol at its position.

        ``label`` [B, 1, D]: the vector of what ``cond`` says otherwise.
        """
        cond, numbers = cond or Condition(), isinstance(self.embedding, Numbers)
        out: Tensor = self.embedding(inputs, cond.scale) if numbers else self.embedding(inputs)
        if self.told is not None:
            out = self.told(out, cond, pos.expand(inputs.shape))
        if self.places is not None:
            out = out + self.places(pos)
        if self.labels is not None:
            out = out + (self.labels(len(inputs), cond)[:, None] if label is None else label)
        return out if self.position is None else out + self.position(pos)

    def angles(self, pos: Tensor, like: Tensor) -> Angles:
        """Of rotary positions; None where they are learned."""
        if self.learned:
            return None
        config = self.config
        turns = rates(config.head_width, config.rope_base, config.rope)
        return attention.rotary(pos, turns, 1.0 if config.rope is None else config.rope.scale, like)

    def _edge(self, pos: Tensor, like: Tensor) -> Angles:
        """Angles towards the sinks: as far off as the context reaches, and no farther."""
        if self.learned or not self.config.sinks:
            return None
        return self.angles(pos.clamp_max(self.config.context - 1), like)

    def _law(self, hidden: Tensor, cond: Condition) -> Distribution:
        if not isinstance(self.head, ScalarHead):
            return self.law(hidden)
        law: Distribution = self.head(hidden, cond.scale)
        return law

    def law(self, hidden: Tensor) -> LinearCategorical:
        """The law, of symbols of an alphabet, that the head reads off [..., D]."""
        assert not isinstance(self.head, ScalarHead)
        weight: Tensor = self.embedding.weight if self.head is None else self.head.weight
        return LinearCategorical(hidden, weight[: self.space.size], self.no_bias)

    def stack(self) -> list[Layer]:
        """The layers, in order."""
        return list(self.layers._modules.values())  # type: ignore[arg-type]
