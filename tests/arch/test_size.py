"""A file that has grown past this is two files."""

from tests.arch.files import text, tree

LIMIT = 400


def test_no_source_file_is_too_long():
    sizes = {f: len(text(f).splitlines()) for f in tree() if f.endswith((".py", ".cpp", ".h"))}
    assert {f: n for f, n in sizes.items() if n > LIMIT} == {}
