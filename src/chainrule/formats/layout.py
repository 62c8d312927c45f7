"""Which foreign tensors a transformer's own ones are made of, in both directions.

Shapes: D width, H heads, G key-value heads, K head width, F inner, V alphabet size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.models.transformer_config import TransformerConfig


@dataclass(frozen=True)
class Part:
    """Some rows of a tensor of ours, as a foreign file has them.

    Args:
        turned: stored as [in, out].
        heads: > 0: its rows are so many heads, in which pairs (i, i + K / 2) lie side by side.
    """

    name: str
    rows: int
    turned: bool = False
    heads: int = 0

    def shape(self, columns: tuple[int, ...]) -> tuple[int, ...]:
        """What the foreign tensor must be, of so many columns."""
        whole = (self.rows, *columns)
        return whole[::-1] if self.turned else whole

    def ours(self, t: Tensor) -> Tensor:
        """From the foreign order of rows to ours."""
        if self.turned:
            t = t.t()
        if self.heads:
            t = t.unflatten(0, (self.heads, -1, 2)).transpose(1, 2).flatten(0, 2)
        return t

    def theirs(self, t: Tensor) -> Tensor:
        """From our order of rows to the foreign one."""
        if self.heads:
            t = t.unflatten(0, (self.heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        if self.turned:
            t = t.t()
        return t.contiguous()


Layout = Mapping[str, tuple[Part, ...]]  # our name to what it is made of, top to bottom


def hf(config: TransformerConfig, bare: bool = False) -> Layout:
    """The names of Hugging Face's classes; ``bare``: those of GPT-2 without ``transformer.``."""
    if config.layout == "gpt2":
        return _gpt2(config, _HF_GPT2, "" if bare else "transformer.", turned=True)
    names = {
        "embedding": "model.embed_tokens",
        "norm": "model.norm",
        "head": "lm_head",
        "layer": "model.layers.{}.",
        "norm_in": "input_layernorm",
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "norm_q": "self_attn.q_norm",
        "norm_k": "self_attn.k_norm",
        "out": "self_attn.o_proj",
        "norm_mid": "post_attention_layernorm",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    }
    return _llama(config, names, paired=False)


def gguf(config: TransformerConfig, paired: bool) -> Layout:
    """llama.cpp's names; ``paired``: its order of the rows of queries and keys, of arch llama."""
    if config.layout == "gpt2":
        return _gpt2(config, _GGUF_GPT2)
    names = {
        "embedding": "token_embd",
        "norm": "output_norm",
        "head": "output",
        "layer": "blk.{}.",
        "norm_in": "attn_norm",
        "q": "attn_q",
        "k": "attn_k",
        "v": "attn_v",
        "norm_q": "attn_q_norm",
        "norm_k": "attn_k_norm",
        "out": "attn_output",
        "norm_mid": "ffn_norm",
        "gate": "ffn_gate",
        "up": "ffn_up",
        "down": "ffn_down",
    }
    return _llama(config, names, paired)


_HF_GPT2 = {
    "embedding": "wte",
    "position": "wpe",
    "norm": "ln_f",
    "layer": "h.{}.",
    "head": "lm_head",
    "norm_in": "ln_1",
    "qkv": "attn.c_attn",
    "out": "attn.c_proj",
    "norm_mid": "ln_2",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}
_GGUF_GPT2 = {
    "embedding": "token_embd",
    "position": "position_embd",
    "norm": "output_norm",
    "layer": "blk.{}.",
    "head": "output",
    "norm_in": "attn_norm",
    "qkv": "attn_qkv",
    "out": "attn_output",
    "norm_mid": "ffn_norm",
    "up": "ffn_up",
    "down": "ffn_down",
}


def _llama(config: TransformerConfig, names: Mapping[str, str], paired: bool) -> Layout:
    size, dim, width = config.space.size or 0, config.dim, config.head_width
    queries, keys = config.num_heads * width, config.num_kv_heads * width
    heads, groups = (config.num_heads, config.num_kv_heads) if paired else (0, 0)
    found: dict[str, tuple[Part, ...]] = {
        "embedding.weight": (Part(f"{names['embedding']}.weight", size),),
        "norm.weight": (Part(f"{names['norm']}.weight", dim),),
    }
    if not config.tied:
        found["head.weight"] = (Part(f"{names['head']}.weight", size),)
    for i in range(config.num_layers):
        ours, theirs = f"layers.{i}.", names["layer"].format(i)

        def add(name: str, *parts: tuple[str, int, int], to: str = "weight") -> None:
            found[f"{ours}{name}.{to}"] = tuple(  # noqa: B023 - called at once
                Part(f"{theirs}{names[part]}.{to}", rows, heads=order)  # noqa: B023
                for part, rows, order in parts
            )

        qkv = ("q", queries, heads), ("k", keys, groups), ("v", keys, 0)
        add("norm_in", ("norm_in", dim, 0))
        add("qkv", *qkv)
        if config.qkv_bias:
            add("qkv", *qkv, to="bias")
        if config.qk_norm:
            add("norm_q", ("norm_q", width, 0))
            add("norm_k", ("norm_k", width, 0))
        add("out", ("out", dim, 0))
        add("norm_mid", ("norm_mid", dim, 0))
        add("up", ("gate", config.hidden, 0), ("up", config.hidden, 0))
        add("down", ("down", dim, 0))
    return found


def _gpt2(
    config: TransformerConfig, names: Mapping[str, str], prefix: str = "", turned: bool = False
) -> Layout:
    dim, size, both = config.dim, config.space.size or 0, ("weight", "bias")
    found: dict[str, tuple[Part, ...]] = {
        "embedding.weight": (Part(f"{prefix}{names['embedding']}.weight", size),),
        "position.weight": (Part(f"{prefix}{names['position']}.weight", config.context),),
    }
    found |= {f"norm.{to}": (Part(f"{prefix}{names['norm']}.{to}", dim),) for to in both}
    if not config.tied:
        found["head.weight"] = (Part(f"{names['head']}.weight", size),)  # beside transformer.
    rows = {"norm_in": dim, "qkv": 3 * dim, "out": dim, "norm_mid": dim}
    rows |= {"up": config.hidden, "down": dim}
    for i in range(config.num_layers):
        for name, count in rows.items():
            for to in both:
                matrix = to == "weight" and not name.startswith("norm")
                foreign = f"{prefix}{names['layer'].format(i)}{names[name]}.{to}"
                found[f"layers.{i}.{name}.{to}"] = (Part(foreign, count, turned=turned and matrix),)
    return found


def check_shapes(
    layout: Layout,
    ours: Mapping[str, tuple[int, ...]],
    theirs: Mapping[str, tuple[int, ...]],
    where: str,
    ignored: Callable[[str], bool],
) -> None:
    """Hold what a file says of its tensors against the config, before any is read.

    Raises:
        ValueError: naming the first tensor that is missing, unknown or of another shape.
    """
    used = set()
    for name, parts in layout.items():
        for part in parts:
            used.add(part.name)
            wanted = part.shape(ours[name][1:])
            if part.name not in theirs:
                raise ValueError(f"{where}: tensor {part.name!r} is missing")
            if theirs[part.name] != wanted:
                raise ValueError(
                    f"{where}: tensor {part.name!r} is {list(theirs[part.name])}, "
                    f"its config says {list(wanted)}"
                )
    for name in theirs:
        if name not in used and not ignored(name):
            raise ValueError(
                f"{where}: tensor {name!r} has no place in this layout: "
                "is it another architecture, or an adapter?"
            )


def joined(parts: tuple[Part, ...], read: Callable[[str], Tensor]) -> Tensor:
    """A tensor of ours from its parts; of several float types, the widest."""
    found = [part.ours(read(part.name)) for part in parts]
    if len({t.dtype for t in found}) > 1:
        found = [t.float() for t in found]
    return torch.cat(found).contiguous() if len(found) > 1 else found[0].contiguous()


def parted(parts: tuple[Part, ...], whole: Tensor) -> list[tuple[str, Tensor]]:
    """The foreign tensors of one of ours, whose further rows are left out."""
    rows = [part.rows for part in parts]
    pieces = whole[: sum(rows)].split(rows)
    return [(part.name, part.theirs(t)) for part, t in zip(parts, pieces, strict=True)]
