"""The bench of faults, in small: real kills, real disks."""

from __future__ import annotations

import pytest

from bench.faults import measure


@pytest.mark.slow
def test_every_killed_run_ends_with_the_same_weights():
    result = measure(kills=6, inside=3)
    assert result["kills"]["inside a save"]["runs"] >= 3
    assert result["kills"]["all"]["runs"] >= 6
    assert all(v["runs"] == v["identical"] for v in result["kills"].values())
    assert {name: line for name, (held, line) in result["disk"].items() if not held} == {}
