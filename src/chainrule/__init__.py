"""chainrule: model anything that comes in order.

The verbs are functions of this module, loaded when first used: importing it costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chainrule.verbs.api import beam_search as beam_search
    from chainrule.verbs.api import bench as bench
    from chainrule.verbs.api import best_of as best_of
    from chainrule.verbs.api import chat as chat
    from chainrule.verbs.api import demo as demo
    from chainrule.verbs.api import ensemble as ensemble
    from chainrule.verbs.api import evaluate as evaluate
    from chainrule.verbs.api import export as export
    from chainrule.verbs.api import fit as fit
    from chainrule.verbs.api import generate as generate
    from chainrule.verbs.api import import_gguf as import_gguf
    from chainrule.verbs.api import import_hf as import_hf
    from chainrule.verbs.api import infill as infill
    from chainrule.verbs.api import inspect as inspect
    from chainrule.verbs.api import mbr as mbr
    from chainrule.verbs.api import merge as merge
    from chainrule.verbs.api import next as next
    from chainrule.verbs.api import quantize as quantize
    from chainrule.verbs.api import score as score
    from chainrule.verbs.api import stream as stream
    from chainrule.verbs.backtest import backtest as backtest
    from chainrule.verbs.doctor import doctor as doctor
    from chainrule.verbs.fitted import Fitted as Fitted
    from chainrule.verbs.fitted import load as load
    from chainrule.verbs.forecast import forecast as forecast
    from chainrule.verbs.forecaster import Forecaster as Forecaster
    from chainrule.verbs.generate import Sample as Sample
    from chainrule.verbs.score import Score as Score
    from chainrule.verbs.series_check import series_check as series_check

_HOME = {
    "fit": "api",
    "generate": "api",
    "stream": "api",
    "beam_search": "api",
    "best_of": "api",
    "chat": "api",
    "mbr": "api",
    "infill": "api",
    "ensemble": "api",
    "next": "api",
    "score": "api",
    "evaluate": "api",
    "bench": "api",
    "quantize": "api",
    "inspect": "api",
    "merge": "api",
    "import_hf": "api",
    "import_gguf": "api",
    "export": "api",
    "demo": "api",
    "doctor": "doctor",
    "load": "fitted",
    "Fitted": "fitted",
    "Sample": "generate",
    "Score": "score",
    "Forecaster": "forecaster",
    "forecast": "forecast",
    "backtest": "backtest",
    "series_check": "series_check",
}
__all__ = [
    "Fitted",
    "Forecaster",
    "Sample",
    "Score",
    "__version__",
    "backtest",
    "beam_search",
    "bench",
    "best_of",
    "chat",
    "demo",
    "doctor",
    "ensemble",
    "evaluate",
    "export",
    "fit",
    "forecast",
    "generate",
    "import_gguf",
    "import_hf",
    "infill",
    "inspect",
    "load",
    "mbr",
    "merge",
    "next",
    "quantize",
    "score",
    "series_check",
    "stream",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'chainrule' has no attribute {name!r}")
    return getattr(importlib.import_module(f"chainrule.verbs.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
