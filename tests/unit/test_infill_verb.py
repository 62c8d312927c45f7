"""The infill verb: a text with blanks in, texts out."""

from __future__ import annotations

import json

import pytest
import torch

from chainrule.artifact import Artifact
from chainrule.codecs.text import BPECodec, ByteCodec, CharCodec, TextCodec
from chainrule.core.model import AnyOrder
from chainrule.core.objective import Batch
from chainrule.models.ngram import NGram, ngram
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import TransformerConfig
from chainrule.verbs.infill import infill
from tests.laws.tolerances import FLOAT32

TEXT = "the cat sat on the mat"


def filler(codec: TextCodec) -> Artifact:
    torch.manual_seed(2)
    config = TransformerConfig(
        codec.space, dim=16, num_layers=1, hidden=24, context=32, masked=True
    )
    return Artifact(Transformer(config).eval(), codec)


@pytest.fixture(scope="module")
def chars() -> Artifact:
    return filler(CharCodec.fit([TEXT]))


@pytest.fixture(scope="module")
def counted() -> Artifact:
    codec = CharCodec.fit([TEXT])
    model = NGram(ngram(codec.space, "tiny")).eval()
    x = torch.from_numpy(codec.encode(TEXT * 20).symbols)[None]
    model.estimate([Batch(x, (x.shape[1],))])
    return Artifact(model, codec)


def test_blanks_anywhere(chars):
    found = infill(chars, "_he c__ sat on_", n=4, seed=5)
    assert len(found) == 4
    for one in found:
        assert one.pieces == ["", "he c", " sat on", ""]
        assert one.text == f"{one.blanks[0]}he c{one.blanks[1]} sat on{one.blanks[2]}"
        assert (one.method, one.exactness, one.seed) == ("exact", "distribution", 5)
        assert one.effective_sample_size is None
        assert one.log_prob < 0
    assert len({one.text for one in found}) == 4
    assert infill(chars, "_he c__ sat on_", n=4, seed=5) == found
    assert infill(chars, "_he c__ sat on_", n=2, seed=5)[1].text == found[1].text


def test_the_score_is_that_of_known_places_first(chars):
    (one,) = infill(chars, "the _at sa_", temperature=0)
    x = torch.from_numpy(chars.codec.encode(one.text).symbols)[None]
    assert x.shape[1] == 11, "a blank holds the end symbol: choose another seed"
    given = [t for t in range(11) if t not in (4, 10)]
    joint = AnyOrder(chars.model.masked, [*given, 4, 10])
    with torch.no_grad():
        wanted = joint(joint.to_order(x)).log_prob(joint.to_order(x))[0, -2:].sum()
    assert one.log_prob == pytest.approx(float(wanted), rel=FLOAT32)


@pytest.mark.parametrize("method", ["clamp", "smc"])
def test_methods_for_any_model(counted, method):
    found = infill(counted, "the ?at sat ?? the", mask="?", method=method, n=3, particles=500)
    for one in found:
        assert (one.method, one.exactness) == (method, "approximate")
        assert all(len(b) <= n for b, n in zip(one.blanks, (1, 2), strict=True))
        assert (one.effective_sample_size is None) == (method == "clamp")
        if method == "smc":
            assert one.blanks[1] == "on"
            assert 1 <= one.effective_sample_size <= 500
            assert one.log_evidence < 0


def test_a_mask_of_several_characters(counted):
    (one,) = infill(counted, "the [?]at s[?][?] on", mask="[?]", method="clamp")
    assert one.pieces == ["the ", "at s", " on"]


def test_symbols_that_are_no_characters():
    """Bytes that are no UTF-8 don't spoil what stands beside them; BPE takes pieces alone."""
    (one,) = infill(filler(ByteCodec()), "é_é", seed=1)
    assert one.text[0] == one.text[-1] == "é"
    (one,) = infill(filler(BPECodec.fit([TEXT] * 3, size=270)), "the _ sat", seed=1)
    assert one.text.startswith("the ")
    assert one.text.endswith(" sat")


def test_it_shows(chars):
    (one,) = infill(chars, "the _ mat")
    assert json.loads(json.dumps(one.to_dict()))["text"] == one.text
    assert f"<b>{one.blanks[0]}</b> mat" in one._repr_html_()


def test_wrong_input(chars, counted):
    with pytest.raises(ValueError, match="nothing to fill in: the text has no '_'"):
        infill(chars, TEXT)
    with pytest.raises(ValueError, match="the mask is empty"):
        infill(chars, TEXT, mask="")
    with pytest.raises(ValueError, match=r"32 symbols and the context 31: .*method smc or clamp"):
        infill(chars, "_" * 32)
    assert len(infill(chars, "t" * 31 + "_", method="clamp")) == 1
    with pytest.raises(ValueError, match=r"choose the approximate method smc .* or clamp"):
        infill(counted, "the _at")
    with pytest.raises(ValueError, match="method 'guess' is not one of exact, clamp, smc"):
        infill(counted, "the _at", method="guess")
    with pytest.raises(ValueError, match="n: 1 to 1,000, not "):
        infill(counted, "the _at", method="clamp", n=0)
    with pytest.raises(ValueError, match="leave the temperature"):
        infill(counted, "the _at", method="smc", temperature=0.5)
    with pytest.raises(ValueError, match="'X'"):
        infill(chars, "X_")
