"""infill: fill the blanks of a text, given what stands on both sides of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from chainrule.artifact import Artifact
from chainrule.core.config import bounded
from chainrule.decoding.infill import EXACTNESS, Method
from chainrule.decoding.infill import infill as fill
from chainrule.decoding.warps import Warps
from chainrule.verbs.forecaster_parts import whole

METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class Infilled:
    """A text whose blanks were filled.

    Args:
        blanks: what stands in each run of blanks; pieces: the known text around them, one more.
        log_prob: of the blanks given the known text, in nats: exact; by smc, an estimate; by
            clamp, given only what precedes each blank.
        exactness: "distribution" for exact, "approximate" for clamp and smc.
        effective_sample_size: by smc, how many independent particles its own are worth.
        log_evidence: by smc, the estimated log-probability of the known text, in nats.
    """

    text: str
    blanks: list[str]
    pieces: list[str] = field(repr=False)
    log_prob: float
    method: str
    exactness: str
    seed: int
    effective_sample_size: float | None = None
    log_evidence: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the fields' own names."""
        return dict(vars(self))

    def _repr_html_(self) -> str:
        from html import escape

        known = [escape(piece) for piece in self.pieces]
        filled = [f"<b>{escape(blank)}</b>" for blank in self.blanks]
        joined = "".join(a + b for a, b in zip(known, [*filled, ""], strict=True))
        return f"<pre>{joined}</pre><p>{self.method} ({self.exactness})</p>"


@torch.no_grad()
def infill(
    artifact: Artifact,
    text: str,
    *,
    mask: str = "_",
    method: Method | None = None,
    n: int = 1,
    particles: int = 256,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical: float = 1.0,
) -> list[Infilled]:
    """Fill the blanks of a text, n times.

    Every ``mask`` in the text is one blank symbol: a byte, a character, or a piece of a word where
    those are the codec's symbols. The text between blanks is encoded by itself, which of BPE is
    one of several ways to spell it. A blank may hold the end symbol, which spells nothing.

    Args:
        method: exact (any-order models; the default where the model is one), smc (particles,
            weighed by what follows) or clamp (what follows has no say).
        particles: of smc; more are better and slower.

    Raises:
        ValueError: no blank, a text longer than the context, a model that goes from left to right
            and no method named, or a setting out of bounds.
    """
    if method is not None and method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")
    n = whole("n", n, 1000)
    bounded("seed", seed, 0, 2**63 - 1)
    warp = Warps.of(
        1, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical=typical
    )
    pieces, counts = _split(text, mask)
    x, known = _symbols(artifact, pieces, counts)
    context = getattr(artifact.model.config, "context", None)
    sees_all = method == "exact" or (method is None and artifact.model.masked is not None)
    if sees_all and context is not None and len(x) >= context:
        raise ValueError(
            f"the text has {len(x):,} symbols and the context {context - 1:,}: method exact looks "
            "at all of it at once, so give less text, or choose method smc or clamp"
        )
    device = next((p.device for p in artifact.model.parameters()), torch.device("cpu"))
    filled = fill(
        artifact.model,
        x.to(device),
        known.to(device),
        method,
        n,
        particles=particles,
        seed=seed,
        warp=warp,
    )
    table = artifact.codec.symbol_bytes()
    found = []
    for symbols, log_prob in zip(filled.symbols.cpu(), filled.log_prob.tolist(), strict=True):
        runs = symbols[~known].split(counts)
        blanks = [
            b"".join(table[i] for i in run.tolist()).decode("utf-8", "replace") for run in runs
        ]
        found.append(
            Infilled(
                "".join(a + b for a, b in zip(pieces, [*blanks, ""], strict=True)),
                blanks,
                pieces,
                log_prob,
                filled.method,
                EXACTNESS[filled.method],
                seed,
                filled.effective_sample_size,
                filled.log_evidence,
            )
        )
    return found


def _split(text: str, mask: str) -> tuple[list[str], list[int]]:
    """The text around the runs of blanks, and how many symbols each run has.

    Raises:
        ValueError: no blank, or an empty mask.
    """
    if not mask:
        raise ValueError("the mask is empty: name the character that stands for a blank")
    runs = re.findall(f"(?:{re.escape(mask)})+", text)
    if not runs:
        raise ValueError(f"nothing to fill in: the text has no {mask!r}")
    return re.split(f"(?:{re.escape(mask)})+", text), [len(run) // len(mask) for run in runs]


def _symbols(artifact: Artifact, pieces: list[str], counts: list[int]) -> tuple[Tensor, Tensor]:
    """Symbols [T], 0 in the blanks, and which of them are known."""
    x, known = [], []
    for piece, count in zip(pieces, [*counts, 0], strict=True):
        symbols = artifact.codec.encode(piece).symbols.astype(np.int64)
        x += [torch.from_numpy(symbols), torch.zeros(count, dtype=torch.int64)]
        known += [torch.ones(len(symbols), dtype=torch.bool), torch.zeros(count, dtype=torch.bool)]
    return torch.cat(x), torch.cat(known)
