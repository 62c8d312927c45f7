"""score: the exact log-probability of a text or a series, whole and symbol by symbol."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from chainrule.artifact import Artifact
from chainrule.codecs.series import SeriesCodec, numbers
from chainrule.codecs.symbols import ScoreKind
from chainrule.core.codec import Encoded
from chainrule.core.model import Condition
from chainrule.engine.backend import Choice
from chainrule.training.scoring import log_probs
from chainrule.training.series_data import harmonics
from chainrule.verbs.neural import season_told


@dataclass(frozen=True)
class Score:
    """How probable something is under a model.

    Args:
        nats: log-probability of all symbols together; of a series, the log-density of its values.
        units: bytes (of text), or points; bits_per_unit: -log2 p per unit.
        per_symbol: log-probability of every symbol, in nats; symbols: what they stand for.
        kind: "exact"; "bound": a lower bound on the probability of the text, because other
            segmentations spell the same text; "codes": of a learned codec's symbols, or of a series
            given its own scale.
        stride: of a model whose context came to an end in this text: how many symbols are scored
            before it looks at a new context, which begins in the middle of the old one.
        backend: what computed it, and in which dtype.
    """

    nats: float
    units: int
    bits_per_unit: float
    per_symbol: list[float] = field(repr=False)
    symbols: list[str] = field(repr=False)
    kind: ScoreKind
    stride: int | None = None
    backend: str = "torch f32"
    unit: str = "byte"  # or "point"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names."""
        return dict(vars(self))

    def _repr_html_(self) -> str:
        from html import escape

        worst = max((-x for x in self.per_symbol), default=1.0) or 1.0
        spans = "".join(
            f'<span style="background:rgba(220,60,40,{min(1.0, -x / worst):.2f})" '
            f'title="{-x / math.log(2):.2f} bits">{escape(s)}</span>'
            for s, x in zip(self.symbols, self.per_symbol, strict=True)
        )
        return (
            f"<p>{self.bits_per_unit:.4f} bits per {self.unit} ({self.kind})</p><pre>{spans}</pre>"
        )


def score(
    artifact: Artifact,
    text: str | bytes | ArrayLike,
    *,
    backend: str = "auto",
    dtype: str | None = None,
) -> Score:
    """Score one text, from its first symbol on; the end symbol is not counted. Or one series, which
    begins where a season does, for a run that was told the season.

    Raises:
        ValueError: an empty text, one that the codec can't take, a backend that can't be, or a run
            that was told regressors.
    """
    on = artifact.choose(backend, dtype, draws=False)
    if isinstance(artifact.any_codec, SeriesCodec):
        return _of_series(artifact, artifact.any_codec, text, on)
    if not isinstance(text, str | bytes):
        raise ValueError("this run models text: give it a text to score")
    encoded = artifact.codec.encode(text)
    if not len(encoded.symbols):
        raise ValueError("nothing to score: the text is empty")
    nats = log_probs(artifact.runner(on), encoded.symbols)
    total, units = float(nats.sum()), artifact.codec.units(encoded)
    table = artifact.codec.symbol_bytes()
    kind = artifact.codec.score_kind(encoded)
    return Score(
        total,
        units,
        -total / math.log(2) / units,
        nats.tolist(),
        [table[i].decode("utf-8", "replace") for i in encoded.symbols.tolist()],
        kind,
        _stride(artifact, len(encoded.symbols)),
        str(on),
    )


def _of_series(artifact: Artifact, codec: SeriesCodec, series: ArrayLike, on: Choice) -> Score:
    values = numbers(series)
    if not len(values):
        raise ValueError("nothing to score: the series is empty")
    centre, scale = codec.scaling.measure(values)
    symbols, inside = codec.to_symbols(values, centre, scale)
    model = artifact.runner(on)
    cond = _told(artifact, len(values), torch.from_numpy(scale))
    nats = log_probs(model, symbols, cond=cond) + inside
    total, shown = float(nats.sum()), [f"{value:g}" for value in values]
    bits, kind = -total / math.log(2) / len(values), codec.score_kind(Encoded(symbols))
    return Score(
        total, len(values), bits, nats.tolist(), shown, kind, backend=str(on), unit="point"
    )


def _told(artifact: Artifact, length: int, scale: Tensor) -> Condition | None:
    """The scale of a series, and its season, as far as the model reads them."""
    reads, fields = artifact.outline.reads, {"scale": scale}
    if "steps" in reads:
        season = season_told(artifact)
        if season is None:
            raise ValueError("this run was told regressors of each step, and a score has none")
        fields["steps"] = harmonics(torch.arange(length), season)[None]
    return Condition(**{k: v for k, v in fields.items() if k in reads}) if reads else None


def _stride(artifact: Artifact, num_symbols: int) -> int | None:
    stride: int | None = getattr(artifact.outline, "stride", None)
    context = getattr(artifact.outline.config, "context", num_symbols)
    return stride if num_symbols > context else None
