"""Every verb as a user types it: what it prints, what it writes, what it returns as JSON."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule.cli import CODECS, MODELS, STRATEGIES
from chainrule.registry import CODECS as ALL_CODECS
from chainrule.registry import PICTURE_CODECS, PICTURE_RECIPES, RECIPES
from chainrule.registry import STRATEGIES as ALL_STRATEGIES
from tests.cli.conftest import TEXT


def test_the_names_are_the_registry_s():
    assert set(MODELS) == {*RECIPES, *PICTURE_RECIPES}
    assert set(CODECS) == {*ALL_CODECS, *PICTURE_CODECS}
    assert set(STRATEGIES) == {"auto", *ALL_STRATEGIES}


def test_fit_leaves_a_whole_artifact(run):
    names = {p.name for p in run.iterdir()}
    assert {"config.json", "model.safetensors", "metrics.jsonl", "README.md", "loss.png"} <= names
    assert "checkpoints" not in names
    config = json.loads((run / "config.json").read_text())
    assert config["recipe"]["training"]["steps"] == 30
    records = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [r["loss_nats"] for r in records if "loss_nats" in r]
    assert losses[-1] < losses[0]
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    card = (run / "README.md").read_text()
    assert f"{config['results']['held_out_bits_per_byte']:.3f}" in card


@pytest.mark.parametrize("model", RECIPES)
@pytest.mark.parametrize("codec", ALL_CODECS)
def test_every_model_with_every_codec(command, book, tmp_path, model, codec):
    small = ("--size", "tiny", "--batch", "2", "--context", "16", "--vocabulary", "300")
    steps = () if model == "ngram" else ("--steps", "2")
    words = ("--model", model, "--codec", codec, *small, *steps)
    assert command("fit", book, "-o", tmp_path / "r", *words).code == 0
    out = command("generate", tmp_path / "r", "The ", "--length", "5", "--json").json
    assert out[0]["text"].startswith("The ")
    total = command("score", tmp_path / "r", book, "--json").json[0]
    assert total["units"] == len(TEXT)
    assert total["nats"] < 0
    assert sum(total["per_symbol"]) == pytest.approx(total["nats"])
    assert total["kind"] in {"bytes": ["exact"], "chars": ["exact"]}.get(codec, ["bound", "codes"])


def test_generate_is_the_same_streamed_batched_and_in_python(command, run):
    shown = command("generate", run, "The ", "--length", "40", "--seed", "3").out
    asked = ("--length", "40", "--seed", "3", "-n", "3", "--json")
    samples = command("generate", run, "The ", *asked).json
    fitted = cr.load(run)
    assert shown == samples[0]["text"] + "\n"
    assert "".join(fitted.stream("The ", 40, seed=3)) == samples[0]["continuation"]
    mixed = fitted.generate(["The ", "", "The cat saw"], n=2, length=40, seed=3)
    assert [s.text for s in mixed[:2]] == [s["text"] for s in samples[:2]]
    assert mixed[4].text == fitted.generate("The cat saw", length=40, seed=3)[0].text
    assert all(len(s.symbols) == 40 or s.ended == "eos" for s in mixed)
    whole = next(s for s in mixed if s.ended == "length")
    at = len(whole.text) - len(whole.continuation)
    assert sum(fitted.score(whole.text).per_symbol[at:]) == pytest.approx(whole.log_prob, rel=1e-4)


def test_settings_change_what_is_drawn(command, run):
    def text(*words: str) -> str:
        return command("generate", run, "The ", "--length", "60", *words).out

    assert text("--stop", "a").count("a") == 0
    assert "e" not in text("--ban", "e")[4:]
    assert text("--force", "zzz"[:0] + "cow").startswith("The cow")
    assert text("--top-k", "1") == text("--temperature", "0")
    assert text("--seed", "1") != text("--seed", "2")
    assert text("--repetition-penalty", "5") != text()


def test_generate_reads_and_writes(command, run, tmp_path):
    out = tmp_path / "out.txt"
    assert command("generate", run, "-", "--length", "5", "-o", out, stdin=b"The c").code == 0
    assert out.read_text().startswith("The c")


def test_next_sums_over_spellings(command, run, ngram):
    rows = command("next", run, "The c", "-k", "3", "--json").json
    assert len(rows) == 3
    assert all(r["word"].startswith("c") for r in rows)
    assert [r["probability"] for r in rows] == sorted(
        (r["probability"] for r in rows), reverse=True
    )
    assert sum(r["probability"] for r in rows) <= 1 + 1e-9
    assert {w for w, _ in cr.next(ngram, "The ", k=4)} >= {"cat", "dog", "hen"}
    assert cr.next(ngram, "The d", k=1)[0][0] == "dog"
    assert cr.next(ngram, "The d", k=1)[0][1] > 0.5


def test_next_against_the_definition(ngram, run):
    """P(word) by the chain rule over characters, for a word given whole."""
    fitted = cr.load(run)
    word, p = fitted.next("The c", k=1)[0]
    prefix = fitted.score("The c").nats
    ended = 0.0
    alphabet = sorted(set(TEXT))
    for after in alphabet:
        if not (after.isalnum() or after == "'"):
            ended += math.exp(fitted.score(f"The {word}{after}").nats - prefix)
    artifact = fitted.artifact  # the end of the document ends a word too
    spelled = fitted.score(f"The {word}")
    x = torch.from_numpy(artifact.codec.encode(f"The {word}").symbols)[None]
    with torch.no_grad():
        law = artifact.model.predict(artifact.model.extend(artifact.model.start(1), x))
    last = law.log_probs()[0, -1, artifact.codec.space.eos].item()
    ended += math.exp(spelled.nats - prefix + last)
    assert p == pytest.approx(ended, rel=1e-4)


def test_evaluate_beside_others(command, run, book):
    result = command("evaluate", run, book, "--json").json
    assert set(result["others"]) == {"n-gram", "gzip", "xz"}
    score = cr.score(run, TEXT)
    assert result["nats"] == pytest.approx(score.nats)
    assert result["perplexity"] == pytest.approx(math.exp(-score.nats / len(TEXT)))
    table = command("evaluate", run, book).out
    assert "gzip" in table


def test_evaluate_many_documents(command, run, tmp_path):
    lines = TEXT.splitlines()
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps({"body": x}) + "\n" for x in lines))
    result = command("evaluate", run, path, "--field", "body", "--json").json
    assert result["documents"] == len(lines)
    assert result["nats"] == pytest.approx(sum(cr.score(run, x).nats for x in lines), rel=1e-5)


def test_inspect_and_doctor(command, run):
    card = command("inspect", run, "--json").json
    assert card["model"]["cell"] == "gru"
    assert card["files"]["model.safetensors"] > 0
    assert "gru" in command("inspect", run).out
    health = command("doctor", "--json").json
    assert health["cores"] >= 1
    assert "torch" in command("doctor").out


def test_results_show_in_notebooks(run):
    fitted = cr.load(run)
    for shown in (fitted, fitted.score("The cat"), fitted.generate("The ", length=3)[0]):
        assert "<" in shown._repr_html_()


def test_the_same_seed_gives_the_same_model(command, book, tmp_path):
    small = (
        "--size",
        "tiny",
        "--steps",
        "4",
        "--batch",
        "2",
        "--context",
        "16",
        "--dropout",
        "0.2",
    )
    for name in ("a", "b"):
        assert command("fit", book, "-o", tmp_path / name, *small, "--seed", "5").code == 0
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("a", "b")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("carry", ["--carry", "--no-carry"])
def test_a_stopped_run_goes_on_as_if_it_had_not(command, book, tmp_path, carry):
    """Stopped by a signal in the middle, resumed: the weights are those of one whole run."""
    words = ["--model", "lstm", "--size", "tiny", "--steps", "120", "--batch", "4"]
    words += ["--context", "16", "--dropout", "0.1", carry]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert command("fit", book, "-o", whole, *words).code == 0
    program = [sys.executable, "-m", "chainrule", "fit", str(book), "-o", str(parts)]
    with subprocess.Popen(
        [*program, *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=os.environ
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(b"step"):
                break
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read().decode()
        assert process.wait(60) in (0, 1), rest
    if process.returncode:
        assert "--resume" in rest
        assert (parts / "checkpoints").is_dir()
        assert command("generate", parts, "The ", "--length", "3").code == 0
        assert command("fit", book, "-o", parts, "--resume").code == 0
    names = ("model.safetensors", "ngram.safetensors")
    assert all((whole / n).read_bytes() == (parts / n).read_bytes() for n in names)
    assert np.isfinite(cr.score(parts, "The cat").nats)
