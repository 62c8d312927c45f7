"""A pytest plugin that lists the model of docs/add-an-architecture.md in the registry.

`python -m pytest -p tests.docs.listed tests/laws -k gated-conv` runs the laws over it. The block is
taken from the page as it stands; being listed is all that the laws need.
"""

from __future__ import annotations

import sys
import types

from tests.arch.files import blocks, text

PAGE = "docs/add-an-architecture.md"
NAME = "gated-conv"


def complete_model() -> str:
    """The block that is a whole file."""
    return blocks(text(PAGE), "python")[0]


module = types.ModuleType("gated_conv_of_the_page")
sys.modules[module.__name__] = module
exec(compile(complete_model(), PAGE, "exec", dont_inherit=True), vars(module))
