"""Chat templates for `tests.fuzz`: well-formed as a rule, so what refuses them is the running."""

from __future__ import annotations

import random
import re

from chainrule.codecs.template_tables import FILTERS, TESTS

TEMPLATES = [
    b"{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
    b"message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    b"{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}",
    b"{{ bos_token }}{%- set ns = namespace(last=-1) -%}{% for m in messages[::-1] %}{% if m.role "
    b"== 'user' and loop.first %}{% set ns.last = loop.index0 %}{% elif not m.content is string %}"
    b"{{ raise_exception('no: ' ~ m.role) }}{% endif %}{% endfor %}{{ ns.last }}",
    b"{% macro show(x, n=2) %}{{ x | trim | upper }}{{ n // 2 }}{% endmacro %}{% for i in range(3) "
    b"%}{{ show(messages[i].content if i < messages | length else 'none', n=i) }}{% endfor %}"
    b"{{ tools | tojson(indent=2) }}{{ strftime_now('%d %b %Y') }}",
]
WORDS = """{{ }} {% %} {%- -%} {# #} for in if elif else endif endfor set endset macro endmacro
call endcall filter include import extends block ( ) [ ] { } | ~ + - * ** == , : = . [[[[[[[[[[
99999999999 'ab'*999 'x'*10**9 9**9**9 __class__ _x self cycler joiner lipsum namespace(a=1) f loop
'{:>999999999}' '%999999999d' 1e308 messages message messages[0] messages[0].content
messages[0]['role'] tools bos_token x x loop.index0 none true 'x' "y" 0 1 -1 2.5 7 {} [] ['a','b']
range(9) range(10**9)"""

# A, B and C are expressions, the other capitals are words of _PIECES.
_FORMS = """(A O B); (A O B); A|F; A|F; A|F(B); A|F(B); A|F(B, C); A|F(attribute=B); A[B]; A[B];
A[B:C]; A[::B]; A.M; A.M(B); A.M(B); A.M(B, C); [A, B]; (A, B); (A,); {A: B}; (A if B else C);
A is T; A is T(B); range(A); G(A); G(k=A); G(**A); -A; A(B); A|map(B); A|map(B, C);
A|select(B, C); A|reject(B); A|selectattr(B, C); A|selectattr('x', B);
A|map(attribute=B, default=C); A|sort(B, C); A|unique(B); A|join(B, C); [namespace(a=A), B];
A|tojson(indent=B, separators=C, sort_keys=true); A|indent(B, C, true); A.startswith((B, C));
A|round(B); A|dictsort(B, 'value'); A ~ B; A in B; A < B < C; A == B;
A|F(*B); A|map(*B); A.M(*B); G(*A, **B)"""
_STATEMENTS = """{{ V }}; {% set x = V %}; {% for x in V %}I{% endfor %};
{% if V %}I{% endif %}; {% macro f(x=V) %}I{% endmacro %}{{ f(x) }}; {% set x %}I{% endset %}I;
{% with a = V %}I{% endwith %}; {% for x in V recursive %}{{ loop(x) }}I{% endfor %};
{% call f(V) %}I{% endcall %}; {% filter F %}I{% endfilter %};
{% set n = namespace(a=V) %}{% set n.a = [n, V] %}{{ n.a }}I"""
# What makes more of a, and what then looks at all of it; b is a, or anything.
_GROWTH = """[a, b]; (a, b); {1: a, 2: b}; {'x': a, b: a}; namespace(v=[a, b]); [a, b] | list;
[namespace(v=a), namespace(v=b)]; (namespace(v=a),); a ~ b; a + b; a * 2; [a] * 9;
dict(x=a, y=b); {1: a, 2: b}.items(); [[a], (b,)]; a * a; a ** 2; [a, a][:];
{1: a, 2: b}.values(); a.x or [a]; [a.split, b]; a[::-1]; [a, b] | map('list') | list;
[(a, b)] | map(attribute=0) | list"""
_LOOKS = """a; a == a; [a] == [b]; a in [a, b]; b in a; {a: 1}; {1: 2}[a]; 1[a]; [1][a]; a[a];
{1: 2}.get(a); [1]|map(a)|list; [1]|map(a, b); [1]|select(a)|list; [1]|selectattr(a)|list; -a;
a.a.b; a < a; [1]|selectattr('x', a)|list; [a, a]|unique|list; [a, b]|sort;
[a, a]|sort(case_sensitive=true); {'x': a}|dictsort(by='value'); [a]|map(attribute=a)|list;
[1]|join(a); [a, b]|join; 'x' * a; a * 99; raise_exception(a); 'x'.startswith(a);
a.startswith(a); 'x'|indent(a); a|indent(b); 1.5|round(a); a[a:b]; range(a); strftime_now(a);
a.index(a); [a].count(b); namespace(a); dict(**a); f(**a); a ** a; a|replace(a, b);
a|replace('x', 'y'); a|F; a|F(b); a|F(attribute=b); a.M(b); a.M(); a is T; a is T(a);
1|tojson(indent=a); a|tojson(separators=a); a|tojson(indent=2, sort_keys=true); [a]|string;
[a]|tojson|length; a|list|tojson; [a, f, range, namespace]; a|string|int; a|first|last;
a|map('F')|list; a|map(b)|list; a|select('T', b)|list; a|title|upper|length;
f(*a); f(*b); [[], b]|map(*a)|list; [[]]|map('select', *a)|list; a|select('in', *a)|list;
a.x; a[b].x; 'x'.join(a); a.M(*a); loop.changed(a); loop.cycle(*a); LONG; LONG.x; 1.LONG;
1 is in a"""
_STARTS = "'x'; 1; []; ('a', 2); {'a': 1}; namespace(a=1); messages; 'x' * 999; x"
_PIECES = {
    "O": "+ - * ** / // % ~ and or in == < >=",
    "F": " ".join([*FILTERS, "batch", "wordwrap", "urlize", "xmlattr", "center"]),
    "M": "split rsplit strip replace items get join format role content count find index title "
    "startswith endswith removeprefix splitlines keys values changed cycle x __class__",
    "T": " ".join([*TESTS, "divisibleby"]),
    "G": "namespace dict raise_exception strftime_now loop f x caller range",
}


def statement(rng: random.Random, depth: int) -> str:
    """Statements in statements."""
    value = expression(rng, rng.choice([1, 1, 2, 3]))
    inner = statement(rng, depth - 1) if depth else "{{ x }}"
    return _filled(rng, _one(rng, _STATEMENTS), {"I": inner, "V": value})


def expression(rng: random.Random, depth: int) -> str:
    """Expressions in expressions."""
    if not depth or rng.random() < 0.15:
        return rng.choice(WORDS.split()[rng.choice([-38, -22, -15]) :])  # the last ones are small
    form = _one(rng, _FORMS)
    return _filled(rng, form, {c: expression(rng, depth - 1) for c in "ABC" if c in form})


def growth(rng: random.Random) -> str:
    """A value that grows, line by line or in a loop, and what looks at all of it."""
    more, deep = _one(rng, _GROWTH), rng.randrange(1, 60)
    if rng.random() < 0.2:  # as deep as one line may be
        more = rng.choice(["[" * deep + "a" + "]" * deep, "(" * deep + "a" + ",)" * deep])
    more = _with_b(rng, more)
    if rng.random() < 0.6:
        made = "{% set a = START %}" + "{% set a = MORE %}" * rng.choice([3, 9, 20, 25, 40, 99])
    else:
        made = (
            "{% set n = namespace(a=START) %}{% for i in range(TIMES) %}{% set a = n.a %}"
            "{% set n.a = MORE %}{% endfor %}{% set a = n.a %}"
        ).replace("TIMES", str(rng.choice([9, 25, 60, 999, 20000])))
    made = made.replace("START", _one(rng, _STARTS)).replace("MORE", more)
    if rng.random() < 0.2:
        names = ", ".join(f"a{i}" for i in range(rng.choice([1, 9, 2000])))
        made += f"{{% macro f({names}) %}}{{{{ a0 }}}}{{% endmacro %}}"
    for _ in range(rng.choice([1, 1, 2])):
        look = _with_b(rng, _filled(rng, _one(rng, _LOOKS), {}))
        look = look.replace("LONG", "n" * rng.choice([9, 9999]))
        look = f"{{% set x = {look} %}}{{{{ x }}}}"
        if rng.random() < 0.4:  # again and again: what isn't charged is a hang then
            look = f"{{% for i in range(30000) %}}{look}{{% endfor %}}"
        made += look
    return made


def _one(rng: random.Random, forms: str) -> str:
    return rng.choice(forms.split(";")).strip()


def _filled(rng: random.Random, form: str, words: dict[str, str]) -> str:
    words = {c: rng.choice(known.split()) for c, known in _PIECES.items()} | words
    return re.sub(r"\b[A-Z]\b", lambda m: words[m[0]], form)


def _with_b(rng: random.Random, form: str) -> str:
    other = rng.choice(["a", "a", "1", expression(rng, 1)])
    return re.sub(r"(?<![\w'])b\b(?!')", lambda _: other, form)
