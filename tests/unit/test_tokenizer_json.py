"""tokenizer.json: what real files have is read, and nothing else reaches the library."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers

from chainrule.codecs.text import BPECodec
from chainrule.codecs.tokenizer_json import REGEXES
from tests.models.tokenizers import ENDS, codec, definition

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PIECES = {
    "A": {"Sequence": {"id": "A", "type_id": 0}},
    "B": {"Sequence": {"id": "B", "type_id": 1}},
    "<s>": {"SpecialToken": {"id": "<s>", "type_id": 0}},
}
START = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}


def template(single: str = "<s> A", pair: str = "<s> A <s> B", **more: Any) -> dict[str, Any]:
    pieces = {k: [PIECES[p] for p in v.split()] for k, v in (("single", single), ("pair", pair))}
    return {"type": "TemplateProcessing", **pieces, "special_tokens": START, **more}


def many(key: str, plural: str, *steps: Any) -> dict[str, Any]:
    return {key: {"type": "Sequence", plural: list(steps)}}


def split(regex: str, **more: Any) -> dict[str, Any]:
    step = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return many("pre_tokenizer", "pretokenizers", step | more, {**BYTES, "use_regex": False})


def changed(name: str, *path: str, **values: Any) -> str:
    data = json.loads(definition(name))
    at = data
    for key in path:
        at = at[key]
    at.update(values)
    return json.dumps(data)


def old_gpt2(data: dict[str, Any]) -> None:
    """As the file of 2021: neither the kind of its model nor all fields."""
    for key in ("type", "byte_fallback", "ignore_merges"):
        del data["model"][key]
    data["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
    data["pre_tokenizer"] = {k: v for k, v in BYTES.items() if k != "use_regex"}
    data["post_processor"] = {**data["pre_tokenizer"], "add_prefix_space": True}


REAL: list[tuple[str, dict[str, Any]]] = [
    ("llama2", {"post_processor": template()}),
    ("mistral", {"post_processor": template(pair="A B")}),
    ("llama3", many("post_processor", "processors", BYTES, template(pair="<s> A <s> B"))),
    ("qwen2", {"post_processor": BYTES}),
    ("qwen2", {"normalizer": {"type": "Sequence", "normalizers": []}}),
    ("gpt2", {"truncation": {"max_length": 2}, "padding": {"pad_token": 7}}),
    *(("gpt2", split(regex)) for regex in REGEXES.values()),
]


@pytest.mark.parametrize(("name", "values"), REAL, ids=range(len(REAL)))
def test_what_real_files_have(name: str, values: dict[str, Any]):
    made = BPECodec(changed(name, **values), ENDS[name])
    text = "Alice's 12345 naïve cafés, 日本\n\n"
    assert made.decode(made.encode(text)) == text
    if "pre_tokenizer" not in values and "normalizer" not in values:
        assert made.encode(text).symbols.tolist() == codec(name).encode(text).symbols.tolist()
    again = json.loads(made.tokenizer_json())
    assert again["post_processor"] == values.get("post_processor", again["post_processor"])


def test_a_file_of_old_times():
    data = json.loads(definition("gpt2"))
    old_gpt2(data)
    assert BPECodec(json.dumps(data)).fingerprint() != codec("gpt2").fingerprint()
    assert BPECodec(json.dumps(data)).encode("a b").symbols.tolist() == (
        codec("gpt2").encode("a b").symbols.tolist()
    )


def step(key: str, kind: str, **settings: Any) -> tuple[str, dict[str, Any]]:
    return "gpt2", {key: {"type": kind, **settings}}


GROWS = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
REFUSED = {
    # Each of these ends the process, panics, or takes for ever, where the library gets it.
    "normalizer Replace: pattern {'String': 'a'}": (
        "gpt2", many("normalizer", "normalizers", *[GROWS] * 4)
    ),
    "normalizer Replace: content": step(
        "normalizer", "Replace", pattern={"String": " "}, content="ab" * 1000
    ),
    "normalizer 'Precompiled' is": step(
        "normalizer", "Precompiled", precompiled_charsmap="AAAAAAAA"
    ),
    "normalizer Prepend: prepend ''": step("normalizer", "Prepend", prepend=""),
    r"Split: pattern {'Regex': '(a+)+$'}": ("gpt2", split("(a+)+$")),
    "Split: behavior 'Removed'": ("gpt2", split(REGEXES["qwen2"], behavior="Removed")),
    "not byte-level BPE": (
        "gpt2", many("pre_tokenizer", "pretokenizers", *[BYTES] * 8)
    ),  # doubles each time
    "pre_tokenizer: expected a list of 8": (
        "gpt2", many("pre_tokenizer", "pretokenizers", *[BYTES] * 9)
    ),
    "pre_tokenizer 'Sequence' is": (
        "gpt2", many("pre_tokenizer", "pretokenizers", {"type": "Sequence", "pretokenizers": []})
    ),
    "pre_tokenizer None is": step("pre_tokenizer", None),  # type: ignore[arg-type]
    "ByteLevel: 'speed' is not had here; known: add_prefix": (
        "gpt2", {"decoder": {**BYTES, "speed": 9}}
    ),
    "decoder Strip: start 99": step("decoder", "Strip", content=" ", start=99, stop=0),
    "TemplateProcessing: single": ("llama2", {"post_processor": template("<s> A A")}),
    "TemplateProcessing: pair": ("llama2", {"post_processor": template(pair="A A B")}),
    "single: expected each text once, and known": (
        "llama2", {"post_processor": template(special_tokens={})}
    ),
    "special_tokens: expected an id": (
        "llama2", {"post_processor": template(special_tokens={"<s>": {"ids": [1], "tokens": []}})}
    ),
    "only one TemplateProcessing": (
        "llama2", many("post_processor", "processors", template(), template())
    ),
    "'plugins' is not had here": ("gpt2", {"plugins": []}),
    "added_tokens: '' is not a text": ("gpt2", {"added_tokens": [{"id": 450, "content": ""}]}),
    "added_tokens: -1 is not the number": (
        "gpt2", {"added_tokens": [{"id": -1, "content": "x"}]}
    ),
    "added_tokens: expected a list of 65,536": ("gpt2", {"added_tokens": [7] * 65537}),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_never_reaches_the_library(message: str, monkeypatch):
    name, values = REFUSED[message]
    monkeypatch.delattr(Tokenizer, "from_str")
    with pytest.raises(ValueError, match=r"^here: ") as caught:
        BPECodec(changed(name, **values), ENDS[name], "here")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab": {"a": True}}, "vocab: expected an object"),
        ({"vocab": {"a": -1}}, "a number is negative"),
        ({"vocab": {"a" * 5000: 1}}, "a token of more than 4,096"),
        ({"merges": [["a", "a"]]}, r"\['a', 'a'\] is not two tokens that make a third"),
        ({"merges": ["a b c"]}, "'a b c' is not two"),
        ({"merges": [[["a"], "b"]]}, "is not two"),
        ({"merges": [7]}, "7 is not two"),
        ({"dropout": 0.1}, "dropout"),
        ({"fuse_unk": "yes"}, "model: fuse_unk 'yes' is not had here"),
        ({"cache": 1}, "model: 'cache' is not had here"),
    ],
)
def test_models_that_are_refused(values: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        BPECodec(changed("gpt2", "model", **values), where="here")


def test_an_unknown_token_that_could_come_up_must_be_known():
    with pytest.raises(ValueError, match="its unk_token '<none>' is none of its tokens"):
        BPECodec(changed("smollm2", "model", unk_token="<none>"), where="here")  # it lacks bytes
    BPECodec(changed("gpt2", "model", unk_token="<none>"), ENDS["gpt2"])


def test_of_a_key_that_is_there_twice_the_library_sees_the_one_that_was_checked():
    text = definition("gpt2")
    evil = json.dumps({"type": "Lowercase"})
    assert text.count('"normalizer": null') == 1
    twice = text.replace('"normalizer": null', f'"normalizer": {evil}, "normalizer": null')
    assert BPECodec(twice).fingerprint() == BPECodec(text).fingerprint()


@pytest.mark.parametrize("name", REGEXES)
def test_cutting_takes_time_in_proportion(name: str):
    cut = pre_tokenizers.Split(Regex(REGEXES[name]), "isolated")
    for unit in ("a", "A", "aA", "ʰ", "e\u0301", "\u0301", " ", "\n ", "1", "!", "'", "日", "/\n"):
        begin = time.process_time()
        cut.pre_tokenize_str(unit * (20_000 // len(unit)) + "\0")
        assert time.process_time() - begin < 1


def test_a_panic_of_the_library_is_a_plain_error(monkeypatch, capfd):
    made = BPECodec(definition("gpt2"))
    data = json.loads(made.tokenizer_json()) | {"normalizer": {"type": "Prepend", "prepend": ""}}
    monkeypatch.setattr(made, "_tokenizer", Tokenizer.from_str(json.dumps(data)))
    for encode in (made.encode, made.encode_special):
        with pytest.raises(ValueError, match="can't encode this text"):
            encode("The cat")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="its limits are Linux's")
def test_a_little_fuzzing():
    """In a process of its own, which the library might end."""
    command = [sys.executable, "-m", "tests.fuzz", "tokenizer", "--seconds", "3"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = re.search(r" ([\d,]+) read, ([\d,]+) refused, nothing else", done.stdout)
    assert told and all(int(n.replace(",", "")) > 5 for n in told.groups()), done.stdout
