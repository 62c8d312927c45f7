"""Recurrent layers against torch's own modules with the same weights, and by gradcheck."""

import pytest
import torch

from chainrule.nn.heads import LinearCategorical
from chainrule.nn.recurrent import LAYERS, Layer

PEERS = {"tanh": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}


def layer(cell: str, dim: int = 5, hidden: int = 7) -> tuple[Layer, torch.Tensor, torch.Tensor]:
    """A layer in float64, an input [3, 9, D] and a state [3, S]."""
    torch.manual_seed(0)
    made = LAYERS[cell](dim, hidden).double()
    x = torch.randn(3, 9, dim, dtype=torch.float64, requires_grad=True)
    state = torch.randn(3, made.state_width, dtype=torch.float64, requires_grad=True)
    return made, x, state


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize("keep", [1, 4])
def test_gradients(cell, keep):
    made, x, state = layer(cell)
    inputs = (x, state, *made.parameters())
    assert torch.autograd.gradcheck(lambda x, state, *_: made(x, state, keep), inputs)


@pytest.mark.parametrize("cell", PEERS)
def test_equations_and_weights_are_torch_s(cell):
    made, x, state = layer(cell)
    peer = PEERS[cell](5, 7, batch_first=True).double()
    peer.load_state_dict({f"{k}_l0": v for k, v in made.state_dict().items()})
    parts = [t[None].contiguous() for t in state.chunk(made.parts, -1)]
    out, _ = peer(x, parts[0] if made.parts == 1 else (parts[1], parts[0]))
    torch.testing.assert_close(made(x, state, 1)[0], out, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", LAYERS)
def test_steps_give_the_states_of_the_block(cell):
    made, x, state = layer(cell)
    out, states = made(x, state, 9)
    parts = state.chunk(made.parts, -1)
    for t in range(9):
        parts = made.step(x[:, t], parts, list(made.parameters()))
        torch.testing.assert_close(torch.cat(parts, -1), states[:, t], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(parts[-1], out[:, t], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize("hidden", [16, 256])
def test_bfloat16_products_stay_near(cell, hidden):
    torch.manual_seed(0)
    made = LAYERS[cell](32, hidden)
    x, state = torch.randn(4, 12, 32), torch.zeros(4, made.state_width)
    exact = made(x, state, 1)[0]
    with torch.autocast("cpu", torch.bfloat16):
        near = made(x, state, 1)[0]
    assert near.dtype == torch.float32
    assert (near - exact).norm() / exact.norm() < 2e-2


def head(dtype: torch.dtype) -> tuple[LinearCategorical, torch.Tensor]:
    torch.manual_seed(0)
    shapes = (2, 5, 6), (11, 6), (11,)
    tensors = [torch.randn(s, dtype=dtype, requires_grad=True) for s in shapes]
    return LinearCategorical(*tensors), torch.randint(0, 11, (2, 5))


def test_head_s_log_prob_and_gradient():
    law, x = head(torch.float64)
    assert torch.autograd.gradcheck(
        lambda h, w, b: LinearCategorical(h, w, b).log_prob(x), (law.hidden, law.weight, law.bias)
    )
    learned = law.log_prob(x)
    with torch.no_grad():
        plain = law.log_probs().gather(-1, x[..., None])[..., 0]
    torch.testing.assert_close(learned, plain, rtol=1e-12, atol=1e-12)


def test_head_is_exact_for_a_sure_symbol_and_finite_for_an_absurd_one():
    hidden = torch.tensor([[[40.0], [-200.0]]], requires_grad=True)
    law = LinearCategorical(hidden, torch.tensor([[1.0], [0.0]]), torch.zeros(2))
    got = law.log_prob(torch.tensor([[0, 0]]))[0]
    assert got[0].item() == pytest.approx(-4.248e-18, rel=1e-3)
    assert torch.isfinite(got[1])
