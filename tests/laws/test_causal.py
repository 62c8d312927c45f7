"""Law 2: a law looks at what precedes it, and at nothing else."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from chainrule.core.model import Condition
from tests.laws.entries import Entry, dice, symbols
from tests.laws.track import signature

ROWS = 3


def test_2_causal_to_the_bit(entry: Entry):
    """Other symbols from t on leave the laws up to t as they are, and change some after it."""
    model, length = entry.model(), entry.room(7)
    cond = entry.cond(ROWS, dice())
    x = symbols(model.space, ROWS, length, dice(1))
    other = symbols(model.space, ROWS, length, dice(2))
    if model.space.size is not None:
        other = (x + 1) % model.space.size
    with torch.no_grad():
        wanted = signature(model(x, cond), model.space)
        for t in range(length):
            mixed = torch.cat([x[:, :t], other[:, t:]], 1)
            got = signature(model(mixed, cond), model.space)
            assert torch.equal(got[:, : t + 1], wanted[:, : t + 1]), f"a law up to {t} changed"
            one = torch.cat([x[:, :t], other[:, t : t + 1], x[:, t + 1 :]], 1)
            got = signature(model(one, cond), model.space)
            assert torch.equal(got[:, : t + 1], wanted[:, : t + 1])
            after = slice(t + 1, t + 2) if entry.sees_last else slice(t + 1, length)
            if t < length - 2:
                assert not torch.equal(got[:, after], wanted[:, after]), f"{t} is never seen"


def test_2_causal_by_gradient(entry: Entry):
    """No derivative of a law with respect to what doesn't precede it."""
    model = entry.model()
    if model.space.kind != "real":
        pytest.skip("its symbols have no derivative; the bit test covers it")
    x = symbols(model.space, ROWS, 5, dice(1)).requires_grad_()
    laws = signature(model(x, entry.cond(ROWS, dice())), model.space)
    for t in range(1, 5):
        (slope,) = torch.autograd.grad(laws[:, t].sum(), x, retain_graph=True)
        assert not slope[:, t:].any()
        assert slope[:, t - 1].any()


def test_2_condition_is_read(entry: Entry):
    """Another condition is another law; one that the model doesn't read is refused."""
    model = entry.model()
    x = symbols(model.space, 4, 3, dice())
    one, other = entry.cond(4, dice(1)), entry.cond(4, dice(3))
    if one is not None:
        assert not torch.equal(model(x, one).log_prob(x), model(x, other).log_prob(x))
        with pytest.raises(ValueError, match="has 4 rows, the batch 5"):
            model.start(5, one)
    for name in {f.name for f in fields(Condition)} - model.reads:
        with pytest.raises(ValueError, match=f"does not read the condition '{name}'"):
            model.start(4, Condition(**{name: torch.zeros(4, 2)}))


def test_2_steps_are_known_from_their_own_on(entry: Entry):
    """What is known of step t changes the law of symbol t, and none before it."""
    model = entry.model()
    if "steps" not in model.reads:
        pytest.skip("it is told nothing of steps")
    cond = entry.cond(ROWS, dice())
    assert cond is not None and cond.steps is not None
    x = symbols(model.space, ROWS, 7, dice(1))
    with torch.no_grad():
        wanted = signature(model(x, cond), model.space)
        for t in range(min(7, cond.steps.shape[1])):
            steps = cond.steps.clone()
            steps[:, t] += 1
            got = signature(model(x, replace(cond, steps=steps)), model.space)
            assert torch.equal(got[:, :t], wanted[:, :t])
            assert not torch.equal(got[:, t], wanted[:, t])
