"""Models around a model: what depends on history inherits rewind, chunks, beams and scores.

Shapes: B rows, L symbols in this call, R undoable tail, V alphabet size.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chainrule.core.config import bounded
from chainrule.core.distributions import Categorical, Distribution, Finite
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.state import Fixed, Leaf, State, Window


class Wrapper(SequenceModel):
    """A model over finite symbols whose next-symbol law is an edit of another model's.

    A subclass writes ``edit`` and, for a memory of its own, ``begin`` and ``update``.
    """

    def __init__(self, inner: SequenceModel) -> None:
        super().__init__()
        if inner.space.kind != "finite" or inner.space.event_shape:
            raise ValueError(f"{type(self).__name__} needs a model of scalar finite symbols")
        self.inner, self.space, self.config = inner, inner.space, inner.config
        self.reads = inner.reads

    def start(self, batch: int, cond: Condition | None = None) -> State:
        inner = self.inner.start(batch, cond)
        return State.join({"inner": inner}, self.begin(inner))

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        inner = self.inner.extend(state.sub("inner"), x, tail)
        own = {k: v for k, v in state.leaves.items() if not k.startswith("inner/")}
        return State.join({"inner": inner}, {**own, **self.update(state, x, inner.tail)})

    def predict(self, state: State) -> Distribution:
        law = self.inner.predict(state.sub("inner"))
        assert isinstance(law, Finite)
        return Categorical(self.edit(law.log_probs(), state))

    # Guesses may be wrong, so those of the model inside serve as they are.

    @property
    def guesses_blocks(self) -> bool:
        return self.inner.guesses_blocks

    def guess_ahead(
        self, state: State, last: Tensor, n: int, noise: Noise, warp: Any
    ) -> Tensor | None:
        return self.inner.guess_ahead(state.sub("inner"), last, n, noise, warp)

    def guess_block(
        self, state: State, last: Tensor, n: int, noise: Noise, warp: Any
    ) -> Tensor | None:
        return self.inner.guess_block(state.sub("inner"), last, n, noise, warp)

    def begin(self, inner: State) -> dict[str, Leaf]:
        """The wrapper's own leaves before the first symbol."""
        return {}

    def update(self, state: State, x: Tensor, kept: int) -> dict[str, Leaf]:
        """The own leaves that x [B, L] changes; ``kept`` symbols stay undoable."""
        return {}

    @abstractmethod
    def edit(self, log_p: Tensor, state: State) -> Tensor:
        """Unnormalised log-probabilities [B, R+1, V] from normalised ones."""


class Penalties(Wrapper):
    """Discourage symbols that were consumed before, the prompt included.

    Args:
        repetition: p -> p^r for symbols seen (Keskar et al. 2019, on log-probabilities); 1 off.
        presence: nats taken once from a symbol seen; 0 off.
        frequency: nats taken for every time it was seen; 0 off.
    """

    def __init__(
        self,
        inner: SequenceModel,
        repetition: float = 1.0,
        presence: float = 0.0,
        frequency: float = 0.0,
    ) -> None:
        super().__init__(inner)
        bounded("repetition_penalty", repetition, 0.01, 100)
        bounded("presence_penalty", presence, -100, 100)
        bounded("frequency_penalty", frequency, -100, 100)
        self.repetition, self.presence, self.frequency = repetition, presence, frequency

    def begin(self, inner: State) -> dict[str, Leaf]:
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        none = torch.zeros(len(inner.lens), self.space.size or 0, dtype=torch.int32, device=device)
        return {"counts": Window.full(none, 1)}

    def update(self, state: State, x: Tensor, kept: int) -> dict[str, Leaf]:
        assert self.space.size is not None
        old = state["counts"]
        assert isinstance(old, Window)
        split = max(0, x.shape[1] - kept)
        early, late = x[:, :split], x[:, split:]
        base = old.t[:, -1]
        if early.shape[1]:
            ones = torch.ones_like(early, dtype=torch.int32)
            base = base.scatter_add(1, early, ones)
        seen = F.one_hot(late, self.space.size).int().cumsum(1, dtype=torch.int32)
        new = base[:, None] + seen
        if early.shape[1]:
            return {"counts": Window(torch.cat([base[:, None], new], 1), 1)}
        return {"counts": old.push(new, kept)}

    def edit(self, log_p: Tensor, state: State) -> Tensor:
        counts = state.window("counts")
        seen = counts > 0
        log_p = torch.where(seen, log_p * self.repetition, log_p)
        return log_p - self.presence * seen.to(log_p.dtype) - self.frequency * counts


class Bans(Wrapper):
    """Symbols, and sequences of symbols, that must never be produced."""

    def __init__(self, inner: SequenceModel, sequences: Sequence[Sequence[int]]) -> None:
        super().__init__(inner)
        assert self.space.size is not None
        for sequence in sequences:
            if not sequence or any(not 0 <= s < self.space.size for s in sequence):
                raise ValueError(f"can't ban {list(sequence)}: not symbols of this alphabet")
        single = {s[0] for s in sequences if len(s) == 1}
        if len(single) >= self.space.size:
            raise ValueError("every symbol is banned: leave at least one")
        always = torch.zeros(self.space.size, dtype=torch.bool)
        always[list(single)] = True
        self.register_buffer("always", always, persistent=False)
        self.longer = [tuple(s) for s in sequences if len(s) > 1]
        self.memory = max((len(s) for s in self.longer), default=2) - 1

    def begin(self, inner: State) -> dict[str, Leaf]:
        nothing = torch.full((len(inner.lens),), -1, device=self.always.device)  # type: ignore[arg-type]
        return {"last": Window.full(nothing, self.memory)}

    def update(self, state: State, x: Tensor, kept: int) -> dict[str, Leaf]:
        last = state["last"]
        assert isinstance(last, Window)
        return {"last": last.push(x, kept)}

    def edit(self, log_p: Tensor, state: State) -> Tensor:
        assert isinstance(self.always, Tensor)
        banned = self.always.expand(log_p.shape).clone()
        past = state.window("last").unfold(1, self.memory, 1)  # [B, R+1, memory]
        for *head, symbol in self.longer:
            match = (past[..., -len(head) :] == torch.tensor(head, device=past.device)).all(-1)
            banned[..., symbol] |= match
        if bool(banned.all(-1).any()):
            raise ValueError("the bans leave no symbol to go on with")
        return log_p.masked_fill(banned, -math.inf)


class Forced(Wrapper):
    """The symbols from position ``at`` on (one position, or one a row) are given: a point law."""

    def __init__(
        self, inner: SequenceModel, symbols: Sequence[int], at: int | Sequence[int] = 0
    ) -> None:
        super().__init__(inner)
        assert self.space.size is not None
        if any(not 0 <= s < self.space.size for s in symbols):
            raise ValueError(f"can't force {list(symbols)}: not symbols of this alphabet")
        self.symbols, self.at = tuple(symbols), at

    def begin(self, inner: State) -> dict[str, Leaf]:
        at = [self.at] * len(inner.lens) if isinstance(self.at, int) else list(self.at)
        if len(at) != len(inner.lens):
            raise ValueError(f"{len(at)} positions given for {len(inner.lens)} rows")
        return {"at": Fixed(torch.tensor(at))}

    def edit(self, log_p: Tensor, state: State) -> Tensor:
        out = log_p.clone()
        for row, (length, at) in enumerate(
            zip(state.lens, state.fixed("at").tolist(), strict=True)
        ):
            for entry in range(state.tail + 1):
                t = length - state.tail + entry - at
                if 0 <= t < len(self.symbols):
                    out[row, entry] = -math.inf
                    out[row, entry, self.symbols[t]] = 0.0
        return out
