"""Byte-level BPE: training, existing tokenizers, and those that are refused."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import chainrule.codecs.text as text_module
from chainrule.codecs import bpe
from chainrule.codecs.text import BPECodec

ALICE = (Path(text_module.__file__).parents[1] / "assets" / "alice.txt").read_text()[:20_000]
CODEC = BPECodec.fit([ALICE], size=600)


def foreign(change):
    """A good tokenizer.json, changed."""
    data = json.loads(CODEC._tokenizer.to_str())
    change(data)
    return json.dumps(data)


def setting(**values):
    return lambda data: data.update(values)


def vocabulary(**values):
    """More tokens, and no end token that would get in the way of their ids."""
    return lambda data: (data.update(added_tokens=[]), data["model"]["vocab"].update(values))


def test_training_is_repeatable_and_keeps_to_its_size():
    assert BPECodec.fit([ALICE], size=600).fingerprint() == CODEC.fingerprint()
    assert CODEC.space.size == 600
    assert BPECodec.fit(["ab"], size=4096).space.size == 257
    with pytest.raises(ValueError, match="size must be 257"):
        BPECodec.fit(["ab"], size=256)


def test_the_encoding_is_that_of_the_library():
    codec, text = CODEC, ALICE * 8
    assert len(bpe.chunks(text)) > 2
    assert "".join(bpe.chunks(text)) == text
    whole = codec._tokenizer.encode(text, add_special_tokens=False).ids
    assert codec.encode(text).symbols.tolist() == whole
    assert bpe.chunks("a" * 200_000) == ["a" * 200_000]


def test_the_byte_letters_are_the_librarys():
    from tokenizers.pre_tokenizers import ByteLevel

    letters = bpe.byte_letters()
    assert set(letters) == set(ByteLevel.alphabet())
    assert sorted(letters.values()) == list(range(256))


def test_a_text_that_spells_the_end_token_is_only_a_text():
    codec = CODEC
    found = codec.encode("a<|endoftext|>b")
    assert codec.decode(found) == "a<|endoftext|>b"
    assert codec.space.eos not in found.symbols


def test_an_existing_tokenizer(tmp_path):
    def change(data):
        data["truncation"] = {
            "max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right",
        }  # fmt: skip
        data["padding"] = {
            "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "!",
        }  # fmt: skip
        end = {**data["added_tokens"][0]}
        data["added_tokens"] = [
            {**end, "content": "<|pad|>", "id": 599},
            {**end, "content": "<|end_of_text|>", "id": 600},
        ]

    path = tmp_path / "tokenizer.json"
    path.write_text(foreign(change))
    codec = BPECodec.from_file(path)
    assert codec.end == "<|end_of_text|>"
    table = codec.symbol_bytes()
    assert (len(table), codec.space.eos) == (601, 600)
    assert table[599:] == [b"<|pad|>", b""]
    assert codec.decode(codec.encode("Alice was beginning")) == "Alice was beginning"
    assert len(codec.encode("Alice was beginning to get very tired").symbols) > 4
    assert BPECodec.from_file(path, eos="<|pad|>").space.eos == 599
    again = BPECodec.load(codec.save(tmp_path), tmp_path)
    assert again.fingerprint() == codec.fingerprint()


def test_an_end_token_is_added_where_there_is_none():
    codec = BPECodec(foreign(setting(added_tokens=[])))
    assert codec.symbol_bytes()[codec.space.eos] == b""
    assert codec.end == "<|endoftext|>"


@pytest.mark.parametrize(
    "change",
    [
        setting(normalizer={"type": "NFKC"}),
        lambda d: d["pre_tokenizer"].update(add_prefix_space=True),
    ],
)
def test_a_tokenizer_that_rewrites_text_is_not_lossless(change):
    codec = BPECodec(foreign(change))
    found = codec.encode("e\u0301")
    assert not codec.lossless
    assert codec.units(found) == 3
    assert codec.score_kind(found) == "codes"


SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting(model=3), "has no model"),
        (setting(model={"type": "WordPiece", "vocab": {}}), "model: type 'WordPiece' is not had"),
        (setting(pre_tokenizer=None), "not byte-level BPE"),
        (setting(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer 'Whitespace' is not had"),
        (setting(decoder=None), "not byte-level BPE"),
        (lambda d: d["model"].update(byte_fallback=True), "not byte-level BPE"),
        (lambda d: d["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix '</w>'"),
        (lambda d: d["model"].update(dropout=0.1), "dropout"),
        (lambda d: d["model"].update(merges="none"), "model: merges: expected a list"),
        (lambda d: d["added_tokens"][0].pop("lstrip"), "not a tokenizer.json .missing field"),
        (vocabulary(zzzz=2**20), "an alphabet of 1,048,577 is too large for 601 tokens"),
        (
            setting(added_tokens=[], model={"type": "BPE", "vocab": {"a": 0}, "merges": []}),
            "lacks 255",
        ),
        (vocabulary(zzzz=2**24), "too large"),
        (vocabulary(zzzz=7), "two tokens have the same id"),
        (lambda d: d["added_tokens"][0].update(id=700), "can't have the id 700"),
        (
            lambda d: d.update(
                pre_tokenizer={"type": "Sequence", "pretokenizers": [SPLIT, d["pre_tokenizer"]]}
            ),
            r"pre_tokenizer Split: pattern {'String': ' '} is not had here",
        ),
    ],
)
def test_tokenizers_that_are_refused(change, message, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(foreign(change))
    with pytest.raises(ValueError, match=message) as caught:
        BPECodec.from_file(path)
    assert str(path) in str(caught.value)


def test_an_end_token_must_be_special(tmp_path):
    codec = CODEC
    codec.save(tmp_path)
    for eos in ("a", "<|nowhere|>"):
        with pytest.raises(ValueError, match="not one of its special tokens"):
            BPECodec.load({"eos": eos}, tmp_path)
    with pytest.raises(ValueError, match="No such file"):
        BPECodec.from_file(tmp_path / "none.json")


def test_tokenizers_is_imported_when_it_is_used():
    assert importlib.util.find_spec("tokenizers")
    code = "import sys, chainrule.codecs.text; sys.exit('tokenizers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
