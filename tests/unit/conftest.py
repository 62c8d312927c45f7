"""Runs of pictures that several modules draw from and fill in."""

from __future__ import annotations

import pytest

from chainrule.artifact import Artifact
from tests.unit.picture_examples import LABELS, run_of


@pytest.fixture(scope="module")
def plain() -> Artifact:
    return run_of("lstm")


@pytest.fixture(scope="module")
def labelled() -> Artifact:
    return run_of("made", labels=LABELS)


@pytest.fixture(scope="module")
def anyhow() -> Artifact:
    return run_of("anyorder", order="columns")


@pytest.fixture(scope="module")
def luma() -> Artifact:
    return run_of("made", colour="luma", order="planes", levels=256)
