"""Random arguments for the native part, and random programs: refused with a name, or run.

Shapes: B rows, L symbols in a call.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from chainrule import native
from chainrule.core.noise import Noise
from chainrule.decoding.warps import Warps
from chainrule.engine.compiled import Compiled
from chainrule.engine.program import Program
from chainrule.engine.quantize import CACHES, DTYPES
from tests.models.programs import Owner
from tests.unit import test_engine_input as given
from tests.unit.test_program import disturb, every_op, small

_native: Any = native._native
pytestmark = pytest.mark.skipif(_native is None, reason="installed without a compiler")

SECONDS = 600  # that the slow tests take
INTEGERS = [
    -(2**63),
    -(2**31),
    -2,
    -1,
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    16,
    17,
    64,
    2**24,
    2**40,
    2**62,
    2**63 - 1,
]
REALS = [0.0, -0.0, 1e-45, -1.0, 1e30, 3e38, float("inf"), -float("inf"), float("nan"), 0.5]


# ---- arguments ----


def array(old: np.ndarray[Any, Any], dice: random.Random) -> np.ndarray[Any, Any]:
    """Another shape, or other values."""
    kind = dice.randrange(4)
    if kind == 0:
        shape = [max(0, n + dice.choice((-1, 0, 0, 1))) for n in old.shape]
        return np.zeros(shape, old.dtype)
    if kind == 1:
        return np.zeros([dice.choice((0, 1, 2, 3, 8)) for _ in range(dice.randrange(6))], old.dtype)
    if kind == 2:
        kinds = ["float32", "int64", "float64", "uint8", "int16"]
        return np.zeros(old.shape, dice.choice(kinds))
    new = old.copy()
    if new.size:
        value = dice.choice(REALS) if new.dtype.kind == "f" else dice.choice(INTEGERS)
        if new.dtype.kind == "f" or np.iinfo(new.dtype).min <= value <= np.iinfo(new.dtype).max:
            new.flat[dice.randrange(new.size)] = value
    return new


def other(value: Any, dice: random.Random) -> Any:
    """Something like it."""
    if isinstance(value, np.ndarray):
        return array(value, dice)
    if isinstance(value, list) and value and dice.random() < 0.7:
        new = list(value)
        i = dice.randrange(len(new))
        new[i] = other(new[i], dice)
        return new
    if isinstance(value, list):
        return value + value[:1] if dice.random() < 0.5 else value[:-1]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return dice.choice([None, True, "x", 5])
    near = value + dice.choice((-1, 1))
    return dice.choice([near, dice.choice(INTEGERS if isinstance(value, int) else REALS)])


def refused_or_done(call: Callable[..., Any], *arguments: Any) -> bool:
    """Whether it was done. Of a type that nanobind doesn't convert is a TypeError."""
    try:
        call(*arguments)
    except (ValueError, TypeError):
        return False
    return True


def disturbed(arguments: list[Any], dice: random.Random) -> list[Any]:
    new = list(arguments)
    for _ in range(dice.choice((0, 1, 1, 1, 2))):
        i = dice.randrange(len(new))
        new[i] = other(new[i], dice)
    return new


def build(dice: random.Random) -> Any:
    """A machine whose weights, ops or both have something wrong, as far as it is built."""
    m = given.machine()
    for _ in range(dice.randrange(3)):
        refused_or_done(
            m.add_matrix, dice.randrange(-1, 9), dice.choice((0, 1, 4, 40, 2**62)),
            dice.choice((0, 1, 4, 64, 70, 2**62)), dice.choice((0, 8, 32, 64, 7, -8)),
        )  # fmt: skip
        data = np.full((dice.choice((1, 4, 40)), 4), dice.choice(REALS), np.float32)
        numbers = [dice.choice(INTEGERS[3:14]) for _ in range(3)]
        refused_or_done(m.fill, *numbers, data, np.full(200, dice.choice(REALS), np.float32))
    for name, at, real in given.OPS:
        refused_or_done(m.add_op, *disturbed([name, at, real, False], dice))
    refused_or_done(m.add_op, *disturbed(["linear", [10, 9, 8, 5], 0.0, True], dice))
    return m


def fuzz_arguments(seed: int) -> int:
    """How many of the calls were done."""
    dice, done = random.Random(seed), 0
    first = (given.BUFFERS, given.LEAVES, 9, 10, 5, 0, 1)
    refused_or_done(
        _native.ChainruleMachine, *disturbed([*first[:6], dice.choice((0, 1, 2))], dice)
    )
    m = build(dice) if dice.random() < 0.5 else given.finished()
    for _ in range(6):
        done += refused_or_done(m.run, *disturbed([*given.run_arguments().values()], dice))
        done += refused_or_done(m.rollout, *disturbed([*given.rollout_arguments().values()], dice))
        hidden = np.full((3, 4), dice.choice(REALS), np.float32)
        done += refused_or_done(m.log_probs, *disturbed([hidden, np.zeros((3, 5))], dice))
        done += refused_or_done(m.log_prob, *disturbed([hidden, np.arange(3), np.zeros(3)], dice))
    return done


def test_random_arguments():
    assert sum(fuzz_arguments(seed) for seed in range(150)) > 500


@pytest.mark.slow
def test_random_arguments_for_long():
    begun, seed = time.monotonic(), 1000
    while time.monotonic() < begun + SECONDS / 4:
        fuzz_arguments(seed)
        seed += 1


# ---- programs ----


def tensors(program: Program, dice: random.Random) -> dict[str, torch.Tensor]:
    """Weights that fit, now and then with what no training makes."""
    made = {}
    torch.manual_seed(dice.randrange(2**30))
    for weight in program.weights.values():
        rows = weight.first + weight.shape[0]
        if weight.kind == "table":
            kind = torch.float64 if weight.source in ("values", "backoff") else torch.int64
            made[weight.source] = torch.arange(rows).to(kind)
            continue
        t = torch.randn(rows, *weight.shape[1:])
        if dice.random() < 0.1:
            most = REALS if weight.kind == "vector" else REALS[:6]
            t.view(-1)[dice.randrange(t.numel())] = dice.choice(most)
        made[weight.source] = t
    return made


def run(program: Program, dice: random.Random) -> bool:
    """Two rows through a few calls, rewound, chosen, and drawn from; False if not built."""
    try:
        owner = Owner(program, tensors(program, dice), eos=dice.choice((None, program.size - 1)))
        dtype, threads = dice.choice(DTYPES), dice.choice((1, 1, 2))
        model = Compiled(owner, dtype, threads, cache=dice.choice(CACHES))
    except ValueError:
        return False
    state = model.start(2)
    for length in (3, 2, 9, dice.choice((4, 70))):
        x = torch.arange(2 * length).view(2, length) % program.size
        state = model.extend(state, x, tail=2).rewind([1, 2])
        assert model.predict(state).log_probs().shape == (2, 1, program.size)
    state = state.select([1, 0, 1])
    last = torch.zeros(3, 1, dtype=torch.int64)
    rolled = model.stretch(state, last, 5, Noise.seeded(0, [0, 1, 2]), Warps.of(3))
    assert rolled is None or rolled.symbols.shape[0] == 3
    return True


def fuzz_programs(seed: int, number: int) -> int:
    """How many of so many disturbed programs were run."""
    dice, ran = random.Random(seed), 0
    for _ in range(number):
        data = every_op()
        try:
            for _ in range(dice.choice((1, 1, 1, 2, 3))):
                disturb(data, dice)
            text = json.dumps(data)
        except RecursionError:  # in what makes them: too deep a value in too deep a value
            continue
        try:
            program = Program.from_json(data if dice.random() < 0.5 else text)
        except ValueError:
            continue
        if small(program):
            ran += run(program, dice)
    return ran


def test_random_programs():
    assert fuzz_programs(0, 400) > 15


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    resource = pytest.importorskip("resource")
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


@pytest.mark.slow
def test_random_programs_for_long():
    """No program has more memory than the default run's, and what small ones may need."""
    begun, seed, room = time.monotonic(), 1, peak() + 2**30
    while time.monotonic() < begun + SECONDS:
        fuzz_programs(seed, 100)
        seed += 1
        assert peak() < room, f"seed {seed - 1}"
