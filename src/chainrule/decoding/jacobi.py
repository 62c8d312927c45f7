"""Jacobi decoding: the model's own answers to wrong guesses are the next guesses.

Source: Santilli et al. 2023, "Accelerating transformer inference for translation via parallel
decoding"; with sampling it is a fixed-point iteration because the noise belongs to the position.
Shapes: B rows, K guessed symbols, E event shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.core.decoder import Chunk, Decoder, Run
from chainrule.core.model import Condition, ReplayModel, SequenceModel
from chainrule.decoding.strategy import Strategy, Target
from chainrule.decoding.verify import Verify

GUESSES = 4
FREE = 64  # where they cost nothing


def guesses_are_free(model: SequenceModel) -> bool:
    """Whether a pass costs the same for any number of guesses: over a medium of one size, that of a
    model without a cache does."""
    space = model.space
    return isinstance(model, ReplayModel) and space.max_len is not None and space.kind != "real"


@dataclass(frozen=True, eq=False)
class Iterate:
    """The guesses of the next step [B, K, *E]; None before the first symbol."""

    guess: Tensor | None

    def select(self, rows: Sequence[int]) -> Iterate:
        """The named rows, in that order."""
        return Iterate(None if self.guess is None else self.guess[list(rows)])

    def concat(self, others: Sequence[Iterate]) -> Iterate:
        """All rows of all memos."""
        guesses = [m.guess for m in (self, *others) if m.guess is not None]
        if not guesses:
            return Iterate(None)
        most = max(g.shape[1] for g in guesses)  # runs may guess unlike many
        wide = [torch.cat([g, *[g[:, -1:]] * (most - g.shape[1])], 1) for g in guesses]
        return Iterate(torch.cat(wide))


class Jacobi(Strategy):
    """No helper at all: for models whose answer hardly hangs on the last few symbols."""

    exactness = "identical"

    def __init__(self, guesses: int = GUESSES) -> None:
        self.guesses = guesses

    @staticmethod
    def decoder(target: Target) -> Decoder:
        if target.model.space.kind == "real":
            raise ValueError(
                "strategy jacobi gains nothing on real-valued symbols: no guess is ever hit exactly"
            )
        usual = FREE if guesses_are_free(target.model) else GUESSES
        return Verify(target.model, Jacobi(target.guesses or usual))

    def start(self, prompt: Sequence[Tensor], cond: Condition | None = None) -> Iterate:
        """Nothing is known yet."""
        return Iterate(None)

    def propose(self, run: Run) -> tuple[Tensor, Iterate]:
        """What was answered before, from the first place that is still open."""
        assert run.memo.guess is not None
        return run.memo.guess, run.memo

    def settle(self, memo: Iterate, chunk: Chunk) -> Iterate:
        """The answers behind what was emitted; the newest symbol, again and again, behind them."""
        x, shown = chunk.symbols, torch.tensor(chunk.count, device=chunk.symbols.device)[:, None]
        place = shown + torch.arange(self.guesses, device=x.device)
        rows = torch.arange(len(x), device=x.device)[:, None]
        open_ = place < x.shape[1]
        place = torch.where(open_, place, shown - 1)
        return Iterate(x[rows, place])
