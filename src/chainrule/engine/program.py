"""Program: one step of a model as a flat list of typed ops over named buffers.

A model's ``lower()`` writes it, ``reference.py`` runs it in torch, the compiled engine runs it
fast. It knows no architecture; a new one lowers to these ops.
Shapes: B rows, L symbols in this call, D width of a buffer ([B, L, D], float32), H heads,
G key-value heads, K head width, S source length, V alphabet size, w values of a window.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from chainrule.core.config import bounded, from_dict, to_dict

WIDEST, MOST_OPS, MOST_NAMES = 2**24, 2**16, 2**16  # bounds on what comes from outside

Function = Literal["relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh"]
FUNCTIONS: tuple[str, ...] = get_args(Function)
CellKind = Literal["tanh", "lstm", "gru", "mingru"]
CELLS: tuple[str, ...] = get_args(CellKind)


# ---- what ops read and write ----


@dataclass(frozen=True)
class Buffer:
    """[B, L, dim]; with ``of``, a view of that buffer's columns from ``first`` on."""

    dim: int
    of: str | None = None
    first: int = 0


@dataclass(frozen=True)
class Weight:
    """Rows ``first`` to ``first + shape[0]`` of the model's tensor ``source``.

    ``kind``: a matrix [out, in] is what dtypes narrow; a vector stays float32; a table keeps the
    type it has.
    """

    source: str
    shape: tuple[int, ...]
    first: int = 0
    kind: Literal["matrix", "vector", "table"] = "matrix"


@dataclass(frozen=True)
class Leaf:
    """What is remembered between calls.

    ``kind``: a window of the last ``width`` values [B, width, dim], all ``fill`` at first; a cache
    of keys and values, ``dim`` = G heads × ``width`` K each; or fixed memory [B, S, dim], its
    first half keys and its second values, whose leaf ``dim_ok`` bool [B, S] tells the padding.
    """

    kind: Literal["window", "cache", "fixed"]
    dim: int
    width: int = 1
    fill: float = 0.0


# ---- ops ----


@dataclass(frozen=True)
class Op:
    """``out`` is the buffer that it writes."""

    name: ClassVar[str] = ""
    out: str


@dataclass(frozen=True)
class Embed(Op):
    """A row of ``weight`` [V, D]: the symbol's, or the position's."""

    name = "embed"
    weight: str
    of: Literal["symbol", "position"] = "symbol"


@dataclass(frozen=True)
class Symbol(Op):
    """The symbol itself as a number [1]."""

    name = "symbol"


@dataclass(frozen=True)
class Wave(Op):
    """sin(rate · position + phase), the sinusoidal code of a position [D]."""

    name = "wave"
    rate: str
    phase: str


@dataclass(frozen=True)
class Linear(Op):
    """x @ weight.T + bias."""

    name = "linear"
    x: str
    weight: str
    bias: str | None = None


@dataclass(frozen=True)
class Bias(Op):
    """x + weight."""

    name = "bias"
    x: str
    weight: str


@dataclass(frozen=True)
class Add(Op):
    """a + b."""

    name = "add"
    a: str
    b: str


@dataclass(frozen=True)
class Mul(Op):
    """a · b."""

    name = "mul"
    a: str
    b: str


@dataclass(frozen=True)
class Norm(Op):
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019).

    With ``width`` > 0, each head of that many columns by itself, all with one weight [width].
    """

    name = "norm"
    x: str
    weight: str
    bias: str | None = None
    kind: Literal["layer", "rms"] = "rms"
    epsilon: float = 1e-5
    width: int = 0


@dataclass(frozen=True)
class Activate(Op):
    """f(x)."""

    name = "activate"
    x: str
    kind: Function


@dataclass(frozen=True)
class Gate(Op):
    """f(x's first half) · x's second half: a gated linear unit (Shazeer 2020)."""

    name = "gate"
    x: str
    kind: Function = "silu"


@dataclass(frozen=True)
class Rope(Op):
    """Pairs (i, i + K / 2) of every head turned by their position (Su et al. 2021).

    With ``limit`` > 0, positions count up to ``limit`` and no farther. ``rates``: radians per
    position of each of the K / 2 pairs, float64; base^(-2 i / K) where there are none. ``scale``
    times cos and sin: the attention factor of YaRN (Peng et al. 2023).
    """

    name = "rope"
    x: str
    width: int
    base: float = 10000.0
    limit: int = 0
    rates: tuple[float, ...] = ()
    scale: float = 1.0

    def turns(self) -> tuple[float, ...]:
        """Radians per position of every pair [K / 2]."""
        every = range(0, self.width, 2)
        return self.rates or tuple(self.base ** (-float(i) / self.width) for i in every)


@dataclass(frozen=True)
class Attend(Op):
    """k and v join the cache; q sees the ``window`` newest keys, its own included, and the sinks.

    Once keys between the first ``sinks`` and the window are out of sight, it turns towards the
    sinks with ``edge`` instead of q, where that is given.
    """

    name = "attend"
    q: str
    k: str
    v: str
    cache: str
    heads: int
    window: int
    sinks: int = 0
    edge: str | None = None


@dataclass(frozen=True)
class Cross(Op):
    """q looks at the fixed memory of its row."""

    name = "cross"
    q: str
    memory: str
    heads: int


@dataclass(frozen=True)
class Cell(Op):
    """A recurrent cell: x holds what its input adds to the gates, in torch's order.

    Its state is its hidden vector [D], after the cell vector for an lstm [2 D].
    """

    name = "cell"
    x: str
    state: str
    kind: CellKind
    weight: str | None = None
    bias: str | None = None


@dataclass(frozen=True)
class Recent(Op):
    """x joins the window; out has all of its values, the oldest first [w · D]."""

    name = "recent"
    x: str
    state: str


@dataclass(frozen=True)
class Backoff(Op):
    """log p of an n-gram from its last n - 1 symbols; tables as ``models/ngram.py`` has them."""

    name = "backoff"
    x: str
    contexts: str
    grams: str
    values: str
    backoff: str


OPS: dict[str, type[Op]] = {
    kind.name: kind
    for kind in (
        Embed, Symbol, Wave, Linear, Bias, Add, Mul, Norm, Activate, Gate, Rope, Attend, Cross,
        Cell, Recent, Backoff,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Program:
    """One step of a model.

    Args:
        size: V. begin: the start symbol, consumed before all others, at position 0.
        blank: what stands for an unknown symbol in the embedding, where it was trained on them.
        context: positions that ``of="position"`` has rows for; 0 without an end. Beyond it a
            new block begins each context // 2 symbols, as ``Transformer`` has it.
        ops: from a symbol to the buffer ``hidden``; head: from there to ``logits``.
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

    def __post_init__(self) -> None:
        from chainrule.engine.checks import check

        check(self)

    def to_json(self) -> dict[str, Any]:
        """JSON values; ``from_json`` reads them back."""
        data = to_dict(self)
        for part in ("ops", "head"):
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
    for part in ("ops", "head"):
        ops = data.get(part)
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

    def program(self, where: str) -> Program:
        values = {**vars(self), "ops": tuple(self.ops), "head": tuple(self.head)}
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
