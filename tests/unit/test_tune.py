"""Fine-tuning: what a run starts from, what it gains and forgets, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from chainrule import cli
from chainrule.training.data import prepare
from chainrule.training.scoring import log_probs
from chainrule.training.trainer import Trainer
from chainrule.verbs import fit as fit_module
from chainrule.verbs import material
from chainrule.verbs.display import Silent
from chainrule.verbs.fit import fit
from chainrule.verbs.fitted import load
from chainrule.verbs.tune import rows
from tests.laws.tolerances import FLOAT32

OLD = "".join(f"The {a} saw the {b}.\n" for a in ("cat", "dog", "hen") for b in ("cow", "pig")) * 6
NEW = "".join(f"a {b} dwells at {a}.\n" for a in ("cat", "dog", "hen") for b in ("cow", "pig")) * 6
SMALL = {"size": "tiny", "batch": 4, "context": 24, "seed": 3}


def facts(folder):
    return json.loads((folder / "config.json").read_text())


def digest(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def quiet(patch: pytest.MonkeyPatch) -> None:
    """No samples while it trains: they would take most of the time."""
    patch.setattr(material, "generate", lambda *_, **__: [SimpleNamespace(text="")])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """old.txt, new.txt, and runs/old fitted to the first; new.txt has no other characters."""
    folder = tmp_path_factory.mktemp("tune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHAINRULE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        (folder / "old.txt").write_text(OLD + "All of it dwells.\n")
        (folder / "new.txt").write_text(NEW)
        quiet(patch)
        fit("old.txt", "runs/old", model="gru", steps=40, display=Silent(), **SMALL)
        yield folder


@pytest.fixture
def tuned(place, tmp_path):
    """new.txt learned from runs/old; a function, so that a test may prepare something."""

    def run(**options):
        options = {"steps": 2, "base": "runs/old", **options}
        return fit("new.txt", tmp_path / "new", display=Silent(), **options)

    return run


def test_codec_shape_weights_and_settings_come_from_the_run(place, tuned, monkeypatch):
    before = {p.name: digest(p) for p in (place / "runs/old").iterdir() if p.is_file()}
    starts = []

    class Watched(Trainer):
        def __init__(self, model, corpus, config, company):
            starts.append({k: v.clone() for k, v in model.state_dict().items()})
            super().__init__(model, corpus, config, company)

    monkeypatch.setattr(fit_module, "Trainer", Watched)
    artifact = tuned()
    own, old = facts(artifact.path), facts(place / "runs/old")
    weights = load_file(place / "runs/old/model.safetensors")
    assert starts[0].keys() == weights.keys()
    assert all(torch.equal(starts[0][k], v) for k, v in weights.items())
    assert own["codec"] == old["codec"]
    assert {**own["model"], "dropout": 0} == {**old["model"], "dropout": 0}
    was, now = old["recipe"]["training"], own["recipe"]["training"]
    assert (now["batch"], now["length"]) == (was["batch"], was["length"])
    assert now["lr"] == was["lr"] / 3
    base = own["recipe"]["base"]
    assert base["path"] == "runs/old"
    assert base["weights"] == digest(place / "runs/old/model.safetensors")
    assert own["recipe"]["source"] == ["new.txt"]
    assert {p.name: digest(p) for p in (place / "runs/old").iterdir() if p.is_file()} == before


def test_the_table_tells_what_was_gained_and_forgotten(place, tuned):
    artifact = tuned(steps=20)
    before = load("runs/old").artifact
    found = artifact.results["fine_tuning"]
    for name, source in (("old data", "old.txt"), ("new data", "new.txt")):
        corpus = prepare(source, artifact.codec)
        for when, model in (("before", before.model), ("after", artifact.model)):
            nats = -log_probs(model, corpus.held_out).sum()
            bits = nats / math.log(2) / corpus.held_out_bytes
            assert found[name][when] == pytest.approx(bits, rel=FLOAT32)
    old, new = found["old data"], found["new data"]
    assert new["after"] < new["before"]
    assert new["after"] == artifact.results["held_out_bits_per_byte"]
    card = (artifact.path / "README.md").read_text()
    assert f"| old data | {old['before']:.4f} | {old['after']:.4f} |" in card
    assert rows(found)[1] == ("new data", f"{new['before']:.4f}", f"{new['after']:.4f}")


def test_old_data_is_read_again_when_the_cache_is_gone(place, tuned, monkeypatch, tmp_path):
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path / "empty"))
    old = tuned().results["fine_tuning"]["old data"]
    was = facts(place / "runs/old")["results"]["held_out_bits_per_byte"]
    assert old["before"] == pytest.approx(was, rel=FLOAT32)


@pytest.mark.parametrize("text", [None, OLD.replace("saw", "was")])
def test_old_data_that_is_gone_or_changed_is_said(place, tmp_path, monkeypatch, text):
    shutil.copytree(place / "runs/old", tmp_path / "old")
    (tmp_path / "new.txt").write_text(NEW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path / "empty"))
    if text is not None:
        (tmp_path / "old.txt").write_text(text)
    artifact = fit("new.txt", "new", base="old", steps=1, display=Silent())
    found = artifact.results["fine_tuning"]
    why = "no such file" if text is None else "not what it was"
    assert found["old data"].startswith("not found: ")
    assert "old.txt" in found["old data"]
    assert why in found["old data"]
    assert rows(found)[0] == ("old data", found["old data"], "")
    assert f"| old data | {found['old data']} |" in (artifact.path / "README.md").read_text()


def crash(trainer, *_):
    raise OSError("the disk is full")


@pytest.fixture
def crashed(place, tmp_path, monkeypatch):
    """A fine-tuning that stopped before its first step, and the run that it came from."""
    base = shutil.copytree(place / "runs/old", tmp_path / "old")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", crash)
        with pytest.raises(OSError, match="disk"):
            fit("new.txt", tmp_path / "new", base=base, steps=2, display=Silent())
    return base, tmp_path / "new"


@pytest.mark.parametrize("lost", ["base", "checkpoints"])
def test_one_that_crashed_starts_from_the_same_weights(place, tuned, tmp_path, crashed, lost):
    base, folder = crashed
    shutil.rmtree(base if lost == "base" else folder / "checkpoints")
    fit("new.txt", folder, resume=True, display=Silent())
    whole = fit("new.txt", tmp_path / "whole", base="runs/old", steps=2, display=Silent())
    names = ("model.safetensors", "ngram.safetensors")
    assert [digest(folder / n) for n in names] == [digest(whole.path / n) for n in names]


def test_weights_that_are_another_s_now_are_no_start(crashed):
    base, folder = crashed
    shutil.rmtree(folder / "checkpoints")
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(ValueError, match=r"model\.safetensors is gone or not what it was"):
        fit("new.txt", folder, resume=True, display=Silent())


def test_another_start_is_another_run(place, crashed):
    with pytest.raises(ValueError, match=r"base: .*old in .*runs/old asked"):
        fit("new.txt", crashed[1], base="runs/old", resume=True, display=Silent())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "lstm", "codec": "bytes"}, "leave --model, --codec out"),
        ({"size": "small"}, "leave --size out"),
        ({"vocabulary": 300, "tokenizer": "t.json"}, "leave --vocabulary, --tokenizer out"),
        ({"base": "runs/nowhere"}, "runs/nowhere: no such folder"),
    ],
)
def test_options_that_the_run_settles(place, tuned, tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        tuned(**options)
    assert not (tmp_path / "new").exists()


def test_counted_models_can_not_go_on(place, tuned, tmp_path):
    fit("old.txt", tmp_path / "counts", model="ngram", display=Silent())
    with pytest.raises(ValueError, match="--model ngram"):
        tuned(base=tmp_path / "counts")


def test_new_characters_name_the_file_and_a_remedy(place, tmp_path):
    (tmp_path / "other.txt").write_text("Größe\n" * 40)
    with pytest.raises(ValueError, match=r"other\.txt.*'G'.*leave it out"):
        fit(tmp_path / "other.txt", tmp_path / "new", base="runs/old", display=Silent())
    assert not (tmp_path / "new").exists()


def test_the_command_prints_one_table(place, tmp_path, capsys, monkeypatch):
    def type_command(*words) -> str:
        monkeypatch.setattr(sys, "argv", ["chainrule", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        return capsys.readouterr().out

    words = ("fit", "new.txt", "--from", "runs/old", "--steps", "1", "-o")
    shown = type_command(*words, tmp_path / "shown").splitlines()
    assert shown[0].split() == ["held-out", "bits", "per", "byte", "before", "after"]
    assert [line.split()[:2] for line in shown[1:3]] == [["old", "data"], ["new", "data"]]
    assert [len(line.split()) for line in shown[1:3]] == [4, 4]
    found = json.loads(type_command(*words, tmp_path / "json", "--json"))["results"]["fine_tuning"]
    assert {name: sorted(row) for name, row in found.items()} == {
        "old data": ["after", "before"],
        "new data": ["after", "before"],
    }
