"""The verbs of search over a small fitted model, and ensembles of runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from chainrule.artifact import Artifact
from chainrule.codecs.text import BPECodec, ByteCodec, CharCodec, TextCodec
from chainrule.core.codec import Encoded
from chainrule.core.objective import Batch
from chainrule.decoding.rerank import chrf, minimum_bayes_risk
from chainrule.models.ngram import NGram, NGramConfig
from chainrule.verbs.ensemble import ensemble_of
from chainrule.verbs.generate import generate
from chainrule.verbs.score import score
from chainrule.verbs.search import beam_search, best_of, mbr
from tests.laws.tolerances import FLOAT32

TEXT = "the cat sat on the mat. the dog sat on the log. the cat ate the rat. "


def fitted(codec: TextCodec, order: int = 3, text: str = TEXT) -> Artifact:
    model = NGram(NGramConfig(codec.space, order))
    x = torch.from_numpy(codec.encode(text).symbols)[None]
    model.estimate([Batch(x, (x.shape[1],))])
    return Artifact(model.eval(), codec)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return fitted(CharCodec.fit([TEXT]))


def test_a_beam_gives_samples_with_exact_scores(artifact):
    found = beam_search(artifact, ["the c", "a"], n=3, length=8, width=6)
    assert [s.text[: -len(s.continuation)] for s in found] == ["the c"] * 3 + ["a"] * 3
    for sample in found:
        whole, prompt = score(artifact, sample.text), score(artifact, sample.text[:-8])
        assert sample.log_prob == pytest.approx(whole.nats - prompt.nats, rel=FLOAT32)
        assert (sample.strategy, sample.exactness, sample.ended) == (
            "beam",
            "approximate",
            "length",
        )
    for of_one in (found[:3], found[3:]):
        assert [s.log_prob for s in of_one] == sorted((s.log_prob for s in of_one), reverse=True)
        assert len({s.text for s in of_one}) == 3
    greedy = generate(artifact, "the c", length=8, temperature=0.0)
    assert beam_search(artifact, "the c", length=8, width=1)[0].text == greedy[0].text
    assert found[0].log_prob >= greedy[0].log_prob
    alone = beam_search(artifact, "a", n=3, length=8, width=6)
    assert [s.text for s in alone] == [s.text for s in found[3:]]


def test_many_prompts_are_searched_a_few_at_a_time(artifact):
    prompts = ["t", "ca", "sat"] * 8
    found = beam_search(artifact, prompts, length=5, width=20)
    assert [s.text for s in found] == [s.text for s in found[:3]] * 8


def test_groups_make_the_beam_diverse(artifact):
    plain = beam_search(artifact, "the ", n=4, length=6, width=4)
    diverse = beam_search(artifact, "the ", n=4, length=6, width=4, groups=4, diversity=2.0)
    assert {s.strategy for s in diverse} == {"diverse beam"}
    firsts = [{s.continuation[0] for s in samples} for samples in (plain, diverse)]
    assert len(firsts[1]) > len(firsts[0])


@pytest.mark.parametrize("codec", [CharCodec, ByteCodec, BPECodec])
def test_stops_bans_force_and_penalties(codec):
    artifact = fitted(codec.fit([TEXT]))
    settings = {"ban": ["e"], "force": "do", "stop": ["at", "n t"], "repetition_penalty": 1.1}
    found = beam_search(artifact, ["the ", "a"], n=2, length=12, width=8, **settings)
    assert len(found) == 4
    for sample in found:
        assert sample.continuation.startswith("do")
        assert "at" not in sample.continuation
        assert "n t" not in sample.continuation
        full = artifact.codec.decode(Encoded(np.array(sample.symbols)))
        assert (sample.ended == "stop") == ("at" in full or "n t" in full)
    assert "stop" in {s.ended for s in found}


def test_best_of_is_the_likeliest_of_what_generate_draws(artifact):
    drawn = generate(artifact, "the ", n=12, length=6, seed=5)
    best = best_of(artifact, "the ", n=3, length=6, of=12, seed=5)
    distinct = {s.text: s for s in drawn}.values()
    wanted = sorted(distinct, key=lambda s: -s.log_prob)[:3]
    assert [s.text for s in best] == [s.text for s in wanted]
    assert {(s.strategy, s.exactness) for s in best} == {("best of 12", "approximate")}
    two = best_of(artifact, ["a", "the "], n=3, length=6, of=12, seed=5)
    assert [s.text for s in two[3:]] == [s.text for s in best]
    # All twelve are the same: there is one to return.
    assert len(best_of(artifact, "the ", n=3, length=6, of=12, temperature=0.0)) == 1


def test_mbr_is_the_one_most_like_the_others(artifact):
    drawn = generate(artifact, "the ", n=10, length=6, seed=2)
    texts = [s.continuation for s in drawn]
    (best,) = mbr(artifact, "the ", length=6, of=10, seed=2)
    assert best.continuation == texts[minimum_bayes_risk(texts, chrf)[0][0]]
    assert (best.strategy, best.exactness) == ("minimum Bayes risk of 10", "approximate")
    (longest,) = mbr(artifact, "the ", length=6, of=10, seed=2, utility=lambda h, r: h == texts[4])
    assert longest.continuation == texts[4]
    assert mbr(artifact, "the ", length=1, of=30, utility="match")[0].continuation in "cmdlr"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: beam_search(a, "a", width=5000), "width must be 1 to 4096"),
        (lambda a: beam_search(a, "a", n=9), "n must be 1 to 4"),
        (lambda a: beam_search(a, "a", groups=3), "3 groups"),
        (lambda a: beam_search(a, "a", temperature=0.5), "temperature says how symbols are drawn"),
        (lambda a: beam_search(a, "a", strategy="ancestral"), "strategy says how"),
        (lambda a: beam_search(a, "a", colour=1), "unknown setting 'colour'"),
        (lambda a: beam_search(a, []), "no prompt"),
        (lambda a: beam_search(a, "Q"), "'Q'"),
        (lambda a: best_of(a, "a", of=0), "samples to choose from must be"),
        (lambda a: best_of(a, "a", n=3, of=2), "n must be 1 to 2"),
        (lambda a: best_of(a, "a", length_penalty=-1.0), "length_penalty must be"),
        (lambda a: mbr(a, "a", of=2000), "samples to choose from must be"),
        (lambda a: mbr(a, "a", utility="bleu"), "'bleu' is not one of chrf, match"),
    ],
)
def test_what_makes_no_sense_is_refused(artifact, call, message):
    with pytest.raises(ValueError, match=message):
        call(artifact)


def test_an_ensemble_of_runs_is_a_run(artifact):
    other = fitted(artifact.codec, 2, "the rat sat on the cat. " * 3)
    both = replace(artifact, outline=ensemble_of([artifact, other], [1, 3]))
    one, two, mixed = (score(a, "t").nats for a in (artifact, other, both))
    assert torch.tensor(mixed).exp() == pytest.approx(
        float(0.25 * torch.tensor(one).exp() + 0.75 * torch.tensor(two).exp()), rel=FLOAT32
    )
    (sample,) = generate(both, "the ", length=9, seed=3)
    nats = score(both, sample.text).nats - score(both, "the ").nats
    assert sample.log_prob == pytest.approx(nats, rel=FLOAT32)
    assert beam_search(both, "the ", length=4)[0].continuation


def test_runs_with_other_symbols_are_no_ensemble(artifact):
    other = replace(fitted(ByteCodec()), path=Path("runs/other"))
    with pytest.raises(ValueError, match="codec chars and runs/other have other symbols"):
        ensemble_of([artifact, other])
    with pytest.raises(ValueError, match="needs a model"):
        ensemble_of([])
