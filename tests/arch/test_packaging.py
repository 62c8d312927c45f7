"""pyproject.toml, constraints.txt and the package agree."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement

import chainrule
from tests.arch.files import ROOT, text

PROJECT = tomllib.loads(text("pyproject.toml"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins() -> dict[str, str]:
    lines = [line for line in text("constraints.txt").splitlines() if line and line[0] != "#"]
    return dict(line.split("==") for line in lines)


def needed() -> list[Requirement]:
    """What `make install` asks for: the dependencies and `dev`, with the extras it takes in."""
    out = [Requirement(line) for line in [*PROJECT["dependencies"], *EXTRAS["dev"]]]
    own = [r for r in out if r.name == "chainrule"]
    others = [Requirement(line) for r in own for extra in r.extras for line in EXTRAS[extra]]
    return [r for r in [*out, *others] if r.name != "chainrule"]


def test_what_is_installed_is_pinned_within_its_bounds():
    assert sorted(pins()) == sorted({r.name for r in needed()})
    assert [str(r) for r in needed() if pins()[r.name] not in r.specifier] == []


def test_every_dependency_has_a_lower_bound_and_no_upper_one():
    lines = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
    own = [line for line in lines if not line.startswith("chainrule[")]
    assert [line for line in own if not re.fullmatch(r"[a-z0-9-]+>=[\d.]+", line)] == []


def test_version():
    assert chainrule.__version__ == PROJECT["version"]
    assert re.search(
        rf"^## \[?{re.escape(PROJECT['version'])}\b", text("CHANGELOG.md"), re.MULTILINE
    )


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        "assets/README.md",
        "assets/alice.txt",
        "assets/backtest.html",
        "assets/demo-pictures.html",
        "assets/digits.npz",
        "assets/exchange-rates.csv",
        "assets/seattle-weather.csv",
    ],
)
def test_files_that_go_with_the_package(name):
    assert (ROOT / "src/chainrule" / name).is_file()
