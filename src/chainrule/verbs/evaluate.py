"""evaluate: bits per byte on other data, with an n-gram, gzip and xz beside it."""

from __future__ import annotations

import gzip
import lzma
import math
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.artifact import Artifact
from chainrule.codecs.symbols import ScoreKind
from chainrule.training.data import Document, read_documents
from chainrule.training.scoring import document_nats
from chainrule.training.shards import Progress


@dataclass(frozen=True)
class Evaluation:
    """A model on data that it may not have seen.

    Args:
        nats: log-probability of all documents, each from its own start.
        perplexity: per symbol. others: bits per byte of other methods on the same bytes.
    """

    source: str
    documents: int
    units: int
    num_symbols: int
    nats: float
    bits_per_unit: float
    perplexity: float
    kind: ScoreKind
    others: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names."""
        return asdict(self)

    def rows(self) -> list[tuple[str, float]]:
        """(method, bits per byte), best first."""
        return sorted([("this model", self.bits_per_unit), *self.others.items()], key=_second)

    def _repr_html_(self) -> str:
        body = "".join(f"<tr><td>{name}</td><td>{bits:.4f}</td></tr>" for name, bits in self.rows())
        return f"<table><tr><th></th><th>bits per byte</th></tr>{body}</table>"


def _second(row: tuple[str, float]) -> float:
    return row[1]


def _index(piece: Document) -> int:
    return piece.index


def evaluate(
    artifact: Artifact,
    source: str | Path,
    *,
    field: str | None = None,
    column: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score every document of a file, folder or glob.

    Raises:
        ValueError: data that can't be read or encoded, with file, place and remedy.
    """
    raw = [
        b"".join(piece.data for piece in pieces)
        for _, pieces in groupby(read_documents(source, field=field, column=column), _index)
    ]
    encoded = [artifact.codec.encode(data) for data in raw]
    arrays = [e.symbols for e in encoded]
    num_symbols = sum(map(len, arrays))
    if not num_symbols:
        raise ValueError(f"{source}: nothing to evaluate, it is empty")
    units = sum(artifact.codec.units(e) for e in encoded)
    total, done = 0.0, 0
    for nats, symbols in zip(document_nats(artifact.model, arrays), arrays, strict=True):
        total, done = total + nats, done + len(symbols)
        if progress is not None:
            progress("scoring", done, num_symbols)
    kinds = {artifact.codec.score_kind(e) for e in encoded}
    return Evaluation(
        source=str(source),
        documents=len(arrays),
        units=units,
        num_symbols=num_symbols,
        nats=total,
        bits_per_unit=-total / math.log(2) / units,
        perplexity=math.exp(min(700.0, -total / num_symbols)),
        kind=next(k for k in ("codes", "bound", "exact") if k in kinds),
        others={**_baseline(artifact, arrays, units), **compressors(b"".join(raw))},
    )


def compressors(data: bytes) -> dict[str, float]:
    """Bits per byte of gzip -9 and xz -9e on these bytes, each from a cold start."""
    sizes = {
        "gzip": len(gzip.compress(data, 9, mtime=0)),
        "xz": len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)),
    }
    return {name: 8 * size / max(1, len(data)) for name, size in sizes.items()}


def _baseline(
    artifact: Artifact, arrays: list[np.ndarray[Any, Any]], units: int
) -> dict[str, float]:
    """The n-gram model that was fitted on the same training part, where there is one."""
    if artifact.baseline is None:
        return {}
    nats = sum(document_nats(artifact.baseline, arrays))
    return {"n-gram": -nats / math.log(2) / units}
