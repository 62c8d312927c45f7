"""Ways to break models and distributions; see mutations.py."""

from __future__ import annotations

from tests.laws.mutations import CACHED, CORE, EVENTS, Mutant

MODELS, TESTS = "src/chainrule/models/", "tests/models/"
ONE = "markov or test_1_oracle"

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
    Mutant(
        "what is known of a step is told one step late",
        MODELS + "rnn.py",
        "state.pos(x.shape[1], back=-1)",
        "state.pos(x.shape[1], back=0)",
        "lstm-real",
    ),
    Mutant(
        "the last known step is told for ever",
        "src/chainrule/nn/scalars.py",
        " * (pos <= last)[..., None]",
        "",
        "lstm-real or transformer-real",
    ),
    Mutant(
        "an autoregression of all that its window holds",
        MODELS + "linear.py",
        ".unfold(1, len(self.phi), 1)  # [B, R + 1, P], the newest last",
        ".unfold(1, len(self.phi), 1)[:, :1]",
        "[ar]",
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
