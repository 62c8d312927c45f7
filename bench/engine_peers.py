"""The peers of the compiled engine, each a process of its own, and the rounds they are timed in.

The variable CHAINRULE_ENGINE_PEERS names the Python of an environment of their own, made so:

    python3 -m venv peers
    peers/bin/pip install torch==2.13.0 transformers ctranslate2 onnxruntime onnx gguf \\
        numpy safetensors
    CMAKE_ARGS="-DGGML_NATIVE=ON" peers/bin/pip install llama-cpp-python

The last is built from source, with all that this processor can do (AVX-512, VNNI, bf16; the JSON
says what it found). Without the variable, only chainrule runs.

Every worker (bench.engine_worker) has its model loaded and sleeps while the others run; all are
pinned to the same one core, or two, with as many threads. A contender whose logits are farther from
float32 than CLOSE is no contender. Peers pick greedily, which is their cheapest; ours draws with
keyed noise. Prompts are part of the time, of everyone's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from bench.common import interleaved, ratios, summary, table

FOLDER = Path("build") / "bench" / "engine"
ROUNDS = 5
REST = 0.1  # seconds for the last worker's threads to fall asleep
PATIENCE = 400.0  # seconds for one answer; torch.compile has been seen to hang
CLOSE = {"f32": 1e-3, "bf16": 0.03, "int8": 0.06, "int8-row": 0.06, "q4": 0.4}  # relative L2
OURS = tuple(("chainrule", kind) for kind in CLOSE)
REAL = {"f32": 1e-3, "bf16": 0.1, "int8": 0.2, "int8-row": 0.4, "q4": 0.8}  # of real weights
BITS = {"f32": 32, "bf16": 16, "int8": 8, "int8-row": 8, "q4": 4}  # of a weight; scales aside
FORMATS = {"q8_0": "int8", "q4_0": "q4", "q4_0-pure": "q4", "torch": "f32", "plain": "f32"}
FORMATS |= {"fused": "f32", "plain-int8": "int8", "fused-int8": "int8", "f32-mkl": "f32"}
FORMATS |= {"int8-avx512": "int8", "int4": "q4", "q4_1": "q4", "gguf": "q4"}
TRANSFORMERS = (  # the peers of transformers
    ("transformers", "f32"),
    ("transformers", "bf16"),
    ("compiled", "f32"),
    ("compiled", "bf16"),
    ("ctranslate2", "f32"),
    ("ctranslate2", "f32-mkl"),
    ("ctranslate2", "int8"),
    ("ctranslate2", "int8-avx512"),
    ("llama.cpp", "f32"),
    ("llama.cpp", "bf16"),
    ("llama.cpp", "q8_0"),
    ("llama.cpp", "q4_0"),
    ("llama.cpp", "q4_0-pure"),
)
CELLS = (
    ("cells", "f32"),
    ("cells", "bf16"),
    ("cells compiled", "f32"),
    ("cells compiled", "bf16"),
    ("onnxruntime", "plain"),
    ("onnxruntime", "fused"),
    ("onnxruntime", "plain-int8"),
    ("onnxruntime", "fused-int8"),
)
Task = dict[str, Any]  # as bench.engine_worker takes it
Figures = dict[str, list[float]]


class Worker:
    """A contender: a process that answers one line with another.

    Raises:
        RuntimeError: it died; the message is its last words.
    """

    def __init__(self, runtime: str, kind: str, model: str, threads: int) -> None:
        self.name, self.format = f"{runtime} {kind}", FORMATS.get(kind, kind)
        self.log = FOLDER / "logs" / f"{model} {self.name} {threads}.txt"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        python = sys.executable if runtime == "chainrule" else os.environ["CHAINRULE_ENGINE_PEERS"]
        given = [runtime, kind, str(FOLDER / model), str(threads)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python, "-m", "bench.engine_worker", *given],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
        self.about = self._answer()

    def seconds(self, task: Task) -> float:
        """How long a task takes."""
        assert self.process.stdin is not None
        time.sleep(REST)
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        alarm = threading.Timer(PATIENCE, self.process.kill)
        alarm.start()
        line = self.process.stdout.readline()
        alarm.cancel()
        if not line:
            self.process.wait()
            said = self.log.read_text().strip().splitlines() or ["nothing"]
            raise RuntimeError(f"{self.name}: {said[-1]}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def end(self) -> None:
        """Hang up."""
        self.process.communicate()


def prepared() -> bool:
    """Whether there are models, made by the peers' Python where it is named."""
    peers = os.environ.get("CHAINRULE_ENGINE_PEERS")
    if peers is not None:
        subprocess.run([peers, "-m", "bench.engine_models", str(FOLDER)], check=True)
        return True
    print("no peers: CHAINRULE_ENGINE_PEERS names no Python (see bench/engine_peers.py)")
    return FOLDER.exists()


def compare(
    model: str,
    contenders: Iterable[tuple[str, str]],
    tasks: dict[str, Task],
    threads: int,
    count: Callable[[Task], int] = lambda task: task.get("batch", 1) * task["length"],
    close: dict[str, float] = CLOSE,
) -> dict[str, Any]:
    """Symbols a second of every contender in every task, and ours over the best of the others."""
    workers: dict[str, Worker] = {}
    out: dict[str, Any] = {"failed": {}, "logits": {}}
    for runtime, kind in contenders:
        if runtime != "chainrule" and "CHAINRULE_ENGINE_PEERS" not in os.environ:
            continue
        name = f"{runtime} {kind}"
        try:
            worker = Worker(runtime, kind, model, threads)
        except RuntimeError as error:
            out["failed"][name] = str(error)
            print("failed:", error)
            continue
        out["logits"][name] = worker.about
        if worker.about["error"] > close[worker.format]:
            out["failed"][name] = f"logits are {worker.about['error']:.2g} off"
            print(f"no contender: {name}, {out['failed'][name]}")
            worker.end()
            continue
        workers[name] = worker
    for title, task in tasks.items():
        able = {}
        for name, worker in list(workers.items()):
            try:
                worker.seconds(task)  # what is compiled or packed on the first call
                able[name] = worker
            except RuntimeError as error:
                out["failed"][f"{title}: {name}"] = str(error)
                print(f"failed in {title}: {error}")
                del workers[name]
        made = count(task)
        speed = {n: partial(_speed, worker, task, made) for n, worker in able.items()}
        figures = interleaved(speed, ROUNDS)
        formats = {n: worker.format for n, worker in able.items()}
        print(f"{model}, {title}, threads: {threads}")
        out[title] = _report(figures, formats)
        if task["task"] == "decode":  # all weights are read once a step: how near to the limit
            size = (FOLDER / model / "model.safetensors").stat().st_size / task["batch"] / 1e9
            for name, row in out[title].items():
                read = size * BITS[formats[name]] / 32
                if "bytes" in out["logits"][name]:  # what ours keeps, packed
                    read = out["logits"][name]["bytes"] / task["batch"] / 1e9
                row["GB_per_second"] = row["per_second"]["median"] * read
    for worker in workers.values():
        worker.end()
    return out


def _speed(worker: Worker, task: Task, made: int) -> float:
    return made / worker.seconds(task)


def _report(figures: Figures, formats: dict[str, str]) -> dict[str, Any]:
    """Print and return one task's figures; "of_best": ours over the best peer of each kind."""
    peers = [n for n in figures if not n.startswith("chainrule ")]
    out, rows = {}, []
    for name, found in figures.items():
        row: dict[str, Any] = {"per_second": summary(found), "rounds": found}
        rivals = {} if name in peers else _rivals(name, peers, formats)
        row["of_best"] = {
            kind: {"peer": best, **ratios(found, figures[best])}
            for kind, able in rivals.items()
            for best in [max(able, key=lambda n: summary(figures[n])["median"])]
        }
        said = [f"{v['median']:.2f} {v['peer']}" for v in row["of_best"].values()]
        rows.append([name, *row["per_second"].values(), "; ".join(said)])
        out[name] = row
    table(["contender", "symbols/s", "least", "most", "times the best peer of a kind"], rows)
    return out


def _rivals(name: str, peers: list[str], formats: dict[str, str]) -> dict[str, list[str]]:
    """Those of the same number format, by runtime, and all."""
    mine = formats[name].removesuffix("-row")
    same = [n for n in peers if formats[n] == mine]
    kinds = {"same": same, "any": peers}
    for runtime in ("ctranslate2", "llama.cpp"):
        kinds[runtime] = [n for n in same if n.startswith(runtime)]
    return {k: v for k, v in kinds.items() if v}
