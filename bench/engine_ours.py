"""chainrule itself, as bench.engine_worker asks it: KIND is the engine's number format, or torch.

Symbols are drawn at temperature 1 with keyed noise, as a user's are, log-probabilities included.
Shapes: B rows, T inputs, V alphabet size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from bench.engine_models import CHARACTERS, SMALL, WIDTH
from bench.engine_worker import STEPS, Symbols
from chainrule.artifact import load_artifact
from chainrule.core.decoder import Warp
from chainrule.core.distributions import Finite
from chainrule.core.model import SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.space import Space
from chainrule.decoding.strategy import Target
from chainrule.decoding.verify import Ancestral, drain
from chainrule.decoding.warps import Warps
from chainrule.models.rnn import RNN, RNNConfig
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import TransformerConfig


class Ours:
    """The model of FOLDER; x begins with a start symbol, which the model has inside."""

    model: SequenceModel

    def __init__(self, folder: Path, kind: str, threads: int) -> None:
        torch.set_num_threads(threads)
        if (folder / "run").exists():  # a run, as a user has it
            run = load_artifact(folder / ("run-gguf" if kind == "gguf" else "run"))
            self.model = run.model if kind == "torch" else run.runner(run.choose("engine", kind))
            return
        weights = load_file(folder / "model.safetensors")
        make = {"gpt2": gpt2, "lstm": cells, "gru": cells}.get(folder.name, llama)
        self.model = make(weights, folder.name).eval().requires_grad_(False)
        if kind != "torch":
            from chainrule.engine.backend import Compiled

            self.model = Compiled(self.model, dtype=kind, threads=threads)

    @property
    def weight_bytes(self) -> int | None:
        """What the engine keeps in memory."""
        return getattr(self.model, "weight_bytes", None)

    @torch.no_grad()
    def logits(self, x: Symbols) -> NDArray[np.float32]:
        given = torch.from_numpy(x[:, 1:])
        state = self.model.extend(self.model.start(len(x)), given[:, :-STEPS])
        for t in range(-STEPS, 0):
            state = self.model.extend(state, given[:, t : given.shape[1] + t + 1])
        return self._law(state).numpy()

    def _law(self, state: Any) -> Tensor:
        law = self.model.predict(state)
        assert isinstance(law, Finite)
        return law.log_probs()[:, -1]

    def decode(self, x: Symbols, length: int, warp: Warp | None = None) -> Symbols:
        decoder = Ancestral.decoder(Target(self.model, length=length))
        noise = Noise.seeded(0, range(len(x)))
        begun = decoder.start(list(torch.from_numpy(x[:, 1:])), noise, warp=warp)
        steps = drain(decoder, begun, [length] * len(x))
        made = [step.symbols[:, : step.count[0]] for step in steps]
        return torch.cat(made, 1).numpy()

    def greedy(self, x: Symbols, length: int) -> Symbols:
        """The same loop without dice."""
        return self.decode(x, length, Warps.of(len(x), temperature=0.0))

    @torch.no_grad()
    def prefill(self, x: Symbols) -> Any:
        state = self.model.extend(self.model.start(1), torch.from_numpy(x[:, 1:]))
        return self._law(state)

    @torch.no_grad()
    def score(self, x: Symbols) -> Any:
        given = torch.from_numpy(x[:, 1:])
        return self.model.forward(given).log_prob(given)


def gpt2(theirs: dict[str, Tensor], _: str) -> SequenceModel:
    """GPT-2 124M; transformers holds its matrices transposed."""
    config = TransformerConfig(
        Space("finite", 50257, eos=50256),
        "gpt2",
        num_layers=12,
        dim=768,
        num_heads=12,
        num_kv_heads=12,
        hidden=3072,
        context=1024,
        sinks=0,
        tied=True,
        gelu="tanh",
    )
    names = {"ln_1": "norm_in", "attn.c_attn": "qkv", "attn.c_proj": "out"}
    names |= {"ln_2": "norm_mid", "mlp.c_fc": "up", "mlp.c_proj": "down"}
    weights = {
        "embedding.weight": theirs["transformer.wte.weight"],
        "position.weight": theirs["transformer.wpe.weight"],
        "norm.weight": theirs["transformer.ln_f.weight"],
        "norm.bias": theirs["transformer.ln_f.bias"],
    }
    for i in range(config.num_layers):
        for name, mine in names.items():
            for part in ("weight", "bias"):
                value = theirs[f"transformer.h.{i}.{name}.{part}"]
                weights[f"layers.{i}.{mine}.{part}"] = value.T if value.ndim == 2 else value
    return filled(Transformer(config), weights)


def llama(theirs: dict[str, Tensor], name: str) -> SequenceModel:
    """The small shapes."""
    layers, dim, heads, hidden = SMALL[name]
    space = Space("finite", CHARACTERS)
    config = TransformerConfig(space, "llama", layers, dim, heads, heads, hidden=hidden)
    weights = {
        "embedding.weight": theirs["model.embed_tokens.weight"],
        "norm.weight": theirs["model.norm.weight"],
        "head.weight": theirs["lm_head.weight"][:CHARACTERS],
    }
    for i in range(layers):
        part = {k: v for k, v in theirs.items() if k.startswith(f"model.layers.{i}.")}
        part = {k.split(".", 3)[3].removesuffix(".weight"): v for k, v in part.items()}
        mine = {
            "norm_in": part["input_layernorm"],
            "norm_mid": part["post_attention_layernorm"],
            "qkv": torch.cat([part[f"self_attn.{c}_proj"] for c in "qkv"]),
            "out": part["self_attn.o_proj"],
            "up": torch.cat([part["mlp.gate_proj"], part["mlp.up_proj"]]),
            "down": part["mlp.down_proj"],
        }
        weights |= {f"layers.{i}.{k}.weight": v for k, v in mine.items()}
    return filled(Transformer(config), weights)


def cells(theirs: dict[str, Tensor], name: str) -> SequenceModel:
    """LSTM and GRU: the names are chainrule's own."""
    space = Space("finite", CHARACTERS)
    return filled(RNN(RNNConfig(space, name, num_layers=2, dim=WIDTH, hidden=WIDTH)), theirs)


def filled(model: SequenceModel, weights: dict[str, Tensor]) -> SequenceModel:
    """The model with all of these weights and no others."""
    model.load_state_dict(weights, strict=True)
    return model
