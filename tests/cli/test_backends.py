"""--backend, --dtype, quantize and doctor RUN, as a user types them."""

from __future__ import annotations

import json

import pytest

import chainrule as cr
from chainrule.cli import DTYPES
from chainrule.engine import kernels, native_available

native = pytest.mark.skipif(not native_available(), reason="installed without a compiler")


def complaint(result) -> str:
    assert result.code == 2 and result.err.startswith("error: "), result.err
    return result.err


@pytest.fixture(scope="module")
def narrow(run, tmp_path_factory):
    """The run in int8, scored on its held-out part; read only."""
    out = tmp_path_factory.mktemp("quantised") / "small"
    return out, cr.quantize(run, "int8", out)


@native
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(command, run, dtype):
    asked = ("--dtype", dtype, "--json")
    (sample,) = command("generate", run, "The ", "--length", "12", *asked).json
    assert sample["backend"] == f"engine {dtype}"
    assert len(command("next", run, "The c", *asked).json) == 5


@native
def test_results_say_what_computed_them(command, run, book):
    (drawn,) = command("generate", run, "The ", "--length", "5", "--json").json
    (torch,) = command(
        "generate", run, "The ", "--length", "5", "--backend", "torch", "--json"
    ).json
    assert (drawn["backend"], torch["backend"]) == ("engine bf16", "torch f32")
    (usual,) = command("score", run, book, "--json").json
    (asked,) = command("score", run, book, "--backend", "engine", "--json").json
    assert (usual["backend"], asked["backend"]) == ("torch f32", "engine f32")
    assert asked["nats"] == pytest.approx(usual["nats"], rel=1e-5)
    found = command("evaluate", run, book, "--dtype", "q4", "--json").json
    assert found["backend"] == "engine q4"
    rolled = ("--rollout", "--length", "8", "--samples", "4", "--backend", "engine", "--json")
    assert command("evaluate", run, book, *rolled).json["backend"] == "engine f32"


def test_what_can_not_be(command, run, quick, book):
    for words, said in (
        (("generate", run, "--backend", "torch", "--dtype", "int8"), "needs --backend engine"),
        (("score", run, book, "--backend", "torch", "--dtype", "bf16"), "needs --backend engine"),
        (("generate", quick, "--backend", "engine", "--strategy", "block"), "backend engine"),
        (("generate", run, "--ensemble", run, "--dtype", "q4"), "dtype q4 can't be"),
    ):
        assert said in complaint(command(*words))


@native
def test_doctor_of_a_run(command, run, ngram):
    found = command("doctor", run, "--json").json
    assert (found["backend"], found["kernels"]) == ("engine", kernels())
    route = found["run"]
    assert (route["backend"], route["dtype"], route["kernels"]) == ("engine", "bf16", kernels())
    assert set(route["weights"]) == set(DTYPES) and route["reason"]
    shown = command("doctor", run).out
    assert "decoding runs on" in shown and "its weights, MB" in shown
    assert command("doctor", ngram, "--json").json["run"]["dtype"] == "f32"
    assert command("doctor", "--json").json["run"] is None
    assert "no such folder" in complaint(command("doctor", "nowhere"))


def test_quantize(command, run, narrow, book):
    out, found = narrow
    assert found.text == f"the held-out part of {book}"
    bits = json.loads((run / "config.json").read_text())["results"]["held_out_bits_per_byte"]
    assert found.before == pytest.approx(bits, rel=1e-5)
    assert abs(found.after / found.before - 1) < 0.005
    card = (out / "README.md").read_text()
    assert card.startswith(f"# small\n\nQuantised to int8 from `{run.name}`")
    assert "chainrule generate small " in card
    (sample,) = command("generate", out, "The ", "--length", "9", "--json").json
    assert sample["backend"] == ("engine int8" if native_available() else "torch f32")
    for verb in ("inspect", "doctor"):
        assert command(verb, out).code == 0
    assert command("infill", out, "The _at", "--method", "clamp").code == 0


def test_quantize_as_typed(command, run, book, tmp_path):
    out = tmp_path / "q4"
    shown = command("quantize", run, "--to", "q4", "-o", out, "--text", book)
    assert shown.code == 0, shown.err
    assert "before" in shown.out and f"saved in {out}" in shown.out.replace("\n", "")
    assert "exists" in complaint(command("quantize", run, "-o", out, "--text", book))
    missing = command("quantize", run, "-o", tmp_path / "new", "--text", tmp_path / "none.txt")
    assert "none.txt" in complaint(missing) and not (tmp_path / "new").exists()


def test_what_is_quantised_learns_no_more(command, narrow, book, tmp_path):
    out, _ = narrow
    for words in (
        ("quantize", out, "--to", "q4", "-o", tmp_path / "again"),
        ("fit", book, "-o", out, "--resume"),
        ("fit", book, "-o", tmp_path / "tuned", "--from", out, "--steps", "1"),
    ):
        assert "quantised" in complaint(command(*words))


def test_an_n_gram_has_nothing_to_round(command, ngram, book, tmp_path):
    result = command("quantize", ngram, "-o", tmp_path / "new", "--text", book)
    assert "no matrices" in complaint(result)
