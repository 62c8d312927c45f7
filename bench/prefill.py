"""512 symbols at once through GPT-2 124M's shape: the engine beside its peers.

"prefill" wants the law of the next symbol only, "score" the log-probability of every symbol; both
have 512 inputs, the start symbol among them. transformers, torch.compile and llama.cpp give logits:
their logarithms and the choice of one are taken with torch, inside the time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.common import save
from bench.engine_peers import OURS, TRANSFORMERS, compare, prepared

TASKS: dict[str, dict[str, Any]] = {
    "prefill": {"task": "prefill", "length": 512},
    "score": {"task": "score", "length": 512},
}


def main(data: Path | None) -> None:
    """One thread, then two; stored."""
    del data
    if not prepared():
        return
    out: dict[str, Any] = {}
    for threads in (1, 2):
        out[f"threads: {threads}"] = compare("gpt2", (*OURS, *TRANSFORMERS), TASKS, threads)
    save("prefill", out)
