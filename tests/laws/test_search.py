"""Law 15: beam search beside the truth, by enumeration and by the definition.

Shapes: B prompts, T length, V alphabet size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from chainrule.core.model import Condition, SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.state import Slab
from chainrule.decoding.beam import Hypothesis, beam
from chainrule.decoding.verify import Verify, drain
from chainrule.decoding.warps import Warps
from tests.laws.entries import SIZE, Entry, dice, symbols
from tests.laws.track import close

LENGTH, ROWS = 4, 3
END = SIZE - 1  # the symbol that ends a hypothesis, where one does


@pytest.fixture(autouse=True)
def _in_place() -> Iterator[None]:
    with torch.no_grad():
        yield


def asked(entry: Entry) -> tuple[SequenceModel, list[Tensor], Condition | None]:
    """A model, prompts of lengths 0 to 2 and their conditions."""
    model = entry.model()
    if model.space.kind != "finite" or model.space.event_shape:
        pytest.skip("beam search is for scalar finite symbols")
    prompts = [symbols(model.space, 1, i, dice(i))[0] for i in range(ROWS)]
    return model, prompts, entry.cond(ROWS, dice())


def score(
    model: SequenceModel, prompt: Tensor, x: Sequence[Sequence[int]], cond: Condition | None
) -> Tensor:
    """log p(x | prompt) [N, T] symbol by symbol, of N sequences, by one ``forward``."""
    whole = torch.cat([prompt.expand(len(x), -1), torch.tensor(x)], 1)
    cond = None if cond is None else cond.select([0] * len(x))
    return model(whole, cond).log_prob(whole)[:, len(prompt) :]


def one(cond: Condition | None, row: int) -> Condition | None:
    return None if cond is None else cond.select([row])


def wu(log_p: float, length: int, penalty: float) -> float:
    """Wu et al. 2016, eq. 14, the coverage penalty left out."""
    return log_p / ((5 + length) ** penalty / 6**penalty)


def best_first(found: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """By the first entry; what is equal but for rounding stays in its order."""
    return sorted(found, key=lambda one: -round(one[0], 9))


def check(got: list[Hypothesis], wanted: list[tuple[Any, ...]]) -> None:
    """Against (score, log p, symbols)."""
    assert [h.symbols for h in got] == [x for _, _, x in wanted]
    close(torch.tensor([h.score for h in got]), torch.tensor([s for s, _, _ in wanted]))
    close(torch.tensor([h.log_prob for h in got]), torch.tensor([p for _, p, _ in wanted]))


@pytest.mark.parametrize(("eos", "penalty"), [(None, 0.0), (END, 0.0), (END, 0.7), (END, 2.5)])
def test_15_a_beam_as_wide_as_the_space_finds_the_truth(
    entry: Entry, eos: int | None, penalty: float
):
    """The n best of all Vᵀ sequences, by enumeration; each ends with its first end symbol."""
    model, prompts, cond = asked(entry)
    every = list(itertools.product(range(SIZE), repeat=LENGTH))
    wide, n = SIZE**LENGTH, 6
    found = beam(model, prompts, wide, LENGTH, eos=eos, n_best=n, length_penalty=penalty, cond=cond)
    for row, prompt in enumerate(prompts):
        each = score(model, prompt, every, one(cond, row)).cumsum(1).tolist()
        truth = {}
        for x, log_p in zip(every, each, strict=True):
            size = x.index(eos) + 1 if eos in x else LENGTH
            truth[x[:size]] = log_p[size - 1]
        ranked = [(wu(p, len(x), penalty), p, list(x)) for x, p in truth.items()]
        check(found[row], best_first(ranked)[:n])
        ends = ["eos" if eos in h.symbols else "length" for h in found[row]]
        assert [h.ended for h in found[row]] == ends


@pytest.mark.parametrize("penalty", [0.0, 4.0])
def test_15_a_narrow_beam_is_its_definition(entry: Entry, penalty: float):
    """Without a state, without an early stop: every hypothesis is scored anew at each step."""
    model, prompts, cond = asked(entry)
    width, n = 3, 3
    found = beam(model, prompts, width, 6, eos=END, n_best=n, length_penalty=penalty, cond=cond)
    for row, prompt in enumerate(prompts):
        live: list[list[int]] = [[]]
        ended: list[tuple[float, float, list[int]]] = []
        for step in range(1, 7):
            more = [[*x, symbol] for x in live for symbol in range(SIZE)]
            log_p = score(model, prompt, more, one(cond, row)).sum(1).tolist()
            ranked = best_first(zip(log_p, more, strict=True))
            done = [(p, x) for p, x in ranked[:width] if x[-1] == END or step == 6]
            ended += [(wu(p, step, penalty), p, x) for p, x in done]
            live = [x for _, x in ranked if x[-1] != END][:width]
        check(found[row], best_first(ended)[:n])


def test_15_width_1_is_greedy(entry: Entry):
    """The symbols of temperature 0, up to the end symbol."""
    model, prompts, cond = asked(entry)
    warp = Warps.of(ROWS, temperature=0)
    begun = Verify(model).start(prompts, Noise.seeded(0, range(ROWS)), cond, warp)
    greedy: list[list[int]] = [[] for _ in prompts]
    for step in drain(Verify(model), begun, [6] * ROWS, END):
        for row, x in zip(step.rows, step.symbols[:, 0].tolist(), strict=True):
            greedy[row].append(x)
    found = beam(model, prompts, 1, 6, eos=END, cond=cond)
    assert [h.symbols for (h,) in found] == greedy


@pytest.mark.parametrize("groups", [1, 2])
def test_15_a_batch_is_its_prompts(entry: Entry, groups: int):
    """Whatever shares the batch; sorted, distinct, and scored as ``forward`` does."""
    model, prompts, cond = asked(entry)
    setting = {"eos": END, "n_best": 4, "length_penalty": 0.5, "groups": groups}
    copies = Slab.copies
    together = beam(model, prompts, 4, 5, cond=cond, **setting)
    assert Slab.copies == copies  # select makes the only ones
    for row, prompt in enumerate(prompts):
        (alone,) = beam(model, [prompt], 4, 5, cond=one(cond, row), **setting)
        check(together[row], [(h.score, h.log_prob, h.symbols) for h in alone])
        assert [h.score for h in alone] == sorted((h.score for h in alone), reverse=True)
        assert len({tuple(h.symbols) for h in alone}) == len(alone) == 4
        for h in alone:
            (total,) = score(model, prompt, [h.symbols], one(cond, row)).sum(1)
            close(torch.tensor(h.log_prob), total)


def test_15_diverse_groups_take_turns(entry: Entry):
    """Width 1 each: greedy, paying for what those before it chose; none ends as another."""
    model, prompts, cond = asked(entry)
    found = beam(model, prompts, 3, LENGTH, groups=3, n_best=3, diversity=0.9, cond=cond)
    for row, prompt in enumerate(prompts):
        groups: list[list[int]] = [[], [], []]
        for step in range(LENGTH):
            chosen = torch.zeros(SIZE)
            for i, group in enumerate(groups):
                more = [[*group, s] for s in range(SIZE)]
                wish = score(model, prompt, more, one(cond, row))[:, -1] - 0.9 * chosen
                known = [more.index(x) for x in groups[:i] if step == LENGTH - 1 and x in more]
                wish[known] = -torch.inf
                group.append(int(wish.argmax()))
                chosen[group[-1]] += 1
        assert sorted(h.symbols for h in found[row]) == sorted(groups)
