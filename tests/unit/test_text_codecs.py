"""Text codecs: round trips, streaming, units, files, and what they refuse."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import chainrule.codecs.text as text_module
from chainrule.codecs.text import BPECodec, ByteCodec, CharCodec, TextCodec, WordCodec
from chainrule.core.codec import Encoded

ALICE = (Path(text_module.__file__).parents[1] / "assets" / "alice.txt").read_text()[:20_000]
CODECS: dict[str, TextCodec] = {
    "bytes": ByteCodec.fit([ALICE]),
    "chars": CharCodec.fit([ALICE, "naïve 犬"]),
    "words": WordCodec.fit([ALICE, "naïve 犬" * 2]),
    "bpe": BPECodec.fit([ALICE], size=600),
}
LOSSLESS = [c for c in CODECS.values() if c.lossless]
any_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
cuts = st.lists(st.integers(0, 60), max_size=6)


def encoded(symbols):
    return Encoded(np.array(symbols, dtype=np.int64))


def streamed(codec, symbols, at):
    stream, borders = codec.stream(), sorted({0, *at, len(symbols)})
    pushed = [
        stream.push(np.array(symbols[a:b], dtype=np.int64)) for a, b in itertools.pairwise(borders)
    ]
    return "".join([*pushed, stream.finish()])


def texts(codec):
    if isinstance(codec, CharCodec):
        return st.text(codec.alphabet)
    return st.text(st.characters(codec="utf-8"))


# ---- what holds for all of them ----


def test_all_four_are_here():
    assert {c.name for c in CODECS.values()} == set(CODECS) == {"bytes", "chars", "words", "bpe"}


@any_codec
@given(data=st.data())
def test_streaming_is_the_whole_for_any_symbols_and_cuts(codec, data):
    symbols = data.draw(st.lists(st.integers(0, codec.space.size - 1), max_size=60))
    at = [c for c in data.draw(cuts) if c < len(symbols)]
    assert streamed(codec, symbols, at) == codec.decode(encoded(symbols))


@given(st.binary(max_size=60), cuts)
@example(b"\xe7\x8a\xac", [1, 2])
@example(b"\xed\xa0\x80", [1, 2])
@example(b"\xf4\x90\x80\x80\xc3", [1, 3, 4])
def test_streaming_invalid_bytes(data, at):
    codec = CODECS["bytes"]
    symbols = codec.encode(data).symbols.tolist()
    assert streamed(codec, symbols, [c for c in at if c < len(data)]) == data.decode(
        errors="replace"
    )


@pytest.mark.parametrize("codec", LOSSLESS, ids=lambda c: c.name)
@given(data=st.data())
def test_lossless(codec, data):
    text = data.draw(texts(codec))
    found = codec.encode(text)
    assert codec.decode(found) == text
    assert codec.decode_bytes(found) == text.encode()
    assert codec.units(found) == len(text.encode())
    assert found.symbols.dtype == np.int64
    assert not (found.symbols == codec.space.eos).any()
    assert np.array_equal(codec.encode(text.encode()).symbols, found.symbols)


@any_codec
def test_the_book_and_its_units(codec):
    found = codec.encode(ALICE)
    assert codec.units(found) == len(ALICE.encode())
    assert codec.units(codec.encode("")) == 0
    assert codec.decode(codec.encode("")) == ""
    json.dumps(found.side)


@any_codec
def test_the_end_symbol_comes_after_the_alphabet_and_is_dropped(codec):
    eos = codec.space.eos
    assert eos == codec.space.size - 1
    one = codec.encode("a ").symbols.tolist()
    assert codec.decode(encoded([*one, eos, *one, eos])) == "a a "


@any_codec
def test_symbol_bytes_joined_are_the_decoded_bytes(codec):
    table = codec.symbol_bytes()
    assert len(table) == codec.space.size
    assert [i for i, b in enumerate(table) if not b] == [codec.space.eos]
    symbols = np.arange(codec.space.size)
    assert codec.decode_bytes(Encoded(symbols)) == b"".join(table)
    assert codec.units(Encoded(symbols)) == sum(map(len, table))


@any_codec
def test_save_and_load(codec, tmp_path):
    data = json.loads(json.dumps(codec.save(tmp_path)))
    again = type(codec).load(data, tmp_path)
    assert again.space == codec.space
    assert again.lossless == codec.lossless
    assert again.fingerprint() == codec.fingerprint()
    assert np.array_equal(again.encode(ALICE).symbols, codec.encode(ALICE).symbols)
    with pytest.raises(ValueError, match=r"config.json: codec: unknown key 'colour'"):
        type(codec).load({**data, "colour": 1}, tmp_path)


def test_fingerprints_tell_codecs_apart():
    other = [CharCodec("ab"), CharCodec("abc"), WordCodec(["a", "b"]), WordCodec(["b", "a"])]
    assert len({c.fingerprint() for c in [*CODECS.values(), *other]}) == 8


@any_codec
@pytest.mark.parametrize("symbols", [[-1], [10**6], [[1]], [0.5]])
def test_numbers_that_are_no_symbols(codec, symbols):
    with pytest.raises(ValueError, match="symbol"):
        codec.decode(Encoded(np.array(symbols)))


@any_codec
def test_half_a_surrogate_pair(codec):
    with pytest.raises(ValueError, match="position 2 holds half a surrogate pair"):
        codec.encode("ab\ud800")


@pytest.mark.parametrize("name", ["chars", "words", "bpe"])
def test_bytes_that_are_not_utf8(name):
    codec = CODECS[name]
    with pytest.raises(ValueError, match=r"byte 0xFF at offset 3 is not UTF-8.*--codec bytes"):
        codec.encode(b"abc\xffd")
    with pytest.raises(ValueError, match="offset 3"):
        type(codec).fit([b"abc\xffd"])
    assert not codec.takes_any_bytes


def test_scores_say_what_they_are_of():
    kinds = {n: c.score_kind(c.encode("Alice was")) for n, c in CODECS.items()}
    assert kinds == {"bytes": "exact", "chars": "exact", "words": "bound", "bpe": "bound"}
    assert [n for n, c in CODECS.items() if c.exact_for(c.encode("Alice"))] == ["bytes", "chars"]
    words = CODECS["words"]
    assert words.score_kind(words.encode("Alice was xylographic")) == "codes"


# ---- bytes and characters ----


@given(st.binary())
def test_bytes_come_back_as_bytes(data):
    codec = CODECS["bytes"]
    assert codec.takes_any_bytes
    assert codec.decode_bytes(codec.encode(data)) == data


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1))
def test_the_alphabet_is_the_sorted_characters(documents):
    if joined := "".join(documents):
        assert CharCodec.fit(documents).alphabet == "".join(sorted(set(joined)))
    else:
        with pytest.raises(ValueError, match="one character or more"):
            CharCodec.fit(documents)


def test_an_unknown_character_is_named_with_place_and_remedy():
    with pytest.raises(
        ValueError, match=r"'é' \(U\+00E9\) at position 3 is not one of the 3 .* --codec bytes"
    ):
        CharCodec("abc").encode("abcéa")


@pytest.mark.parametrize("alphabet", ["", "ba", "aa", "a\ud800"])
def test_bad_alphabets(alphabet, tmp_path):
    with pytest.raises(ValueError, match=r"config.json: codec: "):
        CharCodec.load({"alphabet": alphabet}, tmp_path)


# ---- words ----


@given(st.text(st.characters(codec="utf-8")))
def test_pieces_joined_are_the_text(text):
    assert "".join(WordCodec.piece.findall(text)) == text


def test_how_a_text_is_cut():
    found = WordCodec.piece.findall("“Don't” (she\n  said 18_x):  no <unk><unk>!")
    assert found == [
        *("“", "Don't", "”", " (", "she", "\n", " ", " said", " 1", "8", "_", "x"),
        *(")", ":", " ", " no", " <unk>", "<unk>", "!"),
    ]


def test_the_loss_is_unknown_words_and_nothing_else():
    codec = WordCodec.fit(["the cat, the dog.\n"] * 2)
    found = codec.encode("the cow,\nthe cat saw a dog.")
    assert codec.decode(found) == "the <unk>,\nthe cat <unk> <unk> dog."
    assert codec.units(found) == len("the cow,\nthe cat saw a dog.")
    text = codec.decode(found)
    assert np.array_equal(codec.encode(text).symbols, found.symbols)  # a sample reads back
    assert codec.decode(codec.encode("xyz xyz")) == "<unk> <unk>"
    assert not codec.lossless


@given(data=st.data())
def test_known_words_come_back(data):
    codec = CODECS["words"]
    text = "".join(data.draw(st.lists(st.sampled_from(codec.vocabulary))))
    found = codec.encode(text)
    expected = [p if p in codec.vocabulary else None for p in codec.piece.findall(text)]
    if None not in expected:
        assert codec.decode(found) == text
    assert codec.units(found) == len(text.encode())


def test_the_vocabulary_is_cut_by_count():
    codec = WordCodec.fit(["a a a b b c 7 <unk> <unk>", b" a"], size=100)
    assert codec.vocabulary == (" a", " b", " 7", "a")[:3]
    assert WordCodec.fit(["a a a b b c 7"], size=2).vocabulary == (" a", " b")
    assert " c" in WordCodec.fit(["a a a b b c 7"], min_count=1).vocabulary


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 2**24}, {"min_count": 0}])
def test_word_settings_out_of_bounds(options):
    with pytest.raises(ValueError, match="must be"):
        WordCodec.fit(["a"], **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("[", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "expected a list of words"),
        ('["a", 1]', "expected a list of words"),
        ('["a"]', "it has 1 words and config.json says 2"),
        ('["a", "a"]', "a word twice"),
        ('["a", ""]', "can't be one word"),
        ('["a", "b c"]', "can't be one word"),
        ('["a", " <unk>"]', "can't be one word"),
        ('["a", "\\ud800"]', "surrogate"),
        ("\xff", "not UTF-8 at byte 0"),
    ],
)
def test_bad_vocabularies(content, message, tmp_path):
    path = tmp_path / "vocabulary.json"
    if content is not None:
        path.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=message) as caught:
        WordCodec.load({"words": 2}, tmp_path)
    assert str(path) in str(caught.value)


def test_a_file_of_absurd_size_is_not_read(tmp_path):
    with (tmp_path / "vocabulary.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="too many"):
        WordCodec.load({"words": 2}, tmp_path)
