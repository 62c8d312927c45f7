"""Configs: strict, and the same after a round trip through JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrule.core.config import bounded, from_dict, to_dict
from chainrule.core.space import Space


@dataclass(frozen=True)
class Inner:
    width: int
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    kind: Literal["one", "two"] = "one"
    flag: bool = False
    sizes: tuple[int, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    maybe: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bounded("rate", self.inner.rate, 0, 1)


finite = st.floats(allow_nan=False, allow_infinity=False)
outers = st.builds(
    Outer,
    name=st.text(),
    inner=st.builds(Inner, width=st.integers(), rate=st.floats(0, 1)),
    kind=st.sampled_from(["one", "two"]),
    flag=st.booleans(),
    sizes=st.lists(st.integers()).map(tuple),
    pair=st.tuples(st.integers(), finite),
    maybe=st.none() | finite,
    extra=st.dictionaries(st.text(), st.integers() | st.lists(st.text())),
)
GOOD = {"name": "a", "inner": {"width": 3}}


@given(outers)
def test_round_trip(config: Outer):
    assert from_dict(Outer, json.loads(json.dumps(to_dict(config)))) == config


@given(outers, st.text().filter(lambda k: k not in {f.name for f in fields(Outer)}))
def test_an_unknown_key_is_refused(config: Outer, key: str):
    with pytest.raises(ValueError, match="unknown key"):
        from_dict(Outer, {**to_dict(config), key: 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nmae": "b"}, "unknown key 'nmae'; did you mean 'name'?"),
        ({"zzz": 1}, "unknown key 'zzz'; known: name, inner"),
        ({"inner": {"widht": 3}}, "inner: unknown key 'widht'; did you mean 'width'?"),
        ({"inner": {}}, "inner: key 'width' is missing"),
        ({"inner": 3}, "inner: expected an object for Inner, found int 3"),
        ({"inner": {"width": 3.0}}, "inner: width: expected int, found float 3.0"),
        ({"inner": {"width": True}}, "inner: width: expected int, found bool True"),
        ({"inner": {"width": 1, "rate": "x"}}, "rate: expected float, found str 'x'"),
        ({"inner": {"width": 1, "rate": True}}, "rate: expected float, found bool True"),
        ({"inner": {"width": 1, "rate": math.nan}}, "rate: nan is not a finite number"),
        ({"inner": {"width": 1, "rate": math.inf}}, "rate: inf is not a finite number"),
        ({"inner": {"width": 1, "rate": 2}}, "rate must be 0 to 1, not 2"),
        ({"name": 3}, "name: expected str, found int 3"),
        ({"name": None}, "name: expected str, found NoneType None"),
        ({"flag": 1}, "flag: expected bool, found int 1"),
        ({"kind": "three"}, "kind: 'three' is not one of 'one', 'two'"),
        ({"sizes": "12"}, "sizes: expected a list, found str '12'"),
        ({"sizes": [1, "2"]}, "sizes: expected int, found str '2'"),
        ({"pair": [1]}, "pair: expected 2 values, found 1"),
        ({"maybe": "x"}, "maybe: expected float, found str 'x'"),
        ({"maybe": math.nan}, "maybe: nan is not a finite number"),
        ({"extra": []}, "extra: expected an object, found list \\[\\]"),
        ({"name": ["x" * 100]}, "found list \\['xxxxx"),
    ],
)
def test_one_line_says_what_is_wrong(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"^RUN/config.json: .*{message}") as caught:
        from_dict(Outer, {**GOOD, **change}, "RUN/config.json")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_an_int_is_a_float_and_none_is_allowed_where_it_says():
    config = from_dict(Outer, {**GOOD, "maybe": 3, "inner": {"width": 1, "rate": 1}})
    assert isinstance(config.maybe, float)
    assert isinstance(config.inner.rate, float)
    assert from_dict(Outer, {**GOOD, "maybe": None}).maybe is None


def test_a_number_beyond_the_floats_is_refused():
    with pytest.raises(ValueError, match="not a finite number"):
        from_dict(Outer, {**GOOD, "maybe": 10**400})


@pytest.mark.parametrize("data", [None, 3, [], "x"])
def test_not_an_object(data: Any):
    with pytest.raises(ValueError, match="config: expected an object for Outer"):
        from_dict(Outer, data)


@pytest.mark.parametrize("value", [math.nan, -1e-9, 1.0001, math.inf])
def test_bounded(value: float):
    with pytest.raises(ValueError, match="rate must be 0 to 1, not"):
        bounded("rate", value, 0, 1)
    bounded("rate", 0, 0, 1)
    bounded("rate", 1, 0, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "complex"},
        {"kind": "finite"},
        {"kind": "real", "size": 3},
        {"kind": "finite", "size": 0},
        {"kind": "finite", "size": 2**40},
        {"kind": "finite", "size": 3, "eos": 3},
        {"kind": "real", "eos": 0},
        {"kind": "finite", "size": 3, "event_shape": [0]},
        {"kind": "finite", "size": 3, "event_shape": [2**30]},
        {"kind": "finite", "size": 3, "max_len": 0},
    ],
)
def test_spaces_that_contradict_themselves(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match="space"):
        from_dict(Space, wrong, "space")


def test_a_space_comes_back():
    space = Space("finite", 256, (3,), eos=0, max_len=784)
    assert from_dict(Space, json.loads(json.dumps(to_dict(space)))) == space
