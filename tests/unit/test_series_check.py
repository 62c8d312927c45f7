"""What is wrong with series: found, mended or refused, beside a slow one that does one series."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from chainrule.series.check import merged
from chainrule.series.frames import read, read_chunks
from chainrule.series.points import filled, sums
from chainrule.verbs.forecaster import Forecaster
from tests.laws.tolerances import EXACT, FLOAT64

NAN = np.nan
MODELS = ("ar", "theta", "holt-winters", "damped")
DAYS = pd.date_range("2024-01-01", periods=40, freq="D")


def long(**series: pd.Series) -> pd.DataFrame:
    """Series by name; each a pandas series over its stamps."""
    parts = [
        pd.DataFrame({"unique_id": k, "ds": s.index, "y": s.values}) for k, s in series.items()
    ]
    return pd.concat(parts, ignore_index=True)


def line(days=DAYS, start: float = 0.0) -> pd.Series:
    return pd.Series(start + np.arange(float(len(days))), index=days)


def values(panel, series: int) -> np.ndarray:
    return panel.values[slice(*panel.offsets[series : series + 2])]


def finding(check, what: str):
    return next(f for f in check.findings if f.what == what)


def slow(rows: pd.DataFrame) -> tuple[np.ndarray, int]:
    """One daily series under the policy "fill", step by step; and its first day since 1970."""
    days = (rows.ds - pd.Timestamp("1970-01-01")).dt.days
    by_day = rows.y.where(np.isfinite(rows.y)).groupby(days).mean().dropna()
    every = np.arange(by_day.index.min(), by_day.index.max() + 1)
    return np.interp(every, by_day.index, by_day.values), int(every[0])


def test_all_series_at_once_are_as_each_alone():
    """Holes, NaN, infinities, duplicates, disorder, series mixed with each other."""
    rng = np.random.default_rng(7)
    frame = long(**{f"s{i}": line(DAYS[rng.integers(0, 9) :], start=i) for i in range(60)})
    frame["y"] += rng.standard_normal(len(frame))
    frame.loc[rng.random(len(frame)) < 0.05, "y"] = np.nan
    frame.loc[rng.random(len(frame)) < 0.02, "y"] = np.inf
    frame = pd.concat([frame, frame.sample(60, random_state=1).assign(y=5.0)])
    frame = frame.sample(frac=0.9, random_state=2)
    panel, check = read(frame)
    assert panel.ok.all()
    assert (panel.calendar.alias, panel.calendar.season) == ("D", 7)
    assert panel.ids.to_pylist() == frame.unique_id.drop_duplicates().tolist()
    for i, name in enumerate(panel.ids.to_pylist()):
        expected, first = slow(frame[frame.unique_id == name])
        assert panel.first[i] == first
        np.testing.assert_allclose(values(panel, i), expected, rtol=FLOAT64)
    assert {f.what for f in check.findings} >= {
        "rows out of order", "infinities", "duplicates", "NaN", "missing steps",
    }  # fmt: skip
    assert check.repaired == sum(s != "ok" for s in panel.status.to_pylist())


def test_what_is_right_is_left_alone():
    frame = long(a=line(), b=line(DAYS[5:]))
    panel, check = read(frame)
    np.testing.assert_array_equal(panel.values, frame.y)
    np.testing.assert_array_equal(panel.first, [19723, 19728])
    assert panel.status.to_pylist() == ["ok", "ok"]
    assert (check.findings, check.repaired, check.refused, check.status) == ((), 0, 0, {})


# ---- the list of bad input: status, message, policy ----

HOLES = line().drop(DAYS[[5, 20, 21]])
LONG_HOLE = line().drop(DAYS[10:16])
BAD = {
    "all zeros": (line() * 0, "all zeros", "all zeros", "a forecast of zeros, without a spread"),
    "constant": (line() * 0 + 3, "constant", "constant", "a constant forecast, without a spread"),
    "three rows": (line()[:3], "short: 3 points", "short", "fewer than 10 points: simple models"),
    "two rows": (line()[:2], "refused: 2 points", "refused: too short", "3 points are the fewest"),
    "all NaN": (line() * np.nan, "refused: all NaN", "refused: all NaN", "nothing to go on"),
    "all infinite": (
        line() + np.inf, "refused: no finite value; dropped 40 infinite values",
        "refused: no finite value", "nothing to go on",
    ),
    "infinities": (
        line().replace({4.0: np.inf, 9.0: -np.inf}),
        "dropped 2 infinite values; filled 2 steps", "infinities", "taken as missing",
    ),
    "duplicates": (
        pd.concat([line(), line()[7:8] + 100]),
        "averaged 1 duplicate", "duplicates", "the mean is taken",
    ),
    "gaps": (HOLES, "filled 3 steps", "missing steps", "filled by a straight line"),
    "NaN": (line().replace({6.0: np.nan}), "filled 1 step", "NaN", "filled by a straight line"),
    "NaN first": (line().replace({0.0: np.nan}), "ok", "NaN before all values", "begins there"),
    "NaN last": (
        line().replace({39.0: np.nan}),
        "dropped 1 NaN at its end", "NaN after all values", "the series ends there",
    ),
    "a stray stamp": (
        line().rename({DAYS[3]: DAYS[3] + pd.Timedelta(hours=5)}),
        "moved 1 stamp to their step", "stamps between steps", "moved to the step",
    ),
    "irregular": (
        line().set_axis(DAYS + pd.to_timedelta(np.arange(40) ** 2 % 17, "h")),
        "refused: 37 stamps between the steps of D", "refused: irregular spacing", "--freq D",
    ),
    "monthly among days": (
        line(pd.date_range("2020-01-01", periods=30, freq="MS")),
        "refused: mostly missing, 853 steps", "refused: mostly missing", "--freq MS",
    ),
    "weekly among days": (
        line(pd.date_range("2020-01-01", periods=30, freq="W")),
        "refused: a value every 7 steps of D", "refused: another frequency", "--freq",
    ),
    "out of order": (line()[::-1], "ok", "rows out of order", "sorted"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_series_gets_a_status_and_the_others_go_on(name):
    series, status, what, done = BAD[name]
    others = {k: line(start=i) for i, k in enumerate("bcd")}
    panel, check = read(long(**others, bad=series))
    assert panel.status.to_pylist() == ["ok", "ok", "ok", status]
    for i in range(3):
        np.testing.assert_array_equal(values(panel, i), np.arange(40.0) + i)
    found = finding(check, what)
    assert done in found.done
    assert found.first.startswith("bad")
    assert check.status == ({} if status == "ok" else {"bad": status})
    assert check.refused == status.startswith("refused") == (not panel.ok[3])
    after = pd.Timestamp("1970-01-01") + pd.Timedelta(days=int(panel.future(1)[3, 0]))
    seen = series.dropna().index.max() if panel.ok[3] else series.index.max()
    assert after == (seen + pd.Timedelta(days=1)).normalize()


def test_series_that_end_before_the_others_are_named():
    frame = long(a=line(), b=line(DAYS[:30]), c=line(), d=line(DAYS[:20]), e=line() * NAN)
    frame.loc[29 + 40, "y"] = NAN  # the last of b
    panel, check = read(frame)
    found = finding(check, "ends before the others")
    assert (found.series, found.done) == (2, "forecast from there on")
    assert found.first == "b at 2024-01-29 00:00:00 (row 68)"
    assert panel.status.to_pylist()[3] == "ok"
    for noise in (
        frame[~frame.unique_id.isin(["c"])],  # most end at times of their own
        frame.assign(ds=(frame.ds - DAYS[0]).dt.days),  # steps are numbered
        frame[frame.unique_id.isin(["a", "c"])],
    ):
        assert "ends before the others" not in {f.what for f in read(noise)[1].findings}


def test_a_season_that_is_too_long_is_noted_where_it_was_asked_for():
    frame = long(a=line(), b=line())
    done = "no season is learned; only seasonal-naive may repeat the last one"
    for season in (20, 500):
        found = finding(read(frame, season=season)[1], f"at most two seasons of {season}")
        assert (found.series, found.points, found.done) == (2, 80, done)
    assert read(frame, season=19)[1].findings == read(frame, season=1)[1].findings == ()
    assert read(long(a=line(DAYS[:12])))[1].findings == ()
    ahead = [Forecaster(m, season=s).fit(frame).predict(3)[m] for m in MODELS for s in (20, 1)]
    assert all(one.equals(other) for one, other in zip(ahead[::2], ahead[1::2], strict=True))


def test_regressors_may_have_any_name():
    frame = long(a=line()).assign(**{"{price}": np.nan, "{}": 1.0})
    assert read(frame, known=["{price}"])[0].status.to_pylist() == ["refused: no value of {price}"]
    frame.loc[3, "{}"] = np.nan
    assert read(frame, known=["{}"])[0].status.to_pylist() == ["filled 1 value of {}"]
    refused = read(frame, known=["{}"], policy="refuse")[0]
    assert refused.status.to_pylist() == ["refused: 1 NaN of {}"]


def test_a_finding_names_series_stamp_and_row():
    check = read(long(a=line(), b=HOLES))[1]
    assert finding(check, "missing steps").first == "b at 2024-01-07 00:00:00 (row 45)"
    assert finding(check, "missing steps").points == 3
    assert check.rows() == [
        (
            "missing steps",
            "1",
            "3",
            "b at 2024-01-07 00:00:00 (row 45)",
            "filled by a straight line",
        )
    ]


def test_if_none_is_left_it_says_why():
    check = read(long(a=line() * np.nan))[1]
    with pytest.raises(
        ValueError, match="the frame: no series is left; refused: all NaN: a; there is"
    ):
        check.require()
    read(long(a=line() * np.nan, b=line()))[1].require()


def test_policies():
    frame = long(a=line(), b=HOLES, c=LONG_HOLE)
    filled_, split, refused = (read(frame, policy=p)[0] for p in ("fill", "split", "refuse"))
    assert filled_.lens.tolist() == [40, 40, 40]
    np.testing.assert_allclose(filled_.values, np.tile(np.arange(40.0), 3), rtol=FLOAT64)
    assert split.lens.tolist() == [40, 40, 24]
    assert split.status.to_pylist() == ["ok", "filled 3 steps", "dropped 10 values before a gap"]
    np.testing.assert_array_equal(values(split, 2), np.arange(16.0, 40))
    assert refused.lens.tolist() == [40, 0, 0]
    one = read(long(a=line().drop(DAYS[5])), policy="refuse")[0]
    assert one.status.to_pylist() == ["refused: 1 missing step"]
    assert refused.status.to_pylist() == [
        "ok", "refused: 3 missing steps", "refused: 6 missing steps",
    ]  # fmt: skip
    for name in ("infinities", "duplicates", "NaN", "a stray stamp"):
        panel, check = read(long(a=line(), b=BAD[name][0]), policy="refuse")
        assert panel.ok.tolist() == [True, False], name
        assert check.findings[-1].done == "--policy fill would mend it"
    with pytest.raises(ValueError, match="--policy ignore: there are fill, split, refuse"):
        read(frame, policy="ignore")


def test_a_split_can_leave_too_little():
    panel, _ = read(long(a=line(), b=line().drop(DAYS[10:38])), policy="split")
    assert panel.status.to_pylist()[1] == "refused: 2 points; dropped 10 values before a gap"


def test_stamps_that_all_come_twice_want_an_id():
    rows = pd.concat([line(), line() + 1]).sort_index()
    frame = pd.DataFrame({"shop": ["x", "y"] * 40, "ds": rows.index, "y": rows.values})
    check = read(frame)[1]
    with pytest.raises(ValueError, match=r"by --id-col \(perhaps 'shop'\), or add up the rows"):
        check.require()
    assert read(frame, id_col="shop")[1].refused == 0


def test_a_named_frequency_takes_the_mean_of_each_period():
    hours = pd.date_range("2024-01-01 00:20", periods=96, freq="7h")
    panel, check = read(long(a=line(hours)), freq="D")
    expected = line(hours).groupby(hours.normalize()).mean()
    np.testing.assert_allclose(panel.values, expected, rtol=FLOAT64)
    assert panel.calendar.alias == "D"
    assert finding(check, "stamps in the step of another").done == "the mean is taken"


def test_regressors_are_filled_within_a_series_and_never_across():
    price = line() + 50
    price.iloc[[0, 5, 39]] = np.nan
    frame = long(a=HOLES, b=line(start=9), c=line())
    own = {"a": price, "b": line() * np.nan, "c": line() * 2}
    frame["price"] = [own[k].get(t) for k, t in zip(frame.unique_id, frame.ds, strict=True)]
    panel, check = read(frame, known=["price"])
    assert panel.names == ("price",)
    expected = np.interp(np.arange(40), np.arange(40)[1:-1], np.arange(51.0, 89))
    np.testing.assert_allclose(panel.known[:40, 0], expected, rtol=FLOAT64)
    np.testing.assert_array_equal(panel.known[40:, 0], np.arange(40.0) * 2)
    assert panel.status.to_pylist() == [
        "filled 3 steps; filled 2 values of price", "refused: no value of price", "ok",
    ]  # fmt: skip
    assert finding(check, "refused: no price").series == 1


def test_helpers_over_series_that_may_be_empty():
    offsets = np.array([0, 0, 3, 3, 5, 5])
    assert sums(np.array([1, 2, 3, 4, 5]), offsets).tolist() == [0, 6, 0, 9, 0]
    nan = np.nan
    got = filled(np.array([nan, 1.0, nan, nan, 9.0]), offsets)
    np.testing.assert_array_equal(got, [1, 1, 1, 9, 9])


def test_checks_of_parts_add_up():
    frame = long(a=line(), b=HOLES, c=line() * 0, d=line() * np.nan, e=HOLES)
    whole = read(pa.Table.from_pandas(frame))[1]
    parts = [read(frame[frame.unique_id.isin(list(k))])[1] for k in ("ab", "cd", "e")]
    total = merged(parts)
    assert (total.series, total.points, total.refused, total.repaired) == (5, 160, 1, 2)
    assert (total.begin, total.end, total.status) == (whole.begin, whole.end, whole.status)
    ours = {f.what: (f.series, f.points, f.done) for f in total.findings}
    assert ours == {f.what: (f.series, f.points, f.done) for f in whole.findings}
    chunks = list(read_chunks(frame, 2))
    assert [len(p) for p, _ in chunks] == [2, 2, 1]
    assert [c is None for _, c in chunks] == [False, True, True]
    assert "<td>missing steps</td>" in total._repr_html_()


def test_remarks_are_added_to_a_status():
    panel = read(long(a=line(), b=HOLES, c=line()))[0]
    noted = panel.noted(np.array([True, True, False]), "naive: a longer horizon than history")
    assert noted.status.to_pylist() == [
        "naive: a longer horizon than history",
        "filled 3 steps; naive: a longer horizon than history",
        "ok",
    ]
    picked = noted.select(np.array([2, 1]))
    assert picked.status.to_pylist() == ["ok", noted.status.to_pylist()[1]]
    np.testing.assert_allclose(values(picked, 0), np.arange(40.0), atol=EXACT)
    assert picked.ragged().lens.tolist() == [40, 40]
