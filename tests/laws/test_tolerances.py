"""The constants are the table of CONTRIBUTING.md."""

import re

from tests.arch.files import text
from tests.laws import tolerances


def test_one_table():
    rows = re.findall(r"^\| (\w+) \| ([\d.e-]+) \|", text("CONTRIBUTING.md"), re.MULTILINE)
    constants = {k: v for k, v in vars(tolerances).items() if k.isupper()}
    assert {name: float(value) for name, value in rows} == constants
