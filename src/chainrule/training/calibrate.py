"""From a time budget to a number of steps, measured on this machine."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import torch

from chainrule.core.model import SequenceModel
from chainrule.training.distributed import ALONE, Alone
from chainrule.training.plan import Lessons
from chainrule.training.trainer import TrainConfig, Trainer

_LONGEST = 2.0  # seconds, at most a twentieth of the budget


def calibrate(
    model: SequenceModel,
    corpus: Lessons,
    config: TrainConfig,
    seconds: float,
    company: Alone = ALONE,
) -> TrainConfig:
    """The config whose steps fill ``seconds`` on this machine, measured on a copy of the model.

    One thread is tried beside all of them: small networks, and busy machines, are faster so.
    Several processes measure together, and process 0 decides.
    """
    dice, before = torch.get_rng_state(), torch.get_num_threads()
    every = int(company.agree(company.threads(before)))
    # Hardly any learning: a trial that diverged would say nothing of the run.
    tried = replace(config, lr=1e-9, steps=10**9)
    trial = Trainer(copy.deepcopy(model), corpus, tried, company)
    trial.model.train()
    speeds = {}
    for threads in sorted({1, every}):
        torch.set_num_threads(threads)
        trial.train_step()  # the first one also pays for warming up
        began, done = time.perf_counter(), 0
        limit = min(_LONGEST, seconds / 20)
        while company.agree(time.perf_counter() - began < limit or done < 2):
            trial.train_step()
            done += 1
        speeds[threads] = (time.perf_counter() - began) / done
    threads = min(speeds, key=lambda n: speeds[n])
    per_step = speeds[threads]
    torch.set_num_threads(threads)
    began = time.perf_counter()
    trial.held_out_bits()
    checking = time.perf_counter() - began
    torch.set_num_threads(before)
    torch.set_rng_state(dice)
    evaluations = max(2, min(config.evaluations, int(seconds * 0.15 / max(checking, 1e-3))))
    steps = max(10, int((seconds * 0.95 - evaluations * checking) / per_step))
    warm_up = min(config.warm_up, steps // 10)
    return replace(config, steps=steps, warm_up=warm_up, evaluations=evaluations, threads=threads)
