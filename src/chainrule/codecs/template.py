"""Chat templates: the Jinja of a checkpoint, read by Jinja's own parser and walked here.

Nothing is compiled and nothing in a template is executed: its syntax tree is interpreted over plain
values, with a budget, so that a rendering ends, whatever the template says. The conventions are
those of Hugging Face transformers (`apply_chat_template`). `jinja2` is imported when it is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from chainrule.codecs.symbols import as_text
from chainrule.codecs.template_run import KNOWN, Jump, Render, Scope
from chainrule.codecs.template_tables import FILTERS, TESTS
from chainrule.codecs.template_values import DEEPEST, ELEMENT, Marks, Refused, measured

if TYPE_CHECKING:
    from jinja2 import nodes

LARGEST = 2**18  # characters of a template
_DEEPEST = 200  # nodes in nodes; 100 lists of nested expressions more than anybody writes


class ChatTemplate:
    """What writes messages the way a model was taught to read them.

    Args:
        source: the Jinja of the model, as in chat_template.jinja.
        where: what errors name, the template's file as a rule.

    Raises:
        ValueError: too large, no Jinja, or a construct, filter or attribute that no chat template
            needs; jinja2 is not installed.
    """

    def __init__(self, source: str, where: str) -> None:
        self.where = where
        if len(source) > LARGEST:
            raise ValueError(
                f"{where}: a chat template of {len(source):,} characters is too large, "
                f"{LARGEST:,} at most"
            )
        try:
            self._tree = _parse(source)
            _allowed(self._tree)
        except ImportError:
            raise ValueError(
                f"{where}: chat templates need jinja2: pip install 'chainrule[chat]'"
            ) from None
        except Exception as error:  # Jinja's own, RecursionError, what literals raise
            raise self._failed(error, getattr(error, "lineno", None)) from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        generate: bool = True,
        tools: Sequence[Any] | None = None,
        now: datetime | None = None,
        **names: Any,
    ) -> str:
        """The text of a conversation.

        Args:
            messages: dicts with "role", "content" and whatever else the template reads.
            generate: end with what makes the model answer.
            now: what ``strftime_now`` tells; by default the present.
            names: other names of the template's, such as bos_token.

        Raises:
            ValueError: whatever stops the template, with its line.
        """
        given = {**names, "add_generation_prompt": generate, "tools": tools}
        return "".join(text for text, _ in self.split(messages, (), now=now, **given))

    def split(
        self,
        messages: Sequence[Mapping[str, Any]],
        specials: Sequence[str],
        *,
        now: datetime | None = None,
        **names: Any,
    ) -> list[tuple[str, bool]]:
        """The text in pieces; True says that a piece is a special token of the template's.

        What a message or a tool spells never is one: its characters are marked (see ``Marks``).

        Raises:
            ValueError: as ``render``.
        """
        run: Render | None = None
        try:
            marks = Marks(specials)
            run = Render(marks)
            users = {"messages": messages, "tools": names.pop("tools", None)}
            known = {k: _own(v, marks.mark) for k, v in users.items()}
            known |= {k: _own(v, str) for k, v in names.items()}
            run.globals(known, now)
            run.body(self._tree.body, Scope(known))
            pieces = _pieces(run.join(run.out), specials, run.charge)
            return [(as_text(marks.plain(p)), special) for p, special in pieces]
        except Exception as error:  # whatever it is, it is the template's doing
            told = Refused(f"{error} outside of a loop") if isinstance(error, Jump) else error
            raise self._failed(told, None if run is None else run.line) from None

    def _failed(self, error: Exception, line: int | None) -> ValueError:
        reason = " ".join(str(error)[:1000].split()) or type(error).__name__
        if isinstance(error, OverflowError):
            reason = "a number is out of bounds"
        elif isinstance(error, RecursionError):
            reason = "it is nested too deeply, or it calls itself"
        reason = "".join(c for c in reason[:300] if c.isprintable())
        at = "" if line is None else f", line {line}"
        return ValueError(f"{self.where}: the chat template{at}: {reason}")


def _own(value: Any, text: Callable[[str], str], depth: int = 0) -> Any:
    """A copy that holds nothing but plain values; keys are marked when they are looked at."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return _number(value)
    if isinstance(value, str):
        return text(as_text(value))
    if depth == DEEPEST:
        raise Refused("the messages are nested too deeply")
    if isinstance(value, Mapping):
        if not all(isinstance(k, str) for k in value):
            raise Refused("the messages have a key that is not a string")
        return measured({as_text(k): _own(v, text, depth + 1) for k, v in value.items()})
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return measured([_own(v, text, depth + 1) for v in value])
    raise Refused(f"the messages hold a {type(value).__name__}, which no template can read")


def _number(value: Any) -> int | float:
    if isinstance(value, float):
        return float(value)
    if value.bit_length() > 120:
        raise Refused("the messages have a number that is out of bounds")
    return int(value)


def _pieces(
    text: str, specials: Sequence[str], charge: Callable[[int], None]
) -> list[tuple[str, bool]]:
    """Cut out special tokens, the longest first where several begin, however many there are."""
    known = set(specials)
    lengths: dict[str, list[int]] = {}  # of those that begin with a character
    for first, size in sorted({(s[0], len(s)) for s in known if s}, reverse=True):
        lengths.setdefault(first, []).append(size)
    found: list[tuple[str, bool]] = []
    begin = 0
    charge(2 * len(text) if lengths else 0)
    for at, first in enumerate(text if lengths else ""):
        for size in lengths.get(first, ()) if at >= begin else ():
            charge(ELEMENT + size)
            if text[at : at + size] in known:
                found += [(text[begin:at], False), (text[at : at + size], True)]
                begin = at + size
                break
    return [(t, s) for t, s in [*found, (text[begin:], False)] if t]


# ---- reading ----


def _parse(source: str) -> nodes.Template:
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The tag that says which text is the model's own: here, its text alone."""

        tags = {"generation"}  # noqa: RUF012 -- as the base class has it

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        extensions=[Generation, "jinja2.ext.loopcontrols"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "\d" in a string
        return environment.parse(source)


def _allowed(tree: nodes.Template) -> None:
    """Refuse what ``Render`` doesn't know, before anything runs."""
    level, depth = list(tree.body), 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise _at(level[0].lineno, f"more than {_DEEPEST} things stand in one another")
        for node in level:
            kind = type(node).__name__
            if kind not in KNOWN:
                raise _at(node.lineno, f"{kind} is nothing that a chat template needs")
            for field, table in (("Filter", FILTERS), ("Test", TESTS)):
                name = getattr(node, "name", "")
                if kind == field and name not in table:
                    what = f"the {field.lower()} {name!r}"
                    raise _at(node.lineno, f"{what} is not one that chat templates may use")
            name = getattr(node, "attr", "")
            if isinstance(name, str) and name.startswith("_"):
                why = f"it reaches for the attribute {name!r}, which no template may"
                raise _at(node.lineno, why)
        level = [child for node in level for child in node.iter_child_nodes()]


def _at(line: int, reason: str) -> Refused:
    refused = Refused(reason)
    refused.lineno = line  # type: ignore[attr-defined]
    return refused
