"""Other people's recurrent cells, as bench.engine_worker asks them; run by the peers' Python.

Shapes: B rows, T inputs, H hidden width, V alphabet size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from bench.engine_models import WIDTH, Cells
from bench.engine_runtimes import TYPES
from bench.engine_worker import Symbols

Step = Callable[..., Any]


class Torch:
    """torch.nn's LSTMCell or GRUCell, one symbol after another; greedy."""

    def __init__(self, folder: Path, kind: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.model = Cells(folder.name).eval()
        self.model.load_state_dict(load_file(folder / "model.safetensors"))
        self.model.to(TYPES[kind])
        self.step: Step = self.model

    @torch.inference_mode()
    def logits(self, x: Symbols) -> NDArray[np.float32]:
        out, state = torch.zeros(0), self.model.blank(len(x))
        for column in torch.from_numpy(x).T.contiguous():
            out, *state = self.step(column, *state)
        return out.float().numpy()

    @torch.inference_mode()
    def decode(self, x: Symbols, length: int) -> Symbols:
        out, state = torch.zeros(0), self.model.blank(len(x))
        for column in torch.from_numpy(x).T.contiguous():
            out, *state = self.step(column, *state)
        made = [out.argmax(-1)]
        while len(made) < length:
            out, *state = self.step(made[-1], *state)
            made.append(out.argmax(-1))
        return torch.stack(made, 1).numpy()


class Compiled(Torch):
    """The same step through torch.compile, weights frozen into the graph."""

    def __init__(self, folder: Path, kind: str, threads: int) -> None:
        import torch._inductor.config as inductor

        super().__init__(folder, kind, threads)
        inductor.freezing = True
        inductor.cpp_wrapper = True
        inductor.compile_threads = 1
        self.step = torch.compile(self.model, dynamic=False)


class OnnxRuntime:
    """onnxruntime on the graph of one step (bench.engine_graphs), KIND its name."""

    def __init__(self, folder: Path, kind: str, threads: int) -> None:
        import onnxruntime

        asked = onnxruntime.SessionOptions()
        asked.intra_op_num_threads, asked.inter_op_num_threads = threads, 1
        path, cpu = folder / f"{kind}.onnx", ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(path, asked, providers=cpu)
        self.names = [i.name for i in self.session.get_inputs()]

    def run(self, x: NDArray[np.int64], state: list[Any]) -> list[Any]:
        """Logits [B, V] and the new state."""
        given = dict(zip(self.names, [x, *state], strict=True))
        out: list[Any] = self.session.run(None, given)
        return out

    def feed(self, x: Symbols) -> list[Any]:
        """Consume all of x."""
        state = [np.zeros((len(x), WIDTH), np.float32)] * (len(self.names) - 1)
        out: list[Any] = [None]
        for column in np.ascontiguousarray(x.T):
            out = self.run(column, state)
            state = out[1:]
        return out

    def logits(self, x: Symbols) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.feed(x)[0]
        return found

    def decode(self, x: Symbols, length: int) -> Symbols:
        out, *state = self.feed(x)
        made = [out.argmax(1)]
        while len(made) < length:
            out, *state = self.run(made[-1], state)
            made.append(out.argmax(1))
        return np.stack(made, 1)
