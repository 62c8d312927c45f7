"""Look up what followed: in the text so far, else in an n-gram table of the training data.

Sources: Saxena 2023, "Prompt lookup decoding"; Yang et al. 2023, "Inference with reference". The
table is a model too: it draws with the target's own dice (see draft.py).
Shapes: B rows, K guessed symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chainrule.core.decoder import Chunk, Decoder, Run
from chainrule.core.model import Condition, SequenceModel
from chainrule.decoding.draft import Drafted, continued
from chainrule.decoding.strategy import Strategy, Target
from chainrule.decoding.verify import Verify, consumed

GUESSES = 5
SUFFIX, BEYOND = 3, 16  # the shortest suffix that is looked up: alone, and where there is a table


@dataclass(eq=False)
class Text:
    """One row's symbols, and where each run of ``width`` of them ended last."""

    width: int
    symbols: list[int] = field(default_factory=list)
    ends: dict[tuple[int, ...], int] = field(default_factory=dict)

    def add(self, new: Sequence[int]) -> None:
        """Append, and index every run but the newest, which would only find itself."""
        begin = len(self.symbols)
        self.symbols += new
        for end in range(max(begin, self.width), len(self.symbols)):
            self.ends[tuple(self.symbols[end - self.width : end])] = end

    def followed(self, count: int) -> list[int]:
        """The symbols that followed the newest run when it stood there last."""
        end = self.ends.get(tuple(self.symbols[-self.width :]))
        return [] if end is None else self.symbols[end : end + count]


@dataclass(frozen=True, eq=False)
class Found:
    """Texts are only ever appended to, so a memo says how long its own are."""

    texts: tuple[Text, ...]
    lens: tuple[int, ...]
    table: Drafted | None

    def select(self, rows: Sequence[int]) -> Found:
        """The named rows, in that order."""
        table = None if self.table is None else self.table.select(rows)
        return Found(tuple(self.texts[i] for i in rows), tuple(self.lens[i] for i in rows), table)

    def concat(self, others: Sequence[Found]) -> Found:
        """All rows of all memos."""
        every = (self, *others)
        tables = [m.table for m in every if m.table is not None]
        return Found(
            tuple(t for m in every for t in m.texts),
            tuple(n for m in every for n in m.lens),
            tables[0].concat(tables[1:]) if tables else None,
        )


class Lookup(Strategy):
    """Cheap guesses from what was said before. Scalar symbols of a finite alphabet."""

    exactness = "identical"

    def __init__(self, table: SequenceModel | None, guesses: int = GUESSES) -> None:
        self.table, self.guesses = table, guesses
        self.width = SUFFIX if table is None else BEYOND

    @staticmethod
    def decoder(target: Target) -> Decoder:
        space = target.model.space
        if space.kind != "finite" or space.event_shape:
            raise ValueError("strategy lookup needs scalar symbols of a finite alphabet")
        return Verify(target.model, Lookup(target.table, target.guesses or GUESSES))

    def start(self, prompt: Sequence[Tensor], cond: Condition | None = None) -> Found:
        """Index the prompts."""
        texts = tuple(Text(self.width) for _ in prompt)
        for text, symbols in zip(texts, prompt, strict=True):
            text.add(symbols.tolist())
        table = None if self.table is None else Drafted(consumed(self.table, prompt))
        return Found(texts, tuple(map(len, prompt)), table)

    def propose(self, run: Run) -> tuple[Tensor, Found]:
        """What followed the newest symbols, if they stood there before; else as the table draws."""
        memo: Found = run.memo
        found = [text.followed(self.guesses) for text in memo.texts]
        if self.table is None or memo.table is None:
            count = max(map(len, found))
            guess = torch.tensor([f + [0] * (count - len(f)) for f in found], dtype=torch.int64)
            return guess.view(len(found), count).to(run.last.device), memo
        state = memo.table.state
        guess, full = continued(self.table, state, run, self.guesses)
        if any(found):
            count = guess.shape[1]
            rows = [(f + g[len(f) :])[:count] for f, g in zip(found, guess.tolist(), strict=True)]
            guess = torch.tensor(rows, dtype=torch.int64, device=guess.device).view(guess.shape)
            full = self.table.extend(state, torch.cat([run.last, guess], 1), tail=count)
        return guess, Found(memo.texts, memo.lens, Drafted(full, guess.shape[1]))

    def settle(self, memo: Found, chunk: Chunk) -> Found:
        """Append what was emitted."""
        texts = list(memo.texts)
        for i, (symbols, count) in enumerate(zip(chunk.symbols.tolist(), chunk.count, strict=True)):
            if len(texts[i].symbols) != memo.lens[i]:  # somebody went on from this memo before
                mine = texts[i].symbols[: memo.lens[i]]
                texts[i] = Text(self.width)
                texts[i].add(mine)
            texts[i].add(symbols[:count])
        lens = tuple(a + b for a, b in zip(memo.lens, chunk.count, strict=True))
        table = None if memo.table is None else memo.table.settled(chunk)
        return Found(tuple(texts), lens, table)
