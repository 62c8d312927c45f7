"""What a chat template must not do: loop, explode, nest without end, reach for attributes."""

import itertools
import random
import re
import sys

import pytest

from chainrule.codecs.template import LARGEST, ChatTemplate
from chainrule.codecs.template_tables import FILTERS
from chainrule.codecs.template_values import DEEPEST, Refused, measured

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo", "a": [1, 2.5]}]


GROW = "{% set n = namespace(a=START) %}{% for i in range(99) %}{% set n.a = MORE %}{% endfor %}"


def grow(start, more, end=""):
    times = "40" if end else "99"  # deeper than 64, it would be refused for that
    return GROW.replace("START", start).replace("MORE", more).replace("99", times) + end


MANY = "{% macro f(" + ", ".join(f"a{i}" for i in range(2000)) + ") %}"
LOOPS = {
    "loops": "{% for a in range(10**6) %}x{% endfor %}",
    "loops in loops": "{% for a in range(999) %}{% for b in range(999) %}{% endfor %}{% endfor %}",
    "doubling": grow("'x'", "n.a ~ n.a"),
    "adding": grow("'x'", "n.a + n.a"),
    "lists": grow("[1]", "n.a + n.a"),
    "times": "{{ 'a' * 10**9 }}",
    "list times": "{{ [0] * 10**9 }}",
    "replace": grow("'x'", "n.a.replace('x', 'xx')"),
    "join": grow("'xx'", "n.a | join('xx')"),
    "indent": "{{ ('\\n' * 99999) | indent(999, true, true) }}",
    "tojson": "{{ range(9999) | list | tojson(indent=10**6) }}",
    "shared": grow("[1]", "[n.a, n.a]", "{{ n.a }}"),
    "shared json": grow("[1]", "[n.a, n.a]", "{{ n.a | tojson }}"),
    "shared equal": grow("[1]", "[n.a, n.a]", "{{ n.a == [n.a] }}"),
    "recursion": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "two calls": "{% macro f(x) %}{{ f(x - 1) ~ f(x - 1) if x }}{% endmacro %}{{ f(40) }}",
    "recursive loop": "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "scanning": "{% set a = 'x' * 10**6 %}{% for i in range(9999) %}{{ 'y' in a }}{% endfor %}",
    "splitting": "{% set a = 'x ' * 10**5 %}{% for i in range(99) %}{{ a.split()[0] }}{% endfor %}",
    "power": "{{ 9 ** 99999 }}",
    "powers": "{{ 9.5 ** 60 ** 60 }}",
    "integers": "{{ 2 ** 40 * 2 ** 40 }}",
    "starting": "{% set t = [''] * 10**4 %}{% for i in range(99) %}{{ 'a'.startswith(t) }}"
    "{% endfor %}",
    "seeking": "{% set a = 'a' * 2400 %}{% set b = 'a' * 600 ~ 'b' ~ 'a' * 599 %}"
    "{% for i in range(99) %}{{ a.count(b) }}{% endfor %}",
    "parameters": MANY + "{% endmacro %}{% for i in range(99) %}{{ f() }}{% endfor %}",
    "definitions": "{% for i in range(99) %}" + MANY + "{% endmacro %}{% endfor %}",
    "arguments": "{{ ([[]] * 99) | map(*(['select'] * 2000)) | list }}",
    "filters in filters": "{{ ['a'] | map(*(['map'] * 60)) | list }}",
    "paths": "{% for i in range(999) %}{% set a = [1] | map(attribute='a' * 9999) %}{% endfor %}",
    "keys": "{% set a = 'a' * 9999 %}{% set b = ([a] * 999) | sort %}",
    "wide": "{{ 1 | tojson(indent=10**8) }}",
}
REACHES = {
    "{{ messages.__class__ }}": "__class__",
    "{{ messages['__class__'] }}": "__class__",
    "{{ messages[0]['_' ~ '_class__'] }}": "__class__",
    "{{ messages | map(attribute='__class__') | list }}": "__class__",
    "{{ messages | selectattr('a.__class__') | list }}": "undefined",
    "{{ ''.format }}": "'format' of a str",
    "{{ ''['format'] }}": "'format' of a str",
    "{{ messages.append(1) }}": "'append' of a list",
    "{{ messages[0].update({}) }}": "'update' of a dict",
    "{{ messages | attr('append') }}": "filter 'attr'",
    "{{ messages | pprint }}": "filter 'pprint'",
    "{{ messages | map('attr', 'x') | list }}": "filter 'attr'",
    "{{ 1 is callable }}": "test 'callable'",
    "{{ lipsum() }}": "'lipsum' is undefined",
    "{{ cycler.__init__ }}": "__init__",
    "{{ self._x }}": "'_x'",
    "{{ loop.index }}": "'loop' is undefined",
    "{% include 'f' %}": "Include",
    "{% import 'f' as g %}": "Import",
    "{% block b %}{% endblock %}": "Block",
    "{{ strftime_now('%999999d') }}": "strftime_now",
    "{{ strftime_now(1) }}": "strftime_now|str is needed",
}
BROKEN = {
    "a\n\n{{ x + }}": "line 3: unexpected",
    "a\n{{ none.x.y }}": "line 2: .*undefined",
    "a\n{{ x.y }}": "line 2: 'x' is undefined",
    "{{ raise_exception('so\n not') }}": "line 1: so not",
    "{{ 1 / 0 }}": "division by zero",
    "{{ 1 + 'a' }}": "a str stands where",
    "{{ 1 < 'a' }}": "a str stands where",
    "{{ [1, 'a'] | sort }}": "chat template",
    "{{ {[]: 1} }}": "can't be the key",
    "{% for a, b in [[1]] %}{% endfor %}": "1 values for 2 names",
    "{% for a in 3 %}{% endfor %}": "a int has no elements",
    "{% set x.y = 1 %}": "'x' is no namespace",
    "{% break %}": "outside of a loop",
    "{% macro f() %}{% break %}{% endmacro %}{% for a in 'ab' %}{{ f() }}{% endfor %}": "outside",
    "{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}": "takes 1 arguments",
    "{{ 'a'() }}": "can't be called",
    "{{ 'a' | trim(1, 2, 3, 4, 5) }}": "chat template, line 1",
    "{{ namespace() }}": "can't be written",
    "{{ range(1, 5, 0) }}": "must not be zero",
    "{{ 'a'.split('') }}": "empty separator",
    "{{ 99999999999999999999 }}": "out of bounds",
    "{{ " + "(" * 5000: "nested too deeply",
    "{{ 1" + "+1" * 5000 + " }}": "200 things",
    "{{ a" + ".b" * 5000 + " }}": "200 things",
    "{% if 1 %}" * 3000: "nested too deeply",
    "{{ '" + "\\" + "ud800' | tojson(ensure_ascii=true) }}{{ 1 / 0 }}": "division",
    "x" * (LARGEST + 1): "too large",
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_template_that_loops_or_explodes_is_stopped(name, monkeypatch):
    if name != "loops in loops":
        monkeypatch.setattr("chainrule.codecs.template_values.LIMIT", 2**22)
    template = ChatTemplate(LOOPS[name], "models/x")
    with pytest.raises(ValueError, match=r"^models/x: the chat template, line 1: \w") as caught:
        template.render([])
    assert any(w in str(caught.value) for w in ("more work", "out of bounds", "calls itself"))


@pytest.mark.parametrize("source", REACHES)
def test_a_template_that_reaches_for_attributes_is_refused(source):
    with pytest.raises(ValueError, match=REACHES[source]) as caught:
        ChatTemplate(source, "f").render(TALK)
    assert str(caught.value).startswith("f: the chat template, line 1: ")


@pytest.mark.parametrize("source", BROKEN, ids=[s[:30] for s in BROKEN])
def test_whatever_fails_is_one_error_with_its_line(source):
    with pytest.raises(ValueError, match=BROKEN[source]) as caught:
        ChatTemplate(source, "f").render(TALK)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "messages", [[{"a": object()}], [{1: "a"}], [{"a": "\ud800"}], [{"a": b"x"}], [print]]
)
def test_messages_hold_plain_values_only(messages):
    with pytest.raises(ValueError, match=r"^f: the chat template"):
        ChatTemplate("x", "f").render(messages)
    inside = messages = []
    for _ in range(99):
        inside.append([])
        inside = inside[0]
    with pytest.raises(ValueError, match="nested too deeply"):
        ChatTemplate("x", "f").render(messages)


# What doubles what it is given, by lines that stand one after the other.
DOUBLES = [
    *("[a, a]", "(a, a)", "{1: a, 2: a}", "dict(x=a, y=a)", "[[a], (a,)]", "[a] + [a]", "[a] * 2"),
    *(
        "{1: a, 2: a}.items()",
        "{1: a, 2: a}.values()",
        "[a, a][:]",
        "(a, a)[::-1]",
        "[a, a] | list",
    ),
    *(
        "[a, a] | reverse",
        "[[a], [a]] | map(attribute=0)",
        "[a, a] | select",
        "{1: a, 2: a} | items",
    ),
]


@pytest.mark.parametrize("more", DOUBLES)
def test_a_value_that_is_too_large_is_refused_when_it_is_made(more):
    if "] + [" in more or "] * " in more:  # these don't nest by themselves
        more = f"[{more}]"
    source = "{% set a = 'x' %}" + f"{{% set a = {more} %}}" * 22
    with pytest.raises(ValueError, match="more work than a template may"):
        ChatTemplate(source, "f").render([])


@pytest.mark.parametrize("more", ["[n.a]", "(n.a,)", "{1: n.a}", "[n.a] | list", "dict(x=n.a)"])
def test_no_value_is_nested_too_deeply(more):
    def nested(times, end):
        return ChatTemplate(grow("[1]", more).replace("99", str(times)) + end, "f").render([])

    whole = (
        "{{ [n.a == n.a, n.a in [n.a], n.a | string | length, n.a | tojson(indent=1) | length] }}"
    )
    assert nested(DEEPEST - 2, whole).startswith("[True, True, ")
    with pytest.raises(ValueError, match="nested too deeply"):
        nested(DEEPEST, "")


@pytest.mark.parametrize("many", [2, 40])
def test_what_has_attributes_is_opaque_in_a_list(many):
    double = "{% set a = namespace(v=1) %}" + "{% set a = namespace(v=[a, a]) %}" * many
    for source, want in {
        "{{ [a] }}": "[<namespace>]",
        "{{ [a] == [a] }}{{ [a] == [namespace(v=a.v)] }}": "TrueFalse",
        "{{ (a, range) }}{{ a.v | length }}": "(<namespace>, <function>)2",
        "{% for x in [1] %}{{ [loop, ''.split, y] }}{% endfor %}": "[<loop>, <method>, Undefined]",
    }.items():
        assert ChatTemplate(double + source, "f").render([]) == want
    with pytest.raises(ValueError, match="Namespace is not JSON serializable"):
        ChatTemplate(double + "{{ [a] | tojson }}", "f").render([])


def test_only_plain_values_are_keys_and_only_strings_are_names():
    for source in ("{(1,): 2}", "{}.get([])", "[] in {}", "[(1,)] | unique", "{1: 2}[(1,)]"):
        with pytest.raises(ValueError, match="can't be the key of a dict"):
            ChatTemplate(f"{{{{ {source} }}}}", "f").render([])
    for source in ("map((1,))", "select([])", "selectattr('x', ())", "map(1)", "reject({})"):
        with pytest.raises(ValueError, match="stands where str is needed"):
            ChatTemplate(f"{{{{ [1] | {source} }}}}", "f").render([])
    for source in ("map(attribute=[1])", "sort(attribute=())", "selectattr({})", "join('', {})"):
        with pytest.raises(ValueError, match="stands where str or int is needed"):
            ChatTemplate(f"{{{{ [1] | {source} }}}}", "f").render([])
    with pytest.raises(ValueError, match=r"line 1: 'n{40}' is undefined$"):
        ChatTemplate("{{ " + "n" * 99 + ".x }}", "f").render([])
    assert ChatTemplate("{{ 1[[1]] }}{{ 'a'[()] }}{{ 1['b'] }}", "f").render([]) == ""


def test_what_a_list_knows_is_no_attribute_of_its():
    source = "{{ messages[0].size }}{{ messages.depth }}{{ messages[0]['depth'] }}{{ (1,).size }}"
    assert ChatTemplate(source, "f").render(TALK) == ""
    assert ChatTemplate("{{ messages[0].size }}", "f").render([{"size": 3}]) == "3"


def test_calls_in_calls_end_wherever_python_ends():
    source = "{% macro f(x) %}{{ f(x - 1) if x else 'end' }}{% endmacro %}{{ f(TIMES) }}"
    assert ChatTemplate(source.replace("TIMES", "20"), "f").render([]) == "end"
    before = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(100_000)
        for times in ("60", "10**6"):
            with pytest.raises(ValueError, match="it calls itself"):
                ChatTemplate(source.replace("TIMES", times), "f").render([])
    finally:
        sys.setrecursionlimit(before)


def test_numbers_are_bounded():
    for messages in ([{"n": 10**99}], [{"n": [-(2**130)]}]):
        with pytest.raises(ValueError, match="out of bounds"):
            ChatTemplate("", "f").render(messages)
    with pytest.raises(ValueError, match="out of bounds"):
        ChatTemplate("{{ messages[0].n | abs }}", "f").render([{"n": -(2**63)}])
    source = "{{ ('1' * 2000) | int(7) }}{{ ('1' * 2000) | float(8) }}{{ messages[0].n }}"
    assert ChatTemplate(source, "f").render([{"n": 2**64}]) == f"78{2**64}"


def test_nothing_but_values_is_measured():
    for value in (object(), [1], {1: 2}, b"x", print):
        with pytest.raises(Refused, match="nothing that a template may hold"):
            measured([value])
    assert measured([measured(("a", "é")), 1]).size == 40 + (40 + 41 + 44) + 40


def test_special_tokens_are_cut_out_as_one_pattern_would():
    rng = random.Random(0)
    for _ in range(300):
        specials = ["".join(rng.choices("<|>ab", k=rng.randrange(1, 5))) for _ in range(6)]
        text = "".join(rng.choices("<|>ab é", k=40))
        longest = "|".join(map(re.escape, sorted(specials, key=len, reverse=True)))
        want = [(t, bool(i % 2)) for i, t in enumerate(re.split(f"({longest})", text)) if t]
        source = f"{{% raw %}}{text}{{% endraw %}}"
        assert ChatTemplate(source, "f").split([], specials) == want
    assert ChatTemplate("a", "f").split([], [""]) == [("a", False)]


def test_many_special_tokens_are_within_the_limits():
    template = ChatTemplate("{{ '<s7><' * 5000 }}", "f")
    assert len(template.split([], [f"<s{i}>" for i in range(10_000)])) == 10_000
    with pytest.raises(ValueError, match="more work than a template may"):
        template.split([], ["<" + "a" * i for i in range(3000)] + ["<s"])
    with pytest.raises(ValueError, match="too many to mark"):
        template.split([], [chr(0x4E00 + i) for i in range(2000)])


def test_every_filter_returns_a_value_or_refuses():
    given = [
        "''",
        "'a b'",
        "[]",
        "['a', 'b']",
        "(1, 2)",
        "{'a': 1}",
        "1",
        "2.5",
        "none",
        "x",
        "range",
    ]
    refused = []
    for name, value in itertools.product(FILTERS, given):
        for args in ("", "('a')", "(1)", "('a', 'b')", "(attribute='a')"):
            source = f"{{% set y = {value} | {name}{args} %}}{{{{ [y] | length }}}}"
            try:
                made = ChatTemplate(source, "f").render([])
            except ValueError as error:
                refused.append(str(error))
            else:
                assert made == "1"
    assert not [reason for reason in refused if "may hold" in reason]
