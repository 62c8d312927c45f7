"""How many rows are drawn at a time: by what their states take, and nothing depends on it.

Shapes: T symbols of a sequence.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chainrule.core.model import Condition, SequenceModel
from chainrule.core.state import Fixed, Grow, Window
from chainrule.decoding import infill as filling
from chainrule.decoding import rows as module
from chainrule.decoding.infill import infill
from chainrule.decoding.rows import MOST, rows_at_once
from chainrule.engine.backend import Choice
from chainrule.native import _native
from chainrule.verbs.draw import draw
from tests.laws.tolerances import FLOAT32
from tests.unit.picture_examples import LABELS, run_of

needs_engine = pytest.mark.skipif(_native is None, reason="installed without a compiler")


def taken(model: SequenceModel, length: int) -> int:
    """Bytes of all tensors of a state of one row that holds so many symbols."""
    state = model.extend(model.start(1), torch.zeros(1, length, dtype=torch.int64))
    return sum(
        leaf.slab.tensor.nbytes if isinstance(leaf, Grow) else leaf.t.nbytes
        for leaf in state.leaves.values()
        if isinstance(leaf, Grow | Window | Fixed)
    )


@pytest.mark.parametrize("backend", ["torch", pytest.param("engine", marks=needs_engine)])
@pytest.mark.parametrize("recipe", ["pixelcnn", "transformer", "made", "lstm"])
@torch.no_grad()
def test_the_states_of_all_rows_stay_within_the_bytes(recipe: str, backend: str, monkeypatch):
    run = run_of(recipe, 12, 12)
    if backend == "engine" and recipe == "made":
        pytest.skip("made has no program")
    model = run.model if backend == "torch" else run.runner(Choice("engine", "f32", ""))
    one = taken(model, 143)
    monkeypatch.setattr(module, "BYTES", 20 * one)
    found = rows_at_once(model, 1000, 144)
    assert 9 <= found <= 40, "within the factor two by which a cache grows"
    monkeypatch.setattr(module, "BYTES", 1)
    assert rows_at_once(model, 1000, 144) == 1
    monkeypatch.undo()
    assert rows_at_once(model, 1000, 144) == MOST
    assert rows_at_once(model, 7, 144) == 7


@pytest.mark.parametrize(("recipe", "label"), [("pixelcnn", "dog"), ("lstm", None)])
def test_large_rows_are_drawn_in_turn_and_are_the_same(recipe: str, label, monkeypatch):
    run = run_of(recipe, 4, 4, labels=LABELS if label else ())
    together = draw(run, 5, label=label, backend="torch", strategy="ancestral")
    started, start = [], run.model.start
    cond = Condition(label=torch.tensor([1])) if label else None
    monkeypatch.setattr(module, "BYTES", 2 * module.row_bytes(start(1, cond), 16))
    monkeypatch.setattr(
        run.model, "start", lambda rows, *a, **k: started.append(rows) or start(rows, *a, **k)
    )
    apart = draw(run, 5, label=label, backend="torch", strategy="ancestral")
    assert started[1:] == [2, 2, 1]
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert other.log_prob == pytest.approx(one.log_prob, rel=FLOAT32)


def test_fillings_are_drawn_in_turn_too(monkeypatch):
    model = run_of("lstm", 4, 4).model
    x, known = torch.zeros(16, dtype=torch.int64), torch.arange(16) % 5 > 0
    together = infill(model, x, known, "clamp", 5)
    monkeypatch.setattr(module, "BYTES", 2 * module.row_bytes(model.start(1), 16))
    started, start = [], model.start
    monkeypatch.setattr(model, "start", lambda rows, *a: started.append(rows) or start(rows, *a))
    apart = infill(model, x, known, "clamp", 5)
    assert started[1:] == [2, 2, 1]
    assert torch.equal(together.symbols, apart.symbols)
    torch.testing.assert_close(together.log_prob, apart.log_prob, rtol=FLOAT32, atol=0)


def test_particles_that_no_memory_holds_are_refused(monkeypatch):
    run = run_of("pixelcnn", 12, 12)
    x, known = torch.zeros(144, dtype=torch.int64), torch.arange(144) != 70
    infill(run.model, x, known, "smc", particles=4)
    monkeypatch.setattr(filling, "PARTICLE_BYTES", 3 * taken(run.model, 143))
    with pytest.raises(ValueError, match=r"4 particles of 144 .* give [23] at most \(--particles"):
        infill(run.model, x, known, "smc", particles=4)
