"""Regular expressions as automata: the same texts as ``re.fullmatch``, byte by byte."""

import json
import math
import random
import re

import pytest

from chainrule.models.automaton import DEAD, MOST, Automaton, automaton
from chainrule.models.regex import literal, parse, within
from chainrule.models.schema import schema_tree

LETTERS = 'ab0é😀_ -\n"x٣\u2028\U0010ffff'
REGEXES = [
    "",
    "a|ab",
    "(a|ab)(b|bab|b0x)?",
    r"\d+",
    r"\w{0,3}",
    r"[^a]*",
    r"[^\d\s]{1,2}",
    "[a-é]+",
    r"\W\S\D",
    "a{2,4}?b*",
    "a{2,}",
    ".",
    "^a|b$",
    "^$",
    "^^a$$",
    "^(a|b$)",
    r"\Aab\Z",
    "(?:ab|a0)*",
    "(?P<name>a)?(b)",
    "a??",
    "(a*)*b",
    "(|a)+b",
    "(a|b)*a(a|b){3}",
    "(?x) a b # and c",
    "é+|😀|b",
    "[ax-z]|[^\x00-\uffff]",
    r"a\x30|é",
]


def accepts(made: Automaton, text: str | bytes) -> bool:
    state = 0
    for byte in text if isinstance(text, bytes) else text.encode():
        state = int(made.move[state, byte])
        if state == DEAD:
            return False
    return bool(made.accepts[state])


@pytest.mark.parametrize("regex", REGEXES)
def test_an_automaton_takes_what_re_takes(regex):
    made, dice = automaton(parse(regex)), random.Random(1)
    seen = set()
    for _ in range(1500):
        text = "".join(dice.choices(LETTERS[: dice.choice((2, 5, 99))], k=dice.randint(0, 5)))
        if regex == "^$" and text == "\n":  # $ also stands before a last line's end, there only
            continue
        wanted = re.fullmatch(regex, text) is not None
        assert accepts(made, text) == wanted, (regex, text)
        seen.add(wanted)
    assert seen == {True, False}


def test_only_whole_characters_are_accepted():
    made = automaton(parse(r"(.|\n)*"))
    for point in [0, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF]:
        assert accepts(made, chr(point))
    for wrong in [b"\xff", b"\xc3", b"\x80", b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80"]:
        assert not accepts(made, wrong)
    assert not accepts(made, b"\xf0\x80\x80\x80")
    assert not accepts(made, b"\xf4\x90\x80\x80")


def test_literals_are_not_regular_expressions():
    text = "a.b*[é]\\d^$"
    made = automaton(literal(text))
    assert accepts(made, text)
    assert not accepts(made, "a-b*[é]\\d^$")
    with pytest.raises(ValueError, match="half a surrogate"):
        literal("\ud800")


def test_a_tree_within_some_characters():
    made = automaton(within(parse(r"(.|[^a]){2}"), ((0x61, 0x7A),)))
    assert accepts(made, "az")
    assert not accepts(made, 'a"')


@pytest.mark.parametrize(
    ("regex", "message"),
    [
        ("a(b", "unterminated subpattern at position 1"),
        ("[z-a]", "bad character range z-a at position 1"),
        ("ab**", "multiple repeat at position 3"),
        (r"\p{Greek}", r"bad escape \\p at position 0"),
        ("(?=a)b", "look-around"),
        (r"(a)\1", "back references"),
        (r"\bword", "word borders"),
        ("a++", "possessive"),
        ("(?i)yes", "flags other than x"),
        ("(?s:.)", "flags other than x"),
        ("a^b", "only stand at the two ends"),
        ("(a$)+", "only stand at the two ends"),
        ("a{99999999999}", "too large"),
        ("(" * 3000, "too large|at position"),
    ],
)
def test_what_no_automaton_can_hold_is_refused(regex, message):
    with pytest.raises(ValueError, match=message):
        parse(regex)


@pytest.mark.parametrize("regex", ["(a|b)*a(a|b){20}", "((a{99}){99}){99}"])
def test_what_is_too_large_is_refused_soon(regex):
    with pytest.raises(ValueError, match=f"more than {MOST:,} states"):
        automaton(parse(regex))


# ---- schemas ----


def takes(schema, *texts: str) -> list[bool]:
    made = automaton(schema_tree(schema))
    return [accepts(made, t) for t in texts]


def test_objects():
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "null"}, "c": {}},
        "required": ["b", "d"],
        "additionalProperties": {"type": "boolean"},
    }
    good = ['{"b": null,"d":true}', '{"a": 1, "b":null, "c": "x", "d":false}']
    bad = ['{"b":null}', '{"b":null,"a":1,"d":true}', '{"b":null,"d":1}', '{"b":null,"d":true,}']
    assert takes(schema, *good, *bad) == [True] * 2 + [False] * 4
    optional = {"properties": {"a": {"type": "null"}, "b": {"type": "null"}}}
    good = ["{}", '{"a":null}', '{"b":null}', '{"a":null,"b":null}']
    assert takes(optional, *good, '{"b":null,"a":null}', "{,}") == [True] * 4 + [False] * 2
    assert takes({"type": "object"}, "{}", '{"é": 1.5, "x":"y"}', "{1:2}") == [True, True, False]
    assert takes({"type": "object", "additionalProperties": False}, "{}", '{"a":1}') == [
        True,
        False,
    ]


def test_arrays_strings_and_references():
    schema = {
        "$defs": {"word": {"type": "string", "pattern": r"^[^@]+@\w+$"}},
        "type": "array",
        "items": {"anyOf": [{"$ref": "#/$defs/word"}, {"const": 'it\'s "é"'}]},
        "minItems": 1,
        "maxItems": 2,
    }
    good = ['["a.b@c"]', '["x@é", "it\'s \\"é\\""]']
    assert takes(schema, *good, "[]", '["a"]', '["\\"@c"]') == [True, True, False, False, False]
    short = {"type": "string", "minLength": 1, "maxLength": 2}
    assert takes(short, '"é"', '"\\n\\""', '""', '"abc"', '"\n"') == [True] * 2 + [False] * 3
    assert takes({"items": {"type": "null"}, "maxItems": 0}, "[]", "[null]") == [True, False]


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 0), (0, 7), (3, 305), (-12, 34), (-99, -9), (-1, 1000), (995, 1005), (100, 999)],
)
def test_integers_within_bounds(low, high):
    made = automaton(schema_tree({"type": "integer", "minimum": low, "maximum": high}))
    for i in range(-1200, 1200):
        assert accepts(made, str(i)) == (low <= i <= high), i
    assert not accepts(made, "007")
    open_ended = automaton(
        schema_tree({"type": "integer", "exclusiveMinimum": low - 0.5, "exclusiveMaximum": high})
        if low < high
        else schema_tree({"type": "integer", "minimum": low - 0.5, "maximum": high + 0.5})
    )
    assert accepts(open_ended, str(low))
    assert accepts(open_ended, str(high)) == (low == high)


def test_values_are_those_that_conform_to_the_rest():
    schema = {"type": ["string", "integer"], "enum": ["a", 7, None, 2.5], "maxLength": 3}
    assert takes(schema, '"a"', "7", "null", "2.5") == [True, True, False, False]


def test_every_scalar():
    texts = ["1", "-0.5e+10", "true", "null", '"x"']
    assert takes({}, *texts, "[]", "01", "1.", "+1") == [True] * 5 + [False] * 4
    assert takes(True, *texts) == [True] * 5
    assert takes({"type": "number", "minimum": 0}, "0.5", "-0.5") == [True, False]
    assert all(isinstance(json.loads(t), object) for t in texts)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "strin"}, r"at \$.type: 'strin' is not valid"),
        ({"properties": {"a": {"minLength": -1}}}, r"at \$.properties.a.minLength: -1 is less"),
        ([], "is not of type"),
        ({"type": "integer", "multipleOf": 3}, r"at \$: 'multipleOf' can't be kept"),
        ({"type": "string", "format": "date"}, "'format' can't be kept"),
        ({"items": {"oneOf": [{}]}, "type": "array"}, r"at \$.items: 'oneOf' can't be kept"),
        ({"anyOf": [{}], "maxLength": 3}, "'maxLength' can't be kept"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems' can't be kept"),
        ({"type": "number", "minimum": 0.1, "maximum": 0.9}, "no whole number"),
        ({"type": "string", "pattern": "(a"}, r"at \$.pattern: '\(a' is not a 'regex'"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "length in the pattern"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no whole number"),
        ({"type": "integer", "minimum": 1e400}, "not JSON compliant"),
        ({"const": math.nan}, "not JSON compliant"),
        ({"const": {1}}, "not JSON serializable"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "minItems 3 is more than maxItems 2"),
        ({"type": "string", "enum": [1, None]}, "none of its values"),
        ({"enum": ["a"], "$ref": "other.json"}, r"at \$: .*other.json"),
        ({"properties": {"a": False}}, r"at \$.properties.a: nothing conforms"),
        ({"required": ["a"], "additionalProperties": False}, "'a' is required and not allowed"),
        ({"$ref": "#/$defs/a"}, "there is no #/\\$defs/a"),
        ({"$ref": "other.json"}, r"other.json can't be kept: refer to #/\$defs"),
        ({"$ref": "#word"}, "#word can't be kept"),
        ({"properties": {"a": {"$ref": "#"}}}, "refers to itself"),
        (False, "nothing conforms"),
    ],
)
def test_schemas_that_are_refused(schema, message):
    with pytest.raises(ValueError, match=message) as error:
        schema_tree(schema)
    assert "\n" not in str(error.value)
