"""Time to quality: wall time until tiny Shakespeare's whole validation part is at TARGET nats.

Validation is the last 10 % of the characters, in nats per character. nanoGPT trains by the CPU
recipe of its README, its own train.py unchanged; chainrule by OURS, driven by its Trainer. Two
threads, a process a run, the two in turns, a whole schedule each: steps are fixed beforehand.
The clock runs from behind the imports to the last step, compiling and warming up included, with
nothing compiled before. No evaluation is on it, for either.

Two measures: "cold", every CONTEXT characters from their own start, and "stream", the whole part
as one sequence, with whatever context the model has. nanoGPT predicts the first character of a
window from the one before it; chainrule has only its start symbol there.

``budget`` is the other question, the best loss in a given time, all on the clock as in
``fit --time``: ``python -m bench.time_to_quality budget SECONDS SEED FOLDER``, 600 or 3600 seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench import peers
from bench.common import ratios, save, summary, table
from bench.peers import CHARACTERS, Shape
from chainrule.core.config import to_dict
from chainrule.core.model import SequenceModel
from chainrule.core.space import Space
from chainrule.models.rnn import RNN, RNNConfig
from chainrule.models.transformer import Transformer, TransformerConfig
from chainrule.training.calibrate import calibrate
from chainrule.training.data import Corpus
from chainrule.training.precision import keep_memory
from chainrule.training.scoring import document_nats, log_probs
from chainrule.training.trainer import TrainConfig, Trainer

TARGET, CONTEXT, THREADS, SEEDS = 1.88, 64, 2, (1, 2, 3)
RECIPE = {  # README.md of nanoGPT, "I only have a macbook"
    **peers.nano_gpt_options(Shape(layers=4, heads=4, dim=128, block=CONTEXT, batch=12)),
    "compile": False,
    "max_iters": 2000,
    "lr_decay_iters": 2000,
}
SPACE = Space("finite", CHARACTERS)
ModelConfig = TransformerConfig | RNNConfig

# ==== what runs for us: tuned by hand ====
OURS: dict[str, tuple[ModelConfig, TrainConfig]] = {
    "chainrule lstm": (
        RNNConfig(SPACE, "lstm", num_layers=2, dim=192, hidden=192, residual=True),
        TrainConfig(steps=240, batch=16, length=64, lr=1e-2, warm_up=20, threads=THREADS),
    ),
    "chainrule transformer": (
        TransformerConfig(
            SPACE, num_layers=3, dim=128, num_heads=4, hidden=352, context=CONTEXT, sinks=0
        ),
        TrainConfig(
            steps=410, batch=16, length=64, lr=5e-3, warm_up=20, threads=THREADS, optimiser="muon"
        ),
    ),
}
BUDGETS: dict[int, tuple[ModelConfig, TrainConfig]] = {  # by seconds
    600: (
        RNNConfig(SPACE, "lstm", num_layers=2, dim=384, hidden=384, residual=True, dropout=0.2),
        TrainConfig(steps=1, batch=16, length=64, lr=5e-3, evaluations=12, patience=12),
    ),
    3600: (
        RNNConfig(SPACE, "lstm", num_layers=2, dim=512, hidden=512, residual=True, dropout=0.3),
        TrainConfig(
            steps=1, batch=16, length=128, lr=3e-3, warm_up=100, evaluations=24, patience=8
        ),
    ),
}
# =========================================


def main(data: Path | None, seeds: tuple[int, ...] = SEEDS) -> None:
    """Both recipes, once a seed."""
    if data is None:
        print("skipped: it needs text/tinyshakespeare.txt: --data FOLDER")
        return
    names = [*OURS, *(name for name in ("nanoGPT",) if peers.present(name))]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in seeds:
        for name in names:
            runs[name].append(_child(name, str(seed), data))
            print(name, "seed", seed, runs[name][-1])
    rows = []
    result: dict[str, Any] = {"target": TARGET, "context": CONTEXT, "threads": THREADS}
    for name in names:
        figures = {k: [run[k] for run in runs[name]] for k in ("seconds", "cold", "stream")}
        spread = {k: summary(v) for k, v in figures.items() if None not in v}
        reached = {k: sum(n <= TARGET for n in figures[k]) for k in spread if k != "seconds"}
        result[name] = {"runs": runs[name], **spread, "reached": reached}
        cells = [spread[k]["median"] if k in spread else "-" for k in ("seconds", "cold", "stream")]
        reached_words = ", ".join(f"{k} {n} of {len(seeds)}" for k, n in reached.items())
        rows.append([name, *cells, reached_words])
    table(["contender", "seconds", f"cold {CONTEXT}", "stream", f"at {TARGET} or below"], rows)
    if "nanoGPT" in names:
        theirs = [run["seconds"] for run in runs["nanoGPT"]]
        for name in OURS:
            ratio = ratios([run["seconds"] for run in runs[name]], theirs)
            result[name]["ratio"] = ratio
            print(f"time of {name} to nanoGPT's: {ratio}")
    result["ours"] = {k: [to_dict(config) for config in v] for k, v in OURS.items()}
    save("time_to_quality", result)


def nano_gpt(data: Path, seed: int, **options: Any) -> dict[str, Any]:
    """Seconds and nats per character of its recipe, in this process; ``options`` over RECIPE's."""
    torch.set_num_threads(THREADS)
    began, steps = [0.0], [0]

    def begin() -> None:
        began[0] = time.perf_counter()

    def step() -> None:
        steps[0] += 1
        if steps[0] % 100 == 0:
            print(steps[0], end=" ", file=sys.stderr, flush=True)

    model = peers.nano_gpt(data, {**RECIPE, **options}, step, seed=seed, begin=begin)
    seconds = time.perf_counter() - began[0]
    cold = _nano_nats(model, peers.characters(data)[1], {**RECIPE, **options}["block_size"])
    return {"seconds": seconds, "steps": steps[0], "cold": cold, "stream": None}


@torch.no_grad()
def _nano_nats(model: Any, held_out: NDArray[np.uint8], context: int) -> float:
    """Of every character behind the first, in windows that don't overlap."""
    model.eval()
    x = torch.from_numpy(held_out.astype(np.int64))
    total, count = 0.0, len(x) - 1
    whole = count // context * context
    pieces = zip(
        x[:whole].view(-1, context).split(64),
        x[1:][:whole].view(-1, context).split(64),
        strict=True,
    )
    for inputs, targets in [*pieces, (x[None, whole:-1], x[None, whole + 1 :])]:
        if targets.numel():
            total += float(model(inputs, targets)[1]) * targets.numel()
    return total / count


def ours(
    data: Path, model_config: ModelConfig, train_config: TrainConfig, seed: int
) -> dict[str, Any]:
    """Seconds and nats per character of a whole schedule, in this process."""
    train, held_out = peers.characters(data)
    keep_memory()
    torch.set_num_threads(THREADS)
    # Nothing is held out from the Trainer's sight: its last check keeps the last weights.
    corpus = Corpus(train, held_out[:0], len(train), 0)
    began = time.perf_counter()
    model = _build(model_config, seed)
    config = replace(train_config, seed=seed, evaluations=1)
    trainer = Trainer(model, corpus, config)
    trainer.run(None, _quiet, _say)
    model.load_state_dict(trainer.best)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "steps": trainer.progress.step, **_nats(model, held_out, CONTEXT)}


def budget(
    data: Path, model_config: ModelConfig, train_config: TrainConfig, seconds: float, seed: int = 1
) -> dict[str, Any]:
    """Nats per character of the best weights after ``seconds``, in this process.

    As ``fit --time``: steps follow from a calibration, and the weights with the best figure on
    the validation part are kept. All of that is on the clock; the figures returned are not.
    """
    train, held_out = peers.characters(data)
    keep_memory()
    torch.set_num_threads(THREADS)
    corpus = Corpus(train, held_out, len(train), len(held_out))
    began = time.perf_counter()
    model = _build(model_config, seed)
    config = calibrate(model, corpus, replace(train_config, seed=seed), seconds)
    trainer = Trainer(model, corpus, config)
    trainer.run(None, _show, _say)
    model.load_state_dict(trainer.best)
    taken = time.perf_counter() - began
    found = {
        "budget": seconds,
        "seconds": taken,
        "steps": trainer.progress.step,
        "best_step": trainer.progress.best_step,
        "train": to_dict(config),
        "model": to_dict(model_config),
    }
    torch.set_num_threads(THREADS)
    context = getattr(model_config, "context", 256)
    return {**found, "cold_context": context, **_nats(model, held_out, context)}


def _build(config: ModelConfig, seed: int) -> SequenceModel:
    torch.manual_seed(seed)
    return Transformer(config) if isinstance(config, TransformerConfig) else RNN(config)


def _nats(model: SequenceModel, held_out: NDArray[np.uint8], context: int) -> dict[str, float]:
    windows = (held_out[i : i + context] for i in range(0, len(held_out), context))
    return {
        "cold": -sum(document_nats(model, windows)) / len(held_out),
        "stream": -float(log_probs(model, held_out).mean()),
    }


def _quiet(_: dict[str, Any]) -> None:
    """No report."""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show(line: dict[str, Any]) -> None:
    """Checks on the validation part, with the time."""
    if "held_out_bits_per_byte" in line:
        _say(str(line))


def _child(name: str, seed: str, data: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cold:
        done = subprocess.run(
            [sys.executable, "-m", "bench.time_to_quality", name, seed, str(Path(data).resolve())],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": str(THREADS),
                "TORCHINDUCTOR_CACHE_DIR": cold,  # nothing was compiled before
            },
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _work(name: str, *words: str) -> None:
    out, sys.stdout = sys.stdout, sys.stderr  # the peers print
    if name == "budget":
        found = budget(Path(words[2]), *BUDGETS[int(words[0])], float(words[0]), int(words[1]))
        save(f"budget_{words[0]}", found)
    elif name == "nanoGPT":
        found = nano_gpt(Path(words[1]), int(words[0]))
    else:
        found = ours(Path(words[1]), *OURS[name], int(words[0]))
    print(json.dumps(found), file=out)


if __name__ == "__main__":
    _work(*sys.argv[1:])
