"""A model and a decoder that count what passes through them.

Shapes: B rows, L symbols in this call, K guessed symbols, V alphabet size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from chainrule.core.decoder import Chunk, Decoder, Run, Warp
from chainrule.core.distributions import Distribution
from chainrule.core.model import Condition, MaskedModel, Rolled, SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.state import State


class Counted(SequenceModel):
    """The same model; ``calls`` counts passes of its network, once for every row of a batch.

    Reading a prompt is one pass; ``n`` symbols made in one go are n. Extra heads sit on a pass that
    was made anyway and count nothing.
    """

    def __init__(self, inner: SequenceModel) -> None:
        super().__init__()
        self.inner, self.space, self.config, self.reads = (
            inner,
            inner.space,
            inner.config,
            inner.reads,
        )
        self.calls, self.stretch_length = 0, inner.stretch_length
        self._masked = None if inner.masked is None else _CountedMasked(inner.masked, self)

    @property
    def masked(self) -> MaskedModel | None:
        return self._masked

    @property
    def guesses_blocks(self) -> bool:
        return self.inner.guesses_blocks

    def start(self, batch: int, cond: Condition | None = None) -> State:
        return self.inner.start(batch, cond)

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        self.calls += len(x)
        return self.inner.extend(state, x, tail)

    def predict(self, state: State) -> Distribution:
        return self.inner.predict(state)

    def rollout(
        self, state: State, last: Tensor, n: int, noise: Noise, warp: Any
    ) -> tuple[State, Tensor] | None:
        rolled = self.inner.rollout(state, last, n, noise, warp)
        self.calls += 0 if rolled is None else n * len(last)
        return rolled

    def stretch(self, state: State, last: Tensor, n: int, noise: Noise, warp: Any) -> Rolled | None:
        rolled = self.inner.stretch(state, last, n, noise, warp)
        self.calls += 0 if rolled is None else sum(rolled.count)
        return rolled

    def guess_ahead(
        self, state: State, last: Tensor, n: int, noise: Noise, warp: Any
    ) -> Tensor | None:
        return self.inner.guess_ahead(state, last, n, noise, warp)

    def guess_block(
        self, state: State, last: Tensor, n: int, noise: Noise, warp: Any
    ) -> Tensor | None:
        guess = self.inner.guess_block(state, last, n, noise, warp)
        self.calls += 0 if guess is None else len(last)
        return guess


class _CountedMasked(MaskedModel):
    def __init__(self, inner: MaskedModel, count: Counted) -> None:
        super().__init__()
        self.inner, self.space, self.reads = inner, inner.space, inner.reads
        self.count = [count]  # in a list, so that it is no submodule of its own part

    def forward(self, x: Tensor, known: Tensor, cond: Condition | None = None) -> Distribution:
        self.count[0].calls += len(x)
        law: Distribution = self.inner(x, known, cond)
        return law

    def fill(self, state: State, x: Tensor, known: Tensor) -> Distribution:
        self.count[0].calls += len(x)
        return self.inner.fill(state, x, known)

    def rooms(self, state: State) -> list[int]:
        return self.inner.rooms(state)


@dataclass(eq=False)
class Watched:
    """The same decoder; counts symbols ``emitted``, ``guesses``, and how many were ``accepted``."""

    inner: Decoder
    emitted: int = 0
    guesses: int = 0
    accepted: int = 0

    def start(
        self,
        prompt: Sequence[Tensor],
        noise: Noise,
        cond: Condition | None = None,
        warp: Warp | None = None,
    ) -> tuple[Run, Chunk]:
        run, chunk = self.inner.start(prompt, noise, cond, warp)
        self.emitted += sum(chunk.count)
        return run, chunk

    def step(self, run: Run) -> tuple[Run, Chunk]:
        run, chunk = self.inner.step(run)
        rows, width = chunk.symbols.shape[:2]
        self.emitted += sum(chunk.count)
        self.guesses += rows * (width - 1)
        self.accepted += sum(chunk.count) - rows
        return run, chunk
