"""The tree names no package host and no path of the machine that somebody worked on."""

import re

import pytest

from tests.arch.files import ROOT, tree

# Written in pieces, or this file would be the first to be found.
HOSTS = [
    "py" + "pi.org",
    "python" + "hosted",
    "npm" + "js.",
    "deb." + "debian.org",
    "py" + "torch.org",
]
PATHS = [
    "/" + "work/",
    "/" + "root/",
    "/" + "home/",
    "/" + "Users/",
    "bash" + "_jobs",
    "../" + "shared",
]
FORBIDDEN = re.compile(
    "|".join([*map(re.escape, HOSTS), *(rf"(?<![\w.}}]){re.escape(path)}" for path in PATHS)])
)


def lines_that_name(content: str) -> list[str]:
    return [line for line in content.splitlines() if FORBIDDEN.search(line)]


@pytest.mark.parametrize("word", HOSTS + PATHS)
def test_the_pattern_bites(word):
    assert lines_that_name(f"see {word} there")


def test_no_file_names_a_host_or_a_machine():
    found = {}
    for name in tree():
        content = (ROOT / name).read_bytes()
        if b"\0" not in content and (lines := lines_that_name(content.decode("utf-8", "replace"))):
            found[name] = lines
    assert found == {}
