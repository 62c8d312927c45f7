"""The how-to page about odd weights, held against the package whose weights it reads.

Needs g2p-en 2.1.0 (`pip install --no-deps g2p-en==2.1.0`), or CHAINRULE_G2P naming the folder that
has `g2p.py` and `checkpoint20.npz`. Its own imports (nltk and so on) are not needed.
"""

import importlib.util
import os
import re
import sys
import types
from pathlib import Path

import pytest
import torch

from tests.arch.files import ROOT, blocks, text

# The package is of 2019 and writes "\\-" where it means "-".
pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings("ignore")]
PAGE = "docs/import-odd-weights.md"
WORDS = 1000


@pytest.fixture(scope="module")
def package():
    """Its folder."""
    if given := os.environ.get("CHAINRULE_G2P"):
        return Path(given)
    found = importlib.util.find_spec("g2p_en")
    if found is None or not found.submodule_search_locations:
        pytest.skip("g2p-en is not installed")
    return Path(found.submodule_search_locations[0])


@pytest.fixture(scope="module")
def page():
    """What the page's python blocks define."""
    module = types.ModuleType("page_about_odd_weights")
    sys.modules[module.__name__] = module
    for block in blocks(text(PAGE), "python"):
        exec(compile(block, PAGE, "exec", dont_inherit=True), vars(module))
    yield module
    del sys.modules[module.__name__]


@pytest.fixture(scope="module")
def origin(package):
    """The package's own decoder, in numpy; what it imports for whole sentences is stubbed."""
    stub = types.SimpleNamespace(tokenize=str.split, find=lambda name: name, dict=dict)
    stubs = {
        "nltk": {"pos_tag": None, "data": stub},
        "nltk.corpus": {"cmudict": stub},
        "nltk.tokenize": {"TweetTokenizer": lambda: stub},
        "g2p_en": {"__path__": [str(package)]},
        "g2p_en.expand": {"normalize_numbers": str},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, content in stubs.items():
            module = types.ModuleType(name)
            vars(module).update(content)
            patch.setitem(sys.modules, name, module)
        spec = importlib.util.spec_from_file_location("g2p_en.g2p", package / "g2p.py")
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded.G2p()


@pytest.fixture(scope="module")
def words():
    """Of a book, and some that nobody has heard yet, with letters that the model doesn't know."""
    book = (ROOT / "src/chainrule/assets/alice.txt").read_text().lower()
    new = ["chainrule", "autoregressive", "blorft", "x", "don't", "naïve", "a" * 30]
    return [*new, *sorted(set(re.findall("[a-z]+", book)))][:WORDS]


@pytest.fixture(scope="module")
def expected(origin, words):
    return [" ".join(origin.predict(word)) for word in words]


def test_a_thousand_words_sound_as_in_the_package(page, package, origin, words, expected):
    assert origin.phonemes == page.SOUNDS
    assert origin.graphemes == page.LETTERS
    model = page.read(package / "checkpoint20.npz")
    found = [best[0][0] for best in page.pronounced(model, words)]
    assert len(found) == WORDS
    differ = {w: (a, b) for w, a, b in zip(words, found, expected, strict=True) if a != b}
    assert differ == {}
    assert [page.pronounced(model, [word])[0][0][0] for word in words[:50]] == found[:50]


def test_the_complete_model_is_short():
    assert len(blocks(text(PAGE), "python")[0].splitlines()) < 80


def test_one_gate_in_another_order_is_found(page, package, words, expected):
    model = page.read(package / "checkpoint20.npz")
    reset, update, new = model.decoder.weight_hh.data.chunk(3)
    model.decoder.weight_hh.data = torch.cat([update, reset, new])
    found = [best[0][0] for best in page.pronounced(model, words)]
    assert sum(a == b for a, b in zip(found, expected, strict=True)) < WORDS / 20


def test_scores_are_those_of_the_search(page, package):
    model = page.read(package / "checkpoint20.npz")
    ((best, second),) = page.pronounced(model, ["jabberwocky"], width=8, n_best=2)
    for sounds, nats in (best, second):
        assert page.score(model, "jabberwocky", sounds) == pytest.approx(nats, abs=1e-3)
    shown = text(PAGE)
    assert f"('{best[0]}', {best[1]:.3f})" in shown and f"('{second[0]}', {second[1]:.3f})" in shown
