"""PixelCNN training: chainrule's trainer step against a plain NCHW float32 masked-convolution loop.

Both have the same stacks and weights: 64 channels, 8 layers, 28×28, batch 32. The peer masks full
kernels (7×7 and 3×3, 1×7 and 1×3), keeps NCHW and float32, and steps torch's AdamW, as tutorials
do. Pictures/s over whole optimiser steps in interleaved rounds, a process each, one and two
threads; then both likelihoods from the same weights, which must agree.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.common import Worker, interleaved, ratios, save, summary, table
from bench.pixel_data import SIDE
from chainrule.core.space import Space
from chainrule.models.pixelcnn import Layer, PixelCNN, PixelCNNConfig
from chainrule.training.pictures import Pictures
from chainrule.training.precision import keep_memory
from chainrule.training.trainer import TrainConfig, Trainer

DIM, LAYERS, BATCH, STEPS, LR = 64, 8, 32, 2, 1e-3
NAMES = ("chainrule", "plain loop")


class Masked(nn.Conv2d):
    """A convolution of a whole kernel, most of which is multiplied by 0."""

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int], apart: int = 1) -> None:
        padding = apart * (size[0] // 2), apart * (size[1] // 2)
        super().__init__(inputs, outputs, size, padding=padding, dilation=apart)
        self.register_buffer("mask", torch.ones_like(self.weight))

    def seeing(self, rows: int, columns: int) -> Masked:
        """Only so many rows and columns of the kernel."""
        self.mask[:, :, rows:] = 0  # type: ignore[index]
        self.mask[:, :, :, columns:] = 0  # type: ignore[index]
        return self

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W]."""
        return F.conv2d(
            x,
            self.weight * self.mask,
            self.bias,
            1,
            self.padding,
            self.dilation,  # type: ignore
        )


class Plain(nn.Module):
    """The peer, with the weights of ``model``."""

    def __init__(self, model: PixelCNN) -> None:
        super().__init__()
        config, inputs, kernel = model.config, model.input.dim, model.config.kernel
        dim, hidden = config.dim, config.hidden
        self.table = nn.Embedding.from_pretrained(model.input.table.weight.data, freeze=False)
        self.above = Masked(inputs, dim, (kernel, kernel)).seeing(kernel // 2, kernel)
        self.before = Masked(inputs, dim, (1, kernel)).seeing(1, kernel // 2)
        self.join = nn.Conv2d(dim, dim, 1, bias=False)
        self.down, self.down_out = nn.ModuleList(), nn.ModuleList()
        self.across, self.joins, self.across_out = (nn.ModuleList() for _ in range(3))
        for layer in model.stack():
            self.down.append(Masked(dim, 2 * hidden, (3, 3), layer.apart).seeing(2, 3))
            self.down_out.append(nn.Conv2d(hidden, dim, 1))
            self.across.append(Masked(dim, 2 * hidden, (1, 3), layer.apart).seeing(1, 2))
            self.joins.append(nn.Conv2d(dim, 2 * hidden, 1, bias=False))
            self.across_out.append(nn.Conv2d(hidden, dim, 1))
        self.inside = nn.Conv2d(dim, 2 * dim, 1)
        self.out = nn.Conv2d(2 * dim, 2, 1)
        self._copy(model)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [B, H, W] to logits [B, 2, H, W]."""
        e = self.table(x).permute(0, 3, 1, 2).contiguous()
        v, h = self.above(e), self.before(e)
        h = h + self.join(v)
        layers = zip(
            self.down, self.down_out, self.across, self.joins, self.across_out, strict=True
        )
        for down, down_out, across, join, across_out in layers:
            a, b = down(v).chunk(2, 1)
            v = v + down_out(torch.sigmoid(a) * b)
            a, b = (across(h) + join(v)).chunk(2, 1)
            h = h + across_out(torch.sigmoid(a) * b)
        out: Tensor = self.out(F.relu(self.inside(F.relu(h))))
        return out

    @torch.no_grad()
    def _copy(self, model: PixelCNN) -> None:
        def copy(to: nn.Module, of: nn.Module) -> None:
            weight: Tensor = of.weight  # type: ignore[assignment]
            rows, columns = weight.shape[2:] if weight.ndim == 4 else (1, 1)
            to.weight.data[:, :, :rows, :columns] = weight.reshape(*weight.shape[:2], rows, columns)  # type: ignore
            if of.bias is not None:
                to.bias.data.copy_(of.bias)  # type: ignore

        for name in ("above", "before", "join"):
            copy(getattr(self, name), getattr(model, name))
        for i, layer in enumerate(model.stack()):
            pairs: list[tuple[nn.ModuleList, str]] = [
                (self.down, "down"), (self.down_out, "down_out"), (self.across, "across"),
                (self.joins, "join"), (self.across_out, "across_out"),
            ]  # fmt: skip
            for modules, name in pairs:
                assert isinstance(layer, Layer)
                copy(modules[i], getattr(layer, name))
        copy(self.inside, model.head.inside)
        copy(self.out, model.head.out)


def main(data: Path | None) -> None:
    """Speed at one and two threads, and the likelihoods of both."""
    rows, result = [], {}
    for threads in (1, 2):
        with ExitStack() as stack:
            workers = [
                stack.enter_context(Worker("bench.pixel_training", name, threads)) for name in NAMES
            ]
            figures = interleaved(dict(zip(NAMES, (w.ask for w in workers), strict=True)))
        ratio = ratios(*(figures[name] for name in NAMES))
        medians = [summary(figures[k])["median"] for k in NAMES]
        rows.append([threads, *medians, ratio["median"], f"{ratio['min']:.2f}-{ratio['max']:.2f}"])
        result[f"{threads} threads"] = {k: summary(figures[k]) for k in NAMES} | {"ratio": ratio}
    table(["threads", "chainrule pictures/s", "plain pictures/s", "ratio", "spread"], rows)
    agreement = _agreement()
    print(f"nats of the same pictures under the same weights: {agreement}")
    save("pixel_training", {**result, "nats_under_same_weights": agreement})


def _model() -> PixelCNN:
    torch.manual_seed(0)
    return PixelCNN(PixelCNNConfig(Space.picture((SIDE, SIDE, 1), 2), LAYERS, DIM, DIM))


def _pictures(count: int = 512) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return (np.random.default_rng(0).random((count, SIDE * SIDE)) < 0.2).astype(np.uint8)


def _agreement() -> dict[str, float]:
    model = _model().eval()
    x = torch.from_numpy(_pictures(8).astype(np.int64))
    with torch.no_grad():
        ours = -model(x).log_prob(x).sum() / len(x)
        picture = x.view(-1, SIDE, SIDE)
        theirs = F.cross_entropy(Plain(model)(picture), picture, reduction="sum") / len(x)
    return dict(zip(NAMES, (float(ours), float(theirs)), strict=True))


def _work(name: str, threads: int) -> None:
    if name == "chainrule":
        keep_memory()  # as fit does before the first tensor
    torch.set_num_threads(threads)
    step = _trainer().train_step if name == "chainrule" else _Loop().step
    for _ in sys.stdin:
        began = time.perf_counter()
        for _ in range(STEPS):
            step()
        print(STEPS * BATCH / (time.perf_counter() - began), flush=True)


def _trainer() -> Trainer:
    x = _pictures()
    config = TrainConfig(steps=10**6, batch=BATCH, length=SIDE * SIDE, lr=LR, warm_up=0, decay=0.0)
    return Trainer(_model().train(), Pictures(x, x[:0]), config)


class _Loop:
    def __init__(self) -> None:
        self.model, self.number = Plain(_model()), 0
        self.x = torch.from_numpy(_pictures().astype(np.int64)).view(-1, SIDE, SIDE)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=LR)

    def step(self) -> float:
        """Cross-entropy of every pixel, as the tutorials have it."""
        first = self.number * BATCH % len(self.x)
        x = self.x[first : first + BATCH]
        self.number += 1
        self.optimiser.zero_grad()
        loss = F.cross_entropy(self.model(x), x)
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())


if __name__ == "__main__":
    _work(sys.argv[1], int(sys.argv[2]))
