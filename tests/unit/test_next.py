"""Next words: the same key by key as at once, and as spelling everything out."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

import chainrule.engine
from chainrule.artifact import Artifact
from chainrule.codecs.text import BPECodec, ByteCodec, CharCodec, TextCodec, WordCodec
from chainrule.core.state import Slab
from chainrule.engine.compiled import Compiled
from chainrule.models.ngram import NGram, NGramConfig
from chainrule.verbs import spelling
from chainrule.verbs.choosing import make_model
from chainrule.verbs.next import Typist, next_words
from tests.laws.tolerances import FLOAT64

TEXT = (
    "the cat sat on the mat, and the dog's hen sat on the cat. Élan! The den; then they ran. " * 9
)
TYPED = "The de, the \n cat don't élan sat"

native = pytest.mark.skipif(
    not chainrule.engine.native_available(), reason="installed without a compiler"
)


def codecs() -> dict[str, TextCodec]:
    return {
        "bytes": ByteCodec(),
        "chars": CharCodec.fit([TEXT, TYPED]),
        "words": WordCodec.fit([TEXT], size=16),
        "bpe": BPECodec.fit([TEXT], size=300),
    }


def counted(codec: TextCodec, order: int = 3) -> Artifact:
    """An n-gram of TEXT."""
    model = NGram(NGramConfig(codec.space, order)).eval()
    model.estimate([np.asarray(codec.encode(TEXT).symbols)])
    return Artifact(model, codec)


def random(name: str, codec: TextCodec, context: int = 16) -> Artifact:
    """A small net whose law is far from uniform."""
    torch.manual_seed(5)
    model = make_model(name, "tiny", codec.space, None, context).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return Artifact(model, codec)


class Spied(NGram):
    """Counts the symbols that it consumes."""

    seen = 0

    def extend(self, state, x, tail=0):
        self.seen += x.shape[1]
        return super().extend(state, x, tail)


# ---- one key after the other ----


@native
@pytest.mark.parametrize("codec", ["bytes", "chars", "words", "bpe"])
@pytest.mark.parametrize("name", ["lstm", "transformer", "gpt2"])
def test_key_by_key_is_at_once(name: str, codec: str, monkeypatch: pytest.MonkeyPatch):
    """To the bit, also where a context of 16 ends and where keys are taken back."""
    monkeypatch.setattr(spelling, "SPELLINGS", 48)  # these laws are flat: a search would go on
    artifact = random(name, codecs()[codec])
    typist = Typist(artifact, 3)
    assert typist.words() == next_words(artifact, "", 3)
    for key in TYPED:
        assert typist.type(key) == next_words(artifact, typist.text, 3), typist.text
    for count in (1, 5, 2):
        assert typist.erase(count) == next_words(artifact, typist.text, 3), typist.text
    assert typist.type("the cat, ") == next_words(artifact, TYPED[:-8] + "the cat, ", 3)


@pytest.mark.parametrize("codec", ["bytes", "chars", "words", "bpe"])
def test_key_by_key_is_at_once_in_torch(codec: str):
    artifact = counted(codecs()[codec])
    typist = Typist(artifact, 4, backend="torch")
    for key in TYPED:
        typist.type(key)
        again = next_words(artifact, typist.text, 4, backend="torch")
        assert [w for w, _ in typist.words()] == [w for w, _ in again]
        for (_, p), (_, q) in zip(typist.words(), again, strict=True):
            assert abs(p / q - 1) <= FLOAT64


def test_what_was_typed_is_read_once():
    codec = codecs()["chars"]
    model = Spied(NGramConfig(codec.space, 3)).eval()
    model.estimate([np.asarray(codec.encode(TEXT).symbols)])
    typist = Typist(Artifact(model, codec), 3, backend="torch")
    typist.type("on the cat. " * 20 + "th")
    read = model.seen
    assert read > 240
    typist.erase(1)
    typist.type("h")
    assert model.seen == read, "a word's spellings are kept while it is typed"
    typist.type(" ")
    assert model.seen < read + 100
    typist.erase(3)
    assert model.seen < read + 200, "back behind an older word, without its text again"


@native
def test_no_cache_is_copied():
    """But for growth, which is logarithmic; and for nothing when keys are taken back."""
    typist = Typist(random("transformer", codecs()["chars"], 512), 2)
    typist.type("the ")
    before = Slab.copies
    for key in "cat sat on the mat":
        typist.type(key)
    typist.erase(6)
    typist.type("e den")
    for key in "satonthemathen":
        typist.type(key)
    assert Slab.copies == before


@native
def test_a_walk_goes_back_no_further_than_it_must(monkeypatch: pytest.MonkeyPatch):
    """Of the last path, what the next one shares with it is still there."""
    typist, lengths = Typist(random("transformer", codecs()["chars"])), []
    model = typist._model
    assert isinstance(model, Compiled)
    walk, machine = model.walk(model.start(1)), model._machine

    class Spy:
        log_probs = machine.log_probs

        def run(self, x, *rest):
            lengths.append(x.shape[1])
            return machine.run(x, *rest)

    monkeypatch.setattr(model, "_machine", Spy())
    for path in ((), (1,), (1, 2, 3), (1, 2, 4, 5), (1, 2), (3,), (3,)):
        walk.law(path)
    assert lengths == [1, 2, 2, 1, 1, 1]


@native
@pytest.mark.parametrize("codec", ["chars", "bpe"])
@pytest.mark.parametrize("name", ["lstm", "transformer", "gpt2", "ngram"])
def test_a_walk_is_as_through_states(name: str, codec: str, monkeypatch: pytest.MonkeyPatch):
    """To the bit: also where a window slides, positions end, and a word is long."""
    monkeypatch.setattr(spelling, "SPELLINGS", 48)
    spelled = codecs()[codec]
    artifact = counted(spelled) if name == "ngram" else random(name, spelled)

    def suggested() -> list[list[tuple[str, float]]]:
        typist = Typist(artifact, 3, backend="engine", dtype="f32")
        found = [typist.type(TEXT[:90]), typist.type("satonthematandthedog")]
        return [*found, *map(typist.type, TYPED), typist.erase(9), typist.type("hen")]

    fast = suggested()
    monkeypatch.setattr(Compiled, "walk", lambda model, root: None)
    assert suggested() == fast


@native
@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_a_spelling_takes_no_state_of_its_own(name: str, monkeypatch: pytest.MonkeyPatch):
    typist, asked = Typist(random(name, codecs()["chars"]), 3), []
    extend = Compiled.extend
    monkeypatch.setattr(Compiled, "extend", lambda *a: (asked.append(a[2].shape), extend(*a))[1])
    typist.type("the cat ")
    for key in "sat":
        typist.type(key)
    assert asked == [(1, 8)], "only what was typed"


def test_a_word_may_be_long():
    """In languages without blanks a text is one word: what it takes grows with it, no faster."""
    assert [spelling.letters_from(t) for t in (b"", b"a, the cat's", b"a ")] == [0, 3 + 4, 2]
    began = time.perf_counter()
    assert spelling.letters_from(b"a " + "字".encode() * 10**5) == 2
    part, whole = spelling.alphabet_of(ByteCodec()).fitting(b"x" * 10**6)
    assert (part.tolist(), whole.tolist()) == ([ord("x")], [])
    assert time.perf_counter() - began < 5, "a hundred times that, where it grows with the square"


# ---- against spelling everything out ----


def spelled(artifact: Artifact, typed: str, cut: int, start: int, least: float):
    """{word: [p of every spelling]} of all spellings down to ``least``, and p(what was typed)."""
    table, eos = artifact.codec.symbol_bytes(), artifact.codec.space.eos
    data = typed.encode()
    owed, begun, model = data[cut:], data[start:], artifact.model
    words: dict[bytes, list[float]] = {}
    mass = [0.0]

    def walk(state, text: bytes, p: float) -> None:
        law = model.predict(state).log_probs()[0, -1].double().exp().tolist()
        ends = 0.0
        whole = begun + text[len(owed) :]
        inside = len(text) >= len(owed) and any(
            spelling._WORD.match(whole[i:]) for i in range(len(whole))
        )
        for symbol, piece in enumerate(table):
            fits = piece.startswith(owed[len(text) :]) or owed[len(text) :].startswith(piece)
            if inside and (symbol == eos or not spelling._WORD.match(piece)):
                ends += law[symbol]
            elif piece and fits and symbol != eos:
                if len(text) < len(owed) <= len(text + piece):
                    mass[0] += p * law[symbol]
                if p * law[symbol] > least:
                    after = model.extend(state, torch.tensor([[symbol]]))
                    walk(after, text + piece, p * law[symbol])
        if inside:
            words.setdefault(whole.strip(b" \n,.;!"), []).append(p * ends)

    with torch.no_grad():
        state = model.start(1)
        head = artifact.codec.encode(data[:cut].decode()).symbols.astype(np.int64)
        if len(head):
            state = model.extend(state, torch.from_numpy(head)[None])
        walk(state, b"", 1.0)
    return words, mass[0] if owed else 1.0


@pytest.mark.parametrize("prefix", ["the", "sat on t", "the d"])
def test_completions_are_those_of_all_spellings(prefix: str):
    """A character model spells a word that was begun in one way: the figures are exact."""
    artifact = counted(codecs()["chars"])
    start = prefix.rfind(" ") + 1
    words, mass = spelled(artifact, prefix, start, start, 1e-5)
    typist = Typist(artifact, 4, backend="torch")
    found = typist.type(prefix)
    assert typist.exact
    best = sorted(((sum(p) / mass, w.decode()) for w, p in words.items()), reverse=True)[:4]
    assert [w for w, _ in found] == [w for _, w in best]
    for (_, p), (q, _) in zip(found, best, strict=True):
        assert abs(p / q - 1) <= FLOAT64


@pytest.mark.parametrize(
    ("codec", "prefix"), [("chars", "on the "), ("bpe", "on the c"), ("bpe", "")]
)
def test_no_likelier_spelling_is_left_out(codec: str, prefix: str):
    artifact = counted(codecs()[codec], order=2)
    start = prefix.rfind(" ") + 1
    cut = len(prefix[:start].rstrip()) if codec == "bpe" else start
    words, mass = spelled(artifact, prefix, cut, start, 1e-6 if prefix[start:] else 1e-4)
    found = dict(Typist(artifact, 4, backend="torch").type(prefix))
    least = min(found.values())
    for word, ways in words.items():
        if max(ways) / mass > least:
            assert word.decode() in found
    for word, p in found.items():
        assert max(words[word.encode()]) / mass <= p * (1 + FLOAT64)
        assert p <= sum(words[word.encode()]) / mass * (1 + 0.05), "nothing is counted twice"


def test_a_cap_is_told(monkeypatch: pytest.MonkeyPatch):
    artifact = counted(codecs()["chars"])
    monkeypatch.setattr(spelling, "SPELLINGS", 3)
    typist = Typist(artifact, 5, backend="torch")
    typist.type("the ")
    assert not typist.exact


def test_probabilities_add_up_to_one_at_most():
    artifact = counted(codecs()["bpe"])
    for prefix in ("", "th", "the ", "the cat sat on the ma"):
        found = next_words(artifact, prefix, 12)
        assert sum(p for _, p in found) <= 1 + FLOAT64
        assert found == sorted(found, key=lambda item: (-item[1], item[0].encode()))
        assert all(w.startswith(prefix.split(" ")[-1]) for w, _ in found)


def test_a_word_goes_on_after_symbols_that_end_it():
    """Behind a finished word the next one is suggested; digits and apostrophes are letters."""
    artifact = counted(codecs()["chars"], order=5)
    assert next_words(artifact, "and the dog", 1)[0][0] == "dog's"
    assert next_words(artifact, "the mat,", 1)[0][0] == "and"


# ---- wrong input ----


def test_wrong_input_changes_nothing():
    typist = Typist(counted(codecs()["chars"]), backend="torch")
    was = typist.type("the c")
    for wrong in ("ж", "a\ud800"):
        with pytest.raises(ValueError, match="position"):
            typist.type(wrong)
        assert (typist.text, typist.words()) == ("the c", was)
    with pytest.raises(ValueError, match="count must be 0 to 5, not 6"):
        typist.erase(6)
    assert typist.text == "the c"
    for k in (0, 1001):
        with pytest.raises(ValueError, match="k must be 1 to 1000"):
            Typist(counted(codecs()["chars"]), k)
    again = next_words(counted(codecs()["chars"]), "", 3, backend="torch")
    assert typist.erase(5) == again
