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
MOVES = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
STILL = len(MOVES) // 2  # how often a picture comes as it is


@dataclass(frozen=True)
class Protocol:
    """Pictures [N, 784] of the three parts, and what they are."""

    name: str
    space: Space
    train: NDArray[np.uint8]
    validation: NDArray[np.uint8]
    test: NDArray[np.uint8]

    def lessons(self, moved: bool = False) -> Pictures:
        """Learned from the training part, checked on the validation part.

        ``moved``: two in three are moved by a pixel, in one of eight directions, and a label says
        in which (Jun et al. 2020, "Distribution augmentation for generative modeling").
        """
        if not moved:
            return Pictures(self.train, self.validation, redraw=self.name == "dynamic")
        wide = np.pad(self.train.reshape(-1, SIDE, SIDE), ((0, 0), (1, 1), (1, 1)))
        parts = [self.train] * STILL
        parts += [wide[:, y : y + SIDE, x : x + SIDE].reshape(len(wide), -1) for y, x in MOVES]
        labels = np.repeat([0] * STILL + list(range(1, len(MOVES) + 1)), len(wide))
        still = np.zeros(len(self.validation), np.int64)
        return Pictures(np.concatenate(parts), self.validation, labels, still)


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
