"""Schemas at random: what is written conforms; what is too large is refused soon."""

import json
import random
import re
from itertools import pairwise

import jsonschema
import pytest

from chainrule.models.automaton import automaton
from chainrule.models.constraints import symbol_table
from chainrule.models.regex import parse
from chainrule.models.schema import DEPTH, schema_tree

BYTES = (*(bytes([b]) for b in range(256)), b"")
EOS, LIMIT = 256, 80
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def texts(tree, dice: random.Random, count: int, limit: int = LIMIT) -> list[str]:
    """Texts at random, each step over all bytes that leave a way to the end."""
    table = symbol_table(tree, BYTES, EOS)
    out = []
    for _ in range(count):
        state, text = 0, b""
        while True:
            left = max(limit - len(text), int(table.fewest[state]))
            may = (table.need[state] <= left).nonzero()[:, 0].tolist()
            may = [s for s in may if s > 32 or dice.random() < 0.1] or may
            symbol = dice.choice(may)
            if symbol == EOS:
                break
            text, state = text + BYTES[symbol], int(table.move[state, symbol])
        out.append(text.decode())
    return out


def numbers(dice: random.Random) -> dict:
    names = dice.sample(BOUNDS, dice.randint(0, 3))
    return {name: dice.choice([-120, -7.5, -1, 0, 0.5, 3, 41, 1e3, 10**15]) for name in names}


def at_random(dice: random.Random, depth: int = 2) -> dict:
    """Any keyword beside any kind, right or wrong: what is taken must be kept."""
    schema: dict = {}
    if dice.random() < 0.9:
        kinds = ["object", "array", "string", "integer", "number", "boolean", "null"]
        kinds = dice.sample(kinds if depth else kinds[2:], dice.randint(1, 2))
        schema["type"] = kinds[0] if len(kinds) == 1 else kinds
    schema |= numbers(dice)
    for name, value in {
        "minLength": dice.randint(0, 2),
        "maxLength": dice.randint(1, 4),
        "pattern": dice.choice(["[a-c]+", "^x?[^é]$", "."]),
        "minItems": dice.randint(0, 2),
        "maxItems": dice.randint(0, 3),
        "enum": [1, -3, 0.5, "a", None, [], {"a": 1}],
        "required": dice.sample("abc", 2),
        "additionalProperties": dice.random() < 0.5,
        "multipleOf": 2,
        "uniqueItems": True,
    }.items():
        if dice.random() < 0.12:
            schema[name] = value
    if depth:
        for name, make in {
            "items": lambda: at_random(dice, depth - 1),
            "properties": lambda: {n: at_random(dice, depth - 1) for n in dice.sample("abc", 2)},
            "anyOf": lambda: [at_random(dice, depth - 1), at_random(dice, depth - 1)],
        }.items():
            if dice.random() < 0.2:
                schema[name] = make()
    return schema


def test_whatever_is_taken_is_kept():
    dice, kept, refused = random.Random(0), 0, 0
    while kept < 120:
        schema = at_random(dice)
        try:
            written = texts(schema_tree(schema), dice, 6)
        except ValueError as error:
            refused += bool(re.match("schema: at .*: ", str(error)))
            continue
        for text in written:
            jsonschema.validate(json.loads(text), schema)
        kept += 1
    assert refused > 20


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"minimum": 0, "maximum": 5}, ["0", "5", "4.99", "0.5"], ["5.01", "6", "-0.1", "1e9"]),
        ({"maximum": -2}, ["-2", "-2.5", "-17"], ["-1.99", "-0", "2", "-02.5"]),
        ({"exclusiveMinimum": 3, "exclusiveMaximum": 6}, ["4", "4.5", "5"], ["3", "3.5", "6"]),
        ({"minimum": -1, "maximum": 0.5}, ["-1", "-0.3", "0"], ["-1.5", "0.4", "1"]),
        ({"minimum": 7, "maximum": 7}, ["7"], ["7.5", "-7"]),
    ],
)
def test_numbers_within_bounds(schema, good, bad):
    table = automaton(schema_tree({"type": "number", **schema}))

    def takes(text: str) -> bool:
        state = 0
        for byte in text.encode():
            state = int(table.move[state, byte]) if state >= 0 else state
        return state >= 0 and bool(table.accepts[state])

    assert all(map(takes, good))
    assert not any(map(takes, bad))


def test_lists_within_lists_take_a_state_a_bracket():
    schema: dict = {"type": "integer", "minimum": 0, "maximum": 9}
    sizes = []
    for _ in range(DEPTH - 1):
        schema = {"type": "array", "items": schema}
        sizes.append(len(automaton(schema_tree(schema)).move))
    growth = {b - a for a, b in pairwise(sizes[5:])}
    assert len(growth) == 1
    with pytest.raises(ValueError, match="nested too deeply, in more than 50 levels"):
        schema_tree({"type": "array", "items": {"type": "array", "items": schema}})


def test_many_optional_members_take_a_state_each():
    def states(count: int) -> int:
        names = [f"field{i:02}" for i in range(count)]
        return len(
            automaton(schema_tree({"properties": {n: {"type": "null"} for n in names}})).move
        )

    assert states(40) < 2.2 * states(20)


def test_references_that_double_are_refused_soon():
    each: dict = {"t0": {"type": "null"}}
    for n in range(40):
        ref = {"$ref": f"#/$defs/t{n}"}
        each[f"t{n + 1}"] = {"properties": {"a": ref, "b": ref}}
    schema = {"$defs": each, "$ref": "#/$defs/t20"}
    with pytest.raises(ValueError, match="more than 50,000 states"):
        automaton(schema_tree(schema))
    assert schema_tree({"$defs": each, "$ref": "#/$defs/t3"})
    listed = {"anyOf": [{"type": "null"}, {"properties": {"a": {"$ref": "#/anyOf/0"}}}]}
    assert set(texts(schema_tree(listed), random.Random(1), 40)) >= {"null", '{"a":null}'}


@pytest.mark.parametrize(
    "regex", ["(){2000000000}", "(){0,10000000}", "(a?){3000}", "(a?|b?|[cd]?){900}", r"\w{1,2000}"]
)
def test_regexes_that_take_too_long_are_refused(regex):
    with pytest.raises(ValueError, match="too long to make one: repeat less"):
        automaton(parse(regex))


def test_nesting_beyond_any_recursion_has_one_line():
    deep: dict = {"type": "null"}
    for _ in range(3000):
        deep = {"anyOf": [deep]}
    with pytest.raises(ValueError, match="nested too deeply"):
        schema_tree(deep)
