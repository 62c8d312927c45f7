"""CSV and Parquet as people have them; large Parquet files part by part."""

from __future__ import annotations

import gzip
import io
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from chainrule.series.check import merged
from chainrule.series.frames import frame_of, read, read_chunks
from chainrule.series.panel import Panel

DAYS = pd.date_range("2024-01-31", periods=30, freq="D")
NEXT = pd.date_range("2024-03-01", periods=3, freq="D")


# ---- CSV ----


def csv(days="%Y-%m-%d", head="ds,y", row="{},{}", n=30, end="\n") -> str:
    lines = [row.format(t.strftime(days), k) for k, t in enumerate(DAYS[:n])]
    return end.join([head, *lines, ""])


GOOD = {
    "long": csv(head="unique_id,ds,y", row="a,{},{}"),
    "wide": csv(head="day,beer", row="{},{}"),
    "German": csv("%d.%m.%Y", "\ufeffDatum;Umsatz", "{};{},0"),
    "Excel": csv("%d.%m.%Y", 'sep=;\n"Tag";" Umsatz (EUR) ";', '"{}";"{},00";', end="\r\n"),
    "American": csv("%m/%d/%Y", '"Date","Sales"', '"{}","{}.0"'),
    "tabs": csv(head="ds\ty", row="{}\t{}"),
    "pandas": csv(head=",ds,y", row="7,{},{}"),
    "pipes": csv(head="ds|y", row="{}|{}"),
    "blank lines": "\n\n" + csv().replace("\n", "\n\n"),
    "other columns": csv(head="ds,store,y,note", row='{},7,{},"a, b"'),
}


@pytest.mark.parametrize("name", GOOD)
def test_csv_as_people_have_it(tmp_path, name):
    path = tmp_path / "sales.csv"
    path.write_text(GOOD[name], encoding="utf-8", newline="")
    panel, check = read(path)
    np.testing.assert_array_equal(panel.values, np.arange(30.0))
    assert (check.frequency, check.series, check.refused) == ("D", 1, 0)
    assert (check.begin, check.end) == ("2024-01-31", "2024-02-29")
    out = frame_of(panel, {"ar": np.zeros((1, 2))})
    assert out[panel.origin.time_col].to_pylist() == [d.date() for d in NEXT[:2]]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *(("1,234.5", 1234.5), ("1234.5", 1234.5), ("-2e3", -2000.0), ("1,234,567", 1234567.0)),
        *(("1.234,5", 1234.5), ("1 234,5", 1234.5), ("1\u00a0234,5", 1234.5), ("7", 7.0)),
    ],
)
def test_numbers_as_people_write_them(tmp_path, written, value):
    path = tmp_path / "sales.csv"
    path.write_text("ds,y\n" + "".join(f'{t:%Y-%m-%d},"{written}"\n' for t in DAYS))
    np.testing.assert_array_equal(read(path)[0].values, [value] * 30)


def test_what_stands_for_a_missing_value(tmp_path):
    marks = ["", "NA", "n/a", "NaN", "-", ".", "null"]
    path = tmp_path / "sales.csv"
    values = [*range(23), *marks]
    path.write_text(
        "unique_id,ds,y\n"
        + "".join(f"NA,{t:%Y%m%d},{v}\n" for t, v in zip(DAYS, values, strict=True))
    )
    panel, check = read(path)
    assert panel.ids.to_pylist() == ["NA"], "no missing value, but Namibia"
    assert panel.status.to_pylist() == ["dropped 7 NaN at its end"]
    assert check.notes == ("numbers like 20240131 are read as dates",)


def test_one_column_is_numbered(tmp_path):
    path = tmp_path / "beer.csv"
    path.write_text("\n".join(map(str, range(1, 20))))
    panel, check = read(path)
    np.testing.assert_array_equal(panel.values, np.arange(1.0, 20))
    assert panel.ids.to_pylist() == ["beer"]
    assert (check.layout, check.notes) == ("one column", ("no time column: rows are steps",))
    path.write_text("litres\n" + "\n".join(f"{k},5" for k in range(9)))  # decimal commas
    np.testing.assert_array_equal(read(path)[0].values, np.arange(9) + 0.5)


def test_ids_that_are_numbers_and_those_that_only_look_so(tmp_path):
    path = tmp_path / "sales.csv"
    for ids, found in ((("1", "20"), [1, 20]), (("1", "007"), ["1", "007"])):
        path.write_text(
            "unique_id,ds,y\n" + "".join(f"{i},{k},{k}\n" for i in ids for k in range(9))
        )
        assert read(path)[0].ids.to_pylist() == found


def test_standard_input_and_gzip(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(GOOD["German"].encode())))
    assert read("-")[1].source == "standard input"
    path = tmp_path / "sales.csv.gz"
    path.write_bytes(gzip.compress(GOOD["long"].encode()))
    assert read(path)[1].points == 30


STORE = csv(head="shop,day,sales", row="x,{},{}")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "sales.csv is empty"),
        ("ds,y\n", "sales.csv: there are names of columns, but no rows"),
        ("1,2\n3,4\n", "line 1: numbers where the names of the columns should be"),
        (csv(head="ds,ds"), "two columns are called 'ds'"),
        (csv().replace(",8\n", ",8,9\n"), "line 10: 3 columns where the header has 2; put fields"),
        (csv().replace(",8\n", ",many\n"), "line 10: 'y' is 'many', not a number"),
        (csv().replace("2024-02-08", "2024-02-30"), "line 10: 'ds' is '2024-02-30': no such date"),
        (
            csv().replace("2024-02-08", "soon"),
            "'soon': not in the form of the others, as '2024",
        ),
        (csv().replace("2024-02-08", ""), "line 10: 'ds' is empty: every row needs a stamp"),
        (csv("%Y-%m-%dT%H:%MZ").replace("8T00:00Z", "8T00:00+02:00"), r"line 10.*time zones"),
        (csv(head="unique_id,y"), "no time column: there are 'unique_id', 'y'; .* --time-col"),
        (STORE, "as in --id-col shop --time-col day --target-col sales"),
        ("a,b\nx,1.5\ny,2.5\n", "no time column: there are 'a', 'b'"),
        (csv().encode("utf-16"), "UTF-16 or binary, not text: save it as CSV UTF-8"),
        (csv(head="ds,Größe").encode("latin-1"), "line 1: byte 5 is not UTF-8"),
        (b"PK\3\4", "an Excel workbook or a zip file"),
    ],
)
def test_csv_that_cannot_be_read(tmp_path, data, message):
    path = tmp_path / "sales.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert "sales.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("head", "cells", "guess"),
    [
        ("store,day,sales,promo", "S0{s},{t},{k},{p}",
         "'store' holds words, .*--id-col store --time-col day --target-col sales .or 'promo'"),
        ("date,rain,wind,weather", "{t},{k},{p},W{p}",
         "'weather' holds words, .*as in --time-col date --target-col rain .or 'wind'"),
        ("day,store,sales", "{t},S0{s},{k}", "--id-col store --time-col day --target-col sales$"),
    ],
)  # fmt: skip
def test_a_long_table_with_other_names_is_known_as_one(tmp_path, head, cells, guess):
    path = tmp_path / "stores.csv"
    rows = [
        cells.format(s=s, t=t.date(), k=k, p=k % 2) for s in range(2) for k, t in enumerate(DAYS)
    ]
    rows = rows[:30] if "weather" in head else rows
    for some in (rows, sorted(rows)):
        path.write_text("\n".join([head, *some, ""]))
        with pytest.raises(ValueError, match=guess):
            read(path)


def test_a_slip_in_a_wide_table_is_a_slip(tmp_path):
    path = tmp_path / "wide.csv"
    path.write_text(csv(head="day,beer,wine", row="{},{},1").replace(",7,1", ",x7,1"))
    with pytest.raises(ValueError, match="line 9: 'beer' is 'x7', not a number: correct it"):
        read(path)


def test_a_file_of_the_package_is_not_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no such file; the one of the package is ") as error:
        read("seattle-weather.csv", target_col="wind")
    path = str(error.value).rpartition(" is ")[2]
    assert read(path, target_col="wind")[1].points == 1461
    with pytest.raises(ValueError, match=r"no such file$"):
        read("README.txt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sale.csv", "sale.csv: no such file; did you mean 'sales.csv'"),
        ("book.xlsx", "save the sheet as CSV UTF-8"),
        ("sales.json", r"what is .json\? Read are .csv, .tsv, .txt, .parquet, .pq"),
        ("sales.parquet", "not a Parquet file, or damaged"),
        ("sales.csv.gz", "damaged, or not what its name says"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, message):
    for existing in ("sales.csv", "book.xlsx", "sales.json", "sales.parquet", "sales.csv.gz"):
        (tmp_path / existing).write_text(csv())
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name)
    if name == "sales.parquet":
        with pytest.raises(ValueError, match=message):
            list(read_chunks(tmp_path / name))


# ---- Parquet, part by part ----


@pytest.fixture
def many(tmp_path):
    """103 series of 4 to 43 points in a Parquet file of small row groups; and its table."""
    rng = np.random.default_rng(3)
    lens = rng.integers(4, 44, 103)
    day = np.timedelta64(1, "D")
    table = pa.table({
        "unique_id": np.repeat([f"s{i}" for i in range(103)], lens),
        "ds": DAYS.to_numpy()[0] + np.concatenate([np.arange(n) for n in lens]) * day,
        "y": rng.standard_normal(lens.sum()),
        "other": np.zeros(lens.sum()),
    })  # fmt: skip
    path = tmp_path / "many.parquet"
    parquet.write_table(table, path, row_group_size=100)
    return path, table


def same_panels(one: Panel, other: Panel) -> None:
    assert one.ids.to_pylist() == other.ids.to_pylist()
    assert one.status.to_pylist() == other.status.to_pylist()
    for name in ("values", "offsets", "first", "known"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.calendar == other.calendar


@pytest.mark.parametrize("kind", ["text", "int", "dictionary"])
@pytest.mark.parametrize("size", [10, 500])
def test_parts_of_a_file_are_the_whole(many, monkeypatch, kind, size):
    path, table = many
    ids = table["unique_id"].dictionary_encode().combine_chunks()
    ids = {"text": table["unique_id"], "dictionary": ids, "int": ids.indices.cast(pa.int64())}[kind]
    table = table.set_column(0, "unique_id", ids)
    parquet.write_table(table, path, row_group_size=100)
    monkeypatch.setattr("chainrule.series.reading._BATCH", 64)
    parts = list(read_chunks(path, size))
    assert [len(p) for p, _ in parts][:-1] == [size] * (-(-103 // size) - 1)
    panel, check = read(path)
    begin = 0
    for part, _ in parts:
        same_panels(part, panel.select(np.arange(begin, begin + len(part))))
        begin += len(part)
    assert begin == 103
    total = merged([c for _, c in parts])
    assert (total.series, total.points, total.notes) == (103, check.points, ())
    assert [f.points for f in total.findings] == [f.points for f in check.findings]


def test_a_file_that_is_not_sorted_is_read_whole(many):
    path, table = many
    order = np.random.default_rng(0).permutation(len(table))
    parquet.write_table(table.take(order), path, row_group_size=100)
    parts = list(read_chunks(path, 20))
    assert [len(p) for p, _ in parts] == [20] * 5 + [3]
    assert "it is read whole" in parts[0][1].notes[0]
    by_id = {i: v for part, _ in parts for i, v in apart(part)}
    assert len(by_id) == 103
    for i, v in apart(read(table)[0]):
        np.testing.assert_array_equal(by_id[i], v)


def apart(panel: Panel) -> zip:
    return zip(panel.ids.to_pylist(), np.split(panel.values, panel.offsets[1:-1]), strict=True)
