"""What the pages say of the command line is what the command line says.

The command line is `chainrule.cli.app`, a Typer application with one command a verb. A page speaks
of it in fenced blocks (`sh`, `console`, `text` or no language), where a line or what follows a pipe
begins with `chainrule VERB`, and in code spans that begin so.
"""

import re
from functools import cache

import pytest
import typer

from tests.arch.files import blocks, pages, text

CALL = re.compile(
    r"(?:^|[|&;])[ $]*chainrule +(?P<verb>[a-z][a-z-]*)(?P<rest>[^#]*?)(?=\|\s*chainrule|#|$)"
)
OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]*|-[a-zA-Z])(?![\w-])")


@cache
def commands() -> dict[str, object]:
    from chainrule.cli import app

    return {k: c for k, c in typer.main.get_command(app).commands.items() if not c.hidden}


def options(command) -> set[str]:
    return {"--help", *(o for p in command.params for o in [*p.opts, *p.secondary_opts])}


def harness() -> set[str]:
    """The options of `python -m chainrule.lmeval`."""
    from chainrule.lmeval import evaluate

    app = typer.Typer()
    app.command()(evaluate)
    return options(typer.main.get_command(app))


def calls(content: str) -> list[tuple[str, str]]:
    """(verb, what follows it) for every mention of a command on a page."""
    content = content.replace("\\\n", " ")
    shell = [b for language in ("sh", "console", "text", "") for b in blocks(content, language)]
    lines = [line for block in shell for line in block.splitlines()]
    spans = re.findall(r"`(chainrule [^`]+)`", re.sub(r"```.*?```", "", content, flags=re.DOTALL))
    return [(m["verb"], m["rest"]) for part in [*lines, *spans] for m in CALL.finditer(part)]


def test_how_a_page_is_read():
    page = """Try `chainrule doctor --json`, or `import chainrule`:
```python
from chainrule import fit
```
```sh
$ chainrule fit DATA \\
    [--time 10m | --steps N]  # not --this
cat x | chainrule score RUN - | chainrule next -k 5
```
"""
    found = [(verb, OPTION.findall(rest)) for verb, rest in calls(page)]
    assert found == [
        ("fit", ["--time", "--steps"]),
        ("score", []),
        ("next", ["-k"]),
        ("doctor", ["--json"]),
    ]


def test_every_command_and_every_option_has_a_help_text():
    bare = [verb for verb, command in commands().items() if not (command.help or "").strip()]
    bare += [
        f"{verb} {param.name}"
        for verb, command in commands().items()
        for param in command.params
        if not (getattr(param, "help", None) or "").strip()
    ]
    assert bare == []


def test_readme_names_every_command_and_no_other():
    assert {verb for verb, _ in calls(text("README.md"))} == set(commands())


@pytest.mark.parametrize("page", pages())
def test_commands_and_options_on_a_page_exist(page):
    assert [verb for verb, _ in calls(text(page)) if verb not in commands()] == []
    wrong = [
        f"{verb} {option}"
        for verb, rest in calls(text(page))
        for option in OPTION.findall(rest)
        if option not in options(commands()[verb])
    ]
    assert wrong == []
    known = set().union(*map(options, commands().values()), harness())
    spans = re.findall(r"`(--[a-z][a-z0-9-]*)[^`]*`", text(page))
    assert [option for option in spans if option not in known] == []


def test_names_that_the_command_line_offers_are_registered():
    """They are literals in cli/options.py, so that `--help` needs no registry and no torch."""
    from typing import get_args

    from chainrule import cli, registry
    from chainrule.cli.foresee import PolicyName
    from chainrule.cli.options import ColourName, ObjectiveName, OrderName
    from chainrule.codecs.image import COLOURS
    from chainrule.core.grid import ORDERS
    from chainrule.engine.backend import BACKENDS
    from chainrule.engine.quantize import DTYPES
    from chainrule.series.check import POLICIES
    from chainrule.training.objectives import OBJECTIVES
    from chainrule.verbs import forecaster

    assert (cli.BACKENDS, cli.DTYPES) == (BACKENDS, DTYPES)
    assert (*forecaster.MODELS,) == cli.FORECASTERS
    assert registry.FORECASTERS.items() <= forecaster.MODELS.items()
    assert get_args(PolicyName) == POLICIES
    assert sorted(cli.MODELS) == sorted({*registry.RECIPES, *registry.PICTURE_RECIPES})
    assert sorted(cli.CODECS) == sorted({*registry.CODECS, *registry.PICTURE_CODECS})
    assert get_args(ColourName) == COLOURS
    assert get_args(OrderName) == ORDERS
    assert get_args(ObjectiveName) == OBJECTIVES
    assert sorted(cli.STRATEGIES) == sorted(["auto", *registry.STRATEGIES])


def test_help_of_backtest_names_the_models_that_it_takes_unasked():
    from chainrule.verbs.backtest import MODELS

    (model,) = (p for p in commands()["backtest"].params if p.name == "model")
    assert f"else {', '.join(MODELS)}." in model.help
