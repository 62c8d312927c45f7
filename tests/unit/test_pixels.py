"""Heads and gates of pixels: laws that stay laws, whatever the weights and the precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chainrule.core.space import Space
from chainrule.models.pixelcnn import PixelCNN, PixelCNNConfig
from chainrule.nn.gate import gate
from chainrule.nn.pixels import PixelHead, PixelInput
from tests.laws.tolerances import BFLOAT16, FLOAT32, FLOAT64

SPACE = Space.picture((2, 2, 3), 256)


def head() -> PixelHead:
    torch.manual_seed(0)
    return PixelHead(SPACE, 4, "logistic", 3)


def hidden(made: PixelHead, x_BnC: Tensor) -> Tensor:
    """[B, n · C, S] of features that are as good as any."""
    pixel = torch.ones(*x_BnC.shape[:2], 4)
    return made.hidden(pixel, x_BnC, PixelInput(SPACE)(x_BnC)).flatten(1, 2)


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4, 1e8])
def test_a_mixture_of_any_parameters_is_a_law(scale: float):
    made, x = head(), torch.tensor([[[0, 255, 7], [128, 0, 255]]])
    for seed in range(5):
        dice = torch.Generator().manual_seed(seed)
        made.out.weight.data.zero_()
        made.out.bias.data = scale * torch.randn(30, generator=dice)
        law = made.law(hidden(made, x))
        total = law.log_probs().detach().double().exp().sum(-1)
        assert float((total - 1).abs().max()) <= FLOAT32
        law.log_prob(x.flatten(1)).sum().backward()
        assert made.out.bias.grad is not None and torch.isfinite(made.out.bias.grad).all()


def test_channels_share_one_mixture():
    """The laws of a pixel's channels, multiplied, are a mixture of products over its channels."""
    torch.manual_seed(0)
    space, mixtures = Space.picture((1, 1, 3), 16), 4
    made = PixelHead(space, 5, "logistic", mixtures).double()
    made.out.weight.data *= 5
    x, pixel = torch.randint(16, (20, 1, 3)), torch.randn(20, 1, 5, dtype=torch.float64)
    read = made.hidden(pixel, x, PixelInput(space)(x)).flatten(1, 2)
    got = made.law(read).log_prob(x.flatten(1)).sum(1)
    found = made.out(made.inside(pixel.relu()).relu()).unflatten(-1, (10, mixtures))[:, 0]
    level, mean, wanted = x[:, 0].double() * 2 / 15 - 1, found[:, 1:4], found[:, 0].log_softmax(-1)
    link = found[:, 7:].tanh()  # from red to green, to blue from red and from green
    centre = [mean[:, 0], mean[:, 1] + link[:, 0] * level[:, :1]]
    centre += [mean[:, 2] + link[:, 1] * level[:, :1] + link[:, 2] * level[:, 1:2]]
    for c in range(3):
        scale, symbol = found[:, 4 + c].clamp_min(-7).exp(), x[:, 0, c, None]
        over = ((level[:, c, None] + 1 / 15 - centre[c]) / scale).sigmoid()
        under = ((level[:, c, None] - 1 / 15 - centre[c]) / scale).sigmoid()
        over, under = over.masked_fill(symbol == 15, 1), under.masked_fill(symbol == 0, 0)
        wanted = wanted + (over - under).log()
    torch.testing.assert_close(got, wanted.logsumexp(-1), rtol=FLOAT64, atol=FLOAT64)


def test_levels_are_told_apart_in_bfloat16():
    """What a law is given of the channels before is not rounded to what bfloat16 holds."""
    made, x = head(), torch.arange(256).view(1, 256, 1).expand(-1, -1, 3)
    wanted = hidden(made, x)[..., -3:]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got = hidden(made, x)
    assert torch.equal(got[..., -3:].float(), wanted)


def test_a_gate_is_its_formula():
    """Values and slopes beside autograd's own, in any layout of memory."""
    torch.manual_seed(0)
    for shape in ((2, 6, 3, 4), (2, 6, 5), (3, 6)):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(shape[0], 3, *shape[2:], dtype=torch.float64)
        a, b = x.chunk(2, 1)
        wanted = torch.autograd.grad((torch.sigmoid(a) * b * weight).sum(), x)[0]
        got = torch.autograd.grad((gate(x) * weight).sum(), x)[0]
        torch.testing.assert_close(got, wanted, rtol=FLOAT64, atol=FLOAT64)
    x = torch.randn(2, 6, 3, 4).to(memory_format=torch.channels_last).requires_grad_()
    half = x.detach().bfloat16().requires_grad_()
    wide, narrow = (torch.autograd.grad(gate(t).sum(), t)[0] for t in (x, half))
    assert narrow.dtype == torch.bfloat16
    assert float((narrow.float() - wide).norm() / wide.norm()) <= BFLOAT16


@pytest.mark.parametrize("size", [2, 16, 256])
def test_log_probabilities_are_not_rounded_to_bfloat16(size: int):
    """Under autocast, of few levels and of many, while learning and without."""
    x, space = torch.zeros(1, 4, dtype=torch.int64), Space.picture((2, 2, 1), size)
    model = PixelCNN(PixelCNNConfig(space, 1, 8, 8, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).log_prob(x).dtype == torch.float32
        with torch.no_grad():
            assert model(x).log_prob(x).dtype == torch.float32


def test_one_pass_takes_no_more_than_a_picture():
    model = PixelCNN(PixelCNNConfig(Space.picture((2, 3, 1), 4), 1, 4, 4, 3))
    x = torch.zeros(1, 9, dtype=torch.int64)
    assert model(x[:, :6]).log_probs().isfinite().all()
    with pytest.raises(ValueError, match="a picture has 6 symbols and no more"):
        model(x)
