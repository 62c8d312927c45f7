"""Events of several parts by the chain rule: RGB, 88 keys, codebooks, vectors.

Shapes: B rows, L positions, E parts of an event, C channels, K mixture components, V levels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.core.distributions import DiscretizedLogisticMixture, Distribution
from chainrule.core.noise import Draw

Edit = Callable[[Distribution], Distribution]  # what a warp does to one scalar part


class Joint(Distribution):
    """An event of several parts by the chain rule: RGB, 88 keys, vectors. E = num_parts."""

    @property
    @abstractmethod
    def num_parts(self) -> int: ...

    @abstractmethod
    def part(self, i: int, prefix: Tensor) -> Distribution:
        """The law of part i given the parts before it: prefix [B, L, i]."""

    def log_prob(self, x: Tensor) -> Tensor:
        parts = [self.part(i, x[..., :i]).log_prob(x[..., i]) for i in range(self.num_parts)]
        return torch.stack(parts).sum(0)

    def _unroll(self, pick: Callable[[int, Distribution], Tensor]) -> Tensor:
        first = pick(0, self.part(0, torch.empty(0)))
        x = first[..., None]
        for i in range(1, self.num_parts):
            x = torch.cat([x, pick(i, self.part(i, x))[..., None]], -1)
        return x

    def sample(self, draw: Draw) -> Tensor:
        return self._unroll(lambda i, part: part.sample(draw.part(i)))

    def mode(self) -> Tensor:
        """Part by part: each the likeliest given those before it."""
        return self._unroll(lambda _, part: part.mode())

    def entropy(self) -> Tensor:
        raise ValueError("the entropy of dependent parts has no closed form; average -log_prob")

    def edited(self, edit: Edit) -> Joint:
        """The same chain with every part's law edited: how warps act on events."""
        return _Edited(self, edit)

    def temper(self, t: Tensor) -> Joint:
        return self.edited(lambda part: part.temper(t))


@dataclass(frozen=True, eq=False)
class _Edited(Joint):
    base: Joint
    edit: Edit

    @property
    def num_parts(self) -> int:
        return self.base.num_parts

    def part(self, i: int, prefix: Tensor) -> Distribution:
        return self.edit(self.base.part(i, prefix))


@dataclass(frozen=True, eq=False)
class Independent(Joint):
    """Parts that don't depend on each other: ``base`` has batch [B, L, E]."""

    base: Distribution
    parts: int

    @property
    def num_parts(self) -> int:
        return self.parts

    def part(self, i: int, prefix: Tensor) -> Distribution:
        return self.base[:, :, i]

    def log_prob(self, x: Tensor) -> Tensor:
        return self.base.log_prob(x).sum(-1)

    def entropy(self) -> Tensor:
        return self.base.entropy().sum(-1)


@dataclass(frozen=True, eq=False)
class LogisticMixtureJoint(Joint):
    """C channels under one mixture of K (Salimans et al. 2017, eq. 3), exact channel by channel.

    The weights of part i are re-weighted by the likelihood of the channels before it; without
    that, the product of the parts is not the mixture's probability.
    Args: mix [B, L, K]; loc, log_scale [B, L, C, K]; coeff [B, L, C, C, K]: channel i's centre
    moves by coeff[i, j] times channel j, j < i, on the scale [-1, 1]; levels V.
    """

    mix: Tensor
    loc: Tensor
    log_scale: Tensor
    coeff: Tensor
    levels: int

    @property
    def num_parts(self) -> int:
        return self.loc.shape[-2]

    def part(self, i: int, prefix: Tensor) -> DiscretizedLogisticMixture:
        mix = torch.log_softmax(self.mix, -1)
        for j in range(i):
            mix = mix + self._channel(j, prefix, mix).component_log_prob(prefix[..., j])
        return self._channel(i, prefix, mix)

    def _channel(self, i: int, prefix: Tensor, mix: Tensor) -> DiscretizedLogisticMixture:
        loc = self.loc[..., i, :]
        for j in range(i):
            seen = prefix[..., j, None].to(loc.dtype) * (2 / max(self.levels - 1, 1)) - 1
            loc = loc + self.coeff[..., i, j, :] * seen
        return DiscretizedLogisticMixture(mix, loc, self.log_scale[..., i, :], self.levels)
