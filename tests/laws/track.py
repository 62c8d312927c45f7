"""A batch beside the truth: what every row has consumed, so that any state can be checked.

Shapes: B rows, T length, R tail, P probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from chainrule.core.distributions import Distribution
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.space import Space
from chainrule.core.state import State
from tests.laws.entries import Entry, dice, symbols
from tests.laws.tolerances import FLOAT64

PROBES = 8


def signature(law: Distribution, space: Space) -> Tensor:
    """A law as numbers [B, L, P]: the log-probabilities of fixed symbols."""
    probe = symbols(space, 1, PROBES, dice(99))[0]
    if space.size is not None and not space.event_shape:
        probe = torch.arange(space.size)
    shape = law.mode().shape
    return torch.stack([law.log_prob(p.expand(shape)) for p in probe], -1)


def close(got: Tensor, wanted: Tensor) -> None:
    """The same maths by another path."""
    torch.testing.assert_close(got, wanted, rtol=FLOAT64, atol=FLOAT64)


@dataclass(frozen=True)
class Track:
    """A value like the state in it: every operation returns a new one."""

    model: SequenceModel
    state: State
    seen: tuple[Tensor, ...]  # [T_b, *E] each
    cond: Condition | None

    @staticmethod
    def start(entry: Entry, rows: int, seed: int = 0, model: SequenceModel | None = None) -> Track:
        """Nothing consumed."""
        model = entry.model() if model is None else model
        cond = entry.cond(rows, dice(seed))
        nothing = symbols(model.space, rows, 0, dice(seed))
        return Track(model, model.start(rows, cond), tuple(nothing), cond)

    def extend(self, length: int, tail: int = 0, seed: int = 0) -> Track:
        """Consume random symbols."""
        x = symbols(self.model.space, len(self.seen), length, dice(seed))
        state = self.model.extend(self.state, x, tail)
        assert state.tail == min(tail, self.state.tail + length)
        seen = tuple(torch.cat([a, b]) for a, b in zip(self.seen, x, strict=True))
        return replace(self, state=state, seen=seen)

    def rewind(self, *n: int) -> Track:
        """Undo the newest n[b] symbols of row b."""
        seen = tuple(x[: len(x) - k] for x, k in zip(self.seen, n, strict=True))
        return replace(self, state=self.state.rewind(n), seen=seen)

    def select(self, *rows: int) -> Track:
        """The named rows."""
        cond = None if self.cond is None else self.cond.select(rows)
        seen = tuple(self.seen[i] for i in rows)
        return replace(self, state=self.state.select(rows), seen=seen, cond=cond)

    @staticmethod
    def concat(tracks: Sequence[Track]) -> Track:
        """All rows of all tracks."""
        conds = [t.cond for t in tracks if t.cond is not None]
        return Track(
            tracks[0].model,
            State.concat([t.state for t in tracks]),
            tuple(x for t in tracks for x in t.seen),
            Condition.concat(conds) if conds else None,
        )

    def check(self) -> Track:
        """The state predicts, for the next symbol and through its tail, what ``forward`` does."""
        state, rows = self.state, range(len(self.seen))
        assert state.lens == tuple(len(x) for x in self.seen)
        end = max(state.lens) + 1
        x = symbols(self.model.space, len(self.seen), end, dice(7))
        for row in rows:
            x[row, : len(self.seen[row])] = self.seen[row]
        x = x[:, : self.model.space.max_len]
        wanted = signature(self.model(x, self.cond), self.model.space)
        got = signature(self.model.predict(state), self.model.space)
        assert got.shape[1] == state.tail + 1
        for row in rows:
            first = state.lens[row] - state.tail
            have = wanted[row, first : state.lens[row] + 1]  # shorter where the medium is full
            close(got[row, : len(have)], have)
        return self
