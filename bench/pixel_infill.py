"""Filling in: conditional bits of what is missing, any-order against going row by row.

The networks are those of ``pixel_likelihood`` (static-seed0). Of test pictures, the lower half
given the upper one, and every second pixel at random given the others. Any-order: exact, in its
order from left to right. PixelCNN: exact for the lower half, whose rows come last; for the random
mask, clamp (what its law gives the true pixels when it sees only what precedes each) and smc (its
joint probability over the estimated one of what is known, which is too few bits on average, the
less so the more particles; of the first pictures only). Then a sheet, build/pixel_infill.png.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.common import save, table
from bench.pixel_data import SIDE, load
from bench.pixel_likelihood import CONTENDERS, FOLDER
from chainrule.core.model import AnyOrder, SequenceModel
from chainrule.decoding.infill import infill
from chainrule.engine.compiled import Compiled
from chainrule.files import load_into, read_tensors
from chainrule.verbs.fill import striped
from chainrule.verbs.pictures import grid_of

PICTURES, SHOWN, PARTICLES = 100, 4, (64, 256)
SMC = 20  # pictures that particles are tried on
ALTERNATIVES = 4
THREADS = len(os.sched_getaffinity(0))


def main(data: Path | None) -> None:
    """Bits for both masks, then the sheet."""
    if data is None:
        print("needs --data: a folder with image/mnist.npz")
        return
    torch.set_num_threads(THREADS)
    protocol = load("static-seed0", data)
    nets = {name: _trained(name, data) for name in ("pixelcnn", "anyorder")}
    x = torch.from_numpy(protocol.test[:PICTURES].astype(np.int64))
    half = torch.arange(SIDE * SIDE) < SIDE * SIDE // 2
    some = torch.from_numpy(np.random.default_rng(0).random(SIDE * SIDE) < 0.5)
    rows: list[list[Any]] = []
    for mask, known in (("lower half", half), ("every second pixel", some)):
        blanks = int((~known).sum())
        found = _bits(nets, x, known)
        for way, bits in found.items():
            error = float(bits.std() / math.sqrt(len(bits)))
            first = float(bits[:SMC].mean())
            mean = float(bits.mean())
            rows.append([mask, way, len(bits), mean, error, mean / blanks, first])
    header = ["mask", "way", "pictures", "bits a picture", "standard error", "bits a blank"]
    header.append(f"of the first {SMC}")
    table(header, rows)
    Image.fromarray(_sheet(nets, x, {"half": half, "some": some})).save("build/pixel_infill.png")
    save("pixel_infill", {"rows": [dict(zip(header, row, strict=True)) for row in rows]})


def _trained(name: str, data: Path) -> SequenceModel:
    """The longest trained network of that name.

    Raises:
        ValueError: there is none.
    """
    found = sorted(FOLDER.glob(f"{name}-*/model.safetensors"), key=_seconds)
    if not found:
        raise ValueError(f"no {name} yet: run the bench pixel_likelihood first")
    model = CONTENDERS[name].build(load("static-seed0", data).space)
    load_into(model, read_tensors(found[-1])[0], found[-1])
    return model.eval()


def _seconds(path: Path) -> int:
    return int(path.parent.name.rpartition("-")[2])


@torch.no_grad()
def _bits(
    nets: dict[str, SequenceModel], x: Tensor, known: Tensor
) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Conditional bits of the blanks of every picture, way by way."""
    raster = nets["pixelcnn"]
    each = raster(x).log_prob(x).double()
    bits: dict[str, Tensor] = {"any-order, exact": _any_order(nets["anyorder"], x, known)}
    name = "exact" if bool((known[1:] <= known[:-1]).all()) else "clamp"
    bits[f"pixelcnn, {name}"] = -each[:, ~known].sum(1)
    if name == "clamp":
        engine = Compiled(raster, "f32", THREADS)
        for particles in PARTICLES:
            given = [
                infill(engine, p, known, "smc", 1, particles=particles, seed=i).log_evidence
                for i, p in enumerate(x[:SMC])
            ]
            evidence = torch.tensor(given, dtype=torch.float64)
            bits[f"pixelcnn, smc, {particles} particles"] = evidence - each[:SMC].sum(1)
    return {way: (value / math.log(2)).numpy() for way, value in bits.items()}


def _any_order(model: SequenceModel, x: Tensor, known: Tensor) -> Tensor:
    """-log p(blanks | known) in nats [B]: the known places come first, then the blanks in order."""
    net = model.masked
    assert net is not None
    places = torch.arange(len(known))
    chain = AnyOrder(net, torch.cat([places[known], places[~known]]).tolist())
    given, nats = int(known.sum()), torch.zeros(len(x), dtype=torch.float64)
    for first in range(0, len(x), 10):
        part = chain.to_order(x[first : first + 10])
        state = chain.extend(chain.start(len(part)), part[:, :given])
        for at in range(given, part.shape[1]):
            symbol = part[:, at : at + 1]
            nats[first : first + 10] -= chain.predict(state).log_prob(symbol)[:, 0].double()
            state = chain.extend(state, symbol)
    return nats


def _sheet(
    nets: dict[str, SequenceModel], x: Tensor, masks: dict[str, Tensor]
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Some pictures, what is given of them, and alternatives: any-order, then clamp, then smc."""
    engine = Compiled(nets["pixelcnn"], "f32", THREADS)
    ways: list[Callable[[Tensor, Tensor], Tensor]] = [
        lambda p, known: infill(nets["anyorder"], p, known, "exact", ALTERNATIVES).symbols,
        lambda p, known: infill(engine, p, known, "clamp", ALTERNATIVES).symbols,
        lambda p, known: infill(engine, p, known, "smc", ALTERNATIVES, particles=256).symbols,
    ]
    shown = []
    for number in range(SHOWN):
        known = list(masks.values())[number % 2]
        picture = x[number]
        pixels = _pixels(picture)
        shown += [pixels, striped(pixels, ~known.view(SIDE, SIDE).numpy())]
        for way in ways:
            shown += [_pixels(p) for p in way(picture, known)]
    return grid_of(shown, columns=2 + 3 * ALTERNATIVES)


def _pixels(x: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return (x.view(SIDE, SIDE) * 255).to(torch.uint8).numpy()
