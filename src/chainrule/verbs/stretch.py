"""A run whose rotary positions are stretched over a longer context, with the same weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from chainrule.artifact import Artifact, on_meta, unfilled
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import TransformerConfig
from chainrule.nn.rope import parse


def stretched(artifact: Artifact, rope: str) -> Artifact:
    """The run with ``rope`` KIND:FACTOR (linear, ntk, yarn, llama3) and so many times the context.

    Nothing is trained or copied. It is another law: scores within the old context change too.

    Raises:
        ValueError: another form, or a model without rotary positions.
    """
    config: Any = artifact.outline.config
    if not isinstance(config, TransformerConfig) or config.layout != "llama":
        raise ValueError(f"rope {rope!r}: a {artifact.kind} has no rotary positions to stretch")
    trained = config.context if config.rope is None else config.rope.trained or config.context
    scaling = parse(rope, trained)
    wide = replace(config, rope=scaling, context=min(2**24, round(trained * scaling.factor)))
    outline = unfilled(Transformer, wide)
    fresh: dict[str, Any] = {"choices": {}, "engines": {}}
    if artifact.stored is None or not on_meta(artifact.outline):
        outline.load_state_dict(artifact.model.state_dict(), assign=True)
        outline.no_bias = artifact.model.no_bias
    return replace(artifact, outline=outline, **fresh)
