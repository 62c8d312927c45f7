"""Adapters on disk: adapter.safetensors, and how config.json names the base that it is for.

Shapes: O outputs, I inputs of a matrix.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from chainrule.core.model import SequenceModel
from chainrule.files import (
    digest,
    load_into,
    match_shapes,
    read_tensors,
    tensor_shapes,
    write_tensors,
)
from chainrule.nn.lora import LoRA, targets

if TYPE_CHECKING:
    from chainrule.artifact import Artifact

WEIGHTS = "adapter.safetensors"
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_PATH = 4096  # characters


@dataclass(frozen=True)
class Reference:
    """What config.json says of an adapter.

    Args:
        base: the run that it adapts, as seen from the adapter's folder; absolute: from anywhere.
        weights: SHA-256 of that run's model.safetensors.
    """

    kind: str
    rank: int
    alpha: float
    base: str
    absolute: str
    weights: str

    def __post_init__(self) -> None:
        if self.kind != "lora":
            raise ValueError(f"unknown kind {self.kind!r:.40}; known: lora")
        if not all(len(path) <= _PATH and "\0" not in path for path in (self.base, self.absolute)):
            raise ValueError(f"base: expected paths of {_PATH:,} characters at most")

    def told(self) -> dict[str, str]:
        """The same as the metadata of adapter.safetensors has it."""
        told = {"kind": self.kind, "weights": self.weights, "rank": str(self.rank)}
        return told | {"alpha": f"{self.alpha:g}"}


class Merged:
    """The tensors of a run with an adapter, read as those of a file; nothing of it is on disk.

    The base is shared: a run with an adapter adds the adapter to it, in memory and on disk.
    """

    def __init__(self, base: Artifact, lora: LoRA) -> None:
        self.base, self.lora = base, lora
        self.path = base.path or Path()
        self.shapes = {k: tuple(v.shape) for k, v in base.outline.state_dict().items()}
        self._wide: dict[str, Tensor] = {}
        self._stored = base.stored if base.precision is None else None
        self.types = dict.fromkeys(self.shapes, torch.float32)
        if self._stored is not None:
            self.types |= {k: v for k, v in self._stored.file.types.items() if k not in lora.pairs}

    def tensor(self, name: str) -> Tensor:
        """The whole of one."""
        shape = self.shapes[name]
        return self.rows(name, 0, shape[0] if shape else 1).view(shape)

    def rows(self, name: str, first: int, count: int) -> Tensor:
        """Rows ``first`` to ``first + count`` of a tensor; float32 where the adapter changes it."""
        if self._stored is not None:
            found = self._stored.file.rows(name, first, count)
        else:
            self._wide = self._wide or self.base.model.state_dict()
            value = self._wide[name]
            found = value[first : first + count] if value.ndim else value.view(1)
        pair = self.lora.pairs.get(name)
        return found if pair is None else pair.added(found.float(), first).detach()

    def model(self, cls: type[SequenceModel], config: Any) -> SequenceModel:
        """In torch: the base's own tensors where it has this config, else a copy of all."""
        if config == self.base.outline.config:
            return self.lora.onto(self.base.model).eval()
        model: SequenceModel = cls(config)
        load_into(model, {name: self.tensor(name) for name in self.shapes}, self.path)
        return model.eval()

    def reference(self, folder: Path) -> Reference:
        """For config.json in ``folder``."""
        there = self.path.resolve()
        try:
            near = Path(os.path.relpath(there, folder.resolve())).as_posix()
        except ValueError:  # another drive
            near = str(there)
        return Reference("lora", self.lora.rank, self.lora.alpha, near, str(there), self.weights)

    @functools.cached_property
    def weights(self) -> str:
        """SHA-256 of the base's weights."""
        return digest(self.path / "model.safetensors")

    def write(self, folder: Path) -> None:
        """Write adapter.safetensors: A and B, and in its metadata what they are for.

        Raises:
            OSError: it can't be written; what was there is untouched.
        """
        told = {"format": "pt", **self.reference(folder).told()}
        write_tensors(folder / WEIGHTS, self.lora.state_dict(), told)


def read_adapter(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], reference: Reference, *, fresh: bool
) -> LoRA:
    """The adapter of a run. Sizes are checked before anything is allocated.

    Args:
        shapes: of the base's matrices [O, I]. fresh: do without its file, to train it.

    Raises:
        ValueError: missing, damaged, of other shapes or for another base.
    """
    path = folder / WEIGHTS
    if fresh:
        return LoRA(shapes, reference.rank, reference.alpha)
    if not path.exists():
        raise ValueError(f"{folder}: no {WEIGHTS} yet; go on with chainrule fit --resume")
    match_shapes(LoRA.sizes(shapes, reference.rank), tensor_shapes(path), path)
    tensors, told = read_tensors(path)
    for key, said in reference.told().items():
        if told.get(key) != said:
            raise ValueError(
                f"{path} is an adapter for another base or of other settings: its {key} "
                f"is {str(told.get(key))[:12]}, config.json says {said[:12]}"
            )
    lora = LoRA(shapes, reference.rank, reference.alpha)
    for name, t in tensors.items():
        if t.dtype not in _FLOATS:
            raise ValueError(f"{path}: tensor {name!r} is {t.dtype}, not floats")
    load_into(lora, tensors, path)
    for name, pair in lora.pairs.items():
        # What is added is a sum of `rank` products: so large at the most.
        most = pair.scale * lora.rank * pair.A.detach().abs().max() * pair.B.detach().abs().max()
        if not torch.isfinite(most):
            raise ValueError(f"{path}: {name}: numbers that are not finite, or too large")
    return lora


def find_base(folder: Path, reference: Reference, given: Path | None) -> Path:
    """The run that an adapter is for, by where it was, or beside it; its weights are compared.

    Raises:
        ValueError: not there, or other weights than those that it was trained on.
    """
    near = folder / reference.base
    places = [near, Path(reference.absolute), folder.parent / Path(reference.absolute).name]
    if given is not None:
        places = [given]
    # pathlib's own is_file raises where a name is too long for the system.
    there = [place for place in places if os.path.isfile(place / "model.safetensors")]
    if not there and given is not None and given.is_dir():
        raise ValueError(f"{given} has no model.safetensors: the base of an adapter is a whole run")
    if not there:
        raise ValueError(
            f"{folder} is an adapter, and {places[0]}, the run that it adapts, is not there: "
            f"put it there, or say where it is with chainrule.load({str(folder)!r}, base=…)"
        )
    seen = {place: digest(place / "model.safetensors") for place in there}
    for place, found in seen.items():
        if found == reference.weights:
            return place
    raise ValueError(
        f"{folder} is an adapter for another base than {there[0]}: SHA-256 of its weights begins "
        f"with {seen[there[0]][:12]}, not {reference.weights[:12]}; give the run that it was "
        "trained from"
    )


def matrices(base: Artifact) -> dict[str, tuple[int, ...]]:
    """Of a run that may be adapted: names and shapes [O, I].

    Raises:
        ValueError: an adapter itself, or a model without any.
    """
    if base.merged is not None:
        raise ValueError(
            f"{base.path} is an adapter itself: chainrule merge {base.path} -o … makes a run of it "
            "that can be adapted again"
        )
    found = targets(base.outline)
    if not found:
        raise ValueError(f"{base.path}: a model of kind {base.kind} has no linear layers to adapt")
    return found
