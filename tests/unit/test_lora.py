"""Low-rank adapters: what they compute, what learns, what stays as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from chainrule.core.space import Space
from chainrule.models.rnn import RNN, RNNConfig
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import TransformerConfig
from chainrule.nn import attention
from chainrule.nn.lora import LoRA, targets

SPACE = Space("finite", 11)
LLAMA = TransformerConfig(
    SPACE, num_layers=2, dim=16, num_heads=4, num_kv_heads=2, hidden=24, tied=True
)
GPT2 = replace(LLAMA, layout="gpt2", num_kv_heads=4, tied=False)
CONFIGS = {
    "llama": LLAMA,
    "untied": replace(LLAMA, tied=False),
    "gpt2": GPT2,
    **{c: RNNConfig(SPACE, c, 2, 12, 12) for c in ("tanh", "gru", "lstm", "mingru")},
}


def made(name: str, kind: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(1)
    config = CONFIGS[name]
    model = RNN(config) if isinstance(config, RNNConfig) else Transformer(config)
    return model.to(kind).eval()


def adapter(model: nn.Module, seed: int = 0, rank: int = 3) -> LoRA:
    """Trained, so to say: B is not 0 any more."""
    lora = LoRA(targets(model), rank, seed=seed).to(next(model.parameters()).dtype)
    dice = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in lora.named_parameters():
            if name.endswith(".B"):
                p.copy_(torch.randn(p.shape, generator=dice) * 0.1)
    return lora


def symbols(rows: int = 2, length: int = 12) -> torch.Tensor:
    return torch.randint(SPACE.size, (rows, length), generator=torch.Generator().manual_seed(2))


def log_p(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x).log_prob(x)


def filled(model: nn.Module, lora: LoRA) -> nn.Module:
    """A plain model with the changed weights in place of its own."""
    plain = made_like(model)
    changed = {k: v.clone() for k, v in model.state_dict().items()}
    for name, pair in lora.pairs.items():
        changed[name] = changed[name] + lora.alpha / lora.rank * pair.B @ pair.A
    plain.load_state_dict(changed)
    return plain


def made_like(model: nn.Module) -> nn.Module:
    return type(model)(model.config).to(next(model.parameters()).dtype).eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_it_computes_with_the_changed_weights_everywhere(name):
    base, x = made(name), symbols()
    lora = adapter(base)
    model, plain = lora.onto(base), filled(base, lora)
    with torch.no_grad():
        torch.testing.assert_close(log_p(model, x), log_p(plain, x), rtol=1e-9, atol=1e-12)
        one, other = (m.start(2) for m in (model, plain))
        for t in range(3):
            one, other = model.extend(one, x[:, t : t + 1]), plain.extend(other, x[:, t : t + 1])
        a, b = (m.predict(s).log_probs() for m, s in ((model, one), (plain, other)))
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        assert not torch.equal(log_p(model, x), log_p(base, x))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("node", [True, False])
def test_gradients_are_those_of_the_product(name, node, monkeypatch):
    if not node:
        monkeypatch.setattr(attention, "SHORT", 0)
    base, x = made(name), symbols()
    lora = adapter(base)
    model = lora.onto(base).train()
    (-log_p(model, x).sum()).backward()
    assert all(p.grad is None for p in model.parameters())
    plain = filled(base, lora).train()
    (-log_p(plain, x).sum()).backward()
    scale = lora.alpha / lora.rank
    for name, pair in lora.pairs.items():
        slope = plain.get_parameter(name).grad
        torch.testing.assert_close(pair.A.grad, scale * pair.B.T @ slope, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(pair.B.grad, scale * slope @ pair.A.T, rtol=1e-9, atol=1e-12)


def test_a_frozen_weight_gets_no_gradient_of_its_own_size(monkeypatch):
    """That product is a third of a step; without it, what is saved is real."""
    base, x = made("llama", torch.float32), symbols()
    model = adapter(base).onto(base).train()
    large = {tuple(s) for s in targets(base).values()} | {tuple(base.embedding.weight.shape)}
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, f, types, args=(), kwargs=None):
            out = f(*args, **(kwargs or {}))
            if "mm" in f.__name__ and tuple(out.shape) in large:
                seen.append(f.__name__)
            return out

    loss = -log_p(model, x).sum()
    with Watch():
        loss.backward()
    assert not seen


@pytest.mark.parametrize(("kind", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-9)])
@pytest.mark.parametrize("name", CONFIGS)
def test_merged_is_unmerged_and_back_again_bit_for_bit(name, kind, bound):
    """The merged weights are others' tensors: to unmerge is to go on with the base."""
    base, x = made(name, kind), symbols()
    before = {k: v.clone() for k, v in base.state_dict().items()}
    model, whole = adapter(base).onto(base), made_like(base)
    whole.load_state_dict(model.state_dict())
    with torch.no_grad():
        apart, together, plain = (log_p(m, x) for m in (model, whole, base))
    assert ((together - apart).abs() / apart.abs()).max() <= bound
    assert not torch.equal(plain, apart)
    for each in (model, base):
        for name, value in each.named_parameters():
            assert torch.equal(value, before[name])


@pytest.mark.parametrize("name", CONFIGS)
def test_whoever_reads_its_tensors_gets_the_changed_ones(name):
    base = made(name)
    lora = adapter(base)
    plain = filled(base, lora).state_dict()
    found = lora.onto(base).state_dict()
    assert found.keys() == plain.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, plain[key], rtol=1e-12, atol=1e-15)


def test_adapters_share_the_base_and_leave_it_as_it_was():
    base, x = made("llama"), symbols()
    with torch.no_grad():
        before = log_p(base, x)
        models = [adapter(base, seed).onto(base) for seed in (1, 2)]
        first, second = (log_p(m, x) for m in models)
        assert not torch.equal(first, second)
        assert torch.equal(log_p(base, x), before)
    assert all(p.requires_grad for p in base.parameters())
    for model in models:
        for name, p in model.named_parameters():
            assert p.data_ptr() == base.get_parameter(name).data_ptr()
            assert not p.requires_grad


def test_it_starts_as_the_base_and_only_its_factors_learn():
    base, x = made("lstm"), symbols()
    lora = LoRA(targets(base), 4, seed=1).double()
    with torch.no_grad():
        torch.testing.assert_close(log_p(lora.onto(base), x), log_p(base, x), rtol=1e-12, atol=0)
    names = {f"{k}.{f}" for k in targets(base) for f in "AB"}
    assert {k for k, _ in lora.named_parameters()} == names
    assert {k: tuple(v.shape) for k, v in lora.state_dict().items()} == LoRA.sizes(targets(base), 4)


def test_every_linear_layer_is_there_and_no_table():
    assert set(targets(made("llama"))) == {
        f"layers.{i}.{part}.weight" for i in (0, 1) for part in ("qkv", "out", "up", "down")
    }
    assert "head.weight" in targets(made("untied"))
    assert set(targets(made("gru"))) == {
        *(f"layers.{i}.weight_{k}" for i in (0, 1) for k in ("ih", "hh")),
        "head.weight",
    }
