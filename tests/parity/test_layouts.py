"""The layouts are exactly Llama's and GPT-2's: the same weights in transformers' own classes."""

from __future__ import annotations

import pytest
import torch

from chainrule.core.space import Space
from chainrule.models.transformer import Transformer, TransformerConfig
from tests.laws.tolerances import REFERENCE64

pytestmark = pytest.mark.reference
SIZE, EOS = 11, 3


def _model(**shape: object) -> Transformer:
    torch.manual_seed(0)
    space = Space("finite", SIZE, eos=EOS)
    model = Transformer(TransformerConfig(space, dim=32, hidden=48, context=24, **shape)).double()
    for p in model.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return model.eval()


def _same(ours: Transformer, theirs: torch.nn.Module) -> None:
    x = torch.randint(SIZE, (3, 20))
    inputs = torch.nn.functional.pad(x[:, :-1], (1, 0), value=EOS)
    with torch.no_grad():
        expected = torch.log_softmax(theirs.double().eval()(inputs).logits, -1)
        found = ours(x).log_probs()
    torch.testing.assert_close(found, expected, rtol=REFERENCE64, atol=REFERENCE64)


@pytest.mark.parametrize("tied", [False, True])
def test_llama(tied: bool):
    hf = pytest.importorskip("transformers")
    ours = _model(num_kv_heads=2, tied=tied)
    theirs = hf.LlamaForCausalLM(
        hf.LlamaConfig(
            vocab_size=SIZE,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=1e-5,
            max_position_embeddings=24,
            tie_word_embeddings=tied,
        )
    )
    names = {
        "model.embed_tokens.weight": ours.embedding.weight,
        "model.norm.weight": ours.norm.weight,
    }
    if ours.head is not None:
        names["lm_head.weight"] = ours.head.weight
    for i, layer in enumerate(ours.layers):
        q, k, v = layer.qkv.weight.split((32, 16, 16))
        gate, up = layer.up.weight.chunk(2)
        for name, value in {
            "input_layernorm": layer.norm_in.weight,
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": layer.out.weight,
            "post_attention_layernorm": layer.norm_mid.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": layer.down.weight,
        }.items():
            names[f"model.layers.{i}.{name}.weight"] = value
    missing, unexpected = theirs.load_state_dict(names, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    _same(ours, theirs)


def test_gpt2():
    hf = pytest.importorskip("transformers")
    ours = _model(layout="gpt2", sinks=0, tied=True, gelu="tanh")
    theirs = hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=SIZE, n_embd=32, n_layer=4, n_head=4, n_inner=48, n_positions=24)
    )
    names = {"transformer.wte.weight": ours.embedding.weight}
    assert ours.position is not None
    names["transformer.wpe.weight"] = ours.position.weight
    parts = [("transformer.ln_f", ours.norm, False)]
    for i, layer in enumerate(ours.layers):
        at = f"transformer.h.{i}."
        parts += [
            (at + "ln_1", layer.norm_in, False),
            (at + "attn.c_attn", layer.qkv, True),
            (at + "attn.c_proj", layer.out, True),
            (at + "ln_2", layer.norm_mid, False),
            (at + "mlp.c_fc", layer.up, True),
            (at + "mlp.c_proj", layer.down, True),
        ]
    for name, part, turned in parts:
        names[name + ".weight"] = part.weight.t() if turned else part.weight
        names[name + ".bias"] = part.bias
    missing, unexpected = theirs.load_state_dict(names, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    _same(ours, theirs)
