"""doctor: what this installation can do on this machine."""

from __future__ import annotations

import importlib.util
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_EXTRAS = {
    "plot": ("matplotlib",),
    "parquet": ("pyarrow",),
    "track": ("tensorboard",),
}


@dataclass(frozen=True)
class Health:
    """Versions, processor, native engine, optional extras."""

    chainrule: str
    python: str
    torch: str
    processor: str
    cores: int
    threads: int
    gpu: str | None
    features: dict[str, bool]
    native_engine: bool
    backend: str
    extras: dict[str, bool]

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
            ("decoding runs on", self.backend),
            *(("extra", line) for line in extras),
        ]


def doctor() -> Health:
    """Look around."""
    import torch

    from chainrule.engine import cpu_features, native_available

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
        backend="torch",
        extras={
            name: all(importlib.util.find_spec(m) is not None for m in modules)
            for name, modules in _EXTRAS.items()
        },
    )
