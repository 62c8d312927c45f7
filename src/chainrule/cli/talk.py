"""chat: a conversation with a model that was taught to have one."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chainrule.cli.options import Backend, Cache, DType, Json, Rope, RunFolder
from chainrule.verbs.printing import aside, print_json, stdin

if TYPE_CHECKING:
    from chainrule.verbs.chat import ChatStream

_COMMANDS = "/reset, /system TEXT and /quit"


def chat(
    run: RunFolder,
    system: Annotated[str | None, typer.Option(help="What the model is told beforehand.")] = None,
    template: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Chat template, if not the model's own.")
    ] = None,
    length: Annotated[int, typer.Option(help="Symbols of a reply at most.")] = 512,
    temperature: Annotated[float, typer.Option(help="p^(1/t); 0 is greedy.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Keep the k likeliest symbols; 0 is off.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest symbols of this mass.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Same seed, same replies.")] = 0,
    backend: Backend = "auto",
    dtype: DType = None,
    rope: Rope = None,
    cache: Cache = "auto",
    json: Json = False,
) -> None:
    """Talk with a model: every line is a message, /reset and /system TEXT begin anew."""
    from chainrule.verbs.chat import Unanswerable, chat_stream, template_of
    from chainrule.verbs.chat import chat as reply_to
    from chainrule.verbs.fitted import load

    artifact = load(run, rope=rope, cache=cache).artifact
    settings: dict[str, Any] = {
        "template": template_of(artifact, template),
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "backend": backend,
        "dtype": dtype,
    }
    first = [] if system is None else [{"role": "system", "content": system}]
    if json:
        reply = reply_to(artifact, [*first, *_messages()], length, **settings)
        print_json(reply.to_dict())
        return
    messages, refused = list(first), False
    for line in _lines():
        command, _, rest = line.partition(" ")
        if command == "/quit":
            break
        if command in ("/reset", "/system"):
            if command == "/system":
                first = [{"role": "system", "content": rest}] if rest else []
            messages = list(first)
            aside.print(
                "a new conversation" + " with this system message" * bool(rest), style="dim"
            )
            continue
        if re.fullmatch(r"/[A-Za-z]+", command):
            sys.stderr.write(f"error: no command {command}; there are {_COMMANDS}\n")
            refused = True
            continue
        asked = [*messages, {"role": "user", "content": line}]
        try:
            begun = chat_stream(artifact, asked, length, **settings)
        except Unanswerable as error:  # the conversation goes on without this line
            sys.stderr.write("error: " + " ".join(str(error).split()) + "\n")
            refused = True
            continue
        messages = _say(begun)
    if refused and not sys.stdin.isatty():
        raise typer.Exit(2)


def _messages() -> list[Any]:
    """The conversation on standard input: a list of messages as JSON."""
    from chainrule.codecs.symbols import as_text, parse_json

    given = parse_json(as_text(stdin()), "standard input")
    if not isinstance(given, list):
        raise ValueError('standard input: with --json it is a list of {"role": …, "content": …}')
    return given


def _lines() -> Iterator[str]:
    """What the user types, or the lines of standard input; empty ones are passed over."""
    from chainrule.codecs.symbols import as_text

    terminal = sys.stdin.isatty()
    prompt = "you> " if sys.stdout.isatty() else ""
    if terminal:
        with contextlib.suppress(ImportError):  # not everywhere; it edits what input() reads
            import readline  # noqa: F401
        aside.print(f"{_COMMANDS}; Ctrl-C stops a reply, Ctrl-D ends", style="dim")
    while True:
        try:
            line = input(prompt) if terminal else as_text(sys.stdin.buffer.readline())
        except KeyboardInterrupt:  # what was typed is dropped
            sys.stdout.write("\n")
            if not terminal:
                return
            continue
        except EOFError:
            sys.stdout.write("\n")
            return
        if not line and not terminal:
            return
        if line.strip():
            yield line.strip()


def _say(reply: ChatStream) -> list[dict[str, Any]]:
    """Write a reply as it comes; the conversation with what was said of it."""
    if reply.trimmed:
        aside.print(f"the oldest {reply.trimmed} messages no longer fit", style="dim")
    try:
        for piece in reply:
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    sys.stdout.write("\n")
    sys.stdout.flush()
    return reply.messages
