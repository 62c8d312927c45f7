"""Transformer training: chainrule's trainer step beside nanoGPT, transformers and x-transformers.

GPT-2 layout, dropout 0, 65 characters of tiny Shakespeare, AdamW: symbols/s over whole optimiser
steps (batch, forward, backward, clip, optimiser), a process each, interleaved rounds of at least
SECONDS, one and two threads. Compiling is in the warm-up round, which is dropped. The peak is a
square product of torch.mm in the same rounds; a fraction of it follows from Shape.operations.

The peers are as peers.py says; "bf16" is torch.autocast. What predicts one symbol fewer a window
(transformers, x-transformers) has the window's symbols counted all the same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench import peers
from bench.common import Worker, interleaved, ratios, save, summary, table
from bench.peers import CHARACTERS, Shape
from chainrule.core.space import Space
from chainrule.models.transformer import Transformer, TransformerConfig
from chainrule.training.data import Corpus
from chainrule.training.precision import keep_memory
from chainrule.training.trainer import TrainConfig, Trainer

SHAPES = {
    "cpu": Shape(layers=4, heads=4, dim=128, block=64, batch=12),
    "baby": Shape(layers=6, heads=6, dim=384, block=256, batch=8),
}
BASE = "nanoGPT"
NAMES = (
    "chainrule",
    "chainrule compiled",
    BASE,
    "nanoGPT compiled",
    "nanoGPT bf16",
    "transformers",
    "x-transformers",
    "x-transformers flash",
)
PEAKS = {"matmul float32": torch.float32, "matmul bfloat16": torch.bfloat16}
SIDE, SECONDS, LEAST = 2048, 1.0, 2  # of the matrix; a round's time and fewest steps


def main(data: Path | None) -> None:
    """Everything, stored."""
    if data is None:
        print("skipped: it needs text/tinyshakespeare.txt: --data FOLDER")
        return
    save("transformer_training", measure(data))


def measure(
    data: Path,
    shapes: Sequence[str] = tuple(SHAPES),
    names: Sequence[str] = NAMES,
    threads: Sequence[int] = (1, 2),
    rounds: int = 5,
) -> dict[str, Any]:
    """Measure a part, print its tables; figures by shape and number of threads."""
    names = [name for name in names if peers.present(name)]
    result: dict[str, Any] = {"shapes": {k: asdict(SHAPES[k]) for k in shapes}}
    for shape in shapes:
        for count in threads:
            print(f"{shape}, {count} threads")
            result[f"{shape}, {count} threads"] = _compare(data, shape, names, count, rounds)
    return result


def _compare(
    data: Path, shape: str, names: Sequence[str], threads: int, rounds: int
) -> dict[str, Any]:
    every = [*names, *PEAKS]
    with ExitStack() as stack:
        one = {"OMP_NUM_THREADS": str(threads)}
        words, module = (shape, threads, data.resolve()), "bench.transformer_training"
        workers = {k: stack.enter_context(Worker(module, k, *words, **one)) for k in every}
        figures = interleaved({k: w.ask for k, w in workers.items()}, rounds)
    peaks = {k: max(figures.pop(k)) for k in PEAKS}
    result: dict[str, Any] = {"operations_per_s": peaks, "symbols_per_s": {}}
    rows = []
    for name in names:
        speed = summary(figures[name])
        shares = [speed["median"] * SHAPES[shape].operations / peak for peak in peaks.values()]
        row = [name, speed["median"], f"{speed['min']:,.0f}-{speed['max']:,.0f}", *shares]
        result["symbols_per_s"][name] = {
            **speed,
            "share_of_peak": dict(zip(PEAKS, shares, strict=True)),
        }
        if BASE in names:
            ratio = ratios(figures[name], figures[BASE])
            row += [ratio["median"], f"{ratio['min']:.2f}-{ratio['max']:.2f}"]
            result["symbols_per_s"][name]["ratio"] = ratio
            if name.startswith("chainrule"):
                result["symbols_per_s"][name]["ratio_to_each"] = {
                    peer: ratios(figures[name], figures[peer])
                    for peer in names
                    if not peer.startswith("chainrule")
                }
        rows.append(row)
    header = ["contender", "symbols/s", "spread", "of float32 peak", "of bfloat16 peak"]
    table(header + ([f"to {BASE}", "spread"] if BASE in names else []), rows)
    print(", ".join(f"{k}: {v / 1e9:,.0f} G/s" for k, v in peaks.items()), "\n")
    return result


class _Done(Exception):
    """No more rounds."""


class _Rounds:
    """Steps of a loop that belongs to somebody else, cut into rounds."""

    def __init__(self, per_step: int) -> None:
        self.per_step, self.out = per_step, sys.stdout
        sys.stdout = sys.stderr  # the peers print
        self._wait()

    def step(self) -> None:
        """To be called after every step; returns when the next one may begin."""
        self.steps += 1
        seconds = time.perf_counter() - self.began
        if seconds >= SECONDS and self.steps >= LEAST:
            print(self.steps * self.per_step / seconds, file=self.out, flush=True)
            self._wait()

    def _wait(self) -> None:
        if not sys.stdin.readline():
            raise _Done
        self.steps, self.began = 0, time.perf_counter()


def _work(name: str, shape: Shape, threads: int, data: Path) -> None:
    if name.startswith("chainrule"):
        keep_memory()  # as fit does before the first tensor
    torch.set_num_threads(threads)
    train, held_out = peers.characters(data)
    if name in PEAKS:
        _multiply(PEAKS[name], _Rounds(2 * SIDE**3))
    rounds = _Rounds(shape.symbols)
    compiled = name.endswith("compiled")
    if name.startswith("chainrule"):
        corpus = Corpus(train, held_out, len(train), len(held_out))
        trainer = _trainer(corpus, shape, threads, compiled)
        while True:
            trainer.train_step()
            rounds.step()
    elif name.startswith("nanoGPT"):
        # Warm-up and decay as its config file has them; the bench ends long before max_iters.
        options = {**peers.nano_gpt_options(shape), "compile": compiled, "max_iters": 10**9}
        peers.nano_gpt(data, options, rounds.step, bf16=name.endswith("bf16"))
    elif name == "transformers":
        peers.transformers_trainer(train, shape, rounds.step)
    else:
        peers.x_transformers(train, shape, rounds.step, flash=name.endswith("flash"))


def _multiply(dtype: torch.dtype, rounds: _Rounds) -> None:
    a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in "ab")
    c = torch.empty_like(a)
    while True:
        torch.mm(a, b, out=c)
        rounds.step()


def _trainer(corpus: Corpus, shape: Shape, threads: int, compiled: bool) -> Trainer:
    torch.manual_seed(0)
    config = TransformerConfig(
        Space("finite", CHARACTERS),
        layout="gpt2",
        num_layers=shape.layers,
        dim=shape.dim,
        num_heads=shape.heads,
        num_kv_heads=shape.heads,
        hidden=4 * shape.dim,
        context=shape.block,
        tied=True,
    )
    training = TrainConfig(
        steps=10**9,
        batch=shape.batch,
        length=shape.block,
        lr=1e-3,
        optimiser="adamw",
        compile=compiled,
        threads=threads,
    )
    return Trainer(Transformer(config).train(), corpus, training)


if __name__ == "__main__":
    with suppress(_Done):
        _work(sys.argv[1], SHAPES[sys.argv[2]], int(sys.argv[3]), Path(sys.argv[4]))
