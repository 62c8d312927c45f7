"""Laws 11 to 13: forward, gradients and round trips."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from chainrule.core.config import from_dict, to_dict
from chainrule.core.model import SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.objective import Batch, Example, nll
from chainrule.training.objectives import objective
from tests.laws.entries import Entry, dice, symbols
from tests.laws.track import close, signature

ROWS = 3


def _gradients(model: SequenceModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {k: p.grad for k, p in model.named_parameters() if p.grad is not None}


def test_11_forward_is_the_default_one(entry: Entry):
    """Whatever an author overrides, laws and gradients are those of start, extend, predict."""
    model = entry.model()
    x = symbols(model.space, ROWS, entry.room(7), dice(1))
    cond = entry.cond(ROWS, dice())
    law, default = model(x, cond), SequenceModel.carry(model, x, cond)[0]
    close(signature(law, model.space), signature(default, model.space))
    if model.by_gradient:
        one = _gradients(model, law.log_prob(x).sum())
        other = _gradients(model, default.log_prob(x).sum())
        assert one.keys() == other.keys()
        for name, slope in one.items():
            close(slope, other[name])


def test_11_carry_goes_on(entry: Entry):
    """Pieces of a batch, each behind the state of the one before, are the whole; no graph stays."""
    model = entry.model()
    x = symbols(model.space, ROWS, entry.room(7), dice(1))
    cond = entry.cond(ROWS, dice())
    whole = signature(model(x, cond), model.space)
    first, state = model.carry(x[:, :3], cond)
    close(signature(first, model.space), whole[:, :3])
    assert state.lens == (3,) * ROWS
    assert state.tail == 0
    second, after = model.carry(x[:, 3:5], None, state)
    close(signature(second, model.space), whole[:, 3:5])
    close(signature(model(x[:, 3:5], None, state), model.space), whole[:, 3:5])
    close(signature(model(x[:, 5:], None, after), model.space), whole[:, 5:])
    if model.by_gradient:
        _gradients(model, first.log_prob(x[:, :3]).sum())
        _gradients(model, second.log_prob(x[:, 3:5]).sum())


def test_11_padding_is_not_scored(entry: Entry):
    """The loss of rows of unlike lengths is the sum of theirs alone."""
    model = entry.model()
    lens = (entry.room(6), 2, 4)
    cond = entry.cond(3, dice(4))
    x = symbols(model.space, 3, max(lens), dice(1))
    fields = {} if cond is None else cond.given()
    rows = [Example(x[i, :n], {k: v[i] for k, v in fields.items()}) for i, n in enumerate(lens)]
    total, count = nll(model, Batch.of(rows))
    each = [nll(model, Batch.of([row])) for row in rows]
    assert float(count) == sum(lens)
    close(total, sum(loss for loss, _ in each))


def test_12_gradients_and_overfitting(entry: Entry):
    """Gradients reach every parameter, and one batch can be learned by heart."""
    model = entry.model()
    if not model.by_gradient:
        pytest.skip("it is estimated, not trained by gradients")
    length = entry.room(8)
    every = symbols(model.space, 64, length, dice(3))
    blanks = "hybrid" if hasattr(model.masked, "taught") else "any-order"
    taught = objective(blanks if model.masked else "nll", 1.0)  # extra heads and blanks too
    batch = Batch(every, (length,) * 64, entry.cond(64, dice(5)))
    loss, _ = taught(model, batch, Noise.seeded(0, range(64)))
    slopes = _gradients(model, loss)
    silent = [k for k, _ in model.named_parameters() if k not in slopes or not slopes[k].any()]
    assert silent == []
    x = symbols(model.space, 1, 5, dice(6))
    batch = Batch(x, (5,), entry.cond(1, dice(6)))
    optim = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(120):
        loss, count = nll(model, batch)
        _gradients(model, loss)
        optim.step()
        losses.append(float(loss.detach() / count))
    # Densities and counts have no floor at 0: they must gain half a nat a part.
    parts = math.prod(model.space.event_shape)
    goal = 0.3 * parts if model.space.kind == "finite" else losses[0] - 0.5 * parts
    assert losses[-1] < goal


def test_13_round_trip(entry: Entry, tmp_path: Path):
    """Config and weights come back from JSON and safetensors; what is unknown is refused."""
    if not entry.registered:
        pytest.skip("test-only models have no config")
    model = entry.model()
    data = json.loads(json.dumps(to_dict(model.config)))
    config = from_dict(type(model).Config, data)
    assert config == model.config
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "w")
    again = type(model)(config)
    again.load_state_dict(load_file(tmp_path / "w"), strict=True)
    x = symbols(model.space, ROWS, 6, dice())
    assert torch.equal(model(x).log_prob(x), again.eval()(x).log_prob(x))
    known = dataclasses.fields(model.config)[-1].name
    with pytest.raises(ValueError, match=f"did you mean '{known}'"):
        from_dict(type(model).Config, {**data, known + "s": 1})
