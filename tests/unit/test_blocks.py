"""GGUF's blocks in the engine, exactly as they are stored.

Shapes: M rows and K columns of a matrix, N groups of 32 columns, B rows of x, L symbols.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from chainrule import native
from chainrule.engine import program as p
from chainrule.engine.compiled import Compiled
from chainrule.engine.quantize import BLOCKS, DType, Narrow, blocks, layout, narrow
from chainrule.engine.reference import Reference
from tests.laws.tolerances import EXACT, FLOAT32
from tests.models.blocks import made, part
from tests.models.programs import SYMBOLS, Owner, Sketch

compiled: Any = native._native
built = pytest.mark.skipif(compiled is None, reason="installed without a compiler")
SETS = ("portable", "avx2", "avx512")


@pytest.fixture(params=SETS)
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """One instruction set, and the one that was used before."""
    used = compiled.chainrule_used()
    try:
        compiled.chainrule_use(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    compiled.chainrule_use(used)


def pair(
    program: p.Program, tensors: dict[str, Tensor], kept: dict[str, Narrow], threads: int = 1
) -> tuple[Compiled, Reference]:
    """Compiled, and torch in float64 with the weights that those blocks are."""
    wide = {**tensors, **{name: each.wide() for name, each in kept.items()}}
    owner = Owner(program, wide)

    def rows(weight: p.Weight, first: int, count: int, dtype: DType) -> Tensor | Narrow:
        begin = weight.first + first
        if weight.source in kept:
            assert dtype == kept[weight.source].dtype
            return part(kept[weight.source], begin, count)
        return tensors[weight.source][begin : begin + count]

    engine = Compiled(owner, {k: n.dtype for k, n in kept.items()}, threads, rows)
    engine._machine.set_alone(0)  # so little work is shared in tests only
    return engine, Reference(owner, program, wide, torch.float64)


def product(kind: DType, rows: int, columns: int, threads: int = 1) -> tuple[Compiled, Reference]:
    """y = x Wᵀ + b, of an x that is not rounded: whole numbers whose largest is 127 a group."""
    sketch = Sketch(columns)
    x = sketch.tensors["table"].mul_(40).round_().clamp_(-127, 127)
    x[:, ::32] = 127 * x[:, ::32].sign() + 127 * (x[:, ::32] == 0)
    bias = sketch.vector("b", rows)
    sketch.weights["w"] = p.Weight("w", (rows, columns))
    sketch.ops.append(p.Linear(sketch.buffer("y", rows), "x", "w", bias))
    kept = {"w": made(kind, rows, columns)}
    return pair(sketch.program("y"), sketch.tensors, kept, threads)


def symbols(rows: int, length: int) -> Tensor:
    dice = torch.Generator().manual_seed(1)
    return torch.randint(SYMBOLS, (rows, length), generator=dice)


def outcome(model: Compiled | Reference, x: Tensor, lengths: list[int]) -> Tensor:
    """What y is for x [B, L], taken in so many at a time."""
    state, parts = model.start(len(x)), []
    for each in x.split(lengths, 1):
        state = model.extend(state, each, tail=each.shape[1])
        parts.append(state.window("hidden")[:, -each.shape[1] :])
    return torch.cat(parts, 1)


# ---- products and lookups ----


@built
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize(
    "shape", [(1, 32), (16, 64), (17, 96), (40, 160), (129, 32), (300, 64), (531, 288)]
)
def test_linear(kind: DType, shape: tuple[int, int]):
    for threads in (1, 2):
        engine, reference = product(kind, *shape, threads)
        for batch in (1, 8, 40):
            x = symbols(batch, 2)
            got, wanted = (outcome(m, x, [2]) for m in (engine, reference))
            assert torch.isfinite(wanted).all()
            assert (got - wanted).norm() <= FLOAT32 * wanted.norm()


@built
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("kind", BLOCKS)
def test_the_same_bits_for_any_batch_chunk_and_threads(kind: DType):
    sketch = Sketch(96)  # x is rounded here
    for name, rows, columns in (("a", 64, 96), ("c", 83, 64)):
        sketch.weights[name] = p.Weight(name, (rows, columns))
    sketch.ops.append(p.Linear(sketch.buffer("z", 64), "x", "a"))
    sketch.ops.append(p.Linear(sketch.buffer("y", 83), "z", "c"))
    kept = {"a": made(kind, 64, 96), "c": made(kind, 83, 64, 1)}
    program, x = sketch.program("y"), symbols(40, 9)
    engine = pair(program, sketch.tensors, kept)[0]
    wanted = torch.cat([outcome(engine, x[b : b + 1], [1] * 9) for b in range(40)])
    two = pair(program, sketch.tensors, kept, threads=2)[0]
    for model in (engine, two):
        for rows in (1, 2, 3, 5, 8, 13, 21, 40):
            got = outcome(model, x[:rows], [4, 2, 3])
            assert torch.equal(got, wanted[:rows])


@built
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("kind", BLOCKS)
def test_what_is_looked_up_is_what_is_stored(kind: DType):
    """And multiplied too, in a tied head that has a row less; to the bit."""
    for columns in (32, 160):
        sketch, kept = Sketch(columns), {"table": made(kind, SYMBOLS + 1, columns)}
        sketch.buffer("logits", SYMBOLS)
        weights = {
            "table": sketch.weights["table"],
            "head": p.Weight("table", (SYMBOLS - 1, columns), first=1),
        }
        size, buffers = SYMBOLS - 1, {**sketch.buffers, "logits": p.Buffer(SYMBOLS - 1)}
        head = p.Linear("logits", "x", "head")
        program = p.Program(size, size, buffers, weights, {}, tuple(sketch.ops), (head,), "x")
        engine, reference = pair(program, {}, kept)
        x = symbols(3, 5).clamp_max(size - 1)
        got, wanted = (outcome(m, x, [5]) for m in (engine, reference))
        assert (got - wanted).norm() <= EXACT


@built
def test_the_machine_refuses_what_does_not_fit():
    machine = product("q4_1", 4, 32)[0]._machine
    for arguments in [
        (5, 4, 33, 32),
        (6, 4, 40, 32),
        (7, 4, 8, 32),
        (8, 4, 32, 32),
        (-1, 4, 32, 32),
    ]:
        with pytest.raises(ValueError, match=r"columns that don't fill|unknown type"):
            machine.add_matrix(*arguments)
    data, scale = torch.zeros(4, 16, dtype=torch.uint8), torch.zeros(4, 2, dtype=torch.int16)
    index = machine.add_matrix(7, 4, 32, 32)
    machine.fill(index, 0, 4, data.numpy(), scale.numpy())
    with pytest.raises(ValueError, match="scales that don't fit"):
        machine.fill(index, 0, 4, data.numpy(), scale[:, :1].numpy())


@built
def test_only_what_is_stored_so_can_be_had():
    program = product("q8_0", 4, 32)[0].program
    owner = Owner(program, Sketch(32).tensors)
    for dtype in ("q8_0", "gguf", {"w": "int8"}, {"w": "q5_0"}):
        with pytest.raises(ValueError, match="not one of"):
            Compiled(owner, dtype)
    with pytest.raises(ValueError, match="not to q8_0"):
        narrow(torch.ones(2, 32), "q8_0")


# ---- blocks ----


@pytest.mark.parametrize("kind", BLOCKS)
def test_wide_is_what_the_format_says(kind: DType):
    """w = d q, d (q - 8) or d q + m, number by number."""
    each = made(kind, 5, 96)
    assert each.scale is not None and each.columns == 96
    wide = each.wide()
    for row in range(5):
        for k in range(96):
            group, nibble = k // 32, int(each.data[row, k // 2]) >> k % 2 * 4 & 15
            d, w = float(each.scale[row, group]), float(nibble - 8)
            if kind == "q8_0":
                w = float(each.data[row, k])
            least = 0.0
            if each.minimum is not None:
                w, least = float(nibble), float(each.minimum[row, group])
            assert wide[row, k] == torch.tensor(d * w + least).float()
    found = {k: (tuple(t.shape), t.dtype) for k, t in each.parts("w").items()}
    assert found == {f"w{k}": v for k, v in layout(kind, 5, 96).items()}


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_that_contradict_themselves(kind: DType):
    each = made(kind, 4, 64)
    data, scale, least = each.data, each.scale, each.minimum
    assert scale is not None
    other = None if least is not None else scale
    wrong: list[tuple[Any, Any, Any]] = [
        (data[:3], scale, least), (data[:, :-1], scale, least), (data, scale[:, :1], least),
        (data, scale.bfloat16(), least), (data, scale, other), (data.float(), scale, least),
        (data[:0], scale[:0], least), (data[0], scale, least), (data, scale / 0, least),
    ]  # fmt: skip
    for parts in wrong:
        with pytest.raises(ValueError, match=r"parts|finite|don't fill"):
            blocks(kind, *parts)
    with pytest.raises(ValueError, match="'int8' is not one of"):
        blocks("int8", data, scale, least)
