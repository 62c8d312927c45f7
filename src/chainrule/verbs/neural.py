"""One model for many series: fit it, and draw what may come next.

Shapes: N series, S sample paths, H horizon, F features of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chainrule import registry
from chainrule.artifact import Artifact
from chainrule.codecs.series import BinCodec, RealCodec, Scaling, SeriesCodec
from chainrule.core.config import bounded, from_dict, to_dict
from chainrule.core.noise import Noise
from chainrule.decoding.verify import consumed
from chainrule.series.batch import Ragged
from chainrule.training.calibrate import calibrate
from chainrule.training.distributed import Alone
from chainrule.training.series_data import (
    HARMONICS,
    SeriesLessons,
    cut,
    future_season,
    with_season,
)
from chainrule.training.trainer import TrainConfig, Trainer
from chainrule.verbs.choosing import seconds_of

SEASONS = 3  # in a context, and no less than two horizons
BATCH, LR = 64, 3e-3
BINS, SEEN = 512, 32  # by quantile, of the values in so many batches
PATHS = 2**20  # of one series, at most
_ROWS = 4096  # paths drawn at a time
Report = Callable[[dict[str, Any]], None]


def fit_panel(
    data: Ragged,
    horizon: int,
    season: int = 1,
    *,
    model: str = "lstm",
    codec: str = "real",
    size: str = "tiny",
    context: int | None = None,
    steps: int | None = None,
    time: str | float = "3m",
    seed: int = 0,
    hold_out: bool = True,
    folder: Path | None = None,
    report: Report | None = None,
    **fields: Any,
) -> Artifact:
    """Learn all series together, in windows of a context and the horizon.

    Args:
        data: with ``known``, what is known of every step, near one in size; without it, and with a
            season, the place in the season is told.
        model, codec: names of ``registry.SERIES_RECIPES`` and ``SERIES_CODECS``.
        context: points that a forecast looks at; None: three seasons, or two horizons.
        steps, time: of training; steps go before time.
        hold_out: the last horizon of each series is checked on, and the weights that are best there
            are kept; else it is learned too.
        folder: of checkpoints, to go on from with the same ``steps``; report: takes the records of
            metrics.jsonl.
        fields: of the model's config, such as ``head``, ``hidden`` or ``dropout``.

    Raises:
        ValueError: a setting out of bounds, series too short, or a number that isn't finite.
        TrainingFailed: it diverges.
    """
    _finite(data)
    bounded("horizon", horizon, 1, 100_000)
    bounded("season", season, 1, 100_000)
    context = max(SEASONS * season, 2 * horizon) if context is None else context
    bounded("context", context, 1, 100_000)
    for kind, name, known in (
        ("model", model, registry.SERIES_RECIPES),
        ("codec", codec, registry.SERIES_CODECS),
    ):
        if name not in known:
            raise ValueError(f"{kind} {name!r} is not one of {', '.join(known)}")
    recipe: dict[str, Any] = {"name": model, "size": size, "seed": seed}
    recipe |= {"horizon": horizon, "season": season, "context": context}
    told, data = data.known is None, with_season(data, season)
    recipe["told"] = None if data.known is None else "season" if told else "known"
    training = TrainConfig(
        steps or 1, BATCH, context + horizon, LR, seed=seed, threads=torch.get_num_threads()
    )
    scaled = SeriesLessons(data, RealCodec(Scaling()), frozenset(), horizon, context, hold_out)
    made = _codec(codec, scaled, training)
    config = registry.SERIES_RECIPES[model](made.space, size)
    usual = {
        "features": 0 if data.known is None else data.known.shape[1],
        "context": context + horizon + 1,
    }
    usual = {name: value for name, value in usual.items() if hasattr(config, name)}
    torch.manual_seed(seed)
    given = {**to_dict(config), **usual, **fields}
    net = registry.built(from_dict(type(config), given, f"fields of {model}"))
    if not net.by_gradient:
        series = (data.values[a:b].numpy() for a, b in zip(data.begin, data.end, strict=True))
        net.estimate(made.encode(x).symbols for x in series)
        return Artifact(net.eval(), made, recipe)
    lessons = SeriesLessons(data, made, net.reads, horizon, context, hold_out)
    company = Alone(torch.device("cuda", 0) if torch.cuda.is_available() else None)
    if steps is None:
        training = calibrate(net, lessons, training, seconds_of(time), company)
    trainer = Trainer(net, lessons, training, company)
    if folder is not None:
        trainer.resume(folder, _quiet)
    trainer.run(folder, report or _quiet, _quiet)
    net.load_state_dict(trainer.best)
    at = trainer.progress
    results = {"steps": at.step, "best_step": at.best_step, "seconds": round(at.seconds, 1)}
    if lessons.holds_out:
        results["held_out_bits_per_point"] = at.best
    return Artifact(net.eval(), made, {**recipe, "training": to_dict(training)}, results)


def forecast_panel(
    artifact: Artifact,
    data: Ragged,
    horizon: int,
    *,
    num_samples: int = 100,
    seed: int = 0,
    future: Tensor | None = None,
    ids: Sequence[int] | None = None,
) -> Tensor:
    """Sample paths float64 [N, S, H], by ancestral sampling.

    A path depends on its series, the seed, its number and the series' id, and, up to rounding, on
    no other series.

    Args:
        future: [N, H, F], where the model was told what is known of each step.
        ids: of the series; by default 0 … N-1.

    Raises:
        ValueError: a setting out of bounds, a series that is empty or has a number that isn't
            finite, or regressors that are not those that were learned.
    """
    _finite(data)
    bounded("horizon", horizon, 1, 100_000)
    bounded("num_samples", num_samples, 1, PATHS)
    bounded("seed", seed, 0, 2**63 - 1)
    if not isinstance(artifact.any_codec, SeriesCodec):
        raise ValueError("this run models text: chainrule generate goes on with it")
    if not len(data):
        return torch.zeros(0, num_samples, horizon, dtype=torch.float64)
    if not bool((data.lens > 0).all()):
        raise ValueError(f"series {int((data.lens == 0).nonzero()[0])} has no points to go on from")
    data, future = _told(artifact, data, horizon, future)
    recent = data.last(setting(artifact, "context")) if "context" in artifact.recipe else data
    ids = range(len(data)) if ids is None else ids
    many = max(1, _ROWS // num_samples)
    parts = []
    for first in range(0, len(data), many):
        rows = torch.arange(first, min(first + many, len(data)))
        ahead = None if future is None else future[rows]
        keys = [ids[row] * PATHS + path for row in rows.tolist() for path in range(num_samples)]
        noise = Noise.seeded(seed, keys)
        parts.append(_paths(artifact, recent.select(rows), horizon, num_samples, noise, ahead))
    return torch.cat(parts)


def _told(
    artifact: Artifact, data: Ragged, horizon: int, future: Tensor | None
) -> tuple[Ragged, Tensor | None]:
    """With what the run was told of steps: the season, or regressors as they are given."""
    if "steps" not in artifact.model.reads:
        return data, None
    wide = artifact.model.config.features
    if season := season_told(artifact):
        if data.known is not None:
            raise ValueError("this run was told the season and no regressors: leave them out")
        return with_season(data, season), future_season(data, season, horizon)
    there = future is not None and future.shape == (len(data), horizon, wide)
    if data.known is None or data.known.shape[1] != wide or not there:
        raise ValueError(
            f"this run was told {wide} numbers of each step: what is known of the steps of each "
            f"series, or of the next {horizon}, is missing"
        )
    if future is not None and not bool(future.isfinite().all()):
        raise ValueError(f"what is known of the next {horizon} steps is not finite everywhere")
    return data, future


def season_told(artifact: Artifact) -> int | None:
    """The season whose places are what a run reads of steps; None: it reads something else.

    Raises:
        ValueError: a recipe whose season isn't that of the weights.
    """
    if artifact.recipe.get("told") != "season":
        return None
    season, wide = setting(artifact, "season"), artifact.outline.config.features
    if 2 * min(HARMONICS, season // 2) != wide:
        where = artifact.path or "this run"
        raise ValueError(f"{where}: recipe: a season of {season} is not that of the weights")
    return season


def setting(artifact: Artifact, name: str) -> int:
    """The context or the season that a run was trained with.

    Raises:
        ValueError: its recipe names none that can be.
    """
    value = artifact.recipe.get(name)
    if type(value) is not int or not 1 <= value <= 100_000:
        where = artifact.path or "this run"
        raise ValueError(
            f"{where}: recipe: {name} must be 1 to 100,000, not {value!r}: fit it anew"
        )
    return value


def _finite(data: Ragged) -> None:
    """Raises ValueError for a point, or what is known of it, that is nan or infinite."""
    found = data.packed()
    fine = found.values.isfinite()
    if found.known is not None:
        fine = fine & found.known.isfinite().all(1)
    if not bool(fine.all()):
        at = int((~fine).nonzero()[0])
        row = int(torch.searchsorted(found.end, at, right=True))
        raise ValueError(
            f"point {at - int(found.begin[row])} of series {row} is not finite: fill the gap, or "
            "leave the series out"
        )


@torch.no_grad()
def _paths(
    artifact: Artifact, data: Ragged, horizon: int, count: int, noise: Noise, future: Tensor | None
) -> Tensor:
    model, codec = artifact.model, artifact.any_codec
    assert isinstance(codec, SeriesCodec)
    device = next(model.parameters()).device
    begin, end = data.begin.numpy(), data.end.numpy()
    found = cut(data, begin, end, end - begin, codec, model.reads)
    cond = found.cond
    if cond is not None and future is not None and cond.steps is not None:
        steps = torch.cat([cond.steps, torch.zeros_like(future)], 1).to(cond.steps)
        at = data.lens[:, None] + torch.arange(horizon)
        steps[torch.arange(len(data))[:, None], at] = future.to(steps)
        cond = replace(cond, steps=steps)
    prompts = [x[:n].to(device) for x, n in zip(found.x, data.lens.tolist(), strict=True)]
    state = consumed(model, prompts, None if cond is None else cond.to(device))
    state = state.select([row for row in range(len(data)) for _ in range(count)])
    drawn: list[Tensor] = []
    noise = noise.to(device)
    for step in range(horizon):
        state = model.extend(state, drawn[-1]) if step else state
        drawn.append(model.predict(state)[:, -1:].sample(noise.at(state.pos(1))))
    symbols = torch.cat(drawn, 1).cpu().numpy()
    every = (np.repeat(t, count, 0) for t in (found.centre, found.scale))
    values: Tensor = torch.from_numpy(codec.to_values(symbols, *every))
    return values.view(len(data), count, horizon)


def _codec(name: str, scaled: SeriesLessons, training: TrainConfig) -> SeriesCodec:
    """Every series has its own scale; bins are fitted to windows as they are drawn."""
    if name != "bins":
        return registry.SERIES_CODECS[name].fitted(np.zeros(0), Scaling())
    batches = [scaled.batch(training, number)[0] for number in range(SEEN)]
    z = [b.x[b.weight > 0] if b.weight is not None else b.x.flatten() for b in batches]
    return BinCodec.fitted(torch.cat(z).double().numpy(), Scaling(), BINS, "quantile")


def _quiet(told: Any) -> None:
    pass
