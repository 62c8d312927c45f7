"""One net drafts a block in parallel, as a masked model, and verifies it as a causal one.

Source: Gat et al. 2025, "Set block decoding is a language model inference accelerator".
Shapes: B rows, K guessed symbols.
"""

from __future__ import annotations

from torch import Tensor

from chainrule.core.decoder import Decoder, Run
from chainrule.decoding.heads import Heads
from chainrule.decoding.strategy import Target
from chainrule.decoding.verify import Verify

GUESSES = 4


class Hybrid(Heads):
    """For models that were fitted with ``--objective hybrid``. The first guess is always right."""

    @staticmethod
    def decoder(target: Target) -> Decoder:
        if not target.model.guesses_blocks:
            raise ValueError(
                "strategy hybrid needs a model trained on blanks: fit a transformer with "
                "--objective hybrid"
            )
        return Verify(target.model, Hybrid(target.model, target.guesses or GUESSES))

    def propose(self, run: Run) -> tuple[Tensor, None]:
        """Every place of the block from its own law, with its own dice."""
        guess = self.model.guess_block(run.state, run.last, self.guesses, run.noise, run.warp)
        assert guess is not None, "the strategy has asked the model"
        return guess, None
