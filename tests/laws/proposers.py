"""Proposers that are right, half right, random or always wrong, and jobs to decode.

Shapes: B rows, T length, K guessed symbols.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from chainrule.core.decoder import Chunk, Decoder, Run
from chainrule.core.model import Condition
from chainrule.core.noise import Noise
from chainrule.core.space import Space
from chainrule.decoding.warps import Warps
from tests.laws.entries import dice, symbols

Kind = Literal["oracle", "half", "random", "wrong"]
SEED = 11


@dataclass(frozen=True, eq=False)
class Job:
    """One sequence to decode, whatever it shares a batch with."""

    name: int
    prompt: Tensor  # [T, *E]
    length: int  # symbols to emit
    cond: Condition | None
    warp: Warps


@dataclass(frozen=True)
class Tally:
    """A memo: which job each row is, and how many symbols it has so far."""

    rows: tuple[int, ...]
    lens: tuple[int, ...]

    def select(self, rows: Sequence[int]) -> Tally:
        return Tally(tuple(self.rows[i] for i in rows), tuple(self.lens[i] for i in rows))

    def concat(self, others: Sequence[Tally]) -> Tally:
        both = (self, *others)
        rows, lens = (sum((getattr(t, n) for t in both), ()) for n in ("rows", "lens"))
        return Tally(rows, lens)


class Guesser:
    """A proposer that knows the truth of every job and may tell it or not."""

    def __init__(self, kind: Kind, space: Space, truth: dict[int, Tensor], most: int = 4) -> None:
        self.kind, self.space, self.truth = kind, space, truth
        self.admitted = iter(list(truth))  # jobs are started in this order
        self.dice = dice(5)
        self.lengths = itertools.cycle([most, 1, 0, max(most - 1, 1), 2])
        self.accepted = 0

    def start(self, prompt: Sequence[Tensor], cond: Condition | None = None) -> Tally:
        names = tuple(next(self.admitted) for _ in prompt)
        return Tally(names, tuple(len(p) for p in prompt))

    def propose(self, run: Run) -> tuple[Tensor, Tally]:
        assert run.memo.lens == tuple(n + 1 for n in run.state.lens), "the memo is behind"
        k = next(self.lengths)
        guess = symbols(self.space, len(run.memo.rows), k, self.dice)
        if self.kind != "random":
            for row, (name, n) in enumerate(zip(run.memo.rows, run.memo.lens, strict=True)):
                known = self.truth[name][n : n + k]
                guess[row, : len(known)] = known
        if self.kind in ("half", "wrong"):
            off = torch.ones(guess.shape[:2], dtype=torch.bool)
            if self.kind == "half":
                off = torch.rand(guess.shape[:2], generator=self.dice) < 0.4
            other = guess + 1 if self.space.size is None else (guess + 1) % self.space.size
            if self.space.event_shape:  # wrong in one part is wrong
                other[..., :-1] = guess[..., :-1]
                off = off[..., None]
            guess = torch.where(off, other, guess)
        return guess, run.memo

    def settle(self, memo: Tally, chunk: Chunk) -> Tally:
        self.accepted += sum(n - 1 for n in chunk.count)
        lens = tuple(a + b for a, b in zip(memo.lens, chunk.count, strict=True))
        return replace(memo, lens=lens)


class Table:
    """A small server: admits jobs, steps, collects what is emitted, drops finished rows."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.run: Run | None = None
        self.jobs: list[Job] = []
        self.symbols: dict[int, list[Tensor]] = {}
        self.log_prob: dict[int, list[Tensor]] = {}

    def admit(self, jobs: Sequence[Job], first: bool = False) -> None:
        """Start jobs together and put them behind, or before, those that are running."""
        conds = [job.cond for job in jobs if job.cond is not None]
        noise = Noise.seeded(SEED, [job.name for job in jobs])
        warp = jobs[0].warp.concat([job.warp for job in jobs[1:]])
        cond = Condition.concat(conds) if conds else None
        run, chunk = self.decoder.start([job.prompt for job in jobs], noise, cond, warp)
        self._collect(jobs, chunk)
        if self.run is None:
            self.run, self.jobs = run, list(jobs)
        elif first:
            self.run, self.jobs = Run.concat([run, self.run]), [*jobs, *self.jobs]
        else:
            self.run, self.jobs = Run.concat([self.run, run]), [*self.jobs, *jobs]
        self._drop()

    def step(self) -> None:
        if self.run is not None:
            self.run, chunk = self.decoder.step(self.run)
            self._collect(self.jobs, chunk)
            self._drop()

    def finish(self) -> dict[int, Tensor]:
        """Step to the end: prompt and continuation of every job."""
        while self.run is not None:
            self.step()
        return {name: torch.cat(parts) for name, parts in self.symbols.items()}

    def _collect(self, jobs: Sequence[Job], chunk: Chunk) -> None:
        for row, job in enumerate(jobs):
            so_far = self.symbols.setdefault(job.name, [job.prompt])
            scores = self.log_prob.setdefault(job.name, [])
            left = len(job.prompt) + job.length - sum(map(len, so_far))
            count = min(chunk.count[row], left)
            so_far.append(chunk.symbols[row, :count])
            scores.append(chunk.log_prob[row, :count])

    def _drop(self) -> None:
        assert self.run is not None
        ends = [len(job.prompt) + job.length for job in self.jobs]
        have = [sum(map(len, self.symbols[job.name])) for job in self.jobs]
        keep = [i for i, end in enumerate(ends) if have[i] < end]
        if len(keep) < len(self.jobs):  # as a server would: noise made ahead stays otherwise
            self.jobs = [self.jobs[i] for i in keep]
            self.run = self.run.select(keep) if keep else None
