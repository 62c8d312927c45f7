"""A foreign config.json and a transformer's config, one from the other.

Every value is checked for its type and bounds; what changes the law in a way that isn't had here
is refused by name.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from chainrule.core.space import Space
from chainrule.formats.given import Given
from chainrule.models.transformer_config import BOUNDS, REALS, TransformerConfig
from chainrule.nn.rope import BOUNDS as STRETCHES
from chainrule.nn.rope import TRAINED, Scaling

CLASSES = {  # model_type to what it is called
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
_GELU = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
# What transformers takes where a key is missing.
_POSITIONS = {"llama": 2048, "mistral": 131072, "qwen2": 32768, "qwen3": 32768}
_GROUPS = {"mistral": 8, "qwen2": 32, "qwen3": 32}
_WINDOW = 4096


def read_config(
    given: Given, space: Space, begin: int | None, notes: list[str]
) -> TransformerConfig:
    """The shape that it describes; what a user should know of it goes into ``notes``.

    Raises:
        ValueError: a value that is missing, wrong or not had here, by its key.
    """
    make = _gpt2 if given.text("model_type") == "gpt2" else _llama
    return make(given, space, begin, notes)


def _gpt2(given: Given, space: Space, begin: int | None, notes: list[str]) -> TransformerConfig:
    given.only("scale_attn_weights", True)
    given.only("scale_attn_by_inverse_layer_idx", False)
    given.only("reorder_and_upcast_attn", False)
    given.only("add_cross_attention", False)
    given.only("activation_function", "gelu_new", *_GELU)
    dim = _size(given, "n_embd", "dim", 768)
    heads = _size(given, "n_head", "num_heads", 12)
    gelu: Any = _GELU[given.text("activation_function", "gelu_new")]
    return given.made(
        space=space,
        layout="gpt2",
        num_layers=_size(given, "n_layer", "num_layers", 12),
        dim=dim,
        num_heads=heads,
        num_kv_heads=heads,
        hidden=_size(given, "n_inner", "hidden", 4 * dim),
        context=_size(given, "n_positions", "context", _size(given, "n_ctx", "context", 1024)),
        sinks=0,
        tied=given.true("tie_word_embeddings", True),
        gelu=gelu,
        epsilon=_epsilon(given, "layer_norm_epsilon", 1e-5),
        begin=begin,
    )


def _llama(given: Given, space: Space, begin: int | None, notes: list[str]) -> TransformerConfig:
    kind = given.text("model_type")
    given.only("hidden_act", "silu", "swish")
    given.only("attention_bias", False)
    given.only("mlp_bias", False)
    given.only("use_sliding_window", False)
    given.only("partial_rotary_factor", 1.0)
    dim = _size(given, "hidden_size", "dim")
    heads = _size(given, "num_attention_heads", "num_heads")
    positions = _size(given, "max_position_embeddings", "context", _POSITIONS[kind])
    window = _window(given)
    context, sinks = positions, 4
    if window is not None and window <= positions:
        context, sinks = window, 0
    if dim % heads and not given.has("head_dim"):
        raise given.wrong(f"hidden_size {dim} is not a multiple of num_attention_heads {heads}")
    width = _size(given, "head_dim", "head_dim", 128 if kind == "qwen3" else dim // heads)
    groups = heads if "num_key_value_heads" in given.data else _GROUPS.get(kind, heads)
    base, rope = _rope(given, positions, notes)
    return given.made(
        space=space,
        num_layers=_size(given, "num_hidden_layers", "num_layers"),
        dim=dim,
        num_heads=heads,
        num_kv_heads=_size(given, "num_key_value_heads", "num_kv_heads", groups),
        head_dim=None if width * heads == dim else width,
        hidden=_size(given, "intermediate_size", "hidden"),
        context=context,
        sinks=min(sinks, context - 1),
        tied=given.true("tie_word_embeddings", False),
        rope_base=base,
        rope=rope,
        qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
        epsilon=_epsilon(given, "rms_norm_eps", 1e-6),
        begin=begin,
    )


def _size(given: Given, key: str, ours: str, usual: int | None = None) -> int:
    """A number in the bounds of ours."""
    return given.whole(key, usual, *BOUNDS[ours])


def _epsilon(given: Given, key: str, usual: float) -> float:
    return given.real(key, usual, *REALS["epsilon"])


def _window(given: Given) -> int | None:
    """How many positions a layer looks at; None: all of them."""
    kind, key = given.text("model_type"), "sliding_window"
    if kind.startswith("qwen") and set(given.texts("layer_types")) - {"full_attention"}:
        raise given.wrong("layer_types: only full_attention is had here")
    if kind != "mistral" or (key in given.data and not given.has(key)):
        return None
    return given.whole(key, _WINDOW, low=2)


def _rope(given: Given, positions: int, notes: list[str]) -> tuple[float, Scaling | None]:
    """The base, and how positions are stretched; in the old form of config.json and the new."""
    rope = given.inner("rope_scaling")
    rope = rope if rope.data else given.inner("rope_parameters")
    for key, value in rope.data.items():
        if isinstance(value, dict):
            raise rope.wrong(f"{key!r}: positions by kinds of layers are not had here")
    bases = REALS["rope_base"]
    base = rope.real("rope_theta", given.real("rope_theta", 10000.0, *bases), *bases)
    rope.only("partial_rotary_factor", 1.0)
    kind = rope.text("rope_type", rope.text("type", "default"))
    if kind == "default":
        return base, None
    if kind == "dynamic":
        notes.append(f"rope dynamic: as trained, up to {positions} positions")
        return base, None
    if kind not in ("linear", "llama3", "yarn"):
        known = "default, dynamic, linear, llama3, yarn"
        raise rope.wrong(f"rope_type {kind[:40]!r} is not had here; known: {known}")
    factor = rope.real("factor", None, *STRETCHES["factor"])
    if kind == "linear":
        return base, Scaling("linear", factor)
    key = "original_max_position_embeddings"
    trained = rope.whole(key, given.whole(key, positions, *TRAINED), *TRAINED)
    slow, fast, usual = "beta_slow", "beta_fast", 32.0
    if kind == "llama3":
        slow, fast, usual = "low_freq_factor", "high_freq_factor", 4.0
    low = rope.unusual(slow, 1.0, *STRETCHES["low"])
    high = rope.unusual(fast, usual, *STRETCHES["high"])
    if kind == "llama3":
        return base, rope.built(Scaling, "llama3", factor, trained, low, high)
    if rope.real("mscale", 0.0) or rope.real("mscale_all_dim", 0.0):
        raise rope.wrong("yarn with mscale is not had here")
    scale, key = None, "attention_factor"
    if rope.has(key):
        scale = rope.real(key, None, *STRETCHES["attention"])
    whole = rope.true("truncate", True)
    return base, rope.built(Scaling, "yarn", factor, trained, low, high, scale, whole)


# ---- out ----


def config_json(config: TransformerConfig, architecture: str, dtype: torch.dtype) -> dict[str, Any]:
    """config.json of a run, for ``transformers`` and whoever reads its folders."""
    kind = next(k for k, name in CLASSES.items() if name == architecture)
    eos = config.space.eos
    both: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": kind,
        "vocab_size": config.space.size,
        "bos_token_id": eos if config.begin is None else config.begin,
        "eos_token_id": eos,
        "dtype": str(dtype).removeprefix("torch."),
        "tie_word_embeddings": config.tied,
    }
    if config.layout == "gpt2":
        return both | {
            "n_embd": config.dim,
            "n_head": config.num_heads,
            "n_layer": config.num_layers,
            "n_inner": config.hidden,
            "n_positions": config.context,
            "n_ctx": config.context,
            "activation_function": "gelu_new" if config.gelu == "tanh" else "gelu",
            "layer_norm_epsilon": config.epsilon,
            "scale_attn_weights": True,
            "resid_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
            "attn_pdrop": 0.0,
        }
    both |= {
        "hidden_size": config.dim,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.epsilon,
        "rope_theta": config.rope_base,
        "attention_bias": False,
    }
    if kind == "mistral":
        both["sliding_window"] = None if config.sinks else config.context
    else:
        both["mlp_bias"] = False
    return both | _rope_json(config)


def _rope_json(config: TransformerConfig) -> dict[str, Any]:
    rope = config.rope
    if rope is None:
        return {"rope_scaling": None}
    if rope.kind == "ntk":
        width = config.head_width
        return {"rope_theta": config.rope_base * rope.factor ** (width / max(1, width - 2))}
    low, high = rope.turns
    more: dict[str, Any] = {}
    if rope.kind == "llama3":
        more = {"low_freq_factor": low, "high_freq_factor": high}
    if rope.kind == "yarn":
        more = {"beta_slow": low, "beta_fast": high, "attention_factor": rope.attention}
        more |= {} if rope.whole else {"truncate": False}
    if rope.trained:
        more["original_max_position_embeddings"] = rope.trained
    return {"rope_scaling": {"rope_type": rope.kind, "factor": rope.factor, **more}}


def architecture_of(config: TransformerConfig, imported: str = "") -> str:
    """The class that a config is of; Mistral's is Llama's but for its window.

    Raises:
        ValueError: no class is like it.
    """
    if config.space.grid is not None or config.labels:
        raise ValueError("no model elsewhere has the places and labels of pictures")
    if config.layout == "gpt2":
        return "GPT2LMHeadModel"
    if config.qk_norm and config.qkv_bias:
        raise ValueError("no model elsewhere has both qkv_bias (Qwen2) and qk_norm (Qwen3)")
    if config.qk_norm:
        return "Qwen3ForCausalLM"
    if config.qkv_bias:
        return "Qwen2ForCausalLM"
    mistral = not config.sinks or imported == "MistralForCausalLM"
    return "MistralForCausalLM" if mistral else "LlamaForCausalLM"


def dumps(value: Any) -> str:
    """JSON as Hugging Face writes it."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
