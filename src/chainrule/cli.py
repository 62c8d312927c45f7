"""The command line: one subcommand a verb. Nothing heavy is imported before a verb runs.

Exit codes: 0 done, 1 failed while running, 2 wrong input.
"""

from __future__ import annotations

import json as _json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
from rich.console import Console
from rich.table import Table

# Held against the registry by a test: reading it would import torch.
ModelName = Literal["transformer", "gpt2", "lstm", "gru", "mingru", "rnn", "ngram"]
SizeName = Literal["tiny", "small", "base"]
CodecName = Literal["bytes", "chars", "words", "bpe"]
StrategyName = Literal["auto", "ancestral"]
MODELS, CODECS, STRATEGIES = get_args(ModelName), get_args(CodecName), get_args(StrategyName)

app = typer.Typer(
    name="chainrule",
    help="Model anything that comes in order: fit a model on your own data, then use it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_out = Console(highlight=False)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder made by chainrule fit.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Field = Annotated[str | None, typer.Option(help="Field of .jsonl lines that holds the text.")]
Column = Annotated[str | None, typer.Option(help="Column of .csv or .parquet that holds it.")]


@app.command()
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
    seed: Annotated[int, typer.Option(help="Same seed, same model.")] = 0,
    field: Field = None,
    column: Column = None,
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted RUN.")] = False,
    json: Json = False,
) -> None:
    """Learn from DATA and write a fitted artifact."""
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
        "seed": seed,
        "field": field,
        "column": column,
    }
    source: Any = data[0] if len(data) == 1 else data
    artifact = verb(source, out, resume=resume, display=display_for(json), **asked)
    if json:
        _print_json(card_of(artifact).to_dict())
    else:
        done = artifact.results
        if "held_out_bits_per_byte" in done:
            bits = {"this model": done["held_out_bits_per_byte"], **done["others_bits_per_byte"]}
            _table(("held out", "bits per byte"), ((k, f"{v:.4f}") for k, v in bits.items()))
        _out.print(f"saved in {artifact.path}", markup=False)
    if not artifact.results.get("finished", True):
        raise typer.Exit(1)


@app.command()
def generate(
    run: RunFolder,
    prompt: Annotated[str, typer.Argument(help="Text to go on from; - reads it.")] = "",
    n: Annotated[int, typer.Option("-n", help="Continuations.")] = 1,
    length: Annotated[int, typer.Option(help="Symbols at most.")] = 300,
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
    seed: Annotated[int, typer.Option(help="Same seed, same text.")] = 0,
    strategy: Annotated[StrategyName, typer.Option(help="How it is decoded.")] = "auto",
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="File to write; - is here.")
    ] = None,
    json: Json = False,
) -> None:
    """Draw continuations of a prompt."""
    from chainrule.verbs.fitted import load

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
    }
    fitted = load(run)
    text = _stdin().decode() if prompt == "-" else prompt
    to_file = out is not None and out != "-"
    if n == 1 and not json and not to_file:
        pieces = fitted.stream(text, length, **settings)
        sys.stdout.write(text)
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
        return
    samples = fitted.generate(text, n, length, **settings)
    if json:
        _print_json([s.to_dict() for s in samples])
    elif to_file:
        from chainrule.files import write_text

        write_text(Path(str(out)), "\n\n".join(s.text for s in samples) + "\n")
    else:
        for i, sample in enumerate(samples):
            _out.print(f"--- {i + 1} of {n}  {sample.log_prob:.2f} nats", style="dim", markup=False)
            sys.stdout.write(sample.text + "\n")


@app.command()
def next(
    run: RunFolder,
    prefix: Annotated[str, typer.Argument(help="What was typed so far.")],
    k: Annotated[int, typer.Option("-k", help="Words.")] = 5,
    json: Json = False,
) -> None:
    """Suggest the likeliest next words, as a phone keyboard would."""
    from chainrule.verbs.fitted import load

    words = load(run).next(prefix, k)
    if json:
        _print_json([{"word": w, "probability": p} for w, p in words])
    else:
        _table(("word", "probability"), ((w, f"{p:.4f}") for w, p in words))


@app.command()
def score(
    run: RunFolder,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files, or -.")],
    symbols: Annotated[bool, typer.Option("--symbols", help="Every symbol's bits too.")] = False,
    json: Json = False,
) -> None:
    """Score files: nats and bits per byte, exact or a bound."""
    import math

    from chainrule.verbs.fitted import load

    fitted = load(run)
    scores = {name: _named(name, lambda b: fitted.score(b)) for name in files}
    if json:
        _print_json([{"file": name, **s.to_dict()} for name, s in scores.items()])
        return
    _table(
        ("file", "nats", "bytes", "bits per byte", "kind"),
        (
            (name, f"{s.nats:.4f}", f"{s.units:,}", f"{s.bits_per_unit:.4f}", s.kind)
            for name, s in scores.items()
        ),
    )
    if symbols:
        for s in scores.values():
            for symbol, nats in zip(s.symbols, s.per_symbol, strict=True):
                sys.stdout.write(f"{-nats / math.log(2):9.4f} bits  {symbol!r}\n")


@app.command()
def evaluate(
    run: RunFolder,
    data: Annotated[str, typer.Argument(metavar="DATA", help="File, folder, glob or -.")],
    field: Field = None,
    column: Column = None,
    json: Json = False,
) -> None:
    """Score DATA: bits per byte and perplexity, with n-gram, gzip and xz beside it."""
    from chainrule.verbs.display import display_for
    from chainrule.verbs.fitted import load

    display = display_for(json)
    result = load(run).evaluate(data, field=field, column=column, progress=display.working)
    display.end()
    if json:
        _print_json(result.to_dict())
        return
    _table(("", "bits per byte"), ((name, f"{bits:.4f}") for name, bits in result.rows()))
    _out.print(
        f"documents: {result.documents:,}, {result.units:,} bytes, {result.num_symbols:,} symbols; "
        f"perplexity {result.perplexity:.3f} per symbol; score: {result.kind}"
    )


@app.command()
def inspect(run: RunFolder, json: Json = False) -> None:
    """Show what a RUN is and how it was made."""
    from chainrule.verbs.fitted import load

    card = load(run).inspect()
    if json:
        _print_json(card.to_dict())
    else:
        _table(("", ""), card.rows())


@app.command()
def doctor(json: Json = False) -> None:
    """Show what this installation can do on this machine."""
    from chainrule.verbs.doctor import doctor as verb

    health = verb()
    if json:
        _print_json(health.to_dict())
    else:
        _table(("", ""), health.rows())


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")] = Path("runs/demo"),
    time: Annotated[str, typer.Option(help="How long to train.")] = "60s",
    json: Json = False,
) -> None:
    """Learn a book in a minute and write a page about it."""
    from chainrule.verbs.demo import demo as verb
    from chainrule.verbs.display import display_for

    result = verb(out, time=time, display=display_for(json))
    if json:
        _print_json(result.to_dict())
    else:
        _table(("held out", "bits per byte"), ((k, f"{v:.4f}") for k, v in result.bits.items()))
        _out.print(f"the page: {result.page}", markup=False, soft_wrap=True)


# ---- helpers ----


def _stdin() -> bytes:
    return sys.stdin.buffer.read()


def _named(name: str, use: Any) -> Any:
    """Read a file and use it; a complaint names the file."""
    path = Path(name)
    if name != "-" and not path.is_file():
        raise ValueError(f"{name}: no such file")
    data = _stdin() if name == "-" else path.read_bytes()
    try:
        return use(data)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _print_json(value: Any) -> None:
    sys.stdout.write(_json.dumps(value, ensure_ascii=False) + "\n")


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    table = Table(box=None, pad_edge=False, show_header=any(header), header_style="dim")
    for i, name in enumerate(header):
        table.add_column(name, overflow="fold", no_wrap=i == 0)
    for row in rows:
        table.add_row(*(_plain(cell) for cell in row))
    _out.print(table)


def _plain(cell: str) -> Any:
    from rich.text import Text

    return Text(cell)


def main() -> None:
    """Run a command; wrong input ends with one line and exit code 2, never a traceback."""
    try:
        app()
    except ValueError as error:
        sys.exit(_complain(error, 2))
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except (OSError, RuntimeError) as error:
        sys.exit(_complain(error, 1))


def _complain(error: Exception, code: int) -> int:
    sys.stderr.write("error: " + " ".join(str(error).split()) + "\n")
    return code
