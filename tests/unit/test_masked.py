"""Masked decoding beside its definition: schedules, thresholds, ends, what it refuses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch

from chainrule.core.noise import Noise
from chainrule.core.space import Space
from chainrule.decoding.masked import Block, Parallel, _confident, _quota, _scheduled
from chainrule.decoding.strategy import Target
from chainrule.decoding.verify import drain
from chainrule.decoding.warps import Warps
from chainrule.models.rnn import RNN, gru
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import TransformerConfig
from chainrule.models.wrappers import Penalties


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(5)
    with torch.no_grad():
        yield
    torch.set_default_dtype(torch.float32)


def filler(max_len: int | None = None, context: int = 32) -> Transformer:
    space = Space("finite", 5, max_len=max_len)
    model = Transformer(
        TransformerConfig(space, dim=16, num_layers=1, hidden=24, context=context, masked=True)
    ).eval()
    for p in model.parameters():
        p += 0.5 * torch.randn_like(p)
    return model


class Counted:
    """Calls of a masked net."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, net: type) -> None:
        self.calls, inner = 0, net.fill

        def fill(*args):
            self.calls += 1
            return inner(*args)

        monkeypatch.setattr(net, "fill", fill)


def test_the_schedule_is_linear_and_ends():
    assert [_quota(i, 1, 10) for i in (0, 1)] == [0, 10]
    assert [_quota(i, 4, 10) for i in range(5)] == [0, 3, 5, 8, 10]
    for size in (1, 3, 8, 100):
        known = [_quota(i, 8, size) for i in range(9)]
        assert known[0] == 0
        assert known[-1] == size
        assert all(b > a or a == size for a, b in itertools.pairwise(known))


def test_what_a_pass_keeps():
    known = -math.inf
    surest = torch.tensor([0.5, 0.95, 0.2, 0.91]).log()[None]
    assert _confident(surest, 0, 0.9).tolist() == [[False, True, False, True]]
    assert _confident(surest, 0, 0.99).tolist() == [[False, True, False, False]]
    equal = torch.tensor([[known, -1.0, -1.0, -1.0]])
    assert _confident(equal, 0, 0.9).tolist() == [[False, True, False, False]]
    assert _scheduled(surest, 0, 1).all()
    assert _scheduled(surest, 0, 4).tolist() == [[False, True, False, False]]


def test_one_shot_and_many_passes(monkeypatch):
    model = filler()
    counted = Counted(monkeypatch, type(model.masked))
    for iterations, calls in ((1, 1), (4, 4), (None, 8), (500, 10)):
        counted.calls = 0
        decoder = Parallel.decoder(Target(model, length=12, iterations=iterations))
        run, first = decoder.start([torch.tensor([1, 2])] * 3, Noise.seeded(0, range(3)))
        assert counted.calls == 0
        _, rest = decoder.step(run)
        assert counted.calls == calls
        assert first.count == [1, 1, 1]
        assert rest.count == [11, 11, 11]


def test_a_threshold_of_nothing_is_one_pass_and_of_one_is_a_place_a_pass(monkeypatch):
    model = filler()
    counted = Counted(monkeypatch, type(model.masked))
    for threshold, calls in ((0.0, 1), (1.0, 6)):
        counted.calls = 0
        decoder = Block.decoder(Target(model, guesses=6, threshold=threshold))
        run, _ = decoder.start([torch.tensor([1, 2])], Noise.seeded(0, [0]))
        decoder.step(run)
        assert counted.calls == calls


def test_greedy_one_shot_is_the_mode_of_every_place():
    model = filler()
    decoder = Parallel.decoder(Target(model, length=6, iterations=1))
    prompt = torch.tensor([3, 1])
    run, first = decoder.start([prompt], Noise.seeded(0, [0]), None, Warps.of(1, temperature=0))
    _, rest = decoder.step(run)
    x = torch.cat([prompt[None], first.symbols, torch.zeros(1, 4, dtype=torch.int64)], 1)
    wanted = model.masked(x, torch.arange(7)[None] < 3).mode()[:, 3:]
    assert torch.equal(rest.symbols[:, :4], wanted)
    whole = torch.cat([prompt[None], first.symbols, rest.symbols], 1)
    assert torch.equal(whole[:, -1], model(whole).mode()[:, -1])


@pytest.mark.parametrize("strategy", [Block, Parallel])
def test_a_fixed_size_medium_is_filled_to_its_end(strategy):
    model = filler(max_len=12)
    decoder = strategy.decoder(Target(model, length=12, iterations=2))
    prompts = [torch.arange(n) % 5 for n in (0, 1, 6, 9, 10, 11)]
    limits = [12 - len(p) for p in prompts]

    def decode(rows: list[int]) -> list[list[int]]:
        noise = Noise.seeded(1, rows)
        begun = decoder.start([prompts[r] for r in rows], noise)
        out: list[list[int]] = [[] for _ in rows]
        for step in drain(decoder, begun, [limits[r] for r in rows]):
            assert max(step.count) <= 12
            for i, row in enumerate(step.rows):
                out[row] += step.symbols[i, : step.count[i]].tolist()
        return out

    together = decode(list(range(6)))
    assert [len(x) for x in together] == limits
    assert together == [decode([row])[0] for row in range(6)]


def test_what_can_not_be_done_says_so():
    plain = RNN(gru(Space("finite", 5), "tiny"))
    for strategy in (Block, Parallel):
        with pytest.raises(ValueError, match="fit a transformer with --objective hybrid"):
            strategy.decoder(Target(plain, length=4))
        with pytest.raises(ValueError, match="with nothing wrapped around it"):
            strategy.decoder(Target(Penalties(filler(), presence=1.0), length=4))
    decoder = Parallel.decoder(Target(filler(context=16), length=14))
    decoder.start([torch.zeros(2, dtype=torch.int64)], Noise.seeded(0, [0]))
    with pytest.raises(ValueError, match="has room for 13 behind this prompt"):
        decoder.start([torch.zeros(3, dtype=torch.int64)], Noise.seeded(0, [0]))
