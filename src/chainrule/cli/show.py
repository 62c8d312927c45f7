"""inspect and doctor: what a run is, and what is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def doctor(json: Json = False) -> None:
    """Show what this installation can do on this machine."""
    from chainrule.verbs.doctor import doctor as verb

    health = verb()
    if json:
        print_json(health.to_dict())
    else:
        table(("", ""), health.rows())
