"""score, evaluate and bench: how good a run is, and how fast."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chainrule.cli.options import (
    Backend,
    Cache,
    Column,
    DType,
    Field,
    Json,
    Rope,
    RunFolder,
)
from chainrule.cli.write import only_for
from chainrule.verbs.printing import console, named, print_json, table

if TYPE_CHECKING:
    from chainrule.verbs.display import Display
    from chainrule.verbs.evaluate import PictureEvaluation
    from chainrule.verbs.fitted import Fitted


def score(
    run: RunFolder,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files, or -.")],
    symbols: Annotated[bool, typer.Option("--symbols", help="Every symbol's bits too.")] = False,
    label: Annotated[str | None, typer.Option(help="The class of the pictures.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="PNG of what in pictures is odd.")
    ] = None,
    backend: Backend = "auto",
    dtype: DType = None,
    json: Json = False,
) -> None:
    """Score files: nats and bits per byte, point or dimension; exact or a bound."""
    import math

    from chainrule.verbs.fitted import load
    from chainrule.verbs.pictures import of_pictures

    fitted = load(run)
    where: dict[str, Any] = {"backend": backend, "dtype": dtype}
    if of_pictures(fitted.artifact):
        only_for("text", run, **{"--symbols": symbols or None})
        _score_pictures(fitted, files, out, json, label=label, **where)
        return
    only_for("pictures", run, **{"--label": label, "-o": out})
    scores = {name: named(name, lambda b: fitted.score(b, **where)) for name in files}
    if json:
        print_json([{"file": name, **s.to_dict()} for name, s in scores.items()])
        return
    _scores(scores)
    for name, s in scores.items():
        if s.stride is not None:
            console.print(f"{name}: a new context every {s.stride} symbols", markup=False)
    if symbols:
        for s in scores.values():
            for symbol, nats in zip(s.symbols, s.per_symbol, strict=True):
                sys.stdout.write(f"{-nats / math.log(2):9.4f} bits  {symbol!r}\n")


def _scores(scores: dict[str, Any]) -> None:
    unit = next(iter(scores.values())).unit
    table(
        ("file", "nats", f"{unit}s", f"bits per {unit}", "kind"),
        (
            (name, f"{s.nats:.4f}", f"{s.units:,}", f"{s.bits_per_unit:.4f}", s.kind)
            for name, s in scores.items()
        ),
    )


def _score_pictures(
    fitted: Fitted, files: list[str], out: Path | None, json: bool, **where: Any
) -> None:
    from chainrule.verbs.display import display_for
    from chainrule.verbs.heat import heat_map
    from chainrule.verbs.pictures import Place, save

    folder = next((name for name in files if Path(name).is_dir()), None)
    if folder is not None:
        raise ValueError(f"{folder} is a folder: chainrule evaluate scores all of its pictures")
    if out is not None and (out.suffix.lower() != ".png" or out.is_dir()):
        raise ValueError(f"{out}: the heat maps are one PNG: give it a name that ends in .png")
    place = None if out is None else Place.of(str(out))
    display = display_for(json)
    scores = {name: fitted.score(name, progress=display.working, **where) for name in files}
    display.end()
    if place is not None:
        save(heat_map(list(scores.values())), place.path)
    if json:
        print_json([{"file": name, **s.to_dict()} for name, s in scores.items()])
        return
    _scores(scores)
    for name, s in scores.items():
        odd = "; ".join(f"{bits:.1f} bits at {r}, {c}" for r, c, bits in s.oddest())
        console.print(
            f"{name}: {odd} (row, column from 0)", style="dim", markup=False, soft_wrap=True
        )


def evaluate(
    run: RunFolder,
    data: Annotated[str, typer.Argument(metavar="DATA", help="File, folder, glob or -.")],
    rollout: Annotated[
        bool, typer.Option("--rollout", help="Instead, how errors add up over own symbols.")
    ] = False,
    passkey: Annotated[
        bool, typer.Option("--passkey", help="Instead, whether a key far back is found again.")
    ] = False,
    oracle: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Stands in for the law of DATA.")
    ] = None,
    length: Annotated[
        int | None, typer.Option(help="Symbols of a rollout (256), or of the longest prompt.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Rollouts (128), or pairs of prompts at each place (4).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same rollouts or keys.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="PNG of the rollouts, or of the keys.")
    ] = None,
    field: Field = None,
    column: Column = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="The class of every picture.")
    ] = None,
    backend: Backend = "auto",
    dtype: DType = None,
    rope: Rope = None,
    cache: Cache = "auto",
    json: Json = False,
) -> None:
    """Score DATA beside n-gram, gzip and xz (PNG and WebP); or --rollout, or --passkey."""
    from chainrule.verbs.display import display_for
    from chainrule.verbs.fitted import load
    from chainrule.verbs.pictures import of_pictures

    options = {"oracle": oracle, "length": length, "samples": samples, "seed": seed}
    asked: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
    if rollout and passkey:
        raise ValueError("--rollout and --passkey: one at a time")
    if oracle is not None and not rollout:
        raise ValueError("--oracle: only with --rollout")
    if not (rollout or passkey) and (asked or out):
        given = " and ".join(f"--{k}" for k in asked) or "-o"
        raise ValueError(f"{given}: only with --rollout or --passkey")
    display, fitted = display_for(json), load(run, rope=rope, cache=cache)
    where: dict[str, Any] = {"field": field, "progress": display.working}
    where |= {"backend": backend, "dtype": dtype}
    if of_pictures(fitted.artifact):
        mode = "--rollout" if rollout else "--passkey"
        only_for("text", run, **{mode: rollout or passkey or None, "--column": column})
        _evaluate_pictures(fitted.evaluate(data, labels=labels, **where), display, json)
        return
    only_for("pictures", run, **{"--labels": labels})
    where["column"] = column
    if rollout or passkey:
        found: Any = (fitted.rollout if rollout else fitted.passkey)(data, **asked, **where)
        remark = f"oracle: {found.oracle}; {found.note}" if rollout else found.remark()
        display.end()
        if json:
            print_json(found.to_dict())
        else:
            table(found.header(), found.rows())
            console.print(remark, markup=False)
        if out is not None:
            found.save(out)
        return
    result = fitted.evaluate(data, **where)
    display.end()
    if json:
        print_json(result.to_dict())
        return
    table(("", "bits per byte"), ((name, f"{bits:.4f}") for name, bits in result.rows()))
    console.print()
    table(
        ("symbols from the start", f"bits per {result.position_unit}", ""),
        ((places, f"{bits:.4f}", remark) for places, bits, _, remark in result.position_rows()),
    )
    console.print(
        f"documents: {result.documents:,}, {result.units:,} bytes, {result.num_symbols:,} symbols; "
        f"perplexity {result.perplexity:.3f} per symbol; score: {result.kind}"
    )


def _evaluate_pictures(result: PictureEvaluation, display: Display, json: bool) -> None:
    display.end()
    if json:
        print_json(result.to_dict())
        return
    table(("", "bits per dimension"), ((name, f"{bits:.4f}") for name, bits in result.rows()))
    console.print(
        f"pictures: {result.pictures:,}, {result.units:,} dimensions; "
        f"{result.nats_per_picture:.3f} nats each; score: {result.kind}"
        + (f"; {result.labelled:,} by their label" if result.labelled else ""),
        soft_wrap=True,
    )
    for line in result.skipped:
        console.print(f"left out: {line}", style="dim", markup=False, soft_wrap=True)


def bench(
    run: RunFolder,
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="Where prompts are from; else samples.")
    ] = None,
    length: Annotated[int | None, typer.Option(help="Symbols a sequence gets; 256.")] = None,
    temperature: Annotated[float, typer.Option(help="p^(1/t); 0 is greedy.")] = 1.0,
    rounds: Annotated[int, typer.Option(help="How often all is measured.")] = 5,
    seed: Annotated[int, typer.Option(help="Same seed, same samples.")] = 0,
    draft: Annotated[
        Path | None, typer.Option(metavar="RUN", help="The model that guesses, for draft.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="PNG; its .json is written beside it.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure every decoding strategy of a RUN: speed, calls, guesses, loss."""
    from chainrule.verbs.display import display_for
    from chainrule.verbs.fitted import load
    from chainrule.verbs.frontier import check

    if out is not None:
        check(out)  # before minutes are spent
    display = display_for(json)
    found = load(run).bench(
        data,
        length=length,
        temperature=temperature,
        rounds=rounds,
        seed=seed,
        draft=draft,
        progress=display.working,
    )
    display.end()
    if out is not None:
        found.save(out)
    if json:
        print_json(found.to_dict())
        return
    for batch in found.batches():
        console.print("one sequence" if batch == 1 else f"\na batch of {batch}", style="dim")
        table(found.header(), found.rows(batch))
    for line in found.notes():
        console.print(line, style="dim", markup=False, soft_wrap=True)
