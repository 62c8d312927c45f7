"""Transformers: what the laws, which compare a model only with itself, can't see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chainrule.core.space import Space
from chainrule.models.transformer import Transformer, TransformerConfig
from chainrule.nn import attention
from tests.laws.tolerances import FLOAT64

LAYOUTS = [
    {"layout": "gpt2", "tied": True, "sinks": 0},
    {"layout": "gpt2", "sinks": 0, "gelu": "tanh"},
    {"num_kv_heads": 2},
    {"num_kv_heads": 4, "dropout": 0.3},
]


def build(num_layers: int = 2, context: int = 16, **shape: object) -> Transformer:
    """A small model in float64, away from its initialisation."""
    torch.manual_seed(0)
    config = TransformerConfig(
        Space("finite", 7), num_layers=num_layers, dim=32, hidden=48, context=context, **shape
    )
    model = Transformer(config).double()
    for p in model.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return model


def symbols(rows: int, length: int) -> Tensor:
    """Random symbols [B, T]."""
    return torch.randint(0, 7, (rows, length), generator=torch.Generator().manual_seed(1))


def slopes(model: Transformer, x: Tensor) -> list[Tensor]:
    """The loss and its gradient, dropout drawn from the same seed."""
    torch.manual_seed(3)
    model.zero_grad()
    loss = -model.train()(x).log_prob(x).sum()
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("shape", LAYOUTS, ids=str)
def test_node_is_the_plain_layer(shape: dict[str, object], monkeypatch: pytest.MonkeyPatch):
    """The layer with its gradient written out, against autograd over the plain one."""
    model, x = build(**shape), symbols(3, 16)
    if model.config.dropout:  # both draw a mask for each branch, in the same order
        assert not torch.equal(slopes(model, x)[0], slopes(model.eval(), x[:, :15])[0])
    ours = [t.clone() for t in slopes(model, x)]
    monkeypatch.setattr(attention, "explicit", lambda x: False)
    for a, b in zip(ours, slopes(model, x), strict=True):
        torch.testing.assert_close(a, b, rtol=FLOAT64, atol=FLOAT64)


def test_sinks_and_window_are_a_shorter_sequence():
    """In one layer, what is seen beyond the context is the sinks and the window joined."""
    context, sinks, length = 8, 3, 40
    model, x = build(1, context, sinks=sinks), symbols(2, length)
    laws = model(x).log_probs()
    for t in (context, context + 1, 25, length - 1):
        seen = torch.cat([x[:, : sinks - 1], x[:, t - (context - sinks) : t], x[:, :1]], 1)
        alone = model(seen).log_probs()[:, -1]
        torch.testing.assert_close(laws[:, t], alone, rtol=FLOAT64, atol=FLOAT64)


def test_blocks_of_learned_positions():
    """Beyond the context a symbol is predicted from the newest half to whole context."""
    context, length = 8, 30
    model, x = build(2, context, layout="gpt2", sinks=0), symbols(2, length)
    laws = model(x).log_probs()
    for t in range(context, length):
        begin = ((t - context) // (context // 2) + 1) * (context // 2)
        alone = model(x[:, begin : t + 1]).log_probs()[:, -1]
        torch.testing.assert_close(laws[:, t], alone, rtol=FLOAT64, atol=FLOAT64)


def test_a_stream_takes_no_more_memory():
    """The cache of an endless stream stops growing."""
    model = build(2, 16, sinks=2)
    state, sizes = model.start(1), set()
    with torch.no_grad():
        for turn in range(100):
            state = model.extend(state, symbols(1, 10))
            if turn > 20:
                sizes.add(state.grow("kv").capacity)
    assert len(sizes) == 1
    assert sizes.pop() <= 4 * 16
    assert state.lens == (1000,)


def test_attention_is_causal_and_sums_to_one():
    model, x = build(), symbols(2, 9)
    found = model.attention(x)
    assert found.shape == (2, 2, 4, 10, 10)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 2, 4, 10).double())
    assert not found.triu(1).any()
    with pytest.raises(ValueError, match="the context has 15"):
        model.attention(symbols(1, 16))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"num_heads": 64}, "more heads"),
        ({"num_heads": 5, "num_kv_heads": 5}, "multiple of num_heads"),
        ({"num_heads": 4, "num_kv_heads": 3}, "multiple of num_kv_heads"),
        ({"num_heads": 32, "num_kv_heads": 32}, "even head width"),
        ({"layout": "gpt2", "num_kv_heads": 2}, "as many key-value heads"),
        ({"sinks": 16}, "sinks"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_sizes_that_do_not_fit(shape: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        build(**shape)
