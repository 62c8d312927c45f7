"""import and export: the same bytes, config and tokens out and in again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from chainrule.artifact import Artifact, load_artifact
from chainrule.codecs.text import ByteCodec, CharCodec, WordCodec
from chainrule.core.space import Space
from chainrule.files import read_tensors
from chainrule.formats import hf
from chainrule.formats.gguf import GGUF
from chainrule.models.transformer import TransformerConfig
from chainrule.nn.lora import LoRA, targets
from chainrule.nn.rope import Scaling
from chainrule.registry import RECIPES
from chainrule.verbs.bring import import_gguf, import_hf
from chainrule.verbs.export import export
from chainrule.verbs.merge import merge
from chainrule.verbs.quantize import quantize
from chainrule.verbs.stretch import stretched
from tests.models.brought import CODEC, ONLY_HF, SHAPES, TEXT, edit, save, started, weights


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


@pytest.mark.parametrize("name", [name for name in SHAPES if name not in ONLY_HF])
def test_a_gguf_out_and_in_again(tmp_path: Path, name: str):
    run = save(tmp_path / "run", **SHAPES[name])
    made = export(run, "gguf", tmp_path / "out.gguf", kind="F32")
    import_gguf(made.path, tmp_path / "again")
    first, second = (read_tensors(tmp_path / n / "model.safetensors")[0] for n in ("run", "again"))
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=0, atol=0)
    again = load_artifact(tmp_path / "again")
    assert again.codec.encode(TEXT).symbols.tolist() == CODEC.encode(TEXT).symbols.tolist()
    config = replace(again.outline.config, epsilon=run.outline.config.epsilon)  # float32 there
    if name == "window":  # no place for it in a GGUF of arch llama
        config = replace(config, sinks=0)
    assert config == run.outline.config


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_what_begins_and_ends_a_text_comes_back(tmp_path: Path, to: str):
    codec = started()
    names = "<|endoftext|>", "<|turn|>", "<|start|>"
    end, turn, start = (codec.specials()[name] for name in names)
    made = Path(export(save(tmp_path / "run", codec=codec, begin=start), "hf").path)
    again = import_hf(made, tmp_path / "plain")
    assert not hf.begins(again.codec.tokenizer_json(), start)
    assert again.recipe["imported"]["ends"] == [end]
    edit(made / "generation_config.json", eos_token_id=[end, 40, turn])  # 40 is a common token
    edit(made / "tokenizer_config.json", add_bos_token=True)
    run = import_hf(made, tmp_path / "first")
    assert hf.begins(run.codec.tokenizer_json(), start)
    stops = ["<|endoftext|>", run.codec.symbol_bytes()[40].decode(), "<|turn|>"]
    out = Path(export(run, to, tmp_path / "out").path)
    again = (import_hf if to == "hf" else import_gguf)(out, tmp_path / "again")
    said = again.recipe["imported"]
    assert (said["ends"], said["stops"]) == ([end, 40, turn], stops)
    assert hf.begins(again.codec.tokenizer_json(), start)
    assert again.outline.config.begin == start
    if to == "hf":
        assert again.codec.fingerprint() == run.codec.fingerprint()
        told = json.loads((out / "generation_config.json").read_text())
        assert told == {"bos_token_id": start, "eos_token_id": [end, 40, turn]}
        edit(out / "tokenizer_config.json", add_bos_token=False)
        last = import_hf(out, tmp_path / "last")
        assert not hf.begins(last.codec.tokenizer_json(), start)


def test_ends_that_a_gguf_has_no_place_for(tmp_path: Path):
    made = Path(export(save(tmp_path / "run"), "hf").path)
    edit(made / "generation_config.json", eos_token_id=[CODEC.space.eos, 40, 41, 42])
    run = import_hf(made, tmp_path / "first")
    notes = export(run, "gguf", tmp_path / "out.gguf").notes
    assert [n for n in notes if "no place" in n] == [
        f"a GGUF has no place for a further end of a turn: {run.codec.spelling(42)}"
    ]


def test_mistral_looks_back_as_far_as_transformers_has_it(tmp_path: Path):
    made = Path(export(save(tmp_path / "run", context=64), "hf").path)
    for n, (values, wanted) in enumerate(
        [
            ({"model_type": "llama", "sliding_window": 10}, (64, 4)),
            ({"model_type": "mistral", "sliding_window": None}, (64, 4)),
            ({"model_type": "mistral", "sliding_window": 10}, (10, 0)),
            ({"model_type": "mistral", "sliding_window": 64}, (64, 0)),
            ({"model_type": "mistral", "sliding_window": 65}, (64, 4)),
            ({"model_type": "mistral", "max_position_embeddings": 5000}, (4096, 0)),
        ]
    ):
        data = json.loads((made / "config.json").read_text())
        folder = tmp_path / str(n)
        shutil.copytree(made, folder)
        (folder / "config.json").write_text(json.dumps({**data, **values}))
        config = import_hf(folder, tmp_path / f"made-{n}").outline.config
        assert (config.context, config.sinks) == wanted


def test_a_window_goes_out_as_mistral_s(tmp_path: Path):
    made = export(save(tmp_path / "run", sinks=0), "hf")
    assert made.architecture == "MistralForCausalLM" and not made.notes
    made = export(save(tmp_path / "other"), "hf")
    assert made.architecture == "LlamaForCausalLM" and len(made.notes) == 1


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_biases_and_norms_at_once_are_nobody_s(tmp_path: Path, to: str):
    run = save(tmp_path / "run", qkv_bias=True, qk_norm=True)
    with pytest.raises(ValueError, match="both qkv_bias"):
        export(run, to)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_what_a_run_is_made_into_stands_beside_it(tmp_path: Path, monkeypatch: Any):
    save(tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    (tmp_path / "text.txt").write_text(TEXT)
    run = load_artifact(".")
    export(run, "hf")
    export(run, "gguf")
    quantize(run, text=tmp_path / "text.txt")
    adapted = run.adapted(LoRA(targets(run.outline), 2, 4.0))
    with pytest.raises(ValueError, match="save the adapter"):
        merge(adapted)
    adapted.save_config(tmp_path / "adapter")
    adapted.save_weights(tmp_path / "adapter")
    monkeypatch.chdir(tmp_path / "adapter")
    merge(load_artifact("."))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "adapter", "adapter-merged", "run", "run-F16.gguf", "run-hf", "run-int8", "text.txt",
    ]  # fmt: skip
    assert GGUF(tmp_path / "run-F16.gguf").metadata["general.name"] == "run"


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


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("m.gguf", b"GGUF\3\0\0\0", "a GGUF file: chainrule import gguf"),
        ("pytorch_model.bin", b"PK\3\4rest", "a pickle, which runs whatever code"),
        ("notes.txt", b"hello", "a file, where a folder is needed"),
    ],
)
def test_a_file_where_a_folder_is_needed(tmp_path, name, content, told):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (load_artifact, import_hf):
        with pytest.raises(ValueError, match=told) as error:
            read(path)
        assert str(path) in str(error.value)


def test_a_folder_of_the_other_kind(tmp_path):
    checkpoint, run = tmp_path / "hf", tmp_path / "run"
    for folder, config in ((checkpoint, {"model_type": "llama"}), (run, {"format": 1})):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config | {"recipe": {}}))
    with pytest.raises(ValueError, match="a Hugging Face checkpoint: chainrule import hf"):
        load_artifact(checkpoint)
    with pytest.raises(ValueError, match="a run already"):
        import_hf(run)
    with pytest.raises(ValueError, match="a run already"):
        import_gguf(run)
