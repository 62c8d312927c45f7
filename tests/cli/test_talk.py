"""chat as a user types it: lines through a pipe, JSON, a terminal, and what it refuses."""

import io
import json
import re
import sys

import pytest

from chainrule.cli import talk
from chainrule.verbs.chat import ChatStream

TEMPLATE = "{% for m in messages %}{{ m.content }}. {% endfor %}The "
SMALL = ("--length", "12", "--seed", "4")


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "t.jinja"
    path.write_text(TEMPLATE)
    return path


def test_lines_are_turns_and_json_is_the_same(command, run, template):
    words = ("chat", run, "--template", template, *SMALL)
    first = command(*words, "--json", stdin=b'[{"role": "user", "content": "The cat"}]').json
    assert first["messages"][-1] == {"role": "assistant", "content": first["text"]}
    assert (first["trimmed"], first["seed"]) == (0, 4)
    asked = [*first["messages"], {"role": "user", "content": "The dog"}]
    second = command(*words, "--json", stdin=json.dumps(asked).encode()).json
    piped = command(*words, stdin=b"The cat\n\nThe dog\n")
    assert piped.out == first["text"] + "\n" + second["text"] + "\n"
    again = command(*words, stdin=b"The dog\n/reset\nThe cat\n").out
    assert again.endswith("\n" + first["text"] + "\n")


def test_a_line_that_can_not_be_taken_is_told_and_left_out(command, quick, template):
    words = ("chat", quick, "--template", template, "--length", "4", "--seed", "4")
    said = command(*words, stdin=b"The cat\nThe dog\n")
    wrong = b"The cow " * 40 + "\nThe ж\n".encode()
    found = command(*words, stdin=b"The cat\n" + wrong + b"The dog\n")
    assert (said.code, found.code, found.out) == (0, 2, said.out)
    errors = [line for line in found.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "the newest message takes" in errors[0] and "'ж'" in errors[1]


def test_the_system_message_stays(command, run, template):
    words = ("chat", run, "--template", template, *SMALL)
    told = command(*words, "--system", "The hen", stdin=b"The cat\n").out
    asked = [{"role": "system", "content": "The hen"}, {"role": "user", "content": "The cat"}]
    assert told == command(*words, "--json", stdin=json.dumps(asked).encode()).json["text"] + "\n"
    assert command(*words, stdin=b"/system The hen\nThe cat\n").out == told
    cat = b'[{"role": "user", "content": "The cat"}]'
    with_option = command(*words, "--system", "The hen", "--json", stdin=cat).json
    assert with_option["text"] + "\n" == told
    forgotten = command(*words, "--system", "The hen", stdin=b"/system\nThe cat\n").out
    assert forgotten == command(*words, stdin=b"The cat\n").out


def test_ctrl_c_keeps_what_was_said(capsys):
    def pieces():
        yield "half a "
        raise KeyboardInterrupt

    messages = talk._say(ChatStream([{"role": "user", "content": "x"}], 2, pieces()))
    assert messages[-1] == {"role": "assistant", "content": "half a "}
    out, err = capsys.readouterr()
    assert out == "half a \n"
    assert "oldest 2 messages" in err


def test_a_terminal_asks_until_ctrl_d(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(" hello \n\n/reset\n"))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert list(talk._lines()) == ["hello", "/reset"]
    assert capsys.readouterr().out.count("you> ") == 4


def test_ctrl_c_drops_a_line_and_no_more(monkeypatch):
    """Pressed just as a reply has ended, it costs no conversation."""
    typed = iter([KeyboardInterrupt, "hello", EOFError])

    def line(prompt):
        found = next(typed)
        if isinstance(found, str):
            return found
        raise found

    monkeypatch.setattr("builtins.input", line)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert list(talk._lines()) == ["hello"]


def test_commands_are_no_messages(command, run, template):
    words = ("chat", run, "--template", template, *SMALL)
    found = command(*words, stdin=b"/help\n/usr/bin is\n/quit\nThe cat\n")
    assert found.code == 2
    assert "no command /help; there are /reset, /system TEXT and /quit" in found.err
    assert found.out == command(*words, stdin=b"/usr/bin is\n").out


@pytest.mark.parametrize(
    ("words", "stdin", "reason"),
    [
        ((), b"hi\n", "has no chat_template.jinja"),
        (("--template", "none.jinja"), b"hi\n", "none.jinja: No such file"),
        (("--template", "T", "--json"), b"{}", "standard input: with --json it is a list"),
        (("--template", "T", "--json"), b"[", "standard input: not JSON"),
        (("--template", "T", "--json"), b"[]", "not empty"),
        (("--template", "T", "--json"), b'["x"]', "message 1 must be"),
        (("--template", "T", "--json"), b'[{"role": "user"}]', "message 1: its content must be"),
        (("--template", "T", "--length", "0"), b"hi\n", "length"),
        (("--template", "T", "--temperature", "nan"), b"hi\n", "temperature"),
        (("--template", "T"), b"\xff\n", "byte 0xFF at offset 0 is not UTF-8"),
    ],
)
def test_bad_input_is_one_line(command, run, template, words, stdin, reason):
    result = command("chat", run, *(template if w == "T" else w for w in words), stdin=stdin)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert re.search(reason, result.err), result.err


def test_a_template_of_a_checkpoint_can_not_reach_or_loop(command, run, tmp_path):
    path = tmp_path / "t.jinja"
    for source in ("{{ messages.__class__ }}", "{% for a in range(10**9) %}{% endfor %}"):
        path.write_text(source)
        result = command("chat", run, "--template", path, stdin=b"hi\n")
        assert result.code == 2
        assert f"{path}: the chat template, line 1: it " in result.err
