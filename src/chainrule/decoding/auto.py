"""Measure, and take whichever identical strategy is the fastest here.

All of them make the same symbols, so the first ones are made by each in turn and nothing is lost
by that but time. Shapes: B rows, L symbols of a step, E event shape.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from chainrule.core.decoder import Chunk, Run, Warp
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.state import Grow
from chainrule.decoding.jacobi import guesses_are_free
from chainrule.decoding.verify import Verify

TURN = 2  # steps that every strategy is first given; one more at a later turn
OFTEN = 4  # steps between two decisions
AGAIN, LATER = 40, 500  # steps: then those not far behind get a turn; again by LATER at most
FAR = 0.7  # of the best rate
LIKELY = 0.75  # an acceptance rate that good guesses reach
LEAST = 32  # symbols below which nothing is measured at all
MARGIN = 1.05  # a change must promise so much
FORGET = 0.99  # of the guesses counted, at every step
DEAR = 0.02  # of a pass over one place: what one more costs at the least
ALIKE = 0.75  # of the rows: so many cost about as much
MOST = 12  # guesses a step


@dataclass
class Measured:
    """What a strategy did lately.

    ``guesses``: what one added to the time of a step, over the time of a step without any; and of
    how many there were. ``tried`` and ``right`` begin with a prior. ``spent`` seconds ``made`` so
    many symbols a row.
    """

    guesses: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=3))
    tried: float = 4.0
    right: float = 4.0 * 0.6
    spent: float = 0.0
    made: float = 0.0
    turns: int = 0

    def best(self) -> tuple[float, int]:
        """(time a symbol of one row, guesses a step) where guesses are as many as pay.

        A row gets 1 + r + r² + … + r^k symbols of k guesses of which a share r is right. A
        quarter of the time that guesses added is taken to be the same for any number of them.
        """
        if not self.guesses:
            return math.inf, 1
        found, hoped, share = (math.inf, 1), 1.0, self.right / self.tried
        each, many = sorted(self.guesses)[(len(self.guesses) - 1) // 2]
        for k in range(1, MOST + 1):
            hoped += share**k
            found = min(found, ((1 + max(each, DEAR) * (many + 3 * k) / 4) / hoped, k))
        return found


@dataclass
class Choice:
    """What was measured for about so many rows, and what follows from it."""

    by_name: dict[str, Measured] = field(default_factory=dict)
    chosen: str = "ancestral"
    guesses: int | None = None
    steps: int = 0
    again: int = AGAIN  # the step at which to measure anew
    alone: deque[float] = field(default_factory=lambda: deque(maxlen=2))  # seconds of a symbol
    block: float | None = None  # seconds of a pass over a few symbols
    rows: int = 0
    sure: str = ""  # why nothing needs to be measured

    def forget(self, rows: int) -> None:
        """Begin anew with the times, which depend on the rows, unlike what guesses are worth."""
        self.rows, self.steps, self.again, self.block = rows, 0, AGAIN, None
        for measured in self.by_name.values():
            measured.guesses.clear()
            measured.turns = 0

    def cost(self, name: str) -> float:
        """Time a symbol of one row; 1 is ancestral's."""
        return 1.0 if name == "ancestral" else self.by_name[name].best()[0]

    def __str__(self) -> str:
        if self.sure:
            return self.sure
        others = [m for name, m in self.by_name.items() if name != "ancestral" and m.made]
        mine, plain = self.by_name.get(self.chosen), self.by_name.get("ancestral")
        if mine is None or plain is None or not plain.made or not (others or self.block):
            return "ancestral: too short to measure"
        if self.chosen == "ancestral":
            return "ancestral: " + ("nothing was faster" if others else "guesses would not pay")
        now, before = mine.spent / mine.made, plain.spent / plain.made
        many = "1 guess" if self.guesses == 1 else f"{self.guesses} guesses"
        return (
            f"{self.chosen}, {many} a step: {1e3 * now:.2f} ms a symbol, ancestral "
            f"{1e3 * before:.2f}: {before / now:.1f} times as fast"
        )


@dataclass(frozen=True, eq=False)
class Memo:
    """All symbols of every row, so that any proposer can begin; and the one that is at it."""

    text: Grow
    cond: Condition | None
    name: str | None = None
    inner: Any = None

    def select(self, rows: Sequence[int]) -> Memo:
        """The named rows, in that order."""
        text = self.text.select(torch.tensor(list(rows), dtype=torch.int64))
        cond = None if self.cond is None else self.cond.select(rows)
        inner = None if self.inner is None else self.inner.select(rows)
        return Memo(text, cond, self.name, inner)

    def concat(self, others: Sequence[Memo]) -> Memo:
        """All rows of all memos; where they differ, the proposer begins anew."""
        text = Grow.concat([m.text for m in (self, *others)])
        conds = [m.cond for m in (self, *others) if m.cond is not None]
        cond = Condition.concat(conds) if conds else None
        if any(m.name != self.name for m in others):
            return Memo(text, cond)
        inner = None if self.inner is None else self.inner.concat([m.inner for m in others])
        return Memo(text, cond, self.name, inner)


class Auto:
    """A Decoder over others of the same model, all of them identical in what they make.

    Args:
        ways: by name, "ancestral" among them; a ``Verify`` each.
        choice: of an earlier run on rows like these; it is brought up to date in place.
        length: symbols that will be made: too few are not worth a measurement.
    """

    def __init__(
        self, model: SequenceModel, ways: Mapping[str, Verify], choice: Choice, length: int
    ) -> None:
        self.model, self.ways, self.choice = model, dict(ways), choice
        self.length, self.measures = length, length >= LEAST or bool(choice.by_name)
        self.left = float(length)
        guesser: Any = ways["jacobi"].proposer if "jacobi" in ways else None
        if guesser is not None and guesses_are_free(model):
            choice.chosen, choice.guesses = "jacobi", guesser.guesses
            choice.sure = "jacobi: without a cache, any number of guesses costs one pass"
            self.measures = False
        self._set_guesses()
        self.clock = time.perf_counter

    @torch.no_grad()
    def start(
        self,
        prompt: Sequence[Tensor],
        noise: Noise,
        cond: Condition | None = None,
        warp: Warp | None = None,
    ) -> tuple[Run, Chunk]:
        """Consume the prompts, of any lengths, and emit the first symbol."""
        run, chunk = self.ways["ancestral"].start(prompt, noise, cond, warp)
        lens = [len(p) for p in prompt]
        like = chunk.symbols.new_zeros(len(lens), max(lens) + 64, *chunk.symbols.shape[2:])
        for row, symbols in enumerate(prompt):
            like[row, : lens[row]] = symbols
        text = replace(Grow.empty(like, axis=1), lens=tuple(lens))
        return replace(run, memo=Memo(text.push(chunk.symbols), cond)), chunk

    @torch.no_grad()
    def step(self, run: Run) -> tuple[Run, Chunk]:
        """Emit one symbol or more in every row, by whatever is best, or next to be measured."""
        steady = self.measures and self._steady(len(run.state.lens))
        name = self._turn(run) if steady else self.choice.chosen
        way, memo = self.ways[name], run.memo
        fresh = memo.name != name
        if fresh:
            memo = replace(memo, name=name, inner=self._begun(way, memo))
        began = self.clock()
        after, chunk = way.step(replace(run, memo=memo.inner))
        seconds = self._since(began, chunk.symbols)
        made = chunk.symbols.shape[1]
        text = memo.text.push(chunk.symbols).rewind([made - n for n in chunk.count], 0)
        self.left -= sum(chunk.count) / len(chunk.count)
        if steady:
            self._note(name, seconds, chunk, fresh)
        return replace(after, memo=replace(memo, text=text, inner=after.memo)), chunk

    def _begun(self, way: Verify, memo: Memo) -> Any:
        """What the proposer of ``way`` would remember, had it made all this."""
        if way.proposer is None:
            return None
        symbols, lens = memo.text.read(), memo.text.lens
        before = [symbols[b, : n - 1] for b, n in enumerate(lens)]
        last = torch.stack([symbols[b, n - 1 : n] for b, n in enumerate(lens)])
        chunk = Chunk(last, [1] * len(lens), last.new_zeros(len(lens), 1, dtype=torch.float32))
        return way.proposer.settle(way.proposer.start(before, memo.cond), chunk)

    # ---- measuring ----

    def _steady(self, rows: int) -> bool:
        """Whether so many rows cost what was measured, or it is worth measuring anew."""
        before = self.choice.rows
        if before < ALIKE * rows or (2 * rows < before and self.left >= LEAST):
            self.choice.forget(rows)
        return rows >= ALIKE * self.choice.rows

    def _turn(self, run: Run) -> str:
        """Whose step this is."""
        choice, found = self.choice, self.choice.by_name
        choice.steps += 1
        for name in self.ways:
            if found.setdefault(name, Measured()).turns < TURN:
                if name != "ancestral" and not self._worth(run):
                    break
                return name
        if choice.steps % OFTEN:
            return choice.chosen
        best = min(found, key=choice.cost)
        if choice.cost(best) * MARGIN < choice.cost(choice.chosen):
            choice.chosen = best
        if choice.steps >= choice.again:
            choice.again += min(2 * choice.again, LATER)
            for name, measured in found.items():
                if name == "ancestral" or choice.cost(best) > FAR * choice.cost(name):
                    measured.turns = 1 if name == "ancestral" else -1
        choice.guesses = None if choice.chosen == "ancestral" else found[choice.chosen].best()[1]
        self._set_guesses()
        return choice.chosen

    def _set_guesses(self) -> None:
        proposer: Any = self.ways[self.choice.chosen].proposer
        if proposer is not None:
            proposer.guesses = self.choice.guesses

    def _worth(self, run: Run) -> bool:
        """Whether good guesses would save more time than it takes to try every way."""
        k, end = 4, self.model.space.max_len
        if self.choice.block is None:
            if end is not None and end - max(run.state.lens) < k + 2:
                return False
            self.choice.block = min(self._block(run, k) for _ in range(2))
        hoped = (1 - LIKELY ** (k + 1)) / (1 - LIKELY)
        saved = min(self.choice.alone) - self.choice.block / hoped
        return self.left * saved > TURN * (len(self.ways) - 1) * self.choice.block

    def _block(self, run: Run, k: int) -> float:
        """Seconds of a pass over k symbols more than one."""
        block = run.last.repeat_interleave(k + 1, 1)
        began = self.clock()
        state = self.model.extend(run.state, block, tail=k)
        law = run.warp(self.model.predict(state))
        return self._since(began, law.sample(run.noise.at(state.pos(k + 1, back=k))))

    def _note(self, name: str, seconds: float, chunk: Chunk, fresh: bool) -> None:
        """Learn from one step. Costs are compared within a round of trials: they grow with the
        text."""
        choice, found = self.choice, self.choice.by_name[name]
        trial, guesses = found.turns < TURN, chunk.symbols.shape[1] - 1
        found.turns += 1
        if not fresh:
            found.spent = FORGET * found.spent + seconds
            found.made = FORGET * found.made + sum(chunk.count) / len(chunk.count)
        if self.ways[name].proposer is None:
            if trial:
                choice.alone.append(seconds / (guesses + 1))
            return
        if trial and guesses:
            found.guesses.append(((seconds / min(choice.alone) - 1) / guesses, guesses))
        right = sum(chunk.count) - len(chunk.count)
        tried = sum(min(count, guesses) for count in chunk.count)
        found.tried, found.right = FORGET * found.tried + tried, FORGET * found.right + right

    def _since(self, began: float, made: Tensor) -> float:
        if made.is_cuda:
            torch.cuda.synchronize(made.device)
        return self.clock() - began
