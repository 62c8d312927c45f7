"""The loop: steps, held-out checks, checkpoints, early stop; resumable at any step.

Data order and noise are pure functions of (seed, step), so a resumed run sees what it would have
seen. Shapes: B rows, T window length.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chainrule.core.model import SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.objective import Batch
from chainrule.nn.lora import begun
from chainrule.training.average import Average
from chainrule.training.checkpoint import load_checkpoint, save_checkpoint
from chainrule.training.distributed import ALONE, Alone, full, parted, whole
from chainrule.training.loss import Loss
from chainrule.training.optim import make_optimiser, warm_up_stable_decay
from chainrule.training.plan import Lessons, TrainConfig
from chainrule.training.precision import keep_memory, training_precision

__all__ = ["Progress", "TrainConfig", "Trainer", "TrainingFailed"]

CHECKPOINT_EVERY = 60.0  # seconds
RECENT = 20  # losses whose mean tells whether a run diverges
FAR = 1.0  # nats per symbol above the loss at the start: so bad is no run that still learns


class TrainingFailed(RuntimeError):
    """The run can't go on; what was saved before is intact."""


Report = Callable[[dict[str, Any]], None]
Say = Callable[[str], None]


@dataclass
class Progress:
    """Where a run is: everything but tensors."""

    step: int = 0
    best: float = math.inf  # held-out bits per unit
    best_step: int = 0
    stale: int = 0
    seconds: float = 0.0
    first: float = math.nan  # the loss of the first step, in nats per symbol
    losses: list[float] = field(default_factory=list)  # of the last steps
    processes: int = 1  # that train together


class Trainer:
    """Trains ``model`` on ``corpus``; the best weights on the held-out part are kept.

    On another device, or in shards, it trains a copy: ``best`` (in process 0) is the result; with
    a rank it is what an adapter has learned, and the model stays as it is.
    """

    def __init__(
        self,
        model: SequenceModel,
        corpus: Lessons,
        config: TrainConfig,
        company: Alone = ALONE,
    ) -> None:
        self.model, self.corpus, self.config = company.place(model), corpus, config
        self.company, self.device = company, next(self.model.parameters()).device
        keep_memory()
        adapter = begun(self.model, config.rank, config.seed) if config.rank else None
        self.learner: nn.Module = self.model if adapter is None else adapter
        self.model = self.model if adapter is None else adapter.onto(self.model)
        self.loss = Loss(self.model, config.objective, config.rate, config.carry, adapter)
        if config.compile and not company.shard:
            self.loss.compile()
        self.shared = company.wrap(self.loss)
        self.optimiser = make_optimiser(
            self.learner, config.optimiser, config.lr, config.weight_decay
        )
        self.peaks = [group["lr"] for group in self.optimiser.param_groups]
        self.average = Average(self.learner, config.ema)
        self.progress = Progress(processes=company.size)
        self.best = self._weights()
        self.carried: dict[str, Tensor] = {}
        self.stop_asked = False
        self._save_asked = self._stop = self._save = False  # by this process; agreed by all

    # ---- one step ----

    def train_step(self) -> float:
        """One optimiser step; returns the loss in nats per symbol.

        Raises:
            TrainingFailed: the loss or its gradient is not finite; the weights are as before.
        """
        config, step = self.config, self.progress.step
        factor = warm_up_stable_decay(step, config.steps, config.warm_up, config.decay)
        for group, peak in zip(self.optimiser.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.company.seed(config.seed, step)
        found = []
        for micro in range(config.accumulate):
            with self.shared.micro(last=micro + 1 == config.accumulate):
                loss = self._loss(step * config.accumulate + micro)
                (loss / config.accumulate).backward()
            found.append(loss.detach())
        norm = full(torch.nn.utils.clip_grad_norm_(self.learner.parameters(), config.clip))
        asked = norm.new_tensor([self.stop_asked, self._save_asked])
        told = self.company.mean(torch.cat([torch.stack([*found, norm]), asked]))
        *losses, size, stop, save = told.tolist()  # one wait for the device
        self._stop, self._save = stop > 0, save > 0
        for micro, value in enumerate(losses):
            if not math.isfinite(value):
                raise self._failed(f"the loss is {value}", step * config.accumulate + micro)
        if not math.isfinite(size):
            raise self._failed(f"the gradient is {size}", step * config.accumulate)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.average.update(step)
        self.progress.step += 1
        return float(sum(losses) / config.accumulate)

    def _loss(self, number: int) -> Tensor:
        """Nats per symbol of the number-th batch; of several processes, the mean is that."""
        batch, key = self._batch(number)
        told = batch.cond, batch.weight
        with training_precision(self.device):
            total, count, self.carried = self.shared(
                lambda loss: loss(batch.x, key, self.carried, *told)
            )
        loss: Tensor = total / self.company.mean(count)
        return loss

    def _batch(self, number: int) -> tuple[Batch, Tensor]:
        """The rows of this process, and the keys [B] of their noise."""
        config = self.config
        batch, fresh = self.corpus.batch(config, number)
        self.carried = {} if fresh else self.carried
        rows = range(number * config.batch, number * config.batch + len(batch.x))
        key = Noise.seeded(config.seed, rows, "train").key
        mine = self.company.rows(len(batch.x))
        return batch.part(mine).to(self.device), key[mine].to(self.device, non_blocking=True)

    def _failed(self, what: str, number: int) -> TrainingFailed:
        return TrainingFailed(
            f"{what} at step {self.progress.step}, in batch {number}, whose rows begin at "
            f"{self.corpus.origin(self.config, number)}: "
            f"try a lower --lr than {self.config.lr:g}"
        )

    # ---- the run ----

    def resume(self, folder: Path, say: Say) -> bool:
        """Go on from the newest whole checkpoint, if there is one.

        Raises:
            ValueError: checkpoints exist and none can be read, or they are another model's.
        """
        found = load_checkpoint(folder, self.learner, self.optimiser, say, self.company)
        if found is None:
            return False
        numbers, tensors = found
        self.progress = Progress(**numbers)
        was, now = self.progress.processes, self.company.size
        if was != now:
            say(f"processes: {was} then, {now} now: same batches, sums may differ in last digits")
        self.progress.processes = now
        self.best = {k[5:]: v for k, v in tensors.items() if k.startswith("best/")}
        for name, value in self.average.tensors.items():
            value.copy_(parted(tensors[f"average/{name}"], value))
        self.carried = {
            k[6:]: v[self.company.rows(len(v))].to(self.device)
            for k, v in tensors.items()
            if k.startswith("state/")
        }
        return True

    def save(self, folder: Path) -> None:
        """Write a checkpoint.

        Raises:
            OSError: it can't be written; the one before is untouched.
        """
        tensors = {f"best/{k}": v for k, v in self.best.items()}
        tensors.update({f"average/{k}": v for k, v in self.average.tensors.items()})
        batch = self.corpus.rows(self.config)
        for name, value in self.carried.items():
            tensors[f"state/{name}"] = self.company.all_rows(value, batch)
        at, optimiser = self.progress, self.optimiser
        save_checkpoint(folder, at.step, self.learner, optimiser, vars(at), tensors, self.company)

    def held_out_bits(self) -> float:
        """Bits per unit on (some of) the held-out part."""
        if not self.corpus.holds_out:
            return math.nan
        with torch.no_grad():
            nats, units = self.shared(lambda loss: self.corpus.held_out_nats(loss.model))
        return self.company.agree(nats / math.log(2) / units)

    def run(self, folder: Path | None, report: Report, say: Say) -> None:
        """Train to the last step, to an early stop, or until ``stop_asked``.

        Args:
            folder: of the checkpoints, if any. One that can't be written is told to ``say``, and
                the next one is tried; only where the run would end without one, that is an error.
            report: takes the records of metrics.jsonl; the model has its averaged weights when a
                held-out check is reported.

        Raises:
            TrainingFailed: it diverges; ``best`` is what it was.
            OSError: stopped before its end, and the last checkpoint can't be written.
        """
        with self._threads():
            began, saved, before = time.perf_counter(), time.perf_counter(), self.progress.seconds
            while not self.finished and not self._stopping:
                tick = time.perf_counter()
                self._save_asked = self.company.first and tick - saved > CHECKPOINT_EVERY
                loss = self.train_step()
                now = time.perf_counter()
                self.progress.seconds = before + now - began
                self._report_step(loss, now - tick, report)
                self._watch(loss)
                self._check_if_due(report)
                if folder is not None and self._save:
                    self._save_or_say(folder, say)
                    saved = time.perf_counter()
            if folder is not None and self.finished:
                self._save_or_say(folder, say)
            elif folder is not None:
                self.save(folder)

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """As many threads as the config says, inside the block."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.company.threads(self.config.threads))
        self.model.train()
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _save_or_say(self, folder: Path, say: Say) -> None:
        try:
            self.save(folder)
        except OSError as error:
            then = "the run is over anyway" if self.finished else "training goes on"
            say(f"no checkpoint at step {self.progress.step:,}: {error}; {then}")

    def _report_step(self, loss: float, seconds: float, report: Report) -> None:
        config = self.config
        to_bits = self.corpus.symbols_per_unit / math.log(2)
        report(
            {
                "step": self.progress.step,
                "seconds": round(self.progress.seconds, 3),
                "loss_nats": loss,
                f"bits_per_{self.corpus.unit}": loss * to_bits,
                "lr": self.optimiser.param_groups[0]["lr"],
                "symbols_per_s": config.batch * config.length * config.accumulate / seconds,
            }
        )

    def _watch(self, loss: float) -> None:
        """Stop where the loss has gone far above its beginning, and above knowing nothing.

        Raises:
            TrainingFailed: so it has, and stayed there.
        """
        at, size = self.progress, self.model.space.size
        at.first = loss if math.isnan(at.first) else at.first
        at.losses = [*at.losses, loss][-RECENT:]
        mean = sum(at.losses) / RECENT
        start = max(at.first, math.log(size) if size else at.first)
        if len(at.losses) == RECENT and mean > start + FAR:
            raise TrainingFailed(
                f"the loss has grown to {mean:.2f} nats per symbol at step {at.step}, from "
                f"{at.first:.2f} at the first: try a lower --lr than {self.config.lr:g}"
            )

    def _check_if_due(self, report: Report) -> None:
        """Every so many steps, and at the last: score the held-out part, keep what is best."""
        at, config = self.progress, self.config
        every = max(1, config.steps // config.evaluations)
        if at.step % every and at.step != config.steps:
            return
        with self.average.applied():
            bits = self.held_out_bits()
            better = bits < at.best or not self.corpus.holds_out
            if better:
                at.best, at.best_step, at.stale = bits, at.step, 0
                self.best = self._weights()
            else:
                at.stale += 1
            report(
                {
                    "step": at.step,
                    "seconds": round(at.seconds, 3),
                    f"held_out_bits_per_{self.corpus.unit}": bits,
                    "best": better,
                }
            )
        self.model.train()

    def _weights(self) -> dict[str, Tensor]:
        return whole(self.learner.state_dict(), self.company.first)

    @property
    def _stopping(self) -> bool:
        """Whether all stop here: of several processes, once all have heard of it."""
        return self._stop or (self.company.size == 1 and self.stop_asked)

    @property
    def finished(self) -> bool:
        """Whether the last step or an early stop was reached."""
        return self.progress.step >= self.config.steps or (
            self.progress.stale >= self.config.patience
        )
