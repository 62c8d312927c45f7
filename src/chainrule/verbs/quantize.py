"""quantize: a run again, its matrices rounded to fewer bits, and what that costs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chainrule.artifact import QUANTISED, Artifact, load_artifact
from chainrule.engine.build import kept_as
from chainrule.engine.program import Program
from chainrule.engine.quantize import DTYPES, GROUP, DType, Narrow, narrow
from chainrule.files import (
    TensorFile,
    named,
    new_folder,
    read_json,
    write_json,
    write_tensors,
    write_text,
)
from chainrule.formats.adapter import WEIGHTS, Merged
from chainrule.formats.imported import whole
from chainrule.training.shards import Progress, SymbolArray
from chainrule.verbs.tune import held_out_bits, held_out_of

TARGETS: tuple[DType, ...] = ("int8", "q4", "bf16", "int8-row")
_PART = 2**22  # values rounded at a time
_LEFT = ("model.safetensors", WEIGHTS, "config.json", "README.md", "checkpoints")  # not copied


@dataclass(frozen=True)
class Quantized:
    """A quantised run beside the one that it was made of.

    Args:
        path: of the new run. text: what both were scored on, of ``units`` bytes.
        before, after: bits per byte; ran_before, ran_after: what computed them.
        size_before, size_after: bytes of the weights on disk.
    """

    path: str
    dtype: str
    text: str
    units: int
    before: float
    after: float
    ran_before: str
    ran_after: str
    size_before: int
    size_after: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names."""
        return asdict(self)

    def header(self) -> tuple[str, ...]:
        """The names of the columns of ``rows``."""
        return "", "bits per byte", "weights", "scored on"

    def rows(self) -> list[tuple[str, ...]]:
        """Before and after, and the change in percent."""
        more = 100 * (self.after / self.before - 1)
        less = self.size_before / self.size_after
        return [
            ("before", f"{self.before:.4f}", f"{self.size_before:,} bytes", self.ran_before),
            ("after", f"{self.after:.4f}", f"{self.size_after:,} bytes", self.ran_after),
            ("change", f"{more:+.2f} %", f"{less:.2f}× smaller", ""),
        ]

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in self.header())
        body = "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in self.rows())
        return f"<table><tr>{head}</tr>{body}</table>"


def quantize(
    artifact: Artifact,
    to: str = "int8",
    out: str | Path | None = None,
    *,
    text: str | Path | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """Write the run again with narrow weights, into ``out`` (RUN-int8 and the like).

    What the engine multiplies by is rounded to ``to``; tables of embeddings, and what a program
    keeps wider, to bf16; the rest stays as it is.

    Args:
        text: a file to score before and after; None: the run's held-out part.

    Raises:
        ValueError: an unknown dtype, a run that is quantised or not on disk or has no program, a
            folder that exists, or nothing to score.
    """
    dtype = next((d for d in TARGETS if d == to), None)
    if dtype is None:
        raise ValueError(f"dtype {to!r} is not one of {', '.join(TARGETS)}")
    below, part = artifact.base.path, artifact.path
    if part is None or below is None or not (below / "model.safetensors").exists():
        raise ValueError("only a run that stands in a folder can be quantised")
    folder, adapts = named(part), artifact.merged is not None
    own = load_artifact(folder, artifact.base if adapts else None)
    _ = own.codec  # says that pictures and numbers are not scored here
    if own.precision is not None:
        raise ValueError(
            f"{folder} is quantised already, to {own.precision}: {whole(str(own.precision))}"
        )
    program: Any = own.outline.lower()
    if not isinstance(program, Program) or not kept_as(program, dtype):
        raise ValueError(f"{folder}: a model of kind {own.kind} has no matrices to round")
    target = folder.with_name(f"{folder.name}-{to}") if out is None else Path(out)
    if target.exists():
        raise ValueError(f"{target} exists: choose another -o")
    quiet = progress or _quiet
    symbols, units, name = _text(own, text, quiet)
    before, ran_before = _bits(own, "f32", symbols, units, quiet)
    with new_folder(target) as aside:
        _copy(folder, aside)
        assert own.stored is not None
        weights = _narrowed(own.stored.file, kept_as(program, dtype), quiet)
        write_tensors(aside / "model.safetensors", weights, {"format": "pt"})
        config = {**read_json(folder / "config.json"), "format": QUANTISED}
        config.pop("adapter", None)  # it is in the weights now
        config["precision"] = {
            "dtype": dtype,
            **({"group": GROUP[dtype]} if dtype in GROUP else {}),
        }
        write_json(aside / "config.json", config)
        after, ran_after = _bits(load_artifact(aside), None, symbols, units, quiet)
        sizes = [(f / "model.safetensors").stat().st_size for f in (below, aside)]
        found = Quantized(
            str(target), dtype, name, units, before, after, ran_before, ran_after, *sizes
        )
        _card(folder, aside, target.name, found)
    return found


def _quiet(what: str, done: int, whole: int | None) -> None: ...


def _text(
    artifact: Artifact, text: str | Path | None, progress: Progress
) -> tuple[SymbolArray, int, str]:
    """Symbols to score, their bytes, and what they are."""
    if text is None:
        try:
            symbols, units, source = held_out_of(artifact, progress)
        except (ValueError, OSError) as error:
            raise ValueError(
                f"the held-out part of {artifact.path} can't be found ({error}): "
                "name a file to score with --text"
            ) from None
        return symbols, units, f"the held-out part of {source}"
    try:
        data = Path(text).read_bytes()
    except OSError as error:
        raise ValueError(f"{text}: {error.strerror or 'it can not be read'}") from None
    encoded = artifact.codec.encode(data)
    if not len(encoded.symbols):
        raise ValueError(f"{text}: nothing to score, it is empty")
    return encoded.symbols, artifact.codec.units(encoded), str(text)


def _bits(
    artifact: Artifact, dtype: str | None, symbols: SymbolArray, units: int, progress: Progress
) -> tuple[float, str]:
    """Bits per byte, in the engine where it can be, and what computed them."""
    on = artifact.choose(dtype=dtype, draws=False)
    return held_out_bits(artifact.runner(on), symbols, units, progress), str(on)


def _copy(folder: Path, aside: Path) -> None:
    for part in sorted(folder.iterdir()):
        if part.name in _LEFT or part.name.startswith("."):
            continue
        copy: Callable[..., Any] = shutil.copytree if part.is_dir() else shutil.copy2
        copy(part, aside / part.name)


def _narrowed(
    file: TensorFile | Merged, kinds: dict[str, set[DType]], progress: Progress
) -> dict[str, Tensor]:
    """All tensors, the matrices as ``artifact.Stored`` reads them."""
    found: dict[str, Tensor] = {}
    for done, name in enumerate(file.shapes):
        progress("rounding", done, len(file.shapes))
        if name not in kinds:
            found[name] = file.tensor(name)
            continue
        for kind in sorted(kinds[name], key=DTYPES.index):
            found |= _matrix(file, name, kind).parts(name)
    return found


def _matrix(file: TensorFile | Merged, name: str, kind: DType) -> Narrow:
    height, width = file.shapes[name]
    step = max(1, _PART // width)
    parts = [
        narrow(file.rows(name, first, min(step, height - first)), kind)
        for first in range(0, height, step)
    ]
    scales = [part.scale for part in parts if part.scale is not None]
    data = torch.cat([part.data for part in parts])
    return Narrow(kind, data, torch.cat(scales) if scales else None, width)


def _card(folder: Path, aside: Path, name: str, found: Quantized) -> None:
    """README.md with the new name, and a paragraph on what was done."""
    card = folder / "README.md"
    old = card.read_text(encoding="utf-8") if card.exists() else f"# {folder.name}\n"
    old = old.replace(f"chainrule generate {folder.name} ", f"chainrule generate {name} ")
    said = (
        f"Quantised to {found.dtype} from `{folder.name}`: {found.before:.4f} bits per byte, "
        f"{found.after:.4f} now, on {found.text}. What stands below is of the run before."
    )
    rest = old.removeprefix(f"# {folder.name}\n").lstrip("\n")
    write_text(aside / "README.md", f"# {name}\n\n{said}\n\n{rest}")
