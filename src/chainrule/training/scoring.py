"""Exact log-probabilities of sequences of any length, in memory that doesn't grow with them.

Shapes: T sequence length, B lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from chainrule.core.model import SequenceModel
from chainrule.core.objective import Batch, Example
from chainrule.core.state import State

_BLOCK = 2**22  # at most so many law entries (positions × alphabet) at a time
_SHORT = 4096  # symbols of a document that may share a batch


@torch.no_grad()
def log_probs(
    model: SequenceModel,
    symbols: NDArray[np.generic],
    lanes: int = 1,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float64]:
    """log p(x_t | x_<t) in nats for a sequence [T] of finite symbols: float64 [T].

    ``lanes`` > 1 cuts the sequence into that many pieces that each start cold: sooner, and a
    little pessimistic. ``progress`` is told the number of symbols done.
    """
    was_training = model.training
    model.eval()
    try:
        lanes = max(1, min(lanes, len(symbols) // 256))
        length = -(-len(symbols) // lanes)
        padded = np.zeros(lanes * length, dtype=np.int64)
        padded[: len(symbols)] = symbols
        x = torch.from_numpy(padded).view(lanes, length)
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        block = max(16, min(1024, _BLOCK // (lanes * (model.space.size or 1))))
        state: State | None = None
        parts = []
        for first in range(0, length, block):
            piece = x[:, first : first + block].to(device)
            law, state = model.carry(piece, state=state)
            parts.append(law.log_prob(piece).double().cpu())
            if progress is not None:
                progress(min(len(symbols), lanes * (first + piece.shape[1])))
        return torch.cat(parts, 1).flatten().numpy()[: len(symbols)]
    finally:
        model.train(was_training)


@torch.no_grad()
def document_log_probs(
    model: SequenceModel, documents: Iterable[NDArray[np.generic]]
) -> Iterator[NDArray[np.float64]]:
    """log p(x_t | x_<t) in nats [T] of every document from its own start, in the order given.

    Short documents share a padded batch; a document beyond 4,096 symbols is scored alone.
    """
    held: list[NDArray[np.generic]] = []
    for document in documents:
        if held and (len(held) == 32 or len(document) > _SHORT):
            yield from _padded(model, held)
            held = []
        if len(document) > _SHORT:
            yield log_probs(model, document)
        else:
            held.append(document)
    if held:
        yield from _padded(model, held)


def document_nats(
    model: SequenceModel, documents: Iterable[NDArray[np.generic]]
) -> Iterator[float]:
    """log p of every document from its own start, in nats, in the order given."""
    return (float(each.sum()) for each in document_log_probs(model, documents))


def _padded(
    model: SequenceModel, documents: list[NDArray[np.generic]]
) -> list[NDArray[np.float64]]:
    if len(documents) == 1:
        return [log_probs(model, d) if len(d) else np.zeros(0) for d in documents]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    examples = [Example(torch.from_numpy(d.astype(np.int64))) for d in documents]
    batch = Batch.of(examples)
    was_training = model.training
    model.eval()
    try:
        x = batch.x.to(device)
        log_p = model(x).log_prob(x).double().cpu()
    finally:
        model.train(was_training)
    return [row[:n].numpy() for row, n in zip(log_p, batch.lens, strict=True)]
