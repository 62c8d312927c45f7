"""Pictures to learn: batches, what is held out, and the cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from chainrule.codecs.image import PixelCodec
from chainrule.core.model import Condition
from chainrule.core.noise import Noise
from chainrule.core.objective import Batch
from chainrule.core.space import Space
from chainrule.models.pixelcnn import PixelCNN, PixelCNNConfig
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import transformer
from chainrule.training import pictures as module
from chainrule.training.objectives import objective
from chainrule.training.pictures import Pictures, opened, picture_nats, prepare_pictures
from chainrule.training.plan import TrainConfig
from tests.laws.tolerances import FALSE_ALARM, FLOAT32

SPACE = Space.picture((3, 4, 1), 2)
CONFIG = TrainConfig(steps=1, batch=5, length=12, seed=7)


def drawn(count: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 2, (count, 12)).astype(np.uint8)


def numbered(count: int) -> Pictures:
    """Every picture says which one it is."""
    bits = np.arange(count)[:, None] >> np.arange(12) & 1
    return Pictures(bits.astype(np.uint8), bits[:3].astype(np.uint8), np.arange(count))


def numbers(lessons: Pictures, number: int) -> list[int]:
    x = lessons.batch(CONFIG, number)[0].x.numpy()
    return [int(n) for n in (x << np.arange(12)).sum(1)]


def test_every_picture_comes_once_an_epoch_in_another_order() -> None:
    lessons = numbered(13)  # batches of five that straddle the epochs
    seen = [n for number in range(26) for n in numbers(lessons, number)]
    epochs = [seen[first : first + 13] for first in range(0, 130, 13)]
    assert all(sorted(epoch) == list(range(13)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10
    assert numbers(lessons, 4) == numbers(numbered(13), 4)


def test_an_epoch_is_shuffled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lessons, asked, dice = numbered(13), [], module._dice
    module._order.cache_clear()
    monkeypatch.setattr(module, "_dice", lambda *key: (asked.append(key), dice(*key))[1])
    for number in range(26):
        lessons.batch(CONFIG, number)
    assert [key for key in asked if key[2] == 0] == [(7, epoch, 0) for epoch in range(10)]


def test_a_tenth_of_the_labels_is_not_told() -> None:
    lessons = numbered(1000)
    config = TrainConfig(steps=1, batch=1000, length=12)
    batch = lessons.batch(config, 0)[0]
    assert batch.cond is not None
    label, own = batch.cond.label, (batch.x.numpy() << np.arange(12)).sum(1)
    assert label is not None
    told = label.numpy() >= 0
    assert (label.numpy()[told] == own[told]).all()
    # Hoeffding: a share so far from 0.1 comes once in 1 / FALSE_ALARM.
    assert abs((~told).mean() - 0.1) < (np.log(2 / FALSE_ALARM) / 2000) ** 0.5


def test_redrawn_pictures_have_their_probabilities() -> None:
    shades = np.tile(np.array([[0, 51, 255]], np.uint8), (4000, 4))
    lessons = Pictures(shades, shades[:1], redraw=True)
    config = TrainConfig(steps=1, batch=4000, length=12)
    first, second = (lessons.batch(config, n)[0].x.double() for n in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, lessons.batch(config, 0)[0].x.double())
    share = first.view(-1, 3).mean(0)
    assert share[0] == 0 and share[2] == 1
    assert abs(share[1] - 0.2) < (np.log(2 / FALSE_ALARM) / 32000) ** 0.5


def test_held_out_nats_are_those_of_the_model() -> None:
    torch.manual_seed(0)
    model = PixelCNN(PixelCNNConfig(SPACE, 2, 8, 8, kernel=3))
    held = drawn(7)
    nats, units = Pictures(drawn(9), held).held_out_nats(model)
    x = torch.from_numpy(held.astype(np.int64))
    assert units == 84 and model.training
    with torch.no_grad():
        wanted = float(-model(x).log_prob(x).sum())
    assert nats == pytest.approx(wanted, rel=FLOAT32)
    assert picture_nats(model, held).sum() == pytest.approx(wanted, rel=FLOAT32)


def test_equal_pictures_are_on_one_side_and_the_cache_is_found_again(tmp_path: Path) -> None:
    some = drawn(30).reshape(30, 3, 4) * 255
    pixels = np.concatenate([some, some, some])
    codec = PixelCodec(3, 4, levels=2, labels=("a", "b"))
    labels = ["ab"[i % 2] for i in range(30)] * 3
    lessons = prepare_pictures(pixels, labels, codec, tmp_path)
    train, held = ({row.tobytes() for row in part} for part in (lessons.train, lessons.held_out))
    assert held and not train & held
    assert len(lessons.train) + len(lessons.held_out) == 90
    assert lessons.labels is not None and lessons.held_out_labels is not None
    by_content = {p.tobytes(): "ab".index(n) for p, n in zip(pixels, labels, strict=True)}
    for row, label in zip(lessons.train, lessons.labels, strict=True):
        assert by_content[(row.reshape(3, 4) * 255).astype(np.uint8).tobytes()] == label
    assert lessons.folder is not None
    written = (lessons.folder / "train").stat().st_mtime_ns
    again = prepare_pictures(pixels, labels, codec, tmp_path)
    assert (lessons.folder / "train").stat().st_mtime_ns == written
    assert np.array_equal(again.train, lessons.train)
    both = opened(lessons.folder, 12)
    assert both is not None and np.array_equal(both[1], lessons.held_out)
    before = np.array(lessons.train)
    (lessons.folder / "train").write_bytes(b"cut")  # damaged: encoded anew
    mended = prepare_pictures(pixels, labels, codec, tmp_path)
    assert np.array_equal(mended.train, before)


def test_one_picture_is_nothing_to_learn(tmp_path: Path) -> None:
    for count in (1, 4):
        same = np.zeros((count, 3, 4), np.uint8)
        with pytest.raises(ValueError, match=f"no two pictures differ, of {count} in all"):
            prepare_pictures(same, None, PixelCodec(3, 4), tmp_path)
    two = np.stack([np.zeros((3, 4), np.uint8), np.full((3, 4), 9, np.uint8)])
    lessons = prepare_pictures(two, None, PixelCodec(3, 4), tmp_path)
    assert len(lessons.train) == len(lessons.held_out) == 1


def test_blanks_are_learned_under_their_label() -> None:
    """The loss that hybrid shows is that of the next symbols, given the label."""
    torch.manual_seed(0)
    model = Transformer(
        replace(transformer(SPACE, "tiny"), dim=16, context=32, labels=2, masked=True)
    ).eval()
    x, label = torch.from_numpy(drawn(4).astype(np.int64)), torch.tensor([0, 1, 1, -1])
    with torch.no_grad():
        assert model.labels is not None
        model.labels.table.weight.mul_(100)
    batch = Batch(x, (12,) * 4, Condition(label=label))
    for seed in range(4):
        loss, count = objective("hybrid", 1)(model, batch, Noise.seeded(seed, range(4)))
        wanted, plain = objective("nll", 0)(model, batch)
        assert float((loss / count).detach()) == pytest.approx(
            float((wanted / plain).detach()), rel=FLOAT32
        )
