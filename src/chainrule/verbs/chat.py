"""chat: the next message of a conversation, in the words of the model's own template.

What a message says can't end a turn: only the template writes special tokens. Shapes: T symbols.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.artifact import Artifact
from chainrule.codecs.symbols import read_text
from chainrule.codecs.template import ChatTemplate
from chainrule.codecs.text import BPECodec
from chainrule.core.model import SequenceModel
from chainrule.verbs import generate as _generate

FILE = "chat_template.jinja"
Message = Mapping[str, Any]  # "role", "content", and what else the template reads
Template = ChatTemplate | str | Path | None  # itself, its file, or the model's own


class Unanswerable(ValueError):
    """Messages that the template, the codec or the context can't take; others may do."""


@dataclass(frozen=True)
class Reply:
    """What the model says next.

    ``messages`` are those that were given and the reply, ready to be gone on from. ``log_prob``,
    in nats, is of ``symbols`` under the model; ``ended``: "eos", "stop" or "length"; ``trimmed``:
    how many of the oldest messages the model didn't see.
    """

    text: str
    messages: list[dict[str, Any]] = field(repr=False)
    symbols: list[int] = field(repr=False)
    log_prob: float
    ended: str
    trimmed: int
    seed: int
    backend: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names."""
        return dict(vars(self))


def chat(
    artifact: Artifact,
    messages: str | Sequence[Message],
    length: int = 512,
    *,
    template: Template = None,
    **settings: Any,
) -> Reply:
    """The reply to a conversation, of ``length`` symbols at most.

    Args:
        messages: dicts with "role" and "content"; a string is one message of the user's.
        template: other than the model's own.
        settings: those of ``generate``.

    Where the conversation and the reply don't fit into the model's context, the oldest questions
    are left out with their answers; a system message and the newest question stay.

    Raises:
        ValueError: no template, messages that it or the context can't take, or as ``generate``.
    """
    asked, trimmed, prompt = _prompted(artifact, messages, length, template)
    sample = _generate.generate(
        artifact, prompt, length=length, **_stopping(artifact, dict(settings))
    )[0]
    answer = {"role": "assistant", "content": sample.continuation}
    return Reply(
        sample.continuation,
        [*asked, answer],
        sample.symbols,
        sample.log_prob,
        sample.ended,
        trimmed,
        sample.seed,
        sample.backend,
    )


class ChatStream:
    """The pieces of a reply; joined, they are what ``chat`` returns.

    ``text`` is what was said so far, ``messages`` the conversation with it; ``trimmed`` as in
    ``Reply``.
    """

    def __init__(self, asked: list[dict[str, Any]], trimmed: int, pieces: _generate.Stream) -> None:
        self.text, self.trimmed = "", trimmed
        self._asked, self._pieces = asked, pieces

    def __iter__(self) -> ChatStream:
        return self

    def __next__(self) -> str:
        piece = next(self._pieces)
        self.text += piece
        return piece

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation, ready to be gone on from."""
        return [*self._asked, {"role": "assistant", "content": self.text}]


def chat_stream(
    artifact: Artifact,
    messages: str | Sequence[Message],
    length: int = 512,
    *,
    template: Template = None,
    **settings: Any,
) -> ChatStream:
    """As ``chat``, piece by piece.

    Raises:
        ValueError: as ``chat``, before the first piece is asked for; ``Unanswerable`` where it is
            the messages that are at fault.
    """
    asked, trimmed, prompt = _prompted(artifact, messages, length, template)
    given = _stopping(artifact, dict(settings))
    return ChatStream(asked, trimmed, _generate.stream(artifact, prompt, length, **given))


def template_of(artifact: Artifact, template: Template = None) -> ChatTemplate:
    """The template to use: the model's own, unless there is another.

    Raises:
        ValueError: there is none, or it can't be read.
    """
    if isinstance(template, ChatTemplate):
        return template
    path = None if artifact.path is None else artifact.path / FILE
    if template is not None:
        path = Path(template)
    elif path is None or not path.is_file():
        raise ValueError(
            f"{artifact.path or 'this model'} has no {FILE}: it was never taught to chat. Go on "
            "from a text with chainrule generate, or give a template: --template FILE"
        )
    return ChatTemplate(read_text(path), str(path))


def _prompted(
    artifact: Artifact, messages: str | Sequence[Message], length: int, template: Template
) -> tuple[list[dict[str, Any]], int, NDArray[np.int64]]:
    """The messages, how many of them are left out, and the symbols [T] of the others."""
    asked = _checked(messages)
    written = template_of(artifact, template)
    context: int | None = getattr(artifact.outline.config, "context", None)
    prompts: dict[int, NDArray[np.int64]] = {}
    head = next((i for i, m in enumerate(asked) if m["role"] not in ("system", "developer")), 0)
    # Where the rest may begin: with a question of the user's.
    begins = [head, *(i for i, m in enumerate(asked) if i > head and m["role"] == "user")]

    def fits(begin: int) -> bool:
        kept = asked[:head] + asked[begin:]
        try:
            prompts[begin] = encoded(artifact, written, kept)
        except ValueError as error:
            raise Unanswerable(str(error)) from None
        return context is None or len(prompts[begin]) + length <= context

    begin = begins[0]
    if not fits(begin):
        at = bisect_left(begins, True, lo=1, key=fits)
        if at == len(begins):
            fits(begins[-1])
            raise Unanswerable(
                f"the newest message takes {len(prompts[begins[-1]]):,} symbols and the reply up "
                f"to {length:,}: the context has {context:,}; make one of them shorter (--length)"
            )
        begin = begins[at]
    return asked, begin - head, prompts[begin]


def encoded(
    artifact: Artifact, template: ChatTemplate, messages: Sequence[Message]
) -> NDArray[np.int64]:
    """The symbols [T] of a conversation, up to where the reply begins.

    The start symbol, which models put before any sequence themselves, isn't among them.

    Raises:
        ValueError: messages that the template or the codec can't take.
    """
    codec, model = artifact.codec, artifact.outline
    if not isinstance(codec, BPECodec):
        return np.asarray(codec.encode(template.render(messages)).symbols, np.int64)
    specials, first = codec.specials(), _start(model)
    names: dict[str, Any] = {"bos_token": codec.spelling(first) or "", "eos_token": codec.end}
    pieces = template.split(messages, list(specials), add_generation_prompt=True, **names)
    symbols = codec.encode_special("".join(text for text, _ in pieces))
    meant = sum(special for _, special in pieces)
    if int(np.isin(symbols, list(specials.values())).sum()) != meant:  # a message spells one
        parts = [
            np.array([specials[text]]) if special else codec.encode(text).symbols
            for text, special in pieces
        ]
        symbols = np.concatenate(parts).astype(np.int64)
    return symbols[1:] if len(symbols) and symbols[0] == first else symbols


def _start(model: SequenceModel) -> int:
    begin = getattr(model, "begin", None)
    return begin if isinstance(begin, int) else 2**31


def _checked(messages: str | Sequence[Message]) -> list[dict[str, Any]]:
    given: Any = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    if not isinstance(given, Sequence) or not given:
        raise ValueError('a conversation is a list of {"role": …, "content": …}, and not empty')
    for i, message in enumerate(given):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f'message {i + 1} must be {{"role": …, "content": …}}')
        calls = "tool_calls" in message and message.get("content") is None
        if not calls and not isinstance(message.get("content"), str):
            raise ValueError(f"message {i + 1}: its content must be text")
    return [dict(m) for m in given]


def _stopping(artifact: Artifact, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, with what ends a turn of this model besides its end symbol."""
    known = artifact.recipe.get("imported", {}).get("stops", [])
    stops = [s for s in known if s != getattr(artifact.codec, "end", None)]
    if any(settings.get(name) is not None for name in ("regex", "choices", "schema")):
        return settings  # the constraint says where it ends
    return {**settings, "stop": (*settings.get("stop", ()), *stops)}
