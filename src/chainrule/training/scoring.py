"""Exact log-probabilities of sequences of any length, in memory that doesn't grow with them.

Shapes: T sequence length, B lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from chainrule.core.model import Condition, SequenceModel
from chainrule.core.objective import Batch, Example
from chainrule.core.state import State

_WORK = 2**40  # multiplications
_BLOCK = 2**22  # at most so many law entries (positions × alphabet) at a time
_BATCH = 2**27  # at most so many of a batch of documents, two or more
_SHORT = 4096  # symbols of a document that may share a batch
_ROWS = 32  # contexts, and continuations, at a time,
_TOGETHER = 2**14  # of so many symbols, padding included,
_SPREAD = 256  # and lengths that differ by so many at most


def affordable(model: SequenceModel, most: int) -> int:
    """How many of ``most`` symbols a score reads that is made beside training: fewer by a large
    model, so that it takes a minute at most."""
    parameters = sum(p.numel() for p in model.parameters())
    return min(most, max(4096, _WORK // max(1, parameters)))


@torch.no_grad()
def log_probs(
    model: SequenceModel,
    symbols: NDArray[np.generic],
    lanes: int = 1,
    progress: Callable[[int], None] | None = None,
    cond: Condition | None = None,
) -> NDArray[np.float64]:
    """log p(x_t | x_<t) in nats for a sequence [T] of scalar symbols: float64 [T].

    ``lanes`` > 1 cuts the sequence into that many pieces that each start cold: sooner, and a
    little pessimistic. ``progress`` is told the number of symbols done; ``cond`` has a row a lane.
    """
    was_training = model.training
    model.eval()
    try:
        lanes = max(1, min(lanes, len(symbols) // 256))
        length = -(-len(symbols) // lanes)
        real = model.space.kind == "real"
        padded = np.zeros(lanes * length, dtype=np.float64 if real else np.int64)
        padded[: len(symbols)] = symbols
        x = torch.from_numpy(padded).view(lanes, length).to(model.space.dtype)
        device = _device(model)
        block = max(16, min(1024, _BLOCK // (lanes * (model.space.size or 1))))
        state: State | None = None if cond is None else model.start(lanes, cond.to(device))
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

    Short documents share a padded batch, as many as their laws leave room for; a document beyond
    4,096 symbols is scored alone.
    """
    held: list[NDArray[np.generic]] = []
    for document in documents:
        longest = max([len(document), *map(len, held)])
        entries = (len(held) + 1) * longest * (model.space.size or 1)
        if held and (len(held) == 32 or longest > _SHORT or entries > _BATCH):
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
    device = _device(model)
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


@torch.no_grad()
def continuation_log_probs(
    model: SequenceModel,
    pairs: Sequence[tuple[NDArray[np.generic], NDArray[np.generic]]],
    progress: Callable[[int], None] | None = None,
) -> list[tuple[float, bool]]:
    """(log p(continuation | context) in nats, whether greedy decoding writes it), pair by pair.

    A context that several pairs share is consumed once. ``progress`` is told the number of pairs
    done.
    """
    sharing: dict[bytes, list[int]] = {}
    for index, (context, _) in enumerate(pairs):
        sharing.setdefault(context.tobytes(), []).append(index)
    groups = sorted(sharing.values(), key=lambda group: len(pairs[group[0]][0]))
    out, done = [(0.0, True)] * len(pairs), 0
    was_training = model.training
    model.eval()
    try:
        while groups:
            lens = [len(pairs[group[0]][0]) for group in groups[:_ROWS]]
            near = [n - lens[0] <= _SPREAD and n * k < _TOGETHER for k, n in enumerate(lens)]
            count = max(1, sum(near))
            part, groups = groups[:count], groups[count:]
            state = _consumed(model, [pairs[group[0]][0] for group in part])
            asked = [(i, row) for row, group in enumerate(part) for i in group]
            asked.sort(key=lambda job: len(pairs[job[0]][1]))
            for first in range(0, len(asked), _ROWS):
                jobs = asked[first : first + _ROWS]
                branch = state.select([row for _, row in jobs])
                answers = _answers(model, branch, [pairs[i][1] for i, _ in jobs])
                for (i, _), answer in zip(jobs, answers, strict=True):
                    out[i] = answer
            done += len(asked)
            if progress is not None:
                progress(done)
    finally:
        model.train(was_training)
    return out


def _consumed(model: SequenceModel, contexts: list[NDArray[np.generic]]) -> State:
    """The state behind every context: what is padded is undone again."""
    batch = Batch.of([Example(torch.from_numpy(c.astype(np.int64))) for c in contexts])
    x = batch.x.to(_device(model))
    shortest, longest = min(batch.lens), max(batch.lens)
    state = model.start(len(x))
    for first in range(0, shortest, 1024):
        state = model.extend(state, x[:, first : min(shortest, first + 1024)])
    if longest > shortest:
        state = model.extend(state, x[:, shortest:], tail=longest - shortest)
        state = state.rewind([longest - n for n in batch.lens])
    return state.trim()


def _answers(
    model: SequenceModel, state: State, pieces: list[NDArray[np.generic]]
) -> list[tuple[float, bool]]:
    """Of every row's continuation: log p in nats, and whether each symbol is the likeliest."""
    batch = Batch.of([Example(torch.from_numpy(p.astype(np.int64))) for p in pieces])
    x, longest = batch.x.to(_device(model)), batch.x.shape[1]
    block = max(1, _BLOCK // (len(x) * (model.space.size or 1)))
    log_p, hit = [x.new_zeros(len(x), 0).double()], [x.new_zeros(len(x), 0).bool()]
    for first in range(0, longest, block):
        piece = x[:, first : first + block]
        law, state = model.carry(piece, state=state)
        log_p.append(law.log_prob(piece).double())
        hit.append(law.mode() == piece)
    every, likeliest = torch.cat(log_p, 1).cpu(), torch.cat(hit, 1).cpu()
    return [
        (float(every[row, :n].sum()), bool(likeliest[row, :n].all()))
        for row, n in enumerate(batch.lens)
    ]


def _device(model: SequenceModel) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
