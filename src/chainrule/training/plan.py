"""What a run depends on: its settings, and what it asks of the data.

Shapes: B rows, T window length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from chainrule.core.config import bounded
from chainrule.core.model import SequenceModel
from chainrule.core.objective import Batch
from chainrule.training.objectives import OBJECTIVES


@dataclass(frozen=True)
class TrainConfig:
    """What training depends on; stored with the artifact.

    Args:
        steps: optimiser steps; batch and length: rows and symbols of one window.
        lr: peak learning rate; warm_up: steps; decay: share of the steps going down.
        optimiser: adamw, or muon for the matrices inside the network.
        clip: largest norm of the gradient; accumulate: windows batches a step.
        carry: consecutive batches, the hidden state carried over (truncated back-propagation).
        threads: of the processor; a resumed run takes as many, so that its sums are the same.
        objective, rate: what is minimised, by name, and its share of replaced symbols.
        rank: of the adapter that learns in the stead of the weights (``nn/lora.py``); 0: none.
        ema: decay of the weights' running average, which is what is checked and kept; 0: off.
        compile: torch.compile, for runs that are long enough to repay it.
        evaluations: held-out checks over the whole run; patience: how many may pass without
            a new best before training stops early.

    Raises:
        ValueError: a setting out of bounds.
    """

    steps: int
    batch: int = 32
    length: int = 64
    lr: float = 1e-2
    warm_up: int = 50
    decay: float = 0.4
    optimiser: str = "adamw"
    weight_decay: float = 0.1
    clip: float = 1.0
    accumulate: int = 1
    carry: bool = False
    seed: int = 0
    threads: int = 1
    evaluations: int = 20
    patience: int = 6
    objective: str = "nll"
    rate: float = 0.0
    ema: float = 0.0
    compile: bool = False
    rank: int = 0

    def __post_init__(self) -> None:
        bounded("steps", self.steps, 1, 10**9)
        bounded("batch", self.batch, 1, 65536)
        bounded("length", self.length, 1, 10**6)
        bounded("lr", self.lr, 1e-9, 10)
        bounded("warm_up", self.warm_up, 0, 10**9)
        bounded("decay", self.decay, 0, 1)
        bounded("weight_decay", self.weight_decay, 0, 100)
        bounded("clip", self.clip, 1e-6, 1e9)
        bounded("accumulate", self.accumulate, 1, 65536)
        bounded("seed", self.seed, 0, 2**63 - 1)
        bounded("threads", self.threads, 1, 65536)
        bounded("evaluations", self.evaluations, 1, 10**6)
        bounded("patience", self.patience, 1, 10**6)
        bounded("rate", self.rate, 0, 1)
        bounded("rank", self.rank, 0, 1024)
        bounded("ema", self.ema, 0, 0.999999)
        if self.objective not in OBJECTIVES:
            known = ", ".join(OBJECTIVES)
            raise ValueError(f"objective {self.objective!r} is not one of {known}")


class Lessons(Protocol):
    """What a trainer asks of its data. Batches are pure functions of (config, number)."""

    unit: str  # byte, point of a series, or dimension of a picture

    @property
    def symbols_per_unit(self) -> float:
        """Of the training part."""

    @property
    def holds_out(self) -> bool:
        """Whether there is a held-out part."""

    def rows(self, config: TrainConfig) -> int:
        """B: what was asked for, or fewer where there are fewer."""

    def batch(self, config: TrainConfig, number: int) -> tuple[Batch, bool]:
        """The number-th batch, and whether a state that is carried along ends before it."""

    def origin(self, config: TrainConfig, number: int) -> str:
        """Where the rows of that batch begin, for people."""

    def held_out_nats(self, model: SequenceModel) -> tuple[float, float]:
        """-log p of (some of) the held-out part, and the units that this is of."""
