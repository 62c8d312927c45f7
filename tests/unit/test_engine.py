"""Every op of the compiled engine alone beside torch in float64, by every instruction set.

Shapes: B rows, L symbols in a call, D width of a buffer, K head width, G key-value heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chainrule import native
from chainrule.engine import program as p
from chainrule.engine.compiled import Compiled
from chainrule.engine.quantize import DTYPES, DType
from chainrule.engine.reference import Reference
from tests.laws.tolerances import BFLOAT16, EXACT, FLOAT32, INT8
from tests.models.programs import SYMBOLS, Sketch

compiled: Any = native._native
pytestmark = pytest.mark.skipif(compiled is None, reason="installed without a compiler")

SETS = ("portable", "avx2", "avx512")
WIDTHS = (1, 15, 16, 33, 100)
# Activations are rounded as the weights are: to bf16, or to int8 in groups. Or they are not.
ROUNDED: dict[DType, float] = {
    "f32": FLOAT32, "bf16": BFLOAT16, "int8": INT8, "int8-row": INT8, "q4": INT8,
}  # fmt: skip


@pytest.fixture(autouse=True, params=SETS)
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """One instruction set, and the one that was used before."""
    used = compiled.chainrule_used()
    try:
        compiled.chainrule_use(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    compiled.chainrule_use(used)


def symbols(rows: int, length: int, seed: int = 0) -> Tensor:
    dice = torch.Generator().manual_seed(seed)
    return torch.randint(SYMBOLS, (rows, length), generator=dice)


def apart(got: Tensor, wanted: Tensor) -> float:
    """The distance, relative to what is wanted."""
    assert got.shape == wanted.shape and torch.isfinite(wanted).all()
    return float((got.double() - wanted).norm() / wanted.norm().clamp_min(1e-30))


def hidden(pair: tuple[Compiled, Reference], rows: int, *lengths: int) -> list[Tensor]:
    """What both make of the same symbols, taken in so many at a time."""
    made = []
    for model in pair:
        state, parts = model.start(rows), []
        for i, length in enumerate(lengths):
            state = model.extend(state, symbols(rows, length, i), tail=length)
            parts.append(state.window("hidden")[:, -length:])
        made.append(torch.cat(parts, 1))
    return made


def alone(sketch: Sketch, out: str, limit: float, dtype: DType = "f32") -> None:
    got, wanted = hidden(sketch.pair(out, dtype), 3, 1, 6)
    assert apart(got, wanted) <= limit


# ---- from symbols and positions ----


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", WIDTHS)
def test_embed(dim: int, dtype: DType):
    """As the engine holds them, to the bit: an embedding that is not multiplied is in bf16."""
    alone(Sketch(dim), "x", EXACT, dtype)


def test_embed_what_is_multiplied_too():
    """A tied head: what is looked up is what is multiplied, dequantised."""
    for dtype in DTYPES:
        sketch = Sketch(70)
        program = sketch.program("x")
        head = p.Linear("logits", "x", "table")
        sketch.buffer("logits", SYMBOLS + 1)
        tied = p.Program(
            SYMBOLS + 1, SYMBOLS, sketch.buffers, {"table": program.weights["table"]}, {},
            program.ops, (head,), "x",
        )  # fmt: skip
        sketch.program = lambda hidden, tied=tied: tied  # type: ignore[method-assign]
        pair = sketch.pair("x", dtype)
        got, wanted = hidden(pair, 3, 5)
        assert apart(got, wanted) <= EXACT
        x = symbols(3, 5)
        got, wanted = (model(x).log_prob(x) for model in pair)
        assert apart(got, wanted) <= ROUNDED[dtype]


def far(sketch: Sketch, out: str) -> None:
    """At the first positions, at the border of what is kept in a table, and far out."""
    pair = sketch.pair(out, "f32")
    pos = [0, 8189, 8191, 100_000, 2**30]
    x = symbols(len(pos), 4)
    got, wanted = (model.run(x, pos, {}, {}, {})[0] for model in pair)
    for each, truth in zip(got, wanted, strict=True):
        assert apart(each, truth) <= FLOAT32


@pytest.mark.parametrize("dim", [1, 17, 48])
def test_wave(dim: int):
    sketch = Sketch(dim)
    rate, phase = sketch.vector("rate", dim), sketch.vector("phase", dim)
    sketch.ops.append(p.Wave(sketch.buffer("y", dim), rate, phase))
    far(sketch, "y")


@pytest.mark.parametrize(("width", "heads"), [(2, 1), (6, 2), (34, 1), (80, 2)])
@pytest.mark.parametrize("limit", [0, 5, 8192])
def test_rope(width: int, heads: int, limit: int):
    sketch = Sketch(width * heads)
    sketch.ops.append(p.Rope(sketch.buffer("y", width * heads), "x", width, 10000.0, limit))
    far(sketch, "y")


def test_rope_has_a_table_for_every_base_and_scale():
    sketch, given = Sketch(12), (0.3, 1e-9)
    for i, (width, base, rates, scale) in enumerate(
        [(4, 10.0, (), 1.0), (4, 1e6, (), 1.0), (12, 10.0, (), 1.0), (4, 10.0, given, 1.0),
         (4, 10.0, given, 1.2), (4, 10.0, (), 0.7)]
    ):  # fmt: skip
        out, x = sketch.buffer(f"y{i}", 12), f"y{i - 1}" if i else "x"
        sketch.ops.append(p.Rope(out, x, width, base, 8192 * (i % 2), rates, scale))
    far(sketch, "y5")


def test_rope_of_given_rates_is_that_of_their_base():
    models = []
    for rates in ((), tuple(float(r) for r in 1e4 ** (-np.arange(0, 34, 2) / 34))):
        sketch = Sketch(68)
        sketch.ops.append(p.Rope(sketch.buffer("y", 68), "x", 34, 1e4, 0, rates))
        models.append(sketch.pair("y", "f32")[0])
    assert torch.equal(*(m.run(symbols(2, 9), [0, 8190], {}, {}, {})[0] for m in models))


# ---- from each position to the same ----


@pytest.mark.parametrize("dim", WIDTHS)
def test_bias_add_mul(dim: int):
    """In place too, and of the columns of another buffer."""
    for op in (
        p.Bias("y", "x", "v"), p.Bias("x", "x", "v"), p.Add("y", "x", "z"), p.Add("x", "x", "z"),
        p.Add("x", "x", "x"), p.Mul("y", "x", "z"), p.Mul("x", "z", "x"),
    ):  # fmt: skip
        sketch = Sketch(dim)
        sketch.vector("v", dim)
        sketch.buffer("y", dim)
        sketch.project("wide", 3 * dim + 1)
        sketch.buffer("z", dim, "wide", dim + 1)
        sketch.ops.append(op)
        alone(sketch, op.out, FLOAT32)


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("dim", WIDTHS)
def test_norm(kind: Any, dim: int):
    for bias in (True, False):
        sketch = Sketch(dim, scale=3)
        more = sketch.vector("b", dim) if bias else None
        sketch.ops.append(p.Norm(sketch.buffer("y", dim), "x", sketch.vector("v", dim), more, kind))
        got, wanted = hidden(sketch.pair("y", "f32"), 3, 5)
        if kind == "layer" and dim == 1 and not bias:
            assert not got.any()  # no width, no variance
        else:
            assert apart(got, wanted) <= FLOAT32


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize(("width", "heads"), [(2, 3), (17, 1), (40, 2), (64, 3)])
def test_norm_of_heads(width: int, heads: int, kind: Any, dtype: DType):
    """Each by itself, of the columns of another buffer too; one head is the whole."""
    for bias in (True, False):
        sketch = Sketch(20, scale=3)
        sketch.project("wide", 2 * width * heads + 1)
        sketch.buffer("z", width * heads, "wide", width * heads + 1)
        more = sketch.vector("b", width) if bias else None
        out, weight = sketch.buffer("y", width * heads), sketch.vector("v", width)
        sketch.ops.append(p.Norm(out, "z", weight, more, kind, width=width))
        got, wanted = hidden(sketch.pair("y", dtype), 3, 5)
        assert apart(got, wanted) <= ROUNDED[dtype]
        if heads == 1:
            sketch.ops[-1] = p.Norm(out, "z", weight, more, kind)
            sketch.buffers.pop("logits")
            assert torch.equal(hidden(sketch.pair("y", dtype), 3, 5)[0], got)


GRID = 10  # activations are looked at from -GRID to GRID
TRUTH = {
    "relu": torch.relu,
    "gelu": lambda x: 0.5 * x * torch.special.erfc(-x / 2**0.5),
    "gelu_tanh": lambda x: x * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)),
    "silu": lambda x: x * torch.sigmoid(x),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


@pytest.mark.parametrize("kind", p.FUNCTIONS)
def test_functions(kind: Any):
    """Value by value, in the tails as well; where tanh would cancel, relative to x."""
    sketch = Sketch(4001)
    grid = torch.linspace(-GRID, GRID, 4001)
    sketch.tensors["table"][:] = torch.where(grid.abs() < 1e-3, grid * 1e-3, grid)
    sketch.ops.append(p.Activate(sketch.buffer("y", 4001), "x", kind))
    x = sketch.tensors["table"][0].double()
    got = hidden(sketch.pair("y", "f32"), 1, 1)[0][0, 0].double()
    wanted = TRUTH[kind](x)
    size = x.abs() if kind == "gelu_tanh" else wanted.abs()
    assert ((got - wanted).abs() <= FLOAT32 * size + 1e-37).all()


@pytest.mark.parametrize("kind", p.FUNCTIONS)
def test_functions_have_limits(kind: Any):
    sketch = Sketch(3)
    sketch.tensors["table"][:] = torch.tensor([-1e4, 0.0, 1e4])
    sketch.ops.append(p.Activate(sketch.buffer("y", 3), "x", kind))
    got = hidden(sketch.pair("y", "f32"), 1, 1)[0][0, 0]
    low, high = {"sigmoid": (0, 1), "tanh": (-1, 1)}.get(kind, (0, 1e4))
    wanted = torch.tensor([low, 0.5 if kind == "sigmoid" else 0, high])
    assert ((got - wanted).abs() <= 1e-30).all()


@pytest.mark.parametrize("dim", WIDTHS)
def test_gate(dim: int):
    for kind in p.FUNCTIONS:
        sketch = Sketch(2 * dim)
        sketch.ops.append(p.Gate(sketch.buffer("y", dim), "x", kind))
        alone(sketch, "y", FLOAT32)


# ---- products ----


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (17, 33), (40, 129), (300, 70)])
def test_linear(shape: tuple[int, int], dtype: DType):
    """Beside the weights as they were rounded; x is rounded too."""
    for bias in (True, False):
        sketch = Sketch(shape[1])
        more = sketch.vector("b", shape[0]) if bias else None
        weight = sketch.matrix("w", *shape)
        sketch.ops.append(p.Linear(sketch.buffer("y", shape[0]), "x", weight, more))
        alone(sketch, "y", ROUNDED[dtype], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_of_rows_that_differ_much(dtype: DType):
    """Every group and row has a scale of its own: what is small isn't lost in what is large."""
    sketch = Sketch(200)
    sketch.tensors["table"] *= torch.logspace(-3, 3, SYMBOLS + 1)[:, None]
    sketch.tensors["table"][5] = 0
    weight = sketch.matrix("w", 50, 200)
    sketch.tensors["w"] *= torch.logspace(-3, 3, 50)[:, None]
    sketch.tensors["w"][7] = 0
    sketch.ops.append(p.Linear(sketch.buffer("y", 50), "x", weight))
    for got, wanted in zip(*hidden(sketch.pair("y", dtype), 40, 1), strict=True):
        assert apart(got, wanted) <= 2 * ROUNDED[dtype]
        assert not got[:, 7].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_has_the_same_bits_for_any_number_of_rows(dtype: DType):
    sketch = Sketch(129)
    sketch.project("y", 83)
    model = sketch.pair("y", dtype)[0]
    x = symbols(40, 1)
    every = [model.run(x[b : b + 1], [0], {}, {}, {})[0] for b in range(40)]
    for rows in range(1, 41):
        for first in (0, 40 - rows):
            got = model.run(x[first : first + rows], [0] * rows, {}, {}, {})[0]
            assert torch.equal(got, torch.cat(every[first : first + rows]))


# ---- attention ----


def attention(
    width: int, heads: int, groups: int, window: int, sinks: int = 0, edge: bool = False
) -> Sketch:
    sketch = Sketch(24, scale=2)
    sketch.project("qkv", (heads + 2 * groups) * width)
    sketch.buffer("q", heads * width, "qkv")
    sketch.buffer("k", groups * width, "qkv", heads * width)
    sketch.buffer("v", groups * width, "qkv", (heads + groups) * width)
    if edge:
        sketch.project("e", heads * width)
    sketch.leaves["kv"] = p.Leaf("cache", groups * width, width)
    out = sketch.buffer("y", heads * width)
    more = "e" if edge else None
    sketch.ops.append(p.Attend(out, "q", "k", "v", "kv", heads, window, sinks, more))
    return sketch


HEADS = [(2, 1, 1), (3, 4, 2), (8, 6, 1), (16, 3, 3), (17, 2, 1), (40, 4, 2), (80, 2, 1)]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(("width", "heads", "groups"), HEADS)
def test_attend(width: int, heads: int, groups: int, dtype: DType):
    sketch = attention(width, heads, groups, 1000)
    got, wanted = hidden(sketch.pair("y", dtype), 2, 1, 5, 40, 17, 2)
    assert apart(got, wanted) <= ROUNDED[dtype]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("window", [1, 3, 16, 50])
def test_attend_within_a_window(window: int, dtype: DType):
    for sinks in (0, 1, 4, 20):
        for edge in (False, True):
            sketch = attention(18, 4, 2, window, sinks, edge)
            got, wanted = hidden(sketch.pair("y", dtype), 2, 30, 1, 65, 4, 90)
            assert apart(got, wanted) <= ROUNDED[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_attend_keeps_the_bits_when_its_cache_is_compacted(dtype: DType):
    """One call makes room for everything; step by step, the cache forgets and begins anew."""
    for sinks in (0, 5):
        model = attention(18, 4, 2, 11, sinks, sinks > 0).pair("y", dtype)[0]
        x = symbols(2, 300)
        state = model.start(2)
        most = model.extend(state, x, tail=300).window("hidden")
        parts, longest, compacted = [], 0, False
        for t in range(300):
            state = model.extend(state, x[:, t : t + 1])
            parts.append(state.window("hidden"))
            compacted |= state.grow("kv").lens[0] < longest
            longest = max(longest, state.grow("kv").lens[0])
        assert compacted
        assert torch.equal(torch.cat(parts, 1), most[:, 1:])


@pytest.mark.parametrize(("width", "heads"), [(2, 1), (3, 4), (16, 2), (40, 3)])
def test_cross(width: int, heads: int):
    """Of padded memory of any dtype: it stays float32."""
    sketch = Sketch(width * heads)
    sketch.leaves["memory"] = p.Leaf("fixed", 2 * width * heads)
    sketch.ops.append(p.Cross(sketch.buffer("y", width * heads), "x", "memory", heads))
    for dtype in ("f32", "int8"):
        alone(sketch, "y", FLOAT32, dtype)
        sketch.buffers.pop("logits")


# ---- recurrence ----


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", p.CELLS)
@pytest.mark.parametrize("dim", [1, 16, 37])
def test_cell(dim: int, kind: Any, dtype: DType):
    gates = {"tanh": 1, "lstm": 4, "gru": 3, "mingru": 2}[kind] * dim
    sketch = Sketch(20)
    sketch.project("gates", gates)
    sketch.leaves["cell"] = p.Leaf("window", dim * (2 if kind == "lstm" else 1), fill=0.25)
    own = None, None
    if kind != "mingru":
        own = sketch.matrix("w", gates, dim, dim**-0.5), sketch.vector("b", gates)
    sketch.ops.append(p.Cell(sketch.buffer("y", dim), "gates", "cell", kind, *own))
    got, wanted = hidden(sketch.pair("y", dtype), 3, 1, 4, 30)
    assert apart(got, wanted) <= ROUNDED[dtype]


@pytest.mark.parametrize("dim", [1, 5, 16])
@pytest.mark.parametrize("width", [1, 2, 7])
def test_recent(dim: int, width: int):
    sketch = Sketch(dim)
    sketch.leaves["recent"] = p.Leaf("window", dim, width, fill=-2.0)
    sketch.ops.append(p.Recent(sketch.buffer("y", dim * width), "x", "recent"))
    alone(sketch, "y", EXACT)


def test_symbol():
    sketch = Sketch(3)
    sketch.ops.append(p.Symbol(sketch.buffer("y", 1)))
    alone(sketch, "y", EXACT)
