"""Masked decoding: blocks of symbols filled in parallel by a net that sees both sides.

Approximate: places that are filled in one pass don't know of each other. The scores are not:
they are the model's own, left to right.
Shapes: B rows, K places of a block, E event shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from chainrule.core.decoder import Chunk, Run, Warp
from chainrule.core.model import Condition, MaskedModel, SequenceModel
from chainrule.core.noise import Noise
from chainrule.decoding.strategy import Exactness, Strategy, Target
from chainrule.decoding.verify import Verify
from chainrule.decoding.warps import Warps

BLOCK = 8  # places of a block where nothing is asked
PASSES = 8  # of a parallel continuation where nothing is asked
THRESHOLD = 0.9  # the probability from which a block keeps a symbol

# (log-probability [B, K] of every place's likeliest symbol, -inf where it is known, passes done)
# -> bool [B, K]: the places to keep; at least one unknown place of every row that has one.
Rule = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, eq=False)
class Masked:
    """Fill ``size`` places after the last symbol, then draw the one behind them, and again.

    ``rule`` says which places a pass keeps. It looks at how sure a law is and never at the symbol
    that was drawn from it: else likely symbols would be kept first, and a text fill with spaces.
    The symbol behind a block comes from the model itself: its law is there with the scores.
    """

    model: SequenceModel
    net: MaskedModel
    size: int
    rule: Rule
    whole: bool = False  # a block may not be cut short where the context ends

    def start(
        self,
        prompt: Sequence[Tensor],
        noise: Noise,
        cond: Condition | None = None,
        warp: Warp | None = None,
    ) -> tuple[Run, Chunk]:
        """Consume the prompts and emit the first symbol, which the model itself draws.

        Raises:
            ValueError: the context has no room for the whole block behind a prompt.
        """
        # Prompts of one length begin together: how far a cache reaches must not depend on others.
        groups = _grouped([len(p) for p in prompt])
        warp = Warps.of(len(prompt)) if warp is None else warp
        begun = [
            Verify(self.model).start(
                [prompt[b] for b in rows],
                noise.select(rows),
                None if cond is None else cond.select(rows),
                warp.select(rows),
            )
            for rows in groups
        ]
        run, chunk = _joined(groups, begun)
        for wanted, room in zip(self._wanted(run), self.net.rooms(run.state), strict=True):
            if self.whole and 0 < wanted >= room:  # the block begins with the last symbol
                raise ValueError(
                    f"a continuation of {wanted + 2:,} symbols in one go does not fit into the "
                    f"context, which has room for {room + 1:,} behind this prompt: make it "
                    "shorter, or choose strategy block"
                )
        return run, chunk

    @torch.no_grad()
    def step(self, run: Run) -> tuple[Run, Chunk]:
        """Emit a block in every row, a shorter one where the context or the medium ends."""
        rooms = self.net.rooms(run.state)
        sizes = [max(0, min(n, m - 1)) for n, m in zip(self._wanted(run), rooms, strict=True)]
        groups = _grouped(sizes)
        if len(groups) == 1:
            return self._block(run, sizes[0])
        parts = [self._block(run.select(rows), sizes[rows[0]]) for rows in groups]
        return _joined(groups, parts)

    def _wanted(self, run: Run) -> list[int]:
        """A block for every row; a medium of fixed size has a place for the symbol behind it."""
        end = 2**31 if self.model.space.max_len is None else self.model.space.max_len
        return [max(0, min(self.size, end - 2 - n)) for n in run.state.lens]

    def _block(self, run: Run, size: int) -> tuple[Run, Chunk]:
        block = self._filled(run, size)
        full = self.model.extend(run.state, block, tail=size)
        law = self.model.predict(full)
        last = run.warp(law[:, -1:]).sample(run.noise.at(full.pos(1)))
        x = torch.cat([block[:, 1:], last], 1)
        chunk = Chunk(x, [size + 1] * len(x), law.log_prob(x))
        return Run(full.trim(), last, run.noise, run.warp), chunk

    def _filled(self, run: Run, size: int) -> Tensor:
        """The last symbol and ``size`` more: [B, 1 + K, *E]."""
        x = torch.cat([run.last, run.last.new_zeros(len(run.last), size, *run.last.shape[2:])], 1)
        known = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        known[:, 0] = True
        draw, passes = run.noise.at(run.state.pos(size, back=-1)), 0
        while not bool(known.all()):
            law = self.net.fill(run.state, x, known)[:, 1:]
            picked = run.warp(law).sample(draw)
            surest = law.log_prob(law.mode()).masked_fill(known[:, 1:], -math.inf)
            kept = self.rule(surest, passes) & ~known[:, 1:]
            x[:, 1:][kept] = picked[kept]
            known[:, 1:] |= kept
            passes += 1
        return x


class Parallel(Strategy):
    """Mask-predict (Ghazvininejad et al. 2019): the whole continuation in a few passes.

    Every pass predicts all unknown places and keeps the surest, equally many each time (the linear
    schedule). What is kept stays. One pass is one shot.
    """

    exactness: ClassVar[Exactness] = "approximate"
    reads: ClassVar[frozenset[str]] = frozenset({"iterations"})

    @staticmethod
    def decoder(target: Target) -> Masked:
        rule = partial(_scheduled, iterations=target.iterations or PASSES)
        # The model itself draws the first symbol and the last.
        net, size = _masked(target.model, "parallel"), max(0, target.length - 2)
        return Masked(target.model, net, size, rule, whole=True)


class Block(Strategy):
    """Block-wise (Arriola et al. 2025; Gat et al. 2025): a block in as many passes as it needs.

    Every pass keeps the places whose likeliest symbol has at least probability ``threshold``,
    and the surest one in any case. The finished block joins the cached prefix.
    """

    exactness: ClassVar[Exactness] = "approximate"
    reads: ClassVar[frozenset[str]] = frozenset({"guesses", "threshold"})

    @staticmethod
    def decoder(target: Target) -> Masked:
        threshold = THRESHOLD if target.threshold is None else target.threshold
        rule = partial(_confident, threshold=threshold)
        return Masked(target.model, _masked(target.model, "block"), target.guesses or BLOCK, rule)


def _grouped(keys: list[int]) -> list[list[int]]:
    """Rows of one key together: what a row gets must not depend on those beside it."""
    return [[b for b, k in enumerate(keys) if k == key] for key in sorted(set(keys))]


def _joined(groups: list[list[int]], parts: list[tuple[Run, Chunk]]) -> tuple[Run, Chunk]:
    """Groups of rows as one batch again, in the rows' own order."""
    if len(parts) == 1:
        return parts[0]
    order = [b for rows in groups for b in rows]
    back = [order.index(b) for b in range(len(order))]
    chunks = [chunk for _, chunk in parts]
    widest = max(chunks, key=lambda c: c.symbols.shape[1])
    x = widest.symbols.new_zeros(len(order), *widest.symbols.shape[1:])
    log_prob = widest.log_prob.new_zeros(x.shape[:2])
    for rows, chunk in zip(groups, chunks, strict=True):
        width = chunk.symbols.shape[1]
        x[rows, :width], log_prob[rows, :width] = chunk.symbols, chunk.log_prob
    counts = [n for chunk in chunks for n in chunk.count]
    run = Run.concat([run for run, _ in parts]).select(back)
    return run, Chunk(x, [counts[i] for i in back], log_prob)


def _masked(model: SequenceModel, name: str) -> MaskedModel:
    if model.masked is None:
        raise ValueError(
            f"strategy {name} needs a model that fills blanks, with nothing wrapped around it: "
            "fit a transformer with --objective hybrid"
        )
    return model.masked


def _confident(surest: Tensor, passes: int, threshold: float) -> Tensor:
    return _surest(surest, 1) | (surest.exp() >= threshold)


def _scheduled(surest: Tensor, passes: int, iterations: int) -> Tensor:
    size = surest.shape[1]
    return _surest(surest, _quota(passes + 1, iterations, size) - _quota(passes, iterations, size))


def _surest(surest: Tensor, count: int) -> Tensor:
    """The ``count`` surest places of every row; of equals, the leftmost."""
    order = surest.argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(surest, dtype=torch.bool).scatter_(1, order[:, :count], True)


def _quota(passes: int, iterations: int, size: int) -> int:
    """How many of ``size`` places are known after so many passes: one a pass, at the least."""
    return min(size, max(passes, math.ceil(size * passes / iterations)))
