"""The loss of a batch as one module: what is compiled, or wrapped for several processes.

Shapes: B rows, T window length, E event shape.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chainrule.core.model import Condition, SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.objective import Batch
from chainrule.core.state import State, Window
from chainrule.training.objectives import objective


class Loss(nn.Module):
    """A model under its objective.

    Args:
        name, rate: of the objective; carry: go on from the hidden state of the batch before.
        adapter: what learns in the model's stead, where something does.

    Raises:
        ValueError: an unknown objective, or nothing that could be carried.
    """

    def __init__(
        self,
        model: SequenceModel,
        name: str,
        rate: float,
        carry: bool,
        adapter: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.model, self.carry, self.objective = model, carry, objective(name, rate)
        if carry:
            if name != "nll":
                raise ValueError(f"--carry and the objective {name} don't go together")
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                leaves = model.start(1).leaves.values()
            if not all(isinstance(leaf, Window) and leaf.w == 1 for leaf in leaves):
                raise ValueError("--carry needs a recurrent model: leave it out, or use --no-carry")

    def forward(
        self,
        x: Tensor,
        key: Tensor,
        carried: dict[str, Tensor],
        cond: Condition | None = None,
        weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The loss in nats summed over the scored symbols, their number, and what is carried on.

        Args:
            x: symbols [B, T, *E]; key: of each row's noise, int64 [B].
            carried: what the call before returned; empty where the rows begin anew.
            cond, weight: of a Batch; what is carried has neither.
        """
        if not self.carry:
            batch = Batch(x, (x.shape[1],) * len(x), cond, weight)
            return (*self.objective(self.model, batch, Noise(key)), {})
        leaves = {name: Window(value, 1) for name, value in carried.items()}
        state = State((0,) * len(x), leaves) if leaves else None
        law, after = self.model.carry(x, state=state)
        log_prob = law.log_prob(x)
        hidden = {name: after.window(name) for name in after.leaves}
        return -log_prob.sum(), torch.tensor(float(log_prob.numel())), hidden
