"""Law 14: the Program of a model is that model, whatever is done with its states.

So is what the compiled engine makes of it, as far as a dtype goes; all other laws hold for that
too, to the bit.
"""

from __future__ import annotations

import json
import random

import pytest
import torch

from chainrule.core.model import SequenceModel
from chainrule.engine import native_available
from chainrule.engine.compiled import Compiled
from chainrule.engine.lowered import FIRST
from chainrule.engine.program import Program
from chainrule.engine.quantize import DTYPES, DType
from chainrule.engine.reference import Reference
from tests.laws.entries import COMPILED, LISTED, Entry, dice, symbols
from tests.laws.tolerances import BFLOAT16, FLOAT32, INT8, Q4
from tests.laws.track import Track, close, signature

LIMITS = {"f32": FLOAT32, "bf16": BFLOAT16, "int8": INT8, "int8-row": INT8, "q4": Q4}


class Pair:
    """Two models that have consumed the same: every operation is done to both and compared."""

    def __init__(self, entry: Entry, one: SequenceModel, other: SequenceModel, rows: int) -> None:
        self.tracks = [Track.start(entry, rows, 1, model) for model in (one, other)]
        self.compare()

    def do(self, what: str, *arguments: int) -> Pair:
        self.tracks = [getattr(track, what)(*arguments) for track in self.tracks]
        return self.compare()

    def both(self, *parts: tuple[Pair, str, list[int]]) -> None:
        """These, then what was done to the others, as the rows of one batch."""
        own = [[track] for track in self.tracks]
        for pair, what, arguments in parts:
            for tracks, track in zip(own, pair.tracks, strict=True):
                tracks.append(getattr(track, what)(*arguments))
        self.tracks = [Track.concat(tracks) for tracks in own]
        self.compare()

    def compare(self) -> Pair:
        one, other = self.tracks
        assert one.state.lens == other.state.lens and one.state.tail == other.state.tail
        laws = [signature(t.model.predict(t.state), t.model.space) for t in self.tracks]
        close(laws[0], laws[1])
        return self


def lowered(entry: Entry, length: int = 0) -> tuple[SequenceModel, Program]:
    """The model and its Program; skipped where there is none, or no room for so many symbols."""
    model = entry.model()
    program = model.lower()
    if program is None:
        pytest.skip("it runs in torch only")
    if program.grid is not None and entry.room(length) < length:
        pytest.skip("its pictures are smaller")
    return model, program


def test_14_program_is_torch(entry: Entry):
    """Chunks with tails, ragged rewinds, far beyond the context, rows chosen and put together."""
    model, program = lowered(entry, 34)
    with torch.no_grad():
        pair = Pair(entry, model, Reference(model, program, dtype=torch.float64), 3)
        pair.do("extend", 7, 5, 1).do("rewind", 1, 3, 0).do("extend", 3, 0, 2)
        pair.do("extend", 9, 4, 3).do("rewind", 0, 4, 2).do("extend", 1, 1, 4)
        pair.do("select", 2, 0, 0).do("extend", 4, 4, 6)
        pair.both((pair, "rewind", [2, 0, 4]), (pair, "select", [1]))
        pair.do("extend", 9, 4, 7).do("rewind", *random.Random(0).choices(range(5), k=7))
        pair.do("extend", 1, 0, 8)


def test_14_program_forgets_what_is_out_of_sight(entry: Entry):
    """A cache that would grow drops what lies behind the window and the undoable tail alone."""
    model, program = lowered(entry, FIRST + 7)
    with torch.no_grad():
        pair = Pair(entry, model, Reference(model, program, dtype=torch.float64), 2)
        pair.do("extend", FIRST - 4, 5, 1).do("extend", 2, 5, 2)
        pair.do("extend", 2, 5, 3).do("rewind", 5, 3).do("extend", 7, 0, 4)


def test_14_program_is_json(entry: Entry):
    """It comes back from JSON, and its shapes are known before there are weights."""
    model, program = lowered(entry)
    assert Program.from_json(json.dumps(program.to_json())) == program
    if model.config is not None:
        with torch.device("meta"):
            assert type(model)(model.config).lower() == program


@pytest.mark.skipif(not native_available(), reason="installed without a compiler")
@pytest.mark.parametrize("name", COMPILED)
def test_14_int8_keys_and_values_are_torch(name: str):
    """As the reference rounds them, and beside those that were not rounded."""
    entry = next(e for e in LISTED if e.name == name)
    model, program = lowered(entry)
    if not any(leaf.kind == "cache" for leaf in program.leaves.values()):
        pytest.skip("it has no keys and values")
    x, cond = symbols(model.space, 4, entry.room(30), dice(4)), entry.cond(4, dice(3))
    engine = Compiled(model, "f32", 1, cache="int8")
    with torch.no_grad():
        wanted = signature(model(x, cond), model.space)
        rounded = Reference(model, program, dtype=torch.float64, cache="int8")(x, cond)
        told = signature(rounded, model.space)
        got = signature(engine(x, cond), model.space)
    assert (
        float((got - told).norm() / told.norm()) <= BFLOAT16
    )  # a number between two integers may go either way
    assert 0 < float((got - wanted).norm() / wanted.norm()) <= INT8


@pytest.mark.skipif(not native_available(), reason="installed without a compiler")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", COMPILED)
def test_14_compiled_is_torch(name: str, dtype: DType):
    """In one go, and in two calls: log-probabilities of every symbol, relative L2."""
    entry = next(e for e in LISTED if e.name == name)
    model = entry.model(away=0.1)
    x, cond = symbols(model.space, 4, entry.room(30), dice(4)), entry.cond(4, dice(3))
    engine, part = Compiled(model, dtype, 1), 2 * x.shape[1] // 3
    with torch.no_grad():
        wanted = signature(model(x, cond), model.space)
        got = signature(engine(x, cond), model.space)
        behind = engine.extend(engine.start(4, cond), x[:, :part])
        again = signature(engine(x[:, part:], None, behind), model.space)
    assert torch.equal(again, got[:, part:])
    assert float((got - wanted).norm() / wanted.norm()) <= LIMITS[dtype]


def test_14_everything_that_lowers_is_compiled():
    assert {e.name for e in LISTED if e.model().lower() is not None} == set(COMPILED)
