"""The gate: two sets of laws over the same symbols are the same, or it says by how much not.

Shapes: P prompts, T symbols, V alphabet size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.laws.tolerances import PARITY_KL, REFERENCE32


def normal(logits_TV: Tensor) -> Tensor:
    """Log-probabilities in float64, so that no rounding of the sum is left in a divergence."""
    wide = logits_TV.double()
    return wide - wide.logsumexp(-1, keepdim=True)


def differences(
    ours: Sequence[Tensor], theirs: Sequence[Tensor], symbols: Sequence[Tensor]
) -> tuple[float, float]:
    """The largest |Δ log p(x_t)|, and the mean KL divergence in nats, over all prompts."""
    worst, total, count = 0.0, 0.0, 0
    for a, b, x in zip(ours, theirs, symbols, strict=True):
        a, b = normal(a), normal(b)
        worst = max(worst, float((a - b).gather(-1, x[:, None]).abs().max()))
        total += float((a.exp() * (a - b)).sum())
        count += len(x)
    return worst, total / count


def passes(ours: Sequence[Tensor], theirs: Sequence[Tensor], symbols: Sequence[Tensor]) -> bool:
    """Whether they are the same within the tolerances of the parity tests."""
    worst, divergence = differences(ours, theirs, symbols)
    return worst <= REFERENCE32 and divergence <= PARITY_KL


@torch.no_grad()
def of_ours(model: Any, symbols: Sequence[Tensor]) -> list[Tensor]:
    """Log-probabilities [T, V] of a model of ours."""
    return [model(x[None]).log_probs()[0] for x in symbols]


@torch.no_grad()
def of_transformers(model: Any, symbols: Sequence[Tensor], begin: int) -> list[Tensor]:
    """Logits [T, V] of a model of transformers', the start symbol put before x."""
    found = []
    for x in symbols:
        inputs = torch.cat([torch.tensor([begin]), x[:-1]])
        found.append(model(inputs[None]).logits[0].float())
    return found


def llama_cpp_tokens(path: Any, text: str) -> list[int]:
    """Symbols [T] as llama.cpp makes them of a prompt, the start symbol first if it is told so."""
    from llama_cpp import Llama

    model = Llama(str(path), vocab_only=True, verbose=False)
    found: list[int] = model.tokenize(text.encode(), add_bos=True)
    model.close()
    return found


def of_llama_cpp(path: Any, symbols: Sequence[Tensor], begin: int) -> list[Tensor]:
    """Logits [T, V] of llama.cpp, with keys and values in float32."""
    from llama_cpp import Llama

    longest = max(map(len, symbols))
    model = Llama(
        str(path),
        n_ctx=longest + 1,
        logits_all=True,
        verbose=False,
        n_threads=2,
        type_k=0,
        type_v=0,
    )
    found = []
    for x in symbols:
        model.reset()
        model.eval([begin, *x[:-1].tolist()])
        found.append(torch.from_numpy(np.array(model.scores[: len(x)])))
    model.close()
    return found
