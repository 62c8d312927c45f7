"""A million symbols by every identical strategy, beside ancestral sampling of each row alone.

Spread evenly over strategies × warps × batch × samples a prompt × models (SEEDS, LENGTH below),
in float64, where nothing may differ, and a part of it in float32, where only a tie within rounding
may: for every first difference of a row, how far apart the two symbols were under the float64
model. Resumable: finished cells stand in results/strategies_identity.json and are not run again.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.common import RESULTS, machine, table
from chainrule.codecs.text import CharCodec
from chainrule.core.model import SequenceModel
from chainrule.core.noise import Noise, Positions
from chainrule.core.objective import Batch
from chainrule.core.space import Space
from chainrule.decoding.strategy import Target
from chainrule.decoding.verify import drain
from chainrule.decoding.warps import Warps
from chainrule.models.ngram import NGram, ngram
from chainrule.models.rnn import RNN, gru, lstm
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import gpt2, transformer
from chainrule.registry import STRATEGIES
from chainrule.training.objectives import objective

NAMES = ("lookup", "draft", "heads", "jacobi", "hybrid")
WARPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "greedy": {"temperature": 0.0},
    "temperature 0.7, top-k 20": {"temperature": 0.7, "top_k": 20},
    "temperature 1.3, top-p 0.9": {"temperature": 1.3, "top_p": 0.9},
    "min-p 0.02, typical 0.95": {"min_p": 0.02, "typical": 0.95},
}
BATCHES, SAMPLES = (1, 7, 32), (1, 4)
CELL = {torch.float64: 6_720, torch.float32: 1_344}  # symbols of a cell, at least
LENGTH, PROMPT, SEED = 56, 24, 100  # symbols made and given a row; round r of a cell has SEED + r
STEPS, ROWS, WINDOW = 150, 16, 48  # of the models' training
PATH = RESULTS / "strategies_identity.json"

Models = dict[str, SequenceModel]


def main(data: Path | None) -> None:
    """Every cell that isn't there yet; then the table."""
    del data
    torch.set_num_threads(1)
    text = (files("chainrule") / "assets" / "alice.txt").read_text(encoding="utf-8")
    codec = CharCodec.fit([text.encode()])
    symbols = codec.encode(text).symbols.astype(np.int64)
    done: dict[str, dict[str, Any]] = {}
    if PATH.exists():
        done = json.loads(PATH.read_text())["cells"]
    for dtype in CELL:
        torch.set_default_dtype(dtype)
        helpers, targets = trained(symbols, codec.space, dtype)
        for warp in WARPS:
            for batch in BATCHES:
                for samples in SAMPLES:
                    missing = [n for n in NAMES if key(dtype, n, warp, batch, samples) not in done]
                    if missing:
                        found = cell(targets, helpers, symbols, missing, warp, batch, samples)
                        for name, counts in found.items():
                            done[key(dtype, name, warp, batch, samples)] = counts
                        keep(done)
    torch.set_default_dtype(torch.float32)
    show(done)


def key(dtype: torch.dtype, name: str, warp: str, batch: int, samples: int) -> str:
    """What a cell is called."""
    return f"{str(dtype)[6:]} | {name} | {warp} | batch {batch} | n {samples}"


def trained(symbols: Any, space: Space, dtype: torch.dtype) -> tuple[Models, Models]:
    """(table and draft, models to decode): tiny, trained for a few seconds in float64."""
    extra = {"context": 40, "masked": True, "ahead": 4}  # so short that every row goes beyond it
    llama = replace(transformer(space, "tiny"), **extra)
    targets: Models = {
        "transformer": Transformer(llama),
        "gpt2": Transformer(replace(gpt2(space, "tiny"), **extra)),
        "lstm": RNN(lstm(space, "tiny")),
    }
    helpers: Models = {"table": NGram(ngram(space, "tiny")), "draft": RNN(gru(space, "tiny"))}
    helpers["table"].estimate([symbols])
    for number, model in enumerate((*targets.values(), helpers["draft"])):
        path = Path("build") / "bench" / f"identity-{number}.safetensors"
        _train(model, symbols, number, path)
    return (
        {k: copy.deepcopy(m).to(dtype).eval() if k == "draft" else m for k, m in helpers.items()},
        {k: m.to(dtype).eval() for k, m in targets.items()},
    )


def _train(model: SequenceModel, symbols: Any, seed: int, path: Path) -> None:
    """The same weights every time: trained once, kept, read again."""
    from safetensors.torch import load_file, save_file

    model.double()
    if path.exists():
        model.load_state_dict(load_file(path))
        return
    torch.manual_seed(seed)
    for p in model.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=0.1)
    loss_of = objective("hybrid" if model.masked else "nll", 0.5)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    window = WINDOW if model.masked is None else 39
    for step in range(STEPS):
        at = torch.randint(len(symbols) - window, (ROWS,)).tolist()
        x = torch.from_numpy(np.stack([symbols[i : i + window] for i in at]))
        loss, count = loss_of(model, Batch(x, (window,) * ROWS), Noise.seeded(step, range(ROWS)))
        optimiser.zero_grad()
        (loss / count).backward()
        optimiser.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), path)


@torch.no_grad()
def cell(
    targets: Models,
    helpers: Models,
    symbols: Any,
    names: list[str],
    warp: str,
    batch: int,
    samples: int,
) -> dict[str, dict[str, Any]]:
    """Symbols and differences of each strategy, over rounds of models, prompts and seeds."""
    dtype = next(next(iter(targets.values())).parameters()).dtype
    found: dict[str, dict[str, Any]] = {n: {"symbols": 0, "off": 0, "ties": []} for n in names}
    rounds = -(-CELL[dtype] // (batch * samples * LENGTH))
    truth: dict[tuple[str, int], list[list[int]]] = {}
    for name in names:
        able = [m for m in targets if name not in ("heads", "hybrid") or m != "lstm"]
        for turn in range(rounds):
            which = able[turn % len(able)]
            model, seed = targets[which], SEED + turn
            chance = np.random.default_rng(seed)
            at = chance.integers(0, len(symbols) - PROMPT, batch)
            lens = chance.integers(0, PROMPT + 1, batch)
            each = [torch.from_numpy(symbols[i : i + n]) for i, n in zip(at, lens, strict=True)]
            prompts = [p for p in each for _ in range(samples)]
            ids = [100 * b + i for b in range(batch) for i in range(samples)]
            if (which, turn) not in truth:
                plain = Target(model, length=LENGTH)
                truth[which, turn] = [
                    decode("ancestral", plain, [p], [i], seed, warp)[0]
                    for p, i in zip(prompts, ids, strict=True)
                ]
            helped = Target(model, helpers["table"], helpers["draft"], length=LENGTH)
            got = decode(name, helped, prompts, ids, seed, warp)
            for row, (a, b) in enumerate(zip(truth[which, turn], got, strict=True)):
                same = next((k for k, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), None)
                found[name]["symbols"] += len(a) if same is None else same + 1
                if same is not None:
                    found[name]["off"] += 1
                    prefix = torch.cat([prompts[row], torch.tensor(a[:same], dtype=torch.int64)])
                    gap = margin(model, prefix, ids[row], seed, warp, a[same], b[same])
                    found[name]["ties"].append(gap)
    return found


def decode(
    name: str, target: Target, prompts: list[Tensor], ids: list[int], seed: int, warp: str
) -> list[list[int]]:
    """LENGTH symbols a row."""
    out: list[list[int]] = [[] for _ in ids]
    decoder = STRATEGIES[name].decoder(target)
    begun = decoder.start(prompts, Noise.seeded(seed, ids), None, Warps.of(len(ids), **WARPS[warp]))
    for emitted in drain(decoder, begun, [LENGTH] * len(ids)):
        for i, row in enumerate(emitted.rows):
            out[row] += emitted.symbols[i, : emitted.count[i]].tolist()
    return out


def margin(
    model: SequenceModel, prefix: Tensor, row: int, seed: int, warp: str, one: int, other: int
) -> float:
    """How far apart two symbols were, in nats of log-probability plus noise, in float64.

    A symbol at the edge of a filter is as far off as the filter's edge is: measured without it.
    """
    wide = copy.deepcopy(model).double()
    state = wide.extend(wide.start(1), prefix[None])
    heat = WARPS[warp].get("temperature", 1.0)
    law = wide.predict(state).log_probs()[0, 0]
    if heat == 0:
        return abs(float(law[one] - law[other]))
    size = model.space.size or 0
    noise = Noise.seeded(seed, [row]).at(Positions((len(prefix),), 1)).gumbel(size)[0, 0]
    score = law / heat + noise
    return abs(float(score[one] - score[other]))


def keep(done: dict[str, Any]) -> None:
    """Write what there is."""
    RESULTS.mkdir(exist_ok=True)
    PATH.write_text(
        json.dumps({"machine": machine(), "seed": SEED, "cells": done}, indent=1) + "\n"
    )


def show(done: dict[str, dict[str, Any]]) -> None:
    """A line for each strategy; SystemExit where float64 differs."""
    rows, wrong = [], 0
    for kind in ("float64", "float32"):
        for name in NAMES:
            mine = [v for k, v in done.items() if k.startswith(f"{kind} | {name} |")]
            total, off = sum(c["symbols"] for c in mine), sum(c["off"] for c in mine)
            ties = [t for c in mine for t in c["ties"]]
            rate = f"{off / total:.1e}" if total else ""
            rows.append([kind, name, f"{total:,}", off, rate, f"{max(ties, default=0.0):.1e}"])
            wrong += off if kind == "float64" else 0
    table(["type", "strategy", "symbols", "differences", "a symbol", "widest margin, nats"], rows)
    total = sum(c["symbols"] for k, c in done.items() if k.startswith("float64"))
    print(f"float64: {total:,} symbols, {wrong} differences")
    if wrong:
        raise SystemExit(1)
