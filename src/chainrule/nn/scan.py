"""Recurrent layers over a whole block, each as one autograd node: GRU, tanh and minGRU.

Equations and weight layout are those of ``torch.nn.GRU`` and ``RNN``, whose own gradients record
some fifteen nodes a step. What need not wait for the step before is done for all steps at once:
the input's share of the gates, the factors that the backward loop multiplies with, the weights'
gradients. First derivatives only. States keep their type; only products run in ``compute``.
Shapes: B rows, T steps, I input width, H hidden width, G = gates · H, K and N of a product.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

NARROW = 256  # below this width, casting costs a step more than a bfloat16 product saves


class _Product:
    """``out = left @ w + bias``, one call a step; keeps every ``left`` in the products' type."""

    def __init__(self, w_KN: Tensor, steps: int, rows: int, compute: torch.dtype) -> None:
        self.cast = compute != w_KN.dtype and min(w_KN.shape) >= NARROW
        kind = compute if self.cast else w_KN.dtype
        self.w_KN = w_KN.to(kind)
        self.left_TBK = w_KN.new_empty(steps, rows, w_KN.shape[0], dtype=kind)
        self.out_BN = w_KN.new_empty(rows, w_KN.shape[1], dtype=kind)

    def __call__(self, t: int, left_BK: Tensor, bias_N: Tensor | None, out_BN: Tensor) -> None:
        left = self.left_TBK[t].copy_(left_BK)
        target = self.out_BN if self.cast else out_BN
        if self.cast or bias_N is None:
            torch.mm(left, self.w_KN, out=target)
        else:
            torch.addmm(bias_N, left, self.w_KN, out=target)
        if self.cast and bias_N is None:
            out_BN.copy_(target)
        elif self.cast and bias_N is not None:
            torch.add(target, bias_N, out=out_BN)


def _project(x_TBI: Tensor, w_ih: Tensor, bias: Tensor, compute: torch.dtype) -> Tensor:
    """The input's share of the gates, [T, B, G*H]: a new tensor in the type of `bias`."""
    return F.linear(x_TBI.to(compute), w_ih.to(compute)).to(bias.dtype).add_(bias)


def _project_grads(
    d_TBG: Tensor, x_TBI: Tensor, w_ih: Tensor, needs_x: bool, like: Tensor
) -> tuple[Tensor | None, Tensor, Tensor]:
    d, x = d_TBG.flatten(0, 1).to(like.dtype), x_TBI.flatten(0, 1).to(like.dtype)
    dx = (d @ w_ih.to(like.dtype)).view_as(x_TBI).to(x_TBI.dtype) if needs_x else None
    return dx, (d.t() @ x).to(w_ih.dtype), d_TBG.sum((0, 1))


class GRUScan(torch.autograd.Function):
    """(x [T, B, I], h0 [B, H], weights as in torch, compute) -> h [T, B, H]."""

    @staticmethod
    def forward(ctx: Any, x_TBI: Tensor, h0: Tensor, *rest: Any) -> Tensor:
        w_ih, w_hh, b_ih, b_hh, compute = rest
        T, B, H = x_TBI.shape[0], x_TBI.shape[1], w_hh.shape[1]
        # sigmoid is five times faster than tanh, and tanh(n) = 2 sigmoid(2 n) - 1
        twice = torch.cat((w_hh.new_ones(2 * H), w_hh.new_full((H,), 2.0)))
        gates = _project(x_TBI, w_ih, b_ih, compute).mul_(twice)  # becomes r, z, n
        own = torch.empty_like(gates)  # the state's share of them
        step = _Product((w_hh * twice[:, None]).t(), T, B, compute)
        b_hh = b_hh * twice
        h = torch.cat((h0[None], gates.new_empty(T, B, H)))
        hs, minus = h.unbind(), h.new_full((), -1.0)
        r, z, n = gates.split(H, -1)
        rz, own_rz, own_n = gates[..., : 2 * H], own[..., : 2 * H], own[..., 2 * H :]
        steps = (gates, rz, r, z, n, own, own_rz, own_n)
        for t, (_, rz_t, r_t, z_t, n_t, o_t, orz_t, on_t) in enumerate(
            zip(*(s.unbind() for s in steps), strict=True)
        ):
            step(t, hs[t], b_hh, o_t)
            rz_t.add_(orz_t).sigmoid_()
            n_t.addcmul_(r_t, on_t).sigmoid_()
            torch.add(minus, n_t, alpha=2, out=n_t)
            torch.lerp(n_t, hs[t], z_t, out=hs[t + 1])
        ctx.save_for_backward(x_TBI, w_ih, w_hh, gates, own_n, h, step.left_TBK)
        return h[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh_TBH: Tensor) -> tuple[Tensor | None, ...]:
        x_TBI, w_ih, w_hh, gates, own_n, h, h_left = ctx.saved_tensors
        T, B, H = own_n.shape
        r, z, n = gates.split(H, -1)
        # d(gate before squashing) / dh on the state's side; the loop multiplies it by dh
        d = torch.addcmul(gates, gates, gates, value=-1)  # s (1 - s)
        d_r, d_z, d_n = d.split(H, -1)
        torch.mul(1 - z, torch.addcmul(n.new_ones(()), n, n, value=-1), out=d_n)
        d_z.mul_(h[:-1] - n)
        d_r.mul_(d_n).mul_(own_n).mul_(0.5)
        d_n_input = d_n.clone()
        d_n.mul_(r)
        step = _Product(w_hh, T, B, h_left.dtype)
        dh = torch.empty_like(n)
        carry, back = torch.zeros_like(h[0]), torch.empty_like(h[0])
        steps = (dh_TBH, dh, d, d.view(T, B, 3, H), dh.view(T, B, 1, H), z)
        every = list(zip(*(s.unbind() for s in steps), strict=True))
        for t in range(T - 1, -1, -1):
            dout_t, dh_t, d_t, d3_t, dh1_t, z_t = every[t]
            torch.add(carry, dout_t, out=dh_t)
            d3_t.mul_(dh1_t)
            step(t, d_t, None, back)
            torch.addcmul(back, dh_t, z_t, out=carry)
        d_input = torch.cat((d[..., : 2 * H], d_n_input.mul_(dh)), -1)
        dx, dw_ih, db_ih = _project_grads(d_input, x_TBI, w_ih, ctx.needs_input_grad[0], h_left)
        dw_hh = (step.left_TBK.flatten(0, 1).t() @ h_left.flatten(0, 1)).to(h.dtype)
        return dx, carry, dw_ih, dw_hh, db_ih, d.sum((0, 1)), None


class TanhScan(torch.autograd.Function):
    """(x [T, B, I], h0 [B, H], weights as in torch, compute) -> h [T, B, H]."""

    @staticmethod
    def forward(ctx: Any, x_TBI: Tensor, h0: Tensor, *rest: Any) -> Tensor:
        w_ih, w_hh, b_ih, b_hh, compute = rest
        h = torch.cat((h0[None], _project(x_TBI, w_ih, b_ih + b_hh, compute)))
        step = _Product(w_hh.t(), len(x_TBI), x_TBI.shape[1], compute)
        hs, own = h.unbind(), torch.empty_like(h0)
        for t, now in enumerate(hs[1:]):
            step(t, hs[t], None, own)
            now.add_(own).tanh_()
        ctx.save_for_backward(x_TBI, w_ih, w_hh, h, step.left_TBK)
        return h[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh_TBH: Tensor) -> tuple[Tensor | None, ...]:
        x_TBI, w_ih, w_hh, h, h_left = ctx.saved_tensors
        d = torch.addcmul(h.new_ones(()), h[1:], h[1:], value=-1)
        step = _Product(w_hh, len(x_TBI), h.shape[1], h_left.dtype)
        carry, every = torch.zeros_like(h[0]), list(zip(dh_TBH.unbind(), d.unbind(), strict=True))
        for t in range(len(every) - 1, -1, -1):
            dout_t, d_t = every[t]
            d_t.mul_(carry.add_(dout_t))
            step(t, d_t, None, carry)
        dx, dw_ih, db = _project_grads(d, x_TBI, w_ih, ctx.needs_input_grad[0], h_left)
        dw_hh = (step.left_TBK.flatten(0, 1).t() @ h_left.flatten(0, 1)).to(h.dtype)
        return dx, carry, dw_ih, dw_hh, db, db.clone(), None


class MixScan(torch.autograd.Function):
    """(keep, new [T, B, H], h0 [B, H]) -> h [T, B, H], h_t = keep_t · h_{t-1} + new_t."""

    @staticmethod
    def forward(ctx: Any, keep: Tensor, new: Tensor, h0: Tensor) -> Tensor:
        h = torch.cat((h0[None], new))
        hs = h.unbind()
        for t, factor in enumerate(keep.unbind()):
            hs[t + 1].addcmul_(factor, hs[t])
        ctx.save_for_backward(keep, h)
        return h[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh_all: Tensor) -> tuple[Any, ...]:
        keep, h = ctx.saved_tensors
        d = dh_all.clone()
        ds, keeps = d.unbind(), keep.unbind()
        for t in range(len(keeps) - 1, 0, -1):
            ds[t - 1].addcmul_(keeps[t], ds[t])
        return d * h[:-1], d, keeps[0] * ds[0]
