"""The commands on runs of pictures: what they write, and what they refuse in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from chainrule import registry
from chainrule.artifact import Artifact
from chainrule.codecs.image import PixelCodec
from chainrule.training.picture_files import read_picture
from tests.cli.test_bad_input import complaint


def written(folder: Path, recipe: str, **codec: Any) -> Path:
    """A run with random weights; read only."""
    torch.manual_seed(1)
    made = PixelCodec(6, 6, **{"levels": 4, **codec})
    config = {**registry.RECIPES, **registry.PICTURE_RECIPES}[recipe](made.space, "tiny")
    if made.labels:
        config = replace(config, labels=len(made.labels))
    artifact = Artifact(registry.built(config), made)
    artifact.save_config(folder)
    artifact.save_weights(folder)
    return folder


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("pictures") / "plain", "lstm")


@pytest.fixture(scope="session")
def labelled(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "labelled"
    return written(folder, "made", labels=("cat", "dog"))


@pytest.fixture(scope="session")
def album(tmp_path_factory) -> Path:
    """Pictures of two classes, a mask, and files that are no such pictures."""
    folder = tmp_path_factory.mktemp("album")
    ramp = (np.add.outer(np.arange(6), 2 * np.arange(6)) % 4 * 85).astype(np.uint8)
    mask = np.zeros((6, 6), np.uint8)
    mask[4:] = 255
    pictures = {
        "classes/cat/1.png": ramp, "classes/dog/1.png": 255 - ramp, "mask.png": mask,
        "top.png": ramp[:2], "small.png": ramp[::2, ::2], "flat.png": ramp[:5],
        "odd/cow/1.png": ramp, "odd/cat/1.png": ramp,
    }  # fmt: skip
    for name, pixels in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    data = (folder / "classes/cat/1.png").read_bytes()
    for name in ("cut.png", "classes/dog/cut.png"):
        (folder / name).write_bytes(data[: len(data) // 2])
    return folder


def pixels(path: Path) -> np.ndarray:
    return read_picture(path).pixels


def test_generate(command, labelled, plain, tmp_path):
    said = command("generate", plain, "-n", 5, "-o", tmp_path / "grid.png", "--seed", 3)
    assert said.code == 0, said.err
    assert "5 pictures" in said.out and "bits per dimension" in said.out
    assert pixels(tmp_path / "grid.png").shape[:2] == (2 * 98 + 2, 3 * 98 + 2)
    assert command("generate", plain, "-n", 2, "-o", f"{tmp_path}/each/", "--seed", 3).code == 0
    assert sorted(p.name for p in (tmp_path / "each").iterdir()) == ["1.png", "2.png"]
    first = pixels(tmp_path / "each" / "1.png")
    np.testing.assert_array_equal(pixels(tmp_path / "grid.png")[2:98:16, 2:98:16], first)
    found = command("generate", labelled, "--label", "dog", "--json").json
    assert len(found[0]["symbols"]) == 36
    assert found[0]["label"] == "dog"
    assert command("generate", labelled, "--json").json[0]["log_prob"] != found[0]["log_prob"]


def test_generate_goes_on_from_an_upper_part(command, plain, album, tmp_path):
    out = tmp_path / "out.png"
    said = command("generate", plain, "--top", album / "top.png", "-o", f"{tmp_path}/each/")
    assert "the upper 2 of 6 rows" in said.err
    np.testing.assert_array_equal(
        pixels(tmp_path / "each" / "1.png")[:2], pixels(album / "top.png")
    )
    said = command("generate", plain, "--top", album / "classes/cat/1.png", "-o", out)
    assert "the upper 3 of 6 rows" in said.err


def test_infill(command, plain, album, tmp_path):
    picture, mask = album / "classes/cat/1.png", album / "mask.png"
    said = command("infill", plain, picture, "--mask", mask, "-n", 2, "-o", tmp_path / "row.png")
    assert said.code == 0, said.err
    assert "12 symbols filled in, exact (distribution)" in said.out
    row = pixels(tmp_path / "row.png")
    assert row.shape == (100, 3 * 98 + 2, 3)
    np.testing.assert_array_equal(row[2:66, 2:98], row[2:66, 100:196])
    assert (row[66:98, 2:98] != row[66:98, 100:196]).any()
    smc = ("--method", "smc", "--particles", 16, "--json")
    found = command("infill", plain, picture, "--mask", mask, *smc).json
    assert 1 <= found[0]["effective_sample_size"] <= 16
    clamp = ("--task", "upscale", "--method", "clamp", "-o", f"{tmp_path}/each/")
    assert command("infill", plain, album / "small.png", *clamp).code == 0
    np.testing.assert_array_equal(
        pixels(tmp_path / "each" / "1.png")[::2, ::2], pixels(album / "small.png")
    )


def test_score(command, plain, labelled, album, tmp_path, monkeypatch):
    monkeypatch.chdir(album)  # names that fit into a table
    files = "classes/cat/1.png", "classes/dog/1.png"
    said = command("score", plain, *files, "-o", tmp_path / "heat.png")
    assert said.code == 0, said.err
    assert "exact" in said.out and said.out.count("(row, column from 0)") == 2
    assert pixels(tmp_path / "heat.png").shape[0] == 2 * 98 + 2
    cat, dog = (
        command("score", labelled, files[0], "--label", k, "--json") for k in ("cat", "dog")
    )
    assert cat.json[0]["nats"] != dog.json[0]["nats"]
    assert cat.json[0]["kind"] == "exact"


def test_evaluate(command, labelled, album):
    said = command("evaluate", labelled, album / "classes")
    assert said.code == 0, said.err
    assert "PNG" in said.out and "WebP" in said.out
    assert "pictures: 2, 72 dimensions" in said.out and "2 by their label" in said.out
    assert "left out" in said.out and "cut.png" in said.out
    assert command("evaluate", labelled, album / "classes", "--json").json["pictures"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("generate", "{plain}"), ["needs a place", "-o picture.png"]),
        (("generate", "{plain}", "-o", "x.jpg"), ["x.jpg", ".png"]),
        (("generate", "{plain}", "-o", "x.png", "--label", "dog"), ["no labels"]),
        (("generate", "{labelled}", "-o", "x.png", "--label", "cow"), ["cow", "cat, dog"]),
        (("generate", "{plain}", "-o", "x.png", "--top", "{album}/cut.png"), ["cut.png"]),
        (("generate", "{plain}", "-o", "x.png", "--top", "{album}/none.png"), ["none.png"]),
        (("generate", "{plain}", "hello", "-o", "x.png"), ["a prompt is for runs of text"]),
        (("generate", "{plain}", "--length", "9", "-o", "x.png"), ["--length"]),
        (("generate", "{plain}", "--ban", "a", "-o", "x.png"), ["ban is about text"]),
        (("generate", "{plain}", "--regex", "a", "-o", "x.png"), ["regex is about text"]),
        (("generate", "{plain}", "--beam", "2", "-o", "x.png"), ["--beam"]),
        (("generate", "{plain}", "--ensemble", "{plain}", "-o", "x.png"), ["--ensemble"]),
        (("generate", "{run}", "--label", "dog"), ["--label is for runs of pictures"]),
        (("generate", "{run}", "--top", "{album}/top.png"), ["--top is for runs of pictures"]),
        (("infill", "{plain}", "{cat}", "-o", "x.png"), ["a mask (--mask), or the task"]),
        (
            ("infill", "{plain}", "{cat}", "--mask", "{album}/flat.png", "-o", "x.png"),
            ["flat.png", "5x6", "6x6"],
        ),
        (
            ("infill", "{plain}", "{album}/flat.png", "--mask", "{album}/mask.png", "-o", "x.png"),
            ["flat.png", "5x6", "6x6", "--resize"],
        ),
        (
            ("infill", "{plain}", "{album}/cut.png", "--mask", "{album}/mask.png", "-o", "x.png"),
            ["cut.png"],
        ),
        (("infill", "{plain}", "{cat}", "--mask", "_", "-o", "x.png"), ["_"]),
        (
            ("infill", "{plain}", "{album}/small.png", "--task", "upscale", "-o", "x.png"),
            ["smc", "clamp", "--model anyorder"],
        ),
        (
            ("infill", "{plain}", "{cat}", "--task", "colourise", "-o", "x.png"),
            ["--colour luma"],
        ),
        (("infill", "{plain}", "{cat}", "--task", "upscale", "-o", "x.png"), ["small version"]),
        (("infill", "{plain}", "{cat}", "--mask", "{album}/mask.png"), ["needs a place"]),
        (("infill", "{run}", "a_b", "--task", "upscale"), ["--task is for runs of pictures"]),
        (
            ("generate", "{plain}", "-o", "{album}/top.png/x.png"),
            ["x.png", "top.png is a file and no folder"],
        ),
        (("score", "{plain}", "{album}/classes"), ["is a folder", "chainrule evaluate"]),
        (("score", "{plain}", "{cat}", "-o", "heat/"), ["heat", "one PNG"]),
        (("score", "{plain}", "{album}/cut.png"), ["cut.png"]),
        (("score", "{plain}", "{album}/flat.png"), ["flat.png", "5x6", "6x6"]),
        (("score", "{plain}", "{cat}", "--symbols"), ["--symbols is for runs of text"]),
        (("score", "{plain}", "{cat}", "-o", "x.jpg"), ["x.jpg"]),
        (("score", "{labelled}", "{cat}", "--label", "cow"), ["cow", "cat, dog"]),
        (("score", "{run}", "{book}", "-o", "x.png"), ["-o is for runs of pictures"]),
        (("evaluate", "{labelled}", "{album}/odd"), ["cow/1.png", "cat, dog"]),
        (("evaluate", "{plain}", "{book}"), ["book.txt"]),
        (("evaluate", "{plain}", "{album}", "--passkey"), ["--passkey is for runs of text"]),
        (("evaluate", "{run}", "{book}", "--labels", "x.csv"), ["--labels"]),
        (("next", "{plain}", "the"), ["models pictures"]),
    ],
)
def test_what_is_refused(command, tmp_path, plain, labelled, run, book, album, words, said):
    places = {"plain": plain, "labelled": labelled, "run": run, "book": book, "album": album}
    places["cat"] = album / "classes/cat/1.png"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        line = complaint(command(*(w.format(**places) for w in words)))
    for word in said:
        assert word in line, line
    assert not list(tmp_path.iterdir()), "nothing was written"
