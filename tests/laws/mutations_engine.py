"""Ways to break the lowering of models and what runs a Program; see mutations.py."""

from __future__ import annotations

from tests.laws.mutations import Mutant

ENGINE, MODELS = "src/chainrule/engine/", "src/chainrule/models/"

LOWERED = [
    Mutant(
        "sinks that look one position farther off than the context",
        MODELS + "lower_transformer.py",
        "rope(edge, from_q, config.context - 1)",
        "rope(edge, from_q, config.context)",
        "sliding",
    ),
    Mutant(
        "a program whose keys are not the newest ones alone",
        ENGINE + "reference.py",
        "(query - key < op.window)",
        "(query - key <= op.window)",
        "sliding or no-sinks",
    ),
    Mutant(
        "sinks that a program forgets",
        ENGINE + "reference.py",
        "((query - key < op.window) | (key < op.sinks))",
        "(query - key < op.window)",
        "sliding",
    ),
    Mutant(
        "a program's cache that drops what a rewind may want",
        ENGINE + "lowered.py",
        "self.compact(name, cache, op.sinks, recent)",
        "self.compact(name, cache, op.sinks, op.window)",
        "sliding or no-sinks",
    ),
    Mutant(
        "a program's positions that begin one too early",
        ENGINE + "lowered.py",
        "return [n + 1 for n in state.lens]",
        "return list(state.lens)",
        "transformer or seq2seq",
    ),
    Mutant(
        "a block that begins late",
        "src/chainrule/core/blocks.py",
        "return number * stride, context",
        "return number * stride + (number > 0), context",
        "blocks",
    ),
    Mutant(
        "a program's head that reads another position",
        ENGINE + "lowered.py",
        "hidden[:, -1 - kept :]",
        "hidden[:, : 1 + kept]",
        "lstm",
    ),
    Mutant(
        "an lstm's hidden vector taken for its cell",
        ENGINE + "reference.py",
        "state.chunk(2, -1)[0]",
        "state.chunk(2, -1)[1]",
        "lstm",
    ),
    Mutant(
        "padding of the memory that a program sees",
        ENGINE + "reference.py",
        'self.fixed[f"{op.memory}_ok"][:, None, None]',
        'self.fixed[f"{op.memory}_ok"][:, None, None] | True',
        "seq2seq",
    ),
    Mutant(
        "n-grams that begin behind another symbol",
        MODELS + "ngram.py",
        'size,\n            {"symbol": p.Buffer(1)',
        '0,\n            {"symbol": p.Buffer(1)',
        "ngram",
    ),
    Mutant(
        "a residual that a program leaves out",
        MODELS + "rnn.py",
        'out = "above" if i and self._summed else "hidden"',
        'out = "hidden"',
        "gru",
    ),
]
