"""Auto: which strategy it takes for which costs, and that its changes change no symbol."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from chainrule.core.noise import Noise
from chainrule.core.objective import Batch
from chainrule.core.space import Space
from chainrule.decoding.auto import Auto, Choice
from chainrule.decoding.draft import Draft
from chainrule.decoding.jacobi import Jacobi
from chainrule.decoding.lookup import Lookup
from chainrule.decoding.verify import Verify, drain
from chainrule.decoding.warps import Warps
from chainrule.models.ngram import NGram, NGramConfig
from chainrule.models.rnn import RNN, RNNConfig
from tests.laws.entries import dice, symbols
from tests.laws.proposers import Job, Table

SPACE = Space("finite", 4)


@pytest.fixture(autouse=True)
def _in_place():
    with torch.no_grad():
        yield


def model() -> RNN:
    torch.manual_seed(0)
    return RNN(RNNConfig(SPACE, "gru", 1, 8, 8)).eval()


def ways(target: RNN) -> dict[str, Verify]:
    table = NGram(NGramConfig(SPACE, order=3))
    table.estimate([Batch(symbols(SPACE, 4, 60, dice(3)), (60,) * 4)])
    return {
        "ancestral": Verify(target),
        "lookup": Verify(target, Lookup(table)),
        "draft": Verify(target, Draft(target)),  # every guess is right
        "jacobi": Verify(target, Jacobi()),
    }


class Clock:
    """Seconds pass by what the model is asked: ``cost(positions)`` a call."""

    def __init__(self, target: RNN, cost: Callable[[int], float]) -> None:
        self.now, inner = 0.0, target.extend

        def extend(state, x, tail=0):
            self.now += cost(x.shape[1])
            return inner(state, x, tail)

        target.__dict__["extend"] = extend

    def __call__(self) -> float:
        return self.now


def decoded(auto: Auto, rows: int, length: int) -> list[list[int]]:
    out: list[list[int]] = [[] for _ in range(rows)]
    prompts = list(symbols(SPACE, rows, 2, dice(1)))
    begun = auto.start(prompts, Noise.seeded(0, range(rows)), None, Warps.of(rows))
    for emitted in drain(auto, begun, [length] * rows):
        for i, row in enumerate(emitted.rows):
            out[row] += emitted.symbols[i, : emitted.count[i]].tolist()
    return out


@pytest.mark.parametrize("rows", [1, 3])
def test_blocks_that_cost_as_one_symbol_choose_the_best_draft(rows: int):
    """The draft is the model itself, but its own steps pass no time here."""
    target, helper = model(), model()
    all_ways = ways(helper)
    clock = Clock(target, lambda length: 1.0)
    auto = Auto(target, {k: Verify(target, w.proposer) for k, w in all_ways.items()}, Choice(), 400)
    auto.clock = clock
    found = decoded(auto, rows, 400)
    assert auto.choice.chosen == "draft"
    assert auto.choice.guesses is not None
    assert auto.choice.guesses > 4  # more pay, where a guess costs nothing and all are right
    assert "times as fast" in str(auto.choice)
    plain = Auto(target, {"ancestral": Verify(target)}, Choice(), 400)
    assert found == decoded(plain, rows, 400)


def test_positions_that_cost_as_symbols_leave_it_ancestral():
    target = model()
    auto = Auto(target, ways(target), Choice(), 400)
    auto.clock = Clock(target, lambda length: float(length))
    decoded(auto, 2, 100)
    assert auto.choice.chosen == "ancestral"
    assert {k for k, m in auto.choice.by_name.items() if m.turns} == {"ancestral"}
    assert str(auto.choice) == "ancestral: guesses would not pay"


def test_a_short_run_is_not_worth_a_trial_but_takes_what_is_known():
    """Ways that wait for another trial don't keep a short run from the best one."""
    target = model()
    auto = Auto(target, ways(target), Choice(), 40)
    auto.clock = Clock(target, lambda length: 1.0 + 0.6 * length)
    decoded(auto, 1, 40)
    assert {k for k, m in auto.choice.by_name.items() if m.turns} == {"ancestral"}
    longer = Auto(target, ways(target), auto.choice, 4000)
    longer.clock = auto.clock
    decoded(longer, 1, 200)
    best, choice = auto.choice.chosen, auto.choice
    assert best != "ancestral"
    for name, measured in choice.by_name.items():
        measured.turns = 1 if name != "ancestral" else measured.turns
    before = choice.by_name["ancestral"].turns
    again = Auto(target, ways(target), choice, 10)
    again.clock = auto.clock
    decoded(again, 1, 10)
    assert choice.by_name["ancestral"].turns == before


def test_short_runs_are_not_measured():
    auto = Auto(model(), ways(model()), Choice(), 10)
    decoded(auto, 1, 10)
    assert auto.choice.by_name == {}
    assert auto.choice.chosen == "ancestral"


def test_what_was_measured_serves_the_next_run():
    target, choice = model(), Choice()
    auto = Auto(target, ways(target), choice, 400)
    auto.clock = Clock(target, lambda length: 1.0 + 0.01 * length)
    decoded(auto, 1, 150)
    turns = {k: m.turns for k, m in choice.by_name.items()}
    again = Auto(target, ways(target), choice, 10)
    assert again.measures
    again.clock = auto.clock
    decoded(again, 1, 10)
    assert [k for k, m in choice.by_name.items() if m.turns > turns[k]] == [choice.chosen]


def test_a_way_that_slows_down_is_left():
    """The best draft becomes dear: the next best takes over, and the symbols stay the same."""
    target = model()
    auto = Auto(target, ways(model()) | {"ancestral": Verify(target)}, Choice(), 4000)
    auto.ways = {k: Verify(target, w.proposer) for k, w in auto.ways.items()}
    auto.clock = clock = Clock(target, lambda length: 1.0)
    draft, late = auto.ways["draft"].proposer, False
    assert isinstance(draft, Draft)
    propose = draft.propose

    def slower(run):
        clock.now += 100.0 * late
        return propose(run)

    draft.propose = slower  # type: ignore[method-assign]
    prompts = list(symbols(SPACE, 1, 2, dice(1)))
    run, chunk = auto.start(prompts, Noise.seeded(0, [0]), None, Warps.of(1))
    out, before = chunk.symbols[0, : chunk.count[0]].tolist(), ""
    while len(out) < 1800:
        if len(out) > 150 and not late:
            late, before = True, auto.choice.chosen
        run, chunk = auto.step(run)
        out += chunk.symbols[0, : chunk.count[0]].tolist()
    assert before == "draft"
    assert auto.choice.chosen != "draft"
    plain = Auto(target, {"ancestral": Verify(target)}, Choice(), 1800)
    assert out[:1800] == decoded(plain, 1, 1800)[0]


def test_when_most_rows_have_ended_the_times_are_measured_anew():
    """A batch pays for every guess, one row for none: what guesses are worth is remembered."""
    target, clock = model(), [0.0]
    auto = Auto(target, ways(target), Choice(), 400)
    auto.clock = lambda: clock[0]
    extend = target.extend

    def timed(state, x, tail=0):
        clock[0] += 1 if len(x) == 1 else 1 + 10 * (x.shape[1] - 1)
        return extend(state, x, tail)

    target.__dict__["extend"] = timed
    prompts = list(symbols(SPACE, 8, 2, dice(1)))
    begun = auto.start(prompts, Noise.seeded(0, range(8)), None, Warps.of(8))
    seen = []
    for emitted in drain(auto, begun, [60] * 7 + [400]):
        seen.append((len(emitted.rows), auto.choice.chosen))
    assert {name for rows, name in seen if rows > 4} == {"ancestral"}
    assert seen[-1][1] != "ancestral"
    assert auto.choice.rows == 1


def test_rows_join_between_any_two_measurements():
    target = model()
    made = [
        Job(i, symbols(SPACE, 1, i % 3, dice(i))[0], 80 + i, None, Warps.of(1)) for i in range(4)
    ]
    truth = {}
    for job in made:
        table = Table(Verify(target))
        table.admit([job])
        truth |= table.finish()
    table = Table(Auto(target, ways(target), Choice(), 400))
    for job in made:
        table.admit([job])
        for _ in range(4):
            table.step()
    for name, x in table.finish().items():
        assert torch.equal(x, truth[name])
