"""Which of several samples is best: by its probability, or by what the others say of it.

Shapes: N samples.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence

from chainrule.core.config import bounded
from chainrule.decoding.beam import penalised

Utility = Callable[[str, str], float]  # (hypothesis, reference) -> how good, more is better

ORDERS, BETA = 6, 2.0  # of chrF


def best_of(
    log_probs: Sequence[float], lengths: Sequence[int], length_penalty: float = 0.0
) -> list[tuple[int, float]]:
    """(sample, score) of N samples, best first; equals stay in their order.

    Args:
        log_probs: of whole samples, in nats; lengths: their symbols.
        length_penalty: 0: the score is the log-probability; 1: nearly that of one symbol (see
            ``beam.penalised``).

    Raises:
        ValueError: a length penalty outside 0 to 10.
    """
    bounded("length_penalty", length_penalty, 0, 10)
    each = zip(log_probs, lengths, strict=True)
    return _sorted([penalised(log_p, length, length_penalty) for log_p, length in each])


def minimum_bayes_risk(texts: Sequence[str], utility: Utility) -> list[tuple[int, float]]:
    """(sample, expected utility) of N samples drawn from a model, best first.

    Every sample is a hypothesis and every sample is a reference, itself included, so the mean is
    an unbiased estimate of the expected utility but for that one term (Eikema & Aziz 2020).
    """
    counts = Counter(texts)
    expected = {
        text: sum(n * utility(text, reference) for reference, n in counts.items()) / len(texts)
        for text in counts
    }
    return _sorted([expected[text] for text in texts])


def chrf(hypothesis: str, reference: str) -> float:
    """Character n-gram F-score in [0, 1], n up to 6, beta 2 (Popović 2015); blanks don't count.

    Precision and recall are averaged over the n for which both texts have n-grams.
    """
    sides = [_grams(text) for text in (hypothesis, reference)]
    orders = [(a, b) for a, b in zip(*sides, strict=True) if a and b]
    if not orders:
        return float("".join(hypothesis.split()) == "".join(reference.split()))
    precision = recall = 0.0
    for a, b in orders:
        shared = (a & b).total()
        precision += shared / a.total() / len(orders)
        recall += shared / b.total() / len(orders)
    if not precision + recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)


def match(hypothesis: str, reference: str) -> float:
    """1 for equal texts, else 0: the risk is then that of not being the commonest sample."""
    return float(hypothesis == reference)


UTILITIES: dict[str, Utility] = {"chrf": chrf, "match": match}


@functools.lru_cache(maxsize=1024)
def _grams(text: str) -> list[Counter[str]]:
    """How often each run of 1, 2, … characters occurs."""
    text = "".join(text.split())
    return [
        Counter(text[i : i + n] for i in range(len(text) - n + 1)) for n in range(1, ORDERS + 1)
    ]


def _sorted(scores: list[float]) -> list[tuple[int, float]]:
    return sorted(enumerate(scores), key=lambda pair: -pair[1])
