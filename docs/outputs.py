"""Write the outputs and the pictures that the pages show, from real runs.

`.venv/bin/python -m docs.outputs` rewrites the blocks whose fence says `text` and a name. The book
is *Alice's Adventures in Wonderland* without its last chapter, which is the test. Four parts,
which can be named to make one alone: `tour` fits for two minutes; `strategies` fits for eleven, and
then measures for a few, which wants an idle machine; `series` runs the pages on forecasting from
top to bottom, a minute or two, and pictures the report if there is a Chromium; `pictures` runs its
page, half an hour, and wants Twemoji in a folder `emoji`, sorted into folders. A folder named
behind the part is kept and used again: `book.txt`, `test.txt`, `emoji` and runs that are in it are
taken as they are.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SERIES = ("docs/forecast.md", "docs/backtest.md")
ALBUM = ("docs/pictures.md",)
PAGES = ("README.md", "docs/fit-your-text.md", "docs/choose-a-strategy.md", *SERIES, *ALBUM)
DATA = ("seattle-weather.csv", "exchange-rates.csv")  # of the pages on forecasting
PICTURES = ("weather.png", "rates.png", "winter.png", "report.png")
DRAWN = ("digits", "halves", "filled", "exact", "coloured", "larger", "heat")
BLOCK = re.compile(r"(?<=^```text )(\w+)\n.*?(?=^```)", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TOUR = {
    "generate": 'generate runs/book "Alice was " --length 200 --temperature 0.7 --seed 3',
    "next": 'next runs/book "said the Mock Tur" -k 3',
    "score": "score runs/book test.txt",
    "evaluate": "evaluate runs/book test.txt",
}
RUNS = {  # of the part on strategies, and how it fits them
    "runs/quick": "--model transformer --size small --ahead 4 --objective hybrid --time 10m",
    "runs/small": "--model transformer --size tiny --time 1m",
}
AUTO = 'generate runs/quick "Alice was " --length 400 --temperature 0.7 --seed 3'
BENCH = "bench runs/quick test.txt --draft runs/small -o frontier.png"


def run(line: str, place: Path) -> tuple[str, str]:
    """Output and messages of one command."""
    command = [sys.executable, "-m", "chainrule", *shlex.split(line)]
    done = subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
    return done.stdout, done.stderr


def shortened(messages: str) -> str:
    """The choices, and the first and last few checks."""
    lines = messages.splitlines()
    checks = [line for line in lines if line.startswith("step ")]
    others = [line for line in lines if not line.startswith("step ")]
    return "\n".join([*others, *checks[:2], "…", *checks[-2:]])


def tidy(output: str) -> str:
    """Without the blanks that fill a table."""
    return "\n".join(line.rstrip() for line in output.strip("\n").splitlines()) + "\n"


def tour(place: Path) -> dict[str, str]:
    """One run, and what every verb says of it."""
    shutil.rmtree(place / "runs/book", ignore_errors=True)
    table, messages = run("fit book.txt --time 2m", place)
    shutil.copyfile(place / "runs/book/loss.png", ROOT / "docs/images/loss.png")
    shown = {"fit": shortened(messages), "table": table}
    return shown | {name: run(line, place)[0] for name, line in TOUR.items()}


def strategies(place: Path) -> dict[str, str]:
    """What auto takes, and the frontier as a table and a picture."""
    for name, how in RUNS.items():
        if not (place / name).exists():
            run(f"fit book.txt -o {name} {how}", place)
    table, _ = run(BENCH, place)
    shutil.copyfile(place / "frontier.png", ROOT / "docs/images/frontier.png")
    return {"auto": run(AUTO, place)[1], "bench": table}


def series(place: Path) -> dict[str, str]:
    """The pages on forecasting, and their charts."""
    for name in DATA:
        shutil.copyfile(ROOT / "src/chainrule/assets" / name, place / name)
    shutil.rmtree(place / "rates.forecaster", ignore_errors=True)
    shown = followed(SERIES, place)
    photograph(place / "report.html", place / "report.png")
    for name in PICTURES:
        if (place / name).exists():
            few = Image.open(place / name).convert("RGB").quantize(128)  # colours: a small file
            few.save(ROOT / "docs/images" / name, optimize=True)
    return shown


def pictures(place: Path) -> dict[str, str]:
    """The page on pictures, and what it draws."""
    if not (place / "emoji").is_dir():
        raise SystemExit(f"{place / 'emoji'}: put folders of Twemoji there")
    shutil.copyfile(ROOT / "src/chainrule/assets/digits.npz", place / "digits.npz")
    for run in ("digits", "any"):
        shutil.rmtree(place / "runs" / run, ignore_errors=True)
    shown = followed(ALBUM, place)
    for name in DRAWN:
        shutil.copyfile(place / f"{name}.png", ROOT / f"docs/images/{name}.png")
    return shown


def followed(pages: tuple[str, ...], place: Path) -> dict[str, str]:
    """Run pages: what stands in a named block is what the block before it printed."""
    shown: dict[str, str] = {}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    wide = {**os.environ, "PATH": path, "COLUMNS": "110"}
    for page in pages:
        printed, names = "", {"__name__": page}
        for info, body in FENCE.findall((ROOT / page).read_text(encoding="utf-8")):
            language, _, name = info.partition(" ")
            if language == "sh":
                both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
                done = subprocess.run(body, shell=True, cwd=place, env=wide, check=True, **both)
                printed = done.stdout
            elif language == "python":
                printed = executed(body, names, place)
            elif name:
                shown[name] = printed
    return shown


def executed(block: str, names: dict[str, Any], place: Path) -> str:
    """What a block of Python prints, run in a folder."""
    out = io.StringIO()
    with chdir(place), redirect_stdout(out):
        exec(compile(block, "a page", "exec"), names)
    return out.getvalue()


def photograph(page: Path, picture: Path) -> None:
    """The head of a web page, if there is a Chromium."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is not None:
        command = [browser, "--headless", "--no-sandbox", "--hide-scrollbars"]
        command += [f"--screenshot={picture}", "--window-size=1060,845", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True)


def main(parts: list[str], place: Path) -> None:
    """Make every part, and put what was printed into the pages."""
    book = (ROOT / "src/chainrule/assets/alice.txt").read_text(encoding="utf-8")
    last = book.rindex("CHAPTER XII")
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "book.txt").exists():
        (place / "book.txt").write_text(book[:last], encoding="utf-8")
        (place / "test.txt").write_text(book[last:], encoding="utf-8")
    (ROOT / "docs/images").mkdir(exist_ok=True)
    shown: dict[str, str] = {}
    for part in parts:
        shown |= PARTS[part](place)
    for page in PAGES:
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        new = BLOCK.sub(lambda m: f"{m[1]}\n{tidy(shown[m[1]])}" if m[1] in shown else m[0], text)
        path.write_text(new, encoding="utf-8")


PARTS = {"tour": tour, "strategies": strategies, "series": series, "pictures": pictures}

if __name__ == "__main__":
    asked = sys.argv[1:2] or list(PARTS)
    if len(sys.argv) > 2:
        main(asked, Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(asked, Path(temporary))
