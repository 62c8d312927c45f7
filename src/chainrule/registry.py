"""Every model and codec by name: plain dicts of real classes, plus an entry point group each.

A third party adds ``[project.entry-points."chainrule.models"]`` (a SequenceModel class) or
``"chainrule.recipes"`` (a function ``(space, size) -> config``) to its own package.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from chainrule.codecs.text import BPECodec, ByteCodec, CharCodec, TextCodec, WordCodec
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
from chainrule.models.ngram import NGram, ngram
from chainrule.models.rnn import RNN, gru, lstm, mingru, rnn
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import gpt2, transformer

Recipe = Callable[[Space, str], Any]

MODELS: dict[str, type[SequenceModel]] = {"ngram": NGram, "rnn": RNN, "transformer": Transformer}
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
for _found in entry_points(group="chainrule.strategies"):
    STRATEGIES.setdefault(_found.name, _found.load())


def kind_of(model: SequenceModel) -> str:
    """The registry name of a model's class."""
    return next(name for name, cls in MODELS.items() if type(model) is cls)
