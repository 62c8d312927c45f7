"""Decoding transformers of 6 x 384 and 4 x 128, batch 1 and 32: the engine beside its peers.

The Llama layout over 65 characters, random weights; a prompt of 16 symbols, part of the time.
transformers runs a loop by hand. torch.compile compiles for minutes: 6 x 384 and one thread only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.common import save
from bench.engine_peers import OURS, TRANSFORMERS, compare, prepared

TASKS: dict[str, dict[str, Any]] = {
    "batch 1": {"task": "decode", "batch": 1, "prompt": 16, "length": 200},
    "batch 32": {"task": "decode", "batch": 32, "prompt": 16, "length": 64},
}


def main(data: Path | None) -> None:
    """Both shapes with one thread, then two; stored."""
    del data
    if not prepared():
        return
    out: dict[str, Any] = {}
    for threads in (1, 2):
        for model in ("6x384", "4x128"):
            able = (model, threads) == ("6x384", 1)
            peers = [name for name in TRANSFORMERS if able or name[0] != "compiled"]
            found = compare(model, (*OURS, *peers), TASKS, threads)
            out[f"{model}, threads: {threads}"] = found
            save("decode_small", out)
