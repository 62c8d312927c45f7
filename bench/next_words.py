"""Suggestions while a held-out text is typed: milliseconds a key, recall, keys saved.

The small transformer and the small LSTM on characters of tiny Shakespeare (as in ``strategies``),
and a small transformer on BPE of the book that comes with chainrule, all below 2 million
parameters; each on one thread, in the compiled engine, and typed key by key without a pause.
Beside them, through the same search, the n-gram that every run keeps; and the most frequent words
of the training part that begin as what was typed. A user takes a word as soon as it is among three:
one key, which types the blank behind it too.
"""

from __future__ import annotations

import re
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

import chainrule as cr
from bench.common import save, table
from bench.strategies import trained
from chainrule.training.data import collect
from chainrule.verbs.fitted import Fitted

KEYS, K, LIMIT, ALONE = 4000, 3, 5.0, 20
BOOK_STEPS = 300
_WORD = re.compile(r"[0-9A-Za-z'\u0080-\U0010ffff]+")

Suggest = Callable[[str], list[str]]


def main(data: Path | None, keys: int = KEYS) -> None:
    """Type, count and store."""
    if data is None:
        print("skipped: it needs text/tinyshakespeare.txt: --data FOLDER")
        return
    torch.set_num_threads(1)
    plays = data / "text" / "tinyshakespeare.txt"
    small = trained(data)
    runs = {f"{name}, characters": (small[name], plays) for name in ("lstm", "transformer")}
    with resources.as_file(resources.files("chainrule") / "assets" / "alice.txt") as book:
        folder = Path("build") / "bench" / "alice-bpe"
        if not (folder / "README.md").exists():
            options = {"size": "small", "model": "transformer", "codec": "bpe"}
            cr.fit(book, folder, resume=True, steps=BOOK_STEPS, **options)
        runs["transformer, BPE"] = cr.load(folder), book
        out = {name: typed(name, run, path, keys) for name, (run, path) in runs.items()}
    save("next_words", {"keys": keys, "suggestions": K, "limit_ms": LIMIT, "runs": out})


def typed(name: str, run: Any, path: Path, keys: int) -> dict[str, Any]:
    """Every contender over the first held-out characters of a run's data."""
    source = collect(path)
    text = b"".join(source.texts("held_out")).decode("utf-8", "ignore")[:keys]
    learnt = b"".join(source.texts("train")).decode("utf-8", "ignore")
    fresh: dict[str, Any] = {"stored": None, "engines": {}, "choices": {}}
    counts = Fitted(replace(run.artifact, outline=run.artifact.baseline, **fresh))
    contenders: dict[str, Callable[[], Suggest]] = {
        "model": lambda: following(run.typing(K)),
        "model, bf16": lambda: following(run.typing(K, dtype="bf16")),
        "its n-gram": lambda: following(counts.typing(K)),
        "frequent words": lambda: frequent(learnt),
    }
    num = sum(p.numel() for p in run.artifact.model.parameters())
    print(f"{name}: {num:,} parameters, {len(text):,} keys")
    out: dict[str, Any] = {"parameters": num, "keys": len(text)}
    rows = []
    for title, begin in contenders.items():
        found, ms = pressed(begin(), text)
        figures = {
            "ms_median": statistics.median(ms),
            "ms_p95": float(np.percentile(ms, 95)),
            "ms_p99": float(np.percentile(ms, 99)),
            "ms_mean": statistics.fmean(ms),
            "recall": recalls(found, text),
            "keys_saved_percent": saved(found, text),
        }
        out[title] = figures
        rows.append(
            [title, *(figures[f"ms_{k}"] for k in ("median", "p95", "p99"))]
            + [f"{a:.1f}/{b:.1f}" for a, b in figures["recall"]]
            + [f"{figures['keys_saved_percent']:.1f} %"]
        )
    head = ["", "ms a key", "p95", "p99"]
    head += [f"top-1/top-{K}, {n} letters" for n in range(4)]
    table([*head, "keys saved"], rows)
    out["from_the_whole_text_ms"] = alone(run, text)
    table(["ms from the whole text at once"], [[out["from_the_whole_text_ms"]]])
    return out


def following(typist: Any) -> Suggest:
    """One key more each time it is called."""

    def press(text: str) -> list[str]:
        return [word for word, _ in typist.type(text[len(typist.text) :])]

    return press


def frequent(learnt: str) -> Suggest:
    """The most frequent words that begin as the last one of the text."""
    ranked = [word for word, _ in Counter(_WORD.findall(learnt)).most_common()]

    def press(text: str) -> list[str]:
        last = re.search(r"[0-9A-Za-z'\u0080-\U0010ffff]*$", text)
        assert last is not None
        found: list[str] = []
        for word in ranked:
            if word.startswith(last.group()):
                found.append(word)
                if len(found) == K:
                    break
        return found

    return press


def pressed(suggest: Suggest, text: str) -> tuple[list[list[str]], list[float]]:
    """Suggestions before every character of the text, and milliseconds of each but the first."""
    found, ms = [suggest("")], []
    for n in range(1, len(text)):
        began = time.perf_counter()
        found.append(suggest(text[:n]))
        ms.append(1e3 * (time.perf_counter() - began))
    return found, ms


def recalls(found: list[list[str]], text: str) -> list[tuple[float, float]]:
    """After 0 to 3 letters of a word: per cent where it came first, and where it was there."""
    words = [m for m in _WORD.finditer(text) if m.end() < len(text)]
    out = []
    for n in range(4):
        asked = [(m.group(), found[m.start() + n]) for m in words if m.end() - m.start() > n]
        first = sum(word in listed[:1] for word, listed in asked)
        there = sum(word in listed for word, listed in asked)
        out.append((100 * first / len(asked), 100 * there / len(asked)))
    return out


def saved(found: list[list[str]], text: str) -> float:
    """Per cent of the keys that taking a word as soon as it is listed saves."""
    spared = 0
    for m in _WORD.finditer(text):
        end = m.end() + (text[m.end() : m.end() + 1] == " ")
        at = next((i for i in range(m.start(), m.end()) if m.group() in found[i]), end - 1)
        spared += max(0, end - at - 1)
    return 100 * spared / len(text)


def alone(run: Any, text: str) -> float:
    """Median milliseconds of ``run.next`` for what was typed so far, at places spread over it."""
    ms = []
    for n in range(0, len(text), max(1, len(text) // ALONE)):
        began = time.perf_counter()
        run.next(text[:n], K)
        ms.append(1e3 * (time.perf_counter() - began))
    return statistics.median(ms)
