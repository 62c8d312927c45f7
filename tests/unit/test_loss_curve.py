"""The loss curve of a run, as matplotlib has it before it is a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chainrule.verbs.curve import loss_curve

figure = pytest.importorskip("matplotlib.figure")
OTHERS = {"PNG": 3.5, "WebP": 1.5}


def drawn(records: list[dict[str, Any]], path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The axes."""
    found, save = [], figure.Figure.savefig
    monkeypatch.setattr(
        figure.Figure, "savefig", lambda self, *a, **k: found.append(self) or save(self, *a, **k)
    )
    assert loss_curve(records, path / "loss.png", OTHERS, "dimension")
    return found[0].axes[0]


def records(*seconds: float) -> list[dict[str, Any]]:
    train = [{"step": i, "seconds": s, "bits_per_dimension": 2.0} for i, s in enumerate(seconds)]
    held = {"step": 9, "seconds": seconds[-1], "held_out_bits_per_dimension": 1.9, "best": True}
    return [*train, held]


@pytest.mark.parametrize("seconds", [(0.222,), (0.0,), (1.0, 2.0, 30.0)])
def test_seconds_begin_at_zero_and_every_point_is_seen(seconds, tmp_path, monkeypatch):
    """A single step too: a line of one point is none, and its axis would be that of a moment."""
    axes = drawn(records(*seconds), tmp_path, monkeypatch)
    left, right = axes.get_xlim()
    assert left == 0 and seconds[-1] < right < 1.1 * seconds[-1] + 0.01
    training, held = axes.get_lines()[:2]
    assert (training.get_marker() == "o") == (len(seconds) == 1)
    assert held.get_marker() == "o"


def test_what_lies_beyond_the_axis_is_said_to(tmp_path, monkeypatch):
    axes = drawn(records(1.0, 2.0), tmp_path, monkeypatch)
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["training", "held out", "PNG 3.50, above", "WebP 1.50"]
    assert axes.get_ylim()[1] < 3.5
