"""series-check: exit code 0 where all is right or repaired, 1 where a series is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

import chainrule.verbs.series_check as verb
from tests.cli.test_bad_input import complaint

DAYS = [f"2024-01-{d:02d}" for d in range(1, 31)]
GOOD = "".join(f"a,{t},{k}\n" for k, t in enumerate(DAYS))
HOLES = "".join(f"b,{t},{k}\n" for k, t in enumerate(DAYS) if k not in (4, 9, 10))
EMPTY = "".join(f"c,{t},\n" for t in DAYS)


@pytest.fixture
def write(tmp_path):
    def write(data: str):
        path = tmp_path / "sales.csv"
        path.write_text("unique_id,ds,y\n" + data)
        return path

    return write


@pytest.mark.parametrize(
    ("data", "policy", "code", "counts"),
    [
        (GOOD, "fill", 0, "1 as they were, 0 repaired, 0 refused"),
        (GOOD + HOLES, "fill", 0, "1 as they were, 1 repaired, 0 refused"),
        (GOOD + HOLES, "refuse", 1, "1 as they were, 0 repaired, 1 refused"),
        (GOOD + HOLES + EMPTY, "split", 1, "1 as they were, 1 repaired, 1 refused"),
    ],
)
def test_exit_code_and_summary(command, write, data, policy, code, counts):
    result = command("series-check", write(data), "--policy", policy)
    assert (result.code, result.err) == (code, "")
    first, *rest = result.out.splitlines()
    assert first.endswith(f"frequency D, season 7; policy {policy}: {counts}")
    assert bool(rest) == (data != GOOD)
    said = " ".join(result.out.split())
    assert ("missing steps 1 3 b at" in said) == (data != GOOD)


def test_json_has_the_same_and_the_statuses(command, write):
    result = command("series-check", write(GOOD + HOLES + EMPTY), "--json")
    assert result.code == 1
    found = result.json
    assert (found["series"], found["points"], found["refused"], found["repaired"]) == (3, 60, 1, 1)
    assert (found["begin"], found["end"], found["frequency"]) == (DAYS[0], DAYS[-1], "D")
    assert found["status"] == {"b": "filled 3 steps", "c": "refused: all NaN"}
    gaps = next(f for f in found["findings"] if f["what"] == "missing steps")
    assert gaps["first"] == "b at 2024-01-06 (line 36)"
    assert found["findings"] == [
        vars(f) for f in verb.series_check(write(GOOD + HOLES + EMPTY)).findings
    ]


def test_standard_input_names_and_frequency(command):
    data = "shop;day;sales\n" + "".join(f"x;{k}.1.2024;{k},5\n" for k in range(1, 31))
    words = ("--id-col", "shop", "--target-col", "sales", "--freq", "W", "--season", "4")
    result = command("series-check", "-", *words, stdin=data.encode())
    assert result.code == 0, result.err
    assert result.out.startswith(
        "standard input: long, 1 series, 5 points, 2024-01-01 to 2024-01-30"
    )
    assert "frequency W-MON, season 4" in result.out
    assert "dates are read as day, month, year" in result.out


@pytest.mark.parametrize(
    ("data", "words", "message"),
    [
        (GOOD, ("--target-col", "sales"), "no column 'sales'"),
        (GOOD, ("--freq", "often"), "--freq often: not a frequency here; name one like h"),
        (GOOD.replace("2024-01-09", "9th"), (), "sales.csv, line 10: 'ds' is '9th'"),
        (GOOD.replace(",8\n", ",lots\n"), (), "sales.csv, line 10: 'y' is 'lots', not a number"),
        ("", (), "sales.csv: there are names of columns, but no rows"),
    ],
)
def test_wrong_input_is_one_line(command, write, data, words, message):
    assert message in complaint(command("series-check", write(data), *words))


def test_torch_is_not_imported(write):
    """A look at a file is there at once."""
    code = "from chainrule.cli import app; app(standalone_mode=False); import sys; "
    code += "print('torch' in sys.modules)"
    call = [sys.executable, "-c", code, "series-check", str(write(GOOD))]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"
