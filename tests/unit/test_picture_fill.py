"""infill where a run models pictures: exact beside enumeration, masks, colours, detail."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from chainrule.core.model import AnyOrder
from chainrule.decoding.infill import infill
from chainrule.verbs.draw import draw
from chainrule.verbs.fill import fill, sheet_of
from chainrule.verbs.heat import picture_score
from chainrule.verbs.pictures import where
from tests.laws.tolerances import FLOAT32
from tests.unit.picture_examples import blanks, log_p, ramp, run_of

# ---- filling in ----


def test_any_order_is_the_enumeration():
    run = run_of("anyorder", 2, 3, levels=2, order="snake")
    mask = np.array([[0, 1, 0], [1, 0, 0]], bool)
    picture = np.array([[255, 0, 0], [0, 255, 255]], np.uint8)
    found = fill(run, picture, mask=mask, n=8, seed=2)
    row, column, _ = where(run.any_codec)
    unknown = torch.from_numpy(mask)[row, column]
    order = [*torch.nonzero(~unknown)[:, 0].tolist(), *torch.nonzero(unknown)[:, 0].tolist()]
    joint = AnyOrder(run.model.masked, order)
    ways = []
    for way in itertools.product((0, 255), repeat=2):
        each = picture.copy()
        each[mask] = way
        ways.append(torch.from_numpy(run.any_codec.encode(each).symbols))
    x = joint.to_order(torch.stack(ways))
    with torch.no_grad():
        law = joint(x).log_prob(x).sum(1).double().log_softmax(0)
    for one in found:
        np.testing.assert_array_equal(one.pixels[~mask], picture[~mask])
        place = [way.tolist() for way in ways].index(one.symbols)
        assert one.log_prob == pytest.approx(float(law[place]), rel=FLOAT32)
        assert (one.method, one.exactness, one.blanks) == ("exact", "distribution", 2)
        assert one.bits == pytest.approx(-one.log_prob / math.log(2))


@pytest.mark.parametrize("name", ["plain", "labelled"])
def test_where_the_known_come_first_every_model_is_exact(name, request):
    run = request.getfixturevalue(name)
    label = None if name == "plain" else "dog"
    mask = np.zeros((6, 6), np.uint8)
    mask[4:], mask[3, 2:] = 255, 128
    for method in (None, "exact"):
        found = fill(run, ramp(), mask=mask, n=3, method=method, label=label)
        assert {(f.method, f.exactness) for f in found} == {("exact", "distribution")}
        for one in found:
            np.testing.assert_array_equal(one.pixels[mask == 0], ramp()[mask == 0])
            law = log_p(run, one.symbols, None if label is None else 1)
            assert one.log_prob == pytest.approx(float(law[20:].sum()), rel=FLOAT32)
    drawn = draw(run, 1, top=ramp()[:4], label=label, dtype="f32")
    mask = np.zeros((6, 6), bool)
    mask[4:] = True
    assert fill(run, ramp(), mask=mask, label=label)[0].symbols == drawn[0].symbols


@pytest.mark.parametrize("method", ["clamp", "smc"])
def test_methods_for_a_model_of_one_order(labelled, method):
    mask = blanks((1, 1), (1, 2), (4, 4))
    with pytest.raises(ValueError, match=r"smc .* or clamp .*--model anyorder \(pictures\)"):
        fill(labelled, ramp(), mask=mask)
    found = fill(labelled, ramp(), mask=mask, method=method, n=2, particles=64, label="dog")
    told = fill(labelled, ramp(), mask=mask, method=method, n=2, particles=64, label="cat")
    assert found[0].log_prob != told[0].log_prob
    for one in found:
        assert (one.method, one.exactness) == (method, "approximate")
        assert (one.effective_sample_size is None) == (method == "clamp")
        np.testing.assert_array_equal(one.pixels[~mask], ramp()[~mask])
        if method == "clamp":
            law = log_p(labelled, one.symbols, 1)
            wanted = law[torch.from_numpy(mask.reshape(-1))].sum()
            assert one.log_prob == pytest.approx(float(wanted), rel=FLOAT32)


def test_progress_comes_to_its_end(anyhow, plain):
    seen: list[tuple[str, int, int | None]] = []
    mask = blanks((0, 0), (5, 5))
    for run, how in ((anyhow, {}), (plain, {"method": "smc", "particles": 8})):
        fill(run, ramp(), mask=mask, progress=lambda *s: seen.append(s), **how)
        assert seen[-1] == ("filling in", 36, 36)
    draw(plain, 3, progress=lambda *s: seen.append(s), backend="torch")
    assert seen[-1] == ("drawing", 108, 108)
    picture_score(anyhow, ramp(), progress=lambda *s: seen.append(s))
    assert seen[-2:] == [("scoring", 32, 36), ("scoring", 36, 36)]


def test_a_mask_of_the_pictures_own_size():
    run = run_of("made", resize=True)
    big, mask = ramp().repeat(4, 0).repeat(4, 1), np.zeros((24, 24), np.uint8)
    mask[16:] = 255
    (one,) = fill(run, big, mask=mask)
    assert one.blanks == 12
    (same,) = fill(run, big, mask=mask[::4, ::4])
    assert same.symbols == one.symbols
    with pytest.raises(
        ValueError, match="the mask is 5x24 and the picture 24x24: make it of that size, or 6x6"
    ):
        fill(run, big, mask=mask[:5])
    cropped = run_of("made", 4, 4, crop=(16, 16), resize=True)
    (one,) = fill(cropped, big, mask=mask)
    assert one.blanks == 4, "the mask is cropped as the picture is"


def test_colours_for_a_grey_picture(luma):
    grey = ramp()
    found = fill(luma, grey, task="colourise", n=2)
    for one in found:
        assert one.exactness == "distribution"
        assert one.blanks == 72
        symbols = luma.any_codec.encode(one.pixels).symbols
        assert one.symbols[:36] == grey.reshape(-1).tolist()
        assert len(symbols) == 108 and one.pixels.shape == (6, 6, 3)
    assert found[0].symbols != found[1].symbols
    np.testing.assert_array_equal(found[0].given[..., 0], grey)
    assert sheet_of(found).shape[1] > 3 * 96
    height, width, _ = sheet_of(found * 10).shape
    assert width < 2 * height, "many are in several rows"


def test_a_large_picture_from_a_small_one():
    small = ramp(3, 3)
    for run, method in ((run_of("made", order="coarse"), None), (run_of("lstm"), "clamp")):
        (one,) = fill(run, small, task="upscale", method=method)
        np.testing.assert_array_equal(one.pixels[::2, ::2], small)
        assert one.blanks == 27
        assert one.exactness == ("approximate" if method else "distribution")
    (one,) = fill(run_of("anyorder", colour="rgb"), ramp(2, 2), task="upscale")
    np.testing.assert_array_equal(one.pixels[::4, ::4, 1], ramp(2, 2))
    with pytest.raises(
        ValueError, match="5x3 is no small version of 6x6: it must be 3x3, 2x2, 1x1"
    ):
        fill(run_of("lstm"), ramp(5, 3), task="upscale")


def test_what_can_not_be_filled_in(plain):
    whole = np.zeros((6, 6), np.uint8)
    for wrong, words in (
        ({}, r"a mask \(--mask\), or the task"),
        ({"mask": whole, "task": "upscale"}, r"a mask \(--mask\), or the task"),
        ({"task": "sharpen"}, "task 'sharpen' is not one of colourise, upscale"),
        ({"mask": whole}, "the mask: nothing to fill in, no pixel of the mask is white"),
        ({"mask": whole[:5]}, "the mask is 5x6 and the picture 6x6"),
        ({"mask": whole + 255, "method": "guess"}, "'guess' is not one of exact, clamp, smc"),
        ({"task": "colourise"}, "fit with --colour luma"),
        ({"mask": whole + 255, "n": 0}, "n: 1 to 1,000, not 0"),
    ):
        with pytest.raises(ValueError, match=words):
            fill(plain, ramp(), **wrong)
    with pytest.raises(ValueError, match="the picture: 7x6, where this run's pictures are 6x6"):
        fill(plain, ramp(7), mask=whole + 255)


def test_all_blank_is_drawn_anew(plain):
    x, known = torch.zeros(36, dtype=torch.int64), torch.zeros(36, dtype=torch.bool)
    found = infill(plain.model, x, known, n=2)
    drawn = draw(plain, 2, backend="torch")
    assert found.symbols.tolist() == [d.symbols for d in drawn]
