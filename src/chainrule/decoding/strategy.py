"""What a strategy is, and what it may draw on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from chainrule.core.config import bounded
from chainrule.core.decoder import Decoder
from chainrule.core.model import SequenceModel

Exactness = Literal["identical", "distribution", "approximate"]
MOST = 256  # guesses a step, at most


@dataclass(frozen=True, eq=False)
class Target:
    """The model to decode, and what may help.

    Args:
        table: a cheap model of the training data, as a rule an n-gram.
        draft: another model over the same Space.
        guesses: symbols guessed a step, or in a block; None: as the strategy finds best.
        length: symbols that will be made, at most.
        iterations: passes over a block, for ``parallel``.
        threshold: the probability from which ``block`` keeps a symbol.

    Raises:
        ValueError: a number out of bounds, or a helper over other symbols.
    """

    model: SequenceModel
    table: SequenceModel | None = None
    draft: SequenceModel | None = None
    guesses: int | None = None
    length: int = 1
    iterations: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        end = self.model.space.max_len
        if self.guesses is not None:
            bounded("guesses", self.guesses, 1, MOST)
            if end is not None and self.guesses >= end:
                raise ValueError(f"{self.guesses} guesses: this medium has only {end} symbols")
        if self.iterations is not None:
            bounded("iterations", self.iterations, 1, 10_000)
        if self.threshold is not None:
            bounded("threshold", self.threshold, 0, 1)
        mine = self.model.space
        for name, helper in (("table", self.table), ("draft", self.draft)):
            if helper is not None and helper.space != mine:
                raise ValueError(
                    f"the {name} has other symbols ({helper.space.size}) than the model "
                    f"({mine.size}): it must be fitted with the same codec"
                )


class Strategy(ABC):
    """A way of picking symbols. A new one is one file and one line in the registry.

    ``reads``: the fields of a Target, of those that a user can set, that it looks at.
    """

    exactness: ClassVar[Exactness]
    reads: ClassVar[frozenset[str]] = frozenset({"guesses"})

    @staticmethod
    @abstractmethod
    def decoder(target: Target) -> Decoder:
        """What decodes the target.

        Raises:
            ValueError: the target lacks what this strategy needs.
        """
