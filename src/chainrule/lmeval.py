"""Any text run in lm-evaluation-harness: ``python -m chainrule.lmeval RUN --tasks …``, and ``LM``.

The harness (https://github.com/EleutherAI/lm-evaluation-harness) is used as it is published; it
has the tasks, the metrics and the averages, and asks a model for three things only.
"""

from __future__ import annotations

import json as jsonlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from chainrule.artifact import Artifact
from chainrule.cli import main
from chainrule.cli.options import Backend, DType, Json, RunFolder
from chainrule.codecs.text import BPECodec
from chainrule.training.scoring import continuation_log_probs, document_nats
from chainrule.training.shards import Progress
from chainrule.verbs.chat import template_of
from chainrule.verbs.display import display_for
from chainrule.verbs.fitted import Fitted, load
from chainrule.verbs.generate import generate
from chainrule.verbs.printing import console, print_json

try:
    from lm_eval.api.model import LM as _Base
except ModuleNotFoundError:  # said when it is asked for
    _Base = None

# The harness's names of settings, most of them transformers', and ours.
_SETTINGS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
}
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class LM(_Base or object):  # type: ignore[misc]
    """A run as the harness sees a model: ``lm_eval.simple_evaluate(model=LM(run), tasks=[…])``.

    Args:
        run: a folder, or what ``load`` and ``fit`` return.
        backend, dtype: what computes it; numbers and texts come from the same one.
        length: symbols of an answer at most, where the task says nothing.
        seed: of answers that a task wants drawn.

    Raises:
        ValueError: no run, a backend that can't be, or the harness is not installed.
    """

    def __init__(
        self,
        run: Fitted | Artifact | str | Path,
        *,
        backend: str = "auto",
        dtype: str | None = None,
        length: int = 256,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        if _Base is None:
            raise ValueError("the harness is not installed: pip install 'chainrule[eval]'")
        super().__init__()
        opened = load(run) if isinstance(run, str | Path) else run
        self.artifact = opened.artifact if isinstance(opened, Fitted) else opened
        self.choice = self.artifact.choose(backend, dtype, draws=False)
        self._length, self._seed, self._progress = length, seed, progress
        self._chats = set[str]()  # contexts that the chat template wrote

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into its results."""
        path, recipe = self.artifact.path, self.artifact.recipe
        return {
            "run": None if path is None else str(path),
            "kind": self.artifact.kind,
            "codec": self.artifact.codec.name,
            "backend": str(self.choice),
            "imported": recipe.get("imported"),
        }

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(log p(continuation | context) in nats, whether greedy decoding writes it), each.

        As in the harness's own models, spaces that end a context belong to the continuation, and
        the symbols of both are those of the whole text.

        Raises:
            ValueError: a text that the codec can't take; the message names task and document.
        """
        pairs = [self._pair(request) for request in requests]
        return continuation_log_probs(
            self.artifact.runner(self.choice), pairs, self._told("scoring", len(pairs))
        )

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """log p of whole documents in nats, each from its own start: what ``evaluate`` sums.

        Raises:
            ValueError: as ``loglikelihood``.
        """
        documents = [self._encoded(request, request.args[0]) for request in requests]
        told, out = self._told("scoring", len(documents)), []
        for nats in document_nats(self.artifact.runner(self.choice), documents):
            out.append(nats)
            told(len(out))
        return out

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Continuations up to a stop string, greedy unless the task wants them drawn.

        What is asked for several times is drawn several times.

        Raises:
            ValueError: as ``loglikelihood``, or a setting that is not known here.
        """
        same: dict[str, dict[str, list[int]]] = {}
        for index, request in enumerate(requests):
            how = jsonlib.dumps(self._settings(request), sort_keys=True)
            same.setdefault(how, {}).setdefault(request.args[0], []).append(index)
        out, told, done = [""] * len(requests), self._told("writing", len(requests)), 0
        for how, contexts in same.items():
            for count in sorted({len(places) for places in contexts.values()}):
                texts = [text for text, places in contexts.items() if len(places) == count]
                prompts = [self._encoded(requests[contexts[text][0]], text) for text in texts]
                samples = iter(
                    generate(
                        self.artifact,
                        prompts,
                        count,
                        backend=self.choice.backend,
                        dtype=self.choice.dtype,
                        **jsonlib.loads(how),
                    )
                )
                for place in (place for text in texts for place in contexts[text]):
                    out[place] = next(samples).continuation
                done += count * len(texts)
                told(done)
        return out

    def apply_chat_template(
        self, chat_history: Sequence[dict[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """The messages as the model was taught to read them; special tokens count in this text.

        Raises:
            ValueError: a model without a template, or messages that it refuses.
        """
        codec = self.artifact.codec
        names: dict[str, Any] = {"eos_token": codec.end} if isinstance(codec, BPECodec) else {}
        if isinstance(codec, BPECodec) and self._begin() is not None:
            names["bos_token"] = codec.spelling(self._begin() or 0) or ""
        template = template_of(self.artifact)
        text = template.render(chat_history, generate=add_generation_prompt, **names)
        self._chats.add(text)
        return text

    @property
    def tokenizer_name(self) -> str:
        """What the harness names its cache of requests by."""
        return self.artifact.codec.fingerprint()

    def _begin(self) -> int | None:
        """The start symbol, where it is one of the alphabet."""
        begin = getattr(self.artifact.outline, "begin", None)
        size = self.artifact.codec.space.size or 0
        return begin if isinstance(begin, int) and begin < size else None

    def _pair(self, request: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        context, continuation = request.args
        kept = context.rstrip()
        whole = self._encoded(request, context + continuation)
        # A symbol that spells the end of one and the whole of the other is the continuation's.
        cut = min(len(self._encoded(request, kept)), max(0, len(whole) - 1))
        cut = len(whole) if kept == context + continuation else cut
        return whole[:cut], whole[cut:]

    def _encoded(self, request: Any, text: str) -> NDArray[np.int64]:
        codec = self.artifact.codec
        try:
            if request.args[0] in self._chats and isinstance(codec, BPECodec):
                symbols = codec.encode_special(text)
                # The model puts it there itself.
                return symbols[1:] if symbols[:1].tolist() == [self._begin()] else symbols
            symbols = np.asarray(codec.encode(text).symbols, np.int64)
        except ValueError as error:
            where = f"task {request.task_name}, document {request.doc_id}"
            raise ValueError(f"{where}: {error}") from None
        return symbols

    def _settings(self, request: Any) -> dict[str, Any]:
        """Arguments of ``generate``."""
        given = dict(request.args[1])
        until, drawn = given.pop("until", None) or [], given.pop("do_sample", None)
        lengths = [given.pop(name) for name in _LENGTHS if given.get(name) is not None]
        out: dict[str, Any] = {
            "length": int(lengths[0]) if lengths else self._length,
            "seed": self._seed,
        }
        chats = request.args[0] in self._chats
        turns = self.artifact.recipe.get("imported", {}).get("stops", []) if chats else []
        stops = [*([until] if isinstance(until, str) else until), *turns]
        out["stop"] = [s for s in stops if s]
        for name, value in given.items():
            if name not in _SETTINGS and name not in _LENGTHS:
                raise ValueError(
                    f"task {request.task_name}: unknown generation setting {name!r}; known: "
                    f"until, do_sample, {', '.join((*_LENGTHS, *_SETTINGS))}"
                )
            if name in _SETTINGS and value is not None:
                out[_SETTINGS[name]] = value
        out.setdefault("temperature", 1.0 if drawn else 0.0)
        if drawn is False:
            out["temperature"] = 0.0
        return out

    def _told(self, stage: str, total: int) -> Callable[[int], None]:
        progress = self._progress
        return lambda done: None if progress is None else progress(stage, done, total)


def evaluate(
    run: RunFolder,
    tasks: Annotated[str, typer.Option(help="Names of tasks, with commas between them.")],
    include_path: Annotated[
        Path | None, typer.Option(help="Folder with tasks of your own, as YAML.")
    ] = None,
    limit: Annotated[
        float | None, typer.Option(help="Documents a task at most; below 1, a share of them.")
    ] = None,
    num_fewshot: Annotated[int | None, typer.Option(help="Examples before the question.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask by the model's chat template.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON of all results.")] = None,
    backend: Backend = "auto",
    dtype: DType = None,
    length: Annotated[int, typer.Option(help="Symbols of an answer, if the task has none.")] = 256,
    seed: Annotated[int, typer.Option(help="Of answers that are drawn.")] = 0,
    json: Json = False,
) -> None:
    """Judge a RUN by tasks of lm-evaluation-harness."""
    display = display_for(json)
    model = LM(
        run, backend=backend, dtype=dtype, length=length, seed=seed, progress=display.working
    )
    if out is not None and not out.parent.is_dir():
        raise ValueError(f"{out.parent}: no such folder")
    if include_path is not None and not include_path.is_dir():
        raise ValueError(f"{include_path}: no such folder")
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # or its bootstrap starts a pool of processes
    import lm_eval
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import handle_non_serializable, make_table

    manager = TaskManager(include_path=None if include_path is None else str(include_path))
    names = [name for name in tasks.split(",") if name]
    unknown = [name for name in names if not manager.match_tasks([name])]
    if unknown or not names:
        raise ValueError(f"--tasks: no such task: {', '.join(unknown) or 'none named'}")
    with redirect_stdout(sys.stderr):  # the harness has things to say
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=manager.match_tasks(names),
            num_fewshot=num_fewshot,
            limit=limit,
            apply_chat_template=chat,
            task_manager=manager,
            log_samples=False,
        )
    display.end()
    whole = jsonlib.loads(jsonlib.dumps(found, default=handle_non_serializable))
    if out is not None:
        out.write_text(jsonlib.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    if json:
        print_json(whole)
    else:
        console.print(make_table(found), markup=False, soft_wrap=True)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(evaluate)
    main(app)
