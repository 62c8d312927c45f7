"""Same seed, same symbols: alone, in a batch of 32, and admitted mid-flight, in float64.

Over 100,000 symbols, spread over models × warps × the three ways; every sequence decoded alone
is the reference. Also counts the slab copies that steady decoding makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.common import save, table
from chainrule.core.decoder import Chunk, Run
from chainrule.core.model import SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.state import Slab
from chainrule.decoding.verify import Verify
from chainrule.decoding.warps import Warps
from tests.laws.entries import ENTRIES, Entry, dice, symbols

FINITE: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "top-k": {"top_k": 2},
    "top-p": {"top_p": 0.8, "temperature": 1.3},
    "min-p, typical": {"min_p": 0.05, "typical": 0.9},
}
REAL: dict[str, dict[str, Any]] = {"plain": {}}
ROWS, LENGTH, ROUND = 32, 28, 7


def main(data: Path | None) -> None:
    """Print differences per model; every one but 0 is a fault."""
    del data
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    rows, total, differences, copies = [], 0, 0, 0
    for entry in ENTRIES:
        model = entry.model()
        warps = FINITE if model.space.kind == "finite" else REAL
        compared = wrong = 0
        before = Slab.copies
        for number, settings in enumerate(warps.values()):
            done, off = _compare(entry, model, settings, number)
            compared, wrong = compared + done, wrong + off
        rows.append([entry.name, len(warps), compared, wrong, Slab.copies - before])
        total, differences = total + compared, differences + wrong
        copies += Slab.copies - before
    table(["model", "warps", "symbols compared", "differences", "slab copies"], rows)
    print(f"{total:,} symbols, {differences} differences, {copies} slab copies")
    save(
        "identity",
        {
            "symbols": total,
            "differences": differences,
            "slab_copies": copies,
            "by_model": {
                r[0]: dict(zip(("warps", "symbols", "off"), r[1:], strict=False)) for r in rows
            },
        },
    )
    if differences or copies:
        raise SystemExit(1)


def _compare(
    entry: Entry, model: SequenceModel, settings: dict[str, Any], seed: int
) -> tuple[int, int]:
    generator = dice(seed)
    length = (model.space.max_len or LENGTH + 4) - 4
    lens = [row % 4 for row in range(ROWS)]
    prompts = [symbols(model.space, 1, n, generator)[0].to(_type(model)) for n in lens]
    cond = entry.cond(ROWS, generator)
    noise = Noise.seeded(seed, range(ROWS))

    def start(rows: Sequence[int]) -> tuple[Run, Chunk]:
        given = None if cond is None else cond.select(rows)
        warps = Warps.of(len(rows), **settings)
        return Verify(model).start([prompts[r] for r in rows], noise.select(rows), given, warps)

    alone = [_decode(model, start([row]), length)[0] for row in range(ROWS)]
    batch = _decode(model, start(range(ROWS)), length)
    admitted = _admit(model, start, length)
    pairs = [(a, b) for others in (batch, admitted) for a, b in zip(alone, others, strict=True)]
    wrong = sum(int((~model.space.agree(a[None], b[None])).sum()) for a, b in pairs)
    return sum(len(b) for _, b in pairs), wrong


def _type(model: SequenceModel) -> torch.dtype:
    return torch.get_default_dtype() if model.space.kind == "real" else torch.int64


def _decode(model: SequenceModel, begun: tuple[Run, Chunk], length: int) -> list[Tensor]:
    run, chunk = begun
    out = [chunk.symbols]
    for _ in range(length - 1):
        run, chunk = Verify(model).step(run)
        out.append(chunk.symbols)
    return list(torch.cat(out, 1))


def _admit(model: SequenceModel, start: Any, length: int) -> list[Tensor]:
    """Rows join seven at a time, every third step; finished ones leave at once."""
    waiting, out = list(range(ROWS)), [[] for _ in range(ROWS)]  # type: ignore[var-annotated]
    rows: list[int] = []
    run: Run | None = None
    turn = 0
    while waiting or rows:
        if waiting and turn % 3 == 0:
            fresh, waiting = waiting[:ROUND], waiting[ROUND:]
            begun, chunk = start(fresh)
            for row, x in zip(fresh, chunk.symbols, strict=True):
                out[row].append(x)
            run = begun if run is None else Run.concat([run, begun])
            rows += fresh
        assert run is not None
        run, chunk = Verify(model).step(run)
        for row, x in zip(rows, chunk.symbols, strict=True):
            out[row].append(x)
        keep = [i for i, row in enumerate(rows) if len(out[row]) < length]
        rows = [rows[i] for i in keep]
        run = run.select(keep) if rows else None
        turn += 1
    return [torch.cat(x) for x in out]
