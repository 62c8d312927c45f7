"""Forecaster over frames: columns, statuses, new rows, sample paths, anomalies, files."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from chainrule.registry import FORECASTERS
from chainrule.series import frames
from chainrule.verbs.forecaster import Forecaster
from tests.laws import tolerances

MONTHS = 72
NAMES = [n for n in FORECASTERS if n not in ("auto", "var")]


def frame(count: int = 5, months: int = MONTHS, seed: int = 0) -> pd.DataFrame:
    """Monthly series with a season and a walk; ids s0, s1, …"""
    dice = np.random.default_rng(seed)
    t = np.arange(months)
    rows = []
    for i in range(count):
        y = 100 * (i + 1) + 10 * np.sin(t * math.pi / 6) + dice.normal(size=months).cumsum()
        stamps = pd.date_range("2015-01-01", periods=months, freq="MS")
        rows.append(pd.DataFrame({"unique_id": f"s{i}", "ds": stamps, "y": y}))
    return pd.concat(rows, ignore_index=True)


def test_columns_are_as_nixtla_s_users_know_them():
    found = Forecaster(["ar", "naive"], horizon=3).fit(frame()).predict(level=[95, 80])
    assert list(found.columns) == [
        *("unique_id", "ds", "ar", "ar-lo-80", "ar-hi-80", "ar-lo-95", "ar-hi-95"),
        *("naive", "naive-lo-80", "naive-hi-80", "naive-lo-95", "naive-hi-95", "status"),
    ]
    assert len(found) == 15 and set(found.status) == {"ok"}
    assert list(found.ds[:3]) == list(pd.date_range("2021-01-01", periods=3, freq="MS"))
    assert (found["ar-lo-95"] < found["ar-lo-80"]).all() and (found["ar-lo-80"] < found.ar).all()
    last = frame().groupby("unique_id").y.last()
    assert np.array_equal(found.naive[::3], last)


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow", "numpy", "csv", "parquet"])
def test_what_goes_in_comes_out(kind, tmp_path):
    data = frame(2)
    made = {
        "pandas": lambda: data,
        "polars": lambda: pl.from_pandas(data),
        "arrow": lambda: pa.Table.from_pandas(data, preserve_index=False),
        "numpy": lambda: data.y.to_numpy().reshape(2, -1),
        "csv": lambda: data.to_csv(tmp_path / "a.csv", index=False) or tmp_path / "a.csv",
        "parquet": lambda: data.to_parquet(tmp_path / "a.parquet") or tmp_path / "a.parquet",
    }[kind]()
    found = Forecaster("seasonal-naive", season=12).fit(made).predict(2)
    wanted = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "numpy": dict}.get(kind, pa.Table)
    assert isinstance(found, wanted)
    values = np.asarray(found["seasonal-naive"]).reshape(2, 2)
    assert np.allclose(values, data.y.to_numpy().reshape(2, -1)[:, MONTHS - 12 : MONTHS - 10])


def test_one_bad_series_never_stops_the_others():
    data = frame(3)
    data.loc[data.unique_id == "s1", "y"] = np.nan
    found = Forecaster("ar").fit(data).predict(4)
    bad = found[found.unique_id == "s1"]
    assert bad.ar.isna().all() and bad.status.str.startswith("refused").all() and len(bad) == 4
    good = Forecaster("ar").fit(data[data.unique_id != "s1"]).predict(4)
    assert found[found.unique_id != "s1"].reset_index(drop=True).equals(good)


@pytest.mark.parametrize("name", NAMES)
def test_new_rows_are_as_if_they_had_been_there(name):
    """Of models that don't fit anew: the memory after an update is that of the whole series."""
    data = frame()
    early = data[data.ds < "2020-07-01"]
    late = data[data.ds >= "2020-07-01"]
    given = Forecaster(name).fit(early)
    one = given.predict(1)
    given.update(late[late.ds < "2020-09-01"]).update(late[late.ds >= "2020-09-01"])
    found = given.predict(2)
    assert list(found.ds[:2]) == list(pd.date_range("2021-01-01", periods=2, freq="MS"))
    assert one.ds[0] == pd.Timestamp("2020-07-01")
    if name == "naive":
        assert np.array_equal(found.naive[::2], data.groupby("unique_id").y.last())
    only = Forecaster(name).fit(early).update(late[late.unique_id == "s2"]).predict(2)
    assert only[only.unique_id == "s2"].equals(found[found.unique_id == "s2"])
    assert only.ds[0] == pd.Timestamp("2020-07-01"), "the others stand where they stood"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"unique_id": ["s9"], "ds": ["2021-01-01"], "y": [1.0]}, "series s9 is new: fit again"),
        (
            {"unique_id": ["s1"], "ds": ["2061-03-01"], "y": [1.0]},
            "s1: refused: mostly missing.* at 2021-01-01.* of 2061-03-01.*correct the stamps, or",
        ),
        ({"unique_id": ["s1"], "ds": ["2020-12-01"], "y": [1.0]}, "goes on at 2021-01-01"),
    ],
)
def test_rows_that_don_t_follow_are_refused(rows, message):
    given = Forecaster("naive").fit(frame())
    table = pd.DataFrame(rows).assign(ds=lambda t: pd.to_datetime(t.ds))
    with pytest.raises(ValueError, match=message):
        given.update(table)
    assert given.predict(1).ds[0] == pd.Timestamp("2021-01-01"), "nothing was taken in"


def test_cross_validation_sees_only_the_past():
    data = frame(3)
    found = Forecaster("ar").cross_validation(data, horizon=4, windows=3, step=2, level=[80])
    assert list(found.columns) == ["unique_id", "ds", "cutoff", "y", "ar", "ar-lo-80", "ar-hi-80"]
    assert len(found) == 3 * 3 * 4
    cutoffs = pd.to_datetime(["2020-04-01", "2020-06-01", "2020-08-01"])
    assert list(found.cutoff.unique()) == list(cutoffs)
    for cutoff in cutoffs:
        part = found[found.cutoff == cutoff].reset_index(drop=True)
        direct = Forecaster("ar").fit(data[data.ds <= cutoff]).predict(4, level=[80])
        assert np.allclose(part[["ar", "ar-lo-80"]], direct[["ar", "ar-lo-80"]], rtol=1e-9)
        truth = part.merge(data, on=["unique_id", "ds"])
        assert np.array_equal(truth.y_x, truth.y_y)


@pytest.mark.parametrize("name", ["auto", "ar", "arima", "theta"])
def test_sample_paths_are_keyed_by_seed_and_series(name):
    data = frame()
    given = Forecaster(name, horizon=3).fit(data)
    found, again = given.simulate(num=20, seed=1), given.simulate(num=20, seed=1)
    assert found.equals(again) and len(found) == 5 * 20 * 3
    assert not found[name].equals(given.simulate(num=20, seed=2)[name])
    if name != "auto":  # whose weights depend on the others
        alone = Forecaster(name).fit(data[data.unique_id == "s3"]).simulate(3, num=20, seed=1)
        mine = found[found.unique_id == "s3"].reset_index(drop=True)
        assert np.allclose(alone[name], mine[name], rtol=tolerances.FLOAT64)
    many = given.simulate(num=4000, seed=3)[name].to_numpy().reshape(5, 4000, 3)
    law = given.predict(level=[80])
    covered = (many >= law[f"{name}-lo-80"].to_numpy().reshape(5, 1, 3)) & (
        many <= law[f"{name}-hi-80"].to_numpy().reshape(5, 1, 3)
    )
    assert np.abs(covered.mean(1) - 0.8).max() < 0.04


def test_an_outlier_is_the_most_surprising_point():
    data = frame(4)
    at = data.index[(data.unique_id == "s2") & (data.ds == "2019-05-01")][0]
    data.loc[at, "y"] += 25
    found = Forecaster("ar").fit(data).anomalies(bits=6)
    assert list(found.columns) == ["unique_id", "ds", "y", "expected", "surprise", "anomaly"]
    first = found.sort_values("surprise").iloc[-1]
    assert (first.unique_id, first.ds) == ("s2", pd.Timestamp("2019-05-01"))
    assert bool(first.anomaly) and found.anomaly.mean() < 0.05
    same = found.merge(data, on=["unique_id", "ds"])
    assert np.array_equal(same.y_x, same.y_y)


def test_new_rows_are_judged_before_they_are_taken_in():
    given = Forecaster("ar").fit(frame())
    usual = given.predict(1)
    rows = usual.rename(columns={"ar": "y"})[["unique_id", "ds", "y"]].copy()
    rows.loc[3, "y"] += 1000
    found = given.anomalies(rows)
    assert found.anomaly.tolist() == [False, False, False, True, False]
    assert np.allclose(found.expected, usual.ar, rtol=1e-9)
    assert given.predict(1).equals(usual), "nothing was taken in"


@pytest.mark.parametrize("name", list(FORECASTERS))
def test_save_and_load(name, tmp_path):
    given = Forecaster(name, horizon=5).fit(frame())
    given.save(tmp_path / "f")
    again = Forecaster.load(tmp_path / "f")
    assert again.predict().equals(given.predict())
    rows = frame(5, MONTHS + 2)
    rows = rows[rows.ds >= "2021-01-01"]
    assert again.anomalies(rows).equals(given.anomalies(rows))
    assert again.update(rows).predict().equals(given.update(rows).predict())
    with pytest.raises(ValueError, match="exists: choose another folder"):
        given.save(tmp_path / "f")


def test_state_of_many_monthly_series_is_small(tmp_path):
    """At most 1 KB a series with all files; auto holds seven models, and takes less than 2."""
    for name in ("auto", *NAMES):
        Forecaster(name, horizon=12).fit(frame(300, 60)).save(tmp_path / name)
        size = sum(p.stat().st_size for p in (tmp_path / name).iterdir()) / 300
        assert size <= (2048 if name == "auto" else 1024), (name, size)


def test_saved_files_are_not_trusted(tmp_path):
    Forecaster("ar").fit(frame()).save(tmp_path / "f")
    config, state = tmp_path / "f" / "config.json", tmp_path / "f" / "state.safetensors"
    good, tensors = config.read_text(), load_file(state)

    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Forecaster.load(tmp_path / "f")

    for change, message in (
        ({"format": 9}, "format 9"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"columns": ["a"]}, "expected 3 values"),
        ({"models": [{"model": "xyz"}]}, "config.json"),
    ):
        config.write_text(json.dumps(json.loads(good) | change))
        refused(message)
    config.write_text("{}")
    refused("not a Forecaster's")
    config.write_text(good)
    for name, tensor in tensors.items():
        if name == "usual":
            continue
        for bad in (tensor[:-1], torch.cat([tensor] * 2)[1:], tensor.to(torch.float16)):
            save_file({**tensors, name: bad.contiguous()}, state)
            refused("state.safetensors")
        save_file({k: v for k, v in tensors.items() if k != name}, state)
        refused("missing")
    save_file(tensors, state)
    (tmp_path / "f" / "series.parquet").write_bytes(b"PAR1")
    refused("series.parquet")


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: Forecaster("autp"), "did you mean 'auto'"),
        (lambda: Forecaster([]), "name a model"),
        (lambda: Forecaster("ar", ordr=2), "did you mean 'order'"),
        (lambda: Forecaster(["ar", "naive"], order=2), "order: settings belong to one model"),
        (lambda: Forecaster("ar", order=-1), "order is -1"),
        (lambda: Forecaster("ar", horizon=0), "horizon: 1 to 100,000"),
        (lambda: Forecaster("ar").predict(1), "has seen no data"),
        (lambda: Forecaster("ar").fit(frame()).predict(), "give a horizon"),
        (lambda: Forecaster("ar").fit(frame()).predict(2, level=[0]), "coverage in percent"),
        (lambda: Forecaster("ar").fit(frame()).predict(2, level=[0.8]), "did you mean 80?"),
        (lambda: Forecaster("ar").fit(frame()).simulate(2, num=0), "1 to 100,000 sample paths"),
        (lambda: Forecaster(["ar", "naive"]).fit(frame()).anomalies(), "fit one model"),
        (lambda: Forecaster("ar").cross_validation(frame(2, 12), 11), "shorter horizon"),
        (lambda: Forecaster("ar").fit(frame()).predict(2, future=frame()), "had no regressors"),
        (lambda: Forecaster("ar").fit(frame(1).assign(y=math.inf)), "no series is left"),
    ],
)
def test_wrong_use_is_one_clear_line(use, message):
    with pytest.raises(ValueError, match=message) as error:
        use()
    assert "\n" not in str(error.value)


def test_regressors_are_read_beside_the_series_and_asked_for():
    data = frame(3).assign(promo=lambda t: (t.ds.dt.month % 5 == 0) * 1.0)
    data["y"] += 50 * data.promo
    given = Forecaster("ar", known=["promo"], order=2).fit(data)
    ahead = frame(3, MONTHS + 6).assign(promo=lambda t: (t.ds.dt.month % 5 == 0) * 1.0)
    ahead = ahead[ahead.ds >= "2021-01-01"][["unique_id", "ds", "promo"]]
    with pytest.raises(ValueError, match="next 6 steps of promo are needed"):
        given.predict(6)
    with pytest.raises(ValueError, match="lacks 1 of 6 steps, the first at 2021-06-01"):
        given.predict(6, future=ahead[ahead.ds < "2021-06-01"])
    found = given.predict(6, future=ahead).ar.to_numpy().reshape(3, 6)
    assert (found[:, 4] - found[:, [3, 5]].mean(1) > 25).all(), "May has a promotion"


def test_var_takes_all_series_as_one_system():
    data = frame(3)
    found = Forecaster("var", order=1).fit(data).predict(2)
    assert len(found) == 6 and found["var"].notna().all()
    late = data[(data.unique_id != "s1") | (data.ds > "2015-03-01")]
    with pytest.raises(ValueError, match="s0 and s1 don't begin together"):
        Forecaster("var").fit(late)
    with pytest.raises(ValueError, match="points"):
        Forecaster("var").fit(frame(30, 20))


@pytest.mark.parametrize("name", ["lstm", "gru", "transformer"])
@pytest.mark.parametrize("codec", ["real", "bins"])
def test_networks_are_models_like_the_others(name, codec, tmp_path):
    data = frame(6)
    given = Forecaster(name, horizon=4, steps=8, samples=40, codec=codec).fit(data)
    found = given.predict()
    assert len(found) == 24 and found[name].notna().all()
    assert (found[f"{name}-lo-80"] <= found[name]).all()
    given.save(tmp_path / "f")
    again = Forecaster.load(tmp_path / "f")
    assert again.predict().equals(found)
    rows = frame(6, MONTHS + 2)
    rows = rows[(rows.ds >= "2021-01-01") & (rows.unique_id != "s4")]
    assert again.anomalies(rows).equals(given.anomalies(rows))
    assert again.update(rows).predict().equals(given.update(rows).predict())
    stands = given.predict(1).set_index("unique_id").ds
    assert stands["s4"] == pd.Timestamp("2021-01-01") < stands["s0"] == pd.Timestamp("2021-03-01")
    paths = given.simulate(3, num=5, seed=1)
    assert paths.equals(given.simulate(3, num=5, seed=1)) and len(paths) == 6 * 5 * 3


def test_a_network_s_season_is_the_calendar_s():
    """Series that begin in other months share their season."""
    from chainrule.training.series_data import future_season, with_season

    data = frame(2)
    data = data[(data.unique_id == "s0") | (data.ds >= "2015-06-01")]
    panel, _ = frames.read(data)
    seasons = with_season(panel.ragged(), 12)
    first, second = (seasons.select(torch.tensor([i])).packed().known for i in (0, 1))
    assert torch.equal(first[5:], second)
    ahead = future_season(panel.ragged().last(7), 12, 3)
    assert torch.equal(ahead[0], first[:3]) and torch.equal(ahead[0], ahead[1])


@pytest.mark.parametrize("name", ["ar", "arima", "regression"])
def test_a_log_of_what_is_not_positive_is_left_out_and_said(name):
    data = frame(3)
    data.loc[data.unique_id == "s1", "y"] -= 250
    found = Forecaster(name, transform="log").fit(data).predict(2)
    said = found.groupby("unique_id").status.first()
    assert said["s1"] == f"{name} without its transform: not every value is above 0"
    assert said["s0"] == said["s2"] == "ok" and found[name].notna().all()


def test_a_holiday_among_new_rows_is_filled():
    data = frame(1)
    given = Forecaster("naive").fit(data[data.ds < "2020-10-01"])
    rows = data[data.ds >= "2020-10-01"].copy()
    rows.loc[rows.ds == "2020-11-01", "y"] = np.nan
    assert given.update(rows).predict(1).naive[0] == data.y.iloc[-1]
    strict = Forecaster("naive", policy="refuse").fit(data[data.ds < "2020-10-01"])
    with pytest.raises(ValueError, match="refused: 1 NaN"):
        strict.update(rows)


def test_a_fit_that_fails_leaves_what_was_there():
    given = Forecaster("var", order=1).fit(frame(3))
    before = given.predict(2)
    with pytest.raises(ValueError, match="points"):
        given.fit(frame(30, 20))
    assert given.predict(2).equals(before)
