"""Codecs of series: scales, bins, text of numbers, and what they refuse."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from chainrule.codecs.series import BinCodec, CountCodec, RealCodec, Scaling, numbers
from chainrule.core.codec import Encoded
from tests.laws.tolerances import FLOAT64

Y = np.array([2.0, -4.0, 6.0, 0.0, 3.0])


def close(a, b) -> None:
    np.testing.assert_allclose(a, b, rtol=FLOAT64)


def test_scales_are_what_they_are_called():
    found = RealCodec(Scaling()).encode(Y)
    assert found.side["centre"] == 0
    close(found.side["scale"], 3.0)
    close(found.symbols, Y / 3)
    close(found.side["log_abs_det"], -5 * math.log(3))
    found = RealCodec(Scaling("std")).encode(Y)
    close([found.side["centre"], found.side["scale"]], [Y.mean(), Y.std()])
    found = RealCodec(Scaling(asinh=True)).encode(Y)
    close(found.symbols, np.arcsinh(Y / 3))
    close(found.side["log_abs_det"], -np.log(3 * np.sqrt(1 + (Y / 3) ** 2)).sum())


def test_a_part_of_each_row_is_measured():
    """Huge numbers don't overflow, and what has no scale has scale 1."""
    values = np.array([[1.0, 3.0, 500.0], [0.0, 0.0, 8.0], [1e200, -3e200, 0.0]])
    there = np.array([[True, True, False]] * 3)
    centre, scale = Scaling().measure(values, there)
    assert not centre.any()
    close(scale[:, 0], [2, 1, 2e200])
    centre, scale = Scaling("std").measure(values, there)
    close(centre[:, 0], [2, 0, -1e200])
    close(scale[:, 0], [1, 1, 2e200])


def test_a_fixed_scale_makes_scores_exact():
    codec = RealCodec.fit([Y, 10 * Y])
    close(codec.scaling.scale, 16.5)
    assert codec.encode(Y).side["scale"] == codec.encode([1.0]).side["scale"] == 16.5
    assert codec.score_kind(codec.encode(Y)) == "exact"
    close(codec.decode(Encoded(np.array([2.0]))), [33.0])
    own = RealCodec.fit([Y, 10 * Y], own=True)
    assert own.score_kind(own.encode(Y)) == "codes"
    close(own.encode(Y).symbols, own.encode(10 * Y).symbols)
    with pytest.raises(ValueError, match="its own scale here"):
        own.decode(Encoded(np.array([2.0])))
    with pytest.raises(ValueError, match="its own scale here"):
        own.stream()
    assert codec.fingerprint() != own.fingerprint()


def test_bins_by_hand():
    """Edges 0, 1, 3: two bins between them, and a tail as wide as its neighbour on either side."""
    codec = BinCodec([0.0, 1.0, 3.0], Scaling(centre=0.0, scale=1.0))
    symbols, density = codec.symbols(np.array([-0.5, 0.0, 0.5, 1.0, 2.9, 3.0, 5.0]))
    assert symbols.tolist() == [0, 1, 1, 2, 2, 3, 3]
    close(np.exp(density), [math.exp(-0.5), 1, 1, 0.5, 0.5, 0.5, 0.5 * math.exp(-1)])
    middles = codec.scaled(np.arange(4))
    close(middles, [-math.log(2), 0.5, 2, 3 + 2 * math.log(2)])
    assert codec.space.size == 4
    with pytest.raises(ValueError, match="9 is not a symbol of 4 bins"):
        codec.scaled(np.array([9]))


def test_bins_are_fitted():
    z = np.random.default_rng(0).standard_t(3, 20_000)
    uniform = BinCodec.fit([z], size=100)
    gaps = np.diff(uniform.edges)
    close(gaps, gaps[0])
    quantile = BinCodec.fit([z], size=100, width="quantile")
    counts = np.bincount(quantile.encode(z).symbols, minlength=100)
    assert counts[1:-2].min() > 195 and counts[1:-2].max() < 211  # 20,000 in 98 bins of equal mass
    few = BinCodec.fit([[1.0, 1.0, 2.0]], size=100, width="quantile")
    assert few.space.size < 100
    assert BinCodec.fit([[7.0, 7.0]]).encode([7.0]).symbols.tolist() != []
    with pytest.raises(ValueError, match="two values or more that differ"):
        BinCodec.fit([[7.0, 7.0]], width="quantile")


def test_counts_stay_counts():
    codec = CountCodec(Scaling())
    found = codec.encode([0, 3, 9])
    assert found.symbols.tolist() == [0, 3, 9]
    assert (found.side["scale"], found.side["log_abs_det"]) == (4.0, 0.0)
    for wrong in (1.5, -1.0, 1e17):
        with pytest.raises(ValueError, match="is no count: take the codec real"):
            codec.encode([2.0, wrong])
    with pytest.raises(ValueError, match="by their mean alone"):
        CountCodec(Scaling("std"))


def test_text_of_numbers():
    wanted = [1.0, -2.5, 30.0]
    for text in ("1\n-2.5\n3e1\n", b"value\r\n1\r\n-2.5\r\n30", "\n1\n-2.5\n30\n\n", [1, -2.5, 30]):
        assert numbers(text).tolist() == wanted
    for text, said in (
        ("1\ntwo\n3", "line 2 is no number: 'two'"),
        ("1\n\n3", "line 2 is no number"),
        ("a,b\n1,2", "line 2 is no number: '1,2'"),
        ("1\nnan", "point 1 of the series is nan"),
        ([1.0, math.inf], "point 1 of the series is inf"),
        ([[1.0]], "one axis"),
        (["a"], "list of numbers"),
        (None, "one axis|list of numbers|nan"),
    ):
        with pytest.raises(ValueError, match=said):
            numbers(text)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"edges": [1.0, 1.0]}, "each above the one before"),
        ({"edges": [1.0]}, "number of edges"),
        ({"scaling": {"scale": 2.0}}, "both a centre and a scale"),
        ({"scaling": {"scale": -1.0, "centre": 0.0}}, "scale must be"),
        ({"scaling": {"by": "median"}}, "'median' is not one of"),
    ],
)
def test_what_can_t_be_loaded(data: dict, said: str):
    whole = {"edges": [0.0, 1.0], "scaling": {}}
    with pytest.raises(ValueError, match=f"^{Path('run') / 'config.json'}: codec.*{said}"):
        BinCodec.load({**whole, **data}, Path("run"))


def test_wrong_settings():
    for settings, said in (
        ({"size": 2}, "size must be"),
        ({"size": 10**6}, "size must be"),
        ({"width": "golden"}, "'golden' is not one of"),
    ):
        with pytest.raises(ValueError, match=said):
            BinCodec.fit([Y], **settings)
    with pytest.raises(ValueError, match="no points"):
        RealCodec.fit([[], []])
    for centre in (math.nan, math.inf):
        with pytest.raises(ValueError, match="centre must be"):
            Scaling(centre=centre, scale=1.0)
