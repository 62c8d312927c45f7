"""Every identical strategy beside ancestral sampling, in wall time; and auto beside the best.

The small transformer on tiny Shakespeare, as ``fit --model transformer --size small --steps 4000
--objective hybrid --rate 0.5 --ahead 4`` makes it (kept in build/bench), through ``generate`` as a
user calls it: prompts from the text itself, 1,000 symbols of one row or 600 of each of more,
interleaved rounds of a seed each. Part one: batch 1, temperature 1 and greedy, one thread and two.
Part two: ten settings, each fixed strategy at its own defaults; auto begins every round with
nothing known ("cold"), or knows the last round.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch

import chainrule as cr
from bench.common import interleaved, ratios, save, summary, table

ROUNDS = 5
FIXED = ("ancestral", "lookup", "draft", "heads", "jacobi", "hybrid")
NUCLEUS = {"temperature": 0.7, "top_p": 0.9}
SETTINGS: dict[str, tuple[str, int, dict[str, Any]]] = {  # run, rows, settings
    "temperature 1": ("transformer", 1, {}),
    "greedy": ("transformer", 1, {"temperature": 0.0}),
    "temperature 0.7, top-p 0.9": ("transformer", 1, NUCLEUS),
    "top-k 5": ("transformer", 1, {"top_k": 5}),
    "batch 8": ("transformer", 8, {}),
    "batch 8, greedy": ("transformer", 8, {"temperature": 0.0}),
    "batch 32": ("transformer", 32, {}),
    "batch 32, 0.7, top-p 0.9": ("transformer", 32, NUCLEUS),
    "LSTM": ("lstm", 1, {}),
    "LSTM, batch 8, greedy": ("lstm", 8, {"temperature": 0.0}),
}


def main(data: Path | None) -> None:
    """Both parts, stored."""
    if data is None:
        print("skipped: it needs text/tinyshakespeare.txt: --data FOLDER")
        return
    runs = trained(data)
    lines = (data / "text" / "tinyshakespeare.txt").read_text().splitlines(keepends=True)
    heads = [line for line in lines if line.endswith(":\n")][-32:]
    save("strategies", {"speed": speed(runs, heads), "auto": automatic(runs, heads)})


def trained(data: Path) -> dict[str, Any]:
    """The runs, fitted where they are not there yet; the draft is a GRU of two minutes."""
    asked: dict[str, dict[str, Any]] = {
        "transformer": {"steps": 4000, "objective": "hybrid", "rate": 0.5, "ahead": 4},
        "lstm": {"steps": 400},
        "gru": {"steps": 400, "size": "tiny"},
    }
    runs = {}
    for name, options in asked.items():
        folder = Path("build") / "bench" / f"shakespeare-{name}"
        if not (folder / "README.md").exists():
            options = {"size": "small", "model": name, **options}
            cr.fit(data / "text" / "tinyshakespeare.txt", folder, resume=True, **options)
        runs[name] = cr.load(folder)
    return runs


def contender(
    run: Any, draft: Any, prompts: list[str], name: str, settings: dict[str, Any], cold: bool
) -> Callable[[], float]:
    """Milliseconds a symbol of one row."""
    more: dict[str, Any] = {"draft": draft} if name == "draft" else {}

    length, seeds = 1000 if len(prompts) == 1 else 600, count()

    def once() -> float:
        if cold:
            run.artifact.choices.clear()
        began = time.perf_counter()
        more["seed"] = next(seeds)
        samples = run.generate(prompts, length=length, strategy=name, **more, **settings)
        made = max(len(s.symbols) for s in samples)
        return (time.perf_counter() - began) / made * 1e3

    return once


def speed(runs: dict[str, Any], prompts: list[str]) -> dict[str, Any]:
    """Part one."""
    out: dict[str, Any] = {}
    run = runs["transformer"]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for setting in ("temperature 1", "greedy"):
            settings = SETTINGS[setting][2]
            contenders = {
                name: contender(run, runs["gru"], prompts[:1], name, settings, cold=True)
                for name in (*FIXED, "auto")
            }
            times = interleaved(contenders, ROUNDS)
            faster = {name: ratios(times["ancestral"], times[name]) for name in times}
            rows = [
                [n, summary(t)["median"], *(faster[n][k] for k in ("median", "min", "max"))]
                for n, t in times.items()
            ]
            print(f"{setting}, batch 1, threads: {threads}")
            table(["strategy", "ms a symbol", "times as fast", "least", "most"], rows)
            out[f"{setting}, threads: {threads}"] = {
                n: {"ms": summary(t), "times_as_fast": faster[n]} for n, t in times.items()
            }
    torch.set_num_threads(1)
    return out


def automatic(runs: dict[str, Any], prompts: list[str]) -> dict[str, Any]:
    """Part two."""
    out, rows = {}, []
    for setting, (kind, batch, settings) in SETTINGS.items():
        run = runs[kind]
        able = FIXED if kind == "transformer" else ("ancestral", "lookup", "draft", "jacobi")
        contenders = {
            name: contender(run, runs["gru"], prompts[:batch], name, settings, cold=False)
            for name in able
        }
        given = (run, runs["gru"], prompts[:batch], "auto", settings)
        contenders["auto, cold"] = contender(*given, cold=True)
        contenders["auto"] = contender(*given, cold=False)
        times = interleaved(contenders, ROUNDS)
        best = min(able, key=lambda name: summary(times[name])["median"])
        chosen = str(next(reversed(run.artifact.choices.values())))
        over = {k: ratios(times[k], times[best]) for k in ("auto, cold", "auto")}
        rows.append(
            [
                setting,
                best,
                summary(times[best])["median"],
                *(over[k]["median"] for k in over),
                chosen.split(":")[0],
            ]
        )
        out[setting] = {
            "ms": {n: summary(t) for n, t in times.items()},
            "best": best,
            "of_best": over,
            "chosen": chosen,
        }
    head = ["setting", "best fixed", "ms a symbol", "auto cold, of best", "auto, of best", "chosen"]
    table(head, rows)
    return out
