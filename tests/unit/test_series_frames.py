"""Files, frames and arrays in, and forecasts back out as the same kind."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from chainrule.series.frames import Writer, frame_of, read, table_of
from chainrule.series.future import future_known
from chainrule.series.panel import Panel
from chainrule.verbs.forecaster import Forecaster
from tests.laws.tolerances import FLOAT64

DAYS = pd.date_range("2024-01-31", periods=30, freq="D")
NEXT = pd.date_range("2024-03-01", periods=3, freq="D")
FRAME = pd.DataFrame(
    {"unique_id": np.repeat(["b", "a"], 30), "ds": np.tile(DAYS, 2), "y": np.arange(60.0)}
)
WIDE = pd.DataFrame({"ds": DAYS, "b": np.arange(30.0), "a": np.arange(30.0, 60)})


def forecast(panel: Panel) -> dict[str, object]:
    """Columns as a forecaster has them: [N, H], and a status [N]."""
    numbers = np.arange(3.0 * len(panel)).reshape(len(panel), 3)
    return {"ar": numbers, "ar-lo-80": torch.from_numpy(numbers - 1), "status": panel.status}


def expected(ids=("b", "a"), stamps=NEXT) -> pd.DataFrame:
    numbers = np.arange(3.0 * len(ids))
    columns = {"ar": numbers, "ar-lo-80": numbers - 1, "status": "ok"}
    return pd.DataFrame(
        {"unique_id": np.repeat(ids, 3), "ds": np.tile(stamps, len(ids)), **columns}
    )


SAME = {"check_dtype": False, "check_column_type": False}


# ---- frames ----


@pytest.mark.parametrize(
    "make",
    [
        lambda: FRAME,
        lambda: FRAME.astype({"unique_id": "category"}),
        lambda: FRAME.set_index("unique_id"),
        lambda: FRAME.assign(ds=FRAME.ds.dt.strftime("%d.%m.%Y")),
        lambda: FRAME.assign(y=FRAME.y.astype(int), ds=FRAME.ds.dt.as_unit("s")),
        lambda: FRAME[::-1].sort_values("unique_id", ascending=False, kind="stable"),
        lambda: WIDE,
        lambda: WIDE.set_index("ds"),
        lambda: WIDE.set_index(pd.DatetimeIndex(DAYS.to_numpy()))[["b", "a"]],
    ],
    ids=["long", "category", "index", "text", "int", "unordered", "wide", "wide-index", "no-name"],
)
def test_pandas(make):
    frame = make()
    panel, check = read(frame)
    np.testing.assert_array_equal(panel.values, np.arange(60.0))
    assert (check.frequency, check.refused, check.repaired) == ("D", 0, 0)
    out = frame_of(panel, forecast(panel))
    assert isinstance(out, pd.DataFrame)
    assert out.ds.dtype.kind == "M"
    pd.testing.assert_frame_equal(out, expected(), **SAME)
    if "ds" in frame and frame.ds.dtype.kind == "M":
        assert out.ds.dtype == frame.ds.dtype


def test_a_pandas_series_and_one_series_without_an_id():
    panel, _ = read(pd.Series(np.arange(30.0), index=DAYS, name="beer"))
    assert panel.ids.to_pylist() == ["beer"]
    pd.testing.assert_frame_equal(frame_of(panel, forecast(panel)), expected(("beer",)), **SAME)
    panel, _ = read(FRAME[:30].drop(columns="unique_id"))
    assert panel.ids.to_pylist() == ["y"]


def test_names_that_others_use():
    frame = FRAME.set_axis(["shop", "day", "sales"], axis=1)
    panel, _ = read(frame, id_col="shop", time_col="day", target_col="sales")
    out = frame_of(panel, forecast(panel))
    assert out.columns.tolist() == ["shop", "day", "ar", "ar-lo-80", "status"]


@pytest.mark.parametrize("lazy", [False, True])
def test_polars(lazy):
    frame = pl.from_pandas(FRAME).with_columns(pl.col("ds").cast(pl.Date))
    panel, _ = read(frame.lazy() if lazy else frame)
    out = frame_of(panel, forecast(panel))
    assert isinstance(out, pl.DataFrame)
    assert out.schema["ds"] == pl.Date
    assert out["ds"].to_list()[:3] == NEXT.date.tolist()
    assert out["unique_id"].to_list() == ["b"] * 3 + ["a"] * 3
    assert read(pl.Series("v", [1.0, 2.0, 3.0]))[0].ids.to_pylist() == ["v"]


def test_arrow_keeps_integer_steps_and_ids():
    table = pa.table({
        "unique_id": pa.array(np.repeat([7, 3], 20), pa.int32()),
        "ds": pa.array(np.tile(np.arange(5, 45, 2), 2), pa.int16()),
        "y": pa.array(np.arange(40), pa.float32()),
    })  # fmt: skip
    panel, check = read(table)
    assert (check.frequency, panel.calendar.season) == ("2", 1)
    out = frame_of(panel, forecast(panel))
    assert out.schema.types[:3] == [pa.int32(), pa.int16(), pa.float64()]
    assert out["ds"].to_pylist()[:3] == [45, 47, 49]
    assert out["unique_id"].to_pylist()[::3] == [7, 3]


def test_zones_are_kept():
    frame = FRAME.assign(ds=FRAME.ds.dt.tz_localize("Europe/Berlin") + pd.Timedelta(days=30))
    panel, _ = read(frame)
    out = frame_of(panel, forecast(panel))
    assert out.ds.dtype == frame.ds.dtype
    following = pd.date_range("2024-03-31", periods=3, freq="D", tz="Europe/Berlin")  # 23 hours
    pd.testing.assert_frame_equal(out, expected(stamps=following), **SAME)


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        ([1, 2.5, 4, 3], (3,)),
        (np.arange(9.0), (3,)),
        (np.arange(18).reshape(2, 9), (2, 3)),
        (torch.arange(18).reshape(2, 9), (2, 3)),
        ([[1, 2, 3, 4], (1.0, 2.0, 3.0)], (2, 3)),
        ([np.arange(5.0)], (1, 3)),
    ],
)
def test_arrays(data, shape):
    panel, check = read(data)
    assert (check.layout, check.frequency) == ("array", "1")
    expected = data if len(shape) == 1 else np.concatenate([np.asarray(row) for row in data])
    np.testing.assert_array_equal(panel.values, expected)
    out = frame_of(panel, forecast(panel))
    assert out["ar"].shape == shape
    np.testing.assert_array_equal(out["ar"].ravel(), np.arange(3.0 * len(panel)))


def test_rows_that_are_named_one_by_one():
    """As cross-validation and anomalies want them."""
    panel, _ = read(FRAME)
    series, periods = np.array([1, 0]), panel.first[[1, 0]] + np.array([0, 29])
    table = table_of(panel, {"bits": np.array([0.5, 2.0])}, series, periods)
    assert table.to_pylist() == [
        {"unique_id": "a", "ds": DAYS[0].to_pydatetime(), "bits": 0.5},
        {"unique_id": "b", "ds": DAYS[-1].to_pydatetime(), "bits": 2.0},
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "series can't be read from a NoneType: give a frame of pandas, polars or Arrow"),
        ([], "the array: there is a series without values"),
        (["a", "b"], "one series is .T. or a list of numbers"),
        (np.zeros((2, 2, 2)), "several are .N, T."),
        (FRAME[:0], "the frame has no rows"),
        (FRAME.assign(y=["a", 3] * 30), "values of several kinds in a column"),
        (FRAME.assign(y="much"), "the frame, row 0: 'y' is 'much', not a number"),
        (FRAME.drop(columns="ds"), "the frame: no time column: there are 'unique_id', 'y'"),
        (FRAME.rename(columns={"y": "z"}), "no column 'y'; .* by --target-col"),
        (FRAME.assign(unique_id=["a"] * 59 + [None]), "row 59: a row without an id"),
        (
            pd.DataFrame({"ds": [pd.Timestamp("2024-01-01", tz="UTC"),
                                 pd.Timestamp("2024-01-02", tz="Asia/Tokyo")], "y": 1.0}),
            r"'ds' has several time zones \(Asia/Tokyo and UTC\)",
        ),
        (pd.DataFrame({"ds": pd.period_range("2024", periods=3, freq="Q"), "y": 1.0}), "to_timest"),
        (FRAME[:1], "the frame: one stamp a series doesn't tell .* as in --freq D"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_read(data, message):
    with pytest.raises(ValueError, match=message):
        read(data)


def test_options_that_cannot_be():
    with pytest.raises(ValueError, match="no column 'yy'; did you mean 'y'"):
        read(FRAME, target_col="yy")
    with pytest.raises(ValueError, match="--season 0: 1 is the least"):
        read(FRAME, season=0)
    assert read(FRAME, season=30)[0].calendar.season == 30
    with pytest.raises(ValueError, match="regressors need a long table"):
        read(WIDE, known=["b"])


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr("chainrule.series.frames.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'chainrule\[series\]'"):
        read(FRAME)


# ---- out ----


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_what_is_written_can_be_read(tmp_path, name):
    panel, _ = read(FRAME.assign(unique_id=FRAME.unique_id + ', "x"'))
    columns = forecast(panel)
    columns["ar"] = np.array([[0.1, 1 / 3, np.nan]] * 2)
    with Writer(tmp_path / name) as writer:
        for part in panel.chunks(1):
            at = slice(0, 1) if part.ids[0] == panel.ids[0] else slice(1, 2)
            status = part.status
            writer.write(
                table_of(part, {**{k: v[at] for k, v in columns.items()}, "status": status})
            )
    opened = (
        pd.read_csv(tmp_path / name, parse_dates=["ds"])
        if name.endswith("csv")
        else pd.read_parquet(tmp_path / name)
    )
    pd.testing.assert_frame_equal(opened, frame_of(panel, columns), **SAME)
    if name.endswith("csv"):
        assert ",,1," in (tmp_path / name).read_text(), "no number is an empty field"


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    panel, _ = read(FRAME)
    path = tmp_path / "out.parquet"

    def fail() -> None:
        with Writer(path) as writer:
            writer.write(table_of(panel, forecast(panel)))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
    for bad, message in (("out.xlsx", "to .csv or .parquet"), ("no/out.csv", "there is no folder")):
        with pytest.raises(ValueError, match=message):
            Writer(tmp_path / bad)


def test_zoned_stamps_go_to_csv_in_one_zone_and_come_back(tmp_path):
    frame = FRAME.assign(ds=FRAME.ds.dt.tz_localize("Europe/Berlin") + pd.Timedelta(days=45))
    panel, _ = read(frame)
    with Writer(tmp_path / "out.csv") as writer:
        writer.write(table_of(panel, {"y": np.zeros((2, 30))}))
    again, _ = read(tmp_path / "out.csv", freq="D")
    assert again.calendar.zone == "UTC"
    assert again.lens.tolist() == [30, 30]


def test_csv_to_standard_output(capsysbinary):
    panel, _ = read(FRAME[:30])
    with Writer("-") as writer:
        writer.write(table_of(panel, {"ar": np.ones((1, 1)), "status": panel.status}))
    assert capsysbinary.readouterr().out == (
        b"unique_id,ds,ar,status\nb,2024-03-01 00:00:00,1,ok\n"
    )


# ---- regressors to come ----

PRICED = FRAME.assign(price=np.arange(60.0) / 7, promo=0)
AHEAD = pd.DataFrame(
    {"unique_id": np.repeat(["a", "b", "z"], 4), "ds": np.tile(DAYS[-1:].append(NEXT), 3)}
).assign(price=np.arange(12.0), promo=1)


def test_future_regressors_are_put_beside_the_next_steps(tmp_path):
    panel, _ = read(PRICED, known=["price", "promo"])
    expected = np.array([[5, 6, 7], [1, 2, 3.0]])  # b stands first, and a row is past
    for future in (AHEAD, AHEAD.sample(frac=1, random_state=0), pl.from_pandas(AHEAD)):
        found = future_known(panel, future, 3).known
        np.testing.assert_array_equal(found[:, :, 0], expected)
        np.testing.assert_array_equal(found[:, :, 1], 1)
    AHEAD.to_csv(tmp_path / "ahead.csv", index=False)
    from_file = future_known(panel, tmp_path / "ahead.csv", 2).known
    np.testing.assert_array_equal(from_file, found[:, :2])
    for_all = future_known(panel, AHEAD[:4].drop(columns="unique_id"), 3).known
    np.testing.assert_array_equal(for_all[:, :, 0], [[1, 2, 3]] * 2)
    np.testing.assert_array_equal(future_known(panel, found, 3).known, found)
    np.testing.assert_array_equal(future_known(panel, found[0], 3).known, found[[0, 0]])


@pytest.mark.parametrize(
    ("future", "horizon", "rows", "message"),
    [
        (AHEAD, 5, [0, 1], "'price' of b lacks 2 of 5 steps, the first at 2024-03-04 00:00:00, and "
                "1 more series lack some: give it up to 2024-03-05 00:00:00, or take --horizon 3"),
        (AHEAD[:4], 3, [0], "of b lacks 3 of 3 steps, the first at 2024-03-01 00:00:00: give it"),
        (AHEAD.replace({5.0: np.nan}), 3, [0], "'price' of b lacks 1 of 3 steps"),
        (np.ma.masked_array([[[1.0, 2]] * 3] * 2, [[[0, 0]] * 3, [[0, 0], [0, 0], [0, 1]]]), 3, [1],
         "'promo' of a lacks 1 of 3 steps, the first at 2024-03-03"),
    ],
)  # fmt: skip
def test_series_whose_future_regressors_do_not_reach(future, horizon, rows, message):
    panel, _ = read(PRICED, known=["price", "promo"])
    found = future_known(panel, future, horizon)
    assert re.search(message, found.lacks)
    assert found.rows.tolist() == rows
    left = found.reached(panel)
    assert np.flatnonzero(~left.ok).tolist() == rows
    assert np.isfinite(found.known).all() and not found.known[rows].any()
    assert [s.startswith("refused: pr") for s in left.status.to_pylist()] == (~left.ok).tolist()
    np.testing.assert_array_equal(left.future(horizon), panel.future(horizon))
    kept = np.flatnonzero(left.ok)
    np.testing.assert_array_equal(left.values, panel.select(kept).values)
    np.testing.assert_array_equal(left.known, panel.select(kept).known)


@pytest.mark.parametrize(
    ("future", "horizon", "message"),
    [
        (AHEAD.drop(columns="promo"), 3, "no column 'promo'"),
        (AHEAD.assign(ds=range(12)), 3, "'ds' has numbers, the series have times without a zone"),
        (AHEAD.assign(ds=AHEAD.ds.dt.tz_localize("UTC")), 3, "'ds' has times with a zone"),
        (np.zeros((4, 2)), 3, r"\[4, 2\]; \[2, 3, 2\] is series, steps, regressors"),
    ],
)  # fmt: skip
def test_future_regressors_that_can_not_be_read(future, horizon, message):
    panel, _ = read(PRICED, known=["price", "promo"])
    with pytest.raises(ValueError, match=message):
        future_known(panel, future, horizon)


def test_a_refused_series_needs_no_future():
    frame = PRICED.assign(y=np.where(PRICED.unique_id == "b", np.nan, PRICED.y))
    panel, _ = read(frame, known=["price"])
    assert panel.status.to_pylist() == ["refused: all NaN", "ok"]
    found = future_known(panel, AHEAD[:4], 3).known
    np.testing.assert_array_equal(found[:, :, 0], [[0, 0, 0], [1, 2, 3]])


@pytest.mark.parametrize("name", ["auto", "ar", "regression", "naive"])
def test_a_series_without_a_future_stops_no_other(name):
    dice = np.random.default_rng(0)
    data = PRICED.assign(y=PRICED.y + dice.normal(size=60), unique_id=["b"] * 30 + ["a"] * 30)
    given = Forecaster(name, known=["price"]).fit(data)
    whole, some = given.predict(3, future=AHEAD), given.predict(3, future=AHEAD[:4])
    assert some[:3][name].isna().all() and some.status[0] == (
        "refused: price lacks 3 of 3 steps from 2024-03-01 00:00:00 on"
    )
    assert some.status[3] == whole.status[3]
    np.testing.assert_allclose(some[3:][name], whole[3:][name], rtol=FLOAT64)
    paths = given.simulate(3, num=4, seed=1, future=AHEAD[:4])
    other = given.simulate(3, num=4, seed=1, future=AHEAD)
    assert set(paths.unique_id) == {"a"}
    np.testing.assert_allclose(paths[name], other[other.unique_id == "a"][name], rtol=FLOAT64)
    for use in (given.predict, given.simulate):
        with pytest.raises(
            ValueError, match=r"'price' of b lacks 3 of 3.*, and 1 more series lack"
        ):
            use(3, future=AHEAD[-4:])
    assert given.predict(3, future=AHEAD).equals(whole), "nothing is left of it"
