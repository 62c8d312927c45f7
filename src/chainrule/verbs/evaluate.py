"""evaluate: bits per byte on other data, by position too, with n-gram, gzip and xz beside it.

Of pictures: bits per dimension, with PNG and WebP beside it.
"""

from __future__ import annotations

import gzip
import lzma
import math
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chainrule.artifact import Artifact
from chainrule.codecs.image import PixelCodec
from chainrule.codecs.symbols import ScoreKind
from chainrule.training.data import Document, read_documents
from chainrule.training.picture_files import Picture, check_source, read_pictures
from chainrule.training.scoring import document_log_probs, document_nats
from chainrule.training.shards import Progress
from chainrule.verbs.heat import log_probs
from chainrule.verbs.pictures import file_formats, pixel_codec


@dataclass(frozen=True)
class Evaluation:
    """A model on data that it may not have seen.

    Args:
        nats: log-probability of all documents, each from its own start.
        perplexity: per symbol. others: bits per byte of other methods on the same bytes.
        by_position: (first, last, bits per unit, units) by distance from the start in symbols; the
            unit is ``position_unit``: "byte", or "symbol" where the codec loses bytes.
        training_length: the symbols of a training window, where training had an end.
        backend: what computed it, and in which dtype.
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
    by_position: list[tuple[int, int, float, int]]
    position_unit: Literal["byte", "symbol"]
    training_length: int | None
    backend: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names."""
        return asdict(self)

    def rows(self) -> list[tuple[str, float]]:
        """(method, bits per byte), best first."""
        return sorted([("this model", self.bits_per_unit), *self.others.items()], key=_second)

    def position_rows(self) -> list[tuple[str, float, int, str]]:
        """(positions, bits, units, remark): ``by_position``, two neighbours in one row."""
        end = self.training_length
        out: list[tuple[str, float, int, str]] = []
        for (_, past), group in groupby(self.by_position, lambda b: _coarse(b[0], end)):
            part = list(group)
            units = sum(n for *_, n in part)
            bits = sum(bits * n for _, _, bits, n in part) / max(1, units)
            new = past and not any(remark for *_, remark in out)
            remark = f"past the training length of {end}" if new else ""
            out.append((f"{part[0][0]}-{part[-1][1]}", bits, units, remark))
        return out

    def _repr_html_(self) -> str:
        body = "".join(f"<tr><td>{name}</td><td>{bits:.4f}</td></tr>" for name, bits in self.rows())
        return f"<table><tr><th></th><th>bits per byte</th></tr>{body}</table>"


def _second(row: tuple[str, float]) -> float:
    return row[1]


def _coarse(first: int, end: int | None) -> tuple[int, bool]:
    """The power of four that a position belongs to, and whether training never came there."""
    return (max(1, first).bit_length() - 1) // 2, end is not None and first >= end


def _index(piece: Document) -> int:
    return piece.index


def evaluate(
    artifact: Artifact,
    source: str | Path,
    *,
    field: str | None = None,
    column: str | None = None,
    labels: None = None,
    backend: str = "auto",
    dtype: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score every document of a file, folder or glob.

    Raises:
        ValueError: data that can't be read or encoded, with file, place and remedy, a backend that
            can't be, or labels, which are of pictures.
    """
    if labels is not None:
        raise ValueError("labels are for pictures, and this run models text")
    check_source(source)
    on = artifact.choose(backend, dtype, draws=False)
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
    scores, done = [], 0
    for log_p in document_log_probs(artifact.runner(on), arrays):
        scores.append(log_p)
        done += len(log_p)
        if progress is not None:
            progress("scoring", done, num_symbols)
    total = sum(float(log_p.sum()) for log_p in scores)
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
        by_position=_by_position(artifact, arrays, scores),
        position_unit="byte" if artifact.codec.lossless else "symbol",
        training_length=_training_length(artifact),
        backend=str(on),
    )


def _by_position(
    artifact: Artifact, arrays: list[NDArray[Any]], scores: list[NDArray[np.float64]]
) -> list[tuple[int, int, float, int]]:
    """Buckets that begin at 0, 2, 4, 8, … and where training ended."""
    longest, end = max(map(len, arrays)), _training_length(artifact)
    starts = {0, end or 0, *(2**k for k in range(1, longest.bit_length()))}
    firsts = np.array(sorted(n for n in starts if n < longest))
    lengths = [len(piece) for piece in artifact.codec.symbol_bytes()]
    worth = np.array(lengths if artifact.codec.lossless else [1] * len(lengths))
    nats, units = np.zeros(len(firsts)), np.zeros(len(firsts), np.int64)
    for symbols, log_p in zip(arrays, scores, strict=True):
        if len(symbols):
            begins = firsts[firsts < len(symbols)]
            nats[: len(begins)] -= np.add.reduceat(log_p, begins)
            units[: len(begins)] += np.add.reduceat(worth[symbols], begins)
    bits = nats / math.log(2) / np.maximum(units, 1)
    lasts = [*(firsts[1:] - 1).tolist(), longest - 1]
    return list(zip(firsts.tolist(), lasts, bits.tolist(), units.tolist(), strict=True))


def _training_length(artifact: Artifact) -> int | None:
    """How far from the start training went; None where a state was carried, or nothing trained."""
    training = artifact.recipe.get("training", {})
    if training.get("carry"):
        return None
    length = training.get("length", getattr(artifact.outline.config, "context", None))
    return None if length is None else int(length)


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


# ---- pictures ----


@dataclass(frozen=True)
class PictureEvaluation:
    """A model on pictures that it may not have seen.

    Args:
        pictures: how many; units: symbols of all of them, one a channel of a pixel.
        nats: log-probability of all of them; nats_per_picture: -log p of one on the mean.
        kind: "exact" where each picture can be had back from its symbols; else "codes".
        others: bits per dimension of PNG and WebP, see ``file_formats``.
        labelled: how many were scored given their label.
        skipped: a line for each file that could not be used.
        backend: what computed it, and in which dtype.
    """

    source: str
    pictures: int
    units: int
    nats: float
    bits_per_unit: float
    nats_per_picture: float
    kind: ScoreKind
    others: dict[str, float]
    labelled: int
    skipped: list[str] = field(repr=False)
    backend: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names."""
        return asdict(self)

    def rows(self) -> list[tuple[str, float]]:
        """(method, bits per dimension), best first."""
        return sorted([("this model", self.bits_per_unit), *self.others.items()], key=_second)

    def _repr_html_(self) -> str:
        body = "".join(f"<tr><td>{name}</td><td>{bits:.4f}</td></tr>" for name, bits in self.rows())
        return f"<table><tr><th></th><th>bits per dimension</th></tr>{body}</table>"


def evaluate_pictures(
    artifact: Artifact,
    source: str | Path,
    *,
    labels: str | Path | None = None,
    field: str | None = None,
    column: None = None,
    backend: str = "auto",
    dtype: str | None = None,
    progress: Progress | None = None,
) -> PictureEvaluation:
    """Score every picture of a folder, an archive or an .npz, given its label where it has one.

    Args:
        labels: a CSV file with the label of every picture. field: which array of an .npz.

    Raises:
        ValueError: no picture that can be used, a label that was not trained, a backend that can't
            be, or a column, which is of text.
    """
    if column is not None:
        raise ValueError("column is for text, and this run models pictures")
    codec, told = pixel_codec(artifact), "label" in artifact.outline.reads
    on = artifact.choose(backend, dtype, draws=False)
    skipped: list[str] = []
    refused: list[str] = []  # of these, what could be read
    rows, numbers, kinds = [], [], set()
    for picture in read_pictures(source, labels=labels, array=field, skipped=skipped):
        try:
            rows.append(codec.encode(picture.pixels).symbols.astype(np.uint16))
        except ValueError as error:
            refused.append(f"{picture.name}: {error}")
            skipped.append(refused[-1])
            continue
        numbers.append(_label(codec, picture) if told else -1)
        kinds.add(codec.score_kind(picture.pixels))
        if progress is not None and len(rows) % 64 == 0:
            progress("reading pictures", len(rows), None)
    if not rows:
        raise ValueError(f"{source}: no picture in it can be used; {(refused or skipped)[0]}")
    x, number = np.stack(rows), np.array(numbers, np.int64)
    scored = log_probs(artifact.runner(on), x, number if told else None, progress)
    total = sum(float(log_p.sum()) for log_p in scored)
    return PictureEvaluation(
        source=str(source),
        pictures=len(x),
        units=x.size,
        nats=total,
        bits_per_unit=-total / math.log(2) / x.size,
        nats_per_picture=-total / len(x),
        kind="codes" if "codes" in kinds else "exact",
        others=file_formats(codec, x, progress),
        labelled=int((number >= 0).sum()),
        skipped=skipped,
        backend=str(on),
    )


def _label(codec: PixelCodec, picture: Picture) -> int:
    """Its number, -1 for none; raises ValueError, with the picture, for one that is not trained."""
    try:
        return -1 if picture.label is None else codec.label(picture.label)
    except ValueError as error:
        raise ValueError(f"{picture.name}: {error}") from None
