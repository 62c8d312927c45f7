"""Checkpoints that can't come in: one error that says where and why, and nothing left behind."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from chainrule.artifact import load_artifact
from chainrule.codecs.text import BPECodec
from chainrule.files import read_tensors, write_tensors
from chainrule.formats.gguf import GGUF
from chainrule.models.transformer import TransformerConfig
from chainrule.nn.rope import Scaling
from chainrule.verbs.bring import import_gguf, import_hf
from chainrule.verbs.export import export
from tests.models.brought import CODEC, SHAPES, TEXT, edit, save, weights

ODD = (None, True, -1, 0, 1.5, 10**400, "x", [], {}, [1], math.nan)
YARN = {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 16}
ROPE = YARN | {
    "rope_theta": 1e4, "partial_rotary_factor": 1.0, "mscale": 0, "mscale_all_dim": 0,
    "attention_factor": 1.3, "beta_fast": 8.0, "beta_slow": 2.0, "truncate": False,
}  # fmt: skip
LLAMA = {
    "mlp_bias": False, "use_sliding_window": False, "partial_rotary_factor": 1.0,
    "original_max_position_embeddings": 24, "quantization_config": None, "rope_parameters": {},
}  # fmt: skip
FULL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "yarn": (
        SHAPES["yarn of other numbers"],
        {**LLAMA, "rope_scaling": {**ROPE, "mscale_all_dim": 0}},
    ),
    "llama3": (SHAPES["llama3"], {}),
    "mistral": (SHAPES["window"], {}),
    "qwen2": (SHAPES["qwen2"], {"layer_types": ["full_attention"]}),
    "gpt2": (SHAPES["gpt2"], {}),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder that can be imported."""
    export(save(tmp_path / "run"), "hf", tmp_path / "hf")
    return tmp_path / "hf"


def refused(folder: Path, message: str) -> None:
    before = sorted(p.name for p in folder.parent.iterdir())
    with pytest.raises(ValueError, match=message):
        import_hf(folder, folder.parent / "made")
    assert sorted(p.name for p in folder.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "gemma"}, "model_type 'gemma' is not had here; known: llama"),
        ({"auto_map": {"AutoModel": "m.py"}}, "auto_map names code"),
        ({"vocab_size": 280}, "its config says"),
        ({"vocab_size": 10**12}, "vocab_size must be"),
        ({"vocab_size": -1}, "vocab_size must be"),
        ({"vocab_size": "many"}, "'vocab_size' is 'many', not int"),
        ({"hidden_size": 2**24, "head_dim": None}, "hidden_size must be"),
        ({"hidden_size": 31, "head_dim": None}, "not a multiple"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be"),
        ({"num_hidden_layers": 3}, "model.layers.2.* is missing"),
        ({"num_hidden_layers": 1}, "has no place in this layout"),
        ({"num_key_value_heads": 3}, "multiple"),
        ({"intermediate_size": 32}, "mlp.gate_proj.weight"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"quantization_config": {"bits": 4}}, "import a GGUF"),
        ({"eos_token_id": 10**9}, "eos_token_id must be"),
        ({"eos_token_id": None}, "which symbol ends"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_type 'longrope' is not had here"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "'factor' is missing"),
        ({"rope_scaling": {"rope_type": "linear", "factor": -2}}, "factor must be"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4, "mscale": 1}}, "mscale"),
        ({"rope_scaling": [1]}, "expected an object"),
        ({"rms_norm_eps": "small"}, "'rms_norm_eps'"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be"),
        ({"tie_word_embeddings": "yes"}, "'tie_word_embeddings'"),
        ({"max_position_embeddings": 1}, "max_position_embeddings must be"),
        ({"max_position_embeddings": 24.0}, "'max_position_embeddings' is '24.0', not int"),
        ({"model_type": ["llama"]}, "'model_type' is a list, not str"),
        ({"rms_norm_eps": 10**400}, "'rms_norm_eps' is '10.*, not a finite number"),
        ({"rope_theta": 0}, "rope_theta must be"),
        ({"rope_theta": False}, "'rope_theta' is 'False'"),
        ({"bos_token_id": "<s>"}, "'bos_token_id' is '<s>', not int"),
        ({"eos_token_id": [269, -1]}, "eos_token_id must be"),
        ({"eos_token_id": [269, 10**30]}, "eos_token_id must be"),
        ({"eos_token_id": [269, None]}, "'eos_token_id' holds null, not int"),
        ({"rope_scaling": {"rope_type": ["yarn"]}}, "'rope_type' is a list"),
        ({"rope_scaling": {"rope_type": "linear", "factor": math.nan}}, "rope_scaling: 'factor'"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 1e9}},
            "config.json: rope_scaling: factor must be",
        ),
        ({"rope_scaling": {"full_attention": {"rope_type": "linear"}}}, "kinds of layers"),
        ({"rope_scaling": YARN, "rope_theta": 1}, "config.json: yarn needs"),
        (
            {"rope_scaling": {**YARN, "original_max_position_embeddings": 24.5}},
            "is '24.5', not int",
        ),
        ({"model_type": "qwen3", "layer_types": ["sliding_attention"]}, "only full_attention"),
    ],
)
def test_a_config_that_is_wrong(folder: Path, values: dict[str, Any], message: str):
    edit(folder / "config.json", **values)
    if "eos_token_id" in values:
        (folder / "generation_config.json").unlink()
    refused(folder, message)


READ = "add_bos_token", "chat_template"  # of a tokenizer's config
# What is said of a value that may stand there, and does not fit another one.
OTHER_WORDS = "tensor", "multiple of", "special token", "yarn with mscale", "rope: low"


def changed(folder: Path) -> Iterator[tuple[str, str, Any]]:
    """Write every odd value in the place of every other, one at a time: file, key, value."""
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        path = folder / name
        valid = path.read_text()
        data = json.loads(valid)
        inner = [(k, n) for k, v in data.items() if isinstance(v, dict) for n in v]
        for outer, key in [*((None, k) for k in data), *inner]:
            if name.startswith("tokenizer") and key not in READ:
                continue
            for value in ODD:
                data = json.loads(valid)
                (data[outer] if outer else data)[key] = value
                path.write_text(json.dumps(data))
                yield name, key, value
        for value in ODD:
            path.write_text(json.dumps(value))
            yield name, name, value
        path.write_text(valid)


@pytest.mark.parametrize("name", FULL)
def test_no_value_is_too_odd(tmp_path: Path, name: str, monkeypatch: Any):
    monkeypatch.setattr("os.fsync", lambda handle: None)
    shape, more = FULL[name]
    small = {"num_layers": 1, "dim": 16, "hidden": 16, **shape}
    folder, out = Path(export(save(tmp_path / "run", **small), "hf").path), tmp_path / "made"
    edit(folder / "config.json", **more)
    edit(folder / "tokenizer_config.json", chat_template=[{"name": "x", "template": ""}])
    import_hf(folder, out)
    shutil.rmtree(out)
    x = torch.from_numpy(CODEC.encode(TEXT).symbols)[None, :40]
    there = {p.name for p in tmp_path.iterdir()}
    for file, key, value in changed(folder):
        try:
            run = import_hf(folder, out)
        except ValueError as error:
            said = str(error)
        else:
            said = f"{folder / file}: {key}"
            assert run.model(x).log_prob(x).isfinite().all(), (file, key, value)
            shutil.rmtree(out)
        assert str(folder) in said, (file, key, value)
        assert any(word in said for word in (key, *OTHER_WORDS)), (file, key, value, said)
        assert {p.name for p in tmp_path.iterdir()} == there, (file, key, value)


def test_code_of_its_own_is_never_run(folder: Path):
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["t.py", None]})
    refused(folder, "tokenizer_config.json: auto_map names code")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (5, "'chat_template' is '5', not str"),
        ([1], "chat_template: expected an object"),
        ([{"name": ["a"], "template": "x"}], "chat_template: 'name' is a list, not str"),
        ([{"name": "default", "template": 5}], "chat_template: 'template' is '5', not str"),
    ],
)
def test_templates_that_are_none(folder: Path, template: Any, message: str):
    edit(folder / "tokenizer_config.json", chat_template=template)
    refused(folder, f"tokenizer_config.json: {message}")


def test_a_pickle_is_refused(folder: Path):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "a pickle, which runs whatever code.*safe_serialization")


def test_no_checkpoint(folder: Path, tmp_path: Path):
    for name in ("HuggingFaceTB/SmolLM2-135M", "a" * 300):
        with pytest.raises(ValueError, match="nothing is downloaded"):
            import_hf(name, tmp_path / "made")
    (folder / "tokenizer.json").unlink()
    refused(folder, "no tokenizer.json.*save_pretrained")
    (folder / "model.safetensors").unlink()
    refused(folder, "no model.safetensors")
    (folder / "config.json").unlink()
    refused(folder, "no config.json")


def test_damaged_weights(folder: Path):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    refused(folder, "truncated")
    path.write_bytes(b"\xff" * 8 + whole[8:])
    refused(folder, "truncated")
    path.write_bytes(whole)
    tensors, _ = read_tensors(path)
    write_tensors(path, {k: v for k, v in tensors.items() if "layers.1.mlp.up" not in k})
    refused(folder, "model.layers.1.mlp.up_proj.weight' is missing")
    write_tensors(path, {**tensors, "model.layers.0.self_attn.q_proj.lora_A": torch.ones(2)})
    refused(folder, "has no place in this layout.*adapter")


def test_weights_that_are_no_numbers(folder: Path):
    path, name = folder / "model.safetensors", "model.layers.0.mlp.up_proj.weight"
    whole, _ = read_tensors(path)
    for kind in (torch.int8, torch.uint8, torch.int64, torch.bool):
        write_tensors(path, {**whole, name: whole[name].to(kind)})
        refused(folder, f"model.safetensors: tensor '{name}' is {kind}, not floats")
    for part in ("v_proj", "q_proj", "k_proj"):
        odd = f"model.layers.1.self_attn.{part}.weight"
        write_tensors(path, {**whole, odd: torch.full_like(whole[odd], math.nan)})
        refused(folder, f"hf: tensor '{odd}' has values that are not finite")
    with pytest.raises(ValueError, match="not finite"):
        import_hf(folder, folder.parent / "far" / "away" / "made")
    assert not (folder.parent / "far").exists()


def test_blocks_whose_scales_are_no_numbers(tmp_path: Path):
    path = Path(export(save(tmp_path / "run"), "gguf", tmp_path / "x.gguf", kind="Q8_0").path)
    at, name = GGUF(path).tensors["blk.1.attn_v.weight"].offset, "blk.1.attn_v.weight"
    data = bytearray(path.read_bytes())
    data[at : at + 2] = b"\x00\x7e"  # float16 NaN
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"x.gguf: tensor '{name}' has values that are not"):
        import_gguf(path, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_shards(folder: Path):
    path = folder / "model.safetensors"
    tensors, _ = read_tensors(path)
    names = sorted(tensors)
    parts = {"one.safetensors": names[:5], "two.safetensors": names[5:]}
    for file, some in parts.items():
        write_tensors(folder / file, {k: tensors[k] for k in some})
    path.unlink()
    index = folder / "model.safetensors.index.json"
    where = {name: file for file, some in parts.items() for name in some}
    index.write_text(json.dumps({"weight_map": where}))
    import_hf(folder, folder.parent / "made")
    assert weights(folder.parent / "made")
    for wrong, message in (
        ({**where, names[0]: "../run/model.safetensors"}, "not the name of a file"),
        ({**where, "another": "one.safetensors"}, "in none of the files"),
        ({**where, names[0]: "three.safetensors"}, "no such file"),
        ({**where, names[0]: "a" * 300}, "a: no such file"),
        ({**where, names[0]: ".."}, "not the name of a file"),
        ({**where, names[0]: ""}, "not the name of a file"),
        ([1], "no weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(ValueError, match=message):
            import_hf(folder, folder.parent / "again")
    write_tensors(folder / "two.safetensors", tensors)
    index.write_text(json.dumps({"weight_map": where}))
    with pytest.raises(ValueError, match="in another file too"):
        import_hf(folder, folder.parent / "again")


def test_another_tokenizer(folder: Path):
    larger = BPECodec.fit([TEXT], size=400)
    assert (larger.space.size or 0) > (CODEC.space.size or 0)
    larger.save(folder)
    refused(folder, "tokenizer.json")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (None, "imported: expected an object, not null"),
        ([1], "imported: expected an object"),
        ({"stops": "x"}, "'stops' is 'x', not list"),
        ({"stops": [1]}, "'stops' holds '1', not str"),
        ({"stops": None}, "'stops' is null"),
        ({"ends": [-1]}, "imported: ends must be"),
        ({"architecture": 3}, "'architecture' is '3', not str"),
    ],
)
def test_a_run_that_says_odd_things_of_its_origin(tmp_path: Path, said: Any, message: str):
    save(tmp_path / "run")
    edit(tmp_path / "run" / "config.json", recipe={"imported": said})
    with pytest.raises(ValueError, match=f"config.json: .*{message}"):
        load_artifact(tmp_path / "run")


def test_what_could_not_be_loaded_is_not_kept(folder: Path, monkeypatch: Any):
    monkeypatch.setattr("chainrule.verbs.bring.Imported.to_dict", lambda told: None)
    refused(folder, "imported: expected an object")


def test_yarn_needs_rates_that_differ():
    with pytest.raises(ValueError, match="yarn needs"):
        TransformerConfig(CODEC.space, rope=Scaling("yarn", 4.0, 16), rope_base=1.0)
