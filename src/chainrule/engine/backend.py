"""Where a model runs: torch or the compiled engine, and in which dtype. Chosen here alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from chainrule import engine
from chainrule.core.model import SequenceModel
from chainrule.engine.build import held, size
from chainrule.engine.compiled import Compiled
from chainrule.engine.program import Program
from chainrule.engine.quantize import CACHES, DTYPES, Cache, DType, Precision

__all__ = ["BACKENDS", "Choice", "Compiled", "choose", "program_of", "weight_bytes"]

Backend = Literal["torch", "engine"]
BACKENDS: tuple[str, ...] = ("auto", *get_args(Backend))
# Strategies that look into the torch model's own cache.
NEED_TORCH = dict.fromkeys(("block", "parallel"), "fills in blanks, which torch runs")


@dataclass(frozen=True)
class Choice:
    """What runs a model, and why."""

    backend: Backend
    dtype: DType
    reason: str
    cache: Cache = "auto"

    def __str__(self) -> str:
        kept = "" if self.cache == "auto" else f", {self.cache} cache"
        return f"{self.backend} {self.dtype}{kept}"


def choose(
    model: SequenceModel,
    backend: str = "auto",
    dtype: str | None = None,
    *,
    draws: bool = True,
    strategy: str = "auto",
    stored: DType | None = None,
    cache: str | None = None,
) -> Choice:
    """Where ``model`` runs.

    Auto is the engine wherever it can be, in bf16, for what draws symbols; for what reports numbers
    it is float32 in torch unless a dtype is asked for.

    Args:
        model: may be on the meta device.
        draws: whether symbols are drawn, or numbers reported.
        strategy: how they are drawn.
        stored: the dtype of weights that were quantised; no other is to be had from them but f32,
            widened, in torch.
        cache: of keys and values; int8 needs the engine.

    Raises:
        ValueError: an unknown name, or what can't be, with the reason.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
    if dtype is not None and dtype not in (*DTYPES, stored):
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if cache is not None and cache not in CACHES:
        raise ValueError(f"cache {cache!r} is not one of {', '.join(CACHES)}")
    kept: Cache = "int8" if cache == "int8" else "auto"
    asked = next((d for d in DTYPES if d == dtype), None)
    if backend == "torch":
        if kept == "int8":
            raise ValueError("cache int8 needs --backend engine")
        if asked not in (None, "f32"):
            raise ValueError(f"dtype {asked} needs --backend engine")
        return Choice("torch", "f32", "as asked")
    if stored is not None and asked not in (None, stored):
        if asked == "f32" and backend == "auto" and kept == "auto":
            return Choice("torch", "f32", f"its {stored} weights are widened, as asked")
        raise ValueError(
            f"the weights are stored as {stored}: dtype {asked} can't be had from them"
        )
    program = program_of(model)
    why = program if isinstance(program, str) else None
    if strategy in NEED_TORCH:
        why = why or f"strategy {strategy} {NEED_TORCH[strategy]}"
    if kept == "int8" and isinstance(program, Program):
        kinds = {leaf.kind for leaf in program.leaves.values()}
        why = why or (
            None if "cache" in kinds else f"{type(model).__name__} has no keys and values"
        )
    narrower = [f"dtype {asked}"] if asked not in (None, "f32") else []
    wanted = (
        ["backend engine"] * (backend == "engine") + narrower + ["cache int8"] * (kept != "auto")
    )
    if why is not None:
        if wanted:
            raise ValueError(f"{wanted[0]} can't be: {why}")
        return Choice("torch", "f32", why)
    if not draws and not wanted and asked is None and stored is None:
        return Choice("torch", "f32", "numbers are reported in float32")
    assert isinstance(program, Program)
    usual: DType = "bf16" if draws and held(program, "bf16") else "f32"
    return Choice("engine", asked or stored or usual, "the compiled engine can run it", kept)


def program_of(model: SequenceModel) -> Program | str:
    """The model's Program, or why the engine can't run it here."""
    if not engine.native_available():
        return "no C++17 compiler was there at install time"
    for tensor in _tensors(model):
        if tensor.device.type not in ("cpu", "meta"):
            return "a GPU runs it" if tensor.device.type == "cuda" else f"{tensor.device} runs it"
    for parameter in model.parameters():
        if parameter.dtype != torch.float32:
            return f"its parameters are {str(parameter.dtype).removeprefix('torch.')}, not float32"
    try:
        program: Any = model.lower()
    except ValueError as error:  # larger than a Program may be
        return f"{type(model).__name__} has no program that it could run ({error})"
    if not isinstance(program, Program):
        return f"{type(model).__name__} has no program"
    return program


def _tensors(model: SequenceModel) -> Iterator[Tensor]:
    return chain(model.parameters(), model.buffers())


def weight_bytes(program: Program, dtype: Precision) -> int:
    """What the weights of a program take in ``dtype``, but for the padding of its blocks.

    Tables, of an n-gram, have 8 bytes an entry in every dtype.
    """
    dtypes = held(program, dtype)
    return sum(size(w, dtypes.get(name, "f32")) for name, w in program.weights.items())
