"""The layers of ARCHITECTURE.md, as import-linter sees them in pyproject.toml."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.arch.files import ROOT, text

LINT = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]


def test_imports_run_one_way():
    done = subprocess.run(LINT, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_import_upwards_is_found(tmp_path):
    """A copy of the contract over a package that breaks it, or the test above may be blind."""
    layers = tomllib.loads(text("pyproject.toml"))["tool"]["importlinter"]["contracts"][0]["layers"]
    package = tmp_path / "broken"
    for name in re.findall(r"\w+", " ".join(layers)):
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "core" / "__init__.py").write_text("import broken.models\n")
    (package / "models" / "__init__.py").write_text("import broken.codecs\n")
    (tmp_path / ".importlinter").write_text(
        "[importlinter]\nroot_package = broken\n"
        "[importlinter:contract:1]\nname = layers\ntype = layers\ncontainers = broken\nlayers =\n"
        + "".join(f"    {layer}\n" for layer in layers)
    )
    done = subprocess.run(LINT, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "broken.core -> broken.models" in done.stdout
    assert "broken.models -> broken.codecs" in done.stdout
