"""fit: from a file to a fitted artifact."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import threading
import time as clock
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chainrule import registry
from chainrule.artifact import Artifact, load_config_parts, read_config
from chainrule.codecs.text import BPECodec, TextCodec
from chainrule.core.config import bounded, from_dict, to_dict
from chainrule.core.model import SequenceModel
from chainrule.core.space import Space
from chainrule.files import locked, write_text
from chainrule.training.data import Collection, Corpus, collect, fit_codec, prepare
from chainrule.training.precision import keep_memory
from chainrule.training.trainer import TrainConfig, Trainer, calibrate
from chainrule.verbs.card import finish
from chainrule.verbs.display import Display, display_for
from chainrule.verbs.generate import generate

BASELINE_SYMBOLS = 4_000_000  # the n-gram beside every model is fitted on at most so many
MOST_CHARACTERS = 200  # with more of them, bytes are the better symbols
DEFAULT_TIME = "5m"


@dataclass(frozen=True)
class Options:
    """What may be asked of ``fit``; None means: chosen from data and budget, and explained."""

    model: str | None = None
    size: str | None = None
    codec: str | None = None
    vocabulary: int | None = None
    tokenizer: str | None = None
    time: str | float | None = None
    steps: int | None = None
    batch: int | None = None
    context: int | None = None
    lr: float | None = None
    dropout: float | None = None
    accumulate: int = 1
    carry: bool | None = None
    seed: int = 0
    field: str | None = None
    column: str | None = None

    def __post_init__(self) -> None:
        for name, known in (
            ("model", registry.RECIPES),
            ("size", ("tiny", "small", "base")),
            ("codec", registry.CODECS),
        ):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ValueError(f"{name} {value!r} is not one of {', '.join(known)}")
        if self.time is not None and self.steps is not None:
            raise ValueError("give --time or --steps, not both")
        if self.steps is not None:
            bounded("steps", self.steps, 1, 10**9)
        if self.vocabulary is not None:
            bounded("vocabulary", self.vocabulary, 2, 2**24)
        bounded("seed", self.seed, 0, 2**63 - 1)
        seconds_of(self.time or 1)


def seconds_of(text: str | float) -> float:
    """ "90", "90s", "10m", "1.5h" or a number of seconds.

    Raises:
        ValueError: not a time, or not between a second and 30 days.
    """
    if isinstance(text, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(s|m|h|d)?\s*", text)
        if match is None:
            raise ValueError(f"{text!r} is not a time: write 30s, 10m, 2h")
        text = float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2] or "s"]
    bounded("time in seconds", text, 1, 30 * 86400)
    return float(text)


def fit(
    source: str | Path | list[str],
    out: str | Path | None = None,
    *,
    resume: bool = False,
    display: Display | None = None,
    **options: Any,
) -> Artifact:
    """Learn a file, folder, glob or ``-``; see ``Options`` for the rest.

    Args:
        out: the folder to make, ``runs/NAME`` if not given.
        resume: go on with an interrupted run in that folder.

    Raises:
        ValueError: wrong input; nothing that was there before is changed.
        TrainingFailed: the loss is not a number any more.
    """
    known = Options.__dataclass_fields__
    for name in options:
        if name not in known:
            raise ValueError(f"unknown option {name!r}; known: {', '.join(known)}")
    asked = Options(**options)
    keep_memory()  # before the first tensor, or huge pages come too late
    display = display_for() if display is None else display
    folder = Path(out) if out is not None else Path("runs") / _stem(source)
    there = (folder / "config.json").exists()
    if not resume:
        _refuse_if_there(folder)
    if resume and not there:
        raise ValueError(f"{folder}: nothing to resume here")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: choose another -o")
    if folder.is_dir() and not there and any(p.name != ".lock" for p in folder.iterdir()):
        raise ValueError(f"{folder} holds other files: choose an empty or a new folder with -o")
    if not resume:
        fitted, corpus = _new(
            source, asked, display
        )  # all wrong input shows before a folder is made
        with locked(folder):
            _refuse_if_there(folder)  # another fit may have finished here meanwhile
            return _train(fitted, corpus, folder, display, False)
    with locked(folder):
        fitted, corpus = _again(source, folder, asked, display)
        return _train(fitted, corpus, folder, display, True)


def _refuse_if_there(folder: Path) -> None:
    if (folder / "config.json").exists():
        raise ValueError(f"{folder} exists: --resume goes on with it, another -o keeps both")


def _stem(source: str | Path | list[str]) -> str:
    name = Path(str(source if isinstance(source, str | Path) else source[0])).name
    return re.sub(r"[^\w-]+", "-", name.split(".")[0]).strip("-") or "stdin"


# ---- choosing ----


def _new(
    source: str | Path | list[str], asked: Options, display: Display
) -> tuple[Artifact, Corpus]:
    collection = collect(source, field=asked.field, column=asked.column, progress=display.working)
    codec, why = _codec(collection, asked)
    display.say(why)
    corpus = prepare(collection, codec, progress=display.working)
    display.say(corpus.description)
    torch.manual_seed(asked.seed)
    seconds = None if asked.steps else seconds_of(asked.time or DEFAULT_TIME)
    name, size = _choose(len(corpus.train), seconds, asked)
    model = _model(name, size, codec.space, asked.dropout)
    recipe = {"name": name, "size": size, "data": collection.folder.name, "seed": asked.seed}
    artifact = Artifact(model, codec, recipe)
    if model.by_gradient:
        config = _training(size, asked)
        if seconds is not None:
            config = calibrate(model, corpus, config, seconds)
        if asked.dropout is None:  # known only now: it depends on how often the data is seen
            torch.manual_seed(asked.seed)
            artifact.model = _model(name, size, codec.space, _dropout(config, len(corpus.train)))
        artifact.recipe["training"] = to_dict(config)
        within = "" if seconds is None else f" in {seconds:.0f} s"
        budget = f"{config.steps:,} steps{within}, threads: {config.threads}"
    else:
        budget = "counted, not trained"
    count = sum(p.numel() for p in model.parameters())
    display.say(
        f"model {name}, size {size} ({count:,} parameters): {len(corpus.train):,} symbols "
        f"to learn, {budget}"
    )
    return artifact, corpus


def _codec(collection: Collection, asked: Options) -> tuple[TextCodec, str]:
    """The codec asked for; else characters where they are few, and bytes where not."""
    if asked.tokenizer is not None:
        if asked.codec not in (None, "bpe"):
            raise ValueError(f"--tokenizer belongs to codec bpe, not {asked.codec}")
        codec: TextCodec = BPECodec.from_file(asked.tokenizer)
        return codec, f"codec bpe: {codec.space.size:,} symbols of {asked.tokenizer}"
    name, why = asked.codec, "as asked"
    if name is None:
        name, why = "bytes", "not plain text" if collection.problem else "many characters"
        if collection.problem is None:
            distinct = len(set().union(*(t.decode() for t in collection.texts("all", 2**22))))
            if distinct <= MOST_CHARACTERS:
                name, why = "chars", f"{distinct} distinct characters"
    size = {"size": asked.vocabulary} if asked.vocabulary and name in ("words", "bpe") else {}
    codec = fit_codec(registry.CODECS[name], collection, **size)
    return codec, f"codec {name} ({why}): {codec.space.size:,} symbols"


def _choose(num_symbols: int, seconds: float | None, asked: Options) -> tuple[str, str]:
    """Model and size from data and budget alone."""
    size = asked.size
    if size is None:
        small = num_symbols < 20_000_000 or (seconds is not None and seconds < 1800)
        size = "tiny" if num_symbols < 20_000 else "small" if small else "base"
    return asked.model or "lstm", size


def _dropout(config: TrainConfig, num_symbols: int) -> float:
    """The oftener the data is seen, the more is dropped."""
    seen = config.steps * config.batch * config.length * config.accumulate / num_symbols
    return next(p for most, p in ((2, 0.0), (6, 0.1), (20, 0.2), (math.inf, 0.4)) if seen < most)


def _model(name: str, size: str, space: Space, dropout: float | None) -> SequenceModel:
    config = registry.RECIPES[name](space, size)
    if dropout is not None and hasattr(config, "dropout"):
        config = replace(config, dropout=dropout)
    kind = next(k for k, cls in registry.MODELS.items() if isinstance(config, cls.Config))  # type: ignore[attr-defined]
    model: SequenceModel = registry.MODELS[kind](config)
    return model


def _training(size: str, asked: Options) -> TrainConfig:
    given: dict[str, Any] = {
        "steps": asked.steps,
        "batch": asked.batch,
        "length": asked.context,
        "lr": asked.lr,
        "carry": asked.carry,
    }
    usual: dict[str, Any] = {"steps": 1, "lr": {"tiny": 1e-2, "small": 1e-2, "base": 3e-3}[size]}
    asked_for = {k: v for k, v in given.items() if v is not None}
    usual["threads"] = torch.get_num_threads()
    return TrainConfig(**{**usual, **asked_for}, accumulate=asked.accumulate, seed=asked.seed)


# ---- training ----


def _again(
    source: str | Path | list[str], folder: Path, asked: Options, display: Display
) -> tuple[Artifact, Corpus]:
    config = read_config(folder)
    if config["results"].get("finished", True) and config["results"]:
        raise ValueError(f"{folder} is finished: nothing to resume")
    torch.manual_seed(config["recipe"].get("seed", 0))
    model, codec = load_config_parts(folder, config)
    artifact = Artifact(model, codec, config["recipe"], config["results"])
    collection = collect(source, field=asked.field, column=asked.column, progress=display.working)
    if collection.folder.name != artifact.recipe.get("data"):
        raise ValueError(f"{source} is not what {folder} was trained on: resume with the same data")
    corpus = prepare(collection, codec, progress=display.working)
    display.say(corpus.description)
    return artifact, corpus


def _train(
    artifact: Artifact, corpus: Corpus, folder: Path, display: Display, resume: bool
) -> Artifact:
    artifact.baseline = _baseline(artifact, corpus)
    artifact.save_config(folder)
    artifact.save_baseline(folder)
    if not artifact.model.by_gradient:
        began = clock.perf_counter()
        artifact.model.estimate([corpus.train])
        artifact.save_config(folder)
        artifact.save_weights(folder)
        done: dict[str, Any] = {"seconds": round(clock.perf_counter() - began, 2)}
        finish(artifact, corpus, folder, done, [], display.working)
        display.end()
        return artifact
    config = from_dict(TrainConfig, artifact.recipe["training"], "config.json: recipe")
    torch.manual_seed(config.seed)
    trainer = Trainer(artifact.model, corpus, config)
    metrics = folder / "metrics.jsonl"
    records: list[dict[str, Any]] = []
    if resume and trainer.resume(folder / "checkpoints"):
        step = trainer.progress.step
        display.say(f"resumed at step {step:,}")
        records = [r for r in _records(metrics) if r["step"] <= step]
    write_text(metrics, "".join(json.dumps(r) + "\n" for r in records))
    every = max(1, config.steps // 1000)
    display.begin(config.steps, trainer.progress.step)
    with metrics.open("a", encoding="utf-8") as log, _stopping(trainer):

        def report(record: dict[str, Any]) -> None:
            checked = "held_out_bits_per_byte" in record
            if checked or record["step"] % every == 0:
                log.write(json.dumps(record) + "\n")
                log.flush()
                records.append(record)
            if checked and record["best"]:
                artifact.save_weights(folder)
                artifact.model.eval()
                display.sample(generate(artifact, n=1, length=200, seed=config.seed)[0].text)
            display.report(record)

        try:
            trainer.run(folder / "checkpoints", report)
        finally:
            display.end()
    artifact.model.load_state_dict(trainer.best)
    artifact.model.eval()
    artifact.save_weights(folder)
    done = {
        "steps": trainer.progress.step,
        "best_step": trainer.progress.best_step,
        "seconds": round(trainer.progress.seconds, 1),
        "finished": trainer.finished,
    }
    finish(artifact, corpus, folder, done, records, display.working)
    display.end()
    if trainer.finished:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    if not trainer.finished:
        display.say(f"stopped at step {trainer.progress.step:,} and saved: --resume goes on")
    elif trainer.progress.step < config.steps:
        display.say(f"stopped early at step {trainer.progress.step:,}: nothing better was to come")
    return artifact


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl; a crash may have cut the last one."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


def _baseline(artifact: Artifact, corpus: Corpus) -> SequenceModel | None:
    """An n-gram on the same training part, to be beaten."""
    if not artifact.model.by_gradient:
        return None
    baseline = _model("ngram", "small", artifact.codec.space, None)
    baseline.estimate([np.asarray(corpus.train[:BASELINE_SYMBOLS])])
    return baseline.eval()


@contextmanager
def _stopping(trainer: Trainer) -> Iterator[None]:
    """SIGINT and SIGTERM finish the step, save and stop; a second one is not caught."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old: dict[signal.Signals, Any] = {}

    def ask(number: int, frame: object) -> None:
        trainer.stop_asked = True
        for which, handler in old.items():
            signal.signal(which, handler)

    for which in (signal.SIGINT, signal.SIGTERM):
        old[which] = signal.signal(which, ask)
    try:
        yield
    finally:
        for which, handler in old.items():
            signal.signal(which, handler)
