"""Drawing pictures: naive re-evaluation, cached torch and the engine, one core, the same pixels.

A PixelCNN of 64 channels and 8 layers with random weights. Naive: the whole network on the whole
picture for each symbol, float32. Cached: rows and pixels that are done are kept, in torch. Engine:
the same in compiled code, float32 (whose pictures must be those of the naive way, symbol for
symbol) and bf16. 28×28 of 2 levels, 32×32×3 of 256; milliseconds a picture in interleaved rounds.
Of the naive way with 32×32×3, rounds take 48 symbols (each costs the same) and count 64 times; one
picture is drawn whole to compare. Published: 183 times by caching, on a GPU (Ramachandran et al.
2017, "Fast generation for convolutional autoregressive models").
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.common import interleaved, ratios, save, summary, table
from chainrule.core.model import SequenceModel
from chainrule.core.noise import Noise, Positions
from chainrule.core.space import Space
from chainrule.decoding.strategy import Target
from chainrule.decoding.verify import Ancestral, drain
from chainrule.decoding.warps import Warps
from chainrule.engine.compiled import Compiled
from chainrule.models.pixelcnn import PixelCNN, PixelCNNConfig

SHAPES = {"28x28": ((28, 28, 1), 2), "32x32x3": ((32, 32, 3), 256)}
PART = {"28x28": 784, "32x32x3": 48}
BATCHES = (16, 64)
WIDTH, LAYERS = 64, 8


def main(data: Path | None) -> None:
    """One picture three ways, then batches."""
    torch.set_num_threads(1)
    result = {name: _measured(name) for name in SHAPES}
    rows = [
        [f"{shape} {name}", *figures.values()]
        for shape, found in result.items()
        for name, figures in found.items()
        if "median" in figures
    ]
    table(["milliseconds a picture, or ratio", "median", "min", "max"], rows)
    save("pixel_sampling", result)


def _measured(shape: str) -> dict[str, dict[str, Any]]:
    grid, levels = SHAPES[shape]
    torch.manual_seed(0)
    model = PixelCNN(PixelCNNConfig(Space.picture(grid, levels), LAYERS, WIDTH, WIDTH)).eval()
    length, part = _length(model), PART[shape]
    runners = {"cached torch": model, "engine f32": Compiled(model, "f32", 1)}
    runners["engine bf16"] = Compiled(model, "bf16", 1)
    ways = {name: partial(_timed, _drawn, each, 1) for name, each in runners.items()}
    naive = {"naive": partial(_timed, _naive, model, 1, part, times=length / part)}
    found = _compared({**naive, **ways}, 5)
    whole = _naive(model, 1, length)
    found["symbols that differ from naive"] = {
        name: int((_drawn(runners[name], 1) != whole).sum())
        for name in ("cached torch", "engine f32")
    }
    print(shape, found["symbols that differ from naive"], flush=True)
    for batch in BATCHES:
        ways = {
            name: partial(_timed, _drawn, each, batch, times=1 / batch)
            for name, each in runners.items()
        }
        more = _compared(ways, 5 if shape == "28x28" else 3)
        found |= {f"batch {batch} {name}": figures for name, figures in more.items()}
    return found


def _compared(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, dict[str, Any]]:
    """Milliseconds of each way, and how many times as long the slow ones take."""
    figures = interleaved(ways, rounds)
    found: dict[str, dict[str, Any]] = {k: dict(summary(v)) for k, v in figures.items()}
    for slow in ("naive", "cached torch"):
        for fast in ("engine f32", "engine bf16"):
            if slow in figures:
                found[f"{slow} / {fast}"] = dict(ratios(figures[slow], figures[fast]))
    return found


def _length(model: SequenceModel) -> int:
    assert model.space.max_len is not None
    return model.space.max_len


def _timed(draw: Callable[..., Tensor], *args: Any, times: float = 1) -> float:
    began = time.perf_counter()
    draw(*args)
    return 1000 * times * (time.perf_counter() - began)


@torch.no_grad()
def _naive(model: SequenceModel, batch: int, count: int) -> Tensor:
    """The first ``count`` symbols, each by a pass over the whole picture."""
    noise = Noise.seeded(0, range(batch))
    x = torch.zeros(batch, _length(model), dtype=torch.int64)
    for at in range(count):
        law = model(x)[:, at : at + 1]
        x[:, at : at + 1] = law.sample(noise.at(Positions((at,) * batch, 1)))
    return x


@torch.no_grad()
def _drawn(model: SequenceModel, batch: int) -> Tensor:
    """Whole pictures, as ``generate`` draws them with the strategy ancestral."""
    length, noise = _length(model), Noise.seeded(0, range(batch))
    decoder = Ancestral.decoder(Target(model, length=length))
    empty = torch.zeros(0, dtype=torch.int64)
    begun = decoder.start([empty] * batch, noise, None, Warps.of(batch))
    steps = list(drain(decoder, begun, [length] * batch))
    return torch.cat([s.symbols for s in steps], 1)
