"""quantize: a run with narrow weights is the run in that dtype, bit for bit, and stays whole."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import chainrule.engine
from chainrule.artifact import QUANTISED, Artifact, load_artifact
from chainrule.codecs.text import CharCodec
from chainrule.engine import quantize as quantizing
from chainrule.files import read_tensors, tensor_shapes, write_tensors
from chainrule.models.rnn import RNN, gru
from chainrule.registry import MODELS
from chainrule.verbs.choosing import make_model
from chainrule.verbs.generate import generate
from chainrule.verbs.quantize import TARGETS, quantize
from chainrule.verbs.score import score
from tests.laws import tolerances
from tests.unit.picture_examples import run_of

TEXT = "the cat sat on the mat. "
CODEC = CharCodec.fit([TEXT])

native = pytest.mark.skipif(
    not chainrule.engine.native_available(), reason="installed without a compiler"
)


def save(folder, name="gru", **fields):
    torch.manual_seed(4)
    model = make_model(name, "tiny", CODEC.space, None, 32, **fields).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    artifact = Artifact(model, CODEC)
    artifact.save_config(folder)
    artifact.save_weights(folder)
    return load_artifact(folder)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 4)
    return tmp_path


@native
@pytest.mark.parametrize("name", ["gru", "lstm", "transformer", "gpt2"])
@pytest.mark.parametrize("to", TARGETS)
def test_it_is_the_run_in_that_dtype(place, name, to):
    artifact = save(place / "run", name)
    (place / "run" / "metrics.jsonl").write_text("{}\n")
    found = quantize(artifact, to, text=place / "text.txt")
    assert found.path == str(place / f"run-{to}") and found.units == len(TEXT * 4)
    assert found.size_after < found.size_before
    assert (found.ran_before, found.ran_after) == ("engine f32", f"engine {to}")
    narrow = load_artifact(found.path)
    assert narrow.precision == to
    assert (place / f"run-{to}" / "metrics.jsonl").read_text() == "{}\n"
    asked = {"length": 20, "seed": 2, "strategy": "ancestral"}
    assert generate(narrow, "the ", **asked) == generate(artifact, "the ", dtype=to, **asked)
    mine, its = score(narrow, TEXT), score(artifact, TEXT, dtype=to)
    assert (mine.nats, mine.backend) == (its.nats, its.backend)


@native
def test_in_torch_its_weights_are_wide_again(place):
    artifact = save(place / "run", "transformer", ahead=2)
    quantize(artifact, "int8", place / "new", text=place / "text.txt")
    narrow = load_artifact(place / "new")
    wide = score(narrow, TEXT, backend="torch")
    assert wide.backend == "torch f32"
    assert wide.nats == pytest.approx(score(artifact, TEXT).nats, rel=0.02)
    for name, tensor in narrow.model.state_dict().items():
        own = artifact.model.state_dict()[name]
        if tensor.ndim < 2 or name.startswith("ahead"):  # not the program's: as they were
            assert torch.equal(tensor, own)
        else:
            assert 0 < (tensor - own).norm() / own.norm() < 0.01


def test_without_the_native_part(place, monkeypatch):
    artifact = save(place / "run")
    monkeypatch.setattr(chainrule.engine, "_native", None)
    found = quantize(artifact, "q4", place / "new", text=place / "text.txt")
    assert (found.ran_before, found.ran_after) == ("torch f32", "torch f32")
    narrow = load_artifact(place / "new")
    (sample,) = generate(narrow, "the ", length=9)
    assert sample.backend == "torch f32" and len(sample.symbols) <= 9
    bits = score(narrow, TEXT * 4).bits_per_unit
    assert bits == pytest.approx(found.after, rel=tolerances.FLOAT32)


def test_what_is_tied_with_rows_to_spare_is_stored_for_both_uses(place):
    """The output is narrow, and the table that is looked up is not."""
    torch.manual_seed(1)
    config = replace(gru(CODEC.space, "tiny"), tied=True)
    artifact = Artifact(RNN(config).eval(), CODEC)
    artifact.save_config(place / "run")
    artifact.save_weights(place / "run")
    quantize(artifact, "int8", place / "new", text=place / "text.txt")
    shapes = tensor_shapes(place / "new" / "model.safetensors")
    rows, dim = shapes["embedding.weight"]
    assert shapes["embedding.weight.data"] == (rows, dim) and rows == CODEC.space.size + 1


def test_what_can_not_be_quantised(place):
    artifact = save(place / "run")
    text = place / "text.txt"
    before = sorted(place.rglob("*"))
    ngram = Artifact(MODELS["ngram"](make_model("ngram", "tiny", CODEC.space, None).config), CODEC)
    ngram.save_config(place / "ngram")
    ngram.save_weights(place / "ngram")
    cases = [
        (artifact, "int4", {}, "int4.*not one of"),
        (artifact, "f32", {}, "f32.*not one of"),
        (artifact, "int8", {"out": text}, "exists"),
        (artifact, "int8", {"text": place / "none.txt"}, "No such file"),
        (artifact, "int8", {"text": None}, "--text"),
        (Artifact(artifact.model, CODEC), "int8", {}, "stands in a folder"),
        (load_artifact(place / "ngram"), "int8", {}, "no matrices"),
    ]
    for run, to, more, words in cases:
        with pytest.raises(ValueError, match=words):
            quantize(run, to, **{"text": text, **more})
    (place / "empty.txt").write_text("")
    with pytest.raises(ValueError, match="empty"):
        quantize(artifact, text=place / "empty.txt")
    weights = dict(artifact.model.state_dict())
    weights["embedding.weight"] = weights["embedding.weight"] * float("nan")
    write_tensors(place / "run" / "model.safetensors", weights)
    with pytest.raises(ValueError, match="not finite"):
        quantize(artifact, text=text)
    after = [p for p in sorted(place.rglob("*")) if "ngram" not in str(p)]
    assert [p for p in after if p.name != "empty.txt"] == before  # nothing half made is left


def test_what_is_quantised_is_not_quantised_again(place):
    save(place / "run")
    quantize(load_artifact(place / "run"), text=place / "text.txt")
    with pytest.raises(ValueError, match="quantised already, to int8"):
        quantize(load_artifact(place / "run-int8"), "q4", text=place / "text.txt")


@pytest.mark.parametrize("wrong", ["data", "scale", "type", "dtype", "format", "missing"])
def test_files_that_contradict_each_other(place, wrong):
    quantize(save(place / "run"), text=place / "text.txt")
    folder = place / "run-int8"
    config = json.loads((folder / "config.json").read_text())
    tensors = read_tensors(folder / "model.safetensors")[0]
    name = next(n for n in tensors if n.endswith(".data")).removesuffix(".data")
    if wrong == "dtype":
        config["precision"]["dtype"] = "int3"
    elif wrong == "format":
        config["format"] = 1
    elif wrong == "type":
        tensors[f"{name}.data"] = tensors[f"{name}.data"].float()
    elif wrong == "missing":
        del tensors[f"{name}.scale"]
    else:
        tensors[f"{name}.{wrong}"] = tensors[f"{name}.{wrong}"][:-1]
    (folder / "config.json").write_text(json.dumps(config))
    write_tensors(folder / "model.safetensors", tensors)
    with pytest.raises(ValueError, match=r"precision|tensor"):
        load_artifact(folder)


@pytest.mark.parametrize("dtype", ["int8", "bf16"])
def test_weights_of_convolutions_are_not_quantised(tmp_path, dtype):
    run_of("pixelcnn", 4, 4).save_config(tmp_path)
    write_tensors(tmp_path / "model.safetensors", {"x": torch.zeros(1)})
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"format": QUANTISED, "precision": {"dtype": dtype}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"tensor '.+' has 4 axes, .*: leave precision out\Z"):
        load_artifact(tmp_path)


@native
@pytest.mark.parametrize("kernels", ["portable", "avx2", "avx512"])
def test_scales_of_every_processor_are_those_of_torch(kernels, monkeypatch):
    generator = torch.Generator().manual_seed(3)
    w = torch.randn(300, 96, generator=generator)
    w[:40] = torch.randint(-9, 9, (40, 96), generator=generator)  # ties
    w[40:60] *= 1e-38  # scales that are no normal numbers
    w[60:70] *= 1e37
    w[70:80] = 0
    compiled = quantizing._native
    used = compiled.chainrule_used()
    try:
        compiled.chainrule_use(kernels)
    except ValueError:
        pytest.skip("not on this processor")
    try:
        ours = quantizing.narrow(w, "q4")
    finally:
        compiled.chainrule_use(used)
    monkeypatch.setattr(quantizing, "_native", None)
    theirs = quantizing.narrow(w, "q4")
    assert torch.equal(ours.scale, theirs.scale) and torch.equal(ours.data, theirs.data)
