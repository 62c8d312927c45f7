"""The loop: resumed runs, averages, what stops a run, what does not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from chainrule.core.space import Space
from chainrule.models.rnn import RNN, RNNConfig
from chainrule.training import trainer as module
from chainrule.training.average import Average
from chainrule.training.data import Corpus
from chainrule.training.loss import Loss
from chainrule.training.shards import lane_starts, stream_batch, window_starts, windows
from chainrule.training.trainer import TrainConfig, Trainer, TrainingFailed
from tests.models.markov import Markov

SYMBOLS = np.random.default_rng(0).integers(0, 5, 1200).astype(np.uint8)
CORPUS = Corpus(SYMBOLS[:1000], SYMBOLS[1000:], 1000, 200)


def make(**settings) -> Trainer:
    torch.manual_seed(0)
    model = RNN(RNNConfig(Space("finite", 5), "gru", 1, 8, 8, dropout=0.2))
    usual = {"steps": 12, "batch": 4, "length": 16, "evaluations": 4}
    return Trainer(model, CORPUS, TrainConfig(**{**usual, **settings}))


def quiet(record: object) -> None:
    pass


def weights(trainer: Trainer) -> list[torch.Tensor]:
    """The raw ones, the averaged ones and the best."""
    parts = trainer.model.state_dict(), trainer.average.tensors, trainer.best
    return [part[name] for part in parts for name in sorted(part)]


def same(one: Trainer, other: Trainer) -> bool:
    pairs = zip(weights(one), weights(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# ---- resuming ----

VARIANTS = {
    "plain": {},
    "averaged": {"ema": 0.9},
    "carry": {"carry": True, "ema": 0.9},
    "accumulate": {"accumulate": 2, "patience": 1},
    "scheduled": {"objective": "scheduled", "rate": 0.3},
    "noise": {"objective": "noise", "rate": 0.3},
    "compiled": {"compile": True, "ema": 0.9},
}


# torch.compile warns of what it meets on its way.
COMPILED = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=COMPILED * (n == "compiled")) for n in VARIANTS]
)
def test_a_resumed_run_is_the_whole_run(tmp_path, monkeypatch, name):
    """Stopped at step 5, gone on in another trainer with a generator in another state."""
    whole, part, rest = (make(**VARIANTS[name]) for _ in range(3))
    torch.manual_seed(1)
    whole.run(None, quiet, print)

    def stop(record):
        part.stop_asked = part.progress.step == 5

    torch.manual_seed(1)
    part.run(tmp_path, stop, print)
    assert not part.finished and not same(whole, part)
    torch.manual_seed(2)
    assert rest.resume(tmp_path, print)
    assert same(part, rest)
    rest.run(tmp_path, quiet, print)
    assert same(whole, rest)
    assert rest.progress.losses == whole.progress.losses
    assert (rest.progress.best, rest.progress.stale) == (whole.progress.best, whole.progress.stale)


def test_there_may_be_nothing_to_resume(tmp_path):
    assert not make().resume(tmp_path / "none", print)


# ---- the average ----


def test_the_average_is_that_of_its_definition():
    trainer = make(ema=0.5)
    parts = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    for step in range(8):
        trainer.train_step()
        kept = min(0.5, (1 + step) / (10 + step))
        for name, value in trainer.model.state_dict().items():
            parts[name] = kept * parts[name] + (1 - kept) * value
    raw = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    with trainer.average.applied():
        inside = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    for name, value in parts.items():
        torch.testing.assert_close(inside[name], value, rtol=1e-5, atol=1e-7)
        assert not torch.equal(inside[name], raw[name])
        assert torch.equal(trainer.model.state_dict()[name], raw[name])


def test_checks_and_the_best_are_of_the_average():
    trainer, seen = make(ema=0.9), []

    def report(record):
        if record.get("best"):
            seen.append({k: v.clone() for k, v in trainer.model.state_dict().items()})
            assert record["held_out_bits_per_byte"] == trainer.held_out_bits()

    trainer.run(None, report, print)
    assert all(torch.equal(seen[-1][k], v) for k, v in trainer.best.items())
    raw = trainer.model.state_dict()
    assert not any(torch.equal(raw[k], v) for k, v in trainer.average.tensors.items())


def test_without_a_decay_there_is_no_average():
    trainer = make()
    assert trainer.average.tensors == {}
    before = [p.data_ptr() for p in trainer.model.parameters()]
    with trainer.average.applied():
        pass
    Average(trainer.model, 0.0).update(3)
    assert [p.data_ptr() for p in trainer.model.parameters()] == before


# ---- what stops a run ----


@pytest.mark.parametrize("carry", [False, True])
def test_a_loss_that_is_no_number_names_step_and_batch(carry):
    trainer = make(accumulate=2, carry=carry)
    trainer.train_step()
    law = trainer.loss.forward

    def broken(*given):
        total, count, carried = law(*given)
        trainer.calls = getattr(trainer, "calls", 0) + 1
        return total * (math.nan if trainer.calls == 2 else 1), count, carried

    trainer.loss.forward = broken
    before = [p.clone() for p in trainer.model.parameters()]
    with pytest.raises(TrainingFailed, match="nan at step 1, in batch 3,") as raised:
        trainer.train_step()
    starts = lane_starts(1000, 4, 16, 3) if carry else window_starts(1000, 4, 16, 0, 3)
    assert ", ".join(map(str, starts)) in str(raised.value)
    assert "--lr" in str(raised.value)
    assert all(map(torch.equal, before, trainer.model.parameters()))
    x = stream_batch(SYMBOLS[:1000], 4, 16, 3)[0] if carry else windows(SYMBOLS[:1000], 4, 16, 0, 3)
    assert x[1].tolist() == SYMBOLS[starts[1] : starts[1] + 16].tolist()


def test_a_gradient_that_is_no_number_does_not_reach_the_weights():
    trainer = make()
    first = next(trainer.model.parameters())
    first.register_hook(lambda slope: slope * math.inf)
    before = first.clone()
    with pytest.raises(TrainingFailed, match="gradient is inf"):
        trainer.train_step()
    assert torch.equal(first, before)


def test_a_loss_that_grows_and_stays_high_stops_the_run():
    """No number is infinite: it just unlearns. The best weights are those of the beginning."""
    trainer, records = make(steps=400, lr=10.0, clip=1e6, evaluations=400, patience=400), []
    with pytest.raises(TrainingFailed, match=r"grown to .* from .* --lr than 10"):
        trainer.run(None, records.append, print)
    assert trainer.progress.step < 200
    assert trainer.progress.best < 3 < records[-1]["loss_nats"]
    assert all(v.isfinite().all() for v in trainer.best.values())


def test_a_check_that_is_no_number_is_not_the_best(monkeypatch):
    trainer = make()
    best = trainer.best
    monkeypatch.setattr(trainer, "held_out_bits", lambda: math.nan)
    trainer.run(None, quiet, print)
    assert trainer.best is best
    assert trainer.progress.best == math.inf


def test_threads_are_given_back():
    trainer, before = make(threads=3), torch.get_num_threads()

    def report(record):
        assert torch.get_num_threads() == 3
        raise KeyError

    with pytest.raises(KeyError):
        trainer.run(None, report, print)
    assert torch.get_num_threads() == before


# ---- what does not stop it ----


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_checkpoints_that_cannot_be_written_stop_nothing(tmp_path, monkeypatch):
    trainer, said = make(), []
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", -1.0)
    monkeypatch.setattr(trainer, "save", full)
    trainer.run(tmp_path, quiet, said.append)
    assert trainer.finished
    assert len(said) == 13
    assert "step 1:" in said[0] and "No space left" in said[0] and "goes on" in said[0]


def test_a_stopped_run_without_its_checkpoint_is_an_error(tmp_path, monkeypatch):
    trainer = make()
    trainer.stop_asked = True
    monkeypatch.setattr(trainer, "save", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.run(tmp_path, quiet, print)


def test_every_so_often_a_checkpoint(tmp_path, monkeypatch):
    trainer, saved = make(), []
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", -1.0)
    monkeypatch.setattr(trainer, "save", lambda folder: saved.append(trainer.progress.step))
    trainer.run(tmp_path, quiet, print)
    assert saved == [*range(1, 13), 12]


# ---- settings ----


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"objective": "mse"}, "objective 'mse' is not one of nll, scheduled, noise"),
        ({"rate": 1.5}, "rate must be"),
        ({"ema": 1.0}, "ema must be"),
        ({"carry": True, "objective": "noise", "rate": 0.1}, "don't go together"),
    ],
)
def test_settings_out_of_bounds(settings: dict, words: str):
    with pytest.raises(ValueError, match=words):
        make(**settings)


def test_only_a_hidden_state_is_carried():
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="recurrent"):
        Loss(Markov(5), "nll", 0.0, carry=True)
    state = torch.get_rng_state()
    Loss(make().model, "nll", 0.0, carry=True)
    assert not torch.equal(torch.get_rng_state(), state)


def test_the_folder_of_a_run_is_not_needed(tmp_path: Path):
    make().run(None, quiet, print)
    assert list(tmp_path.iterdir()) == []
