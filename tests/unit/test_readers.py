"""Readers: every format, and every kind of bad input."""

import gzip
import io
import json
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrule.training import readers
from chainrule.training.readers import read_documents


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def read(source, **options):
    return [d.data.decode() for d in read_documents(source, **options)]


def rows(column="text"):
    return "".join(json.dumps({"id": i, column: t}) + "\n" for i, t in enumerate(["ä", "b\nc"]))


def parquet(table, **options):
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        ("a.txt", "one\r\ntwo ä", {}, ["one\r\ntwo ä"]),
        ("a.md", "# one", {}, ["# one"]),
        ("a.py", "x = 1", {}, ["x = 1"]),
        ("noextension", "text", {}, ["text"]),
        ("a.jsonl", "\ufeff" + rows() + '\n{"text": ""}\n{"text": null}', {}, ["ä", "b\nc"]),
        ("a.JSONL", rows("body"), {"field": "body"}, ["ä", "b\nc"]),
        ("a.csv", '\ufeffid,text\n1,"a ""b"",\nc"\n\n2,d\n3,\n', {}, ['a "b",\nc', "d"]),
        ("a.csv", "only\nä\nb\n", {}, ["ä", "b"]),
        ("a.csv", "x;y\n1;ä\n", {"column": "y"}, ["ä"]),
        ("a.tsv", "x\ttext\r\n1\ta, b\r\n", {}, ["a, b"]),
        ("a.parquet", parquet({"n": [1, 2, 3], "text": ["ä", None, "b"]}), {}, ["ä", "b"]),
        ("a.parquet", parquet({"only": [b"x"]}), {}, ["x"]),
        (
            "a.parquet",
            parquet({"c": pa.array(["ä", "ä"]).dictionary_encode(), "d": ["", ""]}),
            {"column": "c"},
            ["ä", "ä"],
        ),
    ],
)
def test_formats(place, packed, name, content, options, expected):
    path = put(place / (name + packed), content)
    assert read(path, **options) == expected
    assert read(str(path), **options) == expected


def test_folders_globs_and_lists(place):
    for name in ("b.txt", "a/2.txt", "a/1.md", ".hidden", "a/.git/x", "c.jsonl"):
        put(place / name, '{"text": "c.jsonl"}' if name == "c.jsonl" else name)
    put(place / "empty.txt", "")
    documents = list(read_documents(place))
    assert [d.data.decode() for d in documents] == ["a/1.md", "a/2.txt", "b.txt", "c.jsonl"]
    assert [d.index for d in documents] == [0, 1, 2, 3]
    assert documents[3].name == f"{place / 'c.jsonl'}:1"
    assert read(f"{place}/**/*.txt") == ["a/2.txt", "b.txt"]
    assert read([place / "b.txt", f"{place}/a/*"]) == ["b.txt", "a/1.md", "a/2.txt"]


def test_standard_input(monkeypatch):
    stream = io.BytesIO("text ä".encode())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
    assert read("-") == ["text ä"]
    assert not stream.closed


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_long_text_comes_in_pieces_of_one_document(place, monkeypatch, packed):
    monkeypatch.setattr(readers, "_PIECE", 10)
    put(place / f"a.txt{packed}", "0123456789abcdefghijXYZ")
    put(place / f"b.txt{packed}", "0123456789")
    found = [(d.data, d.index, d.more) for d in read_documents(place)]
    assert found == [
        (b"0123456789", 0, True),
        (b"abcdefghij", 0, True),
        (b"XYZ", 0, False),
        (b"0123456789", 1, False),
    ]


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.txt", "", {}, "a.txt is empty"),
        ("a.txt.gz", "", {}, "a.txt.gz is empty"),
        ("a.csv", "", {}, "a.csv is empty"),
        ("a.csv", "text\n", {}, "a.csv is empty"),
        ("a.jsonl", "\n", {}, "a.jsonl is empty"),
        ("a.jsonl", rows() + "{bad\n", {}, r"a.jsonl, line 3: bad JSON \(.*column 2"),
        ("a.jsonl", "[1]\n", {}, "a.jsonl, line 1: a JSON list, not an object"),
        ("a.jsonl", "[" * 10**5, {}, "a.jsonl, line 1: bad JSON"),
        ("a.jsonl", '{"text": ' + "1" * 5000 + "}", {}, "a.jsonl, line 1: bad JSON"),
        ("a.jsonl", '{"text": 7}\n', {}, "a.jsonl, line 1: field 'text' is 7, not text"),
        ("a.jsonl", '{"text": "\\ud800"}\n', {}, "line 1: field 'text' holds half a surrogate"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}', {}, "line 2: byte 10 is not UTF-8"),
        (
            *("a.jsonl", rows(), {"field": "texts"}),
            r"no field 'texts' \(--field\); there are: id, text; did you mean 'text'\?",
        ),
        (
            "a.csv",
            "id,body\n1,a\n",
            {},
            r"a.csv: there is no column 'text' \(--column\); there are",
        ),
        ("a.csv", "id,body\n1,a\n", {"column": "bodi"}, "did you mean 'body'"),
        ("a.csv", "id,text\n1,a\n2,b,c\n", {}, "a.csv, line 3: 3 columns where the header has 2"),
        ("a.csv", 'id,text\n1,"a"b\n', {}, "a.csv, line 2: bad CSV"),
        ("a.csv", b"id,text\n1,a\xff\n", {}, "a.csv: byte 11 is not UTF-8 text"),
        ("a.parquet", b"PAR1 no", {}, "a.parquet: not a parquet file, or damaged"),
        ("a.parquet", parquet({"a": ["x"], "b": ["y"]}), {}, "no column 'text'.*there are: a, b"),
        ("a.parquet", parquet({"text": [1]}), {}, "a.parquet, row 1: column 'text' is 1, not text"),
        ("a.txt.gz", gzip.compress(b"text" * 999, mtime=0)[:-9], {}, "truncated, or not gzip"),
        ("b.txt.gz", b"plain text", {}, "truncated, or not gzip"),
    ],
)
def test_bad_files(place, name, content, options, message):
    path = place / name
    if isinstance(content, bytes):
        path.write_bytes(content)  # as it is, also where it is no gzip
    else:
        put(path, content)
    with pytest.raises(ValueError, match=message) as caught:
        read(path, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_sources(place):
    put(place / "book.txt", "text")
    (place / "empty").mkdir()
    (place / "hollow").mkdir()
    put(place / "hollow/a.txt", "")
    put(place / "hollow/b.txt", "")
    cases = {
        "bok.txt": r"bok.txt: no such file or folder; did you mean 'book.txt'\?",
        "none/book.txt": "no such file or folder$",
        "empty": "the folder has no files",
        "hollow": "all 2 files are empty",
        "*.md": "no file matches",
    }
    for name, message in cases.items():
        with pytest.raises(ValueError, match=message):
            read(place / name)
    with pytest.raises(ValueError, match="no files were given"):
        read([])


def test_parquet_without_pyarrow(place, monkeypatch):
    path = put(place / "a.parquet", b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'chainrule\[parquet\]'"):
        read(path)


def test_a_line_that_never_ends(place, monkeypatch):
    monkeypatch.setattr(readers, "_LINE", 100)
    with pytest.raises(ValueError, match="line 1: longer than 100 bytes"):
        read(put(place / "a.jsonl", "x" * 1000))


@given(st.binary(min_size=1, max_size=40), st.integers(1, 9))
def test_the_text_check_agrees_with_python(data, size):
    check = readers.TextCheck()
    for i in range(0, len(data), size):
        check.feed(readers.Document(data[i : i + size], "a", 0, more=i + size < len(data)))
    try:
        expected = None if b"\0" in data else data.decode() and None
    except UnicodeDecodeError as error:
        expected = error.start
    if b"\0" in data:
        head = data[: data.index(b"\0")]
        expected = len(head)
        try:
            (head + b"\0").decode()
        except UnicodeDecodeError as error:
            expected = error.start
    assert check.offset == expected
    assert (check.problem is None) == (expected is None)
