"""The same bits whatever the batch, chunk, threads or way; rollouts beside steps.

Shapes: B rows, L symbols in a call, T length, n symbols of a stretch, V alphabet size.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from chainrule import native
from chainrule.core.model import Rolled, SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.space import Space
from chainrule.core.state import State
from chainrule.decoding.strategy import Target
from chainrule.decoding.verify import Ancestral
from chainrule.decoding.warps import Warps
from chainrule.engine.compiled import Compiled
from chainrule.engine.quantize import DTYPES, Cache
from chainrule.models.rnn import RNN, RNNConfig
from chainrule.models.transformer import Transformer, TransformerConfig

compiled: Any = native._native
pytestmark = pytest.mark.skipif(compiled is None, reason="installed without a compiler")

SETS = ("portable", "avx2", "avx512")
SIZE, ROWS = 29, 5
WARPS = [
    Warps.of(1), Warps.of(1, temperature=0.0), Warps.of(1, temperature=0.7, top_k=5),
    Warps.of(1, top_p=0.8, min_p=0.02), Warps.of(1, temperature=1.3, typical=0.9),
]  # fmt: skip


@pytest.fixture(autouse=True, params=SETS)
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """One instruction set, and the one that was used before."""
    used = compiled.chainrule_used()
    try:
        compiled.chainrule_use(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    compiled.chainrule_use(used)


def torch_model(name: str, eos: int | None = None) -> SequenceModel:
    """Its windows are soon left behind."""
    space = Space("finite", SIZE, eos=eos)
    shape: dict[str, Any] = {"dim": 72, "num_layers": 2, "hidden": 104, "num_heads": 4}
    torch.manual_seed(1)
    model: SequenceModel
    if name == "lstm":
        model = RNN(RNNConfig(space, cell="lstm", hidden=72, num_layers=2))
    elif name == "sliding":
        model = Transformer(TransformerConfig(space, num_kv_heads=2, context=24, sinks=3, **shape))
    else:
        shape |= {"layout": "gpt2", "context": 24, "sinks": 0, "tied": True}
        model = Transformer(TransformerConfig(space, **shape))
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model.eval()


MODELS = ("lstm", "sliding", "blocks")
CHOICES = (*DTYPES, "int8 cache")


def engine(name: str, choice: str, threads: int = 1, eos: int | None = None) -> Compiled:
    dtype: Any = "bf16" if choice == "int8 cache" else choice
    kept: Cache = "int8" if choice == "int8 cache" else "auto"
    model = Compiled(torch_model(name, eos), dtype, threads, cache=kept)
    model._machine.set_alone(0)  # so little work is shared in tests only
    return model


def symbols(rows: int, length: int) -> Tensor:
    return torch.randint(SIZE, (rows, length), generator=torch.Generator().manual_seed(2))


def scores(model: Compiled, x: Tensor, lengths: list[int]) -> Tensor:
    """Log-probabilities of x [B, T], taken in so many at a time."""
    state, parts, done = model.start(len(x)), [], 0
    while done < x.shape[1]:
        part = x[:, done : done + lengths[len(parts) % len(lengths)]]
        full = model.extend(state, part, tail=part.shape[1])
        parts.append(model.predict(full)[:, : part.shape[1]].log_prob(part))
        state, done = full.trim(), done + part.shape[1]
    return torch.cat(parts, 1)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", MODELS)
def test_any_batch_chunk_and_threads(name: str, choice: str):
    x, model = symbols(13, 70), engine(name, choice)
    wanted = scores(model, x, [70])
    assert torch.isfinite(wanted).all()
    for lengths in ([1], [7, 1, 30, 2], [64]):
        assert torch.equal(scores(model, x[:3], lengths), wanted[:3])
    for rows in (slice(3, 4), slice(2, 11)):
        assert torch.equal(scores(model, x[rows], [70]), wanted[rows])
    two = engine(name, choice, threads=2)
    assert torch.equal(scores(two, x, [70]), wanted)
    assert torch.equal(scores(two, x, [5]), wanted)


def warps(order: range | list[int]) -> Warps:
    return WARPS[order[0]].concat([WARPS[i] for i in order[1:]])


def advanced(
    model: Compiled, state: State, last: Tensor, n: int, noise: Noise, warp: Warps
) -> Rolled:
    """A stretch, or one step where a block of positions ends and there is none."""
    rolled = model.stretch(state, last, n, noise, warp)
    if rolled is not None:
        return rolled
    assert model.program.context and 0 in model.rooms(state)
    after, x, log_prob = stepped(model, state, last, [1] * len(last), noise, warp)
    return Rolled(after, x, [1] * len(last), log_prob)


def stepped(
    model: Compiled, state: State, last: Tensor, count: list[int], noise: Noise, warp: Warps
) -> tuple[State, Tensor, Tensor]:
    """One symbol at a time; row b's state is that behind count[b] symbols."""
    symbols, log_prob, states = [], [], []
    for _ in range(max(count)):
        state = model.extend(state, last)
        law = model.predict(state)
        last = warp(law).sample(noise.at(state.pos(1)))
        symbols.append(last)
        log_prob.append(law.log_prob(last))
        states.append(state)
    rows = [states[n - 1].select([b]) for b, n in enumerate(count)]
    return State.concat(rows), torch.cat(symbols, 1), torch.cat(log_prob, 1)


def compare(model: Compiled, state: State, last: Tensor, n: int, names: list[int]) -> Rolled:
    """A stretch beside its steps: symbols, log-probabilities, the state and what follows it."""
    noise, warp = Noise.seeded(1, names), warps(names)
    rolled = advanced(model, state, last, n, noise, warp)
    after, x, log_prob = stepped(model, state, last, rolled.count, noise, warp)
    for b, count in enumerate(rolled.count):
        assert torch.equal(rolled.symbols[b, :count], x[b, :count])
        assert torch.equal(rolled.log_prob[b, :count], log_prob[b, :count])
        assert count == n or model.program.context
    assert rolled.state.lens == after.lens
    more = symbols(len(names), 40)
    both = rolled.state, after
    assert torch.equal(*(model.predict(s).log_probs() for s in both))
    assert torch.equal(*(model.predict(model.extend(s, more, tail=39)).log_probs() for s in both))
    return rolled


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", MODELS)
def test_rollout_is_steps(name: str, choice: str):
    """Every row with warps of its own, from the start, behind a prompt, and on and on."""
    model, names = engine(name, choice), [0, 1, 2, 3, 4]
    state, last = model.start(ROWS), symbols(ROWS, 1)
    for n in (1, 12, 40):
        rolled = compare(model, state, last, n, names)
        state, last = rolled.state, rolled.symbols[:, -1:]
    two = engine(name, choice, threads=2)
    behind = [m.extend(m.start(ROWS), symbols(ROWS, 30)) for m in (model, two)]
    noise = Noise.seeded(3, names)
    one, other = (
        m.stretch(s, last, 20, noise, warps(names))
        for m, s in zip((model, two), behind, strict=True)
    )
    assert one is not None and other is not None
    assert torch.equal(one.symbols, other.symbols) and torch.equal(one.log_prob, other.log_prob)


@pytest.mark.parametrize("name", MODELS)
def test_rows_end_admitted_and_dropped(name: str):
    """Rows end at their own end symbols; others come in; all keep what they have alone."""
    model = engine(name, "int8", eos=3)
    alone: dict[int, list[int]] = {}
    for row in range(5):
        state, last, got = model.start(1), torch.tensor([[5 + row]]), []
        while len(got) < 60 and 3 not in got:
            noise = Noise.seeded(1, [row])
            rolled = advanced(model, state, last, 60 - len(got), noise, WARPS[row])
            got += rolled.symbols[0, : rolled.count[0]].tolist()
            state, last = rolled.state, torch.tensor([got[-1:]])
        alone[row] = got
    assert any(3 in got for got in alone.values())
    assert len({len(got) for got in alone.values()}) > 2
    rows, made, waiting = [4, 0], {row: [] for row in range(5)}, [2, 1, 3]
    state = model.start(2)
    last = torch.tensor([[5 + row] for row in rows])
    for n in [7, 5, 16, 3, 9, 11] * 40:
        rolled = advanced(model, state, last, n, Noise.seeded(1, rows), warps(rows))
        for b, row in enumerate(rows):
            made[row] += rolled.symbols[b, : rolled.count[b]].tolist()
        keep = [b for b, row in enumerate(rows) if len(made[row]) < 60 and 3 not in made[row]]
        rows = [rows[b] for b in keep]
        states = [rolled.state.select(keep)] if keep else []
        if waiting:
            rows.append(waiting.pop())
            states.append(model.start(1))
        if not rows:
            break
        state = State.concat(states)
        last = torch.tensor([made[row][-1:] or [5 + row] for row in rows])
    assert {row: got[:60] for row, got in made.items()} == alone


def test_two_threads_of_python_share_a_machine():
    """States are values and calls take turns: each thread gets what it would have had alone."""
    model = engine("sliding", "bf16", threads=2)
    wanted = [scores(model, symbols(6, 60)[b::2], [60]) for b in range(2)]
    wrong: list[int] = []

    def work(b: int) -> None:
        for lengths in ([60], [7, 11], [1]):
            if not torch.equal(scores(model, symbols(6, 60)[b::2], lengths), wanted[b]):
                wrong.append(b)

    both = [threading.Thread(target=work, args=(b,)) for b in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert not wrong


def test_a_config_changes_nothing_of_a_machine_that_is_there():
    """Weights are copied when it is built."""
    source = torch_model("lstm")
    model = Compiled(source, "f32", 1)
    x = symbols(2, 9)
    wanted = model(x).log_prob(x)
    with torch.no_grad():
        for p in source.parameters():
            p.zero_()
    assert torch.equal(model(x).log_prob(x), wanted)


def test_threads_that_draw_rows_of_a_wide_alphabet():
    """Rows are drawn where the head was computed, by all threads."""
    torch.manual_seed(5)
    wide = Transformer(TransformerConfig(Space("finite", 3001), dim=72, num_layers=1, num_heads=4))
    last = torch.arange(10)[:, None]
    found = []
    for threads in (1, 2):
        model = Compiled(wide.eval(), "int8", threads)
        model._machine.set_alone(0)
        warp, noise = warps([0, 1, 2, 3, 4] * 2), Noise.seeded(1, range(10))
        rolled = model.stretch(model.start(10), last, 12, noise, warp)
        assert rolled is not None
        found.append((rolled.symbols, rolled.log_prob))
        if threads == 1:
            _, x, log_prob = stepped(model, model.start(10), last, [12] * 10, noise, warp)
            found.append((x, log_prob))
    for symbols_BT, log_prob_BT in found[1:]:
        assert torch.equal(symbols_BT, found[0][0]) and torch.equal(log_prob_BT, found[0][1])


def test_a_model_too_large_for_stretches_still_draws_in_the_engine(
    monkeypatch: pytest.MonkeyPatch,
):
    model = engine("lstm", "bf16")
    monkeypatch.setattr(model, "stretch_length", 1)
    monkeypatch.setattr(model, "extend", lambda *_: pytest.fail("a step outside of the engine"))
    decoder = Ancestral.decoder(Target(model, length=4))
    run, _ = decoder.start([torch.tensor([], dtype=torch.int64)], Noise.seeded(1, [0]))
    for _ in range(3):
        run, chunk = decoder.step(run)
        assert chunk.count == [1]
