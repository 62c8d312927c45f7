"""Small transformers as runs, in every layout that goes out and comes in again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from chainrule.artifact import Artifact, load_artifact
from chainrule.codecs.text import BPECodec
from chainrule.models.transformer import Transformer, TransformerConfig
from chainrule.nn.rope import Scaling

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
    "yarn of other numbers": {"rope": Scaling("yarn", 4.0, 16, 2.0, 8.0, 1.3, False)},
    "window": {"sinks": 0},
    "gpt2": {"layout": "gpt2", "sinks": 0, "tied": True, "gelu": "tanh"},
    "untied gpt2": {"layout": "gpt2", "sinks": 0, "gelu": "tanh"},
    "gelu": {"layout": "gpt2", "sinks": 0, "tied": True},
}
ONLY_HF = ("yarn of other numbers", "gelu")


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


def started() -> BPECodec:
    """The codec with a start token, the last symbol, and one more that ends a turn."""
    tokenizer = Tokenizer.from_str(CODEC.tokenizer_json())
    tokenizer.add_special_tokens(["<|turn|>", "<|start|>"])
    return BPECodec(tokenizer.to_str())


def edit(path: Path, **values: Any) -> None:
    """Set keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
