"""merge: a run with an adapter becomes a whole run of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from chainrule.artifact import PLAIN, Artifact, load_artifact
from chainrule.files import named, new_folder, read_json, stream_tensors, write_json
from chainrule.formats.adapter import WEIGHTS

_LEFT = (WEIGHTS, "config.json", "checkpoints")  # not copied


def merge(artifact: Artifact, out: str | Path | None = None) -> Artifact:
    """Write the weights with the adapter's added, in float32, into ``out`` (RUN-merged).

    The new run needs the base no more, and computes what the adapter computed, up to rounding.

    Raises:
        ValueError: no adapter on disk, or a folder that exists.
        OSError: it can't be written; nothing is left behind.
    """
    folder, merged = artifact.path, artifact.merged
    if merged is None or folder is None:
        raise ValueError(f"{folder} is a whole run already: only an adapter can be merged")
    folder, config = named(folder), read_json(folder / "config.json")
    if config.pop("adapter", None) is None:
        raise ValueError(f"{folder} is the base: save the adapter before it is merged")
    target = folder.with_name(f"{folder.name}-merged") if out is None else Path(out)
    plan = {name: (torch.float32, shape) for name, shape in merged.shapes.items()}
    with new_folder(target) as aside:
        for part in sorted(folder.iterdir()):
            if part.is_file() and part.name not in _LEFT and not part.name.startswith("."):
                shutil.copy2(part, aside / part.name)
        stream_tensors(aside / "model.safetensors", plan, lambda name: merged.tensor(name).float())
        write_json(aside / "config.json", {**config, "format": PLAIN})
    return load_artifact(target)
