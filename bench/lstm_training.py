"""LSTM training: chainrule's trainer step against the loop that every tutorial writes.

10,000 words, 256-wide embedding, 512 hidden, sequences of 128, batch 32. The peer is
Embedding + torch.nn.LSTM + Linear + CrossEntropyLoss + Adam in float32. Symbols/s over whole
optimiser steps, interleaved rounds, a process each, one and two threads; then the loss of both
after the same steps from the same weights, on the same batches.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bench.common import Worker, interleaved, ratios, save, summary, table
from chainrule.core.space import Space
from chainrule.models.rnn import RNN, RNNConfig
from chainrule.training.data import Corpus, windows
from chainrule.training.precision import keep_memory
from chainrule.training.trainer import TrainConfig, Trainer

WORDS, DIM, HIDDEN, LENGTH, BATCH, LR = 10_000, 256, 512, 128, 32, 1e-3
STEPS, EQUAL_STEPS = 2, 20


class Tutorial(nn.Module):
    """The peer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, DIM)
        self.lstm = nn.LSTM(DIM, HIDDEN, batch_first=True)
        self.linear = nn.Linear(HIDDEN, WORDS)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, T, V]."""
        out: Tensor = self.linear(self.lstm(self.embedding(x))[0])
        return out


def main(data: Path | None) -> None:
    """Speed at one and two threads, then the losses at equal steps."""
    rows, result = [], {}
    for threads in (1, 2):
        names = ("chainrule", "tutorial")
        with ExitStack() as stack:
            workers = [
                stack.enter_context(Worker("bench.lstm_training", name, threads, data or ""))
                for name in names
            ]
            figures = interleaved(dict(zip(names, (w.ask for w in workers), strict=True)))
        ratio = ratios(figures["chainrule"], figures["tutorial"])
        medians = [summary(figures[k])["median"] for k in names]
        rows.append([threads, *medians, ratio["median"], f"{ratio['min']:.2f}-{ratio['max']:.2f}"])
        result[f"{threads} threads"] = {k: summary(figures[k]) for k in names} | {"ratio": ratio}
    table(["threads", "chainrule symbols/s", "tutorial symbols/s", "ratio", "spread"], rows)
    losses = _equal_steps(_corpus(data))
    print(f"nats after {EQUAL_STEPS} equal steps: {losses}")
    save("lstm_training", {**result, "nats_after_equal_steps": losses})


def _work(name: str, threads: int, data: Path | None) -> None:
    if name == "chainrule":
        keep_memory()  # as fit does before the first tensor
    torch.set_num_threads(threads)
    corpus = _corpus(data)
    step = _trainer(corpus).train_step if name == "chainrule" else _Tutorial(corpus).step
    for _ in sys.stdin:
        began = time.perf_counter()
        for _ in range(STEPS):
            step()
        print(STEPS * BATCH * LENGTH / (time.perf_counter() - began), flush=True)


def _corpus(data: Path | None) -> Corpus:
    """Words of tiny Shakespeare where the folder is given, else Zipf's law."""
    path = None if data is None else data / "text" / "tinyshakespeare.txt"
    if path is not None and path.exists():
        words = re.findall(r"\w+|[^\w\s]|\n", path.read_text())
        rank = {w: i + 1 for i, (w, _) in enumerate(Counter(words).most_common(WORDS - 1))}
        symbols = np.array([rank.get(w, 0) for w in words], dtype=np.uint16)
    else:
        weights = 1 / np.arange(1, WORDS + 1)
        symbols = (
            np.random.default_rng(0)
            .choice(WORDS, 300_000, p=weights / weights.sum())
            .astype(np.uint16)
        )
    return Corpus(symbols, symbols[:0], len(symbols), 0)


def _trainer(corpus: Corpus) -> Trainer:
    torch.manual_seed(0)
    model = RNN(RNNConfig(Space("finite", WORDS), "lstm", 1, DIM, HIDDEN)).train()
    config = TrainConfig(
        steps=10**6, batch=BATCH, length=LENGTH, lr=LR, warm_up=0, weight_decay=0.0, decay=0.0
    )
    return Trainer(model, corpus, config)


class _Tutorial:
    def __init__(self, corpus: Corpus) -> None:
        torch.manual_seed(0)
        self.model, self.corpus, self.number = Tutorial(), corpus, 0
        self.loss = nn.CrossEntropyLoss()
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=LR)

    def step(self) -> float:
        """Predict x[1:] from x[:-1], as the tutorials do."""
        x = windows(self.corpus.train, BATCH, LENGTH + 1, 0, self.number)
        self.number += 1
        self.optimiser.zero_grad()
        logits = self.model(x[:, :-1])
        loss = self.loss(logits.reshape(-1, WORDS), x[:, 1:].reshape(-1))
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())


def _equal_steps(corpus: Corpus) -> dict[str, float]:
    """Mean loss of the last ten of EQUAL_STEPS, in nats, with the peer's initial weights."""
    torch.set_num_threads(2)
    ours, theirs = _trainer(corpus), _Tutorial(corpus)
    with torch.no_grad():
        net, layer = ours.model, ours.model.layers[0]  # type: ignore[index, union-attr]
        net.embedding.weight[:WORDS] = theirs.model.embedding.weight  # type: ignore[index, union-attr]
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(layer, name).copy_(getattr(theirs.model.lstm, f"{name}_l0"))
        net.head.load_state_dict(theirs.model.linear.state_dict())  # type: ignore[union-attr, operator]
    losses = {"chainrule": [], "tutorial": []}  # type: ignore[var-annotated]
    for _ in range(EQUAL_STEPS):
        losses["chainrule"].append(ours.train_step())
        losses["tutorial"].append(theirs.step())
    assert all(map(math.isfinite, losses["chainrule"]))
    return {k: float(np.mean(v[-10:])) for k, v in losses.items()}


if __name__ == "__main__":
    _work(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]) if sys.argv[3] else None)
