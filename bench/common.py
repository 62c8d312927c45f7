"""Rounds, tables and JSON for every bench."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
