"""The report of a backtest: what the page needs, its words, and its pictures."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from chainrule.verbs import series_report
from chainrule.verbs.backtest import Backtest, Scores
from chainrule.verbs.rolling import Example, ranked
from chainrule.verbs.series_charts import by_step, fan
from chainrule.verbs.series_report import number, page, seconds, verdict

EVIL = "<script>alert('x')</script>&\"$title"
SVG = re.compile(r'<svg viewBox="0 0 .*?</svg></svg>', re.S)


def scores(name: str, mase: float | None, **more) -> Scores:
    steps = 4
    base = Scores(
        name=name,
        mase=mase,
        smape=10.0,
        owa=0.9,
        wql=0.1,
        crps=0.5,
        msis=4.0,
        coverage={"80": 0.8, "95": 0.95},
        coverage_se={"80": 0.005, "95": 0.003},
        relative_mase=mase,
        relative_wql=0.8,
        behind=0.0,
        behind_se=0.0,
        mase_by_step=tuple(None if mase is None else mase * k / 2.5 for k in range(1, steps + 1)),
        coverage_by_step={"80": (0.8,) * steps, "95": (0.95,) * steps},
        fit_s=0.00001,
        forecast_s=2.0,
    )
    return replace(base, **more)


def example(**more) -> Example:
    base = Example(
        rank="best",
        id=EVIL,
        mase=0.5,
        past=(1.0, 2.0, 3.0, 2.0),
        came=(2.0, 3.0, 1.0, 2.0),
        median=(2.0, 2.5, 2.5, 2.0),
        bounds={
            "80": ((1.0,) * 4, (3.0,) * 4),
            "95": ((0.0,) * 4, (4.0,) * 4),
        },
        ticks=((1, "Feb\n2024"), (5, "Jun")),
    )
    return replace(base, **more)


def found(*models: Scores, **more) -> Backtest:
    models = models or (
        scores("theta", 0.8),
        scores("ar", 0.9, behind=12.5, behind_se=2.0),
        scores("seasonal-naive", 1.0, behind=25.0, behind_se=3.0),
    )
    base = Backtest(
        source=f"data/{EVIL.replace('/', '')}.csv",
        horizon=4,
        windows=5,
        step=4,
        season=12,
        frequency="MS",
        level=(80.0, 95.0),
        series=100,
        short=2,
        refused=1,
        forecasts=500,
        best=models[0].name,
        models=models,
        statuses={f"refused: {EVIL}": 1, **{f"filled {i} steps": 1 for i in range(20)}},
        summary=f"summary {EVIL}",
        notes=(f"note {EVIL}",) * 15,
        examples=(example(), example(rank="median"), example(rank="worst")),
    )
    return replace(base, **more)


class Tags(HTMLParser):
    """What stands in a page: tags that are open, attributes, texts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "path", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("path", "circle"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


# ---- the page ----


def test_the_page_needs_nothing_else_and_runs_nothing():
    text = page(found())
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert tags.open == []
    assert not {"script", "link", "img", "iframe"} & set(tags.seen)
    assert not any(k in ("src", "href", "onclick", "style") for k, _ in tags.attributes)
    assert not re.search(r"https?:|@import|url\(", text)
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert ("name", "viewport") in tags.attributes


def test_names_from_the_data_are_only_text():
    models = (scores(EVIL, 0.8), scores("ar", 0.9, behind=1.0, behind_se=2.0))
    text = page(found(*models))
    assert "<script" not in text and "$title" in text
    tags = Tags()
    tags.feed(text)
    assert tags.text.count(EVIL) > 10


def test_every_number_of_a_table_stands_there():
    tags = Tags()
    tags.feed(page(found()))
    words = tags.text
    for said in ("0.800", "0.900", "10.00", "95.0 %", "< 0.01", "2.00", "12.5 % behind", "± 2.0"):
        assert said in words, said
    assert verdict(found()) in words
    assert "and 3 more" in words  # of 15 notes
    assert "others9" in words  # of 21 statuses


def test_pictures_are_whole_and_have_a_name():
    pictures = SVG.findall(page(found()))
    assert len(pictures) == 3 + 3
    for picture in pictures:
        root = ET.fromstring(picture)
        assert root.get("aria-label") and root.get("role") == "img"
    alone = found(horizon=1, models=(one_step("ar"),), best="ar", examples=(one_example(),))
    assert len(SVG.findall(page(alone))) == 1  # one step has no lines to draw
    assert SVG.findall(page(found(examples=(), level=()))) != []


def one_step(name):
    by = {"80": (0.8,), "95": (0.95,)}
    return scores(name, 0.9, mase_by_step=(0.9,), coverage_by_step=by)


def one_example():
    bounds = {"80": ((1.0,), (3.0,)), "95": ((0.0,), (4.0,))}
    return example(came=(2.0,), median=(2.0,), bounds=bounds, ticks=((4, "5"),))


def test_long_horizons_are_put_together_in_a_table():
    steps = 50
    by = {"80": tuple(np.linspace(1, 0, steps)), "95": (1.0,) * steps}
    long = scores("ar", 1.0, mase_by_step=(1.0,) * 49 + (4.0,), coverage_by_step=by)
    tags = Tags()
    tags.feed(page(found(long, horizon=steps, examples=())))
    assert "1–3" in tags.text and "49–50" in tags.text and "2.500" in tags.text


def test_it_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "report.html"
    assert found().save(path) == path
    before = path.read_text(encoding="utf-8")
    assert before.startswith("<!DOCTYPE html>") and before.endswith("</html>\n")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    monkeypatch.setattr(series_report, "page", lambda _: "\ud800")  # can't be encoded
    with pytest.raises(UnicodeEncodeError):
        found().save(path)
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(ValueError, match=r"end its name in \.html"):
        found().save(tmp_path / "report.pdf")


# ---- the words ----


def test_which_model_to_take():
    text = verdict(found())
    assert text.startswith("Take theta: over 500 forecasts of 4 steps (100 series, 5 windows of")
    assert "20 % smaller than those of seasonal naive (MASE 0.800)" in text
    assert "Next is ar, whose errors are 12.5 % larger." in text
    assert text.endswith("its 80 % intervals held 80.0 %, its 95 % intervals 95.0 %: believe them.")


def test_who_is_too_close():
    close = scores("ar", 0.81, behind=1.25, behind_se=0.9)
    far = scores("wild", 8.0, behind=900.0, behind_se=800.0)
    text = verdict(found(scores("theta", 0.8), close, far))
    assert "Not surely worse: ar (1.2 ± 0.9 % behind)." in text
    assert "wild" not in text


def test_where_nothing_is_better_than_seasonal_naive():
    best = scores("seasonal-naive", 1.0)
    assert "Take seasonal-naive: over" in verdict(found(best, scores("ar", 1.1, behind=10.0)))
    worse = scores("ar", 1.2)
    assert verdict(found(worse)).startswith("Take ar, if any of these:")
    level = scores("naive", 0.8)
    assert "Take naive: over" in verdict(found(level, scores("ar", 0.8, behind=0.1)))
    nothing = scores("ar", None, relative_mase=None, behind=None, behind_se=None)
    assert "no error can be scaled" in verdict(found(nothing))


def test_the_yardstick_is_the_better_naive_method_that_ran():
    """A walk's last value is as good as any model, and a season ago is no match for it."""
    best, season = scores("ar", 0.78), scores("seasonal-naive", 1.0, behind=28.0)
    said = verdict(found(best, season, scores("naive", 0.781, behind=0.1)))
    assert "the least, but no smaller than those of naive (MASE 0.780)" in said
    assert "22 % smaller than those of seasonal naive" in verdict(found(best, season))
    said = verdict(found(best, scores("naive", 1.2, behind=54.0)))
    assert "35 % smaller than those of naive" in said
    assert "22 % smaller than those of seasonal naive" in verdict(found(best))  # it ran unasked


@pytest.mark.parametrize(
    ("held", "error", "said"),
    [
        ((0.80, 0.95), 0.004, "believe them"),
        ((0.782, 0.941), 0.004, "believe them"),
        ((0.77, 0.93), 0.004, "believe them"),
        ((0.82, 0.96), 0.04, "nothing against them, but too few forecasts to tell"),
        ((0.769, 0.943), 0.004, "a little too narrow, as up to 3.1 points more lie outside"),
        ((0.70, 0.85), 0.004, "they are too narrow, as up to 10.0 points more lie outside"),
        ((0.84, 0.96), 0.004, "a little wider than they need be (up to 4.0 points), so"),
        ((0.95, 1.0), 0.004, "they are wider than they need be (up to 15.0 points)"),
        ((0.90, 0.90), 0.004, "not the right shape (up to 10.0 points off)"),
        ((0.753, 0.922), 0.02, "they are too narrow, as up to 4.7 points more lie outside"),
        ((0.753, 0.922), 0.03, "up to 4.7 points off, with too few forecasts to tell whether"),
        ((0.70, 0.85), None, "up to 10.0 points off, with too few forecasts to tell"),
    ],
)
def test_how_far_to_believe_intervals(held, error, said):
    coverage = dict(zip(("80", "95"), held, strict=True))
    model = scores("ar", 0.8, coverage=coverage, coverage_se={"80": error, "95": error})
    assert said in verdict(found(model))


def test_intervals_that_wear_out_and_data_that_are_few():
    by = {"80": (0.9, 0.85, 0.8, 0.6), "95": (0.95,) * 4}
    model = scores("ar", 0.8, coverage_by_step=by)
    assert "first third of the steps held 90 %, those of the last 60 %" in verdict(found(model))
    assert "5 forecasts are few" in verdict(found(forecasts=5))
    assert "No intervals" in verdict(found(scores("ar", 0.8, coverage={}, coverage_by_step={})))


def test_numbers_have_the_digits_that_matter():
    assert [number(v) for v in (None, 0.12345, 12.345, 1234.7, 123456.0, 1.5e9)] == [
        "–", "0.123", "12.35", "1,235", "123,456", "1.5e+09"
    ]  # fmt: skip
    assert [seconds(v) for v in (0.0001, 0.25, 75.0)] == ["< 0.01", "0.25", "75.00"]


# ---- charts ----


def numbers(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path)]


def test_lines_are_to_scale_and_break_where_nothing_is():
    root = ET.fromstring(by_step({"a": (1.0, 2.0, None, 3.0)}, {"a": "m0"}, "name"))
    line = next(p for p in root.iter("path") if p.get("class") == "line m0")
    points = numbers(line.get("d"))
    assert line.get("d").count("M") == 2 and len(points) == 3
    (x1, y1), (x2, y2), (x4, y4) = points
    assert x4 - x2 == pytest.approx(2 * (x2 - x1), abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y4, abs=0.2)  # up is less
    assert y1 > y4
    assert by_step({"a": (None,)}, {"a": "m0"}, "name") == ""


def test_a_wild_model_does_not_flatten_the_others():
    lines = {"good": (1.0, 1.2), "wild": (1.0, 1e6)}
    classes = {"good": "m0", "wild": "m1"}
    root = ET.fromstring(by_step(lines, classes, "name", top=3.6))
    paths = {p.get("class"): numbers(p.get("d")) for p in root.iter("path")}
    (_, first), (_, last) = paths["line m0"]
    assert first - last > 5
    assert -500 < paths["line m1"][1][1] < 0  # outside, where it is cut off


def test_of_all_candidates_the_best_the_worst_and_one_in_the_middle():
    found = [example(mase=m, rank="best") for m in (0.9, 0.2, 0.1, 0.5)]
    chosen = ranked(found, np.array([0.1, 0.2, 0.5, 0.52, 0.55, 0.9, np.nan]))
    assert [(e.mase, e.rank) for e in chosen] == [(0.1, "best"), (0.5, "median"), (0.9, "worst")]
    assert ranked([], np.array([np.nan])) == ()


def test_the_best_is_one_that_moves():
    """A series that stood still is forecast by anything, and tells nothing of a model."""
    still = example(mase=0.0, past=(0.0,) * 4, came=(0.0,) * 4, id="still")
    made = [still, example(mase=0.3, id="a"), example(mase=0.5), example(mase=0.9, id="z")]
    chosen = ranked(made, np.array([0.0, 0.0, 0.3, 0.5, 0.9]))
    assert [(e.id, e.rank) for e in (chosen[0], chosen[-1])] == [
        ("a", "best that moves"), ("z", "worst")
    ]  # fmt: skip
    assert "a: the best that moves of 100, MASE 0.300" in page(found(examples=chosen))
    alone = ranked([still, still], np.zeros(2))
    assert [e.rank for e in alone] == ["best", "worst"]


def test_a_fan_holds_what_it_shows():
    root = ET.fromstring(fan(example(), "name"))
    kinds = [p.get("class") for p in root.iter("path")]
    assert kinds.count("band") == 2
    bands = [numbers(p.get("d")) for p in root.iter("path") if p.get("class") == "band"]
    heights = [max(y for _, y in b) - min(y for _, y in b) for b in bands]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.3)  # the widest lies below
    labels = [t.text for t in root.iter("text")]
    assert {"Feb", "2024", "Jun"} <= set(labels)
    paths = {p.get("class"): numbers(p.get("d")) for p in root.iter("path")}
    assert paths["past"][-1] == paths["line"][0] == paths["came"][0] == bands[1][0]
    flat = example(past=(5.0,) * 4, came=(5.0,) * 4, median=(5.0,) * 4, bounds={})
    assert "nan" not in fan(flat, "name")
    zero = example(past=(0.0,), came=(0.0,), median=(0.0,), bounds={}, ticks=())
    ET.fromstring(fan(zero, "name"))


def test_what_leaves_the_picture_is_named():
    """A line far above the best one's was cut off, and nobody was told."""
    text = page(found(scores("ar", 0.5), scores("naive", 9.0), scores("mean", 0.9)))
    assert "MASE: the error, scaled; naive beyond the picture" in text
    assert "beyond the picture" not in page(found())


def test_one_forecast_says_little():
    assert verdict(found(forecasts=1)).endswith("One forecast says little: all this is rough.")
    assert verdict(found(forecasts=7)).endswith("7 forecasts are few: all this is rough.")


def test_no_band_is_named_where_there_is_none():
    assert "<span class=band>" in page(found(examples=(example(),)))
    blind = [scores("ar", 0.5, coverage={}, coverage_se={}, coverage_by_step={})]
    text = page(found(*blind, level=(), examples=(example(bounds={}),), best="ar"))
    assert "<span class=band>" not in text


def test_the_page_has_the_digits_of_the_shell():
    text = page(found(scores("ar", 0.5, wql=0.01448, smape=8.2704)))
    assert "0.0145" in text and "8.27<" in text and "8.270" not in text
