"""Where forecasts, pictures and reports go, how long networks train, and what is known ahead."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from chainrule.series.batch import Model
from chainrule.verbs import neural_models
from tests.cli.test_bad_input import complaint
from tests.cli.test_forecast import DAYS, place, table

assert place  # a fixture


@pytest.fixture
def slow(monkeypatch):
    """Fails where a model is fitted: what is refused has to be refused before."""

    def fit(*_):
        raise AssertionError("the long work was begun")

    def under(kind: type) -> list[type]:
        return [kind, *(k for each in kind.__subclasses__() for k in under(each))]

    for kind in under(Model):
        monkeypatch.setattr(kind, "fit", fit)


def test_folders_are_made(command, place):
    words = ("forecast", "sales.csv", "-H", 2, "--model", "naive")
    assert command(*words, "-o", "new/er/out.csv", "--plot", "pics/out.png").code == 0
    assert len(table(Path("new/er/out.csv").read_text())) == 4
    assert Path("pics/out.png").exists()
    words = ("backtest", *words[1:])
    assert command(*words, "--report", "pages/new/out.html").code == 0
    assert Path("pages/new/out.html").exists()


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("forecast", ("-o", "sales.csv/out.csv")),
        ("forecast", ("-o", "new/out.csv", "--plot", "sales.csv/out.png")),
        ("backtest", ("--report", "sales.csv/out.html")),
    ],
)
def test_a_place_that_is_none_is_found_before_the_long_work(command, place, verb, words):
    result = command(verb, "sales.csv", "-H", 2, "--model", "ar", *words)
    assert result.code == 1, result.err
    assert "sales.csv" in result.err and result.err.count("\n") == 1
    assert [p.name for p in place.iterdir()] == ["sales.csv"]


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(
    ("verb", "words", "message"),
    [
        ("forecast", ("-o", "new/"), "new"),
        ("forecast", ("--level", "100"), "level: a coverage in percent"),
        ("forecast", ("--level", "99.9999999"), "not 99.9999999"),
        ("backtest", ("--level", "99.9999999"), "not 99.9999999"),
        ("forecast", ("--time", "3s"), "--time 3s: ar does not train by time; of the models lstm"),
        ("backtest", ("--time", "3s"), "--time 3s: ar does not train by time"),
        ("forecast", ("--model", "gru", "--time", "soon"), "'soon' is not a time: write 30s"),
        ("backtest", ("--known", "y"), "column 'y' is named for two things"),
        ("backtest", ("--known", "price"), "no column 'price'"),
        ("forecast", ("--target-col", "unique_id"), "'unique_id' is named for two things"),
    ],
)
def test_settings_are_refused_before_the_long_work(command, place, verb, words, message):
    if words == ("-o", "new/"):
        Path("new").mkdir()
    assert message in complaint(command(verb, "sales.csv", "-H", 2, "--model", "ar", *words))


def test_regressors_that_end_too_soon_are_found_before_the_long_work(command, place, slow):
    Path("sales.csv").write_text("ds,y,price\n" + "".join(f"{t},1,2\n" for t in DAYS))
    Path("known.csv").write_text("ds,price\n2024-02-29,1\n")
    words = ("--model", "ar", "--future", "known.csv", "-o", "new/out.csv")
    line = complaint(command("forecast", "sales.csv", "-H", 2, *words))
    assert "lacks 1 of 2 steps" in line
    assert not Path("new").exists()


def test_only_networks_are_given_the_time(command, place, monkeypatch):
    asked = []

    def fit_panel(*_, time, **__):
        asked.append(time)
        raise ValueError("enough")

    monkeypatch.setattr(neural_models, "fit_panel", fit_panel)
    for verb in ("forecast", "backtest"):
        words = ("--model", "naive", "--model", "gru", "--time", "7s")
        assert "enough" in complaint(command(verb, "sales.csv", "-H", 2, *words))
    assert asked == ["7s", "7s"]


def test_a_backtest_knows_what_forecast_would_be_told(command, place):
    """y is twice the price plus a little; the past tells nothing of it."""
    dice = random.Random(0)
    rows = [(t, p := dice.randrange(50), 2 * p + dice.random()) for t in DAYS]
    Path("sales.csv").write_text("ds,y,price\n" + "".join(f"{t},{y},{p}\n" for t, p, y in rows))
    words = ("backtest", "sales.csv", "-H", 3, "--windows", 4, "--model", "ar", "--json")
    blind = command(*words).json["models"][0]["mase"]
    told = command(*words, "--known", "price")
    assert told.code == 0, told.err
    assert told.json["models"][0]["mase"] < 0.1 * blind
