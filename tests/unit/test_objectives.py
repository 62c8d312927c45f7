"""Scheduled sampling and input noise: what is replaced, and that nothing else is."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from chainrule.core.model import SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.objective import Batch, nll
from chainrule.core.space import Space
from chainrule.models.rnn import RNN, rnn
from chainrule.training.objectives import OBJECTIVES, objective
from tests.laws.tolerances import EXACT, FALSE_ALARM, FLOAT64
from tests.models.markov import Markov
from tests.models.pixelcnn import PixelCNN
from tests.models.scalar import StudentAR

V, ROWS, LENGTH = 5, 40, 200


def markov() -> Markov:
    torch.manual_seed(0)
    return Markov(V).double()


def batch(rows: int = ROWS, length: int = LENGTH) -> Batch:
    x = torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(1))
    return Batch(x, (length,) * rows)


def passes(
    model: SequenceModel, name: str, rate: float, given: Batch, noise: Noise
) -> list[Tensor]:
    """The symbols that every pass of the model was shown."""
    seen: list[Tensor] = []
    handle = model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    objective(name, rate)(model, given, noise)
    handle.remove()
    return seen


@pytest.mark.parametrize("name", OBJECTIVES)
def test_rate_zero_is_teacher_forcing(name: str):
    model, given = markov(), batch()
    loss, count = objective(name, 0.0)(model, given, Noise.seeded(0, range(ROWS)))
    wanted, number = nll(model, given)
    assert float((loss - wanted).detach()) == EXACT
    assert float(count) == float(number) == ROWS * LENGTH


@pytest.mark.parametrize("name", ["scheduled", "noise"])
def test_loss_is_of_the_true_symbols_behind_the_mixed_ones(name: str):
    """One law at a time: the prefix is what the last pass was shown, the target is gold."""
    model, given, noise = markov(), batch(3, 12), Noise.seeded(0, range(3))
    mixed = passes(model, name, 0.5, given, noise)[-1]
    assert not torch.equal(mixed, given.x)
    table, total = model.logits.detach().log_softmax(-1), 0.0
    for row, gold in zip(mixed.tolist(), given.x.tolist(), strict=True):
        before = [V, V, *row]
        total -= sum(float(table[before[t], before[t + 1], gold[t]]) for t in range(12))
    loss, _ = objective(name, 0.5)(model, given, noise)
    assert abs(float(loss.detach()) / total - 1) < FLOAT64


def test_noise_replaces_its_share_with_any_symbol():
    model, given = markov(), batch(200, 200)
    (mixed,) = passes(model, "noise", 0.3, given, Noise.seeded(5, range(200)))
    changed = mixed != given.x
    share = 0.3 * (V - 1) / V  # a symbol may be drawn for itself
    assert stats.binomtest(int(changed.sum()), changed.numel(), share).pvalue > FALSE_ALARM
    moved = torch.bincount((mixed - given.x)[changed] % V, minlength=V)[1:]
    assert stats.chisquare(moved.numpy()).pvalue > FALSE_ALARM


def test_scheduled_replaces_its_share_with_the_models_own_symbols():
    model = markov()
    given = Batch(torch.ones(200, 200, dtype=torch.int64), (200,) * 200)
    first, mixed = passes(model, "scheduled", 0.4, given, Noise.seeded(5, range(200)))
    assert torch.equal(first, given.x)
    own = model.logits.softmax(-1)[1, 1]  # from the third place on
    wanted = 0.4 * own
    wanted[1] += 0.6
    seen = torch.bincount(mixed[:, 2:].flatten(), minlength=V).double()
    expected = (wanted / wanted.sum() * seen.sum()).detach().numpy()
    assert stats.chisquare(seen.numpy(), expected).pvalue > FALSE_ALARM


@pytest.mark.parametrize("name", ["scheduled", "noise"])
def test_the_batch_does_not_matter(name: str):
    model, given, noise = markov(), batch(6, 30), Noise.seeded(2, range(6))
    whole, _ = objective(name, 0.4)(model, given, noise)
    parts = [
        objective(name, 0.4)(model, Batch(given.x[rows], (30,) * len(rows)), noise.select(rows))[0]
        for rows in ([4], [0, 5], [3, 1, 2])
    ]
    assert abs(float((sum(parts) / whole).detach()) - 1) < FLOAT64


@pytest.mark.parametrize("name", ["scheduled", "noise"])
def test_what_is_given_is_not_replaced(name: str):
    model, given = markov(), batch(20, 50)
    weight = torch.ones(20, 50)
    weight[:, :25] = 0
    weighted = Batch(given.x, given.lens, None, weight)
    mixed = passes(model, name, 1.0, weighted, Noise.seeded(2, range(20)))[-1]
    assert torch.equal(mixed[:, :25], given.x[:, :25])
    assert not torch.equal(mixed[:, 25:], given.x[:, 25:])
    loss, count = objective(name, 1.0)(model, weighted, Noise.seeded(2, range(20)))
    wanted = -(model(mixed).log_prob(given.x) * weight).sum()
    assert float((loss - wanted).detach()) == EXACT
    assert float(count) == 20 * 25


def test_symbols_of_any_kind():
    """Reals and pixels have own symbols; the alphabet of noise must be finite."""
    noise, x = Noise.seeded(0, range(4)), torch.randn(4, 9)
    first, mixed = passes(StudentAR(), "scheduled", 0.5, Batch(x, (9,) * 4), noise)
    assert mixed.dtype == first.dtype
    assert 0 < int((first != mixed).sum()) < x.numel()
    with pytest.raises(ValueError, match="finite alphabet"):
        objective("noise", 0.5)(StudentAR(), Batch(x, (9,) * 4), noise)
    model = PixelCNN(3, 2)
    shape = (4, model.space.max_len or 6, *model.space.event_shape)
    pixels = torch.zeros(shape, dtype=torch.int64)
    for name in ("scheduled", "noise"):
        loss, _ = objective(name, 0.5)(model, Batch(pixels, (shape[1],) * 4), noise)
        assert bool(loss.isfinite())


@pytest.mark.parametrize("name", ["scheduled", "noise"])
def test_it_learns(name: str):
    """What is certain behind a true prefix is found with a tenth of the prefix replaced."""
    torch.manual_seed(0)
    model = Markov(V)
    x = torch.arange(30).repeat(8, 1) * 2 % V
    optim = torch.optim.Adam(model.parameters(), lr=0.1)
    for step in range(150):
        noise = Noise.seeded(step, range(8))
        total, count = objective(name, 0.1)(model, Batch(x, (30,) * 8), noise)
        optim.zero_grad()
        (total / count).backward()
        optim.step()
    total, count = nll(model, Batch(x, (30,) * 8))
    assert float((total / count).detach()) < 0.05


def test_gradients_under_autocast():
    """The pass without gradients leaves no cast weights behind."""
    torch.manual_seed(0)
    model = RNN(rnn(Space("finite", V), "tiny"))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = objective("scheduled", 0.5)(model, batch(4, 20), Noise.seeded(0, range(4)))
    loss.backward()
    assert [k for k, p in model.named_parameters() if p.grad is None] == []


def test_bad_settings():
    with pytest.raises(ValueError, match="not one of nll, scheduled, noise"):
        objective("gan", 0.1)
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="rate"):
            objective("noise", rate)
