"""Pictures to learn: encoded once, cached by content; whole pictures, in a new order every epoch.

Shapes: N pictures of a part, B rows, T symbols of a picture, V levels.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from chainrule.codecs.image import PixelCodec
from chainrule.core.model import AnyOrder, Condition, SequenceModel
from chainrule.core.objective import Batch
from chainrule.training.data import cache_folder, partial_folder
from chainrule.training.objectives import any_order_nats
from chainrule.training.plan import TrainConfig
from chainrule.training.scoring import affordable
from chainrule.training.shards import (
    VERSION,
    SymbolArray,
    SymbolFile,
    by_content,
    open_symbols,
    write_header,
)

SHARE = 0.1  # of the pictures is held out
UNTOLD = 0.1  # of the pictures in a batch are shown without their label
CHECKED = 2**20  # symbols of the held-out part that a check reads, at most
DRAWS = 4  # orders that a check of an any-order model tries
_ENTRIES = 2**24  # probabilities at a time
_ROWS = 128


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures to learn and pictures held out, as a trainer asks for them.

    Args:
        train, held_out: symbols [N, T] in the narrowest unsigned type.
        labels, held_out_labels: int64 [N]; None: the model isn't told any.
        description: how the held-out part was chosen, for people.
        folder: its place in the cache.
        redraw: of binary pictures: ``train`` has probabilities, v / 255, and every access draws.
    """

    train: SymbolArray
    held_out: SymbolArray
    labels: NDArray[np.int64] | None = None
    held_out_labels: NDArray[np.int64] | None = None
    description: str = ""
    folder: Path | None = None
    redraw: bool = False

    unit = "dimension"
    symbols_per_unit = 1.0

    @property
    def holds_out(self) -> bool:
        """Whether there is a held-out part."""
        return len(self.held_out) > 0

    def rows(self, config: TrainConfig) -> int:
        """Of a batch."""
        return min(config.batch, len(self.train))

    def batch(self, config: TrainConfig, number: int) -> tuple[Batch, bool]:
        """Pictures that come once an epoch; some of them without their label."""
        index, dice = self._index(config, number), _dice(config.seed, number, 1)
        x = torch.from_numpy(np.asarray(self.train)[index].astype(np.int64))
        if self.redraw:
            u = dice.random_raw(x.numel()).reshape(x.shape) >> np.uint64(11)
            x = torch.from_numpy((u * (255 * 2.0**-53) < x.numpy()).astype(np.int64))
        cond = None
        if self.labels is not None:
            u = dice.random_raw(len(x)) >> np.uint64(11)
            label = np.where(u * 2.0**-53 < UNTOLD, -1, self.labels[index])
            cond = Condition(label=torch.from_numpy(label))
        return Batch(x, (x.shape[1],) * len(x), cond), False

    def origin(self, config: TrainConfig, number: int) -> str:
        """The numbers of some pictures."""
        index = self._index(config, number)
        begins = ", ".join(f"{i:,}" for i in index[:4]) + (", …" if len(index) > 4 else "")
        return f"pictures {begins} of the training part"

    def held_out_nats(self, model: SequenceModel) -> tuple[float, float]:
        """-log p of some held-out pictures, and their symbols; of an any-order model, the mean
        over some orders."""
        length = self.held_out.shape[1]
        count = max(1, affordable(model, CHECKED) // length)
        nats = picture_nats(model, self.held_out[:count], self._told(count), orders=DRAWS)
        return float(nats.sum()), float(len(nats) * length)

    def _told(self, count: int) -> NDArray[np.int64] | None:
        return None if self.held_out_labels is None else self.held_out_labels[:count]

    def _index(self, config: TrainConfig, number: int) -> NDArray[np.int64]:
        """Which pictures are in the number-th batch."""
        rows, size = self.rows(config), len(self.train)
        place = number * rows + np.arange(rows)
        out = np.empty(rows, np.int64)
        for epoch in np.unique(place // size).tolist():
            here = place // size == epoch
            out[here] = _order(config.seed, epoch, size)[place[here] % size]
        return out


@functools.lru_cache(maxsize=2)  # a batch may lie in two epochs
def _order(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """In which the pictures come in an epoch. Do not write into it."""
    return np.argsort(_dice(seed, epoch, 0).random_raw(size), kind="stable")


def _dice(seed: int, number: int, stream: int) -> np.random.Philox:
    key = np.array([seed % 2**64, (2 * number + stream) % 2**64], np.uint64)
    return np.random.Philox(key=key)


@torch.no_grad()
def picture_nats(
    model: SequenceModel,
    x: SymbolArray,
    labels: NDArray[np.int64] | None = None,
    progress: Callable[[int], None] | None = None,
    orders: int = 0,
) -> NDArray[np.float64]:
    """-log p of every picture [N, T] in nats: float64 [N].

    Args:
        labels: int64 [N], where the model is told them; progress: is told the pictures done.
        orders: of an any-order model, the mean over so many random orders, which is estimated;
            0: exact, in the model's own order.
    """
    was_training, device = model.training, next(model.parameters()).device
    rows = max(1, min(_ROWS, _ENTRIES // (x.shape[1] * (model.space.size or 1))))
    model.eval()
    found = []
    try:
        for first in range(0, len(x), rows):
            piece = torch.from_numpy(np.asarray(x[first : first + rows]).astype(np.int64))
            piece = piece.to(device)
            cond = None
            if labels is not None and "label" in model.reads:
                told = torch.from_numpy(labels[first : first + rows])
                cond = Condition(label=told.to(device))
            if orders and isinstance(model, AnyOrder):
                nats = any_order_nats(model, piece, first, orders, cond)
            else:
                nats = -model(piece, cond).log_prob(piece).double().sum(1)
            found.append(nats.double().cpu())
            if progress is not None:
                progress(min(len(x), first + rows))
    finally:
        model.train(was_training)
    return torch.cat(found).numpy()


# ---- the cache ----


def prepare_pictures(
    pixels: NDArray[np.uint8],
    labels: list[str] | None,
    codec: PixelCodec,
    cache: Path | None = None,
    held: NDArray[np.bool_] | None = None,
) -> Pictures:
    """Encode pictures [N, H, W, C] of the codec's size, or open what was encoded before.

    Args:
        labels: the name of each picture's class.
        held: bool [N], which are held out; None: one in ten, by its content, equal ones on the same
            side.

    Raises:
        ValueError: fewer than two pictures that differ.
    """
    hashes = np.array([_hash(p) for p in pixels], np.uint64)
    if len(np.unique(hashes)) < 2:
        raise ValueError(f"no two pictures differ, of {len(pixels):,} in all: give two that do")
    whole = hashlib.blake2b(hashes.tobytes(), digest_size=16)
    whole.update("\0".join(labels or ()).encode())
    how = "chosen by their content"
    if held is not None:
        whole.update(held.tobytes())
        how = "in folders of their own"
    folder = cache_folder(cache) / f"{whole.hexdigest()}-{codec.fingerprint()}-{VERSION}"
    if held is None:
        held = by_content(np.ones(len(pixels)), hashes, max(SHARE, 1.5 / len(pixels)))
        if not held.any():  # the least group is larger than that share
            held = hashes == hashes.min()
    number = None if labels is None else np.array([codec.label(name) for name in labels])
    if open_symbols(folder) is None:
        _write(folder, codec, pixels, held)
    found = open_symbols(folder)
    if found is None:
        raise OSError(f"{folder}: the symbols just written can't be read back")
    length = codec.space.max_len
    assert length is not None
    count, every = int(held.sum()), len(pixels)
    return Pictures(
        found[0].reshape(-1, length),
        found[1].reshape(-1, length),
        None if number is None else number[~held],
        None if number is None else number[held],
        f"held out: {count:,} of {every:,} pictures, {how}",
        folder,
    )


def _hash(picture: NDArray[np.uint8]) -> int:
    digest = hashlib.blake2b(picture.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _write(
    folder: Path, codec: PixelCodec, pixels: NDArray[np.uint8], held: NDArray[np.bool_]
) -> None:
    """Symbols beside their place, then renamed."""
    size = codec.space.size
    assert size is not None
    with partial_folder(folder.parent) as partial:
        files = {k: SymbolFile(partial / k, size) for k in ("train", "held_out")}
        for name, part in (("train", ~held), ("held_out", held)):
            with files[name] as file:
                for piece in _pieces(np.flatnonzero(part)):
                    file.write(codec.encode_many(pixels[piece]).reshape(-1))
        write_header(partial, files["train"].dtype, *(f.count for f in files.values()))
        try:
            partial.rename(folder)
        except OSError:  # a folder is there: damaged, or another process was quicker
            if open_symbols(folder) is None:
                shutil.rmtree(folder)
                partial.rename(folder)


def _pieces(index: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    for first in range(0, len(index), 1024):
        yield index[first : first + 1024]


def opened(folder: Path, length: int) -> tuple[SymbolArray, SymbolArray] | None:
    """The symbols [N, T] of both parts, where they are whole."""
    found = open_symbols(folder)
    return None if found is None else (found[0].reshape(-1, length), found[1].reshape(-1, length))
