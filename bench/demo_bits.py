"""What ``make demo`` reaches: held-out bits per byte beside n-gram, gzip and xz."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.common import save, summary, table
from chainrule.verbs.demo import demo
from chainrule.verbs.display import Silent


def main(data: Path | None) -> None:
    """Three demos with the display off."""
    del data
    runs = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(demo(Path(folder) / "demo", display=Silent()).bits)
    result = {name: summary([bits[name] for bits in runs]) for name in runs[0]}
    table(
        ["held out", "bits per byte", "spread"],
        [[k, v["median"], f"{v['min']:.4f}-{v['max']:.4f}"] for k, v in result.items()],
    )
    save("demo_bits", result)
