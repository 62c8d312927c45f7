"""Every default of training against what it is chosen over, on one thread.

Speed: milliseconds per optimiser step of the small Llama layout (4 layers, 128 wide, 4 heads,
hidden 352; 16 windows of 64 characters; AdamW), as Trainer takes it and with one thing changed at
a time. A process each, interleaved rounds. Heads are compared once more at 10,000 symbols.

Learning: held-out nats per character after equal processor time, compiling nothing. The time of a
step is measured first, so that every schedule ends on time. What isn't named is as ``fit`` chooses.

tinyshakespeare: the first 90 % of the characters train, the last 10 % are held out.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.common import Worker, interleaved, ratios, save, summary, table
from bench.peers import CHARACTERS, characters
from chainrule.core.distributions import Finite
from chainrule.core.objective import Batch
from chainrule.core.space import Space
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import transformer
from chainrule.nn import attention
from chainrule.nn.block import Layer
from chainrule.nn.heads import LinearCategorical
from chainrule.nn.precision import product_type
from chainrule.training import objectives
from chainrule.training import trainer as loop
from chainrule.training.data import Corpus
from chainrule.training.optim import BETAS, make_optimiser
from chainrule.training.precision import keep_memory
from chainrule.training.scoring import log_probs
from chainrule.training.trainer import TrainConfig, Trainer
from chainrule.verbs.choosing import Options, choose_training, make_model

ROUNDS, BUDGET, SEEDS = 5, 40.0, (1, 2)  # seconds of one thread
WORDS = 10_000  # the larger alphabet for the heads
ROUND, LEAST = 1.0, 3  # a round's seconds and fewest steps; so many before the first round, too

# ---- what is changed, in a process of its own, before the first tensor ----


def _float32() -> None:
    off = torch.autocast("cpu", enabled=False)
    patch.object(loop, "training_precision", lambda device: off).start()


def _explicit_layer() -> None:
    def forward(
        self: Layer, x: Tensor, angles: attention.Angles, unseen: Tensor | None = None
    ) -> Tensor:
        q, k, v = self.heads(x)
        turned = attention.rotate(q, angles), attention.rotate(k, angles)
        return self.join(x, attention.whole(*turned, v, unseen))

    patch.object(Layer, "forward", forward).start()


def _fused_attention() -> None:
    patch.object(attention, "explicit", lambda x: False).start()


def _generic_head() -> None:
    patch.object(LinearCategorical, "log_prob", Finite.log_prob).start()


def _torch_head(chunks: bool) -> None:
    def nll(model: nn.Module, batch: Batch, noise: Any = None) -> tuple[Tensor, Tensor]:
        law = model(batch.x)
        compute = product_type(law.weight)
        hidden, weight, bias = (t.to(compute) for t in (law.hidden, law.weight, law.bias))
        total = F.linear_cross_entropy(
            hidden.flatten(0, -2),
            weight,
            batch.x.flatten(),
            linear_bias=bias,
            reduction="sum",
            options=torch.nn.LinearCrossEntropyOptions() if chunks else None,
        )
        return total.float(), torch.tensor(float(batch.x.numel()))

    patch.object(objectives, "nll", nll).start()


def _unfused(foreach: bool) -> None:
    def make(model: nn.Module, kind: str, lr: float, weight_decay: float) -> torch.optim.AdamW:
        groups = make_optimiser(model, kind, lr, weight_decay).param_groups
        plain = [{k: g[k] for k in ("params", "weight_decay")} for g in groups]
        return torch.optim.AdamW(plain, lr=lr, betas=BETAS, fused=False, foreach=foreach)

    patch.object(loop, "make_optimiser", make).start()


def _memory_given_back() -> None:
    patch.object(loop, "keep_memory").start()


def _small_pages() -> None:
    os.environ["THP_MEM_ALLOC_ENABLE"] = "0"


def _batches_ahead() -> None:
    make, pool = Trainer._batch, ThreadPoolExecutor(1)
    ready: dict[int, Future[tuple[Tensor, Tensor]]] = {}

    def batch(self: Trainer, number: int) -> tuple[Tensor, Tensor]:
        asked = ready.pop(number, None)
        ready[number + 1] = pool.submit(make, self, number + 1)
        return make(self, number) if asked is None else asked.result()

    patch.object(Trainer, "_batch", batch).start()


BASE, COMPILED = "default", "compiled"
CONTENDERS: dict[str, Callable[[], None]] = {
    BASE: lambda: None,
    "float32": _float32,
    "plain layer, explicit attention": _explicit_layer,
    "plain layer, fused attention": _fused_attention,
    "generic head": _generic_head,
    "F.linear_cross_entropy": lambda: _torch_head(chunks=False),
    "F.linear_cross_entropy in chunks": lambda: _torch_head(chunks=True),
    "AdamW foreach": lambda: _unfused(foreach=True),
    "AdamW for each": lambda: _unfused(foreach=False),
    "memory given back": _memory_given_back,
    "small pages": _small_pages,
    "batches made ahead": _batches_ahead,
    COMPILED: lambda: None,
    "muon": lambda: None,
}
CHANGES: dict[str, dict[str, Any]] = {COMPILED: {"compile": True}, "muon": {"optimiser": "muon"}}
TORCH_HEADS = ("F.linear_cross_entropy", "F.linear_cross_entropy in chunks")
HEADS = (BASE, "generic head", *TORCH_HEADS)

# ---- what learns, an answer a question ----

QUESTIONS: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = {
    "optimiser": (
        "transformer",
        ({"optimiser": "muon"}, {"optimiser": "adamw"}, {"optimiser": "adamw", "lr": 0.0025}),
    ),
    "average": ("transformer", ({"ema": 0.0}, {"ema": 0.98})),
    "schedule": ("transformer", ({"decay": 0.4}, {"decay": 0.0}, {"decay": 1.0})),
    "batch": ("transformer", ({"batch": 16}, {"batch": 8}, {"batch": 32})),
    "optimiser of an lstm": ("lstm", ({"optimiser": "adamw"}, {"optimiser": "muon"})),
}


def main(data: Path | None) -> None:
    """Everything; stored part by part."""
    if data is None:
        print("skipped: it needs text/tinyshakespeare.txt: --data FOLDER")
        return
    result = {"speed": speed(data)}
    save("defaults", result)
    result["heads"] = speed(data, HEADS, symbols=WORDS)
    save("defaults", result)
    result["learning"] = learning(data)
    save("defaults", result)


# ---- speed ----


def speed(
    data: Path,
    names: Sequence[str] = tuple(CONTENDERS),
    rounds: int = ROUNDS,
    symbols: int = CHARACTERS,
) -> dict[str, Any]:
    """Milliseconds per step; the table is printed. ``names`` begins with BASE.

    ``symbols``: of the alphabet; another one than that of the data draws by Zipf's law.
    """
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        print(f"skipped: F.linear_cross_entropy (not in torch {torch.__version__})")
        names = [n for n in names if n not in TORCH_HEADS]
    with ExitStack() as stack:
        cold = stack.enter_context(tempfile.TemporaryDirectory())  # nothing was compiled before
        workers = {n: stack.enter_context(_Worker(n, symbols, data, cold)) for n in names}
        for worker in workers.values():
            worker.answer()  # all have done their imports
        figures = interleaved({n: w.step for n, w in workers.items()}, rounds)
        opening = {n: w.opening for n, w in workers.items()}
    rows, contenders = [], {}
    for name in names:
        ms, ratio = summary(figures[name]), ratios(figures[name], figures[BASE])
        contenders[name] = {"ms": ms, "ratio": ratio, "opening_s": opening[name]}
        spreads = (f"{v['min']:.2f}-{v['max']:.2f}" for v in (ms, ratio))
        rows.append([name, ms["median"], next(spreads), ratio["median"], next(spreads)])
    print(f"{symbols:,} symbols")
    table(["contender", "ms/step", "spread", f"to {BASE}", "spread"], rows)
    result = {"symbols": symbols, "contenders": contenders}
    if COMPILED in names:
        result[COMPILED] = _repaid(contenders[BASE], contenders[COMPILED])
    if "batches made ahead" in names:
        result["batch_us"] = _batch_us(data)
        print(f"making a batch takes {result['batch_us']:.0f} µs\n")
    return result


def _repaid(base: dict[str, Any], compiled: dict[str, Any]) -> dict[str, float | None]:
    """What compiling takes, and the steps that win it back, if any do."""
    seconds = compiled["opening_s"] - LEAST * compiled["ms"]["median"] / 1000
    saved = (base["ms"]["median"] - compiled["ms"]["median"]) / 1000
    steps = seconds / saved if saved > 0 else None
    told = "never repaid" if steps is None else f"repaid after {steps:,.0f} steps"
    print(f"compiling: {seconds:.1f} s, {told}\n")
    return {"seconds": seconds, "repaid_after_steps": steps}


def _batch_us(data: Path, times: int = 1000) -> float:
    trainer = _trainer(BASE, CHARACTERS, data)
    began = time.perf_counter()
    for number in range(times):
        trainer._batch(number)
    return (time.perf_counter() - began) / times * 1e6


class _Worker(Worker):
    """Compiles from nothing, and says how long its first steps took."""

    opening = 0.0

    def __init__(self, name: str, symbols: int, data: Path, cold: str) -> None:
        env = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": cold}
        super().__init__("bench.defaults", name, symbols, data.resolve(), **env)

    def step(self) -> float:
        """Milliseconds per step, over one round."""
        found = self.ask()
        self.opening = found["opening_s"]
        return float(found["ms"])


def _work(name: str, symbols: int, data: Path) -> None:
    CONTENDERS[name]()
    loop.keep_memory()  # type: ignore[attr-defined] # as fit does before the first tensor
    torch.set_num_threads(1)
    trainer = _trainer(name, symbols, data)
    print("{}", flush=True)
    opening: float | None = None
    for _ in sys.stdin:
        if opening is None:
            opening = LEAST * _per_step(trainer, time.perf_counter, 0.0)
        seconds = _per_step(trainer, time.perf_counter, ROUND)
        print(json.dumps({"ms": 1000 * seconds, "opening_s": opening}), flush=True)


def _per_step(
    trainer: Trainer, clock: Callable[[], float], seconds: float, least: int = LEAST
) -> float:
    """Mean seconds of a step, of at least so many steps and as many as ``seconds`` hold."""
    began, steps = clock(), 0
    while steps < least or clock() - began < seconds:
        trainer.train_step()
        steps += 1
    return (clock() - began) / steps


def _trainer(name: str, symbols: int, data: Path) -> Trainer:
    train, _ = characters(data)
    if symbols != CHARACTERS:
        weights = 1 / np.arange(1, symbols + 1)
        dice = np.random.default_rng(0)
        train = dice.choice(symbols, 200_000, p=weights / weights.sum()).astype(np.uint16)
    corpus = Corpus(train, train[:0], len(train), 0)
    torch.manual_seed(0)
    model = Transformer(replace(transformer(Space("finite", symbols)), context=64))
    config = TrainConfig(steps=10**9, batch=16, length=64, lr=1e-3, threads=1)
    return Trainer(model.train(), corpus, replace(config, **CHANGES.get(name, {})))


# ---- learning ----


def learning(
    data: Path,
    questions: Sequence[str] = tuple(QUESTIONS),
    budget: float = BUDGET,
    seeds: Sequence[int] = SEEDS,
) -> dict[str, Any]:
    """Held-out nats per character after ``budget`` s of one thread's processor time each."""
    keep_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(1)

    @cache  # an answer to several questions learns once
    def run(recipe: str, config: TrainConfig) -> dict[str, float]:
        return _learn(data, recipe, config)

    @cache  # schedules and seeds cost the same, and so get as many steps
    def step_seconds(recipe: str, config: TrainConfig) -> float:
        trainer, _ = _prepare(data, recipe, config)
        _per_step(trainer, time.process_time, 0.0)  # warming up
        return _per_step(trainer, time.process_time, budget / 20)

    result: dict[str, Any] = {"budget_s": budget, "seeds": list(seeds)}
    try:
        plans = [(name, *plan) for name in questions for plan in _plans(name)]
        for seed in seeds:  # in turns, whatever the machine does meanwhile
            for name, label, recipe, config in plans:
                costs = replace(config, lr=1e-9, decay=0.0, steps=10**9)
                steps = max(10, int(budget / step_seconds(recipe, costs)))
                warm_up = min(config.warm_up, steps // 10)
                config = replace(config, steps=steps, warm_up=warm_up, seed=seed)
                found = run(recipe, config)
                result.setdefault(name, {}).setdefault(label, []).append(found)
    finally:
        torch.set_num_threads(before)
    rows = []
    for name in questions:
        first = next(iter(result[name].values()))
        for label, runs in result[name].items():
            nats = [r["nats"] for r in runs]
            more = [a - b["nats"] for a, b in zip(nats, first, strict=True)]
            spread = ", ".join(f"{d:+.4f}" for d in more)
            used = statistics.mean(r["seconds"] for r in runs)
            rows.append([name, label, runs[0]["steps"], used, statistics.mean(nats), spread])
    header = ["question", "answer", "steps", "seconds", "nats/char", "to the first, each seed"]
    table(header, rows)
    return result


def _plans(name: str) -> list[tuple[str, str, TrainConfig]]:
    """Label, recipe and config of every answer: fit's own choice but for what it names."""
    recipe, answers = QUESTIONS[name]
    usual = replace(choose_training(recipe, "small", Options()), threads=1)
    return [
        (", ".join(f"{k} {v}" for k, v in answer.items()), recipe, replace(usual, **answer))
        for answer in answers
    ]


def _prepare(data: Path, recipe: str, config: TrainConfig) -> tuple[Trainer, Any]:
    train, held_out = characters(data)
    torch.manual_seed(config.seed)
    space = Space("finite", CHARACTERS)
    model = make_model(recipe, "small", space, 0.0, config.length)
    corpus = Corpus(train, held_out[:0], len(train), 0)  # held out from the Trainer's sight too
    return Trainer(model.train(), corpus, config), held_out


def _learn(data: Path, recipe: str, config: TrainConfig) -> dict[str, float]:
    """A whole schedule: nats of the last weights, the average of them where there is one."""
    trainer, held_out = _prepare(data, recipe, config)
    seconds = config.steps * _per_step(trainer, time.process_time, 0.0, config.steps)
    with trainer.average.applied():
        nats = -float(log_probs(trainer.model, held_out, lanes=8).mean())
    return {"nats": nats, "steps": config.steps, "seconds": seconds}


if __name__ == "__main__":
    _work(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
