"""Warps: temperature, top-k, top-p, min-p and typical sampling, one setting a row.

Shapes: B rows, L positions, V alphabet size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from chainrule.core.config import bounded
from chainrule.core.distributions import Categorical, Distribution, Finite
from chainrule.core.joint import Joint


@dataclass(frozen=True)
class Warps:
    """Applied in the order of the fields; every field holds one value a row.

    Args:
        temperature: p^(1/t); 0 is greedy, 1 off.
        top_k: keep the k likeliest symbols (ties kept); 0 off.
        top_p: keep the likeliest symbols up to this mass (Holtzman et al. 2020); 1 off.
        min_p: keep symbols at least so likely as this share of the top one; 0 off.
        typical: keep the mass nearest to the entropy (Meister et al. 2023); 1 off.
    """

    temperature: tuple[float, ...]
    top_k: tuple[int, ...]
    top_p: tuple[float, ...]
    min_p: tuple[float, ...]
    typical: tuple[float, ...]

    @staticmethod
    def of(
        rows: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        typical: float = 1.0,
    ) -> Warps:
        """The same settings for every row.

        Raises:
            ValueError: a setting out of its bounds, NaN included.
        """
        bounded("temperature", temperature, 0, 1e4)
        bounded("top_k", top_k, 0, 2**31)
        bounded("top_p", top_p, 1e-9, 1)
        bounded("min_p", min_p, 0, 1)
        bounded("typical", typical, 1e-9, 1)
        settings = (temperature, top_k, top_p, min_p, typical)
        return Warps(*((s,) * rows for s in settings))  # type: ignore[arg-type]

    def select(self, rows: Sequence[int]) -> Warps:
        """The named rows, in that order."""
        return Warps(*(tuple(getattr(self, f.name)[i] for i in rows) for f in fields(self)))

    def concat(self, others: Sequence[Warps]) -> Warps:
        """All rows of all values."""
        everyone = (self, *others)
        return Warps(*(sum((getattr(w, f.name) for w in everyone), ()) for f in fields(self)))

    def __call__(self, law: Distribution) -> Distribution:
        """The law that symbols are drawn from.

        Raises:
            ValueError: a filter for finite symbols asked of real-valued ones.
        """
        if self._plain:
            return law
        if isinstance(law, Joint):
            return law.edited(self)
        own = getattr(law, "warped", None)
        if own is not None:
            warped: Distribution = own(self)
            return warped
        if any(t != 1 for t in self.temperature):
            law = law.temper(torch.tensor(self.temperature, dtype=torch.float64)[:, None])
        if not self._filters():
            return law
        if not isinstance(law, Finite):
            raise ValueError("top-k, top-p, min-p and typical need a finite alphabet")
        log_p = law.log_probs()
        for values, off, keep in (
            (self.top_k, 0, _top_k),
            (self.top_p, 1, _top_p),
            (self.min_p, 0, _min_p),
            (self.typical, 1, _typical),
        ):
            log_p = _filter(log_p, values, off, keep)
        return Categorical.normalised(log_p)

    @functools.cached_property
    def _plain(self) -> bool:
        return all(t == 1 for t in self.temperature) and not self._filters()

    @functools.cached_property
    def only_temperature(self) -> tuple[float, ...] | None:
        """Every row's temperature, where nothing else is on."""
        return None if self._filters() else self.temperature

    @functools.cached_property
    def settings(self) -> Tensor:
        """Float64 [B, 5]: the fields in their order, for native code."""
        values = [getattr(self, f.name) for f in fields(self)]
        return torch.tensor(values, dtype=torch.float64).T.contiguous()

    def tempered(self) -> Warps:
        """The temperatures alone: for guesses, which may be off."""
        return self if not self._filters() else self._bare

    @functools.cached_property
    def _bare(self) -> Warps:
        rows = len(self.temperature)
        return replace(Warps.of(rows), temperature=self.temperature)

    def _filters(self) -> bool:
        return any(
            any(v != off for v in values)
            for values, off in (
                (self.top_k, 0),
                (self.top_p, 1),
                (self.min_p, 0),
                (self.typical, 1),
            )
        )


def _filter(
    log_p: Tensor,
    values: Sequence[float],
    off: float,
    keep: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Renormalise what ``keep`` keeps; rows that are off stay bit for bit as they were."""
    if all(v == off for v in values):
        return log_p
    value_B11 = torch.tensor(values, dtype=log_p.dtype, device=log_p.device)[:, None, None]
    kept = keep(log_p, value_B11)
    filtered = torch.log_softmax(log_p.masked_fill(~kept, -math.inf), -1)
    return torch.where(value_B11 == off, log_p, filtered)


def _top_k(log_p: Tensor, k: Tensor) -> Tensor:
    size = log_p.shape[-1]
    ranked = log_p.topk(min(int(k.max()), size)).values
    index = (k.long().clamp(1, size) - 1).clamp_max(ranked.shape[-1] - 1)
    return log_p >= ranked.gather(-1, index.expand(*log_p.shape[:-1], 1))


def _top_p(log_p: Tensor, p: Tensor) -> Tensor:
    return _nearest(-log_p, log_p, p)


def _min_p(log_p: Tensor, p: Tensor) -> Tensor:
    return log_p >= log_p.amax(-1, keepdim=True) + p.log()


def _typical(log_p: Tensor, mass: Tensor) -> Tensor:
    # A banned symbol has surprise inf and probability 0: it adds nothing to the entropy.
    entropy = -torch.where(log_p > -math.inf, log_p.exp() * log_p, 0.0).sum(-1, keepdim=True)
    return _nearest((-log_p - entropy).abs(), log_p, mass) & (log_p > -math.inf)


def _nearest(cost: Tensor, log_p: Tensor, mass: Tensor) -> Tensor:
    """The cheapest symbols whose probabilities reach ``mass``, the one that crosses included."""
    order = torch.sort(cost, dim=-1, stable=True).indices
    p = log_p.exp().gather(-1, order)
    before = p.cumsum(-1) - p
    return torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before < mass)
