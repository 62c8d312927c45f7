"""Peak memory of decoding, above a process that has only imported what it takes.

GPT-2 124M's shape over bytes and made wider for it (12 x 960), random weights, written as a run to
build/bench/memory. A process opens it, draws 50 symbols on one thread and reports its peak; another
one only imports. The bound is 1.15 x (packed weights + state).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from bench.common import save, table
from chainrule.artifact import Artifact
from chainrule.codecs.text import ByteCodec
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import TransformerConfig
from chainrule.verbs.quantize import quantize

DTYPES = ("f32", "bf16", "int8", "q4")
SYMBOLS, BOUND, ROUNDS = 50, 1.15, 5
CHILD = """
import json, sys
import torch
import chainrule as cr
import chainrule.verbs.fitted, chainrule.verbs.generate, chainrule.engine.backend
torch.set_num_threads(1)
found = {"weights": 0, "state": 0}
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
if len(sys.argv) > 1:
    run = cr.load(sys.argv[1])
    settings = {"dtype": sys.argv[2], "strategy": "ancestral"}
    run.generate("a", length=int(sys.argv[3]), **settings)
    most = peak()  # before the state is made once more, to see its size
    engine = next(iter(run.artifact.engines.values()))
    state = engine.extend(engine.start(1), torch.zeros(1, int(sys.argv[3]), dtype=torch.int64))
    slabs = [state.grow(name).slab.tensor for name in engine.attends]
    found = {"weights": engine.weight_bytes, "state": sum(t.nbytes for t in slabs)}
found["peak"] = most if len(sys.argv) > 1 else peak()
print(json.dumps(found))
"""


def main(data: Path | None) -> None:
    """Print megabytes and peak / (weights + state) for every dtype."""
    del data
    folder = Path("build") / "bench" / "memory"
    if not folder.exists():
        _write(folder)
    for dtype in ("int8", "q4"):
        if not folder.with_name(f"memory-{dtype}").exists():
            quantize(_load(folder), dtype, text=Path("README.md"))
    bare = min(_peak()["peak"] for _ in range(ROUNDS))
    rows, out = [], {}
    cases = [(d, folder) for d in DTYPES]
    cases += [(f"{d}, stored", folder.with_name(f"memory-{d}")) for d in ("int8", "q4")]
    for name, run in cases:
        found = [_peak(str(run), name.split(",")[0], str(SYMBOLS)) for _ in range(ROUNDS)]
        kept = found[0]["weights"] + found[0]["state"]
        ratios = sorted((f["peak"] - bare) / kept for f in found)
        row = [found[0]["weights"] / 1e6, found[0]["state"] / 1e6, ratios[ROUNDS // 2], ratios[-1]]
        rows.append([name, *row, "yes" if row[2] <= BOUND else "NO"])
        out[name] = dict(zip(("weights_MB", "state_MB", "ratio", "most"), row, strict=True))
    table(["dtype", "weights MB", "state MB", "peak / both", "most", f"<= {BOUND}"], rows)
    save("engine_memory", {"imports_MB": bare / 1e6, "cases": out})


def _load(folder: Path) -> Any:
    from chainrule.artifact import load_artifact

    return load_artifact(folder)


def _write(folder: Path) -> None:
    torch.manual_seed(0)
    codec = ByteCodec()
    config = TransformerConfig(
        codec.space, "gpt2", 12, 960, 12, 12, hidden=3840, context=1024, sinks=0, tied=True
    )
    run = Artifact(Transformer(config).eval(), codec)
    run.save_config(folder)
    run.save_weights(folder)


def _peak(*arguments: str) -> dict[str, int]:
    made = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], check=True, capture_output=True, text=True
    )
    found: dict[str, int] = json.loads(made.stdout.strip().splitlines()[-1])
    return found
