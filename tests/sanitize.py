"""The compiled part under AddressSanitizer and UndefinedBehaviorSanitizer: ``make sanitize``.

Builds it once more into build/sanitize, and runs the tests that use it with that copy. Needs g++.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "sanitize"
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1"
TESTS = (
    "tests/unit -k engine or blocks or native_sampling or ngram or rollout or tables",
    "tests/unit -k series or forecaster or linear_model",
    "tests/laws -k compiled",
)


def build() -> Path:
    """The wheel's module, sanitized: its path."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    settings = {"CMAKE_CXX_COMPILER": "g++", "CMAKE_CXX_FLAGS": FLAGS}
    pip = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps"]
    pip += ["--quiet", "--wheel-dir", str(FOLDER), "-C", "install.strip=false"]
    for name, value in settings.items():
        pip += ["-C", f"cmake.define.{name}={value}"]
    subprocess.run([*pip, str(ROOT)], check=True)
    (wheel,) = FOLDER.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        (name,) = [n for n in files.namelist() if n.startswith("chainrule/_native.")]
        return Path(files.extract(name, FOLDER))


def load(path: str) -> None:
    """Put it where ``chainrule._native`` is looked for first."""
    spec = importlib.util.spec_from_file_location("chainrule._native", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["chainrule._native"] = module
    spec.loader.exec_module(module)


def main() -> None:
    """Build, then run the tests in processes that the sanitizers watch from their start."""
    module = build()
    libraries = [
        subprocess.run(
            ["g++", f"-print-file-name={name}.so"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan", "libubsan")
    ]
    watched = {
        **os.environ,
        "LD_PRELOAD": " ".join(libraries),
        # Python itself leaks at exit; a request for too much memory is to be an exception.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OMP_NUM_THREADS": "1",
    }
    for tests in TESTS:
        folder, chosen = tests.split(" -k ")
        command = [sys.executable, "-m", "tests.sanitize", str(module), "-q", folder, "-k", chosen]
        code = subprocess.run(command, cwd=ROOT, env=watched, check=False).returncode
        if code:
            sys.exit(code)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        load(sys.argv[1])
        import pytest

        sys.exit(pytest.main(sys.argv[2:]))
