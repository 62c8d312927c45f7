"""Ways to break the code on purpose: each must be caught by a law."""

from __future__ import annotations

from dataclasses import dataclass

CORE, DECODING = "src/chainrule/core/", "src/chainrule/decoding/"
# Few entries for each, so that the whole run takes minutes; pytest's -k.
DRAWN = "markov or pixelcnn"
CACHED = "label-gru or seq2seq or conv-wide"
EVENTS = "pixelcnn or gaussian-2 or oracle_of"


@dataclass(frozen=True)
class Mutant:
    """One replacement: ``old`` must stand in the file exactly once.

    ``entries``: which tests are run, as pytest's -k has it; of the laws, or of the file ``tests``.
    """

    name: str
    file: str
    old: str
    new: str
    entries: str
    tests: str | None = None


NOISE = [
    Mutant(
        "noise keyed by the row of the batch",
        CORE + "noise.py",
        "_mix(self.key[:, None] + pos",
        "_mix(torch.arange(len(self.key))[:, None] + pos",
        DRAWN,
    ),
    Mutant(
        "noise keyed by relative position",
        CORE + "noise.py",
        "+ pos.tensor(self.key.device) * _GOLDEN",
        "+ torch.arange(pos.length) * _GOLDEN",
        DRAWN,
    ),
    Mutant(
        "noise at the end of the block, not at its positions",
        DECODING + "verify.py",
        "full.pos(k + 1, back=k)",
        "full.pos(k + 1)",
        DRAWN,
    ),
    Mutant(
        "a block of noise read beyond its end",
        CORE + "noise.py",
        "high <= have.length - pos.length",
        "high < have.length",
        DRAWN,
    ),
    Mutant(
        "a block of noise shared by rows that moved apart",
        CORE + "noise.py",
        "if low == high:",
        "if low <= high:",
        DRAWN,
    ),
    Mutant(
        "noise that is not selected with its rows",
        CORE + "noise.py",
        "return Noise(self.key[torch.tensor(list(rows), device=self.key.device)])",
        "return Noise(self.key[: len(rows)])",
        DRAWN,
    ),
    Mutant(
        "noise concatenated in the wrong order",
        CORE + "noise.py",
        "torch.cat([n.key for n in noises])",
        "torch.cat([n.key for n in reversed(noises)])",
        DRAWN,
    ),
    Mutant(
        "parts of an event that share their dice",
        CORE + "noise.py",
        "self.stream * 4096 + i + 1",
        "self.stream",
        DRAWN,
    ),
    Mutant(
        "the likeliest symbol instead of a draw",
        CORE + "distributions.py",
        "return (logits + gumbel(logits.shape[-1])).argmax(-1)",
        "return logits.argmax(-1)",
        DRAWN,
    ),
]

STATE = [
    Mutant(
        "rewind does nothing",
        CORE + "state.py",
        "return self._cut(n, self.tail - max(n, default=0))",
        "return self",
        CACHED,
    ),
    Mutant(
        "rewind without its check",
        CORE + "state.py",
        "if any(k < 0 or k > self.tail for k in n):",
        "if any(k < 0 for k in n):",
        CACHED,
    ),
    Mutant(
        "ragged rewind takes every row back as far as the furthest",
        CORE + "state.py",
        "torch.tensor([have - k - keep for k in n]",
        "torch.tensor([have - max(n) - keep for k in n]",
        CACHED,
    ),
    Mutant(
        "a tail that is longer than what is left",
        CORE + "state.py",
        "self.tail - max(n, default=0))",
        "self.tail - min(n, default=0))",
        CACHED,
    ),
    Mutant(
        "tail off by one",
        CORE + "state.py",
        "kept = min(tail, self.tail + length)\n        leaves",
        "kept = min(tail + 1, self.tail + length)\n        leaves",
        CACHED,
    ),
    Mutant(
        "a cache without its clash check",
        CORE + "state.py",
        "if clash or need > capacity:",
        "if need > capacity:",
        CACHED,
    ),
    Mutant(
        "a wide window without its clash check",
        CORE + "state.py",
        "if slab is None or clash or end",
        "if slab is None or end",
        "conv-wide",
    ),
    Mutant(
        "a cache that is copied every time",
        CORE + "state.py",
        "if clash or need > capacity:",
        "if True:",
        CACHED,
    ),
    Mutant(
        "a slab that keeps its values alive",
        CORE + "state.py",
        "self.values: weakref.WeakSet[Grow | Window] = weakref.WeakSet()",
        "self.values = set()",
        CACHED,
    ),
    Mutant(
        "a cache that grows into uninitialised memory",
        CORE + "state.py",
        "fresh = slab.tensor.new_zeros(shape)",
        "fresh = slab.tensor.new_empty(shape)",
        CACHED,
    ),
    Mutant(
        "a cache that forgets when it grows",
        CORE + "state.py",
        "fresh.narrow(self.axis, 0, capacity).copy_(slab.tensor)",
        "pass",
        CACHED,
    ),
    Mutant(
        "a cache's select forgets the lengths",
        CORE + "state.py",
        "kept = tuple(self.lens[i] for i in rows.tolist())",
        "kept = self.lens[: len(rows)]",
        CACHED,
    ),
    Mutant(
        "a state's select forgets the lengths",
        CORE + "state.py",
        "return State(tuple(self.lens[i] for i in rows), leaves",
        "return State(self.lens[: len(rows)], leaves",
        CACHED,
    ),
    Mutant(
        "caches are concatenated without padding",
        CORE + "state.py",
        "torch.cat(_pad([g.slab.tensor for g in grown], grown[0].axis))",
        "torch.cat([g.slab.tensor for g in grown])",
        CACHED,
    ),
    Mutant(
        "conditions are concatenated without padding",
        CORE + "state.py",
        "ts = _pad(ts, 1)",
        "pass",
        CACHED,
    ),
    Mutant(
        "concat of unlike tails",
        CORE + "state.py",
        "states = [s.trim(tail) for s in states]",
        "states = list(states)",
        CACHED,
    ),
]

LOOP = [
    Mutant(
        "every guess is accepted",
        DECODING + "verify.py",
        "agreed = self.model.space.agree(guess, x[:, :k])",
        "agreed = torch.ones(guess.shape[:2], dtype=torch.bool)",
        DRAWN,
    ),
    Mutant(
        "no guess is accepted",
        DECODING + "verify.py",
        "agreed = self.model.space.agree(guess, x[:, :k])",
        "agreed = torch.zeros(guess.shape[:2], dtype=torch.bool)",
        DRAWN,
    ),
    Mutant(
        "one guess too many stays consumed",
        DECODING + "verify.py",
        "state = full.rewind([k - n for n in a])",
        "state = full.rewind([max(0, k - n - 1) for n in a])",
        DRAWN,
    ),
    Mutant(
        "one symbol too many is emitted",
        DECODING + "verify.py",
        "Chunk(x, [n + 1 for n in a]",
        "Chunk(x, [min(k, n + 1) + 1 for n in a]",
        DRAWN,
    ),
    Mutant(
        "an event agrees where one of its parts does",
        CORE + "space.py",
        "same.flatten(2).all(-1)",
        "same.flatten(2).any(-1)",
        EVENTS,
    ),
    Mutant(
        "the memo is not settled",
        DECODING + "verify.py",
        "self.proposer.settle(memo, chunk)), chunk",
        "memo), chunk",
        DRAWN,
    ),
    Mutant(
        "guesses beyond the last pixel",
        DECODING + "verify.py",
        "max(0, end - 2 - max(run.state.lens))",
        "2**31",
        "pixelcnn or any-order",
    ),
    Mutant(
        "a prompt's padding stays consumed",
        DECODING + "verify.py",
        "state = state.rewind([max(lens) - n for n in lens])",
        "pass",
        DRAWN,
    ),
    Mutant(
        "scores under the warped law",
        DECODING + "verify.py",
        "chunk = Chunk(x, [1] * len(state.lens), law.log_prob(x))",
        "chunk = Chunk(x, [1] * len(state.lens), run.warp(law).log_prob(x))",
        "markov",
    ),
    Mutant(
        "a warp that is not selected with its rows",
        CORE + "decoder.py",
        "warp=self.warp.select(rows),",
        "warp=self.warp,",
        DRAWN,
    ),
    Mutant(
        "temperature applied twice",
        CORE + "distributions.py",
        "log_p / torch.where(t > 0, t, 1)",
        "log_p / torch.where(t > 0, t * t, 1)",
        DRAWN,
    ),
]
