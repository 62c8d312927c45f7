"""SmolLM2's bits per byte in every precision, on alice29 and on an extract of Hamlet.

Alice is cut into PIECES of equal length, each from its own start, so that it takes minutes. With
keys and values in 8 bits too. Needs what bench.smollm2 has prepared.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.common import save, table
from bench.engine_peers import FOLDER
from chainrule.artifact import Artifact, load_artifact
from chainrule.training.scoring import document_nats

ALICE, HAMLET = Path("src/chainrule/assets/alice.txt"), Path("bench/hamlet.txt")
PIECES = 24
WAYS = (
    ("run", "torch", "f32", "auto"),
    ("run", "engine", "f32", "auto"),
    ("run", "engine", "bf16", "auto"),
    ("run", "engine", "bf16", "int8"),
    ("run", "engine", "int8", "auto"),
    ("run", "engine", "int8-row", "auto"),
    ("run", "engine", "q4", "auto"),
    ("run-gguf", "engine", "gguf", "auto"),
    ("run-gguf", "engine", "gguf", "int8"),
)


def main(data: Path | None) -> None:
    """Every way, every text; stored."""
    del data
    folder = FOLDER / "smollm2"
    if not (folder / "run").exists():
        print("bench.smollm2 has prepared nothing yet")
        return
    out: dict[str, Any] = {}
    rows = []
    for name, backend, dtype, cache in WAYS:
        run = replace(load_artifact(folder / name), cache=cache)
        runner = run.runner(run.choose(backend, dtype, draws=False))
        bits = {path.name: _bits(run, runner, path) for path in (ALICE, HAMLET)}
        title = f"{backend} {dtype}" + (", int8 cache" if cache == "int8" else "")
        out[title] = bits
        first = next(iter(out.values()))
        rows.append(
            [title, *(v for k, v in bits.items() for v in (f"{v:.4f}", f"{v / first[k] - 1:+.3%}"))]
        )
    table(["", "alice29", "", "Hamlet", ""], rows)
    save("smollm2_bits", out)


def _bits(run: Artifact, runner: Any, path: Path) -> float:
    """Bits per byte of a text, in pieces where it is long."""
    text = path.read_text()
    step = -(-len(text) // PIECES) if len(text) > 10_000 else len(text)
    pieces = [text[at : at + step] for at in range(0, len(text), step)]
    nats = sum(document_nats(runner, [run.codec.encode(piece).symbols for piece in pieces]))
    return float(-nats / 0.6931471805599453 / len(text.encode()))
