"""fit and demo: what makes a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from chainrule.cli.options import (
    AdapterName,
    CodecName,
    ColourName,
    Column,
    Field,
    Json,
    ModelName,
    ObjectiveName,
    OrderName,
    RunFolder,
    SizeName,
)
from chainrule.verbs.printing import console, print_json, table


def fit(
    data: Annotated[list[str], typer.Argument(metavar="DATA", help="File, folder, glob or -.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="RUN", help="Folder to make; runs/NAME.")
    ] = None,
    model: Annotated[ModelName | None, typer.Option(help="Model family.")] = None,
    size: Annotated[SizeName | None, typer.Option(help="Size.")] = None,
    codec: Annotated[CodecName | None, typer.Option(help="What a symbol is.")] = None,
    vocabulary: Annotated[
        int | None, typer.Option(help="Symbols of the codec words or bpe.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="An existing tokenizer.json.")] = None,
    time: Annotated[
        str | None, typer.Option(help="Budget: 30s, 10m, 2h (5m if not given).")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, instead of --time.")] = None,
    batch: Annotated[int | None, typer.Option(help="Windows a step.")] = None,
    context: Annotated[int | None, typer.Option(help="Symbols a window.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Share of inputs dropped.")] = None,
    accumulate: Annotated[int, typer.Option(help="Batches of windows a step.")] = 1,
    carry: Annotated[
        bool | None,
        typer.Option("--carry/--no-carry", help="Carry the hidden state from batch to batch."),
    ] = None,
    objective: Annotated[ObjectiveName, typer.Option(help="What is minimised.")] = "nll",
    rate: Annotated[
        float | None, typer.Option(help="Share of symbols (hybrid: of batches) that it changes.")
    ] = None,
    ahead: Annotated[
        int, typer.Option(help="Symbols beyond the next that extra heads learn to guess.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Same seed, same model.")] = 0,
    field: Field = None,
    column: Column = None,
    resize: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Scale pictures to 32, or 24x32 (h x w).")
    ] = None,
    crop: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Cut the middle out of pictures first.")
    ] = None,
    colour: Annotated[ColourName | None, typer.Option(help="What a pixel is made of.")] = None,
    levels: Annotated[
        int | None, typer.Option(help="Of a channel, 2 to 256; colours of a palette.")
    ] = None,
    order: Annotated[OrderName | None, typer.Option(help="In which pixels come.")] = None,
    background: Annotated[
        str | None,
        typer.Option(metavar="COLOUR", help="Behind what is transparent: white, #rrggbb."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="CSV", help="file,label: what each picture shows.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option("--from", metavar="RUN", help="Start from this run's weights.")
    ] = None,
    old: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text of what RUN knew, for the table.")
    ] = None,
    adapter: Annotated[
        AdapterName | None, typer.Option(help="What learns beside RUN's weights, which stay.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Of the adapter (16 if not given).")] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Event files in RUN/events too.")
    ] = False,
    shard: Annotated[
        bool, typer.Option("--shard/--no-shard", help="Of several processes, each keeps a part.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted RUN.")] = False,
    json: Json = False,
) -> None:
    """Learn from DATA and write a fitted artifact."""
    # Before torch is there: what it says when another process dies is pages long.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from chainrule.training.distributed import is_first
    from chainrule.verbs.display import display_for
    from chainrule.verbs.fit import fit as verb
    from chainrule.verbs.inspect import inspect as card_of

    asked = {
        "model": model,
        "size": size,
        "codec": codec,
        "vocabulary": vocabulary,
        "tokenizer": tokenizer,
        "time": time,
        "steps": steps,
        "batch": batch,
        "context": context,
        "lr": lr,
        "dropout": dropout,
        "accumulate": accumulate,
        "carry": carry,
        "objective": objective,
        "rate": rate,
        "ahead": ahead,
        "seed": seed,
        "field": field,
        "column": column,
        "resize": resize,
        "crop": crop,
        "colour": colour,
        "levels": levels,
        "order": order,
        "background": background,
        "labels": labels,
        "base": base,
        "old": old,
        "adapter": adapter,
        "rank": rank,
        "tensorboard": tensorboard,
        "shard": shard,
    }
    source: Any = data[0] if len(data) == 1 else data
    artifact = verb(source, out, resume=resume, display=display_for(json), **asked)
    if not is_first():
        return  # process 0 speaks for all
    if json:
        print_json(card_of(artifact).to_dict())
    else:
        done = artifact.results
        unit = "dimension" if artifact.outline.space.grid else "byte"
        if "fine_tuning" in done:
            from chainrule.verbs.tune import rows

            table((f"held-out bits per {unit}", "before", "after"), rows(done["fine_tuning"]))
            others = (f"{k} {v:.4f}" for k, v in done[f"others_bits_per_{unit}"].items())
            console.print(f"others on the new data: {', '.join(others)}")
        elif f"held_out_bits_per_{unit}" in done:
            bits = {"this model": done[f"held_out_bits_per_{unit}"]}
            bits |= done[f"others_bits_per_{unit}"]
            table(("held out", f"bits per {unit}"), ((k, f"{v:.4f}") for k, v in bits.items()))
        console.print(f"saved in {artifact.path}", markup=False)
    if not artifact.results.get("finished", True):
        raise typer.Exit(1)


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")] = Path("runs/demo"),
    time: Annotated[str, typer.Option(help="How long to train.")] = "60s",
    json: Json = False,
) -> None:
    """Learn a book in a minute and digits in a quarter, and write a page about each."""
    from chainrule.verbs.demo import demo as verb
    from chainrule.verbs.display import display_for

    result = verb(out, time=time, display=display_for(json))
    if json:
        print_json(result.to_dict())
    else:
        table(("held out", "bits per byte"), ((k, f"{v:.4f}") for k, v in result.bits.items()))
        console.print(f"the page: {result.page}", markup=False, soft_wrap=True)
        if result.picture_bits is not None:
            found = ((k, f"{v:.4f}") for k, v in result.picture_bits.items())
            table(("held out", "bits per dimension"), found)
            console.print(f"the page: {result.picture_page}", markup=False, soft_wrap=True)


def merge(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="OUT", help="Folder to make; RUN-merged.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="The run that RUN adapts, where it isn't found.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a whole run of an adapter and the run that it adapts."""
    from chainrule.artifact import load_artifact
    from chainrule.verbs.inspect import inspect as card_of
    from chainrule.verbs.merge import merge as verb

    made = verb(load_artifact(run, base), out)
    if json:
        print_json(card_of(made).to_dict())
    else:
        console.print(f"saved in {made.path}", markup=False)
