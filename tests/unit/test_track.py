"""Event files: what TensorBoard reads is what metrics.jsonl says, after a resumption too."""

from __future__ import annotations

import sys

import pytest

from chainrule.training import track

pytest.importorskip("tensorboard")


def record(step: int, loss: float) -> dict[str, float]:
    return {
        "step": step,
        "seconds": 1.0,
        "loss_nats": loss,
        "bits_per_byte": 2 * loss,
        "lr": 0.01,
        "symbols_per_s": 100.0,
    }


def read(folder) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {
        name: [(event.step, round(event.value, 5)) for event in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


def test_every_number_of_a_record_is_a_curve(tmp_path):
    with track.events(tmp_path, 0) as draw:
        draw(record(1, 3.0))
        draw(record(2, 2.5))
        draw({"step": 2, "seconds": 1.0, "held_out_bits_per_byte": 4.5, "best": True})
    assert read(tmp_path) == {
        "bits_per_byte/training": [(1, 6.0), (2, 5.0)],
        "bits_per_byte/held_out": [(2, 4.5)],
        "training/loss_nats_per_symbol": [(1, 3.0), (2, 2.5)],
        "training/learning_rate": [(1, 0.01), (2, 0.01)],
        "training/symbols_per_s": [(1, 100.0), (2, 100.0)],
    }


def test_a_resumed_run_takes_the_place_of_what_was_lost(tmp_path):
    with track.events(tmp_path, 0) as draw:
        for step in (1, 2, 3, 4):  # steps 3 and 4 came after the last checkpoint
            draw(record(step, 9.0))
    with track.events(tmp_path, 2) as draw:
        for step in (3, 4, 5):
            draw(record(step, 1.0))
    curve = read(tmp_path)["training/loss_nats_per_symbol"]
    assert curve == [(1, 9.0), (2, 9.0), (3, 1.0), (4, 1.0), (5, 1.0)]


def test_no_folder_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with track.events(None, 0) as draw:
        draw(record(1, 1.0))
    assert list(tmp_path.iterdir()) == []


def test_without_tensorboard_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install 'chainrule\[track\]'"):
        track.writer()
    from chainrule.verbs.fit import fit

    book = tmp_path / "book.txt"
    book.write_text("some words and more words\n" * 20)
    with pytest.raises(ValueError, match="track"):
        fit(book, tmp_path / "run", steps=2, tensorboard=True)
    assert not (tmp_path / "run").exists()
