"""What a Program must fulfil before anything runs it: names, shapes, order, bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from chainrule.core.config import bounded
from chainrule.engine import program as p

HEAD = (p.Linear, p.Bias, p.Add, p.Mul, p.Norm, p.Activate, p.Gate, p.Backoff)
PICTURE = (
    p.Near, p.Around, p.Linear, p.Bias, p.Add, p.Mul, p.Norm, p.Activate, p.Gate, p.Cross,
)  # fmt: skip
IN_PLACE = (p.Bias, p.Add, p.Mul, p.Activate)  # each value from its own place alone
MOST_COLUMNS = 2**22  # of all buffers together: 2 GiB for 128 positions
MOST_KEPT = 2**28  # values of all grids of a picture: 1 GiB
TAKEN = ("hidden", "symbols")  # leaves that every state may have beside the program's


def check(program: p.Program) -> None:
    """Refuse what no engine could run.

    Raises:
        ValueError: naming the op, buffer, weight or leaf that is wrong.
    """
    bounded("size", program.size, 1, p.WIDEST)
    bounded("begin", program.begin, 0, p.WIDEST)
    if program.context:
        bounded("context", program.context, 2, p.WIDEST)
    for part in (program.buffers, program.weights, program.leaves):
        bounded("names in a program", len(part), 0, p.MOST_NAMES)
    bounded("ops in a program", len(program.every_op), 1, p.MOST_OPS)
    for name, buffer in program.buffers.items():
        _buffer(program, name, buffer)
    whole = sum(buffer.dim for buffer in program.buffers.values() if buffer.of is None)
    bounded("columns of all buffers", whole, 0, MOST_COLUMNS)
    for name, weight in program.weights.items():
        _weight(name, weight)
    for name, leaf in program.leaves.items():
        _leaf(name, leaf)
        if name in TAKEN or (leaf.kind == "fixed" and f"{name}_ok" in program.leaves):
            raise ValueError(f"leaf {name!r}: another leaf of the state has that name")
    _grid(program, whole)
    used: dict[str, str] = {}
    _ops(program, program.rows, "rows op", set(), used, PICTURE)
    _ops(program, program.pixels, "pixels op", set(), used, PICTURE)
    written = _ops(program, program.ops, "op", set(), used)
    if program.hidden not in written:
        raise ValueError(f"no op writes the hidden buffer {program.hidden!r}")
    made = _ops(program, program.head, "head op", {program.hidden}, used, HEAD)
    if program.hidden in {op.out for op in program.head}:
        raise ValueError(f"no head op may write the hidden buffer {program.hidden!r}")
    if program.logits not in made - {program.hidden}:
        raise ValueError(f"no head op writes the logits buffer {program.logits!r}")
    if _width(program, program.logits) != program.size:
        raise ValueError(f"the logits have {_width(program, program.logits)} columns, not V")
    for name in sorted(program.leaves.keys() - used):
        raise ValueError(f"leaf {name!r} is used by no op")
    rows = [_get(program.weights, op.weight, "weight").shape[0] for op in _embeds(program)]
    for name, symbol in (("start", program.begin), ("unknown", program.blank)):
        if symbol is not None and symbol >= min(rows, default=p.WIDEST + 1):
            raise ValueError(f"the {name} symbol {symbol} has no row in the embedding")
    if program.blank is not None:
        bounded("blank", program.blank, 0, p.WIDEST)
    if any(n < program.size for n in rows):
        raise ValueError(f"the embedding has {min(rows)} rows for {program.size} symbols")
    ends = [
        program.weights[op.weight].shape[0]
        for op in program.ops
        if isinstance(op, p.Embed) and op.of == "position" and op.index is None
    ]
    caches = any(leaf.kind == "cache" for leaf in program.leaves.values())
    if program.context and not caches:
        raise ValueError("a context that ends needs a cache to tell where a block began")
    if bool(ends) != bool(program.context) or any(n < program.context for n in ends):
        raise ValueError(f"context {program.context} is not what the positions have rows for")


def _grid(program: p.Program, columns: int) -> None:
    """Of pictures: their size, and leaves that know where a pixel lies."""
    kinds = {name: leaf.kind for name, leaf in program.leaves.items()}
    if program.grid is None:
        if program.rows or program.pixels or {"symbols", "grid"} & {*kinds.values()}:
            raise ValueError("rows, pixels and the leaves of pictures need a grid")
        return
    for name, size in zip(("height", "width", "channels"), program.grid, strict=True):
        bounded(f"grid: {name}", size, 1, p.WIDEST)
    bounded("grid: symbols", math.prod(program.grid), 1, p.WIDEST)
    bounded("columns of a picture row", columns * program.grid[1], 0, 128 * MOST_COLUMNS)
    for name, kind in kinds.items():
        if kind in ("window", "cache"):
            raise ValueError(f"leaf {name!r}: with a grid there is no {kind}")
    kept = sum(leaf.dim for leaf in program.leaves.values() if leaf.kind == "grid")
    bounded("values of all grids", kept * math.prod(program.grid[:2]), 0, MOST_KEPT)
    if program.context or program.blank is not None:
        raise ValueError("with a grid there is neither context nor blank")


def _embeds(program: p.Program) -> list[p.Embed]:
    return [op for op in program.ops if isinstance(op, p.Embed) and op.of == "symbol"]


def _buffer(program: p.Program, name: str, buffer: p.Buffer) -> None:
    bounded(f"buffer {name!r}: dim", buffer.dim, 1, p.WIDEST)
    if buffer.of is None:
        if buffer.first:
            raise ValueError(f"buffer {name!r}: 'first' needs 'of'")
        return
    whole = _get(program.buffers, buffer.of, f"buffer {name!r}: buffer")
    if whole.of is not None:
        raise ValueError(f"buffer {name!r}: {buffer.of!r} is a view itself")
    if buffer.first < 0 or buffer.first + buffer.dim > whole.dim:
        raise ValueError(f"buffer {name!r}: its columns lie outside {buffer.of!r}")


def _weight(name: str, weight: p.Weight) -> None:
    dims = {"matrix": (2,), "vector": (1,), "table": (1,)}[weight.kind]
    if len(weight.shape) not in dims:
        raise ValueError(f"weight {name!r}: a {weight.kind} has {dims[0]} axes")
    for size in weight.shape:
        bounded(f"weight {name!r}: size", size, 1, 2**40 if weight.kind == "table" else p.WIDEST)
    bounded(f"weight {name!r}: size", math.prod(weight.shape), 1, 2**40)
    bounded(f"weight {name!r}: first", weight.first, 0, 2**40)
    bounded(f"weight {name!r}: taps", weight.taps, 0, p.WIDEST)
    if weight.taps and (weight.kind != "matrix" or weight.shape[1] % weight.taps):
        raise ValueError(f"weight {name!r}: {weight.taps} taps don't fit {weight.shape}")


def _leaf(name: str, leaf: p.Leaf) -> None:
    bounded(f"leaf {name!r}: dim", leaf.dim, 1, p.WIDEST)
    bounded(f"leaf {name!r}: width", leaf.width, 1, p.WIDEST)
    bounded(f"leaf {name!r}: size", leaf.dim * leaf.width, 1, 2**26)
    bounded(f"leaf {name!r}: fill", leaf.fill, -p.WIDEST, p.WIDEST)
    if leaf.kind == "cache" and leaf.dim % leaf.width:
        raise ValueError(f"leaf {name!r}: {leaf.dim} is not a multiple of the width {leaf.width}")
    if leaf.kind in ("symbols", "grid") and leaf.width != 1:
        raise ValueError(f"leaf {name!r}: a {leaf.kind} has no width")
    if leaf.kind == "fixed" and leaf.dim % 2:
        raise ValueError(f"leaf {name!r}: keys and values need an even width, not {leaf.dim}")


def _ops(
    program: p.Program,
    ops: tuple[p.Op, ...],
    what: str,
    written: set[str],
    used: dict[str, str],
    allowed: tuple[type[p.Op], ...] = (),
) -> set[str]:
    """Every op in turn; returns the buffers that have been written.

    ``used``: of every leaf, what kind of op it belongs to.
    """
    written = set(written)
    for i, op in enumerate(ops):
        where = f"{what} {i} ({op.name})"
        if allowed and not isinstance(op, allowed):
            raise ValueError(f"{where}: it can't stand in the {what.split()[0]}")
        _Checker(program, where, written, used).check(op)
        written.add(op.out)
    return written


class _Checker:
    """One op in its place."""

    def __init__(
        self, program: p.Program, where: str, written: set[str], used: dict[str, str]
    ) -> None:
        self.program, self.where, self.written, self.used = program, where, written, used

    def check(self, op: p.Op) -> None:
        out = _get(self.program.buffers, op.out, f"{self.where}: buffer")
        if out.of is not None:
            self.fail(f"{op.out!r} is a view; ops write whole buffers")
        self.own = op.out, isinstance(op, IN_PLACE)
        getattr(self, f"_{op.name}")(op, out.dim)

    def fail(self, message: str) -> NoReturn:
        raise ValueError(f"{self.where}: {message}")

    def read(self, name: str) -> int:
        """The width of a buffer that holds something."""
        buffer = _get(self.program.buffers, name, f"{self.where}: buffer")
        root = buffer.of or name
        if root not in self.written:
            self.fail(f"{name!r} is read before it is written")
        out, in_place = self.own
        if root == out and not (in_place and buffer.of is None):
            self.fail(f"it can't read {name!r} and write {out!r} at once")
        return int(buffer.dim)

    def same(self, got: int, wanted: int, what: str) -> None:
        if got != wanted:
            self.fail(f"{what} has {got} columns, not {wanted}")

    def vector(self, name: str, dim: int) -> None:
        weight = _get(self.program.weights, name, f"{self.where}: weight")
        if weight.kind != "vector" or weight.shape != (dim,):
            self.fail(f"weight {name!r} is {weight.kind} {weight.shape}, not vector ({dim},)")

    def matrix(self, name: str, rows: int | None, columns: int) -> None:
        weight = _get(self.program.weights, name, f"{self.where}: weight")
        fits = weight.kind == "matrix" and weight.shape[1] == columns
        if not fits or (rows is not None and weight.shape[0] != rows):
            wanted = f"matrix ({'any' if rows is None else rows}, {columns})"
            self.fail(f"weight {name!r} is {weight.kind} {weight.shape}, not {wanted}")

    def leaf(self, name: str, kind: str, dim: int, width: int | None = None) -> p.Leaf:
        leaf: p.Leaf = _get(self.program.leaves, name, f"{self.where}: leaf")
        if leaf.kind != kind or leaf.dim != dim or (width is not None and leaf.width != width):
            self.fail(f"leaf {name!r} is a {leaf.kind} of {leaf.dim}, not a {kind} of {dim}")
        if kind in ("window", "cache") and name in self.used:
            self.fail(f"leaf {name!r} belongs to another op")
        self.used.setdefault(name, self.where.split()[0])
        return leaf

    # ---- one method an op, named after it ----

    def _embed(self, op: p.Embed, dim: int) -> None:
        if op.of not in ("symbol", "position"):
            self.fail(f"it can't embed {op.of!r}")
        self.matrix(op.weight, None, dim)
        if op.index is not None:
            index = _get(self.program.weights, op.index, f"{self.where}: weight")
            if op.of != "position" or index.kind != "table":
                self.fail("an index is a table of positions")

    def _symbol(self, op: p.Symbol, dim: int) -> None:
        self.same(dim, 1, op.out)

    def _wave(self, op: p.Wave, dim: int) -> None:
        self.vector(op.rate, dim)
        self.vector(op.phase, dim)

    def _linear(self, op: p.Linear, dim: int) -> None:
        self.matrix(op.weight, dim, self.read(op.x))
        if op.bias is not None:
            self.vector(op.bias, dim)

    def _bias(self, op: p.Bias, dim: int) -> None:
        self.same(self.read(op.x), dim, op.x)
        self.vector(op.weight, dim)

    def _add(self, op: p.Add | p.Mul, dim: int) -> None:
        self.same(self.read(op.a), dim, op.a)
        self.same(self.read(op.b), dim, op.b)

    _mul = _add

    def _norm(self, op: p.Norm, dim: int) -> None:
        self.same(self.read(op.x), dim, op.x)
        if op.kind not in ("layer", "rms"):
            self.fail(f"unknown kind {op.kind!r}")
        bounded(f"{self.where}: epsilon", op.epsilon, 1e-12, 1)
        bounded(f"{self.where}: width", op.width, 0, dim)
        width = op.width or dim
        if dim % width:
            self.fail(f"heads of {width} don't fit into {dim} columns")
        self.vector(op.weight, width)
        if op.bias is not None:
            self.vector(op.bias, width)

    def _activate(self, op: p.Activate, dim: int) -> None:
        self.same(self.read(op.x), dim, op.x)
        self.function(op.kind)

    def function(self, kind: str) -> None:
        if kind not in p.FUNCTIONS:
            self.fail(f"unknown function {kind!r}; known: {', '.join(p.FUNCTIONS)}")

    def _gate(self, op: p.Gate, dim: int) -> None:
        self.same(self.read(op.x), 2 * dim, op.x)
        self.function(op.kind)

    def _rope(self, op: p.Rope, dim: int) -> None:
        self.same(self.read(op.x), dim, op.x)
        bounded(f"{self.where}: width", op.width, 2, dim)
        bounded(f"{self.where}: base", op.base, 1, 1e12)
        bounded(f"{self.where}: limit", op.limit, 0, p.WIDEST)
        bounded(f"{self.where}: scale", op.scale, 1e-3, 100)
        for rate in op.rates:
            bounded(f"{self.where}: rate", rate, 0, 1e3)
        if op.rates and len(op.rates) != op.width // 2:
            self.fail(f"{len(op.rates)} rates for {op.width // 2} pairs")
        if op.width % 2 or dim % op.width:
            self.fail(f"heads of {op.width} don't fit into {dim} columns")

    def _attend(self, op: p.Attend, dim: int) -> None:
        self.same(self.read(op.q), dim, op.q)
        bounded(f"{self.where}: heads", op.heads, 1, dim)
        keys = self.read(op.k)
        self.same(self.read(op.v), keys, op.v)
        if dim % op.heads or keys % (dim // op.heads):
            self.fail(f"{op.heads} heads don't fit {dim} and {keys} columns")
        if op.heads % (keys * op.heads // dim):
            self.fail(f"{op.heads} heads can't share {keys * op.heads // dim} keys")
        self.leaf(op.cache, "cache", keys, dim // op.heads)
        bounded(f"{self.where}: window", op.window, 1, p.WIDEST)
        bounded(f"{self.where}: sinks", op.sinks, 0, p.WIDEST)
        if op.edge is not None:
            self.same(self.read(op.edge), dim, op.edge)

    def _cross(self, op: p.Cross, dim: int) -> None:
        self.same(self.read(op.q), dim, op.q)
        bounded(f"{self.where}: heads", op.heads, 1, dim)
        if dim % op.heads:
            self.fail(f"{op.heads} heads don't fit {dim} columns")
        self.leaf(op.memory, "fixed", 2 * dim)

    def _cell(self, op: p.Cell, dim: int) -> None:
        gates = {"tanh": 1, "lstm": 4, "gru": 3, "mingru": 2}.get(op.kind)
        if gates is None:
            self.fail(f"unknown kind {op.kind!r}")
        self.same(self.read(op.x), gates * dim, op.x)
        self.leaf(op.state, "window", 2 * dim if op.kind == "lstm" else dim, 1)
        if (op.kind == "mingru") != (op.weight is None) or (op.weight is None) != (op.bias is None):
            self.fail("a mingru has no recurrent weight and bias, any other cell has both")
        if op.weight is not None and op.bias is not None:
            self.matrix(op.weight, gates * dim, dim)
            self.vector(op.bias, gates * dim)

    def _recent(self, op: p.Recent, dim: int) -> None:
        x = self.read(op.x)
        leaf = self.leaf(op.state, "window", x)
        self.same(dim, x * leaf.width, op.out)

    def _backoff(self, op: p.Backoff, dim: int) -> None:
        self.read(op.x)
        self.same(dim, self.program.size, op.out)
        tables = [
            _get(self.program.weights, name, f"{self.where}: weight")
            for name in (op.contexts, op.grams, op.values, op.backoff)
        ]
        if any(t.kind != "table" for t in tables):
            self.fail("its weights must be tables")
        contexts, grams, values, backoff = (t.shape[0] for t in tables)
        if values != grams or backoff != contexts + 1 or grams <= self.program.size:
            self.fail("its tables don't fit each other")

    def _near(self, op: p.Near, dim: int) -> None:
        self.leaf(op.state, "symbols", 1)
        size = self.taps(op.taps) * self.channels()
        if dim % size:
            self.fail(f"{dim} columns can't be shared by {size} symbols")
        self.matrix(op.weight, self.channels() * self.program.size, dim // size)

    def _around(self, op: p.Around, dim: int) -> None:
        count, writer = self.taps(op.taps), self.used.get(op.state)
        if op.x is None and writer is None:
            self.fail(f"no op before gives the leaf {op.state!r} its values")
        if op.x is not None and (writer is not None or self.where.startswith("op")):
            self.fail(f"one op in rows or pixels gives the leaf {op.state!r} its values")
        leaf = self.leaf(op.state, "grid", dim // count)
        self.same(dim, count * leaf.dim, op.out)
        if op.x is not None:
            self.same(self.read(op.x), leaf.dim, op.x)
        ahead = self.used[op.state] == "rows"
        if any(down == 0 and right > 0 for down, right in op.taps) and not ahead:
            self.fail("a tap lies on a pixel to come")

    def taps(self, taps: tuple[p.Tap, ...]) -> int:
        """How many there are."""
        bounded(f"{self.where}: number of taps", len(taps), 1, 2**16)
        for down, right in taps:
            bounded(f"{self.where}: tap", down, -p.WIDEST, 0)
            bounded(f"{self.where}: tap", right, -p.WIDEST, p.WIDEST)
        return len(taps)

    def channels(self) -> int:
        if self.program.grid is None:
            self.fail("it needs a grid")
        return self.program.grid[2]


def _width(program: p.Program, name: str) -> int:
    return int(_get(program.buffers, name, "buffer").dim)


def _get(named: Mapping[str, Any], name: str, what: str) -> Any:
    if not isinstance(name, str) or name not in named:
        raise ValueError(f"{what} {name!r} is not there")
    return named[name]
