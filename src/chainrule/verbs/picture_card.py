"""The end of a fit on pictures: results, the loss curve, samples, and a model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainrule.artifact import Artifact
from chainrule.codecs.image import PixelCodec
from chainrule.files import write_text
from chainrule.verbs.curve import loss_curve
from chainrule.verbs.display import Display
from chainrule.verbs.draw import draw
from chainrule.verbs.inspect import inspect
from chainrule.verbs.pictures import file_formats, grid_of, save
from chainrule.verbs.tune import rows
from chainrule.verbs.tune import table as fine_tuning

if TYPE_CHECKING:
    from chainrule.verbs.picture_material import PictureMaterial

SHOWN = 16  # pictures
UNIT = "dimension"


def finish(
    artifact: Artifact,
    material: PictureMaterial,
    folder: Path,
    done: dict[str, Any],
    records: list[dict[str, Any]],
    display: Display,
) -> None:
    """Score the held-out part, then write loss.png, samples.png, README.md and config.json."""
    bits = material.bits(artifact.model, display.working)
    x, _ = material.scored(artifact.model)
    others = file_formats(material.codec, list(x), display.working)
    done = {**done, f"held_out_bits_per_{UNIT}": bits, f"others_bits_per_{UNIT}": others}
    if "base" in artifact.recipe:
        done["fine_tuning"] = fine_tuning(artifact, material, bits, display.working)
    if material.skipped:
        done["left_out"] = len(material.skipped)
    artifact.results = done
    if records:
        loss_curve(records, folder / "loss.png", others, UNIT)
    _samples(artifact, folder, display)
    _write_card(artifact, material, folder)
    artifact.save_config(folder)  # last: with results in it, a run counts as over


def _samples(artifact: Artifact, folder: Path, display: Display) -> None:
    """samples.png: some of each class in turn, where there are classes."""
    codec = artifact.any_codec
    assert isinstance(codec, PixelCodec)
    if "label" in artifact.model.reads:
        each = -(-SHOWN // len(codec.labels))
        labels = list(codec.labels[:SHOWN])
        found = [d for name in labels for d in draw(artifact, each, label=name, **_plain(display))]
    else:
        found = draw(artifact, SHOWN, **_plain(display))
    save(grid_of([d.pixels for d in found]), folder / "samples.png")


def _plain(display: Display) -> dict[str, Any]:
    # Not auto: what it measures must not decide a tie, and with that the bytes of a file.
    return {"seed": 0, "progress": display.working}


def _write_card(artifact: Artifact, material: PictureMaterial, folder: Path) -> None:
    """README.md of an artifact."""
    card, done, codec = inspect(artifact), artifact.results, material.codec
    lines = [f"# {folder.name}", "", f"A {card.headline}, made with chainrule.", ""]
    if codec.labels:
        names = ", ".join(codec.labels[:20]) + (", …" if len(codec.labels) > 20 else "")
        lines += [f"- Labels: {names}."]
    lines += [f"- Data: {material.description}."]
    if material.skipped:
        lines += [f"- Left out: {len(material.skipped):,}; the first: {material.skipped[0]}."]
    lines += [f"- Held-out score: {done[f'held_out_bits_per_{UNIT}']:.3f} bits per {UNIT}."]
    beside = done[f"others_bits_per_{UNIT}"].items()
    lines += [f"- Beside it: {', '.join(f'{name} {bits:.3f}' for name, bits in beside)}."]
    if "fine_tuning" in done:
        lines += [f"- It went on from `{artifact.recipe['base']['path']}`:", ""]
        lines += [f"| held-out bits per {UNIT} | before | after |", "|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in rows(done["fine_tuning"])]
        lines += [""]
    if "steps" in done:
        lines += [f"- Trained for {done['seconds']:.0f} s, {done['steps']:,} steps."]
    lines += ["", "What it draws:", "", "![samples](samples.png)", "", "Use it:", "", "```"]
    label = f" --label {codec.labels[0]}" if codec.labels else ""
    lines += [f"chainrule generate {folder.name} -n 16{label} -o grid.png", "```", ""]
    write_text(folder / "README.md", "\n".join(lines))
