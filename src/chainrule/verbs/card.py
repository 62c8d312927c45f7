"""The end of a fit: results, the loss curve, and a model card written for people."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from chainrule.artifact import Artifact
from chainrule.files import write_text
from chainrule.training.data import Corpus
from chainrule.training.scoring import log_probs
from chainrule.training.shards import Progress
from chainrule.verbs.curve import loss_curve
from chainrule.verbs.evaluate import compressors
from chainrule.verbs.generate import generate
from chainrule.verbs.inspect import inspect

_SCORED = 1_000_000  # symbols of the held-out part that the final score reads


def finish(
    artifact: Artifact,
    corpus: Corpus,
    folder: Path,
    done: dict[str, Any],
    records: list[dict[str, Any]],
    progress: Progress,
) -> None:
    """Score the held-out part, then write config.json, loss.png and README.md."""
    others: dict[str, float] = {}
    if len(corpus.held_out):
        symbols = corpus.held_out[:_SCORED]
        units = corpus.held_out_bytes * len(symbols) / len(corpus.held_out)

        def bits(model: Any) -> float:
            def told(done: int) -> None:
                progress("scoring the held-out part", done, len(symbols))

            return float(-log_probs(model, symbols, progress=told).sum() / math.log(2) / units)

        done = {**done, "held_out_bits_per_byte": bits(artifact.model)}
        others = compressors(corpus.held_out_text())
        if artifact.baseline is not None:
            others["n-gram"] = bits(artifact.baseline)
        done["others_bits_per_byte"] = others
    artifact.results = done
    artifact.save_config(folder)
    if records:
        loss_curve(records, folder / "loss.png", others)
    write_card(artifact, corpus, folder)


def write_card(artifact: Artifact, corpus: Corpus, folder: Path) -> None:
    """README.md of an artifact."""
    card, done = inspect(artifact), artifact.results
    lines = [f"# {folder.name}", "", f"A {card.headline}, made with chainrule.", ""]
    lines += [f"- Data: {corpus.description}."]
    if "held_out_bits_per_byte" in done:
        lines += [f"- Held-out score: {done['held_out_bits_per_byte']:.3f} bits per byte."]
        beside = done["others_bits_per_byte"].items()
        lines += [f"- Beside it: {', '.join(f'{name} {bits:.3f}' for name, bits in beside)}."]
    if "steps" in done:
        lines += [f"- Trained for {done['seconds']:.0f} s, {done['steps']:,} steps."]
    sample = generate(artifact, n=1, length=300, seed=0)[0].text.replace("```", "'''")
    lines += ["", "What it writes:", "", "```", sample, "```", ""]
    name = folder.name
    lines += ["Use it:", "", "```", f'chainrule generate {name} "…"', "```", ""]
    write_text(folder / "README.md", "\n".join(lines))
