"""Models of pictures, all that the registry lists: exact, and blind to what comes later.

Shapes: N pictures, T symbols of one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from chainrule.core.distributions import Finite
from chainrule.core.grid import ORDERS, coordinates, places
from chainrule.core.model import AnyOrder, Condition, SequenceModel
from chainrule.core.space import Space
from chainrule.decoding.infill import infill
from chainrule.models.made import MADE, Masked, made
from chainrule.models.pixelrnn import Diagonal, PixelRNN, pixelrnn
from chainrule.registry import PICTURE_RECIPES, SERIES_RECIPES, built
from tests.laws.tolerances import FLOAT64

GREY, COLOUR = (3, 3, 1), (2, 2, 3)  # 512 and 4096 pictures of two levels
LABELS = 2
RASTER = ("pixelcnn", "pixelrnn")  # of this order alone


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def model_of(name: str, space: Space, away: float = 0.3, **fields: Any) -> SequenceModel:
    """Narrow, with weights moved away from where they begin."""
    torch.manual_seed(3)
    model = built(replace(PICTURE_RECIPES[name](space, "tiny"), dim=16, **fields)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += away * torch.randn_like(p)
    return model


def every(length: int) -> Tensor:
    """All sequences of two levels: int64 [2^T, T]."""
    return torch.tensor(list(itertools.product(range(2), repeat=length)))


@torch.no_grad()
def summed(model: SequenceModel) -> float:
    """All probabilities together. They must differ, or nothing was tested."""
    x = every(model.space.max_len or 0)
    log_p = model(x).log_prob(x).sum(1)
    assert float(log_p.std()) > 0.5
    return float(log_p.exp().sum())


@torch.no_grad()
def grown(model: SequenceModel) -> float:
    """The same symbol by symbol: every prefix is asked for once for what may follow it."""
    x, log_p = torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1)
    for _ in range(model.space.max_len or 0):
        law = model.predict(model.extend(model.start(len(x)), x))[:, -1:]
        both = torch.arange(2).repeat(len(x))[:, None]
        x = torch.cat([x.repeat_interleave(2, 0), both], 1)
        assert isinstance(law, Finite)
        log_p = (log_p[:, None] + law.log_probs()[:, 0]).flatten()
    assert float(log_p.std()) > 0.5
    return float(log_p.exp().sum())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("grid", [(1, 1, 1), (9, 17, 3), (16, 5, 1), (2, 3, 2)])
def test_an_order_names_every_place_once(grid: tuple[int, int, int], order: str):
    assert places(grid, order).sort().values.tolist() == list(range(math.prod(grid)))
    row, column, channel = coordinates(grid, order)
    assert torch.equal((row * grid[1] + column) * grid[2] + channel, places(grid, order))


def test_orders_are_what_they_were():
    """Saved models know them by name: an order that changed would scramble what they draw."""
    wanted = {
        "reverse": [17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
        "columns": [0, 1, 6, 7, 12, 13, 2, 3, 8, 9, 14, 15, 4, 5, 10, 11, 16, 17],
        "snake": [0, 1, 2, 3, 4, 5, 10, 11, 8, 9, 6, 7, 12, 13, 14, 15, 16, 17],
        "planes": [0, 2, 4, 6, 8, 10, 12, 14, 16, 1, 3, 5, 7, 9, 11, 13, 15, 17],
        "coarse": [0, 1, 4, 5, 12, 13, 16, 17, 2, 3, 6, 7, 8, 9, 10, 11, 14, 15],
        "random": [7, 4, 3, 5, 8, 15, 0, 12, 1, 6, 14, 16, 10, 17, 2, 13, 9, 11],
        "raster": [*range(18)],
    }
    assert {order: places((3, 3, 2), order).tolist() for order in ORDERS} == wanted


def test_coarse_begins_with_few_pixels_of_the_whole():
    row, column, _ = coordinates((17, 9, 2), "coarse")
    for stride in (8, 4, 2):
        begins = (row % stride == 0) & (column % stride == 0)
        assert torch.equal(begins, torch.arange(len(row)) < begins.sum())


@pytest.mark.parametrize("order", ["raster", "reverse", "random"])
@pytest.mark.parametrize("name", PICTURE_RECIPES)
def test_512_probabilities_sum_to_one(name: str, order: str):
    if name in RASTER and order != "raster":
        with pytest.raises(ValueError, match="raster order"):
            PICTURE_RECIPES[name](Space.picture(GREY, 2, order), "tiny")
        return
    model = model_of(name, Space.picture(GREY, 2, order))
    assert summed(model) == pytest.approx(1, abs=FLOAT64)


@pytest.mark.parametrize("name", PICTURE_RECIPES)
def test_4096_probabilities_of_colour_sum_to_one(name: str):
    model = model_of(name, Space.picture(COLOUR, 2))
    assert grown(model) == pytest.approx(1, abs=FLOAT64)


@pytest.mark.parametrize("name", PICTURE_RECIPES)
def test_under_every_label_they_sum_to_one(name: str):
    model = model_of(name, Space.picture(GREY, 2), labels=LABELS)
    x = every(9)
    rows = Condition(label=torch.arange(-1, LABELS).repeat_interleave(len(x)))
    with torch.no_grad():
        law = model(x.repeat(LABELS + 1, 1), rows).log_prob(x.repeat(LABELS + 1, 1))
        none, one, other = law.sum(1).chunk(LABELS + 1)
        for log_p in (none, one, other):
            assert float(log_p.exp().sum()) == pytest.approx(1, abs=FLOAT64)
        assert not torch.equal(one, other)
        got = model(x[:9]).log_prob(x[:9]).sum(1)  # nothing said is the label -1
    torch.testing.assert_close(got, none[:9], rtol=FLOAT64, atol=FLOAT64)


@pytest.mark.parametrize("method", [None, "clamp", "smc"])
@pytest.mark.parametrize("name", PICTURE_RECIPES)
@torch.no_grad()
def test_blanks_are_filled_in_under_a_label(name: str, method: Any):
    """The log-probability told is the model's own, of the blanks given that label."""
    model = model_of(name, Space.picture(GREY, 2), labels=LABELS)
    x, blank = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1]), torch.arange(9) >= 5
    if method is not None:
        blank[6] = False
    for label in (-1, 0, 1):
        told = torch.tensor([label])
        filled = infill(model, x, ~blank, method, 4, particles=64, cond=Condition(label=told))
        assert torch.equal(filled.symbols[:, ~blank], x[~blank].expand(4, -1))
        law = model(filled.symbols, Condition(label=told.expand(4))).log_prob(filled.symbols)
        wanted = law[:, blank].sum(1)
        if method == "smc":
            wanted = law.sum(1) - torch.tensor(filled.log_evidence)
        torch.testing.assert_close(filled.log_prob, wanted, rtol=FLOAT64, atol=FLOAT64)


@pytest.mark.parametrize("name", PICTURE_RECIPES)
def test_a_label_that_was_never_learned(name: str):
    space = Space.picture(GREY, 2)
    x, label = torch.zeros(1, 9, dtype=torch.int64), Condition(label=torch.tensor([LABELS]))
    with pytest.raises(ValueError, match="label 2: this model has learned labels 0 to 1"):
        model_of(name, space, labels=LABELS)(x, label)
    with pytest.raises(ValueError, match="does not read the condition 'label'"):
        model_of(name, space)(x, label)


@pytest.mark.parametrize("name", sorted(set(PICTURE_RECIPES) - set(SERIES_RECIPES)))
def test_what_is_no_picture(name: str):
    for space in (Space("finite", 4), Space("real")):
        with pytest.raises(ValueError, match="pictures"):
            PICTURE_RECIPES[name](space, "tiny")


@pytest.mark.parametrize("name", PICTURE_RECIPES)
@pytest.mark.parametrize("grid", [GREY, COLOUR, (1, 5, 1), (5, 1, 3)])
@torch.no_grad()
def test_two_levels_are_blind_to_what_comes_later(name: str, grid: tuple[int, int, int]):
    """The laws of the registry run over three levels."""
    model = model_of(name, Space.picture(grid, 2), away=0.1)
    x = torch.randint(2, (4, model.space.max_len or 0), generator=torch.Generator().manual_seed(1))
    wanted = model(x).log_prob(torch.ones_like(x))
    for t in range(x.shape[1]):
        other = x.clone()
        other[:, t] = 1 - x[:, t]
        got = model(other).log_prob(torch.ones_like(x))
        assert torch.equal(got[:, : t + 1], wanted[:, : t + 1])
        if t + 1 < x.shape[1]:
            assert not torch.equal(got[:, t + 1 :], wanted[:, t + 1 :])


@pytest.mark.parametrize("order", ["raster", "reverse", *range(20)])
def test_any_order_sums_to_one_in_any_order(order: str | int):
    net = model_of("anyorder", Space.picture(GREY, 2)).masked
    assert net is not None
    dice = torch.Generator().manual_seed(order if isinstance(order, int) else 0)
    place = torch.arange(9) if isinstance(order, str) else torch.randperm(9, generator=dice)
    place = place.flip(0) if order == "reverse" else place
    assert grown(AnyOrder(net, place.tolist())) == pytest.approx(1, abs=FLOAT64)


def test_any_order_sums_to_one_in_colour():
    net = model_of("anyorder", Space.picture(COLOUR, 2)).masked
    assert net is not None
    place = torch.randperm(12, generator=torch.Generator().manual_seed(4))
    assert grown(AnyOrder(net, place.tolist())) == pytest.approx(1, abs=FLOAT64)


@pytest.mark.parametrize("order", ORDERS)
def test_any_order_speaks_in_the_order_of_the_space(order: str):
    """The same weights over pictures whose symbols come in another order."""
    space = Space.picture((4, 3, 1), 2)
    plain = model_of("anyorder", space).masked
    other = model_of("anyorder", replace(space, order=order)).masked
    assert plain is not None
    assert other is not None
    dice = torch.Generator().manual_seed(2)
    x, known = torch.randint(2, (5, 12), generator=dice), torch.rand(5, 12, generator=dice) < 0.5
    place: Any = other.place
    got, wanted = other(x[:, place], known[:, place]), plain(x, known)
    torch.testing.assert_close(got.log_probs(), wanted.log_probs()[:, place], rtol=FLOAT64, atol=0)


def test_made_of_more_symbols_than_memory_holds():
    with pytest.raises(ValueError, match="made of 12,288 symbols, 512 wide, has more than"):
        made(Space.picture((64, 64, 3), 256), "small")


@pytest.mark.parametrize("name", ["made", "pixelrnn", "anyorder"])
def test_more_symbols_than_a_picture_has(name: str):
    model = model_of(name, Space.picture((2, 2, 1), 3))
    state = model.extend(model.start(2), torch.zeros(2, 3, dtype=torch.int64), tail=1)
    model.extend(state, torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="5 symbols: this medium has 4 and no more"):
        model.extend(state, torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="6 symbols: this medium has 4 and no more"):
        model(torch.zeros(2, 6, dtype=torch.int64))


@torch.no_grad()
def test_made_never_reads_a_masked_weight():
    for levels in (2, 5):
        model = model_of("made", Space.picture(GREY, levels))
        x = torch.randint(levels, (6, 9), generator=torch.Generator().manual_seed(1))
        wanted = model(x).log_prob(x)
        layers = [m for m in model.modules() if isinstance(m, Masked)]
        assert len(layers) == 5
        for layer in layers:
            layer.weight[layer.mask == 0] = 1e6
        assert torch.equal(model(x).log_prob(x), wanted)


@pytest.mark.parametrize("dim", [1, 3, 8, 100])
def test_made_of_any_width(dim: int):
    """Fewer hidden units than symbols, or more: still a law that looks at all it may."""
    torch.manual_seed(0)
    model = MADE(replace(made(Space.picture(GREY, 2), "tiny"), dim=dim)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn_like(p)
    assert summed(model) == pytest.approx(1, abs=FLOAT64)
    (slope,) = torch.autograd.grad(model.direct(torch.ones(1, 9))[0, -1], model.direct.weight)
    assert torch.equal(slope[-1] != 0, torch.arange(9) < 8)


@torch.no_grad()
def test_the_diagonals_of_pixelrnn_are_its_definition():
    """One pixel after the other, from the states beside and above; zeros lie outside."""
    torch.manual_seed(1)
    layer, (height, width) = Diagonal(8, 0.0), (4, 5)
    gates = torch.randn(2, 3, height, width, 4 * layer.size)
    none = torch.zeros(3, layer.size)
    wanted = torch.empty(2, 3, height, width, layer.size)
    for way in range(2):
        hidden: dict[tuple[int, int], Tensor] = {}
        cell: dict[tuple[int, int], Tensor] = {}
        for r, c in itertools.product(range(height), range(width)):
            around = [hidden.get((r, c - 1), none), hidden.get((r - 1, c), none)]
            enter, keep, show, new = (
                gates[way, :, r, c] + torch.cat(around, -1) @ layer.state[way]
            ).chunk(4, -1)
            kept = keep.sigmoid() * cell.get((r, c - 1), none)
            cell[r, c] = kept + enter.sigmoid() * new.tanh()
            hidden[r, c] = show.sigmoid() * cell[r, c].tanh()
            wanted[way, :, r, c] = hidden[r, c]
    torch.testing.assert_close(layer._scanned(gates), wanted, rtol=FLOAT64, atol=FLOAT64)


@torch.no_grad()
def test_pixelrnn_has_no_blind_spot():
    """Every law of a picture wider than the first convolution depends on every symbol before."""
    torch.manual_seed(2)
    model = PixelRNN(pixelrnn(Space.picture((3, 10, 1), 2), "tiny")).eval()
    x = torch.zeros(1, 30, dtype=torch.int64)
    wanted = model(x).log_prob(x)[0]
    for t in range(30):
        other = x.clone()
        other[0, t] = 1
        got = model(other).log_prob(x)[0]
        assert bool((got != wanted)[t + 1 :].all()), t
        assert torch.equal(got[: t + 1], wanted[: t + 1])
