"""The file tree in README.md is the tree that is there.

The tree is the block fenced as ```tree: two spaces a level, folders end in a slash and may be
written together (`src/chainrule/`), and behind each name, after two spaces or more, one line says
what it is. Each top-level folder and each module of the package is named once.
"""

import re

from tests.arch.files import blocks, text, tree

LINE = re.compile(r"(?P<indent>(?:  )*)(?P<name>\S+)(?:  +(?P<what>\S.*))?")
MODULE = (".py", ".cpp", ".h")


def entries() -> list[tuple[str, str]]:
    """(path, what it is), in the order of the tree; the path of a folder ends in a slash."""
    (block,) = blocks(text("README.md"), "tree")
    parents: list[str] = []
    out = []
    for line in filter(str.strip, block.splitlines()):
        match = LINE.fullmatch(line.rstrip())
        assert match, f"not a line of a tree: {line!r}"
        depth = len(match["indent"]) // 2
        assert depth <= len(parents), f"indented too far: {line!r}"
        path = "".join(parents[:depth]) + match["name"]
        parents = [*parents[:depth], match["name"]] if path.endswith("/") else parents[:depth]
        out.append((path, match["what"] or ""))
    return out


def test_nothing_is_named_twice_or_without_a_word():
    paths = [path for path, _ in entries()]
    assert [path for path in paths if paths.count(path) > 1] == []
    assert [path for path, what in entries() if not what] == []


def test_nothing_stale_is_named():
    there = {*tree(), *(f"{folder}/" for f in tree() for folder in folders_of(f))}
    assert [path for path, _ in entries() if path not in there] == []


def test_every_top_level_folder_and_every_module_is_named():
    paths = [path for path, _ in entries()]
    tops = {f.partition("/")[0] + "/" for f in tree() if "/" in f}
    assert {top for top in tops if not any(path.startswith(top) for path in paths)} == set()
    modules = {f for f in tree() if f.startswith("src/chainrule/") and f.endswith(MODULE)}
    # a package's __init__.py is spoken for by the line of its folder
    expected = {re.sub(r"__init__\.py$", "", f) for f in modules}
    assert expected - set(paths) == set()


def folders_of(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]
