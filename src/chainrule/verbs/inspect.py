"""inspect: what a fitted artifact is and how it was made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from chainrule import registry
from chainrule.artifact import Artifact
from chainrule.codecs.image import PixelCodec
from chainrule.core.config import to_dict


@dataclass(frozen=True)
class Card:
    """The facts of an artifact, JSON-able; ``symbols``: what it models, in words."""

    path: str | None
    model: dict[str, Any]
    parameters: int
    codec: str
    alphabet: int
    symbols: str
    recipe: dict[str, Any]
    results: dict[str, Any]
    files: dict[str, int]

    @property
    def headline(self) -> str:
        """One line."""
        kind = self.model.get("cell", self.model["kind"])
        return f"{kind} over {self.symbols}, {self.parameters:,} parameters"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """(name, value) for a table."""
        shape = {k: v for k, v in self.model.items() if k not in ("space", "kind", "cell")}
        out = [
            ("model", self.headline),
            ("shape", ", ".join(f"{k} {_short(v)}" for k, v in shape.items())),
            *((k, _short(v["path"] if k == "base" else v)) for k, v in self.recipe.items()),
            *((k, _short(v)) for k, v in self.results.items()),
            *((name, f"{size:,} bytes") for name, size in self.files.items()),
        ]
        return [("path", self.path), *out] if self.path else out

    def _repr_html_(self) -> str:
        from html import escape

        body = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in self.rows())
        return f"<table>{body}</table>"


def inspect(artifact: Artifact) -> Card:
    """Read the card of an artifact."""
    path = artifact.path
    files = (
        {
            p.name: p.stat().st_size
            for p in sorted(path.iterdir())
            if p.is_file() and p.name[0] != "."
        }
        if path is not None and path.is_dir()
        else {}
    )
    parameters = sum(t.numel() for t in artifact.outline.state_dict().values())
    config = {} if artifact.outline.config is None else to_dict(artifact.outline.config)
    return Card(
        path=None if path is None else str(path),
        model={"kind": artifact.kind, **config},
        parameters=parameters,
        codec=registry.codec_name(artifact.any_codec),
        alphabet=artifact.outline.space.size or 0,
        symbols=_symbols(artifact),
        recipe=artifact.recipe,
        results=artifact.results,
        files=files,
    )


def _symbols(artifact: Artifact) -> str:
    """What the symbols are, and of pictures what they make up."""
    codec, size = artifact.any_codec, artifact.outline.space.size
    if not isinstance(codec, PixelCodec):
        name = registry.codec_name(codec)
        return f"{size} {name}" if size else f"{name} numbers"
    (height, width, _), palette = codec.grid, codec.colour == "palette"
    colours = f"palette of {size} colours" if palette else f"{codec.colour}, {size} levels"
    found = f"pictures of {height}x{width}, {colours}, {codec.order} order"
    if "label" not in artifact.outline.reads:
        return found
    count = len(codec.labels)
    return f"{found}, {count:,} label{'s' * (count != 1)}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
