"""The end of a fit: results, the loss curve, and a model card written for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainrule.artifact import Artifact
from chainrule.files import write_text
from chainrule.training.data import Corpus
from chainrule.training.shards import Progress
from chainrule.verbs.curve import loss_curve
from chainrule.verbs.evaluate import compressors
from chainrule.verbs.generate import PLAIN, generate
from chainrule.verbs.inspect import inspect
from chainrule.verbs.tune import held_out_bits, rows
from chainrule.verbs.tune import table as fine_tuning

if TYPE_CHECKING:
    from chainrule.verbs.material import Text


def finish(
    artifact: Artifact,
    material: Text,
    folder: Path,
    done: dict[str, Any],
    records: list[dict[str, Any]],
    progress: Progress,
) -> None:
    """Score the held-out part, then write loss.png, README.md and config.json."""
    corpus, others = material.lessons, dict[str, float]()
    if len(corpus.held_out):

        def bits(model: Any) -> float:
            size, own = corpus.held_out_bytes, artifact.model
            return held_out_bits(model, corpus.held_out, size, progress, beside=own)

        done = {**done, "held_out_bits_per_byte": bits(artifact.model)}
        others = compressors(corpus.held_out_text())
        if artifact.baseline is not None:
            others["n-gram"] = bits(artifact.baseline)
        done["others_bits_per_byte"] = others
        if "base" in artifact.recipe:
            own = done["held_out_bits_per_byte"]
            done["fine_tuning"] = fine_tuning(artifact, material, own, progress)
    artifact.results = done
    if records:
        loss_curve(records, folder / "loss.png", others)
    write_card(artifact, corpus, folder)
    artifact.save_config(folder)  # last: with results in it, a run counts as over


def write_card(artifact: Artifact, corpus: Corpus, folder: Path) -> None:
    """README.md of an artifact."""
    card, done = inspect(artifact), artifact.results
    lines = [f"# {folder.name}", "", f"A {card.headline}, made with chainrule.", ""]
    lines += [f"- Data: {corpus.description}."]
    if "held_out_bits_per_byte" in done:
        lines += [f"- Held-out score: {done['held_out_bits_per_byte']:.3f} bits per byte."]
        beside = done["others_bits_per_byte"].items()
        lines += [f"- Beside it: {', '.join(f'{name} {bits:.3f}' for name, bits in beside)}."]
    if "fine_tuning" in done:
        lines += [f"- It went on from `{artifact.recipe['base']['path']}`:", ""]
        lines += ["| held-out bits per byte | before | after |", "|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in rows(done["fine_tuning"])]
        lines += [""]
    if "steps" in done:
        lines += [f"- Trained for {done['seconds']:.0f} s, {done['steps']:,} steps."]
    # Not auto: what it measures must not decide a tie, and with that the bytes of a file.
    (drawn,) = generate(artifact, n=1, length=300, seed=0, **PLAIN)
    sample = drawn.text.replace("```", "'''")
    lines += ["", "What it writes:", "", "```", sample, "```", ""]
    name = folder.name
    lines += ["Use it:", "", "```", f'chainrule generate {name} "…"', "```", ""]
    write_text(folder / "README.md", "\n".join(lines))
