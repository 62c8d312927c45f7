"""The command line: one subcommand a verb. Nothing heavy is imported before a verb runs.

Exit codes: 0 done, 1 failed while running (or series-check refused a series), 2 wrong input.
"""

from __future__ import annotations

import sys
from typing import get_args

import typer

from chainrule.cli.foresee import backtest, forecast, series_check
from chainrule.cli.judge import bench, evaluate, score
from chainrule.cli.learn import demo, fit, merge
from chainrule.cli.move import export, import_
from chainrule.cli.options import (
    BackendName,
    CodecName,
    DTypeName,
    ForecasterName,
    MethodName,
    ModelName,
    ObjectiveName,
    StrategyName,
    UtilityName,
)
from chainrule.cli.show import doctor, inspect, quantize
from chainrule.cli.talk import chat
from chainrule.cli.write import generate, infill, next

MODELS, CODECS, STRATEGIES = get_args(ModelName), get_args(CodecName), get_args(StrategyName)
OBJECTIVES, METHODS = get_args(ObjectiveName), get_args(MethodName)
UTILITIES = get_args(UtilityName)
FORECASTERS = get_args(ForecasterName)
BACKENDS, DTYPES = get_args(BackendName), get_args(DTypeName)

app = typer.Typer(
    name="chainrule",
    help="Model anything that comes in order: fit a model on your own data, then use it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
VERBS = (
    fit, merge, generate, chat, infill, next, score, evaluate, bench, quantize, import_, export,
    inspect, doctor, demo, series_check, forecast, backtest,
)  # fmt: skip
for _verb in VERBS:
    # import is a word of Python's, and series-check no name in it
    app.command(_verb.__name__.rstrip("_").replace("_", "-"))(_verb)


def main(program: typer.Typer = app) -> None:
    """Run a command; wrong input ends with one line and exit code 2, never a traceback."""
    try:
        program()
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
