"""The held-out split, symbol files and batches."""

import gzip
import itertools
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chainrule.codecs.text import BPECodec, ByteCodec, CharCodec, WordCodec
from chainrule.training import readers, shards
from chainrule.training.data import (
    collect,
    fit_codec,
    prepare,
    stream_batch,
    windows,
)

LINES = "".join(f"line {i} of a book that goes on and on\n" for i in range(200))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("CHAINRULE_CACHE", str(folder))
    return folder


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


# ---- what is not text ----


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"good\0text", r"a.txt: a binary file.*byte 0x00 at offset 4\): take it .*--codec bytes"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(32)), "a binary file.*byte 0x89 at offset 0"),
        (b"caf\xe9 au lait", "byte 0xE9 at offset 3 is not UTF-8.*Latin-1.*--codec bytes"),
        ("text".encode("utf-16"), "UTF-16, not UTF-8"),
        (b"abcdefghi\xe7\x8a\xac\xe7\x8aB", "byte 0xE7 at offset 12"),  # across pieces of ten
        (b"abcdefghijk\xc3", "byte 0xC3 at offset 11"),
        (b"0123456789\xff\0", "byte 0xFF at offset 10"),
    ],
)
def test_what_is_not_text_is_named_and_the_bytes_codec_takes_it(place, monkeypatch, data, message):
    monkeypatch.setattr(readers, "_PIECE", 10)
    found = collect(put(place / "a.txt", data))
    with pytest.raises(ValueError, match=message):
        fit_codec(CharCodec, found)
    with pytest.raises(ValueError, match=message):
        prepare(found, CharCodec("abc"))
    corpus = prepare(found, ByteCodec())
    both = [*corpus.train[:-1].tolist(), *corpus.held_out[:-1].tolist()]
    assert bytes(both) == data


# ---- the split ----


def parts(corpus):
    return corpus.source.split


def total(ranges):
    return int((ranges[:, 1] - ranges[:, 0]).sum())


def test_the_tail_of_one_text_is_held_out_from_a_line_on(place):
    corpus = prepare(put(place / "book.txt", LINES), ByteCodec())
    held = corpus.held_out_text().decode()
    assert LINES.endswith(held)
    assert held.startswith("line ")
    assert 0.1 <= len(held) / len(LINES) < 0.15
    assert corpus.description == f"held out: the last 10 % of book.txt ({len(held)} bytes)"
    assert (corpus.held_out_bytes, corpus.train_bytes) == (len(held), len(LINES) - len(held))
    assert corpus.documents == 1


def test_few_documents_give_their_tails(place):
    for i in range(3):
        put(place / f"{i}.txt", LINES[i * 1000 :])
    corpus = prepare(place, ByteCodec())
    assert corpus.description.startswith("held out: the last 10 % of each of 3 documents (")
    assert len(parts(corpus).held_out) == 3


def many(place, documents, name="a.jsonl"):
    return put(place / name, "".join(json.dumps({"text": t}) + "\n" for t in documents))


def test_many_documents_are_held_out_whole_by_content(place):
    documents = [f"document {i} " * (1 + i % 7) for i in range(200)]
    corpus = prepare(many(place, documents), ByteCodec())
    held = corpus.held_out_bytes
    assert 0.08 * len("".join(documents)) < held <= 0.1 * len("".join(documents))
    assert "of 200 documents, chosen by their content" in corpus.description
    symbols = corpus.held_out
    found = bytes(np.where(symbols == 256, 0, symbols).astype(np.uint8)).decode().split("\0")[:-1]
    assert set(found) < set(documents)
    shuffled = prepare(many(place, documents[::-1], "b.jsonl"), ByteCodec())
    again = shuffled.held_out_text().decode()
    assert sorted(again) == sorted(corpus.held_out_text().decode())


def test_equal_documents_are_on_one_side(place):
    documents = [f"text {i % 40}" for i in range(400)]
    corpus = prepare(many(place, documents), ByteCodec())
    raw = corpus.source.raw
    sides = [
        {raw[a:b].tobytes() for a, b in r} for r in (parts(corpus).train, parts(corpus).held_out)
    ]
    assert sides[1]
    assert not sides[0] & sides[1]


def test_copies_of_one_document_are_split_by_their_tails(place):
    corpus = prepare(many(place, [LINES] * 30), ByteCodec())
    assert "each of 30 documents" in corpus.description


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=45))
def test_every_byte_is_in_one_part_and_characters_stay_whole(documents):
    data = [d.encode("utf-8", "replace") for d in documents]
    raw = np.frombuffer(b"".join(data), np.uint8)
    ends = np.cumsum([len(d) for d in data])
    hashes = np.array([zlib.crc32(d) for d in data], np.uint64)
    try:
        found = shards.split(raw, ends, hashes, "a")
    except ValueError:
        assert all(len(d.decode()) == 1 for d in data)
        return
    both = sorted([*found.train.tolist(), *found.held_out.tolist()])
    assert "".join(raw[a:b].tobytes().decode() for a, b in both) == b"".join(data).decode()
    assert both[0][0] == 0
    assert all(a[1] == b[0] for a, b in itertools.pairwise(both))
    assert total(found.train)
    assert total(found.held_out)


# ---- symbols ----


CODECS = [
    ByteCodec(),
    CharCodec.fit([LINES, "ä犬"]),
    WordCodec.fit([LINES]),
    BPECodec.fit([LINES], size=300),
]


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: c.name)
def test_symbols_are_the_codecs_with_an_end_after_each_document(place, monkeypatch, codec):
    monkeypatch.setattr(shards, "CHUNK", 2**16)  # chunks that end at a space
    text = (LINES * 20)[:150_000].rstrip("\n")
    corpus = prepare(many(place, [text, "ä犬" + LINES]), codec)
    eos = codec.space.eos
    for symbols, ranges in (
        (corpus.train, parts(corpus).train),
        (corpus.held_out, parts(corpus).held_out),
    ):
        expected = []
        for a, b in ranges:
            expected += [*codec.encode(corpus.source.raw[a:b].tobytes()).symbols.tolist(), eos]
        assert symbols.tolist() == expected
        assert symbols.dtype == (np.uint8 if codec.space.size <= 256 else np.uint16)
    assert corpus.train_bytes == total(parts(corpus).train)


@given(st.text(st.sampled_from("ab \n犬é"), max_size=40), st.integers(0, 3))
def test_character_borders(text, skipped):
    raw = np.frombuffer(text.encode(), np.uint8)
    begin = len(text[:skipped].encode())
    for at in range(begin, len(raw) + 1):
        border = shards.character_border(raw, begin, at)
        assert max(begin, at - 3) <= border <= at
        raw[begin:border].tobytes().decode()
        raw[border:].tobytes().decode()


def test_a_text_without_spaces_is_cut_between_characters(place, monkeypatch):
    monkeypatch.setattr(shards, "CHUNK", 2**16)
    text = "犬é" * 60_000
    codec = CharCodec("é犬")
    corpus = prepare(put(place / "a.txt", text), codec)
    assert len(corpus.train) + len(corpus.held_out) == len(text) + 2
    assert "".join(t.decode() for t in corpus.source.texts()) == text


def test_the_cache_is_used_and_survives_damage(place, cache, monkeypatch):
    path = put(place / "book.txt", LINES)
    calls = []
    encode = ByteCodec.encode
    monkeypatch.setattr(ByteCodec, "encode", lambda self, x: calls.append(1) or encode(self, x))
    first = prepare(path, ByteCodec())
    expected, held_out, done = first.train.tolist(), first.held_out_text(), len(calls)
    assert prepare(path, ByteCodec()).train.tolist() == expected
    assert prepare(put(place / "copy.txt.gz", LINES), ByteCodec()).train.tolist() == expected
    assert len(calls) == done
    assert len(list(cache.iterdir())) == 1
    (folder,) = (p for p in next(cache.iterdir()).iterdir() if p.is_dir())
    for name, damage in {
        "train": b"short",
        "held_out": None,
        "header.json": b'{"version": 99, "dtype": "uint16", "train": 1, "held_out": 1}',
    }.items():
        (folder / name).unlink()  # the old file may still be mapped
        if damage is not None:
            (folder / name).write_bytes(damage)
        assert prepare(path, ByteCodec()).train.tolist() == expected
    raw = next(cache.iterdir()) / "raw"
    raw.unlink()
    raw.write_bytes(b"x")
    assert prepare(path, ByteCodec()).held_out_text() == held_out
    assert not list(cache.rglob("partial-*"))


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b'{"version": 1, "dtype": "object", "train": 1, "held_out": 1}',
        b'{"version": 1, "dtype": "uint8", "train": -1, "held_out": 1}',
        b'{"version": 1, "dtype": "uint8", "train": 1000000000000000, "held_out": 1}',
    ],
)
def test_headers_that_are_not_trusted(tmp_path, header):
    for name in ("train", "held_out"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "header.json").write_bytes(header)
    assert shards.open_symbols(tmp_path) is None


def test_a_failure_leaves_nothing_behind(place, cache):
    found = collect(put(place / "book.txt", LINES))
    with pytest.raises(ValueError, match=r"book.txt, from byte 0 on: character 'l'"):
        prepare(found, CharCodec("abc"))
    with pytest.raises(ValueError, match="no such file"):
        collect(place / "none")
    assert [p.name for p in cache.rglob("*") if p.is_dir()] == [found.folder.name]


def test_a_cache_that_cannot_be_made(place, tmp_path):
    with pytest.raises(ValueError, match="CHAINRULE_CACHE"):
        collect(put(place / "a.txt", LINES), cache=put(tmp_path / "file", "x") / "cache")
    other = tmp_path / "other"
    assert collect(put(place / "a.txt", LINES), cache=other).folder.parent == other


@pytest.mark.parametrize("text", ["a", "aaaaaaa", "\n\n"])
def test_one_symbol_is_nothing_to_learn(place, text):
    with pytest.raises(ValueError, match=r"a.txt holds nothing but .* nothing to learn"):
        collect(put(place / "a.txt", text))


def test_one_character_of_several_bytes(place):
    found = collect(put(place / "a.txt", "é" * 99))
    assert prepare(found, ByteCodec()).train_bytes > 100
    with pytest.raises(ValueError, match="nothing but one symbol"):
        prepare(found, fit_codec(CharCodec, found))
    with pytest.raises(ValueError, match="too short to hold a part out"):
        prepare(put(place / "b.txt", "é"), ByteCodec())


def test_progress_is_told(place):
    told = []
    prepare(put(place / "a.txt", LINES), ByteCodec(), progress=lambda *x: told.append(x))
    assert told[0] == ("reading", len(LINES), None)
    assert told[-1] == ("encoding", len(LINES), len(LINES))


def test_what_codecs_are_fitted_on(place):
    found = collect(put(place / "a.txt", LINES + "ß"))
    assert "ß" in fit_codec(CharCodec, found).alphabet
    assert fit_codec(ByteCodec, found).space.size == 257
    assert "ß" not in fit_codec(WordCodec, found, min_count=1).vocabulary
    assert fit_codec(BPECodec, found, size=300).space.size > 280
    spread = list(collect(many(place, [f"{i:09}" for i in range(1000)])).texts("train", limit=1000))
    assert 500 <= sum(map(len, spread)) <= 1000
    assert int(spread[-1]) > 900


# ---- batches ----

ARRAY = np.arange(1000, dtype=np.uint16)


def test_windows_are_a_pure_function_of_seed_and_step():
    first = windows(ARRAY, 64, 10, seed=3, step=5)
    assert (first.shape, first.dtype) == ((64, 10), torch.int64)
    assert (first.diff(dim=1) == 1).all()
    assert first.equal(windows(ARRAY, 64, 10, seed=3, step=5))
    assert not first.equal(windows(ARRAY, 64, 10, seed=3, step=6))
    assert not first.equal(windows(ARRAY, 64, 10, seed=4, step=5))
    assert first[:8].equal(windows(ARRAY, 8, 10, seed=3, step=5))
    # The stream of Philox is fixed for all time, and with it the order of training.
    assert windows(ARRAY, 4, 1, seed=1, step=2).flatten().tolist() == [377, 50, 683, 234]


def test_windows_reach_everything():
    starts = torch.cat([windows(ARRAY[:20], 50, 10, 0, s)[:, 0] for s in range(20)])
    assert sorted(set(starts.tolist())) == list(range(11))
    assert windows(ARRAY[:5], 3, 10, 0, 0).tolist() == [[0, 1, 2, 3, 4]] * 3


@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 12))
def test_lanes_go_on_where_they_ended(n, batch, length):
    first, fresh = stream_batch(ARRAY[:n], batch, length, 0)
    assert fresh
    seen = [first]
    while not (following := stream_batch(ARRAY[:n], batch, length, len(seen)))[1]:
        seen.append(following[0])
    assert following[0].equal(first)  # around again
    lanes = torch.cat(seen, 1)
    assert (lanes.diff(dim=1) == 1).all()
    assert lanes[:, 0].tolist() == [b * (n // len(lanes)) for b in range(len(lanes))]
    assert len(lanes) == min(batch, n)
    assert n // len(lanes) - lanes.shape[1] < first.shape[1] <= length


def test_memory_mapped_symbols_make_batches(place):
    corpus = prepare(put(Path(place / "a.txt"), LINES), ByteCodec())
    assert windows(corpus.train, 2, 5, 0, 0).shape == (2, 5)
    assert stream_batch(corpus.train, 2, 5, 3)[0].shape == (2, 5)
    assert bytes(corpus.train[:10].tolist()) == LINES[:10].encode()
