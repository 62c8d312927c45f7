"""Constraints: the output always parses, and the law is the model's own, restricted."""

import json
import re
import sys

import jsonschema
import pytest
import torch

from chainrule.artifact import Artifact
from chainrule.codecs.text import BPECodec, ByteCodec, CharCodec, TextCodec, WordCodec
from chainrule.core.model import SequenceModel
from chainrule.core.noise import Noise
from chainrule.core.space import Space
from chainrule.decoding.verify import Verify, drain
from chainrule.decoding.warps import Warps
from chainrule.models import constraints
from chainrule.models.constraints import constrained
from chainrule.models.rnn import RNN, RNNConfig
from chainrule.verbs.generate import generate, stream
from chainrule.verbs.search import beam_search
from tests.laws.proposers import Guesser, Job, Table
from tests.laws.test_decoding import alone, same

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "tags": {"type": "array", "items": {"enum": ["é", "b", 3]}, "maxItems": 3},
        "size": {"type": "number"},
    },
    "required": ["name"],
}
PIECES = [b"a", b"b", b"ab", b"\xc3", b"\xa9", b"\xc3\xa9b", b"", b""]  # 6 ends, 7 is nobody's
EOS = 6


def net(size: int, eos: int | None, seed: int = 3) -> RNN:
    torch.manual_seed(seed)
    config = RNNConfig(Space("finite", size, eos=eos), "gru", 1, 8, 8)
    model = RNN(config).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p += torch.randn_like(p)
    return model


def small(limit=6, at=0, **constraint) -> SequenceModel:
    return constrained(net(len(PIECES), EOS), PIECES, at=at, limit=limit, **constraint)


def law(model: SequenceModel, x: list[int]) -> torch.Tensor:
    """log p(next | x) [V]."""
    with torch.no_grad():
        state = model.extend(model.start(1), torch.tensor([x])) if x else model.start(1)
        return model.predict(state).log_probs()[0, -1]  # type: ignore[attr-defined]


def allowed(model: SequenceModel, x: list[int]) -> set[int]:
    return set(torch.nonzero(law(model, x).isfinite())[:, 0].tolist())


def draw(model: SequenceModel, limits: list[int], prompts=None, **warp) -> list[list[int]]:
    rows = len(limits)
    prompts = prompts or [torch.zeros(0, dtype=torch.int64)] * rows
    noise = Noise.seeded(1, range(rows))
    begun = Verify(model).start(prompts, noise, None, Warps.of(rows, **warp))
    out: list[list[int]] = [[] for _ in limits]
    for step in drain(Verify(model), begun, limits, model.space.eos):
        for row, new in zip(step.rows, step.symbols.tolist(), strict=True):
            out[row] += new
    return out


def text(symbols: list[int]) -> str:
    return b"".join(PIECES[s] for s in symbols).decode()


# ---- the law ----


def test_the_law_is_the_models_own_restricted():
    """Each step: p over what can still lead to an accepted text, normalised."""
    base, model = net(len(PIECES), EOS), small(regex="a*(b|é)")
    for x, may in [
        ([], {0, 1, 2, 3}),
        ([0], {0, 1, 2, 3}),
        ([0, 3], {4}),
        ([0, 2], {EOS}),
        ([0, 0, 0, 0], {0, 1, 2, 3}),
        ([0, 0, 0, 0, 0], {1, 2}),  # one left: half a character is no use
        ([2, EOS], set(range(8))),  # beyond the end
        ([4, 4], set(range(8))),  # what could not have come
    ]:
        assert allowed(model, x) == may, x
        plain = law(base, x)
        index = torch.tensor(sorted(may))
        torch.testing.assert_close(law(model, x)[index], plain[index].log_softmax(-1))


def test_symbols_of_several_bytes_and_parts_of_characters():
    model = small(regex="(ab|éb)+", limit=9)
    assert allowed(model, []) == {0, 2, 3, 5}
    assert allowed(model, [3]) == {4}
    assert allowed(model, [3, 4]) == {1}
    assert allowed(model, [5]) == {0, 2, 3, 5, EOS}
    for row in draw(model, [9] * 50):
        assert re.fullmatch("(ab|éb)+", text(row))


def test_a_choice_may_begin_another():
    model = small(choices=["a", "ab", "aéb"])
    assert allowed(model, [0]) == {EOS, 1, 3, 5}
    assert allowed(model, [2]) == {EOS}
    assert {text(row) for row in draw(model, [6] * 300, temperature=4.0)} == {"a", "ab", "aéb"}


@pytest.mark.parametrize("limit", [2, 3, 4, 7])
def test_a_row_that_is_cut_has_ended(limit):
    model = small(limit=limit, regex="(ab)+|a(a|b)*é")
    rows = draw(model, [limit] * 100)
    assert max(map(len, rows)) == limit
    assert all(re.fullmatch("(ab)+|a(a|b)*é", text(row)) for row in rows)


def test_what_the_model_rules_out_comes_where_nothing_else_may():
    base = net(len(PIECES), EOS)
    with torch.no_grad():
        for p in base.head.parameters():
            p[0] = -torch.inf if p.ndim == 1 else 0.0
    assert law(base, [])[0] == -torch.inf
    model = constrained(base, PIECES, regex="a[ab]", limit=2)
    assert law(model, [])[0] > law(model, [])[2] - 1e31
    assert draw(constrained(base, PIECES, regex="a", limit=3), [3] * 3)[0][0] in (0,)


def test_prompts_of_different_lengths_don_t_move_the_automaton():
    prompts = [torch.tensor(p, dtype=torch.int64) for p in ([], [4, 4, 7], [EOS])]
    model = small(at=[0, 3, 1], limit=[2, 4, 3], regex="a?(bé)?b")
    together = draw(model, [2, 4, 3], prompts)
    for row, (prompt, limit) in enumerate(zip(prompts, [2, 4, 3], strict=True)):
        assert re.fullmatch("a?(bé)?b", text(together[row])), together
        single = small(at=len(prompt), limit=limit, regex="a?(bé)?b")
        for t in range(len(together[row])):
            x = prompt.tolist() + together[row][:t]
            state = model.extend(model.start(3), torch.tensor([x] * 3)) if x else model.start(3)
            mine = model.predict(state).log_probs()[row, -1]  # type: ignore[attr-defined]
            torch.testing.assert_close(mine, law(single, x))


@pytest.mark.parametrize("kind", ["wrong", "half", "oracle"])
def test_proposers_change_nothing(kind):
    torch.set_grad_enabled(False)
    try:
        model = small(at=2, limit=7, regex="(a|b|é)*b")
        warps = [
            Warps.of(1, **w) for w in ({}, {"top_k": 2}, {"temperature": 0.0}, {"typical": 0.5})
        ]
        jobs = [Job(i, torch.tensor([i, 7]), 7, None, w) for i, w in enumerate(warps)]
        truth = alone(model, jobs)
        table = Table(Verify(model, Guesser(kind, model.space, truth)))
        table.admit(jobs)
        same(model, table.finish(), truth)
    finally:
        torch.set_grad_enabled(True)


@pytest.mark.parametrize(
    "warp",
    [{"temperature": 0.0}, {"temperature": 3.0}, {"top_k": 1}, {"top_p": 0.1}, {"min_p": 0.9}],
)
def test_warps_leave_it_allowed(warp):
    model = small(limit=5, regex="(ab?)*é")
    assert all(re.fullmatch("(ab?)*é", text(row)) for row in draw(model, [5] * 20, **warp))


# ---- what is refused ----


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ({"regex": "[0-9]+"}, "no text that is allowed can be written"),
        ({"regex": "a[^\\s\\S]"}, "no text that is allowed"),
        ({"regex": "b{7}"}, "takes 7 symbols, and 6 may be made"),
        ({"regex": "(a"}, "unterminated subpattern at position 0"),
        ({"regex": "(a|b)*a(a|b){20}"}, "regular expression .*more than 50,000 states"),
        ({"choices": []}, "one text or more"),
        ({"choices": "ab"}, "one text or more"),
        ({"choices": ["a", ""]}, "none of them empty"),
        ({"choices": ["a", "xb"]}, "choice 'xb' can't be written"),
        ({"choices": ["b\ud800"]}, "half a surrogate"),
        ({"schema": {"type": "strin"}}, "'strin' is not valid"),
        ({"schema": {"type": "null"}}, "schema: no text that is allowed"),
        ({"schema": False}, "nothing conforms"),
        ({}, "one constraint at a time"),
        ({"regex": "a", "choices": ["a"]}, "one constraint at a time"),
    ],
)
def test_bad_constraints_say_so_at_once(constraint, message):
    with pytest.raises(ValueError, match=message) as error:
        small(**constraint)
    assert "\n" not in str(error.value)


def test_tables_are_bounded(monkeypatch):
    monkeypatch.setattr(constraints, "LARGEST", 100)
    with pytest.raises(ValueError, match=r"'a.100.': it is too large for an alphabet of this size"):
        small(regex="a{100}", limit=200)


def test_models_without_an_end_symbol_are_refused():
    with pytest.raises(ValueError, match="end symbol"):
        constrained(net(2, None), [b"a", b"b"], regex="a", limit=3)


def test_one_position_or_one_a_row():
    with pytest.raises(ValueError, match="2 positions or limits given for 3 rows"):
        small(at=[0, 1], regex="a").start(3)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(ValueError, match=r"pip install 'chainrule\[constrain\]'"):
        small(schema={"type": "null"})


# ---- generate ----

BOOK = 'The "cat" said: {name} [éé], \\ 0123456789 true null false.\n' * 40
CODECS = {
    "bytes": ByteCodec(),
    "chars": CharCodec.fit([BOOK]),
    "words": WordCodec.fit([BOOK + " ".join('{}[]",:0123456789eE+-.\\ntrufalsbém')]),
    "bpe": BPECodec.fit([BOOK], size=400),
}


def artifact(codec: TextCodec) -> Artifact:
    assert codec.space.size is not None
    return Artifact(net(codec.space.size, codec.space.eos).float(), codec)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_everything_generated_parses(codec, tmp_path):
    run = artifact(codec)
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    samples = generate(run, ["The", ""], n=5, length=40, schema=str(path), repetition_penalty=1.2)
    for sample in samples:
        jsonschema.validate(json.loads(sample.continuation), SCHEMA)
        assert sample.text.startswith(("The{", "{"))
        assert sample.log_prob > -500
    for sample in generate(run, "The ", n=5, length=9, regex="[a-z ]{3,9}"):
        assert re.fullmatch("[a-z ]{3,9}", sample.continuation)
        assert sample.ended in ("eos", "length")


def test_in_batches_streamed_searched_and_by_any_strategy():
    run = artifact(CODECS["chars"])
    asked = {"length": 30, "regex": "[a-z]{2,9}( [a-z]+)*\\."}
    samples = generate(run, ["The", "cat "], n=2, strategy="ancestral", **asked)
    for strategy in ("lookup", "jacobi", "auto"):
        single = generate(run, "cat ", n=2, strategy=strategy, **asked)
        assert [s.symbols for s in samples[2:]] == [s.symbols for s in single]
    assert "".join(stream(run, "The", **asked)) == samples[0].continuation
    (best,) = beam_search(run, "The", length=9, choices=["cat", "The cat"])
    assert best.continuation in ("cat", "The cat")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regex": "a", "choices": ["a"]}, "regex and choices can't be combined"),
        ({"schema": {}, "regex": "a"}, "can't be combined"),
        ({"regex": "a", "stop": ["b"]}, "regex and stop can't be combined"),
        ({"choices": ["a"], "ban": ["b"]}, "choices and ban"),
        ({"schema": {}, "force": "c"}, "schema and force"),
        ({"schema": "missing.json"}, "missing.json: No such file"),
        ({"regex": "cat" * 99}, "raise the length"),
        ({"regex": "Ω"}, "no text that is allowed can be written"),
        ({"choices": ["cat", "Ω"]}, "choice 'Ω' can't be written"),
        ({"choices": []}, "one text or more"),
        ({"regex": "cat", "strategy": "parallel"}, "nothing wrapped around it"),
    ],
)
def test_settings_that_can_t_be(settings, message):
    with pytest.raises(ValueError, match=message):
        generate(artifact(CODECS["chars"]), "The", length=20, **settings)
