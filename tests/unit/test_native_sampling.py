"""The compiled noise, laws and warps beside torch's, and every instruction set beside the others.

Shapes: B and N rows, L positions, V alphabet size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule import native
from chainrule.core import noise as noise_module
from chainrule.core.distributions import Categorical
from chainrule.core.noise import Noise, Positions
from chainrule.core.space import Space
from chainrule.decoding.verify import Verify, drain
from chainrule.decoding.warps import Warps
from chainrule.models.rnn import RNN, gru
from tests.laws.tolerances import FLOAT64

compiled: Any = native._native
pytestmark = pytest.mark.skipif(compiled is None, reason="installed without a compiler")

SETS = ["portable", "avx2", "avx512"]
SIZES = [1, 2, 3, 7, 8, 9, 15, 16, 17, 65, 1000, 50_257]
OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical": 1.0}
SETTINGS: list[dict[str, float]] = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.7},
    {"temperature": 1.6, "typical": 0.5},
    *({"top_k": k} for k in (1, 5, 40, 2000, 2**31)),
    *({"top_p": p} for p in (1e-9, 0.3, 0.9, 0.999)),
    *({"min_p": p} for p in (0.05, 0.6, 1.0)),
    *({"typical": p} for p in (1e-9, 0.2, 0.95)),
    {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.02, "typical": 0.9},
    {"temperature": 0.0, "top_k": 3, "top_p": 0.5, "typical": 0.3},
]


@pytest.fixture(autouse=True)
def same_set_afterwards() -> Iterator[None]:
    used = compiled.chainrule_used()
    yield
    compiled.chainrule_use(used)


def can(name: str) -> bool:
    try:
        compiled.chainrule_use(name)
    except ValueError:
        return False
    return True


def logits(size: int, rows: int = 3, spread: float = 2.0) -> Tensor:
    made = torch.Generator().manual_seed(size)
    return torch.randn(rows, size, generator=made) * spread


def laws(size: int) -> Tensor:
    """Float64 log-probabilities [N, V]: peaked, flat, with ties, with banned symbols, uniform."""
    x = logits(size, 5, 1.0).double() * torch.tensor([6.0, 0.3, 2.0, 3.0, 0.0])[:, None]
    x[2] = x[2].round()
    x[3, : size // 2] = -math.inf
    return torch.log_softmax(x, -1)


def log_softmax(x: Tensor) -> Tensor:
    out = torch.empty(x.shape, dtype=torch.float64)
    compiled.chainrule_log_softmax(x.numpy(), out.numpy())
    return out


def log_prob(x: Tensor, symbols: Tensor) -> Tensor:
    out = torch.empty(len(x), dtype=torch.float64)
    compiled.chainrule_log_prob(x.numpy(), symbols.numpy(), out.numpy())
    return out


def columns(rows: int, settings: dict[str, float]) -> dict[str, NDArray[Any]]:
    whole = OFF | settings
    kinds = {name: np.int64 if name == "top_k" else np.float64 for name in OFF}
    return {name: np.full(rows, whole[name], kinds[name]) for name in OFF}


def warp(log_p: Tensor, **settings: float) -> Tensor:
    out = torch.empty_like(log_p)
    compiled.chainrule_warp(log_p.numpy(), *columns(len(log_p), settings).values(), out.numpy())
    return out


def pick(scores: Tensor, noise: Tensor) -> Tensor:
    out = torch.empty(len(scores), dtype=torch.int64)
    compiled.chainrule_pick(scores.numpy(), noise.numpy(), out.numpy())
    return out


def gumbel(noise: Noise, starts: tuple[int, ...], length: int, stream: int, lanes: int) -> Tensor:
    return Noise(noise.key)._gumbel(Positions(starts, length), stream, lanes)


def ulps(a: Tensor, b: Tensor) -> Tensor:
    """How many float32 numbers lie between, for numbers of one sign."""
    return (a.view(torch.int32) - b.view(torch.int32)).abs()


# ---- noise ----


def test_the_hash_is_the_one_of_the_definition():
    """core/noise.py in Python's own integers."""
    whole = 2**64 - 1

    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & whole
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & whole
        return x ^ (x >> 31)

    noise = Noise.seeded(5, [0, 1, 2])
    for row, start, stream, lane in [(0, 0, 0, 0), (1, 7, 0, 64), (2, 2**40, 4097, 3)]:
        key = int(noise.key[row]) & whole
        x = mix((key + start * 0x9E3779B97F4A7C15) & whole)
        x ^= mix((mix(lane + (stream << 32)) + 0x9E3779B97F4A7C15) & whole)
        x = x * 0xBF58476D1CE4E5B9 & whole
        x ^= (x >> 32) | (0xFFFFFFFF00000000 if x >> 63 else 0)
        x = (x * 0x94D049BB133111EB & whole) ^ 2**63
        u = ((x >> 12) * 2 + 1) / 2**53
        pos = Positions((start,) * 3, 1)
        assert noise._uniform(pos, stream, lane + 1)[row, 0, lane] == u
        drawn = gumbel(noise, pos.starts, 1, stream, lane + 1)[row, 0, lane]
        assert float(drawn) == pytest.approx(-math.log(-math.log(u)), rel=2**-23)


def test_ten_million_numbers_are_torch_s_up_to_ties(monkeypatch):
    noise = Noise.seeded(1, range(10))
    starts = tuple(range(0, 1000, 100))
    shapes = [(2**20 // lanes, stream, lanes) for stream, lanes in [(0, 1000), (4097, 65), (1, 3)]]
    many = 0
    differ = 0
    for length, stream, lanes in shapes:
        ours = gumbel(noise, starts, length, stream, lanes)
        with monkeypatch.context() as without:
            without.setattr(noise_module, "_native", None)
            theirs = gumbel(noise, starts, length, stream, lanes)
        assert int(ulps(ours, theirs).max()) <= 1
        many, differ = many + ours.numel(), differ + int((ours != theirs).sum())
    assert many > 10**7
    assert differ < many * 1e-6


def test_symbols_don_t_depend_on_who_made_the_noise(monkeypatch):
    torch.manual_seed(4)
    model = RNN(gru(Space("finite", 7), "tiny")).double().eval()

    def decode() -> list[list[int]]:
        begun = Verify(model, stretch=5).start(
            [torch.arange(n) % 6 for n in range(4)], Noise.seeded(3, range(4)), None, Warps.of(4)
        )
        out: list[list[int]] = [[] for _ in range(4)]
        for step in drain(Verify(model, stretch=5), begun, [150] * 4):
            for i, row in enumerate(step.rows):
                out[row] += step.symbols[i, : step.count[i]].tolist()
        return out

    law = Categorical(logits(50, 40).reshape(40, 1, 50).expand(40, 500, 50))
    noise = Noise.seeded(8, range(40))
    pos = Positions((3,) * 40, 500)
    drawn, symbols = decode(), law.sample(Noise(noise.key).at(pos))
    monkeypatch.setattr(noise_module, "_native", None)
    assert decode() == drawn
    assert torch.equal(law.sample(Noise(noise.key).at(pos)), symbols)


# ---- laws and warps ----


@pytest.mark.parametrize("size", SIZES)
def test_log_probabilities(size):
    x = logits(size, 4, 8.0)
    x[1, size // 2 + 1 :] = -math.inf
    x[2] += 1e4
    x[3] *= 100
    got = log_softmax(x)
    torch.testing.assert_close(got, torch.log_softmax(x.double(), -1), rtol=FLOAT64, atol=FLOAT64)
    symbols = torch.tensor([0, size // 2, size - 1, size // 3])
    assert torch.equal(log_prob(x, symbols), got[torch.arange(4), symbols])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("size", [1, 2, 9, 65, 3000])
def test_warps_are_those_of_torch(size, settings):
    log_p = laws(size)
    law = Warps.of(len(log_p), **settings)(Categorical.normalised(log_p[:, None]))
    assert isinstance(law, Categorical)
    wanted = law.__dict__.get("_log_probs", law.logits)[:, 0]
    got = warp(log_p, **settings)
    assert torch.equal(got > -math.inf, wanted > -math.inf)
    torch.testing.assert_close(got, wanted, rtol=FLOAT64, atol=FLOAT64)


@pytest.mark.parametrize("settings", SETTINGS[3:], ids=str)
def test_warps_of_a_large_alphabet(settings):
    log_p = laws(50_257)[[0, 1, 2]]
    law = Warps.of(len(log_p), **settings)(Categorical.normalised(log_p[:, None]))
    assert torch.equal(warp(log_p, **settings) > -math.inf, law.log_probs()[:, 0] > -math.inf)


def test_ties_go_by_index_and_the_crossing_symbol_is_kept():
    half, eighth = math.log(0.5), math.log(0.125)
    log_p = torch.tensor([[eighth, half, eighth, eighth, eighth, -math.inf]], dtype=torch.float64)
    assert (warp(log_p, top_p=0.6)[0] > -math.inf).tolist() == [True, True] + [False] * 4
    assert (warp(log_p, top_k=2)[0] > -math.inf).tolist() == [True] * 5 + [False]
    assert warp(log_p, temperature=0.0)[0].tolist() == [-math.inf, 0.0] + [-math.inf] * 4


def test_rows_have_settings_of_their_own():
    log_p, each = laws(65)[[0, 1, 2, 3]], [SETTINGS[i] for i in (0, 1, 5, 17)]
    whole = [columns(1, settings) for settings in each]
    together = [np.concatenate([c[name] for c in whole]) for name in OFF]
    out = torch.empty_like(log_p)
    compiled.chainrule_warp(log_p.numpy(), *together, out.numpy())
    alone = [warp(log_p[i : i + 1], **settings) for i, settings in enumerate(each)]
    assert torch.equal(out, torch.cat(alone))


@pytest.mark.parametrize("size", SIZES)
def test_pick_is_the_first_greatest(size):
    scores = logits(size, 6).double()
    noise = torch.empty(6, size).uniform_(generator=torch.Generator().manual_seed(1))
    scores[1], noise[1] = scores[1].round(), 0  # ties
    scores[2], noise[2] = 0, 0
    scores[3] = -math.inf
    scores[4, :-1] = -math.inf
    wanted = np.argmax(scores.numpy() + noise.double().numpy(), axis=1)
    assert pick(scores, noise).tolist() == wanted.tolist()


# ---- instruction sets ----


@pytest.mark.parametrize("name", SETS[1:])
@pytest.mark.parametrize("size", SIZES)
def test_every_instruction_set_gives_the_same_bits(name, size):
    if not can(name):
        pytest.skip(f"this processor has no {name}")
    x, law = logits(size, 3, 5.0), laws(size)[:4]
    x[1, : size // 2] = -math.inf
    noise = Noise.seeded(2, range(3))
    combined = [SETTINGS[3], {"top_p": 0.9}, SETTINGS[-2]]

    def everything() -> list[Tensor]:
        made = gumbel(noise, (0, 5, 2**33), 2, 1, size)
        scores = log_softmax(x)
        symbols = torch.tensor([0, size // 2, size - 1])
        jobs: list[Callable[[], Tensor]] = [
            lambda: made,
            lambda: scores,
            lambda: log_prob(x, symbols),
            lambda: pick(scores, made[:, 0].contiguous()),
        ]
        return [job() for job in jobs] + [warp(law, **settings) for settings in combined]

    wide = everything()
    compiled.chainrule_use("portable")
    for a, b in zip(wide, everything(), strict=True):
        assert torch.equal(a, b)


def test_a_set_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no kernels named avx9000 can run here"):
        compiled.chainrule_use("avx9000")
    compiled.chainrule_use("portable")
    assert compiled.chainrule_used() == "portable"


# ---- bad input ----


def test_arrays_that_don_t_fit_are_refused():
    floats, doubles = np.zeros((2, 3), np.float32), np.zeros((2, 3))
    keys, out = np.zeros(2, np.int64), np.zeros((2, 4, 3), np.float32)
    fine = list(columns(2, {}).values())
    bad: list[tuple[str, Callable[[], object]]] = [
        ("out is", lambda: compiled.chainrule_gumbel(keys, keys[:1], 4, 0, 3, out)),
        ("out is", lambda: compiled.chainrule_gumbel(keys, keys, 5, 0, 3, out)),
        ("out is", lambda: compiled.chainrule_gumbel(keys, keys, -1, 0, 3, out)),
        ("differ in shape", lambda: compiled.chainrule_log_softmax(floats, doubles[:1])),
        ("at least one", lambda: compiled.chainrule_log_softmax(floats[:, :0], doubles[:, :0])),
        ("outside", lambda: compiled.chainrule_log_prob(floats, keys + 3, np.zeros(2))),
        ("outside", lambda: compiled.chainrule_log_prob(floats, keys - 1, np.zeros(2))),
        ("symbols and out", lambda: compiled.chainrule_log_prob(floats, keys[:1], np.zeros(1))),
        ("differ in shape", lambda: compiled.chainrule_pick(doubles, floats[:1], keys)),
        ("out is", lambda: compiled.chainrule_pick(doubles, floats, keys[:1])),
        ("its input", lambda: compiled.chainrule_warp(doubles, *fine, doubles)),
        (
            "every setting",
            lambda: compiled.chainrule_warp(doubles, *fine[:4], np.ones(1), doubles + 1),
        ),
    ]
    for message, call in bad:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -1), ("top_k", -1), ("top_p", 0), ("min_p", 1.5), ("typical", math.nan)],
)
def test_settings_out_of_bounds_are_refused(name, value):
    with pytest.raises(ValueError, match="a setting is out of its bounds"):
        warp(laws(9), **{name: value})


@pytest.mark.parametrize("name", SETS)
def test_nonsense_laws_draw_something(name):
    """NaN and infinities come from broken weights: nothing outside the row is read or written."""
    if not can(name):
        pytest.skip(f"this processor has no {name}")
    for value in (math.nan, math.inf, -math.inf):
        for size in (1, 9, 65):
            law = laws(size)
            law[:, :: 1 + size // 5] = value
            for settings in SETTINGS:
                scores = warp(law, **settings)
                drawn = pick(scores, torch.zeros(law.shape))
                assert 0 <= int(drawn.min()) <= int(drawn.max()) < size
