"""What a network returns: the distribution of the next symbol, for a batch [B, L].

Shapes: B rows, L positions, V alphabet size, E parts of an event, K mixture components.
Log-probabilities and entropies are in nats. A sample is a pure function of the
distribution and of the noise: Gumbel-max for finite symbols, one-uniform quantile for others.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from chainrule.core.noise import Draw
from chainrule.core.special import betainc, log_beta, solve, student_start


@dataclass(frozen=True, eq=False)
class Distribution(ABC):
    """A batch of laws. Every field that is a tensor begins with the batch axes [B, L]."""

    def map(self, f: Callable[[Tensor], Tensor]) -> Self:
        """The same law with ``f`` applied to every parameter tensor."""
        values = {x.name: getattr(self, x.name) for x in fields(self)}
        mapped = {
            k: f(v) if isinstance(v, Tensor) else v.map(f) if isinstance(v, Distribution) else v
            for k, v in values.items()
        }
        return replace(self, **mapped)

    def __getitem__(self, index: Any) -> Self:
        """Index the batch axes."""
        return self.map(lambda t: t[index])

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability (density for real symbols) of x [B, L, *E], in nats: [B, L]."""

    @abstractmethod
    def sample(self, draw: Draw) -> Tensor:
        """One symbol a position: [B, L, *E]."""

    @abstractmethod
    def mode(self) -> Tensor:
        """The likeliest symbol: [B, L, *E]."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """In nats (differential for real symbols): [B, L]."""

    @abstractmethod
    def temper(self, t: Tensor) -> Distribution:
        """The law proportional to p^(1/t), t of the batch's shape (broadcast); 0 is greedy.

        Raises:
            ValueError: where that law has no finite form.
        """


# ---- finite symbols ----


class Finite(Distribution):
    """A law over 0 … V-1."""

    @abstractmethod
    def log_probs(self) -> Tensor:
        """Normalised log-probabilities [B, L, V]."""

    def log_prob(self, x: Tensor) -> Tensor:
        return self.log_probs().gather(-1, x[..., None])[..., 0]

    def sample(self, draw: Draw) -> Tensor:
        return self.pick(draw.gumbel)

    def pick(self, gumbel: Callable[[int], Tensor]) -> Tensor:
        """Gumbel-max: the symbol [B, L] that noise [B, L, V] picks; ``gumbel`` is given V."""
        log_p = self.log_probs()
        return (log_p + gumbel(log_p.shape[-1])).argmax(-1)

    def mode(self) -> Tensor:
        return self.log_probs().argmax(-1)

    def entropy(self) -> Tensor:
        log_p = self.log_probs()
        return -(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1)

    def temper(self, t: Tensor) -> Categorical:
        log_p = self.log_probs()
        t = t.to(log_p.dtype)[..., None]
        hot = F.one_hot(log_p.argmax(-1), log_p.shape[-1]).bool()
        greedy = torch.zeros_like(log_p).masked_fill_(~hot, -math.inf)
        return Categorical(torch.where(t > 0, log_p / torch.where(t > 0, t, 1), greedy))


@dataclass(frozen=True, eq=False)
class Categorical(Finite):
    """Softmax of logits [B, L, V]; -inf bans a symbol."""

    logits: Tensor

    @staticmethod
    def normalised(log_p: Tensor) -> Categorical:
        """From log-probabilities that sum to one already: they are kept bit for bit."""
        law = Categorical(log_p)
        object.__setattr__(law, "_log_probs", log_p)
        return law

    def log_probs(self) -> Tensor:
        done: Tensor | None = self.__dict__.get("_log_probs")
        if done is None:
            done = torch.log_softmax(self.logits, -1)
            object.__setattr__(self, "_log_probs", done)
        return done

    def pick(self, gumbel: Callable[[int], Tensor]) -> Tensor:
        logits: Tensor = self.__dict__.get("_log_probs", self.logits)
        return (logits + gumbel(logits.shape[-1])).argmax(-1)


@dataclass(frozen=True, eq=False)
class Bernoulli(Finite):
    """0 or 1; ``logits`` [B, L] are log-odds of 1."""

    logits: Tensor

    def log_probs(self) -> Tensor:
        return torch.stack([F.logsigmoid(-self.logits), F.logsigmoid(self.logits)], -1)

    def log_prob(self, x: Tensor) -> Tensor:
        return F.logsigmoid(torch.where(x > 0, self.logits, -self.logits))


@dataclass(frozen=True, eq=False)
class DiscretizedLogisticMixture(Finite):
    """Mixture of K logistics over V levels laid out on [-1, 1] (Salimans et al. 2017, eq. 2).

    The outermost levels take the tails, so the V probabilities sum to exactly one.
    Args: mix, loc, log_scale [B, L, K] (mix: unnormalised log-weights); levels V.
    """

    mix: Tensor
    loc: Tensor
    log_scale: Tensor
    levels: int

    def component_log_prob(self, x: Tensor) -> Tensor:
        """log p(x | component): x [B, L, ...] -> [B, L, ..., K]."""
        extra = x.ndim - self.mix.ndim + 1
        shape = self.mix.shape[:-1] + (1,) * extra + self.mix.shape[-1:]
        loc, log_scale = self.loc.reshape(shape), self.log_scale.reshape(shape)
        x = x[..., None]
        half = 1 / (self.levels - 1) if self.levels > 1 else 1.0
        centre = x.to(loc.dtype) * (2 * half) - 1
        inverse = torch.exp(-log_scale)
        upper = ((centre + half - loc) * inverse).masked_fill(x == self.levels - 1, math.inf)
        lower = ((centre - half - loc) * inverse).masked_fill(x == 0, -math.inf)
        # σ(u) - σ(l) = σ(u) σ(-l) (1 - e^(l-u)): no cancellation, as u - l is of no difference
        inner = torch.log(-torch.expm1(-2 * half * inverse))
        inner = inner.masked_fill(torch.isinf(upper) | torch.isinf(lower), 0.0)
        return F.logsigmoid(upper) + F.logsigmoid(-lower) + inner

    def log_probs(self) -> Tensor:
        level = torch.arange(self.levels, device=self.mix.device)
        x = level.expand(*self.mix.shape[:-1], self.levels)
        mix = torch.log_softmax(self.mix, -1)[..., None, :]
        return torch.logsumexp(mix + self.component_log_prob(x), -1)

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.logsumexp(torch.log_softmax(self.mix, -1) + self.component_log_prob(x), -1)


# ---- real symbols and counts ----


class Scalar(Distribution):
    """A law over the reals or the counts, sampled by its quantile function."""

    @abstractmethod
    def cdf(self, x: Tensor) -> Tensor:
        """P(X ≤ x): [B, L]."""

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """Smallest x with cdf(x) ≥ u, for u in (0, 1): [B, L]."""

    def sample(self, draw: Draw) -> Tensor:
        return self.quantile(draw.uniform()[..., 0])


@dataclass(frozen=True, eq=False)
class Normal(Scalar):
    """Gaussian with mean ``loc`` and standard deviation ``scale`` [B, L]; scale 0 is a point."""

    loc: Tensor
    scale: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        z = (x - self.loc) / self.scale
        return -0.5 * z * z - torch.log(self.scale) - 0.5 * math.log(2 * math.pi)

    def cdf(self, x: Tensor) -> Tensor:
        below: Tensor = torch.special.ndtr((x - self.loc) / self.scale)
        return below

    def quantile(self, u: Tensor) -> Tensor:
        z: Tensor = torch.special.ndtri(u)
        return self.loc + self.scale * z.to(self.loc.dtype)

    def mode(self) -> Tensor:
        return self.loc

    def entropy(self) -> Tensor:
        return 0.5 * math.log(2 * math.pi * math.e) + torch.log(self.scale)

    def temper(self, t: Tensor) -> Normal:
        return Normal(self.loc, self.scale * t.to(self.scale.dtype).sqrt())


@dataclass(frozen=True, eq=False)
class StudentT(Scalar):
    """Student's t with ``df`` degrees of freedom, ``loc`` and ``scale`` [B, L]."""

    df: Tensor
    loc: Tensor
    scale: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        z, n = (x - self.loc) / self.scale, self.df
        norm = self._log_norm().to(n.dtype) - torch.log(self.scale)
        return norm - (n + 1) / 2 * torch.log1p(z * z / n)

    def _log_norm(self) -> Tensor:
        """Log-density of the standard law at 0, in float64."""
        n = self.df.double()
        return -log_beta(n / 2, torch.full_like(n, 0.5)) - 0.5 * torch.log(n)

    def _standard_cdf(self, z: Tensor) -> Tensor:
        n, square = self.df.double(), z.double() ** 2
        half = torch.full_like(n, 0.5)
        tail = betainc(n / 2, half, n / (n + square), square / (n + square)) / 2
        return torch.where(z > 0, 1 - tail, tail)

    def cdf(self, x: Tensor) -> Tensor:
        return self._standard_cdf((x - self.loc) / self.scale).to(self.loc.dtype)

    def quantile(self, u: Tensor) -> Tensor:
        # Solved in the lower half, where the cdf is convex and its tail keeps its digits.
        v = torch.minimum(u, 1 - u).double()
        n, log_norm = self.df.double(), self._log_norm()
        lower = solve(
            self._standard_cdf,
            lambda z: torch.exp(log_norm - (n + 1) / 2 * torch.log1p(z * z / n)),
            lambda z: -(n + 1) * z / (n + z * z),
            v,
            student_start(n, v),
        )
        z = torch.where(u < 0.5, lower, -lower)
        return self.loc + self.scale * z.to(self.loc.dtype)

    def mode(self) -> Tensor:
        return self.loc

    def entropy(self) -> Tensor:
        n = self.df
        half, more = n / 2, (n + 1) / 2
        spread = more * (torch.digamma(more) - torch.digamma(half))
        return spread - self._log_norm().to(n.dtype) + torch.log(self.scale)

    def temper(self, t: Tensor) -> StudentT:
        t = t.to(self.df.dtype)
        if bool((t <= 0).any()):
            raise ValueError("temperature 0 has no Student-t law; use strategy greedy for its mode")
        df = (self.df + 1) / t - 1
        if bool((df <= 0).any()):
            raise ValueError(f"temperature must be below df + 1 = {float(self.df.min()) + 1:g}")
        df = df.expand(self.loc.shape)
        return StudentT(df, self.loc, self.scale * torch.sqrt(self.df / df))


@dataclass(frozen=True, eq=False)
class NegativeBinomial(Scalar):
    """Counts with ``mean`` and ``dispersion`` r [B, L]: variance = mean + mean² / r."""

    mean: Tensor
    dispersion: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        # In float64: of a large count the terms are large, and their sum is not.
        k, r, m = x.double(), self.dispersion.double(), self.mean.double()
        choose = -log_beta(r, k + 1) - torch.log(k + r)
        log_p: Tensor = choose - r * torch.log1p(m / r) - torch.special.xlog1py(k, r / m)
        return log_p.to(self.mean.dtype)

    def cdf(self, x: Tensor) -> Tensor:
        return self._cdf(x).to(self.mean.dtype)

    def _cdf(self, x: Tensor) -> Tensor:
        k = torch.floor(x.double())
        r, m = self.dispersion.double(), self.mean.double()
        inside = betainc(r, k.clamp_min(0) + 1, r / (r + m), m / (r + m))
        return torch.where(k < 0, 0.0, inside)

    def quantile(self, u: Tensor) -> Tensor:
        low = torch.full(u.shape, -1, dtype=torch.int64, device=u.device)  # cdf(low) < u
        high = torch.ones_like(low)
        while bool((short := self._cdf(high) < u).any()) and int(high.max()) < 2**52:
            low, high = torch.where(short, high, low), torch.where(short, high * 2, high)
        while bool((high - low > 1).any()):
            mid = (low + high) // 2
            short = self._cdf(mid) < u
            low, high = torch.where(short, mid, low), torch.where(short, high, mid)
        return high

    def mode(self) -> Tensor:
        peak = self.mean * (self.dispersion - 1) / self.dispersion
        return torch.floor(peak.clamp_min(0)).long()

    def entropy(self) -> Tensor:
        top = int(self.quantile(torch.full_like(self.mean, 1 - 1e-12).double()).max())
        bounded = min(top, 10**6) + 1
        k = torch.arange(bounded, device=self.mean.device).view(-1, *[1] * self.mean.ndim)
        log_p = self.log_prob(k)
        return -(log_p.exp() * log_p).sum(0)

    def temper(self, t: Tensor) -> NegativeBinomial:
        if bool((t != 1).any()):
            raise ValueError("counts have no temperature: p^(1/t) is not negative binomial")
        return self
