"""AR(p): least squares by hand, its score, and a run of numbers under every verb that has one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule.artifact import Artifact, load_artifact
from chainrule.codecs.series import RealCodec, Scaling
from chainrule.core.objective import Batch
from chainrule.core.space import Space
from chainrule.models.linear import AR, FLAT, ARConfig
from chainrule.series.batch import Ragged
from chainrule.verbs.neural import forecast_panel
from chainrule.verbs.rollout import rollout
from chainrule.verbs.score import score
from tests.cli.conftest import type_command
from tests.laws.tolerances import CLOSED_FORM, FLOAT32, FLOAT64

PHI, CONSTANT, SCALE = [0.6, -0.3, 0.2], 4.0, 1.5


def simulated(count: int, seed: int) -> np.ndarray:
    """An AR(3), after it has forgotten where it began."""
    noise, x = np.random.default_rng(seed).normal(0, SCALE, count + 100), [0.0] * 3
    for e in noise:
        x.append(CONSTANT + np.dot(PHI, x[:-4:-1]) + e)
    return np.array(x[-count:])


def fitted(series, order: int = 3) -> AR:
    model = AR(ARConfig(Space("real"), order)).double().eval()
    model.estimate(series)
    return model


def least_squares(series, order: int) -> tuple[np.ndarray, float]:
    """Constant and coefficients, lag 1 first, and the deviation, by numpy."""
    rows = [(1.0, *x[t - order : t][::-1], x[t]) for x in series for t in range(order, len(x))]
    a, y = np.array(rows)[:, :-1], np.array(rows)[:, -1]
    found = np.linalg.lstsq(a, y, rcond=None)[0]
    return found, float(np.sqrt(np.mean((y - a @ found) ** 2)))


def close(got, wanted, rtol: float = FLOAT64) -> None:
    np.testing.assert_allclose(got, wanted, rtol=rtol)


def deviation_of(model: AR) -> float:
    return math.exp(model.log_scale.item())


def held_to(model: AR, wanted: tuple[np.ndarray, float]) -> None:
    close(np.r_[model.constant.item(), model.phi.detach()], wanted[0])
    close(deviation_of(model), wanted[1])


def test_one_series_and_many():
    """Pooled; a series that is too short adds no equation, and still moves the mean."""
    series = [simulated(n, seed) for seed, n in enumerate((80, 300, 2, 41))]
    for part in (series[:1], series):
        model = fitted(part)
        held_to(model, least_squares(part, 3))
        close(model.before.item(), np.concatenate(part).mean())
    model = fitted([simulated(200_000, 9)])
    close(model.phi.detach(), PHI, CLOSED_FORM)


def test_batches_are_rows_of_series():
    series = [simulated(n, n) for n in (30, 50)]
    x, weight = torch.zeros(2, 50).double(), torch.zeros(2, 50)
    for row, values in enumerate(series):
        x[row, : len(values)], weight[row, : len(values)] = torch.from_numpy(values), 1
    batch = Batch(x, (30, 50), weight=weight)
    held_to(fitted([batch]), least_squares(series, 3))
    weight[1, 20:] = 0  # told, and no target
    held_to(fitted([batch]), least_squares([series[0], series[1][:20]], 3))


def test_the_score_is_the_likelihood_behind_the_mean():
    x = simulated(40, 3)
    model = fitted([x], 5)
    phi, mean, scale = model.phi.detach().numpy(), x.mean(), deviation_of(model)
    past, total = np.r_[np.full(5, mean), x], 0.0
    for t in range(40):
        loc = model.constant.item() + phi @ past[t : t + 5][::-1]
        z = (x[t] - loc) / scale
        total -= z * z / 2 + math.log(scale) + math.log(2 * math.pi) / 2
    close(model(torch.from_numpy(x)[None]).log_prob(torch.from_numpy(x)[None]).sum().item(), total)


def test_what_has_no_noise_keeps_a_density():
    flat = fitted([np.full(20, 5.0)])
    close(deviation_of(flat), FLAT * 5)
    x = torch.full((1, 9), 5.0).double()
    close(flat(x).loc.detach(), x)
    close(deviation_of(fitted([np.zeros(20)])), FLAT)


def test_wrong_input():
    for series, said in (
        ([np.zeros(3)], "more than 3 points"),
        ([], "more than 3 points"),
        ([np.array([1.0, math.nan] * 5)], "finite numbers"),
    ):
        with pytest.raises(ValueError, match=said):
            fitted(series)
    for config, said in (
        ((Space("finite", 5),), "models real numbers: give it a series, not text"),
        ((Space("real", event_shape=(2,)),), "models real numbers"),
        ((Space("real"), 0), "order must be"),
    ):
        with pytest.raises(ValueError, match=said):
            ARConfig(*config)


# ---- as a run ----


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two runs, ``small`` and ``large``, of the column y of series.csv."""
    folder, x = tmp_path_factory.mktemp("series"), simulated(600, 5)
    lines = ["day,y", *(f"{day},{value!r}" for day, value in enumerate(x.tolist()))]
    (folder / "series.csv").write_text("\n".join(lines) + "\n")
    (folder / "series.txt").write_text("\n".join(map(repr, x.tolist())))
    codec = RealCodec.fit([x])
    for name, order in (("small", 1), ("large", 3)):
        model = AR(ARConfig(codec.space, order)).eval()
        model.estimate([codec.encode(x).symbols])
        artifact = Artifact(model, codec, {"name": "ar"})
        artifact.save_config(folder / name)
        artifact.save_weights(folder / name)
    return folder


def test_a_run_is_loaded_and_scored_in_its_own_units(runs):
    x, artifact = simulated(600, 5), load_artifact(runs / "large")
    found = score(artifact, x)
    told = fitted([x])
    with torch.no_grad():
        wanted = told(torch.from_numpy(x)[None]).log_prob(torch.from_numpy(x)[None])[0]
    assert abs(found.nats / wanted.sum().item() - 1) < FLOAT32
    close(found.per_symbol, wanted, 1e2 * FLOAT32)
    assert (found.kind, found.unit, found.units) == ("exact", "point", 600)
    close(found.bits_per_unit, -sum(found.per_symbol) / math.log(2) / 600)
    assert score(artifact, (runs / "series.txt").read_text()).nats == found.nats
    assert "ar over real numbers" in repr(cr.load(runs / "large"))


def test_paths_follow_the_law_of_the_process(runs):
    """Mean and deviation of what comes next, beside their closed forms."""
    x, artifact = simulated(600, 5), load_artifact(runs / "large")
    paths = forecast_panel(artifact, Ragged.of([x]), 6, num_samples=20_000, seed=1)[0].numpy()
    model, past, effects = fitted([x]), x.tolist(), [1.0]
    phi = model.phi.detach().numpy()
    for _ in range(6):
        past.append(model.constant.item() + phi @ past[:-4:-1])
        recent = effects[:-4:-1]
        effects.append(float(phi[: len(recent)] @ recent))
    deviation = deviation_of(model) * np.sqrt(np.cumsum(np.square(effects[:6])))
    assert paths.shape == (20_000, 6)
    np.testing.assert_allclose(paths.mean(0), past[-6:], rtol=CLOSED_FORM)
    np.testing.assert_allclose(paths.std(0), deviation, rtol=CLOSED_FORM)


def test_rollout_reports_on_a_column(runs):
    small = load_artifact(runs / "small")
    report = rollout(
        small, runs / "series.csv", column="y", oracle=runs / "large", length=32, samples=64
    )
    assert report.stretches[-1].error > 0
    assert math.isfinite(report.stretches[-1].excess)
    words = ("--oracle", runs / "large", "--length", 32, "--samples", 64, "--column", "y")
    typed = type_command(
        "evaluate", "--rollout", runs / "small", runs / "series.csv", *words, "--json"
    )
    assert typed.json["stretches"] == report.to_dict()["stretches"]
    other = Artifact(small.model, RealCodec(Scaling()))
    with pytest.raises(ValueError, match="other symbols"):
        rollout(other, runs / "series.txt", oracle=runs / "large", length=32, samples=64)


def test_score_as_a_command(runs):
    typed = type_command("score", runs / "large", runs / "series.txt", "--json")
    assert (typed.code, typed.json[0]["unit"], typed.json[0]["units"]) == (0, "point", 600)
    typed = type_command("generate", runs / "large", "The ")
    assert (typed.code, "models numbers" in typed.err) == (2, True)


def test_verbs_of_text_say_so(runs):
    run = cr.load(runs / "large")
    for use in (
        lambda: run.generate("The "),
        lambda: run.next("The "),
        lambda: run.encode("The "),
        lambda: run.infill("a _ b"),
    ):
        with pytest.raises(ValueError, match="models numbers"):
            use()
    with pytest.raises(ValueError, match="no number"):
        run.score("some text\nof two lines")
