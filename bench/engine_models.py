"""The models of the engine's benches, in every peer's format; nothing is trained or downloaded.

``PEERS -m bench.engine_models FOLDER``, PEERS being the peers' Python (bench.engine_peers says how
it is made), writes one folder a model: the weights from a fixed seed (as transformers and torch
begin them), CTranslate2's, llama.cpp's and onnxruntime's conversions of them, and reference.npz,
the logits in float32 behind a few symbols, which every contender must match before it is timed.
What is there already stays.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from bench.engine_worker import symbols

SEED = 5
SMALL = {"6x384": (6, 384, 6, 1024), "4x128": (4, 128, 4, 352)}  # layers, width, heads, inner
CHARACTERS = 65  # and one row more of the embedding: the start symbol
CONTEXT = 256
WIDTH = 512  # of both layers of the recurrent cells and of their embedding
Tensors = Iterator[tuple[str, NDArray[np.float32]]]


def main(folder: Path) -> None:
    """All of them."""
    makers: dict[str, Callable[[Path], None]] = {"gpt2": gpt2, "lstm": cells, "gru": cells}
    makers |= dict.fromkeys(SMALL, llama)
    if (folder / "smollm2" / "x.npy").exists():  # what bench.smollm2 has put there
        makers["smollm2"] = smollm2
    for name, make in makers.items():
        if not (folder / name / "reference.npz").exists():
            (folder / name).mkdir(parents=True, exist_ok=True)
            torch.manual_seed(SEED)
            make(folder / name)
            print("made", folder / name, flush=True)


# ---- transformers ----


def gpt2(folder: Path) -> None:
    """The 124M shape with its own vocabulary."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config()).eval()
    finish(folder, model, gpt2_tensors)


def llama(folder: Path) -> None:
    """The small shapes, in the layout of chainrule's ``transformer``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    layers, width, heads, inner = SMALL[folder.name]
    config = LlamaConfig(
        vocab_size=CHARACTERS + 1,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
        bos_token_id=CHARACTERS,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    finish(folder, model, llama_tensors)


def smollm2(folder: Path) -> None:
    """Real weights, which bench.smollm2 has exported: conversions, the reference."""
    import subprocess

    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    x = torch.from_numpy(np.load(folder / "x.npy"))
    known = reference(lambda x: model(x, logits_to_keep=1).logits[:, -1], 0, x)
    quantised(folder)
    build = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(folder)]
    build += ["-o", str(folder / "genai-int4"), "-p", "int4", "-e", "cpu", "-c", str(folder)]
    subprocess.run(build, check=True, capture_output=True)
    ctranslate(folder, model)
    np.savez(folder / "reference.npz", **known, size=model.config.vocab_size)


def finish(folder: Path, model: Any, tensors: Callable[[Any], Tensors]) -> None:
    """Weights, both conversions, the reference."""
    model.save_pretrained(folder)
    known = reference(lambda x: model(x).logits[:, -1], model.config.bos_token_id)
    gguf(folder, model, tensors)
    ctranslate(folder, model)  # it takes the model apart
    np.savez(folder / "reference.npz", **known)


@torch.no_grad()
def reference(
    logits: Callable[[torch.Tensor], torch.Tensor], begin: int, x: torch.Tensor | None = None
) -> dict[str, Any]:
    """Inputs, the logits behind them, and 8 greedy symbols, without any cache."""
    x = torch.from_numpy(symbols(2, 24, begin)) if x is None else x
    known, longer = {"x": x.numpy(), "logits": logits(x).numpy()}, x
    for _ in range(8):
        longer = torch.cat([longer, logits(longer).argmax(-1, keepdim=True)], 1)
    return {**known, "greedy": longer[:, x.shape[1] :].numpy()}


def ctranslate(folder: Path, model: Any) -> None:
    """CTranslate2's folder, through its own converter's loaders; symbols are named by number."""
    from ctranslate2.converters.transformers import _MODEL_LOADERS

    loader = _MODEL_LOADERS[type(model.config).__name__]
    spec = loader.get_model_spec(model)
    spec.register_vocabulary([str(i) for i in range(model.config.vocab_size)])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "0"
    spec.config.layer_norm_epsilon = 1e-5
    spec.validate()
    spec.optimize(quantization=None)
    (folder / "ct2").mkdir(exist_ok=True)
    spec.save(str(folder / "ct2"))


# ---- llama.cpp ----


def gguf(folder: Path, model: Any, tensors: Callable[[Any], Tensors]) -> None:
    """f32.gguf, and what llama.cpp's own quantiser makes of it."""
    from gguf import GGUFWriter

    kind, config = model.config.model_type, model.config
    out = GGUFWriter(folder / "f32.gguf", kind)
    heads, inner = config.num_attention_heads, getattr(config, "intermediate_size", None)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(inner or 4 * config.hidden_size)
    out.add_head_count(heads)
    out.add_head_count_kv(heads)
    out.add_vocab_size(config.vocab_size)
    out.add_tokenizer_model("no_vocab")
    if kind == "gpt2":
        out.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        out.add_layer_norm_rms_eps(config.rms_norm_eps)
        out.add_rope_dimension_count(config.hidden_size // heads)
        out.add_rope_freq_base(10000.0)
    for name, value in tensors(model):
        out.add_tensor(name, np.ascontiguousarray(value))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    quantised(folder)


def quantised(folder: Path) -> None:
    """What llama.cpp's own quantiser makes of f32.gguf."""
    import llama_cpp

    kinds = {
        "bf16": (llama_cpp.LLAMA_FTYPE_MOSTLY_BF16, False),
        "q8_0": (llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, False),
        "q4_0": (llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, False),  # embedding and head in 6 bits
        "q4_0-pure": (llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, True),  # these too in 4
    }
    for name, (code, pure) in kinds.items():
        asked = llama_cpp.llama_model_quantize_default_params()
        asked.ftype, asked.pure, asked.nthread = code, pure, 2
        paths = (str(folder / f"{n}.gguf").encode() for n in ("f32", name))
        failed = llama_cpp.llama_model_quantize(*paths, asked)
        assert not failed, f"llama.cpp cannot quantise {folder.name} to {name}"


def gpt2_tensors(model: Any) -> Tensors:
    """GPT-2's by llama.cpp's names; transformers holds its matrices transposed."""
    names = {"ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv"}
    names |= {"attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    net = model.transformer
    yield "token_embd.weight", net.wte.weight.detach().numpy()
    yield "position_embd.weight", net.wpe.weight.detach().numpy()
    yield "output_norm.weight", net.ln_f.weight.detach().numpy()
    yield "output_norm.bias", net.ln_f.bias.detach().numpy()
    for i, block in enumerate(net.h):
        for theirs, name in names.items():
            part = block.get_submodule(theirs)
            weight = part.weight.detach().numpy()
            yield f"blk.{i}.{name}.weight", weight.T if weight.ndim == 2 else weight
            yield f"blk.{i}.{name}.bias", part.bias.detach().numpy()


def llama_tensors(model: Any) -> Tensors:
    """Llama's by llama.cpp's names; its rotary pairs are neighbours, so queries and keys move."""
    names = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    names |= {f"self_attn.{c}_proj": f"attn_{c}" for c in "qkv"}
    names |= {"self_attn.o_proj": "attn_output"}
    names |= {f"mlp.{c}_proj": f"ffn_{c}" for c in ("gate", "up", "down")}
    heads = model.config.num_attention_heads
    yield "token_embd.weight", model.model.embed_tokens.weight.detach().numpy()
    yield "output_norm.weight", model.model.norm.weight.detach().numpy()
    yield "output.weight", model.lm_head.weight.detach().numpy()
    for i, block in enumerate(model.model.layers):
        for theirs, name in names.items():
            weight = block.get_submodule(theirs).weight.detach()
            if name in ("attn_q", "attn_k"):
                weight = weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
            yield f"blk.{i}.{name}.weight", weight.numpy()


# ---- recurrent cells ----


class Cells(nn.Module):
    """Embedding, two of torch's cells, a head: one symbol a call. Named as chainrule's ``rnn``."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        cell = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}[kind]
        self.parts = 2 if kind == "lstm" else 1
        self.embedding = nn.Embedding(CHARACTERS + 1, WIDTH)
        self.layers = nn.ModuleList(cell(WIDTH, WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, CHARACTERS)

    def blank(self, batch: int) -> list[torch.Tensor]:
        """The state before the start symbol: h and, for the LSTM, c of each layer."""
        return [self.head.weight.new_zeros(batch, WIDTH) for _ in range(2 * self.parts)]

    def forward(self, x: torch.Tensor, *state: torch.Tensor) -> list[torch.Tensor]:
        """Logits [B, V] behind the symbols x [B], and the new state."""
        out, new = self.embedding(x), []
        for i, layer in enumerate(self.layers):
            if self.parts == 2:
                new += layer(out, (state[2 * i], state[2 * i + 1]))
            else:
                new.append(layer(out, state[i]))
            out = new[-self.parts]
        return [self.head(out), *new]


def cells(folder: Path) -> None:
    """Weights, the graphs of onnxruntime, the reference."""
    from onnxruntime.quantization import quantize_dynamic

    from bench.engine_graphs import fused, plain

    model = Cells(folder.name).eval()
    save_file(model.state_dict(), folder / "model.safetensors")
    weights = {k: v.numpy() for k, v in model.state_dict().items()}
    for name, make in (("plain", plain), ("fused", fused)):
        make(folder.name, weights, folder / f"{name}.onnx")
        quantize_dynamic(folder / f"{name}.onnx", folder / f"{name}-int8.onnx")

    def logits(x: torch.Tensor) -> torch.Tensor:
        out, state = torch.zeros(0), model.blank(len(x))
        for column in x.T:
            out, *state = model(column, *state)
        return out

    np.savez(folder / "reference.npz", **reference(logits, CHARACTERS))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
