"""SequenceModel: the distribution of the next symbol, and its relatives.

Shapes: B rows, T sequence length, L symbols in this call, R undoable tail, E event shape,
S source length, V alphabet size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from chainrule.core.distributions import Distribution
from chainrule.core.noise import Noise
from chainrule.core.space import Space
from chainrule.core.state import Fixed, Grow, Leaf, State


@dataclass(frozen=True, eq=False)
class Condition:
    """What a model is told beside the prefix: batch-first, all optional.

    Args:
        label: int [B], -1 for none.
        source: [B, S, …], ``source_ok`` bool [B, S]: False is padding.
        steps: [B, Tmax, F], known per step, indexed by absolute position.
        scale: [B], the scale of each row.
    """

    label: Tensor | None = None
    source: Tensor | None = None
    source_ok: Tensor | None = None
    steps: Tensor | None = None
    scale: Tensor | None = None

    def given(self) -> dict[str, Tensor]:
        """The fields that are not None."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: v for k, v in values.items() if v is not None}

    def leaves(self) -> dict[str, Leaf]:
        """As Fixed leaves named ``cond.field``."""
        padded = ("source", "source_ok", "steps")
        return {f"cond.{k}": Fixed(v, ragged=k in padded) for k, v in self.given().items()}

    @staticmethod
    def of(state: State) -> Condition:
        """Back from a state's leaves."""
        names = [f.name for f in fields(Condition) if f"cond.{f.name}" in state.leaves]
        return Condition(**{name: state.fixed(f"cond.{name}") for name in names})

    def select(self, rows: Sequence[int]) -> Condition:
        """The named rows, in that order."""
        index = torch.tensor(list(rows), dtype=torch.int64)
        return Condition(**{k: v[index.to(v.device)] for k, v in self.given().items()})

    @staticmethod
    def concat(conditions: Sequence[Condition]) -> Condition:
        """All rows of all conditions.

        Raises:
            ValueError: fields that not all of them have.
        """
        names = conditions[0].given().keys()
        if any(c.given().keys() != names for c in conditions):
            raise ValueError("rows with and without a condition can't share a batch: use label -1")
        merged: dict[str, Tensor] = {}
        for name in names:
            leaf = Fixed.concat([c.leaves()[f"cond.{name}"] for c in conditions])
            merged[name] = leaf.t
        return Condition(**merged)

    def to(self, device: torch.device) -> Condition:
        """The same condition on another device."""
        return Condition(**{k: v.to(device) for k, v in self.given().items()})


@dataclass(frozen=True, eq=False)
class Rolled:
    """Symbols that were drawn in one go.

    ``symbols`` and ``log_prob`` (nats, before any warp) [B, n] are a row's own up to ``count``,
    and ``state`` has consumed all of these but the last.
    """

    state: State
    symbols: Tensor
    count: list[int]
    log_prob: Tensor


class SequenceModel(nn.Module, ABC):
    """p(x) = ∏ p(x_t | x_<t, c). The shift by one and the start symbol live in here.

    A subclass sets ``space`` and writes ``start``, ``extend`` and ``predict``; it declares in
    ``reads`` which fields of a Condition it looks at. Everything else follows.
    """

    space: Space
    config: Any = None
    reads: frozenset[str] = frozenset()
    stretch_length = 16  # symbols that are worth drawing in one go, where that can be done

    @property
    def masked(self) -> MaskedModel | None:
        """The same weights as a non-autoregressive net, where they were trained so."""
        return None

    @property
    def guesses_blocks(self) -> bool:
        """Whether ``guess_block`` has learned to."""
        return self.masked is not None

    @abstractmethod
    def start(self, batch: int, cond: Condition | None = None) -> State:
        """Nothing consumed; the condition is encoded once, here."""

    @abstractmethod
    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        """Consume x [B, L, *E]; the newest ``tail`` symbols stay undoable."""

    @abstractmethod
    def predict(self, state: State) -> Distribution:
        """[B, R+1]: the last entry is p(next | all consumed), the one before it had one less."""

    def forward(
        self, x: Tensor, cond: Condition | None = None, state: State | None = None
    ) -> Distribution:
        """[B, T]: entry t is p(x_t | x_<t), so ``forward(x).log_prob(x)`` is the exact score.

        ``state`` puts x behind what that state has consumed.
        """
        return self.carry(x, cond, state)[0]

    def carry(
        self, x: Tensor, cond: Condition | None = None, state: State | None = None
    ) -> tuple[Distribution, State]:
        """``forward`` and the detached state after x, for training over consecutive batches."""
        state = self.start(len(x), cond) if state is None else state
        full = self.extend(state, x, tail=x.shape[1])
        return self.predict(full)[:, : x.shape[1]], full.trim().detach()

    def lower(self) -> Any:
        """The step as a Program for the compiled engine, or None."""
        return None

    def rollout(
        self, state: State, last: Tensor, n: int, noise: Noise, warp: Any
    ) -> tuple[State, Tensor] | None:
        """n ancestral steps in one call, or None: the same symbols, sooner.

        Returns the state that has consumed ``last`` [B, 1] and the first n-1 new symbols, with a
        tail of n-1 (so ``predict`` gives the laws of all n), and the new symbols [B, n].
        """
        return None

    def stretch(self, state: State, last: Tensor, n: int, noise: Noise, warp: Any) -> Rolled | None:
        """Up to n ancestral steps in one call, or None. A row may end at its end symbol."""
        rolled = self.rollout(state, last, n, noise, warp)
        if rolled is None:
            return None
        full, x = rolled
        return Rolled(full.trim(), x, [n] * len(x), self.predict(full).log_prob(x))

    def guess_ahead(
        self, state: State, last: Tensor, n: int, noise: Noise, warp: Any
    ) -> Tensor | None:
        """n guesses [B, n] of what follows ``last`` [B, 1], by extra heads; None without them."""
        return None

    def guess_block(
        self, state: State, last: Tensor, n: int, noise: Noise, warp: Any
    ) -> Tensor | None:
        """The same from one parallel pass in which the n are unknown; None where untrained.

        At the end of a context there may be fewer than n.
        """
        return None

    def estimate(self, batches: Any) -> None:
        """Fit without gradients. Models that learn by gradients don't have it."""
        raise ValueError(f"{type(self).__name__} is trained by gradients")

    @property
    def by_gradient(self) -> bool:
        """Whether this model is trained by gradients (else by ``estimate``)."""
        return type(self).estimate is SequenceModel.estimate

    def check(self, batch: int, cond: Condition | None) -> Condition:
        """Refuse conditions that this model would not read.

        Raises:
            ValueError: a field it doesn't read, or one with another number of rows.
        """
        cond = cond or Condition()
        for name, value in cond.given().items():
            if name not in self.reads:
                raise ValueError(f"{type(self).__name__} does not read the condition {name!r}")
            if len(value) != batch:
                raise ValueError(f"condition {name!r} has {len(value)} rows, the batch {batch}")
        return cond

    def check_room(self, length: int) -> None:
        """Refuse so many symbols where a medium has fewer; raises ValueError."""
        end = self.space.max_len
        if end is not None and length > end:
            raise ValueError(f"{length:,} symbols: this medium has {end:,} and no more")


class ReplayModel(SequenceModel):
    """The author writes ``forward(x, cond)`` only; the state keeps the symbols and replays them."""

    @abstractmethod
    def forward(
        self, x: Tensor, cond: Condition | None = None, state: State | None = None
    ) -> Distribution: ...

    def start(self, batch: int, cond: Condition | None = None) -> State:
        leaves = self.check(batch, cond).leaves()
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        like = torch.zeros(batch, 16, *self.space.event_shape, dtype=self._symbol_type()).to(device)
        return State((0,) * batch, {**leaves, "symbols": Grow.empty(like, axis=1)})

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        self.check_room(max(state.lens) + x.shape[1])
        return state.push(x.shape[1], tail, symbols=x)

    def predict(self, state: State) -> Distribution:
        grown = state.grow("symbols")
        seen = grown.read()
        dummy = seen.new_zeros(len(seen), 1, *seen.shape[2:])
        x = torch.cat([seen, dummy], 1)  # the law of position t never looks at symbol t
        if self.space.max_len is not None:
            x = x[:, : self.space.max_len]
        first = [n - state.tail for n in state.lens]
        index = torch.tensor(first, device=x.device)[:, None]
        index = (index + torch.arange(state.tail + 1, device=x.device)).clamp_max(x.shape[1] - 1)
        every = self.forward(x, Condition.of(state))
        return every[torch.arange(len(x), device=x.device)[:, None], index]

    def carry(
        self, x: Tensor, cond: Condition | None = None, state: State | None = None
    ) -> tuple[Distribution, State]:
        if state is not None:
            return super().carry(x, cond, state)
        return self.forward(x, cond), self.extend(self.start(len(x), cond), x).detach()

    def _symbol_type(self) -> torch.dtype:
        if self.space.kind != "real":
            return torch.int64
        return next((p.dtype for p in self.parameters()), torch.get_default_dtype())


class MaskedModel(nn.Module, ABC):
    """Non-autoregressive: the law of every unknown symbol given the known ones."""

    space: Space
    reads: frozenset[str] = frozenset()

    @abstractmethod
    def forward(self, x: Tensor, known: Tensor, cond: Condition | None = None) -> Distribution:
        """x [B, T, *E], known bool [B, T] (True = given; the rest of x is not looked at).

        The laws of unknown places are meant; those of known ones say nothing.
        """

    def fill(self, state: State, x: Tensor, known: Tensor) -> Distribution:
        """The same behind ``state``, of the sequence model with these weights: x [B, L, *E].

        Raises:
            ValueError: a net that can't go on from a state, or no room left in its context.
        """
        raise ValueError(f"{type(self).__name__} can't go on from a state")

    def rooms(self, state: State) -> list[int]:
        """How many symbols ``fill`` can take behind every row of a state."""
        return [(self.space.max_len or 2**31) - n for n in state.lens]


class AnyOrder(SequenceModel):
    """A MaskedModel and an order: exact score, sampling and infilling for that order.

    Symbol t of this model's sequence is place ``order[t]`` of the medium, so a prompt gives
    the first places of the order; an order that begins with the known places fills in the rest.
    Source: Uria et al. 2014, "A Deep and Tractable Density Estimator".
    """

    order: Tensor

    def __init__(self, net: MaskedModel, order: Sequence[int]) -> None:
        super().__init__()
        if sorted(order) != list(range(len(order))):
            raise ValueError("an order names every place exactly once")
        self.net, self.space, self.reads = net, _in_order(net.space, len(order)), net.reads
        self.register_buffer("order", torch.tensor(list(order)), persistent=False)

    def start(self, batch: int, cond: Condition | None = None) -> State:
        leaves = self.check(batch, cond).leaves()
        like = torch.zeros(batch, len(self.order), *self.space.event_shape, dtype=torch.int64)
        return State((0,) * batch, {**leaves, "symbols": Grow.empty(like.to(self.order.device), 1)})

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        self.check_room(max(state.lens) + x.shape[1])
        return state.push(x.shape[1], tail, symbols=x)

    def predict(self, state: State) -> Distribution:
        rows, places, count = len(state.lens), len(self.order), state.tail + 1
        x = self.order.new_zeros(rows, places, *self.space.event_shape)
        seen = state.grow("symbols").read()
        x[:, self.order[: seen.shape[1]]] = seen
        # One pass of the net for each asked position t: the first t places of the order are known.
        step = state.pos(count, back=state.tail).tensor(x.device)
        rank = torch.argsort(self.order)
        known = (rank < step[..., None]).flatten(0, 1)
        many = torch.arange(rows, device=x.device).repeat_interleave(count)
        law: Distribution = self.net(x[many], known, Condition.of(state).select(many.tolist()))
        place = self.order[step.flatten().clamp_max(places - 1)]
        picked = law[torch.arange(rows * count, device=x.device), place]
        return picked.map(lambda t: t.unflatten(0, (rows, count)))

    def to_order(self, x: Tensor) -> Tensor:
        """From places to this model's sequence: [B, T, *E]."""
        return x[:, self.order]

    def to_places(self, x: Tensor) -> Tensor:
        """From this model's sequence to places: [B, T, *E]."""
        return x[:, torch.argsort(self.order)]


def _in_order(space: Space, length: int) -> Space:
    """The symbols of ``length`` places in an order of their own."""
    grid = space.grid if length == space.max_len else None
    return replace(space, max_len=length, grid=grid, order=space.order if grid else "raster")


class DirectModel(nn.Module, ABC):
    """No chain rule: the whole output at once (CTC, quantile patches). No per-symbol scores."""

    space: Space

    @abstractmethod
    def forward(self, cond: Condition) -> Any:
        """What the objective and ``decode`` need."""

    @abstractmethod
    def decode(self, cond: Condition) -> list[Tensor]:
        """One sequence a row."""

    def log_prob(self, x: Tensor, cond: Condition) -> Tensor:
        """Of whole sequences [B], in nats, where it is tractable.

        Raises:
            ValueError: where it is not.
        """
        raise ValueError(f"{type(self).__name__} has no tractable probability of a sequence")
