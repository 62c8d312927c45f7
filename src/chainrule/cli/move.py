"""import and export: other people's models in, ours out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from chainrule.cli.options import Json, RunFolder
from chainrule.verbs.printing import console, print_json, table


def import_(
    form: Annotated[
        Literal["hf", "gguf"], typer.Argument(help="hf: a Hugging Face folder; gguf: a file.")
    ],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The folder or file.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="RUN", help="Folder to make; runs/NAME.")
    ] = None,
    widen: Annotated[
        Literal["f32", "bf16"] | None,
        typer.Option(help="What a GGUF's matrices become, instead of staying as they are."),
    ] = None,
    json: Json = False,
) -> None:
    """Make a RUN of a model that somebody else trained."""
    from chainrule.verbs import bring
    from chainrule.verbs.display import display_for
    from chainrule.verbs.inspect import inspect

    if form == "hf" and widen is not None:
        raise ValueError("--widen is for a GGUF: what comes from Hugging Face keeps its type")
    display = display_for(json)
    if form == "hf":
        made = bring.import_hf(path, out, progress=display.working)
    else:
        made = bring.import_gguf(path, out, widen=widen, progress=display.working)
    display.end()
    card = inspect(made)
    if json:
        print_json(card.to_dict())
        return
    console.print(card.headline, markup=False, soft_wrap=True)
    for note in made.recipe["imported"].get("notes", ()):
        console.print(note, markup=False, soft_wrap=True)
    console.print(f"saved in {card.path}", markup=False, soft_wrap=True)


def export(
    run: RunFolder,
    to: Annotated[
        Literal["hf", "gguf"], typer.Option(help="hf: for transformers; gguf: for llama.cpp.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="RUN-hf, or RUN-F16.gguf.")
    ] = None,
    kind: Annotated[
        Literal["F32", "BF16", "F16", "Q8_0", "Q4_0"] | None,
        typer.Option(help="Of a GGUF's matrices; F16."),
    ] = None,
    json: Json = False,
) -> None:
    """Write a RUN for other software, with no code of its own."""
    from chainrule.verbs.display import display_for
    from chainrule.verbs.fitted import load

    display = display_for(json)
    made = load(run).export(to, out, kind=kind, progress=display.working)
    display.end()
    if json:
        print_json(made.to_dict())
        return
    table(
        ("", ""),
        [
            ("form", f"{made.form}, {made.architecture}"),
            ("parameters", f"{made.parameters:,}"),
            ("size", f"{made.size:,} bytes"),
            *(("note", note) for note in made.notes),
        ],
    )
    console.print(f"saved in {made.path}", markup=False, soft_wrap=True)
