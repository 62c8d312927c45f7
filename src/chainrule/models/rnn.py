"""Recurrent networks: tanh RNN, LSTM, GRU and minGRU in one file.

Over an alphabet, or over numbers (a series), and then told what is known of each step.
Shapes: B rows, T sequence length, L symbols in this call, R undoable tail, D width of a
layer's input, H width of its hidden state, S of its whole state (2H for the LSTM), V alphabet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrule.core.config import bounded
from chainrule.core.distributions import Categorical, Distribution
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.noise import Noise, Positions
from chainrule.core.space import Space
from chainrule.core.state import State, Window
from chainrule.engine import program as p
from chainrule.nn.heads import LinearCategorical
from chainrule.nn.recurrent import LAYERS, Layer
from chainrule.nn.scalars import UNKNOWN, HeadName, Numbers, ScalarHead, Told, head_of

Cell = Literal["tanh", "lstm", "gru", "mingru"]
SIZES = {"tiny": (2, 64), "small": (4, 128), "base": (6, 384)}


@dataclass(frozen=True)
class RNNConfig:
    """Shape of a recurrent network.

    Args:
        cell: tanh (Elman 1990), lstm (Hochreiter & Schmidhuber 1997), gru (Cho et al. 2014),
            mingru (Feng et al. 2024).
        dim: width of the symbol embedding; hidden: width of each layer.
        dropout: share of inputs dropped before every layer and the head, in training.
        tied: use the embedding as output weights (Press & Wolf 2017); needs dim = hidden.
        residual: a layer's input is the sum of all layers below it, and so is the head's
            (He et al. 2016): deep stacks learn sooner.
        head: the law of symbols that are numbers; None: as suits them.
        features: numbers that ``Condition.steps`` has for each step.

    Raises:
        ValueError: a size out of bounds.
    """

    space: Space
    cell: Cell = "gru"
    num_layers: int = 2
    dim: int = 64
    hidden: int = 64
    dropout: float = 0.0
    tied: bool = False
    residual: bool = False
    head: HeadName | None = None
    features: int = 0

    def __post_init__(self) -> None:
        if head_of(self.space, self.head) is not None and self.tied:
            raise ValueError("numbers have no embedding that could be tied")
        bounded("features", self.features, 0, 65536)
        bounded("num_layers", self.num_layers, 1, 128)
        bounded("dim", self.dim, 1, 65536)
        bounded("hidden", self.hidden, 1, 65536)
        bounded("dropout", self.dropout, 0, 0.95)
        if self.tied and self.dim != self.hidden:
            raise ValueError(f"tied output needs dim = hidden, not {self.dim} and {self.hidden}")


class RNN(SequenceModel):
    """Embedding, a stack of recurrent layers, a linear head."""

    Config = RNNConfig

    def __init__(self, config: RNNConfig) -> None:
        super().__init__()
        self.config, self.space = config, config.space
        size, head = config.space.size, head_of(config.space, config.head)
        self.embedding: nn.Embedding | Numbers
        self.head: nn.Linear | ScalarHead
        if size is not None:
            self.embedding = nn.Embedding(size + 1, config.dim)  # the last row: start
        else:
            self.embedding = Numbers(config.dim)
        widths = [config.dim] + [config.hidden] * (config.num_layers - 1)
        self.layers = nn.ModuleList(LAYERS[config.cell](d, config.hidden) for d in widths)
        self.told: Told | None = None
        if head is not None or config.features:
            self.told = Told(config.features, head is not None, config.dim)
            self.reads = self.told.reads
        self.dropout = nn.Dropout(config.dropout)
        self._summed = config.residual and config.num_layers > 1
        if head is not None:
            self.head = ScalarHead(config.hidden, head)
            return
        assert size is not None
        self.head = nn.Linear(config.hidden, size)
        nn.init.normal_(self.embedding.weight, std=0.1)
        if config.tied:
            del self.head.weight
        else:
            nn.init.normal_(self.head.weight, std=config.hidden**-0.5)
        nn.init.zeros_(self.head.bias)

    def start(self, batch: int, cond: Condition | None = None) -> State:
        cond = self.check(batch, cond)
        size = self.space.size
        begin = UNKNOWN[self.space.kind] if size is None else size
        begin_11 = torch.full((1, 1), begin, device=self.embedding.weight.device)
        width = sum(layer.state_width for layer in self._layers())
        width += self.config.hidden if self._summed else 0
        inputs = self.embedding(begin_11)
        if self.told is not None and cond.given():
            first = torch.zeros(batch, 1, dtype=torch.int64, device=inputs.device)
            inputs = self.told(inputs, cond, first).expand(batch, -1, -1)
        states = self._run(inputs.new_zeros(len(inputs), width), inputs, keep=1)[1]
        leaves = {"state": Window(states.expand(batch, -1, -1), 1), **cond.leaves()}
        return State((0,) * batch, leaves)

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        before, length = state.window("state")[:, -1], x.shape[1]
        if self._plain and length == 1 and not self.training and not torch.is_grad_enabled():
            return state.push(1, tail, state=self._step(before, x[:, 0])[:, None])
        keep = min(length, 1 + state.kept(length, tail))
        return state.push(length, tail, state=self._run(before, self._inputs(state, x), keep)[1])

    def predict(self, state: State) -> Distribution:
        return self._law(state.window("state")[..., -self.config.hidden :], Condition.of(state))

    def carry(
        self, x: Tensor, cond: Condition | None = None, state: State | None = None
    ) -> tuple[Distribution, State]:
        state = self.start(len(x), cond) if state is None else state.trim()
        before = state.window("state")[:, -1]
        out_BTH, states = self._run(before, self._inputs(state, x), keep=1)
        h_BTH = torch.cat([before[:, None, -self.config.hidden :].to(out_BTH), out_BTH[:, :-1]], 1)
        law = self._law(self.dropout(h_BTH), Condition.of(state))
        return law, state.push(x.shape[1], 0, state=states).detach()

    def rollout(
        self, state: State, last: Tensor, n: int, noise: Noise, warp: Any
    ) -> tuple[State, Tensor] | None:
        if not self._plain:
            return None
        law, hidden = self._law(last), self.config.hidden
        assert self.space.size is not None and isinstance(law, LinearCategorical)
        begin = Positions(tuple([length + 1 for length in state.lens]), n)
        gumbel_BnV = noise.at(begin).gumbel(self.space.size)
        states, symbols, x = [state.window("state")[:, -1]], [], last
        for t in range(n):
            states.append(self._step(states[-1], x[:, 0]))
            logits = F.linear(states[-1][:, None, -hidden:], law.weight, law.bias)
            dice = gumbel_BnV[:, t : t + 1]
            x = warp(Categorical(logits)).pick(lambda size, dice=dice: dice)
            symbols.append(x)
        return state.push(n, n - 1, state=torch.stack(states[1:], 1)), torch.cat(symbols, 1)

    def lower(self) -> p.Program | None:
        if not self._plain:
            return None
        config, size = self.config, self.space.size
        assert size is not None
        weights = {
            name: p.Weight(name, tuple(w.shape), kind="vector" if w.ndim == 1 else "matrix")
            for name, w in self.named_parameters()
        }
        head = "head.weight"
        if config.tied:
            weights["head"], head = p.Weight("embedding.weight", (size, config.dim)), "head"
        buffers = {
            "x": p.Buffer(config.dim),
            "gates": p.Buffer(self._layers()[0].gates * config.hidden),
            "above": p.Buffer(config.hidden),
            "hidden": p.Buffer(config.hidden),
            "logits": p.Buffer(size),
        }
        leaves, below = {}, "x"
        ops: list[p.Op] = [p.Embed(below, "embedding.weight")]
        for i, layer in enumerate(self._layers()):
            at, state = f"layers.{i}.", f"state.{i}"
            leaves[state] = p.Leaf("window", layer.state_width)
            own = (None, None) if config.cell == "mingru" else (at + "weight_hh", at + "bias_hh")
            out = "above" if i and self._summed else "hidden"
            ops += [
                p.Linear("gates", below, at + "weight_ih", at + "bias_ih"),
                p.Cell(out, "gates", state, config.cell, *own),
            ]
            if out == "above":
                ops += [p.Add("hidden", "hidden", "above")]
            below = "hidden"
        ends = (p.Linear("logits", "hidden", head, "head.bias"),)
        return p.Program(size, size, buffers, weights, leaves, tuple(ops), ends)

    def __getstate__(self) -> dict[str, Any]:
        """Without the plan of ``_step``: a copy may get other weights."""
        return {k: v for k, v in self.__dict__.items() if k != "_plan"}

    @property
    def _plain(self) -> bool:
        """Whether it reads symbols of an alphabet and nothing else."""
        return self.told is None

    def _inputs(self, state: State, x: Tensor) -> Tensor:
        """What the layers read at symbols [B, L] behind a state: [B, L, D]."""
        cond = Condition.of(state)
        numbers = isinstance(self.embedding, Numbers)
        out: Tensor = self.embedding(x, cond.scale) if numbers else self.embedding(x)
        if self.told is not None:
            out = self.told(out, cond, state.pos(x.shape[1], back=-1).tensor(x.device))
        return out

    def _law(self, h: Tensor, cond: Condition | None = None) -> Distribution:
        if isinstance(self.head, ScalarHead):
            law: Distribution = self.head(h, None if cond is None else cond.scale)
            return law
        tied = self.config.tied
        weight = self.embedding.weight[: self.space.size] if tied else self.head.weight
        return LinearCategorical(h, weight, self.head.bias)

    def _layers(self) -> list[Layer]:
        return list(self.layers._modules.values())  # type: ignore[arg-type]

    def _step(self, state_BS: Tensor, x_B: Tensor) -> Tensor:
        """The states [B, S] after one symbol: what decoding spends its time in."""
        plan = self.__dict__.get("_plan")
        if plan is None:  # attribute look-up of a Module costs as much as a small product
            cell = type(self._layers()[0])
            weights = [tuple(layer.weights()) for layer in self._layers()]
            plan = self.embedding.weight, cell.step, cell.parts, weights
            self.__dict__["_plan"] = plan
        table_VD, step, count, weights = plan
        out = torch.embedding(table_VD, x_B)
        parts = state_BS.split(self.config.hidden, 1)
        new: list[Tensor] = []
        for i, w in enumerate(weights):
            new += step(out, parts[i * count : (i + 1) * count], w)
            out = out + new[-1] if i and self._summed else new[-1]
        return torch.cat([*new, out] if self._summed else new, -1)

    def _run(self, state_BS: Tensor, out: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        """What the head reads [B, L, H] and the whole states [B, keep, S] of the last steps, from
        inputs [B, L, D].

        A state holds the parts of every layer, the top layer last, and ends with what the head
        reads: the top layer's hidden state, or the sum of all.
        """
        first = 0
        states: list[Tensor] = []
        for layer in self._layers():
            part = state_BS[:, first : first + layer.state_width]
            first += layer.state_width
            below, (h, kept) = out, layer(self.dropout(out), part, keep)
            out = below + h if states and self._summed else h
            states.append(kept)
        if self._summed:
            states.append(out[:, out.shape[1] - keep :].to(state_BS))
        return out, torch.cat(states, -1)


def _recipe(cell: Cell, space: Space, size: str) -> RNNConfig:
    num_layers, width = SIZES[size]
    return RNNConfig(space, cell, num_layers, width, width, residual=True)


def rnn(space: Space, size: str = "small") -> RNNConfig:
    """A tanh RNN."""
    return _recipe("tanh", space, size)


def lstm(space: Space, size: str = "small") -> RNNConfig:
    """An LSTM."""
    return _recipe("lstm", space, size)


def gru(space: Space, size: str = "small") -> RNNConfig:
    """A GRU."""
    return _recipe("gru", space, size)


def mingru(space: Space, size: str = "small") -> RNNConfig:
    """A minGRU: its gates don't look at the hidden state, so training is parallel in time."""
    return _recipe("mingru", space, size)
