"""Continuations behind contexts that they share: what the score of the whole says of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from chainrule.core.space import Space
from chainrule.engine import native_available
from chainrule.engine.compiled import Compiled
from chainrule.models.ngram import NGram, NGramConfig
from chainrule.models.rnn import RNN, RNNConfig
from chainrule.models.transformer import Transformer
from chainrule.registry import RECIPES
from chainrule.training import scoring
from chainrule.training.scoring import continuation_log_probs, log_probs
from tests.laws.tolerances import FLOAT64
from tests.models.markov import Markov

SPACE = Space("finite", 11, eos=10)


def ngram() -> NGram:
    model = NGram(NGramConfig(SPACE, 3)).eval()
    model.estimate([np.random.default_rng(1).integers(0, 5, 500)])
    return model


def spread(model):
    """Weights that are far from uniform, in float64."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    return model.double().eval()


def short(name):
    """A context of 16, so that texts outgrow it."""
    return spread(Transformer(replace(RECIPES[name](SPACE, "tiny"), context=16)))


MODELS = {
    "ngram": ngram,
    "lstm": lambda: spread(RNN(RNNConfig(SPACE, "lstm", 2, 8, 8))),
    "transformer": lambda: short("transformer"),
    "gpt2": lambda: short("gpt2"),
    "markov": lambda: Markov(SPACE.size).double(),
}


def pairs():
    """Shared contexts, none, long ones, and continuations of nothing."""
    dice = np.random.default_rng(7)
    texts = [dice.integers(0, 10, n) for n in (0, 3, 20, 21, 40, 70)]
    sizes = [(0, 4), (1, 2), (2, 5), (2, 0), (1, 1), (3, 30), (2, 7), (4, 1), (5, 3), (0, 1)]
    return [(texts[i], dice.integers(0, 10, n)) for i, n in sizes]


def expected(model, context, piece):
    whole = log_probs(model, np.concatenate([context, piece]))
    return float(whole[len(context) :].sum())


@pytest.mark.parametrize("name", MODELS)
def test_a_continuation_is_a_part_of_the_whole(name, monkeypatch):
    torch.manual_seed(1)
    model = MODELS[name]()
    found = continuation_log_probs(model, pairs())
    for (context, piece), (nats, _) in zip(pairs(), found, strict=True):
        assert nats == pytest.approx(expected(model, context, piece), rel=FLOAT64, abs=1e-9)
    order = np.random.default_rng(3).permutation(len(found))
    again = continuation_log_probs(model, [pairs()[i] for i in order])
    for i, (nats, greedy) in zip(order, again, strict=True):
        assert (nats, greedy) == (pytest.approx(found[i][0], rel=FLOAT64), found[i][1])
    for name, value in (("_ROWS", 2), ("_TOGETHER", 30), ("_SPREAD", 1), ("_BLOCK", 60)):
        monkeypatch.setattr(scoring, name, value)
    for (nats, greedy), was in zip(continuation_log_probs(model, pairs()), found, strict=True):
        assert (nats, greedy) == (pytest.approx(was[0], rel=FLOAT64), was[1])


@pytest.mark.parametrize("name", MODELS)
def test_greedy_is_what_greedy_decoding_writes(name):
    torch.manual_seed(2)
    model = MODELS[name]()
    context = np.array([1, 2, 3])
    state, x = model.extend(model.start(1), torch.tensor(context)[None]), []
    for _ in range(4):
        x.append(int(model.predict(state).mode()[0, -1]))
        state = model.extend(state, torch.tensor([[x[-1]]]))
    other = [*x[:3], (x[3] + 1) % 10]
    asked = [(context, np.array(piece)) for piece in (x, other, x[:2], [])]
    assert [greedy for _, greedy in continuation_log_probs(model, asked)] == [
        True,
        False,
        True,
        True,
    ]


@pytest.mark.skipif(not native_available(), reason="no C++17 compiler was there")
@pytest.mark.parametrize("name", ["ngram", "lstm", "transformer"])
def test_the_engine_answers_alike(name):
    torch.manual_seed(1)
    model = MODELS[name]()
    model = model if name == "ngram" else model.float()
    engine = Compiled(model, "f32", 1)
    told = []
    found = continuation_log_probs(engine, pairs(), told.append)
    for (nats, _), (other, _) in zip(found, continuation_log_probs(model, pairs()), strict=True):
        assert nats == pytest.approx(other, rel=1e-4, abs=1e-5)
    assert told[-1] == len(pairs())
