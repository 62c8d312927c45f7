"""Keys and values of int8: as torch rounds them, whatever is done with the state that has them.

Shapes: B rows, L symbols in a call, K head width, G key-value heads.
"""

from __future__ import annotations

import pytest
import torch

from chainrule.core.state import State
from chainrule.engine.quantize import DType
from tests.laws.tolerances import INT8, INT8_CACHE
from tests.unit import test_engine as others
from tests.unit.test_engine import HEADS, apart, attention, hidden, symbols

pytestmark = others.pytestmark
kernels = others.kernels  # every instruction set


def random_keys(width: int, heads: int, groups: int, *more: int, edge: bool = False):
    return attention(width, heads, groups, *more, edge=edge).pair("y", "f32", cache="int8")


@pytest.mark.parametrize(("width", "heads", "groups"), [*HEADS, (64, 9, 3), (130, 5, 1)])
def test_attend(width: int, heads: int, groups: int):
    got, wanted = hidden(random_keys(width, heads, groups, 1000), 2, 1, 5, 40, 17, 2)
    assert apart(got, wanted) <= INT8_CACHE


@pytest.mark.parametrize("window", [1, 3, 16, 50])
def test_attend_within_a_window(window: int):
    for sinks in (0, 1, 4, 20):
        for edge in (False, True):
            pair = random_keys(18, 4, 2, window, sinks, edge=edge)
            got, wanted = hidden(pair, 2, 30, 1, 65, 4, 90)
            assert apart(got, wanted) <= INT8_CACHE


@pytest.mark.parametrize("dtype", ["f32", "bf16", "q4"])
def test_every_dtype_of_weights(dtype: DType):
    pair = attention(24, 4, 2, 1000).pair("y", dtype, cache="int8")
    got, wanted = hidden(pair, 3, 9, 30)
    assert apart(got, wanted) <= (INT8_CACHE if dtype == "f32" else INT8)


def test_scales_of_every_head_and_position():
    """What is small isn't lost in what is large; a vector of zeros stays zeros."""
    sketch = attention(16, 2, 2, 1000)
    sketch.tensors["table"] *= torch.logspace(-4, 4, len(sketch.tensors["table"]))[:, None]
    sketch.tensors["table"][3] = 0
    sketch.tensors["qkv.bias"][:] = 0
    model, oracle = sketch.pair("y", "f32", cache="int8")
    got, wanted = hidden((model, oracle), 12, 1)
    for one, other in zip(got, wanted, strict=True):
        assert apart(one, other) <= INT8_CACHE


def test_heads_that_share_keys_have_the_bits_that_they_have_alone():
    """One symbol a call: heads go together. Many: positions do."""
    for heads in (1, 2, 3, 4, 5, 8, 9):
        for kept in ("auto", "int8"):
            sketch = attention(20, heads, 1, 37, 2)
            one, two = (sketch.pair("y", "bf16", threads, kept)[0] for threads in (1, 2))  # type: ignore[arg-type]
            two._machine.set_alone(0)
            sketch.buffers.pop("logits")
            x = symbols(2, 60)
            whole = one.extend(one.start(2), x, tail=60).window("hidden")[:, 1:]
            for model in (one, two):
                state, parts = model.start(2), []
                for t in range(60):
                    state = model.extend(state, x[:, t : t + 1])
                    parts.append(state.window("hidden"))
                assert torch.equal(torch.cat(parts, 1), whole)


def test_states_keep_their_bits():
    """Compacted, rewound, chosen and put together."""
    for sinks in (0, 5):
        model = attention(18, 4, 2, 11, sinks, edge=sinks > 0).pair("y", "bf16", cache="int8")[0]
        x = symbols(3, 300)
        most = model.extend(model.start(3), x, tail=300).window("hidden")[:, 1:]
        state, parts, compacted, longest = model.start(3), [], False, 0
        for t in range(300):
            wrong = model.extend(state, x[:, t : t + 1].flip(0), tail=1).rewind([1, 1, 1])
            state = State.concat([wrong.select([2]), state.select([1, 0])]).select([2, 1, 0])
            state = model.extend(state, x[:, t : t + 1])
            parts.append(state.window("hidden"))
            compacted |= state.grow("kv").lens[0] < longest
            longest = max(longest, state.grow("kv").lens[0])
        assert compacted
        assert torch.equal(torch.cat(parts, 1), most)


def test_what_it_takes():
    """One byte a number, padded to 16, and a float for every vector."""
    model = attention(33, 2, 2, 1000).pair("y", "bf16", cache="int8")[0]
    slab = model.extend(model.start(3), symbols(3, 40)).grow("kv").slab.tensor
    assert slab.nbytes == 3 * 2 * 2 * 64 * (48 + 4)
    assert model.backend == "engine bf16, int8 cache"
