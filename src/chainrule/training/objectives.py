"""What training minimises, by name: teacher forcing, and what is more or other than that.

Two show the model a prefix in which some symbols are wrong and ask for the right one, so that it
learns to go on from its own mistakes; ``hybrid`` also asks for what stood in blanks behind a
prefix. Extra heads learn beside each of them. ``any-order`` is of nets that know any places.
Shapes: B rows, T sequence length, E event shape.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from chainrule.core.config import bounded
from chainrule.core.distributions import Distribution
from chainrule.core.model import Condition, MaskedModel, SequenceModel
from chainrule.core.noise import Noise, Positions
from chainrule.core.objective import Batch, Objective

OBJECTIVES = ("nll", "scheduled", "noise", "hybrid", "any-order")
HEADS = 0.1  # extra heads touch no other weight; this keeps them out of the clipped norm
BLOCK, RUN = 8, 32  # places of a short block, and of the longest run that has known ones too
GOLDEN = (5**0.5 - 1) / 2  # its multiples modulo 1 lie evenly, however many they are


def objective(name: str, rate: float) -> Objective:
    """An objective; at rate 0 every one of them is ``nll``.

    Args:
        name: "nll" (teacher forcing), "scheduled" (some symbols of the prefix are the model's
            own), "noise" (some are drawn uniformly from the alphabet), "hybrid" (some batches
            have copies with blanks) or "any-order" (some places are known, drawn anew each time).
        rate: the probability with which a symbol, or for "hybrid" a batch, is chosen for that;
            "any-order" asks only whether it is above 0.

    Raises:
        ValueError: an unknown name, or a rate out of bounds.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective {name!r} is not one of {', '.join(OBJECTIVES)}")
    bounded("rate", rate, 0, 1)
    if name == "hybrid" and rate:
        return partial(_hybrid, rate)
    if name == "any-order" and rate:
        return _any_order

    def forced(
        model: SequenceModel, batch: Batch, noise: Noise | None = None
    ) -> tuple[Tensor, Tensor]:
        prefix = batch.x
        if name != "nll" and rate:
            assert noise is not None, f"{name} needs noise, one key a row"
            other = (_own if name == "scheduled" else _uniform)(model, batch, noise)
            prefix = _mixed(batch, other, rate, noise)
        # nll of the true symbols, each behind the mixed prefix: no law sees its own symbol.
        law, weight = model(prefix, batch.cond), _weight(batch)
        loss = -(law.log_prob(batch.x) * weight).sum()
        return loss + _heads(model, law, batch.x, weight), weight.sum()

    return forced


def suits(name: str, model: SequenceModel) -> None:
    """Refuse an objective that a model can't learn by; raises ValueError."""
    if name in ("hybrid", "any-order"):
        (_teacher if name == "hybrid" else _net)(model)


def _weight(batch: Batch) -> Tensor:
    """Which symbols are scored [B, T]."""
    if batch.weight is not None:
        return batch.weight
    return torch.ones(batch.x.shape[:2], device=batch.x.device)


def _heads(model: SequenceModel, law: Distribution, x: Tensor, weight: Tensor) -> Tensor:
    """0 whose gradient teaches the extra heads, where there are any, to guess further on."""
    learner: Any = model
    if not getattr(model, "ahead", None):
        return weight.new_zeros(())
    log_prob, places = learner.ahead_log_prob(law, x)
    ahead = log_prob.shape[-1]
    if not len(places):
        return weight.new_zeros(())
    scored = weight.unfold(1, ahead + 1, 1).amin(-1)[:, places]  # all that the heads see and guess
    loss = -HEADS / ahead * (log_prob * scored[..., None]).sum()
    slope: Tensor = loss - loss.detach()
    return slope


def _hybrid(
    rate: float, model: SequenceModel, batch: Batch, noise: Noise | None = None
) -> tuple[Tensor, Tensor]:
    """nll, and of the blanks in copies of some places, in a share ``rate`` of the batches.

    Either two short blocks that are all blank, or one longer run in which each row lacks every
    symbol with a probability of its own, or one span. The loss shown is that of the next symbols.
    Source: Gat et al. 2025, "Set block decoding" (a clean and a masked stream in one pass).

    Raises:
        ValueError: a model that can't be trained on blanks, or a condition that it doesn't read.
    """
    net = _teacher(model)
    assert noise is not None and batch.weight is None, "whole windows, one key a row"
    x, length, draw = batch.x, batch.x.shape[1], noise.to(batch.x.device).at(_places(batch))
    chosen, kind, at, other = draw.part(0).uniform(4)[0, 0].tolist()  # the batch shares these
    if chosen >= rate:
        return objective("nll", 0)(model, batch)
    if kind < 0.5:
        size = min(BLOCK, length)
        copies = [_run(size, length, at), _run(size, length, other)]
        blank = torch.ones(len(x), 2 * size, dtype=torch.bool, device=x.device)
    else:
        size = min(BLOCK + int(other * (RUN - BLOCK)), length)
        copies = [_run(size, length, at)]
        share, span, either = draw.part(1).uniform(3)[:, :1].unbind(-1)
        place = torch.arange(size, device=x.device)
        some = draw.part(2).uniform()[:, :size, 0] < share
        blank = torch.where(either < 0.5, some, place < span * size) | (place == 0)
    law = net.taught(x, copies, ~blank, model.check(len(x), batch.cond))
    place = torch.tensor([p for run in copies for p in run], device=x.device)
    nats = -law.log_prob(torch.cat([x, x[:, place]], 1))
    told, guessed = nats[:, :length].sum(), (nats[:, length:] * blank).sum()
    loss, count = told + guessed, x.numel() + blank.sum()
    weight = torch.ones(x.shape, device=x.device)
    loss = loss + _heads(model, law, x, weight)
    shown = told.detach() * count / x.numel()
    return loss + (shown - loss.detach()), count.to(nats)


def _teacher(model: SequenceModel) -> Any:
    if not hasattr(model.masked, "taught"):
        raise ValueError("--objective hybrid needs a model that fills in blanks: a transformer")
    return model.masked


def _any_order(
    model: SequenceModel, batch: Batch, noise: Noise | None = None
) -> tuple[Tensor, Tensor]:
    """The negative log-likelihood, over all orders on average: an estimate without bias.

    Each row has an order of its own, whose first t places are known, t even among 0 … T - 1.
    Sources: Uria et al. 2014, "A deep and tractable density estimator"; Hoogeboom et al. 2022,
    "Autoregressive diffusion models".

    Raises:
        ValueError: a model that can't be told any places, or a condition that it doesn't read.
    """
    net, cond = _net(model), model.check(len(batch.x), batch.cond)
    assert noise is not None and batch.weight is None, "whole pictures, one key a row"
    draw = noise.to(batch.x.device).at(_places(batch))
    known = draw.part(0).uniform()[:, 0, 0], draw.part(1).uniform()[..., 0]
    nats = _blank_nats(net, batch.x, *known, cond)
    return nats.sum(), nats.new_tensor(batch.x.numel())


@torch.no_grad()
def any_order_nats(
    model: SequenceModel, x: Tensor, seed: int, draws: int, cond: Condition | None = None
) -> Tensor:
    """Negative log-likelihood of x [B, T] over all orders on average, in nats: estimates [B].

    Each has no bias; ``draws`` passes of the net a row. How many places are known is spread
    evenly over passes and rows (a Kronecker sequence), so that their mean is steady.

    Raises:
        ValueError: a model that can't be told any places, or a condition that it doesn't read.
    """
    net, cond = _net(model), model.check(len(x), cond)
    total = torch.zeros(len(x), device=x.device)
    places, row = Positions((0,) * len(x), x.shape[1]), torch.arange(len(x), dtype=torch.float64)
    begin = Noise.seeded(seed, [0], "share").at(Positions((0,), 1)).uniform().item()
    for i in range(draws):
        share = ((row * draws + i) * GOLDEN + begin) % 1
        dice = Noise.seeded(seed, range(i, draws * len(x), draws), "order").to(x.device).at(places)
        total += _blank_nats(net, x, share.to(x.device), dice.uniform()[..., 0], cond)
    return total / draws


def _net(model: SequenceModel) -> MaskedModel:
    if model.masked is None:
        raise ValueError(
            "--objective any-order needs a model that can be told any places: --model anyorder"
        )
    return model.masked


def _blank_nats(
    net: MaskedModel, x: Tensor, share: Tensor, dice: Tensor, cond: Condition | None
) -> Tensor:
    """T times the mean nats of a row's unknown places: [B].

    ``share`` [B] in (0, 1) says how many of them are known, ``dice`` [B, T] which come first.
    """
    length = x.shape[1]
    count = (share * length).long().clamp_max(length - 1)[:, None]
    known = dice.argsort(1).argsort(1) < count
    nats = -net(x, known, cond).log_prob(x).masked_fill(known, 0)
    each: Tensor = nats.sum(1) * (length / (length - count[:, 0]))
    return each


def _run(size: int, length: int, u: float) -> range:
    """A run of ``size`` places among ``length``, for u in (0, 1)."""
    first = int(u * (length - size + 1))
    return range(first, first + size)


def _own(model: SequenceModel, batch: Batch, noise: Noise) -> Tensor:
    """What the model itself would have drawn at every place, after the true prefix [B, T, *E].

    Scheduled sampling (Bengio et al. 2015, "Scheduled sampling for sequence prediction with
    recurrent neural networks") in two passes (Mihaylova & Martins 2019, "Scheduled sampling for
    transformers"; Duckworth et al. 2019, "Parallel scheduled sampling").
    """
    with torch.no_grad():
        law = model(batch.x, batch.cond)
        drawn = law.sample(noise.to(batch.x.device).at(_places(batch)).part(0))
    # Weights that autocast cast without gradients must not serve the pass that needs them.
    torch.clear_autocast_cache()
    symbols: Tensor = drawn.to(batch.x.dtype)
    return symbols


def _uniform(model: SequenceModel, batch: Batch, noise: Noise) -> Tensor:
    """Symbols drawn uniformly from the alphabet [B, T, *E].

    Raises:
        ValueError: symbols without an alphabet.
    """
    size, shape = model.space.size, model.space.event_shape
    if size is None:
        raise ValueError("the objective noise needs a finite alphabet: use scheduled here")
    u = noise.to(batch.x.device).at(_places(batch)).part(0).uniform(math.prod(shape))
    return (u * size).long().reshape(batch.x.shape)


def _mixed(batch: Batch, other: Tensor, rate: float, noise: Noise) -> Tensor:
    """x with some symbols from ``other``. What is given and not scored is never replaced."""
    swap = noise.to(batch.x.device).at(_places(batch)).uniform()[..., 0] < rate
    if batch.weight is not None:
        swap &= batch.weight > 0
    return torch.where(swap.reshape(swap.shape + (1,) * (batch.x.ndim - 2)), other, batch.x)


def _places(batch: Batch) -> Positions:
    return Positions((0,) * len(batch.x), batch.x.shape[1])
