"""backtest: every number beside plain arithmetic, and that nothing of the future is seen."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pytest
import torch

from chainrule.series.baselines import Naive
from chainrule.series.batch import Forecast, Model, Ragged
from chainrule.verbs import backtest as module
from chainrule.verbs.backtest import MODELS, backtest
from chainrule.verbs.forecast import forecast
from chainrule.verbs.forecaster import MODELS as KNOWN
from tests.laws.tolerances import FLOAT64

Z = NormalDist().inv_cdf


@dataclass(frozen=True)
class Law(Forecast):
    median: torch.Tensor
    spread: torch.Tensor

    @property
    def point(self):
        return self.median

    def quantile(self, levels):
        z = torch.tensor([Z(u) for u in levels], dtype=torch.float64)
        return self.median[..., None] + self.spread[..., None] * z


@dataclass(frozen=True)
class Last:
    """The last value, plus ``up`` a step; the spread is ``sd`` times the root of the step."""

    data: Ragged
    sd: float
    up: float

    def forecast(self, horizon, future=None):
        step = torch.arange(1.0, horizon + 1, dtype=torch.float64)
        last = self.data.values[self.data.end - 1][:, None]
        return Law(last + self.up * step, (self.sd * step.sqrt()).expand(len(last), -1))


SEEN: list[list[list[float]]] = []  # what a model was fitted on, one fit after the other


@dataclass(frozen=True)
class Wide(Model):
    sd: float = 3.0
    up: float = 0.1

    def fit(self, data, season):
        rows = zip(data.begin.tolist(), data.end.tolist(), strict=True)
        SEEN.append([data.values[begin:end].tolist() for begin, end in rows])
        return Last(data, self.sd, self.up)


@dataclass(frozen=True)
class Narrow(Wide):
    sd: float = 0.3
    up: float = 0.0


@dataclass(frozen=True)
class Rising(Wide):
    up: float = 0.5


@dataclass(frozen=True)
class Naive2(Naive):
    seasonal: bool = True


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    SEEN.clear()
    for name, model in (("wide", Wide), ("narrow", Narrow), ("rising", Rising), ("naive2", Naive2)):
        monkeypatch.setitem(KNOWN, name, model)


def walks(count=7, length=40, seed=0):
    rng = np.random.default_rng(seed)
    return [50 + rng.normal(0, 1, length + 3 * i).cumsum() for i in range(count)]


def test_every_number_by_plain_arithmetic():
    """The definitions of the papers, one forecast after the other."""
    series, horizon, count, step, season = walks(), 4, 3, 2, 2
    found = backtest(series, horizon, count, ["wide", "narrow"], step=step, season=season)
    levels = [k / 10 for k in range(1, 10)]
    for name, model in (("wide", Wide()), ("narrow", Narrow())):
        ase, smape, crps, msis, pin, size = [], [], [], [], np.zeros(9), 0.0
        inside = {p: [] for p in (80, 95)}
        for y in series:
            for k in range(count):
                cut = len(y) - horizon - k * step
                seen, came = y[:cut], y[cut : cut + horizon]
                scale = np.abs(seen[season:] - seen[:-season]).mean()
                at = np.arange(1, horizon + 1)
                point, sd = seen[-1] + model.up * at, model.sd * np.sqrt(at)
                ase.append(np.abs(came - point) / scale)
                smape.append((200 * np.abs(came - point) / (np.abs(came) + np.abs(point))).mean())
                off = came[:, None] - np.array([point + sd * Z(u) for u in levels]).T
                loss = np.where(off > 0, np.array(levels) * off, (np.array(levels) - 1) * off)
                pin, size = pin + loss.sum(0), size + np.abs(came).sum()
                crps.append(2 * loss.mean() / scale)
                for p in inside:
                    reach = Z(0.5 + p / 200) * sd
                    inside[p].append(np.abs(came - point) <= reach)
                low, high = point - Z(0.975) * sd, point + Z(0.975) * sd
                beyond = np.maximum(low - came, 0) + np.maximum(came - high, 0)
                msis.append((high - low + 40 * beyond).mean() / scale)
        scores = found[name]
        assert scores.mase == pytest.approx(np.mean(ase), rel=FLOAT64)
        assert scores.mase_by_step == pytest.approx(np.mean(ase, 0), rel=FLOAT64)
        assert scores.smape == pytest.approx(np.mean(smape), rel=FLOAT64)
        assert scores.crps == pytest.approx(np.mean(crps), rel=FLOAT64)
        assert scores.msis == pytest.approx(np.mean(msis), rel=FLOAT64)
        assert scores.wql == pytest.approx((2 * pin / size).mean(), rel=FLOAT64)
        for p, held in inside.items():
            assert scores.coverage[f"{p}"] == pytest.approx(np.mean(held), rel=FLOAT64)
            assert scores.coverage_by_step[f"{p}"] == pytest.approx(np.mean(held, 0), rel=FLOAT64)
            error = np.mean(held, 1).std(ddof=1) / math.sqrt(len(held))
            assert scores.coverage_se[f"{p}"] == pytest.approx(error, rel=FLOAT64, abs=FLOAT64)
    assert (found.series, found.windows, found.forecasts) == (7, 3, 21)
    assert len({s.coverage["80"] for s in found.models}) == 2  # the two are told apart


def test_what_others_are_measured_by():
    """OWA beside Naive2, and ratios beside seasonal naive, also where neither was asked for."""
    rng = np.random.default_rng(1)
    season = 10 * np.sin(np.arange(60) * np.pi / 2)
    data = [100 + season + rng.normal(0, 1, 60) for _ in range(3)]
    found = backtest(data, 6, 2, ["wide", "seasonal-naive", "naive2"], season=4)
    assert found["naive2"].owa == pytest.approx(1, rel=FLOAT64)
    assert found["seasonal-naive"].relative_mase == pytest.approx(1, rel=FLOAT64)
    assert found["seasonal-naive"].relative_wql == pytest.approx(1, rel=FLOAT64)
    wide, base = found["wide"], found["naive2"]
    expected = (wide.smape / base.smape + wide.mase / base.mase) / 2
    assert wide.owa == pytest.approx(expected, rel=FLOAT64)
    alone = backtest(data, 6, 2, "wide", season=4)
    assert alone["wide"].owa == pytest.approx(wide.owa, rel=FLOAT64)
    assert alone["wide"].relative_wql == pytest.approx(wide.relative_wql, rel=FLOAT64)


@pytest.mark.parametrize("step", [None, 1, 5])
def test_models_see_what_was_known_and_nothing_else(step):
    data = [np.arange(30.0), np.arange(14.0)]
    found = backtest(data, 3, 4, ["narrow"], step=step)
    apart = step or 3
    assert found.step == apart
    expected = []
    for back in (3 + k * apart for k in range(4)):
        rows = [list(map(float, range(len(y) - back))) for y in data if len(y) - back >= 4]
        expected.append(rows)
    assert expected == SEEN
    assert found.forecasts == sum(map(len, expected))


def test_chunks_change_nothing(monkeypatch):
    data = walks(11)
    whole = backtest(data, 5, 2, ["wide", "narrow"])
    monkeypatch.setattr(module, "CHUNK", 3)
    pieces = backtest(data, 5, 2, ["wide", "narrow"])
    assert (pieces.best, pieces.forecasts) == (whole.best, whole.forecasts)
    for one, other in zip(whole.models, pieces.models, strict=True):
        for key in ("mase", "smape", "owa", "wql", "crps", "msis", "behind", "behind_se"):
            assert getattr(one, key) == pytest.approx(getattr(other, key), rel=FLOAT64), key
        assert one.coverage == pytest.approx(other.coverage, rel=FLOAT64)
    ends = [(e.id, e.mase) for e in (whole.examples[0], whole.examples[-1])]
    assert ends == [(e.id, e.mase) for e in (pieces.examples[0], pieces.examples[-1])]


def test_the_examples_are_what_they_say():
    data = walks(9)
    found = backtest(data, 4, 2, ["narrow"], season=1)
    errors = []
    for y in data:
        scale = np.abs(np.diff(y[:-4])).mean()
        errors.append(np.abs(y[-4:] - y[-5]).mean() / scale)
    order = np.argsort(errors)
    assert [e.rank for e in found.examples] == ["best", "median", "worst"]
    for example, at in zip(found.examples, order[[0, 4, 8]], strict=True):
        y = data[at]
        assert example.id == str(at)
        assert example.mase == pytest.approx(errors[at], rel=FLOAT64)
        assert list(example.came) == y[-4:].tolist()
        assert list(example.past) == y[-4 - len(example.past) : -4].tolist()
        assert list(example.median) == [y[-5]] * 4
        low, high = example.bounds["95"]
        assert (np.array(high) - y[-5]) == pytest.approx(y[-5] - np.array(low))
    assert [e.rank for e in backtest(data[:2], 4, 1, ["narrow"]).examples] == ["best", "worst"]
    assert len(backtest(data[:1], 4, 1, ["narrow"]).examples) == 1


def test_series_that_stand_still_are_no_examples_of_the_best():
    still = [np.r_[0.0, 5.0, np.zeros(30 + i)] for i in range(3)]
    found = backtest([*still, *walks(4)], 4, 1, ["naive"], season=1)
    best, *_, worst = found.examples
    assert (best.rank, worst.rank) == ("best that moves", "worst")
    assert int(best.id) >= 3 and len(set(best.came)) > 1
    assert [e.rank for e in backtest(still, 4, 1, ["naive"], season=1).examples] == [
        "best", "median", "worst"
    ]  # fmt: skip


def test_how_far_behind_and_how_sure():
    """Beside the mean and standard error of differences of series, which all count alike."""
    data = [y[:40] for y in walks(12)]
    found = backtest(data, 3, 2, ["narrow", "rising"], season=1)
    mean = {}
    for name, up in (("narrow", 0.0), ("rising", 0.5)):
        errors = []
        for y in data:
            cuts = (37, 34)
            off = [np.abs(y[c : c + 3] - y[c - 1] - up * np.arange(1, 4)).mean() for c in cuts]
            scales = [np.abs(np.diff(y[:c])).mean() for c in cuts]
            errors.append(np.mean(np.divide(off, scales)))
        mean[name] = np.array(errors)
    best, last = sorted(mean, key=lambda name: mean[name].mean())
    apart = mean[last] - mean[best]
    scores = found[last]
    assert found.best == best
    assert scores.behind == pytest.approx(100 * apart.mean() / mean[best].mean(), rel=FLOAT64)
    error = 100 * apart.std(ddof=1) / math.sqrt(12) / mean[best].mean()
    assert scores.behind_se == pytest.approx(error, rel=FLOAT64)
    assert found[best].behind == 0.0


def test_bad_series_have_a_status_and_stop_nobody():
    rows = [*(walks(3)), np.full(30, np.nan), np.full(25, 7.0), np.arange(5.0)]
    found = backtest(rows, 6, 2, "seasonal-naive")
    assert (found.series, found.short, found.refused) == (4, 1, 1)
    assert sum(count for word, count in found.statuses.items() if "refused" in word) == 1
    assert found["seasonal-naive"].mase is not None
    assert found.notes and found.summary


def test_constants_have_no_scaled_error_and_json_has_no_nan():
    found = backtest([[5.0] * 30, [7.0] * 40], 6, 2, ["seasonal-naive", "ar"], level=())
    scores = found["ar"]
    assert (scores.mase, scores.msis, scores.owa, scores.behind) == (None, None, None, None)
    assert scores.smape == pytest.approx(0, abs=FLOAT64)
    assert found.examples == ()
    assert sum(found.statuses.values()) == 2
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["best"] == found.best
    zeros = backtest([[0.0] * 30], 6, 2, "seasonal-naive")
    assert zeros["seasonal-naive"].wql is None
    assert len(zeros.rows()[0]) == len(zeros.header())


def test_a_table_and_a_page_for_notebooks():
    found = backtest(walks(4), 6, 2, ["wide", "narrow"], level=(50, 99.5))
    assert found.header()[-3:] == ("50 %", "99.5 %", "seconds")
    assert [row[0] for row in found.rows()] == ["wide", "narrow"]
    assert all(len(row) == len(found.header()) for row in found.rows())
    assert "examples" not in found.to_dict()
    odd = replace(found, models=(replace(found.models[0], name="<b>"),), best="<b>")
    assert "<b>" not in odd._repr_html_() and "&lt;b&gt;" in odd._repr_html_()
    with pytest.raises(KeyError):
        found["nobody"]


def test_it_is_printed_as_the_shell_shows_it():
    found = backtest([*walks(4), np.full(30, np.nan)], 6, 2, ["wide", "narrow"])
    *said, empty, head, wide, narrow, gap, verdict = str(found).splitlines()
    assert said == [found.summary, *found.notes] and (empty, gap) == ("", "")
    assert head.startswith("model  ") and head.endswith("seconds")
    assert [c.strip() for c in wide.split("  ") if c] == list(found.rows()[0])
    assert narrow.split()[0] == "narrow"
    assert head.index("WQL") == wide.index(found.rows()[0][4])
    assert verdict == found.remark()
    assert repr(found) == f"<Backtest of {found.source}: wide, narrow; best {found.best}>"
    assert len(repr(found["wide"])) < 600


def test_a_model_s_settings_are_those_of_forecaster():
    data = walks(3)
    found = backtest(data, 3, 2, "ar", order=0, difference=0)
    flat = backtest(data, 3, 2, "mean")
    assert found["ar"].mase == pytest.approx(flat["mean"].mase, rel=FLOAT64)
    assert found["ar"].mase > 1.5 * backtest(data, 3, 2, "ar", order=1)["ar"].mase
    assert forecast(data, 2, "ar", order=0, difference=0, level=())["ar"][0] == pytest.approx(
        data[0].mean(), rel=FLOAT64
    )


def test_the_models_that_nobody_has_to_name(tmp_path):
    """Autoregression, regression and ARIMA side by side, with auto and what they must beat."""
    assert set(MODELS) <= set(KNOWN)
    t = np.arange(72)
    rng = np.random.default_rng(0)
    data = [50 + t / 4 + 9 * np.sin(t * np.pi / 6) + rng.normal(0, 1, 72) for _ in range(4)]
    page = tmp_path / "new" / "report.html"
    said: list[tuple[int, int]] = []

    class Told(module.Silent):
        def working(self, stage, done, total):
            said.append((done, total))

    found = backtest(data, 6, 2, season=12, report=page, display=Told())
    assert tuple(m.name for m in found.models) == MODELS
    assert all(m.mase is not None and m.mase < 1.2 for m in found.models)
    assert all(0 <= share <= 1 for m in found.models for share in m.coverage.values())
    assert said == [(0, 2), (1, 2), (2, 2)]
    text = page.read_text(encoding="utf-8")
    assert all(f">{name}<" in text for name in MODELS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"horizon": 0}, "horizon: 1 to 100,000"),
        ({"windows": 0}, "windows: 1 to 10,000, not 0"),
        ({"step": 0}, "step: 1 to 10,000, not 0"),
        ({"level": (100,)}, "level: a coverage in percent"),
        ({"level": (0.8, 0.95)}, "did you mean 80?"),
        ({"model": "ar", "ordr": 2}, "model ar: unknown key 'ordr'; did you mean 'order'"),
        ({"model": ("ar", "naive"), "order": 2}, "order: settings belong to one model"),
        ({"model": "arimo"}, "did you mean 'arima'"),
        ({"model": ()}, "name a model"),
        ({"report": "report.pdf"}, "report.pdf: the report is a web page"),
        ({"horizon": 60}, "give a shorter horizon"),
    ],
)
def test_what_can_not_be(change, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = {"horizon": 3, "windows": 1, "model": "seasonal-naive", "report": "a.html"} | change
    with pytest.raises(ValueError, match=said):
        backtest(walks(2), **asked)
    assert not list(tmp_path.iterdir())


def test_regressors_are_known_in_every_window(monkeypatch):
    """What a regressor explains is forecast; arima, which takes none, is left out and named."""
    rng = np.random.default_rng(0)
    price = rng.normal(0, 1, 80)
    y = 50 + 5 * price + rng.normal(0, 0.1, 80)
    rows = pa.table({"ds": np.arange(80), "y": y, "price": price})
    without = backtest(rows, 4, 2, "ar")
    monkeypatch.setitem(KNOWN, "auto", Wide)
    known = backtest(rows, 4, 2, known=["price"])
    assert known["ar"].mase < 0.2 * without["ar"].mase
    assert [m.name for m in known.models] == [name for name in MODELS if name != "arima"]
    assert known.notes[-1].endswith("arima takes no regressors and is left out")
    with pytest.raises(ValueError, match="ARIMA takes no regressors"):
        backtest(rows, 4, 2, "arima", known=["price"])


def test_fewer_windows_than_asked_for_are_noted():
    found = backtest(walks(2), 6, 20, "seasonal-naive")
    assert found.windows == 6
    assert "6 of 20 windows" in found.notes[-1]
