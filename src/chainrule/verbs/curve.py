"""The loss curve as a picture, and how pictures are written."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chainrule.files import replacing


def loss_curve(
    records: list[dict[str, Any]],
    path: Path,
    others: dict[str, float] | None = None,
    unit: str = "byte",
) -> bool:
    """Draw training and held-out bits per unit over the seconds; False without matplotlib.

    ``others`` are drawn as level lines: bits per unit of other methods.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    key = f"bits_per_{unit}"
    train = [(r["seconds"], r[key]) for r in records if key in r]
    held = [(r["seconds"], r[f"held_out_{key}"]) for r in records if "best" in r]
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if train:
        mark = "o" if len(train) == 1 else None  # a line needs two
        axes.plot(*zip(*train, strict=True), color="#9aa5b1", lw=1, marker=mark, label="training")
    if held and not any(math.isnan(b) for _, b in held):
        axes.plot(*zip(*held, strict=True), color="#c0392b", marker="o", ms=3, label="held out")
    floor = min([b for _, b in train + held] + list((others or {}).values()), default=0.0)
    shown = sorted(b for _, b in train)
    top = shown[int(0.98 * (len(shown) - 1))] + 0.2 if shown else math.inf
    if shown:
        axes.set_ylim(max(0.0, floor - 0.3), top)
    if train or held:
        axes.set_xlim(0, 1.03 * max(0.001, *(seconds for seconds, _ in train + held)))
    for (name, bits), style in zip((others or {}).items(), ("--", ":", "-."), strict=False):
        label = f"{name} {bits:.2f}" + (", above" if bits > top else "")
        axes.axhline(bits, color="#2c3e50", ls=style, lw=1, label=label)
    axes.set_xlabel("seconds")
    axes.set_ylabel(f"bits per {unit}")
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    with replacing(path) as beside:
        figure.savefig(beside, format="png")
    return True


def save_png(path: str | Path, draw: Callable[[], Any]) -> Path:
    """Write the figure that ``draw`` makes, once the name is known to be a PNG's.

    Raises:
        ValueError: another kind of file is named.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the picture is a PNG, so give it a name that ends in .png")
    figure = draw()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        figure.savefig(beside, format="png")
    return path
