"""Decoding as a value plus a step. Shapes: B rows, K guessed symbols, E event shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from chainrule.core.distributions import Distribution
from chainrule.core.model import Condition
from chainrule.core.noise import Noise
from chainrule.core.state import State


class Warp(Protocol):
    """Temperature, top-k, …: a frozen value with one setting a row, so rows may differ."""

    def __call__(self, law: Distribution) -> Distribution:
        """The law that symbols are drawn from."""

    def select(self, rows: Sequence[int]) -> Self: ...

    def concat(self, others: Sequence[Self]) -> Self: ...

    def tempered(self) -> Self:
        """Without whatever costs more than it betters a guess."""


class Memo(Protocol):
    """What a proposer remembers about its rows."""

    def select(self, rows: Sequence[int]) -> Self: ...

    def concat(self, others: Sequence[Self]) -> Self: ...


@dataclass(frozen=True, eq=False)
class Run:
    """Rows being decoded. ``last`` [B, 1, *E] is emitted and not yet consumed."""

    state: State
    last: Tensor
    noise: Noise
    warp: Warp
    memo: Any = None

    def select(self, rows: Sequence[int]) -> Run:
        """The named rows, in that order: how finished rows are dropped."""
        index = torch.tensor(list(rows), device=self.last.device, dtype=torch.int64)
        return replace(
            self,
            state=self.state.select(rows),
            last=self.last[index],
            noise=self.noise.select(rows),
            warp=self.warp.select(rows),
            memo=None if self.memo is None else self.memo.select(rows),
        )

    @staticmethod
    def concat(runs: Sequence[Run]) -> Run:
        """All rows of all runs: how rows are admitted."""
        first, others = runs[0], runs[1:]
        if not others:
            return first
        return Run(
            State.concat([r.state for r in runs]),
            torch.cat([r.last for r in runs]),
            Noise.concat([r.noise for r in runs]),
            first.warp.concat([r.warp for r in others]),
            None if first.memo is None else first.memo.concat([r.memo for r in others]),
        )


@dataclass(frozen=True, eq=False)
class Chunk:
    """What one step emitted: row b's symbols are ``symbols[b, :count[b]]``.

    ``log_prob`` [B, K+1], in nats, is under the model itself, before any warp.
    """

    symbols: Tensor
    count: list[int]
    log_prob: Tensor


class Decoder(Protocol):
    """Never a generator: between two steps, rows may be admitted and dropped."""

    def start(
        self,
        prompt: Sequence[Tensor],
        noise: Noise,
        cond: Condition | None = None,
        warp: Warp | None = None,
    ) -> tuple[Run, Chunk]:
        """Consume the prompts, of any lengths, and emit the first symbol."""

    def step(self, run: Run) -> tuple[Run, Chunk]:
        """Emit one symbol or more in every row."""


class Proposer(Protocol):
    """Guesses K symbols. It may be wrong and can never change the output."""

    def start(self, prompt: Sequence[Tensor], cond: Condition | None = None) -> Any:
        """The memo of these rows."""

    def propose(self, run: Run) -> tuple[Tensor, Any]:
        """Guesses [B, K, *E] for the symbols after ``run.last``."""

    def settle(self, memo: Any, chunk: Chunk) -> Any:
        """Learn what was really emitted."""
