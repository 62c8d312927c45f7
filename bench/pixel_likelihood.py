"""Likelihood on MNIST: families on two cores, an hour each, beside published numbers.

Each learns for its time (``CHAINRULE_BENCH_SECONDS``, else an hour), keeps the weights that are
best on the validation pictures, and is scored once on all test pictures. The published static
numbers are of another draw of the same distribution. An interrupted run goes on from its
checkpoint under build/pixel_likelihood.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import RESULTS, machine, table
from bench.pixel_data import MOVES, Protocol, load
from chainrule.core.model import AnyOrder, SequenceModel
from chainrule.core.space import Space
from chainrule.files import read_json, write_json, write_tensors
from chainrule.models.anyorder import AnyOrderConfig, AnyOrderPixels
from chainrule.models.made import MADE, MADEConfig
from chainrule.models.pixelcnn import PixelCNN, PixelCNNConfig
from chainrule.training.calibrate import calibrate
from chainrule.training.pictures import picture_nats
from chainrule.training.trainer import TrainConfig, Trainer

SECONDS = float(os.environ.get("CHAINRULE_BENCH_SECONDS", 3600))
FOLDER = Path("build/pixel_likelihood")
ORDERS = 8  # of an any-order model, estimated


@dataclass(frozen=True)
class Contender:
    """A family on a protocol, and what it learns with."""

    protocol: str
    build: Callable[[Space], SequenceModel]
    training: dict[str, Any] = field(default_factory=dict)
    moved: bool = False  # learns from pictures that were moved by a pixel, and is told which were


def pixelcnn(space: Space) -> SequenceModel:
    """Wide enough for an hour."""
    return PixelCNN(PixelCNNConfig(space, 8, 64, 32, dilations=(1, 2, 4, 8)))


def anyorder(space: Space) -> SequenceModel:
    """As the recipe has it, of which the score is a mean over orders."""
    return AnyOrderPixels(AnyOrderConfig(space))


def made(space: Space) -> SequenceModel:
    """Wide; without moved pictures it learns 50,000 of them by heart."""
    return MADE(MADEConfig(space, dim=2048, labels=1 + len(MOVES), dropout=0.3))


MUON = {"optimiser": "muon", "lr": 5e-3, "batch": 64, "decay": 0.5}
WIDE = {"lr": 1.2e-3, "batch": 256, "weight_decay": 0.05, "decay": 0.6}
CONTENDERS = {
    "anyorder": Contender("static-seed0", anyorder, {"lr": 2e-3, "batch": 64}),
    "pixelcnn": Contender("static-seed0", pixelcnn, MUON),
    "made": Contender("static-seed0", made, WIDE, moved=True),
    "pixelcnn grey": Contender("grey", pixelcnn, MUON),
    "pixelcnn dynamic": Contender("dynamic", pixelcnn, MUON),
}
PUBLISHED = {
    "static": {"NADE": 88.33, "MADE": 86.64, "PixelCNN": 81.30, "PixelRNN": 79.20},
    "dynamic": {"PixelSNAIL": 78.61, "LMConv, 8 orders averaged": 77.56},
    "grey, bits/dim": {"softmax transformer": 0.621, "linear transformer": 0.644},
}


def main(data: Path | None) -> None:
    """All contenders that have no result of this length yet, then the table."""
    if data is None:
        print("needs --data: a folder with image/mnist.npz")
        return
    for name in CONTENDERS:
        learn(name, data)
    show()


def learn(name: str, data: Path) -> None:
    """Train one contender and add its figures to the results."""
    contender = CONTENDERS[name]
    known = results()
    if name in known["figures"] and known["figures"][name]["seconds_asked"] >= SECONDS:
        return
    protocol = load(contender.protocol, data)
    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = contender.build(protocol.space)
    folder = FOLDER / f"{name.replace(' ', '-')}-{SECONDS:.0f}"
    folder.mkdir(parents=True, exist_ok=True)
    trained = train(model, protocol, contender, folder)
    write_tensors(folder / "model.safetensors", model.state_dict())
    found = figures(model, protocol)
    known["figures"][name] = {**found, **trained, "seconds_asked": SECONDS}
    write_json(RESULTS / "pixel_likelihood.json", {**known, "machine": machine()})
    print(name, known["figures"][name], flush=True)


def train(
    model: SequenceModel, protocol: Protocol, contender: Contender, folder: Path
) -> dict[str, Any]:
    """To the end of its time, from its last checkpoint on."""
    usual: dict[str, Any] = {"steps": 1, "length": protocol.train.shape[1], "weight_decay": 0.01}
    usual |= {"ema": 0.9995, "threads": 2, "evaluations": 40, "patience": 40}
    if isinstance(model, AnyOrder):
        usual |= {"objective": "any-order", "rate": 1.0}
    config = TrainConfig(**{**usual, **contender.training})
    lessons = protocol.lessons(contender.moved)
    plan = folder / "steps.json"
    if plan.exists():
        config = TrainConfig(**read_json(plan))
    else:
        config = calibrate(model, lessons, config, SECONDS)
        write_json(plan, vars(config))
    trainer = Trainer(model, lessons, config)
    trainer.resume(folder, print)
    began = time.perf_counter() - trainer.progress.seconds

    def report(record: dict[str, Any]) -> None:
        if "best" in record:
            nats = record["held_out_bits_per_dimension"] * math.log(2) * protocol.train.shape[1]
            print(f"  step {record['step']:,} of {config.steps:,}, {record['seconds']:.0f} s: "
                  f"validation {nats:.3f} nats", flush=True)  # fmt: skip

    trainer.run(folder, report, print)
    model.load_state_dict(trainer.best)
    at = trainer.progress
    return {
        "protocol": protocol.name,
        "steps": at.step,
        "best_step": at.best_step,
        "epochs": at.step * config.batch / len(protocol.train),
        "seconds": time.perf_counter() - began,
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": vars(config),
    }


def figures(model: SequenceModel, protocol: Protocol) -> dict[str, Any]:
    """Nats a picture and bits per dimension on validation and test, all pictures of both."""
    found: dict[str, Any] = {}
    for name, x in (("validation", protocol.validation), ("test", protocol.test)):
        orders = ORDERS if isinstance(model, AnyOrder) else 0
        still = np.zeros(len(x), np.int64) if "label" in model.reads else None
        nats = picture_nats(model, x, still, orders=orders)
        error = float(nats.std() / math.sqrt(len(nats)))
        found[name] = {
            "nats": float(nats.mean()),
            "standard_error": error,
            "bits_per_dimension": float(nats.mean() / math.log(2) / x.shape[1]),
        }
    return found


def results() -> dict[str, Any]:
    """What was measured before."""
    path = RESULTS / "pixel_likelihood.json"
    known: dict[str, Any] = read_json(path) if path.exists() else {"figures": {}}
    return {"published": PUBLISHED, **known}


def show() -> None:
    """All figures."""
    rows = []
    for name, each in results()["figures"].items():
        parts = [each[part] for part in ("validation", "test")]
        numbers = [p["nats"] for p in parts] + [parts[1]["bits_per_dimension"]]
        rows.append([name, each["protocol"], *numbers, each["epochs"], each["seconds"]])
    header = ["model", "protocol", "validation nats", "test nats", "test bits/dim", "epochs"]
    table([*header, "seconds"], rows)
    for name, others in PUBLISHED.items():
        print(f"published, {name}: {', '.join(f'{k} {v}' for k, v in others.items())}")
