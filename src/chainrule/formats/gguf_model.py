"""A transformer in a GGUF file: its config and the order of its rows; read and written.

Shapes: K head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chainrule.core.space import Space
from chainrule.formats import layout
from chainrule.formats.gguf import GGUF
from chainrule.formats.given import Given, shown
from chainrule.formats.hf import Facts, shapes_of
from chainrule.formats.tokens_in import Metadata
from chainrule.models.transformer_config import REALS, TransformerConfig
from chainrule.nn.rope import Scaling, rates

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
PAIRED = ("llama",)  # whose queries and keys have pairs side by side
_ROPE = "rope_freqs.weight"
_TRAINED = (8192, 4096, 2048, 16384, 32768)  # positions, where a file with _ROPE doesn't say
# Keys that change what a model computes, and the value that leaves it as it is had here.
_USUAL: dict[str, bool | float] = {
    "attention.causal": True,
    "attention.clamp_kqv": 0.0,
    "attention.max_alibi_bias": 0.0,
    "attention.output_scale": 1.0,
    "attention.scale": 0.0,
    "attention.temperature_scale": 0.0,
    "attn_logit_softcapping": 0.0,
    "embedding_scale": 1.0,
    "expert_count": 0,
    "final_logit_softcapping": 0.0,
    "logit_scale": 1.0,
    "residual_scale": 1.0,
    "rope.scaling.alpha": 0.0,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.yarn_beta_fast": 32.0,
    "rope.scaling.yarn_beta_slow": 1.0,
    "rope.scaling.yarn_ext_factor": 1.0,
    "rope.scaling.yarn_log_multiplier": 0.0,
    "use_parallel_residual": False,
}


def read(file: GGUF) -> tuple[TransformerConfig, layout.Layout, Facts]:
    """The config of a GGUF file, whose tensors are what it says.

    Raises:
        ValueError: an architecture or setting that isn't had here, or a file that contradicts
            itself.
    """
    where, facts = str(file.path), file.metadata
    arch = facts.get("general.architecture")
    if not isinstance(arch, str) or arch not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"{where}: architecture {shown(arch)} is not had here; known: {known}")
    own = {k.removeprefix(f"{arch}."): v for k, v in facts.items() if k.startswith(f"{arch}.")}
    given = Given(own, f"{where}: {arch}")
    for key, usual in _USUAL.items():
        given.only(key, usual)
    if "token_embd.weight" not in file.tensors:
        raise ValueError(f"{where}: tensor 'token_embd.weight' is missing")
    size = file.tensors["token_embd.weight"].rows
    tokens = Metadata(facts, where)
    end, begin = (tokens.symbol(f"{name}_token_id", size) for name in ("eos", "bos"))
    if end is None:
        tokens.fail("eos_token_id", "it is missing: which symbol ends a text?")
    space = Space("finite", size, eos=end)
    config = _config(file, given, arch, space, None if begin == end else begin)
    names = layout.gguf(config, arch in PAIRED)
    shapes = {name: entry.shape for name, entry in file.tensors.items()}
    layout.check_shapes(names, shapes_of(config), shapes, where, lambda name: name == _ROPE)
    template = tokens.value("chat_template", str, None)
    return config, names, Facts(ARCHITECTURES[arch], [end], begin, template)


def _config(
    file: GGUF, given: Given, arch: str, space: Space, begin: int | None
) -> TransformerConfig:
    dim, heads = given.whole("embedding_length"), given.whole("attention.head_count")
    context = given.whole("context_length")
    common: dict[str, Any] = {
        "space": space,
        "num_layers": given.whole("block_count"),
        "dim": dim,
        "num_heads": heads,
        "hidden": given.whole("feed_forward_length"),
        "context": context,
        "tied": "output.weight" not in file.tensors,
        "begin": begin,
    }
    if arch == "gpt2":
        epsilon = given.real("attention.layer_norm_epsilon", 1e-5)
        return given.made(
            layout="gpt2", num_kv_heads=heads, sinks=0, gelu="tanh", epsilon=epsilon, **common
        )
    width = given.whole("attention.key_length", dim // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if given.whole(key, width) != width:
            raise given.wrong(f"{key} is not the width of a head, {width}")
    base = given.real("rope.freq_base", 10000.0, *REALS["rope_base"])
    return given.made(
        num_kv_heads=given.whole("attention.head_count_kv", heads),
        head_dim=None if width * heads == dim else width,
        sinks=min(4, context - 1),
        rope_base=base,
        rope=_rope(file, given, width, base, context),
        qkv_bias=arch == "qwen2",
        qk_norm=arch == "qwen3",
        epsilon=given.real("attention.layer_norm_rms_epsilon", 1e-5),
        **common,
    )


def _rope(file: GGUF, given: Given, width: int, base: float, context: int) -> Scaling | None:
    said = given.has("rope.scaling.type")
    kind = given.text("rope.scaling.type", "linear")  # llama.cpp's default too
    if kind not in ("none", "linear", "yarn"):
        raise given.wrong(
            f"rope.scaling.type {shown(kind)} is not had here; known: none, linear, yarn"
        )
    old = given.has("rope.scale_linear") and not given.has("rope.scaling.factor")
    key = "rope.scale_linear" if old else "rope.scaling.factor"
    factor = given.real(key, None if said and kind != "none" else 1.0) or 1.0  # 0: none
    if _ROPE in file.tensors:
        if kind == "yarn" or (kind == "linear" and factor != 1):
            raise given.wrong(f"{_ROPE} beside rope.scaling is not had here")
        return _llama3(file.floats(_ROPE).flatten(), given, width, base)
    if kind == "yarn":
        trained = given.whole("rope.scaling.original_context_length", context)
        return given.built(Scaling, "yarn", factor, trained)
    return given.built(Scaling, "linear", factor) if kind == "linear" and factor != 1 else None


def _llama3(factors: Tensor, given: Given, width: int, base: float) -> Scaling:
    """Llama 3.1's rule from what divides each rate, and from the positions where they are told."""
    key = "rope.scaling.original_context_length"
    told = [given.whole(key, low=2)] if given.has(key) else []
    for trained in (*told, *_TRAINED) if len(factors) == width // 2 else ():
        # How much of each rate is kept, 1 to 0, is the same whatever the factor.
        kept = 2 / _factors(Scaling("llama3", 2.0, trained), width, base).double() - 1
        at = int(kept.argmin())
        rest = 1 / float(factors[at].double()) - float(kept[at]) if factors[at] >= 1 else 0.0
        factor = (1 - float(kept[at])) / rest if rest > 0 else 1.0
        factor = round(factor) if abs(factor - round(factor)) < 1e-3 else factor
        if not 1 <= factor <= 4096:
            continue
        found = Scaling("llama3", float(factor), trained)
        if torch.allclose(_factors(found, width, base), factors, rtol=1e-4):
            return found
    raise given.wrong(f"{_ROPE} is not the rule of Llama 3.1, the only one had here")


def _factors(rope: Scaling, width: int, base: float) -> Tensor:
    """What the rates are divided by, as GGUF has them: float32 [K / 2]."""
    pairs = zip(rates(width, base), rates(width, base, rope), strict=True)
    return torch.tensor([plain / rate for plain, rate in pairs])


# ---- out ----


def facts_of(config: TransformerConfig, name: str, file_type: int) -> tuple[str, dict[str, Any]]:
    """The architecture's name, and the metadata of a config (not of its tokenizer).

    Raises:
        ValueError: a setting that GGUF has no place for.
    """
    arch = "gpt2" if config.layout == "gpt2" else "qwen2" if config.qkv_bias else "llama"
    arch = "qwen3" if config.qk_norm else arch
    own: dict[str, Any] = {
        "context_length": config.context,
        "embedding_length": config.dim,
        "block_count": config.num_layers,
        "feed_forward_length": config.hidden,
        "attention.head_count": config.num_heads,
        "vocab_size": config.space.size,
    }
    if arch == "gpt2":
        own["attention.layer_norm_epsilon"] = config.epsilon
        if config.gelu != "tanh":
            raise ValueError(
                "llama.cpp's GPT-2 has the GELU by a hyperbolic tangent, this run the exact one: "
                "export it --to hf, or fit with --model transformer"
            )
    else:
        width = config.head_width
        own |= {
            "attention.head_count_kv": config.num_kv_heads,
            "attention.key_length": width,
            "attention.value_length": width,
            "attention.layer_norm_rms_epsilon": config.epsilon,
            "rope.dimension_count": width,
            "rope.freq_base": config.rope_base,
        } | _rope_facts(config)
    both = {"general.architecture": arch, "general.name": name, "general.file_type": file_type}
    return arch, both | {f"{arch}.{k}": v for k, v in own.items()}


def _rope_facts(config: TransformerConfig) -> dict[str, Any]:
    rope, width = config.rope, config.head_width
    if rope is None:
        return {}
    if rope.kind == "llama3":  # llama.cpp asks for rope_tensor only; this is for who reads it back
        return {"rope.scaling.original_context_length": rope.trained}
    if rope.kind == "ntk":
        return {"rope.freq_base": config.rope_base * rope.factor ** (width / max(1, width - 2))}
    more = {"rope.scaling.type": rope.kind, "rope.scaling.factor": rope.factor}
    if rope.kind == "yarn":
        usual = Scaling("yarn", rope.factor, rope.trained)
        if (rope.turns, rope.scale, rope.whole) != (usual.turns, usual.scale, usual.whole):
            raise ValueError("GGUF has no place for yarn with other than its usual numbers")
        more["rope.scaling.original_context_length"] = rope.trained
    return more


def rope_tensor(config: TransformerConfig) -> Tensor | None:
    """The factors of Llama 3.1's rule, which GGUF keeps as a tensor."""
    if config.rope is None or config.rope.kind != "llama3":
        return None
    return _factors(config.rope, config.head_width, config.rope_base)
