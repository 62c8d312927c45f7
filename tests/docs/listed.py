"""A pytest plugin that lists the model of docs/add-an-architecture.md in the registry.

`python -m pytest -p tests.docs.listed tests/laws -k gated-conv` runs the laws over it. The block is
taken from the page as it stands; being listed is all that the laws need. Importing this
module changes the registry of the process.
"""

from __future__ import annotations

import sys
import types

from tests.arch.files import blocks, text

PAGE = "docs/add-an-architecture.md"

module = types.ModuleType("gated_conv_of_the_page")
sys.modules[module.__name__] = module  # dataclasses look their module up
exec(compile(blocks(text(PAGE), "python")[0], PAGE, "exec", dont_inherit=True), vars(module))
