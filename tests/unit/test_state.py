"""The leaves of a state, and when they share memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from chainrule.core.state import WIDE, Fixed, Grow, Leaf, Slab, State, Window


@pytest.fixture(autouse=True)
def _decoding() -> Iterator[None]:
    with torch.no_grad():
        yield


def count(start: int, length: int, rows: int = 2) -> Tensor:
    """[B, L]: start, start + 1, …; row b is 1000 b higher."""
    return torch.arange(start, start + length) + 1000 * torch.arange(rows)[:, None]


def grow(capacity: int = 4, rows: int = 2) -> Grow:
    return Grow.empty(torch.zeros(rows, capacity, dtype=torch.int64), axis=1)


def copies() -> tuple[int, int]:
    return Slab.copies, Slab.growths


# ---- Grow ----


def test_grow_appends_in_place_and_doubles():
    leaf, (copied, grown) = grow(), copies()
    for t in range(100):
        leaf = leaf.push(count(t, 1))
    assert torch.equal(leaf.read(), count(0, 100))
    assert copies() == (copied, grown + 5)  # 4 -> 10 -> 22 -> 46 -> 94 -> 190


def test_grow_copies_only_when_a_longer_value_lives():
    root = grow(16).push(count(0, 3))
    before = copies()[0]
    one = root.push(count(3, 2))
    assert one.slab is root.slab
    two = root.push(count(50, 1))
    assert copies()[0] == before + 1
    assert two.slab is not root.slab
    assert torch.equal(one.read(), count(0, 5))
    assert torch.equal(two.read(), torch.cat([count(0, 3), count(50, 1)], 1))
    del one
    gc.collect()
    three = root.push(count(70, 4))
    assert copies()[0] == before + 1
    assert three.slab is root.slab


def test_grow_rewinds_in_place():
    leaf = grow(16).push(count(0, 6))
    back = leaf.rewind((2, 5), tail=0)
    assert back.lens == (4, 1)
    before = copies()[0]
    del leaf
    new = back.push(count(20, 2))
    assert copies()[0] == before
    assert torch.equal(new.read()[0, :6], torch.tensor([0, 1, 2, 3, 20, 21]))
    assert torch.equal(new.read()[1, :3], torch.tensor([1000, 1020, 1021]))


def test_grow_writes_one_layer_at_a_time():
    """The layout of keys and values: [B, layers, 2, H, C, D]."""
    leaf = Grow.empty(torch.zeros(2, 3, 2, 4, 5, 6), axis=4)
    leaf = leaf.claim(2)
    values = torch.randn(2, 3, 2, 4, 2, 6)
    for layer in range(3):
        for which in range(2):
            leaf.write(values[:, layer, which], layer, which)
            assert torch.equal(leaf.read(layer, which), values[:, layer, which])
    assert torch.equal(leaf.read(), values)
    ragged = leaf.rewind((0, 1), 0).claim(1)
    more = torch.randn(2, 4, 1, 6)
    ragged.write(more, 1, 0)
    assert torch.equal(ragged.read(1, 0)[0, :, 2:3], more[0])
    assert torch.equal(ragged.read(1, 0)[1, :, 1:2], more[1])


def test_grow_concat_pads_and_select_reorders():
    long, short = grow(16).push(count(0, 9)), grow(2).push(count(100, 2))
    both = Grow.concat([long, short])
    assert both.lens == (9, 9, 2, 2)
    chosen = both.select(torch.tensor([3, 0]))
    assert chosen.lens == (2, 9)
    assert torch.equal(chosen.read()[0, :2], count(100, 2)[1])
    new = chosen.push(count(200, 1))
    assert new.read()[0, 2] == 200
    assert torch.equal(both.read()[:2], count(0, 9))


def test_grow_is_finite_beyond_a_rows_own_length():
    torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
    try:
        leaf = Grow.concat(
            [Grow.empty(torch.zeros(1, 4), axis=1).push(torch.ones(1, n)) for n in (1, 4)]
        ).push(torch.ones(2, 3))
        assert bool(torch.isfinite(leaf.read()).all())
    finally:
        torch.use_deterministic_algorithms(False)


def test_grow_keeps_gradients():
    """With gradients, writing makes a new tensor: autograd may need the old one."""
    with torch.enable_grad():
        x = torch.randn(1, 3, requires_grad=True)
        leaf = Grow.empty(torch.zeros(1, 4), axis=1)
        total = torch.zeros(())
        for t in range(3):
            leaf = leaf.push(x[:, t : t + 1])
            total = total + (leaf.read() ** 2).sum()
        (slope,) = torch.autograd.grad(total, x)
        torch.testing.assert_close(slope, 2 * x * torch.tensor([3.0, 2.0, 1.0]))
        assert not leaf.detach().read().requires_grad


# ---- Window ----


@pytest.mark.parametrize("w", [1, 3, WIDE, WIDE + 7])
@pytest.mark.parametrize("grad", [False, True])
def test_window_holds_the_last(w: int, grad: bool):
    with torch.set_grad_enabled(grad):
        leaf, end = Window.full(torch.tensor([-1, -1]), w), 0
        history = torch.full((2, w), -1)
        for length, tail in [(1, 0), (5, 2), (2, 4), (200, 3), (1, 1), (3, 3), (90, 90)]:
            x = count(end, length)
            leaf, history, end = leaf.push(x, tail), torch.cat([history, x], 1), end + length
            assert torch.equal(leaf.t, history[:, -(w + tail) :])
        back = leaf.rewind((5, 5), 10)
        assert torch.equal(back.t, history[:, -(w + 15) : -5])
        ragged = leaf.rewind((0, 80), 10)
        assert torch.equal(ragged.t[0], history[0, -(w + 10) :])
        assert torch.equal(ragged.t[1], history[1, -(w + 90) : -80])


def test_wide_window_appends_in_place():
    """A copy when its slab is full, which is once in more than w steps."""
    leaf = Window.full(torch.zeros(1), WIDE).push(torch.zeros(1, 1), 0)
    slabs, before = {id(leaf.slab)}, copies()[0]
    kept = [leaf.slab]
    for _ in range(5 * WIDE):
        leaf = leaf.push(torch.zeros(1, 1), 0)
        if id(leaf.slab) not in slabs:
            slabs.add(id(leaf.slab))
            kept.append(leaf.slab)
    assert len(slabs) <= 6
    assert copies()[0] == before


def test_wide_window_copies_on_a_clash():
    root = Window.full(torch.zeros(2, dtype=torch.int64), WIDE).push(count(0, 3), 3)
    one = root.push(count(3, 2), 3)
    before = copies()[0]
    two = root.push(count(50, 2), 3)
    assert copies()[0] == before + 1
    assert torch.equal(one.t[:, -2:], count(3, 2))
    assert torch.equal(two.t[:, -5:], torch.cat([count(0, 3), count(50, 2)], 1))


# ---- Fixed and State ----


def test_fixed_pads_what_is_ragged_and_refuses_the_rest():
    both = Fixed.concat([Fixed(torch.ones(1, 2), True), Fixed(torch.ones(2, 4), True)])
    assert torch.equal(both.t[0], torch.tensor([1.0, 1, 0, 0]))
    with pytest.raises(ValueError, match="different shapes"):
        Fixed.concat([Fixed(torch.ones(1, 2)), Fixed(torch.ones(1, 3))])


def state(rows: int = 2, **more: Leaf) -> State:
    start = State((0,) * rows, {"last": Window.full(torch.full((rows,), -1), 2), **more})
    return start.push(3, 2, last=count(0, 3, rows))


def test_state_keeps_at_most_what_there_is():
    begun = State((0,), {"last": Window.full(torch.zeros(1), 1)})
    assert begun.push(2, 9, last=torch.zeros(1, 2)).tail == 2
    assert begun.push(2, 1, last=torch.zeros(1, 2)).tail == 1
    grown = begun.push(2, 1, last=torch.zeros(1, 2)).push(1, 9, last=torch.zeros(1, 1))
    assert (grown.lens, grown.tail, grown.window("last").shape[1]) == ((3,), 2, 3)


def test_state_trim():
    whole = state()
    assert whole.trim(2) is whole
    assert whole.trim().tail == 0
    assert torch.equal(whole.trim(1).window("last"), whole.window("last")[:, 1:])


def test_state_select():
    whole = state(3)
    assert whole.select([0, 1, 2]) is whole
    ragged = whole.rewind([1, 0, 2]).select([2, 2, 0])
    assert ragged.lens == (1, 1, 2)
    assert ragged.window("last")[:, -1].tolist() == [2000, 2000, 1]
    assert whole.select([]).lens == ()


def test_state_concat_refuses_strangers():
    for other in (
        state(more=Fixed(torch.ones(2))),
        State((0,), {"last": Window.full(torch.zeros(1), 2)}, backend="engine"),
    ):
        with pytest.raises(ValueError, match="can't be merged"):
            State.concat([state(), other])
    one = state()
    assert State.concat([one]) is one


def test_positions_are_absolute():
    ragged = state().rewind([1, 0])
    assert ragged.pos(2).tensor().tolist() == [[2, 3], [3, 4]]
    assert ragged.pos(3, back=2).tensor().tolist() == [[0, 1, 2], [1, 2, 3]]


def test_join_and_sub():
    a, b = state(), state()
    both = State.join({"a": a, "b": b}, {"own": Fixed(torch.ones(2))})
    assert set(both.leaves) == {"a/last", "b/last", "own"}
    assert both.lens == a.lens
    inner = both.rewind([1, 2]).sub("b")
    assert set(inner.leaves) == {"last"}
    assert inner.lens == (2, 1)
    nested = State.join({"c": both})
    assert set(nested.sub("c").sub("a").leaves) == {"last"}
    with pytest.raises(AssertionError, match="one length"):
        State.join({"a": a, "b": b.trim()})


def test_a_condition_is_never_extended():
    with pytest.raises(AssertionError, match="never extended"):
        state(more=Fixed(torch.ones(2, 3))).push(1, 0, more=torch.ones(2, 1))
