"""Transformers of other people, as they train themselves; none of their code is in this repository.

The variable CHAINRULE_PEERS names a folder with ``nanoGPT`` (a checkout of karpathy/nanoGPT) and
``site`` (packages: transformers, accelerate, x-transformers). A peer that isn't there is skipped.

nanoGPT runs its own train.py, unchanged: only its ``print``, called once a step, is ours.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import shutil
import sys
import tempfile
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

CHARACTERS = 65  # of tiny Shakespeare
NEEDS = {"nanoGPT": "nanoGPT", "transformers": "site", "x-transformers": "site"}


@dataclass(frozen=True)
class Shape:
    """Of a GPT-2 and of its batches."""

    layers: int
    heads: int
    dim: int
    block: int
    batch: int

    @property
    def symbols(self) -> int:
        """In one batch."""
        return self.batch * self.block

    @property
    def operations(self) -> int:
        """Of a training step, floating point, per symbol: 6 N + 12 layers dim block.

        N: weights of the matrices and of the output layer, no positions, biases or norms. The
        second part is attention, its masked half counted too (PaLM, appendix B).
        """
        weights = 12 * self.layers * self.dim**2 + CHARACTERS * self.dim
        return 6 * weights + 12 * self.layers * self.dim * self.block


def present(name: str) -> bool:
    """Whether the peer that a contender's name begins with is there; if not, says so."""
    folder = os.environ.get("CHAINRULE_PEERS")
    needs = NEEDS.get(name.split()[0])
    if needs is None or (folder and (Path(folder) / needs).exists()):
        return True
    print(f"skipped: {name} (no {needs} in the folder that CHAINRULE_PEERS names)")
    return False


def characters(data: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Tiny Shakespeare as nanoGPT takes it: sorted characters, the last 10 % for validation."""
    text = (data / "text" / "tinyshakespeare.txt").read_text()
    known = {c: i for i, c in enumerate(sorted(set(text)))}
    assert len(known) == CHARACTERS
    symbols = np.array([known[c] for c in text], dtype=np.uint8)
    cut = int(len(symbols) * 0.9)
    return symbols[:cut], symbols[cut:]


def nano_gpt(
    data: Path,
    options: dict[str, Any],
    each_step: Callable[[], None],
    *,
    seed: int = 1337,
    bf16: bool = False,
    begin: Callable[[], None] = lambda: None,
) -> Any:
    """train.py with config/train_shakespeare_char.py on the processor; returns the model.

    Args:
        options: over those of the config file.
        each_step: called at the end of every step.
        bf16: autocast, which train.py itself asks for on a GPU only.
        begin: called when imports and data are done.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "nanoGPT"
        shutil.copytree(Path(os.environ["CHAINRULE_PEERS"]) / "nanoGPT", folder)
        prepare = folder / "data" / "shakespeare_char" / "prepare.py"
        shutil.copy(data / "text" / "tinyshakespeare.txt", prepare.parent / "input.txt")
        if importlib.util.find_spec("requests") is None:  # for the download that isn't needed
            sys.modules["requests"] = types.ModuleType("requests")
        runpy.run_path(str(prepare))

        def said(text: str) -> None:
            names = sys._getframe(1).f_globals
            if text.startswith("Initializing a new model"):  # after its own seed and context
                torch.manual_seed(seed)
                if bf16:
                    names["ctx"] = torch.autocast("cpu", torch.bfloat16)
            elif text.startswith("iter "):
                each_step()

        # No evaluation: one would be due at step 0, of no batches.
        given = {"device": "cpu", "log_interval": 1, "eval_interval": 10**9, "eval_iters": 0}
        words = [f"--{k}={v}" for k, v in {**given, **options}.items()]
        before, arguments = Path.cwd(), sys.argv
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        sys.argv = ["train.py", "config/train_shakespeare_char.py", *words]
        try:
            importlib.import_module("model")
            begin()
            return runpy.run_path("train.py", init_globals={"print": said})["raw_model"]
        finally:
            sys.argv = arguments
            sys.path.remove(str(folder))
            os.chdir(before)


def nano_gpt_options(shape: Shape) -> dict[str, Any]:
    """Its names for a shape."""
    return {
        "n_layer": shape.layers,
        "n_head": shape.heads,
        "n_embd": shape.dim,
        "block_size": shape.block,
        "batch_size": shape.batch,
        "dropout": 0.0,
    }


def transformers_trainer(
    train: NDArray[np.uint8], shape: Shape, each_step: Callable[[], None]
) -> None:
    """transformers' Trainer on its GPT-2, endless: no evaluation, no logs, nothing saved."""
    _packages()
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        TrainerCallback,
        TrainingArguments,
    )
    from transformers import Trainer as Theirs

    class Step(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            each_step()

    class Windows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return len(train) // shape.block

        def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
            x = torch.from_numpy(train[i * shape.block :][: shape.block].astype(np.int64))
            return {"input_ids": x, "labels": x}

    config = GPT2Config(
        vocab_size=CHARACTERS,
        n_positions=shape.block,
        n_embd=shape.dim,
        n_layer=shape.layers,
        n_head=shape.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    with tempfile.TemporaryDirectory() as scratch:
        settings = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=shape.batch,
            max_steps=10**8,
            learning_rate=1e-3,
            weight_decay=0.1,
            max_grad_norm=1.0,
            use_cpu=True,
            dataloader_pin_memory=False,
            dataloader_drop_last=True,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        model = GPT2LMHeadModel(config)
        Theirs(model=model, args=settings, train_dataset=Windows(), callbacks=[Step()]).train()


def x_transformers(
    train: NDArray[np.uint8], shape: Shape, each_step: Callable[[], None], flash: bool
) -> None:
    """x-transformers' Decoder and AutoregressiveWrapper in the loop of its examples, endless."""
    _packages()
    from x_transformers import (  # type: ignore[import-not-found]
        AutoregressiveWrapper,
        Decoder,
        TransformerWrapper,
    )

    layers = Decoder(
        dim=shape.dim,
        depth=shape.layers,
        heads=shape.heads,
        attn_dim_head=shape.dim // shape.heads,
        attn_flash=flash,
    )
    net = TransformerWrapper(
        num_tokens=CHARACTERS, max_seq_len=shape.block, attn_layers=layers, tie_embedding=True
    )
    model = AutoregressiveWrapper(net)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    while True:
        first = torch.randint(len(train) - shape.block, (shape.batch,)).tolist()
        rows = [torch.from_numpy(train[i : i + shape.block].astype(np.int64)) for i in first]
        model(torch.stack(rows)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        each_step()


def _packages() -> None:
    """Behind the project's own, so that those win."""
    sys.path.append(str(Path(os.environ["CHAINRULE_PEERS"]) / "site"))
