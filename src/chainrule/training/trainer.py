"""Teacher forcing on the exact negative log-likelihood, resumable at any step.

Data order is a pure function of (seed, step), so a resumed run sees what it would have seen.
Shapes: B rows, T window length.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chainrule.core.config import bounded
from chainrule.core.model import SequenceModel
from chainrule.core.objective import Batch, nll
from chainrule.core.state import State, Window
from chainrule.training.checkpoint import load_checkpoint, save_checkpoint
from chainrule.training.data import Corpus, stream_batch, windows
from chainrule.training.optim import adamw, warm_up_stable_decay
from chainrule.training.precision import keep_memory, training_precision
from chainrule.training.scoring import log_probs

_CALIBRATION = 2.0  # seconds, at most a tenth of the budget


@dataclass(frozen=True)
class TrainConfig:
    """What training depends on; stored with the artifact.

    Args:
        steps: optimiser steps; batch and length: rows and symbols of one window.
        lr: peak learning rate; warm_up: steps; decay: share of the steps going down.
        clip: largest norm of the gradient; accumulate: windows batches a step.
        carry: consecutive batches, the hidden state carried over (truncated back-propagation).
        threads: of the processor; a resumed run takes as many, so that its sums are the same.
        evaluations: held-out checks over the whole run; patience: how many may pass without
            a new best before training stops early.

    Raises:
        ValueError: a setting out of bounds.
    """

    steps: int
    batch: int = 32
    length: int = 64
    lr: float = 1e-2
    warm_up: int = 50
    decay: float = 0.4
    weight_decay: float = 0.1
    clip: float = 1.0
    accumulate: int = 1
    carry: bool = False
    seed: int = 0
    threads: int = 1
    evaluations: int = 20
    patience: int = 6

    def __post_init__(self) -> None:
        bounded("steps", self.steps, 1, 10**9)
        bounded("batch", self.batch, 1, 65536)
        bounded("length", self.length, 1, 10**6)
        bounded("lr", self.lr, 1e-9, 10)
        bounded("warm_up", self.warm_up, 0, 10**9)
        bounded("decay", self.decay, 0, 1)
        bounded("weight_decay", self.weight_decay, 0, 100)
        bounded("clip", self.clip, 1e-6, 1e9)
        bounded("accumulate", self.accumulate, 1, 65536)
        bounded("seed", self.seed, 0, 2**63 - 1)
        bounded("threads", self.threads, 1, 65536)
        bounded("evaluations", self.evaluations, 1, 10**6)
        bounded("patience", self.patience, 1, 10**6)


class TrainingFailed(RuntimeError):
    """The run can't go on; what was saved before is intact."""


Report = Callable[[dict[str, Any]], None]


@dataclass
class Progress:
    """Where a run is: everything but tensors."""

    step: int = 0
    best: float = math.inf  # held-out bits per unit
    best_step: int = 0
    stale: int = 0
    seconds: float = 0.0


class Trainer:
    """Trains ``model`` on ``corpus``; the best weights on the held-out part are kept."""

    def __init__(self, model: SequenceModel, corpus: Corpus, config: TrainConfig) -> None:
        self.model, self.corpus, self.config = model, corpus, config
        self.device = next(model.parameters()).device
        keep_memory()
        self.optimiser = adamw(model, config.lr, config.weight_decay)
        self.progress = Progress()
        self.best = {k: v.clone() for k, v in model.state_dict().items()}
        self.state: State | None = None
        self.stop_asked = False

    # ---- one step ----

    def train_step(self) -> float:
        """One optimiser step; returns the loss in nats per symbol."""
        config, step = self.config, self.progress.step
        factor = warm_up_stable_decay(step, config.steps, config.warm_up, config.decay)
        for group in self.optimiser.param_groups:
            group["lr"] = config.lr * factor
        total = 0.0
        for micro in range(config.accumulate):
            number = step * config.accumulate + micro
            loss = self._loss(number) / config.accumulate
            loss.backward()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise TrainingFailed(
                f"the loss is {total} at step {step}: try a lower --lr than {config.lr:g}"
            )
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.progress.step += 1
        return total

    def _loss(self, number: int) -> Tensor:
        config, train = self.config, self.corpus.train
        with training_precision(self.device):
            if not config.carry:
                x = windows(train, config.batch, config.length, config.seed, number)
                total, count = nll(self.model, Batch(x, (x.shape[1],) * len(x)))
                return total / count
            x, fresh = stream_batch(train, config.batch, config.length, number)
            law, self.state = self.model.carry(x, state=None if fresh else self.state)
            return -law.log_prob(x).mean()

    # ---- the run ----

    def resume(self, folder: Path) -> bool:
        """Go on from the newest checkpoint, if there is one."""
        found = load_checkpoint(folder, self.model, self.optimiser)
        if found is None:
            return False
        numbers, tensors = found
        self.progress = Progress(**numbers)
        self.best = {k[5:]: v for k, v in tensors.items() if k.startswith("best/")}
        carried = {k[6:]: Window(v, 1) for k, v in tensors.items() if k.startswith("state/")}
        if carried:
            self.state = State((0,) * self.config.batch, carried)
        return True

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        tensors = {f"best/{k}": v for k, v in self.best.items()}
        if self.state is not None:
            for name, leaf in self.state.leaves.items():
                if not isinstance(leaf, Window) or leaf.w != 1:
                    raise ValueError("--carry needs a recurrent model")
                tensors[f"state/{name}"] = leaf.t
        numbers = vars(self.progress)
        save_checkpoint(folder, self.progress.step, self.model, self.optimiser, numbers, tensors)

    def held_out_bits(self) -> float:
        """Bits per unit on (at most 64k symbols of) the held-out part, in lanes."""
        symbols = self.corpus.held_out[:65536]
        if not len(symbols):
            return math.nan
        nats = -log_probs(self.model, symbols, lanes=8).sum()
        units = self.corpus.held_out_bytes * len(symbols) / len(self.corpus.held_out)
        return float(nats / math.log(2) / units)

    def run(self, folder: Path | None, report: Report, checkpoint_every: float = 60.0) -> None:
        """Train to the last step, to an early stop, or until ``stop_asked``."""
        config, at = self.config, self.progress
        every = max(1, config.steps // config.evaluations)
        symbols = config.batch * config.length * config.accumulate
        to_bits = len(self.corpus.train) / self.corpus.train_bytes / math.log(2)
        every_thread = torch.get_num_threads()
        torch.set_num_threads(config.threads)
        began = saved = time.perf_counter()
        before = at.seconds
        self.model.train()
        while at.step < config.steps and at.stale < config.patience and not self.stop_asked:
            tick = time.perf_counter()
            loss = self.train_step()
            now = time.perf_counter()
            at.seconds = before + now - began
            report(
                {
                    "step": at.step,
                    "seconds": round(at.seconds, 3),
                    "loss_nats": loss,
                    "bits_per_byte": loss * to_bits,
                    "lr": self.optimiser.param_groups[0]["lr"],
                    "symbols_per_s": symbols / (now - tick),
                }
            )
            if at.step % every == 0 or at.step == config.steps:
                self._check(report)
            if folder is not None and time.perf_counter() - saved > checkpoint_every:
                self.save(folder)
                saved = time.perf_counter()
        torch.set_num_threads(every_thread)
        if folder is not None:
            self.save(folder)

    def _check(self, report: Report) -> None:
        at = self.progress
        bits = self.held_out_bits()
        better = bits < at.best or math.isnan(bits)
        if better:
            at.best, at.best_step, at.stale = bits, at.step, 0
            self.best = {k: v.clone() for k, v in self.model.state_dict().items()}
        else:
            at.stale += 1
        report(
            {
                "step": at.step,
                "seconds": round(at.seconds, 3),
                "held_out_bits_per_byte": bits,
                "best": better,
            }
        )
        self.model.train()

    @property
    def finished(self) -> bool:
        """Whether the last step or an early stop was reached."""
        return self.progress.step >= self.config.steps or (
            self.progress.stale >= self.config.patience
        )


def calibrate(
    model: SequenceModel, corpus: Corpus, config: TrainConfig, seconds: float
) -> TrainConfig:
    """The config whose steps fill ``seconds`` on this machine, measured on a copy of the model.

    One thread is tried beside all of them: small networks, and busy machines, are faster so.
    """
    dice, every = torch.get_rng_state(), torch.get_num_threads()
    trial = Trainer(copy.deepcopy(model), corpus, replace(config, warm_up=0, steps=10**9))
    trial.model.train()
    speeds = {}
    for threads in sorted({1, every}):
        torch.set_num_threads(threads)
        trial.train_step()  # the first one also pays for warming up
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < min(_CALIBRATION, seconds / 20) or done < 2:
            trial.train_step()
            done += 1
        speeds[threads] = (time.perf_counter() - began) / done
    threads = min(speeds, key=lambda n: speeds[n])
    per_step = speeds[threads]
    torch.set_num_threads(threads)
    began = time.perf_counter()
    trial.held_out_bits()
    checking = time.perf_counter() - began
    torch.set_num_threads(every)
    torch.set_rng_state(dice)
    evaluations = max(2, min(config.evaluations, int(seconds * 0.15 / max(checking, 1e-3))))
    steps = max(10, int((seconds * 0.95 - evaluations * checking) / per_step))
    warm_up = min(config.warm_up, steps // 10)
    return replace(config, steps=steps, warm_up=warm_up, evaluations=evaluations, threads=threads)
