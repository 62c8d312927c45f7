"""What fit chooses where nothing was asked, from data and budget alone."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from chainrule import registry
from chainrule.codecs.image import COLOURS
from chainrule.codecs.text import BPECodec, TextCodec
from chainrule.core.config import bounded
from chainrule.core.grid import ORDERS
from chainrule.core.model import SequenceModel
from chainrule.core.space import Space
from chainrule.training.data import Collection, fit_codec
from chainrule.training.precision import compiling_pays
from chainrule.training.trainer import TrainConfig

MOST_CHARACTERS = 200  # with more of them, bytes are the better symbols
DEFAULT_TIME = "5m"
LORA_RANK, LORA_LR = 16, 1e-3
REPAID = 600  # seconds of a run that repay half a minute of compiling
PICTURE_OPTIONS = ("resize", "crop", "colour", "levels", "order", "background", "labels")
_TEXT_OPTIONS = ("vocabulary", "tokenizer", "column", "carry")


PICTURE_MODEL = "pixelcnn"  # of pictures, unless asked
RASTER = ("pixelcnn", "pixelrnn")  # models that go row by row
PICTURES: dict[str, dict[str, Any]] = {  # training, as trials on MNIST found it best
    "pixelcnn": {"optimiser": "muon", "lr": 5e-3, "batch": 64, "weight_decay": 0.01, "ema": 0.999},
    "pixelrnn": {"lr": 1e-3, "batch": 16, "weight_decay": 0.01, "ema": 0.999},
    "made": {"lr": 1e-3, "batch": 128, "weight_decay": 0.01, "ema": 0.999},
    "anyorder": {"lr": 2e-3, "batch": 64, "weight_decay": 0.01, "ema": 0.999},
    "transformer": {"lr": 3e-3, "batch": 8, "optimiser": "muon"},
}


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
    objective: str = "nll"
    rate: float | None = None
    ahead: int = 0  # symbols beyond the next that extra heads learn to guess
    seed: int = 0
    field: str | None = None
    column: str | None = None
    base: str | Path | None = None  # the run that this one starts from: --from
    old: str | Path | None = None  # text of what it knew before, to see what it forgets
    adapter: str | None = None  # what learns beside weights that stay as they are
    rank: int | None = None  # of the adapter
    resize: str | None = None  # of pictures: "32" or "24x32", height first
    crop: str | None = None
    colour: str | None = None  # grey, rgb, luma or palette
    levels: int | None = None  # of a channel, or colours of a palette
    order: str | None = None  # of a picture's symbols
    background: str | None = None  # what transparent pixels are laid on
    labels: str | Path | None = None  # a CSV file that names each picture's class
    tensorboard: bool = False
    shard: bool = False  # weights, gradients and optimiser in shards over the processes

    def __post_init__(self) -> None:
        for name, known in (
            ("model", registry.RECIPES | registry.PICTURE_RECIPES),
            ("size", ("tiny", "small", "base")),
            ("codec", registry.CODECS | registry.PICTURE_CODECS),
            ("colour", COLOURS),
            ("order", ORDERS),
            ("adapter", ("lora",)),
        ):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ValueError(f"{name} {value!r} is not one of {', '.join(known)}")
        if self.time is not None and self.steps is not None:
            raise ValueError("give --time or --steps, not both")
        if self.rate is not None and self.objective in ("nll", "any-order"):
            raise ValueError("--rate belongs to --objective scheduled, noise or hybrid")
        for name in ("adapter", "old"):
            if getattr(self, name) is not None and self.base is None:
                raise ValueError(f"--{name} needs a run to start from: --from RUN")
        if self.rank is not None:
            if self.adapter is None:
                raise ValueError("--rank belongs to --adapter lora")
            bounded("rank", self.rank, 1, 1024)
        if self.adapter is not None and (self.shard or self.dropout is not None):
            name = "--shard" if self.shard else "--dropout"
            raise ValueError(f"{name} belongs to full fine-tuning: leave it, or --adapter, out")
        if self.steps is not None:
            bounded("steps", self.steps, 1, 10**9)
        if self.vocabulary is not None:
            bounded("vocabulary", self.vocabulary, 2, 2**24)
        if self.levels is not None:
            bounded("levels", self.levels, 2, 256)
        bounded("seed", self.seed, 0, 2**63 - 1)
        seconds_of(self.time or 1)

    def for_text(self) -> None:
        """Refuse a model that is for pictures; raises ValueError."""
        if self.model is not None and self.model not in registry.RECIPES:
            known = ", ".join(registry.RECIPES)
            raise ValueError(f"model {self.model} is for pictures: for text there are {known}")
        if self.objective == "any-order":
            raise ValueError("--objective any-order is for pictures, with --model anyorder")

    def for_pictures(self, new: bool) -> None:
        """Refuse what is for text, and of a ``new`` model what it lacks; raises ValueError."""
        given = [f"--{name}" for name in _TEXT_OPTIONS if getattr(self, name) is not None]
        if given:
            raise ValueError(f"{', '.join(given)} is for text, and this is a run of pictures")
        if self.model is not None and self.model not in registry.PICTURE_RECIPES:
            known = ", ".join(registry.PICTURE_RECIPES)
            raise ValueError(f"model {self.model} is for text: for pictures there are {known}")
        if self.context is not None and self.base is not None:
            raise ValueError(f"--context: the model of {self.base} keeps its own: leave it out")
        if not new:
            return
        if self.order not in (None, "raster") and self.model in (None, *RASTER):
            raise ValueError(
                f"--order {self.order} needs --model transformer, made or anyorder: convolutions "
                "go row by row"
            )
        name = self.model or PICTURE_MODEL
        config = registry.PICTURE_RECIPES[name](Space.picture((1, 1, 1), 2), "tiny")
        needs = {
            "--context": ("context", self.context),
            "--ahead": ("ahead", self.ahead),
            "--objective hybrid": ("masked", self.objective == "hybrid"),
        }
        for option, (field, asked) in needs.items():
            if asked and not hasattr(config, field):
                raise ValueError(
                    f"{option} needs a transformer: give --model transformer, not {name}, or leave "
                    "it out"
                )
        if self.objective == "hybrid" and self.context is not None:
            raise ValueError("--objective hybrid looks at whole pictures: leave --context out")
        if self.objective == "any-order" and name != "anyorder":
            raise ValueError(f"--objective any-order needs --model anyorder, not {name}")


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


def choose_codec(collection: Collection, asked: Options) -> tuple[TextCodec, str]:
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


def choose_model(
    num_symbols: int, seconds: float | None, asked: Options, space: Space
) -> tuple[str, str]:
    """Model and size from data and budget alone."""
    size = asked.size
    if space.grid is not None:
        short = num_symbols < 2_000_000 or (seconds is not None and seconds < 900)
        return asked.model or PICTURE_MODEL, size or ("tiny" if short else "small")
    if size is None:
        small = num_symbols < 20_000_000 or (seconds is not None and seconds < 1800)
        size = "tiny" if num_symbols < 20_000 else "small" if small else "base"
    return asked.model or "lstm", size


def choose_dropout(config: TrainConfig, num_symbols: int) -> float:
    """The oftener the data is seen, the more is dropped."""
    seen = config.steps * config.batch * config.length * config.accumulate / num_symbols
    return next(p for most, p in ((2, 0.0), (6, 0.1), (20, 0.2), (math.inf, 0.4)) if seen < most)


def make_model(
    name: str,
    size: str,
    space: Space,
    dropout: float | None,
    context: int = 256,
    **fields: Any,
) -> SequenceModel:
    """A model by the name of its recipe, made for windows of ``context`` symbols.

    Raises:
        ValueError: fields, not at their defaults, that this family doesn't have.
    """
    recipes = registry.RECIPES if space.grid is None else registry.PICTURE_RECIPES
    config = recipes[name](space, size)
    for field, value in fields.items():
        if hasattr(config, field):
            config = replace(config, **{field: value})
        elif value and field != "labels":  # a model that isn't told them learns without
            how = {"ahead": "--ahead", "masked": "--objective hybrid"}.get(field, field)
            raise ValueError(f"{how} needs a transformer: give --model transformer, not {name}")
    context += bool(fields.get("masked"))  # a blank is read at its own place, behind the start
    if dropout is not None and hasattr(config, "dropout"):
        config = replace(config, dropout=dropout)
    if hasattr(config, "context"):
        context = max(2, context)
        config = replace(config, context=context, sinks=min(config.sinks, context // 2))
    kind = next(k for k, cls in registry.MODELS.items() if isinstance(config, cls.Config))  # type: ignore[attr-defined]
    model: SequenceModel = registry.MODELS[kind](config)
    return model


def choose_training(
    name: str, size: str, asked: Options, space: Space | None = None
) -> TrainConfig:
    """What ``bench/defaults.py`` found best for a family and a size, but for what was asked."""
    given: dict[str, Any] = {
        "steps": asked.steps,
        "batch": asked.batch,
        "length": asked.context,
        "lr": asked.lr,
        "carry": asked.carry,
        "objective": asked.objective,
        "rate": asked.rate,
    }
    usual: dict[str, Any] = {"steps": 1, "lr": {"tiny": 1e-2, "small": 1e-2, "base": 3e-3}[size]}
    if space is not None and space.grid is not None:
        usual |= PICTURES[name]
        if name == "anyorder" and asked.objective == "nll":
            given["objective"] = "any-order"
    elif name in ("transformer", "gpt2"):
        usual |= {
            "optimiser": "muon",
            "batch": 8,
            "length": {"tiny": 64, "small": 128, "base": 256}[size],
            "lr": {"tiny": 1e-2, "small": 5e-3, "base": 3e-3}[size],
        }
    if asked.adapter is not None:  # A and B are no matrices of a network: Muon is not for them
        usual |= {"optimiser": "adamw", "lr": LORA_LR, "rank": asked.rank or LORA_RANK}
    seconds = seconds_of(asked.time or DEFAULT_TIME)
    usual["compile"] = asked.steps is None and seconds >= REPAID and compiling_pays()
    asked_for = {k: v for k, v in given.items() if v is not None}
    usual["threads"] = torch.get_num_threads()
    rates = {"nll": 0.0, "hybrid": 0.25}
    usual["rate"] = rates.get(given["objective"], 0.1)
    return TrainConfig(**{**usual, **asked_for}, accumulate=asked.accumulate, seed=asked.seed)
