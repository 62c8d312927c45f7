"""Fine-tuning: a fitted run goes on with new data, and a table says what it gained and forgot."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainrule.artifact import Artifact, load_artifact
from chainrule.codecs.text import TextCodec
from chainrule.core.config import from_dict, to_dict
from chainrule.core.model import SequenceModel
from chainrule.files import digest, load_into, read_tensors, write_text
from chainrule.formats.adapter import matrices
from chainrule.formats.imported import whole
from chainrule.nn.lora import LoRA
from chainrule.training.data import Corpus, cache_folder, collect, prepare
from chainrule.training.objectives import suits
from chainrule.training.scoring import affordable, log_probs
from chainrule.training.shards import VERSION, Progress, SymbolArray, open_symbols
from chainrule.training.trainer import TrainConfig
from chainrule.verbs.bring import TEMPLATE
from chainrule.verbs.choosing import PICTURE_OPTIONS, Options

if TYPE_CHECKING:
    from chainrule.verbs.material import Material

SLOWER = 3  # the learning rate is that of the run by so much: what was learned is to stay
FOREIGN_LR = 3e-5  # of weights that came from elsewhere, all of which learn
SCORED = 1_000_000  # symbols of a held-out part that a score reads
_GIVEN = (
    "model",
    "size",
    "codec",
    "vocabulary",
    "tokenizer",
    *(name for name in PICTURE_OPTIONS if name != "labels"),
)


@dataclass(frozen=True)
class Data:
    """Where the data of a run is, as its recipe says.

    Args:
        data: its name in the cache; source, field, column, labels: as they were given to ``fit``.
        held_out_bytes: how much of it was held out.
    """

    data: str = ""
    source: tuple[str, ...] = ()
    field: str | None = None
    column: str | None = None
    held_out_bytes: int = 0
    labels: str | None = None


@dataclass(frozen=True)
class Origin:
    """What a fine-tuned run came from; stands in its recipe.

    Args:
        path: the run; weights: SHA-256 of its model.safetensors; was: its data.
        old, new: held-out bits per unit before, on its data and on the new data. Without ``old``,
            ``missing`` says why.
    """

    path: str
    weights: str
    was: Data
    new: float
    old: float | None = None
    missing: str | None = None


def facts(source: Any, asked: Options, corpus: Corpus) -> dict[str, Any]:
    """What a recipe says of its data, so that it is found again: ``Data`` as JSON values."""
    assert corpus.source is not None
    paths = tuple(map(str, source)) if isinstance(source, list) else (str(source),)
    size = corpus.held_out_bytes
    found = to_dict(Data(corpus.source.folder.name, paths, asked.field, asked.column, size))
    return {name: value for name, value in found.items() if value is not None}


def held_out_bits(
    model: SequenceModel,
    symbols: SymbolArray,
    num_bytes: int,
    progress: Progress,
    beside: SequenceModel | None = None,
) -> float:
    """Bits per byte of held-out symbols [N] that stand for ``num_bytes``.

    Of the first million, or fewer where the model is large; ``beside`` another model: of as many
    as that one is scored on.
    """
    part = symbols[: affordable(beside or model, SCORED)]

    def told(done: int) -> None:
        progress("scoring the held-out part", done, len(part))

    nats = -log_probs(model, part, progress=told).sum()
    return float(nats / math.log(2) / (num_bytes * len(part) / len(symbols)))


def held_out_of(artifact: Artifact, progress: Progress) -> tuple[SymbolArray, int, str]:
    """A fitted run's held-out symbols [N], their bytes, and the source that they are of.

    Raises:
        ValueError: the data is not in the cache, nor as it was where it was read.
    """
    was = _data_of(artifact)
    symbols, size = _find(was, artifact.codec, cache_folder(), progress)
    if not len(symbols):
        raise ValueError("nothing was held out")
    return symbols, size, ", ".join(was.source) or "its data"


def _data_of(artifact: Artifact) -> Data:
    known = {k: artifact.recipe[k] for k in Data.__dataclass_fields__ if k in artifact.recipe}
    return from_dict(Data, known, f"{(artifact.path or Path()) / 'config.json'}: recipe")


class Base:
    """A fitted run that another one starts from; it is only read.

    Raises:
        ValueError: not a fitted artifact, one that was counted, or options that it settles.
    """

    def __init__(self, asked: Options) -> None:
        assert asked.base is not None
        self.path = str(asked.base)
        contrary = [f"--{name}" for name in _GIVEN if getattr(asked, name) is not None]
        contrary += ["--ahead"] if asked.ahead else []
        if contrary:
            raise ValueError(
                f"--from {self.path} brings its model and its symbols along: "
                f"leave {', '.join(contrary)} out"
            )
        self.artifact = load_artifact(self.path)
        if asked.adapter is not None or self.artifact.merged is not None:
            matrices(self.artifact)
        elif self.artifact.precision is not None:
            raise ValueError(
                f"{self.path} is quantised to {self.artifact.precision} and can't go on learning: "
                f"{whole(str(self.artifact.precision))}, or give --adapter lora"
            )
        if not self.artifact.model.by_gradient:
            raise ValueError(
                f"{self.path} was counted from its data and can't go on learning: count both, "
                f"with chainrule fit OLD NEW --model {self.artifact.kind}"
            )
        suits(asked.objective, self.artifact.model)
        recipe = self.artifact.recipe
        self.name = str(recipe.get("name", self.artifact.kind))
        size = recipe.get("size")
        self.size = size if size in ("tiny", "small", "base") else "small"

    def settle(self, asked: Options) -> Options:
        """The options, with what the run brings where nothing was asked."""
        if "training" not in self.artifact.recipe:
            return asked if asked.lr or asked.adapter else replace(asked, lr=FOREIGN_LR)
        where = f"{Path(self.path) / 'config.json'}: recipe"
        was = from_dict(TrainConfig, self.artifact.recipe["training"], where)
        return replace(
            asked,
            lr=asked.lr or (None if asked.adapter else was.lr / SLOWER),
            batch=asked.batch or was.batch,
            context=asked.context or was.length,
            carry=was.carry if asked.carry is None else asked.carry,
        )

    def model(self, dropout: float | None) -> SequenceModel:
        """A copy with its weights, in which another share may be dropped."""
        old: Any = self.artifact.model
        config = old.config
        if dropout is not None and hasattr(config, "dropout"):
            config = replace(config, dropout=dropout)
        model: SequenceModel = type(old)(config)
        model.load_state_dict(old.state_dict())
        return model

    def carried(self) -> dict[str, Any]:
        """What the recipe of a run that came from elsewhere goes on saying."""
        return {k: v for k, v in self.artifact.recipe.items() if k == "imported"}

    def adapted(self, rank: int) -> Artifact:
        """The run with an adapter that changes nothing yet."""
        fresh = self.artifact.adapted(LoRA(matrices(self.artifact), rank))
        return replace(fresh, baseline=None, path=None)

    def origin(
        self, old: str | Path | None, material: Material, progress: Progress
    ) -> dict[str, Any]:
        """Score both held-out parts as they are before, for the recipe: ``Origin`` as JSON.

        ``old``: a file of what the run knew; None: what its recipe names.
        """
        artifact, was = self.artifact, _data_of(self.artifact)
        if old is not None:
            was = material.data_of(old, artifact, progress)
        before = material.bits_of(was, artifact, progress)
        found = {"missing": before} if isinstance(before, str) else {"old": before}
        new = material.bits(artifact.model, progress)
        weights = digest(Path(self.path) / "model.safetensors")
        return to_dict(Origin(self.path, weights, was, new, **found))


def carry(recipe: dict[str, Any], folder: Path) -> None:
    """Put the chat template of the run that this one came from beside the new weights."""
    there = Path(_origin(recipe).path) / TEMPLATE if "base" in recipe else folder
    if there.is_file():
        write_text(folder / TEMPLATE, there.read_text(encoding="utf-8"))


def start_again(model: SequenceModel, recipe: dict[str, Any]) -> None:
    """Give a run that begins anew the weights that it began with.

    Raises:
        ValueError: the run that they came from is gone or was changed.
    """
    origin = _origin(recipe)
    weights = Path(origin.path) / "model.safetensors"
    if not weights.is_file() or digest(weights) != origin.weights:
        raise ValueError(
            f"{weights} is gone or not what it was, and there is no checkpoint: "
            "fine-tune into a new folder"
        )
    load_into(model, read_tensors(weights)[0], weights)


def table(
    artifact: Artifact, material: Material, bits: float, progress: Progress
) -> dict[str, dict[str, float] | str]:
    """Held-out bits per unit, before and after, on the old and on the new data.

    A row whose data is not to be found is a line that says so. ``bits``: new data, after.
    """
    origin = _origin(artifact.recipe)
    after = material.bits_of(origin.was, artifact, progress)
    if origin.old is None or isinstance(after, str):
        old: dict[str, float] | str = after if isinstance(after, str) else str(origin.missing)
    else:
        old = {"before": origin.old, "after": after}
    return {"old data": old, "new data": {"before": origin.new, "after": bits}}


def rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """``table`` for people: data, before, after."""
    return [
        (name, row, "")
        if isinstance(row, str)
        else (name, f"{row['before']:.4f}", f"{row['after']:.4f}")
        for name, row in found.items()
    ]


def _origin(recipe: dict[str, Any]) -> Origin:
    return from_dict(Origin, recipe["base"], "config.json: recipe: base")


def old_bits(artifact: Artifact, was: Data, corpus: Corpus, progress: Progress) -> float | str:
    """Bits per byte on the held-out part of the old text, or why there are none."""
    assert corpus.source is not None
    cache = corpus.source.folder.parent
    try:
        symbols, size = _find(was, artifact.codec, cache, progress)
    except (ValueError, OSError) as error:
        return f"not found: {error}"
    return held_out_bits(artifact.model, symbols, size, progress)


def old_text(path: str | Path, artifact: Artifact, corpus: Corpus, progress: Progress) -> Data:
    """Where the text is that a run is said to know."""
    assert corpus.source is not None
    found = collect(path, cache=corpus.source.folder.parent, progress=progress)
    size = prepare(found, artifact.codec, progress=progress).held_out_bytes
    return Data(found.folder.name, (str(path),), None, None, size)


def _find(was: Data, codec: TextCodec, cache: Path, progress: Progress) -> tuple[SymbolArray, int]:
    """The held-out symbols and their bytes: from the cache, else from the files."""
    if re.fullmatch(r"[0-9a-f]{32}", was.data) and was.held_out_bytes > 0:
        found = open_symbols(cache / was.data / f"{codec.fingerprint()}-{VERSION}")
        if found is not None:
            return found[1], was.held_out_bytes
    if not was.source or "-" in was.source:
        raise ValueError("its data is not in the cache, and the run names no file to read again")
    again = collect(
        list(was.source) if len(was.source) > 1 else was.source[0],
        field=was.field,
        column=was.column,
        cache=cache,
        progress=progress,
    )
    if again.folder.name != was.data:
        raise ValueError(f"{again.name} is not what it was")
    corpus = prepare(again, codec, progress=progress)
    return corpus.held_out, corpus.held_out_bytes
