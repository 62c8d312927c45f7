"""Ensembles and guidance: their laws by enumeration, and what they refuse."""

import itertools
import math

import pytest
import torch

from chainrule.core.model import Condition, SequenceModel
from chainrule.core.space import Space
from chainrule.models.mixing import Ensemble, Guided
from chainrule.models.rnn import RNN, RNNConfig
from chainrule.models.wrappers import Bans
from tests.laws.tolerances import FLOAT64
from tests.models.label_gru import LabelGRU
from tests.models.scalar import CountAR

SIZE, LENGTH = 3, 4
EVERY = torch.tensor(list(itertools.product(range(SIZE), repeat=LENGTH)))


def model(seed: int, size: int = SIZE) -> SequenceModel:
    torch.manual_seed(seed)
    return RNN(RNNConfig(Space("finite", size), "gru", 1, 8, 8)).double().eval()


def labelled(seed: int = 0) -> SequenceModel:
    torch.manual_seed(seed)
    return LabelGRU(SIZE, 2).double()


def each(models: list[SequenceModel], cond: Condition | None = None) -> list[torch.Tensor]:
    """p(symbol | before) of every sequence [N, T, V], a model."""
    return [m(EVERY, cond).log_probs().exp() for m in models]  # type: ignore[attr-defined]


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=FLOAT64, atol=FLOAT64)


@torch.no_grad()
def test_a_mixture_is_the_mean_of_the_probabilities():
    parts = [model(1), model(2)]
    a, b = each(parts)
    (got,) = each([Ensemble(parts, [3, 1])])
    close(got, 0.75 * a + 0.25 * b)
    score = Ensemble(parts)(EVERY).log_prob(EVERY).sum(1).exp()
    wanted = ((a + b) / 2).gather(-1, EVERY[..., None])[..., 0].prod(1)
    close(score, wanted)
    close(score.sum(), torch.tensor(1.0, dtype=torch.float64))


@torch.no_grad()
def test_a_product_is_the_renormalised_geometric_mean():
    parts = [model(1), model(2), model(3)]
    a, b, c = each(parts)
    (got,) = each([Ensemble(parts, [2, 1, 1], product=True)])
    mean = a**0.5 * b**0.25 * c**0.25
    close(got, mean / mean.sum(-1, keepdim=True))


@torch.no_grad()
def test_one_model_is_an_ensemble_of_itself():
    for product in (False, True):
        (one,), (got,) = each([model(1)]), each([Ensemble([model(1), model(1)], product=product)])
        close(got, one)


def test_what_no_model_allows_has_no_probability():
    parts = [Bans(model(1), [[0]]), Bans(model(2), [[0], [1]])]
    with torch.no_grad():
        mixed, pooled = (each([Ensemble(parts, product=p)])[0] for p in (False, True))
        assert bool((mixed[..., 0] == 0).all() and (mixed[..., 1] > 0).all())
        assert bool((pooled[..., :2] == 0).all() and (pooled[..., 2] == 1).all())
        nothing = Ensemble([*parts, Bans(model(1), [[2]])], product=True)
        with pytest.raises(ValueError, match="share no symbol"):
            nothing.predict(nothing.start(1))


@torch.no_grad()
def test_guidance_leads_away_from_what_is_said_without_the_label():
    base, label = labelled(), torch.arange(len(EVERY)) % 3 - 1
    told, untold = Condition(label=label), Condition(label=torch.full_like(label, -1))
    with_it, without = each([base], told)[0], each([base], untold)[0]
    (got,) = each([Guided(base, 1.5)], told)
    wanted = with_it**2.5 / without**1.5
    close(got, wanted / wanted.sum(-1, keepdim=True))
    # Scale 0 is the model itself, and a row without a label has nothing to be led away from.
    close(each([Guided(base, 0.0)], told)[0], with_it)
    close(got[label < 0], without[label < 0])
    close(each([Guided(base, 3.0)])[0], each([base])[0])


@torch.no_grad()
def test_guidance_can_leave_out_any_field():
    class Source(LabelGRU):
        """Reads a source of one symbol as if it were a label."""

        reads = frozenset({"source", "source_ok"})

        def check(self, batch: int, cond: Condition | None) -> Condition:
            given = super().check(batch, cond).given()
            assert given.keys() in (set(), {"source", "source_ok"})
            return Condition(label=given["source"][:, 0] if given else None)

    torch.manual_seed(0)
    base = Source(SIZE, 2).double()
    source = torch.arange(len(EVERY))[:, None] % 2
    told = Condition(source=source, source_ok=torch.ones_like(source, dtype=torch.bool))
    (got,) = each([Guided(base, 0.5, without="source")], told)
    wanted = each([base], told)[0] ** 1.5 / each([base])[0] ** 0.5
    close(got, wanted / wanted.sum(-1, keepdim=True))


@torch.no_grad()
def test_guidance_keeps_what_is_forbidden_forbidden():
    banned = Bans(labelled(), [[1]])
    banned.reads = frozenset({"label"})
    p = each([Guided(banned, 2.0)], Condition(label=torch.ones(len(EVERY), dtype=torch.int64)))[0]
    assert bool((p[..., 1] == 0).all())
    assert not bool(p.isnan().any())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ensemble([]), "needs a model"),
        (lambda: Ensemble([model(1), model(1, 5)]), "alphabet of 3 and an alphabet of 5 differ"),
        (lambda: Ensemble([model(1), labelled()]), r"\[\] and \['label'\] differ"),
        (lambda: Ensemble([CountAR()]), "scalar finite symbols"),
        (lambda: Ensemble([model(1)], [1, 2]), "2 weights for 1 models"),
        (lambda: Ensemble([model(1)], [0]), "weight must be"),
        (lambda: Ensemble([model(1)], [math.nan]), "weight must be"),
        (lambda: Guided(labelled(), -0.1), "guidance must be 0 to 100"),
        (lambda: Guided(labelled(), math.nan), "guidance must be 0 to 100"),
        (lambda: Guided(labelled(), 1, "source"), "does not read the condition 'source'"),
        (lambda: Guided(model(1), 1), "does not read the condition 'label'"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
