"""What ``make demo`` reaches in its minute, and what other families would in the same one.

Held-out bits per byte beside n-gram, gzip and xz.
"""

from __future__ import annotations

import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from bench.common import save, summary, table
from chainrule.verbs.demo import demo
from chainrule.verbs.display import Silent
from chainrule.verbs.fit import fit

ROUNDS, OTHERS = 3, ("gru", "mingru", "transformer", "gpt2")


def main(data: Path | None, rounds: int = ROUNDS) -> None:
    """The demo and the others in turns, with the display off."""
    del data
    runs: list[dict[str, float]] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            bits = demo(Path(folder) / "demo", display=Silent()).bits
        runs.append({**bits, **{name: _minute(name) for name in OTHERS}})
    result: dict[str, Any] = {name: summary([bits[name] for bits in runs]) for name in runs[0]}
    table(
        ["held out", "bits per byte", "spread"],
        [
            [k, v["median"], f"{v['min']:.4f}-{v['max']:.4f}"]
            for k, v in sorted(result.items(), key=lambda item: item[1]["median"])
        ],
    )
    save("demo_bits", result)


def _minute(name: str) -> float:
    """Another family on the same book."""
    book = resources.files("chainrule") / "assets" / "alice.txt"
    with tempfile.TemporaryDirectory() as folder, resources.as_file(book) as path:
        done = fit(path, Path(folder) / "run", time="60s", model=name, display=Silent())
    return float(done.results["held_out_bits_per_byte"])
