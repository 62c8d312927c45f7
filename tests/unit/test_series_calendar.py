"""Calendars against pandas, and text to stamps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from chainrule.series.calendar import Calendar, coarser, infer, named
from chainrule.series.stamps import Where, read_times, write_times
from tests.laws.tolerances import FLOAT64

# every name that pandas and ``alias`` share, with the season that people expect
SEASONS = {
    alias: season
    for season, aliases in (
        (1, "7h 2D YS YE YE-JUN YS-JUL 2YS 10ms"),
        (4, "6h QS QE QS-FEB QE-JAN"),
        (12, "MS ME BME"),
        (52, "W-SUN W-WED"),
        *((6, "2MS"), (26, "2W-MON"), (5, "B"), (7, "D"), (24, "h"), (48, "30min")),
        *((96, "15min"), (1440, "min"), (360, "10s"), (3600, "s")),
    )
    for alias in aliases.split()
}
WHERE = Where("sales.csv", "line", 2)


def stamps_of(index: pd.DatetimeIndex) -> np.ndarray:
    naive = index if index.tz is None else index.tz_convert("UTC").tz_localize(None)
    return naive.to_numpy().astype("datetime64[us]").astype(np.int64)


def inferred(index: pd.DatetimeIndex) -> Calendar:
    zone = None if index.tz is None else str(index.tz)
    return infer(stamps_of(index), np.ones(len(index) - 1, bool), False, zone)


@pytest.mark.parametrize("zone", [None, "Europe/Berlin", "+05:30"])
@pytest.mark.parametrize("alias", SEASONS)
def test_frequencies_are_those_of_pandas(alias, zone):
    """Inferred from stamps, named, forward and back, and onward: as pandas goes on."""
    periods = 18 if "Y" in alias else 50  # nobody knows the clocks of a zone far ahead
    index = pd.date_range("2001-03-05", periods=periods, freq=alias)
    index, onward = index[:-8].tz_localize(zone), index[-8:].tz_localize(zone)
    stamps = stamps_of(index)
    calendar = infer(stamps, np.ones(len(stamps) - 1, bool), False, zone)
    assert (calendar.alias, calendar.season) == (alias, SEASONS[alias])
    assert named(alias, stamps, False, zone) == calendar
    periods, on = calendar.locate(stamps)
    assert on.all()
    assert (np.diff(periods) == 1).all()
    np.testing.assert_array_equal(calendar.stamps(periods), stamps)
    future = calendar.stamps(periods[-1] + 1 + np.arange(8))
    np.testing.assert_array_equal(future, stamps_of(onward))


def test_time_of_day_and_weekday_are_kept():
    daily = pd.date_range("2020-01-01 09:30", periods=30, freq="D")
    calendar = inferred(daily)
    assert (calendar.alias, calendar.clock) == ("D", 9.5 * 3600 * 10**6)
    fifteenth = pd.date_range("2020-01-01", periods=30, freq="MS") + pd.Timedelta(days=14)
    calendar = inferred(fifteenth)
    assert calendar.day == 15
    periods, on = calendar.locate(stamps_of(fifteenth))
    assert on.all()
    assert (np.diff(periods) == 1).all()


def test_days_go_by_the_wall_and_hours_by_the_clock_of_the_world():
    days = pd.date_range("2020-03-20", periods=20, freq="D", tz="Europe/Berlin")  # 29: 23 hours
    assert inferred(days).alias == "D"
    hours = pd.date_range("2020-03-28 12:00", periods=40, freq="h", tz="Europe/Berlin")
    calendar = inferred(hours)
    assert calendar.alias == "h"
    assert calendar.locate(stamps_of(hours))[1].all()
    # Brazil began its summer at midnight, so that day had none: it began at one o'clock
    brazil = pd.DatetimeIndex(
        [pd.Timestamp(f"2018-11-{d:02d} {1 if d == 4 else 0}:00", tz="America/Sao_Paulo")
         for d in range(1, 12)]
    )  # fmt: skip
    calendar = inferred(brazil)
    periods, on = calendar.locate(stamps_of(brazil))
    assert calendar.alias == "D"
    assert on.all()
    assert (np.diff(periods) == 1).all()


def test_gaps_and_strays_do_not_change_the_frequency():
    index = pd.date_range("2020-01-31", periods=40, freq="ME").delete([3, 4, 17])
    assert inferred(index).alias == "ME"
    index = pd.date_range("2020-01-01", periods=100, freq="h").delete([5, 6, 7])
    stray = index.append(pd.DatetimeIndex(["2020-01-02 03:17"])).sort_values()
    calendar = inferred(stray)
    assert calendar.alias == "h"
    assert (~calendar.locate(stamps_of(stray))[1]).sum() == 1


def test_numbered_steps_and_the_borders_of_series():
    stamps = np.array([2, 4, 6, 8, 2, 4, 6])
    calendar = infer(stamps, np.diff(stamps) > 0, True, None)
    assert (calendar.alias, calendar.season) == ("2", 1)
    assert calendar.locate(np.array([2, 3, 4]))[1].tolist() == [True, False, True]
    with pytest.raises(ValueError, match="name the frequency, as in --freq D"):
        infer(np.array([5, 9]), np.array([False]), True, None)


def test_business_days_need_a_weekend_that_was_left_out():
    week = pd.date_range("2024-01-01", periods=5, freq="D")  # Monday to Friday
    assert inferred(week).alias == "D"
    assert inferred(week.append(week + pd.Timedelta(days=7))).alias == "B"
    friday, calendar = stamps_of(week[-1:]), inferred(week.append(week + pd.Timedelta(days=7)))
    monday = calendar.stamps(calendar.locate(friday)[0] + 1)
    assert monday == stamps_of(pd.DatetimeIndex(["2024-01-08"]))
    saturday, on = calendar.locate(stamps_of(pd.DatetimeIndex(["2024-01-06"])))
    assert saturday == calendar.locate(friday)[0]
    assert not on.any()


def test_named_periods_hold_what_lies_in_them():
    """Where stamps don't agree on the weekday or the day, periods begin where people expect it."""
    odd = pd.DatetimeIndex(["2024-01-03 10:00", "2024-01-09 17:00", "2024-02-20", "2024-03-31"])
    stamps = stamps_of(odd)
    weeks, months = (named(name, stamps, False, None) for name in ("W", "M"))
    assert (weeks.alias, months.alias) == ("W-MON", "MS")
    assert (np.diff(weeks.locate(stamps)[0]) == [1, 6, 5]).all()
    assert (np.diff(months.locate(stamps)[0]) == [0, 1, 1]).all()
    assert coarser(stamps, Calendar("us")) == "QS"


@pytest.mark.parametrize(
    ("name", "numbered", "words"),
    [
        ("soon", False, "--freq soon: not a frequency here; name one like h, 15min, D, W or MS"),
        ("0D", False, "--freq 0D: periods are one unit long at least"),
        ("3B", False, "--freq 3B: not a frequency here"),
        ("W-XYZ", False, "--freq W-XYZ: not a frequency here"),
        ("D", True, "name a whole number, as the stamps are"),
        ("2", False, "name one like h"),
    ],
)
def test_names_that_are_none(name, numbered, words):
    with pytest.raises(ValueError, match=words):
        named(name, np.array([0, 1]), numbered, None)


def test_calendar_features_tell_the_place_in_each_cycle():
    index = pd.date_range("2024-01-01", periods=24 * 7, freq="h")  # a Monday
    calendar = inferred(index)
    assert calendar.cycles == ("day", "week", "year")
    periods, _ = calendar.locate(stamps_of(index))
    found = calendar.steps(periods.reshape(7, 24))
    assert found.shape == (7, 24, 6)
    angle = 2 * np.pi * np.arange(24) / 24
    np.testing.assert_allclose(found[3, :, 0], np.cos(angle), rtol=0, atol=FLOAT64)
    np.testing.assert_allclose(found[3, :, 1], np.sin(angle), rtol=0, atol=FLOAT64)
    np.testing.assert_allclose(found[2, 12, 2:4], np.array([-0.623489801859, 0.781831482468]),
                               rtol=0, atol=FLOAT64)  # 2.5 of 7 days  # fmt: skip
    np.testing.assert_allclose((found.reshape(7, 24, 3, 2) ** 2).sum(-1), 1, rtol=FLOAT64)
    monthly = inferred(pd.date_range("2024-01-31", periods=24, freq="ME"))
    assert monthly.cycles == ("year",)
    assert Calendar("step").steps(np.arange(3)).shape == (3, 0)


# ---- text ----

DATES = pd.date_range("2020-01-25", periods=20, freq="D")
TIMES = pd.date_range("2020-01-25 07:00", periods=20, freq="h")
MONTHS = pd.date_range("2019-11-01", periods=20, freq="MS")
QUARTERS = [f"{t.year}|{t.quarter}" for t in pd.date_range("2019-01-01", periods=9, freq="QS")]


@pytest.mark.parametrize(
    ("index", "form"),
    [
        *((DATES, f) for f in ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y")),
        *((DATES, f) for f in ("%d-%m-%Y", "%Y%m%d", "%d %b %Y", "%d-%b-%y", "%B %d, %Y")),
        *((DATES, f) for f in ("%m/%d/%y", "%d.%m.%y")),
        *((TIMES, f) for f in ("%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%d.%m.%Y %H:%M:%S.%f")),
        *((TIMES, f) for f in ("%m/%d/%Y %I:%M %p", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M+0000")),
        *((MONTHS, f) for f in ("%Y-%m", "%Y%m", "%YM%m", "%m/%Y", "%b %Y", "%Y %b", "%b-%y")),
        *((MONTHS, f) for f in ("%m/%d/%Y", "%d/%m/%Y")),
    ],
)  # fmt: skip
def test_dates_in_the_forms_that_people_write(index, form):
    found = read_times(pa.chunked_array([index.strftime(form).tolist()]), "ds", WHERE)
    np.testing.assert_array_equal(found.stamps, stamps_of(index))
    assert (found.kind == pa.date32()) == (index is not TIMES)
    assert found.zone == ("UTC" if form.endswith(("Z", "+0000")) else None)
    back = pd.DatetimeIndex(pd.to_datetime(write_times(found.stamps, found.kind).to_pandas()))
    np.testing.assert_array_equal(stamps_of(back), found.stamps)


@pytest.mark.parametrize("form", ["{}Q{}", "{} Q{}", "{}-Q{}", "Q{1} {0}"])
def test_quarters(form):
    words = [form.format(*q.split("|")) for q in QUARTERS]
    found = read_times(pa.chunked_array([words]), "quarter", WHERE)
    expected = stamps_of(pd.date_range("2019-01-01", periods=9, freq="QS"))
    np.testing.assert_array_equal(found.stamps, expected)


def test_weeks_are_those_of_iso():
    mondays = pd.date_range("2019-12-02", periods=60, freq="W-MON")
    words = [f"{y}-W{w:02d}" for y, w, _ in (t.isocalendar() for t in mondays)]
    found = read_times(pa.chunked_array([words]), "week", WHERE)
    np.testing.assert_array_equal(found.stamps, stamps_of(mondays))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["2020-01-01", "2020-02-30"], "sales.csv, line 3: 'ds' is '2020-02-30': no such date"),
        (["2020-01-01", "later", "2020-01-03"], "line 3: 'ds' is 'later': not in the form"),
        (["2020-01-01", ""], "line 3: 'ds' is empty: every row needs a stamp"),
        (["2020-01-01", None], "line 3: 'ds' is empty: every row needs a stamp"),
        (["2020-01-01T00:00Z", "2020-01-02T00:00+01:00"], r"line 3.*zones \(\+01:00 and UTC\)"),
        (["2020-01-01T00:00Z", "2020-01-02T00:00"], r"line 3.*zones \(none and UTC\)"),
        ([f"{m:02d}/01/2020" for m in range(1, 13)], "line 3.*day or month first"),
        (["2020-01-31", "2/1/2020", "2020-02-02"], "'2/1/2020': not .* as '2020-01-31': write all"),
        (["2024-03-30T00:00+01:00", "2024-03-31T12:00+02:00"], "in UTC, as 2024-.*without a zone"),
        (["25:10", "26:10"], "no date or time like 2024-01-31 12:00; .* --time-col names it"),
        ([0.5, 1.5], "line 2: 'ds' is 0.5: stamps are dates, times or whole numbers"),
        ([True, False], "is bool, which is no time"),
    ],
)
def test_what_is_no_stamp(words, message):
    with pytest.raises(ValueError, match=message):
        read_times(pa.chunked_array([words]), "ds", WHERE)
