"""A smaller model drafts, with the dice of the target. Shapes: B rows, K guessed symbols.

Sources: Leviathan et al. 2023, "Fast inference from transformers via speculative decoding"; the
shared Gumbel noise instead of rejection: Daliri et al. 2025, "Coupling without communication":
two laws agree with a probability of at least (1 - TV) / (1 + TV).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.core.decoder import Chunk, Decoder, Run
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.state import State
from chainrule.decoding.strategy import Strategy, Target
from chainrule.decoding.verify import Verify, consumed

GUESSES = 4


@dataclass(frozen=True, eq=False)
class Drafted:
    """The draft's state, as far as the target's; while it guesses, ``ahead`` symbols farther."""

    state: State
    ahead: int = 0

    def select(self, rows: Sequence[int]) -> Drafted:
        """The named rows, in that order."""
        return Drafted(self.state.select(rows))

    def concat(self, others: Sequence[Drafted]) -> Drafted:
        """All rows of all memos."""
        return Drafted(State.concat([m.state for m in (self, *others)]))

    def settled(self, chunk: Chunk) -> Drafted:
        """Back to what the target has consumed."""
        if not self.ahead:
            return self
        back = [self.ahead + 1 - count for count in chunk.count]
        return Drafted(self.state.rewind(back).trim())


class Draft(Strategy):
    """Any model over the same Space drafts."""

    exactness = "identical"
    reads = frozenset({"guesses", "draft"})

    def __init__(self, model: SequenceModel, guesses: int = GUESSES) -> None:
        self.model, self.guesses = model, guesses

    @staticmethod
    def decoder(target: Target) -> Decoder:
        if target.draft is None:
            raise ValueError("strategy draft needs a second model: --draft RUN, of the same codec")
        return Verify(target.model, Draft(target.draft, target.guesses or GUESSES))

    def start(self, prompt: Sequence[Tensor], cond: Condition | None = None) -> Drafted:
        """Consume the prompts, under what the draft reads of the condition."""
        given = {} if cond is None else cond.given()
        reads = self.model.reads  # with ``source`` goes ``source_ok``
        read = Condition(**{k: v for k, v in given.items() if k.partition("_")[0] in reads})
        return Drafted(consumed(self.model, prompt, read))

    def propose(self, run: Run) -> tuple[Tensor, Drafted]:
        """The draft's own continuation under the same warp and noise."""
        guess, state = continued(self.model, run.memo.state, run, self.guesses)
        return guess, Drafted(state, guess.shape[1])

    def settle(self, memo: Drafted, chunk: Chunk) -> Drafted:
        """Back to what the target has consumed."""
        return memo.settled(chunk)


def continued(model: SequenceModel, state: State, run: Run, n: int) -> tuple[Tensor, State]:
    """n symbols [B, n] that ``model`` draws behind ``run.last``, or as many as the medium has left.

    The state has consumed them all, and can be rewound to ``run.last``.
    """
    last = run.last
    if model.space.max_len is not None:
        n = min(n, model.space.max_len - max(state.lens) - 2)
    if n < 1:
        return last[:, :0], state
    for warp in (run.warp, run.warp.tempered()):  # a native draw is worth a few wrong guesses
        rolled = model.rollout(state, last, n, run.noise, warp)
        if rolled is not None:
            full, guess = rolled
            return guess, model.extend(full, guess[:, -1:], tail=n)
    state, guesses = model.extend(state, last), []
    for i in range(n):
        law = model.predict(state)[:, -1:]
        guesses.append(run.warp(law).sample(run.noise.at(state.pos(1))))
        state = model.extend(state, guesses[-1], tail=i + 1)
    return torch.cat(guesses, 1), state
