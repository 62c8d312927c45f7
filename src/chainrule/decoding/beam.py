"""Beam search, plain and diverse: the likeliest continuations that a bounded search finds.

Shapes: B prompts, T prompt length, N hypotheses (a row each), V alphabet size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from chainrule.core.config import bounded
from chainrule.core.distributions import Finite
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.space import Space
from chainrule.decoding.verify import consumed

WIDEST = 4096  # hypotheses of one prompt
LARGEST = 2**25  # log-probabilities looked at in one step

Ended = Literal["eos", "stop", "length"]
Complete = Callable[[Sequence[int]], bool]


@dataclass(frozen=True)
class Hypothesis:
    """A continuation.

    ``log_prob``, in nats, is its exact log-probability given the prompt; ``score`` is that over
    the length penalty.
    """

    symbols: list[int]
    log_prob: float
    score: float
    ended: Ended


def penalised(log_prob: float, length: int, length_penalty: float) -> float:
    """log p / ((5 + length) / 6)^length_penalty (Wu et al. 2016, eq. 14); 0 is log p itself."""
    penalty: float = ((5 + length) / 6) ** length_penalty
    return log_prob / penalty


@torch.no_grad()
def beam(
    model: SequenceModel,
    prompts: Sequence[Tensor],
    width: int,
    length: int,
    *,
    eos: int | None = None,
    n_best: int = 1,
    length_penalty: float = 0.0,
    groups: int = 1,
    diversity: float = 0.5,
    stop: Complete | None = None,
    cond: Condition | None = None,
) -> list[list[Hypothesis]]:
    """The n best continuations of each prompt [T] that a beam finds, best first, all different.

    Each step ranks all continuations of a prompt's hypotheses by one symbol. One that ends counts
    if it is among the ``width`` likeliest; the likeliest unfinished ones, ``width`` of them, go
    on. The search of a prompt is over when none of these can reach the score of its n-th best.
    Width 1 without a length penalty is greedy decoding, which is temperature 0. Equals are ranked
    by the rank of their prefix, then by symbol; of equal scores, the first to end is the better.

    Args:
        length: new symbols at most; a hypothesis so long has ended.
        eos: the end symbol; it is the last one of the hypothesis that it ends.
        length_penalty: 0 to 10; the more, the longer (see ``penalised``).
        groups: diverse beam search (Vijayakumar et al. 2016): so many beams of width / groups
            choose in turn, each ranking a symbol ``diversity`` nats lower for every time that an
            earlier one chose it in this step. Each yields its share of the n best.
        stop: told the symbols of a hypothesis; True ends it with them.

    Raises:
        ValueError: a setting out of bounds, symbols that are not finite scalars, or more symbols
            than a fixed-length medium has room for.
    """
    _check(model.space, prompts, width, length, n_best, groups)
    bounded("length_penalty", length_penalty, 0, 10)
    bounded("diversity", diversity, 0, 1e6)
    rules = _Rules(
        width // groups, length, eos, -(-n_best // groups), length_penalty, diversity, stop
    )
    order = range(len(prompts) * groups)
    search = [_Beam(rules, range(row, row + 1)) for row in order]  # prompt by prompt
    state = consumed(model, prompts, cond).select([row // groups for row in order])
    past: list[list[int]] = [[] for _ in order]
    total = torch.zeros(len(past), 1, dtype=torch.float64, device=prompts[0].device)
    while past:
        law = model.predict(state)
        assert isinstance(law, Finite)
        totals = total + law.log_probs()[:, -1].double()
        rows: list[int] = []
        symbols: list[int] = []
        for first in range(0, len(search), groups):
            chosen = torch.zeros_like(totals[0])
            for number in range(first, first + groups):
                known = [h.symbols for other in search[first:number] for h in other.best]
                picks = search[number].step(totals, past, chosen, known)
                search[number].rows = range(len(rows), len(rows) + len(picks))
                rows += [row for row, _ in picks]
                symbols += [symbol for _, symbol in picks]
        past = [[*past[row], symbol] for row, symbol in zip(rows, symbols, strict=True)]
        if past:
            total = totals[rows, symbols][:, None]
            x = torch.tensor(symbols, device=prompts[0].device)
            state = model.extend(state.select(rows), x[:, None])
    found = []
    for first in range(0, len(search), groups):
        every = [h for one in search[first : first + groups] for h in one.best]
        found.append(sorted(every, key=lambda h: -h.score)[:n_best])
    return found


@dataclass(frozen=True)
class _Rules:
    """What all beams of a search have in common; ``share``: how many of the n best each finds."""

    size: int
    length: int
    eos: int | None
    share: int
    length_penalty: float
    diversity: float
    stop: Complete | None

    def why(self, symbols: list[int]) -> Ended | None:
        """Why a hypothesis ends here, if it does."""
        if symbols[-1] == self.eos:
            return "eos"
        if self.stop is not None and self.stop(symbols):
            return "stop"
        return "length" if len(symbols) == self.length else None


@dataclass
class _Beam:
    """One beam of one prompt: the rows of its unfinished hypotheses, and the best ended ones."""

    rules: _Rules
    rows: range
    best: list[Hypothesis] = field(default_factory=list)

    def step(
        self, totals: Tensor, past: list[list[int]], chosen: Tensor, known: list[list[int]]
    ) -> list[tuple[int, int]]:
        """The (row, symbol) that go on, likeliest first; what was picked is counted in ``chosen``.

        Args:
            totals: log-probabilities [N, V] of the hypotheses ``past`` [N] and one symbol more.
            chosen: how often earlier beams of the prompt picked each symbol [V].
            known: what they have found already: it is passed over.
        """
        if not self.rows:
            return []
        rules, first = self.rules, self.rows.start
        go_on: list[tuple[int, int]] = []
        wish = totals[first : self.rows.stop] - rules.diversity * chosen
        # A row has one end symbol, so twice the size leaves enough that go on; stops may be many.
        enough = 2 * rules.size + len(known) if rules.stop is None else wish.numel()
        rank = 0
        for i, symbol in _ranked(wish, enough):
            if rank >= rules.size == len(go_on):
                break
            row = first + i
            symbols = [*past[row], symbol]
            if symbols in known:
                continue
            why = rules.why(symbols)
            if why is None and len(go_on) < rules.size:
                go_on.append((row, symbol))
                chosen[symbol] += 1
            elif why is not None and rank < rules.size:
                self._end(symbols, float(totals[row, symbol]), why)
                chosen[symbol] += 1
            rank += 1
        if len(self.best) == rules.share and go_on:
            # A log-probability only falls, and the penalty is at its most at the full length.
            reach = max(float(totals[row, symbol]) for row, symbol in go_on)
            if self.best[-1].score >= penalised(reach, rules.length, rules.length_penalty):
                return []
        return go_on

    def _end(self, symbols: list[int], log_prob: float, why: Ended) -> None:
        score = penalised(log_prob, len(symbols), self.rules.length_penalty)
        ended = [*self.best, Hypothesis(symbols, log_prob, score, why)]
        self.best = sorted(ended, key=lambda h: -h.score)[: self.rules.share]


def _ranked(wish: Tensor, count: int) -> list[tuple[int, int]]:
    """The (row, symbol) of the largest of [N, V], in order; equals by row, then by symbol."""
    flat = wish.flatten()
    least = flat.topk(min(count, len(flat))).values[-1]  # topk itself doesn't order equals
    kept = ((flat >= least) & (flat > -math.inf)).nonzero()[:, 0]
    order = flat[kept].argsort(descending=True, stable=True)[:count]
    return [divmod(i, wish.shape[1]) for i in kept[order].tolist()]


def _check(
    space: Space, prompts: Sequence[Tensor], width: int, length: int, n_best: int, groups: int
) -> None:
    if space.kind != "finite" or space.event_shape or space.size is None:
        raise ValueError("beam search needs a model of scalar finite symbols")
    bounded("width", width, 1, WIDEST)
    bounded("length", length, 1, 10_000_000)
    bounded("groups", groups, 1, width)
    bounded("n", n_best, 1, width)
    if width % groups:
        raise ValueError(f"{groups} groups can't share a beam of {width} evenly")
    if not prompts:
        raise ValueError("no prompt given: an empty one is a tensor of no symbols")
    if len(prompts) * width * space.size > LARGEST:
        most = LARGEST // (len(prompts) * space.size)
        raise ValueError(
            f"a beam of {width} is too wide for {len(prompts)} prompts and an alphabet of "
            f"{space.size}: {most} at most"
        )
    room = (space.max_len or 2**31) - max(map(len, prompts))
    if length > room:
        raise ValueError(f"{length} symbols: behind this prompt the medium has room for {room}")
