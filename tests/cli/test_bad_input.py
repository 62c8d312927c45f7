"""Wrong input: one clear line that says what to do, exit code 2, nothing damaged."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from chainrule.files import locked


def complaint(result, *, code: int = 2) -> str:
    """The one line on standard error."""
    assert result.code == code, result.err
    assert "Traceback" not in result.err
    lines = [x for x in result.err.splitlines() if x.startswith("error: ")]
    assert len(lines) == 1, result.err
    return lines[0]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.txt", b"", ["empty"]),
        ("one.txt", b"a" * 500, ["nothing but"]),
        ("binary.txt", bytes(range(256)) * 40, ["--codec bytes"]),
        ("latin.txt", ("voilà, très bien\n" * 90).encode("latin-1"), ["offset 4", "--codec bytes"]),
        ("short.txt", b"ab", ["short.txt"]),
        ("lines.jsonl", b'{"body": "hello"}\n' * 30, ["text", "body"]),
        ("broken.jsonl", b'{"text": "hello"}\n{"text": \n', ["line 2"]),
        ("table.csv", b"a,b\n1,2\n", ["a", "b"]),
        ("text.txt.gz", b"\x1f\x8b\x08\x00truncated", ["text.txt.gz"]),
    ],
)
def test_data_that_cannot_be_learned(command, tmp_path, name, data, words):
    path = tmp_path / name
    path.write_bytes(data)
    out = tmp_path / "run"
    line = complaint(command("fit", path, "-o", out, "--codec", "chars", "--steps", "2"))
    for word in words:
        assert word in line, line
    assert not out.exists(), "a refused fit leaves no folder behind"


def test_bytes_take_what_is_no_text(command, tmp_path):
    path = tmp_path / "binary.bin"
    path.write_bytes(bytes(range(256)) * 40)
    small = ("--size", "tiny", "--steps", "2", "--batch", "2", "--context", "16")
    assert command("fit", path, "-o", tmp_path / "run", "--codec", "bytes", *small).code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("nowhere.txt",),
        ("{book}", "--column", "nope"),
        ("{book}", "--time", "soon"),
        ("{book}", "--time", "-5s"),
        ("{book}", "--time", "5s", "--steps", "3"),
        ("{book}", "--steps", "0"),
        ("{book}", "--steps", "99999999999999"),
        ("{book}", "--steps", "2", "--lr", "nan"),
        ("{book}", "--steps", "2", "--lr", "-1"),
        ("{book}", "--steps", "2", "--batch", "0"),
        ("{book}", "--steps", "2", "--context", "99999999999"),
        ("{book}", "--steps", "2", "--dropout", "1.5"),
        ("{book}", "--steps", "2", "--seed", "-3"),
        ("{book}", "--steps", "2", "--tokenizer", "nowhere.json"),
        ("{book}", "--steps", "2", "--codec", "bpe", "--vocabulary", "1"),
    ],
)
def test_fit_settings(command, book, tmp_path, words):
    if "--column" in words:
        table = tmp_path / "table.csv"
        table.write_text("text,label\nhello,1\nthere,2\n")
        words = (str(table), *words[1:])
    filled = [w.format(book=book) for w in words]
    complaint(command("fit", *filled, "-o", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", [("--model", "nope"), ("--codec", "nope"), ("--bogus", "1")])
def test_unknown_names(command, book, tmp_path, option):
    result = command("fit", book, "-o", tmp_path / "run", *option)
    assert result.code == 2
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    "words",
    [
        ("--temperature", "-1"),
        ("--temperature", "nan"),
        ("--top-k", "-2"),
        ("--top-p", "0"),
        ("--top-p", "nan"),
        ("--min-p", "2"),
        ("--typical", "-1"),
        ("--repetition-penalty", "nan"),
        ("--presence-penalty", "inf"),
        ("--frequency-penalty", "nan"),
        ("--length", "5000000000"),
        ("--length", "0"),
        ("-n", "0"),
        ("-n", "9999999999"),
        ("--seed", "-1"),
        ("--stop", ""),
        ("--ban", ""),
    ],
)
def test_generate_settings(command, run, words):
    complaint(command("generate", run, "The ", *words))


def test_prompt_with_foreign_characters(command, run):
    line = complaint(command("generate", run, "The é"))
    assert "é" in line
    assert "position 4" in line


def test_temperature_zero_is_greedy(command, run):
    texts = {command("generate", run, "The ", "--temperature", "0", "--seed", s).out for s in "123"}
    assert len(texts) == 1


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def edit(folder, change) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(format=4), ["format 4", "upgrade"]),
        (lambda c: c.update(formt=1), ["formt"]),
        (lambda c: c.pop("format"), ["format"]),
        (lambda c: c["model"].update(hiden=4), ["hiden", "hidden"]),
        (lambda c: c["model"].update(hidden=10**12), ["hidden"]),
        (lambda c: c["model"].update(hidden="64"), ["hidden", "int"]),
        (lambda c: c["model"].update(num_layers=-1), ["num_layers"]),
        (lambda c: c["model"].update(num_layers=3), ["model.safetensors"]),
        (lambda c: c["model"].update(hidden=65536, dim=65536), ["model.safetensors"]),
        (lambda c: c["model"].update(kind="bogus"), ["bogus", "rnn"]),
        (lambda c: c["model"]["space"].update(size=2**40), ["size"]),
        (lambda c: c["codec"].update(kind="bogus"), ["bogus", "chars"]),
        (lambda c: c.update(model=[]), ["model"]),
        (lambda c: c["baseline"].update(num_grams=10**15), ["num_grams"]),
    ],
)
def test_configs_that_cannot_be_trusted(command, copy, change, words):
    edit(copy, change)
    line = complaint(command("inspect", copy))
    for word in words:
        assert word in line, line


def test_a_config_that_is_no_json(command, copy):
    (copy / "config.json").write_text('{"format": 1,\n oops}')
    assert "line 2" in complaint(command("inspect", copy))


def test_weights_that_are_truncated_or_foreign(command, copy):
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    for data in (whole[: len(whole) // 2], whole[:4], b"", b"\xff" * 64, b"PK\x03\x04" + whole):
        weights.write_bytes(data)
        assert "model.safetensors" in complaint(command("inspect", copy))
    save_file({"other": torch.zeros(3)}, weights)
    assert "missing" in complaint(command("inspect", copy))
    weights.write_bytes(whole)
    tensors = load_file(weights)
    save_file({**tensors, "more": torch.zeros(1)}, weights)
    assert "more" in complaint(command("inspect", copy))
    weights.write_bytes(whole)
    assert command("inspect", copy).code == 0


def test_folders_that_are_no_run(command, tmp_path, book):
    assert "no such folder" in complaint(command("inspect", tmp_path / "nowhere"))
    assert "config.json" in complaint(command("inspect", tmp_path))
    (tmp_path / "letter.txt").write_text("mine")
    line = complaint(command("fit", book, "-o", tmp_path, "--steps", "2"))
    assert "other files" in line
    assert (tmp_path / "letter.txt").read_text() == "mine"


def test_a_run_is_never_written_over(command, copy, book):
    before = {p.name: p.read_bytes() for p in copy.iterdir() if p.is_file()}
    assert "--resume" in complaint(command("fit", book, "-o", copy, "--steps", "2"))
    assert {p.name: p.read_bytes() for p in copy.iterdir() if p.is_file()} == before


def test_two_fits_into_one_folder(command, book, tmp_path):
    folder = tmp_path / "run"
    with locked(folder):
        line = complaint(command("fit", book, "-o", folder, "--size", "tiny", "--steps", "2"))
    assert "another fit" in line


def test_scores_and_evaluations_of_nothing(command, run, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_bytes(b"")
    assert "empty.txt" in complaint(command("score", run, empty))
    assert "empty" in complaint(command("evaluate", run, empty))
    assert "no such file" in complaint(command("score", run, tmp_path / "nowhere"))
    complaint(command("next", run, "The é"))
    complaint(command("next", run, "The ", "-k", "0"))
