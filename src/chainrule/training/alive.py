"""Where processes meet, and how they know that the others live.

A process that dies must not leave others waiting: a thread of each beats once a second in the store
that all share, and looks after the next process. Where one is gone, all end within half a minute.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
from datetime import timedelta
from typing import Any

SILENCE = 20.0  # seconds without a beat, then a process counts as gone
ARRIVAL = 30.0  # seconds until all processes must be there
_GRACE = 3.0  # seconds that last words may take


@functools.cache
def meeting() -> Any:
    """The store that all processes share; it stays until this process ends.

    Raises:
        ValueError: MASTER_ADDR or MASTER_PORT is not set.
        RuntimeError: not all processes came.
    """
    import torch.distributed as dist

    limit = timedelta(seconds=ARRIVAL)
    try:
        return next(iter(dist.rendezvous("env://", timeout=limit)))[0]  # type: ignore[attr-defined]
    except RuntimeError as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise RuntimeError(
            f"the processes did not all meet at {address} within {ARRIVAL:.0f} s"
        ) from error


def gone(who: str) -> str:
    """What is said when a process has died."""
    return f"{who} is gone; what was saved is intact: --resume goes on"


class Pulse:
    """The beat of process ``rank`` among ``size``, in a store of their own."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.store, self.rank, self.size = store, rank, size
        self._over, self._answered = threading.Event(), time.monotonic()
        jobs = (self._watch, self._guard)
        self._threads = [threading.Thread(target=job, daemon=True) for job in jobs]

    def start(self) -> None:
        """From here on this process ends when another one fails or is gone."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """From here on it ends by itself."""
        self._over.set()
        for thread in self._threads:
            thread.join(_GRACE)

    def fail(self, code: int) -> bool:
        """Let the others end with this exit code; whether none had failed before."""
        is_first = True
        with contextlib.suppress(RuntimeError):  # the store may be gone with its process
            is_first = self.store.add("failed", 1) == 1
            if is_first:
                self.store.set("code", str(code))
        self.part()
        return is_first

    def part(self) -> None:
        """Say goodbye; process 0, who may hold the store, goes last."""
        limit = time.monotonic() + _GRACE
        with contextlib.suppress(RuntimeError):
            left = self.store.add("left", 1)
            while self.rank == 0 and left < self.size and time.monotonic() < limit:
                time.sleep(0.02)
                left = self.store.add("left", 0)

    def _watch(self) -> None:
        """Beat, look after the next process, and leave where one has failed."""
        after, seen, when = (self.rank + 1) % self.size, 0, time.monotonic()
        try:
            store = self.store.clone()  # one of its own: the main thread may wait in the other
            while not self._over.wait(1.0):
                store.add(f"beat/{self.rank}", 1)
                beats = store.add(f"beat/{after}", 0)
                self._answered = time.monotonic()
                if beats != seen:
                    seen, when = beats, self._answered
                if store.check(["code"]):
                    store.add("left", 1)
                    self._leave(int(store.get("code")), None)
                limit = SILENCE if seen else ARRIVAL
                if self._answered - when > limit and store.add("failed", 1) == 1:
                    store.set("code", "1")
                    self._leave(1, gone(f"process {after}"))
        except RuntimeError:
            self._leave(1, gone("the process that holds the store"))

    def _guard(self) -> None:
        """Leave where the store does not answer: a call to it may wait for ever."""
        while not self._over.wait(1.0):
            if time.monotonic() - self._answered > SILENCE + _GRACE:
                self._leave(1, gone("the process that holds the store"))

    def _leave(self, code: int, why: str | None) -> None:
        """End at once: the main thread may be waiting for what never comes."""
        if self._over.is_set():
            return
        if why is not None:
            sys.stderr.write(f"error: {why}\n")
            sys.stderr.flush()
        time.sleep(1.5)  # torchrun ends all when one ends: the one that says why comes first
        os._exit(code)
