"""Laws 9 and 10: any proposer, batch and order of admission gives the same symbols, in place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor

from chainrule.core.distributions import Distribution
from chainrule.core.model import SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.state import Slab
from chainrule.decoding.verify import Verify
from chainrule.decoding.warps import Warps
from tests.laws.entries import Entry, dice, symbols
from tests.laws.proposers import Guesser, Job, Kind, Table
from tests.laws.tolerances import FALSE_ALARM, REFERENCE64
from tests.laws.track import close

SETTINGS = [
    {},
    {"temperature": 0.7},
    {"top_k": 2},
    {"temperature": 1.5, "top_p": 0.8},
    {"temperature": 0.0},
    {"min_p": 0.3},
    {"typical": 0.6},
]


@pytest.fixture(autouse=True)
def _in_place() -> Iterator[None]:
    with torch.no_grad():
        yield


def jobs(entry: Entry, model: SequenceModel, count: int) -> list[Job]:
    """Prompts of lengths 0 to 3, conditions and warps that differ from row to row."""
    settings = SETTINGS
    if model.space.kind == "real":
        settings = [{}, {"temperature": 0.7}, {"temperature": 1.2}]
    if model.space.kind == "count":
        settings = [{}]
    made = []
    for i in range(count):
        prompt = symbols(model.space, 1, i % 4, dice(100 + i))[0]
        length = entry.room(3 + 2 * (i % 3) + len(prompt)) - len(prompt)
        warp = Warps.of(1, **settings[i % len(settings)])
        made.append(Job(7 * i, prompt, length, entry.cond(1, dice(i)), warp))
    return made


def alone(model: SequenceModel, made: list[Job]) -> dict[int, Tensor]:
    """The definition: ancestral sampling, one job at a time."""
    truth = {}
    for job in made:
        table = Table(Verify(model))
        table.admit([job])
        truth |= table.finish()
    return truth


def same(model: SequenceModel, got: dict[int, Tensor], truth: dict[int, Tensor]) -> None:
    assert got.keys() == truth.keys()
    for name, x in truth.items():
        if model.space.kind == "real":
            torch.testing.assert_close(got[name], x, rtol=REFERENCE64, atol=REFERENCE64)
        else:
            assert torch.equal(got[name], x), f"job {name}"


def test_9_batch_is_alone(entry: Entry):
    """Without a proposer: in one batch, whose finished rows leave; the scores are the model's."""
    model = entry.model()
    made = jobs(entry, model, 8)
    table = Table(Verify(model))
    table.admit(made)
    got = table.finish()
    same(model, got, alone(model, made))
    for job in made:
        x = got[job.name][None]
        wanted = model(x, job.cond).log_prob(x)[0, len(job.prompt) :]
        close(torch.cat(table.log_prob[job.name]), wanted)


@pytest.mark.parametrize("kind", ["oracle", "half", "random", "wrong"])
def test_9_any_proposer(entry: Entry, kind: Kind):
    model = entry.model()
    made = jobs(entry, model, 5)
    truth = alone(model, made)
    guesser = Guesser(kind, model.space, truth)
    table = Table(Verify(model, guesser))
    table.admit(made)
    same(model, table.finish(), truth)
    if kind == "oracle":
        assert guesser.accepted > 0


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2, 3))])
def test_9_any_admission(entry: Entry, seed: int):
    """Rows join before and behind others, in any order, between any two steps."""
    model = entry.model()
    made = jobs(entry, model, 7)
    truth = alone(model, made)
    chance = dice(seed)
    order = [made[i] for i in torch.randperm(7, generator=chance)]
    started = {job.name: truth[job.name] for job in order}
    table = Table(
        Verify(model, Guesser("half", model.space, started, most=3) if seed < 3 else None)
    )
    while order:
        count = int(torch.randint(1, 4, (), generator=chance))
        table.admit(order[:count], first=bool(torch.rand((), generator=chance) < 0.5))
        order = order[count:]
        for _ in range(int(torch.randint(0, 3, (), generator=chance))):
            table.step()
    same(model, table.finish(), truth)


def test_9_long(entry: Entry):
    """Rows in step and rows that drift apart, beyond what caches and noise hold at first."""
    model = entry.model()
    length = 80 if model.space.kind == "finite" else 16
    made = [
        replace(job, length=entry.room(length + len(job.prompt)) - len(job.prompt))
        for job in jobs(entry, model, 3)
    ]
    truth = alone(model, made)
    for kind in ("oracle", "half"):
        table = Table(Verify(model, Guesser(kind, model.space, truth)))
        table.admit(made)
        same(model, table.finish(), truth)


@pytest.mark.parametrize("stretch", [2, 5])
def test_9_stretches(entry: Entry, stretch: int):
    """A model that makes several symbols in one go makes the same ones, with the same scores."""
    model = entry.model()
    made = jobs(entry, model, 5)
    truth = alone(model, made)
    table = Table(Verify(model, stretch=stretch))
    table.admit(made[:3])
    table.step()
    table.admit(made[3:])
    same(model, table.finish(), truth)
    for job in made:
        x = truth[job.name][None]
        wanted = model(x, job.cond).log_prob(x)[0, len(job.prompt) :]
        close(torch.cat(table.log_prob[job.name]), wanted)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_9_frequencies(entry: Entry, temperature: float):
    """The first symbol, and the second given the commonest first one, follow their laws."""
    model, rows = entry.model(), 4000
    if model.space.kind == "count" and temperature != 1:
        pytest.skip("counts have no temperature")
    cond = entry.cond(1, dice())
    cond = None if cond is None else cond.select([0] * rows)
    nothing = list(symbols(model.space, rows, 0, dice()))
    decoder, noise = Verify(model), Noise.seeded(0, range(rows))
    run, chunk = decoder.start(nothing, noise, cond, Warps.of(rows, temperature=temperature))
    first, second = chunk.symbols[:, :1], decoder.step(run)[1].symbols[:, :1]
    one = None if cond is None else cond.select([0])
    state = model.start(1, one)
    _follows(model, model.predict(state), first, temperature)
    values, counts = first.unique(dim=0, return_counts=True)
    common = values[counts.argmax()]
    if model.space.kind != "real":
        mine = (first == common).flatten(1).all(1)
        after = model.predict(model.extend(state, common[None]))[:, -1:]
        _follows(model, after, second[mine], temperature)


def _follows(model: SequenceModel, law: Distribution, x: Tensor, temperature: float) -> None:
    """x [N, 1, *E] against one law: chi-squared for a few outcomes, else uniformity of the cdf."""
    space, count = model.space, len(x)
    if space.kind == "real":
        tempered = law.temper(torch.tensor([[temperature]]))
        parts = space.event_shape[0] if space.event_shape else 0
        for i in range(parts):
            part = tempered.part(i, x[..., :i])
            u = part.cdf(x[..., i]).flatten()
            assert stats.kstest(u.numpy(), "uniform").pvalue > FALSE_ALARM
        if not parts:
            u = tempered.cdf(x).flatten()
            assert stats.kstest(u.numpy(), "uniform").pvalue > FALSE_ALARM
        return
    if space.event_shape:
        keys = torch.cartesian_prod(*[torch.arange(space.size)] * space.event_shape[0])
        law = law.map(lambda t: t.expand(-1, len(keys), *t.shape[2:]))
        steps = [law.part(i, keys[None, :, :i]).log_probs()[0] for i in range(keys.shape[1])]
        steps = [(s / temperature).log_softmax(-1) for s in steps]
        each = [s.expand(len(keys), -1).gather(1, keys[:, i : i + 1]) for i, s in enumerate(steps)]
        p = torch.cat(each, 1).sum(1).exp()
    elif space.kind == "count":
        keys = torch.arange(12)
        p = law.log_prob(keys[None]).exp()[0]
    else:
        keys = torch.arange(space.size)
        p = (law.log_probs()[0, 0] / temperature).softmax(-1)
    seen = torch.stack([(x[:, 0] == k).view(count, -1).all(1).sum() for k in keys]).double()
    rest = 1 - p.sum()
    if rest > 1e-9:
        p, seen = torch.cat([p, rest[None]]), torch.cat([seen, count - seen.sum()[None]])
    assert not seen[p == 0].any()
    p, seen = p[p > 0], seen[p > 0]
    few = p * count < 5  # pool what is too rare for chi-squared
    if few.any():
        p, seen = (torch.cat([t[~few], t[few].sum()[None]]) for t in (p, seen))
    assert stats.chisquare(seen.numpy(), (p / p.sum() * count).numpy()).pvalue > FALSE_ALARM


@pytest.mark.parametrize("kind", [None, "random"])
def test_10_no_slab_copies(entry: Entry, kind: Kind | None):
    """Steady decoding writes in place: no copy at all, and a growth when the length doubles."""
    model, rows = entry.model(), 3
    prompt = list(symbols(model.space, rows, 2, dice()))
    length = entry.room(150)
    truth = {i: torch.cat([p, symbols(model.space, 1, 0, dice())[0]]) for i, p in enumerate(prompt)}
    proposer = None if kind is None else Guesser(kind, model.space, truth)
    decoder = Verify(model, proposer)
    warp = Warps.of(rows)
    run, _ = decoder.start(prompt, Noise.seeded(0, range(rows)), entry.cond(rows, dice()), warp)
    copies, growths = Slab.copies, Slab.growths
    while max(run.state.lens) + 1 < length:
        run, _ = decoder.step(run)
    assert Slab.copies == copies
    assert Slab.growths - growths <= math.log2(length) + 1
