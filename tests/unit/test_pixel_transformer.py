"""Pixels in the transformer: places of two dimensions, labels, local attention.

Shapes: B rows, T symbols of a picture, D width.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from chainrule.core.config import from_dict, to_dict
from chainrule.core.grid import ORDERS, places
from chainrule.core.model import AnyOrder, Condition
from chainrule.core.noise import Noise
from chainrule.core.outline import unfilled
from chainrule.core.space import Space
from chainrule.core.state import State
from chainrule.decoding.warps import Warps
from chainrule.engine import native_available
from chainrule.engine.compiled import Compiled
from chainrule.engine.reference import Reference
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import TransformerConfig, gpt2, transformer
from chainrule.nn.attention import rotate
from chainrule.nn.places import Places
from tests.laws.entries import dice, symbols
from tests.laws.tolerances import EXACT, FLOAT32, FLOAT64
from tests.laws.track import close

GREY, COLOUR = Space.picture((4, 5, 1), 3), Space.picture((2, 3, 3), 3)


def build(space: Space = GREY, **shape: object) -> Transformer:
    """A small model in float64, away from its initialisation."""
    torch.manual_seed(0)
    config = replace(transformer(space, "tiny"), dim=16, hidden=24, **shape)
    model = Transformer(config).double().eval()
    for p in model.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return model


def told(*labels: int) -> Condition:
    return Condition(label=torch.tensor(labels))


# ---- places ----


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("grid", [(4, 5, 1), (2, 3, 3)])
def test_an_input_tells_its_own_place_and_the_one_that_it_predicts(
    grid: tuple[int, int, int], order: str
):
    height, width, channels = grid
    sizes = [height, width, channels][: 2 + (channels > 1)]
    net = Places(grid, order, 8).double()
    torch.nn.init.normal_(net.table.weight, generator=dice())
    tables = net.table.weight.split(2 * sizes)
    place = places(grid, order).tolist()
    length = len(place)

    def at(where: int, parts: tuple[Tensor, ...]) -> Tensor:
        row, column = divmod(where // channels, width)
        spots = (row, column, where % channels)
        return sum((part[n] for part, n in zip(parts, spots, strict=False)), torch.zeros(8))

    got = net(torch.arange(length + 3))
    for pos in range(length + 3):
        own = place[min(max(pos - 1, 0), length - 1)]
        next_ = place[min(pos, length - 1)]
        wanted = at(own, tables[: len(sizes)]) + at(next_, tables[len(sizes) :])
        torch.testing.assert_close(got[pos], wanted, rtol=FLOAT64, atol=FLOAT64)


@pytest.mark.parametrize("order", ORDERS)
def test_a_model_follows_its_order(order: str):
    """Exact in every order; an order of its own is a law of its own."""
    model = build(Space.picture((2, 2, 1), 3, order))
    every = torch.tensor(list(itertools.product(range(3), repeat=4)))
    close(model(every).log_prob(every).sum(1).exp().sum(), torch.tensor(1.0).double())
    plain = build(Space("finite", 3), context=5, sinks=0)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("places")}
    plain.load_state_dict(state)
    assert not torch.allclose(plain(every).log_probs(), model(every).log_probs())
    with torch.no_grad():
        model.places.table.weight.zero_()
    torch.testing.assert_close(
        plain(every).log_probs(), model(every).log_probs(), rtol=EXACT, atol=EXACT
    )


def test_places_of_an_outline_and_of_a_file():
    space = replace(COLOUR, order="random")
    outline = unfilled(Transformer, replace(build(space).config))
    assert torch.equal(outline.places.index, build(space).places.index)
    tensors = build(COLOUR).state_dict()
    with pytest.raises(ValueError, match=r"places\.index does not hold the places"):
        build(space).load_state_dict(tensors)
    build(COLOUR).load_state_dict(tensors)


# ---- labels ----


def test_labels_move_laws_and_none_is_a_label_too():
    model, x = build(labels=2), symbols(GREY, 3, 20, dice())
    laws = model(x, told(0, 1, -1)).log_probs()
    for row, label in enumerate((0, 1, -1)):
        one = model(x[row : row + 1], told(label)).log_probs()
        torch.testing.assert_close(laws[row : row + 1], one, rtol=FLOAT64, atol=FLOAT64)
    torch.testing.assert_close(laws[2:], model(x[2:]).log_probs(), rtol=FLOAT64, atol=FLOAT64)
    same = model(x[:1].expand(3, -1), told(0, 1, -1)).log_probs()
    assert not any(torch.allclose(same[a], same[b]) for a, b in ((0, 1), (1, 2), (0, 2)))


def test_rows_with_and_without_labels_share_a_batch():
    model, x = build(labels=2), symbols(GREY, 2, 20, dice())
    some = model.extend(model.start(1, told(1)), x[:1, :4], tail=2)
    none = model.extend(model.start(1), x[1:, :4], tail=2)
    both = model.extend(State.concat([none, some]), x.flip(0)[:, 4:9], tail=5)
    wanted = model(x.flip(0), told(-1, 1)).log_probs()[:, 4:10]
    torch.testing.assert_close(model.predict(both).log_probs(), wanted, rtol=FLOAT64, atol=FLOAT64)


def test_labels_that_were_not_learned():
    x = symbols(GREY, 1, 4, dice())
    with pytest.raises(ValueError, match="label 2: this model has learned labels 0 to 1"):
        build(labels=2)(x, told(2))
    with pytest.raises(ValueError, match="label -3: this model has learned labels 0 to 1"):
        build(labels=2).start(1, told(-3))
    with pytest.raises(ValueError, match="does not read the condition 'label'"):
        build()(x, told(0))


# ---- local attention ----


@pytest.mark.parametrize("context", [2, 6, 11])
def test_local_attention_is_a_mask(context: int):
    """A prediction sees the newest inputs, as many as the context, in every layer."""
    model, x = build(context=context), symbols(GREY, 2, 20, dice())
    inputs = torch.cat([torch.full((2, 1), model.begin), x[:, :-1]], 1)
    pos = torch.arange(20)
    back = pos[:, None] - pos
    seen = (back >= 0) & (back < context)
    out = model.embed(inputs, pos)
    angles = model.angles(pos, out)
    for layer in model.stack():
        q, k, v = layer.heads(out)
        scores = rotate(q, angles) @ rotate(k, angles).mT / math.sqrt(q.shape[-1])
        out = layer.join(out, scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v)
    wanted = model.law(model.norm(out)).log_probs()
    torch.testing.assert_close(model(x).log_probs(), wanted, rtol=FLOAT64, atol=FLOAT64)
    state = model.extend(model.extend(model.start(2), x[:, :7]), x[:, 7:], tail=13)
    cached = model.predict(state).log_probs()[:, :-1]
    torch.testing.assert_close(cached, wanted[:, 7:], rtol=FLOAT64, atol=FLOAT64)


@pytest.mark.parametrize(("grid", "rows"), [((28, 28, 1), 3), ((32, 32, 3), 1)])
def test_local_attention_takes_no_square_of_memory(grid: tuple[int, int, int], rows: int):
    """What training keeps of each symbol: its band, and not the picture."""
    context = rows * grid[1] * grid[2]
    model = build(Space.picture(grid, 3), context=context, num_layers=1).float().train()
    x = symbols(model.space, 1, math.prod(grid), dice())
    largest = 0

    def keep(t: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        model(x).log_prob(x).sum().backward()
    block = max(128, context)
    assert largest <= max(2 * block * (block + context), x.numel() * 3 * 24)
    assert largest < x.numel() ** 2 / 4


# ---- blanks ----


@pytest.mark.parametrize("order", ["raster", "random"])
def test_blanks_of_pictures_in_any_order(order: str):
    """A blank tells its own place, so every order of places is exact; labels are told too."""
    space = Space.picture((2, 2, 1), 2, order)
    model = build(space, masked=True, labels=2)
    every = torch.tensor(list(itertools.product(range(2), repeat=4)))
    totals = []
    for way in ([0, 1, 2, 3], [2, 0, 3, 1]):
        for label in (-1, 1):
            anyhow = AnyOrder(model.masked, way)
            nats = anyhow(every, told(*[label] * 16)).log_prob(every).sum(1)
            close(nats.exp().sum(), torch.tensor(1.0).double())
            totals.append(nats)
    assert not any(torch.allclose(a, b) for a, b in itertools.combinations(totals, 2))


def test_blanks_behind_a_state_know_their_label():
    model = build(masked=True, labels=2)
    x, known = symbols(GREY, 2, 12, dice()), torch.zeros(2, 12, dtype=torch.bool)
    known[:, :5], known[:, 8] = True, True
    whole = model.masked(x, known, told(1, 0)).log_probs()[:, 5:]
    state = model.extend(model.start(2, told(1, 0)), x[:, :5])
    got = model.masked.fill(state, x[:, 5:], known[:, 5:]).log_probs()
    torch.testing.assert_close(got[~known[:, 5:]], whole[~known[:, 5:]], rtol=FLOAT64, atol=FLOAT64)
    taught = model.masked.taught(x, [range(5, 12)], known[:, 5:], told(1, 0)).log_probs()
    torch.testing.assert_close(
        taught[:, :12], model(x, told(1, 0)).log_probs(), rtol=FLOAT64, atol=FLOAT64
    )
    torch.testing.assert_close(
        taught[:, 12:][~known[:, 5:]], whole[~known[:, 5:]], rtol=FLOAT64, atol=FLOAT64
    )


# ---- the same step as a program ----


@pytest.mark.parametrize("order", ORDERS)
def test_the_program_is_the_model(order: str):
    model = build(replace(COLOUR, order=order), labels=2, context=7)
    x, cond = symbols(COLOUR, 3, 18, dice()), told(0, -1, 1)
    wanted, program = model(x, cond).log_probs(), model.lower()
    got = Reference(model, program, dtype=torch.float64)(x, cond).log_probs()
    torch.testing.assert_close(got, wanted, rtol=FLOAT64, atol=FLOAT64)
    if native_available():
        narrow = Compiled(model.float(), "f32", 1)(x, cond).log_probs()
        assert (narrow - wanted).norm() <= FLOAT32 * wanted.norm()


@pytest.mark.skipif(not native_available(), reason="installed without a compiler")
def test_the_engine_guesses_blanks_as_torch_does():
    """A blank tells its own place there too."""
    model = build(replace(GREY, order="random"), masked=True, labels=2).float()
    engine, x = Compiled(model, "f32", 1), symbols(GREY, 2, 5, dice())
    noise, warp, guesses = Noise.seeded(3, range(2)), Warps.of(2), []
    for each in (model, engine):
        state = each.extend(each.start(2, told(1, 0)), x[:, :4])
        guesses.append(each.guess_block(state, x[:, 4:], 9, noise, warp))
    assert torch.equal(*guesses)
    assert guesses[0].shape == (2, 9)


# ---- configs ----


def test_recipes():
    config = transformer(COLOUR, "small")
    assert (config.context, config.sinks) == (19, 0)
    assert (transformer(Space("finite", 3)).context, transformer(Space("finite", 3)).sinks) == (
        256,
        4,
    )
    assert Transformer(gpt2(COLOUR, "tiny")).places is None
    with pytest.raises(ValueError, match="labels are for the llama layout"):
        replace(gpt2(COLOUR, "tiny"), labels=2)


def test_configs_of_before_there_were_pictures():
    """No new tensors, and a file without the new field is read."""
    model = Transformer(transformer(Space("finite", 3), "tiny"))
    assert {k.split(".")[0] for k in model.state_dict()} == {"embedding", "layers", "norm", "head"}
    data = to_dict(model.config)
    del data["labels"]
    assert from_dict(TransformerConfig, data) == model.config
    pictures = replace(transformer(replace(COLOUR, order="snake"), "tiny"), labels=3, masked=True)
    assert from_dict(TransformerConfig, to_dict(pictures)) == pictures
