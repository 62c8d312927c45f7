"""What the contract costs: generate with the small GRU against the rawest torch loop.

The raw loop owns its hidden states, draws Gumbel noise of its own at every step and keeps
nothing but the symbols: no log-probabilities, no ends, no text.
One thread; symbols/s; medians over interleaved rounds.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.nn.functional as F

from bench.common import interleaved, ratios, save, summary, table
from chainrule.artifact import Artifact
from chainrule.codecs.text import ByteCodec
from chainrule.models.rnn import RNN, gru
from chainrule.verbs.generate import generate

LENGTH = 1000


def raw(model: RNN, rows: int, length: int) -> list[list[int]]:
    """Ancestral sampling by hand, with the same weights."""
    layers = [tuple(layer.parameters()) for layer in model.layers]
    hidden = [torch.zeros(rows, model.config.hidden) for _ in layers]
    table_VD, head = model.embedding.weight, model.head
    size = model.space.size or 0
    x = torch.full((rows,), size)
    out = []
    with torch.no_grad():
        for _ in range(length):
            h = F.embedding(x, table_VD)
            for i, weights in enumerate(layers):
                hidden[i] = torch.gru_cell(h, hidden[i], *weights)
                h = h + hidden[i] if i else hidden[i]
            noise = torch.rand(rows, size).log_().neg_().log_().neg_()
            x = (F.linear(h, head.weight, head.bias) + noise).argmax(-1)
            out.append(x)
        return torch.stack(out, 1).tolist()


def main(data: Path | None) -> None:
    """Batch 1 and 32."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    codec = ByteCodec.fit([b""])
    model = RNN(gru(codec.space, "small")).eval()
    with torch.no_grad():
        model.head.bias[codec.space.eos] = -1e4  # all rows run to the full length
    artifact = Artifact(model, codec)
    rows_out, result = [], {}
    for rows, bar in ((1, 1.30), (32, 1.10)):

        def ours(rows: int = rows) -> float:
            began = time.perf_counter()
            samples = generate(artifact, n=rows, length=LENGTH, seed=1)
            took = time.perf_counter() - began
            return sum(len(s.symbols) for s in samples) / took

        def theirs(rows: int = rows) -> float:
            began = time.perf_counter()
            raw(model, rows, LENGTH)
            return rows * LENGTH / (time.perf_counter() - began)

        figures = interleaved({"generate": ours, "raw": theirs}, rounds=7)
        slower = ratios(figures["raw"], figures["generate"])
        result[f"batch {rows}"] = {
            "generate": summary(figures["generate"]),
            "raw": summary(figures["raw"]),
            "raw over generate": slower,
            "bar": bar,
        }
        medians = [summary(figures[k])["median"] for k in ("generate", "raw")]
        spread = f"{slower['min']:.3f}-{slower['max']:.3f}"
        rows_out.append([rows, *medians, slower["median"], spread, bar])
    table(
        ["batch", "generate symbols/s", "raw symbols/s", "raw/generate", "spread", "at most"],
        rows_out,
    )
    save("loop_overhead", result)
