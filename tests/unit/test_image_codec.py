"""Pictures to symbols: colours, levels, sizes, labels, and what is refused."""

import sys

import numpy as np
import pytest
from PIL import Image

from chainrule.codecs.colours import grey, nearest, over, to_luma, to_rgb
from chainrule.codecs.image import PixelCodec, fit_palette
from chainrule.core.codec import Encoded
from chainrule.core.grid import ORDERS, places

DICE = np.random.default_rng(0)
GREY = DICE.integers(0, 256, (6, 5), dtype=np.uint8)
COLOUR = DICE.integers(0, 256, (6, 5, 3), dtype=np.uint8)
FOUR = ((0, 0, 0), (255, 0, 0), (0, 0, 255), (250, 250, 250))
KINDS = {
    "grey": {},
    "two": {"levels": 2},
    "rgb": {"colour": "rgb"},
    "rgb-16": {"colour": "rgb", "levels": 16},
    "luma": {"colour": "luma"},
    "luma-8": {"colour": "luma", "levels": 8},
    "palette": {"colour": "palette", "palette": FOUR},
}


def symbols(codec, picture):
    return codec.encode(picture).symbols


def cut(x, height, width):
    top, left = (x.shape[0] - height) // 2, (x.shape[1] - width) // 2
    return x[top : top + height, left : left + width]


# ---- levels and colours ----


@pytest.mark.parametrize("levels", [2, 3, 4, 8, 16, 64, 255, 256])
def test_levels_are_the_nearest_ones(levels):
    codec = PixelCodec(16, 16, levels=levels)
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    s = symbols(codec, every)
    assert s.dtype == np.int64
    assert np.array_equal(s, np.round(np.arange(256) * (levels - 1) / 255))
    back = codec.decode(Encoded(np.arange(levels)))
    values = back.flatten()[:levels]
    assert np.array_equal(values, np.floor(np.arange(levels) * 255 / (levels - 1) + 0.5))
    assert np.array_equal(symbols(codec, back)[:levels], np.arange(levels))
    distance = np.abs(every.flatten()[:, None].astype(int) - values)
    assert np.array_equal(distance[np.arange(256), s], distance.min(1))


def all_colours(step):
    v = np.r_[np.arange(0, 255, step), 255].astype(np.uint8)
    return np.stack(np.meshgrid(v, v, v, indexing="ij"), -1)


def test_luma_comes_back_one_off_at_most():
    x = all_colours(5)
    assert np.abs(to_rgb(to_luma(x)).astype(int) - x).max() == 1
    assert (
        np.abs(np.asarray(Image.fromarray(x[0]).convert("YCbCr")).astype(int) - to_luma(x[0])).max()
        <= 1
    )
    line = np.arange(256, dtype=np.uint8)
    greys = np.stack([line] * 3, -1)
    assert np.array_equal(to_luma(greys), np.stack([line, line * 0 + 128, line * 0 + 128], -1))
    assert np.array_equal(to_rgb(to_luma(greys)), greys)


@pytest.mark.slow
def test_luma_of_all_colours():
    v = np.arange(256, dtype=np.uint8)
    worst, same = np.zeros(3, int), 0
    for red in v:
        x = np.stack([np.full((256, 256), red), *np.meshgrid(v, v, indexing="ij")], -1)
        off = np.abs(to_rgb(to_luma(x)).astype(int) - x)
        worst, same = np.maximum(worst, off.max((0, 1))), same + (off.max(-1) == 0).sum()
    assert worst.tolist() == [1, 1, 1] and round(100 * same / 2**24) == 24


def test_colour_becomes_grey_and_grey_colour():
    assert np.array_equal(grey(COLOUR)[..., 0], np.asarray(Image.fromarray(COLOUR).convert("L")))
    assert np.array_equal(symbols(PixelCodec(6, 5), COLOUR), grey(COLOUR).flatten())
    rgb = PixelCodec(6, 5, colour="rgb")
    assert np.array_equal(symbols(rgb, GREY), np.repeat(GREY.flatten(), 3))
    assert np.array_equal(rgb.decode(rgb.encode(GREY)), np.stack([GREY] * 3, -1))
    luma = PixelCodec(6, 5, colour="luma", order="planes")
    s = symbols(luma, GREY)
    assert np.array_equal(s[:30], GREY.flatten()) and (s[30:] == 128).all()
    first = luma.decode(Encoded(s[:30]))  # a grey picture is known when its first channel is
    assert np.array_equal(first, np.stack([GREY] * 3, -1))


def test_palette_by_distance_and_ties_to_the_lower_number():
    palette = np.array([(10, 0, 0), (0, 0, 0), (20, 0, 0), (0, 99, 0)], np.uint8)
    x = np.array([[(5, 0, 0), (15, 0, 0), (16, 0, 0), (4, 0, 0), (0, 60, 200)]], np.uint8)
    assert nearest(x, palette).tolist() == [[0, 0, 2, 1, 3]]
    many = DICE.permutation(all_colours(17).reshape(-1, 3))[:4096]
    sample = DICE.integers(0, 256, (300, 3), dtype=np.uint8)
    distance = ((sample[:, None].astype(int) - many.astype(int)) ** 2).sum(-1)
    assert np.array_equal(nearest(sample, many), distance.argmin(1))
    codec = PixelCodec(6, 5, colour="palette", palette=many.tolist())
    assert codec.space.size == 4096 and codec.encode_many(COLOUR[None]).dtype == np.uint16
    back = codec.decode(codec.encode(COLOUR))
    assert np.array_equal(symbols(codec, back), symbols(codec, COLOUR))


def test_a_palette_is_fitted():
    few = np.array(FOUR, np.uint8)[DICE.integers(0, 4, (2, 30, 30))]
    assert fit_palette(few, 4) == (FOUR[0], FOUR[2], FOUR[1], FOUR[3])  # by brightness
    assert fit_palette(list(few), 16) == fit_palette(few, 4)
    smooth = all_colours(15)[:, :, 0]
    found = fit_palette([smooth], 8)
    assert len(found) == 8 and found == fit_palette([smooth], 8)
    off = [
        np.array(p)[nearest(smooth, np.array(p, np.uint8))] - smooth.astype(int)
        for p in (found, FOUR)
    ]
    assert (off[0] ** 2).mean() < (off[1] ** 2).mean() / 4
    large = DICE.integers(0, 256, (3, 900, 900), dtype=np.uint8)  # more pixels than are looked at
    assert 2 <= len(fit_palette(large, 5)) <= 5
    glass = np.full((2, 2, 4), 255, np.uint8)
    glass[0, 0] = 0
    assert fit_palette([glass], 4, (9, 9, 9)) == ((9, 9, 9), (255, 255, 255))
    for pictures, problem in (
        ([], "two colours or more, not 0"),
        ([GREY * 0], "two colours or more, not 1"),
        ([glass], "--background"),
    ):
        with pytest.raises(ValueError, match=problem):
            fit_palette(pictures, 4)
    with pytest.raises(ValueError, match="2 to 256"):
        fit_palette([GREY], 257)


def test_transparency():
    x = np.concatenate([COLOUR, np.full((6, 5, 1), 255, np.uint8)], -1)
    codec = PixelCodec(6, 5, colour="rgb")
    assert np.array_equal(codec.decode(codec.encode(x)), COLOUR)  # opaque: dropped
    x[0, :2, 3] = 0, 128
    problem = "transparent in 2 of 30 pixels: say what lies behind them, such as --background white"
    with pytest.raises(ValueError, match=problem):
        codec.encode(x)
    laid = PixelCodec(6, 5, colour="rgb", background=(0, 200, 50))
    out = laid.decode(laid.encode(x)).astype(float)
    mixed = x[0, 1, :3] * (128 / 255) + np.array([0, 200, 50]) * (127 / 255)
    assert out[0, 0].tolist() == [0, 200, 50] and np.array_equal(out[0, 1], np.round(mixed))
    assert np.array_equal(out[1:], COLOUR[1:])
    assert np.array_equal(
        symbols(PixelCodec(6, 5, background=(0, 0, 0)), x), grey(over(x, (0, 0, 0))).flatten()
    )


# ---- orders, sizes ----


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_orders_and_pictures_that_are_not_finished(order, kind):
    plain, codec = (PixelCodec(6, 5, order=o, **KINDS[kind]) for o in ("raster", order))
    s, at = symbols(codec, COLOUR), places(codec.grid, order).numpy()
    assert np.array_equal(s, symbols(plain, COLOUR)[at])
    whole = codec.decode(Encoded(s))
    assert np.array_equal(whole, plain.decode(plain.encode(COLOUR)))
    for known in (len(s) // 4, len(s) * 3 // 4):
        there = np.zeros(codec.grid, bool)
        there.flat[at[:known]] = True
        part, pixels = codec.decode(Encoded(s[:known])), there.all(-1)
        assert np.array_equal(part[pixels], whole[pixels])
        assert (part[~there.any(-1)] == 0).all()
    assert codec.units(codec.encode(COLOUR)) == codec.space.max_len == len(s)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(6, 5), (12, 10), (4, 7), (31, 6)])
def test_many_at_once_are_as_one_by_one(kind, size):
    codec = PixelCodec(
        6, 5, resize=size != (6, 5), background=(1, 2, 3), order="snake", **KINDS[kind]
    )
    for channels in (1, 3, 4):
        x = DICE.integers(0, 256, (3, *size, channels), dtype=np.uint8)
        many = codec.encode_many(x)
        assert many.dtype == np.uint8 and many.shape == (3, codec.space.max_len)
        assert np.array_equal(many, np.stack([symbols(codec, one) for one in x]))
    assert np.array_equal(codec.encode_many(x[..., 0]), codec.encode_many(x[..., :1]))
    assert codec.encode_many(x[:0]).shape == (0, codec.space.max_len)


def test_scaled_to_cover_and_cut_in_the_middle():
    thirds = np.repeat(np.array([10, 99, 200], np.uint8), 10)
    wide = np.tile(thirds, (10, 1))
    codec = PixelCodec(10, 10, resize=True)
    assert (symbols(codec, wide) == 99).all() and (symbols(codec, wide.T) == 99).all()
    big = np.kron(wide, np.ones((7, 7), np.uint8))
    assert (codec.decode(codec.encode(big))[:, 2:-2] == 99).all()
    same = PixelCodec(6, 5, resize=True)
    assert np.array_equal(same.decode(same.encode(GREY)), GREY)
    for size in ((1, 1), (1, 5000), (4, 3)):
        x = np.full(size, 77, np.uint8)
        assert (symbols(PixelCodec(3, 4, resize=True), x) == 77).all()
    down = np.asarray(Image.fromarray(big).resize((15, 5), Image.Resampling.LANCZOS))
    assert np.array_equal(symbols(PixelCodec(5, 15, resize=True), big), down.flatten())
    up = np.asarray(Image.fromarray(GREY).resize((10, 12), Image.Resampling.BICUBIC))
    assert np.array_equal(symbols(PixelCodec(12, 10, resize=True), GREY), up.flatten())
    palette = PixelCodec(12, 10, colour="palette", palette=FOUR, resize=True)
    mixed = np.asarray(Image.fromarray(COLOUR).resize((10, 12), Image.Resampling.BICUBIC))
    expected = nearest(mixed, np.array(FOUR, np.uint8)).flatten()
    assert np.array_equal(symbols(palette, COLOUR), expected)


def test_cropped():
    big = DICE.integers(0, 256, (10, 9), dtype=np.uint8)
    codec = PixelCodec(6, 5, crop=(6, 5))
    assert np.array_equal(codec.decode(codec.encode(big)), cut(big, 6, 5))
    both = PixelCodec(3, 3, crop=(6, 6), resize=True)
    plain = PixelCodec(3, 3, resize=True)
    assert np.array_equal(symbols(both, big), symbols(plain, cut(big, 6, 6)))
    with pytest.raises(ValueError, match="4x9 is too small for a crop of 6x6"):
        both.encode(big[:4])
    with pytest.raises(ValueError, match="crop of 6x6 makes no pictures of 3x3: --resize"):
        PixelCodec(3, 3, crop=(6, 6))


def test_scaling_needs_pillow_and_nothing_else_does(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert len(symbols(PixelCodec(6, 5), GREY)) == 30
    with pytest.raises(ValueError, match=r"pip install 'chainrule\[image\]'"):
        PixelCodec(3, 3, resize=True).encode(GREY)


# ---- scores, labels ----


def test_what_a_score_is_of():
    levels = np.round(GREY / 85).astype(np.uint8) * 85
    opaque = np.concatenate([COLOUR, np.full((6, 5, 1), 255, np.uint8)], -1)
    kinds = {
        "exact": [
            (PixelCodec(6, 5), GREY),
            (PixelCodec(6, 5), np.stack([GREY] * 3, -1)),
            (PixelCodec(6, 5, levels=4), levels),
            (PixelCodec(6, 5, colour="rgb"), opaque),
            (PixelCodec(6, 5, colour="rgb", resize=True, background=(0, 0, 0)), GREY),
            (
                PixelCodec(6, 5, colour="palette", palette=FOUR),
                np.array(FOUR * 8, np.uint8)[:30].reshape(6, 5, 3),
            ),
        ],
        "codes": [
            (PixelCodec(6, 5), COLOUR),
            (PixelCodec(6, 5, levels=4), GREY),
            (PixelCodec(6, 5, colour="luma"), GREY),
            (PixelCodec(3, 5, resize=True), GREY),
            (PixelCodec(6, 5, colour="palette", palette=FOUR), COLOUR),
            (PixelCodec(6, 5, background=(0, 0, 0)), opaque // 2),
        ],
    }
    for kind, pairs in kinds.items():
        assert [codec.score_kind(x) for codec, x in pairs] == [kind] * len(pairs)
    lossless = [PixelCodec(6, 5, **options).lossless for options in KINDS.values()]
    assert lossless == [True, False, True, False, False, False, False]
    assert not PixelCodec(6, 5, resize=True).lossless


def test_labels():
    named = PixelCodec(6, 5, labels=("cat", "dog"))
    assert [named.label(x) for x in ("cat", "dog", 0, 1)] == [0, 1, 0, 1]
    digits = PixelCodec(6, 5, labels=("3", "5"))
    assert [digits.label(x) for x in ("3", 5)] == [0, 1]  # a number that is a name is the name
    for codec, given in ((named, "cow"), (named, 2), (named, -1), (named, "0"), (digits, 0)):
        with pytest.raises(ValueError, match=f"label {given!r} was not trained; there are: ") as e:
            codec.label(given)
        assert str(e.value).endswith(", ".join(codec.labels))
    with pytest.raises(ValueError, match="has learned no labels; fit it on sub-folders"):
        PixelCodec(6, 5).label("cat")


# ---- what is refused ----


@pytest.mark.parametrize(
    ("x", "problem"),
    [
        (GREY.astype(float), "array of uint8, not of float64"),
        (GREY[0], r"shape \[h, w\] or .*, not \[5\]"),
        (COLOUR[..., :2], r"not \[6, 5, 2\]"),
        (GREY[:0], r"not \[0, 5\]"),
        (GREY[:4], "4x5, where this run's pictures are 6x5: --resize when fitting"),
    ],
)
def test_no_pictures_of_this_codec(x, problem):
    with pytest.raises(ValueError, match=problem):
        PixelCodec(6, 5).encode(x)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (np.array([0, 4]), "4 is not a symbol of 4 levels"),
        (np.array([-1]), "-1 is not a symbol"),
        (np.zeros(31, int), "31 symbols, where a picture has 30"),
        (np.zeros(3), "must be whole numbers"),
        (np.zeros((6, 5), int), "must be whole numbers"),
    ],
)
def test_no_symbols_of_this_codec(given, problem):
    codec = PixelCodec(6, 5, levels=4)
    for take in (lambda s: codec.decode(Encoded(s)), codec.stream().push):
        with pytest.raises(ValueError, match=problem):
            take(given)
    stream = codec.stream()
    stream.push(np.zeros(30, int))
    with pytest.raises(ValueError, match="more symbols than a picture has"):
        stream.push(np.zeros(1, int))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"height": 4097}, "height of pictures must be 1 to 4096"),
        ({"width": 0}, "width of pictures must be"),
        ({"height": True}, "height: expected int"),
        ({"height": 10**400}, "height of pictures"),
        ({"height": 4096, "width": 4096}, "16,777,216 symbols, 4,194,304 at most"),
        ({"levels": 1}, "levels must be 2 to 256"),
        ({"levels": 257}, "levels must be 2 to 256"),
        ({"colour": "hsv"}, "'hsv' is not one of"),
        ({"colour": "palette"}, "a list of colours belongs to the colour palette"),
        ({"palette": [[0, 0, 0], [1, 1, 1]]}, "a list of colours belongs to the colour palette"),
        ({"colour": "palette", "palette": [[0, 0, 0]]}, "number of colours must be 2"),
        ({"colour": "palette", "palette": [[0, 0, 0]] * 2}, "a colour twice"),
        ({"colour": "palette", "palette": [[0, 0, 256], [0, 0, 0]]}, "is no colour"),
        ({"colour": "palette", "palette": [[0, 0], [0, 1]]}, "expected 3 values"),
        ({"order": "spiral"}, "order 'spiral' is not one of"),
        ({"background": [0, 0, -1]}, "is no colour"),
        ({"crop": [0, 5]}, "height of the crop"),
        ({"crop": [9, 9]}, "makes no pictures of 6x5"),
        ({"labels": ["a", "a"]}, "a name twice"),
        ({"labels": [""]}, "1 to 200 characters"),
        ({"labels": ["x" * 201]}, "1 to 200 characters"),
        ({"labels": [str(i) for i in range(10_001)]}, "number of labels must be"),
        ({"labels": [1]}, "expected str"),
        ({"shape": 3}, "unknown key 'shape'"),
    ],
)
def test_a_config_that_can_not_be(change, problem, tmp_path):
    data = PixelCodec(6, 5, labels=("a",)).save(tmp_path)
    with pytest.raises(ValueError, match=problem) as e:
        PixelCodec.load(data | change, tmp_path)
    assert str(e.value).startswith(f"{tmp_path / 'config.json'}: codec")


def test_a_fingerprint_is_of_all_that_the_encoding_depends_on():
    base = {"height": 6, "width": 5}
    other = [
        {"colour": "rgb"},
        {"colour": "luma"},
        {"levels": 16},
        {"order": "snake"},
        {"colour": "palette", "palette": FOUR},
        {"colour": "palette", "palette": FOUR[::-1]},
        {"background": (0, 0, 0)},
        {"crop": (6, 5)},
        {"resize": True},
        {"labels": ("a", "b")},
        {"labels": ("b", "a")},
        {"height": 5, "width": 6},
    ]
    prints = [PixelCodec(**(base | change)).fingerprint() for change in ({}, *other)]
    assert len(set(prints)) == len(prints) and PixelCodec(6, 5).fingerprint() == prints[0]
