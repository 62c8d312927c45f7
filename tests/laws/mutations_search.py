"""Ways to break search, mixing and constraints; see mutations.py."""

from __future__ import annotations

from tests.laws.mutations import DECODING, Mutant

CONSTRAINTS = "src/chainrule/models/constraints.py"
SEARCHED, BEAM = "markov or label-gru or sliding", DECODING + "beam.py"

SEARCH = [
    Mutant(
        "a beam that forgets what a prefix cost",
        BEAM,
        "totals = total + law",
        "totals = 0 * total + law",
        SEARCHED,
    ),
    Mutant(
        "hypotheses with each other's states",
        BEAM,
        "model.extend(state.select(rows), ",
        "model.extend(state.select(sorted(rows)), ",
        SEARCHED,
    ),
    Mutant(
        "a search that ends by the length so far",
        BEAM,
        "penalised(reach, rules.length, ",
        "penalised(reach, len(past[first]) + 1, ",
        SEARCHED,
    ),
    Mutant(
        "an end that counts from below the beam",
        BEAM,
        "why is not None and rank < rules.size",
        "why is not None",
        SEARCHED,
    ),
    Mutant(
        "an end that takes a place in the beam",
        BEAM,
        "2 * rules.size + len(known)",
        "rules.size + len(known)",
        SEARCHED,
    ),
    Mutant(
        "a length penalty upside down",
        BEAM,
        "return log_prob / penalty",
        "return log_prob * penalty",
        SEARCHED,
    ),
    Mutant(
        "groups that don't see each other",
        BEAM,
        "- rules.diversity * chosen",
        "- 0 * chosen",
        SEARCHED,
    ),
    Mutant(
        "an ensemble whose shares are one each",
        "src/chainrule/models/mixing.py",
        "each + share.log()",
        "each",
        "ensemble",
    ),
    Mutant(
        "a constraint that reads the first symbol it only waits for",
        CONSTRAINTS,
        "max(0, -int(now.max()))",
        "max(1, -int(now.max()))",
        "constrained",
    ),
    Mutant(
        "a constraint that forgets how it got here",
        CONSTRAINTS,
        "old.push(torch.stack(new[1:], 1), kept)",
        "old.push(torch.stack(new[1:], 1) * 0, kept)",
        "constrained",
    ),
    Mutant(
        "a constraint that counts from the newest symbol",
        CONSTRAINTS,
        "state.pos(state.tail + 1, back=state.tail)",
        "state.pos(state.tail + 1)",
        "constrained",
    ),
]
