"""Programs from outside: what is wrong is refused by name, and what is accepted can be run."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from chainrule.core.model import Condition, SequenceModel
from chainrule.core.space import Space
from chainrule.core.state import Fixed, State
from chainrule.engine.program import WIDEST, Leaf, Program
from chainrule.engine.reference import Reference

Json = dict[str, Any]


def every_op() -> Json:
    """A program with every op in it, of 5 symbols."""

    def matrix(source: str, *shape: int) -> Json:
        return {"source": source, "shape": list(shape)}

    def vector(source: str, size: int) -> Json:
        return {"source": source, "shape": [size], "kind": "vector"}

    def table(source: str, size: int) -> Json:
        return {"source": source, "shape": [size], "kind": "table"}

    dims = {"x": 4, "y": 4, "edge": 4, "qkv": 8, "gates": 16, "one": 1, "all": 3, "hidden": 4}
    buffers: Json = {name: {"dim": dim} for name, dim in dims.items()}
    buffers |= {"law": {"dim": 5}, "logits": {"dim": 5}, "past": {"dim": 4, "of": "gates"}}
    for name, dim, first in (("q", 4, 0), ("k", 2, 4), ("v", 2, 6)):
        buffers[name] = {"dim": dim, "of": "qkv", "first": first}
    ops = [
        {"op": "embed", "out": "x", "weight": "embedding"},
        {"op": "embed", "out": "y", "weight": "position", "of": "position"},
        {"op": "add", "out": "x", "a": "x", "b": "y"},
        {"op": "wave", "out": "y", "rate": "four", "phase": "four"},
        {"op": "mul", "out": "x", "a": "x", "b": "y"},
        {"op": "norm", "out": "y", "x": "x", "weight": "four", "bias": "four", "kind": "layer"},
        {"op": "linear", "out": "qkv", "x": "y", "weight": "qkv"},
        {"op": "norm", "out": "hidden", "x": "q", "weight": "two", "bias": "two", "width": 2},
        {"op": "rope", "out": "edge", "x": "hidden", "width": 2, "limit": 5, "rates": [0.5],
         "scale": 1.5},
        {"op": "attend", "out": "y", "q": "q", "k": "k", "v": "v", "cache": "kv", "heads": 2,
         "window": 3, "sinks": 1, "edge": "edge"},
        {"op": "add", "out": "x", "a": "x", "b": "y"},
        {"op": "cross", "out": "y", "q": "x", "memory": "memory", "heads": 2},
        {"op": "gate", "out": "edge", "x": "qkv", "kind": "gelu"},
        {"op": "activate", "out": "edge", "x": "edge", "kind": "relu"},
        {"op": "linear", "out": "gates", "x": "y", "weight": "gates", "bias": "sixteen"},
        {"op": "cell", "out": "y", "x": "gates", "state": "cell", "kind": "lstm",
         "weight": "gates", "bias": "sixteen"},
        {"op": "mul", "out": "y", "a": "y", "b": "past"},
        {"op": "symbol", "out": "one"},
        {"op": "recent", "out": "all", "x": "one", "state": "recent"},
        {"op": "backoff", "out": "law", "x": "all", "contexts": "contexts", "grams": "grams",
         "values": "values", "backoff": "backoff"},
        {"op": "bias", "out": "hidden", "x": "y", "weight": "four"},
    ]  # fmt: skip
    return {
        "size": 5,
        "begin": 5,
        "context": 8,
        "buffers": buffers,
        "weights": {
            "embedding": matrix("embedding", 6, 4),
            "position": matrix("position", 8, 4),
            "two": vector("two", 2),
            "four": vector("four", 4),
            "sixteen": vector("sixteen", 16),
            "qkv": matrix("qkv", 8, 4),
            "gates": matrix("gates", 16, 4),
            "head": {"source": "embedding", "shape": [5, 4], "first": 1},
            "contexts": table("contexts", 3),
            "grams": table("grams", 9),
            "values": table("values", 9),
            "backoff": table("backoff", 4),
        },
        "leaves": {
            "kv": {"kind": "cache", "dim": 2, "width": 2},
            "memory": {"kind": "fixed", "dim": 8},
            "cell": {"kind": "window", "dim": 8},
            "recent": {"kind": "window", "dim": 1, "width": 3, "fill": 5},
        },
        "ops": ops,
        "head": [
            {"op": "linear", "out": "logits", "x": "hidden", "weight": "head"},
            {"op": "activate", "out": "logits", "x": "logits", "kind": "tanh"},
        ],
    }


class Owner(SequenceModel):
    """What a program belongs to: it gives the memory that the program asks for."""

    reads = frozenset({"source"})

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.space, self.leaves = Space("finite", program.size), program.leaves

    def start(self, batch: int, cond: Condition | None = None) -> State:
        leaves = {}
        for name, leaf in self.leaves.items():
            if leaf.kind == "fixed":
                leaves[name] = Fixed(torch.ones(batch, 3, leaf.dim), ragged=True)
                leaves[f"{name}_ok"] = Fixed(torch.ones(batch, 3, dtype=torch.bool), ragged=True)
        return State((0,) * batch, leaves)

    def extend(self, state: State, x: torch.Tensor, tail: int = 0) -> State:
        raise NotImplementedError

    predict = extend


def run(program: Program) -> None:
    """Two rows through a few calls, with any weights."""
    tensors = {}
    for weight in program.weights.values():
        rows = max(weight.first + weight.shape[0], 16)
        if weight.kind == "table":
            kind = torch.float64 if weight.source in ("values", "backoff") else torch.int64
            tensors[weight.source] = torch.arange(rows).to(kind)
        else:
            tensors[weight.source] = torch.ones(rows, *weight.shape[1:])
    try:
        model = Reference(Owner(program), program, tensors)
    except ValueError:  # one tensor in two shapes, or of two types
        return
    state = model.start(2)
    for length in (3, 2, 9):
        x = torch.arange(2 * length).view(2, length) % program.size
        state = model.extend(state, x, tail=2).rewind([1, 2])
        assert model.predict(state).log_probs().shape == (2, 1, program.size)


def small(program: Program) -> bool:
    """Whether running it takes a moment."""
    sizes = [program.size, sum(b.dim for b in program.buffers.values())]
    sizes += [leaf.dim * leaf.width for leaf in program.leaves.values()]
    for weight in program.weights.values():
        sizes += [weight.first, *weight.shape]
    return max(sizes) < 2000


def test_every_op_is_read_and_run():
    program = Program.from_json(json.dumps(every_op()))
    assert Program.from_json(program.to_json()) == program
    run(program)


def test_a_program_is_held_against_its_model():
    program = Program.from_json(every_op())
    owner = Owner(program)
    with pytest.raises(ValueError, match="there is no tensor 'embedding'"):
        Reference(owner, program, {})
    tensors = {w.source: torch.ones(9, *w.shape[1:]) for w in program.weights.values()}
    tensors |= {"sixteen": torch.ones(16), "gates": torch.ones(15, 4)}
    with pytest.raises(ValueError, match=r"'gates' is \(15, 4\), not \(16, 4\) from row 0"):
        Reference(owner, program, tensors)
    tensors["gates"] = torch.ones(16, 4)
    with pytest.raises(ValueError, match=r"int64, its .* float64: not"):
        Reference(owner, program, tensors)
    for name in ("contexts", "grams"):
        tensors[name] = tensors[name].long()
    for name in ("values", "backoff"):
        tensors[name] = tensors[name].double()
    owner.leaves = {"memory": Leaf("fixed", 6)}
    with pytest.raises(ValueError, match="no memory 'memory' of 8 columns"):
        Reference(owner, program, tensors).start(2)
    owner.space = Space("finite", 6)
    with pytest.raises(ValueError, match="a program of 5 symbols for 6"):
        Reference(owner, program, tensors)


def put(*path: Any) -> Callable[[Json], None]:
    """Sets what stands at path[:-1] to path[-1]."""

    def change(data: Any) -> None:
        for key in path[:-2]:
            data = data[key]
        data[path[-2]] = path[-1]

    return change


def drop(*path: Any) -> Callable[[Json], None]:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        del data[path[-1]]

    return change


DEEP = json.loads("[" * 400 + "]" * 400)
HEADS, ROPE, ATTEND, CROSS, CELL, RECENT, BACKOFF = 7, 8, 9, 11, 15, 18, 19
BAD = [
    ("not an object", lambda data: data.clear(), "'buffers' must be an object"),
    ("unknown op", put("ops", 0, "op", "embedd"), "ops 0: unknown op 'embedd'; known: embed"),
    ("op without name", drop("ops", 0, "op"), "ops 0: unknown op 'None'"),
    ("op that is a list", put("ops", 0, []), "ops 0: expected an object"),
    ("name that is deep", put("ops", 0, "op", DEEP), "ops 0: unknown op"),
    ("ops in an object", put("ops", {}), "'ops' must be a list"),
    ("unknown key", put("ops", 0, "wait", 1), r"ops 0 \(embed\): unknown key 'wait'"),
    ("unknown key above", put("sizes", 5), "unknown key 'sizes'; did you mean 'size'"),
    ("missing key", drop("ops", 6, "x"), r"ops 6 \(linear\): key 'x' is missing"),
    ("missing size", drop("size"), "key 'size' is missing"),
    ("float for int", put("size", 5.0), "size: expected int"),
    ("bool for int", put("begin", True), "begin: expected int"),
    ("huge integer", put("size", 10**400), "size must be 1 to"),
    ("huge negative integer", put("begin", -(10**400)), "begin must be 0 to"),
    ("huge shape", put("weights", "qkv", "shape", [10**400, 4]), "weight 'qkv': size"),
    ("infinite fill", put("leaves", "cell", "fill", float("inf")), "inf is not a finite number"),
    ("NaN", put("ops", 5, "epsilon", float("nan")), "nan is not a finite number"),
    ("fill beyond numbers", put("leaves", "cell", "fill", 1e300), "leaf 'cell': fill"),
    ("no epsilon", put("ops", 5, "epsilon", 0.0), r"op 5 \(norm\): epsilon"),
    ("deep value", put("ops", 6, "bias", DEEP), "bias: expected str"),
    ("begin without a row", put("begin", 6), "the start symbol 6 has no row"),
    ("begin below 0", put("begin", -1), "begin must be 0 to"),
    ("few rows", put("weights", "embedding", "shape", [4, 4]), "start symbol 5 has no row"),
    ("context without rows", put("context", 9), "context 9 is not what the positions"),
    ("no context", put("context", 0), "context 0 is not what the positions"),
    ("context of one", put("context", 1), "context must be 2 to"),
    ("buffer without width", put("buffers", "x", "dim", 0), "buffer 'x': dim must be 1"),
    ("buffers without end", put("buffers", {str(i): {"dim": WIDEST} for i in range(5)}),
     "columns of all buffers"),
    ("view beyond", put("buffers", "v", "first", 7), "buffer 'v': its columns lie outside 'qkv'"),
    ("view before", put("buffers", "v", "first", -1), "buffer 'v': its columns lie outside"),
    ("view of nothing", put("buffers", "v", "of", "vv"), "buffer 'v': buffer 'vv' is not there"),
    ("view of a view", put("buffers", "v", "of", "q"), "'q' is a view itself"),
    ("view of itself", put("buffers", "v", "of", "v"), "'v' is a view itself"),
    ("first alone", put("buffers", "x", "first", 1), "'first' needs 'of'"),
    ("writing a view", put("ops", 0, "out", "q"), "'q' is a view; ops write whole buffers"),
    ("writing nowhere", put("ops", 0, "out", "z"), r"op 0 \(embed\): buffer 'z' is not there"),
    ("read before write", put("ops", 2, "b", "hidden"), "'hidden' is read before it is written"),
    ("a view too early", put("ops", 2, "b", "q"), "'q' is read before it is written"),
    ("linear in place", put("ops", 10, {"op": "linear", "out": "y", "x": "y", "weight": "four"}),
     "it can't read 'y' and write 'y' at once"),
    ("a view in place", put("ops", ATTEND, "out", "qkv"), "it can't read 'q' and write 'qkv'"),
    ("wrong width", put("ops", 2, "b", "x"), None),
    ("sum of unlike widths", put("ops", 16, "b", "gates"), "gates has 16 columns, not 4"),
    ("unknown weight", put("ops", 6, "weight", "w"), r"op 6 \(linear\): weight 'w' is not there"),
    ("vector for matrix", put("ops", 6, "weight", "four"), "weight 'four' is vector"),
    ("matrix for vector", put("ops", 5, "weight", "qkv"), "weight 'qkv' is matrix"),
    ("matrix that doesn't fit", put("ops", 6, "weight", "gates"), r"not matrix \(8, 4\)"),
    ("axes", put("weights", "qkv", "shape", [8, 4, 1]), "weight 'qkv': a matrix has 2 axes"),
    ("empty weight", put("weights", "qkv", "shape", [0, 4]), "weight 'qkv': size must be"),
    ("rows before", put("weights", "head", "first", -1), "weight 'head': first must be"),
    ("kind of weight", put("weights", "qkv", "kind", "cube"), "'cube' is not one of"),
    ("odd head", put("ops", ROPE, "width", 3), "heads of 3 don't fit into 4 columns"),
    ("base", put("ops", ROPE, "base", 0.0), r"op 8 \(rope\): base must be"),
    ("limit", put("ops", ROPE, "limit", -1), r"op 8 \(rope\): limit must be"),
    ("rates", put("ops", ROPE, "rates", [1, 2]), r"op 8 \(rope\): 2 rates for 1 pairs"),
    ("rate", put("ops", ROPE, "rates", [-1.0]), r"op 8 \(rope\): rate must be"),
    ("scale", put("ops", ROPE, "scale", 0), r"op 8 \(rope\): scale must be"),
    ("odd width", put("ops", HEADS, "width", 3), "heads of 3 don't fit into 4 columns"),
    ("width below 0", put("ops", HEADS, "width", -1), r"op 7 \(norm\): width must be"),
    ("weight of heads", put("ops", HEADS, "weight", "four"), r"not vector \(2,\)"),
    ("no heads", put("ops", ATTEND, "heads", 0), r"op 9 \(attend\): heads must be"),
    ("odd heads", put("ops", ATTEND, "heads", 3), "3 heads don't fit 4 and 2 columns"),
    ("shared keys", put("ops", ATTEND, "heads", 4), "leaf 'kv' is a cache of 2"),
    ("values", put("ops", ATTEND, "v", "x"), r"op 9 \(attend\): x has 4 columns, not 2"),
    ("no window", put("ops", ATTEND, "window", 0), r"op 9 \(attend\): window must be"),
    ("sinks", put("ops", ATTEND, "sinks", -1), r"op 9 \(attend\): sinks must be"),
    ("edge", put("ops", ATTEND, "edge", "k"), r"op 9 \(attend\): k has 2 columns, not 4"),
    ("no such leaf", put("ops", ATTEND, "cache", "c"), "leaf 'c' is not there"),
    ("another leaf", put("ops", ATTEND, "cache", "memory"), "leaf 'memory' is a fixed of 8"),
    ("a leaf twice", put("ops", 10, {**every_op()["ops"][ATTEND], "out": "x"}), "another op"),
    ("memory", put("leaves", "memory", "dim", 6), "leaf 'memory' is a fixed of 6"),
    ("odd memory", put("leaves", "memory", "dim", 7), "need an even width, not 7"),
    ("cache", put("leaves", "kv", "dim", 3), "leaf 'kv': 3 is not a multiple of the width 2"),
    ("kind of leaf", put("leaves", "kv", "kind", "grow"), "'grow' is not one of"),
    ("leaf of no op", put("leaves", "more", {"kind": "cache", "dim": 2}), "'more' is used by no"),
    ("leaf that is taken", put("leaves", "hidden", {"kind": "window", "dim": 2}), "that name"),
    ("leaf for padding", put("leaves", "memory_ok", {"kind": "window", "dim": 2}), "that name"),
    ("kind of cell", put("ops", CELL, "kind", "gru"), "gates has 16 columns, not 12"),
    ("no kind of cell", put("ops", CELL, "kind", "rnn"), "'rnn' is not one of"),
    ("a cell without weight", drop("ops", CELL, "weight"), "any other cell has both"),
    ("width of a cell", put("leaves", "cell", "width", 2), "leaf 'cell' is a window of 8"),
    ("width of a past", put("leaves", "recent", "width", 4), "all has 3 columns, not 4"),
    ("tables", put("ops", BACKOFF, "grams", "contexts"), "tables don't fit each other"),
    ("vector for table", put("ops", BACKOFF, "grams", "four"), "its weights must be tables"),
    ("function", put("ops", 13, "kind", "step"), "'step' is not one of"),
    ("gate", put("ops", 12, "x", "gates"), r"op 12 \(gate\): 'gates' is read before"),
    ("a head that looks back", put("head", 0, {"op": "symbol", "out": "one"}), "in the head"),
    ("a head that reads", put("head", 1, "x", "law"), "'law' is read before it is written"),
    ("a head that writes", put("head", 1, {"op": "activate", "out": "hidden", "x": "hidden",
     "kind": "tanh"}), "no head op may write the hidden buffer"),
    ("no hidden", put("hidden", "gone"), "no op writes the hidden buffer 'gone'"),
    ("no logits", put("logits", "gone"), "no head op writes the logits buffer 'gone'"),
    ("no head", put("head", []), "no head op writes the logits buffer 'logits'"),
    ("logits that are hidden", put("logits", "hidden"), "no head op writes the logits buffer"),
    ("too many", put("ops", [{}] * (2**16 + 1)), "number of ops must be"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_what_is_wrong_is_named(change: Callable[[Json], None], message: str | None):
    data = every_op()
    change(data)
    if message is None:
        Program.from_json(data)
        return
    with pytest.raises(ValueError, match=message) as error:
        Program.from_json(data, "here")
    assert str(error.value).startswith("here")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "5", '"x"', "[" * 100_000, '{"size": ' + "9" * 5000 + "}", "\0",
     '{"a":' * 990 + "1" + "}" * 990, '{"buffers": ' + "[" * 900 + "]" * 900 + "}"],
)  # fmt: skip
def test_what_is_no_program_is_refused(text: str):
    with pytest.raises(ValueError, match="here"):
        Program.from_json(text, "here")
    with pytest.raises(ValueError, match="here"):
        Program.from_json([text], "here")


# ---- programs with something changed at random ----

VALUES = [
    0, 1, -1, 2, 3, 4, 7, 16, 2**24, 2**31, 2**63, -(2**63), 10**400, -(10**400), 0.5, -0.0, 1e300,
    float("nan"), float("inf"), True, False, None, "", "x", "embed", "\ud800", "\n" * 50, "é" * 500,
    [], {}, [1, 2], {"op": "add"}, DEEP,
]  # fmt: skip


def places(data: Any) -> list[tuple[Any, Any]]:
    """Every container and key in it."""
    keys = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    found = []
    for key in keys:
        found.append((data, key))
        found += places(data[key])
    return found


def disturb(data: Json, dice: random.Random) -> None:
    """One change: a value, a key, an order."""
    inside, key = dice.choice(places(data))
    kind = dice.randrange(5)
    if kind == 0:
        inside[key] = copy.deepcopy(dice.choice(VALUES))
    elif kind == 1:
        other, name = dice.choice(places(data))
        inside[key] = copy.deepcopy(other[name])
    elif kind == 2:
        del inside[key]
    elif isinstance(inside[key], int) and kind == 3:
        inside[key] += dice.choice((-2, -1, 1, 2))
    elif isinstance(inside, dict):
        inside[dice.choice(["x", "op", "kv", "hidden", str(key) + "s"])] = inside.pop(key)
    else:
        inside.insert(dice.randrange(len(inside) + 1), copy.deepcopy(inside[key]))


def fuzz(seed: int, number: int) -> int:
    """How many of so many disturbed programs were accepted, and run."""
    dice, accepted = random.Random(seed), 0
    for _ in range(number):
        data = every_op()
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            disturb(data, dice)
        try:
            program = Program.from_json(data if dice.random() < 0.5 else json.dumps(data))
        except ValueError:
            continue
        assert Program.from_json(program.to_json()) == program
        if small(program):
            run(program)
            accepted += 1
    return accepted


def test_disturbed_programs_are_refused_or_run():
    assert fuzz(0, 500) > 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_disturbed_programs(seed: int):
    assert fuzz(seed, 10_000) > 200
