"""Series of numbers: scaled reals, counts, and bins, in which a series is finite symbols.

The scale of a series is measured on itself and travels beside it as side information, or is fixed
in the codec; then a score is the exact log-density of the series. ``log_abs_det`` is what the
change from values to symbols adds to a log-probability, whatever the codec: bits per point compare.
Shapes: T points, N series, V bins; "…" are any axes.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrule.codecs.symbols import ScoreKind
from chainrule.core.codec import Codec, Encoded, Symbols
from chainrule.core.config import bounded, from_dict, to_dict
from chainrule.core.space import Space

By = Literal["mean", "std"]
Width = Literal["uniform", "quantile"]
Reals = NDArray[np.float64]
MOST_BINS = 65536


@dataclass(frozen=True)
class Scaling:
    """How values become numbers near one: z = (x - centre) / scale, and arcsinh z if asked.

    Args:
        by: "mean" (centre 0, scale the mean absolute value) or "std" (mean and deviation).
        centre, scale: fixed ones; None: every series has its own.

    Raises:
        ValueError: one of the two alone, a scale that is no positive number, or an infinite centre.
    """

    by: By = "mean"
    asinh: bool = False
    centre: float | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        if (self.centre is None) != (self.scale is None):
            raise ValueError("a fixed scaling has both a centre and a scale")
        if self.scale is not None and self.centre is not None:
            bounded("scale", self.scale, 1e-300, 1e300)
            bounded("centre", self.centre, -1e300, 1e300)

    def measure(self, values: Reals, there: NDArray[np.bool_] | None = None) -> tuple[Reals, Reals]:
        """Centre and scale [..., 1] of values [..., T] where they are ``there``.

        The scale of nothing but one value (of zeros, for "mean") is 1.
        """
        if self.centre is not None and self.scale is not None:
            shape = (*values.shape[:-1], 1)
            return np.full(shape, self.centre), np.full(shape, self.scale)
        there = np.ones(values.shape, bool) if there is None else there
        count = np.maximum(there.sum(-1, keepdims=True), 1)
        centre = np.zeros((*values.shape[:-1], 1))
        if self.by == "std":
            centre = np.where(there, values, 0).sum(-1, keepdims=True) / count
        away = np.where(there, np.abs(values - centre), 0)
        most = away.max(-1, keepdims=True, initial=0)
        away = away / np.where(most > 0, most, 1)  # so that no square is out of bounds
        power = 1 if self.by == "mean" else 2
        spread = most * ((away**power).sum(-1, keepdims=True) / count) ** (1 / power)
        return centre, np.where(spread > 1e-300, spread, 1.0)

    def forward(self, values: Reals, centre: Reals, scale: Reals) -> tuple[Reals, Reals]:
        """z and log |dz / dx|, both of the shape of the values."""
        z = (values - centre) / scale
        slope = -np.log(scale) + np.zeros_like(z)
        if not self.asinh:
            return z, slope
        return np.arcsinh(z), slope - np.log(np.hypot(1, z))

    def inverse(self, z: Reals, centre: Reals, scale: Reals) -> Reals:
        """The values of z."""
        if self.asinh:
            z = np.sinh(np.clip(z, -700, 700))  # what a heavy tail draws stays finite
        values: Reals = z * scale + centre
        return values


class SeriesCodec(Codec):
    """What codecs of series have in common. ``side``: centre, scale and log_abs_det, in nats."""

    name: ClassVar[str]
    lossless = False  # to rounding

    def __init__(self, scaling: Scaling, space: Space) -> None:
        self.scaling, self.space = scaling, space

    @classmethod
    def fit(
        cls,
        series: Iterable[ArrayLike],
        *,
        by: By = "mean",
        asinh: bool = False,
        own: bool = False,
        **options: Any,
    ) -> Self:
        """For series like these.

        Args:
            by, asinh: as ``Scaling`` has them.
            own: every series is scaled by itself; else all by what these are together.
            options: of ``fitted``.

        Raises:
            ValueError: nothing to fit to, or a setting out of bounds.
        """
        found = [numbers(x) for x in series]
        pooled = np.concatenate([*found, np.zeros(0)])
        if not len(pooled):
            raise ValueError("no points to fit the codec to")
        scaling = Scaling(by, asinh)
        if own:
            z = [scaling.forward(x, *scaling.measure(x))[0] for x in found]
            return cls.fitted(np.concatenate(z), scaling, **options)
        centre, scale = (float(t[0]) for t in scaling.measure(pooled))
        scaling = Scaling(by, asinh, centre, scale)
        return cls.fitted(scaling.forward(pooled, *scaling.measure(pooled))[0], scaling, **options)

    @classmethod
    @abstractmethod
    def fitted(cls, z: Reals, scaling: Scaling) -> Self:
        """From scaled numbers [n] that stand for all that will come."""

    @abstractmethod
    def symbols(self, z: Reals) -> tuple[Symbols, Reals]:
        """Symbols of scaled numbers, and log |d symbol / dz|: of a bin, the density in it."""

    @abstractmethod
    def scaled(self, symbols: Symbols) -> Reals:
        """Scaled numbers of symbols; of a bin, its median."""

    # ---- many series at once ----

    def to_symbols(self, values: Reals, centre: Reals, scale: Reals) -> tuple[Symbols, Reals]:
        """Symbols of values [..., T], and what log p of each value has beyond log p of its symbol.

        Args:
            centre, scale: [..., 1], as ``scaling.measure`` finds them.
        """
        z, slope = self.scaling.forward(values, centre, scale)
        symbols, inside = self.symbols(z)
        return symbols, slope + inside

    def to_values(self, symbols: Symbols, centre: Reals, scale: Reals) -> Reals:
        """Values of symbols [..., T]."""
        return self.scaling.inverse(self.scaled(symbols), centre, scale)

    # ---- one series ----

    def encode(self, obj: ArrayLike | str | bytes) -> Encoded:
        """A series [T], or text with one number a line.

        Raises:
            ValueError: no finite numbers, naming the first place.
        """
        values = numbers(obj)
        centre, scale = self.scaling.measure(values)
        symbols, inside = self.to_symbols(values, centre, scale)
        side = {"centre": float(centre[0]), "scale": float(scale[0])}
        return Encoded(symbols, side | {"log_abs_det": float(inside.sum())})

    def decode(self, encoded: Encoded) -> Reals:
        """The series [T] in float64.

        Raises:
            ValueError: each series has its own scale, and the side information lacks it.
        """
        return self.to_values(np.asarray(encoded.symbols), *self._sides(encoded.side))

    def stream(self, side: dict[str, Any] | None = None) -> SeriesStream:
        """An incremental decoder, of a series with this side information."""
        self._sides(side or {})
        return SeriesStream(self, side or {})

    def units(self, encoded: Encoded) -> int:
        """Points."""
        return len(encoded.symbols)

    def log_abs_det(self, side: dict[str, Any]) -> float:
        return float(side.get("log_abs_det", 0.0))

    def score_kind(self, encoded: Encoded) -> ScoreKind:
        """``exact``: log p of the symbols and ``log_abs_det`` are the log-density of the series.
        ``codes``: given its own scale."""
        return "codes" if self.scaling.scale is None else "exact"

    def fingerprint(self) -> str:
        """Hash of all that the encoding depends on: equal ones encode equally."""
        data = json.dumps([self.name, self._definition()]).encode()
        return hashlib.blake2b(data, digest_size=16).hexdigest()

    def save(self, folder: Path) -> dict[str, Any]:
        """Everything is in the JSON."""
        return self._definition()

    def _definition(self) -> dict[str, Any]:
        return {"scaling": to_dict(self.scaling)}

    def _sides(self, side: dict[str, Any]) -> tuple[Reals, Reals]:
        found = [side.get(k, getattr(self.scaling, k)) for k in ("centre", "scale")]
        if None in found:
            raise ValueError("every series has its own scale here: give the side information too")
        return np.array(found[:1], np.float64), np.array(found[1:], np.float64)


class SeriesStream:
    """Symbols are values one by one, so nothing is held back."""

    def __init__(self, codec: SeriesCodec, side: dict[str, Any]) -> None:
        self._codec, self._side = codec, side

    def push(self, symbols: Symbols) -> Reals:
        """The values of these symbols [L]."""
        return self._codec.decode(Encoded(symbols, self._side))

    def finish(self) -> Reals:
        """Nothing."""
        return np.zeros(0)


class RealCodec(SeriesCodec):
    """Scaled real numbers."""

    name: ClassVar[str] = "real"

    def __init__(self, scaling: Scaling) -> None:
        super().__init__(scaling, Space("real"))

    @classmethod
    def fitted(cls, z: Reals, scaling: Scaling) -> Self:
        return cls(scaling)

    def symbols(self, z: Reals) -> tuple[Reals, Reals]:
        return z, np.zeros_like(z)

    def scaled(self, symbols: Symbols) -> Reals:
        return symbols.astype(np.float64)

    @classmethod
    def load(cls, data: dict[str, Any], folder: Path) -> Self:
        return cls(from_dict(_Scaled, data, f"{folder / 'config.json'}: codec").scaling)


class CountCodec(RealCodec):
    """Counts as they are. Their scale is told to the model, which rescales its own law by it."""

    name: ClassVar[str] = "counts"
    lossless = True

    def __init__(self, scaling: Scaling) -> None:
        if scaling.by != "mean" or scaling.asinh:
            raise ValueError("counts are scaled by their mean alone")
        super().__init__(scaling)
        self.space = Space("count")

    def to_symbols(self, values: Reals, centre: Reals, scale: Reals) -> tuple[Symbols, Reals]:
        whole = np.rint(values)
        if (wrong := (whole != values) | (values < 0) | (values > 2**53)).any():
            raise ValueError(f"{values[wrong][0]:g} is no count: take the codec real for it")
        return whole.astype(np.int64), np.zeros_like(values)

    def to_values(self, symbols: Symbols, centre: Reals, scale: Reals) -> Reals:
        return symbols.astype(np.float64)


class BinCodec(SeriesCodec):
    """V bins of the scaled values between V - 1 ``edges``; uniform within a bin.

    The outermost bins have no end: an exponential tail, on average as wide as the next bin, so that
    every real number has a density. Source: Ansari et al. 2024, "Chronos" (binned values).
    """

    name: ClassVar[str] = "bins"

    def __init__(self, edges: Sequence[float], scaling: Scaling) -> None:
        bounded("the number of edges", len(edges), 2, MOST_BINS - 1)
        self.edges = np.array(edges, np.float64)
        if not np.isfinite(self.edges).all() or (np.diff(self.edges) <= 0).any():
            raise ValueError("the edges of bins must be finite numbers, each above the one before")
        super().__init__(scaling, Space("finite", len(edges) + 1))

    @classmethod
    def fitted(cls, z: Reals, scaling: Scaling, size: int = 512, width: Width = "uniform") -> Self:
        """``size`` bins over the range of z: of equal width, or with as many z in each."""
        bounded("size", size, 3, MOST_BINS)
        if width == "uniform":
            low, high = float(z.min()), float(z.max())
            if not high > low:
                low, high = low - 0.5, low + 0.5
            return cls(np.linspace(low, high, size - 1).tolist(), scaling)
        if width != "quantile":
            raise ValueError(f"width {width!r} is not one of uniform, quantile")
        edges = np.unique(np.quantile(z, np.linspace(0, 1, size - 1)))
        if len(edges) < 2:
            raise ValueError("bins by quantile need two values or more that differ")
        return cls(edges.tolist(), scaling)

    def symbols(self, z: Reals) -> tuple[Symbols, Reals]:
        symbols = np.searchsorted(self.edges, z, side="right").astype(np.int64)
        gaps = np.diff(self.edges)
        tails = [np.maximum(self.edges[0] - z, 0), np.maximum(z - self.edges[-1], 0)]
        beyond = -tails[0] / gaps[0] - tails[1] / gaps[-1]
        density: Reals = beyond - np.log(np.concatenate([gaps[:1], gaps, gaps[-1:]]))[symbols]
        return symbols, density

    def scaled(self, symbols: Symbols) -> Reals:
        size = len(self.edges) + 1
        if symbols.size and not 0 <= symbols.min() <= symbols.max() < size:
            raise ValueError(f"{symbols.max()} is not a symbol of {size} bins")
        gaps, half = np.diff(self.edges), math.log(2)
        first, last = self.edges[:1] - half * gaps[0], self.edges[-1:] + half * gaps[-1]
        middles = np.concatenate([first, (self.edges[1:] + self.edges[:-1]) / 2, last])
        found: Reals = middles[symbols.astype(np.int64)]
        return found

    def _definition(self) -> dict[str, Any]:
        return {**super()._definition(), "edges": self.edges.tolist()}

    @classmethod
    def load(cls, data: dict[str, Any], folder: Path) -> Self:
        where = f"{folder / 'config.json'}: codec"
        given = from_dict(_Binned, data, where)
        try:
            return cls(given.edges, given.scaling)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


@dataclass(frozen=True)
class _Scaled:
    scaling: Scaling


@dataclass(frozen=True)
class _Binned:
    scaling: Scaling
    edges: tuple[float, ...]


def numbers(obj: ArrayLike | str | bytes) -> Reals:
    """A series [T] in float64: an array, or text with one number a line and perhaps a heading.

    Raises:
        ValueError: something else, or a number that is not finite, naming the place.
    """
    if isinstance(obj, str | bytes):
        return _read(obj.decode("utf-8", "replace") if isinstance(obj, bytes) else obj)
    try:
        values = np.asarray(obj, np.float64)
    except (TypeError, ValueError):
        raise ValueError("a series is a list of numbers") from None
    if values.ndim != 1:
        raise ValueError(f"a series has one axis, not the shape {list(values.shape)}")
    if not (fine := np.isfinite(values)).all():
        at = int((~fine).argmax())
        raise ValueError(f"point {at} of the series is {values[at]}: fill the gap, or leave it out")
    return values


def _read(text: str) -> Reals:
    found = []
    for at, line in enumerate(text.strip().splitlines()):
        try:
            found.append(float(line))
        except ValueError:
            if at:
                raise ValueError(
                    f"line {at + 1} is no number: {line[:40]!r}; a series has one a line, or name "
                    "the column of a table"
                ) from None
    return numbers(found)
