"""GGUF: what is written is read, blocks mean what ggml's C says, and bad headers are refused."""

from __future__ import annotations

import re
import struct
import sys

import numpy as np
import pytest
import torch

from chainrule.formats import gguf as module
from chainrule.formats.gguf import GGUF, Entry, write_gguf
from chainrule.formats.gguf_blocks import BLOCKS, KINDS, PLAIN, pack, parts, row_bytes, wide
from tests.laws.tolerances import FLOAT32

U32, U64 = "<I", "<Q"


def text(value: bytes) -> bytes:
    return struct.pack(U64, len(value)) + value


def fact(key: bytes, code: int, value: bytes) -> bytes:
    return text(key) + struct.pack(U32, code) + value


def info(name: bytes, ne: tuple[int, ...], code: int = 0, offset: int = 0) -> bytes:
    dims = struct.pack(U32, len(ne)) + b"".join(struct.pack(U64, n) for n in ne)
    return text(name) + dims + struct.pack("<IQ", code, offset)


def build(facts=(), infos=(), size=128, version=3, keys=None, tensors=None) -> bytes:
    """A file by hand, so that the writer's mistakes aren't the reader's."""
    counts = len(infos) if tensors is None else tensors, len(facts) if keys is None else keys
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(facts) + b"".join(infos)
    return head + bytes(-len(head) % 32) + bytes(range(size))


@pytest.fixture
def opened(tmp_path):
    def call(data: bytes) -> GGUF:
        path = tmp_path / "x.gguf"
        path.write_bytes(data)
        return GGUF(path)

    return call


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_by_hand(opened, version):
    facts = [
        fact(b"a.u8", 0, b"\xff"),
        fact(b"a.i8", 1, b"\xff"),
        fact(b"a.i16", 3, struct.pack("<h", -300)),
        fact(b"a.f32", 6, struct.pack("<f", 0.5)),
        fact(b"a.yes", 7, b"\1"),
        fact(b"a.text", 8, text("ß\n".encode())),
        fact(b"a.u64", 10, struct.pack(U64, 2**64 - 1)),
        fact(b"a.f64", 12, struct.pack("<d", 0.1)),
        fact(b"a.texts", 9, struct.pack("<IQ", 8, 2) + text(b"p") + text(b"")),
        fact(b"a.none", 9, struct.pack("<IQ", 4, 0)),
        fact(b"a.lists", 9, struct.pack("<IQIQbIQ", 9, 2, 1, 1, -7, 5, 0)),
    ]
    file = opened(build(facts, [info(b"m", (3, 2)), info(b"v", (4,), 1, 32)], version=version))
    values = [255, -1, -300, 0.5, True, "ß\n", 2**64 - 1, 0.1, ["p", ""], [], [[-7], []]]
    assert list(file.metadata.values()) == values
    assert [type(v) for v in file.metadata.values()] == [type(v) for v in values]
    begin = file.path.stat().st_size - 128
    assert file.tensors["m"] == Entry("m", "F32", (2, 3), begin, 24)
    assert (file.tensors["m"].rows, file.tensors["m"].columns) == (2, 3)
    assert file.raw("m", 1).tolist() == [list(range(12, 24))]
    whole = torch.frombuffer(bytearray(range(24)), dtype=torch.float32).view(2, 3)
    assert torch.equal(file.floats("m"), whole)
    assert torch.equal(file.floats("m", 1, 1), whole[1:])
    assert file.floats("m", 2, 0).shape == (0, 3)
    assert file.floats("v").shape == (4,) and file.floats("v").dtype == torch.float16


ALIGN = b"general.alignment"
BAD = {
    "not a GGUF file": b"GGML" + bytes(40),
    "truncated": b"GGUF\3\0",
    "version 1;": build(version=1),
    "version 4;": build(version=4),
    "big-endian": build(version=3 << 24),
    "header: 4,294,967,296 tensors": build(tensors=2**32),
    "header: 65,537 keys": build(keys=2**16 + 1),
    "key 1 of 1: a name of 18,446,744,073,709,551,615 bytes": build(
        [struct.pack(U64, 2**64 - 1)], keys=1
    ),
    "key 2 of 2: 'a' is there twice": build([fact(b"a", 0, b"\1")] * 2),
    "key 1 of 1: its name is not UTF-8": build([fact(b"\xff\xfe", 0, b"\1")]),
    "key 'a': unknown type 13": build([fact(b"a", 13, bytes(8))]),
    "key 'a': a truth value": build([fact(b"a", 7, b"\2")]),
    "key 'a': text 1 of 1 goes beyond": build([fact(b"a", 8, struct.pack(U64, 2**63))]),
    "key 'a': text 1 of 1 is not UTF-8": build([fact(b"a", 8, text(b"\xff"))]),
    "key 'a': a list of 1,099,511,627,776": build([fact(b"a", 9, struct.pack("<IQ", 0, 2**40))]),
    "key 'a': 16,000,000 bytes of": build([fact(b"a", 9, struct.pack("<IQ", 10, 2_000_000))]),
    "key 'a': lists in lists": build([fact(b"a", 9, struct.pack("<IQ", 9, 1) * 9)]),
    "text 2 of 4000000 goes": build([fact(b"a", 9, struct.pack("<IQ", 8, 4_000_000))], size=0),
    "'general.alignment': 0": build([fact(ALIGN, 4, bytes(4))]),
    "'general.alignment': 48": build([fact(ALIGN, 4, struct.pack(U32, 48))]),
    "'general.alignment': 2147483648": build([fact(ALIGN, 4, struct.pack(U32, 2**31))]),
    "'general.alignment': True": build([fact(ALIGN, 7, b"\1")]),
    "one of 3 parts": build([fact(b"split.count", 2, struct.pack("<H", 3))]),
    "tensor 1 of 1: its name": build(infos=[info(b"\xff", (1,))]),
    "tensor 2 of 2: 't' is there twice": build(infos=[info(b"t", (1,))] * 2),
    "'t': 0 dimensions": build(infos=[info(b"t", ())]),
    "'t': 5 dimensions": build(infos=[info(b"t", (1,) * 5)]),
    "'t': shape [2, 0]": build(infos=[info(b"t", (0, 2))]),
    "'t': IQ2_XS, which": build(infos=[info(b"t", (256,), 17)]),
    "'t': unknown type 99, which": build(infos=[info(b"t", (256,), 99)]),
    "'t': rows of 33": build(infos=[info(b"t", (33,), 8)]),
    "'t': offset 8 is not": build(infos=[info(b"t", (1,), 0, 8)]),
    "'t': 132 bytes at": build(infos=[info(b"t", (33,))]),
    "'t': 4 bytes at": build(infos=[info(b"t", (1,), 0, 128)]),
    "'t': 4 bytes at 18,446,": build(infos=[info(b"t", (1,), 0, 2**64 - 32)]),
    "'t': 73,786,976,294,838,206,464 bytes": build(infos=[info(b"t", (2**32, 2**32))]),
    "'u': overlaps tensor 't'": build(infos=[info(b"t", (9,)), info(b"u", (1,), 0, 32)]),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_headers_are_refused_by_name(opened, tmp_path, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        opened(BAD[message])
    found = str(caught.value)
    assert found.startswith(str(tmp_path / "x.gguf")) and "\n" not in found


def test_every_truncation_is_refused(opened):
    facts = [fact(b"a", 9, struct.pack("<IQ", 8, 2) + text(b"pq") + text(b"r"))]
    whole = build(facts, [info(b"t", (32,))])
    opened(whole)
    for length in range(len(whole)):
        with pytest.raises(ValueError, match=r"x\.gguf"):
            opened(whole[:length])


def test_what_is_not_there(opened, tmp_path):
    for path in (tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(ValueError, match="no such file"):
            GGUF(path)
    file = opened(build(infos=[info(b"t", (8, 4))]))
    with pytest.raises(ValueError, match="'u' is missing"):
        file.floats("u")
    for first, count in [(-1, 1), (0, 5), (4, 1), (0, -1), (5, None), (0, 10**15)]:
        for read in (file.raw, file.floats):
            with pytest.raises(ValueError, match="'t' has 4 rows"):
                read("t", first, count)
    with file.path.open("rb+") as raw:
        raw.truncate(100)
    with pytest.raises(OSError, match="in the middle of tensor 't'"):
        file.floats("t")


def random_rows(kind: str, rows: int, columns: int) -> np.ndarray:
    """Blocks with finite scales, by way of the bits: exponents below the largest."""
    block, size = BLOCKS[kind]
    rng = np.random.default_rng(size)
    raw = rng.integers(0, 256, (rows, columns // block, size), np.uint8)
    for at in {"Q4_1": (1, 3), "Q4_K": (1, 3), "Q6_K": (209,), "F32": (3,)}.get(kind, (1,)):
        raw[..., at] &= 0xBB
    return raw.reshape(rows, -1)


def scalar(kind: str, raw: bytes) -> list[float]:
    """One block, number by number, as dequantize_row_* of ggml-quants.c goes through it."""
    half = lambda at: struct.unpack_from("<e", raw, at)[0]  # noqa: E731
    if kind == "Q8_0":
        return [half(0) * q for q in struct.unpack_from("32b", raw, 2)]
    if kind in ("Q4_0", "Q4_1"):
        low = {"Q4_0": -8 * half(0), "Q4_1": half(2)}[kind]
        q = raw[-16:]
        return [half(0) * v + low for v in [*(b & 15 for b in q), *(b >> 4 for b in q)]]
    out = [0.0] * 256
    if kind == "Q4_K":
        s = raw[4:16]
        for j in range(8):
            if j < 4:
                scale, low = s[j] & 63, s[j + 4] & 63
            else:
                scale = (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4)
                low = (s[j + 4] >> 4) | ((s[j] >> 6) << 4)
            for l in range(32):
                q = raw[16 + 32 * (j // 2) + l] >> (4 * (j % 2)) & 15
                out[32 * j + l] = half(0) * scale * q - half(2) * low
        return out
    for n in range(2):
        ql, qh, sc = raw[64 * n :], raw[128 + 32 * n :], struct.unpack_from("8b", raw, 192 + 8 * n)
        for l in range(32):
            qs = [ql[l] & 15, ql[l + 32] & 15, ql[l] >> 4, ql[l + 32] >> 4]
            for k in range(4):
                q = (qs[k] | (qh[l] >> (2 * k) & 3) << 4) - 32
                out[128 * n + 32 * k + l] = half(208) * sc[l // 16 + 2 * k] * q
    return out


@pytest.mark.parametrize("kind", [k for k in BLOCKS if k not in PLAIN])
def test_blocks_mean_what_c_says(kind):
    raw = random_rows(kind, 3, 512)
    found = wide(kind, raw, 512)
    assert found.dtype == np.float32 and found.shape == (3, 512)
    size = BLOCKS[kind][1]
    data = raw.tobytes()
    blocks = [scalar(kind, data[at : at + size]) for at in range(0, len(data), size)]
    np.testing.assert_allclose(found, np.reshape(blocks, (3, 512)), rtol=FLOAT32, atol=FLOAT32)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_parts_are_the_same_numbers(kind):
    raw = random_rows(kind, 5, 96)
    data, scale, minimum = parts(kind, raw, 96)
    assert scale.dtype == torch.float16 and scale.shape == (5, 3) and scale.is_contiguous()
    assert (minimum is None) == (kind != "Q4_1")
    q = data
    if kind != "Q8_0":
        assert data.dtype == torch.uint8 and data.shape == (5, 48)
        q = torch.stack([data & 15, data >> 4], -1).flatten(1).to(torch.int8)
    assert q.dtype == torch.int8 and q.shape == (5, 96)
    out = (q - 8 if kind == "Q4_0" else q).float() * scale.float().repeat_interleave(32, 1)
    if minimum is not None:
        out += minimum.float().repeat_interleave(32, 1)
    assert np.array_equal(out.numpy(), wide(kind, raw, 96))
    with pytest.raises(ValueError, match="Q4_K has more"):
        parts("Q4_K", raw, 96)


def test_rounding():
    x = torch.tensor([[-127.0, 0.5, -0.5, 1.5, -2.5, 0.49999997, 126.5] + [0.0] * 25])
    (row,) = pack("Q8_0", x)
    assert row[:2].view(np.float16) == 1
    assert row[2:9].view(np.int8).tolist() == [-127, 1, -1, 2, -3, 0, 127]
    y = torch.tensor([[4.0, -4.0, 3.7, -3.7, 0.2, -0.2] + [0.0] * 26])  # the first of a tie is -8
    assert wide("Q4_0", pack("Q4_0", y), 32)[0, :6].tolist() == [4, -3.5, 3.5, -3.5, 0, 0]
    for kind in ("Q8_0", "Q4_0"):
        assert not wide(kind, pack(kind, torch.zeros(2, 64)), 64).any()
        assert not wide(kind, pack(kind, torch.full((1, 32), 1e-44)), 32).any()
        for bad in (1e38, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=r"too large for|not finite"):
                pack(kind, torch.full((1, 32), bad))
    with pytest.raises(ValueError, match="70000 is too large for F16"):
        pack("F16", torch.tensor([[7e4]]))
    with pytest.raises(ValueError, match="Q6_K is not written"):
        pack("Q6_K", torch.zeros(1, 256))
    with pytest.raises(ValueError, match="Q5_0 is not read here"):
        row_bytes("Q5_0", 32)
    with pytest.raises(ValueError, match="not rows of 64 in Q8_0"):
        wide("Q8_0", np.zeros((1, 34), np.uint8), 64)


def test_what_is_written_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 4096)  # many steps
    path = tmp_path / "x.gguf"
    facts = {
        "a": "ß",
        "b": True,
        "c": 3,
        "d": -3,
        "e": 2**32 - 1,
        "f": 2**64 - 1,
        "g": -(2**63),
        "h": 0.25,
        "i": ["", "x\n"],
        "j": [1, -2],
        "k": [2**40],
        "l": [0.5, float("inf")],
        "m": [False],
        "n": [],
    }
    x = torch.randn(33, 256)
    raws = {kind: random_rows(kind, 33, 256) for kind in BLOCKS}
    asked = []

    def rows(first, count):
        asked.append((first, count))
        return x[first : first + count]

    tensors = [(f"raw.{k}", (33, 256), k, torch.from_numpy(raws[k])) for k in BLOCKS]
    tensors += [(f"new.{k}", (33, 256), k, rows) for k in (*PLAIN, "Q8_0", "Q4_0")]
    tensors += [("cube", (3, 11, 256), "F32", x), ("vector", (256,), "F16", x[0])]
    write_gguf(path, facts, iter(tensors))
    file = GGUF(path)
    assert file.metadata == facts and list(file.tensors) == [t[0] for t in tensors]
    assert max(count for _, count in asked) == 4 and len(asked) == 5 * 9
    for kind in BLOCKS:
        assert file.tensors[f"raw.{kind}"].kind == kind
        assert np.array_equal(file.raw(f"raw.{kind}"), raws[kind])
        if kind not in PLAIN:
            assert np.array_equal(file.floats(f"raw.{kind}"), wide(kind, raws[kind], 256))
            assert np.array_equal(
                file.floats(f"raw.{kind}", 5, 20), wide(kind, raws[kind], 256)[5:25]
            )
    for kind, dtype in PLAIN.items():
        assert torch.equal(file.floats(f"new.{kind}"), x.to(dtype))
    assert np.array_equal(file.raw("new.Q8_0"), pack("Q8_0", x))
    assert torch.equal(file.floats("cube"), x.view(3, 11, 256))
    assert torch.equal(file.floats("cube", 11, 11), x[11:22])
    assert torch.equal(file.floats("vector"), x[0].half())
    assert {KINDS[code] for code in KINDS} == set(BLOCKS)


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"old")
    row = torch.zeros(1, 32)
    for message, facts, tensors in [
        ("key 'a'", {"a": None}, []),
        ("key 'a'", {"a": [1, "x"]}, []),
        ("key 'a'", {"a": [[1]]}, []),
        ("key 'a'", {"a": 2**64}, []),
        ("key 'a'", {"a": "\ud800"}, []),
        ("general.alignment", {"general.alignment": 3}, []),
        ("twice", {}, [("t", (32,), "F32", row)] * 2),
        ("longer than 63", {}, [("t" * 64, (32,), "F32", row)]),
        ("1 to 4 dimensions", {}, [("t", (0, 32), "F32", row)]),
        ("not whole blocks of 32", {}, [("t", (31,), "Q8_0", row)]),
        (r"'t': rows \[1, 32\] were given", {}, [("t", (64,), "Q8_0", row)]),
        ("'t': numbers that are not finite", {}, [("t", (32,), "Q8_0", row / 0)]),
    ]:
        with pytest.raises(ValueError, match=message):
            write_gguf(path, facts, tensors)
    with pytest.raises(OSError, match="its 320 bytes could not be written"):
        write_gguf(tmp_path / "no" / "x", {}, [("t", (64,), "F32", row.expand(2, 32))])
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="its limits are Linux's")
@pytest.mark.parametrize(
    ("name", "cases"), [("gguf", 1500), ("model", 500), ("safetensors", 1500), ("template", 500)]
)
def test_a_little_fuzzing(name, cases):
    if name == "template":
        pytest.importorskip("jinja2")
    from tests import fuzz

    counts = fuzz.fuzz(name, range(cases))
    assert counts["read"] > cases / 20 and counts["refused"] > cases / 2
