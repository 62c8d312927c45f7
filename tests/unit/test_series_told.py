"""What a network is told beside a series, wherever it is used; and numbers that aren't any."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chainrule.artifact import Artifact, load_artifact
from chainrule.core.model import Condition
from chainrule.series.batch import Ragged
from chainrule.training.series_data import harmonics
from chainrule.verbs.neural import fit_panel, forecast_panel
from chainrule.verbs.rollout import rollout
from chainrule.verbs.score import score
from tests.laws.tolerances import FLOAT32

SEASON, HORIZON, POINTS = 4, 3, 40
SMALL: dict[str, Any] = {"context": 8, "hidden": 8, "dim": 8, "steps": 10}
WAVE = 5 + 3 * np.sin(2 * np.pi * np.arange(POINTS) / SEASON)
DATA = Ragged.of([WAVE, 2 * WAVE])
KNOWN = torch.randn(2 * POINTS, 2, generator=torch.Generator().manual_seed(0))
TOLD = Ragged(DATA.values, DATA.begin, DATA.end, KNOWN)


@pytest.fixture(scope="module")
def runs() -> dict[str, Artifact]:
    """Told the season, regressors (as many numbers as a season of four has), and nothing."""
    made = {"season": (DATA, SEASON), "known": (TOLD, SEASON), "nothing": (DATA, 1)}
    return {
        name: fit_panel(data, HORIZON, season, **SMALL) for name, (data, season) in made.items()
    }


def test_a_run_says_what_it_was_told(runs, tmp_path: Path):
    assert {n: r.recipe["told"] for n, r in runs.items()} == {
        "season": "season",
        "known": "known",
        "nothing": None,
    }
    runs["season"].save_config(tmp_path)
    runs["season"].save_weights(tmp_path)
    assert score(load_artifact(tmp_path), WAVE).nats == score(runs["season"], WAVE).nats


def test_regressors_are_never_taken_for_a_season(runs):
    ahead = torch.zeros(2, HORIZON, 2)
    other = Ragged(DATA.values, DATA.begin, DATA.end, KNOWN[:, :1])
    assert forecast_panel(runs["known"], TOLD, HORIZON, future=ahead).isfinite().all()
    for run, data, future, said in (
        ("known", DATA, None, "was told 2 numbers of each step"),
        ("known", DATA, ahead, "was told 2 numbers of each step"),
        ("known", TOLD, None, "of the next 3, is missing"),
        ("known", TOLD, ahead[:, :2], "of the next 3, is missing"),
        ("known", other, ahead, "was told 2 numbers of each step"),
        ("known", TOLD, ahead * math.nan, "of the next 3 steps is not finite"),
        ("season", TOLD, ahead, "told the season and no regressors"),
    ):
        with pytest.raises(ValueError, match=said):
            forecast_panel(runs[run], data, HORIZON, future=future)


def test_a_score_is_told_the_season_too(runs):
    """As it was in training: without it another law would be scored."""
    run = runs["season"]
    scale = torch.tensor([np.abs(WAVE).mean()])
    x = torch.from_numpy(WAVE)[None].float() / scale.float()
    steps = harmonics(torch.arange(POINTS), SEASON)[None]
    found = {}
    for name, told in (("with", {"steps": steps}), ("without", {})):
        law = run.model(x, Condition(scale=scale, **told))
        found[name] = float(law.log_prob(x).sum().detach()) - POINTS * math.log(float(scale))
    nats = score(run, WAVE).nats
    assert abs(nats / found["with"] - 1) < 10 * FLOAT32 < abs(nats / found["without"] - 1)
    with pytest.raises(ValueError, match="told regressors of each step, and a score has none"):
        score(runs["known"], WAVE)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        *[("context", v, "recipe: context must be 1 to 100,000") for v in (0, -1, "x", None, True)],
        ("season", 1.5, "recipe: season must be 1 to 100,000"),
        ("season", 12, "a season of 12 is not that of the weights"),
    ],
)
def test_recipes_are_not_believed(runs, setting: str, value: Any, said: str):
    changed = {**runs["season"].recipe, setting: value}
    with pytest.raises(ValueError, match=said):
        forecast_panel(replace(runs["season"], recipe=changed), DATA, HORIZON)


def test_rollouts_tell_nothing(runs, tmp_path: Path):
    for name in runs:
        runs[name].save_config(tmp_path / name)
        runs[name].save_weights(tmp_path / name)
    np.savetxt(tmp_path / "wave.txt", WAVE)
    with pytest.raises(ValueError, match="reads scale, steps, and rollouts tell nothing"):
        rollout(runs["season"], tmp_path / "wave.txt", oracle=tmp_path / "nothing", length=8)


def test_what_is_not_finite_is_named(runs):
    for bad in (math.nan, math.inf):
        gap = Ragged.of([WAVE, [*WAVE[:7], bad, *WAVE[8:]]])
        with pytest.raises(ValueError, match="point 7 of series 1 is not finite: fill the gap"):
            fit_panel(gap, HORIZON, SEASON, **SMALL)
        with pytest.raises(ValueError, match="point 7 of series 1 is not finite: fill the gap"):
            forecast_panel(runs["nothing"], gap, HORIZON)
        known = KNOWN.clone()
        known[POINTS + 7, 1] = bad
        with pytest.raises(ValueError, match="point 7 of series 1 is not finite"):
            fit_panel(Ragged(DATA.values, DATA.begin, DATA.end, known), HORIZON, **SMALL)
        outside = Ragged(gap.values, gap.begin[:1], gap.end[:1])
        assert forecast_panel(runs["nothing"], outside, HORIZON).isfinite().all()
