"""What fit learns from, whatever the medium is: here the interface, and text.

A material knows its codec, its symbols, how they are told to other processes and scored at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rich.text import Text as Rich

from chainrule.artifact import Artifact
from chainrule.codecs.text import TextCodec
from chainrule.core.codec import Codec
from chainrule.core.model import SequenceModel
from chainrule.training.data import Collection, Corpus, collect, prepare
from chainrule.training.picture_files import check_source
from chainrule.training.plan import Lessons, TrainConfig
from chainrule.training.shards import Progress
from chainrule.verbs.card import finish
from chainrule.verbs.choosing import Options, choose_codec, make_model
from chainrule.verbs.display import Display
from chainrule.verbs.generate import PLAIN, generate
from chainrule.verbs.tune import Data, facts, held_out_bits, old_bits, old_text

BASELINE_SYMBOLS = 4_000_000  # the n-gram beside every model is fitted on at most so many
SHOWN = 2**32  # multiplications that a sample shown during training may take


class Material(ABC):
    """Symbols to learn, and whatever ``fit`` needs that depends on what they stand for.

    Attributes:
        codec, lessons: as a trainer wants them; digest: the name of the data in the cache.
        description: how the held-out part was chosen; size: symbols to learn.
    """

    codec: Codec
    lessons: Lessons
    digest: str
    description: str
    size: int

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many rows a batch may have at most."""

    @abstractmethod
    def settle(self, config: TrainConfig) -> TrainConfig:
        """The plan with what this material alone decides."""

    @abstractmethod
    def fields(self, asked: Options) -> dict[str, Any]:
        """Fields of the model's config that depend on the data."""

    @abstractmethod
    def suit(self, model: SequenceModel) -> None:
        """Leave out what a model doesn't look at."""

    @abstractmethod
    def facts(self, source: Any, asked: Options) -> dict[str, Any]:
        """What a recipe says of its data, so that it is found again."""

    @abstractmethod
    def bits(self, model: SequenceModel, progress: Progress) -> float:
        """Bits per unit of (some of) the held-out part."""

    @abstractmethod
    def data_of(self, path: str | Path, artifact: Artifact, progress: Progress) -> Data:
        """Where the data is that a run is said to know."""

    @abstractmethod
    def bits_of(self, was: Data, artifact: Artifact, progress: Progress) -> float | str:
        """Bits per unit of that data's held-out part, or why there are none."""

    @abstractmethod
    def orders(self) -> dict[str, Any]:
        """What another process needs to open the same symbols."""

    @abstractmethod
    def baseline(self, model: SequenceModel) -> SequenceModel | None:
        """A model that is to be beaten, fitted on the same training part."""

    @abstractmethod
    def counted(self) -> Any:
        """The training part, for models that are counted and not trained."""

    @abstractmethod
    def shown(self, artifact: Artifact, seed: int) -> str | Rich | None:
        """A sample by the model as it is now; None where that would take too long."""

    @abstractmethod
    def finish(
        self,
        artifact: Artifact,
        folder: Path,
        done: dict[str, Any],
        records: list[dict[str, Any]],
        display: Display,
    ) -> None:
        """Score the held-out part, then write loss.png, README.md and config.json."""


@dataclass(eq=False)
class Text(Material):
    """Documents in one row of symbols."""

    codec: TextCodec
    lessons: Corpus
    unit: ClassVar[str] = "byte"

    @staticmethod
    def read(source: Any, asked: Options, display: Display) -> Collection:
        """The documents of a source; raises ValueError for one that can't be read."""
        check_source(source)
        return collect(source, field=asked.field, column=asked.column, progress=display.working)

    @staticmethod
    def of(
        collection: Collection, codec: TextCodec | None, asked: Options, display: Display
    ) -> Text:
        """Encoded by a codec, or by the one that suits it.

        Raises:
            ValueError: what the codec can't take, or a context longer than the data.
        """
        if codec is None:
            codec, why = choose_codec(collection, asked)
            display.say(why)
        corpus = prepare(collection, codec, progress=display.working)
        if asked.context is not None and asked.context > len(corpus.train):
            raise ValueError(
                f"--context {asked.context:,} is longer than the {len(corpus.train):,} symbols to "
                "learn: give more data, a shorter context, or leave it out"
            )
        return Text(codec, corpus)

    @property
    def digest(self) -> str:  # type: ignore[override]
        assert self.lessons.source is not None
        return self.lessons.source.folder.name

    @property
    def description(self) -> str:  # type: ignore[override]
        return self.lessons.description

    @property
    def size(self) -> int:  # type: ignore[override]
        return len(self.lessons.train)

    @property
    def rows(self) -> int:
        return self.size

    def settle(self, config: TrainConfig) -> TrainConfig:
        return config

    def fields(self, asked: Options) -> dict[str, Any]:
        return {"ahead": asked.ahead, "masked": asked.objective == "hybrid"}

    def facts(self, source: Any, asked: Options) -> dict[str, Any]:
        return facts(source, asked, self.lessons)

    def suit(self, model: SequenceModel) -> None:
        pass

    def bits(self, model: SequenceModel, progress: Progress) -> float:
        corpus = self.lessons
        return held_out_bits(model, corpus.held_out, corpus.held_out_bytes, progress)

    def data_of(self, path: str | Path, artifact: Artifact, progress: Progress) -> Data:
        return old_text(path, artifact, self.lessons, progress)

    def bits_of(self, was: Data, artifact: Artifact, progress: Progress) -> float | str:
        return old_bits(artifact, was, self.lessons, progress)

    def orders(self) -> dict[str, Any]:
        corpus: Any = self.lessons
        symbols = Path(corpus.train.filename).resolve().parent
        sizes = {"train_bytes": corpus.train_bytes, "held_out_bytes": corpus.held_out_bytes}
        return {"symbols": str(symbols), **sizes}

    def baseline(self, model: SequenceModel) -> SequenceModel | None:
        if not model.by_gradient:
            return None
        ngram = make_model("ngram", "small", self.codec.space, None)
        ngram.estimate([np.asarray(self.lessons.train[:BASELINE_SYMBOLS])])
        return ngram.eval()

    def counted(self) -> Any:
        return [self.lessons.train]

    def shown(self, artifact: Artifact, seed: int) -> str:
        parameters = sum(p.numel() for p in artifact.base.model.parameters())
        length = min(200, max(40, SHOWN // parameters))
        (sample,) = generate(artifact, length=length, seed=seed, **PLAIN)
        return sample.text

    def finish(
        self,
        artifact: Artifact,
        folder: Path,
        done: dict[str, Any],
        records: list[dict[str, Any]],
        display: Display,
    ) -> None:
        finish(artifact, self, folder, done, records, display.working)
