"""import and export: the same bytes out and in again, and clear words for what can't come in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from chainrule.artifact import Artifact, load_artifact
from chainrule.codecs.text import BPECodec, ByteCodec, CharCodec, WordCodec
from chainrule.core.space import Space
from chainrule.files import read_tensors, write_tensors
from chainrule.formats.gguf import GGUF
from chainrule.models.transformer import Transformer, TransformerConfig
from chainrule.nn.rope import Scaling
from chainrule.registry import RECIPES
from chainrule.verbs.bring import import_gguf, import_hf
from chainrule.verbs.export import export
from chainrule.verbs.stretch import stretched

TEXT = "The cat sat on the mat, and the dog sat on the cat. " * 8
CODEC = BPECodec.fit([TEXT], size=270)
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "tied": {"tied": True, "begin": 5},
    "grouped": {"num_kv_heads": 2, "head_dim": 6},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "head_dim": 16},
    "linear": {"rope": Scaling("linear", 2.5)},
    "yarn": {"rope": Scaling("yarn", 4.0, 16)},
    "llama3": {"rope": Scaling("llama3", 8.0, 8192), "rope_base": 500000.0},
    "gpt2": {"layout": "gpt2", "sinks": 0, "tied": True, "gelu": "tanh"},
}


def save(folder: Path, dtype: torch.dtype = torch.float32, codec: Any = CODEC, **shape: Any):
    """A small transformer as a run."""
    torch.manual_seed(3)
    values = {"num_layers": 2, "dim": 32, "hidden": 64, "context": 24, **shape}
    model = Transformer(TransformerConfig(codec.space, **values)).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    artifact = Artifact(model.to(dtype), codec)
    artifact.save_config(folder)
    artifact.save_weights(folder)
    return load_artifact(folder)


def weights(folder: str | Path) -> bytes:
    return (Path(folder) / "model.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SHAPES)
def test_out_and_in_again(tmp_path: Path, name: str, dtype: torch.dtype):
    run = save(tmp_path / "run", dtype, **SHAPES[name])
    made = export(run, "hf", tmp_path / "out")
    again = import_hf(made.path, tmp_path / "again")
    first, second = (read_tensors(tmp_path / n / "model.safetensors")[0] for n in ("run", "again"))
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert value.dtype == second[key].dtype == dtype
        torch.testing.assert_close(second[key], value, rtol=0, atol=0)
    export(again, "hf", tmp_path / "second")
    assert weights(tmp_path / "second") == weights(made.path)
    x = torch.from_numpy(CODEC.encode(TEXT).symbols)[None, :40]
    with torch.no_grad():
        a, b = (each.model(x).log_prob(x) for each in (run, again))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert again.outline.config == run.outline.config


@pytest.mark.parametrize("name", SHAPES)
def test_a_gguf_out_and_in_again(tmp_path: Path, name: str):
    run = save(tmp_path / "run", **SHAPES[name])
    made = export(run, "gguf", tmp_path / "out.gguf", kind="F32")
    import_gguf(made.path, tmp_path / "again")
    first, second = (read_tensors(tmp_path / n / "model.safetensors")[0] for n in ("run", "again"))
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=0, atol=0)
    again = load_artifact(tmp_path / "again").codec
    assert again.encode(TEXT).symbols.tolist() == CODEC.encode(TEXT).symbols.tolist()


def test_the_kinds_of_a_gguf(tmp_path: Path):
    run = save(tmp_path / "run", num_kv_heads=2, hidden=48)
    for kind, usual in (("F16", "F16"), ("BF16", "BF16"), ("Q8_0", "Q8_0"), ("Q4_0", "Q4_0")):
        made = export(run, "gguf", kind=kind)
        assert made.path == str(tmp_path / f"run-{kind}.gguf")
        found = {name: entry.kind for name, entry in GGUF(Path(made.path)).tensors.items()}
        assert found["blk.0.attn_norm.weight"] == "F32"
        assert found["blk.0.attn_q.weight"] == usual
        assert found["token_embd.weight"] == ("Q8_0" if kind == "Q4_0" else usual)
        blocks = kind[0] == "Q"  # a row of 48 is no whole number of blocks
        assert found["blk.0.ffn_down.weight"] == ("F16" if blocks else usual)
        assert any("48 columns" in note for note in made.notes) == blocks


@pytest.mark.parametrize("codec", [ByteCodec(), CharCodec.fit([TEXT]), WordCodec.fit([TEXT])])
def test_every_codec_goes_out(tmp_path: Path, codec: Any):
    run = save(tmp_path / "run", codec=codec)
    made = export(run, "hf")
    assert {p.name for p in Path(made.path).iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    if isinstance(codec, WordCodec):
        with pytest.raises(ValueError, match="words"):
            export(run, "gguf")
    else:
        export(run, "gguf")


def test_what_goes_out_is_what_was_learnt_since(tmp_path: Path):
    run = save(tmp_path / "run", ahead=2, masked=True)
    with torch.no_grad():
        run.model.norm.weight.fill_(7)
    run.model = run.model  # weights that are no longer those of the file
    made = export(run, "hf")
    tensors, _ = read_tensors(Path(made.path) / "model.safetensors")
    assert tensors["model.norm.weight"].eq(7).all()
    assert tensors["model.embed_tokens.weight"].shape[0] == CODEC.space.size
    assert not any("ahead" in name for name in tensors)
    assert len(made.notes) == 3


def test_a_place_that_is_taken(tmp_path: Path):
    run = save(tmp_path / "run")
    for to in ("hf", "gguf"):
        export(run, to, tmp_path / to)
        with pytest.raises(ValueError, match="exists"):
            export(run, to, tmp_path / to)
    with pytest.raises(ValueError, match="exists"):
        import_hf(tmp_path / "hf", tmp_path / "run")


@pytest.mark.parametrize("name", ["lstm", "ngram"])
def test_only_transformers_go_out(tmp_path: Path, name: str):
    from chainrule.verbs.choosing import make_model

    assert name in RECIPES
    artifact = Artifact(make_model(name, "tiny", CODEC.space, None), CODEC)
    with pytest.raises(ValueError, match="transformer"):
        export(artifact, "hf", tmp_path / "out")


def test_llama_cpp_has_another_gelu(tmp_path: Path):
    run = save(tmp_path / "run", layout="gpt2", sinks=0, tied=True)
    with pytest.raises(ValueError, match="--to hf"):
        export(run, "gguf")


# ---- bad input ----


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


def edit(path: Path, **values: Any) -> None:
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "gemma"}, "model_type 'gemma' is not had here; known: llama"),
        ({"auto_map": {"AutoModel": "m.py"}}, "auto_map names code"),
        ({"vocab_size": 280}, "its config says"),
        ({"vocab_size": 10**12}, "vocab_size must be"),
        ({"vocab_size": -1}, "vocab_size must be"),
        ({"vocab_size": "many"}, "'vocab_size' is 'many', not int"),
        ({"hidden_size": 2**24, "head_dim": None}, "dim must be|multiple"),
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
        ({"rms_norm_eps": 0}, "epsilon must be"),
        ({"tie_word_embeddings": "yes"}, "'tie_word_embeddings'"),
        ({"max_position_embeddings": 1}, "context must be"),
    ],
)
def test_a_config_that_is_wrong(folder: Path, values: dict[str, Any], message: str):
    edit(folder / "config.json", **values)
    if "eos_token_id" in values:
        (folder / "generation_config.json").unlink()
    refused(folder, message)


def test_code_of_its_own_is_never_run(folder: Path):
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["t.py", None]})
    refused(folder, "tokenizer_config.json: auto_map names code")


def test_a_pickle_is_refused(folder: Path):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "a pickle, which runs whatever code.*safe_serialization")


def test_no_checkpoint(folder: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="nothing is downloaded"):
        import_hf("HuggingFaceTB/SmolLM2-135M", tmp_path / "made")
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


def test_a_gguf_that_is_wrong(tmp_path: Path):
    with pytest.raises(ValueError, match="no such file"):
        import_gguf(tmp_path / "none.gguf", tmp_path / "made")
    made = export(save(tmp_path / "run"), "gguf", tmp_path / "out.gguf", kind="F32")
    whole = Path(made.path).read_bytes()
    for old, new, message in (
        (b"llama.block_count", b"llama.block_coxnt", "block_count"),
        (b"llama", b"llamb", "architecture 'llamb' is not had here"),
        (b"blk.1.attn_q.weight", b"blk.1.attn_z.weight", "attn_q.weight' is missing"),
        (b"tokenizer.ggml.eos_token_id", b"tokenizer.ggml.eox_token_id", "which symbol ends"),
    ):
        assert whole.count(old) >= 1
        (tmp_path / "bad.gguf").write_bytes(whole.replace(old, new))
        with pytest.raises(ValueError, match=message):
            import_gguf(tmp_path / "bad.gguf", tmp_path / "made")
    assert not (tmp_path / "made").exists()


# ---- stretched positions ----


def test_a_stretch_shares_the_weights(tmp_path: Path):
    for run in (save(tmp_path / "run"), Artifact(save(tmp_path / "other").model, CODEC)):
        wide = stretched(run, "yarn:4")
        assert wide.outline.config.context == 96
        assert wide.outline.config.rope == Scaling("yarn", 4.0, 24)
        x = torch.from_numpy(CODEC.encode(TEXT).symbols)[None, :20]
        with torch.no_grad():
            a, b = (each.model(x).log_prob(x) for each in (run, wide))
        assert not torch.allclose(a, b)
        twice = stretched(wide, "linear:1")
        assert twice.outline.config.context == 24
        with torch.no_grad():
            torch.testing.assert_close(twice.model(x).log_prob(x), a, rtol=0, atol=0)


@pytest.mark.parametrize(
    "rope", ["yarn", "yarn:", "yarn:0.5", "longrope:2", "linear:x", "ntk:1e9", ""]
)
def test_a_stretch_that_is_wrong(tmp_path: Path, rope: str):
    with pytest.raises(ValueError, match="KIND:FACTOR"):
        stretched(save(tmp_path / "run"), rope)


def test_learned_positions_have_no_stretch(tmp_path: Path):
    run = save(tmp_path / "run", layout="gpt2", sinks=0)
    with pytest.raises(ValueError, match="no rotary positions"):
        stretched(run, "ntk:2")


def test_a_space_for_every_symbol():
    with pytest.raises(ValueError, match="begin must be"):
        TransformerConfig(Space("finite", 4, eos=1), begin=4)
