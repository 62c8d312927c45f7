"""Beam search: ties, ends, what is forbidden, and what it refuses. The laws hold the rest."""

import pytest
import torch

from chainrule.core.distributions import Categorical
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.space import Space
from chainrule.core.state import State
from chainrule.decoding.beam import beam, penalised
from chainrule.models.wrappers import Bans, Forced
from tests.models.scalar import CountAR

NOTHING = torch.zeros(0, dtype=torch.int64)


class Same(SequenceModel):
    """Every symbol from the same law."""

    def __init__(self, p: list[float], max_len: int | None = None) -> None:
        super().__init__()
        self.space = Space("finite", len(p), max_len=max_len)
        self.law = torch.tensor(p, dtype=torch.float64).log()

    def start(self, batch: int, cond: Condition | None = None) -> State:
        return State((0,) * batch, {})

    def extend(self, state: State, x: torch.Tensor, tail: int = 0) -> State:
        return state.push(x.shape[1], tail)

    def predict(self, state: State) -> Categorical:
        return Categorical(self.law.expand(len(state.lens), state.tail + 1, -1))


def found(model: SequenceModel, width: int, length: int, **settings) -> list[list[int]]:
    return [h.symbols for h in beam(model, [NOTHING], width, length, **settings)[0]]


def test_the_penalty_is_that_of_wu_et_al():
    assert penalised(-6.0, 1, 0.8) == -6.0
    assert penalised(-6.0, 7, 1.0) == -3.0
    assert penalised(-6.0, 40, 0.0) == -6.0


def test_equals_are_ranked_by_prefix_and_symbol():
    model = Same([0.25] * 4)
    assert found(model, 3, 2, n_best=3) == [[0, 0], [0, 1], [0, 2]]
    assert found(model, 4, 1, n_best=4, groups=2, diversity=0.0) == [[0], [1], [2], [3]]


def test_the_penalty_decides_how_long():
    model = Same([0.6, 0.4])
    assert found(model, 2, 5, eos=1) == [[1]]
    assert found(model, 2, 5, eos=1, length_penalty=3.0) == [[0] * 5]


def test_the_end_symbol_ends_and_is_the_last():
    (hypotheses,) = beam(Same([0.5, 0.3, 0.2]), [NOTHING], 3, 3, eos=1, n_best=3)
    assert [(h.symbols, h.ended) for h in hypotheses] == [
        ([1], "eos"),
        ([0, 1], "eos"),
        ([0, 0, 0], "length"),
    ]


def test_a_stop_ends():
    model = Same([0.6, 0.4])
    (hypotheses,) = beam(model, [NOTHING], 4, 6, n_best=2, stop=lambda x: x[-2:] == [0, 0])
    assert [(h.symbols, h.ended) for h in hypotheses] == [([0, 0], "stop"), ([1, 0, 0], "stop")]


def test_nothing_forbidden_and_everything_forced():
    model = Bans(Same([0.5, 0.3, 0.2]), [[0]])
    every = found(model, 9, 2, n_best=9)
    assert sorted(every) == [[1, 1], [1, 2], [2, 1], [2, 2]]  # fewer than nine: no more exist
    begun = beam(Forced(model, [0, 2], at=[0, 1]), [NOTHING, torch.tensor([1])], 2, 3)
    assert [h.symbols for (h,) in begun] == [[0, 2, 1], [0, 2, 1]]


def test_groups_differ_and_each_gives_its_share():
    model = Same([0.5, 0.3, 0.2])
    assert found(model, 3, 1, n_best=3, groups=3, diversity=9.0) == [[0], [1], [2]]
    best = found(model, 4, 2, n_best=2, groups=2, diversity=9.0)
    assert best[0] == [0, 0]
    assert best[1] not in found(model, 4, 2, n_best=3)  # the others of its own group


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width must be 1 to 4096"),
        ({"width": 5000}, "width must be 1 to 4096"),
        ({"length": 0}, "length must be"),
        ({"n_best": 5}, "n must be 1 to 4"),
        ({"groups": 8}, "groups must be 1 to 4"),
        ({"groups": 3}, "3 groups can't share a beam of 4 evenly"),
        ({"length_penalty": -1.0}, "length_penalty must be 0 to 10"),
        ({"length_penalty": float("nan")}, "length_penalty must be"),
        ({"diversity": -1.0}, "diversity must be"),
        ({"prompts": []}, "no prompt"),
        ({"length": 9}, "9 symbols: behind this prompt the medium has room for 8"),
        ({"model": CountAR()}, "scalar finite symbols"),
        ({"model": Same([0.25] * 4), "width": 4096, "prompts": [NOTHING] * 3000}, "too wide"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    given = {"model": Same([0.5, 0.5], max_len=8), "prompts": [NOTHING], "width": 4, "length": 5}
    with pytest.raises(ValueError, match=message):
        beam(**{**given, **change})
