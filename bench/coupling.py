"""How often a draft that shares the target's dice agrees with it, beside the bound.

At contexts that the target itself wrote, under its law p and a draft's law q: the share of
positions whose Gumbel-max symbols agree, over DICE draws a position; the bound that coupling
without communication guarantees, (1 - TV) / (1 + TV); and 1 - TV, what rejection sampling would
accept, which doesn't keep the target's symbols. Means over positions, and the least ratio of
agreement to bound in a tenth of the positions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.common import save, table
from bench.strategies import trained
from chainrule.core.model import SequenceModel
from chainrule.core.noise import Noise, Positions

ROWS, LENGTH, DICE, BURN = 16, 160, 200, 8
HEATS = (1.0, 0.7, 0.3)


def main(data: Path | None) -> None:
    """The table, stored."""
    if data is None:
        print("skipped: it needs text/tinyshakespeare.txt: --data FOLDER")
        return
    torch.set_num_threads(1)
    runs = trained(data)
    run = runs["transformer"]
    samples = run.generate([""] * ROWS, length=LENGTH, strategy="ancestral", seed=5)
    texts = [torch.tensor(s.symbols) for s in samples if len(s.symbols) == LENGTH]
    x = torch.stack(texts)
    target = _laws(run.artifact.model, x)
    drafts: dict[str, Tensor] = {
        "n-gram table": _laws(run.artifact.baseline, x),
        "GRU, tiny": _laws(runs["gru"].artifact.model, x),
        "LSTM, small": _laws(runs["lstm"].artifact.model, x),
    }
    rows, out = [], {}
    for name, law in drafts.items():
        for heat in HEATS:
            found = coupled(target, law, heat)
            out[f"{name}, temperature {heat:g}"] = found
            rows.append([name, heat, found["agreement"], found["bound"], found["one_minus_tv"]])
            rows[-1].append(found["least_of_bound"])
    head = ["draft", "temperature", "agreement", "(1-TV)/(1+TV)", "1-TV", "least, of bound"]
    table(head, rows)
    save("coupling", {"positions": x.numel(), "dice": DICE, "by_draft": out})


@torch.no_grad()
def _laws(model: SequenceModel, x: Tensor) -> Tensor:
    """Log-probabilities [N, V] at every place behind the first few."""
    law: Any = model(x)
    return law.log_probs()[:, BURN:].flatten(0, 1).double()


def coupled(p: Tensor, q: Tensor, heat: float) -> dict[str, float]:
    """Mean agreement, bound and 1 - TV of laws [N, V]; and the least agreement over bound."""
    p, q = (p / heat).log_softmax(-1), (q / heat).log_softmax(-1)
    agreed = torch.zeros(len(p), dtype=torch.float64)
    for die in range(DICE):
        noise = Noise.seeded(die, [0]).at(Positions((0,), len(p)))
        gumbel = noise.gumbel(p.shape[1])[0]
        agreed += (p + gumbel).argmax(-1) == (q + gumbel).argmax(-1)
    agreed /= DICE
    tv = (p.exp() - q.exp()).abs().sum(-1) / 2
    bound = (1 - tv) / (1 + tv)
    groups = np.array_split(tv.argsort().numpy(), 10)
    return {
        "agreement": float(agreed.mean()),
        "bound": float(bound.mean()),
        "one_minus_tv": float(1 - tv.mean()),
        "least_of_bound": min(float(agreed[g].mean() / bound[g].mean()) for g in groups),
    }
