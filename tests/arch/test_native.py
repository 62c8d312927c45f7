"""The compiled part tells the truth, hides its symbols, and may be missing."""

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chainrule import engine
from chainrule import native as loader

NAMES = {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile"}

native = pytest.mark.skipif(not engine.native_available(), reason="installed without a compiler")


@native
def test_features_are_those_that_the_kernel_lists():
    cpuinfo = Path("/proc/cpuinfo")
    features = engine.cpu_features()
    if not features or not cpuinfo.exists():
        pytest.skip("nothing to compare on this machine")
    flags = next(line for line in cpuinfo.read_text().splitlines() if line.startswith("flags"))
    assert features == {name: name in flags.split() for name in NAMES}


@native
@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm")
def test_only_the_entry_point_is_visible():
    from chainrule import _native

    nm = ["nm", "--dynamic", "--defined-only", "--extern-only", _native.__file__]
    out = subprocess.run(nm, check=True, capture_output=True, text=True).stdout
    symbols = {line.split()[-1] for line in out.splitlines()}
    # nanobind's exception types are shared on purpose
    assert {s for s in symbols if not re.match(r"PyInit__native$|_Z\w*8nanobind", s)} == set()


def test_without_the_compiled_part(monkeypatch):
    monkeypatch.setitem(sys.modules, "chainrule._native", None)
    try:
        importlib.reload(loader)
        bare = importlib.reload(engine)
        assert not bare.native_available()
        assert bare.cpu_features() == {}
        assert bare.num_cores() >= 1
    finally:
        monkeypatch.undo()
        importlib.reload(loader)
        importlib.reload(engine)
