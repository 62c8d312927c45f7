"""attention: where every head of a model looks, as numbers and as a picture."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chainrule.artifact import Artifact
from chainrule.files import replacing

MOST_SYMBOLS = 200
MOST_LABELS = 40  # with more symbols, a label would be smaller than its letters
_SHOWN = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥"})


@dataclass(frozen=True, eq=False)
class Attention:
    """How much every symbol of a prompt turns to itself and to each one before it.

    Args:
        symbols: what the symbols stand for [T+1]; the first one is the start symbol.
        weights: [layers, heads, T+1, T+1]; row t sums to 1 over the columns up to t.
    """

    symbols: list[str]
    weights: Tensor

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: the symbols and how many layers and heads; the weights are a tensor."""
        layers, heads = self.weights.shape[:2]
        return {"symbols": self.symbols, "num_layers": layers, "num_heads": heads}

    def save(self, path: str | Path) -> Path:
        """Write the picture, a PNG.

        Raises:
            ValueError: another kind of file is named, or matplotlib is not installed.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(f"{path}: the picture is a PNG, so give it a name that ends in .png")
        data = self._repr_png_()
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            beside.write_bytes(data)
        return path

    def _repr_png_(self) -> bytes:
        figure, file = _draw(self), io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # a script that the font lacks
            figure.savefig(file, format="png")
        return file.getvalue()


@torch.no_grad()
def attention(artifact: Artifact, prompt: str) -> Attention:
    """The attention of every layer and head over a prompt.

    Raises:
        ValueError: a model without attention, or a prompt that is empty, too long or can't be
            encoded.
    """
    model: Any = artifact.model
    if not callable(getattr(type(model), "attention", None)):
        raise ValueError(f"{artifact.kind} has no attention to draw: a transformer has")
    symbols = artifact.codec.encode(prompt).symbols
    if not 1 <= len(symbols) <= MOST_SYMBOLS:
        raise ValueError(
            f"the prompt has {len(symbols)} symbols: give 1 to {MOST_SYMBOLS}, "
            f"up to {MOST_LABELS} to read them in the picture"
        )
    table = artifact.codec.symbol_bytes()
    names = [table[i].decode("utf-8", "replace") for i in symbols.tolist()]
    device = next(model.parameters()).device
    x = torch.from_numpy(symbols.astype("int64"))[None].to(device)
    weights = model.eval().attention(x)[:, 0].float().cpu()
    return Attention(["start", *names], weights)


def _draw(shown: Attention) -> Any:
    """A row of heat maps a layer, a column a head."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.colors import PowerNorm
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("a picture needs matplotlib: pip install 'chainrule[plot]'") from None
    layers, heads, size, _ = shown.weights.shape
    labelled = size <= MOST_LABELS + 1
    names = [shown.symbols[0], *(s.translate(_SHOWN) for s in shown.symbols[1:])]
    side = 0.6 + max(1.5, 0.13 * size) if labelled else 2.4
    figure = Figure(figsize=(side * heads + 0.9, (side + 0.25) * layers), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(layers, heads, squeeze=False)
    future = torch.ones(size, size, dtype=torch.bool).triu(1)
    norm = PowerNorm(0.5, 0, 1)  # small weights are seen too
    image: Any = None
    for layer, row in enumerate(grid):
        for head, axes in enumerate(row):
            values = shown.weights[layer, head].masked_fill(future, torch.nan)
            image = axes.imshow(values.numpy(), cmap="YlOrRd", norm=norm, interpolation="nearest")
            axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=8)
            axes.spines[:].set_visible(False)
            if labelled:
                style: dict[str, Any] = {"fontsize": 7, "parse_math": False}
                axes.set_yticks(range(size), names, **style)
                axes.set_xticks(range(size), names, **style)
                for name, label in zip(names, axes.get_xticklabels(), strict=True):
                    label.set_rotation(90 if len(name) > 1 else 0)
                axes.tick_params(length=0, pad=2)
            else:
                axes.tick_params(labelsize=6, length=2)
    bar = figure.colorbar(image, ax=grid, ticks=[0, 0.05, 0.2, 0.5, 1], shrink=0.6, aspect=30)
    bar.set_label("weight", fontsize=8)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)
    figure.supylabel("after this symbol …", fontsize=8)
    figure.supxlabel("… the head looks at this one", fontsize=8)
    return figure
