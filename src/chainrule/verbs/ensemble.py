"""Several runs as one model."""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.artifact import Artifact
from chainrule.models.mixing import Ensemble


def ensemble_of(
    artifacts: Sequence[Artifact], weights: Sequence[float] | None = None, product: bool = False
) -> Ensemble:
    """The mean of the runs' models: of their probabilities, or their renormalised product.

    Raises:
        ValueError: no run, runs whose symbols differ, or weights that don't fit.
    """
    for other in artifacts[1:]:
        if other.codec.fingerprint() != artifacts[0].codec.fingerprint():
            raise ValueError(
                f"{_name(artifacts[0])} and {_name(other)} have other symbols: an ensemble needs "
                "runs fitted with the same codec"
            )
    return Ensemble([a.model for a in artifacts], weights, product)


def _name(artifact: Artifact) -> str:
    return str(artifact.path or f"a run with the codec {artifact.codec.name}")
