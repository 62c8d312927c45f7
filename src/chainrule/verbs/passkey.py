"""passkey: whether a model finds a word again that stood far back in a text.

A key is said once, somewhere in filler; at the end the model is asked for it.
Source: Mohtashami and Jaggi 2023, "Landmark attention: random-access infinite context length".
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.artifact import Artifact
from chainrule.codecs.text import TextCodec
from chainrule.core.config import bounded
from chainrule.training.data import read_documents
from chainrule.training.scoring import continuation_log_probs
from chainrule.training.shards import Progress
from chainrule.verbs.curve import save_png

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_SHORTEST, _LONGEST = 256, 2**20  # symbols of a prompt
_LOOKED_AT = 2**18  # characters of DATA from which words are taken
_SAID = "\nThe pass key is {}. Remember it. {} is the pass key.\n"
_ASKED = "\nWhat is the pass key? The pass key is"


@dataclass(frozen=True)
class Place:
    """Prompts of one length with the key at one depth.

    Args:
        length: symbols of a prompt. depth: 0 is where the text begins, 1 right before the question.
        found: share of the keys that greedy decoding writes.
        bits: mean -log2 p(key | prompt). wrong_bits: of another key, which was not said.
        margin: the one less the other: what the model knows of the key, 0 where it is nothing.
        margin_se: standard error over the samples.
    """

    length: int
    depth: float
    found: float
    bits: float
    wrong_bits: float
    margin: float
    margin_se: float


@dataclass(frozen=True)
class Passkey:
    """A table by length and depth.

    Args:
        key: "digits" (five of them), or "word" where the codec has no digits: one of DATA.
        samples: pairs of prompts at each place. context: how far the model looks back, or None.
    """

    source: str
    key: str
    samples: int
    seed: int
    context: int | None
    places: list[Place]
    backend: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names."""
        return asdict(self)

    def header(self) -> tuple[str, ...]:
        """The names of the columns of ``rows``."""
        return "symbols", "depth", "found", "key (bits)", "wrong key", "margin", ""

    def rows(self) -> list[tuple[str, ...]]:
        """One a place."""
        return [
            (
                f"{p.length:,}",
                f"{100 * p.depth:.0f} %",
                f"{100 * p.found:.0f} %",
                f"{p.bits:.2f}",
                f"{p.wrong_bits:.2f}",
                f"{p.margin:+.2f} ± {p.margin_se:.2f}",
                "past the context" if self._out_of_sight(p) else "",
            )
            for p in self.places
        ]

    def remark(self) -> str:
        """What was asked for, in a line."""
        key = "five digits" if self.key == "digits" else "a word of the data"
        return (
            f"the key is {key}, {2 * self.samples} prompts at each place; found: greedy decoding "
            "writes it; margin: bits by which it is likelier than a wrong key"
        )

    def _out_of_sight(self, place: Place) -> bool:
        return self.context is not None and place.length * (1 - place.depth) > self.context

    def save(self, path: str | Path) -> Path:
        """Write the picture, a PNG: the margin by length and depth.

        Raises:
            ValueError: another kind of file is named, or matplotlib is not installed.
        """
        return save_png(path, lambda: _draw(self))

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in self.header())
        body = "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in self.rows())
        return f"<table><tr>{head}</tr>{body}</table>"


def passkey(
    artifact: Artifact,
    source: str | Path,
    *,
    length: int | None = None,
    samples: int = 4,
    seed: int = 0,
    field: str | None = None,
    column: str | None = None,
    backend: str = "auto",
    dtype: str | None = None,
    progress: Progress | None = None,
) -> Passkey:
    """Ask for a key that was said once in filler from ``source``.

    A sample is two keys, each said in one prompt and the wrong one in the other: so the margin
    is not of words that are likely anyway. Its filler serves at all depths.

    Args:
        length: symbols of the longest prompt; the others have 256, 512, … By default it is twice
            the context, 4,096 at most (2,048 where there is no end).
        samples: pairs of prompts at each length and depth.

    Raises:
        ValueError: settings out of bounds, data too short for the longest prompt or without
            enough words, or a backend that can't be.
    """
    on = artifact.choose(backend, dtype, draws=False)
    context = getattr(artifact.outline.config, "context", None)
    if length is None:
        length = 2048 if context is None else min(max(2 * context, 2 * _SHORTEST), 4096)
    bounded("length", length, _SHORTEST, _LONGEST)
    bounded("samples", samples, 1, 10_000)
    bounded("seed", seed, 0, 2**63 - 1)
    lengths = [*(n for n in (2**k for k in range(8, 20)) if n < length), length]
    raw = b"\n".join(piece.data for piece in read_documents(source, field=field, column=column))
    text = raw.decode("utf-8", "replace")
    digits = _takes_digits(artifact.codec)
    words = [] if digits else _words(artifact.codec, text)
    if not digits and len(words) < 2:
        raise ValueError(f"{source} has too few words of 4 letters or more to take a key from")
    draw, pairs = random.Random(seed), []
    for each in lengths:
        for _ in range(samples):
            keys = _digits(draw) if digits else draw.sample(words, 2)
            answers = [artifact.codec.encode(f" {key}").symbols for key in keys]
            for prompt, said in _prompts(artifact.codec, text, keys, each, draw, source):
                pairs += [(prompt, answers[said]), (prompt, answers[1 - said])]
    told = None if progress is None else lambda n: progress("asking", n, len(pairs))
    scored = continuation_log_probs(artifact.runner(on), pairs, told)
    bits = np.array([-nats / math.log(2) for nats, _ in scored])
    shape = len(lengths), samples, len(DEPTHS), 2, 2  # the last: the key, the wrong key
    bits, hits = bits.reshape(shape), np.array([hit for _, hit in scored]).reshape(shape)
    places = [
        _place(each, depth, bits[i, :, j], hits[i, :, j, :, 0])
        for i, each in enumerate(lengths)
        for j, depth in enumerate(DEPTHS)
    ]
    return Passkey(
        source=str(source),
        key="digits" if digits else "word",
        samples=samples,
        seed=seed,
        context=context,
        places=places,
        backend=str(on),
    )


def _place(length: int, depth: float, bits: NDArray[Any], hits: NDArray[Any]) -> Place:
    """Of bits [N, 2, 2] and hits [N, 2]: samples, their prompts, and the key and the wrong one."""
    right, wrong = bits[..., 0].mean(1), bits[..., 1].mean(1)
    spread = float((wrong - right).std(ddof=1)) if len(bits) > 1 else 0.0
    return Place(
        length=length,
        depth=depth,
        found=float(hits.mean()),
        bits=float(right.mean()),
        wrong_bits=float(wrong.mean()),
        margin=float((wrong - right).mean()),
        margin_se=spread / math.sqrt(len(bits)),
    )


def _takes_digits(codec: TextCodec) -> bool:
    """Whether every digit comes back as it was."""
    try:
        encoded = codec.encode(" 0123456789")
    except ValueError:
        return False
    return codec.decode(encoded).strip() == "0123456789"


def _digits(draw: random.Random) -> list[str]:
    """Two keys of five digits that differ in every place."""
    key = [draw.randrange(10) for _ in range(5)]
    wrong = [(d + draw.randrange(1, 10)) % 10 for d in key]
    return ["".join(map(str, each)) for each in (key, wrong)]


def _words(codec: TextCodec, text: str) -> list[str]:
    """Words of the text that the codec gives back as they were."""
    found = set(re.findall(r"[^\W\d_]{4,12}", text[:_LOOKED_AT]))
    return [w for w in sorted(found) if codec.decode(codec.encode(f" {w}")) == f" {w}"]


def _prompts(
    codec: TextCodec,
    text: str,
    keys: list[str],
    length: int,
    draw: random.Random,
    source: str | Path,
) -> list[tuple[NDArray[Any], int]]:
    """Of ``length`` symbols each: for every depth two, which say the one key and the other."""
    said, asked = [_encode(codec, _SAID.format(key, key)) for key in keys], _encode(codec, _ASKED)
    most = length - max(map(len, said)) - len(asked)
    filler = None if most < 2 else _filler(codec, text, length, draw)
    if filler is None:
        raise ValueError(
            f"{source} is too short to fill a prompt of {length:,} symbols: give more data, or "
            "another --length"
        )
    out = []
    for depth in DEPTHS:
        for which, told in enumerate(said):
            room = length - len(told) - len(asked)
            cut = round(depth * room)
            parts = filler[:cut], told, filler[cut:room], asked
            out.append((np.concatenate(parts).astype(np.int64), which))
    return out


def _filler(codec: TextCodec, text: str, room: int, draw: random.Random) -> NDArray[Any] | None:
    """``room`` symbols of the text from somewhere, or None."""
    span = room  # characters; more when symbols stand for more of them
    while True:
        begin = draw.randrange(max(1, len(text) - span + 1))
        symbols = codec.encode(text[begin : begin + span]).symbols
        if len(symbols) >= room:
            return symbols[:room]
        if span >= len(text):
            return None
        span = min(2 * span, len(text))


def _encode(codec: TextCodec, said: str) -> NDArray[Any]:
    """Symbols, without the characters that the codec doesn't know."""
    try:
        return codec.encode(said).symbols
    except ValueError:
        parts = []
        for character in said:
            try:
                parts.append(codec.encode(character).symbols)
            except ValueError:
                continue
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _draw(found: Passkey) -> Any:
    """The margin as a field of colours, and the share that was found in figures."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("the picture needs matplotlib: pip install 'chainrule[plot]'") from None
    lengths, depths = (
        sorted({getattr(p, name) for p in found.places}) for name in ("length", "depth")
    )
    margin = np.zeros((len(depths), len(lengths)))
    figure = Figure(figsize=(1.5 + len(lengths), 1.5 + 0.5 * len(depths)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for p in found.places:
        row, column = depths.index(p.depth), lengths.index(p.length)
        margin[row, column] = p.margin
    high = max(1.0, float(np.abs(margin).max()))
    for p in found.places:
        at = lengths.index(p.length), depths.index(p.depth)
        ink = "white" if abs(p.margin) > 0.6 * high else "black"
        found_here = f"{100 * p.found:.0f} %"
        axis.text(*at, found_here, ha="center", va="center", fontsize=9, color=ink)
    shown = axis.imshow(margin, cmap="RdYlGn", vmin=-high, vmax=high, aspect="auto")
    figure.colorbar(shown, label="bits: a wrong key's less the key's")
    axis.set_xticks(range(len(lengths)), [f"{n:,}" for n in lengths])
    axis.set_yticks(range(len(depths)), [f"{100 * d:.0f} %" for d in depths])
    axis.set_xlabel("symbols of the prompt")
    axis.set_ylabel("depth of the key")
    axis.set_title("keys found, and what the model knows of them", fontsize=10)
    return figure
