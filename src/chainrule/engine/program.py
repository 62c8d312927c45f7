"""Program: one step of a model as a flat list of typed ops over named buffers.

A model's ``lower()`` writes it, ``reference.py`` runs it in torch, the compiled engine runs it
fast. It knows no architecture; a new one lowers to the ops of ``ops.py``, which this module hands
out too.
Shapes: V alphabet size; of pictures H height, W width, C channels, T = H · W · C symbols.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chainrule.core.config import bounded, from_dict, to_dict
from chainrule.engine.ops import (
    CELLS,
    FUNCTIONS,
    OPS,
    Activate,
    Add,
    Around,
    Attend,
    Backoff,
    Bias,
    Buffer,
    Cell,
    CellKind,
    Cross,
    Embed,
    Function,
    Gate,
    Leaf,
    Linear,
    Mul,
    Near,
    Norm,
    Op,
    Recent,
    Rope,
    Symbol,
    Tap,
    Wave,
    Weight,
)

__all__ = [
    "CELLS", "FUNCTIONS", "MOST_NAMES", "MOST_OPS", "OPS", "WIDEST", "Activate", "Add", "Around",
    "Attend", "Backoff", "Bias", "Buffer", "Cell", "CellKind", "Cross", "Embed", "Function", "Gate",
    "Leaf", "Linear", "Mul", "Near", "Norm", "Op", "Program", "Recent", "Rope", "Symbol", "Tap",
    "Wave", "Weight",
]  # fmt: skip

WIDEST, MOST_OPS, MOST_NAMES = 2**24, 2**16, 2**16  # bounds on what comes from outside
PARTS = ("ops", "head", "rows", "pixels")


@dataclass(frozen=True)
class Program:
    """One step of a model.

    Args:
        size: V. begin: the start symbol, consumed before all others, at position 0.
        blank: what stands for an unknown symbol in the embedding, where it was trained on them.
        context: positions that ``of="position"`` has rows for; 0 without an end. Beyond it a
            new block begins each context // 2 symbols, as ``Transformer`` has it.
        ops: from a symbol to the buffer ``hidden``; head: from there to ``logits``.
        grid: H, W and C of pictures in raster order, channel by channel. Position p predicts
            symbol p, a channel of pixel p // C, and has consumed p symbols.
        rows: run before the first symbol of every picture row, for its W pixels at once.
        pixels: run before the first symbol of every pixel, and after ``rows``. A buffer belongs to
            the part that writes it; leaves bring what another part or pixel needs.
    """

    size: int
    begin: int
    buffers: Mapping[str, Buffer]
    weights: Mapping[str, Weight]
    leaves: Mapping[str, Leaf]
    ops: tuple[Op, ...]
    head: tuple[Op, ...]
    hidden: str = "hidden"
    logits: str = "logits"
    context: int = 0
    blank: int | None = None
    grid: tuple[int, int, int] | None = None
    rows: tuple[Op, ...] = ()
    pixels: tuple[Op, ...] = ()

    def __post_init__(self) -> None:
        from chainrule.engine.checks import check

        check(self)

    @property
    def every_op(self) -> tuple[Op, ...]:
        """Of all parts, in the order in which they run."""
        return (*self.rows, *self.pixels, *self.ops, *self.head)

    def to_json(self) -> dict[str, Any]:
        """JSON values; ``from_json`` reads them back."""
        data = to_dict(self)
        for part in PARTS:
            ops = getattr(self, part)
            data[part] = [{"op": op.name, **to_dict(op)} for op in ops]
        for part in ("buffers", "weights", "leaves"):
            data[part] = {k: to_dict(v) for k, v in getattr(self, part).items()}
        return data

    @staticmethod
    def from_json(data: Any, where: str = "program") -> Program:
        """Read what came from outside.

        Raises:
            ValueError: an unknown op or key, a shape that doesn't fit, a name that isn't there.
        """
        try:
            return _from_json(data, where)
        except RecursionError:
            raise ValueError(f"{where}: nested too deeply") from None


def _from_json(data: Any, where: str) -> Program:
    if isinstance(data, str):
        try:
            data = json.loads(data)
        except ValueError as error:
            raise ValueError(f"{where}: not JSON ({error})") from None
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected an object")
    data = dict(data)
    for part, kind in (("buffers", Buffer), ("weights", Weight), ("leaves", Leaf)):
        named = data.get(part)
        if not isinstance(named, dict):
            raise ValueError(f"{where}: {part!r} must be an object")
        bounded(f"{where}: number of {part}", len(named), 0, MOST_NAMES)
        read: Callable[..., Any] = from_dict
        data[part] = {k: read(kind, v, f"{where}: {part} {k!r}") for k, v in named.items()}
    for part in PARTS:
        ops = data.get(part, [] if part in ("rows", "pixels") else None)
        if not isinstance(ops, list):
            raise ValueError(f"{where}: {part!r} must be a list")
        bounded(f"{where}: number of {part}", len(ops), 0, MOST_OPS)
        data[part] = [_op(op, f"{where}: {part} {i}") for i, op in enumerate(ops)]
    return from_dict(_Read, data, where).program(where)


@dataclass(frozen=True)
class _Read:
    """The outline of a Program: what ``from_dict`` checks before its parts are looked at."""

    size: int
    begin: int
    buffers: Any
    weights: Any
    leaves: Any
    ops: Any
    head: Any
    hidden: str = "hidden"
    logits: str = "logits"
    context: int = 0
    blank: int | None = None
    grid: tuple[int, int, int] | None = None
    rows: Any = ()
    pixels: Any = ()

    def program(self, where: str) -> Program:
        values = {**vars(self), **{part: tuple(getattr(self, part)) for part in PARTS}}
        try:
            return Program(**values)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


def _op(data: Any, where: str) -> Op:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected an object")
    data = dict(data)
    name = data.pop("op", None)
    if not isinstance(name, str) or name not in OPS:
        raise ValueError(f"{where}: unknown op {str(name)[:40]!r}; known: {', '.join(OPS)}")
    return from_dict(OPS[name], data, f"{where} ({name})")
