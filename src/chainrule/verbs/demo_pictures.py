"""The pictures of demo: learn the digits that ship with chainrule, and show them on a page."""

from __future__ import annotations

import html
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chainrule.codecs.image import PixelCodec
from chainrule.files import write_text
from chainrule.verbs.display import Display
from chainrule.verbs.draw import draw
from chainrule.verbs.fill import fill, sheet_of
from chainrule.verbs.fit import fit
from chainrule.verbs.fitted import Fitted
from chainrule.verbs.heat import heat_map, picture_score
from chainrule.verbs.pictures import grid_of
from chainrule.verbs.pictures import html as picture_html

EACH = 10  # pictures of each label
HALVES, HOLES, ODD = (2, 3, 5, 9), (4, 6, 8), 7  # which digits are shown in parts, or spoilt
ALTERNATIVES, PARTICLES = 5, 256
Pixels = NDArray[np.uint8]


def demo_pictures(
    folder: Path, time: str | float, display: Display | None = None
) -> tuple[Path, dict[str, float]]:
    """Train on the digits for ``time``, and write ``demo.html`` into the folder.

    Returns the page, and held-out bits per dimension beside those of file formats.
    """
    with resources.as_file(resources.files("chainrule") / "assets" / "digits.npz") as digits:
        artifact = fit(digits, folder, time=time, model="pixelcnn", display=display)
        with np.load(digits) as file:  # the last one of each label
            shown = {int(d): p for d, p in zip(file["labels"], file["images"], strict=True)}
    fitted, done = Fitted(artifact), artifact.results
    bits = {"this model": done["held_out_bits_per_dimension"]}
    bits = dict(sorted({**bits, **done["others_bits_per_dimension"]}.items(), key=lambda i: i[1]))
    page = folder / "demo.html"
    write_text(page, _page(fitted, folder, bits, shown))
    return page, bits


def _page(fitted: Fitted, folder: Path, bits: dict[str, float], digits: dict[int, Pixels]) -> str:
    """One page that needs no other file: the pictures stand in it."""
    artifact = fitted.artifact
    codec = artifact.any_codec
    assert isinstance(codec, PixelCodec)
    told = [draw(artifact, EACH, label=label, seed=1) for label in codec.labels]
    drawn = [d.pixels for row in zip(*told, strict=True) for d in row]
    halves = []
    for picture in (digits[d] for d in HALVES):
        given = picture.copy()
        given[codec.grid[0] // 2 :] = 96
        made = draw(artifact, ALTERNATIVES, top=picture, seed=2)
        halves += [picture, given, *(d.pixels for d in made)]
    hole = np.zeros(codec.grid[:2], bool)
    hole[2:5, 2:6] = True
    holes = [
        sheet_of(
            fill(
                artifact,
                digits[d],
                mask=hole,
                method="smc",
                n=ALTERNATIVES,
                particles=PARTICLES,
                seed=3,
            )
        )
        for d in HOLES
    ]
    odd = digits[ODD].copy()
    odd[0, 0], odd[5:7, 0] = 255, 200  # what no digit has
    scores = [picture_score(artifact, p) for p in (digits[ODD], odd)]
    widest = max(bits.values())
    bars = "".join(
        f'<tr><th>{name}</th><td><div class="bar{" own" if name == "this model" else ""}" '
        f'style="width:{100 * value / widest:.1f}%">{value:.2f}</div></td></tr>'
        for name, value in bits.items()
    )
    template = resources.files("chainrule") / "assets" / "demo-pictures.html"
    return template.read_text(encoding="utf-8").format(
        headline=html.escape(fitted.inspect().headline),
        seconds=f"{artifact.results['seconds']:.0f} seconds",
        bars=bars,
        drawn=picture_html(grid_of(drawn, columns=len(codec.labels))),
        halves=picture_html(grid_of(halves, columns=ALTERNATIVES + 2)),
        holes="<br>".join(map(picture_html, holes)),
        surprise=picture_html(heat_map(scores)),
        usual=f"{scores[0].bits_per_unit:.2f}",
        odd=f"{scores[1].bits_per_unit:.2f}",
        run=html.escape(str(folder)),
        particles=PARTICLES,
    )
