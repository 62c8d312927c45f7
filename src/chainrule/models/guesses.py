"""What a transformer guesses ahead of itself: by extra heads, or by filling in a block of blanks.

Shapes: B rows, T sequence length, P places, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from chainrule.core.noise import Noise, Positions
from chainrule.core.state import State
from chainrule.nn.heads import LinearCategorical

if TYPE_CHECKING:
    from chainrule.models.transformer import Transformer

SPARSE = 4  # extra heads learn from one place in so many: they are small


def by_heads(
    model: Transformer, state: State, last: Tensor, n: int, noise: Noise, warp: Any
) -> Tensor | None:
    """``Transformer.guess_ahead``."""
    if model.ahead is None:
        return None
    hidden, x = state.window("hidden")[:, -1:], last
    guesses = []
    for i in range(1, n + 1):
        hidden = model.ahead(hidden, model.embedding(x))
        at = Positions(tuple([length + i for length in state.lens]), 1)
        x = warp(model.law(hidden)).sample(noise.at(at))
        guesses.append(x)
    return torch.cat(guesses, 1)


def heads_log_prob(model: Transformer, law: LinearCategorical, x: Tensor) -> tuple[Tensor, Tensor]:
    """``Transformer.ahead_log_prob``."""
    assert model.ahead is not None
    places = torch.arange(0, max(0, x.shape[1] - model.config.ahead), SPARSE, device=x.device)
    hidden, found = law.hidden.detach()[:, places], []
    for i in range(1, model.config.ahead + 1):
        symbol = model.embedding.weight.detach()[x[:, places + i - 1]]
        hidden = model.ahead(hidden, symbol)
        guess = model.law(hidden)
        guess = LinearCategorical(hidden, guess.weight.detach(), guess.bias)
        found.append(guess.log_prob(x[:, places + i]))
    return torch.stack(found, -1), places


def by_blanks(
    model: Transformer, state: State, last: Tensor, n: int, noise: Noise, warp: Any
) -> Tensor | None:
    """``Transformer.guess_block``."""
    if not model.config.masked:
        return None
    n = min(n, model.room(state) - 1)
    if n < 1:
        return last[:, :0]
    unknown = last.new_full((len(last), n), len(model.embedding.weight) - 1)
    both = torch.ones(len(last), n + 1, dtype=torch.bool, device=last.device)
    both[:, 0] = False  # its law is the causal one, so the first guess is right
    hidden = model.behind(state, torch.cat([last, unknown], 1), both)
    law = model.law(torch.cat([hidden[:, :1], hidden[:, 2:]], 1))
    begin = Positions(tuple([k + 1 for k in state.lens]), n)
    guess: Tensor = warp(law).sample(noise.at(begin))
    return guess
