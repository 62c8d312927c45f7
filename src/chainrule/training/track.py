"""Event files for TensorBoard, an extra: what metrics.jsonl has, as curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = {
    "loss_nats": "training/loss_nats_per_symbol",
    "lr": "training/learning_rate",
    "symbols_per_s": "training/symbols_per_s",
}


def writer() -> Any:
    """The class that writes event files.

    Raises:
        ValueError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "--tensorboard needs TensorBoard: pip install 'chainrule[track]'"
        ) from None
    return SummaryWriter


@contextmanager
def events(folder: Path | None, step: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that takes records of metrics.jsonl and writes them into ``folder``, if any.

    ``step`` steps are done: what an interrupted run wrote beyond them is no longer shown.

    Raises:
        ValueError: TensorBoard is not installed.
    """
    if folder is None:
        yield lambda record: None
        return
    with writer()(str(folder), purge_step=step + 1) as file:

        def track(record: dict[str, Any]) -> None:
            for key, value in record.items():
                if name := _name(key):
                    file.add_scalar(name, value, record["step"])

        yield track


def _name(key: str) -> str | None:
    """Of a curve; "bits_per_byte" may be bits per another unit."""
    if key.startswith("held_out_bits_per_"):
        return f"{key.removeprefix('held_out_')}/held_out"
    return f"{key}/training" if key.startswith("bits_per_") else NAMES.get(key)
