"""Reading pictures: every format, folders, labels, and every kind of bad file."""

import io
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from chainrule.training import picture_bytes
from chainrule.training.picture_files import is_pictures, label_order, read_picture
from tests.unit.picture_file_examples import (
    COLOUR,
    DICE,
    GREY,
    LARGE,
    PNG,
    animated,
    arrays,
    header,
    put,
    read,
    refused,
    saved,
    tarred,
    turned,
    zipped,
)

# ---- one picture ----


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
@pytest.mark.parametrize("picture", [GREY, COLOUR], ids=["grey", "colour"])
def test_formats_without_loss(kind, picture, tmp_path):
    options = {"lossless": True} if kind == "WEBP" else {}
    path = put(tmp_path / "a", saved(picture, kind, **options))  # known by its first bytes
    found = read_picture(path)
    assert found.name == str(path) and found.label is found.split is None
    assert found.pixels.dtype == np.uint8 and found.pixels.shape[:2] == (6, 5)
    assert (found.pixels == picture.reshape(6, 5, -1)).all()
    assert read(path)[0][0].pixels.shape == found.pixels.shape
    assert is_pictures(path) and is_pictures(str(path))


NAMES = [
    "1",
    "P-grey",
    "P",
    "RGBA-opaque",
    "LA-opaque",
    "LA",
    "RGBA",
    "tRNS-L",
    "tRNS-1",
    "tRNS-P",
    "exif",
    "tiny",
]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (saved(Image.fromarray(GREY > 99)), (GREY[..., None] > 99) * 255),
        (saved(Image.fromarray(GREY // 32 * 32).quantize(8)), GREY[..., None] // 32 * 32),
        (saved(Image.fromarray(COLOUR // 128 * 255).quantize(8)), COLOUR // 128 * 255),
        (saved(Image.fromarray(COLOUR).convert("RGBA")), COLOUR),
        (saved(Image.fromarray(GREY).convert("LA")), GREY[..., None]),
        (
            saved(np.stack([GREY, 255 - GREY], -1)),
            np.stack([GREY, GREY, GREY, 255 - GREY], -1),
        ),
        (saved(np.concatenate([COLOUR, GREY[..., None]], -1)), np.dstack([COLOUR, GREY])),
        (
            saved(GREY, transparency=int(GREY[0, 0])),
            np.dstack([GREY] * 3 + [(GREY[0, 0] != GREY) * 255]),
        ),
        (
            saved(Image.fromarray(GREY > 99), transparency=0),
            np.dstack([(GREY > 99) * 255] * 4),
        ),
        (
            saved(Image.fromarray(COLOUR // 128 * 255).quantize(8), transparency=bytes([255] * 8)),
            COLOUR // 128 * 255,
        ),
        (turned("PNG"), np.rot90(COLOUR, 3)),
        (header(1, 1, saved(np.full((1, 1), 7, np.uint8))), np.full((1, 1, 1), 7)),
    ],
    ids=[
        *[
            "1",
            "P-grey",
            "P",
            "RGBA-opaque",
            "LA-opaque",
            "LA",
            "RGBA",
            "tRNS-L",
            "tRNS-1",
            "tRNS-P",
            "exif",
            "tiny",
        ]
    ],
)
def test_modes(data, expected, tmp_path):
    found = read_picture(put(tmp_path / "a.png", data)).pixels
    assert found.dtype == np.uint8 and found.shape == expected.shape
    assert (found == expected).all()


def test_jpeg(tmp_path):
    smooth = np.add.outer(np.arange(24) * 5, np.arange(16) * 3).astype(np.uint8)
    exif = Image.Exif()
    exif[0x112] = 6
    path = put(tmp_path / "a.jpg", saved(smooth, "JPEG", quality=95, exif=exif))
    found = read_picture(path).pixels
    assert found.shape == (16, 24, 1)
    assert np.abs(found[..., 0].astype(int) - np.rot90(smooth, 3)).max() < 8
    assert read_picture(put(tmp_path / "b.jpg", turned("JPEG"))).pixels.shape == (5, 6, 3)


BAD = {
    "truncated.png": (saved(LARGE)[:-400], "truncated or damaged: fetch it again"),
    "head.png": (PNG[:24], "truncated or damaged"),
    "truncated.jpg": (saved(LARGE, "JPEG")[:-100], "truncated or damaged"),
    "truncated.webp": (saved(LARGE, "WEBP")[:-100], "truncated or damaged"),
    "truncated.bmp": (saved(LARGE, "BMP")[:-100], "truncated or damaged"),
    "checksum.png": (PNG[:45] + b"xyz" + PNG[48:], "truncated or damaged"),
    "huge.png": (header(50_000, 50_000), "its header says 50,000 x 50,000 pixels, 67,108,864 at"),
    "lying.png": (PNG[:16] + b"\0\0\xff\xff" * 2 + PNG[24:], "its header says 65,535 x 65,535"),
    "large.png": (header(9_000, 9_000), "its header says 9,000 x 9,000 pixels"),
    "huge.bmp": (
        saved(GREY, "BMP")[:18] + struct.pack("<ii", 50_000, 50_000) + saved(GREY, "BMP")[26:],
        "its header says 2,500,000,000 pixels",
    ),
    "large.bmp": (
        saved(GREY, "BMP")[:18] + struct.pack("<ii", 9_000, 9_500) + saved(GREY, "BMP")[26:],
        "its header says 9,500 x 9,000 pixels",
    ),
    "cmyk.jpg": (saved(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"), "CMYK: convert it to RGB"),
    "moving.png": (animated("PNG"), "an animation of 2 frames: save one of them"),
    "moving.webp": (animated("WEBP"), "an animation of 2 frames"),
    "deep.png": (
        saved(GREY.astype(np.uint16) * 256),
        "more than 8 bits a channel: convert it to 8",
    ),
    "moving.gif": (animated("GIF"), "not a PNG, JPEG, WebP or BMP picture: save it as PNG"),
    "text.png": (b"hello", "not a PNG, JPEG, WebP or BMP"),
    "empty.png": (b"", "not a PNG, JPEG, WebP or BMP"),
    "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a PNG, JPEG, WebP or BMP"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name, tmp_path):
    data, problem = BAD[name]
    path = put(tmp_path / name, data)
    for take in (lambda: read_picture(path), lambda: read(path)):
        with pytest.raises(ValueError, match=problem) as error:
            take()
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_deep_colours_are_not_cut_to_eight_bits(tmp_path):
    """Pillow would drop the lower half of them without a word."""
    rows = b"".join(b"\0" + DICE.bytes(2 * 3 * 2) for _ in range(2))
    parts = [b"IHDR" + struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0), b"IDAT" + zlib.compress(rows)]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(p) - 4) + p + struct.pack(">I", zlib.crc32(p))
        for p in (*parts, b"IEND")
    )
    assert Image.open(io.BytesIO(data)).mode == "RGB"
    assert "more than 8 bits" in refused(put(tmp_path / "a.png", data))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_damage_is_one_line_or_a_picture(kind):
    data = saved(LARGE[:12, :12], kind)
    for _ in range(150):
        wrong = bytearray(data[: DICE.integers(1, len(data) + 1)])
        for _ in range(DICE.integers(0, 4)):
            wrong[DICE.integers(len(wrong))] = DICE.integers(256)
        try:
            assert picture_bytes.decode_picture(bytes(wrong)).dtype == np.uint8
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_limits_without_warnings(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_bytes, "MOST_BYTES", len(PNG))
    read_picture(put(tmp_path / "a.png", PNG))
    path = put(tmp_path / "b.png", PNG + b"\0")
    assert "bytes are too many for a picture" in refused(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "truncated" in refused(put(tmp_path / "c.png", header(8_000, 8_000)))


def test_without_pillow(tmp_path, monkeypatch):
    put(tmp_path / "data" / "a.png", PNG)
    digits = arrays(tmp_path / "a.npz", images=GREY[None])
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert refused(tmp_path / "data") == "pictures need Pillow: pip install 'chainrule[image]'"
    assert len(read(digits)[0]) == 1


# ---- folders ----


def test_a_folder(tmp_path):
    names = ["b.PNG", "a.jpg", "c/d.webp"]
    for name in names:
        put(tmp_path / "photos" / name, PNG)
    for name in (".hidden.png", ".git/x.png", "notes.txt", "labels.csv", "c/.DS_Store", "e.zip"):
        put(tmp_path / "photos" / name, "no picture")
    for name in ("truncated.png", "cmyk.jpg", "moving.gif"):
        put(tmp_path / "photos" / name, BAD[name][0])
    found, skipped = read(tmp_path / "photos")
    assert [p.name for p in found] == [str(tmp_path / "photos" / n) for n in sorted(names)]
    assert all(p.label is None for p in found)  # some lie in a folder and some don't
    assert [line.partition(": ")[0] for line in skipped] == [
        str(tmp_path / "photos" / n) for n in ("cmyk.jpg", "moving.gif", "truncated.png")
    ]
    (tmp_path / "photos" / "e.zip").unlink()
    assert len(read([tmp_path / "photos" / n for n in (*names, "notes.txt")])[0]) == 3
    assert len(read(str(tmp_path / "photos" / "*"))[0]) == 2
    assert len(read(str(tmp_path / "photos" / "**" / "*"))[0]) == 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr"])
def test_a_picture_of_pillow_is_seen_as_its_file(mode):
    image = Image.fromarray(COLOUR).quantize(4)
    image = (image.convert("RGBA") if mode == "PA" else image).convert(mode)
    pixels = picture_bytes.image_pixels(image)
    same = image.convert("RGB") if mode in ("PA", "YCbCr") else image  # no PNG has these
    assert np.array_equal(pixels, picture_bytes.decode_picture(saved(same)))
    again = Image.open(io.BytesIO(saved(same)))
    assert np.array_equal(pixels, picture_bytes.image_pixels(again))


@pytest.mark.parametrize("mode", ["CMYK", "HSV", "I", "F"])
def test_a_picture_of_pillow_in_other_colours_is_refused(mode):
    with pytest.raises(ValueError, match=r"\A.*: convert it to (RGB|8 bits)\Z"):
        picture_bytes.image_pixels(Image.fromarray(GREY).convert("RGB").convert(mode))


def test_folders_without_a_picture(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    assert "the folder has no files" in refused(folder)
    put(folder / "a.txt", "a")
    put(folder / "b.csv", "b")
    assert refused(folder).endswith("no PNG, JPEG, WebP or BMP in it; there are: .csv, .txt")
    zipped(folder / "c.zip", {"a.png": PNG})
    assert "an archive in a folder is not read, name it alone" in refused(folder)
    for name in ("huge.png", "text.png"):
        put(folder / name, BAD[name][0])
    line = refused(folder)
    assert f"{folder}: no picture of 2 can be read; {folder / 'huge.png'}: its header" in line
    assert "no such file" in refused(tmp_path / "nothing")
    assert "standard input" in refused("-")
    assert "no files were given" in refused([])


@pytest.mark.parametrize(
    ("names", "labels", "splits"),
    [
        (["cat/1.png", "cat/2.png", "dog/1.png"], ["cat", "cat", "dog"], None),
        (["all/cat/1.png", "all/dog/1.png"], ["cat", "dog"], None),
        (["1.png", "cat/2.png"], None, None),
        (["cat/1.png", "dog/big/1.png"], None, None),
        (["cat/1.png", "cat/2.png"], None, None),  # one folder for all of them tells nothing
        (["test/1.png", "train/1.png"], None, ["test", "train"]),
        (
            ["Test/cat/1.png", "Train/cat/1.png", "Train/dog/1.png", "Val/dog/1.png"],
            ["cat", "cat", "dog", "dog"],
            ["test", "train", "train", "validation"],
        ),
    ],
)
def test_labels_are_sub_folders(tmp_path, names, labels, splits):
    for name in names:
        put(tmp_path / "photos" / name, PNG)
    members = {f"photos/{name}": PNG for name in names}
    members["photos/read.me/x.txt"] = b"not a picture"
    one, other = zipped(tmp_path / "a.zip", members), tarred(tmp_path / "b.tgz", members, "w:gz")
    for source in (tmp_path / "photos", one, other):
        found, _ = read(source)
        assert [p.label for p in found] == (labels or [None] * len(names))
        assert [p.split for p in found] == (splits or [None] * len(names))


def test_the_order_of_labels():
    assert label_order(["b", "a", "b"]) == ("a", "b")
    assert label_order(["10", "9", "1.5"]) == ("1.5", "9", "10")
    assert label_order(["10", "9", "x"]) == ("10", "9", "x")
    assert label_order([]) == ()


# ---- a table of labels ----


@pytest.mark.parametrize(
    "table",
    [
        "file,label\na.png,cat\nb.png,dog\nc/d.png,cat\n",
        "label;width;FileName\ncat;1;photos/a.png\ndog;2;b.png\ncat;3;d.png\n",
        "\ufeffa.png\tcat\nb.png\tdog\n\nc\\d.png\tcat\n",
        'image,class\n"./a.png", cat \nb.png,dog\na.png,cat\nphotos/c/d.png,cat',
    ],
)
def test_labels_of_a_table(tmp_path, table):
    for name in ("a.png", "b.png", "c/d.png"):
        put(tmp_path / "photos" / name, PNG)
    labels = put(tmp_path / "labels.csv", table)
    for source in (tmp_path / "photos", f"{tmp_path}/photos/**/*.png"):
        found, skipped = read(source, labels=labels)
        assert [p.label for p in found] == ["cat", "dog", "cat"] and not skipped


def test_tables_that_do_not_fit(tmp_path):
    for name in ("a.png", "b.png"):
        put(tmp_path / "photos" / name, PNG)
    labels = put(tmp_path / "l.csv", "file,label\na.png,cat\nx.png,dog\ny.png,dog\n")
    found, skipped = read(tmp_path / "photos", labels=str(labels))
    assert [p.label for p in found] == ["cat"]
    assert skipped == [
        f"{tmp_path / 'photos' / 'b.png'}: {labels} has no row for it",
        f"{labels}: rows that name no picture: 2; the first is x.png, line 3",
    ]
    for table, problem in (
        ("x.png,dog\n", "no row names a picture: the first says x.png, and the first picture is "),
        ("", "l.csv is empty"),
        ("id,species,age\na.png,cat,3\n", "line 1: which columns? Call them file and label; there"),
        ("file,label\na.png\n", "line 2: a file or its label is missing"),
        ("file,label\na.png,\n", "line 2: a file or its label is missing"),
        ("file,label\na.png,cat\n./a.png,dog\n", "line 3: ./a.png is 'dog', and 'cat' in line 2"),
        ('file,label\n"a.png,cat\n', "bad CSV"),
        (b"file,label\na.png,\xff\n", "not UTF-8 at byte 17"),
    ):
        assert problem in refused(tmp_path / "photos", labels=put(tmp_path / "l.csv", table))
    assert "No such file" in refused(tmp_path / "photos", labels=tmp_path / "none.csv")


# ---- what are pictures ----


def test_what_are_pictures(tmp_path):
    photos, texts = tmp_path / "photos", tmp_path / "texts"
    for name in ("a.png", "b.JPG", ".c", "d.csv"):
        put(photos / name, "?")
    for name in ("a.txt", "b.md", "logo.png"):
        put(texts / name, "?")
    empty = tmp_path / "empty"
    empty.mkdir()
    plain = zipped(tmp_path / "a.zip", {"a.txt": "text"})
    taken = [photos, str(photos), photos / "a.png", f"{photos}/*.png", [texts, photos]]
    assert all(map(is_pictures, taken))
    assert is_pictures(put(tmp_path / "bytes", saved(COLOUR, "WEBP")))
    assert is_pictures(put(tmp_path / "a.gif", "GIF89a"))  # so that it is said what to do
    others = [
        texts,
        texts / "a.txt",
        empty,
        tmp_path / "none",
        "-",
        plain,
        [],
        "a\0b",
        f"{texts}/*",
    ]
    assert not any(map(is_pictures, others))
    assert not is_pictures(put(tmp_path / "a.tar", "no archive"))
    for name in ("a.npz", "b.zip"):
        with pytest.raises(ValueError, match="this is no single picture"):
            read_picture(tmp_path / name)
    with pytest.raises(ValueError, match=r"none\.png: No such file"):
        read_picture(tmp_path / "none.png")
    with pytest.raises(ValueError, match="photos: this is no file"):
        read_picture(photos)
