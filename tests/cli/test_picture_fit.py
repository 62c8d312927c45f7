"""fit on pictures: from a folder to a run, resumed, fine-tuned, and what it refuses."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import chainrule as cr
from chainrule.artifact import load_artifact
from chainrule.codecs.image import PixelCodec
from chainrule.training.picture_files import read_picture
from chainrule.verbs.choosing import Options
from chainrule.verbs.display import Silent
from chainrule.verbs.media import material_of
from chainrule.verbs.picture_material import read_material
from tests.cli.test_bad_input import complaint


def digits() -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    with resources.as_file(resources.files("chainrule") / "assets" / "digits.npz") as path:
        file = np.load(path)
        return file["images"], file["labels"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zeros and ones in sub-folders, and files that are none."""
    root: Path = tmp_path_factory.mktemp("pictures")
    images, labels = digits()
    for digit, name in ((0, "zero"), (1, "one")):
        (root / name).mkdir()
        for number, picture in enumerate(images[labels == digit][:40]):
            Image.fromarray(picture).save(root / name / f"{number}.png")
    whole = (root / "one" / "3.png").read_bytes()
    (root / "one" / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (root / "one" / "notes.txt").write_text("no picture")
    return root


SMALL = ("--size", "tiny", "--steps", "6", "--batch", "8")


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of them."""
    from tests.cli.conftest import type_command

    out: Path = tmp_path_factory.mktemp("runs") / "digits"
    result = type_command("fit", folder, "-o", out, *SMALL)
    assert result.code == 0, result.err
    assert "truncated.png" in result.err and "notes.txt" not in result.err
    assert "bits per dimension" in result.out
    return out


def test_a_folder_becomes_a_run(run: Path) -> None:
    artifact = load_artifact(run)
    codec = artifact.any_codec
    assert isinstance(codec, PixelCodec)
    assert codec.grid == (8, 8, 1) and codec.levels == 17 and codec.labels == ("one", "zero")
    assert artifact.model.reads == {"label"}
    done = artifact.results
    assert done["left_out"] == 1
    assert done["others_bits_per_dimension"].keys() == {"PNG", "WebP"}
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(any("bits_per_dimension" in key for key in r) for r in records)
    card = (run / "README.md").read_text()
    assert "samples.png" in card and "Labels: one, zero" in card
    assert "Left out: 1; the first: " in card and "truncated.png: " in card
    with Image.open(run / "samples.png") as sheet:
        assert sheet.size[0] > 100 and len(np.unique(np.asarray(sheet))) > 2
    assert (run / "loss.png").exists()


def test_a_run_draws_with_what_it_learned_last(tmp_path: Path) -> None:
    """Pictures are shown while it learns, so an engine stands from then."""
    images, labels = digits()
    np.savez(tmp_path / "ones.npz", images=images[labels == 1][:40])
    out = tmp_path / "run"
    run = cr.fit(tmp_path / "ones.npz", out=out, size="tiny", steps=20, batch=8, display=Silent())
    fresh = cr.load(out)
    drawn, again = (each.generate(n=2, seed=1, backend="engine") for each in (run, fresh))
    assert [d.symbols for d in drawn] == [d.symbols for d in again]
    assert [d.log_prob for d in drawn] == [d.log_prob for d in again]


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("transformer", ("--order", "snake")),
        ("made", ("--order", "random", "--levels", "4")),
        ("anyorder", ("--order", "coarse", "--levels", "2")),
        ("pixelrnn", ("--levels", "2")),
        ("transformer", ("--colour", "palette", "--levels", "3", "--context", "24")),
        ("pixelcnn", ("--colour", "luma", "--levels", "4")),
    ],
)
def test_every_family_learns_pictures(
    command, folder: Path, tmp_path: Path, model: str, more
) -> None:
    out = tmp_path / "run"
    result = command("fit", folder, "-o", out, "--model", model, *SMALL, *more, "--json")
    assert result.code == 0, result.err
    assert result.json["model"]["labels"] == 2
    assert 0 < result.json["results"]["held_out_bits_per_dimension"] < 4.2
    assert (out / "samples.png").exists()


def test_a_resumed_run_is_the_same_run(command, folder: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "digits"
    copy = tmp_path / "begun"
    assert command("fit", folder, "-o", out, *SMALL).code == 0
    ours, theirs = (load_file(r / "model.safetensors") for r in (out, run))
    assert all(np.array_equal(ours[k], theirs[k]) for k in theirs)
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "zero")
    line = complaint(command("fit", copy, "-o", out, *SMALL, "--resume"))
    assert "resume with the same data" in line


def test_a_run_goes_on_from_another(command, folder: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    result = command("fit", folder / "one", "-o", out, "--from", run, "--steps", "3", "--json")
    assert result.code == 0, result.err
    table = result.json["results"]["fine_tuning"]
    assert table["old data"].keys() == table["new data"].keys() == {"before", "after"}
    assert table["new data"]["before"] != table["new data"]["after"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "lstm"], ["lstm", "pixelcnn"]),
        (["--model", "pixelcnn", "--order", "columns"], ["--order columns", "transformer"]),
        (["--vocabulary", "100"], ["--vocabulary", "text"]),
        (["--resize", "0x4"], ["--resize", "0x4"]),
        (["--resize", "big"], ["--resize", "big"]),
        (["--background", "mauve-ish"], ["--background", "mauve-ish"]),
        (["--levels", "300"], ["levels", "256"]),
        (["--labels", "nowhere.csv"], ["nowhere.csv"]),
        (["--codec", "bytes", "--resize", "4"], ["--resize", "pictures", "--codec bytes"]),
    ],
)
def test_options_that_cannot_be(command, folder: Path, tmp_path: Path, words, said) -> None:
    line = complaint(command("fit", folder, "-o", tmp_path / "run", "--steps", "2", *words))
    for word in said:
        assert word in line, line
    assert not (tmp_path / "run").exists()


def test_pictures_of_unlike_sizes_need_a_size(command, folder: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(folder, mixed)
    with Image.open(mixed / "one" / "5.png") as picture:
        picture.resize((9, 12)).save(mixed / "one" / "large.png")
    line = complaint(command("fit", mixed, "-o", tmp_path / "run", *SMALL))
    assert "2 sizes" in line and "large.png" in line and "--resize" in line
    line = complaint(command("fit", *mixed.iterdir(), "-o", tmp_path / "run", *SMALL))
    assert "[" not in line and "one, " in line.replace("zero", "one")
    result = command("fit", mixed, "-o", tmp_path / "run", *SMALL, "--resize", "8x8")
    assert result.code == 0, result.err


@pytest.mark.parametrize(
    "asked",
    [
        Options(crop="9x12"),
        Options(crop="9x12", resize="5x6"),
        Options(crop="4", resize="8"),
        Options(resize="5x6", colour="grey"),
        Options(resize="5x6", colour="grey", crop="9x12", levels=8),
        Options(resize="7", colour="luma", order="planes"),
        Options(resize="7", colour="palette"),
    ],
)
def test_what_is_learned_is_what_is_scored(tmp_path: Path, asked: Options, monkeypatch) -> None:
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for number, size in enumerate(rng.integers(12, 20, (6, 2))):
        pixels = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    found = read_material(tmp_path / "photos", None, asked, Silent())
    learned = [*found.lessons.train, *found.lessons.held_out]
    read = [read_picture(p).pixels for p in (tmp_path / "photos").iterdir()]
    scored = [found.codec.encode(pixels).symbols for pixels in read]
    assert sorted(x.tolist() for x in learned) == sorted(x.tolist() for x in scored)


def test_one_of_a_thing_is_no_plural(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path / "cache"))
    images, labels = digits()
    np.savez(tmp_path / "a.npz", images=images[:9], labels=labels[:9])
    Image.fromarray(images[9]).save(tmp_path / "b.png")
    bad = [tmp_path / f"{i}.png" for i in range(6)]
    for path in bad:
        path.write_bytes(b"\x89PNG\r\n\x1a\n")
    said: list[str] = []
    display = Silent()
    monkeypatch.setattr(display, "say", said.append)
    read_material([tmp_path / "a.npz", tmp_path / "b.png", *bad], None, Options(), display)
    assert "left out: 1 more file" in said
    assert "1 picture without a label: labels are left out" in said


@pytest.mark.parametrize("codec", [None, "pixels"])
@pytest.mark.parametrize("source", [np.zeros((3, 4, 4), np.uint8), [np.zeros((4, 4))], b"a.png"])
def test_an_array_is_no_source(tmp_path: Path, source: Any, codec: str | None) -> None:
    with pytest.raises(ValueError, match=r"\Aa source is the name of a file .*\Z"):
        material_of(source, None, Options(codec=codec), Silent())


def test_what_lies_in_a_test_folder_is_held_out(command, folder: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    shutil.copytree(folder / "one", parts / "test" / "one", ignore=lambda *_: ["truncated.png"])
    shutil.copytree(folder / "zero", parts / "train" / "zero")
    result = command("fit", parts, "-o", tmp_path / "run", *SMALL)
    assert "held out: 40 of 80 pictures, in folders of their own" in result.err
    codec = load_artifact(tmp_path / "run").any_codec
    assert isinstance(codec, PixelCodec) and codec.labels == ("one", "zero")


def test_an_empty_folder_and_one_of_bad_files(command, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no files" in complaint(command("fit", empty, "-o", tmp_path / "run", *SMALL))
    (empty / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nand nothing else")
    line = complaint(command("fit", empty, "-o", tmp_path / "run", *SMALL))
    assert "a.png" in line


def test_text_options_and_picture_models_on_text(command, book: Path, tmp_path: Path) -> None:
    line = complaint(command("fit", book, "-o", tmp_path / "r", "--model", "pixelcnn"))
    assert "pixelcnn" in line and "text" in line
    line = complaint(command("fit", book, "-o", tmp_path / "r", "--resize", "4"))
    assert "--resize" in line and "pictures" in line
