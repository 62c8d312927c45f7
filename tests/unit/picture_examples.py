"""Runs of pictures with random weights, and pictures for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from chainrule import registry
from chainrule.artifact import Artifact
from chainrule.codecs.image import PixelCodec
from chainrule.core.model import Condition

LABELS = ("cat", "dog", "7")


def run_of(recipe: str, height: int = 6, width: int = 6, **codec: Any) -> Artifact:
    """A run with random weights, far from even laws, and as far from being sure."""
    torch.manual_seed(3)
    made = PixelCodec(height, width, **{"levels": 4, **codec})
    config = {**registry.RECIPES, **registry.PICTURE_RECIPES}[recipe](made.space, "tiny")
    if made.labels:
        config = replace(config, labels=len(made.labels))
    model = registry.built(config).eval()
    spread = 0.03 if recipe in ("anyorder", "pixelcnn") else 0.2
    with torch.no_grad():
        for p in model.parameters():
            p += spread * torch.randn_like(p)
    return Artifact(model, made)


def ramp(height: int = 6, width: int = 6) -> np.ndarray:
    return (np.add.outer(np.arange(height), 2 * np.arange(width)) % 4 * 85).astype(np.uint8)


def log_p(run: Artifact, symbols: list[int], label: int | None = None) -> torch.Tensor:
    """Of every symbol, float64 [T]."""
    cond = None if label is None else Condition(label=torch.tensor([label]))
    x = torch.tensor([symbols])
    with torch.no_grad():
        return run.model(x, cond).log_prob(x)[0].double()


def blanks(*places: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((6, 6), bool)
    for place in places:
        mask[place] = True
    return mask
