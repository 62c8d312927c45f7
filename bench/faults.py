"""Runs that are killed, and disks that fail: every one must end with the weights of a whole run.

A short run is killed (SIGKILL) at a random instant, or at one inside the writing of a checkpoint;
then the same command goes on to the end, and model.safetensors is compared byte by byte. Torch is
imported once, each run is a fork: a parent that has not computed anything may do that.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.common import save, table

KILLS, INSIDE = 200, 60  # in all, and at least so many inside a save
MODEL, SIZE, STEPS = "transformer", "small", 12
OPTIONS = {"model": MODEL, "size": SIZE, "steps": STEPS, "batch": 4, "context": 32}
LETTERS = 12_000  # of the book: scoring what is held out takes its time
Prepare = Callable[[], None]


def main(data: Path | None) -> None:
    """All kills, then what disks may do."""
    del data
    result = measure(KILLS, INSIDE)
    rows = [[k, v["runs"], v["identical"]] for k, v in result["kills"].items()]
    table(["killed", "runs", "identical"], rows)
    table(["fault", "as it must be", "what was said"], [[k, *v] for k, v in result["disk"].items()])
    save("faults", result)


def measure(kills: int, inside: int) -> dict[str, Any]:
    """In a process of its own, which has one thread: ``kills`` of them, ``inside`` a save."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "bench.faults", folder, str(kills), str(inside)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment["CHAINRULE_CACHE"] = str(Path(folder) / "cache")
        subprocess.run(words, env=environment, check=True)
        result: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text())
        return result


class Child:
    """``fit --resume`` in a fork that tells when it enters and leaves a save."""

    def __init__(self, book: Path, run: Path, prepare: Prepare | None = None) -> None:
        self.log = book.parent / f"{run.name}.log"
        self.marks = b""
        self.pipe, told = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self.pipe)
            os._exit(_fit(book, run, self.log, told, prepare))
        os.close(told)

    def wait_for_save(self, number: int) -> bool:
        """Until the number-th save begins; False if the run ends before."""
        while self.marks.count(b"(") < number:
            if not self._read():
                return False
        return True

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> int:
        """Wait for it: its exit code, negative for a signal."""
        while self._read():
            pass
        os.close(self.pipe)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def said(self) -> str:
        """What it told its user."""
        return self.log.read_text()

    def _read(self) -> bytes:
        mark = os.read(self.pipe, 1)
        self.marks += mark
        return mark


def _fit(book: Path, run: Path, log: Path, told: int, prepare: Prepare | None) -> int:
    """What a child does, with samples of three letters; its exit code."""
    from chainrule.training import trainer
    from chainrule.verbs import card, fit
    from chainrule.verbs.display import Silent

    write, draw = trainer.Trainer.save, fit.generate

    def marked(self: Any, folder: Path) -> None:
        os.write(told, b"(")
        try:
            write(self, folder)
        finally:
            os.write(told, b")")

    class Said(Silent):
        def say(self, line: str) -> None:
            print(line, file=said, flush=True)

    def briefly(artifact: Any, n: int, length: int, seed: int) -> Any:
        return draw(artifact, n=n, length=3, seed=seed)

    fit.generate = card.generate = briefly  # type: ignore[assignment, attr-defined]
    trainer.Trainer.save = marked  # type: ignore[method-assign]
    trainer.CHECKPOINT_EVERY = -1.0  # after every step
    with log.open("a") as said:
        try:
            if prepare is not None:
                prepare()
            fit.fit(str(book), run, resume=True, display=Said(), **OPTIONS)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=said, flush=True)
            return 1
    return 0


# ---- kills ----


class Bench:
    """A book, the weights of a whole run, and how long it takes."""

    def __init__(self, folder: Path) -> None:
        import chainrule

        text = (Path(chainrule.__file__).parent / "assets" / "alice.txt").read_text()
        self.folder, self.book = folder, folder / "book.txt"
        self.book.write_text(text[:LETTERS])
        for name in ("warm-up", "whole"):  # the first one also fills the cache
            began, child = time.perf_counter(), Child(self.book, folder / name)
            saves = []
            while child._read():
                saves.append(time.perf_counter())
            assert child.end() == 0, child.said()
            self.seconds = time.perf_counter() - began
        self.num_saves = len(saves) // 2
        lasts = [b - a for a, b in zip(saves[::2], saves[1::2], strict=True)]
        self.save_seconds = statistics.median(lasts)
        self.weights = self._weights(folder / "whole")

    def killed(self, run: Path, dice: random.Random, aimed: bool) -> str | None:
        """Begin a run and kill it; where it was then, or None if it was quicker."""
        child = Child(self.book, run)
        if aimed:
            child.wait_for_save(dice.randint(1, self.num_saves))
            time.sleep(dice.uniform(0, self.save_seconds))
        else:
            time.sleep(dice.uniform(0, self.seconds))
        child.kill()
        if child.end() != -signal.SIGKILL:
            return None
        entered, left = child.marks.count(b"("), child.marks.count(b")")
        if entered > left:
            return "inside a save"
        if not entered:
            return "before the first save"
        return "after the last save" if left == self.num_saves else "between two saves"

    def goes_on(self, run: Path) -> bool:
        """The same command again, to the end: the same weights, and nothing left over."""
        child = Child(self.book, run)
        ended = child.end() == 0
        whole = ended and self._weights(run) == self.weights and not list(run.rglob("*.partial"))
        if not whole:
            print(f"{run.name}: {child.said()}", flush=True)
        return whole

    def _weights(self, run: Path) -> bytes:
        return (run / "model.safetensors").read_bytes()


def _kills(bench: Bench, kills: int, inside: int) -> dict[str, dict[str, int]]:
    dice, runs, identical = random.Random(0), Counter[str](), Counter[str]()
    while runs.total() < kills or runs["inside a save"] < inside:
        run = bench.folder / f"run-{runs.total()}"
        where = bench.killed(run, dice, aimed=runs["inside a save"] < inside)
        if where is not None:
            runs[where] += 1
            identical[where] += bench.goes_on(run)
            if not runs.total() % 20:
                print(f"{identical.total()} of {runs.total()} identical", flush=True)
        shutil.rmtree(run, ignore_errors=True)
    found = {k: {"runs": runs[k], "identical": identical[k]} for k in sorted(runs)}
    return {**found, "all": {"runs": runs.total(), "identical": identical.total()}}


# ---- disks ----


def _disks(bench: Bench) -> dict[str, tuple[bool, str]]:
    """Each fault: whether all was as it must be, and the line that was said."""
    return {
        "a torn checkpoint": _damaged(bench, lambda content: content[: len(content) // 2]),
        "a flipped bit": _damaged(
            bench, lambda content: content[:-9] + bytes([content[-9] ^ 4]) + content[-8:]
        ),
        "a stale partial checkpoint": _stale(bench),
        "a full disk": _full(bench),
        "a read-only disk": _read_only(bench),
    }


def _half(bench: Bench, run: Path) -> None:
    """A run killed in the middle."""
    child = Child(bench.book, run)
    child.wait_for_save(STEPS // 2)
    child.kill()
    child.end()


def _last(child: Child, word: str) -> str:
    return next((x for x in reversed(child.said().splitlines()) if word in x), "")


def _damaged(bench: Bench, change: Callable[[bytes], bytes]) -> tuple[bool, str]:
    run = bench.folder / f"damaged-{time.monotonic_ns()}"
    _half(bench, run)
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    newest.write_bytes(change(newest.read_bytes()))
    child = Child(bench.book, run)
    child.end()
    line = _last(child, newest.name)
    return bench.goes_on(run) and bool(line), line.replace(f"{run}/", "")


def _stale(bench: Bench) -> tuple[bool, str]:
    run = bench.folder / "stale"
    _half(bench, run)
    aside = run / "checkpoints" / ".step-00000099.safetensors.x.partial"
    aside.mkdir()
    (aside / "step-00000099.safetensors").write_bytes(b"half of it")
    return bench.goes_on(run), "removed"


@contextmanager
def _volume(bench: Bench, size: int) -> Iterator[Path | None]:
    """A small file system in memory; None without the right to mount one."""
    folder = bench.folder / "volume"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True).returncode:
        folder.rmdir()
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def _remount(volume: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(volume)], check=True)


def _full(bench: Bench) -> tuple[bool, str]:
    """Filled in the middle of a run: that ends with a line and no partial files, and goes on."""
    with _volume(bench, 2**28) as volume:
        if volume is None:
            return True, "not tried: no right to mount a disk"
        child = Child(bench.book, volume / "full")
        for number in (3, 5):  # once more, for what a failed save has given back
            child.wait_for_save(number)
            with suppress(OSError), (volume / f"ballast-{number}").open("wb", 0) as ballast:
                while True:
                    ballast.write(bytes(4096))
        code, line = child.end(), _last(child, "No space")
        clean = code == 1 and bool(line) and not list(volume.rglob("*.partial"))
        for ballast_file in volume.glob("ballast-*"):
            ballast_file.unlink()
        return bench.goes_on(volume / "full") and clean, line.replace(f"{volume}/", "")


def _read_only(bench: Bench) -> tuple[bool, str]:
    """Nothing changes, and --resume goes on once it can be written."""
    with _volume(bench, 2**30) as volume:
        if volume is None:
            return True, "not tried: no right to mount a disk"
        run = volume / "shut"
        _half(bench, run)
        before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
        child = Child(bench.book, run, lambda: _remount(volume, "ro"))
        code, line = child.end(), _last(child, "Read-only")
        same = before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
        _remount(volume, "rw")
        again = bench.goes_on(run)
        return same and again and code == 1 and bool(line), line.replace(f"{volume}/", "")


def _measure(folder: Path, kills: int, inside: int) -> None:
    import torch
    import torch._dynamo  # once, before the forks: optimisers import it

    import chainrule.verbs.fit  # noqa: F401

    torch.set_num_threads(1)
    bench = Bench(folder)
    result = {
        "run": {**OPTIONS, "seconds": bench.seconds, "save_seconds": bench.save_seconds},
        "kills": _kills(bench, kills, inside),
        "disk": _disks(bench),
    }
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    _measure(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
