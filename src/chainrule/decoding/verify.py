"""The loop: propose, verify, emit. Without a proposer it is ancestral sampling.

A proposer may be wrong and can never change the output, because every symbol is a pure
function of its distribution and of position-keyed noise.
Shapes: B rows, T prompt length, K guessed symbols, E event shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.core.decoder import Chunk, Decoder, Proposer, Run, Warp
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.state import State
from chainrule.decoding.strategy import Strategy, Target
from chainrule.decoding.warps import Warps


def consumed(
    model: SequenceModel, prompt: Sequence[Tensor], cond: Condition | None = None
) -> State:
    """The state after prompts [T_b, *E] of any lengths, 0 included."""
    state = model.start(len(prompt), cond)
    lens = [len(p) for p in prompt]
    if max(lens):
        x = prompt[0].new_zeros(len(prompt), max(lens), *prompt[0].shape[1:])
        for row, symbols in enumerate(prompt):
            x[row, : len(symbols)] = symbols
        # Right-padded: consume the padding too, then undo it row by row.
        state = model.extend(state, x, tail=max(lens) - min(lens))
        state = state.rewind([max(lens) - n for n in lens])
    return state


@dataclass(frozen=True, eq=False)
class Verify:
    """Decode ``model``; with a proposer, several symbols a call and still the same ones.

    ``stretch``: without a proposer, how many symbols a model that can makes in one go; 0: none.
    """

    model: SequenceModel
    proposer: Proposer | None = None
    stretch: int = 0

    @torch.no_grad()
    def start(
        self,
        prompt: Sequence[Tensor],
        noise: Noise,
        cond: Condition | None = None,
        warp: Warp | None = None,
    ) -> tuple[Run, Chunk]:
        """Consume prompts [T_b, *E] of any lengths, 0 included, and emit the first symbol."""
        warp = Warps.of(len(prompt)) if warp is None else warp
        state = consumed(self.model, prompt, cond)
        law = self.model.predict(state)[:, -1:]
        x = warp(law).sample(noise.at(state.pos(1)))
        chunk = Chunk(x, [1] * len(prompt), law.log_prob(x))
        memo = None
        if self.proposer is not None:
            memo = self.proposer.settle(self.proposer.start(prompt, cond), chunk)
        return Run(state, x, noise, warp, memo), chunk

    def step(self, run: Run) -> tuple[Run, Chunk]:
        """Emit between 1 and K+1 symbols in every row."""
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self.step(run)
        if self.proposer is None:
            rolled = None
            if self.stretch:
                n = min(self.stretch, self._room(run) + 1)
                rolled = self.model.stretch(run.state, run.last, n, run.noise, run.warp)
            if rolled is not None:
                x = rolled.symbols
                last = x.gather(1, torch.tensor(rolled.count, device=x.device)[:, None] - 1)
                chunk = Chunk(x, rolled.count, rolled.log_prob)
                return Run(rolled.state, last, run.noise, run.warp), chunk
            state = self.model.extend(run.state, run.last)
            law = self.model.predict(state)
            x = run.warp(law).sample(run.noise.at(state.pos(1)))
            chunk = Chunk(x, [1] * len(state.lens), law.log_prob(x))
            return Run(state, x, run.noise, run.warp), chunk
        guess, memo = self.proposer.propose(run)
        guess = guess[:, : self._room(run)]
        k = guess.shape[1]
        block = torch.cat([run.last, guess], 1)
        full = self.model.extend(run.state, block, tail=k)
        law = self.model.predict(full)
        x = run.warp(law).sample(run.noise.at(full.pos(k + 1, back=k)))
        agreed = self.model.space.agree(guess, x[:, :k])
        a: list[int] = agreed.long().cumprod(1).sum(1).tolist()
        chunk = Chunk(x, [n + 1 for n in a], law.log_prob(x))
        state = full.rewind([k - n for n in a])
        last = x[torch.arange(len(a)), torch.tensor(a)][:, None]
        return Run(state, last, run.noise, run.warp, self.proposer.settle(memo, chunk)), chunk

    def _room(self, run: Run) -> int:
        """Fixed-size media: no guess beyond the last place."""
        end = self.model.space.max_len
        return 2**31 if end is None else max(0, end - 2 - max(run.state.lens))


class Ancestral(Strategy):
    """The definition: symbol after symbol, several in one go where the model can."""

    exactness = "identical"
    reads = frozenset()

    @staticmethod
    def decoder(target: Target) -> Decoder:
        # Stretches of one size, so that the last one makes nothing that nobody asked for.
        left = max(1, target.length - 1)
        return Verify(target.model, stretch=-(-left // -(-left // target.model.stretch_length)))


@dataclass(frozen=True, eq=False)
class Emitted:
    """What one step added. Entry i belongs to ``rows[i]``, a row of the first batch.

    ``symbols[i]`` [K+1, *E] and ``log_prob[i]`` [K+1] (nats) count up to ``count[i]``;
    ``done[i]`` says why the row ended: "eos", "stop", "length", or None.
    """

    rows: list[int]
    symbols: Tensor
    count: list[int]
    log_prob: Tensor
    done: list[str | None]


Stop = Callable[[int, list[int]], int | None]  # (row, new symbols) -> how many to keep, or None


def drain(
    decoder: Decoder,
    begun: tuple[Run, Chunk],
    limits: Sequence[int],
    eos: int | None = None,
    stop: Stop | None = None,
) -> Iterator[Emitted]:
    """Step until every row has ended; finished rows leave the batch at once.

    Args:
        limits: the most symbols that row b may emit.
        eos: the end symbol; it is emitted as the row's last.
        stop: called with every row's new symbols; a number cuts them there and ends the row.
    """
    run, chunk = begun
    rows, left = list(range(len(limits))), list(limits)
    finite = chunk.symbols.ndim == 2 and not chunk.symbols.is_floating_point()
    while True:
        counts = list(chunk.count)
        done: list[str | None] = [None] * len(rows)
        ids = chunk.symbols.tolist() if finite and (eos is not None or stop is not None) else None
        for i, row in enumerate(rows):
            if stop is None and counts[i] == 1 < left[row] and (ids is None or ids[i][0] != eos):
                left[row] -= 1  # by far the most common case
                continue
            counts[i], done[i] = _cut(row, counts[i], left[row], ids and ids[i], eos, stop)
            left[row] -= counts[i]
        yield Emitted(rows, chunk.symbols, counts, chunk.log_prob, done)
        if any(done):
            keep = [i for i, why in enumerate(done) if why is None]
            if not keep:
                return
            run, rows = run.select(keep), [rows[i] for i in keep]
        run, chunk = decoder.step(run)


def _cut(
    row: int, count: int, left: int, ids: list[int] | None, eos: int | None, stop: Stop | None
) -> tuple[int, str | None]:
    """How many of a row's new symbols stand, and why it ends there."""
    count, done = (left, "length") if count >= left else (count, None)
    if ids is not None:
        if eos is not None and eos in ids[:count]:
            count, done = ids.index(eos) + 1, "eos"
        if stop is not None:
            cut = stop(row, ids[:count])
            if cut is not None:
                count, done = cut, "stop"
    return count, done
