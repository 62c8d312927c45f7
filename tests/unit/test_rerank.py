"""Choosing among samples: by score, and by what the others say."""

import pytest

from chainrule.decoding.rerank import best_of, chrf, match, minimum_bayes_risk


def test_the_best_score_wins_and_equals_keep_their_order():
    assert best_of([-3.0, -1.0, -2.0, -1.0], [1, 1, 1, 1]) == [
        (1, -1.0),
        (3, -1.0),
        (2, -2.0),
        (0, -3.0),
    ]
    # 13 symbols: a third of the nats with penalty 1.
    assert best_of([-2.0, -3.0], [1, 13]) == [(0, -2.0), (1, -3.0)]
    assert best_of([-2.0, -3.0], [1, 13], 1.0) == [(1, -1.0), (0, -2.0)]
    with pytest.raises(ValueError, match="length_penalty"):
        best_of([-1.0], [1], -1.0)


def test_minimum_bayes_risk_is_its_definition():
    texts = ["ab", "abc", "xyz", "abd", "ab"]
    means = [sum(chrf(h, r) for r in texts) / 5 for h in texts]
    got = minimum_bayes_risk(texts, chrf)
    assert [i for i, _ in got] == sorted(range(5), key=lambda i: -means[i])
    assert [u for _, u in got] == pytest.approx(sorted(means, reverse=True))
    assert got[0][0] == 0
    assert got[-1][0] == 2


def test_exact_match_is_the_majority():
    got = minimum_bayes_risk(["a", "b", "c", "b"], match)
    assert got == [(1, 0.5), (3, 0.5), (0, 0.25), (2, 0.25)]


def test_a_utility_is_told_the_hypothesis_first():
    order = minimum_bayes_risk(["a", "bbb", "cc"], lambda h, r: float(len(h) > len(r)))
    assert [i for i, _ in order] == [1, 2, 0]


def test_chrf_by_hand():
    # "abcd" and "abce": 3 of 4, 2 of 3, 1 of 2 and 0 of 1 n-grams are shared, both ways.
    share = (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4
    assert chrf("abcd", "abce") == pytest.approx(share)
    # "ab" against "abcd": precision 1, 1; recall 2/4, 1/3. Longer n-grams "ab" doesn't have.
    recall = (2 / 4 + 1 / 3) / 2
    assert chrf("ab", "abcd") == pytest.approx(5 * recall / (4 + recall))
    assert chrf("a b\n", "ab") == chrf("same", "same") == chrf("", " ") == 1.0
    assert chrf("ab", "xy") == chrf("", "a") == chrf("a", "") == 0.0
    # Recall weighs more than precision.
    assert chrf("abcdef", "abc") > chrf("abc", "abcdef")


def test_a_repeated_ngram_counts_as_often_as_both_have_it():
    assert chrf("aaaa", "a") == pytest.approx(5 * 0.25 / (4 * 0.25 + 1))
