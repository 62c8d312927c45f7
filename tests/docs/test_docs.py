"""Every code block of every page is run, or fails here.

Page by page, in the order of the page: `sh` line by line through the command line, in this process
(`torchrun` starts no others); `python` in one namespace; `toml` is parsed, and its entry points are
those that the registry reads. `make` and `pip install` lines are held against the Makefile and the
extras and not run.
`text` is the output of an earlier run and not compared; `tree` is tested in tests/arch. Any other
language, and any other command, is an error.

Each page has a folder of its own, with the files of `furnish` in it. So that this takes seconds,
`quickly` makes every fit a few steps of a small network, whatever budget the page shows: what is
tested is that all of it runs and that the shown names exist, not how well the model learns.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import types
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest

from tests.arch.files import ROOT, blocks, pages, text
from tests.docs.furnished import furnish

NAME = "gated-conv"  # of the model in docs/add-an-architecture.md
STRATEGY = "pairs"  # in docs/add-a-strategy.md
LANGUAGES = {"sh", "python", "toml", "text", "tree"}
STEPS, SHAPES = 2, {"tiny": (1, 16), "small": (1, 24), "base": (1, 32)}
# Pages that use a run without having fitted it in an earlier block.
FITTED = dict.fromkeys(
    (
        "docs/concepts.md",
        "docs/choose-a-strategy.md",
        "docs/add-a-strategy.md",
        "docs/run-faster.md",
    ),
    "runs/book",
)
# Pages that go on with a run that was stopped, as by Ctrl-C, after its first step.
STOPPED = {"docs/fit-your-text.md": "runs/long", "docs/resume-anything.md": "runs/long"}


def segments(page: str) -> list[tuple[str, str]]:
    """(language, block) in the order of the page."""
    found = re.findall(r"^ *```([^\n`]*)\n(.*?)^ *```", text(page), re.MULTILINE | re.DOTALL)
    return [(info.partition(" ")[0], body) for info, body in found]


def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits of a few steps of a small network: the one place where the pages are not taken as said.

    ``--time`` is not measured and ``--steps`` is cut; everything before and after them runs. A
    bench's batch of 32 is one of two.
    """
    from chainrule.models import rnn
    from chainrule.training.trainer import TrainConfig, Trainer
    from chainrule.verbs import bench, fit

    def few(config: TrainConfig) -> TrainConfig:
        return replace(config, steps=min(config.steps, STEPS), batch=2, evaluations=2)

    def brief(config: TrainConfig) -> TrainConfig:
        return replace(few(config), length=32)

    class Short(Trainer):
        def __init__(self, model, corpus, config, company):
            short = brief if corpus.unit == "byte" else few  # a picture is learned whole
            super().__init__(model, corpus, short(config), company)

        def train_step(self):
            self.stop_asked = os.environ.get("STOP_AFTER_ONE_STEP") == "yes"
            return super().train_step()

    monkeypatch.setattr(rnn, "SIZES", SHAPES)
    monkeypatch.setattr(fit, "calibrate", lambda model, corpus, config, *_: few(config))
    monkeypatch.setattr(fit, "Trainer", Short)
    monkeypatch.setattr(bench, "BATCHES", (1, 2))


def foreign(folder: Path) -> None:
    """What the pages import: a Hugging Face folder and a GGUF with a chat template."""
    import torch

    from chainrule.artifact import Artifact
    from chainrule.codecs.text import BPECodec
    from chainrule.models.transformer import Transformer, TransformerConfig
    from chainrule.verbs.export import export

    codec = BPECodec.fit([(ROOT / "src/chainrule/assets/alice.txt").read_text()[:9000]], size=320)
    shape = {"num_layers": 1, "dim": 32, "hidden": 64, "num_heads": 2, "num_kv_heads": 2}
    gpt2 = {"layout": "gpt2", "context": 64, "sinks": 0, "tied": True, "gelu": "tanh"}
    for name, more in (("gpt2", gpt2), ("smollm2", {"context": 1024})):
        torch.manual_seed(0)
        run = Artifact(Transformer(TransformerConfig(codec.space, **shape, **more)), codec)
        run.save_config(folder / f".{name}")
        (folder / f".{name}" / "chat_template.jinja").write_text(
            "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}assistant: "
        )
        if name == "gpt2":
            export(run, "hf", folder / "gpt2")
        else:
            export(run, "gguf", folder / "SmolLM2-135M-Instruct.gguf", kind="Q8_0")
    asked = [{"role": "user", "content": "Who are you?"}]
    (folder / "messages.json").write_text(json.dumps(asked))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to stand in, quick fits, and a registry that forgets what a page adds."""
    from chainrule import registry

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path / ".cache"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(registry, "MODELS", dict(registry.MODELS))
    monkeypatch.setattr(registry, "RECIPES", dict(registry.RECIPES))
    monkeypatch.setattr(registry, "STRATEGIES", dict(registry.STRATEGIES))
    quickly(monkeypatch)
    furnish(tmp_path)
    return tmp_path


# ---- sh ----


def run_line(line: str, code: int = 0) -> str:
    """One line of a shell: commands joined by pipes; the output of the last."""
    stages, words = [], shlex.split(line, comments=True)
    while "|" in words:
        cut = words.index("|")
        stages, words = [*stages, words[:cut]], words[cut + 1 :]
    given = b""
    for stage in [*stages, words]:
        given = run_command(stage, given, line, code)
    return given.decode()


def run_command(words: list[str], given: bytes, line: str, code: int) -> bytes:
    assert not {">", "<", "&&", ";", "&"} & set(words), f"this shell knows pipes only: {line}"
    name, arguments = words[0], words[1:]
    if name == "chainrule":
        return run_chainrule(arguments, given, code)
    if name == "torchrun":
        return run_chainrule(check_torchrun(arguments), given, code)
    if name == "make":
        return check_make(arguments)
    if name == "cat":
        return b"".join(Path(a).read_bytes() for a in arguments)
    if arguments[:2] == ["-m", "pip"] or name == "pip":
        return check_pip(arguments)
    if name == ".venv/bin/python" and arguments[0] == "-m":
        assert (ROOT / (arguments[1].replace(".", "/") + ".py")).is_file(), line
        return b""
    raise AssertionError(f"nobody here knows how to run {line!r}")


def run_chainrule(arguments: list[str], given: bytes, code: int) -> bytes:
    from chainrule import cli

    out, errors = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    before = sys.argv, sys.stdin
    sys.argv, sys.stdin = ["chainrule", *arguments], io.TextIOWrapper(io.BytesIO(given))
    try:
        with redirect_stdout(out), redirect_stderr(errors), pytest.raises(SystemExit) as end:
            cli.main()
    finally:
        sys.argv, sys.stdin = before
    assert (end.value.code or 0) == code, f"chainrule {shlex.join(arguments)}: {errors.getvalue()}"
    out.flush()
    return out.buffer.getvalue()


def check_torchrun(arguments: list[str]) -> list[str]:
    """What every process is to run; one does here, tests/unit/test_distributed.py has several."""
    cut = arguments.index("-m")
    flags = {a.partition("=")[0].replace("_", "-") for a in arguments[:cut] if a.startswith("-")}
    assert flags <= {"--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint"}, flags
    assert arguments[cut + 1] == "chainrule", arguments
    return arguments[cut + 2 :]


def check_make(arguments: list[str]) -> bytes:
    makefile = text("Makefile")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z]+) \?=|ifdef ([A-Z]+)", makefile, re.MULTILINE))
    known = targets | {name for pair in variables for name in pair if name}
    assert {a.partition("=")[0] for a in arguments if "/" not in a.partition("=")[0]} <= known
    return b""


def check_pip(arguments: list[str]) -> bytes:
    extras = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"]
    asked = arguments[arguments.index("install") + 1 :]
    for wanted in asked:
        match = re.fullmatch(r"(?:chainrule|\.)(?:\[([a-z,]+)\])?", wanted)
        assert match, wanted
        assert set((match[1] or "").split(",")) - {""} <= set(extras)
    return b""


def lines_of(block: str) -> list[str]:
    joined = block.replace("\\\n", " ")
    return [s for line in joined.splitlines() if (s := line.strip()) and not s.startswith("#")]


# ---- the pages ----


def check_toml(block: str) -> None:
    groups = tomllib.loads(block)["project"]["entry-points"]
    read = set(re.findall(r'group="([\w.]+)"', text("src/chainrule/registry.py")))
    assert set(groups) <= read


def run_page(page: str) -> None:
    module = types.ModuleType("page_" + re.sub(r"\W", "_", page))
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        for number, (language, block) in enumerate(segments(page), 1):
            if language == "sh":
                for line in lines_of(block):
                    run_line(line)
            elif language == "python":
                code = compile(block, f"{page}, block {number}", "exec", dont_inherit=True)
                with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                    exec(code, vars(module))
            elif language == "toml":
                check_toml(block)
    finally:
        del sys.modules[module.__name__]


@pytest.mark.parametrize("page", pages())
def test_every_block_runs(page, place):
    if "chainrule import" in text(page) or "runs/gpt2" in text(page):
        foreign(place)
    if page in FITTED:
        run_line(f"chainrule fit book.txt -o {FITTED[page]} --steps 2")
    if page in STOPPED:
        with pytest.MonkeyPatch.context() as stopping:
            stopping.setenv("STOP_AFTER_ONE_STEP", "yes")
            run_line(f"chainrule fit book.txt -o {STOPPED[page]} --steps 2", code=1)
    run_page(page)
    if page in STOPPED:
        assert json.loads(Path(STOPPED[page], "config.json").read_text())["results"]["finished"]


@pytest.mark.parametrize("page", pages())
def test_every_block_has_a_language_that_is_dealt_with(page):
    assert {language for language, _ in segments(page)} <= LANGUAGES
    fences = len(re.findall(r"^ *```", text(page), re.MULTILINE))
    assert fences == 2 * len(segments(page)), "a fence that is not closed, or not seen"


def test_what_is_wrong_on_a_page_is_found(place):
    with pytest.raises(AssertionError, match="no such file"):
        run_line("chainrule fit nothing.txt")
    with pytest.raises(AssertionError, match="nobody here"):
        run_line("curl example | chainrule score RUN -")
    with pytest.raises(AssertionError):
        run_line("make tea")
    with pytest.raises(AssertionError):
        run_line("pip install 'chainrule[wings]'")
    with pytest.raises(AssertionError):
        check_toml('[project.entry-points."chainrule.wings"]')
    assert run_line("cat test.txt | cat book.txt") == Path("book.txt").read_text()


def test_pictures_and_links_of_the_pages_are_there():
    missing = [
        (page, target)
        for page in pages()
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text(page))
        if "://" not in target and not (ROOT / page).parent.joinpath(target).exists()
    ]
    assert missing == []
    pictures = list((ROOT / "docs").rglob("*.png"))
    assert {p.name: p.stat().st_size for p in pictures if p.stat().st_size > 100_000} == {}


@pytest.mark.parametrize(
    ("pages", "verbs"),
    [
        (
            ["docs/fit-your-text.md", "docs/pictures.md"],
            ["fit", "generate", "next", "score", "evaluate"],
        ),
        (["docs/forecast.md"], ["forecast", "series-check"]),
        (["docs/forecast.md", "docs/backtest.md"], ["backtest"]),
    ],
)
def test_every_option_is_explained(pages, verbs):
    import typer

    from chainrule.cli import app

    commands = typer.main.get_command(app).commands
    said = set(re.findall(r"`(--?[a-zA-Z][a-z-]*)", "".join(map(text, pages))))
    missing = [
        f"{verb} {names[0]}"
        for verb in verbs
        for parameter in commands[verb].params
        if (names := [o for o in parameter.opts if o.startswith("-")]) and not said & set(names)
    ]
    assert missing == []


def test_tolerances_of_the_page_are_those_of_the_tests():
    from tests.laws import tolerances

    rows = re.findall(r"^\| ([A-Z][A-Z0-9_]+) \| (\S+) \|", text("CONTRIBUTING.md"), re.MULTILINE)
    names = {k: v for k, v in vars(tolerances).items() if k.isupper()}
    assert {name: float(value) for name, value in rows} == names


def test_every_forecaster_has_a_line_in_the_table():
    from chainrule.cli import FORECASTERS

    part = text("docs/forecast.md").partition("\n## Which model\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([a-z][a-z-]*)` \| .+ \|$", part, re.MULTILINE)
    assert rows == list(FORECASTERS)


# ---- the model of "add an architecture" ----


def test_the_complete_model_is_short():
    (block, *_) = blocks(text("docs/add-an-architecture.md"), "python")
    assert len(block.splitlines()) < 80


def test_the_complete_model_passes_every_law():
    ran = under_laws("-k", NAME, "tests/laws")
    laws = "".join(text(str(p.relative_to(ROOT))) for p in (ROOT / "tests/laws").glob("test_*.py"))
    expected = set(re.findall(r"^def (test_\w+)\((?:[^)]*\W)?entry\b", laws, re.MULTILINE))
    assert len(expected) > 10
    found = re.findall(rf"::(test_\w+)\[\S*{NAME}\S* (?:PASSED|SKIPPED)", ran)
    assert expected - set(found) == set()


def under_laws(*arguments: str) -> str:
    """In a process of its own, because the laws read the registry when they are imported."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.docs.listed", "-p", "no:xdist"]
    command += ["-p", "no:cacheprovider", "-v", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


# ---- the strategy of "add a strategy" ----


def test_the_complete_strategy_is_short():
    (block, *_) = blocks(text("docs/add-a-strategy.md"), "python")
    assert len([line for line in block.splitlines() if line]) < 60


def test_the_complete_strategy_passes_its_laws():
    """Rows of it join and leave a batch and get what ancestral sampling gives them alone."""
    which = f"{STRATEGY} and (None or value)"  # make test runs the others too
    ran = under_laws("-k", which, "tests/laws/test_strategies.py")
    for law in ("every_strategy", "a_run_is_a_value"):
        passed = re.findall(rf"test_9_{law}\[(\S*{STRATEGY}\S*)\] PASSED", ran)
        assert len(passed) > 10, ran[-4000:]
