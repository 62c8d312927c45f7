"""Proposers guess what they should: a wrong guess changes no symbol, so no law can see it.

Shapes: B rows, K guessed symbols.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from chainrule import engine
from chainrule.core.distributions import Categorical
from chainrule.core.model import ReplayModel
from chainrule.core.noise import Noise, Positions
from chainrule.core.objective import Batch
from chainrule.core.space import Space
from chainrule.decoding.draft import Draft
from chainrule.decoding.heads import Heads
from chainrule.decoding.hybrid import Hybrid
from chainrule.decoding.jacobi import Jacobi
from chainrule.decoding.lookup import Lookup
from chainrule.decoding.strategy import Target
from chainrule.decoding.verify import Verify
from chainrule.decoding.warps import Warps
from chainrule.models.ngram import NGram, NGramConfig
from chainrule.models.rnn import RNN, RNNConfig
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import TransformerConfig
from chainrule.training.objectives import objective
from tests.laws.entries import dice, symbols
from tests.laws.proposers import Job, Table

SPACE = Space("finite", 5)


class Unigram(ReplayModel):
    """Looks at nothing: what a Jacobi iteration answers once stays true."""

    space = SPACE

    def forward(self, x, cond=None, state=None):
        return Categorical(torch.arange(5.0).expand(*x.shape, 5))


class Round(ReplayModel):
    """0 1 2 3 4 0 1 …, almost surely; the first symbol is any."""

    space = SPACE

    def forward(self, x, cond=None, state=None):
        before = torch.cat([x[:, :1] * 0 + 4, x[:, :-1]], 1)
        hot = torch.nn.functional.one_hot((before + 1) % 5, 5).double() * 40
        return Categorical(hot)


@dataclass
class Counted:
    """A proposer that keeps what every step emitted, a list a row."""

    inner: object
    counts: list[list[int]]

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def settle(self, memo, chunk):
        self.counts.append(list(chunk.count))
        return self.inner.settle(memo, chunk)


def decoded(model, proposer, rows: int = 3, length: int = 40) -> list[list[int]]:
    """What each step emitted, rows joining late and leaving at different times."""
    counted = Counted(proposer, [])
    table = Table(Verify(model, counted))
    made = [
        Job(i, symbols(model.space, 1, i, dice(i))[0], length + 5 * i, None, Warps.of(1))
        for i in range(rows)
    ]
    with torch.no_grad():
        table.admit(made[:1])
        table.step()
        if made[1:]:
            table.admit(made[1:])
        table.finish()
    return [c for c in counted.counts if c != [1] * len(c)]


def gru(seed: int = 0) -> RNN:
    torch.manual_seed(seed)
    return RNN(RNNConfig(SPACE, "gru", 1, 8, 8)).double().eval()


@pytest.mark.parametrize("build", [gru, Round, Unigram])
def test_a_draft_that_is_the_target_is_always_right(build):
    steps = decoded(build(), Draft(build(), 3))
    assert steps
    assert all(set(counts) == {4} for counts in steps)


def test_a_draft_draws_step_by_step_as_in_one_go():
    class Plain(RNN):
        def rollout(self, *args):
            return None

    plain = Plain(gru().config).double().eval()
    plain.load_state_dict(gru().state_dict())
    assert decoded(gru(), Draft(plain, 3)) == decoded(gru(), Draft(gru(), 3))


def test_jacobi_keeps_the_answers_that_stay_true():
    steps = decoded(Unigram(), Jacobi(4), rows=1)
    assert steps
    assert all(a[0] + b[0] >= 6 for a, b in pairwise(steps))  # what was answered is not asked again


def test_lookup_finds_what_followed():
    """A round of five symbols: once it was seen, all guesses are right."""
    assert all(counts[0] == 6 for counts in decoded(Round(), Lookup(None, 5), rows=1)[1:])


def test_lookup_takes_the_table_where_nothing_was_found():
    table = NGram(NGramConfig(SPACE, order=2))
    table.estimate([torch.arange(60).remainder(5).numpy()])
    steps = decoded(Round(), Lookup(table, 4), rows=2)
    assert sum(map(sum, steps)) / sum(map(len, steps)) > 4


def test_lookup_of_a_run_taken_twice_begins_a_text_of_its_own():
    model, prompt = Round(), [torch.arange(12).remainder(5)]
    decoder = Verify(model, Lookup(None, 4))
    with torch.no_grad():
        run, _ = decoder.start(prompt, Noise.seeded(0, [0]))
        first = decoder.step(run)[0]
        second = decoder.step(run)[0]
    for after in (first, second):
        text, length = after.memo.texts[0].symbols, after.memo.lens[0]
        assert len(text) == length
        assert all(b == (a + 1) % 5 for a, b in pairwise(text))


def trained(**shape) -> Transformer:
    """A transformer that has learned a round of five symbols with its heads and blanks."""
    torch.manual_seed(0)
    config = TransformerConfig(
        SPACE, dim=32, num_layers=1, num_heads=2, num_kv_heads=2, hidden=48, **shape
    )
    model = Transformer(config).double()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    loss_of = objective("hybrid" if model.masked else "nll", 1.0)
    x = (torch.arange(24) + torch.arange(5)[:, None]).remainder(5)
    for step in range(150):
        loss, count = loss_of(model, Batch(x, (24,) * 5), Noise.seeded(step, range(5)))
        optimiser.zero_grad()
        (loss / count).backward()
        optimiser.step()
    return model.eval()


@pytest.mark.parametrize(
    ("layout", "proposer"), [("llama", Heads), ("gpt2", Heads), ("llama", Hybrid)]
)
def test_heads_and_blanks_learn(layout, proposer):
    """They are right on a text that leaves no doubt. (Counting to five over learned positions is
    beyond one layer.)"""
    model = trained(layout=layout, context=32, sinks=0, ahead=3, masked=proposer is Hybrid)
    job = Job(0, torch.arange(6).remainder(5), 14, None, Warps.of(1, temperature=0.0))
    table = Table(Verify(model, counted := Counted(proposer(model, 3), [])))
    with torch.no_grad():
        table.admit([job])
        table.finish()
    assert [c[0] for c in counted.counts[1:]] == [4, 4, 4, 4]


def test_the_first_blank_is_never_guessed_wrong():
    torch.manual_seed(0)
    config = TransformerConfig(SPACE, dim=16, num_layers=2, hidden=24, masked=True)
    model = Transformer(config).double().eval()
    steps = decoded(model, Hybrid(model, 3), rows=2)
    assert steps
    assert min(min(counts) for counts in steps) >= 2


@pytest.mark.skipif(engine.ngram_rollout is None, reason="installed without a compiler")
@pytest.mark.parametrize("order", [1, 2, 4])
def test_an_ngram_draws_in_one_go_as_step_by_step(order):
    model = NGram(NGramConfig(SPACE, order=order))
    model.estimate([Batch(symbols(SPACE, 4, 80, dice(3)), (80,) * 4)])
    rows, n = 3, 7
    warp = Warps.of(1).concat([Warps.of(1, temperature=0.6), Warps.of(1, temperature=0.0)])
    state = model.extend(model.start(rows), symbols(SPACE, rows, 5, dice(1)))
    state = state.select([0, 1, 2])
    last, noise = symbols(SPACE, rows, 1, dice(2)), Noise.seeded(0, range(rows))
    rolled = model.rollout(state, last, n, noise, warp)
    assert rolled is not None
    after, x = rolled
    steps: list[Tensor] = []
    now, newest = state, last
    for _ in range(n):
        now = model.extend(now, newest)
        newest = warp(model.predict(now)).sample(noise.at(now.pos(1)))
        steps.append(newest)
    assert torch.equal(x, torch.cat(steps, 1))
    assert after.lens == now.lens
    assert torch.equal(model.predict(after).log_probs()[:, -1:], model.predict(now).log_probs())
    assert model.rollout(state, last, n, noise, Warps.of(rows, top_k=2)) is None


@pytest.mark.skipif(engine.ngram_rollout is None, reason="installed without a compiler")
@pytest.mark.parametrize("name", ["contexts", "grams", "values", "backoff"])
@pytest.mark.parametrize("poison", [-(2**40), 2**62, 0])
def test_tables_that_were_tampered_with_draw_something(name, poison):
    """They come from a file: whatever is in them, nothing outside them is read or written."""
    model = NGram(NGramConfig(SPACE, order=4))
    model.estimate([Batch(symbols(SPACE, 4, 80, dice(3)), (80,) * 4)])
    table = getattr(model, name)
    table[torch.rand(table.shape, generator=dice(1)) < 0.3] = poison
    rolled = model.rollout(
        model.start(2), symbols(SPACE, 2, 1, dice()), 40, Noise.seeded(0, [0, 1]), Warps.of(2)
    )
    assert rolled is not None
    assert 0 <= int(rolled[1].min()) <= int(rolled[1].max()) < 5


def test_noise_of_rows_that_drift_apart_is_the_same():
    noise = Noise.seeded(3, [4, 9, 2])
    for starts in ((0, 0, 0), (1, 4, 2), (1, 9, 5), (30, 60, 3), (70, 65, 66)):
        pos = Positions(starts, 5)
        fresh = Noise.seeded(3, [4, 9, 2]).at(pos).gumbel(7)
        assert torch.equal(noise.at(pos).gumbel(7), fresh)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guesses": 0}, "guesses must be 1 to 256, not 0"),
        ({"iterations": 0}, "iterations must be"),
        ({"threshold": 1.5}, "threshold must be"),
        ({"draft": RNN(RNNConfig(Space("finite", 6), "gru", 1, 4, 4))}, "draft has other symbols"),
    ],
)
def test_targets_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Target(gru(), **settings)


def test_guesses_beyond_the_medium_are_refused():
    model = gru()
    model.space = Space("finite", 5, max_len=6)
    with pytest.raises(ValueError, match="this medium has only 6 symbols"):
        Target(model, guesses=6)


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        (Heads, "fit a transformer with --ahead"),
        (Hybrid, "fit a transformer with --objective hybrid"),
        (Draft, "--draft"),
    ],
)
def test_what_is_missing_is_named(kind, remedy):
    with pytest.raises(ValueError, match=remedy):
        kind.decoder(Target(gru()))
