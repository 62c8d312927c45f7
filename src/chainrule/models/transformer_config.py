"""The shapes of a transformer: its config, and the recipes of both layouts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from chainrule.core.config import bounded
from chainrule.core.space import Space
from chainrule.nn.rope import Scaling
from chainrule.nn.scalars import HeadName, head_of

Layout = Literal["llama", "gpt2"]
BOUNDS: dict[str, tuple[int, int]] = {
    "num_layers": (1, 512),
    "dim": (2, 65536),
    "num_heads": (1, 4096),
    "num_kv_heads": (1, 4096),
    "head_dim": (1, 65536),
    "hidden": (1, 2**20),
    "context": (2, 2**24),
    "ahead": (0, 64),
    "features": (0, 65536),
    "labels": (0, 2**20),
}
REALS: dict[str, tuple[float, float]] = {
    "dropout": (0, 0.95),
    "rope_base": (1, 1e12),
    "epsilon": (1e-12, 1e-1),
}
SIZES = {"tiny": (2, 64, 2), "small": (4, 128, 4), "base": (6, 384, 6)}


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a transformer.

    Of a picture (a space with a grid), llama's inputs also tell rows, columns and channels; see
    ``nn.places``.

    Args:
        layout: llama (Touvron et al. 2023: RMSNorm, rotary positions, SwiGLU, grouped queries, no
            biases) or gpt2 (Radford et al. 2019: LayerNorm, learned positions, GELU, biases).
        head_dim: width of a head; None: dim / num_heads.
        hidden: width inside the feed-forward part.
        context: how many inputs a prediction looks at, the start symbol included. Beyond it, llama
            slides: the newest ``context - sinks`` and the first ``sinks`` inputs. gpt2 begins a
            new block each ``context // 2`` symbols, with the other half of the context in it. Of
            pictures, a context below their length, with no sinks, is the local attention in one
            dimension of Parmar et al. 2018, "Image Transformer", sliding instead of in blocks.
        dropout: share of what is dropped from the embedding and from every branch, in training.
        gelu: exact (none) or by a hyperbolic tangent, as OpenAI's weights want it; of gpt2.
        tied: the embedding is the output weights too (Press & Wolf 2017).
        rope: rotary positions stretched over a longer context.
        qkv_bias: queries, keys and values have biases, as in Qwen2; of llama.
        qk_norm: heads of queries and keys are normed, as in Qwen3; of llama.
        begin: the start symbol; None: the end symbol, or one of its own where there is none.
        ahead: extra heads were trained to guess so many symbols beyond the next; 0 for none.
        masked: trained on blanks too: the same weights fill them in (``Transformer.masked``).
        head: the law of symbols that are numbers; None: as suits them.
        features: numbers that ``Condition.steps`` has for each step.
        labels: classes that ``Condition.label`` may name; of llama.

    Raises:
        ValueError: a size out of bounds, or sizes that don't fit each other.
    """

    space: Space
    layout: Layout = "llama"
    num_layers: int = 4
    dim: int = 128
    num_heads: int = 4
    num_kv_heads: int = 4
    head_dim: int | None = None
    hidden: int = 384
    context: int = 256
    sinks: int = 4
    dropout: float = 0.0
    tied: bool = False
    gelu: Literal["none", "tanh"] = "none"
    rope_base: float = 10000.0
    rope: Scaling | None = None
    qkv_bias: bool = False
    qk_norm: bool = False
    epsilon: float = 1e-5
    begin: int | None = None
    ahead: int = 0
    masked: bool = False
    head: HeadName | None = None
    features: int = 0
    labels: int = 0

    def __post_init__(self) -> None:
        if (head_of(self.space, self.head) is not None or self.features) and (
            self.layout != "llama" or self.tied or self.ahead or self.masked
        ):
            raise ValueError("numbers, and features of steps, are for the plain llama layout")
        if self.labels and self.layout != "llama":
            raise ValueError("labels are for the llama layout: choose the model transformer")
        for name, bounds in (BOUNDS | REALS).items():
            if (value := getattr(self, name)) is not None:
                bounded(name, value, *bounds)
        bounded("sinks", self.sinks, 0, self.context - 1)
        if self.head_dim is None and self.num_heads > self.dim:
            raise ValueError(
                f"more heads ({self.num_heads}) than the width has room for: {self.dim}"
            )
        if self.head_dim is None and self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        if self.begin is not None:
            bounded("begin", self.begin, 0, (self.space.size or 1) - 1)
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.layout == "gpt2" and self.num_kv_heads != self.num_heads:
            raise ValueError("the gpt2 layout has as many key-value heads as heads")
        if self.layout == "gpt2" and (self.rope or self.qkv_bias or self.qk_norm or self.head_dim):
            raise ValueError("rope, qkv_bias, qk_norm and head_dim are of the llama layout")
        if self.rope and self.rope.kind == "yarn" and self.rope_base == 1:
            raise ValueError("yarn needs rates that differ: a rope_base above 1")
        if self.layout == "llama" and self.head_width % 2:
            raise ValueError(f"rotary positions need an even head width, not {self.head_width}")

    @property
    def head_width(self) -> int:
        """K."""
        return self.head_dim or self.dim // self.num_heads


def transformer(space: Space, size: str = "small") -> TransformerConfig:
    """The Llama layout; for pictures, with a context that holds all of one."""
    num_layers, dim, heads = SIZES[size]
    config = TransformerConfig(
        space, "llama", num_layers, dim, heads, heads, hidden=-(-8 * dim // 3 // 32) * 32
    )
    if space.grid is None:
        return config
    return replace(config, context=math.prod(space.grid) + 1, sinks=0)


def gpt2(space: Space, size: str = "small") -> TransformerConfig:
    """The GPT-2 layout, output tied to the embedding."""
    num_layers, dim, heads = SIZES[size]
    return TransformerConfig(
        space, "gpt2", num_layers, dim, heads, heads, hidden=4 * dim, sinks=0, tied=True
    )
