"""evaluate --rollout and the objectives, as typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainrule import cli
from chainrule.training.objectives import OBJECTIVES
from tests.cli.conftest import Type

SHORT = ("--rollout", "--length", "12", "--samples", "5")


def test_table_picture_and_seed(command: Type, run: Path, book: Path, tmp_path: Path):
    picture = tmp_path / "new" / "rollout.png"
    shown = command("evaluate", run, book, *SHORT, "-o", picture)
    assert shown.code == 0, shown.err
    assert "excess error" in shown.out
    assert "oracle: the run's own n-gram" in shown.out
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = command("evaluate", run, book, *SHORT, "--json").json
    assert [s["last"] for s in found["stretches"]] == [1, 2, 4, 8, 12]
    assert (found["length"], found["samples"], found["seed"]) == (12, 5, 0)
    assert "not absolute" in found["note"]
    assert command("evaluate", run, book, *SHORT, "--json").json == found
    assert command("evaluate", run, book, *SHORT, "--json", "--seed", "1").json != found


def test_another_run_as_oracle(command: Type, run: Path, book: Path):
    """A run is no worse behind its own prefixes than behind its own prefixes."""
    found = command("evaluate", run, book, *SHORT, "--json", "--oracle", run).json
    assert str(run) in found["oracle"]
    assert all(s["error"] == s["rolled"] == s["excess"] == 0 for s in found["stretches"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*SHORT, "--length", "100000"), "too few for rollouts"),
        ((*SHORT, "--samples", "1"), "samples"),
        ((*SHORT, "--oracle", "nowhere"), "no such folder"),
        ((*SHORT, "-o", "rollout.jpg"), "ends in .png"),
        (("--length", "12"), "--length: only with --rollout"),
        (("-o", "rollout.png"), "-o: only with --rollout"),
    ],
)
def test_wrong_settings(command: Type, run: Path, book: Path, words: tuple[str, ...], said: str):
    result = command("evaluate", run, book, *words)
    assert result.code == 2
    assert said in result.err


def test_no_oracle(command: Type, run: Path, ngram: Path, book: Path):
    result = command("evaluate", ngram, book, *SHORT)
    assert (result.code, "--oracle" in result.err) == (2, True)
    result = command("evaluate", ngram, book, *SHORT, "--oracle", run)
    assert (result.code, "other symbols" in result.err) == (2, True)


def test_positions(command: Type, run: Path, book: Path):
    """The training windows of that run had 32 symbols."""
    shown = command("evaluate", run, book)
    assert "past the training length of 32" in shown.out
    found = command("evaluate", run, book, "--json").json
    assert found["training_length"] == 32
    assert [b[0] for b in found["by_position"]][:7] == [0, 2, 4, 8, 16, 32, 64]
    assert sum(b[3] for b in found["by_position"]) == found["units"]


def test_names_the_command_offers():
    """chainrule.cli can't import them: that would import torch."""
    assert cli.OBJECTIVES == OBJECTIVES


def test_fit_with_an_objective(command: Type, book: Path, tmp_path: Path):
    tiny = ("--model", "rnn", "--size", "tiny", "--steps", "3", "--batch", "4", "--context", "16")
    for words, rate in ((("scheduled",), 0.1), (("noise", "--rate", "0.3"), 0.3)):
        done = command("fit", book, "-o", tmp_path / words[0], *tiny, "--objective", *words)
        assert done.code == 0, done.err
        training = command("inspect", tmp_path / words[0], "--json").json["recipe"]["training"]
        assert (training["objective"], training["rate"]) == (words[0], rate)
    for words, said in (
        (("--rate", "0.1"), "--objective"),
        (("--objective", "noise", "--rate", "2"), "rate"),
    ):
        result = command("fit", book, "-o", tmp_path / "no", *tiny, *words)
        assert (result.code, said in result.err) == (2, True), result.err
