"""generate, infill and next: what a run writes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from chainrule.cli.options import (
    Backend,
    Cache,
    DType,
    Json,
    MethodName,
    Rope,
    RunFolder,
    StrategyName,
    UtilityName,
)
from chainrule.verbs.printing import aside, console, named, print_json, stdin, table

TaskName = Literal["colourise", "upscale"]

if TYPE_CHECKING:
    from chainrule.verbs.fitted import Fitted
    from chainrule.verbs.generate import Sample
    from chainrule.verbs.infill import Infilled


def generate(
    run: RunFolder,
    prompt: Annotated[str, typer.Argument(help="Text to go on from; - reads it.")] = "",
    n: Annotated[int, typer.Option("-n", help="Continuations, or pictures.")] = 1,
    length: Annotated[int | None, typer.Option(help="Symbols at most; 300.")] = None,
    label: Annotated[str | None, typer.Option(help="The class of the pictures.")] = None,
    top: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="The upper part of a picture to draw.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="p^(1/t); 0 is greedy.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Keep the k likeliest symbols; 0 is off.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest symbols of this mass.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Keep what has this share of the top.")] = 0.0,
    typical: Annotated[float, typer.Option(help="Keep the typical symbols of this mass.")] = 1.0,
    repetition_penalty: Annotated[float, typer.Option(help="p^r for symbols seen.")] = 1.0,
    presence_penalty: Annotated[float, typer.Option(help="Nats off a symbol seen.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="Nats off, each time seen.")] = 0.0,
    ban: Annotated[list[str] | None, typer.Option(help="Text never to write; repeatable.")] = None,
    force: Annotated[str, typer.Option(help="Text that the continuation begins with.")] = "",
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same text or pictures.")] = 0,
    regex: Annotated[str | None, typer.Option(help="The continuation matches this.")] = None,
    choice: Annotated[
        list[str] | None, typer.Option(help="The continuation is one of these; repeatable.")
    ] = None,
    schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="It is JSON of this JSON Schema.")
    ] = None,
    ensemble: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Average with it; repeatable.")
    ] = None,
    strategy: Annotated[StrategyName, typer.Option(help="How it is decoded.")] = "auto",
    draft: Annotated[
        Path | None, typer.Option(metavar="RUN", help="The model that guesses, for draft.")
    ] = None,
    guesses: Annotated[int | None, typer.Option(help="Symbols guessed a step.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Passes over a block, parallel.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Keep symbols from this probability on, block.")
    ] = None,
    beam: Annotated[
        int | None, typer.Option(metavar="WIDTH", help="Search the likeliest with so many.")
    ] = None,
    groups: Annotated[int | None, typer.Option(help="Groups of a beam that differ.")] = None,
    diversity: Annotated[
        float | None, typer.Option(help="Nats off what another group took; 0.5.")
    ] = None,
    length_penalty: Annotated[
        float | None, typer.Option(help="Log-probability over length^a, beam and best-of; 0.")
    ] = None,
    best_of: Annotated[
        int | None, typer.Option(metavar="N", help="Draw N, return the likeliest.")
    ] = None,
    mbr: Annotated[
        int | None, typer.Option(metavar="N", help="Draw N, return the most typical of them.")
    ] = None,
    utility: Annotated[UtilityName | None, typer.Option(help="What --mbr compares by.")] = None,
    backend: Backend = "auto",
    dtype: DType = None,
    rope: Rope = None,
    cache: Cache = "auto",
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="File to write (- is here), or FOLDER/.")
    ] = None,
    json: Json = False,
) -> None:
    """Draw continuations of a prompt, or pictures."""
    import chainrule as cr
    from chainrule.verbs.pictures import of_pictures

    search, options = _search(
        {"beam": beam, "best-of": best_of, "mbr": mbr},
        {
            "groups": groups,
            "diversity": diversity,
            "length-penalty": length_penalty,
            "utility": utility,
        },
    )
    settings: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "typical": typical,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "ban": tuple(ban or ()),
        "force": force,
        "stop": tuple(stop or ()),
        "seed": seed,
        "strategy": strategy,
        "regex": regex,
        "choices": None if choice is None else tuple(choice),
        "schema": None if schema is None else str(schema),
        "draft": draft,
        "guesses": guesses,
        "iterations": iterations,
        "threshold": threshold,
        "backend": backend,
        "dtype": dtype,
    }
    settings = {k: v for k, v in settings.items() if v is not None}
    opened = cr.load(run, rope=rope, cache=cache)
    if of_pictures(opened.artifact):
        words = {"a prompt": prompt or None, "--length": length, "--ensemble": ensemble or None}
        searches = {"--beam": beam, "--best-of": best_of, "--mbr": mbr}
        only_for("text", run, **words, **searches)
        _draw(opened, out, json, n=n, label=label, top=top, **settings)
        return
    only_for("pictures", run, **{"--label": label, "--top": top})
    length = 300 if length is None else length
    fitted = cr.ensemble([opened, *ensemble]) if ensemble else opened
    text = stdin().decode() if prompt == "-" else prompt
    to_file = out is not None and out != "-"
    if n == 1 and search is None and not json and not to_file:
        pieces = fitted.stream(text, length, **settings)
        sys.stdout.write(text)
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
        _say(pieces.choice)
        return
    if search is None:
        samples = fitted.generate(text, n, length, **settings)
    else:
        samples = getattr(fitted, search)(text, n, length, **options, **settings)
    _show(samples, out, json)
    if not json:
        _say(samples[-1].choice)


def _say(choice: str | None) -> None:
    """What strategy auto found, where it can't be taken for text."""
    if choice is not None:
        aside.print(f"auto took {choice}", style="dim", markup=False, soft_wrap=True)


_SEARCHES = {  # the option, its verb, and what the verb calls its number
    "beam": ("beam_search", "width"),
    "best-of": ("best_of", "of"),
    "mbr": ("mbr", "of"),
}
_BELONGS = {
    "groups": ("beam",),
    "diversity": ("beam",),
    "length-penalty": ("beam", "best-of"),
    "utility": ("mbr",),
}


def _search(
    sizes: dict[str, int | None], options: dict[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    """The search that was asked for and its settings; None where symbols are simply drawn.

    Raises:
        ValueError: two searches, or an option without the search that it belongs to.
    """
    asked = [name for name, size in sizes.items() if size is not None]
    if len(asked) > 1:
        raise ValueError(f"--{asked[0]} and --{asked[1]} are two ways to search: choose one")
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if not set(asked) & set(_BELONGS[name]):
            raise ValueError(f"--{name} needs --{' or --'.join(_BELONGS[name])}")
    if not asked:
        return None, {}
    verb, size = _SEARCHES[asked[0]]
    return verb, {size: sizes[asked[0]], **{k.replace("-", "_"): v for k, v in given.items()}}


def infill(
    run: RunFolder,
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="Text with blanks, a file of it, -, or a picture.")
    ],
    mask: Annotated[
        str | None, typer.Option(help="What stands for one blank (_), or a picture, white there.")
    ] = None,
    task: Annotated[
        TaskName | None, typer.Option(help="Of a picture instead: colours, or a larger one.")
    ] = None,
    method: Annotated[
        MethodName | None, typer.Option(help="exact where the model can; clamp, smc for the rest.")
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Ways to fill them.")] = 1,
    label: Annotated[str | None, typer.Option(help="The class of the picture.")] = None,
    particles: Annotated[int | None, typer.Option(help="Of smc; 256.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same text or picture.")] = 0,
    temperature: Annotated[float, typer.Option(help="p^(1/t); 0 is greedy.")] = 1.0,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="File to write (- is here), or FOLDER/.")
    ] = None,
    json: Json = False,
) -> None:
    """Fill the blanks of a text, or of a picture."""
    from chainrule.codecs.symbols import as_text
    from chainrule.verbs.fitted import load
    from chainrule.verbs.pictures import of_pictures

    if particles is not None and method != "smc":
        raise ValueError("--particles needs --method smc")
    options: dict[str, Any] = {} if particles is None else {"particles": particles}
    options |= {"method": method, "n": n, "seed": seed, "temperature": temperature}
    fitted = load(run)
    if of_pictures(fitted.artifact):
        _fill(fitted, text, out, json, mask=mask, task=task, label=label, **options)
        return
    only_for("pictures", run, **{"--task": task, "--label": label})
    if text == "-" or os.path.isfile(text):
        text = named(text, as_text)
    _show(fitted.infill(text, mask="_" if mask is None else mask, **options), out, json)


def only_for(medium: str, run: Path, **given: Any) -> None:
    """Refuse what a run of another medium has no use for; raises ValueError."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} is for runs of {medium}, and {run} is none")


def _draw(fitted: Fitted, out: str | None, json: bool, **settings: Any) -> None:
    """Pictures into their place."""
    from chainrule.verbs.display import display_for
    from chainrule.verbs.pictures import Place, grid_of

    place = None if json and out is None else Place.of(out)  # before minutes are spent
    display = display_for(json)
    drawn = fitted.generate(progress=display.working, **settings)
    display.end()
    pictures = [d.pixels for d in drawn]
    written = None if place is None else place.write(pictures, lambda: grid_of(pictures))
    if json:
        print_json([d.to_dict() for d in drawn])
        return
    bits = sum(d.bits_per_dim for d in drawn) / len(drawn)
    many = "a picture" if len(drawn) == 1 else f"{len(drawn):,} pictures"
    line = f"{written}: {many}, {bits:.4f} bits per dimension"
    console.print(line, markup=False, soft_wrap=True)
    if drawn[0].given:
        rows = len(pictures[0]) * drawn[0].given // len(drawn[0].symbols)
        aside.print(f"given: the upper {rows} of {len(pictures[0])} rows", style="dim")
    _say(drawn[-1].choice)


def _fill(fitted: Fitted, picture: str, out: str | None, json: bool, **settings: Any) -> None:
    """A picture and what was made of it, into their place."""
    from chainrule.verbs.display import display_for
    from chainrule.verbs.fill import sheet_of
    from chainrule.verbs.pictures import Place

    place = None if json and out is None else Place.of(out)
    display = display_for(json)
    found = fitted.infill(picture, progress=display.working, **settings)
    display.end()
    pictures = [f.pixels for f in found]
    written = None if place is None else place.write(pictures, lambda: sheet_of(found))
    if json:
        print_json([f.to_dict() for f in found])
        return
    one = found[0]
    line = f"{written}: {one.blanks:,} symbols filled in, {one.method} ({one.exactness})"
    console.print(line, markup=False, soft_wrap=True)
    rows = ((str(i + 1), f"{f.bits:.2f}", f"{f.log_prob:.2f}") for i, f in enumerate(found))
    table(("", "bits", "nats"), rows)
    if one.effective_sample_size is not None:
        console.print(f"as good as {one.effective_sample_size:.1f} independent particles")


def _show(found: Sequence[Sample | Infilled], out: str | None, json: bool) -> None:
    """All texts: as JSON, in a file with an empty line between them, or on the terminal."""
    if json:
        print_json([f.to_dict() for f in found])
    elif out is not None and out != "-":
        from chainrule.files import write_text

        write_text(Path(out), "\n\n".join(f.text for f in found) + "\n")
    else:
        for i, each in enumerate(found):
            line = f"--- {i + 1} of {len(found)}  {each.log_prob:.2f} nats"
            console.print(line, style="dim", markup=False)
            sys.stdout.write(each.text + "\n")


def next(
    run: RunFolder,
    prefix: Annotated[str, typer.Argument(help="What was typed so far.")],
    k: Annotated[int, typer.Option("-k", help="Words.")] = 5,
    backend: Backend = "auto",
    dtype: DType = None,
    json: Json = False,
) -> None:
    """Suggest the likeliest next words, as a phone keyboard would."""
    from chainrule.verbs.fitted import load

    words = load(run).next(prefix, k, backend=backend, dtype=dtype)
    if json:
        print_json([{"word": w, "probability": p} for w, p in words])
    else:
        table(("word", "probability"), ((w, f"{p:.4f}") for w, p in words))
