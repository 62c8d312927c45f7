"""`import chainrule` and `chainrule --help` answer at once: the heavy libraries stay out."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "pandas", "pyarrow", "matplotlib", "tokenizers", "safetensors", "scipy"}

PROBE = """
import json, sys
try:
    {code}
except SystemExit as end:
    assert not end.code, end.code
print("\\n" + json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def modules_after(code: str, *argv: str) -> set[str]:
    command = [sys.executable, "-c", PROBE.format(code=code), *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_probe_sees_what_is_imported():
    assert "numpy" in modules_after("import numpy")


@pytest.mark.parametrize(
    ("code", "argv"),
    [
        ("import chainrule", []),
        ("import chainrule; dir(chainrule)", []),
        ("from chainrule.cli import main; main()", ["--help"]),
        ("from chainrule.cli import main; main()", ["generate", "--help"]),
        ("import runpy; runpy.run_module('chainrule', run_name='__main__')", ["--help"]),
        ("import chainrule.engine", []),
    ],
    ids=["import", "dir", "help", "help-of-a-verb", "python -m", "engine"],
)
def test_nothing_heavy_is_imported(code, argv):
    assert modules_after(code, *argv) & HEAVY == set()
