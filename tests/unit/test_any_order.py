"""The objective of any order, its estimates, and what the net then fills in.

Shapes: N pictures, T symbols of one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor

from chainrule.core.model import AnyOrder, Condition
from chainrule.core.noise import Noise
from chainrule.core.objective import Batch
from chainrule.core.space import Space
from chainrule.decoding.infill import exact
from chainrule.models import anyorder as module
from chainrule.models.anyorder import AnyOrderConfig, AnyOrderPixels, anyorder
from chainrule.training.objectives import any_order_nats, objective
from tests.laws.tolerances import FALSE_ALARM, FLOAT64
from tests.models.markov import Markov


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def fresh(space: Space, away: float = 0.2, **fields: int) -> AnyOrderPixels:
    torch.manual_seed(5)
    model = AnyOrderPixels(replace(anyorder(space, "tiny"), dim=8, **fields)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += away * torch.randn_like(p)
    return model


def batch(x: Tensor, cond: Condition | None = None) -> Batch:
    return Batch(x, (x.shape[1],) * len(x), cond)


@torch.no_grad()
def over_orders(model: AnyOrderPixels, x: Tensor) -> Tensor:
    """By enumeration of all orders, each scored by the chain rule: [N]."""
    total, orders = torch.zeros(len(x)), list(itertools.permutations(range(x.shape[1])))
    for order in orders:
        chain = AnyOrder(model.net, order)
        total -= chain(chain.to_order(x)).log_prob(chain.to_order(x)).sum(1)
    return total / len(orders)


@torch.no_grad()
def test_the_objective_has_no_bias():
    """Its mean over many draws is the mean over all orders, by Student's t; so of the estimates."""
    model, learned = fresh(Space.picture((2, 2, 1), 3)), objective("any-order", 1)
    x, noise = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]]), Noise.seeded(0, range(500))
    for picture, nats in zip(x, over_orders(model, x), strict=True):
        one = batch(picture[None])
        drawn = torch.stack([learned(model, one, noise.select([i]))[0] for i in range(500)])
        for found in (drawn, any_order_nats(model, picture.repeat(3000, 1), 7, 1)):
            z = (found.mean() - nats) / (found.std() / len(found) ** 0.5)
            assert abs(float(z)) < stats.t.isf(FALSE_ALARM / 2, len(found) - 1)


def test_estimates_are_spread_evenly():
    """Over rows and passes every number of known places, 0 to T - 1, comes up equally often."""
    model, seen = fresh(Space.picture((3, 3, 1), 2)), []
    model.net.register_forward_pre_hook(lambda _, args: seen.append(args[1].sum(1)))
    any_order_nats(model, torch.zeros(180, 9, dtype=torch.int64), 0, 3)
    counts = torch.bincount(torch.cat(seen), minlength=9)
    assert int((counts - 60).abs().max()) <= 2


def test_every_pass_has_an_order_of_its_own():
    """In one order, what is known in a pass is known in all that know more places."""
    model, seen = fresh(Space.picture((3, 3, 1), 2)), []
    model.net.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    any_order_nats(model, torch.zeros(4, 9, dtype=torch.int64), 0, 20)
    known = torch.stack(seen, 1)
    less = known.sum(2)[:, :, None] <= known.sum(2)[:, None]
    unlike = (known[:, :, None] & ~known[:, None]).any(-1) & less
    assert unlike.flatten(1).any(1).all()


def test_estimates_are_a_function_of_seed_and_row():
    model = fresh(Space.picture((3, 3, 1), 2))
    x = torch.randint(2, (6, 9), generator=torch.Generator().manual_seed(0))
    whole = any_order_nats(model, x, 3, 4)
    assert torch.equal(whole, any_order_nats(model, x, 3, 4))
    assert not torch.equal(whole, any_order_nats(model, x, 4, 4))
    some = any_order_nats(model, x[:2], 3, 4)
    torch.testing.assert_close(some, whole[:2], rtol=FLOAT64, atol=FLOAT64)


def test_the_batch_does_not_matter():
    model = fresh(Space.picture((2, 2, 3), 2), labels=2)
    x = torch.randint(2, (6, 12), generator=torch.Generator().manual_seed(0))
    label, noise = torch.tensor([-1, 0, 1, 1, 0, -1]), Noise.seeded(2, range(6))
    learned = objective("any-order", 1)
    with torch.no_grad():
        whole, count = learned(model, batch(x, Condition(label=label)), noise)
        parts = [
            learned(model, batch(x[rows], Condition(label=label[rows])), noise.select(rows))[0]
            for rows in ([4], [0, 5], [3, 1, 2])
        ]
    assert float(count) == 72
    assert abs(float(sum(parts) / whole) - 1) < FLOAT64


def test_conditions_that_it_does_not_read():
    """Neither a label that was never learned, nor one for more rows than there are."""
    x = torch.zeros(2, 4, dtype=torch.int64)
    both, one = Condition(label=torch.tensor([0, 1])), Condition(label=torch.tensor([1]))
    for labels, cond, match in ((0, both, "does not read"), (2, one, "has 1 rows, the batch 2")):
        model = fresh(Space.picture((2, 2, 1), 3), labels=labels)
        with pytest.raises(ValueError, match=match):
            objective("any-order", 1)(model, batch(x, cond), Noise.seeded(0, [0, 1]))
        with pytest.raises(ValueError, match=match):
            any_order_nats(model, x, 0, 1, cond)


def test_a_model_of_one_order_is_refused():
    x = torch.zeros(2, 4, dtype=torch.int64)
    for of in (
        lambda: objective("any-order", 1)(Markov(3), batch(x), Noise.seeded(0, [0, 1])),
        lambda: any_order_nats(Markov(3), x, 0, 1),
    ):
        with pytest.raises(ValueError, match="--model anyorder"):
            of()
    model = fresh(Space.picture((2, 2, 1), 3))
    with pytest.raises(ValueError, match="hybrid needs a model that fills in blanks"):
        objective("hybrid", 1)(model, batch(x), Noise.seeded(0, [0, 1]))


@pytest.mark.parametrize("numbers", [1, 400, 900])
def test_positions_are_asked_for_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch, numbers: int):
    """Whatever goes into the net at once, the laws are those of all at once."""
    model = fresh(Space.picture((3, 3, 1), 2))
    x = torch.randint(2, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        state = model.extend(model.start(3), x, tail=9).rewind([0, 4, 2])
        wanted = AnyOrder.predict(model, state)
        seen: list[int] = []
        model.net.register_forward_pre_hook(lambda _, args: seen.append(args[0].numel() * 8))
        monkeypatch.setattr(module, "PASSES", numbers)
        got = model.predict(state)
    assert max(seen) <= max(numbers, 3 * 9 * 8)
    torch.testing.assert_close(got.log_probs(), wanted.log_probs(), rtol=FLOAT64, atol=FLOAT64)


def test_sizes_that_do_not_halve():
    for grid in ((1, 1, 1), (5, 9, 1), (28, 7, 3), (6, 17, 2)):
        model = fresh(Space.picture(grid, 4))
        x = torch.randint(4, (2, model.space.max_len or 0))
        with torch.no_grad():
            law = model.net(x, torch.rand(x.shape) < 0.5)
        assert law.log_probs().shape == (*x.shape, 4)


def test_bad_shapes():
    with pytest.raises(ValueError, match="num_layers"):
        AnyOrderConfig(Space.picture((2, 2, 1), 2), num_layers=0)
    model = fresh(Space.picture((2, 2, 1), 2))
    x = torch.zeros(1, 3, dtype=torch.int64)
    state = model.extend(model.start(1), x)
    with pytest.raises(ValueError, match="a picture has 4 symbols, not 6"):
        model.net.fill(state, x, x > 0)


def stripes() -> Tensor:
    """3x3 pictures of whole rows or whole columns: int64 [14, 9], the empty and the full once."""
    ways = torch.tensor(list(itertools.product(range(2), repeat=3)))
    rows = ways[:, :, None].expand(-1, 3, 3)
    return torch.cat([rows, rows.mT]).flatten(1).unique(dim=0)


def test_what_it_has_learned_it_fills_in_exactly():
    """Trained on rows and columns: from some known places, in any order, to the rest."""
    x = stripes()
    assert x.shape == (14, 9)
    torch.manual_seed(0)
    model = AnyOrderPixels(replace(anyorder(Space.picture((3, 3, 1), 2), "tiny"), dim=16))
    optim = torch.optim.Adam(model.parameters(), lr=0.01)
    before = any_order_nats(model, x, 0, 20).mean()
    for step in range(150):
        rows = torch.arange(56) % 14
        noise = Noise.seeded(step, range(56))
        loss, count = objective("any-order", 1)(model, batch(x[rows]), noise)
        optim.zero_grad()
        (loss / count).backward()
        optim.step()
    after = any_order_nats(model, x, 0, 20).mean()
    assert float(after) < 0.6 * float(before)
    model.eval()
    for seed in range(20):
        dice = torch.Generator().manual_seed(seed)
        place = torch.randperm(9, generator=dice)
        known = torch.zeros(9, dtype=torch.bool)
        known[place[: 1 + seed % 6]] = True
        blanks = place[1 + seed % 6 :].tolist()
        given, ways = x[seed % 14], list(itertools.product(range(2), repeat=len(blanks)))
        chain = AnyOrder(model.net, torch.nonzero(known)[:, 0].tolist() + blanks)
        whole = given.repeat(len(ways), 1)
        whole[:, blanks] = torch.tensor(ways)
        with torch.no_grad():
            law = chain(chain.to_order(whole)).log_prob(chain.to_order(whole))
        log_p = law[:, -len(blanks) :].sum(1)
        assert float(log_p.exp().sum()) == pytest.approx(1, abs=FLOAT64)
        found = exact(model.net, given, known, range(3), seed, order=blanks)
        assert torch.equal(found.symbols[:, known], given[known].expand(3, -1))
        index = [ways.index(tuple(row)) for row in found.symbols[:, blanks].tolist()]
        torch.testing.assert_close(found.log_prob, log_p[index], rtol=FLOAT64, atol=FLOAT64)
