"""SmolLM2's own weights here and in transformers, both in float32.

20 prompts: the largest |Δ log p| and the mean KL divergence, for SmolLM2 (the Llama layout) and for
GPT-2's shape with random weights. Then SYMBOLS symbols that our engine picks greedily, fed through
transformers: where its argmax is another one, both logits stand beside each other. Needs what
bench.smollm2 has prepared, and the peers' Python (bench.engine_peers).
Shapes: B rows, T symbols, V alphabet size.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import save, table
from bench.engine_peers import FOLDER, prepared

ALICE = Path("src/chainrule/assets/alice.txt")
PROMPTS, LENGTH = 20, 200
SYMBOLS, ROWS = 100_000, 64  # of greedy text, and rows of a batch
PROMPT, APART, LENGTHS = 16, 60, 1000  # symbols: of a prompt, from one to the next, of a row
FILE = "parity.npz"  # what ours made: of each prompt, its inputs and log-probabilities


def main(data: Path | None) -> None:
    """Ours, then transformers by its own Python; stored."""
    del data
    if not prepared() or not (FOLDER / "smollm2" / "reference.npz").exists():
        print("bench.smollm2 has prepared nothing yet")
        return
    out: dict[str, Any] = {}
    for name in ("smollm2", "gpt2"):
        ours(name)
        command = [os.environ["CHAINRULE_ENGINE_PEERS"], "-m", "bench.smollm2_parity", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        out[name] = json.loads(done.stdout.splitlines()[-1])
    rows = [
        [name, key, f"{value:.3g}"] for name, found in out.items() for key, value in found.items()
    ]
    table(["model", "", ""], rows)
    save("smollm2_parity", out)


@torch.no_grad()
def ours(name: str) -> None:
    """Write what this library makes of the prompts, and, of SmolLM2, its greedy text."""
    from bench.engine_ours import Ours

    folder = FOLDER / name
    model = Ours(folder, "torch", 2).model
    text = np.load(folder / "x.npy")[0] if name == "smollm2" else None
    begin = 50256 if text is None else int(text[0])
    found: dict[str, Any] = {}
    for i in range(PROMPTS):
        if name == "smollm2":
            from chainrule.artifact import load_artifact

            codec = load_artifact(folder / "run").codec
            piece = ALICE.read_text()[i * 7000 : i * 7000 + 1200]
            x = torch.from_numpy(codec.encode(piece).symbols[:LENGTH])
        else:
            x = torch.randint(50257, (LENGTH,), generator=torch.Generator().manual_seed(i))
        law = model(x[None]).log_probs()[0]
        found[f"x{i}"] = np.concatenate([[begin], x.numpy()])
        found[f"p{i}"] = law.numpy()
    if name == "smollm2":
        rows = greedy(folder, begin)
        found["greedy"] = np.concatenate(rows)
        found["lengths"] = np.array([len(row) for row in rows])
    np.savez(folder / FILE, **found)


def greedy(folder: Path, begin: int) -> list[Any]:
    """SYMBOLS symbols of float32 weights in the engine, in rows behind PROMPT symbols of a text.

    Each row has its start symbol in front, and goes on to its own end or to LENGTHS symbols.
    """
    from chainrule.artifact import load_artifact
    from chainrule.verbs.generate import generate

    run = load_artifact(folder / "run")
    text = run.codec.encode(ALICE.read_text()).symbols
    rows: list[Any] = []
    made, since = 0, time.perf_counter()
    for at in range(0, len(text) - PROMPT, ROWS * APART):
        starts = range(at, min(at + ROWS * APART, len(text) - PROMPT), APART)
        prompts = [text[first : first + PROMPT] for first in starts]
        samples = generate(run, prompts, length=LENGTHS, temperature=0.0, dtype="f32")
        for prompt, sample in zip(prompts, samples, strict=True):
            row = np.concatenate([[begin], prompt, sample.symbols])[: 1 + PROMPT + SYMBOLS - made]
            rows.append(row)
            made += len(row) - 1 - PROMPT
            if made == SYMBOLS:
                print(f"{made:,} symbols in {time.perf_counter() - since:.0f} s", file=sys.stderr)
                return rows
    raise AssertionError("the text has too few prompts")


@torch.inference_mode()
def theirs(name: str) -> dict[str, float]:
    """What transformers makes of it."""
    from transformers import AutoModelForCausalLM

    folder = FOLDER / name
    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    known = np.load(folder / FILE)
    worst, divergence = 0.0, 0.0
    for i in range(PROMPTS):
        x = torch.from_numpy(known[f"x{i}"])
        b = normal(model(x[None, :-1]).logits[0])
        a = normal(torch.from_numpy(known[f"p{i}"]))
        worst = max(worst, float((a - b).gather(-1, x[1:, None]).abs().max()))
        divergence += float((a.exp() * (a - b)).sum(-1).mean()) / PROMPTS
    out = {"prompts": PROMPTS, "largest |Δ log p|": worst, "mean KL, nats": divergence}
    if "greedy" in known:
        rows = np.split(known["greedy"], np.cumsum(known["lengths"])[:-1])
        out |= ties(model, [torch.from_numpy(row) for row in rows])
    return out


def ties(model: Any, rows: list[torch.Tensor]) -> dict[str, float]:
    """Where transformers would have picked another symbol, and by how much."""
    symbols, mismatches, widest, rounding = 0, 0, 0.0, 0.0
    for row in rows:
        logits = model(row[None, :-1]).logits[0, PROMPT:]
        picked = row[PROMPT + 1 :]
        symbols += len(picked)
        best, at = logits.max(-1)
        mine = logits.gather(-1, picked[:, None])[:, 0]
        mismatches += int((at != picked).sum())
        widest = max(widest, float((best - mine).max()))
        rounding = max(rounding, float(best.abs().max()) * 2**-20)
    return {
        "rows": len(rows),
        "greedy symbols": symbols,
        "other argmax": mismatches,
        "widest gap of logits there": widest,
        "2^-20 of the largest logit": rounding,
    }


def normal(logits: torch.Tensor) -> torch.Tensor:
    """Log-probabilities in float64."""
    wide = logits.double()
    return wide - wide.logsumexp(-1, keepdim=True)


if __name__ == "__main__":
    print(json.dumps(theirs(sys.argv[1])))
