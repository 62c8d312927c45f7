"""What training minimises, by name: teacher forcing, and two that meet the model's own errors.

Both show the model a prefix in which some symbols are wrong and ask for the right one, so that
it learns to go on from its own mistakes. Shapes: B rows, T sequence length, E event shape.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from chainrule.core.config import bounded
from chainrule.core.model import SequenceModel
from chainrule.core.noise import Noise, Positions
from chainrule.core.objective import Batch, Objective, nll

OBJECTIVES = ("nll", "scheduled", "noise")


def objective(name: str, rate: float) -> Objective:
    """An objective; at rate 0 every one of them is ``nll``.

    Args:
        name: "nll" (teacher forcing), "scheduled" (some symbols of the prefix are the model's
            own) or "noise" (some are drawn uniformly from the alphabet).
        rate: the probability with which a symbol of the prefix is replaced.

    Raises:
        ValueError: an unknown name, or a rate out of bounds.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective {name!r} is not one of {', '.join(OBJECTIVES)}")
    bounded("rate", rate, 0, 1)
    if name == "nll" or rate == 0:
        return nll

    def mixed(
        model: SequenceModel, batch: Batch, noise: Noise | None = None
    ) -> tuple[Tensor, Tensor]:
        assert noise is not None, f"{name} needs noise, one key a row"
        other = _own(model, batch, noise) if name == "scheduled" else _uniform(model, batch, noise)
        return _loss(model, batch, _mixed(batch, other, rate, noise))

    return mixed


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


def _loss(model: SequenceModel, batch: Batch, prefix: Tensor) -> tuple[Tensor, Tensor]:
    """``nll`` of the true symbols, each behind the mixed prefix: no law sees its own symbol."""
    log_prob = model(prefix, batch.cond).log_prob(batch.x)
    if batch.weight is None:
        return -log_prob.sum(), torch.tensor(float(log_prob.numel()))
    return -(log_prob * batch.weight).sum(), batch.weight.sum()


def _places(batch: Batch) -> Positions:
    return Positions((0,) * len(batch.x), batch.x.shape[1])
