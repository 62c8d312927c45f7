"""inspect, doctor and quantize: what a run is, what it runs on, and the same with less weight."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from chainrule.cli.options import Json, RunFolder
from chainrule.verbs.printing import console, print_json, table


def inspect(
    run: RunFolder,
    prompt: Annotated[
        str | None, typer.Option(help="Draw the attention of this text, head by head.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="PNG to write; attention.png.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what a RUN is and how it was made, or where it looks in a text."""
    from chainrule.verbs.fitted import load

    if prompt is not None:
        found = load(run).attention(prompt)
        facts = {**found.to_dict(), "picture": str(found.save(out or "attention.png"))}
        if json:
            print_json(facts)
        else:
            line = "{num_layers} layers of {num_heads} heads: {picture}".format(**facts)
            console.print(line, markup=False, soft_wrap=True)
        return
    if out is not None:
        raise ValueError("-o is the picture of an attention: say of which text with --prompt")
    card = load(run).inspect()
    if json:
        print_json(card.to_dict())
    else:
        table(("", ""), card.rows())


def doctor(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="Say how this one decodes.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what this installation can do on this machine, and with a RUN."""
    from chainrule.verbs.doctor import doctor as verb

    health = verb(run)
    if json:
        print_json(health.to_dict())
    else:
        table(("", ""), health.rows())


def quantize(
    run: RunFolder,
    to: Annotated[
        Literal["int8", "q4", "bf16", "int8-row"], typer.Option(help="What weights become.")
    ] = "int8",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="RUN", help="Folder to make; RUN-int8.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="To score on; else the held-out part.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a RUN with narrow weights, and score it before and after."""
    from chainrule.verbs.display import display_for
    from chainrule.verbs.fitted import load

    display = display_for(json)
    found = load(run).quantize(to, out, text=text, progress=display.working)
    display.end()
    if json:
        print_json(found.to_dict())
        return
    table(found.header(), found.rows())
    console.print(f"on {found.text}, {found.units:,} bytes", markup=False, soft_wrap=True)
    console.print(f"saved in {found.path}", markup=False, soft_wrap=True)
