"""Every law runs in float64, with a fixed seed, on one thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.laws.entries import ENTRIES


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)  # fills what nobody has written with NaN
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for ``entry`` is run for every entry."""
    if "entry" in metafunc.fixturenames:
        metafunc.parametrize("entry", ENTRIES, ids=lambda e: e.name)
