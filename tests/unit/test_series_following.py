"""New rows of known series, as they come day by day; beside a fit of everything."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import polars as pl
import pytest

from chainrule.series.following import following
from chainrule.series.frames import read
from chainrule.verbs.forecaster import Forecaster
from tests.laws.tolerances import FLOAT64

DAYS = pd.date_range("2024-01-01", periods=60, freq="D")
NAN = math.nan


def frame(ids: str = "abc") -> pd.DataFrame:
    dice = np.random.default_rng(0)
    parts = [
        pd.DataFrame({"unique_id": i, "ds": DAYS, "y": dice.normal(size=60).cumsum()}) for i in ids
    ]
    return pd.concat(parts, ignore_index=True)


DATA = frame()
OLD, NEW = DATA[DATA.ds < DAYS[50]], DATA[DATA.ds >= DAYS[50]].reset_index(drop=True)


def points(new, series: int) -> list[float]:
    return new.panel.values[slice(*new.panel.offsets[series : series + 2])].tolist()


def without(series: str, *days: int) -> pd.DataFrame:
    return NEW[~((NEW.unique_id == series) & NEW.ds.isin(DAYS[list(days)]))]


def with_(value: float, series: str, *days: int) -> pd.DataFrame:
    at = (NEW.unique_id == series) & NEW.ds.isin(DAYS[list(days)])
    return NEW.assign(y=NEW.y.where(~at, value))


UGLY = {
    "a gap at once": without("b", 50, 51),
    "a gap": without("b", 53),
    "both, and disorder": without("b", 50, 53, 54).sample(frac=1, random_state=0),
    "NaN at once": with_(NAN, "b", 50, 51),
    "NaN": with_(NAN, "b", 53),
    "infinities": with_(math.inf, "b", 50, 55),
    "NaN at the end": with_(NAN, "b", 58, 59),
    "only NaN": with_(NAN, "b", *range(50, 60)),
    "no row": NEW[NEW.unique_id != "b"],
    "duplicates": pd.concat([NEW, NEW[12:14].assign(y=9.0)]),
    "others first": NEW[::-1],
}


@pytest.mark.parametrize("name", UGLY)
def test_the_policy_holds_as_it_does_in_fit(name):
    """What is taken in is the end of what fit would have read."""
    rows = UGLY[name]
    new = following(read(OLD)[0], rows, "fill")
    whole, _ = read(pd.concat([OLD, rows]))
    for i in range(3):
        values = whole.values[slice(*whole.offsets[i : i + 2])]
        np.testing.assert_allclose(points(new, i), values[50:], rtol=FLOAT64)
    assert (new.panel.first == read(OLD)[0].future(1)[:, 0]).all()
    given = Forecaster("ar", order=2, difference=0, seasonal_difference=0).fit(OLD)
    stands = given.update(rows).predict(1).set_index("unique_id").ds
    gone = {"NaN at the end": 58, "only NaN": 50, "no row": 50}.get(name, 60)
    assert stands["b"] == DAYS[0] + pd.Timedelta(days=gone)
    assert stands["a"] == stands["c"] == DAYS[-1] + pd.Timedelta(days=1)


@pytest.mark.parametrize("kind", ["wide", "polars", "csv", "list"])
def test_a_frame_of_any_kind_may_have_holes(kind, tmp_path):
    rows = with_(NAN, "b", *range(50, 60))
    rows = rows.assign(y=rows.y.where(rows.ds != DAYS[50]))
    wide = {part: f.pivot(index="ds", columns="unique_id", values="y").reset_index()
            for part, f in (("old", OLD), ("new", rows))}  # fmt: skip
    rows.to_csv(tmp_path / "new.csv", index=False)
    old, new = {
        "wide": (wide["old"], wide["new"]),
        "polars": (pl.from_pandas(OLD), pl.from_pandas(rows)),
        "csv": (OLD.assign(ds=OLD.ds.dt.date), tmp_path / "new.csv"),
        "list": (OLD.y.to_numpy().reshape(3, 50), rows.y.to_numpy().reshape(3, 10)),
    }[kind]
    found = following(read(old)[0], new, "fill")
    assert found.panel.lens.tolist() == [10, 0, 10]
    last, next_ = OLD.y[49], NEW.y[1]
    np.testing.assert_allclose(points(found, 0)[:2], [(last + next_) / 2, next_], rtol=FLOAT64)
    assert found.seen.tolist() == ([False] + [True] * 9) * 2


def test_update_says_what_was_done_and_goes_on():
    given = Forecaster("naive").fit(OLD)
    assert given.check.findings == ()
    given.update(without("b", 50, 53))
    (gap,) = given.check.findings
    assert (gap.what, gap.series, gap.points, gap.first) == (
        "missing steps", 1, 2, "b at 2024-02-21 00:00:00 (row 10)",
    )  # fmt: skip
    assert (given.check.points, given.check.series) == (30, 3)
    assert given.check.begin.startswith("2024-02-20")
    given.update(NEW[:1].assign(ds=DAYS[-1] + pd.Timedelta(days=40), y=7.0))
    assert given.predict(1).naive[0] == 7.0
    assert given.check.status == {"a": "filled 39 steps"}


@pytest.mark.parametrize("policy", ["fill", "refuse", "split"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_without_a_single_value_leave_everything_where_it_stands(policy, value):
    old = OLD.assign(promo=np.arange(len(OLD)) % 3)
    ahead = NEW.assign(promo=1)
    given = Forecaster("ar", policy=policy, known=["promo"]).fit(old)
    before = given.predict(2, future=ahead)
    rows = ahead[ahead.ds == DAYS[50]].assign(y=value)
    if (value, policy) == (np.inf, "refuse"):
        with pytest.raises(ValueError, match="refused: 1 infinite value"):
            given.update(rows)
    else:
        given.update(rows)
    pd.testing.assert_frame_equal(given.predict(2, future=ahead), before)


def test_a_stamp_far_ahead_fills_no_memory():
    panel, _ = read(OLD)
    for days, fine in ((2, True), (103, True), (104, False), (10**6, False)):
        rows = NEW[:1].assign(ds=(DAYS[49] + pd.Timedelta(days=days)).as_unit("s"))
        if fine:
            assert following(panel, rows, "fill").panel.lens.tolist() == [days, 0, 0]
            continue
        with pytest.raises(ValueError, match=rf"series a: refused: mostly missing, {days - 1:,} s"):
            following(panel, rows, "fill")


@pytest.mark.parametrize(
    ("rows", "policy", "message"),
    [
        (without("b", 50), "refuse", "b: refused: 1 missing step .goes on at 2024-02-20 .*, but "
         "the first new row is of 2024-02-21 .*--policy fill would mend it"),
        (with_(NAN, "b", 52), "refuse", "b: refused: 1 NaN; --policy fill would mend it"),
        (UGLY["duplicates"], "refuse", "b: refused: 2 duplicates; --policy fill would mend it"),
        (without("b", *range(50, 55)), "split", "b: refused: a gap of more than 3 steps, at which "
         "what was fitted can't be split .*; --policy fill would mend it, or fit again"),
        (DATA[DATA.ds >= DAYS[49]], "fill", "a goes on at 2024-02-20 .*, but the first new row is "
         "of 2024-02-19 .*: leave out what came before"),
        (with_(NAN, "b", 50).assign(ds=NEW.ds - pd.Timedelta(days=1)), "fill", "leave out what"),
        (NEW.assign(unique_id="z"), "fill", "series z is new: fit again to take it in"),
        (NEW.assign(ds=NEW.ds + pd.Timedelta(hours=1)), "fill", "a: refused: 10 stamps between"),
    ],
)  # fmt: skip
def test_nothing_is_taken_in_if_anything_is_refused(rows, policy, message):
    given = Forecaster("naive", policy=policy).fit(OLD)
    before = given.predict(2)
    for use in (given.update, Forecaster("naive", policy=policy).fit(OLD).anomalies):
        with pytest.raises(ValueError, match=message) as error:
            use(rows)
        assert "\n" not in str(error.value)
    assert given.predict(2).equals(before)


def test_short_gaps_are_filled_where_long_ones_split():
    new = following(read(OLD)[0], without("b", 50, 51), "split")
    assert new.panel.lens.tolist() == [10, 10, 10]


def test_what_was_filled_is_no_observation():
    given = Forecaster("ar", order=1).fit(OLD)
    rows = without("b", 50, 53).assign(y=lambda f: f.y.where(f.ds != DAYS[55]))
    found = given.anomalies(rows)
    seen = rows.dropna().reset_index(drop=True)
    assert found[["unique_id", "ds", "y"]].equals(seen[["unique_id", "ds", "y"]])
    assert given.anomalies(NEW).merge(found, on=["unique_id", "ds", "y"]).shape[0] == len(seen)


def test_rows_of_a_series_that_fit_refused_are_left_out():
    """A wide table always has its column."""
    data = DATA.assign(y=DATA.y.where((DATA.unique_id != "b") | (DATA.ds >= DAYS[50])))
    given = Forecaster("naive").fit(data[data.ds < DAYS[50]]).update(NEW)
    assert given.check.notes == ("left out, as fit did: 1 series, first b (refused: all NaN)",)
    found = given.predict(1)
    assert found.naive.isna().tolist() == [False, True, False]
    assert found.ds[0] == found.ds[2] == DAYS[-1] + pd.Timedelta(days=1)
    with pytest.raises(ValueError, match="series b was refused: all NaN: fit again"):
        given.update(NEW[NEW.unique_id == "b"])


def test_regressors_that_lack_among_new_rows_are_filled_from_there():
    data = DATA.assign(price=DATA.ds.dt.day * 1.0)
    panel, _ = read(data[data.ds < DAYS[50]], known=["price"])
    rows = data[data.ds >= DAYS[52]].copy()
    rows.loc[rows.ds == DAYS[55], "price"] = NAN
    new = following(panel, rows, "fill")
    prices = rows[rows.unique_id == "a"].price.interpolate().tolist()
    assert new.panel.known[:10, 0].tolist() == [prices[0]] * 2 + prices
    rows["y"] = NAN
    assert following(panel, rows, "fill").panel.lens.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="a: refused: no value of price"):
        following(panel, rows.assign(y=1.0, price=NAN), "fill")


def test_a_named_frequency_takes_means_of_new_rows_too():
    given = Forecaster("naive", freq="W-MON").fit(OLD)
    week = NEW[NEW.ds >= "2024-02-26"]
    assert given.predict(1).ds[0] == pd.Timestamp("2024-02-26")
    found = given.update(week).predict(1)
    mean = week[week.ds < "2024-03-04"].groupby("unique_id").y.mean()
    np.testing.assert_allclose(found.naive, mean, rtol=FLOAT64)


def test_an_update_without_gaps_is_the_same_to_the_bit():
    whole = Forecaster("naive").fit(DATA).predict(3)
    assert Forecaster("naive").fit(OLD).update(NEW).predict(3)["naive"].equals(whole["naive"])
    new = following(read(OLD)[0], NEW)
    assert new.panel.values.tobytes() == NEW.y.to_numpy().tobytes()
    assert new.seen.all() and new.check.findings == ()
