"""Networks over numbers: what they read at a step, and from a hidden vector to a law of numbers.

The heads of DeepAR (Salinas et al. 2020, "DeepAR: probabilistic forecasting with autoregressive
recurrent networks"): parameters by softplus; a law of counts is rescaled by its row's scale.
Shapes: B rows, L positions, D width, F features of a step, T steps that are known.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrule.core.distributions import NegativeBinomial, Normal, Scalar, StudentT
from chainrule.core.model import Condition
from chainrule.core.space import Space

HeadName = Literal["normal", "student", "negative-binomial"]
HEADS: dict[str, tuple[str, int]] = {  # the symbols that it is for, and its parameters
    "normal": ("real", 2),
    "student": ("real", 3),
    "negative-binomial": ("count", 2),
}
UNKNOWN = {"real": math.nan, "count": -1}  # the symbol before the first one
LEAST = 1e-3  # no law is narrower, in units of the scale: flat series have no infinite density


def head_of(space: Space, name: HeadName | None) -> HeadName | None:
    """The head for these symbols: as asked, else Student's t for reals; None for an alphabet.

    Raises:
        ValueError: one for other symbols, or symbols of several parts.
    """
    if space.event_shape:
        raise ValueError("symbols of several parts need a model of their own")
    usual: dict[str, HeadName] = {"real": "student", "count": "negative-binomial"}
    if name is not None and HEADS[name][0] != space.kind:
        raise ValueError(f"the head {name} is for {HEADS[name][0]} symbols, not {space.kind} ones")
    return name or usual.get(space.kind)


class Numbers(nn.Module):
    """The embedding of symbols that are numbers: linear, with a row of its own for UNKNOWN."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2, dim)

    @property
    def weight(self) -> Tensor:
        """[D, 2]: of the number, and of its being known."""
        return self.linear.weight

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """x [B, L] -> [B, L, D]; ``scale`` [B]: of counts, which are looked at in units of it."""
        weight = self.linear.weight
        known = x == x if x.is_floating_point() else x >= 0
        value = torch.where(known, x, 0).to(weight.dtype)
        if scale is not None and not x.is_floating_point():
            value = value / scale[:, None].to(weight.dtype)
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = self.linear(torch.stack([value, known.to(weight.dtype)], -1))
        return out


class Told(nn.Module):
    """What a network is told at each step beside the symbol: calendar or covariates, and scale.

    Args:
        features: F of ``Condition.steps``; 0: none are read.
        scaled: ``Condition.scale`` is read.
    """

    def __init__(self, features: int, scaled: bool, dim: int) -> None:
        super().__init__()
        self.steps = nn.Linear(features, dim, bias=False) if features else None
        self.scale = nn.Linear(1, dim, bias=False) if scaled else None

    @property
    def reads(self) -> frozenset[str]:
        """Fields of a Condition."""
        given = {"steps": self.steps, "scale": self.scale}
        return frozenset(name for name, part in given.items() if part is not None)

    def forward(self, out: Tensor, cond: Condition, pos: Tensor) -> Tensor:
        """``out`` [B, L, D] and what is known of the positions [B, L] that it predicts.

        What is not given adds nothing, and neither do steps beyond those that are given.
        """
        with torch.autocast(out.device.type, enabled=False):
            if self.steps is not None and cond.steps is not None:
                last = cond.steps.shape[1] - 1
                rows = torch.arange(len(cond.steps), device=out.device)[:, None]
                there = cond.steps[rows, pos.clamp_max(last)] * (pos <= last)[..., None]
                out = out + self.steps(there.to(self.steps.weight.dtype))
            if self.scale is not None and cond.scale is not None:
                log = torch.log(cond.scale)[:, None, None] / 10  # near one for what is measured
                out = out + self.scale(log.to(self.scale.weight.dtype))
        return out


class ScalarHead(nn.Module):
    """From a hidden vector to a law of numbers."""

    def __init__(self, dim: int, name: HeadName) -> None:
        super().__init__()
        self.name, self.linear = name, nn.Linear(dim, HEADS[name][1])

    def forward(self, hidden: Tensor, scale: Tensor | None = None) -> Scalar:
        """The law for hidden [B, L, D]; of counts, for a row whose scale is ``scale`` [B]."""
        with torch.autocast(hidden.device.type, enabled=False):
            raw = self.linear(hidden.to(self.linear.weight.dtype))
        first, second, *rest = raw.unbind(-1)
        if self.name == "negative-binomial":
            unit = torch.ones_like(first[:, :1]) if scale is None else scale[:, None].to(first)
            dispersion = F.softplus(second) * unit.sqrt() + LEAST
            return NegativeBinomial((F.softplus(first) + LEAST) * unit, dispersion)
        width = F.softplus(second) + LEAST
        if self.name == "normal":
            return Normal(first, width)
        return StudentT(2 + F.softplus(rest[0]), first, width)
