"""What the laws hold for: the test-only models and everything in the registry.

A new entry is tested by being listed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from chainrule.core.model import AnyOrder, Condition, SequenceModel
from chainrule.core.objective import Batch
from chainrule.core.space import Space
from chainrule.engine import native_available
from chainrule.engine.compiled import Compiled
from chainrule.engine.quantize import DType
from chainrule.engine.reference import Reference
from chainrule.models.constraints import constrained
from chainrule.models.mixing import Ensemble, Guided
from chainrule.models.transformer import Transformer, TransformerConfig
from chainrule.models.wrappers import Penalties
from chainrule.nn.rope import Scaling
from chainrule.registry import MODELS, PICTURE_RECIPES, RECIPES, SERIES_RECIPES
from tests.models.conv import DilatedConv
from tests.models.gaussian import VectorAR
from tests.models.label_gru import LabelGRU
from tests.models.markov import Markov
from tests.models.masked import MaskedNet
from tests.models.mixture import Mixture
from tests.models.pixelcnn import PixelCNN
from tests.models.scalar import CountAR, StudentAR
from tests.models.seq2seq import Seq2Seq

SIZE, LABELS, SOURCES, PLACES, FEATURES = 3, 2, 5, 8, 2


@dataclass(frozen=True)
class Entry:
    """A model under the laws.

    Args:
        build: a new model from torch's seed.
        cond: conditions for so many rows, from a generator.
        sees_last: every law depends on the symbol just before it.
        registered: it is in the registry, so it has a config.
    """

    name: str
    build: Callable[[], SequenceModel]
    cond: Callable[[int, torch.Generator], Condition | None] = lambda rows, dice: None
    sees_last: bool = True
    registered: bool = False

    def model(self, away: float = 0.3) -> SequenceModel:
        """The same weights every time, so far away from their initialisation."""
        torch.manual_seed(1)
        model = self.build().eval()
        with torch.no_grad():
            for p in model.parameters():
                p += away * torch.randn_like(p)
        return model

    def room(self, wanted: int) -> int:
        """So many symbols, or as many as the medium has."""
        return min(wanted, self.model().space.max_len or wanted)


def symbols(space: Space, rows: int, length: int, dice: torch.Generator) -> Tensor:
    """Random symbols [B, T, *E]."""
    shape = (rows, length, *space.event_shape)
    if space.kind == "real":
        return torch.randn(shape, generator=dice)
    return torch.randint(space.size or 6, shape, generator=dice)


def dice(seed: int = 0) -> torch.Generator:
    """A generator of the test's own."""
    return torch.Generator().manual_seed(seed)


def _label(rows: int, dice: torch.Generator) -> Condition:
    return Condition(label=torch.randint(-1, LABELS, (rows,), generator=dice))


def _source(rows: int, dice: torch.Generator) -> Condition:
    """Sources of unlike lengths, padded to a length that differs from call to call."""
    size = int(torch.randint(2, 6, (), generator=dice))
    lens = torch.randint(1, size + 1, (rows, 1), generator=dice)
    source = torch.randint(SOURCES, (rows, size), generator=dice)
    return Condition(source=source, source_ok=torch.arange(size) < lens)


def _known(rows: int, dice: torch.Generator) -> Condition:
    """A scale, and features of fewer steps than some sequences have, in unlike numbers."""
    steps = int(torch.randint(4, 9, (), generator=dice))
    scale = torch.rand(rows, generator=dice) * 3 + 0.3
    return Condition(steps=torch.randn(rows, steps, FEATURES, generator=dice), scale=scale)


def _any_order() -> SequenceModel:
    return AnyOrder(MaskedNet(SIZE, PLACES), [3, 0, 6, 1, 7, 2, 5, 4])


def _mixture() -> SequenceModel:
    return Mixture([Markov(SIZE), LabelGRU(SIZE, LABELS), DilatedConv(SIZE, (1, 2))])


def _product() -> SequenceModel:
    return Ensemble([LabelGRU(SIZE, LABELS), LabelGRU(SIZE, LABELS)], [2, 1], product=True)


def _constrained() -> SequenceModel:
    model = Markov(SIZE)
    model.space = Space("finite", SIZE, eos=2)
    return constrained(model, [b"a", b"b", b""], regex="(ab?)*", at=1, limit=5)


def _transformer(**shape: Any) -> SequenceModel:
    """So narrow a context that every sequence of the laws goes beyond it."""
    space = Space("finite", SIZE)
    return Transformer(TransformerConfig(space, dim=16, num_layers=2, hidden=24, **shape))


def _foreign() -> SequenceModel:
    """All that other people's transformers have and ours don't."""
    return _transformer(
        num_kv_heads=2,
        head_dim=6,
        context=5,
        sinks=1,
        qkv_bias=True,
        qk_norm=True,
        rope=Scaling("yarn", 4.0, 16),
        begin=1,
    )


def _recipe(name: str, space: Space | None = None, **fields: Any) -> SequenceModel:
    recipes = RECIPES if space is None else {**SERIES_RECIPES, **PICTURE_RECIPES}
    config = replace(recipes[name](space or Space("finite", SIZE), "tiny"), **fields)
    model = next(m for m in MODELS.values() if getattr(m, "Config", None) is type(config))(config)
    if not model.by_gradient:
        x = symbols(model.space, 4, 100, dice(2))
        model.estimate([Batch(x, (100,) * 4)])
    return model


def lowered(entry: Entry) -> Entry:
    """Its twin: the same weights under the Program that the model lowers to."""

    def build() -> SequenceModel:
        model = entry.model()
        return Reference(model, model.lower(), dtype=torch.float64)

    return replace(entry, name=f"{entry.name}-lowered", build=build, registered=False)


def compiled(entry: Entry, dtype: DType) -> Entry:
    """Its twin in the compiled engine: the laws hold for the weights as they are rounded."""

    def build() -> SequenceModel:
        return Compiled(entry.model(), dtype, 1)

    return replace(entry, name=f"{entry.name}-compiled", build=build, registered=False)


TEST_ONLY = [
    Entry("markov", partial(Markov, SIZE)),
    Entry("label-gru", partial(LabelGRU, SIZE, LABELS), _label),
    Entry("seq2seq", partial(Seq2Seq, SIZE, SOURCES), _source),
    Entry("gaussian-2", partial(VectorAR, 2, correlated=True)),
    Entry("gaussian-3", partial(VectorAR, 3, correlated=False)),
    Entry("pixelcnn", partial(PixelCNN, 3, 2), sees_last=False),
    Entry("conv", partial(DilatedConv, SIZE, (1, 2, 4))),
    Entry("conv-wide", partial(DilatedConv, SIZE, (1,), kernel=65)),
    Entry("any-order", _any_order),
    Entry("mixture", _mixture),
    Entry("ensemble", lambda: Ensemble([Markov(SIZE), DilatedConv(SIZE, (1, 2))], [2, 1])),
    Entry("product", _product, _label),
    Entry("guided", lambda: Guided(LabelGRU(SIZE, LABELS), 1.5), _label),
    Entry("penalties", lambda: Penalties(Markov(SIZE), 1.3, 0.2, 0.1)),
    Entry("constrained", _constrained),
    Entry("student", StudentAR),
    Entry("counts", CountAR),
    Entry("sliding", partial(_transformer, num_kv_heads=2, context=3, sinks=1)),
    Entry("no-sinks", partial(_transformer, context=4, sinks=0)),
    Entry("foreign", _foreign),
    Entry("blanks", partial(_transformer, context=64, masked=True, ahead=2)),
    Entry("blank-blocks", partial(_transformer, layout="gpt2", context=12, sinks=0, masked=True)),
    Entry("blocks", partial(_transformer, layout="gpt2", context=3, sinks=0, tied=True)),
]
REAL, COUNT = Space("real"), Space("count")
SERIES = {
    "ar": partial(_recipe, "ar", REAL),
    "lstm-real": partial(_recipe, "lstm", REAL, features=FEATURES),
    "gru-count": partial(_recipe, "gru", COUNT, features=FEATURES),
    "transformer-real": partial(
        _recipe, "transformer", REAL, head="normal", features=FEATURES, dim=16, context=5, sinks=1
    ),
}
assert {name.split("-")[0] for name in SERIES} == set(SERIES_RECIPES)
NARROW: dict[str, Any] = {"num_layers": 3, "dim": 8, "hidden": 6, "kernel": 3}
GREY, COLOUR = Space.picture((3, 3, 1), SIZE), Space.picture((2, 2, 3), SIZE)
PICTURES = {
    "pixelcnn-grey": partial(_recipe, "pixelcnn", GREY, **NARROW),
    "pixelcnn-labels": partial(_recipe, "pixelcnn", COLOUR, labels=LABELS, **NARROW),
    "pixelcnn-logistic": partial(_recipe, "pixelcnn", COLOUR, head="logistic", **NARROW),
    "transformer-grey": partial(_recipe, "transformer", GREY),
    "transformer-labels": partial(  # attention reaches over a part of a picture only
        _recipe, "transformer", replace(COLOUR, order="columns"), labels=LABELS, dim=16, context=5
    ),
    "made": partial(_recipe, "made", replace(GREY, order="snake")),
    "made-labels": partial(_recipe, "made", COLOUR, labels=LABELS),
    "pixelrnn": partial(_recipe, "pixelrnn", GREY),
    "pixelrnn-labels": partial(_recipe, "pixelrnn", COLOUR, labels=LABELS),
    "anyorder": partial(_recipe, "anyorder", Space.picture((4, 3, 1), SIZE, "random")),
    "anyorder-labels": partial(_recipe, "anyorder", COLOUR, labels=LABELS),
}
assert {name.split("-")[0] for name in PICTURES} == set(PICTURE_RECIPES)
REGISTERED = {name: partial(_recipe, name) for name in RECIPES} | SERIES
LISTED = TEST_ONLY + [
    Entry(name, build, *[_known] * (name in SERIES and "-" in name), registered=True)
    for name, build in REGISTERED.items()
]
LISTED += [
    Entry(name, build, *[_label] * name.endswith("labels"), registered=True)
    for name, build in PICTURES.items()
]
# Every kind of state that a Program has; law 14 holds for all that lower.
TWINS = ("seq2seq", "sliding", "foreign", "blocks", "lstm", "pixelcnn-labels")
# Everything that lowers; every dtype with attention, with recurrence and with memory.
COMPILED: dict[str, DType] = {
    "seq2seq": "int8",
    "sliding": "q4",
    "no-sinks": "int8",
    "foreign": "f32",
    "blanks": "bf16",
    "blank-blocks": "q4",
    "blocks": "f32",
    "transformer": "int8-row",
    "gpt2": "bf16",
    "rnn": "f32",
    "lstm": "int8",
    "gru": "bf16",
    "mingru": "q4",
    "ngram": "f32",
    "transformer-grey": "f32",
    "transformer-labels": "bf16",
    "pixelcnn-grey": "bf16",
    "pixelcnn-labels": "f32",
}
ENTRIES = LISTED + [lowered(entry) for entry in LISTED if entry.name in TWINS]
if native_available():
    ENTRIES += [compiled(e, COMPILED[e.name]) for e in LISTED if e.name in COMPILED]
