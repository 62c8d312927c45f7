"""Optimisers: which weights get which, and what orthogonal means."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from chainrule.core.space import Space
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import transformer
from chainrule.training.optim import SHARE, Muon, make_optimiser, orthogonalised


@pytest.mark.parametrize("shape", [(2, 48, 16), (1, 16, 48), (3, 20, 20)])
def test_orthogonalised(shape: tuple[int, int, int]):
    """Singular values go to about one, singular vectors stay: beside the exact polar factor."""
    torch.manual_seed(0)
    g = torch.randn(shape, dtype=torch.float64)
    u, s, v = torch.linalg.svd(g, full_matrices=False)
    g = u @ torch.diag_embed(0.2 + s / s.max()) @ v  # no direction is all but missing
    found = orthogonalised(g)
    values = torch.linalg.svdvals(found)
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3
    cosine = (found * (u @ v)).sum((1, 2)) / (found.norm(dim=(1, 2)) * (u @ v).norm(dim=(1, 2)))
    assert float(cosine.min()) > 0.97


def test_muon_gets_the_matrices_inside():
    model = Transformer(transformer(Space("finite", 11), "tiny"))
    groups = make_optimiser(model, "muon", 0.1, 0.5).param_groups
    of = {id(p): g for g in groups for p in g["params"]}
    for name, p in model.named_parameters():
        inside = name.startswith("layers.") and p.ndim == 2
        assert of[id(p)]["muon"] == inside, name
        assert of[id(p)]["weight_decay"] == (0.5 if p.ndim == 2 else 0.0), name


def test_the_size_of_an_update():
    """About as large as AdamW's usually is, whatever the gradient's."""
    layer = nn.Linear(32, 64, bias=False)
    before = layer.weight.detach().clone()
    optimiser = make_optimiser(layer, "muon", 0.01, 0.0)
    assert isinstance(optimiser, Muon)
    layer.weight.grad = 1e-4 * torch.randn(64, 32)
    optimiser.step()
    moved = (layer.weight.detach() - before).square().mean().sqrt()
    assert float(moved) == pytest.approx(0.01 * SHARE, rel=0.3)


def test_a_kernel_learns_as_the_matrix_that_it_is():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 8, (2, 3), bias=False)
    matrix = nn.Linear(18, 8, bias=False)
    matrix.weight.data.copy_(layer.weight.flatten(1))
    slope = torch.randn(8, 18)
    for module in (layer, matrix):
        optimiser = make_optimiser(module, "muon", 0.1, 0.5)
        assert optimiser.param_groups[0]["muon"]
        for _ in range(2):
            module.weight.grad = slope.view_as(module.weight).clone()
            optimiser.step()
    assert torch.equal(layer.weight.flatten(1), matrix.weight)


def test_adamw_inside_muon_is_torchs():
    """Vectors and tables take the same steps with either optimiser."""
    torch.manual_seed(0)
    start = torch.randn(5)
    found = []
    for kind in ("adamw", "muon"):
        p = nn.Module()
        p.bias = nn.Parameter(start.clone())
        optimiser = make_optimiser(p, kind, 0.01, 0.1)
        for step in range(3):
            p.bias.grad = torch.linspace(-1, 1, 5) * (step + 1)
            optimiser.step()
        found.append(p.bias.detach())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_another_name():
    with pytest.raises(ValueError, match="is not one of adamw, muon"):
        make_optimiser(nn.Linear(2, 2), "sgd", 0.1, 0.0)
