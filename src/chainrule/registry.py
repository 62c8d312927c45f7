"""Every model and codec by name: plain dicts of real classes, plus an entry point group each.

A third party adds ``[project.entry-points."chainrule.models"]`` (a SequenceModel class) or
``"chainrule.recipes"`` (a function ``(space, size) -> config``) to its own package.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from chainrule.codecs.image import PixelCodec
from chainrule.codecs.series import BinCodec, CountCodec, RealCodec, SeriesCodec
from chainrule.codecs.text import BPECodec, ByteCodec, CharCodec, TextCodec, WordCodec
from chainrule.core.codec import Codec
from chainrule.core.model import SequenceModel
from chainrule.core.space import Space
from chainrule.decoding.draft import Draft
from chainrule.decoding.heads import Heads
from chainrule.decoding.hybrid import Hybrid
from chainrule.decoding.jacobi import Jacobi
from chainrule.decoding.lookup import Lookup
from chainrule.decoding.masked import Block, Parallel
from chainrule.decoding.strategy import Strategy
from chainrule.decoding.verify import Ancestral
from chainrule.models.anyorder import AnyOrderPixels, anyorder
from chainrule.models.linear import AR, ar
from chainrule.models.made import MADE, made
from chainrule.models.ngram import NGram, ngram
from chainrule.models.pixelcnn import PixelCNN, pixelcnn
from chainrule.models.pixelrnn import PixelRNN, pixelrnn
from chainrule.models.rnn import RNN, gru, lstm, mingru, rnn
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import gpt2, transformer
from chainrule.series import ar as classical
from chainrule.series.arima import ARIMA
from chainrule.series.auto import Auto
from chainrule.series.baselines import Drift, Mean, Naive, SeasonalNaive
from chainrule.series.batch import Model
from chainrule.series.regression import Regression
from chainrule.series.smoothing import SES, Damped, Holt, HoltWinters, Theta
from chainrule.series.var import VAR

Recipe = Callable[[Space, str], Any]

MODELS: dict[str, type[SequenceModel]] = {
    "ngram": NGram,
    "rnn": RNN,
    "transformer": Transformer,
    "ar": AR,
    "made": MADE,
    "pixelrnn": PixelRNN,
    "anyorder": AnyOrderPixels,
    "pixelcnn": PixelCNN,
}
RECIPES: dict[str, Recipe] = {
    "transformer": transformer,
    "gpt2": gpt2,
    "lstm": lstm,
    "gru": gru,
    "mingru": mingru,
    "rnn": rnn,
    "ngram": ngram,
}
CODECS: dict[str, type[TextCodec]] = {
    "bytes": ByteCodec,
    "chars": CharCodec,
    "words": WordCodec,
    "bpe": BPECodec,
}
# What models numbers: a real or a count space. ``fit``, which reads text, doesn't offer "ar".
SERIES_RECIPES: dict[str, Recipe] = {
    "lstm": lstm,
    "gru": gru,
    "transformer": transformer,
    "ar": ar,
}
SERIES_CODECS: dict[str, type[SeriesCodec]] = {
    "real": RealCodec,
    "counts": CountCodec,
    "bins": BinCodec,
}
# What models pictures: a finite space that has a grid.
PICTURE_RECIPES: dict[str, Recipe] = {
    "pixelcnn": pixelcnn,
    "transformer": transformer,
    "made": made,
    "pixelrnn": pixelrnn,
    "anyorder": anyorder,
}
PICTURE_CODECS: dict[str, type[PixelCodec]] = {"pixels": PixelCodec}
FORECASTERS: dict[str, type[Model]] = {
    "auto": Auto,
    "ar": classical.AR,
    "arima": ARIMA,
    "regression": Regression,
    "var": VAR,
    "theta": Theta,
    "holt-winters": HoltWinters,
    "damped": Damped,
    "holt": Holt,
    "ses": SES,
    "seasonal-naive": SeasonalNaive,
    "naive": Naive,
    "drift": Drift,
    "mean": Mean,
}
STRATEGIES: dict[str, type[Strategy]] = {
    "ancestral": Ancestral,
    "lookup": Lookup,
    "draft": Draft,
    "heads": Heads,
    "jacobi": Jacobi,
    "hybrid": Hybrid,
    "block": Block,
    "parallel": Parallel,
}

for _found in entry_points(group="chainrule.models"):
    MODELS.setdefault(_found.name, _found.load())
for _found in entry_points(group="chainrule.recipes"):
    RECIPES.setdefault(_found.name, _found.load())
for _found in entry_points(group="chainrule.codecs"):
    CODECS.setdefault(_found.name, _found.load())
for _found in entry_points(group="chainrule.forecasters"):
    FORECASTERS.setdefault(_found.name, _found.load())
for _found in entry_points(group="chainrule.strategies"):
    STRATEGIES.setdefault(_found.name, _found.load())


def kind_of(model: SequenceModel) -> str:
    """The registry name of a model's class."""
    return next(name for name, cls in MODELS.items() if type(model) is cls)


def built(config: Any) -> SequenceModel:
    """A fresh model of this config's family."""
    kind: Any = next(k for k in MODELS.values() if getattr(k, "Config", None) is type(config))
    model: SequenceModel = kind(config)
    return model


def codec_name(codec: Codec) -> str:
    """The registry name of a codec's class."""
    every = {**CODECS, **SERIES_CODECS, **PICTURE_CODECS}
    return next(name for name, cls in every.items() if type(codec) is cls)
