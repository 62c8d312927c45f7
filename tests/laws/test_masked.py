"""What a net that fills in blanks must be, wherever a model has one; and how blocks are decoded.

Shapes: B rows, T places, L symbols behind a state.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from chainrule.core.decoder import Decoder
from chainrule.core.model import AnyOrder, MaskedModel, SequenceModel
from chainrule.decoding.masked import Block, Parallel
from chainrule.decoding.strategy import Strategy, Target
from chainrule.decoding.verify import Verify
from chainrule.decoding.warps import Warps
from tests.laws.entries import ENTRIES, Entry, dice, symbols
from tests.laws.proposers import Job, Table
from tests.laws.test_decoding import jobs, same
from tests.laws.track import close, signature

ROWS, LENGTH = 4, 7


@functools.cache
def fillers() -> list[Entry]:
    """Every entry whose model fills in blanks."""
    return [e for e in ENTRIES if e.build().masked is not None]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "filler" in metafunc.fixturenames:
        metafunc.parametrize("filler", fillers(), ids=lambda e: e.name)


@pytest.fixture(autouse=True)
def _in_place() -> Iterator[None]:
    with torch.no_grad():
        yield


def net(model: SequenceModel) -> MaskedModel:
    assert model.masked is not None
    return model.masked


def loud(entry: Entry) -> SequenceModel:
    """What is unknown weighs so much that a block of another size draws other symbols."""
    model = entry.model()
    next(m for m in model.modules() if isinstance(m, torch.nn.Embedding)).weight[-1] *= 10
    return model


def blanks(rows: int, length: int, seed: int) -> Tensor:
    """Random places, known or not; the first row has one blank, the last row nothing else."""
    known = torch.rand(rows, length, generator=dice(seed)) < 0.5
    known[0], known[-1] = True, False
    known[0, length // 2] = False
    return known


def laws(model: SequenceModel, x: Tensor, known: Tensor) -> Tensor:
    return signature(net(model)(x, known), model.space)


def test_there_are_some():
    assert len(fillers()) > 1


def test_3_fill_is_forward(filler: Entry):
    """Behind a state, ragged rows included, the laws of blanks are those of the whole sequence."""
    model = filler.model()
    x, prefix = symbols(model.space, ROWS, LENGTH, dice(1)), symbols(model.space, ROWS, 4, dice(2))
    known = blanks(ROWS, LENGTH, 3)
    for lens in ([0, 0, 0, 0], [4, 4, 4, 4], [4, 0, 2, 1]):
        state = model.extend(model.start(ROWS), prefix, tail=4).rewind([4 - n for n in lens])
        before = signature(model.predict(state), model.space)
        got = signature(net(model).fill(state, x, known), model.space)
        for row, n in enumerate(lens):
            whole = torch.cat([prefix[row, :n], x[row]])[None]
            given = torch.cat([torch.ones(n, dtype=torch.bool), known[row]])[None]
            wanted = laws(model, whole, given)[0, n:]
            close(got[row, ~known[row]], wanted[~known[row]])
        assert torch.equal(before, signature(model.predict(state), model.space))
        # The state is a value: it goes on as if nothing had been filled in.
        after = model.extend(state, x, tail=LENGTH)
        for row, n in enumerate(lens):
            whole = torch.cat([prefix[row, :n], x[row]])[None]
            wanted = signature(model(whole), model.space)[0, n:]
            close(signature(model.predict(after), model.space)[row, :LENGTH], wanted)


def test_2_unknown_symbols_are_not_looked_at(filler: Entry):
    """Whatever stands in a blank, no law changes by a bit."""
    model = filler.model()
    x, known = symbols(model.space, ROWS, LENGTH, dice(1)), blanks(ROWS, LENGTH, 4)
    other = torch.where(known, x, (x + 1) % (model.space.size or 2))
    assert torch.equal(laws(model, x, known), laws(model, other, known))
    state = model.extend(model.start(ROWS), symbols(model.space, ROWS, 3, dice(2)))
    one, two = (signature(net(model).fill(state, y, known), model.space) for y in (x, other))
    assert torch.equal(one, two)


def test_2_known_symbols_are_seen_from_both_sides(filler: Entry):
    """The law of a blank depends on what is known before it and behind it."""
    model = filler.model()
    x = symbols(model.space, 1, LENGTH, dice(1))
    known = torch.ones(1, LENGTH, dtype=torch.bool)
    known[0, 3] = False
    law = laws(model, x, known)[0, 3]
    for place in (0, 2, 4, 6):
        other = x.clone()
        other[0, place] = (x[0, place] + 1) % (model.space.size or 2)
        assert not torch.equal(laws(model, other, known)[0, 3], law), place
        fewer = known.clone()
        fewer[0, place] = False
        assert not torch.equal(laws(model, x, fewer)[0, 3], law), place


def test_2_unknown_symbols_have_no_gradient(filler: Entry):
    """A symbol that stands in blanks alone has no part in any law."""
    model = filler.model()
    weight = next(m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding))
    if getattr(model.config, "tied", False):
        pytest.skip("its embedding is also what laws are read with; the bit test covers it")
    known = blanks(ROWS, LENGTH, 5)
    x = torch.zeros(ROWS, LENGTH, dtype=torch.int64).masked_fill(~known, 1)
    with torch.enable_grad():
        law = net(model)(x, known)
        nats = law.log_prob(torch.full_like(x, 2))[~known].sum()
        (slope,) = torch.autograd.grad(nats, weight)
    assert not slope[1].any()
    assert slope[0].any()
    assert slope[-1].any(), "nor does it matter that a place is unknown"


def test_1_any_order_is_normalised(filler: Entry):
    """Over the masked net, any order of places gives probabilities that sum to one."""
    model = filler.model()
    assert model.space.size is not None
    every = torch.tensor(list(itertools.product(range(model.space.size), repeat=4)))
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        anyhow = AnyOrder(net(model), order)
        total = anyhow(every).log_prob(every).sum(1).exp().sum()
        close(total, torch.tensor(1.0))


def alone(decoder: Decoder, made: list[Job]) -> dict[int, Tensor]:
    truth = {}
    for job in made:
        table = Table(decoder)
        table.admit([job])
        truth |= table.finish()
    return truth


def scored(model: SequenceModel, made: list[Job], truth: dict[int, Tensor], table: Table) -> None:
    """However the symbols were picked, they are scored left to right."""
    for job in made:
        x = truth[job.name][None]
        wanted = model(x, job.cond).log_prob(x)[0, len(job.prompt) :]
        close(torch.cat(table.log_prob[job.name]), wanted)


STRATEGIES = [
    (Block, {"guesses": 3}),
    (Block, {"guesses": 8, "threshold": 0.5}),
    (Parallel, {"iterations": 1}),
    (Parallel, {"iterations": 3}),
]


@pytest.mark.parametrize(("strategy", "settings"), STRATEGIES)
def test_9_block_and_parallel_alone_are_batched(
    filler: Entry, strategy: type[Strategy], settings: dict[str, Any]
):
    """Alone, in a batch and admitted mid-flight, one gets the same symbols."""
    model = loud(filler)
    made = jobs(filler, model, 6)
    decoder = strategy.decoder(Target(model, length=7, **settings))
    truth = alone(decoder, made)
    table = Table(decoder)
    table.admit(made)
    same(model, table.finish(), truth)
    scored(model, made, truth, table)
    table = Table(decoder)
    table.admit(made[3:])
    table.step()
    table.admit(made[1:3], first=True)
    table.step()
    table.admit(made[:1])
    same(model, table.finish(), truth)


def test_9_blocks_are_ancestral_where_symbols_are_independent(filler: Entry):
    """A model deaf to its symbols: a block draws what ancestral sampling draws at every place."""
    model = filler.model()
    for table in (m for m in model.modules() if isinstance(m, torch.nn.Embedding)):
        table.weight[:] = table.weight[:1].clone()
    made = [job for job in jobs(filler, model, 6) if job.warp.temperature != (0.0,)]
    truth = alone(Verify(model), made)
    for strategy in (Block, Parallel):
        same(model, alone(strategy.decoder(Target(model, guesses=3, length=7)), made), truth)


def test_9_blocks_beyond_the_context(filler: Entry):
    """Blocks are cut where the context of their own row ends, and go on behind it."""
    model = loud(filler)
    if model.space.max_len is not None:
        pytest.skip("nothing lies beyond this medium")
    context = getattr(model.config, "context", 8)
    made = [
        Job(i, symbols(model.space, 1, n, dice(i))[0], context + 9, None, Warps.of(1))
        for i, n in enumerate((0, context - 6, context + 1, context))
    ]
    decoder = Block.decoder(Target(model, guesses=5))
    truth = alone(decoder, made)
    assert all(len(truth[job.name]) == len(job.prompt) + job.length for job in made)
    table = Table(decoder)
    table.admit(made[1:])
    table.step()
    table.admit(made[:1], first=True)
    same(model, table.finish(), truth)
    scored(model, made, truth, table)


def test_9_no_room_for_the_whole_continuation(filler: Entry):
    model = filler.model()
    if model.space.max_len is not None:
        pytest.skip("nothing lies beyond this medium")
    context = getattr(model.config, "context", 8)
    job = Job(0, symbols(model.space, 1, 3, dice())[0], context, None, Warps.of(1))
    with pytest.raises(ValueError, match="make it shorter, or choose strategy block"):
        Table(Parallel.decoder(Target(model, length=context))).admit([job])
