"""Tokenizers from and to GGUF and Hugging Face, without either at hand."""

import json

import pytest
from tokenizers import Tokenizer

from chainrule.codecs.text import BPECodec, ByteCodec, CharCodec, TextCodec, WordCodec
from chainrule.formats.tokens import from_gguf, to_gguf, to_hf
from tests.models.tokenizers import BYTE_LEVEL, ENDS, SENTENCEPIECE, codec, definition

TEXT = "Alice's 12345 naïve  cafés\n\n\tdef f(x): 日本 🙂 <0x0A> Ein\r\n größerer Text"
every = pytest.mark.parametrize("name", ENDS)


def back(facts, where="here"):
    tokens = from_gguf(facts, where)
    return tokens, BPECodec(tokens.definition, tokens.eos, where, tokens.size)


@every
def test_out_and_in_again(name):
    before = codec(name)
    begin = next((i for i in before.specials().values() if i != before.space.eos), None)
    facts = to_gguf(before, "{{ x }}", begin, adds_begin=True)
    tokens, after = back(facts)
    assert after.symbol_bytes() == before.symbol_bytes() and after.space == before.space
    for text in (TEXT, " a", "a", ""):
        if name != "mistral" or not text.startswith(" "):  # Metaspace: one space, not two
            assert after.encode(text).symbols.tolist() == before.encode(text).symbols.tolist()
            assert after.encode(text).side == before.encode(text).side
    assert after.encode_special(f"a{ENDS[name]}").tolist()[-1] == before.space.eos
    assert (tokens.template, tokens.begin, tokens.adds_begin) == ("{{ x }}", begin, True)
    assert tokens.eos == tokens.stops[0] == ENDS[name]
    assert to_gguf(after, "{{ x }}", begin, adds_begin=True) == facts
    assert back(to_gguf(before))[0].begin is None


def test_what_ends_a_turn():
    facts = to_gguf(codec("llama3"))
    assert from_gguf(facts, "").stops == ["<|eot_id|>"]
    end = codec("llama3").special("<|end_of_text|>")
    turn = codec("llama3").space.eos
    assert end is not None
    found = from_gguf(facts | {"tokenizer.ggml.eos_token_id": end}, "")
    assert (found.eos, found.stops) == ("<|end_of_text|>", ["<|end_of_text|>", "<|eot_id|>"])
    found = from_gguf(
        facts | {"tokenizer.ggml.eos_token_id": end, "tokenizer.ggml.eot_token_id": turn}, ""
    )
    assert found.stops == ["<|end_of_text|>", "<|eot_id|>"]
    assert [t["special"] for t in json.loads(found.definition)["added_tokens"]] == [True] * 3


def test_tokens_that_are_neither_text_nor_special():
    """Padding stands for nothing; an added token that is no mark stays text of one symbol."""
    before = BPECodec(definition("qwen2"), ENDS["qwen2"], size=460)
    facts = to_gguf(before)
    assert facts["tokenizer.ggml.tokens"][-2:] == ["[PAD458]", "[PAD459]"]
    assert facts["tokenizer.ggml.token_type"][449:] == [1, 3, 3, 3, 4, *[5] * 6]
    tokens, after = back(facts)
    assert tokens.size == 460 and after.symbol_bytes() == before.symbol_bytes()
    assert "[PAD" not in tokens.definition
    text = "x<tool_call>y"
    assert after.encode(text).symbols.tolist() == before.encode(text).symbols.tolist()
    assert after.special("<tool_call>") in after.encode(text).symbols


START = {"eos_token_id": 0, "bos_token_id": 0}


def gpt2(**values):
    facts = to_gguf(codec("gpt2"))
    return facts | {f"tokenizer.ggml.{k}": v for k, v in values.items()}


def llama(**values):
    facts = to_gguf(codec("llama2"))
    return facts | {f"tokenizer.ggml.{k}": v for k, v in values.items()}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (gpt2(model=None), "model': expected str, not None"),
        (gpt2(model="bert"), "model': 'bert' is not read here"),
        (gpt2(pre="tekken"), "pre': 'tekken' is a way of cutting"),
        (gpt2(pre=3), "pre': expected str"),
        (gpt2(tokens=[]), "tokens': 0 of them"),
        (gpt2(tokens="a"), "tokens': expected a list of str"),
        (gpt2(tokens=["a", 1]), "tokens': expected a list of str"),
        (gpt2(tokens=["a", "b", "a"]), "tokens': 'a' is there twice"),
        (gpt2(token_type=[1]), "token_type': it has 1 entries, and there are 451 tokens"),
        (gpt2(token_type=[True] * 451), "token_type': expected a list of int"),
        (gpt2(eos_token_id=None), "eos_token_id': it is missing"),
        (gpt2(eos_token_id=451), "eos_token_id': 451 is not one of the 451 tokens"),
        (gpt2(bos_token_id=-1), "bos_token_id': -1 is not one"),
        (gpt2(eot_token_id="x"), "eot_token_id': expected int"),
        (gpt2(add_bos_token=1), "add_bos_token': expected bool"),
        (gpt2(merges=None), "merges': expected a list"),
        (gpt2(merges=["ab"]), "merges': 'ab' is not two tokens"),
        (gpt2(merges=["a b c"]), "merges': 'a b c' is not two"),
        (llama(scores=[0.0]), "scores': it has 1 entries"),
        (llama(scores=[float("nan")] * 400), "scores': it has 400"),
        (llama(scores=[float("inf")] * len(codec("llama2").symbol_bytes())), "not a finite"),
        (llama(add_space_prefix="no"), "add_space_prefix': expected bool"),
        (gpt2() | {"tokenizer.chat_template": 1}, "tokenizer.chat_template': expected str"),
    ],
)
def test_metadata_that_is_refused(facts, message):
    with pytest.raises(ValueError, match=message) as caught:
        back(facts)
    assert str(caught.value).startswith("here, key 'tokenizer.")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (gpt2(merges=["zz q"]), r"here: model: merges: \['zz', 'q'\] is not two tokens"),
        (llama(tokens=["x", "y", "z"], token_type=[1] * 3, scores=[0.0] * 3), "lacks 256"),
        (gpt2(tokens=["x"], token_type=[1], merges=[], **START), "lacks 255"),
    ],
)
def test_metadata_of_no_tokenizer_of_ours(facts, message):
    with pytest.raises(ValueError, match=message):
        back(facts)


def test_a_long_token_is_refused():
    facts = llama()
    facts["tokenizer.ggml.tokens"] = ["a" * 300, *facts["tokenizer.ggml.tokens"][1:]]
    with pytest.raises(ValueError, match="one has 300 characters, 256 are the most"):
        back(facts)


def test_the_pre_tokenizer_of_old_files():
    facts = gpt2()
    del facts["tokenizer.ggml.pre"]
    text = "Alice's 12 cafés"
    assert (
        back(facts)[1].encode(text).symbols.tolist() == codec("gpt2").encode(text).symbols.tolist()
    )


def altered(name, change):
    data = json.loads(definition(name))
    change(data)
    return BPECodec(json.dumps(data), ENDS[name])


def shuffled(data):
    """A token's first merge long before its second."""
    merges = data["model"]["merges"]
    at = next(n for n in range(1, len(merges)) if "".join(merges[n]) == "".join(merges[n - 1]))
    merges.append(merges.pop(at))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: WordCodec(["a", " b"]), "--codec words can't be exported to GGUF: export --to hf"),
        (lambda: altered("llama3", lambda d: d["model"].update(ignore_merges=False)), "cutting"),
        (lambda: altered("gpt2", lambda d: d.update(normalizer={"type": "NFKC"})), "cutting"),
        (
            lambda: altered("gpt2", lambda d: d["pre_tokenizer"].update(add_prefix_space=True)),
            "cutting",
        ),
        (lambda: altered("llama2", lambda d: d["model"]["merges"].pop()), "merges by scores"),
        (lambda: altered("llama2", shuffled), "merges by scores"),
    ],
)
def test_codecs_that_llama_cpp_has_not(made, message):
    with pytest.raises(ValueError, match=message):
        to_gguf(made())


def test_bytes_and_characters_as_byte_level():
    facts = to_gguf(ByteCodec())
    tokens, after = back(facts)
    assert after.encode(TEXT).symbols.tolist() == list(TEXT.encode())
    assert tokens.size == 257
    facts = to_gguf(CharCodec(" aé日"))
    assert facts["tokenizer.ggml.tokens"] == ["Ġ", "a", "Ã©", "æĹ¥", "<|endoftext|>"]
    assert facts["tokenizer.ggml.merges"] == ["Ã ©", "æ Ĺ", "æĹ ¥"]
    assert facts["tokenizer.ggml.bos_token_id"] == facts["tokenizer.ggml.eos_token_id"] == 4


CODECS: list[TextCodec] = [
    ByteCodec(),
    CharCodec.fit([TEXT]),
    WordCodec.fit([TEXT, "a\x1cb\x85c ’s it’s o'clock ½x Ⅷ"], min_count=1),
    *(codec(name) for name in (*BYTE_LEVEL, *SENTENCEPIECE)),
]


@pytest.mark.parametrize("each", CODECS, ids=lambda c: c.name)
def test_hugging_faces_tokenizer_gives_the_same_symbols(each):
    made = to_hf(each, "{{ x }}", None, 512)
    tokenizer = Tokenizer.from_str(made.definition)
    texts = [TEXT, "", " a", "a\n\n a"]
    if isinstance(each, WordCodec):
        texts = [TEXT, "a\x1cb\x85c ’s it’s o'clock ½x Ⅷ", ""]
    for text in texts:
        if set(text) <= set(getattr(each, "alphabet", text)):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            assert ids == each.encode(text).symbols.tolist()
            lacks = isinstance(each, BPECodec) and "text" in each.encode(text).side
            stripped = text.removeprefix(" ") if "Metaspace" in made.definition else text
            assert lacks or tokenizer.decode(ids) == stripped
    end = made.config["eos_token"]
    assert tokenizer.token_to_id(end) == each.space.eos
    assert made.config == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end,
        "bos_token": end,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        "chat_template": "{{ x }}",
    }


def test_an_unknown_word():
    """What isn't exact: the library has one symbol for both."""
    words = WordCodec(["a", " b"])
    tokenizer = Tokenizer.from_str(to_hf(words).definition)
    assert words.encode("axe b c").symbols.tolist() == [2, 1, 3]
    assert tokenizer.encode("axe b c").ids == [2, 1, 2]


def test_words_are_cut_as_by_python():
    """Every character that this Python knows, as a letter or not, as white space or not."""
    import unicodedata

    tokenizer = Tokenizer.from_str(to_hf(WordCodec(["a"])).definition)
    known = [c for c in map(chr, range(0x3100)) if unicodedata.category(c) not in ("Cn", "Cs")]
    for n in range(0, len(known), 500):
        text = "".join(f"a{c}a {c}" for c in known[n : n + 500])
        found = [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        assert found == WordCodec.piece.findall(text)


def test_the_start_symbol_by_name():
    assert to_hf(codec("llama2"), begin=1).config["bos_token"] == "<s>"
    assert to_hf(CharCodec("ab"), begin=0).config["bos_token"] == "a"
