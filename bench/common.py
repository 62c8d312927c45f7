"""Rounds, tables and JSON for every bench."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch

RESULTS = Path(__file__).parent / "results"


def interleaved(
    contenders: dict[str, Callable[[], float]], rounds: int = 5
) -> dict[str, list[float]]:
    """Run every contender once a round; each returns its own figure. A warm-up round is dropped."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, run in contenders.items():
            figure = run()
            if turn:
                figures[name].append(figure)
    return figures


class Worker:
    """A contender in a process of its own, as what it patches and how it allocates hold for all.

    ``python -m MODULE WORDS`` answers each line that it is given with a line of JSON.
    """

    def __init__(self, module: str, *words: object, **env: str) -> None:
        kept = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
        self.name = " ".join(map(str, words))
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**kept, **env},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()

    def ask(self) -> Any:
        """One round."""
        self.process.stdin.write("go\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return self.answer()

    def answer(self) -> Any:
        """What it says next."""
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError(f"{self.name} ended before its figure: see what it printed")
        return json.loads(line)


def summary(figures: list[float]) -> dict[str, float]:
    """Median and spread (least and greatest)."""
    return {
        "median": statistics.median(figures),
        "min": min(figures),
        "max": max(figures),
    }


def ratios(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Of figures measured in the same round."""
    return summary([a / b for a, b in zip(ours, theirs, strict=True)])


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def save(name: str, result: dict[str, Any]) -> None:
    """Write results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine(), **result}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def table(header: list[str], rows: list[list[Any]]) -> None:
    """Print a table."""
    cells = [header, *[[_cell(c) for c in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for row in cells:
        print("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
    print()


def _cell(value: Any) -> str:
    return f"{value:,.3f}" if isinstance(value, float) else str(value)
