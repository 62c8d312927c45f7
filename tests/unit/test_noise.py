"""Noise: uniform, independent, and a pure function of key, position and lane."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from chainrule.core.noise import Noise, Positions
from tests.laws.tolerances import FALSE_ALARM, FLOAT32


def at(noise: Noise, start: int, length: int) -> Positions:
    return Positions((start,) * len(noise.key), length)


def uniform(u: Tensor) -> None:
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > FALSE_ALARM


def independent(a: Tensor, b: Tensor) -> None:
    """Chi-squared on an 8 × 8 grid of pairs."""
    cell = (a.flatten() * 8).long() * 8 + (b.flatten() * 8).long()
    seen = torch.bincount(cell, minlength=64).numpy()
    assert stats.chisquare(seen).pvalue > FALSE_ALARM


def test_uniform_and_gumbel():
    noise = Noise.seeded(0, range(50))
    draw = noise.at(at(noise, 0, 400))
    u = draw.uniform(5)
    assert u.shape == (50, 400, 5)
    assert u.dtype == torch.float64
    uniform(u)
    gumbel = draw.gumbel(5)
    wanted = -torch.log(-torch.log(u)).float()
    assert float((gumbel - wanted).norm() / wanted.norm()) < FLOAT32
    assert stats.kstest(gumbel.flatten().numpy(), "gumbel_r").pvalue > FALSE_ALARM


@pytest.mark.parametrize("what", ["rows", "positions", "lanes", "parts", "seeds", "streams"])
def test_independence(what: str):
    noise = Noise.seeded(3, range(200))
    u = noise.at(at(noise, 1000, 300)).uniform(2)
    other = {
        "rows": u.roll(1, 0),
        "positions": u.roll(1, 1),
        "lanes": u.roll(1, 2),
        "parts": noise.at(at(noise, 1000, 300)).part(0).uniform(2),
        "seeds": Noise.seeded(4, range(200)).at(at(noise, 1000, 300)).uniform(2),
        "streams": Noise.seeded(3, range(200), "other").at(at(noise, 1000, 300)).uniform(2),
    }[what]
    u, other = (t[..., :1] if what == "lanes" else t for t in (u, other))
    independent(u, other)
    uniform((u + other) % 1)


def test_parts_differ_at_every_depth():
    noise = Noise.seeded(0, [1])
    draw = noise.at(at(noise, 0, 10))
    each = [draw, *(draw.part(i) for i in range(4)), *(draw.part(0).part(i) for i in range(4))]
    values = torch.cat([d.uniform().flatten() for d in each])
    assert len(values.unique()) == len(values)
    independent(
        noise.at(at(noise, 0, 40_000)).part(0).uniform(),
        noise.at(at(noise, 0, 40_000)).part(1).uniform(),
    )


def test_no_two_draws_are_equal():
    noise = Noise.seeded(7, range(10))
    u = noise.at(at(noise, 0, 1000)).uniform(10)
    assert len(u.unique()) == 100_000
    assert float(u.min()) > 0
    assert float(u.max()) < 1


def test_a_function_of_absolute_position():
    noise = Noise.seeded(0, range(4))
    whole = noise.at(at(noise, 0, 300)).gumbel(3)
    for start, length in [(0, 1), (1, 1), (60, 9), (299, 1), (5, 200), (2, 3), (130, 70)]:
        again = Noise(noise.key)
        for n in (noise, again):
            assert torch.equal(
                n.at(at(noise, start, length)).gumbel(3), whole[:, start : start + length]
            )
    # Row by row at places of their own, block made ahead or not.
    for starts in [(0, 7, 3, 100), (1, 8, 4, 101), (2, 9, 5, 102), (4, 10, 6, 103), (90, 9, 9, 9)]:
        got = noise.at(Positions(starts, 2)).gumbel(3)
        for row, start in enumerate(starts):
            assert torch.equal(got[row], whole[row, start : start + 2])


def test_lanes_are_a_prefix():
    """The first lanes of a larger alphabet are those of a smaller one."""
    noise = Noise.seeded(0, range(3))
    pos = at(noise, 0, 5)
    assert torch.equal(noise.at(pos).uniform(7)[..., :3], noise.at(pos).uniform(3))


def test_select_and_concat():
    noise = Noise.seeded(0, [10, 11, 12])
    whole = noise.at(at(noise, 0, 4)).gumbel(2)
    chosen = noise.select([2, 0, 2])
    assert torch.equal(chosen.at(at(chosen, 0, 4)).gumbel(2), whole[[2, 0, 2]])
    both = Noise.concat([noise.select([1]), Noise.seeded(0, [12, 10])])
    assert torch.equal(both.at(at(both, 0, 4)).gumbel(2), whole[[1, 2, 0]])
    assert noise.to(torch.device("cpu")) is noise


def test_keys_depend_on_seed_sequence_and_stream():
    keys = [
        Noise.seeded(seed, [i], stream).key
        for seed in (0, 1, 11)
        for i in (0, 1, 11)
        for stream in ("a", "b")
    ]
    assert len(torch.cat(keys).unique()) == len(keys)
    assert torch.equal(
        Noise.seeded(5, [3, 4]).key, torch.cat([Noise.seeded(5, [i]).key for i in (3, 4)])
    )


def test_a_large_alphabet_is_not_made_ahead():
    noise = Noise.seeded(0, [1])
    assert noise.at(at(noise, 0, 1)).gumbel(100_000).shape == (1, 1, 100_000)
    assert noise._made[0, 100_000][1].numel() == 100_000
