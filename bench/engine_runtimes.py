"""Other people's runtimes for transformers, as bench.engine_worker asks them; run by their Python.

All pick greedily, which is the cheapest for them; where a runtime leaves the loop to its caller, it
is written here and as short as can be.
Shapes: B rows, T inputs, V alphabet size.
"""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.engine_worker import STEPS, Symbols

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
CHOICES = {  # of CTranslate2, which doesn't make them on a processor that isn't Intel's
    "mkl": ("CT2_USE_MKL", "1"),
    "avx512": ("CT2_FORCE_CPU_ISA", "AVX512"),
}


class Transformers:
    """transformers, eager, with a growing cache and a loop by hand."""

    def __init__(self, folder: Path, kind: str, threads: int) -> None:
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=TYPES[kind]).eval()

    def cache(self, rows: int, length: int) -> Any:
        """Room for ``length`` inputs in each row."""
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def call(self, x: torch.Tensor, cache: Any) -> torch.Tensor:
        """Last logits [B, V]."""
        out: torch.Tensor = self.model(x, past_key_values=cache, logits_to_keep=1).logits
        return out[:, -1]

    def step(self, x: torch.Tensor, cache: Any) -> torch.Tensor:
        """The same for a single symbol."""
        return self.call(x, cache)

    @torch.inference_mode()
    def logits(self, x: Symbols) -> NDArray[np.float32]:
        given = torch.from_numpy(x)
        cache = self.cache(*x.shape)
        out = self.call(given[:, :-STEPS], cache)
        for t in range(-STEPS, 0):
            out = self.step(given[:, t : given.shape[1] + t + 1], cache)
        return out.float().numpy()

    @torch.inference_mode()
    def decode(self, x: Symbols, length: int) -> Symbols:
        cache = self.cache(len(x), x.shape[1] + length)
        made = [self.call(torch.from_numpy(x), cache).argmax(-1, keepdim=True)]
        while len(made) < length:
            made.append(self.step(made[-1], cache).argmax(-1, keepdim=True))
        return torch.cat(made, 1).numpy()

    @torch.inference_mode()
    def prefill(self, x: Symbols) -> Any:
        return self.call(torch.from_numpy(x), self.cache(*x.shape))

    @torch.inference_mode()
    def score(self, x: Symbols) -> Any:
        given = torch.from_numpy(x)
        logits = self.model(given[:, :-1], use_cache=False).logits.float()
        return logits.log_softmax(-1).gather(-1, given[:, 1:, None])


class Generate(Transformers):
    """transformers' own ``generate``, for what its loop costs."""

    @torch.inference_mode()
    def decode(self, x: Symbols, length: int) -> Symbols:
        given = torch.from_numpy(x)
        asked = {"max_new_tokens": length, "min_new_tokens": length, "do_sample": False}
        made = self.model.generate(
            given, attention_mask=torch.ones_like(given), pad_token_id=0, **asked
        )
        return made[:, x.shape[1] :].numpy()


class Compiled(Transformers):
    """torch.compile'd transformers: a cache of fixed size, weights frozen into the graph."""

    def __init__(self, folder: Path, kind: str, threads: int) -> None:
        import torch._inductor.config as inductor

        super().__init__(folder, kind, threads)
        inductor.freezing = True
        inductor.cpp_wrapper = True
        inductor.compile_threads = 1
        torch._dynamo.config.cache_size_limit = 64
        self.caches: dict[tuple[int, int], Any] = {}
        self.fast = torch.compile(self.model, dynamic=False)
        self.body = torch.compile(self.model.base_model, dynamic=False)

    def cache(self, rows: int, length: int) -> Any:
        from transformers import StaticCache

        length = -(-length // 16) * 16
        if (rows, length) not in self.caches:
            config = self.model.config
            self.caches[rows, length] = StaticCache(config=config, max_cache_len=length)
        cache = self.caches[rows, length]
        cache.reset()
        return cache

    def step(self, x: torch.Tensor, cache: Any) -> torch.Tensor:
        out: torch.Tensor = self.fast(x, past_key_values=cache, logits_to_keep=1).logits
        return out[:, -1]

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """What the head reads, without a cache; the head itself stays out: it compiles for long."""
        out: torch.Tensor = self.body(x, use_cache=False).last_hidden_state
        return out

    @torch.inference_mode()
    def prefill(self, x: Symbols) -> Any:
        return self.model.lm_head(self.hidden(torch.from_numpy(x))[:, -1])

    @torch.inference_mode()
    def score(self, x: Symbols) -> Any:
        given = torch.from_numpy(x)
        logits = self.model.lm_head(self.hidden(given[:, :-1].contiguous())).float()
        return logits.log_softmax(-1).gather(-1, given[:, 1:, None])


class CTranslate2:
    """CTranslate2: the loop is its own. KIND may end with one of CHOICES."""

    def __init__(self, folder: Path, kind: str, threads: int) -> None:
        kind, _, option = kind.partition("-")
        if option:
            os.environ.update([CHOICES[option]])
        import ctranslate2

        types = {"f32": "float32", "bf16": "bfloat16", "int8": "int8_float32"}
        self.model = ctranslate2.Generator(
            str(folder / "ct2"), compute_type=types[kind], inter_threads=1, intra_threads=threads
        )

    def logits(self, x: Symbols) -> NDArray[np.float32]:
        from ctranslate2 import StorageView

        lens = np.full(len(x), x.shape[1], np.int32)
        views = [StorageView.from_array(v) for v in (x.astype(np.int32), lens)]
        return np.array(self.model.forward_batch(*views))[:, -1]

    def decode(self, x: Symbols, length: int) -> Symbols:
        found = self.model.generate_batch(
            names(x),
            beam_size=1,
            sampling_topk=1,
            max_length=length,
            min_length=length,
            include_prompt_in_result=False,
        )
        return np.array([row.sequences_ids[0] for row in found])

    def prefill(self, x: Symbols) -> Any:
        return self.decode(x, 1)

    def score(self, x: Symbols) -> Any:
        return self.model.score_batch(names(x), max_input_length=0)


def names(x: Symbols) -> list[list[str]]:
    """Symbols as CTranslate2's vocabulary has them."""
    return [[str(i) for i in row] for row in x.tolist()]


class GenAI:
    """onnxruntime-genai, on what its own builder made: int4, blocks of 32."""

    def __init__(self, folder: Path, kind: str, threads: int) -> None:
        import onnxruntime_genai as genai

        self.lib = genai
        config = genai.Config(str(folder / f"genai-{kind}"))
        wish = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": wish}}}))
        self.model = genai.Model(config)

    def open(self, rows: int, length: int) -> Any:
        """Room for ``length`` inputs in each row."""
        asked = self.lib.GeneratorParams(self.model)
        asked.set_search_options(
            batch_size=rows, max_length=length, min_length=length, do_sample=False
        )
        return self.lib.Generator(self.model, asked)

    def logits(self, x: Symbols) -> NDArray[np.float32]:
        found = []
        for row in x.astype(np.int32)[:, None]:  # several rows can't go on by single steps
            made = self.open(1, row.shape[1] + 1)
            made.append_tokens(row[:, :-STEPS])
            for t in range(row.shape[1] - STEPS, row.shape[1]):
                made.append_tokens(row[:, t : t + 1])
            found.append(np.array(made.get_logits())[0, -1])
        return np.stack(found)

    def decode(self, x: Symbols, length: int) -> Symbols:
        made = self.open(len(x), x.shape[1] + length)
        made.append_tokens(x.astype(np.int32))
        for _ in range(length):
            made.generate_next_token()
        found = [made.get_sequence(row)[x.shape[1] :] for row in range(len(x))]
        return np.array(found, np.int64)

    def prefill(self, x: Symbols) -> Any:
        made = self.open(len(x), x.shape[1] + 1)
        made.append_tokens(x.astype(np.int32))
        return made.get_logits()

    def score(self, x: Symbols) -> Any:
        raise NotImplementedError("it keeps the last logits only")


class LlamaCpp:
    """llama.cpp, through the C functions that llama-cpp-python passes on."""

    def __init__(self, folder: Path, kind: str, threads: int) -> None:
        import llama_cpp

        self.lib, self.threads = llama_cpp, threads
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        given = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(
            str(folder / f"{kind}.gguf").encode(), given
        )
        assert self.model, f"llama.cpp cannot read {kind}.gguf"
        vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.alphabet = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self.contexts: dict[tuple[int, int], Any] = {}

    def open(self, rows: int, length: int) -> Any:
        """An empty context for ``length`` inputs in each row."""
        lib, key = self.lib, (rows, -(-length // 256) * 256)
        if key not in self.contexts:
            given = lib.llama_context_default_params()
            given.n_ctx = rows * key[1]
            given.n_seq_max = rows
            given.n_batch = max(1024, rows * 32)
            given.n_threads = given.n_threads_batch = self.threads
            given.no_perf = True
            self.contexts[key] = lib.llama_init_from_model(self.model, given)
            assert self.contexts[key], "llama.cpp makes no context"
        context = self.contexts[key]
        lib.llama_memory_clear(lib.llama_get_memory(context), False)
        return context

    def batch(self, rows: int, length: int) -> tuple[Any, NDArray[Any], ...]:
        """A batch and its symbols, positions and wishes for logits as arrays [B, length]."""
        size = rows * length
        batch = self.lib.llama_batch_init(size, 0, 1)
        batch.n_tokens = size
        for i in range(size):
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = i // length
        views = (batch.token, batch.pos, batch.logits)
        token, pos, wish = (np.ctypeslib.as_array(v, (size,)).reshape(rows, -1) for v in views)
        pos[:] = np.arange(length)
        wish[:] = 0
        wish[:, -1] = 1
        return batch, token, pos, wish

    def run(self, context: Any, batch: Any, rows: int) -> NDArray[np.float32]:
        """Logits [rows, V] that were wished for, in llama.cpp's own memory."""
        failed = self.lib.llama_decode(context, batch)
        assert not failed, f"llama_decode: {failed}"
        return np.ctypeslib.as_array(self.lib.llama_get_logits(context), (rows, self.alphabet))

    def feed(self, context: Any, x: Symbols) -> NDArray[np.float32]:
        """Consume the first inputs."""
        batch, token, _, _ = self.batch(*x.shape)
        token[:] = x
        return self.run(context, batch, len(x))

    def logits(self, x: Symbols) -> NDArray[np.float32]:
        context = self.open(*x.shape)
        out = self.feed(context, x[:, :-STEPS])
        batch, token, pos, _ = self.batch(len(x), 1)
        for t in range(x.shape[1] - STEPS, x.shape[1]):
            token[:, 0], pos[:] = x[:, t], t
            out = self.run(context, batch, len(x))
        return out.copy()

    def decode(self, x: Symbols, length: int) -> Symbols:
        rows, context = len(x), self.open(len(x), x.shape[1] + length)
        made = np.empty((rows, length), np.int64)
        made[:, 0] = self.feed(context, x).argmax(1)
        batch, token, pos, _ = self.batch(rows, 1)
        for t in range(1, length):
            token[:, 0], pos[:] = made[:, t - 1], x.shape[1] + t - 1
            made[:, t] = self.run(context, batch, rows).argmax(1)
        return made

    def prefill(self, x: Symbols) -> Any:
        return self.feed(self.open(*x.shape), x)

    def score(self, x: Symbols) -> Any:
        length = x.shape[1] - 1
        context = self.open(1, length)
        batch, token, _, wish = self.batch(1, length)
        token[:], wish[:] = x[:, :-1], 1
        logits = torch.from_numpy(self.run(context, batch, length))
        given = logits.gather(1, torch.from_numpy(x[0, 1:, None]))[:, 0]
        return given - logits.logsumexp(1)
