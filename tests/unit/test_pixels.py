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


def test_one_pass_takes_no_more_than_a_picture():
    model = PixelCNN(PixelCNNConfig(Space.picture((2, 3, 1), 4), 1, 4, 4, 3))
    x = torch.zeros(1, 9, dtype=torch.int64)
    assert model(x[:, :6]).log_probs().isfinite().all()
    with pytest.raises(ValueError, match="a picture has 6 symbols and no more"):
        model(x)
