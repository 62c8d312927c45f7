"""What every test may use. Torch is not imported here: many tests do without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before anything imports torch: one thread a process, the same alone and under xdist.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "HYPOTHESIS_STORAGE_DIRECTORY", str(Path(__file__).parents[1] / "build" / "hypothesis")
)

from hypothesis import settings

settings.register_profile("chainrule", derandomize=True, deadline=None, database=None)
settings.load_profile("chainrule")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of files that are not in the repository; tests that use it are marked `data`."""
    folder = os.environ.get("CHAINRULE_DATA")
    if not folder:
        pytest.skip("set CHAINRULE_DATA to the folder that has the files")
    return Path(folder)
