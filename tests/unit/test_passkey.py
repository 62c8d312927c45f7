"""The passkey test beside models that find every key, none, or only those within reach."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from chainrule.artifact import Artifact
from chainrule.codecs.text import BPECodec, ByteCodec, CharCodec, TextCodec, WordCodec
from chainrule.core.distributions import Categorical
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.space import Space
from chainrule.core.state import State, Window
from chainrule.verbs.passkey import DEPTHS, passkey
from tests.laws.tolerances import FLOAT64

WORDS = re.findall(
    r"\w+", "alder birch cedar elm fir gorse hazel ivy juniper larch maple oak pine rowan"
)
TEXT = " ".join(f"the {a} and a {b}," for a in WORDS for b in WORDS)


class Copier(SequenceModel):
    """Says again what followed the last ``reach`` symbols' longest match, of GRAM at least."""

    gram = 8

    def __init__(self, space: Space, reach: int, sure: float = 0.99) -> None:
        super().__init__()
        self.space, self.reach, self.sure = space, reach, sure

    def start(self, batch: int, cond: Condition | None = None) -> State:
        return State((0,) * batch, {"x": Window.full(torch.full((batch,), -1), self.reach)})

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        return state.push(x.shape[1], tail, x=x)

    def predict(self, state: State) -> Categorical:
        size = self.space.size
        rows = []
        for row in state.window("x"):
            for back in range(state.tail, -1, -1):
                rows.append(self._law(row[len(row) - back - self.reach : len(row) - back], size))
        return Categorical(torch.stack(rows).view(len(state.lens), state.tail + 1, size))

    def _law(self, seen: Tensor, size: int) -> Tensor:
        law = torch.full((size,), (1 - self.sure) / (size - 1), dtype=torch.float64)
        grams = seen.unfold(0, self.gram, 1)
        (at,) = (grams[:-1] == grams[-1]).all(1).nonzero(as_tuple=True)
        if len(at) and self.sure:
            law[seen[at[-1] + self.gram]] = self.sure
        else:
            law[:] = 1 / size
        return law.log()


def codecs() -> dict[str, TextCodec]:
    return {
        "bytes": ByteCodec(),
        "chars": CharCodec.fit([TEXT]),
        "words": WordCodec.fit([TEXT + " What is The pass key . is Remember it ."], size=60),
        "bpe": BPECodec.fit([TEXT], size=280),
    }


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "data.txt").write_text(TEXT)
    return str(tmp_path / "data.txt")


def asked(name: str, source: str, reach: int = 2000, gram: int = 8, **settings):
    codec = codecs()[name]
    model = Copier(codec.space, reach)
    model.gram = gram
    return passkey(Artifact(model, codec), source, samples=2, length=256, **settings)


@pytest.mark.parametrize(("name", "gram"), [("bytes", 8), ("chars", 8), ("bpe", 5), ("words", 2)])
def test_a_model_that_copies_finds_every_key(name: str, gram: int, source: str):
    result = asked(name, source, gram=gram)
    assert result.key == ("digits" if name in ("bytes", "bpe") else "word")
    assert [(p.length, p.depth) for p in result.places] == [(256, d) for d in DEPTHS]
    assert all(p.found == 1 for p in result.places)
    for p in result.places:
        assert p.bits < 1 < p.margin
        assert abs(p.wrong_bits - p.bits - p.margin) < FLOAT64


def test_a_key_out_of_reach_is_lost(source: str):
    """The question has 38 symbols: a reach of 160 sees the last places and not the first."""
    found = {p.depth: p for p in asked("bytes", source, reach=160).places}
    assert found[0.0].found == found[0.25].found == 0 < found[0.75].found == found[1.0].found
    assert abs(found[0.0].margin) < FLOAT64 < found[1.0].margin
    assert found[0.0].bits == pytest.approx(6 * 8.0056, rel=1e-3), "uniform over 257 symbols"


def test_same_seed_same_keys_and_no_margin_of_likely_words(source: str):
    """An n-gram without memory of the key likes some words better: that is not counted."""
    from chainrule.models.ngram import NGram, NGramConfig

    codec = codecs()["chars"]
    model = NGram(NGramConfig(codec.space, 3)).eval()
    model.estimate([codec.encode(TEXT).symbols])
    one, same, other = (
        passkey(Artifact(model, codec), source, samples=2, length=256, seed=s) for s in (1, 1, 2)
    )
    assert one == same != other
    assert all(abs(p.margin) < FLOAT64 < p.bits for p in one.places)


def test_wrong_input(source: str, tmp_path: Path):
    for settings, said in (
        ({"length": 255}, "length must be 256 to"),
        ({"samples": 0}, "samples must be 1 to 10000"),
        ({"seed": -1}, "seed must be 0 to"),
        ({"length": 100_000}, "too short to fill a prompt of 8,192 symbols"),
    ):
        codec = ByteCodec()
        with pytest.raises(ValueError, match=said):
            passkey(Artifact(Copier(codec.space, 64), codec), source, **settings)
    (tmp_path / "few.txt").write_text("a bird, " * 300)
    codec = CharCodec.fit(["a bird, "])
    with pytest.raises(ValueError, match="too few words of 4 letters"):
        passkey(Artifact(Copier(codec.space, 64), codec), tmp_path / "few.txt", length=256)


def test_picture(source: str, tmp_path: Path):
    pytest.importorskip("matplotlib")
    result = asked("bytes", source)
    with pytest.raises(ValueError, match=r"ends in \.png"):
        result.save(tmp_path / "x.svg")
    assert result.save(tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads(json.dumps(result.to_dict()))["places"][0]["depth"] == 0
    assert len(result.rows()[0]) == len(result.header())
