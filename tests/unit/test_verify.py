"""The loop's own promises that no law names: stretches, ends, what drain hands out."""

import pytest
import torch

from chainrule.core.noise import Noise
from chainrule.core.space import Space
from chainrule.decoding.verify import Verify, drain
from chainrule.decoding.warps import Warps
from chainrule.models.rnn import RNN, gru, lstm, mingru, rnn

RECIPES = {"lstm": lstm, "gru": gru, "mingru": mingru, "rnn": rnn}
SETTINGS = [{}, {"temperature": 0.7}, {"temperature": 0}, {"top_p": 0.8, "top_k": 3}]


def model(name: str) -> RNN:
    torch.manual_seed(4)
    made = RNN(RECIPES[name](Space("finite", 7, eos=6), "tiny")).double().eval()
    with torch.no_grad():
        for p in made.parameters():
            p += 0.2 * torch.randn_like(p)
    return made


def decode(made: RNN, settings: dict, stretch: int, limit: int = 60) -> list[tuple]:
    """(symbols, log-probabilities, why it ended) of five rows with unlike prompts."""
    prompts = [torch.arange(n) % 6 for n in range(5)]
    decoder = Verify(made, stretch=stretch)
    begun = decoder.start(prompts, Noise.seeded(3, range(5)), None, Warps.of(5, **settings))
    out: list[list] = [[[], [], None] for _ in range(5)]
    for step in drain(decoder, begun, [limit + r for r in range(5)], eos=6):
        for i, row in enumerate(step.rows):
            out[row][0] += step.symbols[i, : step.count[i]].tolist()
            out[row][1] += step.log_prob[i, : step.count[i]].tolist()
            out[row][2] = step.done[i]
    return [tuple(o) for o in out]


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_stretch_makes_the_same_symbols(name, settings):
    made = model(name)
    alone = decode(made, settings, 1)
    assert all(why in ("eos", "length") for _, _, why in alone)
    for stretch in (2, 5, 16):
        for (x, log_p, why), (y, log_q, other) in zip(
            alone, decode(made, settings, stretch), strict=True
        ):
            assert (x, why) == (y, other)
            assert log_p == pytest.approx(log_q, rel=1e-9)


def test_rollout_is_steps():
    made = model("gru")
    run, _ = Verify(made).start([torch.tensor([1, 2])] * 3, Noise.seeded(1, [0, 1, 2]))
    with torch.no_grad():
        full, x = made.rollout(run.state, run.last, 6, run.noise, run.warp)
    assert full.lens == (8, 8, 8)
    assert full.tail == 5
    step = run
    for t in range(6):
        step, chunk = Verify(made).step(step)
        assert torch.equal(chunk.symbols[:, 0], x[:, t])
    torch.testing.assert_close(step.state.window("state"), full.trim().window("state"))


def test_drain_cuts_where_it_is_told():
    made = model("lstm")
    begun = Verify(made, stretch=8).start([torch.zeros(0, dtype=torch.int64)], Noise.seeded(1, [0]))
    seen: list[int] = []

    def stop(row: int, new: list[int]) -> int | None:
        seen.extend(new)
        return new.index(seen[4]) + 1 if len(seen) > 4 and seen[4] in new else None

    steps = list(drain(Verify(made, stretch=8), begun, [50], stop=stop))
    assert steps[-1].done == ["stop"]
    assert sum(s.count[0] for s in steps) <= 9
