"""doctor: what this installation can do on this machine."""

from __future__ import annotations

import importlib.util
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_EXTRAS = {
    "plot": ("matplotlib",),
    "parquet": ("pyarrow",),
    "series": ("narwhals", "pyarrow"),
    "track": ("tensorboard",),
}


@dataclass(frozen=True)
class Route:
    """How a run decodes.

    Args:
        backend: "torch" or "engine", in ``dtype``, because of ``reason``.
        kernels: that the engine runs on this processor; None in torch.
        weights: megabytes of them by dtype; empty where the engine can't run the model.
    """

    run: str
    backend: str
    dtype: str
    kernels: str | None
    reason: str
    weights: dict[str, float]

    def rows(self) -> list[tuple[str, str]]:
        """(name, value) for a table."""
        sizes = ", ".join(f"{name} {size:.3g}" for name, size in self.weights.items())
        kernels = "" if self.kernels is None else f", {self.kernels} kernels"
        return [
            (self.run, f"{self.backend} {self.dtype}{kernels}: {self.reason}"),
            *([("its weights, MB", sizes)] if sizes else []),
        ]


@dataclass(frozen=True)
class Health:
    """Versions, processor, native engine, optional extras.

    Args:
        kernels: the instruction set that the engine uses; None where it wasn't built.
        backend: where decoding runs, as a rule, because of ``reason``.
        run: the same of the run that was asked about.
    """

    chainrule: str
    python: str
    torch: str
    processor: str
    cores: int
    threads: int
    gpu: str | None
    features: dict[str, bool]
    native_engine: bool
    kernels: str | None
    backend: str
    reason: str
    extras: dict[str, bool]
    run: Route | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """(name, value) for a table."""
        features = " ".join(name for name, there in self.features.items() if there) or "unknown"
        extras = [
            f"{name}: {'yes' if there else f'no (pip install chainrule[{name}])'}"
            for name, there in self.extras.items()
        ]
        native = "built" if self.native_engine else "not built (no C++17 compiler at install time)"
        return [
            ("chainrule", f"{self.chainrule}, Python {self.python}, torch {self.torch}"),
            ("processor", f"{self.processor}, {self.cores} cores, {self.threads} threads used"),
            ("features", features),
            ("GPU", self.gpu or "none"),
            ("native part", native),
            ("kernels", self.kernels or "none"),
            ("decoding runs on", f"{self.backend}: {self.reason}"),
            *(("extra", line) for line in extras),
            *([] if self.run is None else self.run.rows()),
        ]


def doctor(run: Any = None) -> Health:
    """Look around; with a run (a folder, or what ``load`` returns), say how that one decodes.

    Raises:
        ValueError: not a run.
    """
    import torch

    from chainrule.engine import cpu_features, kernels, native_available

    try:
        own = version("chainrule")
    except PackageNotFoundError:
        own = "not installed"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Health(
        chainrule=own,
        python=platform.python_version(),
        torch=torch.__version__,
        processor=platform.machine(),
        cores=cores or 1,
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        features=cpu_features(),
        native_engine=native_available(),
        kernels=kernels(),
        backend="engine" if native_available() else "torch",
        reason="in bf16, where a model has a program; else torch"
        if native_available()
        else "no C++17 compiler was there at install time",
        extras={
            name: all(importlib.util.find_spec(m) is not None for m in modules)
            for name, modules in _EXTRAS.items()
        },
        run=None if run is None else _route(run),
    )


def _route(run: Any) -> Route:
    from chainrule.artifact import load_artifact
    from chainrule.engine import kernels
    from chainrule.engine.backend import program_of, weight_bytes
    from chainrule.engine.quantize import DTYPES, Precision

    opened = load_artifact(run) if isinstance(run, str | Path) else run
    artifact = getattr(opened, "artifact", opened)
    on, program = artifact.choose(), program_of(artifact.outline)
    kept = None if artifact.stored is None else artifact.stored.dtype
    every: dict[str, Precision] = {d: d for d in DTYPES}
    sizes = every if kept is None else {str(artifact.precision): kept}
    return Route(
        run=str(artifact.path or artifact.kind),
        backend=on.backend,
        dtype=on.dtype,
        kernels=kernels() if on.backend == "engine" else None,
        reason=on.reason,
        weights={}
        if isinstance(program, str)
        else {name: weight_bytes(program, dtype) / 1e6 for name, dtype in sizes.items()},
    )
