"""The files that the pages speak of."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.arch.files import ROOT


def furnish(folder: Path) -> None:
    """The files that the pages speak of."""
    book = (ROOT / "src/chainrule/assets/alice.txt").read_text()
    every = "".join(sorted(set(book) - {"\n"}))  # no page's prompt has an unknown character
    part, other = book[:8_000] + every + "\n", book[20_000:22_000]
    (folder / "book.txt").write_text(part)
    (folder / "test.txt").write_text(other)
    (folder / "latin.txt").write_bytes("Élan vital, déjà vu.\n".encode("latin-1") * 200)
    with gzip.open(folder / "book.txt.gz", "wb") as packed:
        packed.write(part.encode())
    stories = folder / "stories"
    stories.mkdir()
    for number in range(3):
        (stories / f"{number}.md").write_text(part[number * 2000 : number * 2000 + 2000])
    lines = [line for line in part.splitlines() if line]
    rows = [json.dumps({"id": i, "review": line}) for i, line in enumerate(lines)]
    (folder / "reviews.jsonl").write_text("\n".join(rows) + "\n")
    person = {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}}
    schema = {"type": "object", "properties": person, "required": ["name"]}
    (folder / "person.json").write_text(json.dumps(schema))
    quoted = ['"' + line.replace('"', '""') + '"' for line in lines]
    (folder / "letters.csv").write_text("\n".join(["date,body", *(f"1865,{q}" for q in quoted)]))
    for name, rows in (("seattle-weather.csv", 500), ("exchange-rates.csv", 80)):
        head, *whole = (ROOT / "src/chainrule/assets" / name).read_text().splitlines()
        (folder / name).write_text("\n".join([head, *whole[-rows:]]) + "\n")
    pictures(folder)


def pictures(folder: Path) -> None:
    """Digits, and small pictures in colour that are transparent around what they show."""
    with np.load(ROOT / "src/chainrule/assets/digits.npz") as file:
        shown = {name: file[name][:60] for name in ("images", "labels")}
    np.savez(folder / "digits.npz", **shown)
    names = ("food/hamburger", "animals/octopus", *(f"food/{n}" for n in range(10)))
    for name, picture in zip(names, shown["images"], strict=False):
        path = folder / "emoji" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = np.stack([picture, picture // 2, 255 - picture, picture], -1)
        Image.fromarray(whole.repeat(2, 0).repeat(2, 1)).save(path)
