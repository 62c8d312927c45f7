"""fit: from a file to a fitted artifact."""

from __future__ import annotations

import json
import re
import shutil
import time as clock
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from chainrule.artifact import (
    Artifact,
    load_adapter,
    load_artifact,
    load_codec,
    load_config_parts,
    read_config,
)
from chainrule.core.config import from_dict, to_dict
from chainrule.core.model import SequenceModel
from chainrule.files import locked, remove_partial, write_text
from chainrule.nn.lora import begun
from chainrule.training import track
from chainrule.training.calibrate import calibrate
from chainrule.training.checkpoint import checkpoints
from chainrule.training.distributed import Alone, all_processes
from chainrule.training.precision import keep_memory
from chainrule.training.trainer import TrainConfig, Trainer, TrainingFailed
from chainrule.verbs.choosing import (
    DEFAULT_TIME,
    Options,
    choose_dropout,
    choose_model,
    choose_training,
    make_model,
    seconds_of,
)
from chainrule.verbs.display import Display, display_for
from chainrule.verbs.follow import follow, stopping, together
from chainrule.verbs.material import Material
from chainrule.verbs.media import material_of
from chainrule.verbs.resume import given, records, same_data, same_options
from chainrule.verbs.tune import Base, carry, start_again

Source = str | Path | list[str]


def fit(
    source: Source,
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
        TrainingFailed: it diverges; the folder keeps the best weights.
        OSError: the folder can't be written; what it held before is intact.
    """
    folder = Path(out) if out is not None else Path("runs") / _stem(source)
    with all_processes(bool(options.get("shard"))) as company:
        if not company.first:
            return follow(company, folder)
        asked = _checked(options)
        artifact = _fit(source, folder, resume, asked, display or display_for(), company)
        company.tell({"do": "end"})
        return artifact


def _checked(options: dict[str, Any]) -> Options:
    known = Options.__dataclass_fields__
    for name in options:
        if name not in known:
            raise ValueError(f"unknown option {name!r}; known: {', '.join(known)}")
    return Options(**options)


def _fit(
    source: Source,
    folder: Path,
    resume: bool,
    asked: Options,
    display: Display,
    company: Alone,
) -> Artifact:
    if asked.tensorboard:
        track.writer()  # says what is missing before anything is read
    keep_memory()  # before the first tensor, or huge pages come too late
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: choose another -o")
    if resume and (folder / "config.json").exists():
        with _writing(folder), locked(folder):
            remove_partial(folder)
            return _again(source, folder, asked, display, company)
    _refuse_if_there(folder)
    _refuse_what_is_not_ours(folder, resume)
    if resume:
        display.say(f"nothing to resume in {folder} yet: it begins anew")
    fitted, material = _new(source, asked, display, company)  # wrong input shows before a folder
    fitted.recipe["asked"] = given(asked)
    with _writing(folder), locked(folder):
        _refuse_if_there(folder)  # another fit may have finished here meanwhile
        remove_partial(folder)
        return _train(fitted, material, folder, display, False, asked.tensorboard, company)


def _refuse_if_there(folder: Path) -> None:
    if (folder / "config.json").exists():
        raise ValueError(f"{folder} exists: --resume goes on with it, another -o keeps both")


def _refuse_what_is_not_ours(folder: Path, resume: bool) -> None:
    if not folder.is_dir() or all(p.name == ".lock" for p in folder.iterdir()):
        return
    if not (folder / ".lock").exists():
        raise ValueError(f"{folder} holds other files: choose an empty or a new folder with -o")
    with locked(folder):  # else another fit is at it
        if not resume:
            raise ValueError(f"a fit was killed in {folder} as it began: --resume begins it anew")


def _stem(source: Source) -> str:
    name = Path(str(source if isinstance(source, str | Path) else source[0])).name
    return re.sub(r"[^\w-]+", "-", name.split(".")[0]).strip("-") or "stdin"


def _new(
    source: Source, asked: Options, display: Display, company: Alone
) -> tuple[Artifact, Material]:
    base = None if asked.base is None else Base(asked)
    codec = None if base is None else base.artifact.any_codec
    if base is not None:
        display.say(
            f"weights and codec of {base.path}: {base.artifact.outline.space.size:,} symbols"
        )
    material = material_of(source, codec, asked, display)
    codec = material.codec
    display.say(material.description)
    seconds = None if asked.steps else seconds_of(asked.time or DEFAULT_TIME)
    if base is None:
        name, size = choose_model(material.size, seconds, asked, codec.space)
    else:
        name, size = base.name, base.size
    settled = asked if base is None else base.settle(asked)
    config = material.settle(choose_training(name, size, settled, codec.space))

    def build(dropout: float | None) -> SequenceModel:
        torch.manual_seed(asked.seed)
        if base is not None:
            return base.model(dropout) if asked.adapter is None else base.artifact.model
        context, fields = asked.context or config.length, material.fields(asked)
        return make_model(name, size, codec.space, dropout, context, **fields)

    model = build(asked.dropout)
    material.suit(model)
    recipe = {"name": name, "size": size, "seed": asked.seed, **material.facts(source, asked)}
    artifact = Artifact(model, codec, recipe)
    learning = ""
    if base is not None:
        recipe |= base.carried()
        recipe["base"] = base.origin(asked.old, material, display.working)
        if config.rank:
            artifact = replace(base.adapted(config.rank), recipe=recipe)
            small = sum(p.numel() for p in begun(model, config.rank, 0).parameters())
            learning = f", and {small:,} that learn beside them"
    if model.by_gradient:
        company.rows(min(config.batch, material.rows))  # or there are too few of them
        if seconds is not None:
            together(company, "calibrate", model, material, config, seconds=seconds)
            config = calibrate(model, material.lessons, config, seconds, company)
        if asked.dropout is None and not config.rank:  # depends on how often the data is seen
            artifact.model = build(choose_dropout(config, material.size))
        artifact.recipe["training"] = to_dict(config)
        within = "" if seconds is None else f" in {seconds:.0f} s"
        budget = f"{config.steps:,} steps{within}, threads: {config.threads}"
    else:
        budget = "counted, not trained"
    count = sum(p.numel() for p in model.parameters())
    display.say(
        f"model {name}, size {size} ({count:,} parameters{learning}): "
        f"{material.size:,} symbols to learn, {budget}"
    )
    return artifact, material


# ---- training ----


def _again(
    source: Source,
    folder: Path,
    asked: Options,
    display: Display,
    company: Alone,
) -> Artifact:
    config = read_config(folder)
    recipe, results, saves = config["recipe"], config["results"], folder / "checkpoints"
    if config["precision"]:
        raise ValueError(
            f"{folder} is quantised and can't go on learning: resume what it was made of"
        )
    same_options(folder, config, asked)
    same = partial(same_data, folder, recipe, source)
    material = material_of(source, load_codec(folder, config), asked, display, same)
    if "diverged" in results:
        raise ValueError(
            f"{folder} diverged, and would again: {results['diverged']}, into another -o. "
            f"{folder} keeps its best weights"
        )
    if results and results.get("finished", True) and not checkpoints(saves):
        shutil.rmtree(saves, ignore_errors=True)
        display.say(f"{folder} is finished: nothing to resume")
        return load_artifact(folder)
    torch.manual_seed(recipe.get("seed", 0))
    if config["adapter"]:
        artifact = load_adapter(folder, config, fresh=True)
    else:
        artifact = Artifact(*load_config_parts(folder, config), recipe, results)
    material.suit(artifact.outline)
    display.say(material.description)
    return _train(artifact, material, folder, display, True, asked.tensorboard, company)


def _train(
    artifact: Artifact,
    material: Material,
    folder: Path,
    display: Display,
    resume: bool,
    tensorboard: bool,
    company: Alone,
) -> Artifact:
    artifact.baseline = material.baseline(artifact.model)
    if not artifact.model.by_gradient:
        return _count(artifact, material, folder, display)
    config = from_dict(TrainConfig, artifact.recipe["training"], "config.json: recipe")
    torch.manual_seed(config.seed)
    metrics, saves = folder / "metrics.jsonl", folder / "checkpoints"
    remove_partial(saves)
    whole = artifact.merged is None
    if resume and whole and "base" in artifact.recipe and not checkpoints(saves):
        start_again(artifact.model, artifact.recipe)
    model = artifact.base.model
    together(company, "train", model, material, config, resume=resume)
    trainer = Trainer(model, material.lessons, config, company)
    if resume and trainer.resume(saves, display.say):
        display.say(f"resumed at step {trainer.progress.step:,}")
    else:
        if resume:
            display.say(f"no checkpoint in {saves}: it begins at the first step")
        trainer.save(saves)  # so that where there is a config.json, there are weights to begin with
    artifact.save_config(folder)
    artifact.save_baseline(folder)
    carry(artifact.recipe, folder)
    kept = list(records(metrics, trainer.progress.step))
    _write_records(metrics, kept)
    every = max(1, config.steps // 1000)
    display.begin(config.steps, trainer.progress.step, material.lessons.unit)
    failed: TrainingFailed | None = None
    with (
        track.events(folder / "events" if tensorboard else None, trainer.progress.step) as draw,
        stopping(trainer),
    ):

        def report(record: dict[str, Any]) -> None:
            checked = "best" in record
            if checked or record["step"] % every == 0:
                kept.append(record)
                draw(record)
                with suppress(OSError), metrics.open("a", encoding="utf-8") as log:
                    log.write(json.dumps(record) + "\n")  # a full disk: all are written at the end
            if checked and record["best"]:
                artifact.learned(trainer.best)
                try:
                    artifact.save_weights(folder)
                except OSError as error:
                    display.say(f"{error}; training goes on")
                artifact.model.eval()
                shown = material.shown(artifact, config.seed)
                if shown is not None:
                    display.sample(shown)
            display.report(record)

        try:
            trainer.run(saves, report, display.say)
        except TrainingFailed as error:
            failed = error
        finally:
            display.end()
    artifact.learned(trainer.best)
    artifact.model.eval()
    artifact.save_weights(folder)
    _write_records(metrics, kept)
    at = trainer.progress
    done = {
        "steps": at.step,
        "best_step": at.best_step,
        "seconds": round(at.seconds, 1),
        "finished": trainer.finished and failed is None,
        **({} if failed is None else {"diverged": str(failed)}),
    }
    material.finish(artifact, folder, done, kept, display)
    display.end()
    if failed is None and not trainer.finished:
        display.say(f"stopped at step {at.step:,} and saved: --resume goes on")
        return artifact
    shutil.rmtree(saves, ignore_errors=True)  # the last act: until then --resume does all again
    if failed is not None:
        raise TrainingFailed(f"{failed}. {folder} keeps the best weights, of step {at.best_step:,}")
    if at.step < config.steps:
        display.say(f"stopped early at step {at.step:,}: nothing better was to come")
    return artifact


def _count(artifact: Artifact, material: Material, folder: Path, display: Display) -> Artifact:
    artifact.save_config(folder)
    began = clock.perf_counter()
    artifact.model.estimate(material.counted())
    artifact.save_weights(folder)
    done: dict[str, Any] = {"seconds": round(clock.perf_counter() - began, 2)}
    material.finish(artifact, folder, done, [], display)
    display.end()
    return artifact


def _write_records(path: Path, kept: list[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(r) + "\n" for r in kept))


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say of what can't be written what that means for the run.

    Raises:
        OSError: the same, in one line.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(
            f"{error}: what {folder} held before is intact; "
            "once it can be written, --resume goes on"
        ) from None
