"""demo: learn the text and the pictures that ship with chainrule, and show what that gave."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from chainrule.files import write_text
from chainrule.verbs.choosing import seconds_of
from chainrule.verbs.demo_pictures import demo_pictures
from chainrule.verbs.display import Display
from chainrule.verbs.fit import fit
from chainrule.verbs.fitted import Fitted

PROMPTS = ("Alice ", "The Queen ", "`Well,' ", "Once ")
PICTURES = 4  # the pictures get so much less time
TYPED = ("Alice was beginning to get ve", "said the ", "the White Ra", "she had never ")


@dataclass(frozen=True)
class Demo:
    """A page, its fitted folder and held-out bits per byte beside other methods; the same of
    pictures, in bits per dimension, where Pillow is installed."""

    page: str
    run: str
    bits: dict[str, float]
    picture_page: str | None = None
    picture_run: str | None = None
    picture_bits: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names."""
        return dict(vars(self))


def demo(
    out: str | Path = "runs/demo", *, time: str | float = "60s", display: Display | None = None
) -> Demo:
    """Train for about a minute, then write ``demo.html`` into the folder; then the same with
    pictures, for a quarter of that time, in the folder's name with ``-pictures`` behind."""
    folder = _fresh(Path(out))
    beside = _fresh(folder.with_name(f"{folder.name}-pictures"))
    with resources.as_file(resources.files("chainrule") / "assets" / "alice.txt") as book:
        artifact = fit(book, folder, time=time, display=display)
    fitted, done = Fitted(artifact), artifact.results
    bits = {"this model": done["held_out_bits_per_byte"], **done["others_bits_per_byte"]}
    bits = dict(sorted(bits.items(), key=lambda item: item[1]))
    page = folder / "demo.html"
    write_text(page, _page(fitted, folder, bits))
    text = str(page.resolve()), str(folder), bits
    try:
        import PIL  # noqa: F401
    except ImportError:
        return Demo(*text)
    other, more = demo_pictures(beside, seconds_of(time) / PICTURES, display)
    return Demo(*text, str(other.resolve()), str(beside), more)


def _fresh(folder: Path) -> Path:
    """A folder that isn't there yet: an earlier demo is kept."""
    number, fresh = 2, folder
    while fresh.exists():
        fresh = folder.with_name(f"{folder.name}-{number}")
        number += 1
    return fresh


def _page(fitted: Fitted, folder: Path, bits: dict[str, float]) -> str:
    """One page that needs no other file: the picture stands in it."""
    done = fitted.artifact.results
    seconds = f"{done['seconds']:.0f} seconds"
    samples = [
        fitted.generate(prompt, length=400, temperature=0.8, seed=seed, strategy="ancestral")[0]
        for seed, prompt in enumerate(PROMPTS)
    ]
    suggestions = [(typed, fitted.next(typed, k=5)) for typed in TYPED]
    scored = fitted.score(SURPRISE)
    picture = folder / "loss.png"
    curve = (
        f'<img alt="loss curve" src="data:image/png;base64,'
        f'{base64.b64encode(picture.read_bytes()).decode()}">'
        if picture.exists()
        else "<p>No picture: <code>pip install chainrule[plot]</code>.</p>"
    )
    widest = max(bits.values())
    bars = "".join(
        f'<tr><th>{name}</th><td><div class="bar{" own" if name == "this model" else ""}" '
        f'style="width:{100 * value / widest:.1f}%">{value:.3f}</div></td></tr>'
        for name, value in bits.items()
    )
    texts = "".join(
        f"<pre><b>{html.escape(s.text[: len(s.text) - len(s.continuation)])}</b>"
        f"{html.escape(s.continuation)}</pre>"
        for s in samples
    )
    words = "".join(
        f'<p class="typed">{html.escape(typed)}<span class="caret"></span></p><p>'
        + "".join(f'<span class="key">{html.escape(w)} <i>{p:.0%}</i></span>' for w, p in found)
        + "</p>"
        for typed, found in suggestions
    )
    return _TEMPLATE.format(
        headline=html.escape(fitted.inspect().headline),
        seconds=seconds,
        curve=curve,
        bars=bars,
        texts=texts,
        words=words,
        surprise=scored._repr_html_(),
        run=html.escape(str(folder)),
    )


SURPRISE = "The White Rabbit put on his spectacles, and opened a bank account.\n"

_TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>chainrule: a model of Alice</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #22303c; max-width: 46rem; margin: 2rem auto;
  padding: 0 1rem }}
h1 {{ font-size: 1.6rem; margin-bottom: 0 }} h2 {{ font-size: 1.1rem; margin-top: 2.2rem }}
.dim {{ color: #66788a }} img {{ max-width: 100% }}
table {{ width: 100%; border-spacing: 0 .3rem }} th {{ text-align: left; width: 8rem;
  font-weight: 500 }}
.bar {{ background: #dfe6ec; border-radius: 4px; padding: .15rem .6rem; text-align: right;
  box-sizing: border-box }}
.own {{ background: #c0392b; color: #fff }}
pre {{ white-space: pre-wrap; background: #f6f8fa; border-radius: 6px; padding: .8rem 1rem;
  font: 15px/1.5 Georgia, serif }}
.typed {{ font-family: ui-monospace, monospace; white-space: pre-wrap; margin: 1rem 0 .3rem }}
.caret {{ border-left: 2px solid #c0392b; margin-left: 1px }}
.key {{ display: inline-block; border: 1px solid #cbd5de; border-radius: 6px; padding: .2rem .6rem;
  margin: 0 .4rem .4rem 0 }} .key i {{ color: #66788a; font-size: .8em }}
</style>
<h1>A model of <i>Alice’s Adventures in Wonderland</i></h1>
<p class="dim">{headline}; learned in {seconds} on this machine.</p>
<h2>How it learned</h2>
{curve}
<h2>How well it predicts text that it has not seen</h2>
<p class="dim">Bits per byte of the held-out end of the book; less is better. The n-gram was counted
on the same training part; gzip and xz start cold.</p>
<table>{bars}</table>
<h2>What it writes</h2>
{texts}
<h2>What it suggests while you type</h2>
{words}
<h2>What surprises it</h2>
<p class="dim">The redder, the less expected: the exact probability of every character.</p>
{surprise}
<h2>Go on</h2>
<pre>chainrule generate {run} "Alice " -n 3 --temperature 0.8
chainrule next {run} "the Mock Tur"
chainrule fit your-own-text.txt --time 5m</pre>
</html>
"""
