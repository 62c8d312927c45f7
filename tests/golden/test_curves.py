"""Every recipe still learns exactly as it did."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden.curves import LEARNED, STEPS, curve, path
from tests.laws.tolerances import REFERENCE64


@pytest.mark.parametrize("name", LEARNED)
def test_curve(name: str):
    kept = np.loadtxt(path(name))
    assert len(kept) == STEPS
    # Rounding adds up over the steps, so that the same maths by another path drifts a little.
    np.testing.assert_allclose(curve(name), kept, rtol=REFERENCE64)


def test_every_file_is_a_recipe():
    assert {p.stem for p in path("x").parent.glob("*.txt")} == set(LEARNED)
