"""Wrong input to decoding: one clear line that says what to do, exit code 2, at once."""

from __future__ import annotations

import json

import pytest

from tests.cli.test_bad_input import complaint


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--strategy", "draft"), ["--draft"]),
        (("--strategy", "draft", "--draft", "nowhere"), ["nowhere", "no such folder"]),
        (("--strategy", "heads"), ["heads", "--ahead"]),
        (("--strategy", "hybrid"), ["hybrid"]),
        (("--strategy", "block"), ["hybrid"]),
        (("--strategy", "parallel"), ["hybrid"]),
        (("--strategy", "lookup", "--guesses", "0"), ["guesses"]),
        (("--strategy", "lookup", "--guesses", "100000"), ["guesses"]),
        (("--strategy", "ancestral", "--guesses", "2"), ["guesses", "ancestral"]),
        (("--guesses", "2"), ["guesses", "auto"]),
        (("--iterations", "2"), ["iterations", "parallel"]),
        (("--threshold", "0.5"), ["threshold", "block"]),
        (("--strategy", "lookup", "--draft", "nowhere"), ["draft", "lookup"]),
        (("--beam", "0"), ["width"]),
        (("--beam", "-3"), ["width"]),
        (("--beam", "1000000"), ["width"]),
        (("--beam", "2", "-n", "3"), ["n must be 1 to 2"]),
        (("--beam", "4", "--groups", "3"), ["groups"]),
        (("--beam", "4", "--length-penalty", "nan"), ["length_penalty"]),
        (("--beam", "4", "--diversity", "-1"), ["diversity"]),
        (("--beam", "4", "--temperature", "0.5"), ["temperature", "beam"]),
        (("--beam", "4", "--strategy", "lookup"), ["strategy", "beam"]),
        (("--beam", "4", "--best-of", "4"), ["--beam", "--best-of"]),
        (("--best-of", "4", "--mbr", "4"), ["--best-of", "--mbr"]),
        (("--best-of", "0"), ["choose from"]),
        (("--best-of", "2", "-n", "3"), ["n"]),
        (("--mbr", "100000"), ["choose from"]),
        (("--groups", "2"), ["--groups", "--beam"]),
        (("--diversity", "2"), ["--diversity", "--beam"]),
        (("--length-penalty", "1"), ["--length-penalty", "--beam or --best-of"]),
        (("--mbr", "4", "--length-penalty", "1"), ["--length-penalty", "--beam or --best-of"]),
        (("--utility", "match"), ["--utility", "--mbr"]),
        (("--ensemble", "nowhere"), ["nowhere", "no such folder"]),
        (("--regex", "[a-"), ["[a-"]),
        (("--regex", "é+"), ["é"]),
        (("--regex", "[a-z]{50}", "--length", "10"), ["length"]),
        (("--choice", ""), ["empty"]),
        (("--choice", "voilà"), ["voilà"]),
        (("--choice", "cat", "--regex", "dog"), ["regex", "choices"]),
        (("--choice", "cat", "--stop", "a"), ["choices", "stop"]),
        (("--schema", "nowhere.json"), ["nowhere.json", "No such file"]),
    ],
)
def test_generate(command, run, words, said):
    line = complaint(command("generate", run, "The ", *words))
    for word in said:
        assert word in line, line


@pytest.mark.parametrize("name", ["--strategy", "--utility"])
def test_unknown_names(command, run, name):
    result = command("generate", run, "The ", name, "nope")
    assert result.code == 2 and "Traceback" not in result.err


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("{", ["line 1", "JSON"]),
        (json.dumps({"type": "thing"}), ["thing"]),
        (json.dumps({"type": "string", "minLength": -1}), ["minLength"]),
        (json.dumps({"type": "string", "minLength": 3, "maxLength": 2}), ["$"]),
        (json.dumps(False), ["false"]),
        (json.dumps({"$ref": "#/nowhere"}), ["nowhere"]),
        (json.dumps({"type": "string", "minLength": 5}), ["symbols"]),
    ],
)
def test_schemas(command, run, tmp_path, schema, said):
    path = tmp_path / "schema.json"
    path.write_text(schema)
    line = complaint(command("generate", run, "", "--schema", path))
    for word in said:
        assert word in line, line


def test_a_draft_with_another_vocabulary(command, run, ngram):
    asked = ("generate", run, "The ", "--strategy", "draft", "--draft", ngram)
    assert "codec" in complaint(command(*asked))
    line = complaint(command("bench", run, "--length", "3", "--draft", ngram))
    assert "codec" in line and str(ngram) in line


def test_an_ensemble_with_another_vocabulary(command, run, ngram):
    line = complaint(command("generate", run, "The ", "--ensemble", ngram))
    assert "codec" in line and str(ngram) in line


def test_guesses_beyond_the_context(command, quick):
    asked = ("generate", quick, "The ", "--length", "20", "--strategy", "parallel")
    assert command(*asked).code == 0
    line = complaint(command(*asked, "--length", "200"))
    assert "context" in line


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("The cat", (), ["no '_'"]),
        ("The _at", (), ["clamp", "smc"]),
        ("The _at", ("--mask", ""), ["mask"]),
        ("The _at é", ("--method", "clamp"), ["é"]),
        ("The _at", ("--method", "clamp", "-n", "0"), ["n"]),
        ("The _at", ("--method", "clamp", "--particles", "3"), ["--particles", "smc"]),
        ("The _at", ("--method", "smc", "--particles", "0"), ["particles"]),
        ("The _at", ("--method", "smc", "--temperature", "0.5"), ["temperature"]),
        ("The _at", ("--method", "clamp", "--temperature", "-1"), ["temperature"]),
        ("The _at", ("--method", "clamp", "--seed", "-1"), ["seed"]),
    ],
)
def test_infill(command, run, text, words, said):
    line = complaint(command("infill", run, text, *words))
    for word in said:
        assert word in line, line


def test_a_blank_longer_than_the_context(command, quick):
    line = complaint(command("infill", quick, "The " + "_" * 500))
    assert "context" in line


@pytest.mark.parametrize(
    "words",
    [
        ("--length", "1"),
        ("--rounds", "0"),
        ("--seed", "-1"),
        ("--temperature", "-1"),
        ("-o", "picture.svg"),
        ("nowhere.txt",),
        ("--draft", "nowhere"),
    ],
)
def test_bench(command, run, words):
    complaint(command("bench", run, *words))


@pytest.mark.parametrize(
    "words",
    [
        ("--ahead", "-1"),
        ("--ahead", "1000"),
        ("--ahead", "2", "--model", "gru"),
        ("--objective", "hybrid", "--model", "gru"),
        ("--objective", "hybrid", "--model", "transformer", "--rate", "2"),
    ],
)
def test_fit(command, book, tmp_path, words):
    asked = ("--model", "transformer") if "--model" not in words else ()
    complaint(command("fit", book, "-o", tmp_path / "run", "--steps", "2", *asked, *words))
    assert not (tmp_path / "run").exists()
