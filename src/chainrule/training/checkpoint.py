"""Checkpoints: everything a run needs to go on as if it had never stopped.

One safetensors file a checkpoint: weights, optimiser, the states of torch's generators; the
trainer's own numbers as JSON in its metadata, and a digest of it all. The newest two are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chainrule.files import load_into, read_tensors, write_tensors
from chainrule.training.distributed import ALONE, Alone, Found, parted, whole

KEPT = 2


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    extra: dict[str, Any],
    tensors: Mapping[str, Tensor],
    company: Alone = ALONE,
) -> Path:
    """Write ``step-N.safetensors``, read it back, then remove older ones.

    The file is the same from one process and from several; all must call it.

    Raises:
        OSError: it can't be written, or is not what was written; older ones are untouched.
    """
    named = {f"model/{k}": v for k, v in model.state_dict().items()}
    for index, moments in optimiser.state_dict()["state"].items():
        named.update({f"optimiser/{index}/{k}": v for k, v in moments.items()})
    named.update({f"generator/{k}": v for k, v in _generators(model).items()})
    named.update({f"extra/{k}": v for k, v in tensors.items()})
    named = whole(named, company.first)
    path = folder / f"step-{step:08d}.safetensors"
    if not company.first:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    numbers = json.dumps(extra)
    write_tensors(path, named, {"chainrule": numbers, "digest": _digest(named, numbers)})
    try:
        _read(path)
    except ValueError as error:
        path.unlink()
        raise OSError(f"{error}, though it was just written: is the disk failing?") from None
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def load_checkpoint(
    folder: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    say: Callable[[str], None],
    company: Alone = ALONE,
) -> Found:
    """Restore the newest checkpoint that is whole; None if there is none.

    What is damaged is named through ``say``, and removed once a whole one is found. Of several
    processes the first one reads; all must call it.

    Raises:
        ValueError: checkpoints exist and none can be read, or they are another model's.
    """
    found = company.spread(_newest(folder, say) if company.first else None)
    if found is None:
        return None
    extra, named = found
    have = model.state_dict()
    weights = {k: parted(v, have.get(k, v)) for k, v in _under("model/", named).items()}
    load_into(model, weights, folder)
    params = [p for group in optimiser.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimiser/", named).items():
        index, key = name.split("/")
        moments.setdefault(int(index), {})[key] = parted(value, params[int(index)])
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": moments, "param_groups": groups})
    _set_generators(_under("generator/", named))
    return extra, _under("extra/", named)


def _newest(folder: Path, say: Callable[[str], None]) -> Found:
    """What the newest whole checkpoint holds; damaged ones that are newer are removed."""
    damaged: dict[Path, str] = {}
    for path in reversed(checkpoints(folder)):
        try:
            found = _read(path)
        except (ValueError, OSError) as error:
            damaged[path] = str(error)
            continue
        for bad, reason in damaged.items():
            say(f"{reason}: going on from {path.name}")
            bad.unlink()
        return found
    if damaged:
        raise ValueError(f"no checkpoint can be read: {'; '.join(damaged.values())}")
    return None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The trainer's numbers, and all tensors in memory of torch's own (which is aligned).

    Raises:
        ValueError: missing, truncated, or not as it was written.
    """
    named, metadata = read_tensors(path)
    numbers = metadata.get("chainrule", "")
    if metadata.get("digest") != _digest(named, numbers):
        raise ValueError(f"{path}: damaged, its content is not what was written")
    return json.loads(numbers), {k: v.clone() for k, v in named.items()}


def _digest(tensors: Mapping[str, Tensor], numbers: str) -> str:
    """A hash of names, types, shapes, bytes and numbers."""
    whole = hashlib.blake2b(numbers.encode(), digest_size=16)
    for name in sorted(tensors):
        t = tensors[name]
        whole.update(f"\n{name} {t.dtype} {list(t.shape)}\n".encode())
        whole.update(t.contiguous().view(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _generators(model: nn.Module) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    device = next(model.parameters()).device
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_generators(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
