"""Ugly data: what comes in is read as it is meant, or refused by one line that says what to do."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from chainrule.series.calendar import infer, named
from chainrule.series.following import following
from chainrule.series.frames import frame_of, read, read_chunks
from chainrule.series.future import future_known
from tests.laws.tolerances import FLOAT64

DAYS = pd.date_range("2024-01-01", periods=20, freq="D")
TEXT = DAYS.strftime("%Y-%m-%d").tolist()
FRAME = pd.DataFrame(
    {"unique_id": np.repeat(["a", "b"], 20), "ds": np.tile(DAYS, 2), "y": np.arange(40.0)}
)
NAMELESS = "line 1: stamps where the names of the columns should be"


def one(ds, y=None, ids="a") -> pd.DataFrame:
    return pd.DataFrame({"unique_id": ids, "ds": ds, "y": np.arange(len(ds)) if y is None else y})


def table(**columns) -> pa.Table:
    return pa.table({"unique_id": ["a"] * 20, "ds": pa.array(DAYS), "y": np.arange(20)} | columns)


def rows(form: str) -> str:
    return "".join(form.format(t, k) for k, t in enumerate(TEXT))


def finding(check, what: str):
    return next(f for f in check.findings if f.what == what)


# ---- arrays ----


def test_masked_values_are_missing_and_gradients_let_go():
    assert read(torch.arange(5.0, requires_grad=True))[1].points == 5
    array = np.ma.masked_array(np.arange(9), mask=np.arange(9) == 4)
    for data in (array, array[None], [array, np.arange(3)]):
        panel, check = read(data)
        assert finding(check, "NaN").points == 1
        np.testing.assert_allclose(panel.values[:9], np.arange(9), rtol=FLOAT64)


@pytest.mark.parametrize(
    "data", [DAYS.to_numpy(), np.arange(5) * 1j, [10**400, 1, 2], [[[1, 2], [3, 4]]], [[1, 2], 3]]
)
def test_arrays_that_are_no_numbers(data):
    with pytest.raises(ValueError, match="the array: one series is"):
        read(data)


# ---- frames ----

IDS = pa.array(["a"] * 10 + ["b"] * 10)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (table().append_column("y", pa.array(range(20))), "two columns are called 'y': rename one"),
        (pd.concat([FRAME, FRAME.y], axis=1), "two columns are called 'y': rename one"),
        (table(unique_id=pa.array([[1]] * 20)), "ids are list<item: int64>: turn them into text"),
        (table(unique_id=pa.DictionaryArray.from_arrays([0] * 9 + [1] * 11, ["a", None])),
         "row 9: a row without an id"),
        (table(ds=pa.array([np.inf, *range(19)])), "row 0: 'ds' is inf: stamps are"),
        (table(ds=pa.array([-(2**63), *range(18), 2**63 - 1])), "whole numbers below 2.62"),
        (table(ds=pa.array(range(2**63, 2**63 + 20), pa.uint64())), "row 0: 'ds' is 9.22337e.18"),
        (table(ds=pa.array([*range(19), 2**62], pa.timestamp("us"))), "row 19: .* years 1 to 9999"),
        (table(ds=pa.array([10**17] * 20, pa.timestamp("s"))), "the frame: .* years 1 to 9999"),
        (one(DAYS).set_index(pd.period_range("2020", periods=20, freq="M"))[["y"]], "Period by"),
        (pd.DataFrame({"day": pd.Index([DAYS[0].tz_localize(z) for z in ("UTC", "Asia/Tokyo")]
                                       * 2, dtype=object), "y": 1.0}), "'day' has several time zo"),
    ],
)  # fmt: skip
def test_frames_that_cannot_be_read(data, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "ids", [IDS.cast(pa.string_view()),
            pa.DictionaryArray.from_arrays([0] * 5 + [1] * 5 + [2] * 10, ["a", "a", "b"])]
)  # fmt: skip
def test_ids_as_arrow_may_hold_them(ids):
    assert read(table(unique_id=ids))[0].ids.to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(np.ones((20, 3)), index=DAYS).reset_index(names="ds"),  # a name, and numbers
        one(DAYS).set_index(DAYS + pd.Timedelta(days=500)),  # an index beside the stamps
        pd.Series(np.ones(20), index=TEXT),
    ],
)
def test_indices_and_names_of_pandas(frame):
    assert read(frame)[1].begin.removesuffix(" 00:00:00") == "2024-01-01"


def test_stamps_that_their_type_cannot_hold_get_a_wider_one():
    """The next steps of a small integer, and half days after dates."""
    panel, _ = read(table(ds=pa.array(np.arange(108, 128), pa.int8())))
    assert frame_of(panel, {"ar": np.zeros((1, 2))})["ds"].to_pylist() == [128, 129]
    panel, _ = read(table(ds=pa.array(DAYS).cast(pa.date32())), freq="12h")
    found = frame_of(panel, {"ar": np.zeros((1, 2))})["ds"].to_pylist()
    assert found == [pd.Timestamp("2024-01-20 12:00"), pd.Timestamp("2024-01-21")]
    seconds = pd.date_range("2024-01-01", periods=20, freq="s").as_unit("s")
    panel, _ = read(one(seconds), freq="500ms")
    assert frame_of(panel, {"ar": np.zeros((1, 1))}).ds[0] == seconds[-1] + pd.Timedelta("500ms")


# ---- CSV ----


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (rows("{},{}\n"), NAMELESS),
        (rows("a,{},{}\n"), NAMELESS),
        ("unique_id,ds,y\n" + rows("a,{},{}\n") + "," + TEXT[0] + ",5\n", "line 22: a row without"),
        ("# of May\nds,y\n" + rows("{},{}\n"), "line 1: one column where the rows below have more"),
        ("ds,y\n" + rows("{},{}\n").replace(",8\n", "\n"), "line 10: 1 columns where the header"),
        ("ds,y", "there are names of columns, but no rows"),
        ("week,y\n2023-W52,1\n2024-W53,2\n2025-W01,3\n", "line 3: 'week' is '2024-W53': no such"),
        ("ds,y\n\n" + rows("{},{}\n\n").replace(TEXT[7], "soon"), "row 8: 'ds' is 'soon'"),
        ("ds,y,n\n" + rows('{},{},"a\nb"\n').replace(TEXT[7], "soon"), "row 8: 'ds' is 'soon'"),
        ('ds,y\n2024-01-01,"5\n' + rows("{},{}\n"), r"row 1: 'y' is '5.n.*… \(\d+ characters"),
        ("ds,y\n" + rows("{},{}\n") + '2024-02-01,"' + "x" * 200_000, "field larger than.* quote"),
        (b"1" * 2_000_000, "field larger than field limit .* in its first lines"),
        (b"unique_id,ds,y\n" + b"a,1,1\n" * 60_000 + "Größe,1,1\n".encode("latin-1"),
         "line 60,002 is not UTF-8: save the file"),
        ("ds,y\n" + rows('{},"1,234.5"\n').replace("1,234.5", "1.234,5", 1), "line 2: .* not wri"),
    ],
)  # fmt: skip
def test_csv_that_cannot_be_read(tmp_path, data, message):
    path = tmp_path / "sales.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_decimal_comma_anywhere_makes_the_dot_a_thousands_mark(tmp_path):
    path = tmp_path / "sales.csv"
    path.write_text("ds;a;b\n" + rows("{};1.234;{},5\n"))
    panel, check = read(path)
    np.testing.assert_array_equal(panel.values[:20], [1234.0] * 20)
    assert check.notes == ()
    path.write_text("ds;a\n" + rows("{};1,234\n"))  # German or English: a choice, so it is said
    panel, check = read(path)
    np.testing.assert_array_equal(panel.values, [1.234] * 20)
    assert check.notes == ("numbers like 1,234 are read with a decimal comma",)


def test_headers_of_all_sizes(tmp_path):
    """Wider than what is looked at first; with a line break; with the delimiter of others."""
    path = tmp_path / "sales.csv"
    names = [f"a_very_long_name_of_a_series_which_has_a_number_{i:05d}" * 25 for i in range(250)]
    path.write_text(
        "ds," + ",".join(names) + "\n" + "".join(f"{t}{',1.5' * 250}\n" for t in TEXT[:5])
    )
    assert path.stat().st_size > 2**18
    panel, check = read(path)
    assert (check.series, panel.ids[249].as_py()) == (250, names[249])
    for head in ('Tag;"Umsatz\n(EUR)"', "Tag;Umsatz, netto"):
        path.write_text(head + "\n" + rows("{};{},5\n"))
        np.testing.assert_array_equal(read(path)[0].values, np.arange(20) + 0.5)


# ---- Parquet and paths ----


def test_files_that_are_none(tmp_path):
    (tmp_path / "folder.parquet").mkdir()
    cut = tmp_path / "cut.csv.gz"
    numbers = np.random.default_rng(0).integers(0, 10**9, 200_000)
    lines = "".join(f"{k},{v}\n" for k, v in enumerate(numbers)).encode()
    cut.write_bytes(gzip.compress(b"ds,y\n" + lines)[:-1000])
    nested, odd, empty = (tmp_path / f"{n}.parquet" for n in ("nested", "odd", "empty"))
    parquet.write_table(table(unique_id=pa.array([{"a": 1}] * 20)), nested)
    parquet.write_table(table()[:0], empty)
    parquet.write_table(table(), odd, compression=None)
    raw = bytearray(odd.read_bytes())
    raw[10:18] = b"\xff" * 8  # a page's header
    odd.write_bytes(raw)
    for path, message in (
        (tmp_path / "folder.parquet", "folder.parquet: a folder: give the path of one file in it"),
        (tmp_path / "no.parquet", "no.parquet: no such file"),
        (cut, "cut.csv.gz: damaged"),
        (nested, "ids are struct<a: int64>"),
        (odd, "odd.parquet: not a Parquet file, or damaged"),
        (empty, "there are columns, but no rows"),
    ):
        for reader in (read, lambda p: list(read_chunks(p))):
            with pytest.raises(ValueError, match=message) as caught:
                reader(path)
            assert "\n" not in str(caught.value)


def test_dates_in_words_are_read_by_all_of_a_file(tmp_path):
    """The second part alone could be of January's days or of the first days of months."""
    path = tmp_path / "sales.parquet"
    days = [[f"{d:02d}/01/2024" for d in days] for days in (range(10, 31), range(1, 13))]
    ids = np.repeat(["a", "b"], [21, 12])
    parquet.write_table(
        pa.table({"unique_id": ids, "ds": days[0] + days[1], "y": np.ones(33)}), path
    )
    parts = list(read_chunks(path, 1))
    assert [p.calendar.stamps(p.first)[0] // 86400_000_000 for p, _ in parts] == [19732, 19723]
    assert "with times that aren't words" in parts[0][1].notes[-1]


# ---- calendars ----


@pytest.mark.parametrize("alias", ["2W-MON", "4W-FRI", "2QS-FEB", "2QS-MAY"])
def test_names_of_long_periods_begin_where_the_stamps_do(alias):
    for start in pd.date_range("2001-01-01", periods=9, freq="11D"):
        index = pd.date_range(start, periods=15, freq=alias)
        stamps = index.as_unit("us").asi8
        calendar = named(alias, stamps, False, None)
        assert calendar == infer(stamps, np.ones(14, bool), False, None)
        assert calendar.locate(stamps)[1].all()


@pytest.mark.parametrize(("name", "alias"), [("M", "ME"), ("Q", "QE"), ("M", "MS"), ("Y", "YE")])
def test_short_names_in_a_zone_end_where_the_stamps_do(name, alias):
    index = pd.date_range("2005-01-01", periods=9, freq=alias, tz="America/New_York")
    stamps = index.tz_convert("UTC").as_unit("us").asi8
    assert named(name, stamps, False, "America/New_York").alias == alias


@pytest.mark.parametrize("name", ["W-JAN", "D-MON", "QS-MON", "h-FEB", "ME-MAR", "B-MON"])
def test_anchors_that_are_none(name):
    with pytest.raises(ValueError, match="not a frequency here; name one like B, W-SUN or QS-FEB"):
        read(FRAME, freq=name)


def test_endless_periods():
    for name in ("99999999999999999D", "1000000000000h", "9999999MS", "101Y"):
        with pytest.raises(ValueError, match="periods are a hundred years long at most"):
            read(FRAME, freq=name)
    with pytest.raises(ValueError, match="--season 10"):
        read(FRAME, season=10**30)


def test_a_stray_weekend_does_not_make_holes_of_all_others():
    days = pd.bdate_range("2024-01-01", periods=60)
    frame = pd.concat([one(days, ids=f"s{i}") for i in range(5)])
    stray = one([pd.Timestamp("2024-02-03")], ids="s3")
    panel, check = read(pd.concat([frame, stray]))
    assert (check.frequency, check.repaired, check.points) == ("B", 1, 300)
    assert panel.status.to_pylist()[3] == "moved 1 stamp to their step; averaged 1 duplicate"


# ---- what is found is what there is ----


def test_what_a_split_drops_is_not_called_filled():
    y = np.arange(20.0)
    y[[2, 15]] = np.nan
    frame = one(DAYS, y).drop(index=[*range(5, 10), 17])
    panel, check = read(frame, policy="split")
    assert panel.status.to_pylist() == ["dropped 4 values before a gap; filled 2 steps"]
    found = {f.what: f.points for f in check.findings}
    assert found == {"values before a long gap": 4, "NaN": 1, "missing steps": 1}
    np.testing.assert_allclose(panel.values, np.arange(10.0, 20), rtol=FLOAT64)


def test_infinities_at_the_ends_are_counted_once():
    y = np.arange(20.0)
    y[[0, 18, 19]] = -np.inf, np.nan, np.inf
    panel, check = read(one(DAYS, y))
    assert panel.status.to_pylist() == ["dropped 2 infinite values; dropped 1 NaN at its end"]
    assert {f.what: f.points for f in check.findings} == {
        "infinities": 2, "NaN after all values": 1,
    }  # fmt: skip


def test_a_few_stamps_far_away_are_no_reason_for_longer_steps():
    far = [pd.Timestamp("1970-01-01"), pd.Timestamp("9999-12-31")]
    check = read(one([*pd.date_range("2024-01-01", periods=99, freq="s"), *far]))[1]
    assert (check.points, check.refused) == (0, 1), "and no memory is taken for 10^11 steps"
    assert "far from the others" in finding(check, "refused: mostly missing").done


def test_a_series_that_ends_with_time_does_not_stop_the_others():
    """9999-12-31 stands for "never" in many a database; the day after is no date."""
    never = [pd.Timestamp("2024-01-01").date(), pd.Timestamp("9999-12-31").date()]
    frame = pd.concat([one(DAYS.date), one(never, ids="b")])
    panel, _ = read(frame)
    out = frame_of(panel, {"ar": np.zeros((2, 1))})
    assert out.ds.tolist() == [pd.Timestamp("2024-01-21").date(), None]


def test_counts_are_those_that_were_put_in():
    """Holes, NaN, infinities and duplicates of random number, well within many series."""
    rng = np.random.default_rng(5)
    parts, wanted = [], dict.fromkeys(("missing steps", "NaN", "infinities", "duplicates"), 0)
    for i in range(200):
        n = int(rng.integers(30, 60))
        days = pd.date_range("2024-01-01", periods=n, freq="D")
        at, counts = rng.permutation(np.arange(1, n - 1)), rng.integers(0, 4, 4)
        holes, nan, inf, twice = np.split(at, np.cumsum(counts))[:4]
        part = one(days, rng.standard_normal(n), f"s{i}")
        part.loc[nan, "y"], part.loc[inf, "y"] = np.nan, rng.choice([-np.inf, np.inf])
        parts.append(pd.concat([part.drop(index=holes), part.loc[twice]]))
        for k, count in zip(wanted, counts, strict=True):
            wanted[k] += int(count)
    frame = pd.concat(parts)
    panel, check = read(frame)
    found = {f.what: f.points for f in check.findings}
    assert {k: found.get(k, 0) for k in wanted} == wanted
    assert (check.refused, len(panel.values)) == (0, sum(panel.lens))
    shuffled, _ = read(frame.sample(frac=1, random_state=1))
    order = [shuffled.ids.to_pylist().index(i) for i in panel.ids.to_pylist()]
    again = shuffled.select(np.array(order))
    np.testing.assert_array_equal(again.values, panel.values)
    assert again.status.to_pylist() == panel.status.to_pylist()


# ---- rows that follow, and what is known of them ----


def after(ids: str, steps: list[int], **columns) -> pd.DataFrame:
    stamps = [DAYS[-1] + pd.Timedelta(days=k) for k in steps]
    return one(stamps, np.arange(float(len(steps))), ids).assign(**columns)


def test_one_new_value_is_enough_also_without_a_stamp():
    panel, _ = read([1.0, 2, 3, 4])
    assert following(panel, [5.0]).panel.values.tolist() == [5.0]
    two, _ = read(FRAME)
    new = following(two, [[1.0], [2.0, 3.0]]).panel
    assert (new.lens.tolist(), new.first.tolist()) == ([1, 2], [19743, 19743])
    column, _ = read(pd.DataFrame({"v": np.arange(9.0)}))
    assert following(column, pd.DataFrame({"v": [9.0]})).panel.first.tolist() == [9]


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (pd.concat([after("a", [1, 2]), after("b", [1, 3])]), "series b: refused: 1 missing step;"),
        (
            after("a", [1]).assign(ds=[DAYS[-1].tz_localize("UTC")]),
            "has times with a zone, the",
        ),
        (after("a", [1]).assign(ds=[20]), "'ds' has numbers, the series have times without a zone"),
        ([[np.nan, 1.0], [1.0, 2.0]], "the array: series 0: refused: 1 NaN; --policy fill would"),
        ([[1.0]], "the array: it has 1 series, not 2"),
    ],
)
def test_rows_that_do_not_follow(new, message):
    with pytest.raises(ValueError, match=message):
        following(read(FRAME)[0], new)


def test_regressors_of_one_step_give_their_mean_as_values_do():
    panel, _ = read(FRAME.assign(price=1.0), known=["price"])
    twice = pd.concat([after("a", [2, 1]), after("b", [1, 2]), after("a", [1])]).rename(
        columns={"y": "price"}
    )
    found = future_known(panel, twice, 2).known
    np.testing.assert_array_equal(found[:, :, 0], [[0.5, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("future", "message"),
    [
        (pd.DataFrame({"price": [1.0, 2]}), "no column 'ds': it tells of which steps the rows are"),
        ([["x"], ["y"]], "future regressors are numbers; .2, 2, 1. is series, steps, regressors"),
    ],
)
def test_what_is_known_but_of_no_step(future, message):
    panel, _ = read(FRAME.assign(price=1.0), known=["price"])
    with pytest.raises(ValueError, match=message):
        future_known(panel, future, 2)


@pytest.mark.parametrize("known", [["y"], ["ds"], ["unique_id"], ["price", "price"]])
def test_a_column_is_one_thing(known):
    with pytest.raises(ValueError, match="is named for two things"):
        read(FRAME.assign(price=1.0), known=known)
