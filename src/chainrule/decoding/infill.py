"""Infilling: blanks anywhere in a sequence, given everything around them.

An any-order net does it exactly, and so does a model of one order where all blanks come last. Else
that one can't see what follows a blank: clamping ignores it, sequential Monte Carlo weighs it
afterwards.
Shapes: T sequence length, n samples, N particles, L symbols in a row, E event shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from chainrule.core.config import bounded
from chainrule.core.decoder import Decoder
from chainrule.core.model import AnyOrder, Condition, MaskedModel, SequenceModel
from chainrule.core.noise import Noise, Positions
from chainrule.core.state import State
from chainrule.decoding.jacobi import Jacobi, guesses_are_free
from chainrule.decoding.rows import row_bytes, rows_at_once
from chainrule.decoding.strategy import Exactness, Target
from chainrule.decoding.verify import Ancestral, Verify, drain
from chainrule.decoding.warps import Warps

Method = Literal["exact", "clamp", "smc"]
Told = Callable[[int], None]  # of how many symbols have been gone through
EXACTNESS: dict[Method, Exactness] = {
    "exact": "distribution",
    "clamp": "approximate",
    "smc": "approximate",
}
_LAWS = 2**24  # probabilities at a time: a long known stretch is weighed in pieces
PARTICLE_BYTES = 2**33  # that the states of all particles take, at most


@dataclass(frozen=True, eq=False)
class Filled:
    """Samples of a sequence whose blanks were filled.

    Args:
        symbols: [n, T, *E], the known ones as they were given.
        log_prob: float64 [n], in nats, of the blanks given the known symbols: exact, or estimated
            (smc), or given only what precedes each blank (clamp).
        effective_sample_size: of the particles that the samples are drawn from, 1 to N.
        log_evidence: estimated log-probability of the known symbols, in nats.
    """

    symbols: Tensor
    log_prob: Tensor
    method: Method
    effective_sample_size: float | None = None
    log_evidence: float | None = None


def infill(
    model: SequenceModel,
    x: Tensor,
    known: Tensor,
    method: Method | None = None,
    n: int = 1,
    *,
    particles: int = 256,
    seed: int = 0,
    warp: Warps | None = None,
    cond: Condition | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Filled:
    """Fill the blanks of x [T, *E], where ``known`` [T] is False, n times.

    Args:
        method: None is exact, where the model can.
        warp: the settings of one row, for ``exact`` and ``clamp``.
        cond: of one row, what the model is told.
        progress: is told how many symbols were gone through, and how many there are.

    Raises:
        ValueError: a model that can't do it in this way, or nothing to fill in.
    """
    if method == "smc":
        if warp not in (None, Warps.of(1)):
            raise ValueError(
                "method smc draws from the model's own law given the known symbols: leave the "
                "temperature and the filters as they are, or choose another method"
            )
        return smc(model, x, known, n, seed, particles, cond, _told(progress, 0, len(x)))
    net = model.masked
    if method != "clamp" and net is None and not blanks_last(known):
        raise ValueError(
            "this model goes through its symbols in one order and does not see the known ones "
            "behind a blank, so it can't fill in exactly: choose the approximate method smc "
            "(weighs what follows) or clamp (ignores it), or fit with --objective hybrid (text) or "
            "--model anyorder (pictures)"
        )
    parts, most = [], rows_at_once(model, n, len(x), cond)
    for first in range(0, n, most):
        rows = range(first, min(n, first + most))
        told = _told(progress, first // most * len(x), -(-n // most) * len(x))
        if method == "clamp":
            parts.append(clamp(model, x, known, rows, seed, warp, cond, told))
        elif net is not None:
            parts.append(exact(net, x, known, rows, seed, warp, cond=cond, told=told))
        else:
            parts.append(onward(model, x, known, rows, seed, warp, cond, told))
    symbols, log_prob = (torch.cat([getattr(p, k) for p in parts]) for k in ("symbols", "log_prob"))
    return Filled(symbols, log_prob, parts[0].method)


def blanks_last(known: Tensor) -> bool:
    """Whether every known symbol [T] precedes every blank."""
    return bool((known[1:] <= known[:-1]).all())


@torch.no_grad()
def exact(
    net: MaskedModel,
    x: Tensor,
    known: Tensor,
    rows: Sequence[int],
    seed: int,
    warp: Warps | None = None,
    order: Sequence[int] | None = None,
    cond: Condition | None = None,
    told: Told | None = None,
) -> Filled:
    """Samples of p(blanks | known) as the net has it when it fills in blank after blank.

    Args:
        rows: the numbers of the samples; each depends on the seed and its own number alone.
        order: the places of the blanks as they are to be filled; by default, left to right.

    Raises:
        ValueError: an order that doesn't name every blank once.
    """
    blanks = _blanks(x, known)
    order = blanks if order is None else list(order)
    if sorted(order) != blanks:
        raise ValueError("an order of blanks names each of them once, and no known place")
    given: list[int] = torch.nonzero(known)[:, 0].tolist()
    decoder = Verify(AnyOrder(net, given + order).to(x.device))
    return _drained(decoder, x, given, order, rows, seed, warp, cond, told)


@torch.no_grad()
def onward(
    model: SequenceModel,
    x: Tensor,
    known: Tensor,
    rows: Sequence[int],
    seed: int,
    warp: Warps | None = None,
    cond: Condition | None = None,
    told: Told | None = None,
) -> Filled:
    """Samples of p(blanks | known) where all blanks come last: the model goes on from the known."""
    assert blanks_last(known), "the caller has looked"
    blanks = _blanks(x, known)
    target = Target(model, length=len(blanks))
    way = Jacobi if guesses_are_free(model) else Ancestral
    return _drained(way.decoder(target), x, range(blanks[0]), blanks, rows, seed, warp, cond, told)


def _drained(
    decoder: Decoder,
    x: Tensor,
    given: Sequence[int],
    order: Sequence[int],
    rows: Sequence[int],
    seed: int,
    warp: Warps | None,
    cond: Condition | None,
    told: Told | None,
) -> Filled:
    """Go on from the places ``given`` to those of ``order``."""
    noise, many = Noise.seeded(seed, rows).to(x.device), len(rows)
    prompts = [x[list(given)]] * many
    begun = decoder.start(prompts, noise, _rows(cond, many), _each(warp, many))
    symbols = x.repeat(many, *[1] * x.ndim)
    places = torch.tensor(order, device=x.device)
    log_prob = torch.zeros(many, dtype=torch.float64, device=x.device)
    done = [0] * many
    for step in drain(decoder, begun, [len(order)] * many):
        for i, (row, count) in enumerate(zip(step.rows, step.count, strict=True)):
            symbols[row, places[done[row] : done[row] + count]] = step.symbols[i, :count]
            log_prob[row] += step.log_prob[i, :count].double().sum()
            done[row] += count
        if told is not None:
            told(len(given) + min(done))
    return Filled(symbols, log_prob, "exact")


@torch.no_grad()
def clamp(
    model: SequenceModel,
    x: Tensor,
    known: Tensor,
    rows: Sequence[int],
    seed: int,
    warp: Warps | None = None,
    cond: Condition | None = None,
    told: Told | None = None,
) -> Filled:
    """Left to right, known symbols put in as they come: approximate.

    A blank is drawn given what precedes it alone; what follows has no say.
    """
    last = max(_blanks(x, known))
    noise, warp = Noise.seeded(seed, rows).to(x.device), _each(warp, len(rows))
    symbols = x.repeat(len(rows), *[1] * x.ndim)
    log_prob = torch.zeros(len(rows), dtype=torch.float64, device=x.device)
    state = model.start(len(rows), _rows(cond, len(rows)))
    for begin, end in _stretches(known):
        if not known[begin]:
            state, drawn, nats = _drawn(model, state, end - begin, noise, warp, told)
            symbols[:, begin:end] = drawn
            log_prob += nats
        elif end <= last:
            state = model.extend(state, symbols[:, begin:end])
    return Filled(symbols, log_prob, "clamp")


@torch.no_grad()
def smc(
    model: SequenceModel,
    x: Tensor,
    known: Tensor,
    n: int,
    seed: int,
    particles: int = 256,
    cond: Condition | None = None,
    told: Told | None = None,
) -> Filled:
    """Sequential Monte Carlo (Doucet et al. 2001): approximate, exact with ever more particles.

    The model proposes the blanks; known symbols weigh the particles by their probability. When
    the effective sample size has fallen below half, particles are resampled (systematically).
    The size reported is that of the first ancestors, 1/Σ (weight of all descendants)², as Lee &
    Whiteley 2018 count them: resampling can't make it look better than it is.

    Raises:
        ValueError: ``particles`` out of bounds or more than memory holds, or known symbols that no
            particle agrees with.
    """
    bounded("particles", particles, 1, 100_000)
    state = model.start(1, cond)  # up to the first blank, one stands for all
    room = PARTICLE_BYTES // row_bytes(state, len(x))
    if particles > max(1, room):
        raise ValueError(
            f"{particles:,} particles of {len(x):,} symbols are more than memory holds: give "
            f"{max(1, room):,} at most (--particles), or choose method clamp"
        )
    first = min(_blanks(x, known))
    noise, warp = Noise.seeded(seed, range(particles)).to(x.device), Warps.of(particles)
    symbols = x.repeat(particles, *[1] * x.ndim)
    log_prob = torch.zeros(particles, dtype=torch.float64, device=x.device)  # of all symbols
    log_weight, ancestor = log_prob.clone(), torch.arange(particles, device=x.device)
    for begin, end in _stretches(known):
        if known[begin]:
            state, nats = _weighed(model, state, symbols[: len(state.lens), begin:end])
            log_prob, log_weight = log_prob + nats, log_weight + nats
            if bool((log_weight == -math.inf).all()):
                raise ValueError(
                    "no particle agrees with the known symbols: the model thinks them impossible; "
                    "give more particles, or change what is known"
                )
            continue
        if begin == first:
            state = state.select([0] * particles)
        if float(1 / (log_weight.softmax(0) ** 2).sum()) < particles / 2:
            kept = _systematic(log_weight.softmax(0), particles, seed, begin)
            state = state.select(kept)
            symbols, log_prob, ancestor = symbols[kept], log_prob[kept], ancestor[kept]
            log_weight = (log_weight.logsumexp(0) - math.log(particles)).repeat(particles)
        state, drawn, nats = _drawn(model, state, end - begin, noise, warp, told)
        symbols[:, begin:end] = drawn
        log_prob = log_prob + nats
    evidence, weight = float(log_weight.logsumexp(0)) - math.log(particles), log_weight.softmax(0)
    family = torch.zeros_like(weight).index_add_(0, ancestor, weight)
    size = min(max(float(1 / (family**2).sum()), 1.0), float(particles))
    chosen = _systematic(weight, n, seed, len(x))
    return Filled(symbols[chosen], log_prob[chosen] - evidence, "smc", size, evidence)


def _drawn(
    model: SequenceModel,
    state: State,
    count: int,
    noise: Noise,
    warp: Warps,
    told: Told | None,
) -> tuple[State, Tensor, Tensor]:
    """Sample blanks: the state behind them, symbols [B, L, *E], their log-probability [B]."""
    symbols, nats = [], []
    for _ in range(count):
        law = model.predict(state)[:, -1:]
        symbols.append(warp(law).sample(noise.at(state.pos(1))))
        nats.append(law.log_prob(symbols[-1]).double())
        state = model.extend(state, symbols[-1])
        if told is not None:
            told(state.lens[0])
    return state, torch.cat(symbols, 1), torch.cat(nats, 1).sum(1)


def _weighed(model: SequenceModel, state: State, x: Tensor) -> tuple[State, Tensor]:
    """Consume known symbols [B, L, *E]: the state behind them, their log-probability [B]."""
    nats = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for piece in x.split(max(1, _LAWS // (len(x) * (model.space.size or 1))), dim=1):
        full = model.extend(state, piece, tail=piece.shape[1])
        nats += model.predict(full)[:, :-1].log_prob(piece).double().sum(1)
        state = full.trim()
    return state, nats


def _stretches(known: Tensor) -> Iterator[tuple[int, int]]:
    """[begin, end) of the known and the blank stretches, by turns."""
    borders = (torch.nonzero(known[1:] != known[:-1])[:, 0] + 1).tolist()
    yield from zip([0, *borders], [*borders, len(known)], strict=True)


def _systematic(weight: Tensor, count: int, seed: int, at: int) -> list[int]:
    """``count`` indices by one uniform number: each as often as it weighs, to within one."""
    u = Noise.seeded(seed, [0], "resample").at(Positions((at,), 1)).uniform().item()
    ticks = (torch.arange(count, dtype=weight.dtype, device=weight.device) + u) / count
    found: list[int] = torch.searchsorted(weight.cumsum(0), ticks).tolist()
    return [min(i, len(weight) - 1) for i in found]


def _blanks(x: Tensor, known: Tensor) -> list[int]:
    """The places to fill in.

    Raises:
        ValueError: there is none, or ``known`` is of another length.
    """
    if known.shape != x.shape[:1]:
        raise ValueError(f"{len(known)} places are known or not, and the sequence has {len(x)}")
    blanks: list[int] = torch.nonzero(~known)[:, 0].tolist()
    if not blanks:
        raise ValueError("nothing to fill in: every symbol is known")
    return blanks


def _each(warp: Warps | None, rows: int) -> Warps:
    return Warps.of(rows) if warp is None else warp.select([0] * rows)


def _rows(cond: Condition | None, rows: int) -> Condition | None:
    return None if cond is None else cond.select([0] * rows)


def _told(progress: Callable[[int, int], None] | None, before: int, of: int) -> Told | None:
    return None if progress is None else lambda done: progress(before + done, of)
