"""BPE as well-known models have it: the library's symbols, and texts that come back."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chainrule.codecs import bpe
from chainrule.codecs.text import BPECodec
from chainrule.core.codec import Encoded
from tests.models.tokenizers import (
    BYTE_LEVEL,
    CORPUS,
    ENDS,
    SENTENCEPIECE,
    codec,
    definition,
    library,
)

TEXTS = [
    "", " ", "  two  spaces ", "Alice was beginning", " Alice", "a\n\n\tb\r\n", "日本語 👩‍👩‍👧 é",
    "12345 3.14", "'s I'LL don't", "<s>x</s><|im_end|>", "<0x0A>", "def f(x):\n    return x",
    "\x00\x07\x04", *CORPUS,
]  # fmt: skip
every = pytest.mark.parametrize("name", ENDS)
wild = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("ab \n\t'1▁é\u0301")))


def changed(name, change):
    data = json.loads(definition(name))
    change(data)
    return json.dumps(data)


def check(name, text):
    found = codec(name).encode(text)
    theirs = library(name).encode(text, add_special_tokens=False).ids
    assert found.symbols.tolist() == theirs
    assert codec(name).decode(found) == text
    assert codec(name).decode_bytes(found) == text.encode()
    assert codec(name).units(found) == len(text.encode())
    json.dumps(found.side)
    return found


@every
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_symbols_are_the_librarys_and_the_text_comes_back(name, text):
    found = check(name, text)
    lacks = name == "smollm2" and "\x04" in text
    assert codec(name).score_kind(found) == ("codes" if lacks else "bound")
    assert codec(name).lossless


@every
@settings(max_examples=25)
@given(text=wild)
@example(text="▁")
@example(text=" ▁ a")
@example(text="\u0301")
def test_any_text_comes_back(name, text):
    check(name, text)


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_the_bytes_of_sentencepiece(name):
    table = dict(zip(_tokens(name), codec(name).symbol_bytes(), strict=True))
    assert table["▁the"] == b" the" and table["<0x0A>"] == b"\n" and table["<0xFF>"] == b"\xff"
    assert table["</s>"] == b"" and table["<s>"] == b"<s>" and table["ß"] == "ß".encode()


def _tokens(name):
    vocabulary = json.loads(definition(name))["model"]["vocab"]
    return sorted(vocabulary, key=vocabulary.get)


def test_the_first_space_is_told_beside_the_symbols():
    llama, mistral, gemma = (codec(name) for name in SENTENCEPIECE)
    found = llama.encode("the")
    assert found.side == {"prefix": 1} and llama.units(found) == 3
    assert llama.decode(found) == "the"
    assert llama.decode(Encoded(found.symbols)) == " the"  # a continuation keeps its space
    assert gemma.encode("the").side == {}
    # Metaspace puts no second space before a text that begins with one.
    assert np.array_equal(mistral.encode("the").symbols, mistral.encode(" the").symbols)
    assert (mistral.encode("the").side, mistral.encode(" the").side) == ({"prefix": 1}, {})
    assert llama.encode("").side == {} and not len(llama.encode("").symbols)


@pytest.mark.parametrize(
    ("name", "text"),
    [("llama2", "a▁b"), ("qwen2", "e\u0301"), ("smollm2", "a\x04b"), ("smollm2", "\x04")],
)
def test_symbols_that_spell_another_text_are_codes(name, text):
    found = check(name, text)
    assert codec(name).score_kind(found) == "codes"
    assert codec(name).decode(Encoded(found.symbols)) != text
    assert not codec(name).exact_for(found)


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_cutting_beforehand_changes_nothing(name, monkeypatch):
    """Qwen's and Llama 3's cuts are also where `chunks` cuts."""
    text = "".join(t[:500] + " x  " for t in TEXTS) + "\u0301 e\u0301 ' 't\n \n 1 23 456 !\n "
    whole = codec(name).encode(text).symbols
    monkeypatch.setattr(bpe, "_CHUNK", 3)
    assert codec(name)._chunked and len(bpe.chunks(text)) > 100
    assert np.array_equal(codec(name).encode(text).symbols, whole)
    rng = np.random.default_rng(0)
    for _ in range(100):
        few = "".join(rng.choice(list(" \n'1a!sé\u0301\t\u00a0"), 30))
        theirs = library(name).encode(few, add_special_tokens=False).ids
        assert codec(name).encode(few).symbols.tolist() == theirs


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_sentencepiece_is_encoded_whole(name):
    assert not codec(name)._chunked


def test_an_unknown_cutter_is_encoded_whole():
    def punctuation(data):
        data["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Punctuation", "behavior": "Isolated"}, data["pre_tokenizer"],
            ],
        }  # fmt: skip

    assert not BPECodec(changed("gpt2", punctuation))._chunked


@every
def test_special_tokens_in_text_and_in_templates(name):
    end = ENDS[name]
    text = f"Hi{end}\nyou"
    assert codec(name).space.eos not in codec(name).encode(text).symbols
    tokenizer = library(name, special=True)
    found = codec(name).encode_special(text)
    assert found.tolist() == tokenizer.encode(text, add_special_tokens=False).ids
    assert found.dtype == np.int64 and codec(name).space.eos in found
    assert codec(name).special(end) == codec(name).space.eos == tokenizer.token_to_id(end)
    assert codec(name).special("the") is None
    assert codec(name).encode_special("").shape == (0,)


@every
def test_save_load_and_a_padded_alphabet(name, tmp_path):
    tokens = len(codec(name).symbol_bytes())
    padded = BPECodec(definition(name), codec(name).space.eos, size=tokens + 7)
    assert padded.symbol_bytes() == [*codec(name).symbol_bytes(), *[b""] * 7]
    assert padded.space.size == tokens + 7 and padded.end == ENDS[name]
    assert padded.decode(Encoded(np.array([tokens + 6]))) == ""
    assert padded.fingerprint() != codec(name).fingerprint()
    for each in (codec(name), padded):
        again = BPECodec.load(json.loads(json.dumps(each.save(tmp_path))), tmp_path)
        assert again.fingerprint() == each.fingerprint() and again.space == each.space
        assert np.array_equal(again.encode("Alice é").symbols, each.encode("Alice é").symbols)


@pytest.mark.parametrize("size", [450, 100_000])
def test_another_models_tokenizer(size):
    with pytest.raises(ValueError, match=r"here: a tokenizer of 451 tokens doesn't match an emb"):
        BPECodec(definition("gpt2"), "<|endoftext|>", "here", size)
    with pytest.raises(ValueError, match="'70000' is not one of its special tokens"):
        BPECodec(definition("gpt2"), 70000)


def without(*tokens):
    """Other spellings for these; merges would miss them."""

    def change(data):
        vocabulary = data["model"]["vocab"]
        for n, token in enumerate(tokens):
            vocabulary[f"zz{n}"] = vocabulary.pop(token)
        data["model"]["merges"] = []

    return change


def pre(kind, **settings):
    return lambda data: data.update(pre_tokenizer={"type": kind, **settings})


def decoder(data):
    data["decoder"]["decoders"].pop(1)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("llama2", without("<0x41>"), "lacks 1 of the 256 bytes"),
        ("gpt2", without("A", "B"), "lacks 2 of the 256 bytes"),
        ("llama2", decoder, "not byte-level BPE, nor"),
        ("llama2", lambda d: d.update(decoder={"type": "Fuse"}), "not byte-level"),
        (
            "llama2",
            lambda d: d["decoder"]["decoders"][0].update(type=[]),
            r"decoder \[\] is not had",
        ),
        ("llama2", lambda d: d.update(normalizer=None), "not byte-level"),
        (
            "llama2",
            lambda d: d.update(normalizer={"type": "Lowercase"}),
            "normalizer 'Lowercase' is",
        ),
        (
            "llama2",
            pre("Whitespace"),
            "pre_tokenizer 'Whitespace' is not had here; known: ByteLevel",
        ),
        (
            "mistral",
            pre("Metaspace", replacement="_"),
            "Metaspace: replacement '_' is not had here",
        ),
        ("llama2", pre("ByteLevel", add_prefix_space=False), "not byte-level"),
        ("llama2", lambda d: d["model"].update(byte_fallback=False), "not byte-level"),
        ("llama2", lambda d: d["model"].update(dropout=0.5), "dropout"),
    ],
)
def test_what_is_refused(name, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        BPECodec(changed(name, change), where="here/tokenizer.json")
    assert str(caught.value).startswith("here/tokenizer.json: ")
