"""Models that were fitted, and where every series of them stands: what a Forecaster holds.

Shapes: N series, H horizon, P points, F regressors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chainrule.series.batch import Fitted, Model, Ragged
from chainrule.series.check import Check, Policy
from chainrule.series.following import following
from chainrule.series.future import Ahead, future_known
from chainrule.series.panel import Panel
from chainrule.series.surprise import surprise
from chainrule.verbs.display import Display, Silent
from chainrule.verbs.forecaster_parts import (
    in_deviations,
    last_points,
    law_columns,
    refusals,
    spread_out,
    together,
)
from chainrule.verbs.neural_models import Neural

_KEPT = 4096


@dataclass(frozen=True, eq=False)
class Learned:
    """A value: what takes in new rows is a new one.

    Args:
        fitted: the models, by name. now: the last point of every series.
        data: what they were fitted on; None: it was not kept.
        sizes: of its one-step residuals, see ``calibrated``; None: not worked out yet.
    """

    fitted: dict[str, Fitted]
    now: Panel
    data: Panel | None = None
    sizes: Tensor | None = None

    def columns(self, steps: int, level: Sequence[float], known: Tensor | None) -> dict[str, Any]:
        """Those of ``Forecaster.predict``: arrays [N, H], and ``status`` [N]."""
        columns: dict[str, Any] = {}
        for name, fitted in self.fitted.items():
            laws = law_columns(name, fitted.forecast(steps, known), level)
            columns |= {k: spread_out(v, self.now.ok) for k, v in laws.items()}
        return {**columns, "status": self.now.status}

    def reached(self, ahead: Ahead | None) -> tuple[Learned, Tensor | None]:
        """Only the series whose regressors reach the horizon, and these regressors [n, H, F].

        Raises:
            ValueError: no series has what it needs.
        """
        if ahead is None:
            return self, None
        now = ahead.reached(self.now)
        if not now.ok.any():
            raise ValueError(ahead.lacks)
        out = self
        if ahead.lacks is not None:
            at = torch.from_numpy(np.flatnonzero(now.ok[self.now.ok]))
            fitted = {name: f.select(at) for name, f in self.fitted.items()}
            out = replace(self, now=now, fitted=fitted)
        return out, torch.from_numpy(ahead.known[now.ok])

    def updated(self, rows: Any, policy: Policy, strict: bool) -> tuple[Learned, Check]:
        """With the rows that follow (see ``series.following``), and what was found in them.
        Raises: as ``Forecaster.update``."""
        new = following(self.now, rows, policy, strict)
        data = new.panel.select(self.now.ok).ragged()
        fitted = {name: f.update(data)[0] for name, f in self.fitted.items()}
        return replace(self, fitted=fitted, now=last_points(new.panel, self.now)), new.check

    # ---- of one model ----

    def judged(self, rows: Any, policy: Policy, strict: bool) -> tuple[dict[str, Any], Any, Any]:
        """Values, medians of one step and surprises of points [P]; whose series and what periods
        they are. Of new rows only what was in them. Raises: as ``Forecaster.anomalies``."""
        (fitted,) = self.fitted.values()
        if rows is None:
            if self.data is None:
                raise ValueError("a loaded Forecaster doesn't hold the rows of fit: give rows")
            new, known, seen = self.data, None, None
            data, expected, deviation = self._one_step_laws(new)
        else:
            found, known = following(self.now, rows, policy, strict), self.calibrated().sizes
            new, seen = found.panel, found.seen
            data = new.select(self.now.ok).ragged()
            _, expected, deviation = fitted.update(data)
        values, lens = data.packed().values, data.lens.numpy()
        off = in_deviations(values - expected, deviation, expected)
        columns = {
            self.now.origin.target_col: values.numpy(),
            "expected": expected.numpy(),
            "surprise": surprise(off, off if known is None else known).numpy(),
        }
        ok = self.now.ok
        end = np.repeat((new.first + new.lens)[ok], lens)
        place = np.arange(len(values)) - np.repeat(np.cumsum(lens), lens)
        series, periods = np.repeat(np.flatnonzero(ok), lens), end + place
        if seen is None:
            return columns, series, periods
        return {k: v[seen] for k, v in columns.items()}, series[seen], periods[seen]

    def calibrated(self) -> Learned:
        """With the sizes of one-step residuals of the rows of ``fit``, in standard deviations:
        4,096 at most, evenly many of all sizes."""
        if self.sizes is not None or self.data is None:
            return self
        data, expected, deviation = self._one_step_laws(self.data)
        size = in_deviations(data.packed().values - expected, deviation, expected)
        size = size[size.isfinite()].abs().sort().values
        every = max(1, -(-len(size) // _KEPT))
        return replace(self, sizes=size[every // 2 :: every].clone())

    def _one_step_laws(self, panel: Panel) -> tuple[Ragged, Tensor, Tensor]:
        """Of the points that were fitted, but for the first: those points, and medians and
        standard deviations [P]."""
        (fitted,), ok = self.fitted.values(), self.now.ok
        data, season = panel.select(ok).ragged(), panel.season
        begin = torch.minimum(data.lens // 2, torch.tensor(max(2 * season + 2, 10)))
        head, rest = replace(data, end=data.begin + begin), data.after(begin)
        since = (self.now.first + self.now.lens - panel.first - panel.lens)[ok]
        _, expected, deviation = fitted.restart(head, rest.lens + torch.from_numpy(since)).update(
            rest
        )
        return rest, expected, deviation


def learn(models: Mapping[str, Model], panel: Panel, display: Display | None = None) -> Learned:
    """Fit models on the series that were not refused; ``display`` is told of what takes long.

    Raises:
        ValueError: series that a model can't take together.
    """
    together(panel, models)
    data, show = panel.select(panel.ok).ragged(), display or Silent()

    def report(record: dict[str, Any]) -> None:
        show.working("training, steps", record["step"], None)

    fitted = {}
    for name, model in models.items():
        told = {"report": report} if isinstance(model, Neural) else {}
        fitted[name] = model.fit(data, panel.season, **told)
        panel = refusals(panel, name, fitted[name])
    return Learned(fitted, last_points(panel), panel)


def next_known(panel: Panel, future: Any, steps: int) -> Ahead | None:
    """The regressors of the next steps; None: the models were fitted without any.

    Raises:
        ValueError: they are not given or can't be read, or fit had none.
    """
    if not panel.names:
        if future is not None:
            raise ValueError("future is given, but fit had no regressors: name them with known")
        return None
    if future is None:
        raise ValueError(
            f"the next {steps} steps of {', '.join(panel.names)} are needed: give future"
        )
    return future_known(panel, future, steps)
