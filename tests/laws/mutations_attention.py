"""Ways to break transformers and their cache; see mutations.py."""

from __future__ import annotations

from tests.laws.mutations import CORE, Mutant

TRANSFORMER, ATTENTION = "src/chainrule/models/transformer.py", "src/chainrule/nn/attention.py"
BLOCK = "src/chainrule/nn/block.py"
BEYOND = "sliding or no-sinks or blocks"

ATTENDING = [
    Mutant(
        "a band that is one key too wide in the cache's first block",
        ATTENTION,
        "low, high = max(0, min(first) - recent + 1)",
        "low, high = max(0, min(first) - recent + 2)",
        BEYOND,
    ),
    Mutant(
        "sinks that are out of sight",
        ATTENTION,
        "if low and sinks:",
        "if False:",
        BEYOND,
    ),
    Mutant(
        "a query that sees the symbol it predicts",
        ATTENTION,
        "device=q_BHTK.device).triu(1)",
        "device=q_BHTK.device).triu(2)",
        "transformer or gpt2",
    ),
    Mutant(
        "the same in the layer's own node",
        BLOCK,
        ".triu_(1)",
        ".triu_(2)",
        "transformer or gpt2",
    ),
    Mutant(
        "positions that begin anew with every block",
        TRANSFORMER,
        "self._run(kv, piece, [n + 1 for n in state.lens]",
        "self._run(kv, piece, [1 for n in state.lens]",
        "transformer or sliding",
    ),
    Mutant(
        "a cache that drops what is still seen",
        TRANSFORMER,
        "self.config.context - self.config.sinks + tail",
        "self.config.context - self.config.sinks - 2",
        BEYOND,
    ),
    Mutant(
        "a block that was left by a rewind is trusted",
        "src/chainrule/core/blocks.py",
        "if held == n - begin + 1 else 0",
        "",
        "blocks",
    ),
    Mutant(
        "rows that change places where a block ends",
        "src/chainrule/core/blocks.py",
        ".select([order.index(b) for b in rows])",
        "",
        "blocks",
    ),
    Mutant(
        "a compact cache that keeps the oldest",
        CORE + "state.py",
        "source.narrow(axis - 1, old - tail, tail)",
        "source.narrow(axis - 1, head, tail)",
        BEYOND,
    ),
    Mutant(
        "the head of another position",
        TRANSFORMER,
        "hidden=hidden[:, -1 - kept :])",
        "hidden=hidden[:, : 1 + kept])",
        "transformer or sliding",
    ),
]
