"""AR(p): linear autoregression over real symbols, by least squares.

Shapes: B rows, L symbols in this call, R undoable tail, P order, T symbols of a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chainrule.core.config import bounded
from chainrule.core.distributions import Normal
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.objective import Batch
from chainrule.core.space import Space
from chainrule.core.state import State, Window

ORDERS = {"tiny": 2, "small": 12, "base": 24}
FLAT = 1e-6  # of the largest value: no law is narrower, so that no density is infinite


@dataclass(frozen=True)
class ARConfig:
    """An autoregression of ``order`` P.

    Raises:
        ValueError: symbols that are no real numbers, or an order out of bounds.
    """

    space: Space
    order: int = 12

    def __post_init__(self) -> None:
        if self.space.kind != "real" or self.space.event_shape:
            raise ValueError("an autoregression models real numbers: give it a series, not text")
        bounded("order", self.order, 1, 4096)


def ar(space: Space, size: str = "small") -> ARConfig:
    """One season of months (``small``), or two (``base``)."""
    return ARConfig(space, ORDERS[size])


class AR(SequenceModel):
    """x_t ~ N(constant + Σ_i phi_i x_{t-i}, scale²), lag 1 first in ``phi`` [P].

    What precedes the first symbol is held at ``before``, the mean of the training part; given
    that, the score is the exact log-likelihood, the first P symbols included.
    """

    Config = ARConfig

    def __init__(self, config: ARConfig) -> None:
        super().__init__()
        self.config, self.space = config, config.space
        self.phi = nn.Parameter(torch.zeros(config.order))
        self.constant = nn.Parameter(torch.zeros(()))
        self.before = nn.Parameter(torch.zeros(()))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def start(self, batch: int, cond: Condition | None = None) -> State:
        self.check(batch, cond)
        return State((0,) * batch, {"last": Window.full(self.before.expand(batch), len(self.phi))})

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        return state.push(x.shape[1], tail, last=x.to(self.phi.dtype))

    def predict(self, state: State) -> Normal:
        past = state.window("last").unfold(1, len(self.phi), 1)  # [B, R + 1, P], the newest last
        loc = past @ self.phi.flip(0) + self.constant
        return Normal(loc, self.log_scale.exp().expand_as(loc))

    @torch.no_grad()
    def estimate(self, batches: Iterable[Batch | Tensor | NDArray[Any]]) -> None:
        """Ordinary least squares over all sequences [T], or rows of batches, together.

        The first P symbols of a sequence are regressors only, and what has weight 0 is no target.
        In float64, by a QR factorisation that is updated sequence by sequence.

        Raises:
            ValueError: no sequence is longer than the order, or a number is not finite.
        """
        order = len(self.phi)
        r = torch.zeros(0, order + 2, dtype=torch.float64)
        total, most, points, rows = 0.0, 0.0, 0, 0
        for x, scored in _sequences(batches):
            if not bool(x.isfinite().all()):
                raise ValueError("an autoregression needs finite numbers: fill the gaps first")
            total, points = total + float(x.sum()), points + len(x)
            most = max([most, *x.abs().max(0, keepdim=True).values.tolist()]) if len(x) else most
            if len(x) > order:
                lags = x.unfold(0, order + 1, 1)[scored[order:]].flip(1)  # x_t, x_{t-1}, …
                block = torch.cat([torch.ones_like(lags[:, :1]), lags[:, 1:], lags[:, :1]], 1)
                r, rows = torch.linalg.qr(torch.cat([r, block]), mode="r").R, rows + len(block)
        if not rows:
            raise ValueError(f"AR({order}) needs a series of more than {order} points")
        r = torch.cat([r, r.new_zeros(max(0, order + 2 - len(r)), order + 2)])
        # The least of all solutions where there are many, as of a constant series.
        found = torch.linalg.lstsq(r[:, :-1], r[:, -1:], driver="gelsd").solution
        deviation = float((r[:, -1:] - r[:, :-1] @ found).norm()) / rows**0.5
        self.constant.copy_(found[0, 0])
        self.phi.copy_(found[1:, 0])
        self.before.fill_(total / points)
        self.log_scale.fill_(math.log(max(deviation, FLAT * (most or 1.0))))


def _sequences(
    batches: Iterable[Batch | Tensor | NDArray[Any]],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every sequence float64 [T] on the host, and which of its symbols are scored."""
    for given in batches:
        if isinstance(given, Batch):
            for row, length in enumerate(given.lens):
                x = given.x[row, :length].double().cpu()
                weight = None if given.weight is None else given.weight[row, :length].cpu() > 0
                yield x, torch.ones(length, dtype=torch.bool) if weight is None else weight
        else:
            x = torch.as_tensor(given).double().cpu()
            yield x, torch.ones(len(x), dtype=torch.bool)
