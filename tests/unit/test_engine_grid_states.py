"""Pictures in the compiled engine and in torch: states treated in any way say what one pass says.

Shapes: B rows of a batch, T symbols of a picture, R undoable tail.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chainrule import native
from chainrule.artifact import Artifact, load_artifact, on_meta
from chainrule.codecs.image import PixelCodec
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.space import Space
from chainrule.core.state import State
from chainrule.engine.backend import Choice
from chainrule.engine.compiled import Compiled
from chainrule.engine.quantize import DTYPES, DType
from chainrule.engine.reference import Reference
from chainrule.models.pixelcnn import PixelCNN, PixelCNNConfig
from tests.laws.tolerances import FLOAT32, FLOAT64

needs_engine = pytest.mark.skipif(native._native is None, reason="installed without a compiler")
SIZE = 3
GRIDS = ((3, 3, 1), (3, 2, 3), (1, 4, 3), (4, 1, 3), (4, 1, 1), (1, 5, 1), (1, 1, 3), (2, 2, 5))


def told(labels: list[int]) -> Condition | None:
    return Condition(label=torch.tensor(labels)) if any(k >= 0 for k in labels) else None


@dataclass
class Held:
    """A state, and what every row of it has consumed."""

    state: State
    symbols: list[list[int]]
    labels: list[int]


class Trial:
    """States of one model at random, each beside one pass of ``oracle`` in float64."""

    def __init__(self, seed: int, backend: str) -> None:
        self.dice = dice = random.Random(seed)
        torch.manual_seed(seed)
        grid, dilations = GRIDS[seed % len(GRIDS)], dice.choice(((1,), (1, 2), (4,)))
        kernel, self.labels = dice.choice((3, 5)), dice.choice((0, 2))
        space = Space.picture(grid, SIZE)
        head = "categorical" if backend != "torch" else dice.choice((None, "logistic"))
        model = PixelCNN(
            PixelCNNConfig(space, 2, 6, 5, kernel, dilations, head, 3, labels=self.labels)
        )
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)
        self.oracle = PixelCNN(model.config).double().eval()
        self.oracle.load_state_dict(model.state_dict())
        self.limit, self.end = FLOAT64, space.max_len or 0
        self.model: SequenceModel = self.oracle
        if backend == "reference":
            program: Any = self.oracle.lower()
            self.model = Reference(self.oracle, program, dtype=torch.float64)
        elif backend == "engine":
            self.model, self.limit = Compiled(model.eval(), "f32", 1), FLOAT32
        self.line, self.known = grid[1] * grid[2], {}
        self.pool = [self.begun()]

    known: dict[tuple[tuple[int, ...], int], Tensor]

    def begun(self) -> Held:
        rows = self.dice.choice((1, 2, 3))
        labels = [self.dice.randrange(self.labels) if self.labels else -1 for _ in range(rows)]
        return Held(self.model.start(rows, told(labels)), [[] for _ in range(rows)], labels)

    def laws(self, symbols: list[int], label: int) -> Tensor:
        """[T, V] of a picture that begins so; what comes later is not seen by the law looked at."""
        key = (*symbols, *([0] * (self.end - len(symbols)))), label
        if key not in self.known:
            law: Any = self.oracle(torch.tensor([key[0]]), told([label]))
            self.known[key] = law.log_probs()[0]
        return self.known[key]

    def check(self, held: Held) -> None:
        law: Any = self.model.predict(held.state)
        got, wanted, mine = law.log_probs().double(), [], []
        tail = held.state.tail
        for b, (symbols, label) in enumerate(zip(held.symbols, held.labels, strict=True)):
            for k in range(tail + 1):
                n = len(symbols) - tail + k
                assert torch.isfinite(got[b, k]).all()
                if n < self.end:  # behind the last symbol a law says nothing
                    wanted.append(self.laws(symbols[:n], label)[n])
                    mine.append(got[b, k])
        if wanted:
            apart = (torch.stack(mine) - torch.stack(wanted)).norm()
            assert apart <= self.limit * torch.stack(wanted).norm()

    def step(self) -> None:
        """One state more, by what may be done to one; or one that nobody holds any more."""
        dice = self.dice
        at = dice.randrange(len(self.pool))
        held, what = self.pool[at], dice.choice(["extend"] * 5 + ["rewind"] * 3 + list("scfd"))
        rows, room = len(held.symbols), self.end - max(map(len, held.symbols))
        if what == "extend" and room:
            length = min(room, dice.choice((1, 1, 1, 2, 3, self.line, self.line + 1, self.end)))
            x = [[dice.randrange(SIZE) for _ in range(length)] for _ in range(rows)]
            tail = dice.choice((0, 1, length, 100))
            state = self.model.extend(held.state, torch.tensor(x), tail)
            both = zip(held.symbols, x, strict=True)
            made = Held(state, [a + b for a, b in both], held.labels)
        elif what == "rewind":
            n = [dice.randint(0, held.state.tail) for _ in range(rows)]
            if dice.random() < 0.3:
                n = [held.state.tail] * rows
            cut = [row[: len(row) - k] for row, k in zip(held.symbols, n, strict=True)]
            made = Held(held.state.rewind(n), cut, held.labels)
        elif what == "s":
            named = [dice.randrange(rows) for _ in range(dice.choice((1, 2, 3)))]
            parts = [held.symbols[b] for b in named], [held.labels[b] for b in named]
            made = Held(held.state.select(named), *parts)
        elif what == "c":
            other = dice.choice(self.pool)
            if rows + len(other.symbols) > 5:
                return
            state = State.concat([held.state, other.state])
            made = Held(state, held.symbols + other.symbols, held.labels + other.labels)
        elif what == "f":
            made = self.begun()
        else:
            self.pool = self.pool[:at] + self.pool[at + 1 :] if len(self.pool) > 1 else self.pool
            return
        self.check(made)
        if dice.random() < 0.5:
            self.pool[at] = made  # nobody holds the old one: its places may be written
        else:
            self.pool = [*self.pool, made][-8:]


def trial(seed: int, backend: str, steps: int) -> None:
    made = Trial(seed, backend)
    for _ in range(steps):
        made.step()
        if made.dice.random() < 0.2:
            for held in made.pool:  # what became of others has not changed them
                made.check(held)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "backend", ["torch", "reference", pytest.param("engine", marks=needs_engine)]
)
@torch.no_grad()
def test_states_treated_at_random(seed: int, backend: str):
    trial(seed, backend, 12 if backend == "reference" else 50)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", pytest.param("engine", marks=needs_engine)])
@torch.no_grad()
def test_many_states_treated_at_random(backend: str):
    for seed in range(100, 200):
        trial(seed, backend, 100)


@needs_engine
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("labels", [(), ("a", "b")])
@torch.no_grad()
def test_a_saved_run_is_the_one_in_memory(tmp_path: Path, dtype: DType, labels: tuple[str, ...]):
    """Convolutions read from the file row by row: the same bits."""
    torch.manual_seed(0)
    codec = PixelCodec(4, 3, colour="rgb", levels=4, labels=labels)
    config = PixelCNNConfig(codec.space, 2, 20, 18, 5, labels=len(labels), head="categorical")
    run = Artifact(PixelCNN(config).eval(), codec)
    run.save_config(tmp_path)
    run.save_weights(tmp_path)
    x = torch.randint(4, (2, 36))
    cond = Condition(label=torch.tensor([1, -1])) if labels else None
    again = load_artifact(tmp_path)
    got = again.runner(Choice("engine", dtype, ""))
    assert on_meta(again.outline) == (not labels)  # the vectors of labels are torch's
    wanted = Compiled(run.model, dtype, 1)
    assert torch.equal(got(x, cond).log_prob(x), wanted(x, cond).log_prob(x))


@torch.no_grad()
def test_rows_of_one_label_share_the_work_of_its_memory(monkeypatch: pytest.MonkeyPatch):
    """The torch start, of which the engine takes the memory alone, is run once a label."""
    torch.manual_seed(0)
    config = PixelCNNConfig(Space.picture((3, 2, 1), SIZE), 2, 6, 5, 3, labels=2)
    model = PixelCNN(config).double().eval()
    program: Any = model.lower()
    engine, begun, rows = Reference(model, program, dtype=torch.float64), model.start, []

    def counted(batch: int, cond: Condition | None = None) -> State:
        rows.append(batch)
        return begun(batch, cond)

    monkeypatch.setattr(model, "start", counted)
    x = torch.randint(SIZE, (5, 6))
    for labels in ([1, 1, 0, -1, 1], [-1] * 5):
        law = engine.predict(engine.extend(engine.start(5, told(labels)), x[:, :4]))
        wanted = model(x, told(labels)).log_probs()[:, 4:5]
        torch.testing.assert_close(law.log_probs(), wanted, rtol=FLOAT64, atol=FLOAT64)
    assert rows == [3, 1]
    with pytest.raises(ValueError, match="condition 'label' has 2 rows, the batch 5"):
        engine.start(5, told([1, 1]))
