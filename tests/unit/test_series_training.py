"""Windows of many series, a network that learns them, and what it says comes next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chainrule.artifact import Artifact, load_artifact
from chainrule.codecs.series import BinCodec, CountCodec, RealCodec, Scaling
from chainrule.core.model import Condition
from chainrule.core.space import Space
from chainrule.models.rnn import RNN, RNNConfig, gru
from chainrule.models.transformer_config import transformer
from chainrule.nn.scalars import LEAST, ScalarHead
from chainrule.series.batch import Ragged
from chainrule.training.series_data import SeriesLessons, future_season, harmonics, with_season
from chainrule.training.trainer import TrainConfig, Trainer
from chainrule.verbs import neural as module
from chainrule.verbs.neural import fit_panel, forecast_panel
from chainrule.verbs.neural_models import LSTM
from chainrule.verbs.score import score
from tests.laws.tolerances import FLOAT32, REFERENCE64

SEASON, HORIZON, CONTEXT = 4, 3, 8
CONFIG = TrainConfig(steps=12, batch=6, length=CONTEXT + HORIZON, lr=1e-2, evaluations=4)
READS = frozenset({"steps", "scale"})


def wave(count: int, level: float, seed: int = 0) -> np.ndarray:
    """A season of four around a level, and a little noise."""
    noise = np.random.default_rng(seed).normal(0, 0.02, count)
    return level * (1 + 0.5 * np.sin(2 * np.pi * np.arange(count) / SEASON) + noise)


PANEL = with_season(Ragged.of([wave(40, 10, 1), wave(9, 500, 2), wave(25, 2, 3)]), SEASON)


def lessons(**settings: Any) -> SeriesLessons:
    usual: dict[str, Any] = {"codec": RealCodec(Scaling()), "reads": READS}
    usual |= {"horizon": HORIZON, "context": CONTEXT}
    return SeriesLessons(PANEL, **{**usual, **settings})


# ---- windows ----


def test_the_place_in_a_season_is_told_without_loss():
    """Twelve places are twelve independent vectors; steps to come go on where the series ends."""
    months = harmonics(torch.arange(24), 12)
    assert torch.allclose(months[:12], months[12:], atol=FLOAT32)
    assert torch.linalg.matrix_rank(torch.cat([months[:12], torch.ones(12, 1)], 1)) == 12
    part = PANEL.before(2)
    ahead = future_season(part, SEASON, 2)
    for row, end in enumerate(part.end.tolist()):
        torch.testing.assert_close(ahead[row], PANEL.known[end : end + 2])
    other = Ragged(PANEL.values, PANEL.begin, PANEL.end, torch.ones(len(PANEL.values), 1))
    assert with_season(other, SEASON) is other


def test_windows_are_pieces_of_series_in_their_own_scale():
    """Rows are found again in the data, never in what is held out, and the same every time."""
    panel, seen = lessons(), set()
    learned = PANEL.before(HORIZON)
    for number in range(5):
        batch, fresh = panel.batch(CONFIG, number)
        again, _ = panel.batch(CONFIG, number)
        assert torch.equal(batch.x, again.x) and not fresh
        for row, length in enumerate(batch.lens):
            values = batch.x[row, :length].double().numpy() * batch.cond.scale[row].item()
            found = [
                (i, at)
                for i, (a, b) in enumerate(zip(learned.begin, learned.end, strict=True))
                for at in range(int(a), int(b) - length + 1)
                if np.allclose(learned.values[at : at + length], values, rtol=FLOAT32)
            ]
            ((i, at),) = found
            seen.add(i)
            own = max(1, length - HORIZON)
            scale = learned.values[at : at + own].abs().mean()
            torch.testing.assert_close(batch.cond.scale[row].double(), scale, rtol=FLOAT32, atol=0)
            steps = PANEL.known[at : at + length]
            torch.testing.assert_close(batch.cond.steps[row, :length], steps)
            whole = batch.weight is None
            weight = torch.ones(batch.x.shape[1]) if whole else batch.weight[row]
            assert weight.tolist() == [1.0] * length + [0.0] * (batch.x.shape[1] - length)
    assert seen == {0, 1, 2}
    assert "point " in panel.origin(CONFIG, 3) and "of series" in panel.origin(CONFIG, 3)


def test_all_is_learned_where_nothing_is_held_out():
    panel = lessons(hold_out=False)
    assert not panel.holds_out
    last = {round(float(v), 4) for v in PANEL.values[PANEL.end - 1]}
    drawn = set()
    for number in range(40):
        batch = panel.batch(CONFIG, number)[0]
        values = batch.x.double() * batch.cond.scale[:, None].double()
        drawn |= {round(float(v), 4) for v in values.flatten()}
    assert last <= drawn
    with pytest.raises(ValueError, match="no series has 2 points to learn before the 39 that are"):
        lessons(horizon=39)


@pytest.mark.parametrize("codec", ["real", "asinh", "bins"])
def test_held_out_nats_are_of_the_last_horizon_given_its_context(codec: str):
    """Of scaled values: the same in every codec, row by row as the model itself scores them."""
    torch.manual_seed(0)
    made = {
        "real": RealCodec(Scaling()),
        "asinh": RealCodec(Scaling("std", asinh=True)),
        "bins": BinCodec(np.linspace(-1, 3, 30).tolist(), Scaling()),
    }[codec]
    model = RNN(replace(gru(made.space, "tiny"), features=SEASON)).eval()
    nats, points = lessons(codec=made, reads=model.reads).held_out_nats(model)
    assert points == 3 * HORIZON
    wanted = 0.0
    for row in range(3):
        one = PANEL.select(torch.tensor([row])).last(CONTEXT + HORIZON)
        a, b = int(one.begin), int(one.end)
        values = PANEL.values[a:b].numpy()
        centre, scale = made.scaling.measure(values[:-HORIZON])
        symbols, inside = made.to_symbols(values, centre, scale)
        x = torch.from_numpy(symbols)[None].to(made.space.dtype)
        told = {"steps": PANEL.known[None, a:b], "scale": torch.from_numpy(scale).float()}
        told = {k: v for k, v in told.items() if k in model.reads}
        log_p = model(x, Condition(**told)).log_prob(x)[0].detach().double().numpy()
        wanted -= (log_p + inside + np.log(scale))[-HORIZON:].sum()
    assert abs(nats / wanted - 1) < FLOAT32 * 10


# ---- learning ----


def trainer(**settings: Any) -> Trainer:
    torch.manual_seed(0)
    model = RNN(RNNConfig(Space("real"), "gru", 1, 8, 8, dropout=0.2, features=SEASON))
    return Trainer(model, lessons(reads=model.reads), replace(CONFIG, **settings))


def test_a_resumed_run_is_the_whole_run(tmp_path: Path):
    def weights(of: Trainer) -> list[torch.Tensor]:
        return [*of.model.state_dict().values(), *of.best.values()]

    def stop(record: dict[str, Any]) -> None:
        part.stop_asked = part.progress.step == 5

    whole, part, rest = (trainer(accumulate=2) for _ in range(3))
    torch.manual_seed(1)
    whole.run(None, lambda record: None, print)
    torch.manual_seed(1)
    part.run(tmp_path, stop, print)
    torch.manual_seed(2)
    assert rest.resume(tmp_path, print)
    rest.run(tmp_path, lambda record: None, print)
    assert all(map(torch.equal, weights(whole), weights(rest)))
    assert rest.progress.losses == whole.progress.losses
    assert rest.progress.best == whole.progress.best


MANY = Ragged.of([wave(44, 3.0**i, i) for i in range(8)])
FEW = torch.tensor([1, 4])
SMALL = {"size": "tiny", "context": CONTEXT, "hidden": 16, "dim": 16}


@pytest.fixture(scope="module")
def runs() -> dict[str, Artifact]:
    """Every kind of model and of symbol, after some steps."""
    counts = Ragged(MANY.values.round(), MANY.begin, MANY.end)
    block = {**SMALL, "num_heads": 2, "num_kv_heads": 2}
    made = {
        "lstm": (MANY, {**SMALL, "steps": 100}),
        "transformer": (MANY, {"model": "transformer", **block, "head": "normal", "steps": 20}),
        "bins": (MANY, {"model": "gru", **SMALL, "codec": "bins", "steps": 20}),
        "counts": (counts, {"model": "gru", **SMALL, "codec": "counts", "steps": 20}),
        "ar": (MANY, {"model": "ar", "order": SEASON, "context": 2 * CONTEXT}),
    }
    return {
        name: fit_panel(data.before(HORIZON), HORIZON, SEASON, **how)
        for name, (data, how) in made.items()
    }


NAMES = ("lstm", "transformer", "bins", "counts", "ar")


def test_the_season_is_learned(runs):
    """Within a tenth of the level, where the season swings by a half; better than it began."""
    for name in ("lstm", "ar"):
        paths = forecast_panel(runs[name], MANY.before(HORIZON), HORIZON, num_samples=200)
        truth = torch.stack([MANY.values[b - HORIZON : b] for b in MANY.end.tolist()])
        level = torch.tensor([3.0**i for i in range(8)]).double()
        off = (paths.median(1).values - truth).abs().mean(1) / level
        assert off.max() < 0.15, name
    assert runs["lstm"].results["held_out_bits_per_point"] < 0


@pytest.mark.parametrize("name", NAMES)
def test_paths_depend_on_their_series_alone(runs, monkeypatch, name: str):
    """Not on the batch, its size or its order; on the seed and the id they do."""
    data = MANY.before(HORIZON).select(torch.tensor([2, 0, 5]))
    if name == "counts":
        data = Ragged(MANY.values.round(), data.begin, data.end)
    whole = forecast_panel(runs[name], data, HORIZON, num_samples=5, seed=3)
    assert whole.shape == (3, 5, HORIZON)
    monkeypatch.setattr(module, "_ROWS", 7)
    again = forecast_panel(runs[name], data, HORIZON, num_samples=5, seed=3)
    close = {"rtol": 1e3 * REFERENCE64, "atol": 1e3 * REFERENCE64}
    torch.testing.assert_close(again, whole, **close)
    one = data.select(torch.tensor([2]))
    alone = forecast_panel(runs[name], one, HORIZON, num_samples=5, seed=3, ids=[2])
    torch.testing.assert_close(alone, whole[2:], **close)
    longer = forecast_panel(runs[name], data, HORIZON + 2, num_samples=7, seed=3)
    torch.testing.assert_close(longer[:, :5, :HORIZON], whole, **close)
    assert not torch.equal(forecast_panel(runs[name], data, HORIZON, num_samples=5), whole)
    if name == "counts":
        assert torch.equal(whole, whole.round()) and (whole >= 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_saved_loaded_and_scored(runs, tmp_path: Path, name: str):
    run, data = runs[name], MANY.before(HORIZON)
    if name == "counts":
        data = Ragged(MANY.values.round(), data.begin, data.end)
    run.save_config(tmp_path)
    run.save_weights(tmp_path)
    again = load_artifact(tmp_path)
    assert again.recipe == run.recipe
    paths = [forecast_panel(r, data, HORIZON, num_samples=3) for r in (run, again)]
    assert torch.equal(*paths)
    series = data.values[: int(data.end[0])].numpy()
    found = score(again, series)
    assert (found.unit, found.units, found.kind) == ("point", len(series), "codes")
    bigger = score(again, 8 * series) if name != "counts" else None
    if bigger is not None and "scale" not in again.model.reads:  # a density: one bit less a point
        assert abs(bigger.bits_per_unit - found.bits_per_unit - 3) < FLOAT32


def test_known_regressors_and_wrong_input(runs):
    """A regressor that says it all is learned, and missed where it is not given."""
    known = torch.randn(len(MANY.values), 1, generator=torch.Generator().manual_seed(0))
    told = Ragged((5 + 2 * known[:, 0]).double(), MANY.begin, MANY.end, known)
    run = fit_panel(told.before(HORIZON), HORIZON, steps=80, **SMALL)
    ahead = torch.stack([known[b - HORIZON : b] for b in told.end.tolist()])
    paths = forecast_panel(run, told.before(HORIZON), HORIZON, num_samples=50, future=ahead)
    off = (paths.median(1).values - (5 + 2 * ahead[..., 0])).abs().mean()
    assert off < 0.5 < (paths.median(1).values - 5).abs().mean()
    for use, said in (
        (lambda: forecast_panel(run, told, HORIZON), "of the next 3, is missing"),
        (lambda: forecast_panel(runs["lstm"], Ragged.of([[]]), 2), "series 0 has no points"),
        (lambda: fit_panel(MANY, 0), "horizon must be"),
        (lambda: fit_panel(MANY, 3, model="mlp"), "model 'mlp' is not one of lstm, gru"),
        (lambda: fit_panel(MANY, 3, codec="bytes"), "codec 'bytes' is not one of real"),
        (lambda: fit_panel(MANY, 3, head="negative-binomial"), "is for count symbols"),
        (lambda: fit_panel(MANY, 3, hiden=8), "fields of lstm: unknown key 'hiden'; did you mean"),
        (lambda: fit_panel(Ragged.of([[1.0]]), 3), "2 points to learn before the 3"),
        (lambda: fit_panel(Ragged.of([[1.0]]), 3, hold_out=False), "2 points to learn$"),
    ):
        with pytest.raises(ValueError, match=said):
            use()
    assert forecast_panel(runs["lstm"], Ragged.of([]), 2).shape == (0, 100, 2)


# ---- heads ----


@pytest.mark.parametrize("name", ["normal", "student", "negative-binomial"])
def test_heads_stay_in_bounds(name: Any):
    """Whatever a network says; a law of counts is as many times wider as its row's scale."""
    head = ScalarHead(4, name).double()
    law = head.requires_grad_(False)(torch.linspace(-1e3, 1e3, 400).double().view(1, 100, 4))
    if name == "negative-binomial":
        assert float(law.mean.min()) >= LEAST and float(law.dispersion.min()) >= LEAST
        hidden, scale = torch.randn(2, 5, 4).double(), torch.tensor([1.0, 100.0]).double()
        one, other = head(hidden), head(hidden, scale)
        torch.testing.assert_close(other.mean, one.mean * scale[:, None])
    else:
        assert float(law.scale.min()) >= LEAST
        assert bool(law.log_prob(law.mode()).isfinite().all())
    if name == "student":
        assert float(law.df.min()) >= 2


def test_configs_refuse_what_has_no_meaning():
    real, count = Space("real"), Space("count")
    for config, fields, said in (
        (gru(real), {"head": "negative-binomial"}, "is for count symbols, not real ones"),
        (gru(count), {"head": "student"}, "is for real symbols, not count ones"),
        (gru(Space("finite", 4)), {"head": "student"}, "is for real symbols, not finite ones"),
        (gru(real), {"tied": True}, "no embedding that could be tied"),
        (gru(real), {"space": Space("real", event_shape=(2,))}, "several parts"),
        (gru(real), {"features": -1}, "features must be"),
        (transformer(real), {"layout": "gpt2", "sinks": 0}, "plain llama layout"),
        (transformer(real), {"ahead": 2}, "plain llama layout"),
        (transformer(Space("finite", 4)), {"features": 2, "masked": True}, "plain llama layout"),
    ):
        with pytest.raises(ValueError, match=said):
            replace(config, **fields)
    assert CountCodec(Scaling()).space == count


def test_huge_and_tiny_numbers_are_only_scaled(runs):
    """Beyond what float32 holds."""
    data = MANY.before(HORIZON).select(torch.tensor([0]))
    for factor in (1e60, 1e-60):
        other = Ragged(data.values * factor, data.begin, data.end)
        paths = forecast_panel(runs["ar"], other, HORIZON, num_samples=3)
        wanted = factor * forecast_panel(runs["ar"], data, HORIZON, num_samples=3)
        torch.testing.assert_close(paths, wanted, rtol=FLOAT32, atol=0)
        assert forecast_panel(runs["lstm"], other, HORIZON, num_samples=3).isfinite().all()


def test_new_points_of_one_series_are_looked_at_alone():
    """However many the others have."""
    given = LSTM(horizon=HORIZON, steps=5, samples=20).fit(MANY.before(4).select(FEW), SEASON)
    every = MANY.select(FEW).last(4)
    some = replace(every, end=every.end - torch.tensor([3, 0]))
    _, medians, spreads = given.update(every)
    _, fewer, narrower = given.update(some)
    close = {"rtol": FLOAT32, "atol": 0.0}
    torch.testing.assert_close(fewer[1:], medians[4:], **close)
    torch.testing.assert_close(narrower[1:], spreads[4:], **close)
