"""A foreign config.json and a transformer's config, one from the other.

Every value is checked for its type and bounds; what changes the law in a way that isn't had here
is refused by name.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from chainrule.core.config import bounded
from chainrule.core.space import Space
from chainrule.models.transformer_config import TransformerConfig
from chainrule.nn.rope import Scaling

CLASSES = {  # model_type to what it is called
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
_GELU = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}


class Given:
    """The values of a foreign config.json by key, type and bounds checked."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise ValueError(f"{where}: expected an object")
        self.data, self.where = data, where

    def wrong(self, message: str) -> ValueError:
        return ValueError(f"{self.where}: {message}")

    def get(self, key: str, default: Any, *kinds: type) -> Any:
        value = self.data.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.wrong(f"{key!r} is missing")
        if type(value) not in kinds:
            raise self.wrong(
                f"{key!r} is {str(value)[:40]!r}, not {' or '.join(k.__name__ for k in kinds)}"
            )
        return value

    def whole(self, key: str, default: int | None = None) -> int:
        value: int = self.get(key, default, int)
        bounded(f"{self.where}: {key}", value, 1, 2**24)
        return value

    def real(self, key: str, default: float | None = None) -> float:
        return float(self.get(key, default, int, float))

    def unusual(self, key: str, usual: float) -> float | None:
        """A number; None where it is the usual one."""
        value = self.real(key, usual)
        return None if value == usual else value

    def true(self, key: str, default: bool) -> bool:
        value: bool = self.get(key, default, bool)
        return value

    def made(self, **values: Any) -> TransformerConfig:
        """The config of these values; what is wrong with them is told of this place."""
        try:
            return TransformerConfig(**values)
        except (ValueError, TypeError) as error:
            raise self.wrong(str(error)) from None

    def only(self, key: str, *allowed: Any) -> None:
        """Refuse a setting that changes the law in a way that isn't had here."""
        value = self.data.get(key, allowed[0])
        if value not in allowed:
            raise self.wrong(f"{key} {str(value)[:40]!r} is not had here, only {allowed[0]!r}")


def read_config(
    given: Given, space: Space, begin: int | None, notes: list[str]
) -> TransformerConfig:
    """The shape that it describes; what a user should know of it goes into ``notes``.

    Raises:
        ValueError: a value that is missing, wrong or not had here, by its key.
    """
    make = _gpt2 if given.data["model_type"] == "gpt2" else _llama
    return make(given, space, begin, notes)


def _gpt2(given: Given, space: Space, begin: int | None, notes: list[str]) -> TransformerConfig:
    for key, usual in {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    }.items():
        given.only(key, usual)
    given.only("activation_function", "gelu_new", *_GELU)
    dim, heads = given.whole("n_embd", 768), given.whole("n_head", 12)
    gelu: Any = _GELU[given.get("activation_function", "gelu_new", str)]
    context = given.data.get("n_positions") or given.data.get("n_ctx") or 1024
    return given.made(
        space=space,
        layout="gpt2",
        num_layers=given.whole("n_layer", 12),
        dim=dim,
        num_heads=heads,
        num_kv_heads=heads,
        hidden=given.whole("n_inner", 4 * dim),
        context=context,
        sinks=0,
        tied=True,
        gelu=gelu,
        epsilon=given.real("layer_norm_epsilon", 1e-5),
        begin=begin,
    )


def _llama(given: Given, space: Space, begin: int | None, notes: list[str]) -> TransformerConfig:
    kind = given.data["model_type"]
    given.only("hidden_act", "silu", "swish")
    given.only("attention_bias", False)
    given.only("mlp_bias", False)
    given.only("use_sliding_window", False)
    given.only("partial_rotary_factor", 1.0, None)
    dim, heads = given.whole("hidden_size"), given.whole("num_attention_heads")
    context, sinks = given.whole("max_position_embeddings", 2048), 4
    window = given.data.get("sliding_window") if kind == "mistral" else None
    if window is not None and given.whole("sliding_window") < context:
        context, sinks = window, 0
    if dim % heads and given.data.get("head_dim") is None:
        raise given.wrong(f"hidden_size {dim} is not a multiple of num_attention_heads {heads}")
    width = given.whole("head_dim", 128 if kind == "qwen3" else dim // heads)
    base, rope = _rope(given, context, notes)
    return given.made(
        space=space,
        num_layers=given.whole("num_hidden_layers"),
        dim=dim,
        num_heads=heads,
        num_kv_heads=given.whole("num_key_value_heads", 8 if kind == "mistral" else heads),
        head_dim=None if width * heads == dim else width,
        hidden=given.whole("intermediate_size"),
        context=context,
        sinks=min(sinks, context - 1),
        tied=given.true("tie_word_embeddings", False),
        rope_base=base,
        rope=rope,
        qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
        epsilon=given.real("rms_norm_eps", 1e-6),
        begin=begin,
    )


def _rope(given: Given, context: int, notes: list[str]) -> tuple[float, Scaling | None]:
    """The base, and how positions are stretched; in the old form of config.json and the new."""
    data = given.data.get("rope_parameters") or given.data.get("rope_scaling") or {}
    rope = Given(data, f"{given.where}: rope")
    base = rope.real("rope_theta", given.data.get("rope_theta") or 10000.0)
    rope.only("partial_rotary_factor", 1.0, None)
    kind = data.get("rope_type", data.get("type", "default"))
    trained = data.get("original_max_position_embeddings") or given.data.get(
        "original_max_position_embeddings", context
    )
    if kind in ("default", None):
        return base, None
    if kind == "dynamic":
        notes.append(f"rope dynamic: as trained, up to {context} positions")
        return base, None
    try:
        if kind == "linear":
            return base, Scaling("linear", rope.real("factor"))
        if kind == "llama3":
            low = rope.unusual("low_freq_factor", 1.0)
            high = rope.unusual("high_freq_factor", 4.0)
            return base, Scaling("llama3", rope.real("factor"), trained, low, high)
        if kind == "yarn":
            if data.get("mscale") or data.get("mscale_all_dim"):
                raise rope.wrong("yarn with mscale is not had here")
            low, high = rope.unusual("beta_slow", 1.0), rope.unusual("beta_fast", 32.0)
            scale = data.get("attention_factor")
            scale = None if scale is None else rope.real("attention_factor")
            whole = rope.true("truncate", True)
            return base, Scaling("yarn", rope.real("factor"), trained, low, high, scale, whole)
    except TypeError as error:
        raise rope.wrong(str(error)) from None
    known = "default, dynamic, linear, llama3, yarn"
    raise rope.wrong(f"rope_type {str(kind)[:40]!r} is not had here; known: {known}")


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


def architecture_of(config: TransformerConfig, imported: str | None) -> str:
    """The class that a config is of; Mistral's is Llama's but for its window."""
    if config.layout == "gpt2":
        return "GPT2LMHeadModel"
    if config.qk_norm:
        return "Qwen3ForCausalLM"
    if config.qkv_bias:
        return "Qwen2ForCausalLM"
    return "MistralForCausalLM" if imported == "MistralForCausalLM" else "LlamaForCausalLM"


def dumps(value: Any) -> str:
    """JSON as Hugging Face writes it."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
