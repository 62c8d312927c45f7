"""Small pictures for a page: SVG as text, without scripts, coloured by the page's own style.

Shapes: H horizon, P points of the past.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from chainrule.verbs.series_pictures import span

if TYPE_CHECKING:
    from chainrule.verbs.rolling import Example

_WIDE, _HIGH = 380, 230
_LEFT, _RIGHT, _TOP, _LOW = 46, 8, 10, 36  # room for labels, in units of the picture

Values = Sequence[float | None]
Label = tuple[float, str]


class Frame:
    """Axes of one picture: what numbers become on paper.

    Args:
        first, last: of the horizontal axis. low, high: of the vertical one.
    """

    def __init__(self, first: float, last: float, low: float, high: float) -> None:
        self.first, self.last, self.low, self.high = first, last, low, high

    def x(self, value: float) -> float:
        """Units from the left."""
        share = (value - self.first) / (self.last - self.first)
        return _LEFT + share * (_WIDE - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Units from the top; what lies far outside is just outside."""
        share = (value - self.low) / (self.high - self.low)
        return _HIGH - _LOW - min(2.0, max(-1.0, share)) * (_HIGH - _TOP - _LOW)

    def path(self, points: Iterable[tuple[float, float | None]]) -> str:
        """A line through points; it breaks where there is none."""
        out, pen = [], "M"
        for at, value in points:
            if value is None:
                pen = "M"
                continue
            out.append(f"{pen}{self.x(at):.1f} {self.y(value):.1f}")
            pen = "L"
        return "".join(out)

    def level(self, value: float) -> str:
        """A line from side to side."""
        return self.path([(self.first, value), (self.last, value)])


def by_step(
    lines: Mapping[str, Values],
    classes: Mapping[str, str],
    name: str,
    *,
    share: bool = False,
    nominal: float | None = None,
    top: float | None = None,
) -> str:
    """A line a model over the steps of the horizon.

    Args:
        lines: [H] of every model. classes: of the models, for their colours.
        name: says what is drawn, to those who can't see it. share: values are parts of a whole.
        nominal: a level line. top: nothing above it is shown.
    """
    there = [v for values in lines.values() for v in values if v is not None]
    there = [v for v in (*there, *([] if nominal is None else [nominal])) if math.isfinite(v)]
    if not there:
        return ""
    low, high = min(there), max(there)
    if share:
        low, high = max(0.0, low - 0.03), 1.0
    else:
        high = high if top is None else min(high, top)
        low = min(low, high)
        room = 0.1 * (high - low) or 0.1 * high or 1.0
        low, high = max(0.0, low - room), high + room
    horizon = max(len(values) for values in lines.values())
    frame = Frame(1, horizon, low, high) if horizon > 1 else Frame(0.5, 1.5, low, high)
    drawn = []
    if nominal is not None:
        drawn.append(f'<path class="nominal" d="{frame.level(nominal)}"/>')
    for model, values in lines.items():
        colour, steps = classes[model], list(enumerate(values, 1))
        drawn.append(f'<path class="line {colour}" d="{frame.path(steps)}"/>')
        if horizon <= 24:
            drawn += [
                f'<circle class="dot {colour}" cx="{frame.x(at):.1f}" cy="{frame.y(v):.1f}" r="2"/>'
                for at, v in steps
                if v is not None
            ]
    across = [(float(step), str(step)) for step in _steps(horizon)]
    return _svg(frame, name, drawn, across, share, "steps ahead")


def fan(example: Example, name: str) -> str:
    """History, forecast, intervals, and what came. Step 0 is the last known one."""
    past = list(enumerate(example.past, 1 - len(example.past)))
    came, median = (list(enumerate(v, 1)) for v in (example.came, example.median))
    lined = [v for _, v in (*past, *came, *median)]
    banded = [v for pair in example.bounds.values() for side in pair for v in side]
    frame = Frame(past[0][0] - 0.5, len(came) + 0.5, *span(np.array(lined), np.array(banded)))
    drawn = []
    for lows, highs in reversed(example.bounds.values()):
        sides = _around(past[-1][1], lows, highs)
        drawn.append(f'<path class="band" d="{frame.path(sides)}Z"/>')
    drawn.append(f'<path class="past" d="{frame.path(past)}"/>')
    size = 2.2 if len(came) <= 30 else 1.3
    drawn.append(f'<path class="came" d="{frame.path([past[-1], *came])}"/>')
    drawn += [
        f'<circle class="camedot" cx="{frame.x(x):.1f}" cy="{frame.y(v):.1f}" r="{size}"/>'
        for x, v in came
    ]
    drawn.append(f'<path class="line" d="{frame.path([past[-1], *median])}"/>')
    if len(median) == 1:
        place = f'cx="{frame.x(1):.1f}" cy="{frame.y(median[0][1]):.1f}"'
        drawn.append(f'<circle class="dot" {place} r="3"/>')
    labels = [(float(at + 1 - len(past)), said) for at, said in example.ticks]
    return _svg(frame, name, drawn, labels, False, "")


def _around(
    last: float, lows: Sequence[float], highs: Sequence[float]
) -> list[tuple[float, float]]:
    """The corners of an interval from the last known point on; that of a single step is given
    some width."""
    if len(lows) == 1:
        return [(0.7, lows[0]), (1.3, lows[0]), (1.3, highs[0]), (0.7, highs[0])]
    below = [(float(step), value) for step, value in enumerate(lows, 1)]
    above = [(float(step), value) for step, value in enumerate(highs, 1)]
    return [(0.0, last), *above, *below[::-1]]


def _svg(
    frame: Frame, name: str, drawn: list[str], across: list[Label], share: bool, below: str
) -> str:
    """The picture: grid and labels, and what was drawn, held inside of the axes."""
    parts = []
    for value, said in _levels(frame.low, frame.high, share):
        parts.append(f'<path class="rule" d="{frame.level(value)}"/>')
        parts.append(_text(_LEFT - 6, frame.y(value) + 4, said, "end"))
    floor = _HIGH - _LOW
    for at, label in across:
        x = frame.x(at)
        parts.append(f'<path class="rule" d="M{x:.1f} {floor}v4"/>')
        place = "end" if x > _WIDE - 24 else "middle"
        for line, said in enumerate(label.split("\n")):
            parts.append(
                _text(x if place == "middle" else _WIDE - 1, floor + 15 + 12 * line, said, place)
            )
    if below:
        parts.append(_text((_LEFT + _WIDE - _RIGHT) / 2, _HIGH - 5, below, "middle"))
    wide, high = _WIDE - _LEFT - _RIGHT, _HIGH - _TOP - _LOW
    # A picture within the picture cuts off what lies outside of the axes.
    inner = (
        f'<svg x="{_LEFT - 3}" y="{_TOP - 3}" width="{wide + 6}" height="{high + 6}" '
        f'viewBox="{_LEFT - 3} {_TOP - 3} {wide + 6} {high + 6}">{"".join(drawn)}</svg>'
    )
    return (
        f'<svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="{escape(name)}">'
        f"{''.join(parts)}{inner}</svg>"
    )


def _text(x: float, y: float, said: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'


def _levels(low: float, high: float, share: bool) -> list[Label]:
    """About five round numbers of the vertical axis."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    values = [
        k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]
    digits = max(0, -math.floor(math.log10(step) + 1e-9) + (step / power == 2.5))
    if share:
        return [(v, f"{100 * v:.{max(0, digits - 2)}f} %") for v in values]
    if max(abs(low), abs(high)) >= 1e6 or step < 1e-4:
        return [(v, f"{v:.3g}") for v in values]
    return [(v, f"{v:,.{digits}f}") for v in values]


def _steps(horizon: int) -> list[int]:
    """Steps that are labelled: the first, round ones, the last."""
    size = next(m * 10**k for k in range(9) for m in (1, 2, 3, 6) if m * 10**k * 8 >= horizon)
    inner = range(size, horizon + 1, size)
    ends = [s for s in (1, horizon) if all(abs(s - at) >= size / 2 for at in inner)]
    return sorted({*ends, *inner})
