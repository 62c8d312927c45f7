"""Tables in a narrow terminal."""

from __future__ import annotations

from chainrule.verbs import printing


def test_a_number_is_never_broken(monkeypatch, capsys):
    monkeypatch.setattr(printing.console, "width", 50)
    name = "a/long/way/down/" * 4 + "hamburger.png"
    printing.table(("file", "nats", "kind"), [(name, "-799.5372", "exact"), ("b", "-1.25", "")])
    out = capsys.readouterr().out
    assert "-799.5372" in out and "exact" in out and max(map(len, out.splitlines())) <= 50
    assert "".join(line.split()[0] for line in out.splitlines()[1:-1]) == name
