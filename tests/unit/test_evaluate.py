"""Bits by distance from the start: the buckets, their units, and long documents."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from chainrule.artifact import Artifact
from chainrule.codecs.text import BPECodec, ByteCodec, CharCodec, TextCodec, WordCodec
from chainrule.models.ngram import NGram, NGramConfig
from chainrule.training.scoring import document_log_probs, document_nats, log_probs
from chainrule.verbs.evaluate import evaluate
from chainrule.verbs.fitted import Fitted
from chainrule.verbs.generate import generate
from tests.laws.tolerances import FLOAT32, FLOAT64
from tests.models.markov import Markov

TEXT = "the cat sat on the mat, and the dog sat on the cat. Élan! " * 40


def fitted(codec: TextCodec, training: dict[str, object] | None = None) -> Artifact:
    """An n-gram that says it was trained so."""
    model = NGram(NGramConfig(codec.space, 3)).eval()
    model.estimate([np.asarray(codec.encode(TEXT).symbols)])
    return Artifact(model, codec, {} if training is None else {"training": training})


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Three documents: long, short and of one symbol."""
    for name, length in (("a", 300), ("b", 21), ("c", 1)):
        (tmp_path / f"{name}.txt").write_text(TEXT[7 : 7 + length])
    return str(tmp_path)


def codecs() -> dict[str, TextCodec]:
    return {
        "bytes": ByteCodec(),
        "chars": CharCodec.fit([TEXT]),
        "words": WordCodec.fit([TEXT], size=8),
        "bpe": BPECodec.fit([TEXT], size=300),
    }


@pytest.mark.parametrize("name", ["n", "length"])
@pytest.mark.parametrize("value", [2.5, "2", None])
def test_generate_wants_whole_numbers(name: str, value: object):
    with pytest.raises(ValueError, match=rf"\A{name}: a whole number, not {value!r}\Z"):
        generate(fitted(ByteCodec()), "a", **{name: value})


def test_what_is_of_pictures_is_refused(source: str):
    run = Fitted(fitted(ByteCodec()))
    with pytest.raises(ValueError, match="labels are for pictures, and this run models text"):
        run.evaluate(source, labels="a.csv")
    for array in (np.zeros((3, 6, 6)), [np.zeros((6, 6))], b"text", None):
        with pytest.raises(ValueError, match=r"\Aa source is the name of a file .*\Z"):
            run.evaluate(array)


@pytest.mark.parametrize("name", codecs())
def test_buckets_are_the_whole(name: str, source: str):
    """Bits times units add up to the score; the buckets follow one another without a gap."""
    codec = codecs()[name]
    result = evaluate(fitted(codec), source)
    nats = -math.log(2) * sum(bits * n for _, _, bits, n in result.by_position)
    assert abs(nats / result.nats - 1) < FLOAT64
    units = sum(n for *_, n in result.by_position)
    assert result.position_unit == ("byte" if codec.lossless else "symbol")
    assert units == (result.units if codec.lossless else result.num_symbols)
    firsts, lasts = ([b[i] for b in result.by_position] for i in (0, 1))
    assert firsts == [0, *(2**k for k in range(1, len(firsts)))]
    assert [last + 1 for last in lasts[:-1]] == firsts[1:]
    assert lasts[-1] + 1 == max(len(codec.encode(TEXT[7:307]).symbols), 2)
    assert result.training_length is None


def test_a_bucket_is_of_its_own_symbols(source: str):
    artifact = fitted(CharCodec.fit([TEXT]), {"length": 48})
    result = evaluate(artifact, source)
    firsts = [0, 2, 4, 8, 16, 32, 48, 64, 128, 256]
    assert [b[0] for b in result.by_position] == firsts
    texts = [TEXT[7 : 7 + n] for n in (300, 21, 1)]
    for first, last, bits, units in result.by_position:
        nats, size = 0.0, 0
        for text in texts:
            symbols = artifact.codec.encode(text).symbols
            nats -= log_probs(artifact.model, symbols)[first : last + 1].sum()
            size += len(text[first : last + 1].encode())
        assert units == size
        assert abs(bits * math.log(2) * size / nats - 1) < FLOAT32


@pytest.mark.parametrize(
    ("training", "length"), [({"length": 48}, 48), ({"length": 48, "carry": True}, None)]
)
def test_where_training_ended(training: dict[str, object], length: int | None, source: str):
    """The rows of the table are split and marked there, once."""
    result = evaluate(fitted(ByteCodec(), training), source)
    assert result.training_length == length
    places, bits, units, remarks = zip(*result.position_rows(), strict=True)
    if length is None:
        assert places == ("0-3", "4-15", "16-63", "64-255", "256-304")
        assert set(remarks) == {""}
    else:
        assert places == ("0-3", "4-15", "16-47", "48-63", "64-255", "256-304")
        assert [bool(r) for r in remarks] == [False, False, False, True, False, False]
        assert "48" in remarks[3]
    assert sum(units) == result.units
    total = sum(b * n for b, n in zip(bits, units, strict=True))
    assert abs(total / result.units / result.bits_per_unit - 1) < FLOAT64


def test_a_long_document_is_scored_in_blocks():
    """100,000 symbols go through the model a thousand at a time, in their order among others."""
    torch.manual_seed(0)
    model = Markov(5).eval()
    dice = np.random.default_rng(0)
    documents = [dice.integers(0, 5, n) for n in (3, 100_000, 1, 40)]
    sizes: list[int] = []
    carry = model.carry
    model.carry = lambda x, *a, **k: sizes.append(x.shape[1]) or carry(x, *a, **k)  # type: ignore
    found = list(document_log_probs(model, documents))
    assert sum(sizes) >= 100_000
    assert max(sizes) <= 1024
    for one, document in zip(found, documents, strict=True):
        x = torch.from_numpy(document)[None]
        whole = model(x).log_prob(x)[0].detach().numpy()
        assert np.allclose(one, whole, rtol=FLOAT32, atol=0)
    assert list(document_nats(model, documents)) == [float(f.sum()) for f in found]
