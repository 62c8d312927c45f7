"""How fast rotary positions turn, and the ways to stretch them over a longer context.

Shapes: K head width; one rate for each of the K / 2 pairs, in radians per position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from chainrule.core.config import bounded

Kind = Literal["linear", "ntk", "yarn", "llama3"]
KINDS: tuple[str, ...] = get_args(Kind)
BOUNDS: dict[str, tuple[float, float]] = {
    "factor": (1, 4096),
    "low": (1e-3, 1e3),
    "high": (1e-3, 1e5),
    "attention": (1e-2, 100),
}
TRAINED = 2, 2**24


@dataclass(frozen=True)
class Scaling:
    """Rotary positions stretched by ``factor``.

    ``linear``: all rates divided (Chen et al. 2023, "Position interpolation"). ``ntk``: a larger
    base, so that the slowest rate is divided and the fastest stays (bloc97 2023). ``yarn``: slow
    pairs divided, fast ones kept, a ramp between (Peng et al. 2023). ``llama3``: the same idea by
    wavelength, as Llama 3.1 has it.

    Args:
        trained: positions of the training before the stretch; of yarn and llama3.
        low, high: turns within ``trained`` below which a rate is divided, and above which it is
            kept. 1 and 32 for yarn, 1 and 4 for llama3, where they are None.
        attention: what yarn multiplies queries and keys with, each; None: 0.1 ln(factor) + 1.
        whole: yarn's ramp begins and ends at whole pairs.

    Raises:
        ValueError: a value out of bounds.
    """

    kind: Kind
    factor: float
    trained: int = 0
    low: float | None = None
    high: float | None = None
    attention: float | None = None
    whole: bool = True

    def __post_init__(self) -> None:
        if self.kind in ("yarn", "llama3"):
            bounded("rope: trained", self.trained, *TRAINED)
        bounded("rope: factor", self.factor, *BOUNDS["factor"])
        values = {"low": self.turns[0], "high": self.turns[1], "attention": self.scale}
        for name, value in values.items():
            bounded(f"rope: {name}", value, *BOUNDS[name])
        if self.kind in ("yarn", "llama3") and self.turns[0] >= self.turns[1]:
            raise ValueError(f"rope: low {self.turns[0]:g} must be below high {self.turns[1]:g}")

    @property
    def turns(self) -> tuple[float, float]:
        """``low`` and ``high``, filled in."""
        usual = 32.0 if self.kind == "yarn" else 4.0
        return (
            1.0 if self.low is None else self.low,
            usual if self.high is None else self.high,
        )

    @property
    def scale(self) -> float:
        """What cos and sin are multiplied with."""
        if self.attention is not None:
            return self.attention
        return 0.1 * math.log(self.factor) + 1 if self.kind == "yarn" else 1.0


def parse(text: str, context: int) -> Scaling:
    """``KIND:FACTOR`` as a user writes it, of a model that was trained on ``context`` positions.

    Raises:
        ValueError: another form, an unknown kind, or a factor out of bounds.
    """
    kind, colon, factor = str(text).partition(":")
    known = next((k for k in get_args(Kind) if k == kind), None)
    try:
        if known is None or not colon:
            raise ValueError
        return Scaling(known, float(factor), context if known in ("yarn", "llama3") else 0)
    except ValueError as error:
        why = f" ({error})" if str(error).startswith("rope:") else ""
        raise ValueError(
            f"rope {text!r} is not KIND:FACTOR, as in yarn:4; kinds: {', '.join(KINDS)}{why}"
        ) from None


def rates(width: int, base: float, scaling: Scaling | None = None) -> tuple[float, ...]:
    """Radians per position of each of the K / 2 pairs.

    Source: Su et al. 2021, "RoFormer", equation 34; for the stretches see ``Scaling``.
    """
    if scaling is not None and scaling.kind == "ntk" and width > 2:
        base *= scaling.factor ** (width / (width - 2))
    plain = [base ** (-i / width) for i in range(0, width, 2)]
    if scaling is None or scaling.kind == "ntk":
        return tuple(plain)
    if scaling.kind == "linear":
        return tuple(r / scaling.factor for r in plain)
    keep = _kept_yarn if scaling.kind == "yarn" else _kept_llama3
    return tuple(
        r * k + r / scaling.factor * (1 - k)
        for r, k in zip(plain, keep(width, base, plain, scaling), strict=True)
    )


def _kept_yarn(width: int, base: float, plain: list[float], scaling: Scaling) -> list[float]:
    """How much of each rate is kept, 0 to 1, by the pair's number."""
    low, high = scaling.turns

    def pair(turns: float) -> float:
        return width * math.log(scaling.trained / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = pair(high), pair(low)
    if scaling.whole:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    if first == last:
        last += 0.001
    return [1 - min(1.0, max(0.0, (i - first) / (last - first))) for i in range(len(plain))]


def _kept_llama3(width: int, base: float, plain: list[float], scaling: Scaling) -> list[float]:
    """How much of each rate is kept, 0 to 1, by its turns within the training."""
    low, high = scaling.turns
    turns = [scaling.trained * r / (2 * math.pi) for r in plain]
    return [min(1.0, max(0.0, (t - low) / (high - low))) for t in turns]
