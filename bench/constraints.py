"""Constraints: does everything parse, and what does a symbol cost?

1,000 generations under five JSON schemas, 200 each, from an untrained and from a trained GRU over
bytes: every output is read by json.loads and held against its schema by jsonschema. Then the time
of a symbol, constrained over free, batch 1 and 32: a regular expression that takes exactly as many
symbols as the free model makes. One thread; medians over interleaved rounds.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.common import interleaved, ratios, save, summary, table
from chainrule.artifact import Artifact
from chainrule.codecs.text import ByteCodec
from chainrule.core.model import SequenceModel
from chainrule.core.noise import Noise
from chainrule.decoding.verify import Verify, drain
from chainrule.models.automaton import automaton
from chainrule.models.constraints import constrained, symbol_table
from chainrule.models.rnn import RNN, gru
from chainrule.models.schema import schema_tree
from chainrule.verbs.fit import fit
from chainrule.verbs.generate import generate

EACH, LENGTH, STEPS, ROUNDS = 200, 200, 120, 5
WORD = {"type": "string", "minLength": 1, "maxLength": 12}
SCHEMAS: dict[str, dict[str, Any]] = {
    "flat": {
        "type": "object",
        "properties": {"name": WORD, "age": {"type": "integer", "minimum": 0, "maximum": 130}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "nested": {
        "$defs": {"place": {"properties": {"city": WORD, "street": {"type": "string"}}}},
        "type": "object",
        "properties": {
            "home": {"$ref": "#/$defs/place"},
            "work": {"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]},
        },
        "required": ["home", "work"],
    },
    "enums": {
        "type": "object",
        "properties": {
            "colour": {"enum": ["rot", "grün", "blau", None]},
            "size": {"enum": [1, 2.5, "large"]},
            "kind": {"const": {"of": ["thing", True]}},
        },
        "required": ["colour", "size", "kind"],
    },
    "arrays": {
        "type": "array",
        "items": {"type": "array", "items": {"type": "number"}, "minItems": 1},
        "minItems": 2,
        "maxItems": 5,
    },
    "optional": {
        "type": "object",
        "properties": {
            "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"},
            "mail": {"type": "string", "pattern": r"^[^@\s]+@[a-z]+\.(com|org)$"},
            "price": {"type": "number", "minimum": 0},
            "note": {"type": ["string", "null", "boolean"]},
            "delta": {"type": "integer", "exclusiveMinimum": -100, "exclusiveMaximum": 100},
        },
    },
}


def main(data: Path | None) -> None:
    """Everything; the trained model learns lines of JSON made up here."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    codec = ByteCodec()
    untrained = Artifact(RNN(gru(codec.space, "small")).eval(), codec)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "lines.txt").write_text(_lines())
        options = {"model": "gru", "codec": "bytes", "steps": STEPS}
        trained = fit(Path(folder) / "lines.txt", Path(folder) / "run", **options)
    runs = {"untrained": untrained, "trained": getattr(trained, "artifact", trained)}
    result = {"schemas": _schemas(codec), "parse": _parse(runs), "cost": _cost(untrained.model)}
    save("constraints", result)


def _lines() -> str:
    dice, words = random.Random(0), ["ada", "bob", "cy", "dora", "ely", "finn"]
    rows = [
        {"name": dice.choice(words), "age": dice.randrange(99), "tags": dice.sample(words, 2)}
        for _ in range(20_000)
    ]
    return "\n".join(map(json.dumps, rows)) + "\n"


def _schemas(codec: ByteCodec) -> dict[str, Any]:
    """How large the automata are, and how long it takes to make them."""
    rows, out = [], {}
    for name, schema in SCHEMAS.items():
        began = time.perf_counter()
        tree = schema_tree(schema)
        states = len(automaton(tree).move)
        symbol_table(tree, tuple(codec.symbol_bytes()), codec.space.eos or 0)
        out[name] = {"states": states, "seconds": time.perf_counter() - began}
        rows.append([name, states, out[name]["seconds"]])
    table(["schema", "states", "seconds to make"], rows)
    return out


def _parse(runs: dict[str, Artifact]) -> dict[str, Any]:
    """How many of the outputs are JSON that conforms: all."""
    import jsonschema

    rows, out = [], {}
    for who, run in runs.items():
        good, cut = 0, 0
        for name, schema in SCHEMAS.items():
            made = generate(run, n=EACH, length=LENGTH, schema=schema, strategy="ancestral")
            passed = 0
            for sample in made:
                try:
                    jsonschema.validate(json.loads(sample.continuation), schema)
                    passed += 1
                except (ValueError, jsonschema.ValidationError) as error:
                    print(f"{who}, {name}: {sample.continuation!r}: {error}")
            cut += sum(s.ended == "length" for s in made)
            good += passed
            rows.append([who, name, passed, EACH, made[0].continuation[:60]])
        out[who] = {"passed": good, "of": EACH * len(SCHEMAS), "cut at the limit": cut}
    table(["model", "schema", "passed", "of", "the first of them"], rows)
    print(out, "\n")
    return out


def _cost(model: SequenceModel) -> dict[str, Any]:
    """Microseconds a symbol and row, and their ratios round by round."""
    words = 60
    length, codec = 5 * words, ByteCodec()
    bound = constrained(
        model, codec.symbol_bytes(), regex=f"([a-z]{{4}} ){{{words}}}", limit=length
    )
    rows_out, result = [], {}
    for rows in (1, 32):

        def run(of: SequenceModel, stretch: int, rows: int = rows) -> float:
            decoder = Verify(of, stretch=stretch)
            began = time.perf_counter()
            nothing = [torch.zeros(0, dtype=torch.int64)] * rows
            begun = decoder.start(nothing, Noise.seeded(1, range(rows)))
            made = sum(sum(e.count) for e in drain(decoder, begun, [length] * rows))
            assert made == rows * length
            return 1e6 * (time.perf_counter() - began) / made

        contenders = {
            "free": lambda run=run: run(model, 16),
            "free, one at a time": lambda run=run: run(model, 1),
            "constrained": lambda run=run: run(bound, 1),
        }
        figures = interleaved(contenders, ROUNDS)
        result[f"batch {rows}"] = {
            name: {"us": summary(f), "over free": ratios(f, figures["free"])}
            for name, f in figures.items()
        }
        for name, f in result[f"batch {rows}"].items():
            us, ratio = f["us"], f["over free"]
            spread = f"{ratio['min']:.2f}-{ratio['max']:.2f}"
            rows_out.append([rows, name, us["median"], ratio["median"], spread])
    table(["batch", "model", "µs/symbol", "over free", "spread"], rows_out)
    return result
