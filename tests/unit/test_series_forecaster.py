"""Forecaster: settings that can't be, files in parts, anomalies after an update, saved folders."""

from __future__ import annotations

import json
import math
import shutil
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file, save_file

from chainrule.registry import FORECASTERS
from chainrule.series.auto import AutoFitted
from chainrule.series.regression import RegressionFitted
from chainrule.verbs import forecast as module
from chainrule.verbs.forecast import forecast, forecast_file
from chainrule.verbs.forecaster import Forecaster
from chainrule.verbs.forecaster_parts import in_deviations
from tests.unit.test_forecaster import MONTHS, frame


def late(count: int = 5) -> pd.DataFrame:
    """Half a year that follows ``frame``."""
    rows = frame(count, MONTHS + 6)
    return rows[rows.ds >= "2021-01-01"]


@pytest.fixture(scope="module")
def given() -> Forecaster:
    return Forecaster("ar", horizon=3).fit(frame())


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda f: f.predict(1.5), "horizon: a whole number, not 1.5"),
        (lambda f: f.predict("3"), "horizon: a whole number, not '3'"),
        (lambda f: f.simulate(2, num=1.5), "num: a whole number, not 1.5"),
        (lambda f: f.simulate(100_000, num=100_000), "take fewer at a time"),
        (lambda f: f.predict(2, 80), r"level: coverages in percent, as in \[80, 95\], not 80"),
        (lambda f: f.predict(2, "80"), r"level: coverages in percent.*not '80'"),
        (lambda f: f.predict(2, None), r"level: coverages in percent.*not None"),
        (lambda f: f.predict(2, ["a"]), r"level: coverages in percent.*not \['a'\]"),
        (lambda f: f.predict(2, [99.99999999]), "in percent, as in 80, not 99.99999999"),
        (lambda f: f.predict(2, [math.nan]), "in percent, as in 80, not nan"),
        (lambda f: f.cross_validation(frame(), 2, 1.5), "windows: a whole number, not 1.5"),
        (lambda f: f.cross_validation(frame(), 2, 2, -1), "step: 1 to 10,000, not -1"),
        (lambda f: f.cross_validation(frame(), 2, 2, 0), "step: 1 to 10,000, not 0"),
        (lambda _: Forecaster("ar").anomalies(), "has seen no data: call fit first"),
        (lambda _: Forecaster("ar", known=["y"]), "column 'y' is named for two things"),
        (lambda _: Forecaster("ar", known=["p", "p"]), "column 'p' is named for two things"),
        (lambda _: Forecaster("ar", id_col="y"), "column 'y' is named for two things"),
    ],
)
def test_settings_that_can_not_be_are_one_clear_line(given, use, message):
    with pytest.raises(ValueError, match=message) as error:
        use(given)
    assert "\n" not in str(error.value)


def test_levels_may_come_in_any_order_and_twice(given):
    once = given.predict(2, [80, 95])
    assert given.predict(2, np.array([95.0, 80, 95])).equals(once)
    assert list(given.predict(2, []).columns) == ["unique_id", "ds", "ar", "status"]
    assert list(given.predict(2, [80.5]).columns)[3] == "ar-lo-80.5"


def test_columns_of_the_data_and_of_the_result_are_told_apart():
    """A target called like a model was overwritten by its forecast."""
    data = frame(2)
    renamed = data.rename(columns={"y": "mean"})
    with pytest.raises(ValueError, match="has a column 'mean' of its own"):
        Forecaster("mean", target_col="mean").cross_validation(renamed, 2)
    assert len(Forecaster("mean", target_col="mean").fit(renamed).predict(2)) == 4
    for old, new, use in (
        ("unique_id", "status", lambda f: f.predict(2)),
        ("ds", "sample", lambda f: f.simulate(2)),
        ("y", "surprise", lambda f: f.anomalies()),
    ):
        names = {"unique_id": "id_col", "ds": "time_col", "y": "target_col"}
        fitted = Forecaster("naive", **{names[old]: new}).fit(data.rename(columns={old: new}))
        with pytest.raises(ValueError, match=f"has a column '{new}' of its own"):
            use(fitted)


@pytest.mark.parametrize("name", [n for n in FORECASTERS if n != "var"])
def test_an_update_changes_nothing_about_what_was_fitted(name):
    """The rows of fit were judged by states that had moved on: half a year out of season."""
    data, fresh = frame(), Forecaster(name, horizon=4).fit(frame())
    before = fresh.anomalies()
    moved = Forecaster(name, horizon=4).fit(data).update(late())
    assert np.allclose(moved.anomalies().surprise, before.surprise, rtol=1e-9, equal_nan=True)
    sizes = (f.learned.calibrated().sizes for f in (fresh, moved))
    assert torch.allclose(*sizes, rtol=1e-9)


@pytest.mark.parametrize("bad", [["s0", "s1"], ["s2", "s3"], ["s4", "s5"], ["s1", "s2", "s5"]])
def test_a_part_of_a_file_may_hold_nothing(bad, tmp_path, monkeypatch):
    """Two series are read at a time; of some parts none can be forecast."""
    monkeypatch.setattr(module, "CHUNK", 2)
    data = frame(6)
    data.loc[data.unique_id.isin(bad), "y"] = np.nan
    data.to_parquet(tmp_path / "in.parquet")
    out = tmp_path / "out.parquet"
    name = "ar"
    done = forecast_file(tmp_path / "in.parquet", 3, out, name, plot=tmp_path / "out.svg")
    assert (done.series, done.refused, done.rows) == (6, len(bad), 18)
    found = parquet.read_table(out).to_pandas()
    assert set(found[found[name].isna()].unique_id) == set(bad)
    assert set(found[found.status != "ok"].unique_id) == set(bad)
    kept = [i for i in data.unique_id.unique() if i not in bad]
    assert f"<!-- {kept[0]} -->" in (tmp_path / "out.svg").read_text()


def test_nothing_is_left_of_what_failed(tmp_path, monkeypatch):
    """The last part fails: neither the file, nor the picture, nor their folders."""
    monkeypatch.setattr(module, "CHUNK", 2)
    frame(6).to_parquet(tmp_path / "in.parquet")
    out, plot = tmp_path / "a" / "b" / "out.csv", tmp_path / "c" / "out.png"

    def learn(models, panel, display):
        if "s5" in panel.ids.to_pylist():
            assert (tmp_path / "a" / "b").is_dir(), "parts were written"
            raise ValueError("of the last part")
        return whole(models, panel, display)

    whole = module.learn
    monkeypatch.setattr(module, "learn", learn)
    with pytest.raises(ValueError, match="of the last part"):
        forecast_file(tmp_path / "in.parquet", 2, out, "ar", plot=plot)
    assert [p.name for p in tmp_path.iterdir()] == ["in.parquet"]


def test_levels_are_looked_at_before_the_data_are():
    for call in (forecast, forecast_file):
        with pytest.raises(ValueError, match="level: "):
            call("nowhere.csv", 3, level=[100])


@pytest.mark.parametrize("name", ["arima", "regression", "drift"])
def test_rounding_is_no_surprise(name):
    """A straight line leaves a deviation of 0, and errors of the last digit."""
    stamps = pd.date_range("2015-01-01", periods=60, freq="MS")
    line = pd.DataFrame({"unique_id": "a", "ds": stamps, "y": 0.1 * np.arange(60) + 0.7})
    options = {"difference": 1} if name == "regression" else {}
    found = Forecaster(name, **options).fit(line).anomalies()
    assert found.surprise.max() < 10 and not found.anomaly.any()
    off = torch.tensor([1e-13, -1e-13, 1e-3, -1e-3, 0.0])
    sizes = in_deviations(off, torch.zeros(5), torch.ones(5))
    assert sizes.tolist() == [0.0, 0.0, math.inf, -math.inf, 0.0]


# ---- saved folders that somebody changed ----


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return Forecaster("ar", horizon=3).fit(frame()).save(tmp_path_factory.mktemp("saved") / "f")


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    shutil.copytree(saved, tmp_path / "f")
    return tmp_path / "f"


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Forecaster.load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("kind",), "os", "kind: 'os' is not one of file"),
        (("reading", "known"), ["x"], "unknown key 'known'"),
        (("reading", "policy"), "none", "policy: 'none' is not one of"),
        (("calendar", "count"), 0, "series.parquet"),
        (("calendar", "count"), 3, "its times are not those of the calendar"),
        (("calendar", "phase"), 10**6, "series.parquet"),
        (("calendar", "zone"), "Mars/Base", "series.parquet"),
        (("models", 0, "tensors", "loc", "row"), [1], "don't fit together"),
        (("models", 0, "tensors", "seen", "row"), [1], "state.safetensors"),
        (("models", 0, "tensors", "loc", "row"), [1] * 100, "state.safetensors"),
        (("models", 0, "tensors", "recursions.constant", "row"), [1], "don't fit together"),
    ],
)
def test_a_config_that_was_changed(folder, path, value, message):
    config = json.loads((folder / "config.json").read_text())
    place = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, message)


def test_numbers_that_were_changed(folder):
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "state.safetensors")
    stored = config["models"][0]["tensors"]["recursions.past"]["stored"]
    size = len(zlib.decompress(tensors[stored].numpy().tobytes()))
    bad = zlib.compress(np.full(size // 8, np.nan).tobytes())
    changed = {**tensors, stored: torch.frombuffer(bytearray(bad), dtype=torch.uint8)}
    save_file(changed, folder / "state.safetensors")
    refused(folder, "it forecasts what is no number")
    for usual in (torch.zeros(3, 3).double(), torch.tensor([-1.0]).double(), torch.zeros(3)):
        save_file({**tensors, "usual": usual}, folder / "state.safetensors")
        refused(folder, "'usual' is no list of sizes")


def test_small_files_unpack_to_no_gigabytes(folder):
    """Rows that are said to be everybody's, and a table of one value a million times."""
    where = folder / "config.json"
    config = json.loads(where.read_text())
    place = config["models"][0]["tensors"]["loc"]
    table = parquet.read_table(folder / "series.parquet")
    many = pa.concat_tables([table] * 200)
    parquet.write_table(many, folder / "series.parquet", use_dictionary=False, compression="none")
    where.write_text(json.dumps(config))
    place |= {"shared": True, "row": [2**20]}
    where.write_text(json.dumps(config))
    refused(folder, "bytes are said to be in")
    rows = table.take(pa.array(np.zeros(10**6, np.int64)))
    parquet.write_table(rows, folder / "series.parquet", compression="zstd")
    refused(folder, "more is said to be in it than can be")


def test_missing_files_are_named(folder):
    for name in ("state.safetensors", "series.parquet", "config.json"):
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        refused(folder, name)
        (folder / name).write_bytes(kept)


def test_a_season_of_a_thousand_million_phases_is_refused_at_once(tmp_path):
    given = Forecaster("regression", seasonal=True).fit(frame())
    held = given.learned.fitted["regression"].tensors()
    for season in (10**9, 14, 0, -1):
        clock = torch.tensor([0, season]).expand(5, 2)
        with pytest.raises(ValueError, match=f"a season of {season} has not so many regressors"):
            RegressionFitted.from_tensors({**held, "clock": clock})
    assert RegressionFitted.from_tensors(held).clock.season == 12


def test_what_is_of_all_series_is_held_once(tmp_path):
    """The table of auto is 20 KB: of a million series it would be 20 GB."""
    given = Forecaster("auto", horizon=100).fit(frame(40))
    folder = given.save(tmp_path / "f")
    held: list[dict[str, torch.Tensor]] = []

    def noted(tensors):
        held.append(tensors)
        return from_tensors(tensors)

    from_tensors = AutoFitted.from_tensors
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AutoFitted, "from_tensors", noted)
        again = Forecaster.load(folder)
    table = held[0]["once.table"]
    assert table.shape[:2] == (40, 100)
    assert table.untyped_storage().nbytes() == table[0].numel() * 8
    assert again.predict(100).equals(given.predict(100))


@pytest.mark.parametrize("name", [n for n in FORECASTERS if n != "var"])
def test_a_season_beyond_every_series_costs_no_memory_and_tells_nothing(name):
    made = [Forecaster(name, season=m).fit(frame()).predict(3) for m in (100, 10**9)]
    pd.testing.assert_frame_equal(*made)
