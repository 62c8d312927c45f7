"""What the other processes of a fit do: train when process 0 says so, on what it has made."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from chainrule import registry
from chainrule.artifact import Artifact, load_artifact
from chainrule.core.config import from_dict, to_dict
from chainrule.core.model import SequenceModel
from chainrule.training.calibrate import calibrate
from chainrule.training.distributed import Alone, Company
from chainrule.training.plan import Lessons
from chainrule.training.trainer import TrainConfig, Trainer, TrainingFailed
from chainrule.verbs.material import Material
from chainrule.verbs.media import lessons_of


def together(
    company: Alone,
    what: str,
    model: SequenceModel,
    material: Material,
    config: TrainConfig,
    **more: Any,
) -> None:
    """Process 0 to the others: do ``what`` with me, on this model and these symbols."""
    if company.size == 1:
        return
    made = {"kind": registry.kind_of(model), **to_dict(model.config)}
    training = to_dict(config)
    data = material.orders()
    company.tell({"do": what, "model": made, "data": data, "training": training, **more})


def follow(company: Alone, folder: Path) -> Artifact:
    """Do what process 0 says, until it has written ``folder``.

    Raises:
        ValueError: what process 0 has written is not seen from here.
    """
    assert isinstance(company, Company), "one process alone follows nobody"
    while (order := company.hear())["do"] != "end":
        model, lessons = _made(order)
        config = from_dict(TrainConfig, order["training"], "process 0")
        if order["do"] == "calibrate":
            calibrate(model, lessons, config, order["seconds"], company)
        else:
            _train(
                Trainer(model, lessons, config, company), folder / "checkpoints", order["resume"]
            )
    return load_artifact(folder)


def _train(trainer: Trainer, saves: Path, resume: bool) -> None:
    """As ``fit`` does it, but for what only process 0 says and writes."""
    if not (resume and trainer.resume(saves, _quiet)):
        trainer.save(saves)
    with stopping(trainer), suppress(TrainingFailed):  # process 0 says of it what there is to say
        trainer.run(saves, _quiet, _quiet)


def _made(order: dict[str, Any]) -> tuple[SequenceModel, Lessons]:
    data = dict(order["model"])
    cls: Any = registry.MODELS[data.pop("kind")]
    lessons = lessons_of(order["data"])
    if lessons is None:
        raise ValueError(
            f"{order['data']['symbols']} is not seen by all processes: set CHAINRULE_CACHE to a "
            "folder that all machines share"
        )
    return cls(from_dict(cls.Config, data, "process 0")), lessons


def _quiet(what: object) -> None: ...


@contextmanager
def stopping(trainer: Trainer) -> Iterator[None]:
    """SIGINT and SIGTERM finish the step, save and stop; a second one is not caught."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old: dict[signal.Signals, Any] = {}

    def ask(number: int, frame: object) -> None:
        trainer.stop_asked = True
        for which, handler in old.items():
            signal.signal(which, handler)

    for which in (signal.SIGINT, signal.SIGTERM):
        old[which] = signal.signal(which, ask)
    try:
        yield
    finally:
        for which, handler in old.items():
            signal.signal(which, handler)
