"""Runs whose weights stay in GGUF's blocks: what they are, what can be asked of them, bad files."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import chainrule.engine
from chainrule.artifact import Artifact, load_artifact
from chainrule.codecs.text import CharCodec
from chainrule.engine.backend import choose, weight_bytes
from chainrule.engine.quantize import BLOCKS
from chainrule.files import read_tensors, write_tensors
from chainrule.models.rnn import RNN, gru
from chainrule.verbs.choosing import make_model
from chainrule.verbs.doctor import doctor
from chainrule.verbs.generate import generate
from chainrule.verbs.quantize import quantize
from chainrule.verbs.score import score
from tests.models.blocks import made

TEXT = "the cat sat on the mat. "
CODEC = CharCodec.fit([TEXT])
PLAIN = (torch.float32, torch.float16, torch.bfloat16)

built = pytest.mark.skipif(
    not chainrule.engine.native_available(), reason="installed without a compiler"
)


def save(folder, name="transformer"):
    """A run whose matrices are in blocks, but for some; returns the weights that they are."""
    torch.manual_seed(4)
    if name == "tied":  # with a row less than it looks up
        model: Any = RNN(replace(gru(CODEC.space, "tiny"), tied=True)).eval()
    else:
        model = make_model(name, "tiny", CODEC.space, None, 32).eval()
    Artifact(model, CODEC).save_config(folder)
    program: Any = model.lower()
    sources = {w.source for w in program.weights.values() if w.kind == "matrix"}
    tensors, wide, said = {}, {}, {}
    for i, (key, tensor) in enumerate(model.state_dict().items()):
        kind = (*BLOCKS, None)[i % 4]
        if key not in sources or kind is None:
            tensors[key] = tensor.to(PLAIN[i % 3])
            wide[key] = tensors[key].float()
            continue
        each, said[key] = made(kind, *tensor.shape, seed=i, scale=0.3), kind
        tensors |= each.parts(key)
        wide[key] = each.wide()
    write_tensors(folder / "model.safetensors", tensors)
    config = json.loads((folder / "config.json").read_text())
    config |= {"format": 2, "precision": {"dtype": "gguf", "kinds": said}}
    (folder / "config.json").write_text(json.dumps(config))
    return wide


@built
@pytest.mark.parametrize("name", ["transformer", "gpt2", "lstm", "tied"])
def test_a_run(tmp_path, name):
    wide = save(tmp_path / "run", name)
    run = load_artifact(tmp_path / "run")
    assert run.precision == "gguf" and str(run.choose()) == "engine gguf"
    found = score(run, TEXT)
    assert found.backend == "engine gguf" and on_meta(run)
    torch_score = score(run, TEXT, dtype="f32")
    assert torch_score.backend == "torch f32"
    assert all(torch.equal(t, wide[k]) for k, t in run.model.state_dict().items())
    assert found.nats == pytest.approx(torch_score.nats, rel=0.02)
    (sample,) = generate(run, "the ", length=20, seed=2)
    again = generate(load_artifact(tmp_path / "run"), ["the ", "a"], length=20, seed=2)
    assert again[0].symbols == sample.symbols and sample.backend == "engine gguf"
    program: Any = run.outline.lower()
    assert run.stored is not None and run.stored.dtype is not None
    ours = weight_bytes(program, run.stored.dtype)
    assert ours < weight_bytes(program, "bf16")
    run.save_config(tmp_path / "wide")  # what is saved again is wide
    run.save_weights(tmp_path / "wide")
    plain = load_artifact(tmp_path / "wide")
    assert plain.precision is None and score(plain, TEXT).nats == torch_score.nats


def on_meta(run: Artifact) -> bool:
    return all(t.is_meta for t in run.outline.parameters())


@built
def test_what_can_be_asked_of_such_a_run(tmp_path):
    save(tmp_path / "run")
    run = load_artifact(tmp_path / "run")
    assert str(run.choose(dtype="gguf")) == "engine gguf"
    assert str(run.choose(backend="torch")) == "torch f32"
    assert [*doctor(tmp_path / "run").to_dict()["run"]["weights"]] == ["gguf"]
    with pytest.raises(ValueError, match="stored as gguf"):
        run.choose(dtype="int8")
    with pytest.raises(ValueError, match="'gguf' is not one of"):
        choose(run.outline, dtype="gguf")
    with pytest.raises(ValueError, match="quantised already, to gguf"):
        quantize(run)
    draft = Artifact(make_model("gru", "tiny", CODEC.space, None, 32), CODEC)
    drafted = generate(run, "the ", length=12, strategy="draft", draft=draft)
    assert drafted[0].symbols == generate(run, "the ", length=12)[0].symbols
    assert [key[0] for key in draft.engines] == ["bf16"]


def test_without_the_native_part(tmp_path, monkeypatch):
    save(tmp_path / "run")
    monkeypatch.setattr(chainrule.engine, "_native", None)
    run = load_artifact(tmp_path / "run")
    assert score(run, TEXT).backend == "torch f32"


@pytest.mark.parametrize("wrong", range(12))
def test_precision_that_contradicts_the_file(tmp_path, wrong):
    save(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    kinds = config["precision"]["kinds"]
    name = next(iter(kinds))
    other = next(k for k in BLOCKS if k != kinds[name])
    cases: list[Any] = [
        {"dtype": "gguf"}, {"kinds": kinds}, {"dtype": ["gguf"], "kinds": kinds},
        *({"dtype": "gguf", "kinds": k} for k in ({}, [], "q8_0", [name], {name: "int8"})),
        *({"dtype": "gguf", "kinds": {**kinds, **k}} for k in ({name: other}, {"no": "q8_0"})),
        {"dtype": "gguf", "kinds": {k: v for k, v in kinds.items() if k != name}},
        {"dtype": "gguf", "kinds": {**kinds, "norm.weight": "q8_0"}},
    ]  # fmt: skip
    config["precision"] = cases[wrong]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"precision|tensor"):
        load_artifact(tmp_path / "run")


def test_columns_that_do_not_fill_blocks(tmp_path):
    torch.manual_seed(0)
    model = RNN(replace(gru(CODEC.space, "tiny"), hidden=40)).eval()
    Artifact(model, CODEC).save_config(tmp_path)
    Artifact(model, CODEC).save_weights(tmp_path)
    path = tmp_path / "config.json"
    config = {**json.loads(path.read_text()), "format": 2}
    config["precision"] = {"dtype": "gguf", "kinds": {"layers.0.weight_hh": "q4_0"}}
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config.json.*weight_hh.*40 columns"):
        load_artifact(tmp_path)


def test_any_other_config_and_tensors_are_refused_or_run(tmp_path):
    """Ways to be wrong: a ValueError that names the file, or a run that scores."""
    save(tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    tensors = read_tensors(tmp_path / "run" / "model.safetensors")[0]
    dice, refused = random.Random(5), 0
    junk: list[Any] = [
        None,
        0,
        -1,
        1e9,
        "",
        "q8_0",
        "q4_1",
        "gguf",
        [],
        {},
        ["q4_0"],
        {"a": "q4_0"},
    ]
    for _ in range(80):
        precision = json.loads(json.dumps(config["precision"]))
        changed, name = dict(tensors), dice.choice(list(tensors))
        match dice.randrange(6):
            case 0:
                precision[dice.choice(["dtype", "kinds"])] = dice.choice(junk)
            case 1:
                precision["kinds"][dice.choice(list(precision["kinds"]))] = dice.choice(junk)
            case 2:
                del changed[name]
            case 3:
                changed[name] = changed[name][..., : -dice.randrange(1, 3)].contiguous()
            case 4:
                changed[name] = changed[name].to(dice.choice([torch.int8, torch.uint8, *PLAIN]))
            case 5:
                more = dice.choice([".data", ".scale", ".minimum", "x"])
                changed[name + more] = tensors[name].clone()
        folder = tmp_path / "other"
        folder.mkdir(exist_ok=True)
        for file in (tmp_path / "run").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "config.json").write_text(json.dumps({**config, "precision": precision}))
        save_file(changed, folder / "model.safetensors")
        try:
            run = load_artifact(folder)
        except ValueError as error:
            refused += str(folder) in str(error)
            continue
        assert score(run, TEXT).nats < 0
    assert 40 < refused < 80
