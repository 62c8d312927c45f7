"""lm-evaluation-harness over our runs: five tasks from files beside this one, and no network.

The texts are from Alice's Adventures in Wonderland; a pattern of numbers is for what is written.
Needs a Python that has `lm-eval` beside chainrule: `-m reference tests/harness`.
"""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import chainrule as cr
from tests.arch.files import ROOT, blocks, text

HERE = Path(__file__).parent
TASKS = ["alice_text", "alice_cloze", "alice_last_word", "alice_pairs", "counting"]
# Other people's code warns of its own, and asks for files over the network unless told not to.
pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings("ignore")]


def rows(name):
    return [json.loads(line) for line in (HERE / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    pytest.importorskip("lm_eval")
    folder = tmp_path_factory.mktemp("harness")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(HERE)  # where the tasks look for their data
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            patch.setenv(name, "1")
        for name in ("HF_HOME", "HF_DATASETS_CACHE"):
            patch.setenv(name, str(folder / "cache"))
        patch.setenv("CHAINRULE_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def runs(place):
    counted = "\n".join(", ".join(map(str, range(n, 99))) + "." for n in range(10, 60))
    book = (ROOT / "src/chainrule/assets/alice.txt").read_text()
    (place / "fit.txt").write_text(f"{counted}\n{book[:60_000]}\n{book}")
    quick = {"size": "tiny", "steps": 30}
    shapes = {
        "ngram": {"model": "ngram"},
        "words": {"model": "ngram", "codec": "words"},
        "transformer": {"model": "transformer", **quick, "codec": "bpe", "vocabulary": 400},
        "bytes": {"model": "gpt2", **quick, "codec": "bytes"},
        "lstm": {"model": "lstm", **quick},
    }
    source = str(place / "fit.txt")
    return {name: cr.fit(source, place / name, **kind) for name, kind in shapes.items()}


@pytest.fixture(scope="module")
def judged(runs):
    import lm_eval
    from lm_eval.tasks import TaskManager

    from chainrule.lmeval import LM

    manager = TaskManager(include_path=str(HERE), include_defaults=False)
    return {
        name: lm_eval.simple_evaluate(
            model=LM(run), tasks=TASKS, task_manager=manager, bootstrap_iters=0
        )
        for name, run in runs.items()
    }


NAMES = ["ngram", "words", "transformer", "bytes", "lstm"]


@pytest.mark.parametrize("name", NAMES)
def test_bits_per_byte_are_those_of_evaluate(name, runs, judged, tmp_path):
    for index, row in enumerate(rows("text")):
        (tmp_path / f"{index}.txt").write_text(row["text"])
    own = runs[name].evaluate(tmp_path)
    found = judged[name]["results"]["alice_text"]["bits_per_byte,none"]
    assert found == pytest.approx(own.bits_per_unit, rel=1e-6)
    assert judged[name]["config"]["backend"] == own.backend


@pytest.mark.parametrize("name", NAMES)
def test_a_continuation_is_what_the_whole_has_more_than_the_context(name, runs, judged):
    samples = judged[name]["samples"]
    asked = [
        (*arguments, answer)
        for task in ("alice_cloze", "alice_last_word", "alice_pairs")
        for sample in samples[task]
        for arguments, (answer, *_) in zip(sample["arguments"], sample["resps"], strict=True)
    ]
    assert len(asked) > 150
    for context, continuation, (nats, _) in asked[::7]:
        whole = runs[name].score(context + continuation)
        begun = runs[name].score(context).per_symbol if context else []
        cut = len(begun)  # a space comes next: no symbol goes across
        assert nats == pytest.approx(sum(whole.per_symbol[cut:]), rel=1e-4), (context, continuation)


def test_a_model_that_has_read_the_book_knows_it(judged):
    results = judged["ngram"]["results"]
    assert results["alice_cloze"]["acc,none"] > 0.9
    assert results["alice_pairs"]["acc,none"] > 0.85
    assert results["alice_last_word"]["acc,none"] > 0.2
    assert results["counting"]["exact_match,trimmed"] > 0.9


def instance(*arguments):
    return SimpleNamespace(args=arguments, task_name="a task", doc_id=7)


def test_the_order_of_requests_and_the_company_they_keep_are_nothing(runs):
    from chainrule.lmeval import LM

    model = LM(runs["transformer"])
    asked = [instance(r["text"][:20], r["text"][20:]) for r in rows("last_word")]
    found = model.loglikelihood(asked)
    alone = [model.loglikelihood([each])[0] for each in asked[:5]]
    for (nats, greedy), other in zip(found, model.loglikelihood(asked[::-1])[::-1], strict=True):
        assert (nats, greedy) == (pytest.approx(other[0], rel=1e-4), other[1])
    for (nats, greedy), other in zip(found, alone, strict=False):
        assert (nats, greedy) == (pytest.approx(other[0], rel=1e-4), other[1])
    written = [instance(r["text"][:15], {"until": ["."], "max_gen_toks": 5}) for r in rows("text")]
    assert model.generate_until(written[::-1])[::-1] == model.generate_until(written)


def test_spaces_and_nothing_at_all(runs):
    from chainrule.lmeval import LM

    for name in NAMES:
        model = LM(runs[name])
        pairs = [
            ("a cat", " sat"),
            ("a cat ", "sat"),
            ("", "cat"),
            ("cat", ""),
            ("", ""),
            (" ", ""),
        ]
        nats = [nats for nats, _ in model.loglikelihood([instance(*pair) for pair in pairs])]
        assert nats[0] == pytest.approx(nats[1], rel=1e-4) and nats[0] < 0
        assert nats[2] == pytest.approx(runs[name].score("cat").nats, rel=1e-4)
        assert nats[3] == nats[4] == 0 and nats[5] < 0
        assert model.loglikelihood_rolling([instance("")]) == [0]


def test_what_is_asked_for_twice_is_drawn_twice(runs):
    from chainrule.lmeval import LM

    drawn = {"until": "\n\n", "do_sample": True, "max_gen_toks": 20, "top_p": 0.9}
    model = LM(runs["bytes"], seed=4)
    one, other, third = model.generate_until([instance("Alice", drawn)] * 3)
    assert len({one, other, third}) == 3
    plain = {"length": 20, "stop": ["\n\n"], "seed": 4, "top_p": 0.9, "backend": "torch"}
    assert [s.continuation for s in runs["bytes"].generate("Alice", n=2, **plain)] == [one, other]


@pytest.mark.parametrize(
    ("request_of", "said"),
    [
        (lambda m: m.loglikelihood([instance("", "Ω")]), "a task, document 7: character 'Ω'"),
        (lambda m: m.loglikelihood_rolling([instance("Ω")]), "a task, document 7: character"),
        (lambda m: m.generate_until([instance("Ω", {})]), "a task, document 7: character"),
        (lambda m: m.generate_until([instance("a", {"num_beams": 3})]), "unknown .*'num_beams'"),
    ],
)
def test_wrong_requests_are_named(request_of, said, runs):
    from chainrule.lmeval import LM

    with pytest.raises(ValueError, match=said):
        request_of(LM(runs["ngram"]))


def command(*arguments):
    words = [sys.executable, "-m", "chainrule.lmeval", *map(str, arguments)]
    return subprocess.run(words, cwd=HERE, capture_output=True, text=True, timeout=300)


def test_the_command(runs, judged, place):
    done = command(
        place / "ngram", "--tasks", "alice_*,counting", "--include-path", ".",
        "-o", place / "out.json", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told == json.loads((place / "out.json").read_text())
    for task in TASKS:
        for metric, value in judged["ngram"]["results"][task].items():
            if isinstance(value, float) and "stderr" not in metric:
                assert told["results"][task][metric] == pytest.approx(value), (task, metric)


def test_the_command_complains_in_one_line(runs, place):
    for arguments, said in (
        ((place / "ngram", "--tasks", "nothing_of_the_kind"), "no such task"),
        ((place / "ngram", "--tasks", "counting", "--include-path", "nowhere"), "no such folder"),
        ((place / "nothing", "--tasks", "counting"), "no such folder"),
    ):
        done = command(*arguments)
        assert done.returncode == 2
        assert said in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_a_chat_template_is_applied(runs, place):
    from chainrule.lmeval import LM

    template = "{% for m in messages %}{{ eos_token }}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    (place / "transformer" / "chat_template.jinja").write_text(template)
    model = LM(place / "transformer")
    end = model.artifact.codec.end
    said = model.apply_chat_template([{"role": "user", "content": "Who are you?"}])
    assert said == f"{end}user: Who are you?\n"
    ((nats, _),) = model.loglikelihood([instance(said, "A cat")])
    plain = runs["transformer"].score("user: Who are you?\nA cat")  # it begins with the end symbol
    kept = runs["transformer"].score("user: Who are you?").per_symbol
    assert nats == pytest.approx(plain.nats - sum(kept), rel=1e-4)
    assert len(model.generate_until([instance(said, {"max_gen_toks": 3})])) == 1
    # What the template didn't write spells its special tokens out, as if there had been no chat.
    other = instance(f"{end}user: Who are we?\n", "A cat")
    assert model.loglikelihood([other]) == LM(runs["transformer"]).loglikelihood([other])


def test_the_page_runs(runs, place, monkeypatch):
    """Its task file and its Python, as they stand."""
    shown = {b.split()[0]: b for b in blocks(text("docs/harness.md"), "text") if "\n" in b.strip()}
    (place / "page" / "tasks").mkdir(parents=True)
    monkeypatch.chdir(place / "page")
    Path("tasks/my_text.yaml").write_text(shown["task:"])
    Path("texts.jsonl").write_text((HERE / "text.jsonl").read_text())
    Path("runs").mkdir()
    Path("runs/book").symlink_to(place / "bytes")
    from lm_eval.tasks import TaskManager

    names = {"manager": TaskManager(include_path="tasks", include_defaults=False)}
    exec(compile(shown["import"], "docs/harness.md", "exec"), names)
    assert names["results"]["results"]["my_text"]["bits_per_byte,none"] > 0
