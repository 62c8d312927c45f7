"""Several processes: the losses of one, the same files, and none that waits for the dead.

This module is also what the processes run: ``python -m tests.unit.test_distributed SHARD FOLDER``.
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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chainrule.core.space import Space
from chainrule.models.rnn import RNN, RNNConfig
from chainrule.models.transformer import Transformer, TransformerConfig
from chainrule.training import trainer as module
from chainrule.training.data import Corpus
from chainrule.training.distributed import ALONE, Alone, all_processes
from chainrule.training.trainer import TrainConfig, Trainer
from tests.arch.files import ROOT
from tests.laws.tolerances import FLOAT32, REFERENCE32

STEPS, FIRST, SECOND = 6, 2, 4  # 1 process to FIRST, 2 to SECOND, 1 to STEPS
SYMBOLS = np.random.default_rng(0).integers(0, 5, 1500).astype(np.uint8)
CORPUS = Corpus(SYMBOLS[:1000], SYMBOLS[1000:], 1000, 500)
USUAL = TrainConfig(STEPS, batch=5, length=16, evaluations=3, ema=0.5)  # 5 rows: 2 and 3
KINDS = {
    "plain": USUAL,
    "carry": replace(USUAL, carry=True),
    "noisy": replace(USUAL, objective="scheduled", rate=0.3, accumulate=2),
    "muon": replace(USUAL, optimiser="muon"),
}
LIMIT = 30.0  # seconds that a process may outlive another


def make(kind: str, company: Alone, dropout: float = 0.0) -> Trainer:
    torch.manual_seed(company.rank)  # the weights are those of process 0
    space = Space("finite", 5)
    if kind in ("noisy", "muon"):
        shape: Any = {"num_layers": 2, "dim": 8, "num_heads": 2, "num_kv_heads": 1, "hidden": 12}
        model: Any = Transformer(TransformerConfig(space, "llama", context=32, **shape))
    else:
        model = RNN(RNNConfig(space, "gru", 1, 8, 8, dropout=dropout))
    return Trainer(model, CORPUS, KINDS[kind], company)


def train(trainer: Trainer, until: int, folder: Path) -> list[float]:
    """Go on from what ``folder`` holds, and save there: losses and held-out bits."""
    found: list[float] = []

    def report(record: dict[str, Any]) -> None:
        found.append(record["held_out_bits_per_byte"])

    trainer.resume(folder, lambda line: None)
    with pytest.MonkeyPatch.context() as patch:  # float32, where losses can be compared
        patch.setattr(module, "training_precision", lambda device: contextlib.nullcontext())
        while trainer.progress.step < until:
            found.append(trainer.train_step())
            trainer._check_if_due(report)
    trainer.save(folder)
    return found


def work(shard: bool, folder: Path) -> None:
    """The part of the two processes."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        with all_processes(shard) as company:
            found[kind] = train(make(kind, company), SECOND, folder / kind)
    with all_processes(shard) as company:  # with dropout: interrupted, and not
        train(make("plain", company, dropout=0.5), FIRST, folder / "parts")
        again = make("plain", company, dropout=0.5)
        train(again, SECOND, folder / "parts")
        never = make("plain", company, dropout=0.5)
        train(never, SECOND, folder / "never")
        found["identical"] = all(torch.equal(again.best[k], v) for k, v in never.best.items())
        if company.first:
            (folder / "found.json").write_text(json.dumps(found))


def environment(rank: int, port: int, **more: str) -> dict[str, str]:
    place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    return {**os.environ, **place, "MASTER_PORT": str(port), "TORCH_CPP_LOG_LEVEL": "ERROR", **more}


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


@contextlib.contextmanager
def two(*words: Any, **more: str):
    """The same command in two processes."""
    port, command = free_port(), [sys.executable, "-m", *map(str, words)]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    both = [subprocess.Popen(command, env=environment(r, port, **more), **pipes) for r in (0, 1)]
    try:
        yield both
    finally:
        for process in both:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("shard", ["", pytest.param("shard", marks=pytest.mark.slow)])
def test_one_two_one_processes_learn_what_one_does(tmp_path, shard):
    alone, before = {}, {}
    for kind in KINDS:
        alone[kind] = train(make(kind, ALONE), STEPS, tmp_path / "alone" / kind)
        before[kind] = train(make(kind, ALONE), FIRST, tmp_path / kind)
    with two("tests.unit.test_distributed", shard, tmp_path) as both:
        for process in both:
            assert process.wait(300) == 0, process.stderr.read()
    found = json.loads((tmp_path / "found.json").read_text())
    for kind in KINDS:
        after = train(make(kind, ALONE), STEPS, tmp_path / kind)
        exact = REFERENCE32 if kind == "muon" else FLOAT32  # Muon's products are in bfloat16
        assert before[kind] + found[kind] + after == pytest.approx(alone[kind], rel=exact), kind
    assert found["identical"]


def test_rows_are_shared_out():
    for size in (1, 2, 3, 7):
        shares = []
        for rank in range(size):
            one = Alone()
            one.rank, one.size = rank, size
            shares += list(range(7))[one.rows(7)]
        assert shares == list(range(7))
    one.size = 8
    with pytest.raises(ValueError, match="8 processes share a batch of 7 rows"):
        one.rows(7)


def test_numbers_that_are_none_are_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match="start with torchrun"):
        all_processes(False)


def test_another_number_of_processes_is_said(tmp_path):
    trainer, said = make("plain", ALONE), []
    trainer.progress.processes = 3
    trainer.save(tmp_path)
    assert make("plain", ALONE).resume(tmp_path, said.append)
    assert said == ["processes: 3 then, 1 now: same batches, sums may differ in last digits"]


# ---- the command ----

SMALL = ("--model", "gru", "--size", "tiny", "--batch", "4", "--context", "16")


@pytest.fixture
def book(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "book.txt"
    path.write_text((ROOT / "src/chainrule/assets/alice.txt").read_text()[:8000])
    return path


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.slow
def test_torchrun_writes_the_files_of_one_process(book, tmp_path):
    fit = ("-m", "chainrule", "fit", book, *SMALL, "--steps", "6", "-o")
    here = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 200, "check": True}
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    one = subprocess.run([sys.executable, *map(str, fit), str(tmp_path / "one")], **here)
    both = subprocess.run([sys.executable, *launch, *map(str, fit), str(tmp_path / "two")], **here)
    assert both.stdout.count("saved in") == one.stdout.count("saved in") == 1
    names = [{p.name for p in (tmp_path / k).iterdir()} for k in ("one", "two")]
    assert names[0] == names[1]
    assert lines(tmp_path / "one/metrics.jsonl") == lines(tmp_path / "two/metrics.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "sign"), [(0, "KILL"), (1, "KILL"), (0, "STOP"), (1, "STOP")])
def test_none_waits_for_the_dead(book, tmp_path, victim, sign):
    fit = ("chainrule", "fit", book, *SMALL, "--steps", "300000", "-o", tmp_path / "run")
    with two(*fit) as both:
        while lines(tmp_path / "run/metrics.jsonl") < 1:  # a line is 300 steps
            assert both[0].poll() is both[1].poll() is None, both[0].communicate()
            time.sleep(0.05)
        both[victim].send_signal(getattr(signal, "SIG" + sign))
        assert both[1 - victim].wait(LIMIT) == 1
        told = both[1 - victim].stderr.read().splitlines()[-1]
        assert "is gone; what was saved is intact: --resume goes on" in told
    assert list((tmp_path / "run/checkpoints").glob("step-*"))
    (tmp_path / "run/metrics.jsonl").unlink()
    with two(*fit, "--resume") as both:
        while lines(tmp_path / "run/metrics.jsonl") < 1:
            assert both[0].poll() is both[1].poll() is None, both[0].communicate()
            time.sleep(0.05)
        both[victim].send_signal(signal.SIGTERM)
        assert [process.wait(100) for process in both] == [1, 0]
        assert "and saved: --resume goes on" in both[0].stderr.read()


@pytest.mark.slow
def test_wrong_input_is_said_once(tmp_path):
    with two("chainrule", "fit", tmp_path / "nothing.txt", "-o", tmp_path / "run") as both:
        assert [process.wait(100) for process in both] == [2, 2]
        told = [process.stderr.read().splitlines() for process in both]
    assert len(told[0]) == 1 and told[0][0].startswith("error: ") and told[1] == []
    assert not (tmp_path / "run").exists()


if __name__ == "__main__":
    work(bool(sys.argv[1]), Path(sys.argv[2]))
