"""From a strategy's name to what decodes, and what auto chose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chainrule import registry
from chainrule.artifact import Artifact, load_artifact
from chainrule.core.decoder import Decoder
from chainrule.core.model import SequenceModel
from chainrule.decoding.auto import Auto, Choice
from chainrule.decoding.strategy import Target
from chainrule.decoding.verify import Verify
from chainrule.engine.backend import Choice as Backend

SETTINGS = ("guesses", "draft", "iterations", "threshold")


@dataclass(frozen=True)
class Decoding:
    """A decoder, and what to call it once it has run."""

    decoder: Decoder
    name: str
    on: Backend
    choice: Choice | None = None

    @property
    def strategy(self) -> str:
        """The strategy that made the symbols; what auto chose."""
        return self.name if self.choice is None else self.choice.chosen

    @property
    def exactness(self) -> str:
        """identical, distribution or approximate."""
        return registry.STRATEGIES[self.strategy].exactness


def check(strategy: str, settings: dict[str, Any]) -> None:
    """Refuse a name that isn't there and settings that the strategy would not read.

    Raises:
        ValueError: saying which.
    """
    if strategy not in ("auto", *registry.STRATEGIES):
        known = ", ".join(("auto", *registry.STRATEGIES))
        raise ValueError(f"strategy {strategy!r} is not one of {known}")
    for name in SETTINGS:
        readers = [k for k, kind in registry.STRATEGIES.items() if name in kind.reads]
        if name == "draft":
            readers.append("auto")
        if settings.get(name) is not None and strategy not in readers:
            raise ValueError(f"{name} belongs to strategy {' or '.join(readers)}, not {strategy}")


def decoding(
    artifact: Artifact,
    on: Backend,
    model: SequenceModel,
    strategy: str,
    rows: int,
    length: int,
    *,
    greedy: bool = False,
    draft: Any = None,
    guesses: int | None = None,
    iterations: int | None = None,
    threshold: float | None = None,
) -> Decoding:
    """What decodes ``rows`` rows of ``model``, the artifact's own or a wrapper around it.

    Args:
        on: what runs the model.
        draft: a folder, an Artifact, or what ``load`` returns.

    Raises:
        ValueError: the artifact lacks what the strategy needs, or a draft with another codec.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    drafted = None if draft is None else _draft(artifact, draft)
    helper = None if drafted is None else _helper(drafted, on)
    if on.backend == "engine" and strategy in ("auto", "heads") and _ahead(model):
        _ = artifact.model  # extra heads run in torch
    table, other = (None if m is None else m.to(device) for m in (artifact.baseline, helper))
    target = Target(model, table, other, guesses, length, iterations, threshold)
    if strategy != "auto":
        return Decoding(registry.STRATEGIES[strategy].decoder(target), strategy, on)
    ways = {}
    for name, kind in registry.STRATEGIES.items():
        if kind.exactness == "identical":
            try:
                way = kind.decoder(target)
            except ValueError:
                continue  # it lacks what this one needs
            if isinstance(way, Verify):
                ways[name] = way
    wrappers = tuple(type(m).__name__ for m in model.modules() if isinstance(m, SequenceModel))
    like = rows.bit_length(), greedy, wrappers, drafted and str(drafted.path), str(on)
    choice = artifact.choices.setdefault(like, Choice())
    return Decoding(Auto(model, ways, choice, length), "auto", on, choice)


def _ahead(model: SequenceModel) -> bool:
    return bool(getattr(model.config, "ahead", 0))


def _helper(drafted: Artifact, on: Backend) -> SequenceModel:
    """The draft, compiled where the model is and it can be."""
    if on.backend == "torch":
        return drafted.model
    try:
        own = drafted.precision is not None or on.dtype == "gguf"
        return drafted.runner(drafted.choose(dtype=None if own else on.dtype))
    except ValueError:
        return drafted.model


def _draft(artifact: Artifact, draft: Any) -> Artifact:
    if isinstance(draft, str | Path):
        draft = load_artifact(draft)
    other: Artifact = getattr(draft, "artifact", draft)
    theirs, own = other.any_codec, artifact.any_codec
    if theirs.fingerprint() != own.fingerprint():
        raise ValueError(
            f"draft {other.path}: its symbols ({theirs.space.size:,} of codec "
            f"{registry.codec_name(theirs)}) are not those of {artifact.path} "
            f"({own.space.size:,} of codec {registry.codec_name(own)}): fit it on the same data "
            "with the same codec"
        )
    return other
