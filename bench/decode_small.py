"""Decoding transformers of 6 x 384 and 4 x 128, batch 1 and 32: the engine beside its peers.

The Llama layout over 65 characters, random weights; a prompt of 16 symbols, part of the time, and
200 more. transformers runs a loop by hand; its ``generate`` stands beside it once. torch.compile
runs with one thread only: it compiles for minutes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.common import save
from bench.engine_peers import OURS, TRANSFORMERS, compare, prepared

TASKS: dict[str, dict[str, Any]] = {
    f"batch {rows}": {"task": "decode", "batch": rows, "prompt": 16, "length": 200}
    for rows in (1, 32)
}


def main(data: Path | None) -> None:
    """Both shapes with one thread, then two; stored."""
    del data
    if not prepared():
        return
    out: dict[str, Any] = {}
    for model in ("6x384", "4x128"):
        for threads in (1, 2):
            peers = [name for name in TRANSFORMERS if threads == 1 or name[0] != "compiled"]
            found = compare(model, (*OURS, *peers), TASKS, threads)
            out[f"{model}, threads: {threads}"] = found
        alone = (("transformers", "f32"), ("generate", "f32"))
        out[f"{model}, generate"] = compare(model, alone, {"batch 1": TASKS["batch 1"]}, 1)
    save("decode_small", out)
