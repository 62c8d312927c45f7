"""Checkpoints: everything a run needs to go on as if it had never stopped.

One safetensors file a checkpoint: weights, optimiser, the state of torch's generator; the
trainer's own numbers as JSON in its metadata. The newest two are kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chainrule.files import load_into, read_tensors, write_tensors

KEPT = 2


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    extra: dict[str, Any],
    tensors: dict[str, Tensor] | None = None,
) -> Path:
    """Write ``step-N.safetensors``, read it back, then remove older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"model/{k}": v for k, v in model.state_dict().items()}
    for index, moments in optimiser.state_dict()["state"].items():
        named.update({f"optimiser/{index}/{k}": v for k, v in moments.items()})
    named["generator"] = torch.get_rng_state()
    named.update({f"extra/{k}": v for k, v in (tensors or {}).items()})
    path = folder / f"step-{step:08d}.safetensors"
    write_tensors(path, named, {"chainrule": json.dumps(extra)})
    read_tensors(path)
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def load_checkpoint(
    folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Restore the newest checkpoint that is whole; None if there is none.

    Raises:
        ValueError: checkpoints exist and none can be read, or they are another model's.
    """
    found = checkpoints(folder)
    errors = []
    for path in reversed(found):
        try:
            named, metadata = read_tensors(path)
            extra = json.loads(metadata["chainrule"])
        except (ValueError, KeyError) as error:
            errors.append(str(error))
            continue
        weights = {k[6:]: v for k, v in named.items() if k.startswith("model/")}
        load_into(model, weights, path)
        blank = optimiser.state_dict()
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in named.items():
            if name.startswith("optimiser/"):
                _, index, key = name.split("/")
                moments.setdefault(int(index), {})[key] = value
        optimiser.load_state_dict({"state": moments, "param_groups": blank["param_groups"]})
        torch.set_rng_state(named["generator"])
        return extra, {k[6:]: v for k, v in named.items() if k.startswith("extra/")}
    if found:
        raise ValueError(f"no checkpoint can be read: {'; '.join(errors)}")
    return None
