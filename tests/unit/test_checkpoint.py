"""Checkpoints: whole or not there, at whatever instant a process dies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from chainrule import files
from chainrule.files import remove_partial
from chainrule.training import checkpoint
from chainrule.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint


class Killed(BaseException):
    """The process is dead: nothing after it has an effect."""


class Dying:
    """Every call that changes the disk is counted; with the n-th the process dies.

    Args:
        when: before the call, after it, or in its middle (of a write; else as before).
    """

    NAMES = ("mkdir", "fsync", "replace", "chmod", "unlink")

    def __init__(self, patch: pytest.MonkeyPatch, last: int, when: str) -> None:
        self.left, self.when, self.dead = last, when, False
        for module, name in (
            (files, "save_file"),
            *((os, n) for n in (*self.NAMES, "rmdir", "open")),
        ):
            patch.setattr(module, name, self.wrapped(name, getattr(module, name)))

    def wrapped(self, name, call):
        def wrapper(*args, **kwargs):
            if self.dead:
                raise Killed
            if name in ("rmdir", "open"):  # matter only in that the dead don't do them
                return call(*args, **kwargs)
            self.left -= 1
            if self.left >= 0:
                return call(*args, **kwargs)
            self.dead = True
            if self.when == "after":
                call(*args, **kwargs)
            if self.when == "within" and name == "save_file":
                call(*args, **kwargs)
                content = Path(args[1]).read_bytes()
                Path(args[1]).write_bytes(content[: len(content) // 2])
            raise Killed

        return wrapper


class Run:
    """Something to checkpoint: the content follows from the step."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), fused=True)
        self.step = 0

    def train(self) -> Run:
        self.model(torch.rand(4, 3)).sum().backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        return self

    def save(self, folder: Path) -> Path:
        more = {"best/weight": self.model.weight * 2}
        return save_checkpoint(
            folder, self.step, self.model, self.optimiser, {"step": self.step, "nan": 0.1}, more
        )

    def content(self) -> dict[str, torch.Tensor]:
        moments = self.optimiser.state_dict()["state"]
        flat = {f"{i}/{k}": v for i, m in moments.items() for k, v in m.items()}
        return {**self.model.state_dict(), **flat, "generator": torch.get_rng_state()}


def at(step: int) -> dict[str, torch.Tensor]:
    run = Run()
    for _ in range(step):
        run.train()
    return {k: v.clone() for k, v in run.content().items()}


def found(folder: Path, said: list[str] | None = None) -> int:
    """The step that is loaded; its content is checked."""
    run = Run()
    loaded = load_checkpoint(
        folder, run.model, run.optimiser, [].append if said is None else said.append
    )
    assert loaded is not None
    step, content = loaded[0]["step"], run.content()
    expected = at(step)
    assert content.keys() == expected.keys()
    assert all(torch.equal(content[k], v) for k, v in expected.items())
    assert torch.equal(loaded[1]["best/weight"], run.model.weight * 2)
    return step


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoints of steps 1 and 2."""
    run = Run()
    for _ in range(2):
        run.train().save(tmp_path)
    return tmp_path


def test_all_is_restored_and_two_are_kept(saved):
    assert found(saved) == 2
    run = Run()
    for _ in range(4):
        run.train()
    run.save(saved)
    assert [p.name for p in saved.iterdir()] and len(list(saved.iterdir())) == 2
    assert [p.stem for p in checkpoints(saved)] == ["step-00000002", "step-00000004"]
    assert found(saved) == 4


def test_before_the_first_step_there_is_no_optimiser_state(tmp_path):
    Run().save(tmp_path)
    assert found(tmp_path) == 0


def test_an_empty_folder_has_none(tmp_path):
    run = Run()
    assert load_checkpoint(tmp_path / "no", run.model, run.optimiser, print) is None


@pytest.mark.parametrize("when", ["before", "within", "after"])
def test_dying_at_any_point_of_a_save_leaves_a_whole_one(tmp_path, when):
    survived = set()
    for last in range(100):
        folder = tmp_path / f"{when}{last}"
        run = Run()
        for _ in range(2):
            run.train().save(folder)
        run.train()
        with pytest.MonkeyPatch.context() as patch:
            try:
                Dying(patch, last, when)
                run.save(folder)
                break
            except Killed:
                pass
        step = found(folder)
        survived.add(step)
        again = Run()
        for _ in range(3):
            again.train()
        remove_partial(folder)
        again.save(folder)
        assert [p.stem for p in sorted(folder.iterdir())] == ["step-00000002", "step-00000003"]
        assert found(folder) == 3
    else:
        raise AssertionError("a save has an end")
    assert last >= 6, "every call of a save was tried"
    assert survived == {2, 3}


@pytest.mark.parametrize("cut", [0, 4, 100, 0.5, -1])
def test_a_torn_checkpoint_is_named_and_the_one_before_is_taken(saved, cut):
    torn = checkpoints(saved)[-1]
    content = torn.read_bytes()
    torn.write_bytes(content[: int(len(content) * cut) if isinstance(cut, float) else cut])
    said: list[str] = []
    assert found(saved, said) == 1
    assert len(said) == 1
    assert str(torn) in said[0] and "step-00000001" in said[0]
    assert checkpoints(saved) == [saved / "step-00000001.safetensors"]


def test_any_flipped_bit_is_seen(saved):
    newest = checkpoints(saved)[-1]
    content = newest.read_bytes()
    for position in range(0, len(content), max(1, len(content) // 150)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        newest.write_bytes(changed)
        try:
            extra, named = checkpoint._read(newest)
        except ValueError:
            continue
        # Only what means the same may differ: blanks in the header.
        newest.write_bytes(content)
        was, tensors = checkpoint._read(newest)
        assert extra == was and all(torch.equal(named[k], v) for k, v in tensors.items())


def test_nothing_whole_is_an_error_and_nothing_is_removed(saved):
    for path in checkpoints(saved):
        path.write_bytes(b"torn")
    run = Run()
    with pytest.raises(ValueError, match=r"step-00000002.*step-00000001"):
        load_checkpoint(saved, run.model, run.optimiser, print)
    assert len(checkpoints(saved)) == 2


def test_what_reads_back_otherwise_is_not_kept(saved, monkeypatch):
    def lying(tensors, path, metadata):
        tensors = {k: v + 1 if v.is_floating_point() else v for k, v in tensors.items()}
        true(tensors, path, metadata)

    true = files.save_file
    run = Run()
    for _ in range(3):
        run.train()
    monkeypatch.setattr(files, "save_file", lying)
    with pytest.raises(OSError, match=r"step-00000003.*just written"):
        run.save(saved)
    monkeypatch.undo()
    assert found(saved) == 2
    assert len(list(saved.iterdir())) == 2


@pytest.mark.parametrize("call", ["save_file", "mkdir", "fsync", "replace"])
def test_a_disk_that_refuses(saved, monkeypatch, call):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    before = {p: p.read_bytes() for p in saved.iterdir()}
    run = Run()
    for _ in range(3):
        run.train()
    with monkeypatch.context() as patch:
        patch.setattr(files if call == "save_file" else os, call, full)
        with pytest.raises(OSError, match=r"step-00000003.*its [\d,]+ bytes.*No space") as raised:
            run.save(saved)
    assert "\n" not in str(raised.value)
    assert {p: p.read_bytes() for p in saved.iterdir()} == before
    run.save(saved)
    assert found(saved) == 3
