"""Loss curves of 20 steps, as text: a refactor that changes one changed the maths.

``python -m tests.golden.curves`` writes them anew; the difference belongs into the commit.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import torch

from chainrule.core.space import Space
from chainrule.registry import MODELS, RECIPES
from chainrule.training.data import Corpus
from chainrule.training.trainer import TrainConfig, Trainer
from chainrule.verbs.choosing import Options, choose_training, make_model

STEPS, LENGTH, BATCH = 20, 24, 4
FOLDER = Path(__file__).parent
LEARNED = [
    name
    for name, recipe in RECIPES.items()
    if any(
        isinstance(recipe(Space("finite", 2), "tiny"), kind.Config)  # type: ignore[attr-defined]
        and kind.__name__ != "NGram"
        for kind in MODELS.values()
    )
]


def curve(name: str) -> list[float]:
    """Nats per symbol at each step, in float64, with the training defaults of the recipe."""
    usual = choose_training(name, "tiny", Options(steps=STEPS, batch=BATCH, context=LENGTH))
    text = (resources.files("chainrule") / "assets" / "alice.txt").read_bytes()
    symbols = np.frombuffer(text, np.uint8) % 64
    corpus = Corpus(symbols, symbols[:0], len(symbols), 0)
    torch.manual_seed(0)
    model = make_model(name, "tiny", Space("finite", 64, eos=0), 0.0, LENGTH).double()
    config = TrainConfig(**{**vars(usual), "warm_up": 5, "ema": 0.9, "threads": 1})
    trainer = Trainer(model, corpus, config)
    return [trainer.train_step() for _ in range(STEPS)]


def path(name: str) -> Path:
    """Where the curve is kept."""
    return FOLDER / f"{name}.txt"


def main() -> None:
    """Write all of them."""
    for name in LEARNED:
        path(name).write_text("".join(f"{loss:.10f}\n" for loss in curve(name)))


if __name__ == "__main__":
    main()
