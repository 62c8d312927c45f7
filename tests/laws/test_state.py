"""Laws 3 to 8: a state is a value, whatever is done with it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch

from tests.laws.entries import Entry
from tests.laws.track import Track


@pytest.fixture(autouse=True, params=["decoding", pytest.param("training", marks=pytest.mark.slow)])
def _grad(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leaves append in place where no gradient is wanted: both ways obey the laws."""
    with torch.set_grad_enabled(request.param == "training"):
        yield


@pytest.mark.parametrize("seed", range(2))
def test_3_forward_is_any_chunking(entry: Entry, seed: int):
    dice = random.Random(seed)
    track, room = Track.start(entry, 3).check(), entry.room(12)
    while room:
        length = dice.randint(1, min(room, 4))
        track = track.extend(length, tail=dice.randint(0, 6), seed=room).check()
        room -= length


def test_4_rewind_and_go_on(entry: Entry):
    """Ragged, across chunk borders, in every row or in some; then extend again."""
    track = Track.start(entry, 3).extend(2, tail=2, seed=1).extend(3, tail=4, seed=2)
    track = track.rewind(1, 3, 0).check()
    assert track.state.tail == 1
    track = track.extend(2, tail=2, seed=3).check()
    track = track.rewind(2, 0, 1).check().extend(1, tail=1, seed=4).check()
    track.rewind(1, 1, 1).check().extend(2, seed=5).check()
    # All the way back to the beginning.
    full = Track.start(entry, 3).extend(4, tail=4, seed=6)
    full.rewind(4, 4, 4).check().extend(3, tail=1, seed=7).check()


def test_4_rewind_in_steps(entry: Entry):
    """Twice by one is once by two."""
    full = Track.start(entry, 2).extend(6, tail=5, seed=1)
    full.rewind(1, 1).check().rewind(1, 1).check().rewind(0, 1).check().extend(2, 1, 2).check()
    full.rewind(0, 2).check().rewind(2, 0).check().extend(1, 1, 3).check()


def test_5_old_states_still_extend(entry: Entry):
    """Re-reading alone can't see a corrupted cache: extend after a descendant has written."""
    old = Track.start(entry, 3).extend(2, tail=1, seed=1)
    new = old.extend(2, tail=2, seed=2)
    again = old.check().extend(2, tail=2, seed=3)
    again.check()
    new.check().extend(1, seed=4).check()
    again.extend(1, seed=5).check()
    old.extend(1, seed=6).check()
    # A rewound state writes where the longer one still reads.
    back = new.rewind(1, 2, 0).extend(1, tail=1, seed=7).check()
    new.check().extend(1, seed=8).check()
    back.check().extend(1, seed=9).check()


def test_6_branch_and_branch_a_branch(entry: Entry):
    root = Track.start(entry, 2).extend(2, tail=2, seed=1)
    twigs = []
    for i in range(2):
        branch = root.extend(1, tail=2, seed=2 + i)
        twigs += [branch, branch.rewind(1, 0), branch.rewind(0, 1)]
        twigs += [branch.extend(2, tail=1, seed=10 * j + i) for j in range(4, 6)]
    random.Random(0).shuffle(twigs)
    grown = [twig.check().extend(1, tail=1, seed=20 + i) for i, twig in enumerate(twigs)]
    for twig in [*grown, *twigs]:
        twig.check()


@pytest.mark.parametrize("ragged", [False, True])
def test_7_select_commutes_with_extend(entry: Entry, ragged: bool):
    track = Track.start(entry, 4, seed=3).extend(3, tail=3, seed=1)
    if ragged:
        track = track.rewind(2, 0, 1, 2)
    for rows in ([2, 0], [1, 1, 3], [3, 2, 1, 0], [0]):
        chosen = track.select(*rows).check().extend(2, tail=2, seed=2).check()
        chosen.rewind(*(i % 2 for i in rows)).check().extend(1, seed=3).check()
    track.extend(1, seed=4).check()


def test_7_concat_commutes_with_extend(entry: Entry):
    """Rows of unlike lengths, tails and conditions; the parts go on by themselves."""
    model = entry.model()
    one = Track.start(entry, 2, 5, model).extend(4, tail=3, seed=1).rewind(2, 0)
    two = Track.start(entry, 1, 6, model).extend(1, tail=1, seed=2)
    three = Track.start(entry, 2, 8, model)
    both = Track.concat([one, two]).check()
    assert both.state.tail == 1
    grown = both.extend(2, tail=2, seed=3).check()
    grown.rewind(2, 0, 1).check().extend(1, seed=4).check()
    mixed = Track.concat([three, grown, two.select(0, 0)]).check()
    mixed = mixed.select(6, 1, 4, 2, 0).check().extend(2, tail=1, seed=5).check()
    mixed.rewind(1, 0, 1, 0, 1).extend(1, seed=6).check()
    for part in (one, two, three):
        part.extend(1, tail=1, seed=7).check()


def test_8_rewinding_beyond_the_tail_raises(entry: Entry):
    track = Track.start(entry, 2).extend(4, tail=2, seed=1)
    for n in ([3, 0], [0, 3], [9, 9], [-1, 0]):
        with pytest.raises(ValueError, match="can't rewind"):
            track.state.rewind(n)
    with pytest.raises(ValueError, match="one count a row"):
        track.state.rewind([1])
    with pytest.raises(ValueError, match="can't rewind"):
        track.rewind(2, 1).state.rewind([0, 1])
    with pytest.raises(ValueError, match="can't rewind"):
        track.extend(1).state.rewind([1, 0])
    track.rewind(2, 2).check().extend(1, seed=2).check()
