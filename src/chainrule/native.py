"""The compiled part, or None where it was not built. No torch here."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

_native: ModuleType | None
try:
    _native = import_module("chainrule._native")
except ImportError:  # installed where there was no C++17 compiler
    _native = None
