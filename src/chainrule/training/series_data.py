"""Windows of many series as batches: drawn at random, scaled by their own beginning.

As in DeepAR (Salinas et al. 2020): a window is a context and a horizon, and its scale is that of
the context. Shapes: N series, B rows, T window length, F features of a step, C context, H horizon.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.codecs.series import Reals, SeriesCodec
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.objective import Batch
from chainrule.series.batch import Ragged
from chainrule.training.plan import TrainConfig

HARMONICS = 6  # of the season, at most
CHECKED = 1024  # held-out windows that are scored, at most
_ROWS = 256  # of them at a time
Ints = NDArray[np.int64]


def harmonics(phase: Tensor, season: int) -> Tensor:
    """Sines and cosines [..., F] of the places in a season; for twelve months, F = 12 tell all."""
    count = min(HARMONICS, season // 2)
    turns = torch.arange(1, count + 1, device=phase.device).double() * (2 * torch.pi / season)
    angle = phase[..., None].double() * turns
    return torch.cat([angle.cos(), angle.sin()], -1).float()


def with_season(data: Ragged, season: int) -> Ragged:
    """The series with ``harmonics`` beside their points, where nothing stands there yet.

    A point's phase is its period's where a calendar tells; else the first point has phase 0.
    """
    if data.known is not None or season < 2:
        return data
    row = torch.repeat_interleave(torch.arange(len(data)), data.lens)
    ends = data.lens.cumsum(0)
    place = torch.arange(len(row)) - (ends - data.lens)[row]
    phase = torch.zeros(len(data.values), dtype=torch.int64)
    phase[place + data.begin[row]] = (place + _start(data)[row]) % season
    return Ragged(data.values, data.begin, data.end, harmonics(phase, season))


def future_season(data: Ragged, season: int, horizon: int) -> Tensor:
    """What ``with_season`` would say of the next steps: [N, H, F]."""
    next_one = (_start(data) + data.lens)[:, None]
    return harmonics((next_one + torch.arange(horizon)) % season, season)


def _start(data: Ragged) -> Tensor:
    return torch.zeros_like(data.begin) if data.first is None else data.first


@dataclass(frozen=True, eq=False)
class Windows:
    """Rows of symbols [B, T] and what decoding them takes; ``there``: where there are points."""

    x: Tensor
    there: NDArray[np.bool_]
    centre: Reals
    scale: Reals
    inside: Reals  # log p of a value beyond log p of its symbol
    cond: Condition | None


def cut(
    data: Ragged, begin: Ints, end: Ints, own: Ints, codec: SeriesCodec, reads: frozenset[str]
) -> Windows:
    """The points from ``begin`` to ``end`` [B] of ``data.values``, scaled by their first ``own``.

    Args:
        reads: fields of a Condition.
    """
    length = int((end - begin).max(initial=0))
    index = begin[:, None] + np.arange(length)
    there = index < end[:, None]
    index = np.where(there, index, begin[:, None])
    values = np.where(there, data.values.numpy()[index], 0.0)
    measured = there & (np.arange(length) < own[:, None])
    centre, scale = codec.scaling.measure(values, measured)
    symbols, inside = codec.to_symbols(values, centre, scale)
    fields: dict[str, Tensor] = {}
    if "scale" in reads:
        fields["scale"] = torch.from_numpy(scale[:, 0])  # beyond float32, perhaps
    if "steps" in reads and data.known is not None:
        fields["steps"] = data.known[torch.from_numpy(index)].float()
    x = torch.from_numpy(symbols).to(codec.space.dtype)
    return Windows(x, there, centre, scale, inside, Condition(**fields) if fields else None)


class SeriesLessons:
    """Many series to learn, as a trainer asks for them; the last horizon of each is held out.

    Args:
        data: on the host; horizon: H; context: C.
        hold_out: else everything is learned, and nothing checked.

    Raises:
        ValueError: no series has two points to learn.
    """

    unit = "point"
    symbols_per_unit = 1.0

    def __init__(
        self,
        data: Ragged,
        codec: SeriesCodec,
        reads: frozenset[str],
        horizon: int,
        context: int,
        hold_out: bool = True,
    ) -> None:
        self.data, self.codec, self.reads = data, codec, reads
        self.horizon, self.context = horizon, context
        learned = data.before(horizon) if hold_out else data
        kept = learned.lens >= 2
        if not bool(kept.any()):
            behind = f" before the {horizon} that are held out: give a shorter horizon"
            raise ValueError(f"no series has 2 points to learn{behind * hold_out}")
        self.learned = learned.select(kept)
        self.checked = data.select(data.lens > horizon).last(context + horizon)
        if not hold_out:
            self.checked = data.select(torch.zeros(0, dtype=torch.int64))

    @property
    def holds_out(self) -> bool:
        """Whether there is a held-out part."""
        return len(self.checked) > 0

    def rows(self, config: TrainConfig) -> int:
        """Of a batch."""
        return config.batch

    def batch(self, config: TrainConfig, number: int) -> tuple[Batch, bool]:
        """Windows of series drawn with equal chances, wherever they fit; a short series whole."""
        row, begin = self._draw(config, number)
        end = np.minimum(begin + config.length, self.learned.end.numpy()[row])
        own = np.maximum(end - begin - self.horizon, 1)
        found = cut(self.learned, begin, end, own, self.codec, self.reads)
        weight = None if found.there.all() else torch.from_numpy(found.there).float()
        return Batch(found.x, tuple((end - begin).tolist()), found.cond, weight), False

    def origin(self, config: TrainConfig, number: int) -> str:
        """Series and first points of some rows."""
        row, begin = self._draw(config, number)
        at = begin - self.learned.begin.numpy()[row]
        return ", ".join(f"point {a} of series {i}" for i, a in zip(row[:4], at, strict=False))

    def held_out_nats(self, model: SequenceModel) -> tuple[float, float]:
        """-log p of the scaled last horizons, behind their contexts, and the number of points."""
        every = max(1, len(self.checked) // CHECKED)
        data = self.checked.select(torch.arange(0, len(self.checked), every))
        device = next(model.parameters()).device
        was, nats = model.training, 0.0
        model.eval()
        with torch.no_grad():
            for first in range(0, len(data), _ROWS):
                part = data.select(torch.arange(first, min(first + _ROWS, len(data))))
                begin, end = part.begin.numpy(), part.end.numpy()
                own = end - begin - self.horizon
                found = cut(part, begin, end, own, self.codec, self.reads)
                cond = None if found.cond is None else found.cond.to(device)
                x = found.x.to(device)
                log_p = model(x, cond).log_prob(x).double().cpu().numpy()
                log_p += found.inside + np.log(found.scale)
                ahead = found.there & (np.arange(x.shape[1]) >= own[:, None])
                nats -= float(log_p[ahead].sum())
        model.train(was)
        return nats, float(len(data) * self.horizon)

    def _draw(self, config: TrainConfig, number: int) -> tuple[Ints, Ints]:
        """Which series [B], and where in ``data.values`` their windows begin [B]."""
        key = np.array([config.seed % 2**64, number % 2**64], np.uint64)
        dice = np.random.Philox(key=key).random_raw(2 * config.batch).reshape(2, -1)
        row = (dice[0] % np.uint64(len(self.learned))).astype(np.int64)
        lens, begin = self.learned.lens.numpy()[row], self.learned.begin.numpy()[row]
        spare = np.maximum(lens - config.length, 0) + 1
        return row, begin + (dice[1] % spare.astype(np.uint64)).astype(np.int64)
