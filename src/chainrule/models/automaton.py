"""Automata over the bytes of UTF-8, from trees of regular expressions.

Trees are made deterministic over classes of characters (Rabin & Scott 1959), then spelt in bytes.
Shapes: S states.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from chainrule.models.regex import Alt, Chars, Join, Ranges, Repeat, Seq, Tree

MOST = 50_000  # states; beyond that an expression is refused
WORK = 1_000_000  # steps on the way there: a second or two
DEAD = -1  # no text can be completed any more


@dataclass(frozen=True, eq=False)
class Automaton:
    """``move`` int32 [S, 256]: the state after a byte, or DEAD; ``accepts`` bool [S]; 0 begins."""

    move: NDArray[np.int32]
    accepts: NDArray[np.bool_]


def automaton(tree: Tree) -> Automaton:
    """The texts of a tree, byte by byte.

    Raises:
        ValueError: more than ``MOST`` states, or more than ``WORK`` steps to find them.
    """
    moves, accepts, intervals = _deterministic(tree)
    classes = 1 + max((k for _, _, k in intervals), default=0)
    roots, nodes = _spelling(intervals, classes)
    rows = [[DEAD] * 256 for _ in moves]
    made: dict[tuple[int, ...], int] = {}
    for state, move in enumerate(moves):
        # What a class or a node (a character half spelt) stands for in this state; last: nothing.
        to = [move.get(k, DEAD) for k in range(classes)] + [DEAD] * (len(nodes) + 1)
        for n, children in enumerate(nodes):
            key = tuple([to[c] for c in children])
            if any(t != DEAD for t in key):
                if key not in made:
                    made[key] = len(rows)
                    rows.append([DEAD] * 128 + list(key) + [DEAD] * 64)
                to[classes + n] = made[key]
        rows[state] = [to[r] for r in roots]
        if len(rows) > MOST:
            raise ValueError(_TOO_LARGE)
    accepting = np.zeros(len(rows), bool)
    accepting[: len(accepts)] = accepts
    return Automaton(np.array(rows, np.int32), accepting)


_TOO_LARGE = (
    f"it takes an automaton of more than {MOST:,} states, or too long to make one: repeat less"
)


class _Arcs:
    """A nondeterministic automaton: arcs over sets of characters, and free ones."""

    def __init__(self) -> None:
        self.over: list[list[tuple[Ranges, int]]] = []
        self.free: list[list[int]] = []
        self.work = 0

    def node(self) -> int:
        if len(self.over) > 4 * MOST:
            raise ValueError(_TOO_LARGE)
        self.over.append([])
        self.free.append([])
        return len(self.over) - 1

    def spend(self, steps: int) -> None:
        self.work += steps
        if self.work > WORK:
            raise ValueError(_TOO_LARGE)

    def add(self, tree: Tree, at: int) -> int:
        """Lay a tree from one node; the node where it ends."""
        self.spend(1)
        match tree:
            case Chars(ranges):
                end = self.node()
                self.over[at].append((ranges, end))
                return end
            case Seq(parts):
                for part in parts:
                    at = self.add(part, at)
                return at
            case Alt(parts):
                end = self.node()
                for part in parts:
                    begin = self.node()
                    self.free[at].append(begin)
                    self.free[self.add(part, begin)].append(end)
                return end
            case Repeat():
                return self.repeat(tree, at)
            case Join(parts, between):
                none, some = at, self.node()  # of the parts so far are here
                for part, must in parts:
                    begin, neither, after = self.node(), self.node(), self.node()
                    self.free[none].append(begin)
                    self.free[self.add(between, some)].append(begin)
                    self.free[self.add(part, begin)].append(after)
                    if not must:
                        self.free[some].append(after)
                        self.free[none].append(neither)
                    none, some = neither, after
                self.free[none].append(some)
                return some
        raise AssertionError("anchors are gone by now")

    def repeat(self, tree: Repeat, at: int) -> int:
        """The same for a repeat; one without end leads back to its last copy."""
        end = self.node()
        if not tree.least:
            self.free[at].append(end)
        begin = at
        for n in range(max(tree.least, 1) if tree.most is None else tree.most):
            begin = self.node()
            self.free[self.add(tree.between, at) if n else at].append(begin)
            at = self.add(tree.part, begin)
            if n + 1 >= tree.least:
                self.free[at].append(end)
        if tree.most is None:
            self.free[self.add(tree.between, at)].append(begin)
        return end

    def reach(self, nodes: Iterable[int]) -> frozenset[int]:
        """These nodes and all that free arcs lead to."""
        found, todo = set(nodes), list(nodes)
        while todo:
            for node in self.free[todo.pop()]:
                if node not in found:
                    found.add(node)
                    todo.append(node)
        self.spend(len(found))
        return frozenset(found)


def _deterministic(
    tree: Tree,
) -> tuple[list[dict[int, int]], list[bool], list[tuple[int, int, int]]]:
    """Moves by class of characters, which states accept, and the classes (first, last, class)."""
    arcs = _Arcs()
    begin = arcs.node()
    end = arcs.add(tree, begin)
    sets = {ranges for over in arcs.over for ranges, _ in over}
    intervals, classes_of = _classes(sets)
    start = arcs.reach([begin])
    number, states = {start: 0}, [start]
    moves: list[dict[int, int]] = []
    for state in states:  # grows while it is gone through
        to: dict[int, set[int]] = defaultdict(set)
        for node in state:
            for ranges, target in arcs.over[node]:
                arcs.spend(len(classes_of[ranges]))
                for k in classes_of[ranges]:
                    to[k].add(target)
        move = {}
        for k, nodes in to.items():
            reached = arcs.reach(nodes)
            if reached not in number:
                if len(states) >= MOST:
                    raise ValueError(_TOO_LARGE)
                number[reached] = len(states)
                states.append(reached)
            move[k] = number[reached]
        moves.append(move)
    return moves, [end in state for state in states], intervals


def _classes(
    sets: set[Ranges],
) -> tuple[list[tuple[int, int, int]], dict[Ranges, list[int]]]:
    """Part the code points so that each set is a union of classes."""
    events: dict[int, list[int]] = defaultdict(list)
    ordered = list(sets)
    for i, ranges in enumerate(ordered):
        for low, high in ranges:
            events[low].append(i)
            events[high + 1].append(i)
    inside: frozenset[int] = frozenset()
    number: dict[frozenset[int], int] = {}
    intervals = []
    borders = sorted(events)
    for low, after in pairwise(borders):
        inside = inside.symmetric_difference(events[low])
        if inside:
            intervals.append((low, after - 1, number.setdefault(inside, len(number))))
    return intervals, {r: [k for s, k in number.items() if i in s] for i, r in enumerate(ordered)}


def _spelling(
    intervals: list[tuple[int, int, int]], classes: int
) -> tuple[list[int], list[tuple[int, ...]]]:
    """UTF-8 as a tree whose leaves are classes.

    Returns what each first byte leads to, and nodes of 64 children, children first. A number below
    ``classes`` is a class, one from there on a node, and -1 nothing.
    """
    firsts = [low for low, _, _ in intervals]
    nodes: dict[tuple[int, ...], int] = {}

    def lead(base: int, depth: int, least: int = 0) -> int:
        """Code points from ``base`` on, ``depth`` bytes still to come; none below ``least``."""
        last = base + 64**depth - 1
        i = bisect_right(firsts, last) - 1
        if i < 0 or intervals[i][1] < base:
            return -1
        if depth == 0:
            return intervals[i][2]
        if intervals[i][0] <= base >= least and last <= intervals[i][1]:
            children = [lead(base, depth - 1)] * 64  # all alike
        else:
            begins = range(base, last + 1, 64 ** (depth - 1))
            children = [lead(b, depth - 1) if b >= least else -1 for b in begins]
        if max(children) < 0:
            return -1
        return nodes.setdefault(tuple(children), classes + len(nodes))

    roots = [lead(b, 0) for b in range(0x80)] + [-1] * 0x42
    roots += [lead((b & 0x1F) << 6, 1) for b in range(0xC2, 0xE0)]
    roots += [lead((b & 0xF) << 12, 2, 0x800) for b in range(0xE0, 0xF0)]
    roots += [lead((b & 7) << 18, 3, 0x10000) for b in range(0xF0, 0xF5)] + [-1] * 11
    return roots, list(nodes)
