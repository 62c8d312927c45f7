"""A pytest plugin that lists what the two tutorials add: a model and a strategy.

`python -m pytest -p tests.docs.listed tests/laws -k gated-conv` runs the laws over it. The blocks
are taken from the pages as they stand; being listed is all that the laws need. Importing this
module changes the registry of the process.
"""

from __future__ import annotations

import re
import sys
import types

from tests.arch.files import blocks, text

PAGES = ("docs/add-an-architecture.md", "docs/add-a-strategy.md")

for page in PAGES:
    module = types.ModuleType("first_block_of_" + re.sub(r"\W", "_", page))
    sys.modules[module.__name__] = module  # dataclasses look their module up
    code = compile(blocks(text(page), "python")[0], page, "exec", dont_inherit=True)
    exec(code, vars(module))
