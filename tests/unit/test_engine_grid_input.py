"""Pictures from outside: Programs and arguments that are wrong are refused by name, never run.

Shapes: B rows of a batch, L symbols in a call.
"""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import numpy as np
import pytest
import torch

from chainrule import native
from chainrule.core.noise import Noise
from chainrule.core.space import Space
from chainrule.decoding.warps import Warps
from chainrule.engine import program as p
from chainrule.engine.backend import choose
from chainrule.engine.compiled import Compiled
from chainrule.engine.program import Program
from chainrule.engine.quantize import DTYPES
from chainrule.engine.reference import Reference
from chainrule.models.pixelcnn import PixelCNN, PixelCNNConfig
from tests.models.programs import Owner, Sketch
from tests.unit.test_engine_fuzz import disturbed, refused_or_done, tensors
from tests.unit.test_engine_grid import sketch
from tests.unit.test_program import Json, disturb, put, small

_native: Any = native._native
needs_engine = pytest.mark.skipif(_native is None, reason="installed without a compiler")
FAR = 2**62


def picture() -> Json:
    """A program with every op of pictures in it."""
    data = sketch((3, 4, 2)).program("a").to_json()
    assert Program.from_json(data).to_json() == data
    return json.loads(json.dumps(data))


def at(data: Json, part: str, out: str) -> Json:
    """The op of a part that writes ``out`` first."""
    op: Json = next(op for op in data[part] if op["out"] == out)
    return op


def change(part: str, out: str, **fields: Any) -> Any:
    return lambda data: at(data, part, out).update(fields)


def move(out: str, source: str, target: str) -> Any:
    """An op to the end of another part."""
    return lambda data: data[target].append(at(data, source, out))


BAD = [
    ("no grid", put("grid", None), "need a grid"),
    ("a flat grid", put("grid", [3, 4]), "grid: expected 3 values"),
    ("an empty grid", put("grid", [0, 4, 2]), "grid: height must be 1"),
    ("a grid without end", put("grid", [2**20, 2**20, 1]), "grid: symbols"),
    ("values without end", lambda data: [x.update(dim=2**24) for x in data["leaves"].values()],
     "values of all grids"),
    ("a row without end", put("grid", [1, 2**24, 1]), "columns of a picture row"),
    ("rows that are no list", put("rows", {}), "'rows' must be a list"),
    ("an unknown key", change("rows", "above", wait=1), r"rows 0 \(near\): unknown key 'wait'"),
    ("context", put("context", 5), "neither context nor blank"),
    ("blank", put("blank", 4), "neither context nor blank"),
    ("a window", put("leaves", "more", {"kind": "window", "dim": 2}), "there is no window"),
    ("a cache", put("leaves", "more", {"kind": "cache", "dim": 2}), "there is no cache"),
    ("width of a grid", put("leaves", "down", "width", 2), "a grid has no width"),
    ("width of symbols", put("leaves", "seen", "width", 2), "a symbols has no width"),
    ("symbols in columns", put("leaves", "seen", "dim", 2), "leaf 'seen' is a symbols of 2"),
    ("no taps", change("rows", "above", taps=[]), "number of taps must be 1"),
    ("a tap below", change("rows", "above", taps=[[1, 0]]), "tap must be"),
    ("a tap far off", change("rows", "above", taps=[[-(10**400), 0]]), "tap must be"),
    ("half a tap", change("rows", "above", taps=[[1]]), "expected 2 values, found 1"),
    ("columns of near", put("buffers", "above", "dim", 25), "25 columns can't be shared by 8"),
    ("rows of near", put("weights", "near", "shape", [7, 3]), r"not matrix \(8, 3\)"),
    ("near a grid", change("rows", "above", state="down"), "leaf 'down' is a grid"),
    ("around symbols", change("pixels", "own", state="seen"), "leaf 'seen' is a symbols of 1"),
    ("columns of around", put("buffers", "pair", "dim", 21), "columns, not 2"),
    ("width of around", change("pixels", "pair", x="left"), "left has 24 columns, not 5"),
    ("written twice", change("rows", "kept", state="down"), "one op in rows or pixels gives"),
    ("written in ops", change("ops", "all", x="x", taps=[[0, 0]]), "one op in rows or pixels"),
    ("read before", lambda data: data["rows"].append(at(data, "ops", "all")), "no op before gives"),
    ("to the right", change("pixels", "pair", taps=[[0, 1]] * 4), "a tap lies on a pixel to come"),
    ("in ops too", change("ops", "all", taps=[[0, 1]] * 3), "a tap lies on a pixel to come"),
    ("another part's buffer", change("pixels", "h", x="v"), "'v' is read before it is written"),
    ("the pixel's buffer", change("ops", "e", x="left"), "'left' is read before it is written"),
    ("embed in rows", move("x", "ops", "rows"), "it can't stand in the rows"),
    ("symbol in pixels", lambda data: data["pixels"].append({"op": "symbol", "out": "x"}),
     "it can't stand in the pixels"),
    ("near in the head", move("above", "rows", "head"), "it can't stand in the head"),
    ("taps of a vector", put("weights", "one", "taps", 5), "5 taps don't fit"),
    ("taps that don't fit", put("weights", "near", "taps", 2), "2 taps don't fit"),
    ("taps below 0", put("weights", "near", "taps", -1), "taps must be"),
    ("an index that isn't there", change("ops", "x", of="position", index="i"), "'i' is not there"),
    ("an index of symbols", change("ops", "x", index="near"), "an index is a table of positions"),
    ("an index that is none", change("ops", "x", of="position", index="near"),
     "an index is a table of positions"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "wrong", "message"), BAD, ids=[name for name, *_ in BAD])
def test_programs_that_are_refused(name: str, wrong: Any, message: str):
    data = picture()
    wrong(data)
    with pytest.raises(ValueError, match=message):
        Program.from_json(data)


def test_convolutions_that_do_not_fit():
    s = sketch((3, 4, 2))
    weight = s.weights["u.weight"]
    s.weights["u.weight"] = type(weight)("u.weight", weight.shape, taps=4)
    program = s.program("a")
    for shape in ((5, 20), (5, 4, 5), (5, 5, 3), (4, 5, 2, 2)):
        with pytest.raises(ValueError, match=r"weight 'u\.weight': tensor"):
            Reference(Owner(program, {**s.tensors, "u.weight": torch.ones(shape)}), program)
    Reference(Owner(program, {**s.tensors, "u.weight": torch.ones(5, 5, 2, 2)}), program)


@needs_engine
def test_near_takes_a_convolutions_tensor():
    """Its taps come one behind the other, in the engine as in torch."""
    s = Sketch(3, size=4)
    s.grid, s.leaves = (2, 3, 1), {"seen": p.Leaf("symbols", 1)}
    s.weights["t"] = p.Weight("t", (4, 4), taps=2)
    s.tensors["t"] = torch.arange(16.0).view(4, 2, 2)
    s.ops.append(p.Near(s.buffer("n", 4), "seen", "t", ((0, -1),)))
    program, x = s.program("n"), torch.tensor([[1, 2]])
    owner = Owner(program, s.tensors)
    for model in (Reference(owner, program), Compiled(owner, "f32", 1)):
        found = model.extend(model.start(1), x).window("hidden")[0, 0]
        assert found.tolist() == [8, 10, 9, 11]


@needs_engine
def test_a_picture_that_is_too_large_for_a_program():
    with torch.device("meta"):
        model = PixelCNN(PixelCNNConfig(Space.picture((256, 256, 1), 2), 12, 128, 64))
    found = choose(model)
    assert found.backend == "torch" and "values of all grids must be" in found.reason
    with pytest.raises(ValueError, match=r"backend engine can't be: .*values of all grids"):
        choose(model, "engine")


# ---- the native part ----

GRID = [2, 3, 2]
BUFFERS = [[4, 0, 0], [12, 1, 0], [8, 2, 0], [5, 3, 0], [4, 4, 0], [4, 5, 0]]
LEAVES = [[3, 1, 1], [4, 4, 1], [4, 4, 1]]
OPS = [
    ("near", [1, 0, 1, -1, -1, -1, 0, -1, 1], 2), ("linear", [0, 1, 0, -1], 2),
    ("around", [2, 1, 0, -1, 0, 0, 1], 2), ("linear", [4, 2, 3, -1], 2),
    ("near", [1, 0, 1, 0, -2, 0, -1, 0, 0], 3), ("linear", [0, 1, 0, -1], 3),
    ("around", [2, 2, 0, 0, -1, 0, 0], 3), ("around", [4, 1, -1, -1, 2], 3),
    ("around", [5, 2, -1, 0, 0], 0), ("place", [4, 4, 5], 0), ("add", [5, 5, 4], 0),
    ("linear", [3, 5, 2, -1], 1),
]  # fmt: skip


def machine(threads: int = 1) -> Any:
    m = _native.ChainruleMachine(BUFFERS, LEAVES, 5, 3, 5, 0, threads, GRID)

    def matrix(rows: int, columns: int) -> None:
        index = m.add_matrix(0, rows, columns, 0)
        m.fill(index, 0, rows, np.full((rows, columns), 0.1, np.float32), np.zeros(0, np.float32))

    matrix(4, 12)
    m.add_vector(np.full(2 * 5 * 2, 0.1, np.float32))
    matrix(5, 4)
    matrix(4, 8)
    matrix(3, 4)
    m.add_ints(np.array([0, 2, 1]))
    return m


def finished(threads: int = 1) -> Any:
    m = machine(threads)
    for name, numbers, part in OPS:
        m.add_op(name, numbers, 0.0, part)
    return m


def kept() -> list[Any]:
    cells = [np.full((2, 7, 4), 0.5, np.float32) for _ in range(2)]
    return [np.zeros((2, 13), np.int64), *cells]


def run_arguments() -> list[Any]:
    x, hidden = np.array([[0, 1, 2], [3, 4, 0]]), np.zeros((2, 3, 4), np.float32)
    return [x, [0, 5], kept(), [[0, 5]] * 3, [], [], [], [], hidden, False]


def rollout_arguments() -> list[Any]:
    warps = np.array([[1.0, 0, 1, 0, 1]] * 2)
    first = [[0, 1], [1, 4], [1, 4], np.array([1, 2]), warps, -1, kept(), [[1, 4]] * 3]
    hidden, symbols = np.zeros((2, 5, 4), np.float32), np.zeros((2, 5), np.int64)
    return [*first, [], [], [], [], hidden, symbols, np.zeros((2, 5)), np.zeros(2, np.int64)]


@needs_engine
@pytest.mark.parametrize(
    ("leaves", "grid", "message"),
    [
        (LEAVES, [], "unknown kind"), (LEAVES, [2, 3], "height, width and channels"),
        (LEAVES, [0, 3, 2], "size out of bounds"), (LEAVES, [FAR, 3, 2], "size out of bounds"),
        (LEAVES, [2**12, 2**12, 2], "more symbols"), (LEAVES, [1024] * 3, "more symbols"),
        ([[3, 2, 1]], GRID, "picture whose size"), ([[4, 4, 2]], GRID, "picture whose size"),
        ([[4, 2**24, 1]], [2**12, 2**12, 1], "picture whose size"), ([[5, 1, 1]], GRID, "leaf"),
        ([], [1, 2**24, 1], "more columns"),
    ],
)  # fmt: skip
def test_machines_that_are_refused(leaves: Any, grid: Any, message: str):
    with pytest.raises(ValueError, match=message):
        _native.ChainruleMachine(BUFFERS, leaves, 5, 3, 5, 0, 1, grid)


@needs_engine
@pytest.mark.parametrize(
    ("name", "numbers", "part", "message"),
    [
        ("near", [1, 0, 1], 2, "wrong number"), ("near", [1, 0, 1, 0, 0, 0], 2, "wrong number"),
        ("near", [1, 1, 1, 0, 0, 0, 0, 0, 0], 2, "leaf that doesn't fit"),
        ("near", [1, 9, 1, 0, 0, 0, 0, 0, 0], 2, "leaf that doesn't fit"),
        ("near", [3, 0, 1, 0, 0], 2, "columns that don't fit"),
        ("near", [1, 0, 0, 0, 0, 0, 0, 0, 0], 2, "weight that doesn't fit"),
        ("near", [1, 0, 99, 0, 0, 0, 0, 0, 0], 2, "weight that doesn't fit"),
        ("near", [1, 0, 1, 0, 0], 2, "weight that doesn't fit"),
        ("near", [1, 0, 1, 0, 0, FAR, 0, 0, -FAR], 2, "tap out of bounds"),
        ("near", [99, 0, 1, 0, 0], 2, "buffer out of range"),
        ("near", [1, 0, 1, 0, 0, 0, 0, 0, 0], 1, "stand in the head"),
        ("around", [2, 1, 0, 0, 0], 2, "columns that don't fit"),
        ("around", [4, 0, 0, 0, 0], 2, "leaf that doesn't fit"),
        ("around", [4, 1, 4, 0, 0], 2, "buffer that doesn't fit"),
        ("around", [4, 1, 2, 0, 0], 2, "buffer that doesn't fit"),
        ("around", [4, 1, 99, 0, 0], 2, "buffer that doesn't fit"),
        ("around", [4, 1, -2, 0, 0], 2, "buffer that doesn't fit"),
        ("around", [4, 1, -1, 0, 0], 2, "no op writes"),
        ("around", [4, 1, 0, 0, 0], 0, "another op writes"),
        ("around", [4, 1, 0, -FAR, 0], 2, "tap out of bounds"),
        ("embed", [0, 2, 0], 2, "rows or pixels"), ("symbol", [0], 3, "one column|rows or pixels"),
        ("linear", [0, 1, 0, -1], 4, "unknown part"), ("linear", [0, 1, 0, -1], -1, "unknown part"),
        ("place", [4, 4, 1], 0, "another kind"), ("place", [4, 99, 5], 0, "weight out of range"),
        ("place", [0, 2, 6], 0, "index past the last row"),
    ],
)  # fmt: skip
def test_ops_that_are_refused(name: str, numbers: list[int], part: int, message: str):
    m = machine()
    m.add_ints(np.array([0, -1]))
    with pytest.raises(ValueError, match=message):
        m.add_op(name, numbers, 0.0, part)


@needs_engine
def test_parts_of_pictures_need_a_grid():
    m = _native.ChainruleMachine(BUFFERS, [], 5, 3, 5, 0, 1)
    m.add_matrix(0, 4, 12, 0)
    with pytest.raises(ValueError, match="unknown part"):
        m.add_op("linear", [0, 1, 0, -1], 0.0, 2)
    with pytest.raises(ValueError, match="leaf that doesn't fit"):
        m.add_op("around", [4, 0, -1, 0, 0], 0.0, 0)


@needs_engine
def test_calls_that_are_refused():
    m = finished()
    m.run(*run_arguments())
    m.rollout(*rollout_arguments())
    for index, wrong, message in (
        (1, [0, 11], "past the end of its picture"), (1, [0, -1], "out of range"),
        (0, np.array([[0, 1, 5], [0, 0, 0]]), "outside the alphabet"),
        (2, kept()[:2], "number of caches"), (2, [kept()[0], *kept()[:2]], "another shape"),
        (2, [kept()[0][:, :12].copy(), *kept()[1:]], "another shape"),
        (2, [kept()[0].astype(np.float64), *kept()[1:]], "another shape"),
        (2, [kept()[0], kept()[1][:, :6].copy(), kept()[2]], "another shape"),
        (2, [kept()[0], kept()[1][:1], kept()[2]], "another shape"),
    ):  # fmt: skip
        arguments = run_arguments()
        arguments[index] = wrong
        with pytest.raises(ValueError, match=message):
            m.run(*arguments)
    symbols = run_arguments()
    symbols[2][0][:] = -(2**62)  # of what was consumed before: nothing that a table has
    m.run(*symbols)
    assert np.isfinite(symbols[8]).all()
    late = rollout_arguments()
    late[1] = [1, 9]
    with pytest.raises(ValueError, match="past the end"):
        m.rollout(*late)


def build(dice: random.Random) -> Any:
    """A machine whose ops have something wrong, as far as it is built."""
    m = machine(dice.choice((1, 2)))
    for name, numbers, part in OPS:
        refused_or_done(m.add_op, *disturbed([name, numbers, 0.0, part], dice))
    return m


def fuzz_arguments(seed: int) -> int:
    dice, done = random.Random(seed), 0
    first = [BUFFERS, LEAVES, 5, 3, 5, 0, 1, GRID]
    refused_or_done(_native.ChainruleMachine, *disturbed(copy.deepcopy(first), dice))
    m = build(dice) if dice.random() < 0.5 else finished()
    for _ in range(6):
        done += refused_or_done(m.run, *disturbed(run_arguments(), dice))
        done += refused_or_done(m.rollout, *disturbed(rollout_arguments(), dice))
    return done


@needs_engine
def test_random_arguments():
    assert sum(fuzz_arguments(seed) for seed in range(100)) > 200


def run(program: Program, dice: random.Random) -> bool:
    """Two rows as far as their pictures reach, rewound, chosen and drawn; False if not built."""
    owner = Owner(program, tensors(program, dice))
    try:
        model: Any = Reference(owner, program)
        if _native is not None:
            model = Compiled(owner, dice.choice(DTYPES), dice.choice((1, 2)))
    except ValueError:
        return False
    state = model.start(2)
    for length in (3, 2, 9, 4):
        length = min(length, *model.rooms(state))
        x = torch.arange(2 * length).view(2, length) % program.size
        tail = min(2, length)
        state = model.extend(state, x, tail=tail).rewind([tail // 2, tail])
        assert model.predict(state).log_probs().shape == (2, 1, program.size)
    state = state.select([1, 0, 1])
    last = torch.zeros(3, 1, dtype=torch.int64)
    rolled = model.stretch(state, last, 5, Noise.seeded(0, [0, 1, 2]), Warps.of(3))
    assert rolled is None or rolled.symbols.shape[0] == 3
    return True


def fuzz_programs(seed: int, number: int) -> int:
    """How many of so many disturbed programs were run."""
    dice, ran = random.Random(seed), 0
    for _ in range(number):
        data = picture()
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            disturb(data, dice)
        try:
            program = Program.from_json(json.dumps(data))
        except ValueError:
            continue
        if small(program) and program.grid is not None and max(program.grid) < 50:
            ran += run(program, dice)
    return ran


def test_random_programs():
    assert fuzz_programs(0, 120) > 8


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_random_programs(seed: int):
    assert fuzz_programs(seed, 4000) > 160
    if _native is not None:
        assert sum(fuzz_arguments(s) for s in range(1000 * seed, 1000 * seed + 800)) > 1600
