"""A stream far longer than the context: a transformer with rotary positions, window and sinks.

It is trained on windows of CONTEXT symbols of tiny Shakespeare and then reads SYMBOLS symbols of
the held-out part as one stream. The in-window figure is of the same symbols, none of them beyond
the training length: windows of CONTEXT symbols, each from its own start, begin every CONTEXT / 8
symbols, and of each only the last eighth counts. So every symbol has at least 7/8 of a context
before it in either figure. The first CONTEXT symbols of the stream count in neither.
"""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import chainrule
from bench.common import save, table
from chainrule.core.model import SequenceModel
from chainrule.training.scoring import log_probs

SYMBOLS, CONTEXT, TIME, LIMIT = 100_000, 256, "5m", 1.02
_WINDOWS = 32  # scored at a time


def main(data: Path | None) -> None:
    """Train, read the stream, compare."""
    if data is None:
        print("skipped: it needs text/tinyshakespeare.txt: --data FOLDER")
        return
    text = (data / "text" / "tinyshakespeare.txt").read_bytes()
    cut = int(len(text) * 0.9)
    with tempfile.TemporaryDirectory() as folder:
        book = Path(folder) / "book.txt"
        book.write_bytes(text[:cut])
        asked = {"model": "transformer", "size": "small", "codec": "bytes", "context": CONTEXT}
        run = chainrule.fit(book, Path(folder) / "run", time=TIME, **asked).artifact
    length = run.recipe["training"]["length"]
    assert run.model.config.context == length == CONTEXT, "the context is that of training"
    symbols = run.codec.encode(text[cut:]).symbols[:SYMBOLS]
    memory: list[tuple[int, float]] = []
    nats = -log_probs(run.model, symbols, progress=lambda n: memory.append((n, _resident())))
    stream, within = (
        x[CONTEXT:].mean() / math.log(2) for x in (nats, in_window(run.model, symbols))
    )
    starts = [0, *(2**k for k in range(1, SYMBOLS.bit_length()))]
    bits = np.add.reduceat(nats, starts) / np.diff([*starts, SYMBOLS]) / math.log(2)
    lasts = [*(n - 1 for n in starts[1:]), SYMBOLS - 1]
    rows = [[f"{a}-{b}", float(x)] for a, b, x in zip(starts, lasts, bits, strict=True)]
    table(["symbols from the start", "bits per byte"], rows)
    settled = next(size for n, size in memory if n >= SYMBOLS / 10)
    result: dict[str, Any] = {
        "symbols": SYMBOLS,
        "context": CONTEXT,
        "sinks": run.model.config.sinks,
        "training": {k: run.results[k] for k in ("steps", "seconds")},
        "stream_bits_per_byte": float(stream),
        "in_window_bits_per_byte": float(within),
        "ratio": float(stream / within),
        "limit": LIMIT,
        "memory_growth_mb": max(size for n, size in memory if n >= SYMBOLS / 10) - settled,
        "by_position": rows,
    }
    table(
        ["stream", "in window", "ratio", "limit", "memory growth, MB"],
        [[float(stream), float(within), result["ratio"], LIMIT, result["memory_growth_mb"]]],
    )
    save("long_stream", result)


@torch.no_grad()
def in_window(model: SequenceModel, symbols: NDArray[Any]) -> NDArray[np.float64]:
    """-log p in nats [T] of every symbol, at the end of a window of CONTEXT that starts cold."""
    step = CONTEXT // 8
    out = np.empty(len(symbols))
    first = range(0, len(symbols) - CONTEXT + 1, step)
    begins = np.array([*first, len(symbols) - CONTEXT])  # the last one ends with the last symbol
    for group in np.array_split(begins, -(-len(begins) // _WINDOWS)):
        index = group[:, None] + np.arange(CONTEXT)
        x = torch.from_numpy(symbols[index].astype(np.int64))
        nats = -model(x).log_prob(x).double().numpy()
        for begin, row in zip(group.tolist(), nats, strict=True):
            new = 0 if begin == 0 else CONTEXT - step
            out[begin + new : begin + CONTEXT] = row[new:]
    return out


def _resident() -> float:
    """Memory of this process in MB, where the system tells; else 0."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
