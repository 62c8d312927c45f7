"""forecast and backtest as they are typed: files, pictures, levels, and input that is wrong."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import pytest

from chainrule.verbs.backtest import MODELS
from tests.cli.test_bad_input import complaint

DAYS = [f"2024-{m:02d}-{d:02d}" for m in (1, 2) for d in range(1, 30)][:-1]
DAYS = [*DAYS[:29], "2024-01-30", "2024-01-31", *DAYS[29:]]  # to 28 February
WAVE = (12.0, 10.5, 9.0, 11.0, 14.5, 20.0, 17.5)


def rows(name: str, level: float = 0.0) -> str:
    values = (level + WAVE[k % 7] + 0.1 * k + (k * k % 11) / 7 for k in range(len(DAYS)))
    return "".join(f"{name},{t},{y:.3f}\n" for t, y in zip(DAYS, values, strict=True))


GOOD = rows("a") + rows("b", 30.0)
HEAD = "unique_id,ds,y\n"


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)
    Path("sales.csv").write_text(HEAD + GOOD)
    return tmp_path


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# ---- what is right ----


def test_a_table_for_people_is_the_first_series(command, place):
    result = command("forecast", "sales.csv", "--horizon", 3)
    assert result.code == 0, result.err
    head, *lines = result.out.splitlines()
    assert head.split() == ["unique_id", "ds", "auto", "80", "%", "95", "%"]
    assert [line.split()[:2] for line in lines] == [["a", f"2024-02-{d}"] for d in ("29",)] + [
        ["a", f"2024-03-0{d}"] for d in (1, 2)
    ]
    assert result.err.splitlines() == [
        "2 series, 3 steps each, by auto",
        "the first of 2 series; -o FILE.csv has all of it, 6 rows",
    ]
    assert [path.name for path in place.iterdir()] == ["sales.csv"]


def test_numbers_below_each_other_have_as_many_decimals(command, place):
    values = [1000 * (1 + k % 7 == 3) + 7.5 * (k % 5) for k in range(42)]
    Path("odd.csv").write_text(one(values))
    result = command("forecast", "odd.csv", "-H", 9, "--model", "seasonal-naive", "--level", 80)
    lines = [line.split()[2:] for line in result.out.splitlines()[1:]]
    assert len(lines) == 9
    for column in (0, 1, 3):
        assert len({len(words[column].partition(".")[2]) for words in lines}) == 1
    ends = {
        line.rindex(words[-1]) + len(words[-1])
        for line, words in zip(result.out.splitlines()[1:], lines, strict=True)
    }
    assert len(ends) == 1


def test_all_intervals_are_shown_that_fit(command, place, monkeypatch):
    Path("one.csv").write_text(one([k % 7 for k in range(40)]))
    words = ("forecast", "one.csv", "-H", 60, "--model", "ar", "--level", 50, 80, 99)
    monkeypatch.setattr("chainrule.verbs.printing.console.width", 120)
    result = command(*words)
    assert result.out.splitlines()[0].split()[2:] == ["ar", "50", "%", "80", "%", "99", "%"]
    assert len(result.out.splitlines()) == 1 + 48
    assert result.err.splitlines()[-1] == (
        "the first 48 of 60 steps; -o FILE.csv has all of it, 60 rows"
    )
    monkeypatch.setattr("chainrule.verbs.printing.console.width", 50)
    result = command(*words)
    assert result.out.splitlines()[0].split()[2:] == ["ar", "50", "%"]
    assert result.err.splitlines()[-1].startswith("only the 50 % intervals of the first 48 of 60")
    short = command(*words[:2], "-H", 6, *words[4:6], "--level", 80)
    assert "FILE.csv" not in short.err


def test_a_first_series_that_was_refused_is_shown_as_that(command, place):
    Path("bad.csv").write_text(HEAD + f"0,{DAYS[0]},1\n" + rows("a"))
    result = command("forecast", "bad.csv", "-H", 2, "--model", "ses")
    assert result.code == 0, result.err
    assert result.out.splitlines()[1].split()[2:] == ["nan", "nan", "to", "nan", "nan", "to", "nan"]


@pytest.mark.parametrize("levels", [(), ("--level", "80", "95"), ("--level", "95", "--level", 80)])
def test_a_csv_has_a_row_for_each_step(command, place, levels):
    result = command("forecast", "sales.csv", "-H", 4, "--model", "ar", *levels, "-o", "out.csv")
    assert (result.code, result.out) == (0, ""), result.err
    found = table(Path("out.csv").read_text())
    bounds = [f"ar-{side}-{p}" for p in (80, 95) for side in ("lo", "hi")]
    assert list(found[0]) == ["unique_id", "ds", "ar", *bounds, "status"]
    assert [(r["unique_id"], r["status"]) for r in found] == [("a", "ok")] * 4 + [("b", "ok")] * 4
    for row in found:
        low95, low80, middle, high80, high95 = (
            float(row[f"ar{k}"]) for k in ("-lo-95", "-lo-80", "", "-hi-80", "-hi-95")
        )
        assert low95 < low80 < middle < high80 < high95


def test_several_models_stand_side_by_side_in_a_parquet_file(command, place):
    from pyarrow import parquet

    models = ("--model", "seasonal-naive", "--model", "drift")
    words = ("--level", 90, "--out", "out.parquet")
    assert command("forecast", "sales.csv", "-H", 7, *models, *words).code == 0
    found = parquet.read_table("out.parquet")
    assert found.column_names == [
        *("unique_id", "ds"),
        *(f"{m}{k}" for m in ("seasonal-naive", "drift") for k in ("", "-lo-90", "-hi-90")),
        "status",
    ]
    last = [float(line.split(",")[2]) for line in rows("a").splitlines()[-7:]]
    assert found.column("seasonal-naive").to_pylist()[:7] == last
    assert [str(day) for day in found.column("ds").to_pylist()[:2]] == ["2024-02-29", "2024-03-01"]


def test_standard_input_to_standard_output(command, place):
    words = ("forecast", "-", "-H", 2, "--model", "naive", "-o", "-")
    result = command(*words, stdin=Path("sales.csv").read_bytes())
    assert result.code == 0, result.err
    assert command("forecast", "sales.csv", *words[2:-2], "-o", "out.csv").code == 0
    assert result.out == Path("out.csv").read_text()


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_picture(command, place, kind):
    result = command("forecast", "sales.csv", "-H", 5, "--model", "ar", "--plot", f"now.{kind}")
    assert result.code == 0, result.err
    begin = {"png": b"\x89PNG", "svg": b"<?xml"}[kind]
    assert Path(f"now.{kind}").read_bytes().startswith(begin)
    assert f"now.{kind}" in result.err


def test_json_says_what_was_done(command, place):
    Path("sales.csv").write_text(HEAD + GOOD + "".join(f"c,{t},\n" for t in DAYS))
    result = command("forecast", "sales.csv", "-H", 2, "--model", "ses", "-o", "out.csv", "--json")
    assert result.code == 0, result.err
    found = result.json
    assert (found["models"], found["series"], found["refused"], found["rows"]) == (["ses"], 3, 1, 6)
    assert (found["horizon"], found["level"], found["out"]) == (2, [80.0, 95.0], "out.csv")
    assert found["check"]["status"] == {"c": "refused: all NaN"}


def test_one_bad_series_stops_no_other(command, place):
    Path("sales.csv").write_text(HEAD + rows("a") + f"b,{DAYS[0]},1\n" + rows("c"))
    result = command("forecast", "sales.csv", "-H", 2, "--model", "holt", "-o", "out.csv")
    assert result.code == 0
    assert "refused: too short: 1 series, first b" in result.err
    found = table(Path("out.csv").read_text())
    assert [r["status"] for r in found] == ["ok"] * 2 + ["refused: 1 point"] * 2 + ["ok"] * 2
    assert [r["holt"] == "" for r in found] == [False] * 2 + [True] * 2 + [False] * 2


def test_what_is_known_ahead_is_used(command, place):
    """y is twice what is known, plus a little; the past tells nothing of it."""
    dice = random.Random(0)
    prices = [dice.randrange(50) for _ in DAYS]
    Path("sales.csv").write_text(
        "ds,y,price\n"
        + "".join(f"{t},{2 * p + dice.random()},{p}\n" for t, p in zip(DAYS, prices, strict=True))
    )
    Path("known.csv").write_text("ds,price\n2024-02-29,100\n2024-03-01,0\n2024-03-02,50\n")
    words = ("-H", 3, "--model", "ar", "--future", "known.csv", "-o", "out.csv")
    result = command("forecast", "sales.csv", *words)
    assert result.code == 0, result.err
    found = [float(r["ar"]) for r in table(Path("out.csv").read_text())]
    assert [round(x / 10) for x in found] == [20, 0, 10]


def test_columns_of_any_name_and_a_longer_step(command, place):
    Path("sales.csv").write_text((HEAD + GOOD).replace("unique_id,ds,y", "shop,day,sold"))
    names = ("--id-col", "shop", "--time-col", "day", "--target-col", "sold")
    words = ("--freq", "W", "--season", 1, "--policy", "fill", "--model", "mean", "-o", "out.csv")
    result = command("forecast", "sales.csv", "-H", 1, *names, *words)
    assert result.code == 0, result.err
    found = table(Path("out.csv").read_text())
    assert list(found[0])[:2] == ["shop", "day"]
    assert float(found[1]["mean"]) - float(found[0]["mean"]) == pytest.approx(30)


# ---- odd, and forecast all the same, with a line that says what was done ----


def one(values: list[object]) -> str:
    return "ds,y\n" + "".join(f"{t},{v}\n" for t, v in zip(DAYS, values, strict=False))


@pytest.mark.parametrize(
    ("data", "said", "status"),
    [
        (one([3, 4, 5]), "short: 1 series, first y; fewer than 10 points", "short: 3 points"),
        (one([0] * 30), "all zeros: 1 series, first y; a forecast of zeros", "all zeros"),
        (
            one([*range(15), "inf", *range(15)]),
            "infinities: 1 series, first y at 2024-01-16 (line 17); taken as missing",
            "dropped 1 infinite value; filled 1 step",
        ),
        (
            one([*range(20)]) + f"{DAYS[19]},21\n",
            "duplicates: 1 series, first y at 2024-01-20 (line 22); the mean is taken",
            "averaged 1 duplicate",
        ),
        (
            one([*range(12)]),
            "1 series: fewer points than the 14 steps that are forecast, so the far ones rest on",
            "ok",
        ),
    ],
    ids=["three-rows", "zeros", "infinity", "duplicate", "long-horizon"],
)
def test_what_is_done_is_said(command, place, data, said, status):
    Path("odd.csv").write_text(data)
    result = command("forecast", "odd.csv", "-H", 14, "--model", "ar", "-o", "out.csv")
    assert result.code == 0, result.err
    assert said in result.err
    found = table(Path("out.csv").read_text())
    assert [row["status"] for row in found] == [status] * 14
    assert all(abs(float(row["ar"])) < 1000 for row in found)


# ---- wrong ----

ZONES = [f"{t}T00:00:00{'+01:00' if k % 2 else '+02:00'}" for k, t in enumerate(DAYS)]
ODD = ["2024-01-01T00:10", "2024-01-01T03:17", "2024-01-02T11:01", "2024-01-05", "2024-02-01T10:10"]
BAD = {
    "no-time": ("unique_id,y\n" + "a,1\na,2\n" * 9, "no time column: there are 'unique_id', 'y'"),
    "zones": (
        "ds,y\n" + "".join(f"{t},1\n" for t in ZONES),
        "line 3: 'ds' is '2024-01-02T00:00:00+01:00': several time zones",
    ),
    "two-rows": (one([1, 2]), "no series is left; refused: too short: y; 3 points are the fewest"),
    "one-row": (one([1]), "one stamp a series doesn't tell how far apart they are"),
    "all-nan": (one([""] * 30), "no series is left; refused: all NaN"),
    "all-infinite": (one(["inf"] * 30), "no series is left; refused: no finite value"),
    "repeated": (one([1] * 30) + one([2] * 30)[5:], "name the column that tells series apart by"),
    "irregular": (
        "ds,y\n" + "".join(f"{t},{k}\n" for k, t in enumerate(ODD)),
        "put it into longer steps, as in --freq",
    ),
    "words": (one([1, 2, "lots", 4]), "line 4: 'y' is 'lots', not a number"),
    "empty": ("", "is empty"),
}


@pytest.mark.parametrize("verb", ["forecast", "backtest"])
@pytest.mark.parametrize("case", BAD)
def test_data_that_are_refused(command, place, verb, case):
    data, words = BAD[case]
    Path("bad.csv").write_text(data)
    out = ("--out", "out.csv") if verb == "forecast" else ("--report", "out.html")
    line = complaint(command(verb, "bad.csv", "-H", 3, "--model", "ar", *out))
    assert line.startswith("error: bad.csv"), line
    assert words in line
    assert not list(place.glob("out*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere.csv",), "nowhere.csv: no such file"),
        (("sale.csv",), "did you mean 'sales.csv'?"),
        (("sales.csv", "more.csv"), "name one file of series, not sales.csv more.csv"),
        (("sales.csv", "-H", "0"), "horizon: 1 to 100,000 steps, not 0"),
        (("sales.csv", "--model", "arma"), "unknown model 'arma': did you mean 'arima'?"),
        (("sales.csv", "--level", "80", "100"), "level: a coverage in percent, as in 80, not 100"),
        (("sales.csv", "--level", "0.8"), "level: 0.8 is 0.8 %: did you mean 80?"),
        (("sales.csv", "--target-col", "sold"), "no column 'sold'; there are"),
        (("sales.csv", "--freq", "often"), "--freq often: not a frequency here"),
        (("sales.csv", "--season", "0"), "--season 0: 1 is the least"),
    ],
)
@pytest.mark.parametrize("verb", ["forecast", "backtest"])
def test_settings_that_are_refused(command, place, verb, words, message):
    asked = words if "-H" in words else (*words, "-H", "2")
    asked = asked if "--model" in asked else (*asked, "--model", "naive")
    out = ("--out", "out.csv") if verb == "forecast" else ("--report", "out.html")
    assert message in complaint(command(verb, *asked, *out))
    assert not list(place.glob("out*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "out.xlsx"), "out.xlsx: forecasts are written to .csv or .parquet"),
        (("--plot", "out.gif", "-o", "out.csv"), "out.gif: a picture is a PNG or an SVG"),
        (("--json", "-o", "-"), "--json and -o -: both go to standard output"),
        (("--future", "known.csv"), "known.csv: no such file"),
    ],
)
def test_files_that_are_refused(command, place, words, message):
    assert message in complaint(command("forecast", "sales.csv", "-H", 2, "--model", "ar", *words))
    assert not list(place.glob("out*"))


def test_regressors_that_do_not_reach_the_horizon(command, place):
    Path("sales.csv").write_text(one([*range(40)]).replace("\n", ",1\n").replace("y,1", "y,price"))
    Path("known.csv").write_text("ds,price\n2024-02-10,1\n2024-02-11,1\n")
    words = ("--model", "ar", "--future", "known.csv", "-o", "out.csv")
    line = complaint(command("forecast", "sales.csv", "-H", 5, *words))
    assert "'price' of y lacks 3 of 5 steps, the first at 2024-02-12: give it up to" in line
    assert not Path("out.csv").exists()
    Path("known.csv").write_text("ds,cost\n2024-02-10,1\n")
    assert "no column 'cost'" in complaint(command("forecast", "sales.csv", "-H", 1, *words))
    Path("known.csv").write_text("date\n2024-02-10\n")
    line = complaint(command("forecast", "sales.csv", "-H", 1, *words))
    assert (
        "known.csv: no column of regressors beside ids, times and targets: there is 'date'" in line
    )


def test_a_shop_that_closed_stops_no_other(command, place):
    """Nothing is known ahead of b, which ended before the others; and then of none."""
    lines = [f"{i},{t},{k},1\n" for i in "abc" for k, t in enumerate(DAYS)]
    Path("sales.csv").write_text("unique_id,ds,y,promo\n" + "".join([*lines[:80], *lines[118:]]))
    Path("known.csv").write_text("ds,promo\n2024-02-29,1\n2024-03-01,1\n")
    words = ("--model", "ar", "--future", "known.csv", "-o", "out.csv")
    result = command("forecast", "sales.csv", "-H", 2, *words)
    assert (result.code, result.out) == (0, "")
    assert (
        "ends before the others: 1 series, first b at 2024-01-21 (line 81); forecast" in result.err
    )
    assert "2 series, 2 steps each, by ar: out.csv" in result.err
    assert "refused: known.csv: 'promo' of b lacks 2 of 2 steps, the first at 2024-0" in result.err
    found = table(Path("out.csv").read_text())
    said = "refused: promo lacks 2 of 2 steps from 2024-01-22 on"
    assert [r["status"] for r in found] == ["ok"] * 2 + [said] * 2 + ["ok"] * 2
    assert [r["ar"] == "" for r in found] == [False] * 2 + [True] * 2 + [False] * 2
    result = command("forecast", "sales.csv", "-H", 2, *words, "--json")
    assert (result.json["refused"], result.json["check"]["refused"]) == (1, 0)
    assert result.json["lacks"].startswith("known.csv: 'promo' of b lacks")
    Path("out.csv").unlink()
    line = complaint(command("forecast", "sales.csv", "-H", 3, *words))
    assert "'promo' of a lacks 1 of 3 steps, the first at 2024-03-02, and 2 more series" in line
    assert not Path("out.csv").exists()


def test_a_file_that_was_there_stays_where_forecasting_fails(command, place):
    Path("out.csv").write_text("of before")
    Path("sales.csv").write_text(one([""] * 9))
    complaint(command("forecast", "sales.csv", "-H", 2, "-o", "out.csv"))
    assert Path("out.csv").read_text() == "of before"


# ---- backtest ----


def test_a_backtest_is_a_table_a_verdict_and_a_page(command, place):
    words = ("--windows", 3, "--step", 2, "--level", 80, 95, "--report", "out.html")
    result = command("backtest", "sales.csv", "-H", 4, *words)
    assert result.code == 0, result.err
    said = result.out
    assert said.startswith("sales.csv: long, 2 series, 118 points")
    lines = said.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("model "))
    assert lines[begin].split()[:7] == ["model", "MASE", "sMAPE", "OWA", "WQL", "CRPS", "MSIS"]
    found = [line.split()[0] for line in lines[begin + 1 : begin + 1 + len(MODELS)]]
    assert found == list(MODELS)
    assert "over 6 forecasts of 4 steps (2 series, 3 windows of the past)" in said
    assert lines[-1] == "out.html"
    assert Path("out.html").read_text().startswith("<!DOCTYPE html>")


def test_a_backtest_as_json(command, place):
    words = ("--model", "naive", "--model", "drift", "--windows", 2, "--json")
    result = command("backtest", "sales.csv", "-H", 3, *words)
    assert result.code == 0, result.err
    assert [m["name"] for m in result.json["models"]] == ["naive", "drift"]
    assert (result.json["forecasts"], result.json["windows"], result.json["step"]) == (4, 2, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--windows", "0"), "windows: 1 to 10,000, not 0"),
        (("--step", "0"), "step: 1 to 10,000, not 0"),
        (("--report", "out.pdf"), "out.pdf: the report is a web page"),
        (("-H", "57"), "no series is longer than 57 steps of horizon and 4 to learn from"),
    ],
)
def test_a_backtest_that_cannot_be(command, place, words, message):
    asked = words if "-H" in words else (*words, "-H", "2")
    assert message in complaint(command("backtest", "sales.csv", *asked, "--model", "naive"))
    assert not list(place.glob("out*"))
