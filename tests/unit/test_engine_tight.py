"""bf16 packed tighter: the same bits as plain bf16, in every kernel, batch, thread and odd clump.

Shapes: B rows, L symbols in a call, V alphabet size, D width.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from chainrule import native
from chainrule.core.space import Space
from chainrule.engine import build
from chainrule.engine.compiled import Compiled
from chainrule.models.transformer import Transformer, TransformerConfig
from tests.unit import test_engine_2 as others

compiled: Any = native._native
pytestmark = pytest.mark.skipif(compiled is None, reason="installed without a compiler")

kernels = others.kernels  # every instruction set
SIZE = 183  # 12 blocks, the last not full
NEVER = 2**60


def model(odd: float) -> Transformer:
    """Of 7.5 blocks and of 20, the output tied; a share of weights is 0, tiny or huge."""
    space = Space("finite", SIZE)
    shape: dict[str, Any] = {"dim": 120, "num_layers": 2, "hidden": 156, "num_heads": 4}
    torch.manual_seed(1)
    made = Transformer(TransformerConfig(space, tied=True, context=64, sinks=0, **shape))
    with torch.no_grad():
        for p in made.parameters():
            if p.ndim < 2:
                continue
            p.copy_(torch.randn_like(p) * 0.1)
            p[torch.rand_like(p) < odd] = 0.0
            p[torch.rand_like(p) < odd / 2] *= 1e-30
            p[torch.rand_like(p) < odd / 2] *= 50.0
    return made.eval()


def both(
    made: Transformer, monkeypatch: pytest.MonkeyPatch, threads: int = 1
) -> tuple[Compiled, Compiled]:
    """Plain, and as tight as it will be."""
    found = []
    for least in (NEVER, 0):
        monkeypatch.setattr(build, "_TIGHT", least)
        found.append(Compiled(made, dtype="bf16", threads=threads))
    return found[0], found[1]


def law(engine: Compiled, x_BL: Tensor) -> Tensor:
    return engine.predict(engine.extend(engine.start(len(x_BL)), x_BL, tail=2)).log_probs()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("odd", [0.0, 0.0002])
def test_the_same_bits(monkeypatch: pytest.MonkeyPatch, odd: float, threads: int):
    made = model(odd)
    plain, tight = both(made, monkeypatch, threads)
    assert tight.weight_bytes < 0.95 * plain.weight_bytes
    for rows, length in [(1, 3), (2, 3), (3, 4), (1, 6), (1, 8), (1, 12), (1, 13), (5, 9)]:
        torch.manual_seed(length)
        x = torch.randint(SIZE, (rows, length))
        assert torch.equal(law(plain, x), law(tight, x)), (rows, length)
        one = x[:, :1]
        assert torch.equal(law(plain, one.repeat(1, 3)), law(tight, one.repeat(1, 3)))


def test_every_row_is_what_it_was(monkeypatch: pytest.MonkeyPatch):
    """Each embedding is looked up in the matrix that is the output too."""
    plain, tight = both(model(0.0002), monkeypatch)
    x = torch.arange(SIZE)[:, None].expand(SIZE, 3)
    for part in x.split(40):
        assert torch.equal(law(plain, part), law(tight, part))


def test_what_gains_nothing_stays(monkeypatch: pytest.MonkeyPatch):
    """Exponents all over the place, or matrices of a few rows."""
    made = model(0.0)
    with torch.no_grad():
        for p in made.parameters():
            if p.ndim > 1:
                p.copy_(torch.randn_like(p) * 2.0 ** torch.randint(-40, 0, p.shape))
    plain, tight = both(made, monkeypatch)
    assert tight.weight_bytes == plain.weight_bytes
    x = torch.arange(9)[None]
    assert torch.equal(law(plain, x), law(tight, x))
    few: dict[str, Any] = {"num_layers": 1, "dim": 16, "num_heads": 2, "num_kv_heads": 2}
    small = Transformer(TransformerConfig(Space("finite", 20), **few))
    plain, tight = both(small.eval(), monkeypatch)
    assert torch.equal(law(plain, x), law(tight, x))


def test_only_before_it_runs():
    engine = Compiled(model(0.0), dtype="bf16")
    law(engine, torch.arange(3)[None])
    with pytest.raises(ValueError, match="has run already"):
        engine._machine.tighten(0)


def test_what_a_cache_holds_stays(monkeypatch: pytest.MonkeyPatch):
    """It is quicker as it is."""
    made = model(0.0)
    before = Compiled(made, dtype="bf16").weight_bytes
    plain, tight = both(made, monkeypatch)
    assert before == plain.weight_bytes > tight.weight_bytes
