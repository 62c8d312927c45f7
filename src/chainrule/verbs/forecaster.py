"""Forecaster: models over every series of a frame, with a status for each.

Shapes: N series, R of a window, H horizon.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.core.config import from_dict
from chainrule.core.noise import Noise
from chainrule.registry import FORECASTERS
from chainrule.series import frames
from chainrule.series.batch import Model
from chainrule.series.check import Check, Policy
from chainrule.series.layout import Names as Columns
from chainrule.series.panel import Panel
from chainrule.series.stamps import write_times
from chainrule.series.windows import windows
from chainrule.verbs.forecaster_parts import (
    checked_horizon,
    checked_levels,
    column_names,
    distinct,
    for_horizon,
    law_columns,
    whole,
)
from chainrule.verbs.learned import Learned, learn, next_known
from chainrule.verbs.neural_models import NEURAL

Names = str | Sequence[str]
LEVEL = (80.0, 95.0)
MODELS = {**FORECASTERS, **NEURAL}
LEAST = 4  # points that a window of the past has to learn from
_MOST = 10**8  # numbers of sample paths in one frame


class Forecaster:
    """Fit once on many series, then forecast, take in new rows, simulate, look for anomalies.

    Args:
        model: a name, or several: ``auto``, ``ar``, ``arima``, … (``registry.FORECASTERS``).
        horizon: the steps that are meant to be forecast: what auto and direct regression learn
            for. None: each has a default of its own.
        season: its length in periods; None: what the calendar tells (12 for months, …).
        policy: gaps are filled by a line ("fill"), or cut a series where they are long ("split"),
            or a series with one is refused ("refuse").
        id_col: the column that tells series apart; it may lack where there is but one.
        time_col: the column of dates, times or step numbers. target_col: that of the values.
        known: columns that are known of the steps to come too: regressors.
        freq: "h", "15min", "D", "W", "MS", …: the mean of each period is taken; None: as the
            stamps tell.
        options: settings of the model, where there is but one, as in ``order=24``: listed in
            docs/forecast.md under "Which model", explained by ``help`` of its class, as in
            ``help(chainrule.registry.FORECASTERS["ar"])``.

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
        known: Names = (),
        freq: str | None = None,
        **options: Any,
    ) -> None:
        self.models = made(model, options)
        self.horizon = None if horizon is None else checked_horizon(horizon)
        self.reading: dict[str, Any] = {
            "id_col": id_col, "time_col": time_col, "target_col": target_col,
            "known": (known,) if isinstance(known, str) else tuple(known),
            "freq": freq, "season": season, "policy": policy,
        }  # fmt: skip
        Columns(id_col, time_col, target_col, self.reading["known"]).require_distinct()
        self.check: Check | None = None
        self.learned: Learned | None = None

    # ---- fit ----

    def fit(self, data: Any) -> Forecaster:
        """Learn a frame, array or file: pandas, polars, Arrow, NumPy, CSV, Parquet.

        Raises:
            ValueError: data that can't be read, or in which no series is left.
        """
        panel, check = frames.read(data, **self.reading)
        check.require()
        self.learned = learn(for_horizon(self.models, self.horizon), panel)
        self.check = check
        return self

    def _at(self) -> Learned:
        if self.learned is None:
            raise ValueError("this Forecaster has seen no data: call fit first")
        return self.learned

    @property
    def _policy(self) -> tuple[Policy, bool]:
        """What is done about gaps in new rows, and whether the stamps tell the frequency."""
        return self.reading["policy"], self.reading["freq"] is None

    def _steps(self, horizon: int | None) -> int:
        asked = horizon if horizon is not None else self.horizon
        if asked is None:
            raise ValueError("how many steps? give a horizon, as in horizon=24")
        return checked_horizon(asked)

    # ---- use ----

    def predict(
        self, horizon: int | None = None, level: Sequence[float] = LEVEL, future: Any = None
    ) -> Any:
        """The next steps of every series, as the kind of frame that ``fit`` was given.

        Columns: id, time, then per model its median and ``<model>-lo-80``, ``<model>-hi-80``, …,
        then ``status``. A refused series has nan there, and so has one whose regressors don't
        reach the horizon.

        Args:
            level: coverage of the intervals in percent. future: the regressors there.

        Raises:
            ValueError: no horizon, a level out of bounds, regressors that all series lack.
        """
        learned, steps, levels = self._at(), self._steps(horizon), checked_levels(level)
        names = [c for model in learned.fitted for c in column_names(model, levels)]
        distinct(learned.now, [*names, "status"])
        learned, known = learned.reached(next_known(learned.now, future, steps))
        return frames.frame_of(learned.now, learned.columns(steps, levels, known))

    def update(self, rows: Any) -> Forecaster:
        """Take in rows that come after the last ones, without fitting again: O(p) a point.

        The policy is that of ``fit``: with "fill" what is missing since the last point lies on a
        straight line. Series without new points stay where they are; ``check`` says what was done.

        Raises:
            ValueError: rows of an unknown series, rows of before, or what the policy refuses,
                naming the first such; nothing is taken in then.
        """
        self.learned, self.check = self._at().updated(rows, *self._policy)
        return self

    def simulate(
        self, horizon: int | None = None, num: int = 100, seed: int = 0, future: Any = None
    ) -> Any:
        """Sample paths: id, time, ``sample`` and a column a model. The same seed, the same paths.

        Raises:
            ValueError: no horizon, or a number of paths or numbers in all that is out of bounds.
        """
        learned, steps = self._at(), self._steps(horizon)
        num = whole("num", num, 100_000, "sample paths")
        distinct(learned.now, ["sample", *learned.fitted])
        learned, known = learned.reached(next_known(learned.now, future, steps))
        panel, rows = learned.now, np.flatnonzero(learned.now.ok)
        if len(rows) * num * steps > _MOST:
            raise ValueError(
                f"num: {num:,} paths of {steps:,} steps of {len(rows):,} series are more than "
                f"{_MOST:,} numbers: take fewer at a time"
            )
        noise = Noise.seeded(seed, [panel.ids[int(i)].as_py() for i in rows])
        columns: dict[str, Any] = {"sample": np.tile(np.arange(num).repeat(steps), len(rows))}
        for name, fitted in learned.fitted.items():
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
            ValueError: settings out of bounds, or no series is long enough for a single window.
        """
        steps, levels = self._steps(horizon), checked_levels(level)
        count = whole("windows", windows, 10_000)
        apart = steps if step is None else whole("step", step, 10_000)
        panel, check = frames.read(data, **self.reading)
        check.require()
        names = [c for model in self.models for c in column_names(model, levels)]
        distinct(panel, ["cutoff", panel.origin.target_col, *names])
        parts = list(self._windows(panel, steps, count, apart, levels))
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

    def _windows(
        self, panel: Panel, steps: int, count: int, step: int, level: Sequence[float]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], dict[str, NDArray[Any]]]]:
        """The windows of ``cross_validation``, the oldest first: numbers of series [R], periods
        [R, H] and columns [R, H]."""
        data, season = panel.ragged(), panel.season
        for window in reversed(list(windows(data, steps, count, step, LEAST))):
            row = window.row.numpy()
            columns = {panel.origin.target_col: window.came.numpy()}
            for name, model in for_horizon(self.models, steps).items():
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
        learned = self._at()
        if len(learned.fitted) != 1:
            raise ValueError("anomalies: fit one model, as in Forecaster('auto')")
        distinct(learned.now, [learned.now.origin.target_col, "expected", "surprise", "anomaly"])
        if rows is not None:
            self.learned = learned = learned.calibrated()
        columns, series, periods = learned.judged(rows, *self._policy)
        columns["anomaly"] = columns["surprise"] >= bits
        return frames.frame_of(learned.now, columns, series, periods)

    # ---- on disk ----

    def save(self, folder: str | Path) -> Path:
        """Write a folder that ``load`` reads: what is needed to forecast and to go on.

        Raises:
            ValueError: nothing was fitted, or the folder exists. OSError: it can't be written.
        """
        from chainrule.verbs.forecaster_files import save

        return save(self, self._at(), Path(folder))

    @staticmethod
    def load(folder: str | Path) -> Forecaster:
        """Read what ``save`` wrote.

        Raises:
            ValueError: naming the file and what is wrong with it.
        """
        from chainrule.verbs.forecaster_files import load

        return load(Path(folder))


def made(model: Names, options: dict[str, Any]) -> dict[str, Model]:
    """Models by name.

    Raises:
        ValueError: an unknown name or option.
    """
    names = [model] if isinstance(model, str) else list(model)
    if not names:
        raise ValueError("name a model, as in model='auto'")
    if options and len(names) > 1:
        said = ", ".join(options)
        raise ValueError(f"{said}: settings belong to one model: name one, or leave that out")
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
