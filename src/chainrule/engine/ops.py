"""What a Program is made of: buffers, weights, leaves and typed ops.

Shapes: B rows, L symbols in this call, D width of a buffer ([B, L, D], float32), H heads,
G key-value heads, K head width, S source length, V alphabet size, w values of a window,
C channels of a pixel, E width of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

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
    type it has. With ``taps``, a convolution's tensor [out, in, …] of so many taps is the matrix
    [out, taps · in], tap by tap.
    """

    source: str
    shape: tuple[int, ...]
    first: int = 0
    kind: Literal["matrix", "vector", "table"] = "matrix"
    taps: int = 0


@dataclass(frozen=True)
class Leaf:
    """What is remembered between calls.

    ``kind``: a window of the last ``width`` values [B, width, dim], all ``fill`` at first; a cache
    of keys and values, ``dim`` = G heads × ``width`` K each; or fixed memory [B, S, dim], its
    first half keys and its second values, whose leaf ``NAME_ok`` bool [B, S] tells the padding.
    Of pictures: ``symbols``, what was consumed, and ``grid``, [dim] for every pixel.
    """

    kind: Literal["window", "cache", "fixed", "symbols", "grid"]
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
    """A row of ``weight`` [V, D]: the symbol's, or the position's.

    ``index``, a table of int64, names the row of every position, and its last one all behind it;
    such positions come to no end.
    """

    name = "embed"
    weight: str
    of: Literal["symbol", "position"] = "symbol"
    index: str | None = None


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


# ---- of pictures ----

Tap = tuple[int, int]  # picture rows down, columns to the right: up-left is (-1, -1)


@dataclass(frozen=True)
class Near(Op):
    """The symbols of the pixels at ``taps`` from this one, embedded side by side [taps · C · E].

    Row c · V + symbol of ``weight`` [C · V, E] stands for a symbol of channel c; 0 for what lies
    outside the picture and what was not consumed when this part of the Program began to run.
    """

    name = "near"
    state: str
    weight: str
    taps: tuple[Tap, ...]


@dataclass(frozen=True)
class Around(Op):
    """The values of a grid at ``taps`` from this pixel, side by side [taps · D], 0 outside.

    x joins it at this pixel first; in ``rows``, all pixels of the row have joined before one is
    read. One op gives x, before any other reads.
    """

    name = "around"
    state: str
    taps: tuple[Tap, ...]
    x: str | None = None


OPS: dict[str, type[Op]] = {
    kind.name: kind
    for kind in (
        Embed, Symbol, Wave, Linear, Bias, Add, Mul, Norm, Activate, Gate, Rope, Attend, Cross,
        Cell, Recent, Backoff, Near, Around,
    )
}  # fmt: skip
