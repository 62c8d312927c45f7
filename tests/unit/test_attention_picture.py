"""The picture of an attention: its numbers, its labels, and what can't be drawn."""

from __future__ import annotations

import sys

import pytest
import torch

from chainrule.artifact import Artifact
from chainrule.codecs.text import CharCodec, WordCodec
from chainrule.registry import MODELS, RECIPES
from chainrule.verbs.attention import MOST_SYMBOLS, Attention, _draw, attention
from chainrule.verbs.fitted import Fitted

PNG = b"\x89PNG\r\n"
TEXT = "a cat sat\n$\\alpha"


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    """A small transformer whose head 0 is not like its head 1."""
    codec = CharCodec.fit([TEXT])
    torch.manual_seed(0)
    model = MODELS["transformer"](RECIPES["transformer"](codec.space, "tiny"))
    for p in model.parameters():
        p.data.mul_(3)
    return Artifact(model, codec)


def uniform(size: int, layers: int = 2, heads: int = 3) -> Attention:
    rows = torch.ones(size, size).tril()
    weights = (rows / rows.sum(1, keepdim=True)).expand(layers, heads, size, size)
    return Attention(["start", *"x" * (size - 1)], weights)


def test_the_weights_are_the_model_s(artifact):
    found = attention(artifact, "a cat")
    model = artifact.model
    assert found.symbols == ["start", *"a cat"]
    assert found.weights.shape == (model.config.num_layers, model.config.num_heads, 6, 6)
    assert torch.allclose(found.weights.sum(-1), torch.ones(()))
    assert (found.weights.triu(1) == 0).all()
    x = torch.from_numpy(artifact.codec.encode("a cat").symbols.astype("int64"))[None]
    assert torch.equal(found.weights, model.attention(x)[:, 0].detach())
    assert found.to_dict() == {
        "symbols": ["start", *"a cat"],
        "num_layers": model.config.num_layers,
        "num_heads": model.config.num_heads,
    }


def test_one_panel_a_head_with_its_symbols(artifact):
    figure = _draw(attention(artifact, "a$\n"))
    panels = [axes for axes in figure.axes if axes.get_title()]
    titles = [axes.get_title() for axes in panels]
    assert titles == [f"layer {i}, head {j}" for i in (1, 2) for j in (1, 2)]
    for axes in panels:
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            assert [label.get_text() for label in labels] == ["start", "a", "$", "↵"]
    drawn = panels[3].images[0].get_array()
    expected = attention(artifact, "a$\n").weights[1, 1]
    assert torch.allclose(torch.tensor(drawn.filled(0)), expected)


def test_long_prompts_have_numbers_instead_of_symbols():
    short, long = _draw(uniform(41)), _draw(uniform(42))
    assert len(short.axes[0].get_xticklabels()) == 41
    assert {label.get_text() for label in short.axes[0].get_xticklabels()} == {"start", "x"}
    assert "x" not in {label.get_text() for label in long.axes[0].get_xticklabels()}


def test_it_is_written_whole_and_shown_in_notebooks(artifact, tmp_path):
    found = Fitted(artifact).attention(TEXT)
    path = found.save(tmp_path / "new" / "attention.png")
    assert path.read_bytes().startswith(PNG)
    assert found._repr_png_() == path.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["attention.png"]
    with pytest.raises(ValueError, match=r"ends in \.png"):
        found.save(tmp_path / "attention.svg")


def test_scripts_that_the_font_lacks_are_no_trouble():
    weights = uniform(3, 1, 1).weights
    assert Attention(["start", "日本", "語"], weights)._repr_png_().startswith(PNG)


def test_what_can_not_be_drawn(artifact, monkeypatch):
    with pytest.raises(ValueError, match=f"0 symbols: give 1 to {MOST_SYMBOLS}"):
        attention(artifact, "")
    with pytest.raises(ValueError, match=f"{MOST_SYMBOLS + 1} symbols"):
        attention(artifact, "a" * (MOST_SYMBOLS + 1))
    with pytest.raises(ValueError, match="'z'"):
        attention(artifact, "z")
    other = Artifact(MODELS["rnn"](RECIPES["gru"](artifact.codec.space, "tiny")), artifact.codec)
    with pytest.raises(ValueError, match="no attention"):
        attention(other, "a cat")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"pip install 'chainrule\[plot\]'"):
        uniform(3)._repr_png_()


def test_words_are_labels_too(artifact):
    codec = WordCodec.fit(["the cat and the cat"], min_count=1)
    model = MODELS["transformer"](RECIPES["transformer"](codec.space, "tiny"))
    assert attention(Artifact(model, codec), "the cat").symbols == ["start", "the", " cat"]
