"""Pictures in the compiled engine: rows and pixels kept, the same bits whatever the batch.

Shapes: B rows of a batch, L symbols in a call, T symbols of a picture, D width of a buffer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chainrule import native
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.space import Space
from chainrule.core.state import Slab, State
from chainrule.decoding.warps import Warps
from chainrule.engine import program as p
from chainrule.engine.compiled import Compiled
from chainrule.engine.quantize import DTYPES, DType
from chainrule.engine.reference import Reference
from chainrule.models.pixelcnn import PixelCNN, PixelCNNConfig
from tests.laws import test_engine as law
from tests.laws.entries import Entry
from tests.laws.tolerances import BFLOAT16, FLOAT32, FLOAT64, INT8, Q4
from tests.models.programs import Owner, Sketch

compiled: Any = native._native
needs_engine = pytest.mark.skipif(compiled is None, reason="installed without a compiler")
LIMITS: dict[DType, float] = {
    "f32": FLOAT32, "bf16": BFLOAT16, "int8": INT8, "int8-row": INT8, "q4": Q4,
}  # fmt: skip
SIZE = 4
GRIDS = ((5, 4, 1), (3, 5, 3), (4, 1, 2), (1, 6, 1))
HERE: tuple[p.Tap, ...] = ((0, 0),)
BACK: tuple[p.Tap, ...] = ((-1, 2), (0, -2), (0, -1), (0, 0))


@pytest.fixture(params=("portable", "avx2", "avx512"))
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """One instruction set, and the one that was used before."""
    used = compiled.chainrule_used()
    try:
        compiled.chainrule_use(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    compiled.chainrule_use(used)


def symbols(rows: int, grid: tuple[int, int, int], seed: int = 0) -> Tensor:
    dice = torch.Generator().manual_seed(seed)
    return torch.randint(SIZE, (rows, int(np.prod(grid))), generator=dice)


def sketch(grid: tuple[int, int, int], dim: int = 5) -> Sketch:
    """Every op that may stand in rows and pixels, and in ops what reads a picture."""
    s, each = Sketch(dim, size=SIZE), 3
    s.grid = grid
    s.leaves = {"seen": p.Leaf("symbols", 1), "memory": p.Leaf("fixed", 2 * dim)}
    s.leaves |= {name: p.Leaf("grid", dim) for name in ("down", "kept", "across")}
    table = s.matrix("near", grid[2] * SIZE, each)
    above, wide = (
        ((-2, 0), (-1, -1), (-1, 0), (-1, 1)),
        ((-1, -1), (-1, 0), (0, -1), (0, 0), (0, 1)),
    )

    def near(out: str, taps: tuple[p.Tap, ...]) -> p.Near:
        return p.Near(s.buffer(out, len(taps) * grid[2] * each), "seen", table, taps)

    def around(out: str, leaf: str, taps: tuple[p.Tap, ...], x: str | None = None) -> p.Around:
        return p.Around(s.buffer(out, len(taps) * dim), leaf, taps, x)

    s.rows.append(near("above", above))
    s.project("v", dim, "above", s.rows)
    s.rows.append(around("wide", "down", wide, "v"))
    s.project("gates", 2 * dim, "wide", s.rows)
    one = s.vector("one", dim)
    s.rows += [
        p.Gate(s.buffer("w", dim), "gates", "sigmoid"),
        p.Norm(s.buffer("n", dim), "w", one, one, "layer"),
        p.Cross(s.buffer("told", dim), "n", "memory", 1),
        p.Add("v", "v", "told"),
        p.Mul("v", "v", "n"),
        p.Bias("v", "v", one),
        p.Activate("v", "v", "tanh"),
        around("kept", "kept", HERE, "v"),
    ]
    s.pixels.append(near("left", ((-1, 0), (0, -2), (0, -1), (0, 0))))
    s.project("h", dim, "left", s.pixels)
    s.pixels += [
        around("down", "down", ((0, 2), (-1, -1))),
        around("pair", "across", BACK, "h"),
    ]
    s.project("u", dim, "pair", s.pixels)
    s.project("d", dim, "down", s.pixels)
    s.pixels += [
        around("own", "kept", HERE),
        p.Add("h", "u", "own"),
        p.Mul("h", "h", "d"),
        around("last", "kept", ((-1, 0),)),
    ]
    s.ops += [around("all", "across", ((0, 0), (-1, 1), (0, -1))), near("earlier", HERE)]
    s.project("a", dim, "all")
    s.project("e", dim, "earlier")
    s.ops += [p.Add("a", "a", "e"), p.Add("a", "a", "x"), around("here", "kept", HERE)]
    s.ops.append(p.Mul("a", "a", "here"))
    return s


def every(model: Compiled | Reference, x: Tensor, lengths: list[int]) -> Tensor:
    """The hidden behind every symbol of x [B, T] and the start, so many taken at a time."""
    state, done, parts = model.start(len(x)), 0, []
    parts.append(state.window("hidden"))
    while done < x.shape[1]:
        part = x[:, done : done + lengths[len(parts) % len(lengths)]]
        state = model.extend(state, part, tail=part.shape[1])
        parts.append(state.window("hidden")[:, -part.shape[1] :])
        done += part.shape[1]
    return torch.cat(parts, 1)


@needs_engine
@pytest.mark.parametrize("grid", GRIDS)
def test_ops_of_pictures(grid: tuple[int, int, int], kernels: str):
    """Beside torch, in chunks that end anywhere; past the last symbol, finite."""
    pair, x = sketch(grid).pair("a", "f32"), symbols(3, grid)
    with torch.no_grad():
        wanted = every(pair[1], x, [1, 4, 2])
        for lengths in ([1], [7, 3], [100]):
            got = every(pair[0], x, lengths)
            assert torch.isfinite(got).all()
            apart = (got - wanted)[:, :-1].norm() / wanted[:, :-1].norm()
            assert apart <= FLOAT32


def test_near_and_around_are_convolutions():
    """The reference beside torch's own, over a picture that is known."""
    grid, dim = (4, 5, 2), 3
    s = Sketch(2, size=SIZE)
    s.grid, up = grid, tuple((y, x) for y in (-2, -1) for x in (-1, 0, 1))
    s.leaves = {"seen": p.Leaf("symbols", 1), "kept": p.Leaf("grid", dim)}
    near = p.Near(s.buffer("n", 6 * 2 * 2), "seen", s.matrix("t", 2 * SIZE, 2), up)
    s.rows.append(near)
    s.weights["w"] = p.Weight("w", (dim, 24), taps=6)
    s.tensors["w"] = torch.randn(dim, 4, 2, 3, generator=s.dice)
    wide = tuple((y, x) for y in (-1, 0) for x in (-2, 0, 2))
    s.weights["z"] = p.Weight("z", (dim, 6 * dim), taps=6)
    s.tensors["z"] = torch.randn(dim, dim, 2, 3, generator=s.dice)
    s.leaves["out"] = p.Leaf("grid", dim)
    s.rows += [
        p.Linear(s.buffer("v", dim), "n", "w"),
        p.Around(s.buffer("a", 6 * dim), "kept", wide, "v"),
        p.Linear(s.buffer("u", dim), "a", "z"),
        p.Around(s.buffer("o", dim), "out", HERE, "u"),
    ]
    s.ops.append(p.Around(s.buffer("h", dim), "out", HERE))
    program = s.program("h")
    x, tensors = symbols(2, grid), {k: t.double() for k, t in s.tensors.items()}
    model = Reference(Owner(program, s.tensors), program, dtype=torch.float64)
    got = every(model, x, [40])[:, :-1:2].unflatten(1, (4, 5))
    at = x.unflatten(1, (4, 5, 2)) + torch.tensor([0, SIZE])
    e = tensors["t"][at].flatten(3).permute(0, 3, 1, 2)
    v = F.conv2d(F.pad(e, (1, 1, 2, 0))[:, :, :-1], tensors["w"])
    wanted = F.conv2d(F.pad(v, (2, 2, 1, 0)), tensors["z"], dilation=(1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(got, wanted, rtol=FLOAT64, atol=FLOAT64)


# ---- a PixelCNN ----


def net(grid: tuple[int, int, int] = (4, 5, 1), labels: int = 0) -> PixelCNN:
    torch.manual_seed(1)
    space = Space.picture(grid, SIZE)
    config = PixelCNNConfig(
        space, num_layers=3, dim=20, hidden=18, kernel=5, labels=labels, head="categorical"
    )
    model = PixelCNN(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model


def told(rows: int, labels: int) -> Condition | None:
    return Condition(label=torch.arange(rows) % (labels + 1) - 1) if labels else None


@pytest.mark.parametrize(("grid", "labels"), [((4, 5, 1), 0), ((3, 4, 3), 2), ((2, 9, 2), 0)])
def test_a_lowered_pixelcnn_is_the_torch_one(grid: tuple[int, int, int], labels: int):
    model, x, cond = net(grid, labels), symbols(4, grid), told(4, labels)
    program = model.lower()
    assert p.Program.from_json(json.dumps(program.to_json())) == program
    with torch.no_grad():
        wide = PixelCNN(model.config).double().eval()
        wide.load_state_dict(model.state_dict())
        wanted = wide(x, cond).log_prob(x)
        exact = Reference(wide, program, dtype=torch.float64)(x, cond).log_prob(x)
        torch.testing.assert_close(exact, wanted, rtol=FLOAT64, atol=FLOAT64)
        for dtype in DTYPES if compiled is not None else ():
            got = Compiled(model, dtype, 1)(x, cond).log_prob(x)
            assert float((got - wanted).norm() / wanted.norm()) <= LIMITS[dtype]


@pytest.fixture
def _wide() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_wide")
def test_law_14_for_a_picture_with_room():
    """As long as those tests want it, and with labels; the pictures of the registry are smaller."""

    def build() -> SequenceModel:
        space = Space.picture((12, 2, 3), SIZE)
        return PixelCNN(PixelCNNConfig(space, 2, 8, 6, 5, (2, 1), "categorical", labels=2))

    entry = Entry("picture", build, lambda rows, dice: told(rows, 2))
    law.test_14_program_is_torch(entry)
    law.test_14_program_forgets_what_is_out_of_sight(entry)
    law.test_14_program_is_json(entry)


def test_a_mixture_has_no_program():
    space = Space.picture((4, 4, 1), 256)
    model = PixelCNN(PixelCNNConfig(space, num_layers=1, dim=4, hidden=4, head="logistic"))
    assert model.lower() is None


@needs_engine
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grid", [(4, 5, 1), (3, 4, 3)])
def test_any_batch_chunk_and_threads(grid: tuple[int, int, int], dtype: DType):
    x, source = symbols(17, grid), net(grid)
    model = Compiled(source, dtype, 1)
    wanted = every(model, x, [100])
    for lengths in ([1], [7, 1, 5]):
        assert torch.equal(every(model, x[:3], lengths), wanted[:3])
    for rows in (slice(3, 4), slice(2, 15)):
        assert torch.equal(every(model, x[rows], [100]), wanted[rows])
    two = Compiled(source, dtype, 2)
    two._machine.set_alone(0)  # so little work is shared in tests only
    assert torch.equal(every(two, x, [100]), wanted)


@needs_engine
def test_rows_that_stand_at_different_places():
    """Some at the border of a row, some inside a pixel: each as it would be alone."""
    grid, most = (4, 3, 2), 24
    x, model = symbols(9, grid), Compiled(net(grid), "bf16", 1)
    alone = every(model, x, [most])
    lens = [0, 1, 2, 5, 6, 7, 11, 12, 13]
    states = [model.extend(model.start(1), x[b : b + 1, :n]) for b, n in enumerate(lens)]
    state = State.concat(states)
    for _ in range(most - max(lens)):
        new = torch.stack([x[b, n : n + 1] for b, n in enumerate(lens)])
        state, lens = model.extend(state, new), [n + 1 for n in lens]
        for b, n in enumerate(lens):
            assert torch.equal(state.window("hidden")[b, 0], alone[b, n])


@needs_engine
def test_branches_of_one_state():
    """Across the border of a row, which is written ahead; old states go on rightly."""
    grid = (5, 4, 1)
    model = Compiled(net(grid), "f32", 1)
    x = symbols(1, grid)

    def fresh(*parts: Tensor) -> Tensor:
        state = model.extend(model.start(1), torch.cat(parts, 1))
        return state.window("hidden")[:, -1]

    root = model.extend(model.start(1), x[:, :7], tail=7)
    others = [symbols(1, grid, seed=i) for i in range(1, 4)]
    grown = [model.extend(root, y[:, :3], tail=3) for y in others]
    for y, state in zip(others, grown, strict=True):
        assert torch.equal(state.window("hidden")[:, -1], fresh(x[:, :7], y[:, :3]))
    again = [model.extend(s, y[:, 3:9]) for s, y in zip(grown, others, strict=True)]
    for y, state in zip(others, again, strict=True):
        assert torch.equal(state.window("hidden")[:, -1], fresh(x[:, :7], y[:, :9]))
    back = grown[0].rewind([2])  # before the border that it had crossed
    other = model.extend(back, others[1][:, :8])
    wanted = fresh(x[:, :7], others[0][:, :1], others[1][:, :8])
    assert torch.equal(other.window("hidden")[:, -1], wanted)
    inside = model.extend(root, x[:, 7:10], tail=1).rewind([1])  # in the row that was written ahead
    assert torch.equal(
        model.extend(inside, others[2][:, :5]).window("hidden")[:, -1],
        fresh(x[:, :9], others[2][:, :5]),
    )
    assert torch.equal(model.extend(root, x[:, 7:]).window("hidden")[:, -1], fresh(x))


@needs_engine
@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8"])
@pytest.mark.parametrize(("grid", "labels"), [((4, 5, 1), 0), ((3, 4, 3), 2)])
def test_rollout_is_steps(grid: tuple[int, int, int], labels: int, dtype: DType):
    """A whole picture in one call, and in two: symbols, log-probabilities, states; no copy."""
    model, end = Compiled(net(grid, labels), dtype, 1), int(np.prod(grid))
    rows = [0, 1, 2, 3, 4]
    noise = Noise.seeded(1, rows)
    warp = Warps.of(2).concat([Warps.of(3, temperature=0.8, top_k=3)])
    state, last = model.start(5, told(5, labels)), symbols(5, grid)[:, :1]
    copies = Slab.copies
    rolled = model.stretch(state, last, end, noise, warp)
    assert rolled is not None and rolled.count == [end] * 5 and model.stretch_length >= end
    assert Slab.copies == copies
    for b in rows:
        alone = model.stretch(
            model.start(5, told(5, labels)).select([b]), last[b : b + 1], end, noise.select([b]),
            warp.select([b]),
        )  # fmt: skip
        assert alone is not None and torch.equal(alone.symbols[0], rolled.symbols[b])
    first = model.rollout(state, last, 6, noise, warp)
    assert first is not None
    assert torch.equal(first[1], rolled.symbols[:, :6])
    copies = Slab.copies
    for t in range(end - 1):
        state = model.extend(state, last)
        law = model.predict(state)
        last = warp(law).sample(noise.at(state.pos(1)))
        assert torch.equal(last, rolled.symbols[:, t : t + 1])
        assert torch.equal(law.log_prob(last), rolled.log_prob[:, t : t + 1])
        if t == 5:
            assert torch.equal(first[0].window("hidden")[:, -1:], state.window("hidden"))
    assert Slab.copies <= copies + len(model.grown)  # beside the rolled ones, which live on
    assert torch.isfinite(model.extend(state, last).window("hidden")).all()


@needs_engine
def test_a_picture_has_an_end():
    grid = (2, 3, 1)
    model = Compiled(net(grid), "f32", 1)
    full = model.extend(model.start(2), symbols(2, grid))
    for more in (1, 3):
        with pytest.raises(ValueError, match="a picture has 6 symbols and no more"):
            model.extend(full, torch.zeros(2, more, dtype=torch.int64))
    assert (
        model.stretch(
            full, torch.zeros(2, 1, dtype=torch.int64), 4, Noise.seeded(0, [0, 1]), Warps.of(2)
        )
        is None
    )
    most = model.stretch(
        model.start(1), torch.zeros(1, 1, dtype=torch.int64), 99, Noise.seeded(0, [0]), Warps.of(1)
    )
    assert most is not None and most.count == [6]
    with pytest.raises(ValueError, match="outside the alphabet"):
        model.extend(model.start(1), torch.full((1, 1), SIZE))


@needs_engine
def test_walks_are_extensions():
    grid = (3, 4, 1)
    model = Compiled(net(grid), "bf16", 1)
    x = symbols(4, grid)
    root = model.extend(model.start(1), x[:1, :2])
    walk = model.walk(root)
    for row, length in ((1, 5), (2, 9), (1, 10), (3, 3), (0, 0), (2, 10)):
        path = x[row, :length].tolist()
        state = model.extend(root, x[row : row + 1, :length]) if length else root
        law = walk.law(path)
        assert law is not None
        assert torch.equal(torch.from_numpy(law), model.predict(state).log_probs()[0, -1])
    assert walk.law(x[0, :11].tolist()) is None


# ---- positions by a table ----


@needs_engine
def test_positions_by_a_table():
    """Three tables, of which one ends early; no context is needed and none ends."""
    s = Sketch(6)
    for i, rows in enumerate(([3, 1, 2, 0, 2], [0, 0, 0, 4], [1])):
        s.weights[f"i{i}"] = p.Weight(f"i{i}", (len(rows),), kind="table")
        s.tensors[f"i{i}"] = torch.tensor(rows)
        s.ops.append(p.Embed(s.buffer(f"y{i}", 6), s.matrix(f"t{i}", 5, 6), "position", f"i{i}"))
        s.ops.append(p.Add("x", "x", f"y{i}"))
    program = s.program("x")
    for wrong in (torch.tensor([5, 0, 0, 0, 0]), torch.tensor([0, -1, 0, 0, 0]), torch.ones(5)):
        with pytest.raises(ValueError, match="names other rows"):
            Compiled(Owner(program, {**s.tensors, "i0": wrong}), "f32", 1)
    s.buffers.pop("logits")
    engine, oracle = s.pair("x", "f32")
    x = torch.arange(18).view(2, 9)
    got, wanted = every(engine, x, [2, 3]), every(oracle, x, [9])
    assert float((got - wanted).norm() / wanted.norm()) <= FLOAT32
