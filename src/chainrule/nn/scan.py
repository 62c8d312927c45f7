"""One recurrent layer over a whole block with its gradient: tanh, GRU, LSTM and minGRU.

Equations and weight layout are those of ``torch.nn.RNN``, ``GRU`` and ``LSTM``. What need not
wait for the step before is done for all steps at once: the input projection, the factors that
the backward loop multiplies with, the weights' gradients. First derivatives only. States and
gates keep the layer's precision; only products run in ``compute``.
Shapes: B rows, T steps, D input width, H hidden width, G = gates · H.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Product:
    """``out += a @ w`` again and again, the product in ``compute``, the sum in out's type."""

    def __init__(self, w: Tensor, rows: int, compute: torch.dtype) -> None:
        self.w = w.to(compute)
        self.cast = compute != w.dtype
        if self.cast:
            self.a = w.new_empty(rows, w.shape[0], dtype=compute)
            self.product = w.new_empty(rows, w.shape[1], dtype=compute)

    def add_to(self, out: Tensor, a: Tensor) -> None:
        if self.cast:
            torch.mm(self.a.copy_(a), self.w, out=self.product)
            out.add_(self.product)
        else:
            out.addmm_(a, self.w)


def _project(x_TBD: Tensor, w_ih: Tensor, bias: Tensor, compute: torch.dtype) -> Tensor:
    """The input's share of all gates, a new tensor [T, B, G] in the weights' type."""
    product = F.linear(x_TBD.to(compute), w_ih.to(compute))
    return product.add_(bias) if product.dtype == bias.dtype else product + bias


def _weight_grads(
    d_TBG: Tensor, x_TBD: Tensor, w_ih: Tensor, dr_TBG: Tensor, h_TBH: Tensor, compute: torch.dtype
) -> tuple[Tensor, ...]:
    """Gradients of x and of w_ih, w_hh, b_ih, b_hh from those of the gates.

    ``d`` is on the input's side, ``dr`` on the recurrent one; often they are the same tensor.
    """
    d, x = d_TBG.flatten(0, 1).to(compute), x_TBD.flatten(0, 1).to(compute)
    dr = d if dr_TBG is d_TBG else dr_TBG.flatten(0, 1).to(compute)
    h = h_TBH.flatten(0, 1).to(compute)
    dx = (d @ w_ih.to(compute)).view_as(x_TBD)
    db = d_TBG.sum((0, 1))
    dbr = db.clone() if dr_TBG is d_TBG else dr_TBG.sum((0, 1))
    grads = (dx, d.t() @ x, dr.t() @ h, db, dbr)
    return tuple(g.to(w_ih.dtype) for g in grads)


class LSTMScan(torch.autograd.Function):
    """(x [T, B, D], h0, c0 [B, H], weights, compute) -> h, c [T, B, H]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h0: Tensor, c0: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        w_ih, w_hh, b_ih, b_hh, compute = rest
        steps, rows, width = x.shape[0], x.shape[1], w_hh.shape[1]
        gates = _project(x, w_ih, b_ih + b_hh, compute)  # becomes i, f, g, o in the loop
        h, c, tanh_c = (gates.new_empty(n, rows, width) for n in (steps + 1, steps + 1, steps))
        h[0], c[0] = h0, c0
        product = _Product(w_hh.t(), rows, compute)
        hs, cs = h.unbind(), c.unbind()
        parts = zip(*(q.unbind() for q in gates.split(width, -1)), strict=True)
        for t, (gate, (i, f, g, o), tc) in enumerate(
            zip(gates.unbind(), parts, tanh_c.unbind(), strict=True)
        ):
            product.add_to(gate, hs[t])
            gate[:, : 2 * width].sigmoid_()
            torch.mul(f, cs[t], out=cs[t + 1]).addcmul_(i, g.tanh_())
            torch.mul(o.sigmoid_(), torch.tanh(cs[t + 1], out=tc), out=hs[t + 1])
        ctx.save_for_backward(x, w_ih, w_hh, gates, h, c, tanh_c)
        ctx.compute = compute
        ctx.set_materialize_grads(False)
        return h[1:], c[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh_all: Tensor | None, dc_all: Tensor | None) -> tuple[Any, ...]:
        x, w_ih, w_hh, gates, h, c, tanh_c = ctx.saved_tensors
        steps, rows, width = tanh_c.shape
        i, _, g, o = gates.split(width, -1)
        # k: d(gate before its squashing) / dc (for the last gate: / dh); k_c: dc / dh
        k = torch.addcmul(gates, gates, gates, value=-1)  # s (1 - s)
        k_i, k_f, k_g, k_o = k.split(width, -1)
        k_i.mul_(g)
        k_f.mul_(c[:-1])
        torch.addcmul(i, i * g, g, value=-1, out=k_g)
        k_c = torch.addcmul(o, o * tanh_c, tanh_c, value=-1)
        k_o.mul_(tanh_c)
        product = _Product(w_hh, rows, ctx.compute)
        dh, dc = torch.zeros_like(tanh_c[0]), torch.zeros_like(tanh_c[0])
        k_TB4H, fs, k_cs = k.view(steps, rows, 4, width), gates.split(width, -1)[1], k_c.unbind()
        for t in range(steps - 1, -1, -1):
            if dh_all is not None:
                dh.add_(dh_all[t])
            if dc_all is not None:
                dc.add_(dc_all[t])
            dc.addcmul_(dh, k_cs[t])
            k_TB4H[t, :, :3].mul_(dc[:, None])
            k_TB4H[t, :, 3].mul_(dh)
            dc.mul_(fs[t])
            product.add_to(dh.zero_(), k[t])
        dx, *dw = _weight_grads(k, x, w_ih, k, h[:-1], ctx.compute)
        return dx, dh, dc, *dw, None


class GRUScan(torch.autograd.Function):
    """(x [T, B, D], h0 [B, H], weights, compute) -> h [T, B, H]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h0: Tensor, *rest: Any) -> Tensor:
        w_ih, w_hh, b_ih, b_hh, compute = rest
        steps, rows, width = x.shape[0], x.shape[1], w_hh.shape[1]
        bias = torch.cat((b_ih[: 2 * width] + b_hh[: 2 * width], b_ih[2 * width :]))
        gates = _project(x, w_ih, bias, compute)  # becomes r, z, n in the loop
        own = gates.new_empty(steps, rows, width)  # the state's share of n, that r multiplies
        h = gates.new_empty(steps + 1, rows, width)
        h[0] = h0
        product = _Product(w_hh.t(), rows, compute)
        share = gates.new_empty(rows, 3 * width)
        b_share = torch.cat((torch.zeros_like(b_hh[: 2 * width]), b_hh[2 * width :]))
        hs = h.unbind()
        parts = zip(*(q.unbind() for q in gates.split(width, -1)), strict=True)
        for t, (gate, (r, z, n), s) in enumerate(
            zip(gates.unbind(), parts, own.unbind(), strict=True)
        ):
            product.add_to(share.copy_(b_share), hs[t])
            gate[:, : 2 * width].add_(share[:, : 2 * width]).sigmoid_()
            n.addcmul_(r, s.copy_(share[:, 2 * width :])).tanh_()
            torch.lerp(n, hs[t], z, out=hs[t + 1])
        ctx.save_for_backward(x, w_ih, w_hh, gates, own, h)
        ctx.compute = compute
        return h[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh_all: Tensor) -> tuple[Any, ...]:
        x, w_ih, w_hh, gates, own, h = ctx.saved_tensors
        steps, rows, width = own.shape
        r, z, n = gates.split(width, -1)
        # k: d(gate before its squashing) / dh, on the recurrent side
        k = torch.addcmul(gates, gates, gates, value=-1)  # s (1 - s)
        k_r, k_z, k_n = k.split(width, -1)
        torch.mul(1 - z, torch.addcmul(torch.ones_like(n), n, n, value=-1), out=k_n)
        k_z.mul_(h[:-1] - n)
        k_r.mul_(k_n).mul_(own)
        k_nx = k_n.clone()
        k_n.mul_(r)
        product = _Product(w_hh, rows, ctx.compute)
        dh, each = torch.zeros_like(own[0]), torch.empty_like(own)
        k_TB3H, zs, ks = k.view(steps, rows, 3, width), z.unbind(), k.unbind()
        for t in range(steps - 1, -1, -1):
            torch.add(dh, dh_all[t], out=each[t])
            k_TB3H[t].mul_(each[t][:, None])
            torch.mul(each[t], zs[t], out=dh)
            product.add_to(dh, ks[t])
        d = torch.cat((k[..., : 2 * width], k_nx.mul_(each)), -1)
        dx, *dw = _weight_grads(d, x, w_ih, k, h[:-1], ctx.compute)
        return dx, dh, *dw, None


class TanhScan(torch.autograd.Function):
    """(x [T, B, D], h0 [B, H], weights, compute) -> h [T, B, H]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h0: Tensor, *rest: Any) -> Tensor:
        w_ih, w_hh, b_ih, b_hh, compute = rest
        h = torch.cat((h0[None], _project(x, w_ih, b_ih + b_hh, compute)))
        product = _Product(w_hh.t(), x.shape[1], compute)
        for before, now in itertools.pairwise(h.unbind()):
            product.add_to(now, before)
            now.tanh_()
        ctx.save_for_backward(x, w_ih, w_hh, h)
        ctx.compute = compute
        return h[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh_all: Tensor) -> tuple[Any, ...]:
        x, w_ih, w_hh, h = ctx.saved_tensors
        k = torch.addcmul(torch.ones_like(h[1:]), h[1:], h[1:], value=-1)
        product = _Product(w_hh, h.shape[1], ctx.compute)
        dh = torch.zeros_like(h[0])
        for t in range(len(k) - 1, -1, -1):
            k[t].mul_(dh.add_(dh_all[t]))
            product.add_to(dh.zero_(), k[t])
        dx, *dw = _weight_grads(k, x, w_ih, k, h[:-1], ctx.compute)
        return dx, dh, *dw, None


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
