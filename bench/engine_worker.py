"""One contender of the engine's benches: a process that answers one JSON line with another.

``python -m bench.engine_worker RUNTIME KIND FOLDER THREADS``, run by bench.engine_peers: the model
in FOLDER (as bench.engine_models wrote it), in the number format KIND, pinned to THREADS cores.
The first answer says how far its logits are off the reference: {"error": relative L2, "kl": nats,
"greedy": share of 8 greedy symbols that agree}. Commands: {"task": "decode", "batch": B,
"prompt": P, "length": n}, {"task": "prefill", "length": n}, {"task": "score", "length": n}; each
is answered with {"seconds": s}.
A row's inputs are the start symbol and then symbols that are the same for everyone.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

STEPS = 8  # of the symbols whose logits are checked, those that are consumed one by one
Symbols = NDArray[np.int64]
RUNTIMES = {
    "transformers": "engine_runtimes.Transformers",
    "generate": "engine_runtimes.Generate",
    "compiled": "engine_runtimes.Compiled",
    "ctranslate2": "engine_runtimes.CTranslate2",
    "llama.cpp": "engine_runtimes.LlamaCpp",
    "genai": "engine_runtimes.GenAI",
    "cells": "engine_cells.Torch",
    "cells compiled": "engine_cells.Compiled",
    "onnxruntime": "engine_cells.OnnxRuntime",
    "chainrule": "engine_ours.Ours",
}


class Peer(Protocol):
    """What every runtime does; x int64 [B, T] begins with the start symbol."""

    def logits(self, x: Symbols) -> NDArray[np.float32]:
        """[B, V] behind all of x, up to a constant; the last by single steps, where that can be."""

    def decode(self, x: Symbols, length: int) -> Symbols:
        """``length`` symbols more: [B, length]."""

    def prefill(self, x: Symbols) -> Any:
        """The law of the next symbol only."""

    def score(self, x: Symbols) -> Any:
        """Log-probabilities of every symbol but the first."""


def symbols(batch: int, length: int, begin: int, size: int | None = None) -> Symbols:
    """The start symbol and ``length`` others in every row: [B, 1 + length]."""
    drawn = np.random.default_rng(0).integers(0, size or begin, (batch, length))
    return np.concatenate([np.full((batch, 1), begin), drawn], 1)


def timed(
    peer: Peer,
    ends: tuple[int, int | None],
    task: str,
    length: int,
    batch: int = 1,
    prompt: int = 0,
) -> float:
    """Seconds. ``ends``: the start symbol, and how many there are, where it isn't the last."""
    begin, size = ends
    if task == "decode":
        x = symbols(batch, prompt, begin, size)
        since = time.perf_counter()
        made = peer.decode(x, length)
        seconds = time.perf_counter() - since
        assert made.shape == (batch, length), made.shape
        return seconds
    # As many inputs, start symbol included, as there are symbols to score or next laws to skip.
    x = symbols(1, length - (task == "prefill"), begin, size)
    since = time.perf_counter()
    {"prefill": peer.prefill, "score": peer.score}[task](x)
    return time.perf_counter() - since


def faithful(peer: Peer, folder: Path) -> dict[str, float]:
    """How far the logits are off transformers' (or torch's) in float32."""
    known = np.load(folder / "reference.npz")
    wanted, found = known["logits"].astype(np.float64), peer.logits(known["x"]).astype(np.float64)
    size = min(wanted.shape[1], found.shape[1])  # some know the start symbol as one to predict
    wanted, found = (v[:, :size] - v[:, :size].mean(1, keepdims=True) for v in (wanted, found))
    error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    # Of random weights, a greedy text that begins alike says that the loop and its cache are right.
    greedy = getattr(peer, "greedy", peer.decode)  # ours draws when it is timed
    made = greedy(known["x"], known["greedy"].shape[1])
    p, q = (v - np.log(np.exp(v).sum(1, keepdims=True)) for v in (wanted, found))
    return {
        "error": float(error),
        "kl": float((np.exp(p) * (p - q)).sum(1).mean()),
        "greedy": float((made == known["greedy"]).mean()),
    }


def main() -> None:
    """Serve until the other side hangs up."""
    runtime, kind, folder, threads = *sys.argv[1:3], Path(sys.argv[3]), int(sys.argv[4])
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    with os.fdopen(os.dup(1), "w", buffering=1) as out:
        os.dup2(2, 1)  # what libraries print is not an answer
        module, name = RUNTIMES[runtime].split(".")
        peer = getattr(importlib.import_module(f"bench.{module}"), name)(folder, kind, threads)
        known = np.load(folder / "reference.npz")
        ends = int(known["x"][0, 0]), int(known["size"]) if "size" in known else None
        about = faithful(peer, folder)
        if (held := getattr(peer, "weight_bytes", None)) is not None:
            about["bytes"] = held
        print(json.dumps(about), file=out)
        for line in sys.stdin:
            print(json.dumps({"seconds": timed(peer, ends, **json.loads(line))}), file=out)
        out.flush()
        os._exit(0)  # CTranslate2 has been seen to hang where it is taken down


if __name__ == "__main__":
    main()
