"""Whatever the native part is handed: refused by name, or run; never a crash.

Shapes: B rows, L symbols in a call, D width of a buffer, S length of a memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chainrule import native

_native: Any = native._native
pytestmark = pytest.mark.skipif(_native is None, reason="installed without a compiler")

# Widths of the buffers 0 … 8, of which 6 … 8 are views of 5.
BUFFERS = [[4, 0, 0], [4, 1, 0], [8, 2, 0], [1, 3, 0], [3, 4, 0], [8, 5, 0], [4, 5, 0],
           [2, 5, 4], [2, 5, 6], [4, 9, 0], [5, 10, 0], [16, 11, 0]]  # fmt: skip
LEAVES = [[1, 2, 2], [2, 8, 1], [0, 8, 1], [0, 1, 3]]
ROWS, LENGTH, STORED, CAPACITY = 2, 3, 4, 2
OPS = [
    ("embed", [0, 0, 0], 0.0), ("embed", [1, 1, 1], 0.0), ("add", [0, 0, 1], 0.0),
    ("wave", [1, 4, 4], 0.0), ("mul", [0, 0, 1], 0.0), ("norm", [1, 0, 4, 4, 0, 4], 1e-5),
    ("linear", [5, 1, 2, 6], 0.0), ("rope", [9, 6, 2, 5, 9], 1.0),
    ("attend", [1, 6, 7, 8, 0, 2, 3, 1, 9], 0.0), ("cross", [9, 1, 1, 2], 0.0),
    ("gate", [0, 5, 3], 0.0), ("activate", [0, 0, 1], 0.0), ("linear", [11, 0, 3, 7], 0.0),
    ("cell", [1, 11, 2, 1, 3, 7], 0.0), ("symbol", [3], 0.0), ("recent", [4, 3, 3], 0.0),
    ("bias", [9, 1, 4], 0.0),
]  # fmt: skip


def machine() -> Any:
    """Every op that needs no tables, unfinished: without ops."""
    m = _native.ChainruleMachine(BUFFERS, LEAVES, 9, 10, 5, 0, 1)
    shapes = [(6, 4), (40, 4), (8, 4), (16, 4)]
    for rows, columns in shapes:
        index = m.add_matrix(0, rows, columns, 0)
        m.fill(index, 0, rows, np.full((rows, columns), 0.1, np.float32), np.zeros(0, np.float32))
    for size in (4, 5, 8, 16):
        m.add_vector(np.full(size, 0.1, np.float32))
    m.add_matrix(0, 5, 4, 0)
    m.add_reals(np.ones(1))
    return m


def finished() -> Any:
    m = machine()
    for op in OPS:
        m.add_op(*op, False)
    m.add_op("linear", [10, 9, 8, 5], 0.0, True)
    return m


def state() -> dict[str, Any]:
    return {
        "caches": [np.zeros((ROWS, 1, 2, CAPACITY, 16 * 16), np.float32)],
        "places": [[0] * ROWS],
        "windows": [np.zeros((ROWS, 1, 8), np.float32), np.zeros((ROWS, 3, 1), np.float32)],
        "fresh": [np.zeros((ROWS, LENGTH, 8), np.float32), np.zeros((ROWS, LENGTH, 1), np.float32)],
        "memory": [np.ones((ROWS, STORED, 8), np.float32)],
        "ok": [np.ones((ROWS, STORED), np.uint8)],
        "hidden": np.zeros((ROWS, LENGTH, 4), np.float32),
    }


def run_arguments(both: bool = False) -> dict[str, Any]:
    return {"x": np.zeros((ROWS, LENGTH), np.int64), "positions": [0, 7], **state(), "both": both}


def rollout_arguments() -> dict[str, Any]:
    first = {
        "last": [0, 1], "positions": [0, 7], "numbers": [0, 5], "keys": np.arange(2),
        "warps": np.array([[1.0, 0, 1, 0, 1], [0.7, 3, 0.9, 0.1, 0.8]]), "stop": 4,
    }  # fmt: skip
    last = {
        "symbols": np.zeros((ROWS, LENGTH), np.int64), "log_prob": np.zeros((ROWS, LENGTH)),
        "count": np.zeros(ROWS, np.int64),
    }  # fmt: skip
    return {**first, **state(), **last}


# ---- one thing wrong at a time ----

FAR = 2**62


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((BUFFERS, LEAVES, 12, 10, 5, 0, 1), "hidden and logits"),
        ((BUFFERS, LEAVES, 9, -1, 5, 0, 1), "hidden and logits"),
        ((BUFFERS, LEAVES, 9, 10, 6, 0, 1), "hidden and logits"),
        ((BUFFERS, LEAVES, 6, 10, 5, 0, 1), "hidden and logits"),
        (([[4, 0]], [], 0, 0, 4, 0, 1), "dim, root and first"),
        (([[0, 0, 0]], [], 0, 0, 0, 0, 1), "width out of bounds"),
        (([[FAR, 0, 0]], [], 0, 0, 4, 0, 1), "width out of bounds"),
        (([[4, 1, 0], [FAR, 1, 0]], [], 0, 0, 4, 0, 1), "width out of bounds"),
        (([[4, 1, 0]], [], 0, 0, 4, 0, 1), "outside its buffer"),
        (([[4, 0, 0], [4, 0, 1]], [], 0, 0, 4, 0, 1), "outside its buffer"),
        (([[4, 0, 0], [4, 0, FAR]], [], 0, 0, 4, 0, 1), "outside its buffer"),
        (([[2**22, i, 0] for i in range(2)], [], 0, 1, 2**22, 0, 1), "more columns"),
        ((BUFFERS, [[3, 1, 1]], 9, 10, 5, 0, 1), "leaf"),
        ((BUFFERS, [[0, 1]], 9, 10, 5, 0, 1), "leaf"),
        ((BUFFERS, [[0, 2**20, 2**20]], 9, 10, 5, 0, 1), "leaf"),
        ((BUFFERS, [[1, 3, 2]], 9, 10, 5, 0, 1), "heads don't fit"),
        ((BUFFERS, [[2, 3, 1]], 9, 10, 5, 0, 1), "keys and values"),
    ],
)  # fmt: skip
def test_machines_that_are_refused(arguments: Any, message: str):
    with pytest.raises(ValueError, match=message):
        _native.ChainruleMachine(*arguments)


def test_threads_without_end():
    assert _native.ChainruleMachine(BUFFERS, LEAVES, 9, 10, 5, 0, 2**31 - 1) is not None
    assert _native.ChainruleMachine(BUFFERS, LEAVES, 9, 10, 5, 0, -5) is not None


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (("embedd", [0, 0, 0], 0.0), "op embedd: unknown"),
        (("embed", [0, 0], 0.0), "op embed: a wrong number"),
        (("embed", [12, 0, 0], 0.0), "buffer out of range"),
        (("embed", [-1, 0, 0], 0.0), "buffer out of range"),
        (("embed", [6, 0, 0], 0.0), "writes a view"),
        (("embed", [0, 99, 0], 0.0), "weight out of range"),
        (("embed", [0, 4, 0], 0.0), "another kind"),
        (("embed", [2, 0, 0], 0.0), "columns don't fit"),
        (("embed", [0, 0, 2], 0.0), "unknown kind"),
        (("linear", [5, 1, 0, -1], 0.0), "rows don't fit"),
        (("linear", [5, 1, 2, -2], 0.0), "weight out of range"),
        (("linear", [5, 6, 2, 6], 0.0), "reads what it writes"),
        (("norm", [1, 0, 4, 4, 0, 4], 0.0), "widths differ"),
        (("norm", [1, 0, 4, 4, 0, 4], float("nan")), "widths differ"),
        (("activate", [0, 0, 6], 0.0), "unknown function"),
        (("activate", [0, 0, -1], 0.0), "unknown function"),
        (("norm", [1, 0, 4, 4, 0, 0], 1e-5), "heads that don't fit"),
        (("norm", [1, 0, 4, 4, 0, 3], 1e-5), "heads that don't fit"),
        (("norm", [1, 0, 4, 4, 0, 2], 1e-5), "rows don't fit"),
        (("rope", [9, 6, 3, 0, 9], 1.0), "heads that don't fit"),
        (("rope", [9, 6, 2, -1, 9], 1.0), "heads that don't fit"),
        (("rope", [9, 6, 2, 0, 8], 1.0), "another kind"),
        (("rope", [9, 6, 4, 0, 9], 1.0), "rates that don't fit"),
        (("rope", [9, 6, 2, 0, 9], 0.0), "rates that don't fit"),
        (("rope", [9, 6, 2, 0, 9], float("nan")), "rates that don't fit"),
        (("attend", [1, 6, 7, 8, 4, 2, 3, 1, 9], 0.0), "leaf out of range"),
        (("attend", [1, 6, 7, 8, 2, 2, 3, 1, 9], 0.0), "leaf that doesn't fit"),
        (("attend", [1, 6, 7, 8, 0, 0, 3, 1, 9], 0.0), "heads that don't fit"),
        (("attend", [1, 6, 7, 8, 0, 4, 3, 1, 9], 0.0), "cache of other heads"),
        (("attend", [1, 6, 7, 8, 0, 2, 0, 1, 9], 0.0), "window out of bounds"),
        (("attend", [1, 6, 7, 8, 0, 2, FAR, FAR, 9], 0.0), "window out of bounds"),
        (("attend", [5, 6, 7, 8, 0, 2, 3, 1, 9], 0.0), "heads that don't fit"),
        (("cross", [9, 1, 1, 3], 0.0), "heads that don't fit"),
        (("cell", [1, 11, 3, 1, 3, 7], 0.0), "leaf that doesn't fit"),
        (("cell", [1, 11, 2, 4, 3, 7], 0.0), "unknown kind"),
        (("cell", [1, 11, 2, 1, 3, -1], 0.0), "weight out of range"),
        (("recent", [4, 3, 2], 0.0), "leaf that doesn't fit"),
        (("symbol", [4], 0.0), "one column"),
        (("backoff", [10, 0, 0, 0, 0, 0], 0.0), "another kind"),
    ],
)  # fmt: skip
def test_ops_that_are_refused(op: Any, message: str):
    with pytest.raises(ValueError, match=message):
        machine().add_op(*op, False)


def test_heads_that_are_refused():
    for op in OPS:
        if op[0] in ("embed", "wave", "rope", "attend", "cross", "cell", "symbol", "recent"):
            with pytest.raises(ValueError, match="can't stand in the head"):
                machine().add_op(*op, True)


def test_tables_of_angles_have_bounds():
    m = _native.ChainruleMachine([[2**14, 0, 0], [2**14, 1, 0]], [], 0, 0, 2**14, 0, 1)
    for size in (2**13, 1):
        m.add_reals(np.ones(size))
    m.add_op("rope", [1, 0, 2**14, 0, 0], 1.0, False)
    with pytest.raises(ValueError, match="more angles"):
        m.add_op("rope", [1, 0, 2, 0, 1], 1.0, False)


def test_weights_that_are_refused():
    m = machine()
    for type_, rows, columns, group in (
        (5, 4, 4, 0), (-1, 4, 4, 0), (0, 0, 4, 0), (0, 4, -1, 0), (0, FAR, 4, 0), (2, 4, 4, 0),
        (4, 4, 4, 12), (2, 4, 4, 8192), (3, 4, 2**17, 0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="weight"):
            m.add_matrix(type_, rows, columns, group)
    floats, nothing = np.zeros((6, 4), np.float32), np.zeros(0, np.float32)
    for index, first, count, data in (
        (99, 0, 6, floats), (-1, 0, 6, floats), (0, -1, 6, floats), (0, 1, 6, floats),
        (0, 0, 5, floats), (0, 0, 0, floats), (0, FAR, 6, floats), (4, 0, 1, nothing),
        (0, 0, -6, floats), (4, 0, 6, floats),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"matrix|weight|rows"):
            m.fill(index, first, count, data, nothing)
    with pytest.raises(ValueError, match="scales"):
        m.fill(m.add_matrix(3, 6, 4, 0), 0, 6, np.zeros((6, 4), np.int8), np.zeros(5, np.float32))
    for add, kind in ((m.add_vector, np.float32), (m.add_ints, np.int64), (m.add_reals, float)):
        with pytest.raises(ValueError, match="empty"):
            add(np.zeros(0, kind))


def test_the_arguments_are_right():
    finished().run(*run_arguments().values())
    finished().run(*run_arguments(both=True).values())
    finished().rollout(*rollout_arguments().values())


WRONG: list[tuple[str, Any, str]] = [
    ("positions", [0], "a position a row"),
    ("positions", [0, -1], "position out of range"),
    ("positions", [0, FAR], "position out of range"),
    ("positions", [0, 38], "a position past the last"),
    ("places", [[0]], "a place a row"),
    ("places", [[0, -1]], "past the capacity"),
    ("places", [[0, 30]], "past the capacity"),
    ("places", [[0, 2**63 - 1]], "past the capacity"),
    ("places", [], "number of caches"),
    ("caches", [], "number of caches"),
    ("caches", [np.zeros((2, 1, 2, 2, 255), np.float32)], "cache of another shape"),
    ("caches", [np.zeros((2, 1, 2, 0, 256), np.float32)], "cache of another shape"),
    ("caches", [np.zeros((2, 1, 2, 2**50, 0), np.float32)], "cache of another shape"),
    ("caches", [np.zeros((2, 2, 2, 2, 128), np.float32)], "cache of another shape"),
    ("windows", [np.zeros((2, 1, 8), np.float32)], "number of windows"),
    ("windows", [np.zeros((2, 1, 8), np.float32)] * 2, "window of another shape"),
    ("fresh", [np.zeros((2, 3, 8), np.float32)] * 2, "window of another shape"),
    ("memory", [], "number of memories"),
    ("memory", [np.zeros((2, 4, 6), np.float32)], "memory of another shape"),
    ("ok", [np.zeros((2, 5), np.uint8)], "memory of another shape"),
]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *WRONG,
        ("x", np.array([[0, 0, 6], [0, 0, 0]]), "outside the alphabet"),
        ("x", np.array([[0, 0, -1], [0, 0, 0]]), "outside the alphabet"),
        ("x", np.zeros((2, 0), np.int64), "no symbols"),
        ("hidden", np.zeros((2, 3, 5), np.float32), "hidden of another shape"),
    ],
)
def test_runs_that_are_refused(name: str, value: Any, message: str):
    error = "another shape" if message == "no symbols" else message
    with pytest.raises(ValueError, match=error):
        finished().run(*(run_arguments() | {name: value}).values())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *WRONG[:1], *WRONG[4:],
        ("last", [0, 6], "outside the alphabet"),
        ("last", [0], "don't fit together"),
        ("numbers", [0, -1], "number out of range"),
        ("numbers", [0, 2**63 - 1], "number out of range"),
        ("keys", np.arange(3), "don't fit together"),
        ("symbols", np.zeros((2, 4), np.int64), "don't fit together"),
        ("log_prob", np.zeros((2, 4)), "don't fit together"),
        ("count", np.zeros(1, np.int64), "don't fit together"),
        ("warps", np.ones((2, 4)), "don't fit together"),
        *(("warps", np.array([[1.0, 0, 1, 0, 1], row]), "setting out of its bounds") for row in (
            [-1, 0, 1, 0, 1], [np.nan, 0, 1, 0, 1], [1, -1, 1, 0, 1], [1, 1e19, 1, 0, 1],
            [1, 0, 0, 0, 1], [1, 0, 1.5, 0, 1], [1, 0, 1, 2, 1], [1, 0, 1, 0, 0], [1, 0, 1, 0, 2],
        )),
    ],
)  # fmt: skip
def test_rollouts_that_are_refused(name: str, value: Any, message: str):
    message = message.replace("a position a row", "don't fit together")
    with pytest.raises(ValueError, match=message):
        finished().rollout(*(rollout_arguments() | {name: value}).values())


def test_laws_that_are_refused():
    m, hidden = finished(), np.zeros((3, 4), np.float32)
    for call in (
        lambda: m.logits(hidden, np.zeros((3, 4), np.float32)),
        lambda: m.log_probs(np.zeros((3, 5), np.float32), np.zeros((3, 5))),
        lambda: m.log_prob(hidden, np.array([0, 1]), np.zeros(3)),
        lambda: m.log_prob(hidden, np.array([0, 1, 5]), np.zeros(3)),
        lambda: m.log_prob(hidden, np.array([0, 1, -1]), np.zeros(3)),
    ):
        with pytest.raises(ValueError, match=r"\[N|alphabet"):
            call()
