"""The step of a PixelCNN as a Program; see engine/program.py for the ops.

Widths: D of both stacks, K behind a gate, E of an embedding, C channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrule.core.state import Fixed, Leaf
from chainrule.engine import program as p

if TYPE_CHECKING:
    from chainrule.models.pixelcnn import PixelCNN

HERE: tuple[p.Tap, ...] = ((0, 0),)


def memory(told_BD: tuple[Tensor, Tensor]) -> dict[str, Leaf]:
    """What a label adds to both stacks as fixed memories of one entry, whose key is 0."""
    leaves: dict[str, Leaf] = {}
    for name, told in zip(("told.down", "told.across"), told_BD, strict=True):
        both = F.pad(told[:, None], (told.shape[1], 0))
        ok = torch.ones(both.shape[:2], dtype=torch.bool, device=both.device)
        leaves |= {name: Fixed(both), f"{name}_ok": Fixed(ok)}
    return leaves


def lower(model: PixelCNN) -> p.Program | None:
    """The vertical stack row by row, the horizontal one pixel by pixel; None for a mixture."""
    if model.head.name == "logistic":
        return None
    config, space, near = model.config, model.space, model.near
    assert space.size is not None
    dim, gates, inside, each = config.dim, 2 * config.hidden, model.head.inner, model.input.dim
    above = tuple((y, x) for y in range(-near, 0) for x in range(-near, near + 1))
    before = tuple((0, x) for x in range(-near, 0))
    widths = {
        "above": len(above) * each, "v": dim, "around": 6 * dim, "before": len(before) * each,
        "h": dim, "pair": 2 * dim, "first": dim, "told": dim, "gates": gates, "join": gates,
        "joined": gates, "inner": config.hidden, "branch": dim, "inside": inside, "known": inside,
        "own": each, "earlier": inside, "hidden": inside, "logits": space.size,
    }  # fmt: skip
    buffers = {name: p.Buffer(width) for name, width in widths.items()}
    embedding = tuple(model.input.table.weight.shape)
    weights = {"input": p.Weight("input.table.weight", embedding)}
    leaves = {"seen": p.Leaf("symbols", 1)}

    def linear(out: str, x: str, name: str) -> p.Linear:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        taps = layer.weight[0, 0].numel() if isinstance(layer, nn.Conv2d) else 0
        shape, bias = (widths[out], widths[x]), None
        weights[name] = p.Weight(f"{name}.weight", shape, taps=taps)
        if layer.bias is not None:
            bias = f"{name}.bias"
            weights[bias] = p.Weight(bias, shape[:1], kind="vector")
        return p.Linear(out, x, name, bias)

    def kept(out: str, leaf: str, x: str, taps: tuple[p.Tap, ...] = HERE) -> p.Around:
        leaves[leaf] = p.Leaf("grid", widths[x])
        return p.Around(out, leaf, taps, x)

    def told(x: str, leaf: str) -> list[p.Op]:
        if model.labels is None:
            return []
        leaves[leaf] = p.Leaf("fixed", 2 * dim)
        return [p.Cross("told", x, leaf, heads=1), p.Add(x, x, "told")]

    rows = [p.Near("above", "seen", "input", above), linear("v", "above", "above")]
    rows += [*told("v", "told.down"), linear("first", "v", "join")]
    rows += [*told("first", "told.across"), kept("branch", "first", "first")]
    pixels = [p.Near("before", "seen", "input", before), linear("h", "before", "before")]
    pixels += [p.Around("first", "first", HERE), p.Add("h", "h", "first")]
    for i, layer in enumerate(model.stack()):
        name, apart = f"layers.{i}", layer.apart
        down = tuple((y, x) for y in (-apart, 0) for x in (-apart, 0, apart))
        rows += [
            kept("around", f"down.{i}", "v", down),
            linear("gates", "around", f"{name}.down"),
            p.Gate("inner", "gates", "sigmoid"),
            linear("branch", "inner", f"{name}.down_out"),
            p.Add("v", "v", "branch"),
            linear("join", "v", f"{name}.join"),
            kept("joined", f"joined.{i}", "join"),
        ]
        pixels += [
            kept("pair", f"across.{i}", "h", ((0, -apart), (0, 0))),
            linear("gates", "pair", f"{name}.across"),
            p.Around("joined", f"joined.{i}", HERE),
            p.Add("gates", "gates", "joined"),
            p.Gate("inner", "gates", "sigmoid"),
            linear("branch", "inner", f"{name}.across_out"),
            p.Add("h", "h", "branch"),
        ]
    pixels += [p.Activate("h", "h", "relu"), linear("inside", "h", "head.inside")]
    pixels += [kept("known", "inside", "inside")]
    ops: list[p.Op] = [p.Around("inside", "inside", HERE)]
    if model.head.earlier is not None:
        ops += [p.Near("own", "seen", "input", HERE), linear("earlier", "own", "head.earlier")]
        ops += [p.Add("inside", "inside", "earlier")]
    ops += [p.Activate("hidden", "inside", "relu")]
    return p.Program(
        space.size,
        0,
        buffers,
        weights,
        leaves,
        tuple(ops),
        (linear("logits", "hidden", "head.out"),),
        grid=space.grid,
        rows=tuple(rows),
        pixels=tuple(pixels),
    )
