"""Decoding GPT-2 124M's shape, batch 1, 8 and 32: the engine beside its peers (bench.engine_peers).

Random weights; a prompt of 4 symbols, part of the time. ``generate`` of transformers runs at batch
1 only: beside it, the same calls in a loop by hand. torch.compile runs with one thread only: it
compiles for minutes, and is never the best.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.common import save
from bench.engine_peers import OURS, TRANSFORMERS, compare, prepared

TASKS: dict[str, dict[str, Any]] = {
    "batch 1": {"task": "decode", "batch": 1, "prompt": 4, "length": 64},
    "batch 8": {"task": "decode", "batch": 8, "prompt": 4, "length": 40},
    "batch 32": {"task": "decode", "batch": 32, "prompt": 4, "length": 32},
}


def main(data: Path | None) -> None:
    """One thread, then two; stored."""
    del data
    if not prepared():
        return
    out: dict[str, Any] = {}
    for threads in (1, 2):
        peers = [name for name in TRANSFORMERS if threads == 1 or name[0] != "compiled"]
        out[f"threads: {threads}"] = compare("gpt2", (*OURS, *peers), TASKS, threads)
    alone = (("transformers", "f32"), ("generate", "f32"))
    out["generate"] = compare("gpt2", alone, {"batch 1": TASKS["batch 1"]}, 1)
    save("decode_gpt2", out)
