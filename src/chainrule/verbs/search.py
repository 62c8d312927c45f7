"""Search instead of sampling: beam search, best of several, minimum Bayes risk.

All return samples labelled approximate: they look for one good continuation, and what they
return does not follow the model's law. Their log-probabilities are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from chainrule.artifact import Artifact
from chainrule.core.codec import Encoded
from chainrule.core.config import bounded
from chainrule.decoding import rerank
from chainrule.decoding.beam import Complete, Hypothesis, beam
from chainrule.engine.backend import Choice
from chainrule.verbs.generate import (
    ROWS,
    Sample,
    Settings,
    check_sizes,
    first_of,
    generate,
    settings_of,
    wrapped,
)

MOST = 1000  # samples to choose from: minimum Bayes risk compares each with each
WARPS = ("temperature", "top_k", "top_p", "min_p", "typical")
DRAWING = (*WARPS, "strategy", "draft", "guesses", "iterations", "threshold")


def beam_search(
    artifact: Artifact,
    prompt: str | Sequence[str] = "",
    n: int = 1,
    length: int = 300,
    *,
    width: int = 4,
    groups: int = 1,
    diversity: float = 0.5,
    length_penalty: float = 0.0,
    **settings: Any,
) -> list[Sample]:
    """The n likeliest continuations of every prompt that a beam finds, best first, all different.

    ``width``, ``groups``, ``diversity`` and ``length_penalty`` as in ``decoding.beam.beam``; the
    settings of ``generate`` but for those of drawing. Approximate: a likelier continuation may
    begin with what the beam dropped. Fewer than n where the model allows no more.

    Raises:
        ValueError: a setting out of bounds or without a meaning here, or a prompt that the codec
            can't take.
    """
    asked = settings_of(settings)
    check_sizes(n, length)
    for name in DRAWING:
        if getattr(asked, name) != Settings.__dataclass_fields__[name].default:
            raise ValueError(f"{name} says how symbols are drawn, and beam search draws none")
    prompts = _prompts(prompt)
    on = artifact.choose(asked.backend, asked.dtype)
    parameters = artifact.runner(on).parameters()
    device = next((p.device for p in parameters), torch.device("cpu"))
    encoded = [torch.from_numpy(artifact.codec.encode(p).symbols.astype(np.int64)) for p in prompts]
    samples = []
    each = max(1, ROWS // max(width, 1))
    for first in range(0, len(prompts), each):
        x = [symbols.to(device) for symbols in encoded[first : first + each]]
        found = beam(
            wrapped(artifact, on, asked, [len(symbols) for symbols in x], length),
            x,
            width,
            length,
            eos=artifact.outline.space.eos,
            n_best=n,
            length_penalty=length_penalty,
            groups=groups,
            diversity=diversity,
            stop=_complete(artifact, asked.stop) if asked.stop else None,
        )
        label = "diverse beam" if groups > 1 else "beam"
        for text, hypotheses in zip(prompts[first : first + each], found, strict=True):
            samples += [_sample(artifact, on, text, h, label, asked) for h in hypotheses]
    return samples


def best_of(
    artifact: Artifact,
    prompt: str | Sequence[str] = "",
    n: int = 1,
    length: int = 300,
    *,
    of: int = 16,
    length_penalty: float = 0.0,
    **settings: Any,
) -> list[Sample]:
    """Draw ``of`` continuations of every prompt and return the n likeliest, all different.

    Settings as in ``generate``. With ``length_penalty`` 0 the log-probability decides, with 1
    nearly that of one symbol. Approximate: what is chosen doesn't follow the model's law. Fewer
    than n where fewer differ.

    Raises:
        ValueError: a setting out of bounds, or a prompt that the codec can't take.
    """

    def order(samples: list[Sample]) -> list[tuple[int, float]]:
        log_probs = [sample.log_prob for sample in samples]
        return rerank.best_of(log_probs, [len(s.symbols) for s in samples], length_penalty)

    bounded("length_penalty", length_penalty, 0, 10)
    return _chosen(artifact, prompt, n, length, of, order, f"best of {of}", settings)


def mbr(
    artifact: Artifact,
    prompt: str | Sequence[str] = "",
    n: int = 1,
    length: int = 300,
    *,
    of: int = 16,
    utility: str | rerank.Utility = "chrf",
    **settings: Any,
) -> list[Sample]:
    """Draw ``of`` continuations of every prompt and return the n most like all the others.

    Minimum Bayes risk (Eikema & Aziz 2020): the best has the highest mean ``utility`` of
    (hypothesis, reference) over all references drawn: "chrf", "match" or a function of two texts.
    Settings as in ``generate``; approximate, and all different, as in ``best_of``.

    Raises:
        ValueError: a setting out of bounds, an unknown utility, or a prompt that the codec can't
            take.
    """
    if isinstance(utility, str) and utility not in rerank.UTILITIES:
        raise ValueError(f"utility {utility!r} is not one of {', '.join(rerank.UTILITIES)}")
    judge = rerank.UTILITIES[utility] if isinstance(utility, str) else utility

    def order(samples: list[Sample]) -> list[tuple[int, float]]:
        return rerank.minimum_bayes_risk([sample.continuation for sample in samples], judge)

    label = f"minimum Bayes risk of {of}"
    return _chosen(artifact, prompt, n, length, of, order, label, settings)


def _chosen(
    artifact: Artifact,
    prompt: str | Sequence[str],
    n: int,
    length: int,
    of: int,
    order: Callable[[list[Sample]], list[tuple[int, float]]],
    label: str,
    settings: dict[str, Any],
) -> list[Sample]:
    bounded("samples to choose from", of, 1, MOST)
    bounded("n", n, 1, of)
    prompts = _prompts(prompt)
    drawn = generate(artifact, prompts, of, length, **settings)
    chosen = []
    for first in range(0, len(drawn), of):
        best: dict[str, Sample] = {}
        for i, _ in order(drawn[first : first + of]):
            best.setdefault(drawn[first + i].continuation, drawn[first + i])
        for sample in list(best.values())[:n]:
            chosen.append(replace(sample, strategy=label, exactness="approximate"))
    return chosen


def _prompts(prompt: str | Sequence[str]) -> list[str]:
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts:
        raise ValueError("no prompt given: an empty one is written ''")
    return prompts


def _sample(
    artifact: Artifact, on: Choice, prompt: str, found: Hypothesis, label: str, asked: Settings
) -> Sample:
    text = artifact.codec.decode(Encoded(np.array(found.symbols, dtype=np.int64)))
    text = text[: first_of(text, asked.stop)]
    return Sample(
        text=prompt + text,
        continuation=text,
        symbols=found.symbols,
        log_prob=found.log_prob,
        strategy=label,
        exactness="approximate",
        ended=found.ended,
        seed=asked.seed,
        backend=str(on),
    )


def _complete(artifact: Artifact, stops: Sequence[str]) -> Complete:
    """Whether the newest symbol completes one of the stop strings."""
    table, wanted = artifact.codec.symbol_bytes(), [stop.encode() for stop in stops]
    longest = max(map(len, wanted))

    def complete(symbols: Sequence[int]) -> bool:
        seen = b""
        for symbol in reversed(symbols):
            seen = table[symbol] + seen
            if len(seen) >= longest + len(table[symbols[-1]]):
                break
        return any(stop in seen for stop in wanted)

    return complete
