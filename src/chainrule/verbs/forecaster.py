"""Forecaster: models over every series of a frame, with a status for each.

Shapes: N series, R of a window, H horizon.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.core.config import from_dict
from chainrule.core.noise import Noise
from chainrule.registry import FORECASTERS
from chainrule.series import frames
from chainrule.series.batch import Fitted, Model
from chainrule.series.check import Check
from chainrule.series.following import following
from chainrule.series.future import future_known
from chainrule.series.panel import Panel
from chainrule.series.stamps import write_times
from chainrule.series.surprise import surprise
from chainrule.series.windows import windows
from chainrule.verbs.display import Display, Silent
from chainrule.verbs.forecaster_parts import (
    in_deviations,
    last_points,
    law_columns,
    one_step_laws,
    refusals,
    spread_out,
    together,
)
from chainrule.verbs.neural_models import NEURAL, Neural

Names = str | Sequence[str]
LEVEL = (80.0, 95.0)
MODELS = {**FORECASTERS, **NEURAL}
LEAST = 4  # points that a window of the past has to learn from


class Forecaster:
    """Fit once on many series, then forecast, take in new rows, simulate, look for anomalies.

    Args:
        model: a name, or several: ``auto``, ``ar``, ``arima``, … (``registry.FORECASTERS``).
        horizon: the steps that are meant to be forecast: what auto and direct regression learn
            for. None: each has a default of its own.
        season: its length in periods; None: what the calendar tells (12 for months, …).
        policy: what is done about gaps: "fill", "split" or "refuse".
        id_col, time_col, target_col, known, freq: as ``series.frames.read`` takes them.
        options: fields of the model's own config, where there is but one model.

    Raises:
        ValueError: an unknown model or option, naming the nearest known one.
    """

    def __init__(
        self,
        model: Names = "auto",
        *,
        horizon: int | None = None,
        season: int | None = None,
        policy: str = "fill",
        id_col: str = "unique_id",
        time_col: str = "ds",
        target_col: str = "y",
        known: Sequence[str] = (),
        freq: str | None = None,
        **options: Any,
    ) -> None:
        self.models = made(model, options)
        self.horizon = None if horizon is None else checked_horizon(horizon)
        self.reading: dict[str, Any] = {
            "id_col": id_col, "time_col": time_col, "target_col": target_col,
            "known": tuple(known), "freq": freq, "season": season, "policy": policy,
        }  # fmt: skip
        self.fitted: dict[str, Fitted] = {}
        self.check: Check | None = None
        self.now: Panel | None = None  # the last point of every series
        self._data: Panel | None = None  # what it was fitted on
        self._usual: Tensor | None = None  # residuals of one step, for anomalies

    # ---- fit ----

    def fit(self, data: Any) -> Forecaster:
        """Learn a frame, array or file: pandas, polars, Arrow, NumPy, CSV, Parquet.

        Raises:
            ValueError: data that can't be read, or in which no series is left.
        """
        panel, check = self.read(data)
        check.require()
        self.check = check
        return self.fit_panel(panel)

    def read(self, data: Any) -> tuple[Panel, Check]:
        """The data as ``fit`` sees them, and what was found in them."""
        return frames.read(data, **self.reading)

    def fit_panel(self, panel: Panel, display: Display | None = None) -> Forecaster:
        """Learn what was read before; ``display`` is told of what takes long."""
        together(panel, self.models)
        data = panel.select(panel.ok).ragged()
        season, show = panel.calendar.season, display or Silent()

        def report(record: dict[str, Any]) -> None:
            show.working("training, steps", record["step"], None)

        fitted = {}
        for name, model in self._told(self.horizon).items():
            told = {"report": report} if isinstance(model, Neural) else {}
            fitted[name] = model.fit(data, season, **told)
            panel = refusals(panel, name, fitted[name])
        self.fitted, self._data, self._usual = fitted, panel, None
        self.now = last_points(panel)
        return self

    def _told(self, horizon: int | None) -> dict[str, Model]:
        """The models, told for how many steps where they ask."""
        out = {}
        for name, model in self.models.items():
            asks = any(f.name == "horizon" for f in fields(model))  # type: ignore[arg-type]
            if asks and horizon is not None:
                model = replace(model, horizon=horizon)  # type: ignore[type-var]
            out[name] = model
        return out

    def _at(self) -> Panel:
        if self.now is None:
            raise ValueError("this Forecaster has seen no data: call fit first")
        return self.now

    def _steps(self, horizon: int | None) -> int:
        asked = horizon if horizon is not None else self.horizon
        if asked is None:
            raise ValueError("how many steps? give a horizon, as in horizon=24")
        return checked_horizon(asked)

    def _future(self, future: Any, steps: int) -> Tensor | None:
        panel = self._at()
        if not panel.names:
            if future is not None:
                raise ValueError("future is given, but fit had no regressors: name them with known")
            return None
        if future is None:
            raise ValueError(
                f"the next {steps} steps of {', '.join(panel.names)} are needed: give future"
            )
        return torch.from_numpy(future_known(panel, future, steps)[panel.ok])

    # ---- use ----

    def predict(
        self, horizon: int | None = None, level: Sequence[float] = LEVEL, future: Any = None
    ) -> Any:
        """The next steps of every series, as the kind of frame that ``fit`` was given.

        Columns: id, time, then per model its median and ``<model>-lo-80``, ``<model>-hi-80``, …,
        then ``status``. A refused series has nan there.

        Args:
            level: coverage of the intervals in percent. future: the regressors there.

        Raises:
            ValueError: no horizon, a level out of bounds, regressors that are missing.
        """
        return frames.frame_of(self._at(), self.predicted(horizon, level, future))

    def predicted(
        self, horizon: int | None = None, level: Sequence[float] = LEVEL, future: Any = None
    ) -> dict[str, Any]:
        """The columns of ``predict``: arrays [N, H], and ``status`` [N]."""
        panel, steps = self._at(), self._steps(horizon)
        known = self._future(future, steps)
        columns: dict[str, Any] = {}
        for name, fitted in self.fitted.items():
            laws = law_columns(name, fitted.forecast(steps, known), level)
            columns |= {k: spread_out(v, panel.ok) for k, v in laws.items()}
        return {**columns, "status": panel.status}

    def update(self, rows: Any) -> Forecaster:
        """Take in new rows that follow the last ones, without fitting again: O(p) a point.

        Raises:
            ValueError: rows of an unknown series, or not the next ones, naming the first such.
        """
        panel = self._at()
        new = following(panel, rows, self.reading["policy"])
        data = new.select(panel.ok).ragged()
        self.fitted = {name: f.update(data)[0] for name, f in self.fitted.items()}
        self.now = last_points(new, panel)
        return self

    def simulate(
        self, horizon: int | None = None, num: int = 100, seed: int = 0, future: Any = None
    ) -> Any:
        """Sample paths: id, time, ``sample`` and a column a model. The same seed, the same paths.

        Raises:
            ValueError: no horizon, or a number of paths out of bounds.
        """
        panel, steps = self._at(), self._steps(horizon)
        if not 1 <= num <= 100_000:
            raise ValueError(f"num: 1 to 100,000 sample paths, not {num}")
        known, rows = self._future(future, steps), np.flatnonzero(panel.ok)
        noise = Noise.seeded(seed, [panel.ids[int(i)].as_py() for i in rows])
        columns: dict[str, Any] = {"sample": np.tile(np.arange(num).repeat(steps), len(rows))}
        for name, fitted in self.fitted.items():
            columns[name] = fitted.simulate(steps, num, noise, known).flatten().numpy()
        periods = np.tile(panel.future(steps)[rows], (1, num)).reshape(-1)
        return frames.frame_of(panel, columns, rows.repeat(num * steps), periods)

    def cross_validation(
        self,
        data: Any,
        horizon: int | None = None,
        windows: int = 5,
        step: int | None = None,
        level: Sequence[float] = LEVEL,
    ) -> Any:
        """Forecasts from several times of the past, each fitted on what was known then.

        Columns: id, time, ``cutoff``, the target, and the models' as in ``predict``. The oldest
        window comes first; a series that is too short for a window is not in it.

        Args:
            windows: how many. step: how far apart; None: a horizon.

        Raises:
            ValueError: no series is long enough for a single window.
        """
        panel, check = self.read(data)
        check.require()
        steps = self._steps(horizon)
        if not 1 <= windows <= 10_000:
            raise ValueError(f"windows: 1 to 10,000, not {windows}")
        parts = list(self.crossed(panel, steps, windows, step, level))
        if not parts:
            raise ValueError(
                f"{check.source}: no series is longer than {steps} steps of horizon and "
                f"{LEAST} to learn from: give a shorter horizon"
            )
        series = np.concatenate([row.repeat(steps) for row, _, _ in parts])
        periods = np.concatenate([period.reshape(-1) for _, period, _ in parts])
        before = np.concatenate([period[:, 0].repeat(steps) - 1 for _, period, _ in parts])
        columns: dict[str, Any] = {
            "cutoff": write_times(panel.calendar.stamps(before), panel.origin.time)
        }
        for name in parts[0][2]:
            columns[name] = np.concatenate([made_[name].reshape(-1) for _, _, made_ in parts])
        return frames.frame_of(panel, columns, series, periods)

    def crossed(
        self, panel: Panel, steps: int, count: int, step: int | None, level: Sequence[float]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], dict[str, NDArray[Any]]]]:
        """The windows of ``cross_validation``, the oldest first: numbers of series [R], periods
        [R, H] and columns [R, H]."""
        data, season = panel.ragged(), panel.calendar.season
        for window in reversed(list(windows(data, steps, count, step or steps, LEAST))):
            row = window.row.numpy()
            columns = {panel.origin.target_col: window.came.numpy()}
            for name, model in self._told(steps).items():
                fitted = model.fit(window.seen, season)
                columns |= law_columns(name, fitted.forecast(steps, window.future), level)
            first = (panel.first + panel.lens)[row] - window.back
            yield row, first[:, None] + np.arange(steps), columns

    def anomalies(self, rows: Any = None, bits: float = 10.0) -> Any:
        """How surprising every point is, given the points before it.

        Columns: id, time, the target, ``expected`` (the median of one step), ``surprise`` in bits
        and ``anomaly``: whether it has ``bits`` or more. A surprise of b bits or more happens by
        chance once in 2^b points; how far points usually miss tells what chance does.

        Args:
            rows: new ones that follow the last, which are not taken in; None: those of ``fit``,
                but for the first ones, which the model needs to begin.

        Raises:
            ValueError: more than one model, or the rows of ``fit`` of a Forecaster that was loaded.
        """
        if len(self.fitted) != 1:
            raise ValueError("anomalies: fit one model, as in Forecaster('auto')")
        (fitted,), panel = self.fitted.values(), self._at()
        if rows is not None:
            new = following(panel, rows, self.reading["policy"])
            data = new.select(panel.ok).ragged()
            known = self.usual()
            _, expected, deviation = fitted.update(data)
        else:
            if self._data is None:
                raise ValueError("a loaded Forecaster doesn't hold the rows of fit: give rows")
            new = self._data
            data, expected, deviation = one_step_laws(fitted, new.select(new.ok).ragged(), new)
            known = None
        values = data.packed().values
        off = in_deviations(values - expected, deviation)
        found = surprise(off, off if known is None else known).numpy()
        lens = data.lens.numpy()
        series = np.repeat(np.flatnonzero(new.ok | panel.ok if rows is None else panel.ok), lens)
        last = np.repeat((new.first + new.lens)[panel.ok], lens)
        place = np.arange(len(series)) - np.repeat(np.cumsum(lens), lens)
        columns = {
            panel.origin.target_col: values.numpy(),
            "expected": expected.numpy(),
            "surprise": found,
            "anomaly": found >= bits,
        }
        return frames.frame_of(panel, columns, series, last + place)

    def usual(self) -> Tensor:
        """Sizes of one-step residuals of the rows of ``fit``, in standard deviations: 4,096 at
        most, evenly many of all sizes."""
        if self._usual is None:
            self._usual = torch.zeros(0, dtype=torch.float64)
            if self._data is not None:
                (fitted,) = self.fitted.values()
                data = self._data.select(self._data.ok).ragged()
                after, expected, deviation = one_step_laws(fitted, data, self._data)
                size = in_deviations(after.packed().values - expected, deviation)
                size = size[size.isfinite()].abs().sort().values
                every = max(1, -(-len(size) // _KEPT))
                self._usual = size[every // 2 :: every].clone()
        return self._usual

    # ---- on disk ----

    def save(self, folder: str | Path) -> Path:
        """Write a folder that ``load`` reads: what is needed to forecast and to go on.

        Raises:
            ValueError: nothing was fitted, or the folder exists. OSError: it can't be written.
        """
        from chainrule.verbs.forecaster_files import save

        return save(self, self._at(), Path(folder))

    def restore(self, now: Panel, usual: Tensor) -> None:
        """What ``load`` read besides the models."""
        self.now, self._usual = now, usual

    @staticmethod
    def load(folder: str | Path) -> Forecaster:
        """Read what ``save`` wrote.

        Raises:
            ValueError: naming the file and what is wrong with it.
        """
        from chainrule.verbs.forecaster_files import load

        return load(Path(folder))


_KEPT = 4096


def made(model: Names, options: dict[str, Any]) -> dict[str, Model]:
    """Models by name.

    Raises:
        ValueError: an unknown name or option.
    """
    names = [model] if isinstance(model, str) else list(model)
    if not names:
        raise ValueError("name a model, as in model='auto'")
    if options and len(names) > 1:
        raise ValueError("options belong to one model: name one, or give none")
    out: dict[str, Model] = {}
    for name in names:
        if name not in MODELS:
            import difflib

            near = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.5)
            hint = f": did you mean {near[0]!r}?" if near else f"; known: {', '.join(MODELS)}"
            raise ValueError(f"unknown model {name!r}{hint}")
        given = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
        out[name] = from_dict(MODELS[name], given, f"model {name}")
    return out


def checked_horizon(horizon: int) -> int:
    """Raises ValueError: out of bounds."""
    if not 1 <= horizon <= 100_000:
        raise ValueError(f"horizon: 1 to 100,000 steps, not {horizon}")
    return int(horizon)
