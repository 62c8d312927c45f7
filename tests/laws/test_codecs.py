"""The laws of codecs, for every one in the registry."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chainrule.codecs.image import PixelCodec
from chainrule.codecs.series import SeriesCodec
from chainrule.codecs.text import TextCodec
from chainrule.core.codec import Encoded
from chainrule.core.distributions import Categorical, NegativeBinomial, Normal
from chainrule.registry import CODECS, PICTURE_CODECS, SERIES_CODECS
from tests.laws.tolerances import CLOSED_FORM, FLOAT64
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


# ---- series ----

COUNTS = np.random.default_rng(0).integers(0, 40, 300).astype(float)
OPTIONS = {
    "counts": {"counts": {}},
    "real": {"mean": {}, "std": {"by": "std"}, "asinh": {"asinh": True}},
    "bins": {
        "uniform": {"size": 64},
        "quantile": {"width": "quantile", "asinh": True, "by": "std", "size": 100},
    },
}
KINDS = [
    (name, how, own) for name in SERIES_CODECS for how in OPTIONS[name] for own in (False, True)
]


@pytest.fixture(params=KINDS, ids=lambda k: "-".join(map(str, k)), scope="module")
def series(request: pytest.FixtureRequest) -> SeriesCodec:
    name, how, own = request.param
    return SERIES_CODECS[name].fit([COUNTS, 3 * COUNTS[:50]], own=own, **OPTIONS[name][how])


def test_series_decode_undoes_encode(series: SeriesCodec):
    """Exactly, to rounding, or to the middle of a bin; what was lost is lost once."""
    for values in (COUNTS, COUNTS[:1], np.zeros(5), np.zeros(0), 1000 * COUNTS):
        encoded = series.encode(values)
        assert encoded.symbols.shape == values.shape and series.units(encoded) == len(values)
        json.dumps(encoded.side)
        back = series.decode(encoded)
        if series.lossless:
            assert np.array_equal(back, values)
        elif series.space.kind == "real":
            np.testing.assert_allclose(back, values, rtol=FLOAT64, atol=FLOAT64)
        else:
            centre, scale = (np.array([encoded.side[k]]) for k in ("centre", "scale"))
            assert np.array_equal(series.to_symbols(back, centre, scale)[0], encoded.symbols)


def test_series_densities_sum_to_one(series: SeriesCodec):
    """A normalised law of symbols, and what the codec adds to it, is a law of values."""
    if series.space.kind == "count":
        values, law = np.arange(4000.0), NegativeBinomial(*torch.tensor([[9.0], [2.0]]).double())
        step = 1.0
    else:
        values = np.linspace(-400, 400, 80_001)
        step = values[1] - values[0]
        law = Normal(torch.zeros(1).double(), torch.ones(1).double())
    if series.space.size is not None:
        logits = torch.randn(series.space.size, generator=torch.Generator().manual_seed(1))
        law = Categorical(logits.double().expand(1, len(values), -1))
    symbols, inside = series.to_symbols(values, *series.scaling.measure(COUNTS))
    log_p = law.log_prob(torch.from_numpy(symbols)[None])[0].numpy()
    total = np.exp(log_p + inside).sum() * step
    assert abs(total - 1) < CLOSED_FORM
    whole = series.to_symbols(COUNTS, *series.scaling.measure(COUNTS))[1].sum()
    assert series.log_abs_det(series.encode(COUNTS).side) == pytest.approx(whole, rel=FLOAT64)


def test_series_streaming_is_the_whole(series: SeriesCodec):
    encoded = series.encode(COUNTS)
    stream = series.stream(encoded.side)
    parts = [stream.push(encoded.symbols[a : a + 70]) for a in range(0, 300, 70)]
    assert np.array_equal(np.concatenate([*parts, stream.finish()]), series.decode(encoded))


def test_series_save_and_load(series: SeriesCodec, tmp_path: Path):
    data = json.loads(json.dumps(series.save(tmp_path)))
    again = type(series).load(data, tmp_path)
    assert again.space == series.space and again.fingerprint() == series.fingerprint()
    one, other = series.encode(COUNTS), again.encode(COUNTS)
    assert np.array_equal(one.symbols, other.symbols) and one.side == other.side
    with pytest.raises(ValueError, match="unknown key"):
        type(series).load({**data, "colour": 1}, tmp_path)


def test_series_symbols_are_a_models(series: SeriesCodec):
    kind = torch.from_numpy(series.encode(COUNTS).symbols).dtype
    assert kind == (torch.float64 if series.space.kind == "real" else torch.int64)


# ---- pictures ----

PIXELS = np.random.default_rng(1).integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)
PICTURES = {
    "pixels": {
        "grey": {},
        "binary": {"levels": 2, "order": "snake", "labels": ("a", "b")},
        "rgb": {"colour": "rgb", "order": "planes"},
        "coarse": {"colour": "rgb", "levels": 8, "crop": (4, 4), "resize": True},
        "luma": {"colour": "luma", "background": (255, 255, 255)},
        "palette": {"colour": "palette", "palette": ((0, 0, 0), (9, 99, 255), (255, 9, 9))},
    },
}


@pytest.fixture(
    params=[(name, how) for name in PICTURE_CODECS for how in PICTURES[name]],
    ids="-".join,
    scope="module",
)
def picture(request: pytest.FixtureRequest) -> PixelCodec:
    name, how = request.param
    return PICTURE_CODECS[name](6, 5, **PICTURES[name][how])


def test_picture_decode_undoes_encode(picture: PixelCodec):
    """Exactly, of pictures of its own colour, or to a picture that the codec then keeps."""
    assert picture.space.size is not None
    for pixels in (*PIXELS, *PIXELS[..., :1]):
        encoded = picture.encode(pixels)
        assert encoded.symbols.dtype == np.int64 and json.dumps(encoded.side) == "{}"
        assert encoded.symbols.shape == (picture.space.max_len,)
        assert 0 <= encoded.symbols.min() <= encoded.symbols.max() < picture.space.size
        back = picture.decode(encoded)
        assert back.dtype == np.uint8 and back.shape[:2] == picture.grid[:2]
        if picture.lossless and pixels.shape[-1] == picture.grid[-1]:
            assert np.array_equal(back.reshape(pixels.shape), pixels)
        elif picture.colour == "luma":
            assert np.abs(back.astype(int) - pixels).max() <= 1
        elif not picture.crop:  # what was lost is lost once
            assert np.array_equal(picture.encode(back).symbols, encoded.symbols)
        assert picture.units(encoded) == picture.space.max_len


@given(st.data())
def test_picture_streaming_is_the_whole(picture: PixelCodec, data: st.DataObject):
    """Any symbols, cut anywhere, even those of a picture that is not finished."""
    assert picture.space.size is not None and picture.space.max_len is not None
    length = data.draw(st.integers(0, picture.space.max_len))
    dice = np.random.default_rng(data.draw(st.integers(0, 99)))
    symbols = dice.integers(0, picture.space.size, length)
    whole = picture.decode(Encoded(symbols))
    cuts = sorted(data.draw(st.lists(st.integers(0, length), max_size=6)))
    stream, rows = picture.stream(), picture.grid[1] * picture.grid[2]
    parts = [stream.push(part) for part in np.split(symbols, cuts)]
    if picture.order == "raster":
        assert sum(map(len, parts)) == length // rows  # whole rows, at once
    assert np.array_equal(np.concatenate([*parts, stream.finish()]), whole)


def test_picture_save_and_load(picture: PixelCodec, tmp_path: Path):
    data = json.loads(json.dumps(picture.save(tmp_path)))
    again = type(picture).load(data, tmp_path)
    assert again.space == picture.space and again.fingerprint() == picture.fingerprint()
    assert again.lossless == picture.lossless and again.labels == picture.labels
    for pixels in PIXELS:
        assert np.array_equal(again.encode(pixels).symbols, picture.encode(pixels).symbols)
    with pytest.raises(ValueError, match="unknown key"):
        type(picture).load({**data, "depth": 1}, tmp_path)
