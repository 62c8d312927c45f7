"""Weights in a file: read when they are asked for, floats or quantised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chainrule.core.config import from_dict
from chainrule.core.model import SequenceModel
from chainrule.core.outline import unfilled
from chainrule.engine.build import kept_as
from chainrule.engine.program import Program, Weight
from chainrule.engine.quantize import DType, Narrow, Precision, layout
from chainrule.files import TensorFile, load_into, match_shapes, read_tensors
from chainrule.formats.adapter import Merged


@dataclass(frozen=True, eq=False)
class Stored:
    """Weights in a file: floats, or, with ``dtype``, matrices that were quantised to it.

    A matrix NAME that the engine multiplies by is then NAME.data and NAME.scale (see
    ``engine.quantize``); where it is looked up, or kept wider, it is NAME in bf16. Of a "gguf" run
    every matrix that ``dtype`` names is stored so, and others are floats.
    """

    file: TensorFile | Merged
    dtype: Precision | None = None

    def rows(self, weight: Weight, first: int, count: int, dtype: DType) -> Tensor | Narrow:
        """Rows of a program's weight, as ``engine.build.Rows``."""
        name, at = weight.source, weight.first + first
        if self.dtype is None or weight.kind != "matrix":
            return self.file.rows(name, at, count)
        columns = weight.shape[1]
        if dtype == "bf16":
            return Narrow(dtype, self.file.rows(name, at, count).bfloat16(), None, columns)
        data, *more = (self.file.rows(name + k, at, count) for k in layout(dtype, count, columns))
        return Narrow(dtype, data, more[0], columns, *more[1:])

    def model(self, cls: type[SequenceModel], config: Any) -> SequenceModel:
        """The model in torch, what was quantised made wide again."""
        if isinstance(self.file, Merged):
            return self.file.model(cls, config)
        model: SequenceModel = cls(config)
        tensors, path = read_tensors(self.file.path)[0], self.file.path
        if self.dtype is not None:
            for name, kinds in kept_as(model.lower(), self.dtype).items():
                wide = tensors.pop(name).float() if "bf16" in kinds else None
                for kind in kinds - {"bf16"}:
                    shape = model.state_dict()[name].shape
                    data, *more = (tensors.pop(name + k) for k in layout(kind, *shape))
                    wide = Narrow(kind, data, more[0], shape[1], *more[1:]).wide()
                assert wide is not None
                tensors[name] = wide
        load_into(model, tensors, path)
        return model.eval()


def outlined(
    cls: type[SequenceModel],
    data: dict[str, Any],
    path: Path,
    where: str,
    dtype: Precision | None = None,
) -> tuple[SequenceModel, Stored]:
    """A model on the meta device, and its weights, whose shapes are the model's."""
    config = from_dict(cls.Config, data, where)  # type: ignore[attr-defined]
    outline = unfilled(cls, config)
    expected = {k: tuple(v.shape) for k, v in outline.state_dict().items()}
    types: dict[str, torch.dtype] = {}
    if dtype is not None:
        types = _narrowed(outline, dtype, expected, where)
    file = TensorFile(path)
    match_shapes(expected, file.shapes, path)
    for name, kind in types.items():
        if file.types[name] != kind:
            raise ValueError(f"{path}: tensor {name!r} is {file.types[name]}, not {kind}")
    return outline, Stored(file, dtype)


def _narrowed(
    outline: SequenceModel, dtype: Precision, shapes: dict[str, tuple[int, ...]], where: str
) -> dict[str, torch.dtype]:
    """Put what stands for the matrices of a quantised file in their place; returns its types."""
    program: Any = outline.lower()
    if not isinstance(program, Program):
        raise ValueError(f"{where}: quantised, but {type(outline).__name__} has no program")
    types: dict[str, torch.dtype] = {}
    kept = kept_as(program, dtype)
    if not isinstance(dtype, str):
        if unknown := dtype.keys() - kept.keys():
            raise ValueError(f"{where}: no matrix {min(unknown)!r}, which precision names")
        kept = {name: kept[name] for name in dtype}  # the others may be any floats
    for name, kinds in kept.items():
        shape = shapes.pop(name)
        if len(shape) != 2:
            raise ValueError(
                f"{where}: tensor {name!r} has {len(shape)} axes, and only matrices are "
                "quantised: leave precision out"
            )
        height, width = shape
        for kind in kinds:
            try:
                parts = layout(kind, height, width)
            except ValueError as error:
                raise ValueError(f"{where}: tensor {name!r}: {error}") from None
            for part, (shape, its) in parts.items():
                shapes[name + part], types[name + part] = shape, its
    return types
