"""backtest: how well models would have forecast the past, refitted at every time of it.

Shapes: N series, H horizon, M models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chainrule.series import frames, metrics
from chainrule.series.baselines import Naive, SeasonalNaive
from chainrule.series.batch import Model
from chainrule.series.check import Check
from chainrule.series.panel import Panel
from chainrule.series.windows import windows as windows_of
from chainrule.verbs import series_report
from chainrule.verbs.display import Display, Silent
from chainrule.verbs.forecaster import LEAST, LEVEL, Forecaster, Names
from chainrule.verbs.forecaster_parts import (
    checked_horizon,
    checked_levels,
    for_horizon,
    for_time,
    whole,
)
from chainrule.verbs.places import places
from chainrule.verbs.rolling import CHUNK, Errors, Example, Tally, candidates, ranked

MODELS = ("seasonal-naive", "ar", "regression", "arima", "theta", "auto")
_NAIVE, _NAIVE2 = "/seasonal-naive", "/naive2"  # what others are measured by; no model's names


@dataclass(frozen=True)
class Scores:
    """How well one model did. None stands where there is no number, as for constant series.

    Args:
        mase, smape (0 … 200), owa (against Naive2), wql, crps (in the unit of MASE), msis (95 %):
            means over all forecasts, see ``chainrule.series.metrics``.
        coverage, coverage_se: the share of what came that lay in the interval of every level, as
            in "80", and its standard error over forecasts, as if none knew of another; None where
            there is but one.
        relative_mase, relative_wql: over those of seasonal naive.
        behind, behind_se: by how many percent its MASE is above the best model's, and the standard
            error of that, over series.
        mase_by_step: [H]. coverage_by_step: [H] of every level.
        fit_s, forecast_s: seconds in all.
    """

    name: str
    mase: float | None
    smape: float | None
    owa: float | None
    wql: float | None
    crps: float | None
    msis: float | None
    coverage: dict[str, float]
    coverage_se: dict[str, float | None]
    relative_mase: float | None
    relative_wql: float | None
    behind: float | None
    behind_se: float | None
    mase_by_step: tuple[float | None, ...] = field(repr=False)
    coverage_by_step: dict[str, tuple[float, ...]] = field(repr=False)
    fit_s: float
    forecast_s: float


@dataclass(frozen=True, repr=False)
class Backtest:
    """Models side by side over windows of the past; ``print`` shows the table and the verdict.

    Args:
        windows: how many there were; step: how far they are apart, in periods.
        level: of the intervals, in percent.
        series: how many took part; short: too short for any window; refused: bad ones.
        forecasts: each of one series in one window, of ``horizon`` steps.
        best: the model with the least MASE.
        statuses: how many series have which, of those that are not "ok".
        summary, notes: what was found in the data.
    """

    source: str
    horizon: int
    windows: int
    step: int
    season: int
    frequency: str
    level: tuple[float, ...]
    series: int
    short: int
    refused: int
    forecasts: int
    best: str
    models: tuple[Scores, ...]
    statuses: dict[str, int]
    summary: str
    notes: tuple[str, ...]
    examples: tuple[Example, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names; without the examples."""
        out = asdict(self)
        del out["examples"]
        return out

    def __getitem__(self, name: str) -> Scores:
        """The scores of a model.

        Raises:
            KeyError: it was not asked for.
        """
        return {scores.name: scores for scores in self.models}[name]

    def header(self) -> tuple[str, ...]:
        """Names of the columns of ``rows``."""
        shares = (f"{p:g} %" for p in self.level)
        return "model", "MASE", "sMAPE", "OWA", "WQL", "CRPS", "MSIS", *shares, "seconds"

    def rows(self) -> list[tuple[str, ...]]:
        """One a model, in the order in which they were named."""
        return [
            (
                m.name,
                *series_report.measures(m),
                *(f"{100 * share:.1f}" for share in m.coverage.values()),
                series_report.seconds(m.fit_s + m.forecast_s),
            )
            for m in self.models
        ]

    def remark(self) -> str:
        """In plain words: which model to take, and how far to believe its intervals."""
        return series_report.verdict(self)

    def save(self, path: str | Path) -> Path:
        """Write the report, one HTML file that needs nothing else.

        Raises:
            ValueError: another kind of file is named.
        """
        return series_report.write(self, Path(path))

    def __repr__(self) -> str:
        names = ", ".join(m.name for m in self.models)
        return f"<Backtest of {Path(self.source).name}: {names}; best {self.best}>"

    def __str__(self) -> str:
        columns = list(zip(self.header(), *self.rows(), strict=True))
        wide = [max(map(len, column)) for column in columns]
        table = [
            "  ".join(cell.ljust(size) for cell, size in zip(row, wide, strict=True)).rstrip()
            for row in zip(*columns, strict=True)
        ]
        return "\n".join([self.summary, *self.notes, "", *table, "", self.remark()])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self.header())
        cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in self.rows())
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        return f"<p>{escape(self.remark())}</p><table><tr>{head}</tr>{body}</table>"


def backtest(
    data: Any,
    horizon: int,
    windows: int = 5,
    model: Names = MODELS,
    *,
    step: int | None = None,
    level: Sequence[float] = LEVEL,
    season: int | None = None,
    policy: str = "fill",
    id_col: str = "unique_id",
    time_col: str = "ds",
    target_col: str = "y",
    known: Names = (),
    freq: str | None = None,
    time: str | None = None,
    report: str | Path | None = None,
    display: Display | None = None,
    **options: Any,
) -> Backtest:
    """Forecast the past from several times of it, with what was known then, and compare.

    Every model is fitted anew in every window. The newest window ends with the data; the others
    lie ``step`` periods apart before it (None: a horizon).

    Args:
        data, season, policy, id_col, time_col, target_col, known, freq: as ``Forecaster`` takes
            them.
        level: coverage of the intervals that are looked at, in percent.
        time: of training a network in each window: "30s", "10m".
        report: where an HTML page goes; its folder is made.
        options: settings of the model, where there is but one, as ``Forecaster`` takes them.

    Raises:
        ValueError: data that can't be read, settings out of bounds, an unknown model, or no
            series that is long enough for a single window.
    """
    steps = checked_horizon(horizon)
    count, levels = whole("windows", windows, 10_000), checked_levels(level)
    apart = steps if step is None else whole("step", step, 10_000)
    if report is not None:
        series_report.check(Path(report))
    left = known and model == MODELS  # nobody asked for arima, which would refuse
    forecaster = Forecaster(
        [name for name in MODELS if name != "arima"] if left else model,
        season=season,
        policy=policy,
        id_col=id_col,
        time_col=time_col,
        target_col=target_col,
        known=known,
        freq=freq,
        **options,
    )
    models = for_horizon(forecaster.models, steps)
    if time is not None:
        models = for_time(models, time)
    with places(report):
        panel, check = frames.read(data, **forecaster.reading)
        check.require()
        found = measure(panel, check, models, steps, count, apart, levels, display)
        if left:
            said = f"{panel.origin.source}: arima takes no regressors and is left out"
            found = replace(found, notes=(*found.notes, said))
        if report is not None:
            found.save(report)
    return found


@torch.no_grad()
def measure(
    panel: Panel,
    check: Check,
    models: Mapping[str, Model],
    horizon: int,
    windows: int,
    step: int,
    level: Sequence[float] = LEVEL,
    display: Display | None = None,
) -> Backtest:
    """``backtest`` of what was read, 5,000 series at a time, which share what ``auto`` learns.

    Raises:
        ValueError: no series is long enough for a single window.
    """
    show, levels, season = display or Silent(), checked_levels(level), panel.season
    every = {_NAIVE: SeasonalNaive(), _NAIVE2: Naive(seasonal=True), **models}
    tallies = {name: Tally(horizon, levels) for name in every}
    errors = Errors.none(len(models), len(panel))
    shown: dict[str, list[Example]] = {name: [] for name in models}
    jobs, done, seen, begin = -(-len(panel) // CHUNK) * windows, 0, 0, 0
    for chunk in panel.chunks(CHUNK):
        data = chunk.ragged()
        for number, window in enumerate(windows_of(data, horizon, windows, step, LEAST)):
            show.working("windows of the past", done + number, jobs)
            found = {k: tallies[k].add(window, model, season) for k, model in every.items()}
            each = np.stack([found[name].errors for name in models])
            errors.add(begin + window.row.numpy(), each, number == 0)
            for name in models if number == 0 else ():
                shown[name] += candidates(chunk, window, found[name], levels)
            seen = max(seen, number + 1)
        begin, done = begin + len(chunk), done + windows
    show.working("windows of the past", jobs, jobs)
    if not seen:
        raise ValueError(
            f"{panel.origin.source}: no series is longer than {horizon} steps of horizon and "
            f"{LEAST} to learn from: give a shorter horizon"
        )
    fewer = [
        f"{panel.origin.source}: {seen} of {windows} windows: no series is long enough for more"
    ] * (seen < windows)
    means = {name: tally.means() for name, tally in tallies.items()}
    names = list(models)
    best = min(names, key=lambda name: [_or_inf(means[name][k]) for k in ("mase", "wql")])
    at = names.index(best)
    return Backtest(
        source=panel.origin.source,
        horizon=horizon,
        windows=seen,
        step=step,
        season=season,
        frequency=check.frequency,
        level=levels,
        series=int((errors.used > 0).sum()),
        short=int((panel.ok & (errors.used == 0)).sum()),
        refused=int((~panel.ok).sum()),
        forecasts=int(errors.used.sum()),
        best=best,
        models=tuple(
            _scores(name, tallies[name], means, errors.behind(i, at))
            for i, name in enumerate(names)
        ),
        statuses=_statuses(panel),
        summary=check.summary(),
        notes=(*check.lines(), *fewer),
        examples=ranked(shown[best], errors.newest[at]),
    )


def _scores(
    name: str,
    tally: Tally,
    means: dict[str, dict[str, float]],
    behind: tuple[float | None, float | None],
) -> Scores:
    own, naive = means[name], means[_NAIVE]
    pairs = [
        torch.tensor([m[k]], dtype=torch.float64)
        for m in (own, means[_NAIVE2])
        for k in ("smape", "mase")
    ]
    covered = tally.coverage()
    return Scores(
        name=name,
        **{key: _real(value) for key, value in own.items()},
        owa=_real(metrics.owa(*pairs)),
        coverage={key: share for key, (share, _) in covered.items()},
        coverage_se={key: error for key, (_, error) in covered.items()},
        relative_mase=_ratio(own["mase"], naive["mase"]),
        relative_wql=_ratio(own["wql"], naive["wql"]),
        behind=None if behind[0] is None else _real(behind[0]),
        behind_se=None if behind[1] is None else _real(behind[1]),
        mase_by_step=tuple(map(_real, tally.mase_by_step())),
        coverage_by_step=tally.coverage_by_step(),
        fit_s=tally.fit_s,
        forecast_s=tally.forecast_s,
    )


def _statuses(panel: Panel) -> dict[str, int]:
    """Counts of statuses but "ok", the most common first."""
    words = panel.status.dictionary.to_pylist()
    counts = np.bincount(panel.status.indices.to_numpy(), minlength=len(words)).tolist()
    out: dict[str, int] = {}
    for word, count in zip(words, counts, strict=True):  # a word may stand there twice
        if count and word != "ok":
            out[word] = out.get(word, 0) + count
    return dict(sorted(out.items(), key=lambda item: -item[1]))


def _real(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _ratio(value: float, base: float) -> float | None:
    return _real(value / base) if base else None


def _or_inf(value: float) -> float:
    return value if math.isfinite(value) else math.inf
