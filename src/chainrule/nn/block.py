"""A transformer layer: plain, and for training on a processor as one node of the graph.

The node is the same maths with its gradient written out: products in one narrow type, nothing
cast twice, no mask filled in, and the residual kept wide.
Shapes: B rows, T positions, N = B·T, D width, H heads, G key-value heads, K head width, F inner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from chainrule.nn import attention
from chainrule.nn.attention import Angles, rotate
from chainrule.nn.lora import learning, learns
from chainrule.nn.precision import product_type

Masks = tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class Shape:
    """What a layer must know beside its weights. ``gelu``: as torch calls its kinds.

    ``width``: K, where it is not D / H. ``qkv_bias``, ``qk_norm``: of the Llama layout, Qwen's.
    """

    gpt2: bool
    dim: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    gelu: str = "none"
    epsilon: float = 1e-5
    dropout: float = 0.0
    width: int = 0
    qkv_bias: bool = False
    qk_norm: bool = False

    def norm(self, dim: int | None = None) -> nn.Module:
        """The norm that this layout puts before every part."""
        return (nn.LayerNorm if self.gpt2 else nn.RMSNorm)(dim or self.dim, self.epsilon)


class Layer(nn.Module):
    """Attention and a feed-forward part, each behind a norm and added to what came in."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        dim, width, gpt2 = shape.dim, shape.width or shape.dim // shape.num_heads, shape.gpt2
        self.shape = shape
        self.norm_in, self.norm_mid = shape.norm(), shape.norm()
        every = (shape.num_heads + 2 * shape.num_kv_heads) * width
        self.qkv = nn.Linear(dim, every, bias=gpt2 or shape.qkv_bias)
        self.norm_q = shape.norm(width) if shape.qk_norm else None
        self.norm_k = shape.norm(width) if shape.qk_norm else None
        self.out = nn.Linear(shape.num_heads * width, dim, bias=gpt2)
        self.up = nn.Linear(dim, shape.hidden if gpt2 else 2 * shape.hidden, bias=gpt2)
        self.down = nn.Linear(shape.hidden, dim, bias=gpt2)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x_BTD: Tensor, angles: Angles, unseen: Tensor | None = None) -> Tensor:
        """Attention over all of x, then the feed-forward part.

        ``unseen`` bool [T, T] or [B, T, T]: the keys that a query doesn't see; None: later ones.
        """
        taught = torch.is_grad_enabled() and learns(self.qkv)
        foreign = self.shape.qk_norm or self.shape.qkv_bias  # the node knows neither
        if not taught or foreign or not attention.explicit(x_BTD):
            q, k, v = self.heads(x_BTD)
            mixed = attention.whole(rotate(q, angles), rotate(k, angles), v, unseen)
            return self.join(x_BTD, mixed)
        compute, masks = product_type(x_BTD), None
        if self.training and self.shape.dropout:
            like = torch.ones_like(x_BTD, dtype=compute)
            masks = self.dropout(like), self.dropout(like)
        weights: list[Tensor | None] = []
        factors: list[Tensor] = []
        for part in (self.norm_in, self.qkv, self.out, self.norm_mid, self.up, self.down):
            weight, pair = learning(part)
            weights += [weight, getattr(part, "bias", None)]
            factors += pair
        every = (*weights, *factors)
        out: Tensor = LayerNode.apply(x_BTD, self.shape, compute, angles, masks, unseen, *every)
        return out

    def heads(self, x_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, L, K], keys and values [B, G, L, K], not yet rotated."""
        h, g = self.shape.num_heads, self.shape.num_kv_heads
        qkv = self.qkv(self.norm_in(x_BLD)).unflatten(-1, (h + 2 * g, -1)).transpose(1, 2)
        q, k, v = qkv.split((h, g, g), 1)
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q(q), self.norm_k(k)
        return q, k, v

    def join(self, x_BLD: Tensor, mixed_BHLK: Tensor) -> Tensor:
        """What the heads saw, added in; then the feed-forward part."""
        x = x_BLD + self.dropout(self.out(mixed_BHLK.transpose(1, 2).flatten(2)))
        inner = _activate(self.up(self.norm_mid(x)), self.shape)
        out: Tensor = x + self.dropout(self.down(inner))
        return out


class LayerNode(torch.autograd.Function):
    """x [B, T, D] through attention and feed-forward; weights as ``Layer`` names them.

    Behind the twelve weights there may be A and B of each of the four matrices (``nn/lora.py``):
    these are in the matrices already, and get a gradient in their stead.
    ``masks``: what dropout multiplies the two branches with [B, T, D]. First derivatives only.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shape: Shape,
        compute: torch.dtype,
        angles: Angles,
        masks: Masks,
        unseen: Tensor | None,
        *weights: Tensor | None,
    ) -> Tensor:
        in_w, in_b, mid_w, mid_b = (weights[i] for i in (0, 1, 6, 7))  # norms stay wide
        narrow = [None if w is None else w.to(compute) for w in weights[2:6] + weights[8:12]]
        qkv_w, qkv_b, out_w, out_b, up_w, up_b, down_w, down_b = narrow
        if angles is not None:
            angles = angles[0].to(compute), angles[1].to(compute)
        rows, length, dim = x.shape
        flat = x.reshape(-1, dim)
        normal, *stats_in = _norm(flat, in_w, in_b, shape, compute)
        q, k, v = _split(_linear(normal, qkv_w, qkv_b), rows, length, shape, angles)
        p = _softmax(q, k, unseen)
        mixed = _to_rows(p @ v.flatten(0, 1), rows)
        branch = _linear(mixed, out_w, out_b)
        mid = flat + (branch if masks is None else branch * masks[0].flatten(0, 1))
        middle, *stats_mid = _norm(mid, mid_w, mid_b, shape, compute)
        up = _linear(middle, up_w, up_b)
        inner = _activate(up, shape)
        branch = _linear(inner, down_w, down_b)
        y = mid + (branch if masks is None else branch * masks[1].flatten(0, 1))
        ctx.shape, ctx.sizes, ctx.angles, ctx.masks = shape, (rows, length), angles, masks
        ctx.save_for_backward(
            flat, normal, *stats_in, q, k, v, p, mixed, mid, middle, *stats_mid, up, inner,
            in_w, mid_w, qkv_w, out_w, up_w, down_w,
            *(w.to(compute) for w in weights[12:] if w is not None),
        )  # fmt: skip
        return y.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BTD: Tensor) -> tuple[Tensor | None, ...]:
        shape, (rows, length) = ctx.shape, ctx.sizes
        (
            flat, normal, mean_in, rate_in, q, k, v, p, mixed, mid, middle, mean_mid, rate_mid,
            up, inner, in_w, mid_w, qkv_w, out_w, up_w, down_w, *factors,
        ) = ctx.saved_tensors  # fmt: skip
        biased = shape.gpt2 and not factors
        g = g_BTD.reshape(flat.shape)
        masks = ctx.masks
        d = (g if masks is None else g * masks[1].flatten(0, 1)).to(inner.dtype)
        d_down_w, d_down_b, d_inner = _linear_back(d, inner, down_w, biased, factors[6:])
        d_up = _activate_back(d_inner, up, shape)
        d_up_w, d_up_b, d_middle = _linear_back(d_up, middle, up_w, biased, factors[4:6])
        d_mid, d_mid_w, d_mid_b = _norm_back(d_middle, mid, mean_mid, rate_mid, mid_w, shape)
        g = d_mid.add_(g)
        d = (g if masks is None else g * masks[0].flatten(0, 1)).to(inner.dtype)
        d_out_w, d_out_b, d_mixed = _linear_back(d, mixed, out_w, biased, factors[2:4])
        d_mixed = _to_heads(d_mixed, rows, length, shape)
        d_each = q.new_empty(3, *q.shape)
        d_q, d_k, d_v = d_each.flatten(1, 2)
        torch.bmm(p.transpose(1, 2), d_mixed, out=d_v)
        d_scores = torch._softmax_backward_data(
            d_mixed @ v.flatten(0, 1).transpose(1, 2), p, -1, p.dtype
        )
        d_scores.mul_(q.shape[-1] ** -0.5)
        torch.bmm(d_scores, k.flatten(0, 1), out=d_q)
        torch.bmm(d_scores.transpose(1, 2), q.flatten(0, 1), out=d_k)
        d_qkv = _gather(d_each, shape, ctx.angles)
        d_qkv_w, d_qkv_b, d_normal = _linear_back(d_qkv, normal, qkv_w, biased, factors[:2])
        d_in, d_in_w, d_in_b = _norm_back(d_normal, flat, mean_in, rate_in, in_w, shape)
        wide = in_w.dtype
        grads: tuple[Tensor | None, ...]
        if factors:  # all else is frozen
            grads = (None,) * 12 + (*d_qkv_w, *d_out_w, *d_up_w, *d_down_w)
        else:
            grads = (
                d_in_w, d_in_b, *d_qkv_w, d_qkv_b, *d_out_w, d_out_b,
                d_mid_w, d_mid_b, *d_up_w, d_up_b, *d_down_w, d_down_b,
            )  # fmt: skip
        cast = (None if t is None else t.to(wide) for t in grads)
        return d_in.add_(g).view_as(g_BTD), None, None, None, None, None, *cast


# ---- linear ----


def _linear(x_ND: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    assert weight is not None
    return F.linear(x_ND, weight, bias)


def _linear_back(
    d: Tensor, x: Tensor, weight: Tensor, biased: bool, pair: Sequence[Tensor]
) -> tuple[tuple[Tensor, ...], Tensor | None, Tensor]:
    """Gradients of the weight, or of A and B in its stead; of bias and input."""
    if pair:
        a, b = pair
        own: tuple[Tensor, ...] = (d @ b).t() @ x, ((x @ a.t()).t() @ d).t()
    else:
        own = (d.t() @ x,)
    return own, d.sum(0) if biased else None, d @ weight


# ---- norms ----


def _norm(
    x_ND: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Shape, compute: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised and scaled in the narrow type; mean and 1 / deviation [N, 1]."""
    if shape.gpt2:
        y, mean, rate = torch.native_layer_norm(x_ND, x_ND.shape[1:], weight, bias, shape.epsilon)
        return y.to(compute), mean, rate
    assert weight is not None
    rate = torch.linalg.vector_norm(x_ND, dim=1, keepdim=True).square_()
    rate = rate.div_(x_ND.shape[1]).add_(shape.epsilon).rsqrt_()
    return (x_ND * rate).mul_(weight).to(compute), rate, rate


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


def _split(
    qkv: Tensor, rows: int, length: int, shape: Shape, angles: Angles
) -> tuple[Tensor, Tensor, Tensor]:
    """[N, (H + 2G)·K] to queries, keys and values [B, H, T, K], the first two turned."""
    h, g = shape.num_heads, shape.num_kv_heads
    parts = qkv.view(rows, length, h + 2 * g, -1).transpose(1, 2)
    if g != h:  # a key and a value for each query
        q, k, v = parts.split((h, g, g), 1)
        k, v = (t.repeat_interleave(h // g, 1) for t in (k, v))
        parts = torch.cat([q, k, v], 1)
    each = parts.unflatten(1, (3, h)).transpose(0, 1).contiguous()
    _turn(each[:2], angles)
    return each[0], each[1], each[2]


def _gather(d_each: Tensor, shape: Shape, angles: Angles) -> Tensor:
    """The gradient of ``_split``, from that of all three [3, B, H, T, K]."""
    h, g = shape.num_heads, shape.num_kv_heads
    _turn(d_each[:2], None if angles is None else (angles[0], -angles[1]))
    if g == h:
        return d_each.permute(1, 3, 0, 2, 4).flatten(2).flatten(0, 1)
    shared = d_each[1:].unflatten(2, (g, h // g)).sum(3)
    parts = torch.cat([d_each[0], *shared], 1)
    return parts.transpose(1, 2).flatten(2).flatten(0, 1)


def _turn(x: Tensor, angles: Angles) -> None:
    """``rotate`` in place: whole rows are multiplied, which is quicker than half ones."""
    if angles is not None:
        cos, sin = angles
        swapped = x.roll(x.shape[-1] // 2, -1)
        x.mul_(torch.cat([cos, cos], -1)).addcmul_(swapped, torch.cat([-sin, sin], -1))


def _softmax(q_BHTK: Tensor, k_BHTK: Tensor, unseen: Tensor | None) -> Tensor:
    """Attention weights [B·H, T, T], causal where nothing is said."""
    heads, length, width = q_BHTK.shape[1:]
    if unseen is None:
        bias = q_BHTK.new_full((length, length), -torch.inf).triu_(1)
    else:
        bias = q_BHTK.new_zeros(unseen.shape).masked_fill_(unseen, -torch.inf)
        if unseen.ndim == 3:
            bias = bias.repeat_interleave(heads, 0)
    scores = torch.baddbmm(
        bias, q_BHTK.flatten(0, 1), k_BHTK.flatten(0, 1).transpose(1, 2), alpha=width**-0.5
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
