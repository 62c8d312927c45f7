"""The public names and their signatures change on purpose or not at all.

`python -m tests.arch.test_public_api` writes the snapshot anew, for the diff to show.
"""

import dataclasses
import inspect

import chainrule
from tests.arch.files import ROOT

SNAPSHOT = ROOT / "tests/arch/public_api.txt"

PUBLIC = [
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


class Bare(str):
    """An annotation that shows without quotes."""

    __repr__ = str.__str__


def signature(function) -> str:
    found = inspect.signature(function)

    def bare(annotation):
        return Bare(annotation) if isinstance(annotation, str) else annotation

    parameters = [p.replace(annotation=bare(p.annotation)) for p in found.parameters.values()]
    shown = str(inspect.Signature(parameters, return_annotation=bare(found.return_annotation)))
    assert " at 0x" not in shown, f"a default without a stable text: {shown}"
    return shown


def members(cls: type) -> list[str]:
    """The public methods, properties and fields that our own classes give it."""
    fields = (
        {f.name: f.type for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
    )
    kinds = {n: k if isinstance(k, str) else inspect.formatannotation(k) for n, k in fields.items()}
    lines = {name: f".{name}: {kind}" for name, kind in kinds.items()}
    for base in cls.__mro__:
        for name, value in vars(base).items() if base.__module__.startswith("chainrule") else ():
            if name.startswith("_") or name in lines:
                continue
            if isinstance(value, property):
                lines[name] = f".{name}{signature(value.fget).partition(')')[2]}"
            elif isinstance(value, classmethod | staticmethod):
                lines[name] = f".{name}{signature(value.__func__)}  # {type(value).__name__}"
            elif inspect.isfunction(value):
                lines[name] = f".{name}{signature(value)}"
    return [lines[name] for name in sorted(lines)]


def described() -> str:
    out = []
    for name in sorted(chainrule.__all__):
        value = getattr(chainrule, name)
        if isinstance(value, type):
            out += [f"class {name}{signature(value)}", *(f"    {line}" for line in members(value))]
        else:
            out.append(
                name + (signature(value) if callable(value) else f": {type(value).__name__}")
            )
    return "\n".join(out) + "\n"


def test_public_names():
    assert sorted(chainrule.__all__) == sorted(PUBLIC)
    assert set(chainrule.__all__) <= set(dir(chainrule))


def test_public_signatures():
    assert described() == SNAPSHOT.read_text(encoding="utf-8"), (
        "the public API changed; if you meant it: python -m tests.arch.test_public_api"
    )


if __name__ == "__main__":
    SNAPSHOT.write_text(described(), encoding="utf-8")
