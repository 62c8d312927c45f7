"""Penalties, bans and forced beginnings: their laws, and that they inherit the contract."""

import pytest
import torch

from chainrule.core.model import SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.space import Space
from chainrule.decoding.verify import Verify, drain
from chainrule.models.rnn import RNN, RNNConfig
from chainrule.models.wrappers import Bans, Forced, Penalties

SIZE = 6


def inner() -> RNN:
    torch.manual_seed(3)
    return RNN(RNNConfig(Space("finite", SIZE), "gru", 1, 8, 8)).double().eval()


def law(model: SequenceModel, x: list[int]) -> torch.Tensor:
    """log p(next | x) [V]."""
    with torch.no_grad():
        state = model.start(1)
        if x:
            state = model.extend(state, torch.tensor([x]))
        return model.predict(state).log_probs()[0, -1]  # type: ignore[attr-defined]


def draw(model: SequenceModel, length: int, rows: int = 4, seed: int = 1) -> list[list[int]]:
    out: list[list[int]] = [[] for _ in range(rows)]
    begun = Verify(model).start(
        [torch.zeros(0, dtype=torch.int64)] * rows, Noise.seeded(seed, range(rows))
    )
    for step in drain(Verify(model), begun, [length] * rows):
        for row, new in zip(step.rows, step.symbols.tolist(), strict=True):
            out[row] += new
    return out


def test_penalties_are_what_they_say():
    base, x = inner(), [2, 2, 5]
    counts = torch.tensor([x.count(s) for s in range(SIZE)])
    plain = law(base, x)
    expected = torch.where(counts > 0, plain * 1.5, plain) - 0.3 * (counts > 0) - 0.2 * counts
    penalised = law(Penalties(base, 1.5, 0.3, 0.2), x)
    torch.testing.assert_close(penalised, torch.log_softmax(expected, -1))


def test_banned_sequences_never_come():
    base = inner()
    banned = Bans(base, [[0], [1, 2], [3, 3, 3]])
    for row in draw(banned, 400):
        joined = "".join(map(str, row))
        assert "0" not in joined
        assert "12" not in joined
        assert "333" not in joined
    assert law(banned, [1])[2] == -torch.inf
    assert law(banned, [4])[2] > -torch.inf


def test_forced_symbols_come_and_then_the_model_goes_on():
    base = inner()
    rows = draw(Forced(base, [5, 0, 5]), 10)
    assert all(row[:3] == [5, 0, 5] for row in rows)
    assert torch.equal(law(Forced(base, [5, 0, 5]), [5, 0, 5]), law(base, [5, 0, 5]))


def test_forced_positions_differ_by_row():
    model = Forced(inner(), [4], at=[0, 2])
    state = model.extend(model.start(2), torch.tensor([[1, 1], [1, 1]]))
    log_p = model.predict(state).log_probs()[:, -1]  # type: ignore[attr-defined]
    assert log_p[1].argmax() == 4
    assert log_p[1, 4] == 0
    assert log_p[0, 4] < 0


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: Penalties(m, 1.3, 0.2, 0.1),
        lambda m: Bans(m, [[1], [2, 3]]),
        lambda m: Forced(m, [1, 2], at=2),
        lambda m: Penalties(Bans(m, [[4, 4]]), 1.2),
    ],
)
def test_wrappers_keep_the_contract(wrap):
    model = wrap(inner())
    x = torch.tensor([[0, 1, 2, 3, 4, 5, 4], [5, 5, 0, 0, 2, 2, 3]])
    with torch.no_grad():
        whole = model(x).log_probs()
        for cut in (1, 3, 6):
            state = model.extend(model.start(2), x[:, :cut], tail=2)
            state = model.extend(state, x[:, cut:], tail=3)
            state = state.rewind([1, 3])
            state = state.select([1, 0])
            # row 0 is now the second sequence, three symbols shorter than it was
            back = model.extend(state, torch.stack([x[1, 4:6], x[0, 5:7] * 0 + x[0, 6]]), tail=2)
            mine = model.predict(back).log_probs()
            torch.testing.assert_close(mine[0, 0], whole[1, 4])
            torch.testing.assert_close(mine[0, 2], model(x[1:, :7]).log_probs()[0, 6])


@pytest.mark.parametrize("bad", [[[9]], [[]], [[i] for i in range(SIZE)]])
def test_bans_that_make_no_sense(bad):
    with pytest.raises(ValueError, match="ban"):
        Bans(inner(), bad)
