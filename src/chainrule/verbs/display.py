"""What a user sees while a model learns: a live panel on a terminal, quiet lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text


class Display(Protocol):
    """Receives what ``fit`` has to say."""

    def say(self, line: str) -> None:
        """One line that stays."""

    def working(self, stage: str, done: int, total: int | None) -> None:
        """Something long before or after training: reading, encoding, scoring."""

    def begin(self, steps: int, done: int, unit: str = "byte") -> None:
        """Training starts; losses are in bits per ``unit``."""

    def report(self, record: dict[str, Any]) -> None:
        """A record of metrics.jsonl."""

    def sample(self, text: str | Text) -> None:
        """What the model writes, or draws, by now."""

    def end(self) -> None:
        """Training is over."""


class Silent:
    """Nothing at all."""

    def say(self, line: str) -> None: ...
    def working(self, stage: str, done: int, total: int | None) -> None: ...
    def begin(self, steps: int, done: int, unit: str = "byte") -> None: ...
    def report(self, record: dict[str, Any]) -> None: ...
    def sample(self, text: str | Text) -> None: ...
    def end(self) -> None: ...


class Lines(Silent):
    """A line a check, for logs and pipes; on standard error."""

    def __init__(self) -> None:
        self.steps, self.unit = 0, "byte"
        self.last = {"symbols_per_s": 0.0}

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def begin(self, steps: int, done: int, unit: str = "byte") -> None:
        self.steps, self.unit = steps, unit

    def report(self, record: dict[str, Any]) -> None:
        key = f"bits_per_{self.unit}"
        if f"held_out_{key}" not in record:
            self.last = record
            return
        self.say(
            f"step {record['step']:,}/{self.steps:,}  {record['seconds']:.0f} s  "
            f"training {self.last.get(key, float('nan')):.3f}  "
            f"held out {record[f'held_out_{key}']:.3f} bits/{self.unit}  "
            f"{self.last['symbols_per_s']:,.0f} symbols/s"
        )


class Panelled(Silent):
    """A live panel: bar, time left, loss, bits per byte, speed, a sample."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,}/{task.total:,} steps"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.task = self.bar.add_task("learning", total=1)
        self.numbers: dict[str, str] = {}
        self.text: str | Text = ""
        self.unit = "byte"
        self.loss: float | None = None
        self.drawn = 0.0
        self.live: Live | None = None
        self.work: tuple[str, Progress, TaskID] | None = None

    def working(self, stage: str, done: int, total: int | None) -> None:
        if self.work is None or self.work[0] != stage:
            self._rest()
            bar = Progress(console=self.console, transient=True)
            self.work = stage, bar, bar.add_task(stage, total=total)
            bar.start()
        self.work[1].update(self.work[2], completed=done, total=total)

    def _rest(self) -> None:
        """Take the bar of what came before away."""
        if self.work is not None:
            self.work[1].stop()
            self.work = None

    def say(self, line: str) -> None:
        self._rest()
        self.console.print(line, markup=False, highlight=False)

    def begin(self, steps: int, done: int, unit: str = "byte") -> None:
        self.unit = unit
        self._rest()
        self.bar.update(self.task, total=steps, completed=done)
        self.live = Live(self._draw(), console=self.console, auto_refresh=False)
        self.live.start()

    def report(self, record: dict[str, Any]) -> None:
        key = f"bits_per_{self.unit}"
        if f"held_out_{key}" in record:
            best = "  (best so far)" if record["best"] else ""
            self.numbers["held out"] = f"{record[f'held_out_{key}']:.3f} bits/{self.unit}{best}"
        else:
            loss = record["loss_nats"]
            self.loss = loss if self.loss is None else 0.95 * self.loss + 0.05 * loss
            ratio = record[key] / loss if loss else 0.0
            self.numbers["loss"] = f"{self.loss:.3f} nats/symbol"
            self.numbers["training"] = f"{self.loss * ratio:.3f} bits/{self.unit}"
            self.numbers["speed"] = f"{record['symbols_per_s']:,.0f} symbols/s"
            self.bar.update(self.task, completed=record["step"])
        if self.live is not None and time.perf_counter() - self.drawn > 0.2:
            self.drawn = time.perf_counter()
            self.live.update(self._draw(), refresh=True)

    def sample(self, text: str | Text) -> None:
        self.text = text

    def end(self) -> None:
        self._rest()
        if self.live is not None:
            self.live.update(self._draw(), refresh=True)
            self.live.stop()
            self.live = None

    def _draw(self) -> Group:
        table = Table.grid(padding=(0, 3))
        table.add_row(*(f"[dim]{name}[/] {value}" for name, value in self.numbers.items()))
        parts: list[Any] = [self.bar, table]
        if self.text:
            text = Text(self.text) if isinstance(self.text, str) else self.text
            parts.append(Panel(text, title="what it makes by now", border_style="dim"))
        return Group(*parts)


def display_for(json: bool = False) -> Display:
    """The live panel on a terminal, lines elsewhere, nothing for ``--json``."""
    if json:
        return Silent()
    console = Console(stderr=True)
    return Panelled(console) if console.is_terminal else Lines()
