"""MNIST as benchmarks use it, each protocol by its name.

``static-seed0``: pixels drawn once as Bernoulli(value / 255) by NumPy's PCG64 with seed 0, the
training pictures first; ``dynamic``: drawn anew at every access; ``grey``: 256 levels. Training is
the first 50,000, validation the last 10,000 of the training pictures, test the 10,000 others.
MNIST (Y. LeCun, C. Cortes) is CC BY-SA 3.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chainrule.core.space import Space
from chainrule.training.pictures import Pictures

TRAIN, SIDE = 50_000, 28
PROTOCOLS = ("static-seed0", "dynamic", "grey")


@dataclass(frozen=True)
class Protocol:
    """Pictures [N, 784] of the three parts, and what they are."""

    name: str
    space: Space
    train: NDArray[np.uint8]
    validation: NDArray[np.uint8]
    test: NDArray[np.uint8]

    def lessons(self) -> Pictures:
        """Learned from the training part, checked on the validation part."""
        return Pictures(self.train, self.validation, redraw=self.name == "dynamic")


def load(name: str, data: Path) -> Protocol:
    """A protocol of the folder's image/mnist.npz.

    Validation and test of ``dynamic`` are drawn once: those of ``static-seed0``.
    """
    with np.load(data / "image" / "mnist.npz") as file:
        grey, test = file["train_images"], file["test_images"]
    if name == "grey":
        return _protocol(name, 256, grey, test)
    dice = np.random.Generator(np.random.PCG64(0))
    drawn = (dice.random(grey.shape) < grey / 255).astype(np.uint8)
    drawn_test = (dice.random(test.shape) < test / 255).astype(np.uint8)
    static = _protocol(name, 2, drawn, drawn_test)
    if name == "static-seed0":
        return static
    return Protocol(
        name, static.space, grey[:TRAIN].reshape(TRAIN, -1), static.validation, static.test
    )


def _protocol(
    name: str, levels: int, train: NDArray[np.uint8], test: NDArray[np.uint8]
) -> Protocol:
    space = Space.picture((SIDE, SIDE, 1), levels)
    flat = train.reshape(len(train), -1)
    return Protocol(name, space, flat[:TRAIN], flat[TRAIN:], test.reshape(len(test), -1))
