"""Checkpoints in transformers' own classes, small and random, in every layout that is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from chainrule.codecs.bpe import byte_letters

TEXT = (
    "She was getting very tired of sitting by her sister on the bank, and of having nothing to do. "
)
SHAPE: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
}
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24},
    "yarn-told": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 24,
        "attention_factor": 1.3,
        "beta_fast": 8.0,
        "beta_slow": 2.0,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
}
KINDS = (
    "llama", "llama-tied", "llama-told", "mistral", "mistral-window", "mistral-whole", "qwen2",
    "qwen3", "gpt2", "gpt2-untied", *(f"rope-{name}" for name in ROPES),
)  # fmt: skip


def tokenizer(size: int = 300) -> Tokenizer:
    """Byte-level BPE with an end token, the last."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2, initial_alphabet=sorted(byte_letters()), show_progress=False
    )
    made.train_from_iterator([TEXT * 20], trainer)
    made.add_special_tokens(["<|start|>", "<|endoftext|>"])
    return made


def checkpoint(folder: Path, kind: str, dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    """Write one with ``save_pretrained``; returns the model."""
    import transformers as hf

    made = tokenizer()
    size = made.get_vocab_size()
    ids = {"vocab_size": size + 4, "bos_token_id": size - 2, "eos_token_id": size - 1}
    torch.manual_seed(0)
    if kind.startswith("gpt2"):
        small = {"n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 96}
        ids |= {"attn_implementation": "eager", "tie_word_embeddings": kind == "gpt2"}
        config = hf.GPT2Config(**small, **ids)
        model = hf.GPT2LMHeadModel(config)
    else:
        name, shape = kind.split("-")[0], {**SHAPE, **ids, "attn_implementation": "eager", **more}
        if kind.startswith("rope-"):
            name, shape["rope_scaling"] = "llama", dict(ROPES[kind[5:]])
        if kind == "llama-tied":
            shape["tie_word_embeddings"] = True
        if name == "mistral":
            windows = {"mistral-window": 40, "mistral-whole": shape["max_position_embeddings"]}
            shape["sliding_window"] = windows.get(kind)
        if name == "qwen3":
            shape["head_dim"] = 16
        classes = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
        config = getattr(hf, f"{classes[name]}Config")(**shape)
        model = getattr(hf, f"{classes[name]}ForCausalLM")(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model = model.to(dtype).eval()
    if kind == "llama-told":  # it ends in two ways, and others put its start symbol first
        model.generation_config.eos_token_id = [size - 1, 40, size - 2]
        made.post_processor = processors.TemplateProcessing(
            single="<|start|> $A", special_tokens=[("<|start|>", size - 2)]
        )
    model.save_pretrained(folder)
    made.save(str(folder / "tokenizer.json"))
    return model
