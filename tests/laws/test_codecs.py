"""The laws of codecs, for every one in the registry."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chainrule.codecs.text import TextCodec
from chainrule.registry import CODECS
from tests.models.tokenizers import ENDS
from tests.models.tokenizers import codec as foreign

CORPUS = [
    "Alice was beginning to get very tired of sitting by her sister on the bank,\n",
    "and of having nothing to do: 1865, 'naïve café', 日本語, 👩‍👩‍👧 and \u0301 alone.\n" * 3,
]
WILD = [
    "",
    "a",
    " ",
    "\n\n",
    "Zebra 7 ñ 👍🏽",
    "café Alice  tired\t",
    "日本語" * 40,
    "a\u2581 b\x04",
    *CORPUS,
]


@pytest.fixture(params=[*CODECS, *ENDS], scope="module")
def codec(request: pytest.FixtureRequest) -> TextCodec:
    if request.param in ENDS:  # tokenizers of other models
        return foreign(request.param)
    cls = CODECS[request.param]
    assert issubclass(cls, TextCodec)
    return cls.fit([*CORPUS, "".join(map(chr, range(32, 400))), *WILD])


@pytest.mark.parametrize("text", WILD)
def test_decode_undoes_encode(codec: TextCodec, text: str):
    encoded = codec.encode(text)
    assert codec.space.size is not None
    assert encoded.symbols.dtype == np.int64
    assert ((encoded.symbols >= 0) & (encoded.symbols < codec.space.size)).all()
    back = codec.decode(encoded)
    if codec.lossless:
        assert back == text
    else:  # what was lost is lost once
        assert np.array_equal(codec.encode(back).symbols, encoded.symbols)
    assert codec.units(encoded) == len(text.encode()) or not codec.lossless


@given(st.data())
def test_streaming_is_the_whole(codec: TextCodec, data: st.DataObject):
    """Any symbols, cut anywhere, even those that no text encodes to."""
    assert codec.space.size is not None
    symbols = data.draw(st.lists(st.integers(0, codec.space.size - 1), max_size=30))
    whole = codec.decode(type(codec.encode(""))(np.array(symbols, np.int64)))
    stream, out = codec.stream(), []
    while symbols:
        count = data.draw(st.integers(1, len(symbols)))
        out.append(stream.push(np.array(symbols[:count], np.int64)))
        symbols = symbols[count:]
        assert whole.startswith("".join(out))
    assert "".join([*out, stream.finish()]) == whole


def test_save_and_load(codec: TextCodec, tmp_path: Path):
    data = json.loads(json.dumps(codec.save(tmp_path)))
    again = type(codec).load(data, tmp_path)
    assert again.space == codec.space
    for text in WILD:
        assert np.array_equal(again.encode(text).symbols, codec.encode(text).symbols)
    with pytest.raises(ValueError, match="unknown key"):
        type(codec).load({**data, "colour": 1}, tmp_path)


def test_symbols_are_a_models(codec: TextCodec):
    assert torch.from_numpy(codec.encode("Alice").symbols).dtype == codec.space.dtype
