"""generate, score and evaluate where a run models pictures."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from chainrule.artifact import Artifact
from chainrule.codecs.image import PixelCodec
from chainrule.codecs.text import ByteCodec
from chainrule.core.codec import Encoded
from chainrule.core.model import ReplayModel
from chainrule.native import _native
from chainrule.training.picture_files import read_picture
from chainrule.verbs.draw import draw
from chainrule.verbs.evaluate import evaluate_pictures
from chainrule.verbs.fitted import Fitted
from chainrule.verbs.heat import SCALE, heat_map, picture_score
from chainrule.verbs.pictures import Place, file_formats, grid_of, png, where
from tests.laws.tolerances import FLOAT32
from tests.unit.picture_examples import LABELS, blanks, log_p, ramp, run_of

# ---- drawing ----


def test_a_picture_depends_on_the_seed_and_its_number_alone(plain):
    found = draw(plain, 70, seed=4)
    assert [d.pixels.shape for d in found] == [(6, 6)] * 70
    again = draw(plain, 3, seed=4)
    for one, other in zip(found, again, strict=False):
        np.testing.assert_array_equal(one.pixels, other.pixels)
    assert found[66].symbols != found[2].symbols
    assert draw(plain, 1, seed=5)[0].symbols != found[0].symbols


@pytest.mark.parametrize("name", ["plain", "labelled", "anyhow"])
def test_every_strategy_draws_the_same(name, request):
    run = request.getfixturevalue(name)
    label = "dog" if name == "labelled" else None
    found = draw(run, 2, strategy="ancestral", backend="torch", label=label)
    for one in found:
        total = float(log_p(run, one.symbols, None if label is None else 1).sum())
        assert one.log_prob == pytest.approx(total, rel=FLOAT32)
        assert one.bits_per_dim == pytest.approx(-total / math.log(2) / 36, rel=FLOAT32)
        np.testing.assert_array_equal(
            one.pixels, run.any_codec.decode(Encoded(np.array(one.symbols)))
        )
    for strategy in ("jacobi", "lookup", "auto"):
        others = draw(run, 2, strategy=strategy, backend="torch", label=label)
        assert [d.symbols for d in others] == [d.symbols for d in found], strategy
        assert {d.exactness for d in others} == {"identical"}


@pytest.mark.skipif(_native is None, reason="there is no compiled engine here")
@pytest.mark.parametrize("label", [None, "dog"])
@pytest.mark.parametrize("recipe", ["transformer", "pixelcnn"])
def test_the_engine_is_told_the_label(recipe, label):
    run = run_of(recipe, 4, 4, labels=LABELS)
    slow = draw(run, 4, label=label, backend="torch", strategy="ancestral")
    fast = draw(run, 4, label=label, dtype="f32", strategy="ancestral")
    assert [d.symbols for d in fast] == [d.symbols for d in slow]
    assert recipe == "pixelcnn" or fast[0].backend == "engine f32"


def test_guesses_are_free_without_a_cache(labelled):
    """Auto comes to Jacobi with many guesses, and passes are far fewer than symbols."""
    assert isinstance(labelled.model, ReplayModel)
    calls, forward = [], labelled.model.forward
    labelled.model.__dict__["forward"] = lambda *a, **k: calls.append(1) or forward(*a, **k)
    try:
        (one,) = draw(labelled, 1, seed=1)
        assert one.strategy == "jacobi"
        assert "any number of guesses" in one.choice
        few, calls[:] = len(calls), []
        assert draw(labelled, 1, seed=1, strategy="ancestral")[0].symbols == one.symbols
        assert len(calls) == 36
    finally:
        del labelled.model.__dict__["forward"]
    assert few < 20


def test_evaluate_takes_names_of_files_of_pictures(plain, tmp_path):
    with pytest.raises(ValueError, match="column is for text, and this run models pictures"):
        Fitted(plain).evaluate(tmp_path, column="x")
    for array in (ramp(), np.stack([ramp()] * 3), [ramp()], Image.fromarray(ramp()), None):
        with pytest.raises(ValueError, match=r"\Aa source is the name of a file .*\Z"):
            Fitted(plain).evaluate(array)


@pytest.mark.parametrize("mode", ["1", "LA", "P", "PA"])
def test_a_picture_of_pillow_is_its_colours(anyhow, mode):
    image = Image.fromarray(np.dstack([ramp(), ramp().T, 255 - ramp()])).quantize(4)
    image = (image.convert("RGBA") if mode == "PA" else image).convert(mode)
    seen = np.asarray(image.convert("RGB"))
    given, array = picture_score(anyhow, image), picture_score(anyhow, seen)
    assert given.per_symbol == array.per_symbol
    run, mask = Fitted(anyhow), blanks((0, 0))
    filled = [run.infill(x, mask=mask)[0].symbols for x in (image, seen)]
    assert filled[0] == filled[1]
    drawn = [run.generate(top=x)[0].symbols for x in (image, seen)]
    assert drawn[0] == drawn[1]
    with pytest.raises(ValueError, match=r"\Athe picture: .*CMYK: convert it to RGB\Z"):
        run.score(image.convert("RGB").convert("CMYK"))


@pytest.mark.parametrize("n", [2.5, "2", None])
def test_a_number_of_pictures_is_whole(plain, n):
    with pytest.raises(ValueError, match=rf"\An: a whole number, not {n!r}\Z"):
        Fitted(plain).generate(n=n)
    with pytest.raises(ValueError, match=rf"\An: a whole number, not {n!r}\Z"):
        Fitted(plain).infill(ramp(), mask=blanks((5, 5)), n=n)


def test_labels(labelled, plain):
    none, dog, cat = (draw(labelled, 1, label=k)[0] for k in (None, "dog", "cat"))
    assert none.label is None and dog.label == "dog"
    laws = {float(log_p(labelled, dog.symbols, k).sum()) for k in (None, 0, 1)}
    assert len(laws) == 3
    assert cat.log_prob == pytest.approx(float(log_p(labelled, cat.symbols, 0).sum()), rel=FLOAT32)
    with pytest.raises(ValueError, match="'cow' was not trained; there are: cat, dog, 7"):
        draw(labelled, 1, label="cow")
    with pytest.raises(ValueError, match="has learned no labels"):
        draw(plain, 1, label="dog")
    deaf = Artifact(plain.model, PixelCodec(6, 6, levels=4, labels=LABELS))
    with pytest.raises(ValueError, match=r"the model of this run .* reads no label"):
        draw(deaf, 1, label="dog")


@pytest.mark.parametrize("name", ["plain", "anyhow"])
def test_an_upper_part_is_gone_on_from(name, request):
    run, top = request.getfixturevalue(name), ramp()[:2]
    found = draw(run, 3, top=top)
    for one in found:
        np.testing.assert_array_equal(one.pixels[:2], top)
        assert one.given == 12
    assert len({tuple(d.symbols) for d in found}) == 3
    (half,) = draw(run, 1, top=ramp())
    np.testing.assert_array_equal(half.pixels[:3], ramp()[:3])
    scaled = draw(run, 1, top=top.repeat(3, 0).repeat(3, 1))[0]
    assert scaled.given == 12
    with pytest.raises(ValueError, match="7x6 is no upper part of 6x6: at that width it has 7"):
        draw(run, 1, top=ramp(7))


def test_the_upper_part_is_scored_as_given(plain):
    (one,) = draw(plain, 1, top=ramp()[:2], backend="torch")
    assert one.log_prob == pytest.approx(float(log_p(plain, one.symbols)[12:].sum()), rel=FLOAT32)


def test_an_order_in_which_the_upper_part_does_not_come_first():
    with pytest.raises(ValueError, match=r"order 'columns': .* --method clamp or smc"):
        draw(run_of("made", order="columns"), 1, top=ramp()[:2])


@pytest.mark.parametrize("setting", [{"ban": ["x"]}, {"stop": ["x"]}, {"presence_penalty": 0.5}])
def test_settings_about_text(plain, setting):
    with pytest.raises(ValueError, match=f"{min(setting)} is about text"):
        draw(plain, 1, **setting)


# ---- scores ----


@pytest.mark.parametrize("name", ["plain", "labelled", "anyhow", "luma"])
def test_a_score_is_the_models(name, request):
    run = request.getfixturevalue(name)
    label = "dog" if name == "labelled" else None
    found = picture_score(run, ramp(), label=label)
    symbols = run.any_codec.encode(ramp()).symbols
    wanted = log_p(run, symbols.tolist(), None if label is None else 1)
    torch.testing.assert_close(
        torch.tensor(found.per_symbol, dtype=torch.float64), wanted, rtol=FLOAT32, atol=FLOAT32
    )
    assert found.units == len(symbols)
    assert found.kind == ("codes" if name == "luma" else "exact")
    assert found.bits_per_unit == pytest.approx(-found.nats / math.log(2) / found.units)
    bits = found.surprise()
    assert bits.shape == (6, 6)
    assert bits.sum() == pytest.approx(-found.nats / math.log(2), rel=FLOAT32)
    row, column, _ = where(run.any_codec)
    here = ((row == 2) & (column == 5)).numpy()
    assert bits[2, 5] == pytest.approx(-np.array(found.per_symbol)[here].sum() / math.log(2))
    first, *_ = found.oddest()
    assert bits[first[0], first[1]] == bits.max() == first[2]
    assert json.loads(json.dumps(found.to_dict()))["unit"] == "dimension"


def test_the_heat_map_shows_where(plain):
    scores = [picture_score(plain, p) for p in (ramp(), 255 - ramp())]
    sheet = heat_map(scores)
    by = 96 // 6
    half = 2 + 96 + 2
    row, column, bits = max((s.oddest(1)[0] for s in scores), key=lambda o: o[2])
    top = 2 if scores[0].oddest(1)[0][2] == bits else 2 + 96 + 2
    hot = sheet[top + row * by, half + column * by]
    np.testing.assert_array_equal(hot, SCALE[255])
    assert sheet.shape[0] == 2 * 98 + 2
    light = SCALE @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(light[::15]) > 0).all(), "brighter is more"
    assert "heat" not in scores[0]._repr_html_() and "data:image/png" in scores[0]._repr_html_()


def test_heat_maps_of_any_number_and_size(plain):
    dot = run_of("lstm", 1, 1)
    found = picture_score(dot, np.zeros((1, 1), np.uint8))
    assert found.surprise().tolist() == [[pytest.approx(found.bits_per_unit, rel=FLOAT32)]]
    assert heat_map([found]).shape[2] == 3
    many = heat_map([picture_score(plain, ramp())] * 20)
    assert many.shape[1] < 2 * many.shape[0] < 4 * many.shape[1], "in several columns"
    wide = run_of("lstm", 1, 200)
    flat = heat_map([picture_score(wide, np.zeros((1, 200), np.uint8))])
    assert len(flat) >= 48, "there is room for the scale"


def test_evaluate(labelled, plain, tmp_path):
    pictures = {"cat/1.png": ramp(), "cat/2.png": 255 - ramp(), "dog/1.png": ramp().T.copy()}
    for name, pixels in pictures.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "dog" / "cut.png").write_bytes((tmp_path / "dog" / "1.png").read_bytes()[:40])
    Image.fromarray(ramp(9)).save(tmp_path / "dog" / "tall.png")
    found = evaluate_pictures(labelled, tmp_path)
    names = {name: name.split("/")[0] for name in pictures}
    wanted = sum(picture_score(labelled, p, label=names[k]).nats for k, p in pictures.items())
    assert found.nats == pytest.approx(wanted, rel=FLOAT32)
    assert (found.pictures, found.labelled, found.units, found.kind) == (3, 3, 108, "exact")
    assert found.nats_per_picture == pytest.approx(-wanted / 3, rel=FLOAT32)
    assert sorted(Path(line.split(":")[0]).name for line in found.skipped) == [
        "cut.png",
        "tall.png",
    ]
    assert found.rows() == sorted(found.rows(), key=lambda row: row[1])
    unlabelled = evaluate_pictures(plain, tmp_path)
    assert unlabelled.labelled == 0
    (tmp_path / "cat").rename(tmp_path / "cow")
    with pytest.raises(ValueError, match="'cow' was not trained"):
        evaluate_pictures(labelled, tmp_path)


def test_file_formats_are_those_of_the_same_pixels():
    codec = PixelCodec(16, 16, colour="rgb")
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (16, 16, 3), np.uint8) for _ in range(2)]
    found = file_formats(codec, [codec.encode(p).symbols for p in pixels])
    sizes = 0
    for each in pixels:
        file = io.BytesIO()
        Image.fromarray(each).save(file, "PNG", optimize=True)
        sizes += file.tell()
    assert found["PNG"] == 8 * sizes / (2 * 768)
    assert found["PNG"] > 8, "noise can't be made smaller"
    few = PixelCodec(16, 16, levels=2)
    noise = np.random.default_rng(0).integers(0, 2, 256)
    assert file_formats(few, [noise])["PNG"] * 256 / 8 < len(png(few.decode(Encoded(noise))))


def test_a_label_that_was_not_trained_is_named_with_its_picture(labelled, tmp_path):
    for label in ("cat", "cow"):
        (tmp_path / label).mkdir()
        Image.fromarray(ramp()).save(tmp_path / label / "1.png")
    with pytest.raises(ValueError, match=r"cow.1\.png: label 'cow' was not trained"):
        evaluate_pictures(labelled, tmp_path)


def test_why_no_picture_could_be_used(plain, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    Image.fromarray(ramp(5, 5)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"no picture in it can be used; .*b\.png: 5x5"):
        evaluate_pictures(plain, tmp_path)


# ---- sheets, places ----


def test_a_grid_of_pictures():
    pictures = [np.full((8, 8), v, np.uint8) for v in range(5)]
    sheet = grid_of(pictures)
    assert sheet.shape == (2 * 98 + 2, 3 * 98 + 2)
    for i in range(5):
        row, column = divmod(i, 3)
        tile = sheet[2 + 98 * row :, 2 + 98 * column :][:96, :96]
        assert (tile == i).all()
    assert grid_of([np.zeros((300, 200, 3), np.uint8)]).shape == (304, 204, 3)
    assert max(grid_of([pictures[0]] * 1000).shape) < 2300
    mixed = grid_of([pictures[0], np.zeros((8, 8, 3), np.uint8)])
    assert mixed.ndim == 3
    height, width = grid_of([np.zeros((4, 300), np.uint8)] * 16).shape
    assert height * 8 > width, "wide ones stand below each other"


def test_places(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"needs a place: -o picture\.png"):
        Place.of(None)
    with pytest.raises(ValueError, match=r"a name that ends in \.png"):
        Place.of("grid.jpg")
    pictures = [np.full((4, 4), v, np.uint8) for v in range(12)]
    said = Place.of(f"{tmp_path}/new/").write(pictures, lambda: grid_of(pictures))
    assert said.endswith("01.png to 12.png")
    assert sorted(p.name for p in (tmp_path / "new").iterdir())[-1] == "12.png"
    np.testing.assert_array_equal(read_picture(tmp_path / "new" / "05.png").pixels[..., 0], 4)
    assert Place.of(str(tmp_path)).folder
    for name in ("new/05.png/", "new/05.png/a.png"):
        with pytest.raises(ValueError, match=r"05\.png is a file and no folder"):
            Place.of(f"{tmp_path}/{name}")
    monkeypatch.setattr("os.access", lambda path, how: path != tmp_path)
    with pytest.raises(ValueError, match="no right to write there"):
        Place.of(f"{tmp_path}/deep/er/all.png")
    monkeypatch.undo()
    Place.of(f"{tmp_path}/all.png").write(pictures, lambda: grid_of(pictures))
    assert read_picture(tmp_path / "all.png").pixels.shape == (3 * 98 + 2, 4 * 98 + 2, 1)


# ---- the methods of a run ----


def test_the_verbs_of_a_run(labelled, plain, tmp_path):
    run = Fitted(labelled)
    (one,) = run.generate(label="cat", seed=2)
    path = one.save(tmp_path / "one.png")
    assert run.score(path, label="cat").nats == pytest.approx(one.log_prob, rel=FLOAT32)
    assert run.infill(path, mask=blanks((5, 5)))[0].blanks == 1
    assert json.loads(json.dumps(one.to_dict()))["symbols"] == one.symbols
    assert "data:image/png" in one._repr_html_()
    with pytest.raises(ValueError, match="a prompt and a length are about text"):
        run.generate("hello")
    with pytest.raises(ValueError, match="a prompt and a length are about text"):
        run.generate(length=300)
    with pytest.raises(ValueError, match="models pictures: that needs a run that models text"):
        run.next("hello")
    with pytest.raises(ValueError, match="doesn't model pictures"):
        draw(Artifact(plain.model, ByteCodec()))
