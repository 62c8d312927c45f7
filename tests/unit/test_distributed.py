"""Several processes: the losses of one, one file of state, and none that waits for the dead.

This module is also what the processes run: ``python -m tests.unit.test_distributed SCENE FOLDER``.
Products are in float32 here, so that losses can be compared in every digit that they have.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chainrule.core.space import Space
from chainrule.models.rnn import RNN, RNNConfig
from chainrule.models.transformer import Transformer, TransformerConfig
from chainrule.training import trainer as module
from chainrule.training.checkpoint import checkpoints
from chainrule.training.data import Corpus
from chainrule.training.distributed import ALONE, Alone, all_processes
from chainrule.training.trainer import TrainConfig, Trainer
from tests.arch.files import ROOT
from tests.laws.tolerances import FLOAT32

STEPS, HALF = 6, 3
SYMBOLS = np.random.default_rng(0).integers(0, 5, 1500).astype(np.uint8)
CORPUS = Corpus(SYMBOLS[:1000], SYMBOLS[1000:], 1000, 500)
USUAL = TrainConfig(STEPS, batch=5, length=16, evaluations=3, warm_up=0, ema=0.5)
KINDS = {
    "plain": USUAL,
    "carry": replace(USUAL, carry=True),
    "noisy": replace(USUAL, objective="scheduled", rate=0.3, accumulate=2),
    "muon": replace(USUAL, optimiser="muon"),
}


def model(kind: str, dropout: float = 0.0):
    torch.manual_seed(0)
    space = Space("finite", 5)
    if kind in ("noisy", "muon"):
        shape: Any = {"num_layers": 2, "dim": 8, "num_heads": 2, "num_kv_heads": 1, "hidden": 12}
        return Transformer(TransformerConfig(space, "llama", context=32, **shape))
    return RNN(RNNConfig(space, "gru", 1, 8, 8, dropout=dropout))


def run(kind: str, folder: Path, company: Alone = ALONE, stop: int = STEPS, dropout: float = 0.0):
    """Train on from what ``folder`` holds; losses, checks, and the weights in the end."""
    found: list[float] = []
    trainer = Trainer(model(kind, dropout), CORPUS, KINDS[kind], company)

    def report(record: dict[str, Any]) -> None:
        found.append(record.get("loss_nats", record.get("held_out_bits_per_byte")))
        trainer.stop_asked = trainer.stop_asked or record["step"] == stop - 1

    trainer.resume(folder, lambda line: None)
    # of several processes, all stop after the step in which they hear of it
    trainer.stop_asked = trainer.progress.step == stop - 1
    with contextlib.ExitStack() as context:
        context.enter_context(pytest.MonkeyPatch.context()).setattr(
            module, "training_precision", lambda device: contextlib.nullcontext()
        )
        trainer.run(folder, report, print)
    return found, trainer
