"""Every distribution against torch.distributions or scipy.stats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

from chainrule.core.distributions import (
    Bernoulli,
    Categorical,
    DiscretizedLogisticMixture,
    Distribution,
    Finite,
    NegativeBinomial,
    Normal,
    Scalar,
    StudentT,
)
from chainrule.core.joint import Independent, LogisticMixtureJoint
from chainrule.core.noise import Draw, Noise, Positions
from chainrule.core.special import betainc, log_beta
from tests.laws.tolerances import EXACT, FALSE_ALARM, FLOAT32, FLOAT64, REFERENCE64

B, L, DRAWS = 3, 4, 6000


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def close(got: Tensor, wanted: object, tolerance: float = REFERENCE64) -> None:
    wanted = torch.as_tensor(np.asarray(wanted))
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance, check_dtype=False)


def draw(rows: int, length: int) -> Draw:
    return Noise.seeded(0, range(rows)).at(Positions((5,) * rows, length))


def logistics(levels: int, mixtures: int = 3) -> DiscretizedLogisticMixture:
    mix, loc, log_scale = torch.randn(3, B, L, mixtures)
    return DiscretizedLogisticMixture(mix, loc, log_scale - 1, levels)


FINITE: dict[str, Callable[[], Finite]] = {
    "categorical": lambda: Categorical(torch.randn(B, L, 7)),
    "banned": lambda: Categorical(
        torch.randn(B, L, 7).masked_fill(torch.eye(7)[:L].bool(), -math.inf)
    ),
    "bernoulli": lambda: Bernoulli(2 * torch.randn(B, L)),
    "logistics": lambda: logistics(16),
    "two-levels": lambda: logistics(2),
}
LAWS: dict[str, tuple[Callable[[], Scalar], Callable[[], stats.rv_continuous]]] = {}
_dice = torch.Generator().manual_seed(0)
_loc = torch.randn(B, L, generator=_dice).double()
_scale, _df, _r, _mean = torch.rand(4, B, L, generator=_dice).double()
_scale, _df, _r, _mean = 0.3 + _scale, 0.8 + 20 * _df, 0.3 + 9 * _r, 0.1 + 20 * _mean
LAWS["normal"] = lambda: Normal(_loc, _scale), lambda: stats.norm(_loc, _scale)
LAWS["student"] = lambda: StudentT(_df, _loc, _scale), lambda: stats.t(_df, _loc, _scale)
LAWS["counts"] = (
    lambda: NegativeBinomial(_mean, _r),
    lambda: stats.nbinom(_r, _r / (_r + _mean)),
)


@pytest.fixture(params=FINITE)
def finite(request: pytest.FixtureRequest) -> Finite:
    return FINITE[request.param]()


@pytest.fixture(params=LAWS)
def pair(request: pytest.FixtureRequest) -> tuple[Scalar, stats.rv_continuous]:
    ours, theirs = LAWS[request.param]
    return ours(), theirs()


# ---- finite ----


def test_finite_agrees_with_torch(finite: Finite):
    log_p = finite.log_probs()
    theirs = torch.distributions.Categorical(logits=log_p)
    close(log_p.exp().sum(-1), torch.ones(B, L), FLOAT64)
    for symbol in range(log_p.shape[-1]):
        x = torch.full((B, L), symbol)
        close(finite.log_prob(x), theirs.log_prob(x), FLOAT64)
    close(finite.entropy(), torch.special.entr(log_p.exp()).sum(-1), FLOAT64)
    assert torch.equal(finite.mode(), log_p.argmax(-1))


@pytest.mark.parametrize("t", [0.5, 1.0, 1.7])
def test_finite_temperature(finite: Finite, t: float):
    p = finite.log_probs().exp() ** (1 / t)
    tempered = finite.temper(torch.full((B, 1), t))
    close(tempered.log_probs().exp(), p / p.sum(-1, keepdim=True), FLOAT64)


def test_temperature_of_each_row_and_greedy(finite: Finite):
    tempered = finite.temper(torch.tensor([[0.0], [1.0], [2.0]]))
    close(tempered[1:2].log_probs(), finite[1:2].log_probs(), FLOAT64)
    assert torch.equal(tempered.sample(draw(B, L))[0], finite.mode()[0])
    close(tempered.entropy()[0], torch.zeros(L), FLOAT64)


def test_finite_samples(finite: Finite):
    many = finite[:1, :1].map(lambda t: t.expand(DRAWS, *t.shape[1:]))
    seen = torch.bincount(many.sample(draw(DRAWS, 1)).flatten(), minlength=7).double()
    p = finite.log_probs()[0, 0].exp()
    seen, p = seen[: len(p)], p / p.sum()
    assert not seen[p == 0].any()
    assert stats.chisquare(seen[p > 0], DRAWS * p[p > 0]).pvalue > FALSE_ALARM


def test_bernoulli_agrees_with_torch():
    logits = torch.randn(B, L) * 20
    ours, theirs = Bernoulli(logits), torch.distributions.Bernoulli(logits=logits)
    for x in (torch.zeros(B, L), torch.ones(B, L)):
        close(ours.log_prob(x.long()), theirs.log_prob(x), FLOAT64)
    close(ours.entropy(), theirs.entropy(), FLOAT64)


def test_logistics_agree_with_scipy():
    law, half = logistics(16), 1 / 15
    centre = torch.arange(16) / 7.5 - 1
    upper, lower = centre + half, centre - half
    upper[-1], lower[0] = math.inf, -math.inf
    each = stats.logistic(law.loc[..., None], law.log_scale.exp()[..., None])
    mass = torch.from_numpy(each.cdf(upper) - each.cdf(lower))
    close(law.log_probs().exp(), (law.mix.softmax(-1)[..., None] * mass).sum(-2))


def test_logistics_far_from_their_centre_stay_finite():
    """Narrow and far away: log-probabilities of -1e4, with gradients."""
    mix = torch.zeros(1, 1, 1)
    loc = torch.full((1, 1, 1), -1.0, requires_grad=True)
    log_scale = torch.full((1, 1, 1), -9.0, requires_grad=True)
    law = DiscretizedLogisticMixture(mix, loc, log_scale, 256)
    score = law.log_prob(torch.tensor([[200]]))
    score.sum().backward()
    assert -2e4 < score.item() < -5e3
    assert loc.grad is not None
    assert bool(torch.isfinite(loc.grad).all() and torch.isfinite(log_scale.grad).all())


def test_wide_logistics_keep_their_digits_in_float32():
    """The width of a level doesn't drown in how far away the centre is."""
    mix, level = torch.zeros(1, 1, 1), torch.arange(256)[None]
    loc, log_scale = torch.full((1, 1, 1), 40.0), torch.full((1, 1, 1), 3.0)
    law = DiscretizedLogisticMixture(mix, loc, log_scale, 256)
    narrow, wanted = law.log_prob(level).double(), law.map(Tensor.double).log_prob(level)
    assert ((narrow - wanted) / wanted).abs().max() < FLOAT32


# ---- scalars ----


def test_scalar_agrees_with_scipy(pair: tuple[Scalar, stats.rv_continuous]):
    ours, theirs = pair
    counts = isinstance(ours, NegativeBinomial)
    score = theirs.logpmf if counts else theirs.logpdf
    for x in (0, 1, 7, 60) if counts else (-30.0, -1.0, 0.0, 0.4, 2.5):
        at = torch.full((B, L), x)
        close(ours.log_prob(at), score(at))
        close(ours.cdf(at), theirs.cdf(at))
    if not counts:
        close(ours.entropy(), theirs.entropy())
        assert torch.equal(ours.mode(), _loc)


def test_scalar_quantile(pair: tuple[Scalar, stats.rv_continuous]):
    ours, theirs = pair
    for u in (1e-12, 1e-3, 0.3, 0.5, 0.7, 0.999, 1 - 1e-9):
        at = torch.full((B, L), u)
        x = ours.quantile(at)
        if isinstance(ours, NegativeBinomial):  # scipy rounds to the wrong count now and then
            assert bool((ours.cdf(x) >= at).all())
            assert bool((ours.cdf(x - 1) < at).all())
            close(x, theirs.ppf(u), 1.0 if u > 0.9999 else EXACT)
        else:
            close(x, theirs.ppf(u))


def test_scalar_samples(pair: tuple[Scalar, stats.rv_continuous]):
    ours, _ = pair
    many = ours[:1, :1].map(lambda t: t.expand(DRAWS, 1))
    x = many.sample(draw(DRAWS, 1)).flatten()
    if isinstance(ours, NegativeBinomial):
        edges = 12
        k = torch.arange(edges)
        p = ours[:1, :1].map(lambda t: t.expand(1, edges)).log_prob(k[None])[0].exp()
        p = torch.cat([p, 1 - p.sum()[None]])
        seen = torch.bincount(x.clamp(max=edges), minlength=edges + 1)
        keep = p * DRAWS > 5
        p, seen = p[keep], seen[keep].double()
        assert stats.chisquare(seen, p / p.sum() * seen.sum()).pvalue > FALSE_ALARM
    else:
        assert stats.kstest(many.cdf(x[:, None]).flatten(), "uniform").pvalue > FALSE_ALARM


@pytest.mark.parametrize("t", [0.5, 1.0, 1.3])
@pytest.mark.parametrize("name", ["normal", "student"])
def test_scalar_temperature(name: str, t: float):
    """Against p^(1/t), renormalised numerically."""
    ours = LAWS[name][0]()[2:, 3:]
    grid = torch.sinh(torch.arange(-16, 16, 0.002))
    weight = torch.cosh(torch.arange(-16, 16, 0.002)) * 0.002
    power = ours.log_prob(grid[None]).exp()[0] ** (1 / t)
    tempered = ours.temper(torch.tensor([[t]]))
    close(tempered.log_prob(grid[None]).exp()[0], power / (power * weight).sum())


def test_temperatures_that_have_no_law():
    student, counts = LAWS["student"][0](), LAWS["counts"][0]()
    with pytest.raises(ValueError, match="temperature 0"):
        student.temper(torch.zeros(B, 1))
    with pytest.raises(ValueError, match="below df"):
        student.temper(torch.full((B, 1), 1e3))
    with pytest.raises(ValueError, match="counts have no temperature"):
        counts.temper(torch.full((B, 1), 0.5))
    normal = LAWS["normal"][0]().temper(torch.zeros(B, 1))
    assert torch.equal(normal.sample(draw(B, L)), _loc)


def test_counts_mode_and_entropy():
    law = NegativeBinomial(_mean, _r)
    k = torch.arange(2000)[:, None, None]
    p = law.log_prob(k)
    close(law.mode(), p.argmax(0), EXACT)
    close(law.entropy(), -(p.exp() * p).sum(0))


def test_betainc():
    a, b = torch.logspace(-2, 4, 30)[:, None, None], torch.logspace(-2, 4, 30)[:, None]
    x = torch.cat([torch.tensor([0.0, 1.0]), torch.logspace(-9, -0.001, 40)])
    close(betainc(a, b, x), special.betainc(a.numpy(), b.numpy(), x.numpy()))


def test_log_beta_of_any_size():
    a, b = torch.logspace(-6, 13, 60)[:, None], torch.logspace(-6, 13, 60)
    close(log_beta(a, b), special.betaln(a.numpy(), b.numpy()))


def test_incomplete_beta_of_large_numbers():
    a, b = torch.logspace(3, 6, 20)[:, None, None], torch.logspace(3, 6, 20)[:, None]
    x = (a / (a + b)) * torch.linspace(0.999, 1.001, 9)
    wanted = torch.from_numpy(special.betainc(a.numpy(), b.numpy(), x.numpy()))
    torch.testing.assert_close(betainc(a, b, x), wanted, rtol=FLOAT64, atol=0)


def test_laws_in_float32_keep_the_digits_of_large_parameters():
    """Gamma functions of large numbers cancel: a count of a million was scored a nat off."""
    mean, r = torch.tensor([[3.0, 1e3, 1e6, 1e9]]), torch.tensor([[2.0, 300.0, 1e3, 1e4]])
    k = (mean * torch.tensor([[1.7], [1.02], [0.98]])).round().long()
    narrow = NegativeBinomial(mean.float(), r.float())
    theirs = stats.nbinom(r.numpy(), (r / (r + mean)).numpy())
    close(narrow.log_prob(k), theirs.logpmf(k.numpy()), FLOAT32)
    u = torch.tensor([[1e-9], [0.5], [1 - 1e-9]]).expand(3, 4)
    close(narrow.quantile(u), NegativeBinomial(mean, r).quantile(u), EXACT)
    df, x = torch.tensor([[3.0, 1e3, 1e6]]), torch.tensor([[-3.0], [0.0], [2.0]])
    flat = StudentT(df.float(), torch.zeros(1, 3).float(), torch.ones(1, 3).float())
    close(flat.log_prob(x.float()), stats.t(df.numpy()).logpdf(x.numpy()), FLOAT32)


def test_student_quantiles_take_two_looks(monkeypatch):
    """Of more than two degrees of freedom: drawing is as quick as its cdf."""
    looks, law = [], StudentT(torch.logspace(0.31, 4, B * L).view(B, L), _loc, torch.ones(B, L))
    cdf = StudentT._standard_cdf
    monkeypatch.setattr(StudentT, "_standard_cdf", lambda s, z: looks.append(1) or cdf(s, z))
    for u in (1e-15, 1e-9, 1e-3, 0.1, 0.45, 0.5, 0.8, 1 - 1e-12):
        looks.clear()
        found = law.quantile(torch.full((B, L), u))
        assert len(looks) <= 2
        close(found, stats.t.ppf(u, law.df.numpy(), _loc.numpy()))


def test_a_value_does_not_depend_on_its_batch():
    """Iterations stop element by element, so that a batch changes no digit."""
    u = torch.rand(B, L)
    for name in ("student", "counts"):
        law = LAWS[name][0]()
        whole = law.quantile(u)
        for b in range(B):
            for t in range(L):
                one = law[b : b + 1, t : t + 1].quantile(u[b : b + 1, t : t + 1])
                assert torch.equal(one[0, 0], whole[b, t])


# ---- events ----


def _joint(channels: int = 3, levels: int = 3) -> LogisticMixtureJoint:
    mix, loc = torch.randn(B, L, 2), torch.randn(B, L, channels, 2)
    coeff = torch.randn(B, L, channels, channels, 2)
    return LogisticMixtureJoint(mix, loc, torch.randn(B, L, channels, 2) - 1, coeff, levels)


def test_independent_parts():
    loc, scale = torch.randn(B, L, 5), torch.rand(B, L, 5) + 0.1
    ours = Independent(Normal(loc, scale), 5)
    theirs = torch.distributions.Independent(torch.distributions.Normal(loc, scale), 1)
    x = torch.randn(B, L, 5)
    close(ours.log_prob(x), theirs.log_prob(x), FLOAT64)
    close(ours.entropy(), theirs.entropy(), FLOAT64)
    assert torch.equal(ours.mode(), loc)
    u = ours.base.cdf(ours.sample(draw(B, L)))
    assert len(u.unique()) == u.numel()


def test_joint_of_channels_is_normalised_and_sampled():
    law = _joint()
    every = torch.cartesian_prod(*[torch.arange(3)] * 3)
    p = torch.stack([law.log_prob(x.expand(B, L, 3)) for x in every], -1).exp()
    close(p.sum(-1), torch.ones(B, L), FLOAT64)
    many = law[:1, :1].map(lambda t: t.expand(DRAWS, *t.shape[1:]))
    x = many.sample(draw(DRAWS, 1))[:, 0]
    seen = torch.bincount((x * torch.tensor([9, 3, 1])).sum(-1), minlength=27).double()
    wanted = DRAWS * p[0, 0] / p[0, 0].sum()
    rare = wanted < 5
    seen, wanted = (torch.cat([t[~rare], t[rare].sum()[None]]) for t in (seen, wanted))
    assert stats.chisquare(seen, wanted).pvalue > FALSE_ALARM


def test_joint_temperature_acts_on_parts():
    law, t = _joint(), torch.tensor([[0.5], [1.0], [2.0]])
    x = torch.randint(3, (B, L, 3))
    parts = [law.part(i, x[..., :i]).temper(t).log_prob(x[..., i]) for i in range(3)]
    close(law.temper(t).log_prob(x), torch.stack(parts).sum(0), FLOAT64)
    greedy = law.temper(torch.zeros(B, 1))
    assert torch.equal(greedy.sample(draw(B, L)), law.mode())
    with pytest.raises(ValueError, match="no closed form"):
        law.entropy()


# ---- all ----


def test_indexing_is_that_of_the_batch():
    laws: list[Distribution] = [f() for f in FINITE.values()]
    laws += [ours() for ours, _ in LAWS.values()]
    laws += [_joint(), Independent(Normal(torch.randn(B, L, 2), torch.rand(B, L, 2) + 1), 2)]
    for law in laws:
        x = law.mode()
        rows = torch.tensor([2, 0])
        close(law[rows].log_prob(x[rows]), law.log_prob(x)[rows], FLOAT64)
        close(law[:, -1:].log_prob(x[:, -1:]), law.log_prob(x)[:, -1:], FLOAT64)
