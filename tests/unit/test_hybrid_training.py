"""Blanks and extra heads in training: beside the next symbol, and never in its way.

Shapes: B rows, T places.
"""

from __future__ import annotations

import pytest
import torch

from chainrule.core.model import Condition
from chainrule.core.noise import Noise
from chainrule.core.objective import Batch, nll
from chainrule.core.space import Space
from chainrule.models.rnn import RNN, RNNConfig
from chainrule.models.transformer import Transformer
from chainrule.models.transformer_config import TransformerConfig
from chainrule.training.objectives import objective
from tests.laws.entries import dice, symbols
from tests.laws.track import close

SPACE, ROWS, LENGTH = Space("finite", 7), 4, 40


def model(**shape) -> Transformer:
    torch.manual_seed(0)
    made = Transformer(TransformerConfig(SPACE, dim=16, num_layers=2, hidden=24, **shape))
    return made.double().eval()


def batch(seed: int = 1) -> Batch:
    return Batch(symbols(SPACE, ROWS, LENGTH, dice(seed)), (LENGTH,) * ROWS)


def gradients(net: Transformer, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    net.zero_grad()
    loss.backward()
    return {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layout", ["llama", "gpt2"])
@pytest.mark.parametrize("training", [False, True])
def test_the_causal_part_never_sees_a_copy_and_copies_are_the_masked_net(layout, training):
    """``training``: with gradients, where a layer is one node of the graph."""
    net, x = model(layout=layout, sinks=0, masked=True), batch().x
    copies = [range(5, 13), range(30, 40)]
    known = torch.rand(ROWS, 18, generator=dice(2)) < 0.5
    known[:, [0, 8]] = False
    with torch.set_grad_enabled(training):
        laws = net.masked.taught(x, copies, known).log_probs()
        close(laws[:, :LENGTH], net(x).log_probs())
        for run, part in ((copies[0], slice(0, 8)), (copies[1], slice(8, 18))):
            given = torch.ones(ROWS, run.stop, dtype=torch.bool)
            given[:, run.start :] = known[:, part]
            alone = net.masked(x[:, : run.stop], given).log_probs()[:, run.start :]
            close(laws[:, LENGTH:][:, part], alone)


@pytest.mark.parametrize("seed", range(6))
def test_the_loss_shown_is_that_of_the_next_symbols(seed):
    net, data = model(masked=True), batch()
    loss, count = objective("hybrid", 1.0)(net, data, Noise.seeded(seed, range(ROWS)))
    plain, number = nll(net, data)
    close(loss / count, plain / number)
    slopes, alone = gradients(net, loss), gradients(net, nll(net, data)[0])
    unknown = slopes["embedding.weight"][-1]
    assert unknown.abs().sum() > 0
    assert alone["embedding.weight"][-1].abs().sum() == 0


def test_the_rate_is_a_share_of_batches():
    net, data = model(masked=True), batch()
    hybrid = objective("hybrid", 0.5)
    counts = [float(hybrid(net, data, Noise.seeded(s, range(ROWS)))[1]) for s in range(60)]
    with_blanks = sum(c > ROWS * LENGTH for c in counts)
    assert 15 < with_blanks < 45  # 30 are expected: off by four deviations at most
    close(objective("hybrid", 0.0)(net, data)[0], nll(net, data)[0])


def test_heads_learn_and_nothing_else_hears_of_it():
    net, data = model(ahead=3), batch()
    loss, _ = objective("nll", 0.0)(net, data)
    plain = nll(net, data)[0]
    close(loss, plain)
    slopes, alone = gradients(net, loss), gradients(net, nll(net, data)[0])
    heads = {k for k in slopes if k.startswith("ahead.")}
    assert heads == slopes.keys() - alone.keys()
    assert all(slopes[k].any() for k in heads)
    for name, slope in alone.items():
        close(slopes[name], slope)


def test_heads_of_padded_rows_learn_from_what_is_scored():
    net, data = model(ahead=3), batch()
    weight = torch.ones(ROWS, LENGTH)
    weight[:, 20:] = 0
    other = data.x.clone()
    other[:, 20:] = 0
    found = []
    for x in (data.x, other):
        loss, _ = objective("nll", 0.0)(net, Batch(x, (20,) * ROWS, weight=weight))
        found.append(gradients(net, loss)["ahead.up.weight"])
    close(*found)


def test_windows_shorter_than_the_heads_reach():
    net = model(ahead=5)
    x = symbols(SPACE, 2, 4, dice())
    loss, _ = objective("nll", 0.0)(net, Batch(x, (4, 4)))
    close(loss, nll(net, Batch(x, (4, 4)))[0])


def test_blanks_are_told_the_label():
    """As the next symbols are; a model that reads none refuses it, in either kind of batch."""
    torch.manual_seed(0)
    space = Space.picture((8, 5, 1), 7)
    shape = {"dim": 16, "num_layers": 1, "hidden": 24, "masked": True}
    net = Transformer(TransformerConfig(space, labels=3, **shape)).double().eval()
    x = batch().x
    told = Batch(x, (LENGTH,) * ROWS, Condition(label=torch.tensor([0, 0, 2, -1])))
    noise = Noise.seeded(0, range(ROWS))
    loss, count = objective("hybrid", 1.0)(net, told, noise)
    nats, symbols_ = nll(net, told)
    close(loss / count, nats / symbols_)
    known = torch.zeros(ROWS, 8, dtype=torch.bool)
    laws = [
        net.masked.taught(x, [range(4, 12)], known, cond).log_probs()[:, LENGTH:]
        for cond in (told.cond, None)
    ]
    assert [torch.equal(a, b) for a, b in zip(*laws, strict=True)] == [False, False, False, True]
    for rate in (0.0, 1.0):
        with pytest.raises(ValueError, match="does not read the condition 'label'"):
            objective("hybrid", rate)(model(masked=True), told, noise)


def test_a_model_without_blanks_says_what_to_do():
    net = RNN(RNNConfig(SPACE, "gru", 1, 4, 4))
    with pytest.raises(ValueError, match=r"--objective hybrid needs .* a transformer"):
        objective("hybrid", 0.5)(net, batch(), Noise.seeded(0, range(ROWS)))
