"""How the commands read standard input and files, and print tables and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

WHOLE = 24  # columns of the terminal that a cell may take and is never broken
console = Console(highlight=False)
aside = Console(stderr=True, highlight=False)


def stdin() -> bytes:
    """All of standard input."""
    return sys.stdin.buffer.read()


def named(name: str, use: Any) -> Any:
    """Read a file, or ``-``, and use it; a complaint names the file."""
    path = Path(name)
    if name != "-" and not path.is_file():
        raise ValueError(f"{name}: no such file")
    data = stdin() if name == "-" else path.read_bytes()
    try:
        return use(data)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def print_json(value: Any) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Columns below their names, or without any where all names are empty; numbers stay whole."""
    columns = Table(box=None, pad_edge=False, show_header=any(header), header_style="dim")
    rows = list(rows)
    for i, name in enumerate(header):
        whole = all(len(row[i]) <= WHOLE for row in rows)
        columns.add_column(name, overflow="fold", no_wrap=whole)
    for row in rows:
        columns.add_row(*map(Text, row))
    console.print(columns)
