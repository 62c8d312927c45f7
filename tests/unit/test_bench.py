"""The bench of strategies: what is counted, and what is lost, beside their definitions."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from chainrule import registry
from chainrule.artifact import Artifact
from chainrule.codecs.text import CharCodec
from chainrule.decoding.draft import Draft
from chainrule.decoding.strategy import Strategy, Target
from chainrule.decoding.verify import Ancestral, Verify
from chainrule.models.wrappers import Penalties
from chainrule.verbs import bench as module
from chainrule.verbs.bench import PROMPT, bench
from chainrule.verbs.choosing import make_model
from chainrule.verbs.frontier import check
from chainrule.verbs.score import score
from tests.laws import tolerances
from tests.unit.picture_examples import run_of

LENGTH, ROUNDS, GUESSES = 20, 2, 4
TEXT = "the quick brown fox jumps over the lazy dog. " * 3


class Twin(Strategy):
    """The model drafts for itself, uncounted, so every guess is right."""

    exactness = "identical"

    @staticmethod
    def decoder(target):
        return Verify(target.model, Draft(target.model.inner, GUESSES))


class Wild(Strategy):
    """Another law: symbols that stood there before are shunned."""

    exactness = "approximate"

    @staticmethod
    def decoder(target):
        return Verify(Penalties(target.model, presence=5.0))


class Wrong(Strategy):
    """Says that it is identical and is not."""

    exactness = "identical"
    decoder = Wild.decoder


class Never(Strategy):
    exactness = "identical"

    @staticmethod
    def decoder(target):
        raise ValueError("this needs a crystal ball")


@pytest.fixture(scope="module")
def artifact():
    torch.manual_seed(0)
    codec = CharCodec.fit([TEXT])
    model = make_model("gru", "tiny", codec.space, None).double().eval()
    return Artifact(model, codec)


@pytest.fixture(scope="module")
def found(artifact):
    strategies = {"ancestral": Ancestral, "twin": Twin, "wild": Wild, "wrong": Wrong}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "STRATEGIES", {**strategies, "never": Never})
        patch.setattr(module, "BATCHES", (1, 3))
        return bench(artifact, length=LENGTH, rounds=ROUNDS, seed=5)


def point(found, strategy, batch=3):
    return next(p for p in found.at(batch) if p.strategy == strategy)


@pytest.mark.parametrize("batch", [1, 3])
def test_ancestral_calls_the_model_once_a_symbol(found, batch):
    plain = point(found, "ancestral", batch)
    assert plain.calls_per_symbol == 1.0
    assert plain.acceptance is None and plain.lost is None
    assert (plain.gain, plain.same) == (1.0, 1.0)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_perfect_guesser_saves_what_it_must(found, batch):
    """The prompt gives the first symbol; each step after it gives all guesses and one more."""
    twin = point(found, "twin", batch)
    assert twin.acceptance == 1.0 and twin.same == 1.0
    steps = math.ceil((LENGTH - 1) / (GUESSES + 1))
    assert twin.calls_per_symbol == (1 + steps) / (1 + steps * (GUESSES + 1))


def test_speeds_are_the_median_and_the_range(found):
    for p in found.points:
        assert 0 < p.slowest <= p.symbols_per_s <= p.fastest
    speeds = [p.symbols_per_s for p in found.at(3)]
    assert speeds == sorted(speeds, reverse=True)


def test_what_is_lost_by_definition(found, artifact, monkeypatch):
    """Drawn again by hand, with the prompts and the noise of the bench, and scored as a text is."""
    bits = {"ancestral": [], "wild": []}
    prompts = module.drawn(artifact.model, range(3), PROMPT, 5)[0]
    for batch in (1, 3):
        for r in range(ROUNDS):
            ids = range(r * batch, (r + 1) * batch)
            for name, strategy in (("ancestral", Ancestral), ("wild", Wild)):
                decoder = strategy.decoder(Target(artifact.model, length=LENGTH))
                job = module._Job(name, None, None, decoder)
                asked = module._Asked(LENGTH, 1.0, 1, 5)
                job.run([prompts[i % 3] for i in ids], ids, asked)
                for i, row in zip(ids, job.rows, strict=True):
                    whole = torch.cat([prompts[i % 3], row])
                    log_p = artifact.model(whole[None]).log_prob(whole[None])[0, PROMPT:]
                    units = len(artifact.codec.decode(module.Encoded(row.numpy())).encode())
                    bits[name].append(-log_p.sum().item() / math.log(2) / units)
    beyond = torch.tensor(bits["wild"]) - torch.tensor(bits["ancestral"])
    for batch in (1, 3):
        wild = point(found, "wild", batch)
        assert wild.lost == pytest.approx(beyond.mean().item(), rel=tolerances.FLOAT32)
        assert wild.lost_se == pytest.approx((beyond.std() / len(beyond) ** 0.5).item(), rel=1e-5)
        assert wild.acceptance is None


def test_a_strategy_that_says_it_is_identical_and_is_not_is_found_out(found):
    assert point(found, "wrong").same < 1
    assert any(line.startswith("wrong, batch 3:") for line in found.notes())
    assert not any(line.startswith("twin") for line in found.notes())


def test_what_cannot_run_is_listed_with_its_reason(found):
    assert found.cannot == {"never": "this needs a crystal ball"}
    assert "never can't run: this needs a crystal ball" in found.notes()


def test_tables_pictures_and_figures(found, tmp_path):
    assert [len(row) for row in found.rows(1)] == [len(found.header())] * 5
    path = found.save(tmp_path / "new" / "frontier.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert json.loads(path.with_suffix(".json").read_text()) == found.to_dict()
    assert "<table>" in found._repr_html_()
    with pytest.raises(ValueError, match=r"ends in \.png"):
        check(tmp_path / "frontier.svg")


def test_prompts_of_a_file(artifact, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "STRATEGIES", {"ancestral": Ancestral})
    path = tmp_path / "book.txt"
    path.write_text(TEXT)
    assert bench(artifact, path, length=2, rounds=1).prompts == str(path)
    path.write_text(TEXT[:20])
    with pytest.raises(ValueError, match="too few"):
        bench(artifact, path, length=2, rounds=1)


@pytest.mark.parametrize(
    "settings",
    [
        {"length": 1},
        {"rounds": 0},
        {"seed": -1},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"draft": "nowhere"},
    ],
)
def test_settings_out_of_bounds(artifact, settings):
    with pytest.raises(ValueError, match=r"\S"):
        bench(artifact, **settings)


def test_bits_of_a_text_are_those_of_score(artifact):
    """Rows are scored after their prompt; joined, prompt and row score what the text does."""
    symbols = torch.from_numpy(artifact.codec.encode(TEXT[: PROMPT + 10]).symbols)
    (bits,) = module._bits(artifact, [symbols[PROMPT:]], symbols[None, :PROMPT])
    nats = score(artifact, TEXT[: PROMPT + 10]).per_symbol
    assert bits == pytest.approx(-sum(nats[PROMPT:]) / math.log(2) / 10, rel=tolerances.FLOAT64)


@pytest.fixture(scope="module")
def pictures():
    """A run of them whose model fills blanks, so that approximate strategies run too."""
    run = run_of("transformer", 7, 6)
    config = replace(run.outline.config, masked=True, context=43)
    return Artifact(registry.built(config).eval(), run.any_codec)


def test_of_pictures_it_is_bits_per_dimension_that_are_lost(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "STRATEGIES", {"ancestral": Ancestral, "wild": Wild})
    monkeypatch.setattr(module, "BATCHES", (1, 3))
    found = bench(pictures, length=10, rounds=1)
    assert found.unit == found.to_dict()["unit"] == "dimension"
    assert "lost: bits per dimension beyond ancestral's" in found.notes()[0]
    assert point(found, "wild").lost is not None
    labels, axes = [], pytest.importorskip("matplotlib.axes")
    monkeypatch.setattr(axes.Axes, "annotate", lambda self, text, *a, **k: labels.append(text))
    found.save(tmp_path / "frontier.png")
    assert any("bits/dimension" in text for text in labels)
    assert not any("byte" in text for text in labels)


def test_a_model_of_any_order_has_no_context_to_run_out_of(monkeypatch):
    monkeypatch.setattr(registry, "STRATEGIES", {"ancestral": Ancestral})
    monkeypatch.setattr(module, "BATCHES", (1,))
    assert bench(run_of("anyorder", 7, 6), rounds=1).length == 42 - PROMPT


def test_pictures_that_cannot_be_measured(pictures):
    with pytest.raises(ValueError, match=r"album: a run of pictures .*: leave the data out"):
        bench(pictures, "album")
    with pytest.raises(ValueError, match="pictures of 16 symbols are too small to measure"):
        bench(run_of("made", 4, 4))
