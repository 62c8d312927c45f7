"""Law 1: the probabilities of all sequences sum to one."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from chainrule.core.joint import LogisticMixtureJoint
from chainrule.core.model import SequenceModel
from chainrule.core.space import Space
from tests.laws.entries import Entry, dice, symbols
from tests.laws.track import close
from tests.models.markov import Markov
from tests.models.mixture import Mixture
from tests.models.pixelcnn import PixelCNN

MOST = 4096  # sequences in one sum


def test_1_normalised(entry: Entry):
    """Finite: over all sequences of each length. Else: of the next symbol, after any prefix."""
    model = entry.model()
    with torch.no_grad():
        if model.space.kind == "finite":
            _sum_sequences(entry, model)
        else:
            _integrate_next(entry, model)


def _sum_sequences(entry: Entry, model: SequenceModel) -> None:
    assert model.space.size is not None
    parts = sum(model.space.event_shape) or 1
    for length in range(1, entry.room(6) + 1):
        places = length * parts
        if model.space.size**places > MOST:
            assert length > 1
            break
        every = itertools.product(range(model.space.size), repeat=places)
        x = torch.tensor(list(every)).view(-1, length, *model.space.event_shape)
        cond = entry.cond(1, dice(length))
        cond = None if cond is None else cond.select([0] * len(x))
        total = model(x, cond).log_prob(x).sum(1).exp().sum()
        close(total, torch.tensor(1.0))


def _integrate_next(entry: Entry, model: SequenceModel) -> None:
    points, weight = _grid(model.space)
    for length in range(3):
        prefix = symbols(model.space, 1, length, dice(length))
        state = model.extend(model.start(1), prefix) if length else model.start(1)
        law = model.predict(state)
        density = law.log_prob(points[None]).exp()[0]
        close((density * weight).sum(), torch.tensor(1.0))


def _grid(space: Space) -> tuple[Tensor, Tensor]:
    """Points [P, *E] and their weights [P]; reals by x = sinh(t) and the trapezoidal rule."""
    if space.kind == "count":
        return torch.arange(4000), torch.ones(4000)
    parts = sum(space.event_shape) or 1
    end, step = (4.0, 0.1) if parts > 1 else (9.0, 0.05)
    if parts > 2:
        end, step = 3.5, 0.125
    t = torch.arange(-end, end + step, step)
    axes = torch.meshgrid([t.sinh()] * parts, indexing="ij")
    weights = torch.meshgrid([t.cosh() * step] * parts, indexing="ij")
    points = torch.stack(axes, -1).flatten(0, -2)
    points = points if space.event_shape else points[:, 0]
    return points, torch.stack(weights, -1).flatten(0, -2).prod(-1)


def test_1_oracle():
    """The contract's score is the product of the table's conditionals, shift and start included."""
    torch.manual_seed(3)
    model = Markov(3)
    x = symbols(model.space, 20, 7, dice())
    wanted = torch.tensor([model.oracle(row) for row in x.tolist()])
    close(model(x).log_prob(x).sum(1), wanted)


def test_1_oracle_of_channels():
    """A pixel's score is the mixture's: log Σ_k w_k Π_c p(channel c | those before it, k)."""
    torch.manual_seed(4)
    model = PixelCNN(2, 4)
    x = symbols(model.space, 5, 4, dice())
    law = model(x)
    assert isinstance(law, LogisticMixtureJoint)
    seen = x * (2 / 3) - 1.0
    total = law.mix.log_softmax(-1)
    for c in range(3):
        loc = law.loc[..., c, :]
        for j in range(c):
            loc = loc + law.coeff[..., c, j, :] * seen[..., j, None]
        # The levels lie 2/3 apart on [-1, 1]; the outermost take the tails.
        upper = torch.where(x[..., c] == 3, torch.inf, seen[..., c] + 1 / 3)[..., None]
        lower = torch.where(x[..., c] == 0, -torch.inf, seen[..., c] - 1 / 3)[..., None]
        scale = law.log_scale[..., c, :].exp()
        mass = torch.sigmoid((upper - loc) / scale) - torch.sigmoid((lower - loc) / scale)
        total = total + mass.log()
    close(law.log_prob(x), total.logsumexp(-1))


def test_1_oracle_of_mixture():
    """The mixture's score of a whole sequence is log Σ_k w_k p_k(x)."""
    torch.manual_seed(5)
    parts = [Markov(3), Markov(3)]
    model = Mixture(parts)
    x = symbols(model.space, 20, 7, dice())
    each = torch.stack([part(x).log_prob(x).sum(1) for part in parts], -1)
    wanted = (model.prior.log_softmax(-1) + each).logsumexp(-1)
    close(model(x).log_prob(x).sum(1), wanted)
