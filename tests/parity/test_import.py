"""What is imported has the law that transformers gives it; what is exported, llama.cpp too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from chainrule.artifact import Artifact, load_artifact
from chainrule.files import read_tensors, write_tensors
from chainrule.verbs.bring import import_gguf, import_hf
from chainrule.verbs.export import export
from tests.laws.tolerances import LLAMA_GELU, PARITY_KL, REFERENCE32
from tests.parity import gate
from tests.parity.models import KINDS, TEXT, checkpoint

pytestmark = pytest.mark.reference
# llama.cpp has no sliding window for these, no yarn of other numbers, no "dynamic".
TO_GGUF = [k for k in KINDS if k not in ("mistral-window", "rope-yarn-told", "rope-dynamic")]


def _symbols(run: Artifact) -> list[Tensor]:
    x = torch.from_numpy(run.codec.encode(TEXT * 4).symbols)
    return [x[:90], x[7:60], x[30:31]]


def _begin(run: Artifact) -> int:
    begin = run.outline.begin
    assert isinstance(begin, int)
    return begin


@pytest.fixture(params=KINDS)
def brought(request: pytest.FixtureRequest, tmp_path: Path):
    """(kind, transformers' model, ours)."""
    pytest.importorskip("transformers")
    theirs = checkpoint(tmp_path / "theirs", request.param)
    return request.param, theirs, import_hf(tmp_path / "theirs", tmp_path / "ours")


def test_its_law_is_that_of_transformers(brought, tmp_path: Path):
    _, theirs, run = brought
    x = _symbols(run)
    found = gate.of_ours(run.model, x)
    assert gate.passes(found, gate.of_transformers(theirs, x, _begin(run)), x)
    compiled = run.runner(run.choose("engine", "f32"))
    assert gate.passes(gate.of_ours(compiled, x), found, x)


def test_out_and_in_again_is_the_same_bytes(brought, tmp_path: Path):
    import transformers as hf

    kind, theirs, run = brought
    made = export(run, "hf", tmp_path / "out")
    again = hf.AutoModelForCausalLM.from_pretrained(made.path, attn_implementation="eager").eval()
    assert type(again) is type(theirs)
    assert made.architecture == type(theirs).__name__
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
    x = _symbols(run)
    before, after = (gate.of_transformers(m, x, _begin(run)) for m in (theirs, again))
    assert gate.passes(before, after, x)
    second = import_hf(made.path, tmp_path / "second")
    for name in ("model.safetensors", "tokenizer.json"):
        first = (tmp_path / "ours" / name).read_bytes()
        assert (tmp_path / "second" / name).read_bytes() == first
    assert second.outline.config == run.outline.config
    said = ({**r.recipe["imported"], "name": "", "notes": []} for r in (run, second))
    assert next(said) == next(said)
    assert again.generation_config.eos_token_id == theirs.generation_config.eos_token_id
    tokens = hf.AutoTokenizer.from_pretrained(made.path)
    start = [_begin(run)] if kind == "llama-told" else []
    assert tokens(TEXT)["input_ids"] == start + run.codec.encode(TEXT).symbols.tolist()
    assert hf.AutoTokenizer.from_pretrained(tmp_path / "theirs")(TEXT) == tokens(TEXT)


@pytest.mark.parametrize("kind", TO_GGUF)
def test_llama_cpp_agrees(kind: str, tmp_path: Path):
    pytest.importorskip("llama_cpp")
    checkpoint(tmp_path / "theirs", kind)
    run = import_hf(tmp_path / "theirs", tmp_path / "ours")
    made = export(run, "gguf", tmp_path / "out.gguf", kind="F32")
    x = _symbols(run)
    found = gate.of_ours(run.model, x)
    worst, divergence = gate.differences(found, gate.of_llama_cpp(made.path, x, _begin(run)), x)
    gelu = kind.startswith("gpt2")
    assert worst <= (LLAMA_GELU if gelu else REFERENCE32)
    assert divergence <= (LLAMA_GELU**2 if gelu else PARITY_KL)
    tokens = gate.llama_cpp_tokens(made.path, TEXT)
    assert (tokens[0] == _begin(run)) == (kind == "llama-told")
    import_gguf(made.path, tmp_path / "again")
    again = load_artifact(tmp_path / "again")
    assert again.recipe["imported"]["ends"] == run.recipe["imported"]["ends"]
    for name, value in run.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value, rtol=0, atol=0)
    assert gate.passes(gate.of_ours(again.model, x), found, x)


WRONG = ("q and k permuted", "a norm dropped", "a transposed weight", "keys of another head")


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_export_fails(wrong: str, tmp_path: Path):
    hf = pytest.importorskip("transformers")
    checkpoint(tmp_path / "theirs", "llama")
    run = import_hf(tmp_path / "theirs", tmp_path / "ours")
    made = export(run, "hf", tmp_path / "out")
    path = Path(made.path) / "model.safetensors"
    tensors, about = read_tensors(path)
    layer = "model.layers.1."
    if wrong == "q and k permuted":
        for name in ("q_proj", "k_proj"):
            t = tensors[f"{layer}self_attn.{name}.weight"]
            pairs = t.unflatten(0, (-1, 2, 4)).transpose(1, 2).flatten(0, 2)
            tensors[f"{layer}self_attn.{name}.weight"] = pairs
    elif wrong == "a norm dropped":
        tensors[f"{layer}input_layernorm.weight"] = torch.ones(48)
    elif wrong == "a transposed weight":
        t = tensors[f"{layer}self_attn.o_proj.weight"]
        tensors[f"{layer}self_attn.o_proj.weight"] = t.t().contiguous()
    else:
        tensors[f"{layer}self_attn.k_proj.weight"].copy_(
            tensors[f"{layer}self_attn.k_proj.weight"].roll(8, 0)
        )
    x = _symbols(run)
    found = gate.of_ours(run.model, x)
    model = hf.AutoModelForCausalLM.from_pretrained(made.path)
    assert gate.passes(found, gate.of_transformers(model.eval(), x, _begin(run)), x)
    write_tensors(path, tensors, about)
    model = hf.AutoModelForCausalLM.from_pretrained(made.path)
    assert not gate.passes(found, gate.of_transformers(model.eval(), x, _begin(run)), x)
