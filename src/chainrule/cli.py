"""The command line: one subcommand a verb. Nothing heavy is imported before a verb runs.

Exit codes: 0 done, 1 failed while running, 2 wrong input.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from chainrule.verbs.printing import console as _out
from chainrule.verbs.printing import named as _named
from chainrule.verbs.printing import print_json as _print_json
from chainrule.verbs.printing import stdin as _stdin
from chainrule.verbs.printing import table as _table

# Held against the registry by a test: reading it would import torch.
ModelName = Literal["transformer", "gpt2", "lstm", "gru", "mingru", "rnn", "ngram"]
SizeName = Literal["tiny", "small", "base"]
CodecName = Literal["bytes", "chars", "words", "bpe"]
StrategyName = Literal["auto", "ancestral"]
ObjectiveName = Literal["nll", "scheduled", "noise"]
MODELS, CODECS, STRATEGIES = get_args(ModelName), get_args(CodecName), get_args(StrategyName)
OBJECTIVES = get_args(ObjectiveName)

app = typer.Typer(
    name="chainrule",
    help="Model anything that comes in order: fit a model on your own data, then use it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

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
    objective: Annotated[ObjectiveName, typer.Option(help="What is minimised.")] = "nll",
    rate: Annotated[
        float | None, typer.Option(help="Share of symbols that the objective replaces.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same model.")] = 0,
    field: Field = None,
    column: Column = None,
    base: Annotated[
        Path | None, typer.Option("--from", metavar="RUN", help="Start from this run's weights.")
    ] = None,
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
        "seed": seed,
        "field": field,
        "column": column,
        "base": base,
        "tensorboard": tensorboard,
        "shard": shard,
    }
    source: Any = data[0] if len(data) == 1 else data
    artifact = verb(source, out, resume=resume, display=display_for(json), **asked)
    if not is_first():
        return  # process 0 speaks for all
    if json:
        _print_json(card_of(artifact).to_dict())
    else:
        done = artifact.results
        if "fine_tuning" in done:
            from chainrule.verbs.tune import rows

            _table(("held-out bits per byte", "before", "after"), rows(done["fine_tuning"]))
            others = (f"{k} {v:.4f}" for k, v in done["others_bits_per_byte"].items())
            _out.print(f"others on the new data: {', '.join(others)}")
        elif "held_out_bits_per_byte" in done:
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
    for name, s in scores.items():
        if s.stride is not None:
            _out.print(f"{name}: a new context every {s.stride} symbols", markup=False)
    if symbols:
        for s in scores.values():
            for symbol, nats in zip(s.symbols, s.per_symbol, strict=True):
                sys.stdout.write(f"{-nats / math.log(2):9.4f} bits  {symbol!r}\n")


@app.command()
def evaluate(
    run: RunFolder,
    data: Annotated[str, typer.Argument(metavar="DATA", help="File, folder, glob or -.")],
    rollout: Annotated[
        bool, typer.Option("--rollout", help="Instead, how errors add up over own symbols.")
    ] = False,
    oracle: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Stands in for the law of DATA.")
    ] = None,
    length: Annotated[int | None, typer.Option(help="Symbols of a rollout; 256.")] = None,
    samples: Annotated[int | None, typer.Option(help="Rollouts; 128.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same rollouts.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="PNG of the rollouts.")] = None,
    field: Field = None,
    column: Column = None,
    json: Json = False,
) -> None:
    """Score DATA beside n-gram, gzip and xz; with --rollout, how errors add up."""
    from chainrule.verbs.display import display_for
    from chainrule.verbs.fitted import load

    options = {"oracle": oracle, "length": length, "samples": samples, "seed": seed}
    asked: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
    if not rollout and (asked or out):
        raise ValueError(f"{' and '.join(f'--{k}' for k in asked) or '-o'}: only with --rollout")
    display, fitted = display_for(json), load(run)
    where: dict[str, Any] = {"field": field, "column": column, "progress": display.working}
    if rollout:
        found = fitted.rollout(data, **asked, **where)
        display.end()
        if json:
            _print_json(found.to_dict())
        else:
            _table(found.header(), found.rows())
            _out.print(f"oracle: {found.oracle}; {found.note}", markup=False)
        if out is not None:
            found.save(out)
        return
    result = fitted.evaluate(data, **where)
    display.end()
    if json:
        _print_json(result.to_dict())
        return
    _table(("", "bits per byte"), ((name, f"{bits:.4f}") for name, bits in result.rows()))
    _out.print()
    _table(
        ("symbols from the start", f"bits per {result.position_unit}", ""),
        ((places, f"{bits:.4f}", remark) for places, bits, _, remark in result.position_rows()),
    )
    _out.print(
        f"documents: {result.documents:,}, {result.units:,} bytes, {result.num_symbols:,} symbols; "
        f"perplexity {result.perplexity:.3f} per symbol; score: {result.kind}"
    )


@app.command()
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
            _print_json(facts)
        else:
            line = "{num_layers} layers of {num_heads} heads: {picture}".format(**facts)
            _out.print(line, markup=False, soft_wrap=True)
        return
    if out is not None:
        raise ValueError("-o is the picture of an attention: say of which text with --prompt")
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
