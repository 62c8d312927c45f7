"""One transformer layer as one node of the graph: what training on a processor spends its time in.

The same maths as the plain layer in ``models/transformer.py``, with its gradient written out:
products in one narrow type, nothing cast twice, no mask filled in, and the residual kept wide.
Shapes: B rows, T positions, N = B·T, D width, H heads, G key-value heads, K head width, F inner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from chainrule.nn.attention import rotate


@dataclass(frozen=True)
class Shape:
    """What the node must know beside its tensors: ``gpt2`` or Llama layout, heads, types."""

    gpt2: bool
    gelu: str
    num_heads: int
    num_kv_heads: int
    epsilon: float
    compute: torch.dtype


Angles = tuple[Tensor, Tensor] | None
Masks = tuple[Tensor, Tensor] | None


class LayerNode(torch.autograd.Function):
    """x [B, T, D] through attention and feed-forward; weights as ``Layer`` names them.

    ``masks``: what dropout multiplies the two branches with [B, T, D]. First derivatives only.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shape: Shape, angles: Angles, masks: Masks, *given: Tensor | None
    ) -> Tensor:
        narrow = [None if w is None else w.to(shape.compute) for w in given]
        in_w, in_b, qkv_w, qkv_b, out_w, out_b, mid_w, mid_b, up_w, up_b, down_w, down_b = narrow
        rows, length, dim = x.shape
        flat = x.reshape(-1, dim)
        normal, *stats_in = _norm(flat, given[0], given[1], shape)
        q, k, v = _split(_linear(normal, qkv_w, qkv_b), rows, length, shape)
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        p = _softmax(q, k)
        mixed = _to_rows(p @ v.flatten(0, 1), rows)
        branch = _linear(mixed, out_w, out_b)
        mid = flat + (branch if masks is None else branch * masks[0].flatten(0, 1))
        middle, *stats_mid = _norm(mid, given[6], given[7], shape)
        up = _linear(middle, up_w, up_b)
        inner = _activate(up, shape)
        branch = _linear(inner, down_w, down_b)
        y = mid + (branch if masks is None else branch * masks[1].flatten(0, 1))
        ctx.shape, ctx.sizes, ctx.has_bias = shape, (rows, length), given[3] is not None
        ctx.angles, ctx.masks = angles, masks
        ctx.save_for_backward(
            flat, normal, *stats_in, q, k, v, p, mixed, mid, middle, *stats_mid, up, inner,
            given[0], given[6], qkv_w, out_w, up_w, down_w,
        )  # fmt: skip
        return y.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BTD: Tensor) -> tuple[Tensor | None, ...]:
        shape, (rows, length), biased = ctx.shape, ctx.sizes, ctx.has_bias
        (
            flat, normal, mean_in, rate_in, q, k, v, p, mixed, mid, middle, mean_mid, rate_mid,
            up, inner, in_w, mid_w, qkv_w, out_w, up_w, down_w,
        ) = ctx.saved_tensors  # fmt: skip
        g = g_BTD.reshape(flat.shape)
        masks = ctx.masks
        d = (g if masks is None else g * masks[1].flatten(0, 1)).to(shape.compute)
        d_down_w, d_down_b, d_inner = _linear_back(d, inner, down_w, biased)
        d_up = _activate_back(d_inner, up, shape)
        d_up_w, d_up_b, d_middle = _linear_back(d_up, middle, up_w, biased)
        d_mid, d_mid_w, d_mid_b = _norm_back(d_middle, mid, mean_mid, rate_mid, mid_w, shape)
        g = d_mid.add_(g)
        d = (g if masks is None else g * masks[0].flatten(0, 1)).to(shape.compute)
        d_out_w, d_out_b, d_mixed = _linear_back(d, mixed, out_w, biased)
        d_mixed = _to_heads(d_mixed, rows, length, shape)
        d_v = p.transpose(1, 2) @ d_mixed
        d_scores = torch._softmax_backward_data(
            d_mixed @ v.flatten(0, 1).transpose(1, 2), p, -1, p.dtype
        )
        scale = q.shape[-1] ** -0.5
        d_q = _scaled(d_scores, k.flatten(0, 1), scale).view(q.shape)
        d_k = _scaled(d_scores.transpose(1, 2), q.flatten(0, 1), scale).view(k.shape)
        if ctx.angles is not None:
            cos, sin = ctx.angles
            d_q, d_k = rotate(d_q, cos, -sin), rotate(d_k, cos, -sin)
        d_qkv = _gather(d_q, d_k, d_v.view(v.shape), shape)
        d_qkv_w, d_qkv_b, d_normal = _linear_back(d_qkv, normal, qkv_w, biased)
        d_in, d_in_w, d_in_b = _norm_back(d_normal, flat, mean_in, rate_in, in_w, shape)
        wide = in_w.dtype
        grads = (
            d_in_w, d_in_b, d_qkv_w, d_qkv_b, d_out_w, d_out_b,
            d_mid_w, d_mid_b, d_up_w, d_up_b, d_down_w, d_down_b,
        )  # fmt: skip
        cast = (None if t is None else t.to(wide) for t in grads)
        return d_in.add_(g).view_as(g_BTD), None, None, None, *cast


# ---- linear ----


def _linear(x_ND: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    assert weight is not None
    return F.linear(x_ND, weight, bias)


def _linear_back(
    d: Tensor, x: Tensor, weight: Tensor, biased: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of weight, bias and input."""
    return d.t() @ x, d.sum(0) if biased else None, d @ weight


def _scaled(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale · (a @ b), without a pass of its own."""
    return torch.baddbmm(a.new_zeros(()), a, b, beta=0, alpha=scale)


# ---- norms ----


def _norm(
    x_ND: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Shape
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised and scaled in the narrow type; mean and 1 / deviation [N, 1]."""
    if shape.gpt2:
        y, mean, rate = torch.native_layer_norm(x_ND, x_ND.shape[1:], weight, bias, shape.epsilon)
        return y.to(shape.compute), mean, rate
    assert weight is not None
    rate = torch.linalg.vector_norm(x_ND, dim=1, keepdim=True).square_()
    rate = rate.div_(x_ND.shape[1]).add_(shape.epsilon).rsqrt_()
    return (x_ND * rate).mul_(weight).to(shape.compute), rate, rate


def _norm_back(
    d: Tensor, x_ND: Tensor, mean: Tensor, rate: Tensor, weight: Tensor, shape: Shape
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of input (wide), weight and bias."""
    d = d.to(x_ND.dtype)
    if shape.gpt2:
        out: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_layer_norm_backward(
            d, x_ND, x_ND.shape[1:], mean, rate, weight, weight, [True, True, True]
        )
        return out
    unit = x_ND * rate
    d_weight = (d * unit).sum(0)
    d = d * weight
    along = (d * unit).mean(1, keepdim=True)
    return torch.addcmul(d, unit, along, value=-1).mul_(rate), d_weight, None


# ---- attention ----


def _split(qkv: Tensor, rows: int, length: int, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """[N, (H + 2G)·K] to contiguous queries, keys and values [B, H, T, K]."""
    h, g = shape.num_heads, shape.num_kv_heads
    parts = qkv.view(rows, length, h + 2 * g, -1).transpose(1, 2)
    q, k, v = parts.split((h, g, g), 1)
    if g != h:
        k, v = (t.repeat_interleave(h // g, 1) for t in (k, v))
    return q.contiguous(), k.contiguous(), v.contiguous()


def _gather(d_q: Tensor, d_k: Tensor, d_v: Tensor, shape: Shape) -> Tensor:
    """The gradient of ``_split``."""
    h, g = shape.num_heads, shape.num_kv_heads
    if g != h:
        d_k, d_v = (t.unflatten(1, (g, h // g)).sum(2) for t in (d_k, d_v))
    rows, _, length, width = d_q.shape
    out = d_q.new_empty(rows, length, h + 2 * g, width)
    for t, at in ((d_q, 0), (d_k, h), (d_v, h + g)):
        out[:, :, at : at + t.shape[1]] = t.transpose(1, 2)
    return out.view(rows * length, -1)


def _softmax(q_BHTK: Tensor, k_BHTK: Tensor) -> Tensor:
    """Causal attention weights [B·H, T, T]."""
    length, width = q_BHTK.shape[2:]
    unseen = q_BHTK.new_full((length, length), -torch.inf).triu_(1)
    scores = torch.baddbmm(
        unseen, q_BHTK.flatten(0, 1), k_BHTK.flatten(0, 1).transpose(1, 2), alpha=width**-0.5
    )
    return torch.softmax(scores, -1)


def _to_rows(mixed: Tensor, rows: int) -> Tensor:
    """[B·H, T, K] to [N, H·K]."""
    heads = mixed.shape[0] // rows
    out = mixed.view(rows, heads, *mixed.shape[1:]).transpose(1, 2)
    return out.reshape(rows * mixed.shape[1], -1)


def _to_heads(d_mixed: Tensor, rows: int, length: int, shape: Shape) -> Tensor:
    """[N, H·K] to [B·H, T, K]."""
    parts = d_mixed.view(rows, length, shape.num_heads, -1).transpose(1, 2)
    return parts.contiguous().flatten(0, 1)


# ---- feed-forward ----


def _activate(up: Tensor, shape: Shape) -> Tensor:
    if shape.gpt2:
        return F.gelu(up, approximate=shape.gelu)
    gate, value = up.chunk(2, -1)
    return F.silu(gate) * value


def _activate_back(d: Tensor, up: Tensor, shape: Shape) -> Tensor:
    if shape.gpt2:
        out: Tensor = torch.ops.aten.gelu_backward(d, up, approximate=shape.gelu)
        return out
    gate, value = up.chunk(2, -1)
    d_up = torch.empty_like(up)
    d_gate, d_value = d_up.chunk(2, -1)
    torch.mul(d, F.silu(gate), out=d_value)
    d_gate.copy_(torch.ops.aten.silu_backward(d * value, gate))
    return d_up
