"""Write the outputs and the picture that the pages show, from one real run.

`.venv/bin/python -m docs.outputs` fits for two minutes and rewrites the blocks whose fence says
`text` and a name. The book is *Alice's Adventures in Wonderland*
without its last chapter, which is the test.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/fit-your-text.md")
BLOCK = re.compile(r"(?<=^```text )(\w+)\n.*?(?=^```)", re.MULTILINE | re.DOTALL)
OUTPUTS = {
    "generate": 'generate runs/book "Alice was " --length 200 --temperature 0.7 --seed 3',
    "next": 'next runs/book "said the Mock Tur" -k 3',
    "score": "score runs/book test.txt",
    "evaluate": "evaluate runs/book test.txt",
}


def run(line: str, place: str) -> tuple[str, str]:
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


def main() -> None:
    """Fit, run every command of OUTPUTS, and put what they print into the pages."""
    book = (ROOT / "src/chainrule/assets/alice.txt").read_text(encoding="utf-8")
    last = book.rindex("CHAPTER XII")
    with tempfile.TemporaryDirectory() as place:
        Path(place, "book.txt").write_text(book[:last], encoding="utf-8")
        Path(place, "test.txt").write_text(book[last:], encoding="utf-8")
        table, messages = run("fit book.txt --time 2m", place)
        shown = {"fit": shortened(messages), "table": table}
        shown |= {name: run(line, place)[0] for name, line in OUTPUTS.items()}
        (ROOT / "docs/images").mkdir(exist_ok=True)
        shutil.copyfile(Path(place, "runs/book/loss.png"), ROOT / "docs/images/loss.png")
    for page in PAGES:
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        path.write_text(BLOCK.sub(lambda m: f"{m[1]}\n{tidy(shown[m[1]])}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
