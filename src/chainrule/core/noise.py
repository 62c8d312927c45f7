"""Noise: randomness as a pure function of (seed, sequence, position).

The symbol at a position depends on the distribution there and on this noise, on nothing
else: not on the batch, the block length or the decoding strategy.
Shapes: B rows, L positions, lanes independent draws at one position.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chainrule.native import _native

# Multipliers of the splitmix64 finaliser (Steele et al. 2014), as signed integers.
_M1, _M2 = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_AHEAD = 64  # positions made in one go, so that small models don't pay for dice
_BLOCK = 65536  # at most so many numbers at a time: they stay in the cache


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser; ``>>`` is arithmetic in torch, hence the masks."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _M1
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _M2
    return x ^ ((x >> 31) & (2**33 - 1))


@functools.lru_cache(maxsize=64)
def _lanes(stream: int, lanes: int, device: torch.device) -> Tensor:
    return _mix(_mix(torch.arange(lanes, device=device) + (stream << 32)) + _GOLDEN)


@dataclass(frozen=True)
class Positions:
    """Absolute positions of ``length`` consecutive symbols in every row, on the host."""

    starts: tuple[int, ...]
    length: int

    def tensor(self, device: torch.device | str = "cpu") -> Tensor:
        """Int64 [B, length]."""
        start_B1 = torch.tensor(self.starts, device=device)[:, None]
        return start_B1 + torch.arange(self.length, device=device)


@dataclass(frozen=True, eq=False)
class Noise:
    """A value that travels with its row: ``key`` is int64 [B]."""

    key: Tensor
    _made: dict[tuple[int, int], tuple[Positions, Tensor]] = field(
        default_factory=dict, repr=False
    )  # a memo of gumbel blocks; dropping it never changes a number

    @staticmethod
    def seeded(seed: int, sequence_ids: Sequence[int], stream: str = "sample") -> Noise:
        """One key a row, hashed from the seed, the sequence's own id and the stream's name."""
        keys = [
            hashlib.blake2b(f"{seed}/{i}/{stream}".encode(), digest_size=8).digest()
            for i in sequence_ids
        ]
        return Noise(torch.tensor([int.from_bytes(k, "little", signed=True) for k in keys]))

    def at(self, pos: Positions) -> Draw:
        """The dice of these absolute positions."""
        assert len(pos.starts) == len(self.key), "one start position a row"
        return Draw(self, pos)

    def select(self, rows: Sequence[int]) -> Noise:
        """The named rows, in that order."""
        return Noise(self.key[torch.tensor(list(rows), device=self.key.device)])

    @staticmethod
    def concat(noises: Sequence[Noise]) -> Noise:
        """All rows of all values."""
        return Noise(torch.cat([n.key for n in noises]))

    def to(self, device: torch.device) -> Noise:
        """The same noise, made on another device."""
        return self if self.key.device == device else Noise(self.key.to(device))

    def _bits(self, pos: Positions, stream: int, lanes: int) -> Tensor:
        """Hashed int64 [B, L, lanes]; the top 52 bits are used."""
        row_BL = _mix(self.key[:, None] + pos.tensor(self.key.device) * _GOLDEN)
        x = row_BL[..., None] ^ _lanes(stream, lanes, self.key.device)
        x *= _M1
        x ^= x >> 32
        x *= _M2
        return x

    def _uniform(self, pos: Positions, stream: int, lanes: int) -> Tensor:
        u = (self._bits(pos, stream, lanes) >> 12).double()
        return u.mul_(2.0**-52).add_(0.5 + 2.0**-53)  # strictly inside (0, 1)

    def _gumbel(self, pos: Positions, stream: int, lanes: int) -> Tensor:
        made = self._made.get((stream, lanes))
        if made is not None:
            have, block = made
            off = [p - h for p, h in zip(pos.starts, have.starts, strict=True)]
            low, high = min(off), max(off)
            if low >= 0 and high <= have.length - pos.length:
                if low == high:
                    return block[:, low : low + pos.length]
                rows = torch.arange(len(off), device=block.device)[:, None]
                return block[rows, Positions(tuple(off), pos.length).tensor(block.device)]
        each = max(1, _BLOCK // (len(pos.starts) * lanes))
        more = Positions(pos.starts, max(pos.length, min(_AHEAD, each)))
        block = self._block(more, stream, lanes, each)
        self._made[stream, lanes] = more, block
        return block[:, : pos.length]

    def _block(self, pos: Positions, stream: int, lanes: int, each: int) -> Tensor:
        """Gumbel noise -log(-log u): in float64, then float32. Natively where that was built.

        Both ways give the same but for the last bit of about one number in 10^8, where their
        logarithms lie on two sides of a tie. In torch ``each`` positions are made at a time.
        """
        if _native is not None and self.key.device.type == "cpu":
            shape = len(pos.starts), pos.length, lanes
            block = torch.empty(shape, dtype=torch.float32, device="cpu")
            key, first = self.key.contiguous(), torch.tensor(pos.starts, device="cpu")
            into = block.numpy()
            _native.chainrule_gumbel(key.numpy(), first.numpy(), pos.length, stream, lanes, into)
            return block
        blocks = []
        for at in range(0, pos.length, each):
            starts = tuple([s + at for s in pos.starts])
            piece = Positions(starts, min(each, pos.length - at))
            waits = self._uniform(piece, stream, lanes).log_().neg_()  # exponential
            blocks.append(waits.log_().neg_().float())
        return torch.cat(blocks, 1) if len(blocks) > 1 else blocks[0]


@dataclass(frozen=True, eq=False)
class Draw:
    """The dice of one block of positions. ``stream`` tells the parts of one symbol apart."""

    noise: Noise
    pos: Positions
    stream: int = 0

    def uniform(self, lanes: int = 1) -> Tensor:
        """Float64 in (0, 1): [B, L, lanes]."""
        return self.noise._uniform(self.pos, self.stream, lanes)

    def gumbel(self, lanes: int) -> Tensor:
        """Standard Gumbel noise, float32 [B, L, lanes]. Do not write into it."""
        return self.noise._gumbel(self.pos, self.stream, lanes)

    def part(self, i: int) -> Draw:
        """Independent dice for part ``i`` of an event."""
        return Draw(self.noise, self.pos, self.stream * 4096 + i + 1)
