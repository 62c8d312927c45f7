"""Interrupted runs: what --resume does, what it refuses, and what a full disk costs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from chainrule import files
from chainrule.training import trainer as training
from chainrule.training.checkpoint import checkpoints
from chainrule.training.trainer import Trainer, TrainingFailed

SMALL = ("--model", "gru", "--size", "tiny", "--steps", "8", "--batch", "4", "--context", "16")


def complaint(result, *, code: int) -> str:
    """The one line of an error."""
    assert result.code == code, result.err
    assert "Traceback" not in result.err
    (line,) = (x for x in result.err.splitlines() if x.startswith("error: "))
    return line


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def left_over(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if p.name.endswith(".partial")]


@pytest.fixture(scope="module")
def whole(book, tmp_path_factory) -> Path:
    """SMALL, never interrupted; read only."""
    from tests.cli.conftest import type_command

    folder = tmp_path_factory.mktemp("whole") / "run"
    assert type_command("fit", book, "-o", folder, *SMALL).code == 0
    return folder


@pytest.fixture
def often(monkeypatch):
    """A checkpoint after every step."""
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", -1.0)


@pytest.fixture
def stopped(command, book, tmp_path, monkeypatch, often) -> Path:
    """SMALL, stopped after step 5 with checkpoints of steps 4 and 5."""
    with monkeypatch.context() as patch:
        true = Trainer.train_step

        def step(self):
            self.stop_asked = self.progress.step == 4
            return true(self)

        patch.setattr(Trainer, "train_step", step)
        result = command("fit", book, "-o", tmp_path / "run", *SMALL)
    assert result.code == 1 and "stopped at step 5" in result.err
    return tmp_path / "run"


# ---- where nothing is, where all is ----


def test_where_nothing_is_a_run_begins(command, book, whole, tmp_path):
    result = command("fit", book, "-o", tmp_path / "run", *SMALL, "--resume")
    assert result.code == 0
    assert "begins anew" in result.err
    assert weights(tmp_path / "run") == weights(whole)


def test_wrong_input_leaves_no_folder(command, book, tmp_path):
    line = complaint(command("fit", book, "-o", tmp_path / "x", "--lr", "99", "--resume"), code=2)
    assert "lr must be" in line
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["run", "ngram"])
def test_a_finished_run_says_so(command, book, request, name, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(request.getfixturevalue(name), folder)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    result = command("fit", book, "-o", folder, "--resume")
    assert result.code == 0
    assert "is finished" in result.err
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_killed_before_there_was_a_config(command, book, whole, tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints" / ".step-00000000.safetensors.x.partial").mkdir(parents=True)
    (folder / ".config.json.y.partial").mkdir()
    (folder / ".lock").touch()
    assert "--resume" in complaint(command("fit", book, "-o", folder, *SMALL), code=2)
    assert command("fit", book, "-o", folder, *SMALL, "--resume").code == 0
    assert weights(folder) == weights(whole)
    assert left_over(folder) == []


def test_killed_after_the_last_step(command, book, whole, stopped, monkeypatch):
    """In the end of a run: results are written, the checkpoints are still there."""
    from chainrule.verbs import fit

    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit, "shutil", SimpleNamespace(rmtree=killed))
        command("fit", book, "-o", stopped, "--resume")
    assert json.loads((stopped / "config.json").read_text())["results"]["finished"]
    (stopped / "README.md").unlink()
    (stopped / "model.safetensors").unlink()
    assert checkpoints(stopped / "checkpoints")
    assert command("fit", book, "-o", stopped, "--resume").code == 0
    assert weights(stopped) == weights(whole)
    assert (stopped / "README.md").exists()
    assert not (stopped / "checkpoints").exists()


# ---- what it must be ----


def test_options_that_are_the_same_are_fine(command, book, whole, stopped):
    assert command("fit", book, "-o", stopped, *SMALL, "--resume").code == 0
    assert weights(stopped) == weights(whole)


def test_every_other_option_is_named(command, book, stopped):
    before = {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()}
    asked = ("--lr", "0.5", "--batch", "8", "--model", "lstm", "--size", "small", "--seed", "3")
    asked += ("--codec", "bytes", "--context", "16", "--time", "5m", "--dropout", "0.9")
    line = complaint(command("fit", book, "-o", stopped, *asked, "--resume"), code=2)
    for difference in (
        f"lr: 0.01 in {stopped}, 0.5 asked",
        "batch: 4 in",
        "model: gru in",
        "size: tiny in",
        "seed: 0 in",
        "codec: chars in",
        "time: not given in",
        "dropout: ",
    ):
        assert difference in line, line
    assert "context" not in line
    assert {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()} == before


def test_other_data_is_named(command, book, stopped, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("Another text, with other words in it.\n" * 40)
    line = complaint(command("fit", other, "-o", stopped, "--resume"), code=2)
    assert str(book) in line and str(other) in line and "same data" in line


def test_data_that_has_changed_is_named(command, book, tmp_path, often):
    mine = tmp_path / "mine.txt"
    mine.write_bytes(book.read_bytes())
    assert command("fit", mine, "-o", tmp_path / "run", *SMALL).code == 0
    mine.write_bytes(book.read_bytes() + b"One line more.\n")
    line = complaint(command("fit", mine, "-o", tmp_path / "run", "--resume"), code=2)
    assert f"{mine} has changed" in line


def test_a_context_that_is_longer_than_the_data(command, book, tmp_path):
    asked = ("--size", "tiny", "--steps", "2", "--context", "99999")
    line = complaint(command("fit", book, "-o", tmp_path / "run", *asked), code=2)
    assert "99,999" in line and f"{int(len(book.read_bytes()) * 0.9):,}"[:2] in line
    assert not (tmp_path / "run").exists()


# ---- damage ----


def test_a_torn_checkpoint_costs_a_step(command, book, whole, stopped):
    newest = checkpoints(stopped / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:-99])
    result = command("fit", book, "-o", stopped, "--resume")
    assert result.code == 0
    assert newest.name in result.err and "resumed at step 4" in result.err
    assert weights(stopped) == weights(whole)


def test_without_checkpoints_it_begins_at_the_first_step(command, book, whole, stopped):
    shutil.rmtree(stopped / "checkpoints")
    result = command("fit", book, "-o", stopped, "--resume")
    assert result.code == 0 and "first step" in result.err
    assert weights(stopped) == weights(whole)


class Disk:
    """Writes of tensors fail while ``refused(name)`` is true."""

    def __init__(self, patch: pytest.MonkeyPatch, refused) -> None:
        self.true, self.refused = files.save_file, refused
        patch.setattr(files, "save_file", self.write)

    def write(self, tensors, path, metadata):
        if self.refused(path.name):
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device", str(path))
        self.true(tensors, path, metadata)


def test_a_disk_that_is_full_for_a_while(command, book, whole, tmp_path, monkeypatch, often):
    """No checkpoint and no weights between steps 2 and 6: told, and training goes on."""
    steps: list[str] = []

    def refused(name: str) -> bool:
        steps.append(name)
        return 2 < len(steps) < 9

    Disk(monkeypatch, refused)
    result = command("fit", book, "-o", tmp_path / "run", *SMALL)
    assert result.code == 0, result.err
    assert "No space left" in result.err and "training goes on" in result.err
    assert weights(tmp_path / "run") == weights(whole)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(x)["step"] for x in lines] == sorted([*range(1, 9), *range(1, 9)])
    assert left_over(tmp_path) == []


def test_a_disk_that_stays_full(command, book, whole, tmp_path, monkeypatch, often):
    """It ends with one line; what was saved serves, and --resume goes on."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        saved: list[str] = []
        Disk(patch, lambda name: saved.append(name) or len(saved) > 8)
        result = command("fit", book, "-o", folder, *SMALL)
    line = complaint(result, code=1)
    assert str(folder) in line and "bytes" in line and "--resume goes on" in line
    assert left_over(tmp_path) == []
    assert command("generate", folder, "The ", "--length", "3").code == 0
    assert command("fit", book, "-o", folder, "--resume").code == 0
    assert weights(folder) == weights(whole)


def test_a_folder_that_cannot_be_written(command, book, whole, stopped, monkeypatch):
    before = {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()}

    def refuse(path, *args, **kwargs):
        if str(stopped) in str(path):
            raise OSError(30, "Read-only file system", str(path))
        return true(path, *args, **kwargs)

    true = os.mkdir
    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", refuse)
        line = complaint(command("fit", book, "-o", stopped, "--resume"), code=1)
    assert "Read-only" in line and str(stopped) in line and "--resume" in line
    assert {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()} == before
    assert command("fit", book, "-o", stopped, "--resume").code == 0
    assert weights(stopped) == weights(whole)


# ---- divergence ----


def test_a_run_that_diverges_keeps_its_best(command, book, tmp_path, monkeypatch):
    folder, true = tmp_path / "run", Trainer.train_step

    def step(self):
        if self.progress.step == 5:
            raise TrainingFailed("the loss is nan at step 5: try a lower --lr than 0.01")
        return true(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", step)
        line = complaint(command("fit", book, "-o", folder, *SMALL), code=1)
    assert "step 5" in line and "lower --lr" in line and "best weights, of step 5" in line
    results = json.loads((folder / "config.json").read_text())["results"]
    assert results["finished"] is False
    assert "nan at step 5" in results["diverged"]
    assert command("generate", folder, "The ", "--length", "3").code == 0
    line = complaint(command("fit", book, "-o", folder, "--resume"), code=2)
    assert "diverged, and would again" in line and "nan at step 5" in line
