"""Ways to break the nets that fill in blanks and the decoders over them."""

from __future__ import annotations

from tests.laws.mutations import DECODING, Mutant

BLANKS, FILLERS = "src/chainrule/models/blanks.py", "blanks or blank-blocks"

MASKED = [
    Mutant(
        "unknown symbols that are looked at behind a state",
        BLANKS,
        "inputs = x.masked_fill(~known, self.unknown)\n        return",
        "inputs = x\n        return",
        FILLERS,
    ),
    Mutant(
        "blanks that see what precedes them alone",
        BLANKS,
        "return model.law(model.behind(state, inputs, ~_leading(known)))",
        "return model.law(model.behind(state, inputs, ~_leading(known) & False))",
        FILLERS,
    ),
    Mutant(
        "known places that see the blanks behind them",
        BLANKS,
        "both = F.pad(~_leading(known), (1, 0))",
        "both = F.pad(~_leading(known), (1, 0), value=True)",
        FILLERS,
    ),
    Mutant(
        "picks drawn with the noise of the place before",
        DECODING + "masked.py",
        "run.state.pos(size, back=-1)",
        "run.state.pos(size)",
        FILLERS,
    ),
    Mutant(
        "blocks as short as the shortest of the batch",
        DECODING + "masked.py",
        "sizes = [max(0, min(n, m - 1)) for n, m in zip(self._wanted(run), rooms, strict=True)]",
        "sizes = [max(0, min(*self._wanted(run), min(rooms) - 1))] * len(rooms)",
        FILLERS,
    ),
    Mutant(
        "prompts of unlike lengths that begin together",
        DECODING + "masked.py",
        "groups = _grouped([len(p) for p in prompt])",
        "groups = [list(range(len(prompt)))]",
        FILLERS,
    ),
    Mutant(
        "groups of rows that come back in another order",
        DECODING + "masked.py",
        "for run, _ in parts]).select(back)",
        "for run, _ in parts])",
        FILLERS,
    ),
    Mutant(
        "scores of a block under the law that fills it in",
        DECODING + "masked.py",
        "chunk = Chunk(x, [size + 1] * len(x), law.log_prob(x))",
        "chunk = Chunk(x, [size + 1] * len(x), self.net(x, x < 0).log_prob(x))",
        FILLERS,
    ),
]
