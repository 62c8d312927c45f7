"""Warps against slow definitions written row by row in plain Python."""

import math

import pytest
import torch

from chainrule.core.distributions import Categorical, Normal
from chainrule.core.joint import Independent
from chainrule.core.noise import Noise, Positions
from chainrule.decoding.warps import Warps

SIZE = 12


def law(rows: int = 3, length: int = 2) -> Categorical:
    torch.manual_seed(5)
    return Categorical(torch.randn(rows, length, SIZE, dtype=torch.float64) * 2)


def probabilities(warps: Warps, given: Categorical) -> torch.Tensor:
    return warps(given).log_probs().exp()  # type: ignore[attr-defined]


def kept(p: list[float], **setting: float) -> list[int]:
    """The definition, by hand: which symbols stay."""
    ranked = sorted(range(len(p)), key=lambda i: -p[i])
    if "top_k" in setting:
        return ranked[: int(setting["top_k"])]
    if "min_p" in setting:
        return [i for i in ranked if p[i] >= setting["min_p"] * p[ranked[0]]]
    if "typical" in setting:
        entropy = -sum(x * math.log(x) for x in p)
        ranked = sorted(range(len(p)), key=lambda i: abs(-math.log(p[i]) - entropy))
    mass, out = 0.0, []
    for i in ranked:
        if mass >= next(iter(setting.values())):
            break
        out.append(i)
        mass += p[i]
    return out


@pytest.mark.parametrize(
    "setting",
    [{"top_k": 1}, {"top_k": 4}, {"top_p": 0.3}, {"top_p": 0.9}, {"min_p": 0.2}, {"typical": 0.6}],
)
def test_filters_keep_what_their_definition_keeps(setting):
    given = law()
    warped = probabilities(Warps.of(3, **setting), given)
    for row, column in ((r, c) for r in range(3) for c in range(2)):
        p = given.log_probs()[row, column].exp().tolist()
        stay = kept(p, **setting)
        mass = sum(p[i] for i in stay)
        expected = [p[i] / mass if i in stay else 0.0 for i in range(SIZE)]
        assert warped[row, column].tolist() == pytest.approx(expected, abs=1e-12)


def test_temperature_is_a_power_and_zero_is_greedy():
    given = law()
    p = given.log_probs().exp()
    powered = p**2 / (p**2).sum(-1, keepdim=True)
    torch.testing.assert_close(probabilities(Warps.of(3, temperature=0.5), given), powered)
    greedy = probabilities(Warps.of(3, temperature=0), given)
    assert greedy.sum() == 6
    assert torch.equal(greedy.argmax(-1), p.argmax(-1))


def test_rows_keep_their_own_settings_through_select_and_concat():
    given = law()
    one, two = Warps.of(1, temperature=0.5, top_k=3), Warps.of(2, top_p=0.7)
    mixed = one.concat([two])
    whole = probabilities(mixed, given)
    assert torch.equal(whole[:1], probabilities(one, given[:1]))
    assert torch.equal(whole[1:], probabilities(two, given[1:]))
    swapped = mixed.select([2, 0])
    assert torch.equal(probabilities(swapped, given[[2, 0]]), whole[[2, 0]])


def test_rows_that_are_off_stay_bit_for_bit():
    given = law()
    mixed = Warps.of(1, top_p=0.5, min_p=0.1, typical=0.5, top_k=2).concat([Warps.of(2)])
    assert torch.equal(mixed(given).log_probs()[1:], given.log_probs()[1:])  # type: ignore[attr-defined]


def test_nothing_asked_is_nothing_done():
    given = law()
    assert Warps.of(3)(given) is given


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": -1},
        {"temperature": math.nan},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"min_p": -0.1},
        {"typical": 2},
    ],
)
def test_bad_settings_are_named(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        Warps.of(1, **setting)


def test_real_symbols_have_a_temperature_and_no_filters():
    normal = Normal(torch.zeros(2, 1), torch.ones(2, 1))
    cool = Warps.of(2, temperature=0.25)(normal)
    assert cool.scale.flatten().tolist() == [0.5, 0.5]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="finite"):
        Warps.of(2, top_k=2)(normal)


def test_warps_act_on_the_parts_of_an_event():
    joint = Independent(Categorical(torch.randn(2, 1, 3, 5, dtype=torch.float64)), 3)
    greedy = Warps.of(2, temperature=0)(joint)
    x = greedy.sample(Noise.seeded(1, [0, 1]).at(Positions((0, 0), 1)))
    assert torch.equal(x, joint.mode())
