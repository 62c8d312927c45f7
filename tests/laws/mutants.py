"""``make laws``: break a copy of the code in many ways; which law catches which mutant?

Usage: python -m tests.laws.mutants [--json FILE] [--only WORD]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.laws.mutations import LOOP, NOISE, STATE, Mutant
from tests.laws.mutations_attention import ATTENDING
from tests.laws.mutations_engine import LOWERED
from tests.laws.mutations_masked import MASKED
from tests.laws.mutations_models import MODEL, TEST_ONLY
from tests.laws.mutations_pictures import PICTURES
from tests.laws.mutations_search import SEARCH

ROOT = Path(__file__).resolve().parents[2]
WORKERS, LIMIT_S = 2, 240
MUTANTS = [*NOISE, *STATE, *MODEL, *ATTENDING, *LOOP, *MASKED, *SEARCH, *LOWERED, *TEST_ONLY]
MUTANTS += PICTURES
COPIED = ["src", "tests", "pyproject.toml"]
# An editable installation's finder would lead back to the working tree.
RUN = (
    "import sys, importlib.machinery as m; "
    "sys.meta_path[:] = [m.BuiltinImporter, m.FrozenImporter, m.PathFinder]; "
    "import chainrule, pytest; assert chainrule.__file__.startswith(sys.argv[1]); "
    "sys.exit(pytest.main(sys.argv[2:]))"
)
QUIET = ["-q", "--no-header", "--tb=no", "-rfE", "-p", "no:cacheprovider", "-p", "no:xdist"]
FILES = [
    "tests/laws/test_normalised.py",
    "tests/laws/test_causal.py",
    "tests/laws/test_state.py",
    "tests/laws/test_decoding.py",
    "tests/laws/test_search.py",
    "tests/laws/test_training.py",
    "tests/laws/test_masked.py",
    "tests/laws/test_engine.py",
]


def laws(folder: Path, entries: str, tests: str | None) -> list[str]:
    """Run the laws in a copy, or a file of tests; the names of those that fail.

    Laws as "9 any_proposer", others as "- any_other".

    Raises:
        RuntimeError: the tests could not be run at all.
    """
    env = {**os.environ, "PYTHONPATH": f"{folder / 'src'}{os.pathsep}{folder}"}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    files = FILES if tests is None else [tests]
    command = [sys.executable, "-c", RUN, str(folder), *QUIET, *files, "-k", entries]
    try:
        done = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return ["- timeout"]
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest gave up:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    found = re.findall(r"^(?:FAILED|ERROR) \S*?::test_(?:(\d+)_)?(\w+)", done.stdout, re.MULTILINE)
    names = {(int(number or 0), f"{number or '-'} {name}") for number, name in found}
    return [name for _, name in sorted(names)]


def judge(mutant: Mutant, folders: SimpleQueue[Path]) -> list[str] | None:
    """The laws that catch a mutant, or None where its old text doesn't stand there once."""
    folder = folders.get()
    file = folder / mutant.file
    whole = file.read_text(encoding="utf-8")
    try:
        if whole.count(mutant.old) != 1:
            return None
        file.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
        return laws(folder, mutant.entries, mutant.tests)
    finally:
        file.write_text(whole, encoding="utf-8")
        folders.put(folder)


def copy(folder: Path) -> Path:
    """src, tests and the settings of pytest."""
    for name in COPIED:
        skip = shutil.ignore_patterns("__pycache__")
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=skip)
        else:
            shutil.copy(source, folder / name)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description="Which law catches which mutant?")
    parser.add_argument("--json", type=Path, help="write the table to this file")
    parser.add_argument("--only", default="", help="mutants whose name holds this word")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if options.only in m.name]
    with tempfile.TemporaryDirectory() as temporary:
        folders: SimpleQueue[Path] = SimpleQueue()
        for i in range(WORKERS):
            folders.put(copy(Path(temporary) / str(i)))
        sound = folders.get()
        for tests in sorted({m.tests for m in chosen}, key=str):
            entries = " or ".join(sorted({m.entries for m in chosen if m.tests == tests}))
            before = laws(sound, entries, tests)
            if before:
                print("The laws fail without any mutant:", *before, sep="\n  ")
                return 1
        folders.put(sound)
        table: dict[str, list[str] | None] = {}
        with ThreadPoolExecutor(WORKERS) as pool:
            found = pool.map(lambda m: judge(m, folders), chosen)
            for mutant, caught in zip(chosen, found, strict=True):
                table[mutant.name] = caught
                word = "STALE" if caught is None else "caught" if caught else "SURVIVED"
                print(f"{word:9} {mutant.name}: {', '.join(caught or ())}", flush=True)
    kills = Counter(law for caught in table.values() for law in caught or ())
    print("\nlaw → mutants caught")
    for law, count in sorted(kills.items(), key=lambda item: (-item[1], item[0])):
        print(f"{count:4}  {law}")
    alive = sum(not caught for caught in table.values())
    print(f"\n{len(table) - alive} of {len(table)} mutants caught")
    if options.json:
        options.json.write_text(
            json.dumps({"mutants": table, "laws": kills}, indent=1) + "\n", encoding="utf-8"
        )
    return int(alive > 0)


if __name__ == "__main__":
    sys.exit(main())
