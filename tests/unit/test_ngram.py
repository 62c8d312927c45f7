"""The n-gram model against a slow dictionary that follows the same formula word for word."""

import math
from collections import Counter, defaultdict
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch

from chainrule.core.config import from_dict, to_dict
from chainrule.core.model import Condition
from chainrule.core.objective import Batch, Example
from chainrule.core.space import Space
from chainrule.models import ngram as module
from chainrule.models import ngram_counts
from chainrule.models.ngram import NGram, NGramConfig, ngram

EXACT = 1e-12
START = -1


def fitted(streams, size=4, order=4, **settings):
    model = NGram(NGramConfig(Space("finite", size), order, **settings))
    model.estimate(streams)
    return model


def random_streams(seed=0, size=4, lengths=(120, 1, 0, 60, 2)):
    rng = np.random.default_rng(seed)
    law = rng.dirichlet(np.full(size, 0.4), size * size)
    streams = []
    for length in lengths:
        x = list(rng.integers(0, size, min(length, 2)))
        while len(x) < length:
            x.append(rng.choice(size, p=law[x[-1] * size + x[-2]]))
        streams.append(np.array(x, dtype=np.int64))
    return streams


def whole_text(share=1.0):
    text = (files("chainrule") / "assets" / "alice.txt").read_bytes()
    return np.frombuffer(text, np.uint8)[: int(share * len(text))]


class Slow:
    """Counts as nested dictionaries: count[h][w], h oldest first, START before a stream."""

    def __init__(self, streams, size, order):
        self.size, self.order = size, order
        self.count = defaultdict(Counter)
        for stream in streams:
            padded = [START, *map(int, stream)]
            for t in range(1, len(padded)):
                self.count[tuple(padded[max(t - order + 1, 0) : t])][padded[t]] += 1
        for length in range(order - 1, 0, -1):
            for h in [h for h in self.count if len(h) == length]:
                for w, c in self.count[h].items():
                    self.count[h[1:]][w] += 1 + (c > 2)

    def closed_form(self):
        discounts = [[0.5, 1.0, 1.5]]
        for length in range(1, self.order):
            counts = [c for h, law in self.count.items() if len(h) == length for c in law.values()]
            n = [0, *(counts.count(i) for i in range(1, 5))]
            row = [0.5, 1.0, 1.5]
            if all(n[1:]):
                y = n[1] / (n[1] + 2 * n[2])
                row = [i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3)]
            row = [min(max(d, 0.05 * i), 0.95 * i) for i, d in enumerate(row, 1)]
            discounts.append(row)
        return np.array(discounts)

    def p(self, w, h, discounts):
        lower = self.p(w, h[1:], discounts) if h else 1 / self.size
        if h not in self.count:
            return lower
        law, d = self.count[h], [0.0, *discounts[len(h)]]
        total = sum(law.values())
        handed = sum(d[min(c, 3)] for c in law.values())
        return (law[w] - d[min(law[w], 3)] + handed * lower) / total

    def log_prob(self, stream, discounts):
        padded = [START, *map(int, stream)]
        return [
            math.log(self.p(padded[t], tuple(padded[max(t - self.order + 1, 0) : t]), discounts))
            for t in range(1, len(padded))
        ]


def sequential(streams, cut):
    """The streams with only the first ``cut`` symbols counted."""
    out = []
    for stream in streams:
        out.append(stream[:cut])
        cut = max(cut - len(stream), 0)
    return out


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_equals_a_dictionary(order, seed, monkeypatch):
    streams, tuned = random_streams(seed), []
    tune = module.Counts.tune

    def spy(counts, text, held_out):
        tuned.append((counts.discounts(), tune(counts, text, held_out)))
        return tuned[-1][1]

    monkeypatch.setattr(module.Counts, "tune", spy)
    model = fitted(streams, order=order)
    (closed, discounts), *more = tuned
    assert not more
    total = sum(map(len, streams))
    part = Slow(sequential(streams, total - total // 10), 4, order)
    np.testing.assert_allclose(closed, part.closed_form(), rtol=EXACT)
    slow = Slow(streams, 4, order)
    for stream in [*random_streams(seed + 100), *streams]:
        x = torch.from_numpy(stream)[None]
        found = model(x).log_prob(x)[0].numpy()
        np.testing.assert_allclose(found, slow.log_prob(stream, discounts), rtol=EXACT, atol=EXACT)


def test_discounts_make_the_held_out_part_likeliest():
    streams = random_streams(7, lengths=(4000,))
    text, scored = module.join(streams, 4, 10**6)
    counts = module.Counts.of(text, scored[:3600], 4, 4)
    closed, tuned = counts.discounts(), counts.tune(text, scored[3600:])
    slow = Slow([streams[0][:3600]], 4, 4)
    most = np.arange(1, 4)

    def logit(d):
        return np.log(d / (most - d))

    def objective(d):
        score = sum(slow.log_prob(streams[0], d)[3600:])
        return score - ((logit(d) - logit(closed)) ** 2).sum() / 2

    best = objective(tuned)
    assert best > objective(closed)
    for index in np.ndindex(3, 3):
        for factor in (0.97, 1.03):
            other = tuned.copy()
            other[index[0] + 1, index[1]] *= factor
            if other[index[0] + 1, index[1]] < most[index[1]]:
                assert objective(other) < best + 1e-4


def test_normalised_in_seen_and_unseen_contexts():
    model = fitted([whole_text(0.2)], size=256, order=6)
    seen = torch.from_numpy(whole_text(0.01).astype(np.int64))[None, :200]
    unseen = torch.randint(0, 256, (1, 200), generator=torch.Generator().manual_seed(0))
    for x in (seen, unseen):
        law = model(x).log_probs()
        assert law.shape == (1, 200, 256)
        assert torch.isfinite(law).all()
        assert (law.exp().sum(-1) - 1).abs().max() < EXACT


@pytest.mark.parametrize("order", [1, 2, 4])
def test_sparse_is_dense(order):
    model = fitted(random_streams(1, size=7, lengths=(300, 50)), size=7, order=order)
    x = torch.from_numpy(np.stack(random_streams(2, size=7, lengths=(60, 60))))
    law = model(x)
    dense = law.log_probs().gather(-1, x[..., None])[..., 0]
    assert torch.equal(law.log_prob(x), dense)
    assert torch.equal(law[1:, 3:9].log_prob(x[1:, 3:9]), dense[1:, 3:9])
    assert torch.equal(law[:, -1].log_probs(), law.log_probs()[:, -1])
    flat = law.map(lambda t: t.flatten(0, 1))
    assert torch.equal(flat.log_probs(), law.log_probs().flatten(0, 1))


@pytest.mark.parametrize("order", [1, 2, 5])
def test_chunks_and_rewinds_are_forward(order):
    model = fitted(random_streams(3), order=order)
    x = torch.from_numpy(np.stack(random_streams(4, lengths=(23, 23, 23))))
    whole = model(x).log_probs()
    for chunk in (1, 2, 7, 23):
        state, parts = model.start(3), []
        for piece in x.split(chunk, 1):
            full = model.extend(state, piece, tail=piece.shape[1])
            law = model.predict(full)
            assert law.log_probs().shape == (3, piece.shape[1] + 1, 4)
            parts.append(law[:, :-1].log_probs())
            wrong = model.extend(full.rewind([piece.shape[1]] * 3), 3 - piece)
            assert wrong.lens == full.lens
            state = full.trim()
        assert torch.equal(torch.cat(parts, 1), whole)
    state = model.extend(model.start(3), x[:, :9], tail=4).rewind([1, 4, 0])
    ends = model.predict(state)[:, -1].log_probs()
    for row, n in enumerate((8, 5, 9)):
        assert torch.equal(ends[row], whole[row, n])
    half = model.forward(x[:, 10:], state=model.extend(model.start(3), x[:, :10]))
    assert torch.equal(half.log_probs(), whole[:, 10:])


def test_longer_contexts_help_on_real_text():
    text = whole_text()
    cut = int(0.9 * len(text))
    x = torch.from_numpy(text[cut:].astype(np.int64))[None]
    bits = []
    for order in (1, 2, 4, 8):
        model = fitted([text[:cut]], size=256, order=order)
        bits.append(-model(x).log_prob(x).mean().item() / math.log(2))
    assert bits == sorted(bits, reverse=True)
    assert bits[-1] < 1.98  # Chen & Goodman's closed form has 2.00


def test_tables_and_config_come_back():
    model = fitted(random_streams(5))
    config = from_dict(NGramConfig, to_dict(model.config))
    assert config == model.config
    other = NGram(config)
    weights = {name: t.clone() for name, t in model.state_dict().items()}
    assert set(weights) == {"contexts", "grams", "values", "backoff"}
    other.load_state_dict(weights)
    x = torch.from_numpy(random_streams(6, lengths=(40,))[0])[None]
    assert torch.equal(model(x).log_probs(), other(x).log_probs())
    with pytest.raises(RuntimeError, match="size mismatch"):
        NGram(replace(config, num_grams=config.num_grams + 1)).load_state_dict(weights)


def test_single_precision_is_near():
    model = fitted(random_streams(5))
    x = torch.from_numpy(random_streams(6, lengths=(40,))[0])[None]
    double = model(x).log_probs()
    single = model.float()(x).log_probs()
    assert single.dtype == torch.float32
    assert (single - double).norm() < 1e-5 * double.norm()


def test_batches_are_streams_and_weights_choose():
    streams = [s for s in random_streams(8) if len(s)]
    batch = Batch.of([Example(torch.from_numpy(s)) for s in streams])
    expected = fitted(streams).state_dict()
    found = fitted([batch]).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    # Only the second half is scored: the first is context, and is not counted.
    x = torch.tensor([[0, 1, 2, 3]])
    half = fitted([Batch(x, (4,), weight=torch.tensor([[0.0, 0.0, 1.0, 1.0]]))])
    assert half.config.num_symbols == 2
    assert not half.by_gradient
    law = half(x).log_probs()[0].exp()
    assert law[2, 2] > 0.5
    assert law[3, 3] > 0.5
    assert law[1].max() < 0.5


@pytest.mark.parametrize(
    ("size", "stream"),
    [(1, [0]), (1, [0] * 50), (5, [3]), (5, [3] * 200), (5, [0, 1, 2]), (300, [299, 0])],
)
def test_degenerate_data(size, stream):
    model = fitted([np.array(stream)], size=size, order=6)
    x = torch.tensor([stream])
    law = model(x).log_probs()
    assert torch.isfinite(law).all()
    assert (law.exp().sum(-1) - 1).abs().max() < EXACT
    assert model(x).log_prob(x).exp().min() > 1 / (size + 1)
    assert model(x[:, :0]).log_probs().shape == (1, 0, size)


def test_unfitted_is_uniform():
    model = NGram(ngram(Space("finite", 5), "tiny"))
    assert model.predict(model.start(2)).log_probs().exp().allclose(torch.tensor(0.2).double())


def test_reads_no_more_than_max_symbols():
    stream = random_streams(9, lengths=(100,))[0]
    streams = [stream[:30], stream[30:60], stream[60:]]
    capped = fitted(iter(streams), max_symbols=50)
    assert capped.config.num_symbols == 50
    expected = fitted([stream[:30], stream[30:50]])
    assert torch.equal(capped.values, expected.values)


def test_rare_contexts_stay_short_in_large_texts(monkeypatch):
    text = whole_text(0.3)
    full = fitted([text], size=256, order=6)
    monkeypatch.setattr(ngram_counts, "PRUNE_FROM", 1000)
    pruned = fitted([text], size=256, order=6)
    assert pruned.config.num_contexts < 0.8 * full.config.num_contexts
    x = torch.from_numpy(whole_text(0.32)[len(text) :].astype(np.int64))[None]
    assert (pruned(x).log_probs().exp().sum(-1) - 1).abs().max() < EXACT
    loss = [-m(x).log_prob(x).mean().item() / math.log(2) for m in (full, pruned)]
    assert loss[1] < loss[0] + 0.02


def test_estimate_where_gradients_are_off():
    expected = fitted(random_streams(10)).values
    with torch.no_grad():
        assert torch.equal(fitted(random_streams(10)).values, expected)
    with torch.inference_mode():
        model = fitted(random_streams(10))
    assert torch.equal(model.values, expected)
    assert not model.values.is_inference()


@pytest.mark.parametrize(
    ("streams", "message"),
    [
        ([], "at least one symbol"),
        ([np.zeros(0, np.int64)], "at least one symbol"),
        ([np.array([0, 4])], "symbols are 0 to 3, the data has 0 to 4"),
        ([np.array([-1, 2])], "symbols are 0 to 3, the data has -1 to 2"),
        ([np.array([0.5])], "integers"),
        ([np.zeros((2, 2), np.int64)], "integers"),
    ],
)
def test_bad_data(streams, message):
    model = NGram(NGramConfig(Space("finite", 4), 3))
    before = model.state_dict()
    with pytest.raises(ValueError, match=message):
        model.estimate(streams)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize(
    "settings",
    [
        {"order": 0},
        {"order": 10**9},
        {"max_symbols": 0},
        {"num_contexts": 2**40},
        {"num_grams": -1},
        {"num_symbols": 2**60},
    ],
)
def test_bad_settings(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        NGramConfig(Space("finite", 4), **settings)


def test_bad_spaces_sizes_and_conditions():
    for space in (Space("real"), Space("count"), Space("finite", 4, (3,))):
        with pytest.raises(ValueError, match="finite space of scalar symbols"):
            ngram(space)
    with pytest.raises(ValueError, match="'huge' is not one of tiny, small, base"):
        ngram(Space("finite", 4), "huge")
    with pytest.raises(ValueError, match="does not read the condition 'label'"):
        NGram(ngram(Space("finite", 4))).start(1, Condition(label=torch.tensor([0])))


def test_recipes_look_further_with_size_and_with_fewer_symbols():
    for sizes in zip((2, 256, 50_000), ((8, 12, 16), (5, 8, 10), (3, 4, 5)), strict=True):
        space = Space("finite", sizes[0])
        assert tuple(ngram(space, s).order for s in ("tiny", "small", "base")) == sizes[1]
