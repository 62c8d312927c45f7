"""Tables in place of products: the same bits, less memory, and only where they are small.

Shapes: B rows, V alphabet size.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch

from chainrule import native
from chainrule.core.model import SequenceModel
from chainrule.core.space import Space
from chainrule.engine import build, tables
from chainrule.engine import program as p
from chainrule.engine.compiled import Compiled
from chainrule.engine.quantize import DTYPES, DType
from chainrule.engine.tables import Table, tabled
from chainrule.models.rnn import RNN, RNNConfig
from chainrule.models.transformer import Transformer, TransformerConfig
from tests.models.programs import Owner, Sketch

compiled: Any = native._native
native_only = pytest.mark.skipif(compiled is None, reason="installed without a compiler")
SIZE = 19


def made(name: str, size: int = SIZE, **more: Any) -> SequenceModel:
    space = Space("finite", size)
    torch.manual_seed(1)
    if name == "transformer":
        shape: dict[str, Any] = {"dim": 72, "num_layers": 2, "hidden": 104, "num_heads": 4}
        return Transformer(TransformerConfig(space, **shape, **more)).eval()
    return RNN(RNNConfig(space, cell=name, dim=72, hidden=72, num_layers=2, **more)).eval()  # type: ignore[arg-type]


def kinds(program: p.Program, dtype: DType = "f32") -> list[str]:
    """The names of the ops that the machine gets."""
    dtypes = build.held(program, dtype)

    def weighs(name: str) -> int:
        return build.size(program.weights[name], dtypes.get(name, "f32"))

    return [op.name for op in tabled(program, weighs, lambda *_: torch.zeros(1, 1))]


def test_the_first_share_of_the_gates_is_one():
    program = made("lstm").lower()
    assert isinstance(program, p.Program)
    assert kinds(program) == ["table", "cell", "linear", "cell"]


def test_what_others_read_stays():
    program = made("transformer").lower()
    assert isinstance(program, p.Program)
    before, after = [op.name for op in program.ops], kinds(program, "bf16")
    assert before[:3] == ["embed", "norm", "linear"]
    assert after == ["embed", "table", *before[3:]]  # the embedding is added again later


def test_not_for_a_large_alphabet_or_a_weight_that_stays():
    assert "table" not in kinds(made("lstm", 200).lower(), "int8")  # type: ignore[arg-type]
    assert kinds(made("lstm", 200).lower()) == ["table", "cell", "linear", "cell"]  # type: ignore[arg-type]
    sketch = Sketch(16)
    one = sketch.project("one", 32)
    sketch.leaves["past"] = p.Leaf("window", 32, 3)
    sketch.ops.append(p.Recent(sketch.buffer("past", 96), one, "past"))
    weight = sketch.ops[1].weight  # type: ignore[attr-defined]
    assert kinds(sketch.program("past")) == ["table", "recent"]
    program = sketch.program("past")
    shared = p.Linear("again", "some", weight)
    columns = {**program.buffers, "some": p.Buffer(16), "again": p.Buffer(32)}
    columns["last"] = p.Buffer(96)
    more = {"into": p.Weight("into", (16, 96)), "out": p.Weight("out", (96, 32))}
    ops = (*program.ops, p.Linear("some", "past", "into"), shared, p.Linear("last", "again", "out"))
    parts = columns, {**program.weights, **more}, program.leaves, ops
    head = (p.Linear("logits", "last", "head"),)
    twice = p.Program(program.size, program.begin, *parts, head, "last")
    assert "table" not in kinds(twice, "int8")  # its weight has a second use


def test_not_for_an_embedding_that_the_head_reads_too():
    sketch = Sketch(16, size=40)
    sketch.leaves["past"] = p.Leaf("window", 16, 2)
    sketch.ops.append(p.Recent(sketch.buffer("both", 32), "x", "past"))
    hidden = sketch.project("y", 16, "both")
    sketch.buffer("logits", 41)
    parts = sketch.buffers, sketch.weights, sketch.leaves, tuple(sketch.ops)
    tied = p.Program(41, 40, *parts, (p.Linear("logits", hidden, "table"),), hidden)
    assert kinds(tied) == ["embed", "recent", "linear"]
    free = p.Program(41, 40, *parts, (p.Linear("logits", hidden, sketch.matrix("h", 41, 16)),), "y")
    assert kinds(free) == ["table", "recent", "linear"]


def test_a_buffer_that_is_written_again():
    sketch = Sketch(16, size=12)
    sketch.project("y", 16)
    sketch.leaves["past"] = p.Leaf("window", 16, 2)
    sketch.ops += [
        p.Recent(sketch.buffer("both", 32), "y", "past"),
        p.Linear("y", "both", sketch.matrix("back", 16, 32)),  # no longer the symbol's alone
        p.Add("y", "y", "x"),
    ]
    assert kinds(sketch.program("y")) == ["table", "table", "recent", "linear", "add"]


@native_only
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["tanh", "lstm", "gru", "mingru", "transformer"])
def test_no_bit_changes(name: str, dtype: DType, monkeypatch: pytest.MonkeyPatch):
    model, x = made(name), torch.randint(SIZE, (5, 40))
    fast = Compiled(model, dtype, 1)
    monkeypatch.setattr(build, "tabled", lambda program, *_: program.ops)
    slow = Compiled(model, dtype, 1)
    assert fast.weight_bytes != slow.weight_bytes
    states = [m.extend(m.start(5), x, tail=40) for m in (fast, slow)]
    laws = [m.predict(s).log_probs() for m, s in zip((fast, slow), states, strict=True)]  # type: ignore[attr-defined]
    assert torch.equal(*laws)
    assert torch.isfinite(laws[0]).all()


@native_only
def test_a_table_takes_no_symbol_beyond_its_rows():
    rows = build.rows_of(made("gru").state_dict())
    machine = build.build(made("gru").lower(), "f32", 1, rows, "f32")  # type: ignore[arg-type]
    past = [torch.zeros(1, 1, 72).numpy() for _ in range(2)]
    new = [torch.zeros(1, 1, 72).numpy() for _ in range(2)]
    for symbol in (SIZE + 1, -1):
        x = torch.tensor([[symbol]]).numpy()
        with pytest.raises(ValueError, match="outside the alphabet"):
            machine.run(x, [0], [], [], past, new, [], [], torch.zeros(1, 1, 72).numpy(), False)
    with pytest.raises(ValueError, match="columns don't fit"):
        machine.add_op("table", [0, machine.add_vector(torch.zeros(100).numpy())], 0, False)


@native_only
def test_an_owner_of_a_single_symbol():
    sketch = Sketch(8, size=1)
    model = Compiled(Owner(sketch.program(sketch.project("y", 8)), sketch.tensors), "f32", 1)
    state = model.extend(model.start(2), torch.zeros(2, 3, dtype=torch.int64))
    assert torch.equal(model.predict(state).log_probs(), torch.zeros(2, 1, 1, dtype=torch.float64))  # type: ignore[attr-defined]


def test_a_long_chain_takes_no_long_time():
    sketch = Sketch(4)
    weight = sketch.vector("one", 4)
    sketch.ops += [p.Bias("x", "x", weight), p.Embed("x", "table")] * 10_000
    program = sketch.program("x")
    assert len(kinds(program)) > 10_000


def test_no_op_reads_or_holds_what_tables_do_not_know():
    others = {"out", "of", "kind", "epsilon", "width", "base", "limit", "heads", "window", "sinks"}
    others |= {"rates", "scale", "cache", "memory", "state", "taps"}
    known = {*tables._READS, *tables._WEIGHTS, *others}
    for op in p.OPS.values():
        assert {field.name for field in fields(op)} <= known, op.name


def test_table_is_no_op_of_a_program():
    assert Table.name not in p.OPS
