"""The verbs as functions over a folder or a Fitted: ``chainrule.generate("runs/book", …)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from chainrule.artifact import Artifact
from chainrule.verbs import bring as _bring
from chainrule.verbs import fit as _fit
from chainrule.verbs.bench import Frontier
from chainrule.verbs.chat import Message, Reply
from chainrule.verbs.demo import Demo
from chainrule.verbs.demo import demo as _demo
from chainrule.verbs.ensemble import ensemble_of
from chainrule.verbs.export import Exported
from chainrule.verbs.fitted import Fitted, load
from chainrule.verbs.generate import Sample, Stream
from chainrule.verbs.inspect import Card
from chainrule.verbs.quantize import Quantized

Model = Fitted | Artifact | str | Path


def _opened(run: Model) -> Fitted:
    if isinstance(run, Fitted):
        return run
    return Fitted(run) if isinstance(run, Artifact) else load(run)


def fit(
    source: str | Path | list[str],
    out: str | Path | None = None,
    *,
    resume: bool = False,
    **options: Any,
) -> Fitted:
    """Learn a file, folder or glob, into the folder ``out`` (``runs/NAME`` if not given).

    Options, all optional: model, size, codec, vocabulary, tokenizer, time ("2m") or steps,
    batch, context, lr, dropout, accumulate, carry, objective, rate, ahead, seed, field, column,
    base (a run whose weights this one starts from), old (text of what it knew), adapter ("lora"),
    rank, tensorboard, shard, display.

    Raises:
        ValueError: wrong input; nothing that was there before is changed.
    """
    return Fitted(_fit.fit(source, out, resume=resume, **options))


def generate(
    run: Model,
    prompt: str | Sequence[str] = "",
    n: int = 1,
    length: int | None = None,
    **settings: Any,
) -> list[Any]:
    """n continuations of every prompt, ``length`` symbols (300) at most: a list of ``Sample``.

    Of a run of pictures n of these, a list of ``Drawn``: without prompt and length, with
    ``label`` (the class they are to be of) and ``top`` (a picture of the upper part).
    """
    return _opened(run).generate(prompt, n, length, **settings)


def stream(run: Model, prompt: str = "", length: int = 300, **settings: Any) -> Stream:
    """One continuation, piece by piece."""
    return _opened(run).stream(prompt, length, **settings)


def beam_search(
    run: Model, prompt: str | Sequence[str] = "", n: int = 1, length: int = 300, **settings: Any
) -> list[Sample]:
    """The n likeliest continuations that a beam finds, best first.

    Settings: width (4), groups (1), diversity (0.5), length_penalty (0), and those of ``generate``
    that don't draw.
    """
    return _opened(run).beam_search(prompt, n, length, **settings)


def best_of(
    run: Model, prompt: str | Sequence[str] = "", n: int = 1, length: int = 300, **settings: Any
) -> list[Sample]:
    """The n likeliest of ``of`` (16) that are drawn.

    Settings: length_penalty (0), and those of ``generate``.
    """
    return _opened(run).best_of(prompt, n, length, **settings)


def mbr(
    run: Model, prompt: str | Sequence[str] = "", n: int = 1, length: int = 300, **settings: Any
) -> list[Sample]:
    """The n that are most like all of the ``of`` (16) that are drawn (minimum Bayes risk).

    Settings: utility ("chrf", "match" or a function of two texts), and those of ``generate``.
    """
    return _opened(run).mbr(prompt, n, length, **settings)


def chat(
    run: Model, messages: str | Sequence[Message], length: int = 512, **settings: Any
) -> Reply:
    """The next message of a conversation, by the model's own chat template.

    Settings: template (another one), and those of ``generate``.
    """
    return _opened(run).chat(messages, length, **settings)


def infill(run: Model, given: Any, **settings: Any) -> list[Any]:
    """Fill the blanks of a text, each ``mask`` ("_") being one symbol: a list of ``Infilled``.

    Or of a picture, a file or an array, where its ``mask`` is white, or by ``task`` ("colourise",
    "upscale"), and under a ``label``: a list of ``FilledPicture``.
    Settings: mask, method ("exact", "clamp", "smc"), n, particles, seed, temperature, top_k, top_p,
    min_p, typical.
    """
    return _opened(run).infill(given, **settings)


def ensemble(
    runs: Sequence[Model], weights: Sequence[float] | None = None, product: bool = False
) -> Fitted:
    """Several runs as one: the mean of their probabilities, or their renormalised product.

    Raises:
        ValueError: no run, runs with other symbols, or weights that don't fit.
    """
    artifacts = [_opened(run).artifact for run in runs]
    mixed = ensemble_of(artifacts, weights, product)
    fresh: dict[str, Any] = {"choices": {}, "engines": {}, "stored": None}
    return Fitted(replace(artifacts[0], outline=mixed, results={}, path=None, **fresh))


def next(run: Model, prefix: str, k: int = 5, **settings: Any) -> list[tuple[str, float]]:
    """The k likeliest words to come, with probabilities. Settings: backend, dtype."""
    return _opened(run).next(prefix, k, **settings)


def score(run: Model, given: Any, **settings: Any) -> Any:
    """The log-probability of a text in nats, whole and per symbol, and bits per byte: a ``Score``.

    Of a picture, a file or an array, bits per dimension: a ``PictureScore``.
    Settings: backend, dtype, and of a picture its label.
    """
    return _opened(run).score(given, **settings)


def evaluate(run: Model, source: str | Path, **where: Any) -> Any:
    """Bits per byte on other data, with n-gram, gzip and xz beside it: an ``Evaluation``.

    Of pictures bits per dimension, with PNG and WebP: a ``PictureEvaluation``.
    """
    return _opened(run).evaluate(source, **where)


def bench(run: Model, source: str | Path | None = None, **settings: Any) -> Frontier:
    """What every decoding strategy gains and costs with this model.

    Settings: length, temperature, rounds, seed, draft (a run), backend, dtype, progress.
    """
    return _opened(run).bench(source, **settings)


def quantize(
    run: Model, to: str = "int8", out: str | Path | None = None, **settings: Any
) -> Quantized:
    """Write a run again with narrow weights, into ``out`` (RUN-int8 and the like), and score both.

    Settings: text (a file to score; else the held-out part), progress.
    """
    return _opened(run).quantize(to, out, **settings)


def import_hf(path: str | Path, out: str | Path | None = None, **settings: Any) -> Fitted:
    """A Hugging Face folder (config.json, safetensors, tokenizer.json) as a run in ``out``.

    Raises:
        ValueError: a pickle, code of its own, a layout that isn't had here, or damage.
    """
    return Fitted(_bring.import_hf(path, out, **settings))


def import_gguf(path: str | Path, out: str | Path | None = None, **settings: Any) -> Fitted:
    """A GGUF file as a run in ``out``.

    Raises:
        ValueError: a layout or type that isn't had here, or damage.
    """
    return Fitted(_bring.import_gguf(path, out, **settings))


def export(run: Model, to: str = "hf", out: str | Path | None = None, **settings: Any) -> Exported:
    """Write a transformer for other software: "hf" (transformers) or "gguf" (llama.cpp).

    Settings: kind (F32, BF16, F16, Q8_0 or Q4_0, of a GGUF), progress.
    """
    return _opened(run).export(to, out, **settings)


def merge(run: Model, out: str | Path | None = None) -> Fitted:
    """An adapter and the run that it is for as a whole run, in ``out`` (RUN-merged)."""
    return _opened(run).merge(out)


def inspect(run: Model) -> Card:
    """What an artifact is and how it was made."""
    return _opened(run).inspect()


def demo(out: str | Path = "runs/demo", **options: Any) -> Demo:
    """Learn the text that ships with chainrule and write a page about it."""
    return _demo(out, **options)
