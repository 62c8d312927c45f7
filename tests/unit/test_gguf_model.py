"""What a GGUF says of its model: read as llama.cpp reads it, or refused by the key's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from chainrule.formats import gguf_model, tokens_in
from chainrule.formats.gguf import GGUF, write_gguf
from chainrule.nn.rope import Scaling
from chainrule.verbs.export import export
from tests.models.brought import save

ROPE = "rope_freqs.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> GGUF:
    folder = tmp_path_factory.mktemp("whole")
    return GGUF(Path(export(save(folder / "run"), "gguf", folder / "f.gguf", kind="F32").path))


def read(whole: GGUF, facts: dict[str, Any], *more: Any) -> Any:
    """The config of the same file with other facts (None: without that key), and more tensors."""
    path = whole.path.with_name("case.gguf")
    merged = {k: v for k, v in (whole.metadata | facts).items() if v is not None}
    own = [(n, e.shape, e.kind, torch.from_numpy(whole.raw(n))) for n, e in whole.tensors.items()]
    write_gguf(path, merged, [*own, *more])
    return gguf_model.read(GGUF(path))[0]


SAID, OLD = "llama.rope.scaling.", "llama.rope.scale_linear"


@pytest.mark.parametrize(
    ("facts", "rope"),
    [
        ({}, None),
        ({OLD: 4.0}, Scaling("linear", 4.0)),
        ({SAID + "factor": 4.0}, Scaling("linear", 4.0)),
        ({SAID + "factor": 4.0, OLD: 2.0}, Scaling("linear", 4.0)),
        ({SAID + "factor": 4.0, SAID + "type": "none"}, None),
        ({SAID + "factor": 0.0, SAID + "type": "linear"}, None),
        ({SAID + "factor": 4.0, SAID + "type": "yarn"}, Scaling("yarn", 4.0, 24)),
        ({SAID + "original_context_length": 9, "llama.attention.sliding_window": 4}, None),
        (dict.fromkeys((f"llama.{k}" for k in gguf_model._USUAL), None), None),
        ({f"llama.{k}": v for k, v in gguf_model._USUAL.items()}, None),
    ],
)
def test_positions_as_llama_cpp_reads_them(whole: GGUF, facts: dict[str, Any], rope: Any):
    """The parity tests hold the same files against llama.cpp itself."""
    assert read(whole, facts).rope == rope


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"llama.attention.causal": False},
            "llama: attention.causal 'False' is not had here, only",
        ),
        ({SAID + "attn_factor": 2.0}, "rope.scaling.attn_factor '2.0' is not had here"),
        ({"llama.logit_scale": 3.0}, "logit_scale '3.0'"),
        ({"llama.expert_count": 2}, "expert_count '2'"),
        ({"llama.expert_count": "two"}, "'expert_count' is 'two', not int"),
        ({SAID + "type": "longrope"}, "rope.scaling.type 'longrope' is not had here; known: none"),
        ({SAID + "type": [1]}, "'rope.scaling.type' is a list, not str"),
        ({SAID + "type": "linear"}, "'rope.scaling.factor' is missing"),
        ({SAID + "type": "linear", SAID + "factor": 0.5}, "rope: factor must be"),
        ({OLD: float("nan")}, "'rope.scale_linear' is 'nan', not a finite number"),
        ({"llama.rope.freq_base": 0.0}, "llama: rope.freq_base must be"),
        ({"general.architecture": ["llama"]}, "architecture a list is not had here; known: llama"),
        ({"general.architecture": 7}, "architecture '7' is not had here"),
        ({"tokenizer.ggml.eos_token_id": 10**6}, "'tokenizer.ggml.eos_token_id': 1000000 is not"),
        ({"tokenizer.ggml.eos_token_id": None}, "it is missing: which symbol ends a text"),
        ({"tokenizer.ggml.bos_token_id": [1]}, "'tokenizer.ggml.bos_token_id': expected int"),
        ({"tokenizer.chat_template": 5}, "'tokenizer.chat_template': expected str"),
    ],
)
def test_what_would_be_another_law_is_refused(whole: GGUF, facts: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message) as caught:
        read(whole, facts)
    assert str(caught.value).startswith(str(whole.path.with_name("case.gguf")))


@pytest.mark.parametrize(
    "rope",
    [
        Scaling("llama3", 8.0, 24),
        Scaling("llama3", 2.5, 24),
        Scaling("llama3", 32.0, 1234),  # whose slowest rate is not wholly divided
        Scaling("llama3", 8.0, 8192),
    ],
)
def test_llama3s_rule_comes_back_whatever_it_was_trained_on(tmp_path: Path, rope: Scaling):
    run = save(tmp_path / "run", rope=rope)
    made = export(run, "gguf", tmp_path / "out.gguf", kind="F32")
    assert gguf_model.read(GGUF(Path(made.path)))[0].rope == rope


def test_llama3s_rule_of_a_file_that_does_not_say(whole: GGUF):
    config = read(whole, {})
    for trained in (8192, 2048):
        factors = gguf_model._factors(Scaling("llama3", 8.0, trained), config.head_width, 10000.0)
        tensor = (ROPE, tuple(factors.shape), "F32", factors)
        assert read(whole, {}, tensor).rope == Scaling("llama3", 8.0, trained)
        with pytest.raises(ValueError, match=r"beside rope\.scaling is not had here"):
            read(whole, {SAID + "factor": 2.0}, tensor)
    for wrong in (torch.tensor([1.0, 2, 3, 5]), torch.tensor([1.0, 3e38, 2, 3]), torch.zeros(4)):
        with pytest.raises(ValueError, match=r"not the rule of Llama 3\.1"):
            read(whole, {}, (ROPE, (4,), "F32", wrong))


def test_a_vocabulary_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch):
    texts = ["a" * n for n in range(1, 100)]
    assert len(tokens_in.splits(texts, [1] * 99)) == 99 * 98 // 2
    monkeypatch.setattr(tokens_in, "_SPLITS", 1000)
    with pytest.raises(ValueError, match="more than 1,000 ways to put them together"):
        tokens_in.splits(texts, [1] * 99)
    monkeypatch.setattr(tokens_in, "_CHARACTERS", 1000)
    with pytest.raises(ValueError, match="4,950 characters; 1,000 are the most"):
        tokens_in.splits(texts, [1] * 99)
    facts = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": texts}
    with pytest.raises(ValueError, match=r"here, key 'tokenizer.ggml.tokens': 4,949 characters"):
        tokens_in.from_gguf(facts | {"tokenizer.ggml.eos_token_id": 0}, "here")
