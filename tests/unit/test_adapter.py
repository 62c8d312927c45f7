"""Runs with an adapter: learned, resumed, loaded, merged; and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import chainrule as cr
from chainrule import cli
from chainrule.artifact import load_artifact
from chainrule.engine import native_available
from chainrule.files import read_tensors, write_tensors
from chainrule.training.trainer import Trainer
from chainrule.verbs import material
from chainrule.verbs.display import Silent
from chainrule.verbs.fit import fit
from chainrule.verbs.quantize import quantize

OLD = "".join(f"The {a} saw the {b}.\n" for a in ("cat", "dog", "hen") for b in ("cow", "pig")) * 6
NEW = "".join(f"a {b} dwells at {a}.\n" for a in ("cat", "dog", "hen") for b in ("cow", "pig")) * 6
SMALL = {"size": "tiny", "batch": 4, "context": 24, "seed": 3, "display": Silent()}
LORA = {"adapter": "lora", "rank": 2, "steps": 6, "lr": 0.01, "display": Silent()}
KINDS = ("transformer", "gru")


def quiet(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(material, "generate", lambda *_, **__: [SimpleNamespace(text="")])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """runs/KIND fitted to old.txt; runs/KIND-1 and -2: adapters of it for new.txt."""
    folder = tmp_path_factory.mktemp("adapter")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHAINRULE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        (folder / "old.txt").write_text(OLD + "All of it dwells.\n")
        (folder / "new.txt").write_text(NEW)
        quiet(patch)
        for kind in KINDS:
            fit("old.txt", f"runs/{kind}", model=kind, steps=10, **SMALL)
            for seed in (1, 2):
                base = f"runs/{kind}"
                fit("new.txt", f"runs/{kind}-{seed}", base=base, seed=seed, **LORA)
        yield folder


def nats(run, text="a cow dwells at dog.\n", **how) -> float:
    return run.score(text, **how).nats


def complaint(monkeypatch, capsys, *args) -> str:
    monkeypatch.setattr(sys, "argv", ["chainrule", *args])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_holds_the_adapter_and_no_copy_of_the_base(place, kind):
    folder = place / f"runs/{kind}-1"
    assert not (folder / "model.safetensors").exists()
    base = load_file(place / f"runs/{kind}/model.safetensors")
    tensors = load_file(folder / "adapter.safetensors")
    assert tensors and all(k.rsplit(".", 1)[0] in base for k in tensors)
    config = json.loads((folder / "config.json").read_text())
    assert config["adapter"]["rank"] == 2 and config["adapter"]["base"] == f"../{kind}"
    found = config["results"]["fine_tuning"]
    assert found["new data"]["after"] < found["new data"]["before"]
    assert found["old data"]["after"] != found["old data"]["before"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_run_like_any_other(place, kind, tmp_path):
    run = cr.load(place / f"runs/{kind}-1")
    base, other = cr.load(place / f"runs/{kind}"), cr.load(place / f"runs/{kind}-2")
    torch_nats = nats(run)
    assert len({torch_nats, nats(base), nats(other)}) == 3
    if native_available():
        assert nats(run, backend="engine", dtype="f32") == pytest.approx(torch_nats, rel=1e-5)
        fresh = cr.load(place / f"runs/{kind}-1")  # its weights not in torch yet
        assert nats(fresh, backend="engine", dtype="f32") == pytest.approx(torch_nats, rel=1e-5)
    assert run.generate("a ", length=5, seed=1)[0].text
    assert run.inspect().files["adapter.safetensors"]
    whole = run.merge(tmp_path / "merged")
    assert whole.artifact.merged is None
    assert nats(whole) == pytest.approx(torch_nats, rel=1e-6)
    narrow = quantize(run.artifact, "bf16", tmp_path / "narrow", text=place / "new.txt")
    assert narrow.after == pytest.approx(narrow.before, rel=0.02)
    bits = run.score((place / "new.txt").read_text()).bits_per_unit
    assert narrow.before == pytest.approx(bits, rel=1e-5)
    assert cr.load(tmp_path / "narrow").artifact.precision == "bf16"


def test_adapters_share_one_base_in_memory(place):
    base = cr.load(place / "runs/transformer")
    runs = [base.adapter(place / f"runs/transformer-{seed}") for seed in (1, 2)]
    again = runs[0].adapter(place / "runs/transformer-2")  # of the base, not of the adapter
    assert nats(again) == nats(runs[1]) != nats(runs[0])
    own = dict(base.artifact.model.named_parameters())
    for run in (*runs, again):
        for name, p in run.artifact.model.named_parameters():
            assert p.data_ptr() == own[name].data_ptr()
    assert nats(cr.load(place / "runs/transformer-1")) == nats(runs[0])


def test_the_base_may_have_moved_along_or_be_named(place, tmp_path):
    for name in ("transformer", "transformer-1"):
        shutil.copytree(place / "runs" / name, tmp_path / "new" / name)
    moved = tmp_path / "new/transformer-1"
    assert nats(cr.load(moved)) == nats(cr.load(place / "runs/transformer-1"))
    facts = json.loads((moved / "config.json").read_text())
    facts["adapter"] |= {"base": "../gone", "absolute": "/gone"}
    (moved / "config.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="is not there"):
        cr.load(moved)
    named = cr.load(moved, base=tmp_path / "new/transformer")
    assert nats(named) == nats(cr.load(place / "runs/transformer-1"))


def test_interrupted_it_goes_on_to_the_same_adapter(place, tmp_path, monkeypatch):
    quiet(monkeypatch)
    options = {**LORA, "base": "runs/transformer", "steps": 8}
    straight = fit("new.txt", tmp_path / "straight", **options)
    step = Trainer.train_step

    def stopping(self):
        self.stop_asked = self.progress.step == 3
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stopping)
        assert not fit("new.txt", tmp_path / "two", **options).results["finished"]
    (save,) = sorted((tmp_path / "two/checkpoints").glob("*"))[-1:]
    held = {k for k in load_file(save) if k.startswith(("model/", "best/"))}
    assert held and all(k.endswith((".A", ".B")) for k in held)
    resumed = fit("new.txt", tmp_path / "two", resume=True, **options)
    one, two = (load_file(a.path / "adapter.safetensors") for a in (straight, resumed))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_a_quantised_run_can_be_adapted(place, tmp_path, monkeypatch):
    quiet(monkeypatch)
    quantize(load_artifact("runs/transformer"), "int8", tmp_path / "int8")
    made = fit("new.txt", tmp_path / "on", base=tmp_path / "int8", **LORA)
    run = cr.load(tmp_path / "on")
    assert nats(run) == pytest.approx(nats(cr.Fitted(made)), rel=1e-6)
    assert nats(run) != nats(cr.load(tmp_path / "int8"))
    if native_available():
        assert nats(run, backend="engine", dtype="f32") == pytest.approx(nats(run), rel=1e-5)


def test_old_text_may_be_given(place, tmp_path, monkeypatch):
    quiet(monkeypatch)
    made = fit("new.txt", tmp_path / "x", base="runs/gru", old="new.txt", **LORA)
    found = made.results["fine_tuning"]
    assert found["old data"] == pytest.approx(found["new data"])


def test_wrong_options_are_one_line(place, monkeypatch, capsys, tmp_path):
    def told(*args):
        return complaint(monkeypatch, capsys, "fit", "new.txt", "-o", str(tmp_path / "n"), *args)

    base = ("--from", "runs/gru")
    assert "--adapter needs a run to start from" in told("--adapter", "lora")
    assert "'qlora'" in told(*base, "--adapter", "qlora")
    assert "rank must be" in told(*base, "--adapter", "lora", "--rank", "0")
    assert "--rank belongs to --adapter" in told(*base, "--rank", "4")
    assert "--shard belongs to full" in told(*base, "--adapter", "lora", "--shard")
    assert "chainrule merge" in told("--from", "runs/gru-1", "--adapter", "lora")
    assert "chainrule merge" in told("--from", "runs/gru-1")
    assert not (tmp_path / "n").exists()


def test_an_adapter_for_another_base_is_refused_by_name(place, monkeypatch, capsys, tmp_path):
    with pytest.raises(ValueError, match=r"for another base than .*SHA-256 .* not "):
        cr.load(place / "runs/transformer").adapter(place / "runs/gru-1")
    with pytest.raises(ValueError, match="needs no base"):
        cr.load(place / "runs/gru", base=place / "runs/transformer")
    for name in ("transformer", "transformer-1"):
        shutil.copytree(place / "runs" / name, tmp_path / name)
    with (tmp_path / "transformer/model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    facts = json.loads((tmp_path / "transformer-1/config.json").read_text())
    facts["adapter"]["absolute"] = str(tmp_path / "transformer")
    (tmp_path / "transformer-1/config.json").write_text(json.dumps(facts))
    said = complaint(monkeypatch, capsys, "score", str(tmp_path / "transformer-1"), "new.txt")
    assert "another base" in said
    said = complaint(monkeypatch, capsys, "merge", "runs/gru")
    assert "only an adapter can be merged" in said


def test_a_file_that_contradicts_its_config_is_refused(place, tmp_path):
    shutil.copytree(place / "runs", tmp_path / "runs")
    folder = tmp_path / "runs/gru-1"
    facts = json.loads((folder / "config.json").read_text())
    shutil.copy(tmp_path / "runs/transformer-1/adapter.safetensors", folder)
    with pytest.raises(ValueError, match="another model's file"):
        cr.load(folder)
    shutil.copy(place / "runs/gru-1/adapter.safetensors", folder)
    for key, value, said in (
        ("rank", 3, "config.json says"),
        ("alpha", 400.0, "its alpha is 4, config.json says 400"),
        ("alpha", float("nan"), "alpha: nan is not a finite number"),
        ("kind", "ia3", "known: lora"),
        ("weights", "0" * 64, "for another base"),
        ("base", "x" * 5000, "config.json: adapter: base: expected paths of 4,096"),
        ("absolute", "x\0y", "base: expected paths"),
    ):
        changed = {**facts, "adapter": {**facts["adapter"], key: value}}
        (folder / "config.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=said):
            cr.load(folder)


def test_a_base_whose_name_no_system_takes_is_not_there(place, tmp_path):
    shutil.copytree(place / "runs/gru-1", tmp_path / "alone")
    facts = json.loads((tmp_path / "alone/config.json").read_text())
    facts["adapter"] |= {"base": "x" * 300, "absolute": "/" + "y" * 300}
    (tmp_path / "alone/config.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="is not there: put it there"):
        cr.load(tmp_path / "alone")


def nan(t: torch.Tensor) -> torch.Tensor:
    return t.index_fill(0, torch.tensor([0]), float("nan"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (nan, "numbers that are not finite, or too large"),
        (lambda t: t * 1e38 * 1e38, "numbers that are not finite"),
        (lambda t: torch.full_like(t, 3e38), "or too large"),
        (lambda t: t.to(torch.int32), r"is torch.int32, not floats"),
        (lambda t: t.bool(), r"is torch.bool, not floats"),
        (lambda t: t.double(), None),
        (lambda t: t.bfloat16(), None),
    ],
)
def test_numbers_that_no_adapter_has_are_refused(place, tmp_path, change, message):
    """They would be scored as NaN, and merged into a run of NaN."""
    shutil.copytree(place / "runs", tmp_path / "runs")
    path = tmp_path / "runs/gru-1/adapter.safetensors"
    tensors, told = read_tensors(path)
    write_tensors(path, {k: change(v) for k, v in tensors.items()}, told)
    if message is None:
        assert nats(cr.load(path.parent)) == pytest.approx(
            nats(cr.load(place / "runs/gru-1")), rel=1e-2
        )
        return
    with pytest.raises(ValueError, match=message) as caught:
        cr.load(path.parent)
    assert str(caught.value).startswith(str(path))
