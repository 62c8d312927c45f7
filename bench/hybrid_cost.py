"""What a hybrid costs the autoregressive loss: trained on blanks too, at equal training time.

The small transformer of ``fit`` on tiny Shakespeare, its defaults, one thread. A step's time is
processor time, measured in interleaved rounds; whoever's step is dearer gets fewer of them. Held
out: the last 10 %, nats per character, in lanes that start cold. Extra heads are timed beside it:
they touch no other weight, so time is all that they cost.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.common import interleaved, save, summary, table
from bench.peers import CHARACTERS, characters
from chainrule.core.space import Space
from chainrule.training.data import Corpus
from chainrule.training.scoring import log_probs
from chainrule.training.trainer import TrainConfig, Trainer
from chainrule.verbs.choosing import Options, choose_training, make_model

STEPS, SEEDS, ROUNDS, ROUND = 1500, (1, 2, 3), 7, 24
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "hybrid": {"objective": "hybrid"},
    "hybrid, rate 1": {"objective": "hybrid", "rate": 1.0},
    "heads": {"ahead": 4},
}


def main(data: Path | None) -> None:
    """The table, stored."""
    if data is None:
        print("skipped: it needs text/tinyshakespeare.txt: --data FOLDER")
        return
    torch.set_num_threads(1)
    timed = {kind: prepared(data, kind, 0, ROUND * (ROUNDS + 1))[0] for kind in KINDS}
    times = interleaved({k: lambda t=t: _step_ms(t) for k, t in timed.items()}, ROUNDS)
    # Not of medians: only some batches have blanks, and those are what a hybrid costs.
    dearer = {k: sum(times[k]) / sum(times["plain"]) for k in KINDS}
    nats: dict[str, dict[int, float]] = {kind: {} for kind in KINDS}
    for seed in SEEDS:
        for kind, found in nats.items():
            if kind == "heads" or (kind == "hybrid, rate 1" and seed != SEEDS[0]):
                continue
            steps = round(STEPS / dearer[kind])
            found[seed] = learned(data, kind, seed, steps)
            print(f"seed {seed}, {kind}: {steps} steps, {found[seed]:.4f} nats", flush=True)
    cost = {
        kind: summary([100 * (n / nats["plain"][seed] - 1) for seed, n in found.items()])
        for kind, found in nats.items()
        if found
    }
    rows = [
        [
            kind,
            summary(times[kind])["median"],
            dearer[kind],
            *(f"{nats[kind][s]:.4f}" if s in nats[kind] else "" for s in SEEDS),
            f"{cost[kind]['median']:+.2f} %" if kind in cost else "",
        ]
        for kind in KINDS
    ]
    seeds = [f"nats, seed {s}" for s in SEEDS]
    table(["training", "ms a step", "of plain", *seeds, "bits"], rows)
    save(
        "hybrid_cost",
        {
            "steps": STEPS,
            "seeds": SEEDS,
            "ms_per_step": {k: summary(v) for k, v in times.items()},
            "step_of_plain": dearer,
            "nats": nats,
            "percent_of_bits": cost,
        },
    )


def prepared(data: Path, kind: str, seed: int, steps: int) -> tuple[Trainer, Any]:
    """A trainer with nothing held out in its own sight, and what is held out."""
    train, held_out = characters(data)
    asked = Options(model="transformer", size="small", steps=steps, seed=seed, **KINDS[kind])
    config: TrainConfig = replace(choose_training("transformer", "small", asked), threads=1)
    torch.manual_seed(seed)
    model = make_model(
        "transformer",
        "small",
        Space("finite", CHARACTERS),
        0.0,
        config.length,
        ahead=asked.ahead,
        masked=asked.objective == "hybrid",
    )
    corpus = Corpus(train, held_out[:0], len(train), 0)
    return Trainer(model.train(), corpus, config), held_out


def learned(data: Path, kind: str, seed: int, steps: int) -> float:
    """Held-out nats per character after a whole schedule."""
    trainer, held_out = prepared(data, kind, seed, steps)
    while trainer.progress.step < steps:
        trainer.train_step()
    return -float(log_probs(trainer.model, held_out, lanes=8).mean())


def _step_ms(trainer: Trainer) -> float:
    began = time.process_time()
    for _ in range(ROUND):
        trainer.train_step()
    return (time.process_time() - began) / ROUND * 1e3
