"""Two fitted runs, and a way to type commands."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chainrule.cli import main

TEXT = "".join(
    f"The {noun} {verb} the {other}, and the {other} sat down.\n"
    for noun in ("cat", "dog", "hen", "fox")
    for verb in ("saw", "met", "fed", "led")
    for other in ("cow", "pig", "owl")
)


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Type = Callable[..., Result]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Nothing is written into the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHAINRULE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def type_command(*words: object, stdin: bytes = b"") -> Result:
    """Run ``chainrule WORDS`` in this process."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["chainrule", *map(str, words)])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    out.flush()
    return Result(code, out.buffer.getvalue().decode(), err.getvalue())  # type: ignore[attr-defined]


@pytest.fixture
def command() -> Type:
    return type_command


@pytest.fixture(scope="session")
def book(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="session")
def run(book, tmp_path_factory) -> Path:
    """A tiny GRU after some steps; read only."""
    folder = tmp_path_factory.mktemp("runs") / "gru"
    words = ("--model", "gru", "--size", "tiny", "--steps", "30", "--batch", "8", "--context", "32")
    result = type_command("fit", book, "-o", folder, *words)
    assert result.code == 0, result.err
    return folder


@pytest.fixture(scope="session")
def ngram(book, tmp_path_factory) -> Path:
    """An n-gram over words; read only."""
    folder = tmp_path_factory.mktemp("runs") / "ngram"
    result = type_command("fit", book, "-o", folder, "--model", "ngram", "--codec", "words")
    assert result.code == 0, result.err
    return folder


@pytest.fixture(scope="session")
def quick(book, tmp_path_factory) -> Path:
    """A tiny transformer that every strategy can decode; read only."""
    folder = tmp_path_factory.mktemp("runs") / "quick"
    words = ("--model", "transformer", "--size", "tiny", "--objective", "hybrid", "--ahead", "2")
    small = ("--steps", "12", "--batch", "4", "--context", "64")
    result = type_command("fit", book, "-o", folder, *words, *small)
    assert result.code == 0, result.err
    return folder
