"""The PixelCNN: what it sees, its heads, and what it keeps while decoding."""

from __future__ import annotations

import pytest
import torch

from chainrule.core.model import Condition
from chainrule.core.space import Space
from chainrule.models.pixelcnn import PixelCNN, PixelCNNConfig
from tests.laws.tolerances import FLOAT64

GREY, COLOUR = Space.picture((5, 6, 1), 2), Space.picture((4, 3, 3), 4)


def net(space: Space, **fields: object) -> PixelCNN:
    torch.manual_seed(0)
    usual: dict[str, object] = {"num_layers": 3, "dim": 8, "hidden": 6, "kernel": 5}
    return PixelCNN(PixelCNNConfig(space, **{**usual, **fields})).double().eval()  # type: ignore[arg-type]


def pictures(space: Space, rows: int = 2) -> torch.Tensor:
    return torch.randint(space.size or 0, (rows, space.max_len or 0))


@pytest.mark.parametrize("space", [GREY, COLOUR], ids=["grey", "colour"])
def test_every_earlier_symbol_is_seen_and_no_later_one(space: Space) -> None:
    """No blind spot, and no look ahead: by what each symbol's embedding changes."""
    model = net(space, dilations=(1, 2), kernel=3, num_layers=4)
    x = pictures(space, 1)
    before = model(x).log_probs().detach()
    for at in range(space.max_len or 0):
        changed = x.clone()
        changed[0, at] = (x[0, at] + 1) % (space.size or 1)
        moved = (model(changed).log_probs().detach() != before).any(-1)[0]
        assert not moved[: at + 1].any(), "a law sees its own symbol or a later one"
        assert moved[at + 1 :].all(), (
            f"{(~moved[at + 1 :]).nonzero()[:, 0] + at + 1} don't see {at}"
        )


@pytest.mark.parametrize("head", ["categorical", "logistic"])
@pytest.mark.parametrize("space", [GREY, COLOUR], ids=["grey", "colour"])
def test_rows_of_a_batch_that_stand_anywhere_decode_as_one_pass(space: Space, head: str) -> None:
    """Across rows of the picture, in the middle of pixels, and after a rewind."""
    model, x = net(space, head=head, labels=2), pictures(space, 3)
    cond = Condition(label=torch.tensor([1, -1, 0]))
    with torch.no_grad():
        whole = model(x, cond).log_prob(x)
        state = model.extend(model.start(3, cond), x[:, :17], tail=16)
        state = state.rewind([16, 3, 11])
        lens = state.lens
        assert lens == (1, 14, 6)
        rest = torch.stack([row[n : n + 15] for row, n in zip(x, lens, strict=True)])
        full = model.extend(state, rest, tail=15)
        found = model.predict(full)[:, :15].log_prob(rest)
    wanted = torch.stack([row[n : n + 15] for row, n in zip(whole, lens, strict=True)])
    torch.testing.assert_close(found, wanted, rtol=FLOAT64, atol=FLOAT64)


@pytest.mark.parametrize("space", [GREY, COLOUR], ids=["grey", "colour"])
def test_gradients_of_decoding_are_those_of_one_pass(space: Space) -> None:
    """What is kept is written in place: nothing that a gradient needs gets lost, and no branch."""
    model, x = net(space, labels=2), pictures(space)
    cond, parameters = Condition(label=torch.tensor([1, -1])), [*model.parameters()]
    wanted = torch.autograd.grad(model(x, cond).log_prob(x).sum(), parameters)
    state, total, at, branches = model.start(2, cond), torch.zeros(()), 0, []
    while at < x.shape[1]:
        piece = x[:, at : at + 1 + at % 4]
        before, at = state, at + piece.shape[1]
        state = model.extend(before, piece, tail=piece.shape[1])
        branches.append(model.extend(before, 1 - piece.clamp_max(1)))
        total = total + model.predict(state)[:, :-1].log_prob(piece).sum()
    got = torch.autograd.grad(total, parameters)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=FLOAT64, atol=FLOAT64)


@pytest.mark.parametrize("space", [GREY, COLOUR], ids=["grey", "colour"])
@torch.no_grad()
def test_branches_that_part_anywhere_go_on_alone(space: Space) -> None:
    """Before a row of the picture ends and behind it: the older branch finds what it has kept."""
    model, both, end = net(space), pictures(space), space.max_len or 0
    for at in range(end - 1):
        x = torch.cat([both[:1, :at].expand(2, -1), both[:, at:]], 1)
        wanted, mid = model(x).log_prob(x), (at + 1 + end) // 2
        root = model.extend(model.start(1), x[:1, :at])
        branches = [model.extend(root, row[None, at:mid]) for row in x]
        for row, state, law in zip(x, branches, wanted, strict=True):
            full = model.extend(state, row[None, mid:], tail=end - mid)
            found = model.predict(full)[:, :-1].log_prob(row[None, mid:])[0]
            torch.testing.assert_close(found, law[mid:], rtol=FLOAT64, atol=FLOAT64)


@torch.no_grad()
def test_caches_have_room_for_one_picture_and_never_grow() -> None:
    model = net(COLOUR)
    begun = model.start(2)
    slabs = {name: begun.grow(name).slab for name in ("symbols", "down", "across")}
    done = model.extend(begun, pictures(COLOUR))
    assert all(done.grow(name).slab is slab for name, slab in slabs.items())
    assert [len(slab.tensor[0]) for slab in slabs.values()] == [37, 13, 13]


def test_the_whole_picture_and_no_more() -> None:
    model = net(GREY)
    with torch.no_grad():
        state = model.extend(model.start(1), pictures(GREY, 1))
        assert model.predict(state).log_probs().isfinite().all()
        with pytest.raises(ValueError, match="30 symbols and no more"):
            model.extend(state, torch.zeros(1, 1, dtype=torch.int64))


def test_a_label_changes_the_law_and_none_is_a_label_of_its_own() -> None:
    model, x = net(GREY, labels=2), pictures(GREY, 1)
    with torch.no_grad():
        by_label = [
            model(x, Condition(label=torch.tensor([k]))).log_prob(x).sum() for k in (0, 1, -1)
        ]
        assert len(set(by_label)) == 3
        assert model(x).log_prob(x).sum() == by_label[2]
    with pytest.raises(ValueError, match="learned labels 0 to 1"):
        model(x, Condition(label=torch.tensor([2])))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"space": Space("finite", 2)}, "raster order"),
        ({"space": Space.picture((2, 2, 1), 2, "columns")}, "raster order"),
        ({"kernel": 4}, "odd"),
        ({"dilations": ()}, "number of dilations"),
        ({"num_layers": 0}, "num_layers"),
        ({"head": "logistics"}, "head 'logistics' is not one of categorical, logistic"),
    ],
)
def test_what_is_no_pixelcnn(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelCNNConfig(**{"space": GREY, **fields})  # type: ignore[arg-type]
