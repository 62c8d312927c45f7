"""Ways to break the code on purpose: each must be caught by a law."""

from __future__ import annotations

from dataclasses import dataclass

CORE, DECODING, MODELS, TESTS = (
    "src/chainrule/core/",
    "src/chainrule/decoding/",
    "src/chainrule/models/",
    "tests/models/",
)
# Few entries for each, so that the whole run takes minutes; pytest's -k.
DRAWN = "markov or pixelcnn"
CACHED = "label-gru or seq2seq or conv-wide"
EVENTS = "pixelcnn or gaussian-2 or oracle_of"
ONE = "markov or test_1_oracle"


@dataclass(frozen=True)
class Mutant:
    """One replacement: ``old`` must stand in the file exactly once."""

    name: str
    file: str
    old: str
    new: str
    entries: str


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
        "fits = 0 <= ahead <= have.length - pos.length",
        "fits = 0 <= ahead < have.length",
        DRAWN,
    ),
    Mutant(
        "a block of noise shared by rows that moved apart",
        CORE + "noise.py",
        "if fits and all(p - h == ahead",
        "if fits and all(True or p - h == ahead",
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

MODEL = [
    Mutant(
        "replay reads one position too late",
        CORE + "model.py",
        "first = [n - state.tail for n in state.lens]",
        "first = [n - state.tail + 1 for n in state.lens]",
        "pixelcnn",
    ),
    Mutant(
        "a shift by one in the default forward",
        CORE + "model.py",
        "return self.predict(full)[:, : x.shape[1]], full",
        "return self.predict(full)[:, 1:], full",
        CACHED,
    ),
    Mutant(
        "a state that carries its graph",
        CORE + "model.py",
        "full.trim().detach()",
        "full.trim()",
        "label-gru or seq2seq or mixture",
    ),
    Mutant(
        "an unread condition is ignored",
        CORE + "model.py",
        "if name not in self.reads:",
        "if False:",
        "markov or label-gru",
    ),
    Mutant(
        "any-order sees the place that it predicts",
        CORE + "model.py",
        "known = (rank < step",
        "known = (rank <= step",
        "any-order",
    ),
    Mutant(
        "channels whose mixture is not re-weighted",
        CORE + "joint.py",
        "mix = mix + self._channel(j, prefix, mix).component_log_prob(prefix[..., j])",
        "pass",
        EVENTS,
    ),
    Mutant(
        "outermost levels without their tails",
        CORE + "distributions.py",
        ".masked_fill(x == self.levels - 1, math.inf)",
        "",
        EVENTS,
    ),
    Mutant(
        "a part drawn as if nothing came before it",
        CORE + "joint.py",
        "pick(i, self.part(i, x))",
        "pick(i, self.part(i, torch.zeros_like(x)))",
        EVENTS,
    ),
    Mutant(
        "counts one too low",
        CORE + "distributions.py",
        "return high",
        "return low",
        "counts",
    ),
    Mutant(
        "padding that is scored",
        CORE + "objective.py",
        "return -(log_prob * batch.weight).sum(), batch.weight.sum()",
        "return -log_prob.sum(), torch.tensor(float(log_prob.numel()))",
        "markov",
    ),
    Mutant(
        "recurrent outputs that have seen the symbol",
        MODELS + "rnn.py",
        "torch.cat([before[:, None, -self.config.hidden :].to(out_BTH), out_BTH[:, :-1]], 1)",
        "out_BTH",
        "gru or lstm",
    ),
    Mutant(
        "a stretch whose noise is one position late",
        MODELS + "rnn.py",
        "tuple([length + 1 for length in state.lens])",
        "tuple([length + 2 for length in state.lens])",
        "gru or lstm",
    ),
    Mutant(
        "the oldest recurrent state instead of the newest",
        MODELS + "rnn.py",
        'before, length = state.window("state")[:, -1], x.shape[1]',
        'before, length = state.window("state")[:, 0], x.shape[1]',
        "gru or lstm",
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

TEST_ONLY = [
    Mutant(
        "a table without its start symbol",
        TESTS + "markov.py",
        "before = torch.full((batch,), self.logits.shape[-1])",
        "before = torch.zeros(batch, dtype=torch.int64)",
        ONE,
    ),
    Mutant(
        "a table read one symbol late",
        TESTS + "markov.py",
        'state.window("last").unfold(1, ORDER, 1)',
        'state.window("last").roll(1, 1).unfold(1, ORDER, 1)',
        ONE,
    ),
    Mutant(
        "a GRU's forward without the shift",
        TESTS + "label_gru.py",
        "torch.cat([before, out[:, :-1]], 1)",
        "out",
        "label-gru",
    ),
    Mutant(
        "a GRU's forward that forgets the label",
        TESTS + "label_gru.py",
        'before = state.window("hidden")\n',
        'before = state.window("hidden") * 0\n',
        "label-gru",
    ),
    Mutant(
        "attention that sees one symbol ahead",
        TESTS + "seq2seq.py",
        "place <= pos_BL[..., None] + 1",
        "place <= pos_BL[..., None] + 2",
        "seq2seq",
    ),
    Mutant(
        "attention that sees the source's padding",
        TESTS + "seq2seq.py",
        'seen = state.fixed("memory_ok")[:, None]',
        'seen = (state.fixed("memory_ok") | True)[:, None]',
        "seq2seq",
    ),
    Mutant(
        "a convolution that is not causal",
        TESTS + "conv.py",
        "begin = torch.full((len(x), 1), self.embedding.num_embeddings - 1)\n"
        "        h = self.embedding(torch.cat([begin, x[:, :-1]], 1))",
        "h = self.embedding(x)",
        "conv-wide",
    ),
    Mutant(
        "a pixel that sees itself",
        TESTS + "pixelcnn.py",
        "CHANNELS + 1, dim, itself=False",
        "CHANNELS + 1, dim, itself=True",
        "pixelcnn",
    ),
    Mutant(
        "a mixture that never learns which model it was",
        TESTS + "mixture.py",
        "weights.push(after, kept)",
        "weights.push(weights.t[:, -1:].expand_as(after), kept)",
        "mixture or of_mixture",
    ),
]

MUTANTS = [*NOISE, *STATE, *MODEL, *LOOP, *TEST_ONLY]
