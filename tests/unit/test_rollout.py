"""The report on error accumulation beside processes whose answer has a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from chainrule.core.distributions import Bernoulli, Categorical, Normal, StudentT
from chainrule.core.model import Condition, SequenceModel
from chainrule.core.space import Space
from chainrule.core.state import State, Window
from chainrule.verbs import rollout as module
from chainrule.verbs.rollout import Stretch, divergence, measure
from tests.laws.tolerances import CLOSED_FORM, EXACT, FLOAT32, FLOAT64, REFERENCE64
from tests.models.markov import Markov
from tests.models.scalar import StudentAR

T = 48
SAMPLES = [4096, pytest.param(65_536, marks=pytest.mark.slow)]
# From 3 the oracle comes back and the model hardly does; the oracle is seldom there.
TRUE = [
    [0.60, 0.25, 0.14, 0.01],
    [0.10, 0.60, 0.29, 0.01],
    [0.30, 0.19, 0.50, 0.01],
    [0.4, 0.3, 0.2, 0.1],
]
LEARNED = [
    [0.50, 0.28, 0.12, 0.10],
    [0.15, 0.50, 0.25, 0.10],
    [0.25, 0.20, 0.45, 0.10],
    [0.1, 0.1, 0.1, 0.7],
]
FIRST_TRUE, FIRST_LEARNED = [0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]


def chain(first: list[float], rows: list[list[float]]) -> Markov:
    """An order-1 chain with this initial law and these rows."""
    model = Markov(4).double().eval()
    with torch.no_grad():
        model.logits[:, :4] = torch.tensor(rows).double().log()
        model.logits[4, 4] = torch.tensor(first).double().log()
    return model


class AR(SequenceModel):
    """x_t ~ N(a · (x_{t-1}, …, x_{t-p}), scale²), zeros before the beginning."""

    space = Space("real")

    def __init__(self, a: list[float], scale: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.scale = scale

    def start(self, batch: int, cond: Condition | None = None) -> State:
        before = torch.zeros(batch, dtype=torch.float64)
        return State((0,) * batch, {"last": Window.full(before, len(self.a))})

    def extend(self, state: State, x: Tensor, tail: int = 0) -> State:
        return state.push(x.shape[1], tail, last=x.double())

    def predict(self, state: State) -> Normal:
        past = state.window("last").unfold(1, len(self.a), 1)
        loc = past @ self.a.flip(0)
        return Normal(loc, torch.full_like(loc, self.scale))


def report(oracle: SequenceModel, model: SequenceModel, samples: int) -> list[Stretch]:
    data, _ = module.drawn(oracle, range(samples), T, seed=99)
    return measure(oracle, model, data, seed=1)


def held_to(found: list[Stretch], error, rolled, own, data) -> None:
    """Every stretch against the closed form, given position by position."""
    assert [s.last for s in found] == [1, 2, 4, 8, 16, 32, T]
    for s in found:
        upto, here = slice(0, s.last), slice(s.first - 1, s.last)
        wanted = {
            "error": np.mean(error[upto]),
            "rolled": np.mean(rolled[upto]),
            "own_nats": np.mean(own[here]),
            "data_nats": np.mean(data[here]),
            "nll_ratio": np.mean(own[here]) / np.mean(data[here]),
            "excess": 100 * (np.sum(rolled[upto]) / np.sum(error[upto]) - 1),
        }
        for name, value in wanted.items():
            whole = 100 + value if name == "excess" else value
            assert abs(getattr(s, name) - value) < CLOSED_FORM * abs(whole), (name, s)
    wanted_excess = 100 * (np.sum(rolled) / np.sum(error) - 1)
    assert abs(found[-1].excess / wanted_excess - 1) < CLOSED_FORM


@pytest.mark.parametrize("samples", SAMPLES)
def test_markov_chain(samples: int, monkeypatch):
    """Transient laws by powers of the matrices, divergences and entropies by row."""
    monkeypatch.setattr(module, "ROWS", 4096)
    o, p = np.array([FIRST_TRUE, *TRUE]), np.array([FIRST_LEARNED, *LEARNED])
    kl = (o * np.log(o / p)).sum(1)
    entropy, cross = -(p * np.log(p)).sum(1), -(o * np.log(p)).sum(1)

    def expected(rows: np.ndarray, value: np.ndarray) -> list[float]:
        powers = [rows[0] @ np.linalg.matrix_power(rows[1:], t) for t in range(T - 1)]
        return [value[0], *(float(law @ value[1:]) for law in powers)]

    found = report(chain(FIRST_TRUE, TRUE), chain(FIRST_LEARNED, LEARNED), samples)
    held_to(found, expected(o, kl), expected(p, kl), expected(p, entropy), expected(o, cross))
    assert found[-1].excess > 100


@pytest.mark.parametrize("samples", SAMPLES)
def test_autoregression(samples: int, monkeypatch):
    """Normal laws whose prefixes have a known covariance, by its recursion."""
    monkeypatch.setattr(module, "ROWS", 4096)
    a, b, so, sp = np.array([0.5, 0.2]), np.array([0.7, 0.25]), 1.0, 1.3

    def moments(a: np.ndarray, scale: float) -> np.ndarray:
        """E of the square of (a - b) · (the last two), position by position."""
        step, cov, out = np.array([a, [1, 0]]), np.zeros((2, 2)), []
        for _ in range(T):
            out.append(float(delta @ cov @ delta))
            cov = step @ cov @ step.T + np.diag([scale**2, 0])
        return np.array(out)

    delta = a - b
    behind_data, behind_own = moments(a, so), moments(b, sp)
    error, rolled = (
        math.log(sp / so) + (so**2 + m) / (2 * sp**2) - 0.5 for m in (behind_data, behind_own)
    )
    own = np.full(T, 0.5 * math.log(2 * math.pi * math.e * sp**2))
    data = 0.5 * math.log(2 * math.pi * sp**2) + (so**2 + behind_data) / (2 * sp**2)
    held_to(report(AR(a.tolist(), so), AR(b.tolist(), sp), samples), error, rolled, own, data)


def test_a_perfect_model_adds_nothing_up():
    model = chain(FIRST_TRUE, TRUE)
    for s in report(model, model, 8):
        assert s.error == s.rolled == s.excess == s.excess_se == EXACT
    near = report(model, chain(FIRST_TRUE, LEARNED[:1] + TRUE[1:]), 64)
    assert near[-1].error > 0


def test_what_is_drawn_does_not_depend_on_the_batch(monkeypatch):
    oracle, model = chain(FIRST_TRUE, TRUE), chain(FIRST_LEARNED, LEARNED)
    whole = report(oracle, model, 20)
    monkeypatch.setattr(module, "ROWS", 7)
    monkeypatch.setattr(module, "_BLOCK", 4 * 7 * 5)
    for one, other in zip(whole, report(oracle, model, 20), strict=True):
        for name in ("error", "rolled", "own_nats", "data_nats", "excess_se"):
            assert abs(getattr(one, name) - getattr(other, name)) < FLOAT64


def test_standard_errors_are_those_of_repeated_reports():
    """Over 60 seeds, the spread of the figures is what each report said of itself."""
    oracle, model = chain(FIRST_TRUE, TRUE), chain(FIRST_LEARNED, LEARNED)
    data, _ = module.drawn(oracle, range(60 * 50), T, seed=99)
    last = [measure(oracle, model, data[50 * i :][:50], seed=i)[-1] for i in range(60)]
    for name in ("excess", "nll_ratio"):
        spread = np.std([getattr(s, name) for s in last], ddof=1)
        said = np.mean([getattr(s, f"{name}_se") for s in last])
        assert 0.65 < spread / said < 1.5  # chi-squared with 59 degrees: beyond 4 deviations


def test_repeats_are_counted_where_they_end():
    eight = list(range(8))
    x = torch.tensor([[*eight, *eight, 9], [5] * 17, [*eight, *range(8, 17)]])
    again = module.repeats(x)
    assert again[0].tolist() == [0] * 15 + [1, 0]
    assert again[1].tolist() == [0] * 8 + [1] * 9
    assert not again[2].any()
    assert np.array_equal(module.repeats(torch.stack([x, x], -1)), again)


def test_divergences():
    """Against a sum and an integral by hand, with symbols that can't come, and none."""
    o = Categorical(torch.tensor([[[0.5, 0.5, 0.0]]]).log())
    p = Categorical(torch.tensor([[[0.25, 0.5, 0.25]]]).log())
    assert abs(float(divergence(o, p)) - 0.5 * math.log(2)) < FLOAT32
    assert math.isinf(float(divergence(p, o)))
    coin, other = (Bernoulli(torch.tensor([[x]])) for x in (0.3, -1.0))
    both = [law.log_probs().double() for law in (coin, other)]
    assert torch.allclose(divergence(coin, other), (both[0].exp() * (both[0] - both[1])).sum(-1))
    one, two = (Normal(*torch.tensor(v).double().view(2, 1, 1)) for v in ([0.2, 0.7], [1.0, 1.5]))
    grid = torch.linspace(-9, 9, 20001, dtype=torch.float64)[:, None, None]
    slope = one.log_prob(grid).exp() * (one.log_prob(grid) - two.log_prob(grid))
    assert abs(float(divergence(one, two)) / float(slope.sum() * 18 / 20000) - 1) < REFERENCE64
    heavy = StudentT(torch.tensor([[3.0]]), torch.zeros(1, 1), torch.ones(1, 1))
    with pytest.raises(ValueError, match="no closed form"):
        divergence(heavy, heavy)
    with pytest.raises(ValueError, match="no closed form"):
        measure(StudentAR(), StudentAR(), torch.zeros(2, 4))
