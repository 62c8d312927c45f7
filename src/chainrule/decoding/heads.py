"""Extra heads of the model draft from its own hidden state. Shapes: B rows, K guessed symbols.

Sources: Stern et al. 2018, "Blockwise parallel decoding"; Cai et al. 2024, "Medusa"; the heads
themselves: nn/heads.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from chainrule.core.decoder import Chunk, Decoder, Run
from chainrule.core.model import Condition, SequenceModel
from chainrule.decoding.strategy import Strategy, Target
from chainrule.decoding.verify import Verify


class Heads(Strategy):
    """For models that were fitted with ``--ahead``."""

    exactness = "identical"

    def __init__(self, model: SequenceModel, guesses: int) -> None:
        self.model, self.guesses = model, guesses

    @staticmethod
    def decoder(target: Target) -> Decoder:
        trained = getattr(target.model.config, "ahead", 0)
        if not trained:
            raise ValueError(
                "strategy heads needs a model with extra heads: fit a transformer with --ahead 4"
            )
        return Verify(target.model, Heads(target.model, target.guesses or trained))

    def start(self, prompt: Sequence[Tensor], cond: Condition | None = None) -> None:
        """All that it needs is in the state of the model."""

    def propose(self, run: Run) -> tuple[Tensor, None]:
        """One small step a symbol."""
        guess = self.model.guess_ahead(run.state, run.last, self.guesses, run.noise, run.warp)
        assert guess is not None, "the strategy has asked the config"
        return guess, None

    def settle(self, memo: None, chunk: Chunk) -> None:
        """Nothing to learn."""
