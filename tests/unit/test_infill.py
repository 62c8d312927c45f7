"""Blanks filled in from both sides, beside the enumeration of all ways to fill them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from scipy import stats
from torch import Tensor

from chainrule.core.model import AnyOrder, SequenceModel
from chainrule.core.space import Space
from chainrule.decoding import infill as module
from chainrule.decoding.infill import clamp, exact, infill, smc
from chainrule.decoding.warps import Warps
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import TransformerConfig
from tests.laws.tolerances import FALSE_ALARM, FLOAT64
from tests.models.markov import Markov
from tests.models.masked import MaskedNet

X = torch.tensor([0, 2, 1, 0, 2, 1])
KNOWN = torch.tensor([True, False, True, True, False, True])
BLANKS = [1, 4]
WAYS = torch.tensor(list(itertools.product(range(3), repeat=2)))
ALL = X.repeat(9, 1)
ALL[:, BLANKS] = WAYS
PARTICLES = 256


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(16)
    yield
    torch.set_default_dtype(torch.float32)


def markov() -> Markov:
    """Far from even, so that what follows a blank says much about it."""
    model = Markov(3).eval()
    with torch.no_grad():
        model.logits *= 2
    return model


def filler(context: int = 16) -> Transformer:
    config = TransformerConfig(
        Space("finite", 3), dim=16, num_layers=1, hidden=24, context=context, masked=True
    )
    model = Transformer(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.5 * torch.randn_like(p)
    return model


@torch.no_grad()
def log_probs(model: SequenceModel, x: Tensor) -> Tensor:
    return model(x).log_prob(x).sum(1)


def counts(symbols: Tensor) -> Tensor:
    """How often each way to fill the blanks came up: [9]."""
    index = symbols[:, BLANKS[0]] * 3 + symbols[:, BLANKS[1]]
    return torch.bincount(index, minlength=9)


def p_value(symbols: Tensor, p: Tensor) -> float:
    """Of chi-squared, what is rare put together."""
    seen, expected = counts(symbols).double(), p * len(symbols)
    few = expected < 5
    if few.any():
        seen, expected = (torch.cat([t[~few], t[few].sum()[None]]) for t in (seen, expected))
    return float(stats.chisquare(seen, expected).pvalue)


@pytest.mark.parametrize("order", [None, [4, 1]])
@pytest.mark.parametrize("kind", ["net", "transformer"])
def test_exact_is_the_enumeration(kind, order):
    made = filler().masked if kind == "transformer" else MaskedNet(3, 6).double().eval()
    joint = AnyOrder(made, [0, 2, 3, 5, *(order or BLANKS)])
    log_p = log_probs(joint, joint.to_order(ALL)).log_softmax(0)
    found = exact(made, X, KNOWN, range(2000), 1, order=order)
    assert torch.equal(found.symbols[:, KNOWN], X[KNOWN].expand(2000, -1))
    wanted = log_p[found.symbols[:, BLANKS[0]] * 3 + found.symbols[:, BLANKS[1]]]
    torch.testing.assert_close(found.log_prob, wanted, rtol=FLOAT64, atol=FLOAT64)
    assert p_value(found.symbols, log_p.exp()) > FALSE_ALARM


def test_smc_finds_the_posterior_and_clamping_does_not():
    model = markov()
    log_p = log_probs(model, ALL)
    posterior, evidence = log_p.softmax(0), log_p.logsumexp(0).exp()
    law = model(ALL).log_prob(ALL)
    forward = law[:, BLANKS].sum(1).exp().detach()  # each blank given what precedes it
    assert float((posterior - forward).abs().sum()) / 2 > 0.2

    clamped = clamp(model, X, KNOWN, range(4000), 1)
    assert p_value(clamped.symbols, forward) > FALSE_ALARM
    assert p_value(clamped.symbols, posterior) < FALSE_ALARM
    wanted = forward.log()[clamped.symbols[:, 1] * 3 + clamped.symbols[:, 4]]
    torch.testing.assert_close(clamped.log_prob, wanted, rtol=FLOAT64, atol=FLOAT64)

    runs = [smc(model, X, KNOWN, PARTICLES, seed, PARTICLES) for seed in range(100)]
    shares = torch.stack([counts(r.symbols) / PARTICLES for r in runs])
    common = posterior > 0.01  # Student's t wants more than a few of each
    agrees(shares[:, common], posterior[common])
    agrees(torch.tensor([[math.exp(r.log_evidence)] for r in runs]), evidence[None])
    for run in runs:
        assert 1 <= run.effective_sample_size <= PARTICLES
        wanted = log_p[run.symbols[:, 1] * 3 + run.symbols[:, 4]] - run.log_evidence
        torch.testing.assert_close(run.log_prob, wanted, rtol=FLOAT64, atol=FLOAT64)
    assert len({r.effective_sample_size for r in runs}) > 1


def agrees(runs: Tensor, wanted: Tensor) -> None:
    """The mean of independent runs [M, K] is what is wanted, by Student's t."""
    error = runs.std(0) / len(runs) ** 0.5
    z = ((runs.mean(0) - wanted) / error).abs().max()
    assert float(z) < stats.t.isf(FALSE_ALARM / (2 * runs.shape[1]), len(runs) - 1)


def test_effective_sample_size_says_what_the_known_part_costs():
    model = markov()
    nothing_follows = torch.tensor([True, True, True, False, False, False])
    assert smc(model, X, nothing_follows, 1, 0, 64).effective_sample_size == pytest.approx(64)
    spread = smc(model, X, KNOWN, 1, 0, 64).effective_sample_size
    assert 1 <= spread < 63
    assert smc(model, X, KNOWN, 3, 0, 1).effective_sample_size == 1
    # Many known stretches: resampling evens out the weights and can't hide the common ancestor.
    x = X.repeat(20)
    assert smc(model, x, KNOWN.repeat(20), 1, 0, 16).effective_sample_size < 4


@pytest.mark.parametrize("method", ["exact", "clamp", "smc"])
def test_a_sample_depends_on_the_seed_and_its_number_alone(method):
    model = filler()
    one = infill(model, X, KNOWN, method, 70, seed=3)
    again = infill(model, X, KNOWN, method, 70, seed=3)
    assert torch.equal(one.symbols, again.symbols)
    assert not torch.equal(one.symbols, infill(model, X, KNOWN, method, 70, seed=4).symbols)
    if method != "smc":  # its samples are drawn together
        fewer = infill(model, X, KNOWN, method, 5, seed=3)
        assert torch.equal(one.symbols[:5], fewer.symbols)
        torch.testing.assert_close(one.log_prob[:5], fewer.log_prob, rtol=FLOAT64, atol=FLOAT64)


def test_greedy():
    model = filler()
    found = infill(model, X, KNOWN, n=3, warp=Warps.of(1, temperature=0))
    assert found.method == "exact"
    assert len(found.symbols.unique(dim=0)) == 1
    known, x = KNOWN.clone(), X.clone()
    for place in BLANKS:
        law = model.masked(x[None], known[None])
        x[place] = law.mode()[0, place]
        known[place] = True
    assert torch.equal(found.symbols[0], x)


def test_long_known_stretches_are_weighed_in_pieces(monkeypatch):
    model = markov()
    whole = smc(model, X, KNOWN, 5, 0, 32)
    monkeypatch.setattr(module, "_LAWS", 1)
    pieces = smc(model, X, KNOWN, 5, 0, 32)
    assert torch.equal(whole.symbols, pieces.symbols)
    assert whole.log_evidence == pytest.approx(pieces.log_evidence, rel=FLOAT64)


def test_what_can_not_be_done_says_so():
    model = markov()
    with pytest.raises(ValueError, match=r"smc .*or clamp .*fit with --objective hybrid"):
        infill(model, X, KNOWN)
    with pytest.raises(ValueError, match=r"smc .*or clamp"):
        infill(model, X, KNOWN, "exact")
    with pytest.raises(ValueError, match="leave the temperature"):
        infill(model, X, KNOWN, "smc", warp=Warps.of(1, temperature=0.5))
    with pytest.raises(ValueError, match="nothing to fill in"):
        infill(model, X, torch.ones(6, dtype=torch.bool), "smc")
    with pytest.raises(ValueError, match="5 places are known or not, and the sequence has 6"):
        infill(model, X, KNOWN[:5], "clamp")
    with pytest.raises(ValueError, match="particles must be"):
        infill(model, X, KNOWN, "smc", particles=0)
    with pytest.raises(ValueError, match="names each of them once"):
        exact(filler().masked, X, KNOWN, [0], 0, order=[1, 1])
    with torch.no_grad():
        model.logits[:, :, 1] = -math.inf  # symbol 1 never comes, and it is known
    with pytest.raises(ValueError, match="no particle agrees"):
        infill(model, X, KNOWN, "smc")
