"""A mixture of models over whole sequences. Shapes: B rows, L block, R tail, K models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from chainrule.core.distributions import Categorical, Finite
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.state import State, Window


class Mixture(SequenceModel):
    """p(x) = Σ_k w_k p_k(x): the state carries the posterior weight of each model."""

    def __init__(self, models: Sequence[SequenceModel]) -> None:
        super().__init__()
        self.space = models[0].space
        self.models = nn.ModuleList(models)
        self.prior = nn.Parameter(torch.randn(len(models)))

    def start(self, batch: int, cond: Condition | None = None) -> State:
        inner = {str(k): m.start(batch, cond) for k, m in enumerate(self._parts())}
        prior = self.prior.log_softmax(-1).expand(batch, -1)
        return State.join(inner, {"weights": Window.full(prior, 1)})

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        length, kept = x.shape[1], state.kept(x.shape[1], tail)
        inner, gained = {}, []
        for k, model in enumerate(self._parts()):
            full = model.extend(state.sub(str(k)), x, max(tail, length))
            law = model.predict(full)[:, full.tail - length : full.tail]
            gained.append(law.log_prob(x))
            inner[str(k)] = full.trim(kept)
        weights = state["weights"]
        assert isinstance(weights, Window)
        after = weights.t[:, -1:] + torch.stack(gained, -1).cumsum(1)
        return State.join(inner, {"weights": weights.push(after, kept)})

    def predict(self, state: State) -> Categorical:
        weights = state.window("weights").log_softmax(-1)
        laws = [m.predict(state.sub(str(k))) for k, m in enumerate(self._parts())]
        each = torch.stack([law.log_probs() for law in laws if isinstance(law, Finite)], -1)
        return Categorical(torch.logsumexp(each + weights[..., None, :], -1))

    def _parts(self) -> list[SequenceModel]:
        return [m for m in self.models if isinstance(m, SequenceModel)]
