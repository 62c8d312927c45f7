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
from chainrule.core.decoder import Run
from chainrule.core.noise import Noise
from chainrule.decoding.verify import Verify, consumed
from chainrule.decoding.warps import Warps
from chainrule.series.batch import Ragged
from chainrule.training.calibrate import calibrate
from chainrule.training.distributed import Alone
from chainrule.training.series_data import SeriesLessons, cut, future_season, with_season
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
        ValueError: a setting out of bounds, or series that are too short.
        TrainingFailed: it diverges.
    """
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
    data = with_season(data, season)
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
        ValueError: a setting out of bounds, an empty series, or no ``future`` where it is needed.
    """
    bounded("horizon", horizon, 1, 100_000)
    bounded("num_samples", num_samples, 1, PATHS)
    bounded("seed", seed, 0, 2**63 - 1)
    if not len(data):
        return torch.zeros(0, num_samples, horizon, dtype=torch.float64)
    if not bool((data.lens > 0).all()):
        raise ValueError(f"series {int((data.lens == 0).nonzero()[0])} has no points to go on from")
    season = int(artifact.recipe.get("season", 1))
    if "steps" in artifact.model.reads:
        if data.known is None:
            future, data = future_season(data, season, horizon), with_season(data, season)
        if future is None or tuple(future.shape[:2]) != (len(data), horizon):
            raise ValueError(f"what is known of the next {horizon} steps of each series is missing")
    recent = data.last(int(artifact.recipe.get("context", 2**31)))
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


@torch.no_grad()
def _paths(
    artifact: Artifact, data: Ragged, horizon: int, count: int, noise: Noise, future: Tensor | None
) -> Tensor:
    model, codec = artifact.model, artifact.any_codec
    if not isinstance(codec, SeriesCodec):
        raise ValueError("this run models text: chainrule generate goes on with it")
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
    noise, warp = noise.to(device), Warps.of(len(state.lens))
    x = model.predict(state)[:, -1:].sample(noise.at(state.pos(1)))
    run, decoder, drawn = Run(state, x, noise, warp), Verify(model), [x]
    for _ in range(horizon - 1):
        run, chunk = decoder.step(run)
        drawn.append(chunk.symbols)
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
