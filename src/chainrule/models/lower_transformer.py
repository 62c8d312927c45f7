"""The step of a transformer as a Program; see engine/program.py for the ops.

Widths: D of the residual, H query heads and G key-value heads of K each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from chainrule.core.state import Fixed, Leaf
from chainrule.engine import program as p
from chainrule.nn.rope import rates

if TYPE_CHECKING:
    from chainrule.models.transformer import Transformer


def memory(label_BD: Tensor) -> dict[str, Leaf]:
    """The vector of a row's label as fixed memory of one entry; its key, 0, meets no other."""
    both = F.pad(label_BD[:, None], (label_BD.shape[1], 0))
    ok = torch.ones(both.shape[:2], dtype=torch.bool, device=both.device)
    return {"label": Fixed(both), "label_ok": Fixed(ok)}


def lower(model: Transformer) -> p.Program:
    """Either layout; the extra heads are no part of the step."""
    config, size = model.config, model.space.size
    assert size is not None
    llama, dim, width = not model.learned, config.dim, config.head_width
    queries, keys = config.num_heads * width, config.num_kv_heads * width
    inner = config.hidden * (2 if llama else 1)
    rows = max(size, model.begin + 1) + config.masked
    buffers = {
        "x": p.Buffer(dim),
        "normal": p.Buffer(dim),
        "qkv": p.Buffer(queries + 2 * keys),
        "q": p.Buffer(queries, "qkv"),
        "k": p.Buffer(keys, "qkv", queries),
        "v": p.Buffer(keys, "qkv", queries + keys),
        "mixed": p.Buffer(queries),
        "up": p.Buffer(inner),
        "inner": p.Buffer(config.hidden),
        "branch": p.Buffer(dim),
        "hidden": p.Buffer(dim),
        "logits": p.Buffer(size),
    }
    weights = {"embedding": p.Weight("embedding.weight", (rows, dim))}
    leaves: dict[str, p.Leaf] = {}
    ops: list[p.Op] = [p.Embed("x", "embedding")]

    def weight(name: str, *shape: int) -> str:
        weights[name] = p.Weight(name, shape, kind="vector" if len(shape) == 1 else "matrix")
        return name

    def linear(out: str, x: str, name: str) -> p.Linear:
        shape = buffers[out].dim, buffers[x].dim
        biased = not llama or (config.qkv_bias and out == "qkv")
        bias = weight(f"{name}.bias", shape[0]) if biased else None
        return p.Linear(out, x, weight(f"{name}.weight", *shape), bias)

    def norm(out: str, name: str, x: str = "x", heads: int = 0) -> p.Norm:
        bias = None if llama else weight(f"{name}.bias", dim)
        scale = weight(f"{name}.weight", heads or dim)
        return p.Norm(out, x, scale, bias, "rms" if llama else "layer", config.epsilon, heads)

    def rope(out: str, x: str, limit: int = 0) -> p.Rope:
        if config.rope is None:
            return p.Rope(out, x, width, config.rope_base, limit)
        turns = rates(width, config.rope_base, config.rope)
        return p.Rope(out, x, width, config.rope_base, limit, turns, config.rope.scale)

    q, k, edge = "q", "k", None
    if llama:
        q, k = "turned_q", "turned_k"
        buffers |= {q: p.Buffer(queries), k: p.Buffer(keys)}
        if config.qk_norm:
            buffers |= {"normed_q": p.Buffer(queries), "normed_k": p.Buffer(keys)}
        if config.sinks:
            edge = "edge"
            buffers[edge] = p.Buffer(queries)
    else:
        buffers["place"] = p.Buffer(dim)
        place = weight("position.weight", config.context, dim)
        ops += [p.Embed("place", place, "position"), p.Add("x", "x", "place")]
    if model.places is not None:
        buffers["place"], table = p.Buffer(dim), model.places.table.weight
        weights["places"] = p.Weight("places.table.weight", tuple(table.shape))
        axes, length = model.places.rows().shape
        for i in range(axes):
            weights[f"row.{i}"] = p.Weight("places.index", (length,), i * length, kind="table")
            ops += [p.Embed("place", "places", "position", f"row.{i}"), p.Add("x", "x", "place")]
    if model.labels is not None:
        leaves["label"], buffers["told"] = p.Leaf("fixed", 2 * dim), p.Buffer(dim)
        ops += [p.Cross("told", "x", "label", heads=1), p.Add("x", "x", "told")]
    for i in range(config.num_layers):
        layer, cache = f"layers.{i}", f"cache.{i}"
        leaves[cache] = p.Leaf("cache", keys, width)
        ops += [norm("normal", f"{layer}.norm_in"), linear("qkv", "normal", f"{layer}.qkv")]
        from_q, from_k = "q", "k"
        if config.qk_norm:
            from_q, from_k = "normed_q", "normed_k"
            ops += [
                norm(from_q, f"{layer}.norm_q", "q", width),
                norm(from_k, f"{layer}.norm_k", "k", width),
            ]
        if llama:
            ops += [rope(q, from_q), rope(k, from_k)]
        if edge:  # towards the sinks, as far off as the context reaches and no farther
            ops += [rope(edge, from_q, config.context - 1)]
        window = config.context - config.sinks
        ops += [
            p.Attend("mixed", q, k, "v", cache, config.num_heads, window, config.sinks, edge),
            linear("branch", "mixed", f"{layer}.out"),
            p.Add("x", "x", "branch"),
            norm("normal", f"{layer}.norm_mid"),
            linear("up", "normal", f"{layer}.up"),
            p.Gate("inner", "up", "silu")
            if llama
            else p.Activate("inner", "up", "gelu_tanh" if config.gelu == "tanh" else "gelu"),
            linear("branch", "inner", f"{layer}.down"),
            p.Add("x", "x", "branch"),
        ]
    ops += [norm("hidden", "norm")]
    out = "embedding"  # one matrix for both where a head of its own would hold the same rows
    if not config.tied:
        out = weight("head.weight", size, dim)
    elif rows > size:
        weights["head"] = p.Weight("embedding.weight", (size, dim))
        out = "head"
    return p.Program(
        size,
        model.begin,
        buffers,
        weights,
        leaves,
        tuple(ops),
        (p.Linear("logits", "hidden", out),),
        context=config.context if model.learned else 0,
        blank=rows - 1 if config.masked else None,
    )
