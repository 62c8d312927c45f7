"""Output that a regular expression, a list of choices or a JSON schema allows: it always parses.

Shapes: B rows, L symbols in this call, R undoable tail, V alphabet size, S states.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.core.model import SequenceModel
from chainrule.core.state import Fixed, Leaf, State, Window
from chainrule.models.automaton import DEAD, Automaton, automaton
from chainrule.models.regex import Alt, Tree, literal, parse
from chainrule.models.schema import schema_tree
from chainrule.models.wrappers import Wrapper

LARGEST = 2**26  # entries of a table
BLOCK = 2**20  # of them that are made at a time
FAR = 2**30  # more symbols than anybody makes
IMPROBABLE = -1e30  # nats; what the model rules out, where nothing else may come


@dataclass(frozen=True, eq=False)
class Table:
    """An automaton over symbols. State 0 begins; in the last one, ``free``, all may come.

    Args:
        move: int32 [S, V], the state after a symbol.
        need: int32 [S, V], the fewest symbols up to an accepted text, this one counted.
        fewest: int32 [S], the same from a state on.
    """

    move: Tensor
    need: Tensor
    fewest: Tensor


class Constrained(Wrapper):
    """From position ``at`` on, at most ``limit`` symbols that together are an accepted text.

    A symbol may come where an accepted text can still be reached in what is then left of
    ``limit``; the end symbol where the text is accepted, within ``limit`` or just behind it. So
    a row that is cut at the end symbol or at ``limit`` always parses. After the end symbol, and
    after symbols that could not have come, the law is the inner model's own.

    Args:
        at, limit: one for all rows, or one a row.

    Raises:
        ValueError: no end symbol, or a limit below the fewest symbols of an accepted text.
    """

    move: Tensor
    need: Tensor
    fewest: Tensor

    def __init__(
        self,
        inner: SequenceModel,
        table: Table,
        at: int | Sequence[int],
        limit: int | Sequence[int],
    ) -> None:
        super().__init__(inner)
        shortest, least = int(table.fewest[0]), limit if isinstance(limit, int) else min(limit)
        if shortest > least:
            raise ValueError(
                f"the shortest text that is allowed takes {shortest} symbols, and {least} "
                "may be made: raise the length"
            )
        self.at, self.limit = at, limit
        device = next((p.device for p in inner.parameters()), torch.device("cpu"))
        for name, tensor in vars(table).items():
            self.register_buffer(name, tensor.to(device), persistent=False)
        self.free = len(table.move) - 1

    def begin(self, inner: State) -> dict[str, Leaf]:
        at, limit = (self._rows(v, len(inner.lens)) for v in (self.at, self.limit))
        # Below 0 a state counts the symbols up to ``at``, where it becomes 0.
        return {"automaton": Window.full(-at, 1), "end": Fixed(at + limit)}

    def update(self, state: State, x: Tensor, kept: int) -> dict[str, Leaf]:
        old = state["automaton"]
        assert isinstance(old, Window)
        now, length = old.t[:, -1], x.shape[1]
        waiting = min(length, max(0, -int(now.max()))) if length > 1 else 0
        new = [now + n for n in range(waiting + 1)]
        now = new[-1]
        for n in range(waiting, length):
            moved = self.move[now.clamp_min(0), x[:, n]].to(now.dtype)
            now = torch.where(now < 0, now + 1, moved)
            new.append(now)
        return {"automaton": old.push(torch.stack(new[1:], 1), kept)}

    def edit(self, log_p: Tensor, state: State) -> Tensor:
        now = state.window("automaton")
        pos = state.pos(state.tail + 1, back=state.tail).tensor(now.device)
        left = state.fixed("end")[:, None] - pos  # symbols that may still be made
        bound = (now >= 0) & (self.fewest[now.clamp_min(0)] <= left)
        allowed = self.need[torch.where(bound, now, self.free)] <= left[..., None]
        return log_p.clamp_min(IMPROBABLE).masked_fill(~allowed, -math.inf)

    def _rows(self, value: int | Sequence[int], rows: int) -> Tensor:
        each = [value] * rows if isinstance(value, int) else list(value)
        if len(each) != rows:
            raise ValueError(f"{len(each)} positions or limits given for {rows} rows")
        return torch.tensor(each, device=self.move.device)


def constrained(
    model: SequenceModel,
    symbol_bytes: Sequence[bytes],
    *,
    regex: str | None = None,
    choices: Sequence[str] | None = None,
    schema: dict[str, Any] | bool | None = None,
    at: int | Sequence[int] = 0,
    limit: int | Sequence[int],
) -> Constrained:
    """The model whose output from position ``at`` on matches, is a choice, or conforms.

    Args:
        symbol_bytes: V entries; symbols without bytes, except the end symbol, never come.
        regex: as Python's ``re.fullmatch``.

    Raises:
        ValueError: not exactly one constraint, one that is invalid or unsupported, or one that
            this alphabet and this limit can't meet.
    """
    every = {"regex": regex, "choices": choices, "schema": schema}
    given = {kind: value for kind, value in every.items() if value is not None}
    if len(given) != 1:
        raise ValueError("one constraint at a time: a regular expression, choices or a schema")
    if model.space.eos is None:
        raise ValueError("constraints need a model with an end symbol")
    pieces = tuple(symbol_bytes)
    assert len(pieces) == model.space.size, "one entry a symbol"
    ((kind, value),) = given.items()
    try:
        table = _table(kind, json.dumps(value), pieces, model.space.eos)
    except RecursionError:
        raise ValueError(f"{kind}: nested too deeply") from None
    except TypeError as error:  # not JSON
        raise ValueError(f"{kind}: {error}") from None
    return Constrained(model, table, at, limit)


@lru_cache(maxsize=4)
def _table(kind: str, given: str, pieces: tuple[bytes, ...], eos: int) -> Table:
    """The table of a constraint written as JSON."""
    value, what = json.loads(given), kind
    if kind == "regex":
        what, tree = f"regular expression {value!r}", parse(value)
    else:
        tree = schema_tree(value) if kind == "schema" else _choices(value, pieces)
    try:
        return symbol_table(tree, pieces, eos)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def _choices(choices: list[str], pieces: tuple[bytes, ...]) -> Tree:
    if not isinstance(choices, list) or not choices or "" in choices:
        raise ValueError("choices are one text or more, none of them empty")
    tree = Alt(tuple(literal(c) for c in choices))
    known = set(pieces)
    longest = max(map(len, pieces))
    for choice in choices:
        data = choice.encode()
        spelt = {0}  # prefixes of data that symbols make up
        for end in range(1, len(data) + 1):
            starts = range(max(0, end - longest), end)
            if any(s in spelt and data[s:end] in known for s in starts):
                spelt.add(end)
        if len(data) not in spelt:
            raise ValueError(f"choice {choice!r} can't be written with the symbols of this model")
    return tree


def symbol_table(tree: Tree, pieces: tuple[bytes, ...], eos: int) -> Table:
    """What each symbol does to the automaton of a tree.

    Raises:
        ValueError: a table of more than ``LARGEST`` entries, or nothing that can be written.
    """
    move, accepts = _over_symbols(automaton(tree), pieces, eos)
    fewest = _fewest(move, accepts)
    if fewest[0] >= FAR:
        raise ValueError("no text that is allowed can be written with the symbols of this model")
    free = len(move)
    need = np.where(move == DEAD, FAR, 1 + np.append(fewest, fewest[:1])[move])
    need[accepts, eos] = 0  # it needn't fit into the limit
    move[move == DEAD] = free
    last = np.full((1, len(pieces)), -FAR, np.int32)
    return Table(
        torch.from_numpy(np.concatenate([move, np.full_like(last, free)])),
        torch.from_numpy(np.concatenate([need, last])),
        torch.from_numpy(np.append(fewest, last[0, :1])),
    )


def _over_symbols(
    by_byte: Automaton, pieces: tuple[bytes, ...], eos: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Moves [S, V] and acceptance [S] of the states that whole symbols lead to."""
    lengths = np.array([len(p) for p in pieces])
    lengths[eos] = 0
    longest = int(lengths.max())
    data = np.zeros((longest, len(pieces)), np.uint8)
    for symbol, piece in enumerate(pieces):
        data[: len(piece), symbol] = np.frombuffer(piece, np.uint8)[:longest]
    some = np.flatnonzero(lengths)
    number = np.full(len(by_byte.move) + 1, DEAD, np.int32)  # its last entry is that of DEAD
    number[0], order, done = 0, np.zeros(1, np.int64), 0
    rows: list[NDArray[np.int32]] = []
    while done < len(order):
        if len(order) * len(pieces) > LARGEST:
            raise ValueError("it is too large for an alphabet of this size: repeat less")
        states = order[done : done + max(1, BLOCK // len(pieces))]
        done += len(states)
        row = np.full((len(states), len(pieces)), DEAD, np.int32)
        place = (np.arange(len(states))[:, None] * len(pieces) + some).ravel()  # in row
        at = np.repeat(states, len(some))
        for k in range(longest):
            at = by_byte.move[at, data[k, place % len(pieces)]]
            place, at = place[at != DEAD], at[at != DEAD]
            whole = lengths[place % len(pieces)] == k + 1
            row.flat[place[whole]] = at[whole]
            place, at = place[~whole], at[~whole]
        targets = np.unique(row[row != DEAD])
        fresh = targets[number[targets] == DEAD]
        number[fresh] = np.arange(len(order), len(order) + len(fresh))
        order = np.concatenate([order, fresh])
        rows.append(row)
    return number[np.concatenate(rows)], by_byte.accepts[order]


def _fewest(move: NDArray[np.int32], accepts: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The fewest symbols from each state to an accepting one, breadth first; FAR for none."""
    states, block = len(move), max(1, BLOCK // move.shape[1])
    arcs = []
    for first in range(0, states, block):
        rows, columns = np.nonzero(move[first : first + block] != DEAD)
        arcs.append(np.unique(move[first + rows, columns].astype(np.int64) * states + first + rows))
    targets, sources = np.divmod(np.sort(np.concatenate(arcs)), states)
    begins = np.searchsorted(targets, np.arange(states + 1))
    fewest = np.where(accepts, 0, FAR).astype(np.int32)
    found = np.flatnonzero(accepts)
    while len(found):
        near = [sources[begins[t] : begins[t + 1]] for t in found]
        step = fewest[found[0]] + 1
        found = np.unique(np.concatenate(near))
        found = found[fewest[found] == FAR]
        fewest[found] = step
    return fewest
