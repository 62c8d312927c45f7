"""The frontier of the decoding strategies as a picture: speed against calls of the model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainrule.files import replacing

if TYPE_CHECKING:
    from chainrule.verbs.bench import Frontier, Point

Box = tuple[float, float, float, float]  # left, low, right, high
COLOURS = {"identical": "#1f6fb2", "distribution": "#2a9d62", "approximate": "#d1622b"}
MEANING = {
    "identical": "writes what ancestral writes",
    "distribution": "the same distribution",
    "approximate": "approximate, with what it loses",
}
# Where a label may stand: offsets from its point in typographic points, and how it is aligned.
_PLACES = [(9.0, 0.0, "left"), (-9, 0, "right"), (0, 13, "center"), (0, -13, "center")]
_PLACES += [(8, 11, "left"), (8, -11, "left"), (-8, 11, "right"), (-8, -11, "right")]
_PLACES += [(16, 24, "left"), (16, -24, "left"), (-16, 24, "right"), (-16, -24, "right")]


def check(path: Path) -> None:
    """Refuse what can't become a picture.

    Raises:
        ValueError: a name that isn't a PNG's, or matplotlib is not installed.
    """
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the picture is a PNG, so give it a name that ends in .png")
    if find_spec("matplotlib") is None:
        raise ValueError("the picture needs matplotlib: pip install 'chainrule[plot]'")


def draw(found: Frontier, path: Path) -> None:
    """One panel a batch size: to the right is faster, further down asks the model less often.

    Raises:
        ValueError: as ``check``.
    """
    check(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    batches = found.batches()
    panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
    for axes, batch in zip(panels, batches, strict=True):
        _panel(axes, found.at(batch))
        axes.set_title("one sequence" if batch == 1 else f"a batch of {batch}", loc="left")
    panels[0].set_ylabel("calls of the model per symbol")
    shown = [c for c in COLOURS if any(p.exactness == c for p in found.points)]
    marks = [panels[-1].scatter([], [], color=COLOURS[c], s=45, label=MEANING[c]) for c in shown]
    figure.legend(handles=marks, loc="outside lower right", ncols=3, frameon=False)
    figure.suptitle(
        f"{found.name}: {found.length} symbols a sequence, temperature {found.temperature:g}, "
        f"{found.threads} thread{'s' * (found.threads > 1)}",
        fontsize=10,
        color="#555555",
        x=0.01,
        ha="left",
    )
    figure.draw_without_rendering()  # only now is it known where the points are
    for axes, batch in zip(panels, batches, strict=True):
        _label(axes, found.at(batch), found.unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        figure.savefig(beside, format="png")


def _panel(axes: Any, points: list[Point]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    plain = next(p for p in points if p.strategy == "ancestral")
    slow, fast = min(p.slowest for p in points), max(p.fastest for p in points)
    axes.set_xscale("log")
    axes.set_xlim(slow / 1.8, max(fast * 1.8, slow * 4))
    axes.set_ylim(0, 1.15 * max(1.0, *(p.calls_per_symbol for p in points)))
    axes.axvline(plain.symbols_per_s, color="#9aa5b1", lw=1, ls="--", zorder=1)
    for p in points:
        x, y, colour = p.symbols_per_s, p.calls_per_symbol, COLOURS[p.exactness]
        spread = [[x - p.slowest], [p.fastest - x]]
        axes.errorbar(x, y, xerr=spread, color=colour, lw=1.5, capsize=3, alpha=0.6, zorder=2)
        axes.scatter(x, y, color=colour, s=45, zorder=3)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("symbols per second")
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)


def _label(axes: Any, points: list[Point], unit_of_loss: str) -> None:
    """Name every point, each at the first side of it where nothing else is."""
    from matplotlib.patheffects import withStroke

    ends = [[p.slowest, p.symbols_per_s, p.fastest] for p in points]
    at = [
        axes.transData.transform([(x, p.calls_per_symbol) for x in three])
        for p, three in zip(points, ends, strict=True)
    ]
    unit = axes.figure.dpi / 72  # pixels of a typographic point
    taken: list[Box] = [
        (a[0] - 5 * unit, b[1] - 5 * unit, c[0] + 5 * unit, b[1] + 5 * unit) for a, b, c in at
    ]
    for p, (first, (x, y), last) in zip(points, at, strict=True):
        lost = "" if p.lost is None else f", {p.lost:+.2f} bits/{unit_of_loss}"
        text = p.strategy + ("" if p.strategy == "ancestral" else f"  {p.gain:.1f}×{lost}")
        wide, high = (5.0 * len(text) + 8) * unit, 11 * unit
        best: tuple[float, Box, tuple[float, float, str]] | None = None
        for dx, dy, side in _PLACES:
            if dy == 0:  # beside the point: beyond its spread
                dx += ((last[0] if dx > 0 else first[0]) - x) / unit
            left = x + dx * unit - {"left": 0.0, "center": wide / 2, "right": wide}[side]
            low = y + dy * unit - high / 2
            box = (left, low, left + wide, low + high)
            cost = sum(_overlap(box, other) for other in taken)
            cost += _outside(box, tuple(axes.bbox.extents))
            if best is None or cost < best[0]:
                best = cost, box, (dx, dy, side)
        assert best is not None
        taken.append(best[1])
        dx, dy, side = best[2]
        axes.annotate(
            text,
            (p.symbols_per_s, p.calls_per_symbol),
            (dx, dy),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=9,
            color=COLOURS[p.exactness],
            arrowprops={"arrowstyle": "-", "color": COLOURS[p.exactness], "lw": 0.8, "shrinkB": 4}
            if abs(dy) > 20  # so far away that a line must say whose it is
            else None,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )


def _overlap(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, wide) * max(0.0, high)


def _outside(box: Box, panel: Box) -> float:
    """The area of a box that is not in the panel."""
    whole = (box[2] - box[0]) * (box[3] - box[1])
    return whole - _overlap(box, panel)
