"""Law 9 for every strategy of the registry that promises it, over every entry that it takes."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch

from chainrule.core.decoder import Decoder
from chainrule.core.model import SequenceModel
from chainrule.core.objective import Batch
from chainrule.core.state import Slab
from chainrule.decoding.strategy import Target
from chainrule.decoding.verify import Verify
from chainrule.engine.compiled import Compiled
from chainrule.models.ngram import NGram, ngram
from chainrule.registry import STRATEGIES
from tests.laws.entries import Entry, dice, symbols
from tests.laws.proposers import Table
from tests.laws.test_decoding import alone, jobs, same

IDENTICAL = [name for name, kind in STRATEGIES.items() if kind.exactness == "identical"]


@pytest.fixture(autouse=True)
def _in_place() -> Iterator[None]:
    with torch.no_grad():
        yield


def target(entry: Entry, model: SequenceModel, guesses: int | None) -> Target:
    """With a table of random symbols, and a draft that is the model with other weights."""
    table, space = None, model.space
    if space.kind == "finite" and not space.event_shape:
        table = NGram(ngram(space, "tiny"))
        table.estimate([Batch(symbols(space, 4, entry.room(50), dice(3)), (entry.room(50),) * 4)])
    draft = copy.deepcopy(model.model if isinstance(model, Compiled) else model)
    for p in draft.parameters():
        p += 0.1 * torch.randn(p.shape, generator=dice(8))
    return Target(model, table, draft, guesses, length=20)


def build(name: str, target: Target) -> Decoder:
    """The strategy, or a skip for the few reasons that there may be; a new one may have others."""
    space, config = target.model.space, target.model.config
    reasons = {
        "ancestral": False,
        "draft": False,
        "heads": not getattr(config, "ahead", 0),
        "hybrid": not target.model.guesses_blocks,
        "jacobi": space.kind == "real",
        "lookup": space.kind != "finite" or bool(space.event_shape),
    }
    if reasons.get(name, False):
        with pytest.raises(ValueError, match=f"strategy {name}"):
            STRATEGIES[name].decoder(target)
        pytest.skip("it lacks what this strategy needs")
    try:
        return STRATEGIES[name].decoder(target)
    except ValueError as error:
        if name in reasons:
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("name", IDENTICAL)
@pytest.mark.parametrize("guesses", [None, 1, pytest.param(7, marks=pytest.mark.slow)])
def test_9_every_strategy(entry: Entry, name: str, guesses: int | None):
    """In a batch that rows join late and leave early: the symbols of ancestral sampling alone."""
    model = entry.model()
    made = jobs(entry, model, 6)
    if guesses and model.space.max_len is not None and guesses >= model.space.max_len:
        pytest.skip("this medium has fewer symbols")
    decoder = build(name, target(entry, model, guesses))
    truth = alone(model, made)
    table = Table(decoder)
    table.admit(made[:2])
    table.step()
    table.admit(made[2:5], first=True)
    table.step()
    table.admit(made[5:])
    same(model, table.finish(), truth)


@pytest.mark.parametrize("name", [n for n in IDENTICAL if n != "ancestral"])
def test_9_a_run_is_a_value(entry: Entry, name: str):
    """A step taken twice from one Run, with another between, is the same step."""
    model = entry.model()
    made = jobs(entry, model, 3)
    decoder = build(name, target(entry, model, None))
    table = Table(decoder)
    table.admit(made)
    run = table.run
    if run is None:
        pytest.skip("over at once")
    after, one = decoder.step(run)
    decoder.step(after)
    two = decoder.step(run)[1]
    assert one.count == two.count or name == "lookup"
    for row, n in enumerate(map(min, one.count, two.count)):
        assert bool(model.space.agree(one.symbols[row, :n][None], two.symbols[row, :n][None]).all())


@pytest.mark.parametrize("name", [n for n in IDENTICAL if n != "draft"])
def test_10_every_strategy_in_place(entry: Entry, name: str):
    """Drafting writes into the same slabs and copies none of them."""
    model = entry.model()
    decoder = build(name, target(entry, model, None))
    assert isinstance(decoder, Verify)
    table = Table(decoder)
    made = jobs(entry, model, 3)
    table.admit(made)
    copies = Slab.copies
    table.finish()
    assert Slab.copies == copies
