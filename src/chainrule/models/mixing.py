"""Several laws made into one: ensembles of models, and a model guided away from itself.

Shapes: B rows, L symbols in this call, R undoable tail, V alphabet size, M models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from chainrule.core.config import bounded
from chainrule.core.distributions import Categorical, Finite
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.space import Space
from chainrule.core.state import State


class Mix(SequenceModel):
    """Models that consume the same symbols side by side; a subclass makes one law of theirs."""

    def __init__(self, models: Sequence[SequenceModel]) -> None:
        super().__init__()
        first = models[0]
        for model in models:
            if model.space.kind != "finite" or model.space.event_shape:
                raise ValueError(f"{type(self).__name__} needs models of scalar finite symbols")
            if model.space != first.space:
                raise ValueError(
                    f"{type(self).__name__} needs models of the same symbols: "
                    f"{_named(first.space)} and {_named(model.space)} differ"
                )
            if model.reads != first.reads:
                raise ValueError(
                    f"{type(self).__name__} needs models that read the same conditions: "
                    f"{sorted(first.reads)} and {sorted(model.reads)} differ"
                )
        self.models = nn.ModuleList(models)
        self.space, self.reads = first.space, first.reads

    def conditions(self, cond: Condition | None, batch: int) -> list[Condition | None]:
        """What each model is told."""
        return [cond] * len(self.models)

    def start(self, batch: int, cond: Condition | None = None) -> State:
        told = self.conditions(self.check(batch, cond), batch)
        parts = enumerate(zip(self._parts(), told, strict=True))
        return State.join({str(i): model.start(batch, c) for i, (model, c) in parts})

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        parts = enumerate(self._parts())
        return State.join({str(i): m.extend(state.sub(str(i)), x, tail) for i, m in parts})

    def log_probs(self, state: State) -> Tensor:
        """What each model says, in nats: [B, R+1, V, M]."""
        laws = [m.predict(state.sub(str(i))) for i, m in enumerate(self._parts())]
        return torch.stack([law.log_probs() for law in laws if isinstance(law, Finite)], -1)

    def _parts(self) -> list[SequenceModel]:
        return [m for m in self.models if isinstance(m, SequenceModel)]


class Ensemble(Mix):
    """The mean of what several models say of the next symbol.

    Args:
        weights: one a model, above 0 (they need not sum to one); equal if not given.
        product: False: the arithmetic mean of the probabilities, a mixture at every symbol. True:
            the geometric mean, renormalised (a logarithmic opinion pool, Heskes 1998).

    Raises:
        ValueError: models of other symbols or conditions, or weights that don't fit them.
    """

    weights: Tensor

    def __init__(
        self,
        models: Sequence[SequenceModel],
        weights: Sequence[float] | None = None,
        product: bool = False,
    ) -> None:
        if not models:
            raise ValueError("an ensemble needs a model at least")
        super().__init__(models)
        weights = [1.0] * len(models) if weights is None else list(weights)
        if len(weights) != len(models):
            raise ValueError(f"{len(weights)} weights for {len(models)} models: give one a model")
        for weight in weights:
            bounded("weight", weight, 1e-6, 1e6)
        self.product = product
        share = torch.tensor(weights, dtype=torch.float64) / math.fsum(weights)
        self.register_buffer("weights", share, persistent=False)

    def predict(self, state: State) -> Categorical:
        each = self.log_probs(state)
        share = self.weights.to(each)
        if not self.product:
            return Categorical.normalised(torch.logsumexp(each + share.log(), -1))
        pooled = (each * share).sum(-1)
        if bool((pooled == -math.inf).all(-1).any()):
            raise ValueError("the models share no symbol to go on with: use a mixture of them")
        return Categorical(pooled)


class Guided(Mix):
    """Classifier-free guidance: away from what the model would say if it were told less.

    log p is (1 + scale) · log p(x | c) - scale · log p(x | without), renormalised at every symbol
    (Ho & Salimans 2022, eq. 6). Scale 0 is the model itself.

    Args:
        scale: 0 to 100.
        without: the field of the condition that is taken away: ``label`` becomes -1, any other is
            left out.

    Raises:
        ValueError: a scale out of bounds, or a field that the model doesn't read.
    """

    def __init__(self, model: SequenceModel, scale: float, without: str = "label") -> None:
        super().__init__([model, model])
        bounded("guidance", scale, 0, 100)
        if without not in model.reads:
            raise ValueError(f"{type(model).__name__} does not read the condition {without!r}")
        self.scale, self.without = scale, without

    def conditions(self, cond: Condition | None, batch: int) -> list[Condition | None]:
        given = {} if cond is None else cond.given()
        less = {k: v for k, v in given.items() if k.partition("_")[0] != self.without}
        if self.without == "label" and "label" in given:
            less["label"] = torch.full_like(given["label"], -1)
        return [cond, replace(Condition(), **less)]

    def predict(self, state: State) -> Categorical:
        told, untold = self.log_probs(state).unbind(-1)
        # What either forbids stays as it was told: the difference of two infinities says nothing.
        push = (told - untold).masked_fill((told == -math.inf) | (untold == -math.inf), 0.0)
        return Categorical(told + self.scale * push)


def _named(space: Space) -> str:
    """The two things that tell alphabets apart."""
    return f"an alphabet of {space.size}" + ("" if space.eos is None else f" (end {space.eos})")
