"""Runs of pictures: options that would be ignored, folders that hold pictures, and the headline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chainrule.artifact import load_artifact
from chainrule.verbs import media
from chainrule.verbs.inspect import inspect
from tests.cli.test_bad_input import complaint
from tests.cli.test_pictures import labelled, pixels, plain, written

__all__ = ["labelled", "plain"]  # fixtures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("options") / "pictures"
    root.mkdir()
    dice = np.random.default_rng(0)
    for number in range(12):
        picture = dice.integers(0, 4, (6, 6)) * 85
        Image.fromarray(picture.astype(np.uint8)).save(root / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--context", "9"], ["--context", "--model transformer, not pixelcnn", "leave it out"]),
        (["--context", "9", "--model", "made"], ["--context", "--model transformer, not made"]),
        (["--ahead", "2"], ["--ahead", "--model transformer, not pixelcnn"]),
        (["--objective", "hybrid"], ["--objective hybrid", "transformer, not pixelcnn"]),
        (["--objective", "hybrid", "--model", "anyorder"], ["transformer, not anyorder"]),
        (
            ["--objective", "hybrid", "--model", "transformer", "--context", "9"],
            ["whole pictures", "leave --context out"],
        ),
        (["--objective", "any-order"], ["--model anyorder, not pixelcnn"]),
        (["--objective", "any-order", "--model", "anyorder", "--rate", "0.5"], ["--rate"]),
        (["--from", "{plain}", "--context", "9"], ["--context", "leave it out"]),
        (["--from", "{plain}", "--ahead", "2"], ["--from", "leave --ahead out"]),
        (["--from", "{plain}", "--objective", "hybrid"], ["hybrid", "transformer"]),
        (["--from", "{plain}", "--objective", "any-order"], ["any-order", "--model anyorder"]),
    ],
)
def test_what_a_model_lacks_is_said_before_a_picture_is_read(
    command, folder: Path, plain: Path, tmp_path: Path, words, said, monkeypatch
) -> None:
    monkeypatch.setattr(media, "read_material", lambda *_: pytest.fail("pictures were read"))
    words = [str(plain) if word == "{plain}" else word for word in words]
    line = complaint(command("fit", folder, "-o", tmp_path / "run", "--steps", "2", *words))
    for word in said:
        assert word in line, line
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_has_its_model_already(command, folder: Path, tmp_path: Path) -> None:
    """What was asked may be asked again without saying of which model."""
    asked = ("-o", tmp_path / "run", "--steps", "2", "--size", "tiny", "--ahead", "2")
    assert command("fit", folder, "--model", "transformer", *asked).code == 0
    again = command("fit", folder, *asked, "--resume")
    assert again.code == 0, again.err
    assert "nothing to resume" in again.err


def test_a_folder_with_pictures_is_left_as_it_is(command, plain: Path, tmp_path: Path) -> None:
    """The pictures of two runs in one folder would be taken for those of one."""
    each = tmp_path / "each"
    each.mkdir()
    (each / "notes.txt").write_text("mine")
    assert command("generate", plain, "-n", "3", "-o", f"{each}/").code == 0
    before = {p.name: p.read_bytes() for p in each.iterdir()}
    assert before.keys() == {"1.png", "2.png", "3.png", "notes.txt"}
    whole = ("infill", plain, each / "1.png", "--task", "upscale", "--method", "clamp")
    for words in (("generate", plain, "-n", "2", "--seed", "1"), whole):
        line = complaint(command(*words, "-o", each))
        assert f"{each} holds pictures already (1.png)" in line and "new folder with -o" in line
    assert {p.name: p.read_bytes() for p in each.iterdir()} == before
    assert command("generate", plain, "-o", each / "1.png").code == 0  # named by hand
    assert pixels(each / "1.png").shape[0] > 6


def test_the_headline_says_what_is_modelled(command, plain, labelled, tmp_path) -> None:
    for run, shown in (
        (plain, "lstm over pictures of 6x6, grey, 4 levels, raster order, "),
        (labelled, "made over pictures of 6x6, grey, 4 levels, raster order, 2 labels, "),
        (
            written(
                tmp_path / "deaf", "made", labels=("cat",), order="snake", colour="palette",
                levels=256, palette=((0, 0, 0), (1, 2, 3), (4, 5, 6)),
            ),
            "made over pictures of 6x6, palette of 3 colours, snake order, 1 label, ",
        ),
    ):  # fmt: skip
        assert inspect(load_artifact(run)).headline.startswith(shown)
        assert command("inspect", run, "--json").json["symbols"] in shown
