"""Where a model runs: the choice and its reasons, and the same symbols whatever the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import chainrule.engine
from chainrule.artifact import Artifact, load_artifact, on_meta
from chainrule.codecs.text import CharCodec
from chainrule.engine.backend import NEED_TORCH, choose, weight_bytes
from chainrule.engine.build import Builder, held
from chainrule.engine.quantize import DTYPES, narrow
from chainrule.models.rnn import RNN, gru
from chainrule.models.wrappers import Bans
from chainrule.registry import STRATEGIES
from chainrule.verbs.choosing import make_model
from chainrule.verbs.generate import generate, stream
from chainrule.verbs.next import next_words
from chainrule.verbs.score import score
from chainrule.verbs.search import beam_search

native = pytest.mark.skipif(
    not chainrule.engine.native_available(), reason="installed without a compiler"
)
CODEC = CharCodec.fit(["the cat sat on the mat. "])


def made(name="gru", **fields):
    torch.manual_seed(3)
    model = make_model(name, "tiny", CODEC.space, None, 32, **fields).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


@pytest.fixture
def saved(tmp_path):
    """A folder with a transformer in it."""
    artifact = Artifact(made("transformer"), CODEC)
    artifact.save_config(tmp_path)
    artifact.save_weights(tmp_path)
    return tmp_path


# ---- the choice ----


@native
@pytest.mark.parametrize("name", ["gru", "lstm", "mingru", "transformer", "gpt2"])
def test_auto_is_the_engine_for_what_draws(name):
    model = made(name)
    assert str(choose(model)) == "engine bf16"
    assert str(choose(model, dtype="int8")) == "engine int8"
    assert str(choose(model, draws=False)) == "torch f32"
    assert str(choose(model, draws=False, dtype="f32")) == "engine f32"
    assert str(choose(model, "engine", draws=False)) == "engine f32"
    assert str(choose(model, "torch")) == "torch f32"


@native
def test_without_matrices_there_is_nothing_to_narrow():
    assert str(choose(made("ngram"))) == "engine f32"


@native
def test_reasons_against_the_engine():
    gru = made()
    cases = {
        "its parameters are float64, not float32": made().double(),
        "Bans has no program": Bans(gru, [[1]]),
    }
    for reason, model in cases.items():
        assert choose(model).reason == reason and choose(model).backend == "torch"
        with pytest.raises(ValueError, match=f"backend engine can't be: {reason}"):
            choose(model, "engine")
        with pytest.raises(ValueError, match=f"dtype int8 can't be: {reason}"):
            choose(model, dtype="int8")
    for name in NEED_TORCH:
        assert name in STRATEGIES
        assert choose(gru, strategy=name).backend == "torch"
        with pytest.raises(ValueError, match=f"strategy {name}"):
            choose(gru, "engine", strategy=name)


def test_without_the_native_part(monkeypatch):
    monkeypatch.setattr(chainrule.engine, "_native", None)
    choice = choose(made())
    assert str(choice) == "torch f32" and "compiler" in choice.reason
    with pytest.raises(ValueError, match="compiler"):
        choose(made(), "engine")


def test_names_that_are_not_there():
    for wrong in (
        {"backend": "gpu"}, {"dtype": "fp8"}, {"backend": "torch", "dtype": "int8"},
        {"cache": "bf16"}, {"backend": "torch", "cache": "int8"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"not one of|needs --backend engine"):
            choose(made(), **wrong)


@native
def test_int8_keys_and_values_are_chosen_beside_the_dtype():
    model = made("transformer")
    assert str(choose(model, cache="int8")) == "engine bf16, int8 cache"
    assert str(choose(model, dtype="q4", cache="int8")) == "engine q4, int8 cache"
    assert str(choose(model, draws=False, cache="int8")) == "engine f32, int8 cache"
    assert choose(model, cache="auto") == choose(model)
    with pytest.raises(ValueError, match="cache int8 can't be: RNN has no keys and values"):
        choose(made(), cache="int8")
    with pytest.raises(ValueError, match="cache int8 can't be: strategy block"):
        choose(model, cache="int8", strategy="block")
    with pytest.raises(ValueError, match="stored as q4"):
        choose(model, stored="q4", dtype="f32", cache="int8")
    artifact = Artifact(model, CODEC)
    one, other = (artifact.runner(artifact.choose(cache=c)) for c in ("auto", "int8"))
    assert one is not other and artifact.runner(artifact.choose(cache="int8")) is other


@native
def test_what_is_stored_narrow_stays_so():
    assert str(choose(made(), stored="q4")) == "engine q4"
    assert str(choose(made(), stored="q4", draws=False)) == "engine q4"
    assert str(choose(made(), stored="q4", dtype="f32")) == "torch f32"
    with pytest.raises(ValueError, match="stored as q4"):
        choose(made(), stored="q4", dtype="int8")


@native
def test_weights_take_what_is_said():
    program = made("transformer").lower()
    wide = sum(t.numel() for t in made("transformer").state_dict().values())
    assert weight_bytes(program, "f32") == 4 * wide
    odd = RNN(replace(gru(CODEC.space, "tiny"), dim=7, hidden=70, tied=False)).lower()
    sizes = [weight_bytes(program, d) for d in ("q4", "int8", "bf16", "f32")]
    assert sizes == sorted(sizes)
    for dtype in DTYPES:  # what is multiplied and what is looked up, of a cell with odd widths
        kept, size = held(odd, dtype), 0
        for name, weight in odd.weights.items():
            w = torch.randn(weight.shape)
            part = narrow(w, kept[name]) if name in kept else narrow(w[None], "f32")
            scale = 0 if part.scale is None else part.scale.nbytes
            size += part.data.nbytes + scale
        assert weight_bytes(odd, dtype) == size


# ---- what is drawn ----


@native
@pytest.mark.parametrize("name", ["gru", "transformer"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8"])
def test_the_same_alone_in_a_batch_and_by_any_strategy(name, dtype):
    artifact = Artifact(made(name), CODEC)
    asked = {"length": 24, "seed": 5, "dtype": dtype}
    (alone,) = generate(artifact, "the ", n=1, strategy="ancestral", **asked)
    assert alone.backend == f"engine {dtype}" and alone.to_dict()["backend"] == alone.backend
    many = generate(artifact, ["the ", "on"], n=3, strategy="ancestral", **asked)
    assert (many[0].symbols, many[0].log_prob) == (alone.symbols, alone.log_prob)
    for strategy in ("lookup", "jacobi", "auto"):
        (other,) = generate(artifact, "the ", n=1, strategy=strategy, **asked)
        assert other.symbols == alone.symbols
    pieces = "".join(stream(artifact, "the ", strategy="ancestral", **asked))
    assert pieces == alone.continuation


@native
def test_wrappers_and_drafts_go_around_the_engine():
    artifact, draft = Artifact(made(), CODEC), Artifact(made("lstm"), CODEC)
    (sample,) = generate(artifact, "the ", length=20, ban=["a"], presence_penalty=0.5)
    assert "a" not in sample.continuation and sample.backend == "engine bf16"
    plain = generate(artifact, "the ", length=20, strategy="ancestral")
    drafted = generate(artifact, "the ", length=20, strategy="draft", draft=draft)
    assert drafted[0].symbols == plain[0].symbols
    assert [key[0] for key in draft.engines] == ["bf16"]
    (found,) = beam_search(artifact, "the ", length=5)
    assert found.backend == "engine bf16"


@native
def test_numbers_are_torchs_unless_asked():
    artifact = Artifact(made(), CODEC)
    usual, asked = score(artifact, "the cat"), score(artifact, "the cat", backend="engine")
    assert (usual.backend, asked.backend) == ("torch f32", "engine f32")
    assert asked.nats == pytest.approx(usual.nats, rel=1e-5)
    words = [w for w, _ in next_words(artifact, "the c")]
    assert words == [w for w, _ in next_words(artifact, "the c", backend="engine")]


# ---- weights are read when they are asked for ----


@native
def test_the_engine_never_makes_the_torch_model(saved, monkeypatch):
    whole = generate(load_artifact(saved), "the ", length=20, backend="torch")[0]
    artifact = load_artifact(saved)
    assert on_meta(artifact.outline)

    def refuse(*_):
        raise AssertionError("read whole")

    monkeypatch.setattr("chainrule.formats.stored.read_tensors", refuse)
    largest = []
    inside = Builder._fill
    monkeypatch.setattr(Builder, "_fill", lambda *a: largest.append(a[2].shape) or inside(*a))
    (drawn,) = generate(artifact, "the ", length=20, dtype="f32")
    assert on_meta(artifact.outline) and largest
    assert drawn.symbols == whole.symbols
    fresh = load_artifact(saved)
    with pytest.raises(AssertionError, match="read whole"):
        _ = fresh.model


@native
def test_a_model_that_was_read_takes_the_place_of_its_outline(saved):
    artifact = load_artifact(saved)
    first = generate(artifact, "the ", length=12)[0]
    assert not on_meta(artifact.model) and artifact.model is artifact.outline
    assert generate(artifact, "the ", length=12)[0] == first
    assert next(iter(artifact.engines.values())).model is artifact.model
    artifact.model = made("transformer")
    assert artifact.engines == {} and artifact.stored is None
