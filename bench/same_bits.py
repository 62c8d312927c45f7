"""Same bits: the engine's symbols and log-probabilities, however they come about.

Every sequence is first drawn alone, on one thread. Then again in a batch of 32, with rows admitted
and dropped between stretches, on two threads, and verified by every proposer; and what was drawn is
scored in chunks of random lengths, with tails that are rewound. Symbols and log-probabilities
(float64) are compared bit for bit. The runs are those of bench.strategies: the small hybrid
transformer with extra heads, and the LSTM; 6 x 384 with random weights, so that two threads have
enough to do.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.common import save, table
from chainrule.artifact import load_artifact
from chainrule.core.decoder import Run
from chainrule.core.model import SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.space import Space
from chainrule.decoding.strategy import Target
from chainrule.decoding.verify import Verify, drain
from chainrule.decoding.warps import Warps
from chainrule.engine.compiled import Compiled
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import transformer
from chainrule.registry import STRATEGIES

ROWS = 32
DTYPES = ("f32", "bf16", "int8", "q4")
Drawn = dict[int, tuple[list[int], list[float]]]  # by sequence: symbols, log-probabilities
RUNS = Path("build") / "bench"


def main(data: Path | None) -> None:
    """Print differences per model, dtype and way; every one but 0 is a fault."""
    del data
    cases: dict[str, tuple[SequenceModel, SequenceModel | None, int]] = {}
    for name in ("transformer", "lstm"):
        folder = RUNS / f"shakespeare-{name}"
        if not folder.exists():
            print(f"skipped: {folder} is not there; bench strategies makes it")
            continue
        run = load_artifact(folder)
        cases[name] = run.model, run.baseline, 3200
    torch.manual_seed(0)
    cases["6x384"] = Transformer(transformer(Space("finite", 65), "base")).eval(), None, 640
    rows, total, wrong = [], 0, 0
    for name, (model, table_model, length) in cases.items():
        for dtype in DTYPES:
            done, found = _compare(model, table_model, dtype, length)
            total, wrong = total + done, wrong + sum(found.values())
            rows.append([name, dtype, done, *found.values()])
            print(name, dtype, done, found, flush=True)
    ways = list(found)
    table(["model", "dtype", "symbols drawn", *ways], rows)
    print(f"{total:,} symbols drawn alone, {wrong} that differ in any way")
    keys = ["model", "dtype", "symbols", *ways]
    save("same_bits", {"cases": [dict(zip(keys, r, strict=True)) for r in rows]})


def _compare(
    model: SequenceModel, tables: SequenceModel | None, dtype: Any, length: int
) -> tuple[int, dict[str, int]]:
    """Symbols drawn alone, and how many differ in each of the other ways."""
    one, two = Compiled(model, dtype, threads=1), Compiled(model, dtype, threads=2)
    two._machine.set_alone(0)  # two threads for work that is worth only one
    alone: Drawn = {}
    for i in range(ROWS):
        alone |= _draw(one, "ancestral", [i], length)
    everyone = list(range(ROWS))
    ways = {
        "batch of 32": _draw(one, "ancestral", everyone, length),
        "two threads": _draw(two, "ancestral", everyone, length),
        "two threads alone": _draw(two, "ancestral", [0], length),
        "admitted, dropped": _admitted(one, length),
        "chunks": _chunked(two, alone),
    }
    for name in ("lookup", "jacobi", "heads", "hybrid", "draft"):
        target = Target(one, tables, draft=one if name == "draft" else None, length=length)
        try:
            STRATEGIES[name].decoder(target)
        except ValueError:
            ways[name] = {}  # the model has no such heads
            continue
        ways[name] = _draw(one, name, everyone[:8], length // 4, target)
    return ROWS * length, {name: _differences(got, alone) for name, got in ways.items()}


def _draw(
    model: SequenceModel, strategy: str, ids: list[int], length: int, target: Target | None = None
) -> Drawn:
    decoder = STRATEGIES[strategy].decoder(target or Target(model, length=length))
    prompts = [torch.arange(i % 5) for i in ids]
    begun = decoder.start(prompts, Noise.seeded(7, ids), None, _warps(ids))
    out: Drawn = {i: ([], []) for i in ids}
    for step in drain(decoder, begun, [length] * len(ids)):
        for row, b in enumerate(step.rows):
            _keep(out[ids[b]], step.symbols[row], step.log_prob[row], step.count[row])
    return out


def _warps(ids: Sequence[int]) -> Warps:
    """Every third row as it is, the others with warps of their own."""
    each = [
        Warps.of(1),
        Warps.of(1, temperature=0.8, top_p=0.9),
        Warps.of(1, top_k=20, min_p=0.01, typical=0.95),
    ]
    first, *rest = (each[i % 3] for i in ids)
    return first.concat(rest) if rest else first


def _keep(into: tuple[list[int], list[float]], x: Tensor, log_p: Tensor, count: int) -> None:
    into[0].extend(x[:count].tolist())
    into[1].extend(log_p[:count].tolist())


def _admitted(model: SequenceModel, length: int) -> Drawn:
    """Rows come in one by one between stretches of unlike sizes, and leave at odd moments."""
    dice, out = random.Random(3), {i: ([], []) for i in range(ROWS)}
    waiting, ids = list(range(ROWS)), []
    run: Run | None = None
    while waiting or run is not None:
        if waiting and (run is None or dice.random() < 0.7):
            i = waiting.pop(0)
            prompt = [torch.arange(i % 5)]
            new, chunk = Verify(model).start(prompt, Noise.seeded(7, [i]), None, _warps([i]))
            _keep(out[i], chunk.symbols[0], chunk.log_prob[0], 1)
            run = new if run is None else Run.concat([run, new])
            ids = [*ids, i]
        assert run is not None
        run, chunk = Verify(model, stretch=dice.randint(1, 60)).step(run)
        for row, i in enumerate(ids):
            _keep(out[i], chunk.symbols[row], chunk.log_prob[row], chunk.count[row])
        done = [len(out[i][0]) >= length or dice.random() < 0.002 for i in ids]
        keep = [row for row, over in enumerate(done) if not over]
        run, ids = (run.select(keep) if keep else None), [ids[row] for row in keep]
    return {i: (x[:length], p[:length]) for i, (x, p) in out.items()}


@torch.no_grad()
def _chunked(model: SequenceModel, drawn: Drawn) -> Drawn:
    """Log-probabilities of what was drawn, in random chunks, some of them taken back once."""
    dice = random.Random(5)
    x = torch.tensor([drawn[i][0] for i in range(ROWS)])
    found = []
    for begin in range(5):  # rows of one prompt length share a batch
        rows = [i for i in range(ROWS) if i % 5 == begin]
        state, at, parts = model.start(len(rows)), 0, []
        state = model.extend(state, torch.arange(begin).expand(len(rows), -1)) if begin else state
        while at < x.shape[1]:
            n = min(dice.randint(1, 90), x.shape[1] - at)
            piece = x[rows, at : at + n]
            if dice.random() < 0.3:
                extra = torch.zeros(len(rows), 3, dtype=torch.int64)
                state = model.extend(state, extra, tail=3).rewind([3] * len(rows))
            full = model.extend(state, piece, tail=n)
            parts.append(model.predict(full)[:, :n].log_prob(piece))
            state, at = full.trim(), at + n
        found += list(zip(rows, torch.cat(parts, 1).tolist(), strict=True))
    return {i: (drawn[i][0], log_p) for i, log_p in found}


def _differences(got: Drawn, wanted: Drawn) -> int:
    """Symbols whose value or log-probability is not bit for bit the same."""
    wrong = 0
    for i, (x, log_p) in got.items():
        pairs = zip(x, log_p, wanted[i][0], wanted[i][1], strict=False)
        wrong += sum(a != c or b != d for a, b, c, d in pairs)
    return wrong
