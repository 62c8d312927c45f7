"""The files of the repository, as the tests of this folder see them."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@cache
def tree() -> tuple[str, ...]:
    """Every file that git tracks or would track, as a path from the root."""
    git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    out = subprocess.run(git, check=True, capture_output=True, text=True).stdout
    return tuple(sorted({f for f in out.split("\0") if f and (ROOT / f).is_file()}))


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def pages() -> list[str]:
    """The pages written for people."""
    return [f for f in tree() if f.endswith(".md") and (f.count("/") == 0 or f.startswith("docs/"))]


def blocks(page: str, language: str | None = None) -> list[str]:
    """The fenced blocks of a markdown text, of one language ("" = none given) or of all."""
    found = re.findall(r"^ *```([^\n`]*)\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)
    return [body for info, body in found if language in (None, info.partition(" ")[0])]
