"""Decoding as a user types it: strategies, search, blanks, several runs, and the bench of them."""

from __future__ import annotations

import json

import pytest

import chainrule as cr
from chainrule.cli import METHODS, STRATEGIES, UTILITIES
from chainrule.decoding.rerank import UTILITIES as ALL_UTILITIES
from chainrule.registry import STRATEGIES as ALL_STRATEGIES
from chainrule.verbs.infill import METHODS as ALL_METHODS

IDENTICAL = [name for name, kind in ALL_STRATEGIES.items() if kind.exactness == "identical"]
APPROXIMATE = [name for name, kind in ALL_STRATEGIES.items() if kind.exactness == "approximate"]


def test_the_names_are_those_of_the_verbs():
    assert set(METHODS) == set(ALL_METHODS)
    assert set(UTILITIES) == set(ALL_UTILITIES)


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "auto"])
def test_every_strategy(command, quick, strategy):
    """Same seed, same text, streamed or in a batch; what is approximate says so."""
    draft = ("--draft", quick) if strategy == "draft" else ()
    asked = ("generate", quick, "The ", "--length", "24", "--strategy", strategy, *draft)
    (sample,) = command(*asked, "--json").json
    assert (sample["strategy"], sample["choice"]) == (strategy, None)
    assert sample["exactness"] == ("identical" if strategy in IDENTICAL else "approximate")
    assert len(sample["symbols"]) == 24 or sample["ended"] == "eos"
    streamed = command(*asked)
    assert streamed.out == sample["text"] + "\n"
    assert "auto" not in streamed.err
    if strategy in IDENTICAL:
        plain = command("generate", quick, "The ", "--length", "24", "--strategy", "ancestral")
        assert streamed.out == plain.out


def test_settings_of_strategies(command, quick):
    def text(*words: object) -> str:
        result = command("generate", quick, "The ", "--length", "20", *words)
        assert result.code == 0, result.err
        return result.out

    for strategy in ("lookup", "heads", "jacobi", "hybrid"):
        assert text("--strategy", strategy, "--guesses", "1") == text("--strategy", "ancestral")
    slow = text("--strategy", "parallel", "--iterations", "20", "--temperature", "0")
    fast = text("--strategy", "parallel", "--iterations", "1", "--temperature", "0")
    assert len(slow) == len(fast)
    assert text("--strategy", "block", "--threshold", "0") != ""


def test_auto_says_what_it_took(command, quick):
    streamed = command("generate", quick, "The ", "--length", "150")
    assert streamed.err.startswith("auto took ")
    batch = command("generate", quick, "The ", "--length", "150", "-n", "2")
    assert "auto took " in batch.err
    samples = command("generate", quick, "The ", "--length", "150", "-n", "2", "--json")
    assert "auto" not in samples.err
    assert samples.json[0]["choice"]
    assert streamed.out == samples.json[0]["text"] + "\n"


def test_searches(command, run):
    asked = ("generate", run, "The ", "--length", "12", "--json")
    beam = command(*asked, "--beam", "4", "-n", "3").json
    assert [s["strategy"] for s in beam] == ["beam"] * 3
    assert beam[0]["log_prob"] >= beam[1]["log_prob"] >= beam[2]["log_prob"]
    fitted = cr.load(run)
    assert [s.to_dict() for s in fitted.beam_search("The ", n=3, length=12, width=4)] == beam
    groups = ("--groups", "2", "--diversity", "2", "--length-penalty", "0.5")
    assert command(*asked, "--beam", "4", *groups).json[0]["strategy"] == "diverse beam"
    (best,) = command(*asked, "--best-of", "6", "--seed", "2").json
    drawn = fitted.generate("The ", n=6, length=12, seed=2)
    assert best["log_prob"] == max(s.log_prob for s in drawn)
    assert best["text"] == cr.best_of(run, "The ", length=12, of=6, seed=2)[0].text
    (middle,) = command(*asked, "--mbr", "6", "--utility", "match", "--seed", "2").json
    assert middle["text"] in {s.text for s in drawn}
    assert (
        middle["text"] == cr.mbr(fitted, "The ", length=12, of=6, utility="match", seed=2)[0].text
    )
    shown = command("generate", run, "The ", "--length", "12", "--beam", "4", "-n", "2").out
    assert "1 of 2" in shown and beam[0]["text"] in shown
    assert cr.beam_search(run, "The ", length=12)[0].exactness == "approximate"


def test_several_runs_as_one(command, run):
    """A run beside itself is itself; several run in torch."""
    asked = ("generate", run, "The ", "--length", "20", "--json", "--backend", "torch")
    (mixed,) = command(*asked, "--ensemble", run, "--strategy", "ancestral").json
    (alone,) = command(*asked, "--strategy", "ancestral").json
    assert mixed["log_prob"] == pytest.approx(alone["log_prob"], rel=1e-5)
    both = cr.ensemble([run, run], weights=[1, 3])
    assert both.score("The cat").nats == pytest.approx(cr.score(run, "The cat").nats, rel=1e-5)


def test_infill(command, run, quick, tmp_path):
    (found,) = command("infill", quick, "The _at s__ the", "--json").json
    assert found["method"] == "exact" and found["exactness"] == "distribution"
    assert found["text"][5:9] == "at s" and found["text"].startswith("The ")
    assert [len(b) for b in found["blanks"]] == [1, 2]
    same = cr.infill(quick, "The _at s__ the")[0]
    assert same.to_dict() == found
    asked = ("infill", run, "The ***", "--mask", "*", "--method", "smc", "--particles", "8")
    (weighed,) = command(*asked, "--json").json
    assert 1 <= weighed["effective_sample_size"] <= 8
    path, out = tmp_path / "blanks.txt", tmp_path / "filled.txt"
    path.write_text("The _at sat down.\n")
    assert command("infill", run, path, "--method", "clamp", "-n", "2", "-o", out).code == 0
    assert out.read_text().count("at sat down.\n") == 2
    shown = command("infill", run, "-", "--method", "clamp", stdin=path.read_bytes()).out
    assert "at sat down." in shown


def test_bench(command, quick, book, tmp_path):
    picture = tmp_path / "frontier.png"
    asked = ("bench", quick, book, "--length", "3", "--rounds", "1", "--draft", quick)
    shown = command(*asked, "-o", picture)
    assert shown.code == 0, shown.err
    found = json.loads(picture.with_suffix(".json").read_text())
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert found["prompts"] == str(book) and found["cannot"] == {}
    assert {(p["strategy"], p["batch"]) for p in found["points"]} == {
        (name, batch) for name in STRATEGIES for batch in (1, 32)
    }
    for p in found["points"]:
        assert p["strategy"] in shown.out
        assert (p["lost"] is None) == (p["strategy"] not in APPROXIMATE)
        if p["strategy"] not in APPROXIMATE:
            assert p["same"] == 1.0
            assert p["calls_per_symbol"] <= 1.0 or p["strategy"] in ("hybrid", "auto")


def test_bench_says_what_cannot_run(command, run):
    result = command("bench", run, "--length", "3", "--rounds", "1", "--json").json
    assert set(result["cannot"]) == {"draft", "heads", "hybrid", "block", "parallel"}
    assert {p["strategy"] for p in result["points"]} == {"auto", "ancestral", "lookup", "jacobi"}
