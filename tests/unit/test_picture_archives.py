"""Pictures in archives and arrays: what is read, what is bounded, what is damaged."""

import gzip
import struct
import tarfile

import numpy as np
import pytest

from chainrule.training import picture_arrays, picture_bytes, picture_files
from chainrule.training.picture_files import is_pictures
from tests.unit.picture_file_examples import (
    COLOUR,
    DICE,
    GREY,
    LARGE,
    PNG,
    arrays,
    put,
    read,
    refused,
    saved,
    tarred,
    zipped,
)

# ---- archives ----

MEMBERS = {
    "b.png": PNG,
    "a.png": saved(COLOUR),
    "notes.txt": b"text",
    ".a.png": b"hidden",
    "__MACOSX/._a.png": b"hidden",
    "../../c.png": PNG,
    "bad\n.png": b"bad",
}


@pytest.mark.parametrize("mode", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_archives(tmp_path, mode):
    path = tmp_path / f"photos.{mode}"
    if mode == "zip":
        zipped(path, MEMBERS)
    else:
        tarred(path, MEMBERS, "w:" + mode[4:])
    found, skipped = read(path)
    order = (
        ("../../c.png", "a.png", "b.png") if mode == "zip" else ("b.png", "a.png", "../../c.png")
    )
    assert [p.name for p in found] == [f"{path}:{name}" for name in order]
    shapes = {p.name.rpartition(":")[2]: p.pixels.shape for p in found}
    assert shapes["a.png"] == (6, 5, 3) and shapes["b.png"] == (6, 5, 1)
    assert skipped == [f"{path}:bad?.png: not a PNG, JPEG, WebP or BMP picture: save it as PNG"]
    assert is_pictures(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing was unpacked
    assert not any((folder / "c.png").exists() for folder in tmp_path.parents)


@pytest.mark.parametrize("mode", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_damaged_archives(tmp_path, mode):
    path = tmp_path / f"photos.{mode}"
    members = {f"{i}.png": saved(LARGE) for i in range(3)}
    if mode == "zip":
        zipped(path, members)
    else:
        tarred(path, members, "w:" + mode[4:])
    data = path.read_bytes()
    for wrong in (data[: len(data) // 2], b"not an archive" * 100, b""):
        path.write_bytes(wrong)
        assert refused(path).startswith(f"{path}: truncated, too large or no archive (")


@pytest.mark.parametrize("mode", ["tar", "tar.gz"])
def test_a_tar_that_was_cut_between_members(tmp_path, mode):
    plain = tarred(tmp_path / "plain.tar", {f"{i}.png": PNG for i in range(3)}, "w")
    with tarfile.open(plain) as archive:
        third, end = archive.getmembers()[2].offset, archive.offset
    path = tmp_path / f"photos.{mode}"
    data = plain.read_bytes()
    pack = gzip.compress if mode == "tar.gz" else bytes
    for wrong in (data[:third], data[:end], data[: end + 100], data[:third] + b"?" * 1024):
        put(path, pack(wrong))
        assert refused(path) == f"{path}: truncated, too large or no archive (its end is missing)"
        assert is_pictures(path)  # so that fit says the same
    put(path, pack(data[: end + 512]))  # every member is there
    assert len(read(path)[0]) == 3


def test_a_damaged_member_is_skipped(tmp_path):
    path = zipped(tmp_path / "a.zip", {"1.png": saved(LARGE), "2.png": PNG})
    data = bytearray(path.read_bytes())
    data[200] ^= 255
    path.write_bytes(data)
    found, skipped = read(path)
    assert len(found) == 1
    assert skipped == [f"{path}:1.png: damaged in its archive: fetch that again"]
    data = bytearray(zipped(path, {"1.png": PNG}).read_bytes())
    for at in (6, data.rfind(b"PK\1\2") + 8):  # it says that it is encrypted
        data[at] |= 1
    path.write_bytes(data)
    assert f"{path}:1.png: encrypted: unpack it first" in refused(path)


def test_no_link_is_followed(tmp_path):
    secret = put(tmp_path / "secret.png", PNG)
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo("link.png")
            member.type, member.linkname = kind, str(secret)
            archive.addfile(member)
    assert refused(path) == f"{path}: no PNG, JPEG, WebP or BMP in it"
    assert not is_pictures(path)


def test_bounds_of_archives(tmp_path, monkeypatch):
    members = {f"{i}.png": PNG for i in range(4)} | {"zero.png": bytes(5000)}
    sources = [zipped(tmp_path / "a.zip", members), tarred(tmp_path / "b.tar.gz", members, "w:gz")]
    with monkeypatch.context() as patch:
        patch.setattr(picture_bytes, "MOST_BYTES", 4000)
        for path in sources:
            found, skipped = read(path)
            assert len(found) == 4 and f"{path}:zero.png: 5,000 bytes are too many" in skipped[0]
    with monkeypatch.context() as patch:
        patch.setattr(picture_files, "MOST_MEMBERS", 3)
        for path in sources:
            assert "(more than 3 members)" in refused(path)
    with monkeypatch.context() as patch:
        patch.setattr(picture_files, "MOST_UNPACKED", 3000)
        for path in sources:
            assert "it unpacks to more than 3,000 bytes" in refused(path)


def test_a_header_of_a_tar_is_bounded(tmp_path):
    """A pax header is read whole by the standard library, however long it says that it is."""
    member = tarfile.TarInfo("a.png")
    member.type, member.size = tarfile.XHDTYPE, 2**33
    path = put(tmp_path / "a.tar.gz", gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(4096)))
    assert "8,589,934,592 bytes are too many" in refused(path)
    member.size = -1024
    put(path, gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(4096)))
    assert "(a negative size)" in refused(path)
    member.type, member.size = tarfile.REGTYPE, 2**40  # unpacking would go on to its end
    put(path, gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(4096)))
    assert "(it unpacks to more than 17,179,869,184 bytes)" in refused(path)


def test_archives_that_are_labels(tmp_path):
    for name in ("cats", "dogs"):
        zipped(tmp_path / f"{name}.zip", {"1.png": PNG, "2.png": PNG})
    found, _ = read([tmp_path / "cats.zip", tmp_path / "dogs.zip"])
    assert [p.label for p in found] == ["cats", "cats", "dogs", "dogs"]


# ---- arrays ----


def test_arrays(tmp_path):
    many = DICE.integers(0, 256, (7, 6, 5), dtype=np.uint8)
    y = np.arange(7) % 3
    path = arrays(tmp_path / "a.npz", test_images=many[:2], train_images=many, train_labels=y)
    assert is_pictures(path)
    found, skipped = read(path)
    assert np.array_equal(np.stack([p.pixels[..., 0] for p in found]), many)
    assert skipped == [f"{path}: test_images, as train_images is taken (--field)"]
    assert [p.label for p in found] == [str(k) for k in y]
    assert found[3].name == f"{path}[3]"
    assert len(read(path, array="test_images")[0]) == 2
    assert read(path, array="test_images")[0][0].label is None  # there are 7 labels and 2 pictures
    for shape in ((7, 6, 5, 1), (7, 6, 5, 3), (7, 6, 5, 4)):
        x = DICE.integers(0, 256, shape, dtype=np.uint8)
        found, _ = read(arrays(path, a=np.asfortranarray(x), y=y.astype(str)))
        assert np.array_equal(np.stack([p.pixels for p in found]), x)
        assert found[4].label == "1"
    found, _ = read(arrays(path, picture=GREY))
    assert len(found) == 1 and np.array_equal(found[0].pixels[..., 0], GREY)
    found, _ = read(arrays(path, data=np.zeros((7, 30)), images=many, target=y[:, None]))
    assert len(found) == 7 and found[2].label == "2"
    found, _ = read(arrays(path, x_test=many, y_test=y, y_train=1 - y), array="x_test")
    assert found[2].label == "2"
    found, _ = read([arrays(path, images=many), put(tmp_path / "b.png", PNG)])
    assert len(found) == 8


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (GREY > 99, (GREY > 99) * 255),
        ((GREY > 99).astype(np.uint8), (GREY > 99) * 255),
        ((GREY > 99).astype(np.int64), (GREY > 99) * 255),
        (GREY.astype(np.int32), GREY),
        (GREY.astype(">u2"), GREY),
        (GREY / 255, GREY),
        ((GREY / 255).astype(np.float32), GREY),
        (GREY * 0, GREY * 0),
    ],
)
def test_numbers_of_any_kind(tmp_path, given, expected):
    (found,), _ = read(arrays(tmp_path / "a.npz", images=given[None]))
    assert found.pixels.dtype == np.uint8 and np.array_equal(found.pixels[..., 0], expected)


def with_header(path, text, data=b""):
    body = f"{text:<117}\n".encode()
    raw = b"\x93NUMPY\1\0" + struct.pack("<H", len(body)) + body + data
    return zipped(path, {"images.npy": raw})


@pytest.mark.parametrize(
    ("given", "options", "problem"),
    [
        ({"a": np.zeros((2, 6, 5)), "b": np.zeros((2, 6, 5))}, {}, "which array has the pictures?"),
        (
            {"a": np.zeros((2, 6, 5)), "b": np.zeros((2, 6, 5))},
            {},
            r"Say --field KEY; there are: a \(float64 \[2, 6, 5\]\), b",
        ),
        (
            {"images": np.zeros((2, 6, 5))},
            {"array": "image"},
            "no array 'image' .* did you mean 'images'",
        ),
        (
            {"images": np.zeros((2, 6, 5)), "y": np.arange(2)},
            {"array": "y"},
            "y is int64 .*: no pictures",
        ),
        ({"y": np.arange(5)}, {}, "no array has pictures"),
        ({"images": np.zeros((2, 3, 6, 5))}, {}, "no array has pictures"),
        ({"images": np.zeros((0, 6, 5))}, {}, "no array has pictures"),
        ({"images": np.full((1, 6, 5), 16.0)}, {}, "images holds 16 to 16: floats must be 0 to 1"),
        ({"images": np.full((1, 6, 5), np.nan)}, {}, "floats must be 0 to 1"),
        ({"images": np.full((1, 6, 5), -1)}, {}, "holds -1 to -1: whole numbers must be 0 to 255"),
        ({"images": np.full((1, 6, 5), 256)}, {}, "whole numbers must be 0 to 255"),
        ({"images": np.zeros((1, 6, 5), complex)}, {}, "no array has pictures"),
        ({"images": GREY[None], "labels": np.arange(2)}, {}, r"labels is int64 \[2\], and images"),
        ({"images": GREY[None]}, {"labels": "a.csv"}, "its labels are an array in it, not a.csv"),
    ],
)
def test_arrays_that_are_no_pictures(tmp_path, given, options, problem):
    with pytest.raises(ValueError, match=problem) as error:
        read(arrays(tmp_path / "a.npz", **given), **options)
    assert str(error.value).startswith(f"{tmp_path / 'a.npz'}: ")


def test_arrays_that_can_not_be_trusted(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    objects = np.empty((2, 3, 3), object)
    np.savez(path, images=objects, allow_pickle=True)
    assert "no array has pictures" in refused(path)
    shape = "{'descr': '|u1', 'fortran_order': False, 'shape': %s, }"
    for text, problem in (
        (shape % "(100000, 100000, 100000)", "has 1,000,000,000,000,000 bytes, 2,147,483,648 at"),
        (shape % "(4, 6, 5)", "images ends after 30 of 120 bytes: save it again"),
        (shape % "(-4, -6, 5)", "which can't be"),
        (shape % "(2, 'a')", "truncated, or no array of NumPy's"),
        ("__import__('os')", "truncated, or no array of NumPy's"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1, 6, 5), }", "no array has pictures"),
    ):
        assert problem in refused(with_header(path, text, GREY.tobytes()))
    assert "truncated, or no array" in refused(zipped(path, {"images.npy": b"\x93NUMPY\1"}))
    data = arrays(path, images=LARGE).read_bytes()
    for wrong in (data[:100], b"", b"text" * 50):
        assert refused(put(path, wrong)) == f"{path}: truncated, or not an .npz: save it again"
    wrong = bytearray(data)
    wrong[1000] ^= 255
    assert "truncated, or not an .npz" in refused(put(path, bytes(wrong)))
    monkeypatch.setattr(picture_arrays, "_MOST_ARRAYS", 1)
    assert "2 arrays are too many" in refused(arrays(path, a=GREY, b=GREY))
