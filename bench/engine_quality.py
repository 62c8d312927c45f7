"""What narrow weights cost: bits per byte of trained models in every dtype of the engine.

Tiny Shakespeare's last tenth, which none of the runs has seen: the runs of bench.strategies, and
``base`` (6 x 384), trained here for half an hour if it isn't in build/bench yet.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import chainrule as cr
from bench.common import save, table
from chainrule.core.model import SequenceModel
from chainrule.engine.compiled import Compiled
from chainrule.engine.quantize import DTYPES
from chainrule.training.scoring import log_probs

SHARE, MINUTES = 0.9, "30m"


def main(data: Path | None) -> None:
    """Print bits per byte and what each dtype adds, in per cent of torch's float32."""
    if data is None:
        print("skipped: it needs text/tinyshakespeare.txt: --data FOLDER")
        return
    text = (data / "text" / "tinyshakespeare.txt").read_text()
    cut = int(SHARE * len(text))
    base = Path("build") / "bench" / "shakespeare-base"
    if not base.exists():
        part = base.parent / "shakespeare-first-90.txt"
        part.write_text(text[:cut])
        cr.fit(part, base, model="transformer", size="base", codec="bytes", time=MINUTES)
    rows, out = [], {}
    for folder in sorted(base.parent.glob("shakespeare-*/config.json")):
        run = cr.load(folder.parent).artifact
        symbols = run.codec.encode(text[cut:]).symbols
        size = len(text[cut:].encode())

        def bits(model: SequenceModel, symbols: np.ndarray = symbols, size: int = size) -> float:
            with torch.no_grad():
                return float(-log_probs(model, symbols).sum() / np.log(2) / size)

        found = {"torch f32": bits(run.model)}
        for dtype in DTYPES:
            found[dtype] = bits(Compiled(run.model, dtype))
        name, plain = folder.parent.name.removeprefix("shakespeare-"), found["torch f32"]
        more = {k: 100 * (v / plain - 1) for k, v in found.items()}
        rows.append([name, f"{plain:.4f}", *(f"{more[d]:+.3f} %" for d in DTYPES)])
        out[name] = {"bits_per_byte": found, "per_cent_more": more}
    table(["run", "bits/byte", *DTYPES], rows)
    save("engine_quality", {"held_out_bytes": size, "runs": out})
