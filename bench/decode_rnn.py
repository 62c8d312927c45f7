"""Decoding an LSTM and a GRU of 2 x 512, batch 1 and 32: the engine beside its peers.

torch's cells in a plain loop, the same step through torch.compile, and onnxruntime on graphs of one
step (products and gates written out, or ONNX's own cells). Random weights over 65 characters; a
prompt of 16 symbols, part of the time. torch.compile runs with one thread only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.common import save
from bench.decode_small import TASKS
from bench.engine_peers import CELLS, OURS, compare, prepared


def main(data: Path | None) -> None:
    """Both cells with one thread, then two; stored."""
    del data
    if not prepared():
        return
    out: dict[str, Any] = {}
    for threads in (1, 2):
        for model in ("lstm", "gru"):
            peers = [name for name in CELLS if threads == 1 or "compiled" not in name[0]]
            if model == "gru":
                peers.remove(("onnxruntime", "fused-int8"))  # onnxruntime quantises no GRU
            found = compare(model, (*OURS, *peers), TASKS, threads)
            out[f"{model}, threads: {threads}"] = found
            save("decode_rnn", out)
