"""Causal self-attention: rotary positions, grouped queries, bands and sinks.

Shapes: B rows, T queries, S keys, D width, H heads, G key-value heads, K head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SHORT = 512  # queries up to which products and a softmax beat the fused kernel on a processor
BAND = 128  # queries that share their keys in a band, at least

Angles = tuple[Tensor, Tensor] | None  # cos and sin [..., K / 2], where positions are rotary


def rotary(
    pos: Tensor, rates: Sequence[float], scale: float, like: Tensor
) -> tuple[Tensor, Tensor]:
    """scale · cos and scale · sin [*pos, K / 2] for pairs (i, i + K / 2), as in Llama.

    ``rates``: see ``nn.rope``. Angles are float64, so that positions far out keep their
    differences.
    """
    rate = torch.tensor(rates, dtype=torch.float64, device=pos.device)
    angle = pos.double()[..., None] * rate
    cos, sin = angle.cos().mul_(scale), angle.sin().mul_(scale)
    return cos.to(like.dtype), sin.to(like.dtype)


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """x [..., K] turned by the angles of its position, if there are any."""
    if angles is None:
        return x
    cos, sin = angles
    left, right = x.chunk(2, -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


def explicit(x_BTD: Tensor) -> bool:
    """Whether products and a softmax beat the fused kernel: on a processor, at short length."""
    return x_BTD.device.type == "cpu" and x_BTD.shape[1] <= SHORT


def whole(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, unseen: Tensor | None = None) -> Tensor:
    """Queries and keys of the same places: [B, H, T, K].

    ``unseen`` bool [T, T] or [B, T, T]: the keys that a query doesn't see; None: later ones.
    """
    length, grouped = q_BHTK.shape[2], q_BHTK.shape[1] != k_BGTK.shape[1]
    if unseen is not None and unseen.ndim == 3:
        unseen = unseen[:, None]
    if not explicit(q_BHTK[:, 0]):
        seen = None if unseen is None else ~unseen
        return F.scaled_dot_product_attention(
            q_BHTK, k_BGTK, v_BGTK, seen, is_causal=seen is None, enable_gqa=grouped
        )
    if unseen is None:
        unseen = torch.ones(length, length, dtype=torch.bool, device=q_BHTK.device).triu(1)
    return weights(q_BHTK, k_BGTK, unseen) @ _spread(v_BGTK, q_BHTK)


def weights(
    q_BHTK: Tensor, k_BGSK: Tensor, hidden: Tensor | None, to_sinks: Tensor | None = None
) -> Tensor:
    """Softmax of the scores: [B, H, T, S]. ``hidden``: bool [T, S] or [B, 1, T, S], True is unseen.

    ``to_sinks`` [B, H, T, sinks]: scores that take the place of the first ones.
    """
    rows, heads, length, width = q_BHTK.shape
    k = _spread(k_BGSK, q_BHTK)
    flat = rows * heads
    scores = torch.baddbmm(
        q_BHTK.new_zeros(()),
        q_BHTK.reshape(flat, length, width),
        k.reshape(flat, -1, width).transpose(1, 2),
        beta=0,
        alpha=width**-0.5,
    ).view(rows, heads, length, -1)
    if to_sinks is not None:
        scores = torch.cat([to_sinks * width**-0.5, scores[..., to_sinks.shape[-1] :]], -1)
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    return torch.softmax(scores, -1)


def banded(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSK: Tensor,
    first: tuple[int, ...],
    context: int,
    sinks: int,
    to_sinks_BHTK: Tensor | None,
    both_BT: Tensor | None = None,
) -> Tensor:
    """Query t of row b stands at key ``first[b] + t``: [B, H, T, K].

    It sees the ``context - sinks`` newest keys, itself included, and the first ``sinks`` ones.
    To those it turns with ``to_sinks_BHTK`` instead of q, where that is given. Where ``both_BT``
    is True, it sees the keys of all later queries too.
    Source for the sinks: Xiao et al. 2023, "Efficient Streaming Language Models".
    """
    length, block = q_BHTK.shape[2], max(BAND, context)
    if length > block:  # only the keys near a block are looked at, and never T² of memory taken
        assert both_BT is None, "what sees both ways fits into the context"
        parts = []
        for at in range(0, length, block):
            here, begin = slice(at, at + block), tuple(n + at for n in first)
            aside = None if to_sinks_BHTK is None else to_sinks_BHTK[:, :, here]
            q = q_BHTK[:, :, here]
            parts.append(banded(q, k_BGSK, v_BGSK, begin, context, sinks, aside))
        return torch.cat(parts, 2)
    recent, device = context - sinks, q_BHTK.device
    low, high = max(0, min(first) - recent + 1), max(first) + length
    low = 0 if low <= sinks else low
    k, v = k_BGSK[:, :, low:high], v_BGSK[:, :, low:high]
    key = torch.arange(low, high, device=device)
    if low and sinks:
        k = torch.cat([k_BGSK[:, :, :sinks], k], 2)
        v = torch.cat([v_BGSK[:, :, :sinks], v], 2)
        key = torch.cat([torch.arange(sinks, device=device), key])
    begins = torch.tensor(first if len(set(first)) > 1 else first[:1], device=device)
    query = (begins[:, None] + torch.arange(length, device=device))[:, None, :, None]
    last = query
    if both_BT is not None:
        last = torch.where(both_BT[:, None, :, None], query[:, :, -1:], query)
    unseen = (key > last) | ((query - key >= recent) & (key >= sinks))
    scores = None
    if to_sinks_BHTK is not None:
        scores = to_sinks_BHTK @ _spread(k_BGSK[:, :, :sinks], q_BHTK).transpose(2, 3)
    return weights(q_BHTK, k, unseen, scores) @ _spread(v, q_BHTK)


def _spread(k_BGSK: Tensor, q_BHTK: Tensor) -> Tensor:
    """Key-value heads repeated for their group of queries: [B, H, S, K]."""
    group = q_BHTK.shape[1] // k_BGSK.shape[1]
    return k_BGSK if group == 1 else k_BGSK.repeat_interleave(group, 1)
